"""Plans against brute force, and why there is none."""

import itertools

import pytest

from screc.errors import PlanError, PlanErrorKind
from screc.plan import model
from screc.plan.patterns import Pins
from screc.plan.place import make_plan
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR
from screc.plan.solve import solve
from tests.plan.support import SMALL_PINS, problem_of


def plan_of(problem):
    return make_plan(problem, solve(problem))


def brute_force(problem):
    """Least time over all patterns and all whole splits, by the formulas written out again."""
    budget, batch = problem.budget, problem.batch
    best = float("inf")
    for pattern in problem.patterns:
        waste = len(problem.tables) * 64 * pattern.params.memory
        for cut in itertools.product(*(range(t.shape.rows + 1) for t in problem.tables)):
            tails = [(t, t.rates, n) for t, n in zip(problem.tables, cut, strict=True)]
            reads = sum(r.tail(r.reads(batch, t.stride), n) for t, r, n in tails)
            beats = sum(r.tail(r.distinct(batch), n) * t.row_beats for t, r, n in tails)
            used = sum(t.stride * n for t, _, n in tails) + waste
            if any(n < t.shape.rows for t, _, n in tails):
                ring = STAGED_BLOCKS * STAGING_FACTOR * batch * beats * 64
                used += ring + problem.staging_slack + problem.rounding
            if used > budget.dram_bytes:
                continue
            written = 4096 * reads + 64 * beats
            best = min(
                best,
                max(
                    *pattern.seconds.values(),
                    problem.dram_seconds(pattern) + written / budget.streamed_rate,
                    reads / budget.ssd_iops,
                    4096 * reads / budget.p2p_rate,
                ),
            )
    return best


@pytest.mark.parametrize(
    "settings",
    [
        {"dram_bytes": 1 << 20},
        {"dram_bytes": 8000},
        {"dram_bytes": 8000, "device": {"ssd_kiops": 2}},
        {"dram_bytes": 7600, "device": {"p2p_gbs": 0.01}, "pooling": [1.0, 9.0]},
        {"dram_bytes": 8000, "batch": 64, "pooling": [4.0, 0.5]},
        {
            "dram_bytes": 8000,
            "pins": Pins(rows=8, columns=8),
            "device": {"ssd_kiops": 9000, "p2p_gbs": 30},
        },
    ],
    ids=["all in DRAM", "fast SSD", "slow SSD", "slow link", "large batch", "patterns"],
)
def test_the_mip_equals_brute_force(settings):
    problem = problem_of([90, 70], **settings)
    best = brute_force(problem)
    solution = solve(problem)
    plan = make_plan(problem, solution)
    # the solver may split a row, the plan not: one row of each table is the most that this costs
    row = sum(
        t.rates.tail(t.rates.reads(problem.batch, t.stride), n)
        - t.rates.tail(t.rates.reads(problem.batch, t.stride), n + 1)
        for t, n in zip(problem.tables, solution.dram_rows, strict=True)
    ) * max(1 / problem.budget.ssd_iops, 4096 / problem.budget.p2p_rate)
    assert solution.bound <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= plan.value <= best + row + best * 1e-9
    assert plan.gap == pytest.approx(abs(plan.value - plan.bound) / plan.bound)


def test_a_small_memory_puts_the_cold_rows_on_ssd():
    plan = plan_of(problem_of([3000, 500], dram_bytes=20_000))
    tables = {table.table: table for table in plan.devices[0].tables}
    assert 0 < tables["a"].resident_rows < 3000
    assert plan.devices[0].staging_bytes > 0
    assert plan.ssd_reads > 0
    assert plan.devices[0].utilisation["dram"] > 0.9


def test_more_memory_is_never_slower():
    device = {"ssd_kiops": 1}
    sizes = (15_000, 20_000, 30_000, 60_000)
    values = [
        plan_of(problem_of([3000, 500], dram_bytes=size, device=device)).value for size in sizes
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[-1]


def test_the_smallest_of_equally_fast_plans_is_taken():
    problem = problem_of([400, 300], pins=Pins(rows=8, columns=8, compute=1))
    plan = plan_of(problem)
    assert plan.bottleneck == "compute"
    assert plan.devices[0].cores.memory == 1


def test_coarse_intervals_are_refined_to_the_same_plan():
    settings = {"dram_bytes": 100_000, "device": {"ssd_kiops": 3}}
    fine = solve(problem_of([20_000, 3000], **settings, intervals=100_000))
    coarse = solve(problem_of([20_000, 3000], **settings, intervals=8))
    assert coarse.bound == pytest.approx(fine.bound, rel=1e-6)
    assert coarse.dram_rows == pytest.approx(fine.dram_rows, abs=2)


def test_tables_stay_in_the_tier_that_they_are_given():
    demands = {"a": {"dram": False}, "b": {"ssd": False}}
    plan = plan_of(problem_of([300, 200], demands=demands))
    a, b = plan.devices[0].tables
    assert [r.tier for r in a.ranges] == ["ssd"]
    assert [r.tier for r in b.ranges] == ["dram"]


def test_every_family_of_constraints_is_built():
    families = {name for name in dir(model) if name.startswith("add_")}
    families -= {"add_variables", "add_costs"}
    assert families == {function.__name__ for function in model.FAMILIES}


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"pins": Pins(rows=64, columns=64)}, "dsp", r"need [\d,]+ dsp; smartssd allows 1,072"),
        ({"device": {"lut": 5000}}, "lut", "lut; smartssd allows 3,500"),
        ({"device": {"ff": 5000}}, "ff", "ff; smartssd allows 2,500"),
        (
            {"rows": [100, 100], "device": {"kind": "u50", "dram_gib": 1e-6}},
            "dram",
            "no SSD to use",
        ),
        ({"device": {"dram_gib": 1e-7}, "demands": {"a": {"ssd": False}}}, "dram", "DRAM alone"),
        ({"dram_bytes": 9000, "device": {"ssd_gib": 1e-6}}, "ssd", "must be on SSD"),
        ({"max_seconds": 1e-9}, "rate", "1,000,000,000 samples/s are required"),
        ({"max_latency": 1e-9}, "latency", "fastest plan"),
    ],
    ids=["dsp", "lut", "ff", "no ssd", "dram", "ssd", "rate", "latency"],
)
def test_infeasible_problems_name_the_scarce_resource(settings, kind, message):
    rows = settings.pop("rows", [4000, 500])
    with pytest.raises(PlanError, match=message) as caught:
        plan_of(problem_of(rows, **settings))
    assert caught.value.kind is PlanErrorKind(kind)
    assert caught.value.hints


@pytest.mark.parametrize("resource", ["bram36", "uram"])
def test_scarce_memory_blocks_are_named(resource):
    with pytest.raises(PlanError) as caught:
        problem_of([4000] * 6, device={resource: 1 if resource == "bram36" else 0}, top=(4096, 1))
    assert caught.value.kind is PlanErrorKind(resource)


def test_latency_counts_the_ssd_reads():
    settings = {"dram_bytes": 20_000, "device": {"ssd_kiops": 1}, "pins": SMALL_PINS}
    free = problem_of([3000, 500], **settings)
    limit = free.patterns[0].latency * 1.01
    with pytest.raises(PlanError, match="SSD reads"):
        solve(problem_of([3000, 500], **settings, max_latency=limit))
