"""From a rank to an address, or to nothing where the rank is not here."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES
from screc_hw.memory.descriptors import Descriptors
from screc_hw.memory.layouts import (
    OFFSET_BITS,
    RANK_BITS,
    checked_layout,
    count_bits,
    request_layout,
)
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import FEATURE_FIELDS
from screc_hw.stream import config_layout


class Remap(wiring.Component):
    """Looks up the feature's descriptor, checks the rank or the staging beat, forms the address.

    The address of a row is base + table + local row × row bytes, of a staged row base + ring +
    beat × beat bytes: one multiplier serves both. A lookup that is out of range leaves with
    ``zero`` set, and is counted.

    **Latency** 9 cycles. **Throughput** 1 lookup per cycle. **Backpressure** ``o.ready`` stops
    every stage and reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(checked_layout(params)))
    config : In(stream.Signature(config_layout(), always_ready=True))
    base : In(address_bits)
        Start of the core's memory, beat-aligned.
    o : Out(stream.Signature(request_layout(params)))
    out_of_range : Out(1)
        Pulse per lookup out of range.
    busy : Out(1)
    """

    i: stream.Interface
    config: stream.Interface
    base: Signal
    o: stream.Interface
    out_of_range: Signal
    busy: Signal

    STAGES = 9

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(checked_layout(params))),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "base": In(params.address_bits),
                "o": Out(stream.Signature(request_layout(params))),
                "out_of_range": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages; a name's number is the count of registers it has passed."""
        m = Module()
        p = self._params
        advance = Signal()
        valid = Signal(self.STAGES)  # bit i: stage i + 1 holds a lookup
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            self.o.valid.eq(valid[-1]),
            self.busy.eq(valid.any()),
        ]
        with m.If(advance):
            m.d.sync += valid.eq(Cat(self.i.valid, valid[:-1]))

        def delay(value: Any, cycles: int) -> Any:
            for _ in range(cycles):
                later = Signal.like(value, reset_less=True)
                with m.If(advance):
                    m.d.sync += later.eq(value)
                value = later
            return value

        # 0-2: descriptor
        m.submodules.descriptors = descriptors = Descriptors(p)
        wiring.connect(m, wiring.flipped(self.config), descriptors.config)
        m.d.comb += [
            descriptors.enable.eq(advance),
            descriptors.feature.eq(self.i.payload.bag.feature),
        ]
        lookup2 = delay(self.i.payload, 2)
        table2, ring = descriptors.descriptor, descriptors.staging

        # 2-3: differences and checks
        rank_checks = self._rank_checks(lookup2.rank, table2)
        usable = self._usable(table2)
        beats2 = Mux(table2.sub_beat, 1, table2.row_beats)
        staged3 = delay(lookup2.staged, 1)
        rank3 = delay(lookup2.rank, 1)
        distance3 = delay((lookup2.rank - table2.first)[:RANK_BITS], 1)
        stripe3 = delay(table2.stripe_log2, 1)
        elsewhere3 = delay(rank_checks, 1)
        staged_end3 = delay(lookup2.rank + beats2, 1)
        usable3 = delay(usable, 1)
        stride3 = delay(self._stride(lookup2.staged, table2), 1)
        origin3 = delay(Mux(lookup2.staged, ring.base, table2.base), 1)

        # 3-4: verdict and local row
        wrong3 = Mux(staged3, staged_end3 > ring.beats, elsewhere3.any()) | ~usable3
        wrong4 = delay(wrong3, 1)
        local4 = delay(Mux(staged3, rank3, distance3 >> stripe3), 1)
        stride4 = delay(stride3, 1)
        m.d.comb += self.out_of_range.eq(advance & valid[3] & wrong4)

        # 4-6: product, in the multiplier's own registers
        product6 = delay(local4 * stride4, 2)

        # 6-8: sums
        offset7 = delay((delay(origin3, 3) + product6)[: OFFSET_BITS + 1], 1)
        address8 = delay((self.base + offset7)[: p.address_bits], 1)
        position8 = delay(product6[p.lanes.bit_length() - 2 : p.beat_log2], 2)

        # 8-9: place of the 4 KiB boundary
        block_beats = BOUNDARY_BYTES // p.beat_bytes
        beats8 = delay(beats2[: count_bits(p.max_row_beats)], 6)
        in_block8 = address8[p.beat_log2 : BOUNDARY_BYTES.bit_length() - 1]
        room8 = block_beats - in_block8
        slices2 = table2.slices[: count_bits(p.max_slices)]
        request = self.o.payload
        with m.If(advance):
            m.d.sync += [
                request.address.eq(Cat(Const(0, p.beat_log2), address8[p.beat_log2 :])),
                request.head.eq(Mux(beats8 < room8, beats8, room8)),
                request.row.bag.eq(delay(lookup2.bag, 6)),
                request.row.last.eq(delay(lookup2.last, 6)),
                request.row.zero.eq(delay(wrong4, 4)),
                request.row.int4.eq(delay(table2.int4, 6)),
                request.row.position.eq(position8),
                request.row.slices.eq(delay(Mux(self._slices_fit(table2), slices2, 1), 6)),
                request.row.beats.eq(beats8),
            ]
        return m

    @staticmethod
    def _rank_checks(rank: Value, table: Any) -> Value:
        """Reasons why ``rank`` is not one of the table's ranks here, one bit each."""
        bits, residue_bits = FEATURE_FIELDS["stripe_log2"][1], FEATURE_FIELDS["residue"][1]
        assert 1 << bits == RANK_BITS
        taken = Cat(table.stripe_log2 > i for i in range(RANK_BITS))
        residue = Cat(table.residue, Const(0, RANK_BITS - residue_bits))
        return Cat(rank < table.first, rank >= table.last, (rank & taken) != residue)

    def _usable(self, table: Any) -> Value:
        """Whether the descriptor is enabled and within this core's maxima."""
        p = self._params
        whole = (table.row_beats != 0) & (table.row_beats <= p.max_row_beats)
        part = table.stride_log2 <= p.beat_log2
        return table.enable & self._slices_fit(table) & Mux(table.sub_beat, part, whole)

    def _slices_fit(self, table: Any) -> Value:
        return (table.slices != 0) & (table.slices <= self._params.max_slices)

    def _stride(self, staged: Value, table: Any) -> Value:
        """Bytes from row to row; a staged row is counted in beats."""
        p = self._params
        part = (Const(1) << table.stride_log2)[: p.beat_log2 + 1]
        whole = Cat(Const(0, p.beat_log2), table.row_beats[: count_bits(p.max_row_beats)])
        return Mux(staged, p.beat_bytes, Mux(table.sub_beat, part, whole))
