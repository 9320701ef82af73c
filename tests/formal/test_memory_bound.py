import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES
from screc_hw.memory.bound import Bound
from screc_hw.memory.layouts import checked_layout, place_layout, routed_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.remap import Remap
from screc_hw.stream import config_layout
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import constant, held
from tests.formal.state import opened, sole

pytestmark = pytest.mark.formal

SMALL = MemoryCoreParams(
    port_bits=128,
    lanes=16,
    outstanding=5,
    max_features=2,
    max_slices=5,
    rows=2,
    slots=2,
    address_bits=16,
    onchip_beats=6,
    tt_fraction=0,
)
"""Every tier; counts of beats could hold more than the longest row, on-chip addresses too."""


def whole(params, place, state):
    """State what ``Remap`` promises ``Bound`` of a lookup that is not ``row.zero``."""
    lanes = Cat(place.lane == 1 << i for i in range(len(params.tiers)))
    no_beats = place.row.zero | (place.lane == 1 << params.tiers.index("tt"))
    return [
        state(place.row.zero | lanes.any(), "place: one lane"),
        state(no_beats | (place.beats != 0), "place: a beat at least"),
        state(no_beats | (place.beats <= params.max_row_beats), "place: longest row"),
        state(no_beats | (place.row.last_beat + 1 == place.beats), "place: last beat"),
        state(place.row.last_slice < params.max_slices, "place: slices"),
    ]


