"""Compute cores with one thing broken on purpose: the comparison must find each."""

import pytest

from screc_hw.compute import array, core, pairs
from screc_hw.compute.core import ComputeCore
from tests.cosim.compute_case import FULL, Session, busy
from tests.cosim.compute_models import roomy, some
from tests.formal.mutants import cases, mutant
from tests.formal.state import sole
from tests.support.compute import model_shape

pytestmark = pytest.mark.cosim

PARAMS = roomy(rows=2, columns=32, lanes=4, slots=2)

WITHOUT_DENSE = model_shape(dense=0, bottom=(), dims=(4, 4, 4), top=(8, 1))
DOT = model_shape(dense=9, bottom=(20, 12), dims=(12, 12), top=(32, 8, 1))
CONCAT = model_shape(dense=3, bottom=(17, 6), dims=(4, 12, 8), top=(33, 8, 1), interaction="concat")


def _columns_do_not_wait_for_those_before(m, part):
    m.d.comb += sole(m, "drain").eq(0)


def _a_group_issues_while_it_waits(m, part):
    m.d.comb += part.tag.valid.eq(part.busy)


def _dense_inputs_begin_with_slot_0(m, part):
    m.d.comb += m.submodules.dense_input.slot.eq(0)


def _what_lies_beyond_a_vector_counts(m, part):
    m.d.comb += sole(m, "whole").eq(m.submodules.store.data[0])


def _inputs_beyond_a_layer_count(m, part):
    used = [signal for signal in m._driving if signal.name.startswith("used")]
    m.d.sync += [signal.eq(1) for signal in used]


def _a_negative_low_sum_borrows_from_the_high_one(m, part):
    m.d.comb += part.high_sum.eq(sole(m, "sum_7")[18:36].as_signed())


def _sums_begin_anew_with_every_step(m, part):
    m.d.comb += m.submodules.accumulate.early.begin.eq(1)


def _codes_are_logit_codes(m, part):
    m.d.comb += m.submodules.scale_0.wide.eq(1)


def _pairs_are_lost_when_columns_come(m, part):
    m.d.comb += part.pairs.ready.eq(1)


def _bags_are_complete_before_they_come(m, part):
    m.d.comb += part.written.eq(part.words.valid & part.words.ready)


PLACES = {
    _columns_do_not_wait_for_those_before: (core, "Issue"),
    _a_group_issues_while_it_waits: (core, "Issue"),
    _dense_inputs_begin_with_slot_0: (core, "ComputeCore"),
    _what_lies_beyond_a_vector_counts: (pairs, "PairUnit"),
    _inputs_beyond_a_layer_count: (array, "Position"),
    _a_negative_low_sum_borrows_from_the_high_one: (array, "PackedDotChain"),
    _sums_begin_anew_with_every_step: (core, "Array"),
    _codes_are_logit_codes: (core, "Finish"),
    _pairs_are_lost_when_columns_come: (core, "BankWriter"),
    _bags_are_complete_before_they_come: (core, "BagInput"),
}

QUICK = (
    _columns_do_not_wait_for_those_before,
    _a_negative_low_sum_borrows_from_the_high_one,
)


def check(broken=ComputeCore):
    rounds = [
        some(shape, PARAMS, 10 + n, count=3) for n, shape in enumerate((WITHOUT_DENSE, DOT, CONCAT))
    ]
    with Session("icarus", PARAMS, core=broken) as session:
        session.check(rounds, FULL)
        session.check(rounds, busy(3))


@pytest.mark.slow
def test_what_is_not_broken_passes():
    check()


@pytest.mark.parametrize("change", cases(PLACES, QUICK))
def test_a_broken_core_is_found(change, monkeypatch):
    module, name = PLACES[change]
    broken = mutant(getattr(module, name), change)
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(AssertionError):
        check(broken if name == "ComputeCore" else ComputeCore)
