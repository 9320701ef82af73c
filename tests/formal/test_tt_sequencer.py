"""What the TT sequencer promises to the parts that cannot stop: order, readiness, places."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from screc_hw.tt.layouts import job_layout
from screc_hw.tt.params import TtParams
from screc_hw.tt.sequencer import Sequencer
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import held
from tests.formal.state import sole

pytestmark = pytest.mark.formal

SMALL = TtParams(
    slice_lanes=4,
    chain=4,
    max_rank=8,
    max_q2=1,
    max_q3=4,
    max_dim=4,
    max_tables=2,
    core1_words=2,
    core2_words=2,
    core3_words=2,
    row_bits=2,
    slots=2,
)
LATENCY = 3
"""Cycles from a step to its first product in the store; longer ones are only more of the same."""


class SequencerBench(wiring.Component):
    """Jobs of any kind, numbered; blocks and rows leave when they like.

    The second product's ``m`` carries what the rules need: whether it waits, and its number.
    """

    def __init__(self, make=Sequencer, *, covers=False):
        self._make = make
        self._covers = covers
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout(SMALL))),
                "taken": In(1),
                "emitted": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self._make(SMALL)
        jobs, tag = self.jobs, dut.tag
        wiring.connect(m, wiring.flipped(jobs), dut.jobs)
        held(m, jobs.valid, jobs.ready, jobs.payload, "jobs", Assume)
        first, second = jobs.payload.first, jobs.payload.second
        came = Signal(6)
        enter = jobs.valid & jobs.ready & ~jobs.payload.pin
        m.d.sync += came.eq(came + enter)
        number = Cat(~jobs.payload.hit, came)
        m.d.comb += [
            Assume(second.finish.m == number),
            # a product of one or two steps per sum, and as many sums as its kind has
            Assume(first.links <= 1),
            Assume(second.links <= 1),
            Assume(second.blocks == 0),
            Assume(second.row_blocks == 1),
            Assume(second.steps == second.links),
            Assume(first.steps <= 3),
        ]
        step = tag.valid & tag.end
        ended = step & tag.second & tag.last
        product = step & ~tag.second & tag.done
        flight = Signal(LATENCY)
        m.d.sync += flight.eq(Cat(product, flight))
        m.d.comb += [
            dut.done.eq(flight[-1]),
            dut.taken.eq(self.taken),
            dut.emitted.eq(self.emitted),
        ]

        gone, waited, stored, promised = (Signal(6, name=f"count_{n}") for n in range(4))
        blocks, rows = Signal(6), Signal(6)
        m.d.sync += [
            gone.eq(gone + ended),
            waited.eq(waited + (ended & tag.finish.m[0])),
            stored.eq(stored + dut.done),
            promised.eq(promised + (enter & ~jobs.payload.hit)),
            blocks.eq(blocks + (step & tag.second) - self.taken),
            rows.eq(rows + ended - self.emitted),
        ]
        m.d.comb += [
            Assume(~self.taken | (blocks != 0)),
            Assume(~self.emitted | (rows != 0)),
            Assert(~(tag.valid & tag.second) | (tag.finish.m[1:7] == gone), "rows in order"),
            Assert(
                ~(tag.valid & tag.second & tag.finish.m[0]) | (stored > waited),
                "a second product finds its first in the store",
            ),
            Assert(blocks <= SMALL.block_depth, "a block has a place"),
            Assert(promised - waited <= SMALL.slots, "a first product has an entry"),
            Assert(stored <= promised, "only first products that were asked for"),
            Assert(dut.busy | (gone == came), "busy while a row is inside"),
        ]
        if self._covers:
            m.d.comb += Cover((gone == 4) & (waited == 2), "hits and misses pass")
        return m


DEPTH = 15


def test_seconds_wait_for_their_firsts_and_places(tmp_path):
    verdict = prove(SequencerBench(), tmp_path, mode="bmc", depth=DEPTH)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_hits_and_misses_pass(tmp_path):
    verdict = prove(SequencerBench(covers=True), tmp_path, mode="cover", depth=26)
    assert verdict.passed, verdict


def _seconds_do_not_wait(m, sequencer):
    m.d.sync += sole(m, "finished").eq(1)


def _entries_are_not_counted(m, sequencer):
    m.d.sync += sole(m, "free").eq(2)


MUTANTS = {
    _seconds_do_not_wait: "a second product finds its first in the store",
    _entries_are_not_counted: "a first product has an entry",
}


@pytest.mark.parametrize("change", cases(MUTANTS, tuple(MUTANTS)))
def test_sequencer_rules_catch_a_mutant(change, tmp_path):
    refute(SequencerBench(mutant(Sequencer, change)), tmp_path, depth=DEPTH, rule=MUTANTS[change])
