import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.bags import BagCheck
from screc_hw.memory.lanes import Lanes
from screc_hw.memory.layouts import checked_layout, record_layout, routed_layout
from screc_hw.memory.params import MemoryCoreParams
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import held
from tests.formal.state import opened, sole

pytestmark = pytest.mark.formal

SMALL = MemoryCoreParams(
    port_bits=128,
    lanes=16,
    outstanding=2,
    max_features=2,
    max_slices=2,
    rows=2,
    slots=2,
    address_bits=16,
    onchip_beats=4,
    tt_fraction=0,
)


class LanesBench(wiring.Component):
    """Lookups to any lane, bags of any length.

    Every lookup leaves once, unchanged, as a request (unless ``zero`` in the DRAM lane) and as a
    row; the row is its bag's last in the lane just where no other of its bag is to come there.
    """

    def __init__(self, make=Lanes, *, invariants=True, covers=False):
        self._make = make
        self._invariants = invariants
        self._covers = covers
        members = {"i": In(stream.Signature(routed_layout(SMALL)))}
        for tier in SMALL.tiers:
            members[f"requests_{tier}"] = In(1)  # ready
            members[f"rows_{tier}"] = In(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        dut = self._make(SMALL)
        m.submodules.dut, state = opened(dut)
        wiring.connect(m, wiring.flipped(self.i), dut.i)
        lookup = self.i.payload
        held(m, self.i.valid, self.i.ready, lookup, "lookups", Assume)
        lanes = [lookup.lane[n] for n in range(len(SMALL.tiers))]
        with m.If(self.i.valid):
            m.d.comb += [
                Assume(Cat(lookup.lane == 1 << n for n in range(len(SMALL.tiers))).any()),
                Assume(~lookup.row.zero | lanes[0]),
            ]
        enter = self.i.valid & self.i.ready
        inside = [
            self._lane(m, dut, state, tier, enter, mine)
            for tier, mine in zip(SMALL.tiers, lanes, strict=True)
        ]
        m.d.comb += Assert(dut.busy == Cat(inside).any(), "busy while a row is held")
        if self._covers:
            rows = [getattr(dut, f"rows_{tier}") for tier in SMALL.tiers]
            ends = Cat(row.valid & row.payload.last for row in rows)
            m.d.comb += [
                Cover(ends.all(), "a bag ends in all lanes at once"),
                Cover(enter & Cat(inside).all(), "goes on with all lanes held"),
            ]
        return m

    def _lane(self, m, dut, state, tier, enter, mine):
        """State the rules of a lane; return whether a row is inside."""
        lookup = self.i.payload
        requests, rows = getattr(dut, f"requests_{tier}"), getattr(dut, f"rows_{tier}")
        m.d.comb += [
            requests.ready.eq(getattr(self, f"requests_{tier}")),
            rows.ready.eq(getattr(self, f"rows_{tier}")),
        ]
        held(m, rows.valid, rows.ready, rows.payload, f"rows {tier}")
        asks = ~lookup.row.zero if tier == "dram" else Const(1)
        asked = requests.valid & requests.ready
        m.d.comb += [
            Assert(asked == (enter & mine & asks), f"{tier}: a request with its lookup"),
            Assert(~requests.valid | (requests.payload == lookup[tier]), f"{tier}: request"),
        ]

        inside, ended, owes = (
            Signal(name=f"{name}_{tier}") for name in ("inside", "ended", "owes")
        )
        kept = Signal.like(lookup.row, name=f"kept_{tier}")
        leave = rows.valid & rows.ready
        ends = enter & lookup.row.last
        with m.If(leave):
            m.d.sync += [inside.eq(0), owes.eq(~rows.payload.last)]
        with m.If(enter & mine):
            m.d.sync += [inside.eq(1), kept.eq(lookup.row), ended.eq(lookup.row.last)]
        with m.Elif(ends):
            m.d.sync += ended.eq(1)
        names = [name for name, _ in lookup.row.shape() if name != "last"]
        with m.If(rows.valid):
            same = Cat(rows.payload[name] == kept[name] for name in names).all()
            more = self.i.valid & mine & ~ended
            m.d.comb += [
                Assert(inside, f"{tier}: only rows that came"),
                Assert(same, f"{tier}: unchanged"),
                Assert(rows.payload.last == ended, f"{tier}: last with the bag's last row"),
                Assert(ended | more, f"{tier}: else another is to come"),
            ]
        m.d.comb += [
            Assert(~(enter & mine) | ~inside | leave, f"{tier}: none is lost"),
            Assert(~ends | ~owes | inside | mine, f"{tier}: a partial that began gets its last"),
            Assert(~inside | ~ended | rows.valid, f"{tier}: what is known leaves"),
        ]
        if self._invariants:
            known, last = state[f"known_{tier}"], rows.payload.last
            m.d.comb += [
                Assert(state[f"held_valid_{tier}"] == inside, "inside: invariant"),
                Assert(~inside | (known == ended), "known: invariant"),
                Assert(~inside | (last == ended), "last: invariant"),
                Assert(~inside | Cat(rows.payload[n] == kept[n] for n in names).all(), "row"),
                Assert(~owes | inside | (self.i.valid & mine), "owes: invariant"),
            ]
        return inside


class CheckBench(wiring.Component):
    """Records of sections, some of no bag, with ends of bags missing.

    What belongs to a bag leaves once, unchanged, in order, and marked where its run of records
    ends; what does not is dropped and counted.
    """

    def __init__(self, make=BagCheck, *, covers=False):
        self._make = make
        self._covers = covers
        super().__init__(
            {
                "i": In(stream.Signature(record_layout())),
                "o": Out(stream.Signature(checked_layout(SMALL))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, o = self.i, self.o
        m.submodules.dut = dut = self._make(SMALL)
        wiring.connect(m, wiring.flipped(i), dut.i)
        wiring.connect(m, dut.o, wiring.flipped(o))
        held(m, i.valid, i.ready, i.payload, "records", Assume)
        held(m, o.valid, o.ready, o.payload, "lookups")
        record = i.payload
        enter, leave = i.valid & i.ready, o.valid & o.ready

        # a section's records have its samples and sequence in common
        begun = Signal()
        samples, sequence = Signal.like(record.samples), Signal.like(record.sequence)
        common = (record.samples == samples) & (record.sequence == sequence)
        m.d.comb += Assume(~i.valid | ~begun | common)
        with m.If(enter):
            m.d.sync += [
                begun.eq(~record.final),
                samples.eq(record.samples),
                sequence.eq(record.sequence),
            ]

        # those inside, the oldest first
        lookup, rows_log2 = record.lookup, SMALL.rows.bit_length() - 1
        shape = checked_layout(SMALL)
        expected, ended = [Signal(shape, name=f"expected_{n}") for n in (0, 1)], Signal(2)
        samples_of = [Signal.like(lookup.sample, name=f"sample_{n}") for n in (0, 1)]
        count = Signal(range(3))
        wrong = (lookup.feature >= SMALL.max_features) | (lookup.sample >= record.samples)
        here = (record.sequence + (lookup.sample >> rows_log2))[: SMALL.sequence_bits]
        new = Cat(
            lookup.rank,
            lookup.staged,
            Const(0, 1),
            here,
            here[: SMALL.slots.bit_length() - 1],
            lookup.sample[:rows_log2],
            lookup.feature[: len(expected[0].bag.feature)],
        )
        keeps = enter & ~wrong
        m.d.sync += count.eq(count + keeps - leave)
        m.d.comb += Assert(count <= 2, "two at most")
        with m.If(leave):
            m.d.sync += [
                expected[0].eq(expected[1]),
                samples_of[0].eq(samples_of[1]),
                ended[0].eq(ended[1]),
            ]
        youngest = Signal.like(expected[0])
        youngest_sample = Signal.like(lookup.sample)
        m.d.comb += [
            youngest.eq(Mux(count == 2, expected[1], expected[0])),
            youngest_sample.eq(Mux(count == 2, samples_of[1], samples_of[0])),
        ]
        other = (youngest.bag.feature != lookup.feature) | (youngest_sample != lookup.sample)
        closes = enter & Mux(wrong, record.final, other)
        with m.If(closes & (count == 2)):
            m.d.sync += ended[1].eq(1)
            with m.If(leave):
                m.d.sync += ended[0].eq(1)
        with m.If(closes & (count == 1) & ~leave):
            m.d.sync += ended[0].eq(1)
        place = count - leave
        for number in (0, 1):
            with m.If(keeps & (place == number)):
                m.d.sync += [
                    expected[number].eq(new),
                    samples_of[number].eq(lookup.sample),
                    ended.bit_select(number, 1).eq(lookup.last | record.final),
                ]

        refused, dropped = Signal(4), Signal(4)
        m.d.sync += [
            refused.eq(refused + (enter & wrong)),
            dropped.eq(dropped + dut.dropped),
        ]
        m.d.comb += Assert((refused - dropped)[:4] <= 1, "what is dropped is counted")
        self._leaves(m, dut, count, expected[0], ended, leave)
        if self._covers:
            end = leave & o.payload.last
            m.d.comb += [
                Cover(end & (count == 1) & (dropped == 2), "ended by wrong records"),
                Cover(end & (count == 2) & (refused == 1), "ended by another bag"),
            ]
        return m

    def _leaves(self, m, dut, count, expected, ended, leave):
        """State what leaves, of ``count`` that are inside, and that it does."""
        o = self.o
        seen = Signal.like(o.payload)
        m.d.comb += [seen.eq(o.payload), seen.last.eq(0)]
        with m.If(o.valid):
            m.d.comb += [
                Assert(count != 0, "only lookups that came"),
                Assert(seen == expected, "unchanged, in order"),
                Assert(o.payload.last == ended[0], "last where the run ends"),
                Assert(ended[0] | (count == 2), "else another is to come"),
            ]
        m.d.comb += Assert(dut.busy | (count == 0), "busy while a lookup is inside")
        quiet = Signal(range(4))
        m.d.sync += quiet.eq(Mux((count != 0) & ended[0] & ~leave & o.ready, quiet + 1, 0))
        m.d.comb += Assert(quiet < 3, "what is ended leaves")


def test_every_lookup_leaves_once_and_every_partial_has_one_last(tmp_path):
    verdict = prove(LanesBench(), tmp_path, mode="prove", depth=3)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_bags_end_in_several_lanes_at_once(tmp_path):
    verdict = prove(LanesBench(covers=True), tmp_path, mode="cover", depth=8)
    assert verdict.passed, verdict


def test_every_record_of_a_bag_leaves_once_and_every_run_ends(tmp_path):
    verdict = prove(CheckBench(), tmp_path, depth=8)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_every_record_of_a_bag_leaves_once_for_longer(tmp_path):
    verdict = prove(CheckBench(), tmp_path, depth=14)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_runs_end_in_every_way(tmp_path):
    verdict = prove(CheckBench(covers=True), tmp_path, mode="cover", depth=12)
    assert verdict.passed, verdict


def _forget_other_lanes(m, lanes):
    for tier in SMALL.tiers[1:]:
        m.d.sync += sole(m, f"known_{tier}").eq(sole(m, f"known_{tier}"))


def _end_where_the_bag_ends(m, lanes):
    mine = lanes.i.payload.lane[1]
    m.d.comb += lanes.rows_onchip.payload.last.eq(sole(m, "held_onchip")[-1] & ~mine)


def _end_too_early(m, lanes):
    with m.If(lanes.i.valid & lanes.i.payload.lane[2]):
        m.d.comb += lanes.rows_dram.valid.eq(sole(m, "held_valid_dram"))


def _overwrite(m, lanes):
    with m.If(lanes.i.payload.lane[0] & lanes.requests_dram.ready):
        m.d.comb += lanes.i.ready.eq(1)


def _ask_twice(m, lanes):
    with m.If(lanes.i.payload.lane[1]):
        m.d.comb += lanes.requests_onchip.valid.eq(lanes.i.valid)


def _ask_for_nothing(m, lanes):
    with m.If(lanes.i.payload.lane[0] & ~sole(m, "held_valid_dram")):
        m.d.comb += lanes.requests_dram.valid.eq(lanes.i.valid)


LANES_MUTANTS = {
    _forget_other_lanes: "",
    _end_where_the_bag_ends: "onchip: last with the bag's last row",
    _end_too_early: "dram: ",
    _overwrite: "",
    _ask_twice: "onchip: a request with its lookup",
    _ask_for_nothing: "dram: a request with its lookup",
}


@pytest.mark.parametrize("change", cases(LANES_MUTANTS, (_end_where_the_bag_ends,)))
def test_lanes_rules_catch_a_mutant(change, tmp_path):
    bench = LanesBench(mutant(Lanes, change), invariants=False)
    refute(bench, tmp_path, depth=8, rule=LANES_MUTANTS[change])


def _forget_the_section_s_end(m, check):
    with m.If(check.i.ready):
        m.d.sync += sole(m, "new_final").eq(0)


def _see_no_other_bag(m, check):
    m.d.comb += sole(m, "same").eq(1)


def _keep_what_is_wrong(m, check):
    m.d.comb += check.dropped.eq(0)


def _leave_without_a_successor(m, check):
    with m.If(check.busy):
        m.d.comb += check.o.valid.eq(1)


CHECK_MUTANTS = {
    _forget_the_section_s_end: "last where the run ends",
    _see_no_other_bag: "last where the run ends",
    _keep_what_is_wrong: "what is dropped is counted",
    _leave_without_a_successor: "",
}


@pytest.mark.parametrize("change", cases(CHECK_MUTANTS, (_forget_the_section_s_end,)))
def test_check_rules_catch_a_mutant(change, tmp_path):
    bench = CheckBench(mutant(BagCheck, change))
    refute(bench, tmp_path, depth=8, rule=CHECK_MUTANTS[change])
