"""The last check before a read: every address against the end of its memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES
from screc_hw.memory.layouts import RANK_BITS, count_bits, place_layout, routed_layout
from screc_hw.memory.params import MemoryCoreParams

__all__ = ["Bound"]


class Bound(wiring.Component):
    """Turns offsets into addresses; a row not wholly before its memory's end becomes 0.

    Whatever the descriptors say, no request leaves that is not within ``[base, base + limit
    beats)``, or within the on-chip memory. What becomes 0 goes to the DRAM lane and is counted.

    **Latency** 2 cycles. **Throughput** 1 lookup per cycle. **Backpressure** ``o.ready`` reaches
    ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(place_layout(params)))
    base : In(address_bits)
        Start of the core's memory, beat-aligned.
    limit : In(32)
        Beats from ``base``.
    o : Out(stream.Signature(routed_layout(params)))
    refused : Out(1)
        Pulse per lookup that leaves with ``row.zero``.
    busy : Out(1)
    """

    i: stream.Interface
    base: Signal
    limit: Signal
    o: stream.Interface
    refused: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(place_layout(params))),
                "base": In(params.address_bits),
                "limit": In(RANK_BITS),
                "o": Out(stream.Signature(routed_layout(params))),
                "refused": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the two stages."""
        m = Module()
        p = self._params
        advance, valid1 = Signal(), Signal()
        place1 = Signal.like(self.i.payload, reset_less=True)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            self.busy.eq(valid1 | self.o.valid),
        ]
        m.d.sync += self.refused.eq(self.o.valid & self.o.ready & self.o.payload.row.zero)

        # 1: sums
        beat0 = self.i.payload.offset[p.beat_log2 :]
        address1 = Signal(p.address_bits - p.beat_log2, reset_less=True)
        end1 = Signal(len(beat0) + 1, reset_less=True)
        slices1 = Signal(count_bits(p.max_slices), reset_less=True)
        with m.If(advance):
            m.d.sync += [
                valid1.eq(self.i.valid),
                place1.eq(self.i.payload),
                address1.eq(self.base[p.beat_log2 :] + beat0),
                end1.eq(beat0 + self.i.payload.beats),
                slices1.eq(self.i.payload.row.last_slice + 1),
            ]

        # 2: comparisons
        beats = place1.beats
        block_beats = BOUNDARY_BYTES // p.beat_bytes
        room = block_beats - address1[: (block_beats - 1).bit_length()]
        inside = {"dram": end1 <= self.limit, "onchip": end1 <= p.onchip_beats, "tt": Const(1)}
        fits = Cat(*(place1.lane[i] & inside[tier] for i, tier in enumerate(p.tiers))).any()
        zero = Signal()
        m.d.comb += zero.eq(place1.row.zero | ~fits)
        out = self.o.payload
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(valid1),
                out.row.eq(place1.row),
                out.row.zero.eq(zero),
                out.lane.eq(Mux(zero, 1, place1.lane)),
                out.dram.address.eq(Cat(Const(0, p.beat_log2), address1)),
                out.dram.beats.eq(beats),
                out.dram.head.eq(Mux(beats < room, beats, room)),
            ]
            tail = self._tail_word(place1.row, slices1)
            if p.rowwise:
                m.d.sync += [
                    out.dram.tail.rowwise.eq(place1.row.rowwise),
                    out.dram.tail.word.eq(tail),
                ]
            if "onchip" in p.tiers:
                m.d.sync += [
                    out.onchip.address.eq(place1.offset[p.beat_log2 :]),
                    out.onchip.last_beat.eq(place1.row.last_beat),
                ]
                if p.rowwise:
                    m.d.sync += [
                        out.onchip.tail.rowwise.eq(place1.row.rowwise),
                        out.onchip.tail.word.eq(tail),
                    ]
            if "tt" in p.tiers:
                m.d.sync += [out.tt.local.eq(place1.local), out.tt.table.eq(place1.table)]
        return m

    def _tail_word(self, row: Any, slices: Value) -> Value:
        """32-bit word of its last beat that follows a row's codes."""
        # in halves of a slice, as positions are
        half_slices = row.position + Mux(row.int4, slices, slices << 1)
        bytes_log2 = self._params.lanes.bit_length() - 2
        return Cat(Const(0, bytes_log2), half_slices)[2:]