class RemapBench(wiring.Component):
    """Any lookups, any descriptors, loaded at any time.

    A stage never moves while another waits, so what holds without waiting holds with it.
    """

    def __init__(self, make=Remap, *, stalls=False):
        self._make = make
        self._stalls = stalls
        super().__init__(
            {
                "i": In(stream.Signature(checked_layout(SMALL))),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "o": Out(stream.Signature(place_layout(SMALL))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self._make(SMALL)
        wiring.connect(m, wiring.flipped(self.i), dut.i)
        wiring.connect(m, wiring.flipped(self.config), dut.config)
        wiring.connect(m, dut.o, wiring.flipped(self.o))
        m.d.comb += Assume(self._stalls | self.o.ready)
        with m.If(self.o.valid):
            m.d.comb += whole(SMALL, self.o.payload, Assert)
            for number in range(len(SMALL.tiers)):
                m.d.comb += Cover(~self.o.payload.row.zero & self.o.payload.lane[number])
        return m


class BoundBench(wiring.Component):
    """Lookups to any place, any base and limit within the address space.

    What leaves is whole rows before the limit: what ``RowFetch`` is proven to expect.
    """

    def __init__(self, make=Bound, *, invariants=True, covers=False):
        self._make = make
        self._invariants = invariants
        self._covers = covers
        super().__init__(
            {
                "i": In(stream.Signature(place_layout(SMALL))),
                "o": Out(stream.Signature(routed_layout(SMALL))),
                "base": In(SMALL.address_bits),
                "limit": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, i, o = SMALL, self.i, self.o
        dut = self._make(p)
        m.submodules.dut, state = opened(dut)
        wiring.connect(m, wiring.flipped(i), dut.i)
        wiring.connect(m, dut.o, wiring.flipped(o))
        m.d.comb += [dut.base.eq(self.base), dut.limit.eq(self.limit)]
        size = p.beat_log2
        base = self.base[size:]
        constant(m, Cat(self.base, self.limit))
        m.d.comb += [
            Assume(self.base[:size] == 0),
            Assume(base + self.limit <= 1 << (p.address_bits - size)),
        ]
        with m.If(i.valid):
            m.d.comb += whole(p, i.payload, Assume)
        held(m, o.valid, o.ready, o.payload, "routed")

        row, dram, onchip = o.payload.row, o.payload.dram, o.payload.onchip
        first = dram.address >> size
        room = (BOUNDARY_BYTES >> size) - first % (BOUNDARY_BYTES >> size)
        in_dram, on_chip = (o.valid & ~row.zero & o.payload.lane[n] for n in (0, 1))
        m.d.comb += Assert(
            ~o.valid | (Cat(o.payload.lane == 1 << n for n in range(3)).any()), "one lane"
        )
        m.d.comb += Assert(~o.valid | ~row.zero | (o.payload.lane == 1), "0 goes to the DRAM lane")
        with m.If(in_dram):
            m.d.comb += [
                Assert(dram.address[:size] == 0, "DRAM: address is aligned to a beat"),
                Assert(first >= base, "DRAM: not before the base"),
                Assert(first + dram.beats <= base + self.limit, "DRAM: not past the limit"),
                Assert((dram.beats != 0) & (dram.beats <= p.max_row_beats), "DRAM: beats"),
                Assert(dram.head == Mux(dram.beats < room, dram.beats, room), "DRAM: head"),
                Assert(row.last_beat + 1 == dram.beats, "DRAM: as many beats as the slicer takes"),
            ]
        with m.If(on_chip):
            last = onchip.address + onchip.last_beat
            m.d.comb += [
                Assert(last < p.onchip_beats, "on chip: not past the end"),
                Assert(row.last_beat == onchip.last_beat, "on chip: as the slicer takes"),
            ]
        if self._covers:
            end = first + dram.beats == base + self.limit
            m.d.comb += [
                Cover(in_dram & end & (dram.head != dram.beats), "a cut row ends at the limit"),
                Cover(on_chip & (onchip.address + onchip.last_beat == p.onchip_beats - 1)),
                Cover(dut.refused),
            ]
        if self._invariants:
            held_place = place_layout(p)(state["place1"])
            beat = held_place.offset >> size
            with m.If(state["valid1"]):
                m.d.comb += [
                    *whole(p, held_place, Assert),
                    Assert(state["address1"] == (base + beat)[: p.address_bits - size], "sum"),
                    Assert(state["end1"] == beat + held_place.beats, "end: invariant"),
                ]
        return m


def test_remap_hands_on_whole_rows_whatever_is_loaded(tmp_path):
    verdict = prove(RemapBench(), tmp_path, mode="prove", depth=12)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_remap_hands_on_whole_rows_when_held_up(tmp_path):
    verdict = prove(RemapBench(stalls=True), tmp_path, depth=18)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_remap_finds_rows_of_every_tier(tmp_path):
    verdict = prove(RemapBench(), tmp_path, mode="cover", depth=22)
    assert verdict.passed, verdict


def test_no_row_outside_its_memory_passes_the_bound(tmp_path):
    verdict = prove(BoundBench(), tmp_path, mode="prove", depth=3)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_rows_up_to_the_limit_pass_the_bound(tmp_path):
    verdict = prove(BoundBench(covers=True), tmp_path, mode="cover", depth=6)
    assert verdict.passed, verdict


def _one_beat_too_far(m, bound):
    end1, beats = sole(m, "end1"), bound.i.payload.beats
    with m.If(bound.i.ready):
        m.d.sync += end1.eq((bound.i.payload.offset >> SMALL.beat_log2) + beats - 1)


def _low_bits_of_the_offset(m, bound):
    offset = bound.i.payload.offset[SMALL.beat_log2 :][:6]
    with m.If(bound.i.ready):
        m.d.sync += sole(m, "end1").eq(offset + bound.i.payload.beats)


def _head_is_the_row(m, bound):
    with m.If(bound.i.ready):
        place = place_layout(SMALL)(sole(m, "place1"))
        m.d.sync += bound.o.payload.dram.head.eq(place.beats)


def _limit_of_the_other_tier(m, bound):
    place = place_layout(SMALL)(sole(m, "place1"))
    fits = sole(m, "end1") <= bound.limit
    with m.If(bound.i.ready):
        m.d.sync += [
            bound.o.payload.row.zero.eq(place.row.zero | ~fits),
            bound.o.payload.lane.eq(Mux(place.row.zero | ~fits, 1, place.lane)),
        ]


def _zero_stays_in_its_lane(m, bound):
    with m.If(bound.i.ready):
        m.d.sync += bound.o.payload.lane.eq(place_layout(SMALL)(sole(m, "place1")).lane)


MUTANTS = {
    _one_beat_too_far: "not past the",
    _low_bits_of_the_offset: "not past the",
    _head_is_the_row: "DRAM: head",
    _limit_of_the_other_tier: "on chip: not past the end",
    _zero_stays_in_its_lane: "lane",
}


@pytest.mark.parametrize("change", cases(MUTANTS, (_one_beat_too_far,)))
def test_bound_rules_catch_a_mutant(change, tmp_path):
    refute(
        BoundBench(mutant(Bound, change), invariants=False), tmp_path, depth=6, rule=MUTANTS[change]
    )


class RowsOfAnyLength(Remap):
    """Takes a descriptor's count of beats as it is."""

    def _usable(self, table):
        return Cat(table.enable & self._slices_fit(table), super()._usable(table)[1])


class SlicesOfAnyCount(Remap):
    """Takes a descriptor's count of slices as it is."""

    def _slices_fit(self, table):
        return Const(1)


@pytest.mark.parametrize(
    "make", [RowsOfAnyLength, pytest.param(SlicesOfAnyCount, marks=pytest.mark.slow)]
)
def test_remap_rules_catch_a_mutant(make, tmp_path):
    refute(RemapBench(make), tmp_path, depth=16, rule="place: ")
