"""The AXI4 read master of a memory core's rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES, INCR, ReadSignature
from screc_hw.memory.layouts import count_bits, request_layout, tail_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.tails import TailCatcher, coming_layout
from screc_hw.stream import DeepQueue

__all__ = ["RowFetch"]


class RowFetch(wiring.Component):
    """Reads rows, several outstanding; a row that a 4 KiB boundary cuts becomes two bursts.

    A request leaves only when its beats have a place in the FIFO, so ``rready`` is always 1. At
    most ``params.outstanding`` beats are requested and not yet taken from ``beats``.

    **Latency** 1 cycle to the address channel, 4 cycles from data to ``beats``. **Throughput** 1
    burst and 1 beat per cycle. **Backpressure** ``requests.ready`` depends on registers,
    ``requests`` and ``axi.arready``.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    requests : In(stream.Signature(request_layout(params)))
    axi : Out(ReadSignature)
        One ID, 0.
    beats : Out(stream.Signature(port_bits))
        In the order of the requests.
    tails : Out(stream.Signature(tail_layout()))
        Of row-wise rows, with ``params.rowwise``.
    beat, error : Out(1)
        Pulse per beat received, and per one with an error response.
    busy : Out(1)
    """

    requests: stream.Interface
    axi: Any
    beats: stream.Interface
    tails: stream.Interface
    beat: Signal
    error: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        tails = {"tails": Out(stream.Signature(tail_layout()))} if params.rowwise else {}
        super().__init__(
            {
                "requests": In(stream.Signature(request_layout(params))),
                "axi": Out(
                    ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
                ),
                "beats": Out(stream.Signature(params.port_bits)),
                **tails,
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
        request = self.requests.payload

        # free places are what they were a cycle ago, less what was taken then
        places = Signal(range(p.outstanding + 1), init=p.outstanding)
        taken = Signal(count_bits(p.max_row_beats))
        returned = Signal()
        rest: Any = Signal.like(request.beats, reset_less=True)  # beats after the boundary
        tail = Signal()  # they are still to be requested
        following = Signal(p.address_bits - _BLOCK_LOG2, reset_less=True)
        free, fits, take = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~axi.arvalid | axi.arready),
            fits.eq((request.beats + taken)[: len(places) + 1] <= places),
            take.eq(self.requests.valid & fits & free & ~tail),
            self.requests.ready.eq(fits & free & ~tail),
        ]
        m.d.sync += [
            places.eq(places - taken + returned),
            taken.eq(Mux(take, request.beats, 0)),
            returned.eq(self.beats.valid & self.beats.ready),
        ]
        with m.If(free):
            m.d.sync += [
                axi.arvalid.eq(take | tail),
                axi.araddr.eq(Mux(tail, Cat(Const(0, _BLOCK_LOG2), following), request.address)),
                axi.arlen.eq(Mux(tail, rest, request.head) - 1),
                tail.eq(take & (request.head != request.beats)),
            ]
        with m.If(take):
            m.d.sync += [
                rest.eq(request.beats - request.head),
                following.eq(request.address[_BLOCK_LOG2:] + 1),
            ]

        m.submodules.fifo = fifo = DeepQueue(p.port_bits, p.outstanding, reserved=True)
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
            self.busy.eq(axi.arvalid | tail | (places != p.outstanding) | taken.any() | returned),
        ]
        if p.rowwise:
            m.submodules.coming = coming = DeepQueue(coming_layout(p), p.outstanding, reserved=True)
            m.submodules.catcher = catcher = TailCatcher(p, p.outstanding)
            wiring.connect(m, coming.o, catcher.rows)
            wiring.connect(m, catcher.tails, wiring.flipped(self.tails))
            last_beat = (request.beats - 1)[: len(coming.i.payload.last_beat)]
            m.d.comb += [
                coming.i.valid.eq(take),
                coming.i.payload.last_beat.eq(last_beat),
                coming.i.payload.tail.eq(request.tail),
                catcher.beats.valid.eq(arrived),
                catcher.beats.payload.eq(data),
            ]
        return m


_BLOCK_LOG2 = BOUNDARY_BYTES.bit_length() - 1
