"""On-chip rows: the hottest ones, no more than fit, and a plan that knows of them."""

import dataclasses
import math

import numpy as np
import pytest

from screc.errors import PlanError, PlanErrorKind
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.onchip import fill, with_onchip
from screc.plan.patterns import Pins, excess
from screc.plan.place import make_plan
from screc.plan.problem import TableDemand
from screc.plan.rates import RateCurve
from screc.plan.solve import solve
from screc_hw.model import TableShape
from tests.plan.support import problem_of, zipf_curve

ONCHIP = {"onchip": True}
PINNED = {"onchip": True, "dram": False, "ssd": False}


def demand(rows, rates=None, *, dim=16, format_="int8", **tiers):
    curve = zipf_curve(rows, 4.0) if rates is None else rates
    shape = TableShape(name="t", rows=rows, dim=dim, format=format_)
    return TableDemand(shape=shape, rates=curve, **(ONCHIP | tiers))


def beats(table, rows, memory):
    """Beats of each memory core that ``rows`` rows take."""
    mine = math.ceil(rows / memory)
    return math.ceil(mine * table.stride / 64)


def per_rank(table):
    return np.repeat(table.rates.rates, table.rates.widths)


def most(tables, size):
    """Lookups per sample that ``size`` bytes of any rows can answer: the dearest bytes first."""
    rates = np.concatenate([per_rank(t) for t in tables if t.onchip])
    strides = np.concatenate([np.full(t.shape.rows, t.stride) for t in tables if t.onchip])
    order = np.argsort(-rates / strides, kind="stable")
    ends = np.cumsum(strides[order])
    return float(rates[order][ends <= size].sum())


@pytest.mark.parametrize("memory", [1, 2, 4])
@pytest.mark.parametrize("depth", [0, 1, 3, 10, 57, 400, 10_000])
def test_the_hottest_rows_fill_the_memory(depth, memory):
    tables = [
        demand(700),
        demand(90, dim=128),
        demand(300, zipf_curve(300, 40.0), dim=64, format_="int8r"),
        demand(500, onchip=False),
        demand(333, zipf_curve(333, 1.0), dim=8, format_="int4r"),
    ]
    rows = fill(tables, depth, memory, 64)
    assert rows[3] == 0
    assert sum(beats(t, n, memory) for t, n in zip(tables, rows, strict=True)) <= depth
    assert all(n == t.shape.rows or n % memory == 0 for t, n in zip(tables, rows, strict=True))
    everything = [700, 90, 300, 0, 333]
    fits = sum(beats(t, n, memory) for t, n in zip(tables, everything, strict=True)) <= depth
    assert (rows == everything) == fits
    # each table may waste a group of rows, of two beats a core at most, and its last beat
    spared = max(0, depth - 3 * 4) * 64 * memory
    answered = sum(float(per_rank(t)[:n].sum()) for t, n in zip(tables, rows, strict=True))
    assert answered >= most(tables, spared)
    assert any(rows) == (depth >= 1)


def test_rows_that_are_never_read_stay_off_chip():
    cold = RateCurve(np.array([0, 6, 100]), np.array([0.5, 0.0]))
    assert fill([demand(100, cold)], 1000, 2, 64) == [6]


def test_a_table_that_lives_on_chip_alone_comes_first_and_whole():
    tables = [demand(100, zipf_curve(100, 1e-3), dram=False), demand(400, zipf_curve(400, 50.0))]
    need = beats(tables[0], 100, 2)
    assert fill(tables, need - 1, 2, 64) is None
    assert fill(tables, need, 2, 64) == [100, 0]
    whole, hot = fill(tables, need + 5, 2, 64)
    assert (whole, hot) == (100, 5 * 4 * 2)


def planned(demands, rows=(20_000, 3000), memory=2, **more):
    pins = Pins(memory=memory, compute=1, rows=8, columns=8)
    problem = problem_of(rows, pins=pins, demands=demands, **more)
    patterns = with_onchip(
        problem.shape, problem.tables, problem.patterns, problem.budget, problem.batch
    )
    return dataclasses.replace(problem, patterns=patterns)


def test_without_a_wish_nothing_changes():
    problem = planned({})
    assert problem.patterns[0].onchip == ()
    assert problem.patterns[0].params.gather.onchip_beats == 0


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_a_plan_keeps_the_hottest_rows_on_chip(memory):
    plain, problem = planned({}, memory=memory), planned({"a": ONCHIP, "b": ONCHIP}, memory=memory)
    pattern = problem.patterns[0]
    assert not excess(pattern, problem.budget)
    assert problem.dram_seconds(pattern) < problem.dram_seconds(plain.patterns[0])
    plan = make_plan(problem, solve(problem))
    device = plan.devices[0]
    assert [t.onchip_rows for t in device.tables] == list(pattern.onchip)
    assert sum(pattern.onchip) > 0
    assert all(t.resident_rows == n for t, n in zip(device.tables, (20_000, 3000), strict=True))
    assert {r.tier for t in device.tables for r in t.ranges} <= {"onchip", "dram"}
    params = device_params(plan, problem.shape)
    assert params.gather.onchip_beats == device.shapes.onchip_beats > 0
    assert params == pattern.params
    assert plan.per_sample["dram"] == pytest.approx(problem.dram_seconds(pattern))
    assert plan.gap >= 0
    assert plan.bound <= plan.value <= make_plan(plain, solve(plain)).value
    assert check(device, params, problem).value == plan.value


def test_a_pinned_table_is_on_chip_whole():
    plan = make_plan(problem := planned({"b": PINNED}), solve(problem))
    a, b = plan.devices[0].tables
    assert (a.onchip_rows, b.onchip_rows) == (0, 3000)
    assert {r.tier for r in b.ranges} == {"onchip"}
    assert plan.devices[0].utilisation["uram"] + plan.devices[0].utilisation["bram36"] > 0


def test_rows_on_chip_and_on_ssd():
    problem = planned({"a": ONCHIP}, rows=(2_000_000, 3000), dram_bytes=8_000_000)
    plan = make_plan(problem, solve(problem))
    a = plan.devices[0].tables[0]
    assert 0 < a.onchip_rows < a.resident_rows < 2_000_000
    assert [r.tier for r in a.ranges] == ["onchip", "onchip", "dram", "dram", "ssd"]
    assert plan.gap >= 0


def test_a_pinned_table_that_does_not_fit_says_what_there_is():
    with pytest.raises(PlanError, match="take 31,250 KiB; beside the cores smartssd has") as error:
        planned({"a": PINNED}, rows=(2_000_000, 3000))
    assert error.value.kind is PlanErrorKind.URAM


def test_all_uram_that_the_cores_leave_is_used():
    problem = planned({"a": ONCHIP}, rows=(2_000_000, 10), memory=1)
    pattern = problem.patterns[0]
    limit = problem.budget.limits["uram"]
    used = pattern.used["uram"]
    assert limit - 8 < used <= limit  # a depth of 4,096 beats takes eight
    assert pattern.params.gather.onchip_beats % 4096 == 0
    assert pattern.onchip[0] * 16 >= (pattern.params.gather.onchip_beats - 1) * 64
