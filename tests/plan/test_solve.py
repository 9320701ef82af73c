"""Whole searches: bound and value, objectives, limits, and why there is no plan."""

import dataclasses
import itertools

import numpy as np
import pytest

from screc.errors import PlanError, PlanErrorKind
from screc.plan.catalogue import Pins
from screc.plan.check import check
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR
from screc.plan.solve import solve
from tests.plan.support import SMALL_PINS, problem_of

FREE = Pins(rows=8, columns=8, slots=2, weights="onchip", onchip=False)


def random_problem(seed):
    """A problem of 1 to 3 devices whose DRAM holds some of its rows, with any objective."""
    rng = np.random.default_rng(seed)
    rows = [int(n) for n in np.exp(rng.uniform(np.log(100), np.log(3000), rng.integers(1, 4)))]
    count = int(rng.integers(1, 4))
    pooling = [float(p) for p in rng.uniform(0.3, 8, len(rows))]
    dram = int(sum(rows) * 16 * rng.uniform(0.4, 1.5) / count) + 60_000
    device = {
        "ssd_kiops": float(np.exp(rng.uniform(0, 7))),
        "pcie_gbs": float(np.exp(rng.uniform(-2, 1.4))),
    }
    problem = problem_of(
        rows,
        count=count,
        pooling=pooling,
        dram_bytes=dram,
        device=device,
        batch=int(rng.choice([16, 128])),
        pins=SMALL_PINS,
    )
    return problem, rng


@pytest.mark.parametrize("seed", range(50))
def test_the_bound_is_no_more_than_the_value(seed):
    problem, rng = random_problem(seed)
    plan = solve(problem)
    objective = {0: "energy", 1: "devices"}.get(seed % 10, "throughput")
    if objective != "throughput":
        rate = 1 / plan.value / float(rng.uniform(1.1, 3))
        problem = dataclasses.replace(problem, objective=objective, rate=rate)
        plan = solve(problem)
        assert plan.seconds <= 1 / rate * (1 + 1e-9)
    checked = check(plan, problem)
    assert checked.value == pytest.approx(plan.value)
    assert 0 < plan.bound <= plan.value * (1 + 1e-12)
    assert plan.gap == pytest.approx((plan.value - plan.bound) / plan.bound)
    if objective == "devices":
        assert plan.value == len(plan.devices)
        assert plan.value in (plan.bound, plan.bound + 1)


def slow_least_time(problem):
    """Least time of one device with one table in DRAM and on SSD, by each whole split."""
    (table,), (klass,) = problem.tables, problem.classes
    budget, batch, best = klass.budget, problem.batch, float("inf")
    rates = np.repeat(table.rates.rates, table.rates.widths)
    page = max(1, 4096 / table.stride)
    distinct = -np.expm1(-batch * rates) / batch
    reads = -np.expm1(-batch * rates * page) / (batch * page)
    for pattern in klass.patterns:
        for cut in range(table.shape.rows + 1):
            ring = STAGED_BLOCKS * STAGING_FACTOR * batch * distinct[cut:].sum() * 64
            used = cut * table.stride + 64 * pattern.memory + pattern.weight_bytes
            used += (ring + problem.staging_slack) * (cut < table.shape.rows)
            if used > budget.dram_bytes:
                continue
            lookups, pages = rates.sum(), reads[cut:].sum()
            header = 4 + problem.shape.dense
            dram = 8 * lookups / budget.streamed_rate + 64 * lookups / budget.random_rate(64)
            dram += (header + 8) / budget.streamed_rate
            dram += (4096 * pages + 64 * distinct[cut:].sum()) / budget.streamed_rate
            clock = budget.clock_hz
            # cycles of a lookup: 73 of latency and credits for 64 in flight
            times = [
                dram,
                lookups * 1.125 / clock,
                lookups * (64 + 9 + 1) / 64 / clock,
                1 / pattern.capacity["samples"],
                (8 * lookups + header) / budget.link_rate,
                pages / budget.ssd_iops,
                4096 * pages / budget.p2p_rate,
            ]
            best = min(best, max(times))
    return best


@pytest.mark.parametrize(
    "settings",
    [
        {"dram_bytes": 1 << 20},
        {"dram_bytes": 14_000},
        {"dram_bytes": 14_000, "device": {"ssd_kiops": 2}},
        {"dram_bytes": 16_000, "device": {"p2p_gbs": 0.01}, "pooling": [9.0]},
        {"dram_bytes": 20_000, "batch": 64, "pooling": [0.5], "device": {"ssd_kiops": 5}},
    ],
    ids=["all in DRAM", "fast SSD", "slow SSD", "slow link", "large batch"],
)
def test_one_table_on_one_device_equals_every_whole_split(settings):
    problem = problem_of([900], **{"pooling": [1.0], **settings})
    best = slow_least_time(problem)
    plan = solve(problem)
    assert plan.bound <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= plan.value <= best * (1 + 0.03)
    assert plan.gap <= 0.03  # of a few hundred rows, what is left free for whole ones shows


