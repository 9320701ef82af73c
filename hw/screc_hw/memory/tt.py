"""The lane of rows that a tensor-train reconstructor makes."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import piece_layout, row_layout, tt_row_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import index_bits

__all__ = ["TtPieces"]


class TtPieces(wiring.Component):
    """Joins reconstructed slices with the lookups that they are for.

    **Latency** 1 cycle. **Throughput** 1 slice per cycle. **Backpressure** ``o.ready`` reaches the
    inputs' ``ready`` through three gates.

    Parameters
    ----------
    params
        The core's parameters, with ``tt_fraction``.

    Members
    -------
    lookups : In(stream.Signature(row_layout(params)))
    rows : In(stream.Signature(tt_row_layout(params)))
        The slices of every lookup, in order.
    o : Out(stream.Signature(piece_layout(params)))
    busy : Out(1)
    """

    lookups: stream.Interface
    rows: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "lookups": In(stream.Signature(row_layout(params))),
                "rows": In(stream.Signature(tt_row_layout(params))),
                "o": Out(stream.Signature(piece_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count the slices of a lookup."""
        m = Module()
        row = self.lookups.payload
        index = Signal(index_bits(self._params.max_slices))
        advance, end = Signal(), Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            end.eq(index == row.last_slice),
            self.rows.ready.eq(advance & self.lookups.valid),
            self.lookups.ready.eq(advance & self.rows.valid & end),
            self.busy.eq(self.o.valid | (index != 0)),
        ]
        piece: Any = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(piece)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(self.rows.valid & self.lookups.valid)
            with m.If(self.rows.valid & self.lookups.valid):
                m.d.sync += [
                    index.eq(Mux(end, 0, index + 1)),
                    piece.bag.eq(row.bag),
                    piece.slice.eq(index),
                    piece.begin.eq(1),
                    piece.complete.eq(1),
                    piece.end.eq(end),
                    piece.last.eq(row.last),
                    piece.data.eq(self.rows.payload),
                ]
        return m
