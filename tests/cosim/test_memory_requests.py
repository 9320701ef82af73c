"""Bad requests to the gather engine: nothing is read that was not asked for, and all is counted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from screc_sim.native.harness import Memory, build, run
from screc_sim.runner import SimulationError
from tests.cosim.requests import (
    LIMIT,
    PARAMS,
    RING,
    RING_BASE,
    Case,
    Model,
    Record,
    Section,
    cases,
)
from tests.cosim.support import CACHE

pytestmark = pytest.mark.cosim


@pytest.mark.parametrize(
    "examples", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_bad_requests_read_nothing_else_and_are_counted(tmp_path, examples):
    design = build(PARAMS, cache=CACHE)
    seen: Counter[str] = Counter()

    # the same cases on every run, however fast the machine
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases())
    def play(case: Case) -> None:
        model = Model(case)
        # it raises where a read is not of a row asked for, and where the engine does not end idle
        outcome = run(design, model.job(), case.memory, folder=tmp_path)
        model.check(outcome)
        bags = [bag for lane in model.lanes.values() for bag in lane]
        seen["cases"] += 1
        seen["refused"] += model.range_errors
        seen["beats"] += model.row_beats
        seen["on-chip beats"] += model.onchip_beats
        seen["good bags"] += sum(bag.values is not None and any(bag.values) for bag in bags)
        seen["unknown bags"] += sum(bag.values is None for bag in bags)

    play()
    print(dict(seen))
    assert seen["cases"] >= examples
    # the cases are worth their while: reads, refusals and bags with known sums are frequent
    assert seen["refused"] > 2 * examples
    assert seen["beats"] > 2 * examples
    assert seen["on-chip beats"] > examples // 10
    assert seen["good bags"] > examples
    assert 0 < seen["unknown bags"] < seen["good bags"] // 4


def test_the_bench_finds_a_read_of_a_row_that_was_not_asked_for(tmp_path):
    records = tuple(Record(0, 0, rank, False, rank == 22) for rank in (20, 21, 22))
    model = Model(Case({}, (Section(1, records),), 0, RING_BASE, RING, LIMIT, Memory(latency=5)))
    design = build(PARAMS, cache=CACHE)
    model.check(run(design, model.job(), model.case.memory, folder=tmp_path))
    model.allowed.remove(max(model.allowed))
    with pytest.raises(SimulationError, match="outside of every region"):
        run(design, model.job(), model.case.memory, folder=tmp_path)