def test_a_small_memory_puts_the_cold_rows_on_ssd():
    plan = solve(problem_of([3000, 500], dram_bytes=30_000))
    tables = {table.table: table for table in plan.devices[0].tables}
    assert 0 < tables["a"].resident_rows < 3000
    assert plan.devices[0].staging_bytes > 0
    assert plan.ssd_reads > 0
    assert plan.devices[0].utilisation["dram"] > 0.9


def test_more_memory_is_never_slower():
    sizes = (15_000, 20_000, 30_000, 60_000)
    plans = [solve(problem_of([3000, 500], dram_bytes=n, device={"ssd_kiops": 1})) for n in sizes]
    for small, large in itertools.pairwise(plans):
        assert large.bound <= small.value * (1 + 1e-9)
    assert plans[0].value > 2 * plans[-1].value


def test_more_devices_are_faster_until_partials_cost_more():
    demands = {name: {"replicate": False} for name in "abc"}
    values = {}
    for count in (1, 2, 4):
        problem = problem_of(
            [5000, 4000, 3000],
            pooling=[20.0, 15.0, 10.0],
            count=count,
            demands=demands,
            pins=FREE,
        )
        values[count] = solve(problem).value
    assert values[2] < 0.8 * values[1]
    assert values[4] < 0.8 * values[2]
    slow = problem_of([500, 400], count=4, demands=demands, device={"pcie_gbs": 0.02}, pins=FREE)
    assert len(solve(slow).devices) == 1


def test_tables_stay_in_the_tier_that_they_are_given():
    demands = {"a": {"dram": False}, "b": {"ssd": False}}
    plan = solve(problem_of([300, 200], demands=demands))
    a, b = plan.devices[0].tables
    assert [r.tier for r in a.ranges] == ["ssd"]
    assert [r.tier for r in b.ranges] == ["dram"]


def test_a_table_that_must_be_replicated_is():
    demands = {"a": {"replicate": True}, "b": {"replicate": False}}
    problem = problem_of([300, 2000], pooling=[0.1, 40.0], count=2, demands=demands)
    plan = solve(problem)
    if len(plan.devices) == 2:
        for device in plan.devices:
            (mine,) = (t for t in device.tables if t.table == "a")
            assert all(r.replicated for r in mine.ranges)


@pytest.mark.parametrize("objective", ["energy", "devices"])
def test_a_lower_rate_never_needs_more(objective):
    fast = solve(problem_of([5000, 4000], count=3, pins=FREE, pooling=[20.0, 10.0]))
    values = []
    for share in (0.95, 0.5, 0.2):
        problem = problem_of(
            [5000, 4000],
            count=3,
            pins=FREE,
            pooling=[20.0, 10.0],
            objective=objective,
            rate=share / fast.value,
        )
        plan = solve(problem)
        assert plan.rate == pytest.approx(share / fast.value)
        # at a lower rate a sample pays for more of the board's time
        seconds = 1 / plan.rate if objective == "energy" else 1.0
        values.append(plan.value / seconds)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"rows": [100, 100], "device": {"kind": "u50", "dram_gib": 1e-6}}, "dram"),
        ({"device": {"dram_gib": 1e-5}, "demands": {"a": {"ssd": False}}}, "dram"),
        ({"dram_bytes": 30_000, "device": {"ssd_gib": 1e-6}}, None),
        ({"objective": "energy", "rate": 1e9}, None),
    ],
    ids=["no ssd", "dram", "ssd", "rate"],
)
def test_infeasible_problems_are_refused_with_what_would_help(settings, kind):
    rows = settings.pop("rows", [4000, 500])
    with pytest.raises(PlanError) as caught:
        solve(problem_of(rows, **settings))
    if kind is not None:
        assert caught.value.kind is PlanErrorKind(kind)
    assert caught.value.hints


def test_rows_that_may_be_nowhere_are_infeasible():
    demands = {"a": {"onchip": False, "dram": False, "ssd": False}}
    with pytest.raises(PlanError):
        solve(problem_of([40, 50], demands=demands))


def test_coarse_intervals_are_refined_to_the_same_plan():
    settings = {"dram_bytes": 160_000, "device": {"ssd_kiops": 3}, "pins": SMALL_PINS}
    fine = solve(problem_of([20_000, 3000], **settings, intervals=500))
    coarse = solve(problem_of([20_000, 3000], **settings, intervals=50))
    assert coarse.value == pytest.approx(fine.value, rel=2e-3)
    assert coarse.bound == pytest.approx(fine.bound, rel=5e-3)
    assert coarse.gap <= 0.01
