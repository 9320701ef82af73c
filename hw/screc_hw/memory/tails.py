"""Scale and bias of row-wise rows, which arrive after the codes that they are for."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import tail_layout, tail_place_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import DeepQueue, index_bits

__all__ = ["TailCatcher", "coming_layout"]


def coming_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A row whose beats are to come."""
    return data.StructLayout(
        {"last_beat": index_bits(params.max_row_beats), "tail": tail_place_layout(params)}
    )


class TailCatcher(wiring.Component):
    """Copies the tails of row-wise rows while their beats go into a FIFO.

    So a row's first slice can be scaled as soon as it leaves the FIFO, which holds the whole row by
    then.

    **Latency** 5 cycles from a row's last beat to its tail. **Throughput** 1 beat per cycle.
    **Backpressure** none: ``depth`` tails have a place.

    Parameters
    ----------
    params
        The core's parameters.
    depth
        Rows that may be in the FIFO or on their way.

    Members
    -------
    rows : In(stream.Signature(coming_layout(params)))
        Rows in order, each there by the time of its first beat on ``beats``.
    beats : In(stream.Signature(port_bits, always_ready=True))
    tails : Out(stream.Signature(tail_layout()))
        One per row-wise row.
    """

    rows: stream.Interface
    beats: stream.Interface
    tails: stream.Interface

    def __init__(self, params: MemoryCoreParams, depth: int) -> None:
        self._params = params
        self._depth = depth
        super().__init__(
            {
                "rows": In(stream.Signature(coming_layout(params))),
                "beats": In(stream.Signature(params.port_bits, always_ready=True)),
                "tails": Out(stream.Signature(tail_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count beats a cycle after they come, then select the tail's word."""
        m = Module()
        p = self._params
        row = self.rows.payload
        valid, beat = Signal(), Signal(p.port_bits, reset_less=True)
        index = Signal(index_bits(p.max_row_beats))
        last = Signal()
        m.d.sync += [valid.eq(self.beats.valid), beat.eq(self.beats.payload)]
        m.d.comb += [last.eq(index == row.last_beat), self.rows.ready.eq(valid & last)]
        with m.If(valid):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        m.submodules.queue = queue = DeepQueue(tail_layout(), self._depth, reserved=True)
        wiring.connect(m, queue.o, wiring.flipped(self.tails))
        caught: Any = Signal()
        word = Signal(32, reset_less=True)
        m.d.sync += [
            caught.eq(valid & last & row.tail.rowwise),
            word.eq(
                Array(beat.word_select(i, 32) for i in range(p.beat_bytes // 4))[row.tail.word]
            ),
        ]
        m.d.comb += [queue.i.valid.eq(caught), queue.i.payload.eq(word)]
        return m
