"""From a rank to a tier and a place in it, or to nowhere where the rank is not here."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.descriptors import Descriptors
from screc_hw.memory.layouts import RANK_BITS, checked_layout, count_bits, place_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.stages import Stages
from screc_hw.protocol import RANGE_FIELDS, RANGE_PREFIX
from screc_hw.stream import config_layout

__all__ = ["Remap"]

LOW_BITS = 17
"""Bits of a row number that the first of two multipliers takes (a DSP48E2 port less the sign)."""


class Remap(wiring.Component):
    """Looks up the feature's descriptor, finds the rank's tier, and forms the offset of its row.

    The offset of a row is its table's + local row × row bytes, of a staged row the ring's + beat ×
    beat bytes: the same multipliers serve all. Where a rank lies in no range, or a staged row not
    wholly in the ring, the lookup goes to the DRAM lane with ``row.zero`` set.

    **Latency** 10 cycles. **Throughput** 1 lookup per cycle. **Backpressure** ``o.ready`` stops
    every stage and reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(checked_layout(params)))
    config : In(stream.Signature(config_layout(), always_ready=True))
    limit : Out(32)
        Beats from the base that DRAM rows may lie in, as loaded.
    o : Out(stream.Signature(place_layout(params)))
    busy : Out(1)
    """

    i: stream.Interface
    config: stream.Interface
    limit: Signal
    o: stream.Interface
    busy: Signal

    STAGES = 10

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(checked_layout(params))),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "limit": Out(RANK_BITS),
                "o": Out(stream.Signature(place_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages; a name's number is the count of registers it has passed."""
        m = Module()
        p = self._params
        stages = Stages(m, self.i, self.o, self.STAGES)
        advance, delay = stages.advance, stages.delay
        m.d.comb += self.busy.eq(stages.valid.any())

        # 0-2: descriptor
        m.submodules.descriptors = descriptors = Descriptors(p)
        wiring.connect(m, wiring.flipped(self.config), descriptors.config)
        m.d.comb += [
            descriptors.enable.eq(advance),
            descriptors.feature.eq(self.i.payload.bag.feature),
            self.limit.eq(descriptors.staging.limit),
        ]
        lookup2 = delay(self.i.payload, 2)
        table2, ring = descriptors.descriptor, descriptors.staging

        # 2-3: differences and comparisons
        ranges2 = [[table2[RANGE_PREFIX[tier] + name] for name in RANGE_FIELDS] for tier in p.tiers]
        outside3, residues3, distances3 = [], [], []
        for first, last, stripe_log2, residue in ranges2:
            outside3.append(delay(Cat(lookup2.rank < first, lookup2.rank >= last), 1))
            residues3.append(delay(_residue_bits(lookup2.rank, stripe_log2, residue), 1))
            distances3.append(delay((lookup2.rank - first)[:RANK_BITS], 1))
        usable3 = delay(self._usable(table2), 1)
        staged3, rank3 = delay(lookup2.staged, 1), delay(lookup2.rank, 1)
        beats2 = Mux(table2.sub_beat, 1, table2.row_beats)
        staged_end3 = delay(lookup2.rank + beats2, 1)

        # 3-4: the tier
        here4 = []
        for tier, outside, bits in zip(p.tiers, outside3, residues3, strict=True):
            usable = usable3[1] if tier == "tt" else usable3[0]
            here4.append(delay(usable & ~staged3 & ~outside.any() & ~bits.any(), 1))
        staged4 = delay(usable3[0] & staged3 & (staged_end3 <= ring.beats), 1)
        rank4 = delay(rank3, 1)

        # 4-5: its distance, stripe, stride and origin
        distance5 = delay(
            _choose((staged4, rank4), *zip(here4, (delay(d, 1) for d in distances3), strict=True)),
            1,
        )
        # every core holds the TT cores of all rows, so a stripe of them keeps its ranks' distances
        stripes = [
            Const(0) if tier == "tt" else delay(stripe_log2, 2)
            for tier, (_, _, stripe_log2, _) in zip(p.tiers, ranges2, strict=True)
        ]
        stripe5 = delay(_choose(*zip(here4, stripes, strict=True)), 1)
        table4 = delay(table2, 2)
        origins = {"dram": table4.base, "onchip": Cat(Const(0, p.beat_log2), table4.onchip_base)}
        held = [(here, origins[t]) for t, here in zip(p.tiers, here4, strict=True) if t in origins]
        origin5 = delay(_choose((staged4, ring.base), *held), 1)
        stride5 = delay(self._stride(staged4, table4), 1)
        lane5 = delay(_choose(*((here, 1 << i) for i, here in enumerate(here4)), (Const(1), 1)), 1)
        zero5 = delay(~(Cat(*here4).any() | staged4), 1)

        # 5-6: local row
        local6 = delay(distance5 >> stripe5, 1)

        # 6-8: products, in the multipliers' own registers
        stride6 = delay(stride5, 1)
        low8 = delay(local6[:LOW_BITS] * stride6, 2)
        high8 = delay(local6[LOW_BITS:] * stride6, 2)

        # 8-10: sums
        product9 = delay(low8 + Cat(Const(0, LOW_BITS), high8), 1)
        origin9 = delay(origin5, 4)
        row9 = self._row(
            delay(lookup2.bag, 7), delay(lookup2.last, 7), delay(zero5, 4), delay(table4, 5)
        )
        place = self.o.payload
        with m.If(advance):
            m.d.sync += [
                place.lane.eq(delay(lane5, 4)),
                place.offset.eq(origin9 + product9),
                place.beats.eq(delay(beats2[: count_bits(p.max_row_beats)], 7)),
                # a table starts with a beat, so its rows' places in a beat are its offsets'
                place.row.position.eq(product9[p.lanes.bit_length() - 2 : p.beat_log2]),
                *(place.row[name].eq(value) for name, value in row9.items()),
            ]
            if "tt" in p.tiers:
                m.d.sync += [
                    place.local.eq(delay(local6, 3)),
                    place.table.eq(delay(table4.tt_table, 5)),
                ]
        return m

    def _row(self, bag: Any, last: Value, zero: Value, table: Any) -> dict[str, Value]:
        """Return how the row becomes slices, but for its position."""
        p = self._params
        slices = Mux(self._slices_fit(table), table.slices - 1, 0)
        row = {
            "bag": bag,
            "last": last,
            "zero": zero,
            "int4": table.int4,
            "last_slice": slices,
            "last_beat": Mux(table.sub_beat, 0, table.row_beats - 1),
        }
        return {**row, "rowwise": table.rowwise} if p.rowwise else row

    def _usable(self, table: Any) -> Value:
        """Whether the descriptor is enabled and within this core's maxima: as rows, as TT rows."""
        p = self._params
        whole = (table.row_beats != 0) & (table.row_beats <= p.max_row_beats)
        part = table.stride_log2 <= p.beat_log2
        fits = table.enable & self._slices_fit(table)
        known = Const(1) if p.rowwise else ~table.rowwise
        return Cat(fits & known & Mux(table.sub_beat, part, whole), fits)

    def _slices_fit(self, table: Any) -> Value:
        return (table.slices != 0) & (table.slices <= self._params.max_slices)

    def _stride(self, staged: Value, table: Any) -> Value:
        """Bytes from row to row; a staged row is counted in beats."""
        p = self._params
        part = (Const(1) << table.stride_log2)[: p.beat_log2 + 1]
        whole = Cat(Const(0, p.beat_log2), table.row_beats[: count_bits(p.max_row_beats)])
        return Mux(staged, p.beat_bytes, Mux(table.sub_beat, part, whole))


def _choose(*choices: tuple[Value, Any]) -> Value:
    """Return the value of the first choice that is taken, 0 where none is."""
    result: Value = Const(0)
    for taken, value in reversed(choices):
        result = Mux(taken, value, result)
    return result


def _residue_bits(rank: Value, stripe_log2: Value, residue: Value) -> Value:
    """Bits in which ``rank`` modulo ``2**stripe_log2`` differs from ``residue``."""
    return Cat(
        Mux(stripe_log2 > i, rank[i], 0) ^ (residue[i] if i < len(residue) else 0)
        for i in range(RANK_BITS)
    )
