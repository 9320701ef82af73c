"""A small AXI4 master that the bus models are tested with: copies one block, sums another."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import INCR

BITS = 512
BYTES = BITS // 8
BURST = 8
PREFIX = "m_axi_host"


class Copier(wiring.Component):
    """Reads ``beats`` at ``source`` (ID 0) and ``extra`` (ID 1), alternately, in bursts of 8 beats.

    The first go to ``destination``; the others are added up, each after a rotation of the sum, so
    that order matters. ``errors`` counts responses that are not OKAY.
    """

    def __init__(self) -> None:
        axi = {
            **{"ARVALID": Out(1), "ARREADY": In(1), "ARADDR": Out(64), "ARID": Out(1)},
            **{"ARLEN": Out(8), "ARSIZE": Out(3), "ARBURST": Out(2)},
            **{"RVALID": In(1), "RREADY": Out(1), "RDATA": In(BITS), "RID": In(1)},
            **{"RRESP": In(2), "RLAST": In(1)},
            **{"AWVALID": Out(1), "AWREADY": In(1), "AWADDR": Out(64), "AWID": Out(1)},
            **{"AWLEN": Out(8), "AWSIZE": Out(3), "AWBURST": Out(2)},
            **{"WVALID": Out(1), "WREADY": In(1), "WDATA": Out(BITS), "WSTRB": Out(BYTES)},
            **{"WLAST": Out(1), "BVALID": In(1), "BREADY": Out(1), "BID": In(1), "BRESP": In(2)},
        }
        super().__init__(
            {
                **{f"{PREFIX}_{name}": member for name, member in axi.items()},
                "start": In(1),
                "source": In(64),
                "extra": In(64),
                "destination": In(64),
                "bursts": In(16),
                "done": Out(1),
                "sum": Out(64),
                "errors": Out(16),
            }
        )

    def port(self, name: str) -> Any:
        return getattr(self, f"{PREFIX}_{name}")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self.port
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=BITS, depth=512)
        log2 = (BURST * BYTES - 1).bit_length()
        asked, turn = Signal(16), Signal()
        m.d.comb += [
            p("ARLEN").eq(BURST - 1),
            p("ARSIZE").eq((BYTES - 1).bit_length()),
            p("ARBURST").eq(INCR),
            p("AWLEN").eq(BURST - 1),
            p("AWSIZE").eq((BYTES - 1).bit_length()),
            p("AWBURST").eq(INCR),
            p("WSTRB").eq(-1),
            p("BREADY").eq(1),
        ]
        # requests: pairs of one burst of each ID; the queue has room for all of a test's bursts
        with m.If(~p("ARVALID") | p("ARREADY")):
            m.d.sync += p("ARVALID").eq(0)
            with m.If(self.start & (asked != self.bursts)):
                base = Signal(64)
                m.d.comb += base.eq(self.source)
                with m.If(turn):
                    m.d.comb += base.eq(self.extra)
                    m.d.sync += asked.eq(asked + 1)
                m.d.sync += [
                    p("ARVALID").eq(1),
                    p("ARID").eq(turn),
                    p("ARADDR").eq(base + (asked << log2)),
                    turn.eq(~turn),
                ]
        summed = Signal(16)
        take = Signal()
        m.d.sync += p("RREADY").eq(queue.level < 500)
        m.d.comb += [
            take.eq(p("RVALID") & p("RREADY")),
            queue.w_data.eq(p("RDATA")),
            queue.w_en.eq(take & (p("RID") == 0)),
        ]
        with m.If(take):
            with m.If(p("RRESP") != 0):
                m.d.sync += self.errors.eq(self.errors + 1)
            with m.If(p("RID") == 1):
                rotated = Cat(self.sum[-1], self.sum[:-1])
                m.d.sync += self.sum.eq(rotated + p("RDATA")[:64])
                m.d.sync += summed.eq(summed + p("RLAST"))
        # writes: an address, then its beats
        sent, beat, written = Signal(16), Signal(range(BURST)), Signal(16)
        with m.If(p("AWVALID") & p("AWREADY")):
            m.d.sync += p("AWVALID").eq(0)
        with m.If(~p("WVALID") | p("WREADY")):
            m.d.sync += p("WVALID").eq(0)
            with m.If(queue.r_rdy & ((beat != 0) | ~p("AWVALID"))):
                m.d.comb += queue.r_en.eq(1)
                m.d.sync += [
                    p("WVALID").eq(1),
                    p("WDATA").eq(queue.r_data),
                    p("WLAST").eq(beat == BURST - 1),
                    beat.eq(beat + 1),
                ]
                with m.If(beat == 0):
                    m.d.sync += [
                        p("AWVALID").eq(1),
                        p("AWADDR").eq(self.destination + (sent << log2)),
                        sent.eq(sent + 1),
                    ]
        with m.If(p("BVALID")):
            m.d.sync += [written.eq(written + 1), self.errors.eq(self.errors + (p("BRESP") != 0))]
        m.d.sync += self.done.eq(self.start & (written == self.bursts) & (summed == self.bursts))
        return m
