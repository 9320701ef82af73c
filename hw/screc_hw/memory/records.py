"""The AXI4 read master of lookup records."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import INCR, ReadSignature
from screc_hw.memory.layouts import burst_layout
from screc_hw.memory.params import SECTION_BURST_BEATS, MemoryCoreParams
from screc_hw.stream import DeepQueue

__all__ = ["RecordFetch"]


class RecordFetch(wiring.Component):
    """Reads bursts of lookup records ahead of their use.

    A burst leaves only when its beats have a place in the FIFO, so ``rready`` is always 1.

    **Latency** 2 cycles to the address channel, 4 cycles from data to ``beats``. **Throughput** a
    burst in two cycles, 1 beat per cycle. **Backpressure** ``bursts.ready`` is a register.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    bursts : In(stream.Signature(burst_layout(params, SECTION_BURST_BEATS)))
    axi : Out(ReadSignature)
        One ID, 0.
    beats : Out(stream.Signature(port_bits))
        In the order of the bursts.
    beat, error : Out(1)
        Pulse per beat received, and per one with an error response.
    busy : Out(1)
    """

    bursts: stream.Interface
    axi: Any
    beats: stream.Interface
    beat: Signal
    error: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "bursts": In(stream.Signature(burst_layout(params, SECTION_BURST_BEATS))),
                "axi": Out(
                    ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
                ),
                "beats": Out(stream.Signature(params.port_bits)),
                "beat": Out(1),
                "error": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the address channel's register, the count of free places and the FIFO."""
        m = Module()
        p = self._params
        axi = self.axi
        burst = self.bursts.payload
        places = Signal(range(p.section_beats + 1), init=p.section_beats)
        ready, returned = Signal(), Signal()
        # a burst is looked at in one cycle and leaves in the next
        m.d.comb += self.bursts.ready.eq(ready)
        take = ready & self.bursts.valid
        m.d.sync += [
            ready.eq(self.bursts.valid & ~ready & ~axi.arvalid & (burst.beats <= places)),
            returned.eq(self.beats.valid & self.beats.ready),
            places.eq(places - Mux(take, burst.beats, 0) + returned),
        ]
        with m.If(take):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(burst.address),
                axi.arlen.eq(burst.beats - 1),
            ]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)

        m.submodules.fifo = fifo = DeepQueue(p.port_bits, p.section_beats, reserved=True)
        wiring.connect(m, fifo.o, wiring.flipped(self.beats))
        arrived, data = Signal(), Signal(p.port_bits, reset_less=True)
        m.d.sync += [
            arrived.eq(axi.rvalid),
            data.eq(axi.rdata),
            self.error.eq(axi.rvalid & axi.rresp[1]),
        ]
        m.d.comb += [
            axi.arsize.eq(p.beat_log2),
            axi.arburst.eq(INCR),
            axi.rready.eq(1),
            fifo.i.valid.eq(arrived),
            fifo.i.payload.eq(data),
            self.beat.eq(arrived),
            self.busy.eq(axi.arvalid | (places != p.section_beats) | returned),
        ]
        return m
