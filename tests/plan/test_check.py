"""The checker finds what is wrong with a plan, whoever made it."""

import dataclasses

import pytest

from screc.errors import CheckError, ConfigError
from screc.plan.check import _check_coverage, check
from screc.plan.device import device_params
from screc.plan.place import make_plan
from screc.plan.schema import Plan, Range, Stripe, read_plan
from screc.plan.solve import solve
from tests.plan.support import Pins, budget_of, problem_of


@pytest.fixture(scope="module")
def problem():
    pins = Pins(memory=2, compute=1, rows=8, columns=8)
    return problem_of([3000, 500], dram_bytes=20_000, pins=pins)


@pytest.fixture(scope="module")
def plan(problem):
    return make_plan(problem, solve(problem))


def recheck(plan, problem, **changes):
    device = plan.devices[0].model_copy(update=changes)
    return check(device, device_params(plan, problem.shape), problem)


def test_a_plan_passes_its_own_check(plan, problem):
    checked = recheck(plan, problem)
    assert checked.value == plan.value
    assert checked.bottleneck == plan.bottleneck
    assert plan.per_sample["gather"] > 0


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"dram_gib": 1e-5}, "dram: the plan uses"),
        ({"ssd_gib": 1e-6}, "ssd: the plan uses"),
        ({"dsp": 50}, "dsp: the plan uses"),
        ({"lut": 5000}, "lut: the plan uses"),
        ({"ff": 5000}, "ff: the plan uses"),
    ],
)
def test_an_exceeded_capacity_is_found(plan, problem, figures, message):
    tight = dataclasses.replace(problem, budget=budget_of(**figures))
    with pytest.raises(CheckError, match=message):
        recheck(plan, tight)


def test_a_ring_that_no_longer_fits_is_found(plan, problem):
    with pytest.raises(CheckError, match="dram: the plan uses"):
        recheck(plan, problem, staging_bytes=plan.devices[0].staging_bytes + 64 * 100)


def test_a_missing_table_is_found(plan, problem):
    with pytest.raises(CheckError, match="'b': rank 0 must be in exactly one range, not in 0"):
        recheck(plan, problem, tables=plan.devices[0].tables[:1])


def test_a_plan_of_another_shape_is_found(plan, problem):
    tables = plan.devices[0].tables
    first = tables[0].ranges[0]
    moved = tables[0].model_copy(
        update={"ranges": (first.model_copy(update={"core": 1}), *tables[0].ranges[1:])}
    )
    with pytest.raises(ConfigError, match="table 'a' must be onchip"):
        recheck(plan, problem, tables=(moved, tables[1]))


DRAM, SSD = {"tier": "dram"}, {"tier": "ssd"}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(DRAM, 0, 5), (SSD, 6, 10)], "rank 5 must be in exactly one range, not in 0"),
        ([(DRAM, 0, 6), (SSD, 5, 10)], "rank 5 must be in exactly one range, not in 2"),
        ([(DRAM, 0, 11)], r"must lie in \[0, 10\), not \[0, 11\)"),
        ([(DRAM, 1, 10)], "rank 0 must be in exactly one range, not in 0"),
        ([(DRAM, 0, 10, 2, 0)], "rank 1 must be in exactly one range, not in 0"),
        ([(DRAM, 0, 10, 2, 0), (DRAM, 0, 10, 2, 0)], "rank 0 .* not in 2"),
        ([(DRAM, 0, 10, 2, 0), (DRAM, 0, 9, 2, 1)], "rank 9 .* not in 0"),
        ([], "rank 0"),
    ],
)
def test_ranks_not_covered_once_are_found(ranges, message):
    made = [
        Range(first=first, last=last, stripe=Stripe(of=s[0], take=(s[1],)) if s else None, **tier)
        for tier, first, last, *s in ranges
    ]
    with pytest.raises(CheckError, match=message):
        _check_coverage("t", 10, made)


def test_skew_makes_one_memory_core_the_slowest(problem):
    settings = {"rows": [64, 2], "pooling": [9.0, 0.1]}
    even = make_plan(q := problem_of(**settings, pins=Pins(memory=1, rows=8, columns=8)), solve(q))
    skewed = make_plan(
        q := problem_of(**settings, pins=Pins(memory=2, rows=8, columns=8)), solve(q)
    )
    assert skewed.per_sample["gather"] > 1.05 * even.per_sample["gather"] / 2


def test_plan_json_is_read_back(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_plan(path) == plan
    assert isinstance(plan, Plan)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tier": "dram"', '"tier": "disk"', r"plan\.json: devices\.0\.tables\.0\.ranges\.0\.tier"),
        ('"batch"', '"bach"', r"plan\.json: batch: Field required"),
        ('"version": 1', '"version": 9', "version: must be 1, not 9"),
        ("{", "", "must be JSON"),
    ],
)
def test_a_damaged_plan_json_is_named(plan, tmp_path, old, new, message):
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_plan(path)
