"""Rows on chip: the hottest ones, no more than fit, and plans that say which."""

import numpy as np
import pytest

from screc.compile.layout import make_layout
from screc.errors import PlanError
from screc.plan.catalogue import UNEVEN_BEATS, Pins, excess
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.solve import solve
from screc.plan.step import onchip_beats
from tests.plan.support import problem_of

NONE = {"onchip": False}
PINNED = {"dram": False, "ssd": False}
SCARCE = {"rows": (100_000, 20_000), "pooling": [30.0, 10.0], "device": {"uram": 40}}
"""Tables that are larger than the on-chip memory of their device."""


def planned(demands, rows=(20_000, 3000), memory=2, **more):
    """A problem with as much room on chip as the plan step gives it."""
    pins = Pins(memory=memory, compute=1, rows=8, columns=8, slots=2, weights="onchip")
    bare = problem_of(rows, pins=pins, demands=demands, **more)
    return problem_of(
        rows, pins=pins, demands=demands, onchip_beats=onchip_beats(bare.tables), **more
    )


def solved(problem):
    plan = solve(problem)
    assert check(plan, problem).value == plan.value
    assert 0 <= plan.gap <= problem.gap
    return plan


def per_rank(table):
    return np.repeat(table.rates.rates, table.rates.widths)


def test_without_rows_that_may_be_there_cores_have_no_room():
    problem = planned({"a": NONE, "b": NONE})
    assert all(p.gather.onchip_beats == 0 for p in problem.classes[0].patterns)


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_a_plan_keeps_the_hottest_rows_on_chip(memory):
    plain = solved(planned({"a": NONE, "b": NONE}, memory=memory, **SCARCE))
    problem = planned({}, memory=memory, **SCARCE)
    assert not any(excess(p, problem.classes[0].budget) for p in problem.classes[0].patterns)
    plan = solved(problem)
    device = plan.devices[0]
    params = device_params(plan, problem.shape)
    assert params.gather.onchip_beats == device.shapes.onchip_beats > 0
    assert params in [pattern.params() for pattern in problem.classes[0].patterns]
    assert {r.tier for t in device.tables for r in t.ranges} == {"onchip", "dram"}
    assert all(t.resident_rows == n for t, n in zip(device.tables, SCARCE["rows"], strict=True))
    assert all(r.first == 0 for t in device.tables for r in t.ranges if r.tier == "onchip")
    assert plan.per_sample["dram"] < plain.per_sample["dram"]
    assert plan.bound <= plan.value < plain.value
    make_layout(device, problem.shape, params)  # compile has room for them


def test_rows_of_all_tables_are_as_hot():
    """Rows of one stride: none off chip is much hotter than one on chip of another table."""
    problem = planned({}, memory=1, **SCARCE)
    plan = solved(problem)
    rates = [per_rank(t) for t in problem.tables]
    kept = [t.onchip_rows for t in plan.devices[0].tables]
    assert all(0 < n < len(r) for n, r in zip(kept, rates, strict=True))
    coldest = min(r[n - 1] for n, r in zip(kept, rates, strict=True))
    hottest = max(r[n] for n, r in zip(kept, rates, strict=True))
    assert hottest < 1.25 * coldest


def test_a_pinned_table_is_on_chip_whole():
    plan = solved(planned({"a": NONE, "b": PINNED}))
    a, b = plan.devices[0].tables
    assert (a.onchip_rows, b.onchip_rows) == (0, 3000)
    assert {r.tier for r in b.ranges} == {"onchip"}


@pytest.mark.parametrize("memory", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 17, 999])
def test_small_tables_fit_the_room_that_they_are_given(rows, memory):
    device = {"kind": "u50"}
    problem = planned({"a": PINNED, "b": PINNED}, (rows, rows + 5), memory, device=device)
    plan = solved(problem)
    assert {r.tier for t in plan.devices[0].tables for r in t.ranges} == {"onchip"}
    assert plan.devices[0].shapes.onchip_beats < rows + 100 * UNEVEN_BEATS


def test_no_more_rows_than_are_allowed_are_on_chip():
    plan = solved(planned({"a": {"onchip_rows": 101}, "b": NONE}))
    a, b = plan.devices[0].tables
    assert (a.onchip_rows, b.onchip_rows) == (100, 0)  # whole groups of two memory cores


def test_rows_on_chip_and_on_ssd():
    problem = planned({"b": NONE}, (2_000_000, 3000), dram_bytes=8_000_000)
    plan = solved(problem)
    a = plan.devices[0].tables[0]
    assert 0 < a.onchip_rows < a.resident_rows < 2_000_000
    assert [r.tier for r in a.ranges] == ["onchip", "onchip", "dram", "dram", "ssd"]


def test_a_pinned_table_that_does_not_fit_says_what_helps():
    with pytest.raises(PlanError) as error:
        solve(planned({"a": PINNED}, (2_000_000, 3000)))
    assert error.value.hints


def test_all_uram_that_the_cores_leave_is_used():
    problem = planned({}, (2_000_000, 10), 1)
    deepest = max(problem.classes[0].patterns, key=lambda p: p.gather.onchip_beats)
    limit = problem.classes[0].budget.limits["uram"]
    assert limit - 8 < deepest.used["uram"] <= limit  # a depth of 4,096 beats takes eight
    assert deepest.gather.onchip_beats % 4096 == 0
    (a, _) = solved(problem).devices[0].tables
    assert a.onchip_rows * 16 >= 0.9 * deepest.gather.onchip_beats * 64
