"""Bad requests to the gather engine: nothing is read that was not asked for, and all is counted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from screc_sim.native.harness import build, run
from tests.cosim.requests import PARAMS, Case, Model, cases
from tests.cosim.support import CACHE

pytestmark = pytest.mark.cosim


@pytest.mark.parametrize(
    "examples", [600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
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
