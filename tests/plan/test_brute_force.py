"""The planner's model against enumeration, on tiny instances of everything that it knows."""

import dataclasses
import math

import numpy as np
import pytest

from screc.plan import groups
from screc.plan.problem import DeviceClass
from screc.plan.solve import least_value, solve
from tests.plan.brute_force import Case, optimum, random_case

QUICK, INSTANCES = 75, 200
BLOCK = 25
OBJECTIVES = ("throughput", "energy", "devices")


def instance(seed, objective):
    """A random case, its objective and what is best of it."""
    rng = np.random.default_rng(seed)
    case = random_case(rng)
    best, rate = optimum(case), None
    if objective != "throughput":
        # no rate can be had where there is no solution at all
        rate = 1 / best / float(rng.uniform(1.02, 3)) if math.isfinite(best) else 1.0
        best = optimum(case, objective, rate)
    problem = dataclasses.replace(case.problem, objective=objective, rate=rate)
    return problem, case.ranks, best


@pytest.fixture
def small_tables_may_be_replicated(monkeypatch):
    """All of these tables are small, whatever share of the tiny devices they take."""
    monkeypatch.setattr(groups, "REPLICATED_SHARE", 1e9)
    monkeypatch.setattr(groups, "REPLICATED", 64)


def check_block(first):
    feasible = 0
    for seed in range(first, first + BLOCK):
        problem, ranks, best = instance(seed, OBJECTIVES[seed % 3])
        found = least_value(problem, ranks)
        assert found == pytest.approx(best, rel=1e-6), f"seed {seed}: {problem.objective}"
        if math.isinf(best):
            continue
        feasible += 1
        free = problem
        if problem.objective == "throughput":
            free = dataclasses.replace(problem, objective="devices", rate=1 / best / (1 + 1e-6))
            best = problem.devices
        assert least_value(free, ranks, borders=False) <= best * (1 + 1e-6), f"seed {seed}"
    assert feasible > BLOCK / 2


@pytest.mark.parametrize("first", range(0, QUICK, BLOCK))
@pytest.mark.usefixtures("small_tables_may_be_replicated")
def test_the_model_equals_enumeration_and_free_splits_are_no_worse(first):
    check_block(first)


@pytest.mark.slow
@pytest.mark.parametrize("first", [*range(QUICK, INSTANCES, BLOCK), *range(1000, 2000, BLOCK)])
@pytest.mark.usefixtures("small_tables_may_be_replicated")
def test_the_model_equals_enumeration_on_many_more(first):
    check_block(first)


def single_cores(seed):
    """A problem of devices with one memory core each, so that tables are all that is uneven."""
    rng = np.random.default_rng(seed)
    while True:
        case = random_case(rng)
        classes = case.problem.classes
        patterns = [p for p in classes[0].patterns if p.memory == 1 and p.tt is None]
        if len(classes) == 1 and patterns and not any(t.replicate for t in case.problem.tables):
            break
    klass = dataclasses.replace(classes[0], patterns=tuple(patterns))
    tables = [dataclasses.replace(t, replicate=False, tt=None) for t in case.problem.tables]
    return dataclasses.replace(case.problem, classes=[klass], tables=tables), case.ranks


@pytest.mark.parametrize("seed", [1, 2, 4, 10, 11, 13, 22, 27])
def test_no_placement_of_whole_tables_is_better_than_the_bound(seed):
    problem, ranks = single_cores(seed)
    problem = dataclasses.replace(problem, split=False, max_latency=None)
    # equal devices apart, so that it is seen which of them holds a table
    (klass,) = problem.classes
    one = DeviceClass(klass.budget, 1, klass.patterns)
    apart = dataclasses.replace(problem, classes=[one, one])
    best = optimum(Case(apart, ranks), split=False)
    plan = solve(problem)
    assert math.isfinite(best)
    assert plan.bound <= best * (1 + 1e-9)
    assert plan.bound <= plan.value
    assert plan.gap == pytest.approx((plan.value - plan.bound) / plan.bound)
    for number in range(len(problem.tables)):
        name = problem.tables[number].shape.name
        assert sum(t.table == name for d in plan.devices for t in d.tables) == 1
