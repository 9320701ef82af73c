"""TT reconstructors with one thing broken on purpose: the comparison must find each."""

import pytest

from screc_hw.tt import lane, reconstructor
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from screc_sim.native import tt as native
from screc_sim.native.tt import Timing, TtCase, random_table
from screc_sim.runner import SimulationError
from tests.cosim.tt_case import some_rows
from tests.formal.mutants import mutant

pytestmark = pytest.mark.cosim

SHAPE = TtShape(rows=119, p=(4, 5, 6), q=(2, 2, 4), ranks=(8, 8))
PINS = 6
PARAMS = TtParams.for_tables([SHAPE], [PINS], slice_lanes=8, chain=4, requantisers=4, slots=4)


def _a_first_product_is_done_with_its_last_step(m, part):
    tag = m.submodules.sequencer.tag
    m.d.comb += m.submodules.sequencer.done.eq(tag.valid & tag.done & ~tag.second)


def _a_first_product_is_written_to_one_place(m, part):
    m.d.comb += part.write.entry.eq(0)


def _sums_begin_anew_with_every_step(m, part):
    m.d.comb += part.tag.begin.eq(1)


def _all_groups_take_the_lower_columns(m, part):
    m.d.comb += part.step.upper.eq(0)


def _every_prefix_is_a_hit(m, part):
    m.d.comb += part.jobs.payload.hit.eq(1)


def _groups_write_the_same_chunk(m, part):
    m.d.comb += part.jobs.payload.second.finish.chunk1.eq(0)


def _rows_beyond_the_table_pass(m, part):
    m.d.comb += part.jobs.payload.second.finish.m.eq(1 << 15)


def _rows_are_one_slice(m, part):
    m.d.comb += part.jobs.payload.second.finish.slices.eq(0)


PLACES = {
    _a_first_product_is_done_with_its_last_step: (reconstructor, "TtLane"),
    _a_first_product_is_written_to_one_place: (lane, "Sums"),
    _sums_begin_anew_with_every_step: (lane, "Sequencer"),
    _all_groups_take_the_lower_columns: (lane, "Sequencer"),
    _every_prefix_is_a_hit: (reconstructor, "Digits"),
    _groups_write_the_same_chunk: (reconstructor, "Digits"),
    _rows_beyond_the_table_pass: (reconstructor, "Digits"),
    _rows_are_one_slice: (reconstructor, "Digits"),
}


def check(cache):
    case = TtCase(PARAMS, [random_table(SHAPE, fraction=PARAMS.fraction)], [PINS])
    local, table = some_rows(case, 300, seed=0)
    outcome = native.run(native.build(PARAMS, cache=cache), case, local, table, Timing())
    case.check(outcome, local, table)


@pytest.mark.slow
def test_what_is_not_broken_passes(tmp_path):
    check(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("change", PLACES)
def test_a_broken_reconstructor_is_found(change, tmp_path, monkeypatch):
    module, name = PLACES[change]
    monkeypatch.setattr(module, name, mutant(getattr(module, name), change))
    with pytest.raises((AssertionError, SimulationError)):
        check(tmp_path)  # a folder of its own: a kept build would be of the sources
