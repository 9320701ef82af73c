"""Other placements than the planner's, and how they are scored."""

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
from click.testing import CliRunner

import screc.plan.recshard as program
from screc import bench_plan
from screc.cli import cli
from screc.compile.layout import make_layout
from screc.devices import DeviceConfig, resolve_device
from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind
from screc.plan import baselines, costs, schema
from screc.plan.baselines import BASELINES, Row, best_baseline, compare, compare_one
from screc.plan.budget import GIB, Budget
from screc.plan.catalogue import Catalogue
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.instances import at_rate, find_instance, zipf_curve
from screc.plan.monolith import solve_monolith
from screc.plan.placed import solve_placed
from screc.plan.placements import Placement, Setting, torchrec
from screc.plan.problem import DeviceClass, Problem, TableDemand, TtOption
from screc.plan.rates import RateCurve
from screc.plan.recshard import TwoTierDevice, TwoTierTable, recshard, two_tier
from screc.plan.schema import Range, TablePlan
from screc.plan.solve import solve, unproven
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.tt.shape import TtShape

BATCH = 16


def budget_of(kind="smartssd", **figures):
    if kind == "smartssd":
        figures.setdefault("ssd_kiops", 400)
    return Budget(resolve_device(DeviceConfig(kind=kind, **figures)))


def problem_of(curves, *, dim=64, devices=((2, 1.0),), kinds=None, demands=None, **more):
    """A model with one feature for each curve; ``devices`` are pairs of count and MiB of DRAM."""
    names = [f"t{i}" for i in range(len(curves))]
    shape = ModelShape(
        name="tiny",
        dense=4,
        bottom=(8, dim),
        top=(8, 1),
        interaction="concat",
        tables=tuple(
            TableShape(name=n, rows=c.rows, dim=dim) for n, c in zip(names, curves, strict=True)
        ),
        features=tuple(
            FeatureShape(name=n, table=i, pooling=max(c.lookups, 1e-3))
            for i, (n, c) in enumerate(zip(names, curves, strict=True))
        ),
    )
    classes = []
    for i, (count, mib) in enumerate(devices):
        budget = budget_of((kinds or ["smartssd"] * len(devices))[i], dram_gib=mib / 1024)
        pattern = Catalogue(shape, shape, BATCH).make(budget, memory=1, compute=1)
        classes.append(DeviceClass(budget, count, (pattern,)))
    return Problem(
        shape=shape,
        compute_shape=shape,
        tables=[
            TableDemand(shape=t, rates=c, **(demands or {}).get(t.name, {}))
            for t, c in zip(shape.tables, curves, strict=True)
        ],
        classes=classes,
        batch=BATCH,
        **more,
    )


def random_problem(rng, **more):
    curves = [
        zipf_curve(
            int(np.exp(rng.uniform(3, 10))),
            float(rng.uniform(0.5, 20)),
            float(rng.uniform(0, 1.4)),
            pieces=int(rng.integers(1, 20)),
        )
        for _ in range(int(rng.integers(1, 9)))
    ]
    size = sum(64 * curve.rows for curve in curves) / 2**20
    count = int(rng.integers(1, 4))
    mib = size / count * float(rng.uniform(0.3, 2)) + 0.3
    return problem_of(curves, devices=((count, mib),), **more)


def holders(problem, placement):
    """Device and rows in DRAM of every table; every rank must be once in the whole placement."""
    found = {}
    shapes = {table.shape.name: table.shape for table in problem.tables}
    for device, tables in enumerate(placement.devices):
        for plan in tables:
            assert plan.table not in found
            edge = 0
            for part in plan.ranges:
                assert part.first == edge
                assert part.last > part.first
                assert (part.stripe, part.core, part.tt) == (None, None, None)
                edge = part.last
            assert edge == shapes[plan.table].rows
            dram = sum(r.last - r.first for r in plan.ranges if r.tier == "dram")
            found[plan.table] = (device, dram)
    assert found.keys() == shapes.keys()
    return found


def dram_of(problem, placement):
    """Bytes of DRAM of every device: rows, and rings by the formula of docs/planner.md."""
    found = holders(problem, placement)
    used = np.zeros(len(placement.devices))
    ring = np.zeros(len(placement.devices))
    for table in problem.tables:
        device, dram = found[table.shape.name]
        used[device] += 64 * dram
        for low, high, rate in zip(
            table.rates.edges[:-1], table.rates.edges[1:], table.rates.rates, strict=True
        ):
            behind = max(0, high - max(low, dram))
            ring[device] += behind * (1 - np.exp(-BATCH * rate)) * 64
    some = [any(r.tier == "ssd" for t in tables for r in t.ranges) for tables in placement.devices]
    return used + np.where(some, 2 * (2 * ring + 32 * 64), 0)


@pytest.mark.parametrize("name", BASELINES)
def test_every_rank_is_somewhere_and_all_fits(name, monkeypatch):
    monkeypatch.setattr(program, "STEPS", 20)
    rng = np.random.default_rng(1)
    placed = 0
    for _ in range(12):
        problem = random_problem(rng)
        room = problem.classes[0].budget.dram_bytes - 64 * len(problem.tables)
        try:
            placement = BASELINES[name](problem)
        except PlanError:
            continue
        placed += 1
        assert len(placement.devices) == problem.devices
        assert dram_of(problem, placement).max() <= room
    assert placed >= 8


def flat(rows, lookups):
    return RateCurve(np.array([0, rows]), np.array([lookups / rows]))


# three tables of 1, 2 and 4 thousand rows of 64 bytes
CURVES = (flat(1000, 0.30), flat(2000, 0.06), flat(4000, 0.08))


@pytest.mark.parametrize(
    ("name", "in_dram"),
    [("greedy_size", {"t2"}), ("greedy_lookups", {"t0", "t2"}), ("greedy_size_lookups", {"t2"})],
)
def test_greedy_fills_dram_by_its_key(name, in_dram):
    # a hundred rows' bytes are for the staging ring
    rows = 5200 if name == "greedy_lookups" else 4400
    problem = problem_of(CURVES, devices=((1, 64 * rows / 2**20),))
    found = holders(problem, BASELINES[name](problem))
    assert {table for table, (_, dram) in found.items() if dram} == in_dram


def test_greedy_leaves_room_for_a_ring():
    curves = [flat(4000, 5.0), flat(3000, 4.0), flat(9000, 3.0)]
    # beside the first table there is no room for the ring of the others
    problem = problem_of(curves, devices=((1, (64 * 4000 + 1000) / 2**20),))
    found = holders(problem, BASELINES["greedy_lookups"](problem))
    assert [found[f"t{i}"][1] for i in range(3)] == [0, 3000, 0]


def test_greedy_balances_devices_by_its_key():
    curves = [flat(1000, float(load)) for load in (10, 7, 5, 4, 3)]
    problem = problem_of(curves)
    found = holders(problem, BASELINES["greedy_lookups"](problem))
    # 10 | 7, then 5 to the second (12), 4 to the first (14), 3 to the second
    assert [found[f"t{i}"][0] for i in range(5)] == [0, 1, 1, 0, 1]


def test_a_table_without_ssd_goes_where_there_is_room():
    problem = problem_of(
        [flat(1000, 9.0), flat(8000, 1.0)],
        devices=((1, 0.2), (1, 0.7)),
        kinds=["smartssd", "u50"],
        demands={"t1": {"ssd": False}},
    )
    for name in BASELINES:
        found = holders(problem, BASELINES[name](problem))
        assert found["t1"] == (1, 8000), name


@pytest.mark.parametrize("name", BASELINES)
def test_what_does_not_fit_is_said(name):
    problem = problem_of([flat(40_000, 1.0)], demands={"t0": {"ssd": False}})
    with pytest.raises(PlanError, match="DRAM") as caught:
        BASELINES[name](problem)
    assert caught.value.kind is PlanErrorKind.DRAM


@pytest.mark.parametrize("name", BASELINES)
def test_tables_for_chip_alone_stay_there(name):
    problem = problem_of(CURVES, demands={"t0": {"dram": False, "ssd": False}})
    placement = BASELINES[name](problem)
    tiers = {t.table: {r.tier for r in t.ranges} for d in placement.devices for t in d}
    assert tiers == {"t0": {"onchip"}, "t1": {"dram"}, "t2": {"dram"}}
    everything = {f"t{i}": {"dram": False, "ssd": False} for i in range(3)}
    placement = BASELINES[name](problem_of(CURVES, demands=everything))
    # each to the emptiest device
    assert sorted(len(tables) for tables in placement.devices) == [1, 2]


@pytest.mark.parametrize("name", BASELINES)
def test_tables_for_tt_alone_are_refused(name):
    option = TtOption(
        last=1000, shape=TtShape(rows=1000, p=(10, 10, 10), q=(4, 4, 4), ranks=(4, 4))
    )
    problem = problem_of(CURVES, demands={"t0": {"tt": option, "tt_only": True}})
    with pytest.raises(PlanError, match="'t0' may live in TT form only"):
        BASELINES[name](problem)


def test_torchrec_moves_the_table_that_costs_least_there():
    curves = [flat(3000, 30.0), flat(3000, 0.001), flat(3000, 20.0)]
    problem = problem_of(curves, devices=((1, 64 * 7000 / 2**20),))
    found = holders(problem, torchrec(problem))
    assert {table: dram for table, (_, dram) in found.items()} == {"t0": 3000, "t1": 0, "t2": 3000}


def test_torchrec_balances_estimated_times():
    problem = problem_of([flat(1000, float(load)) for load in (10, 7, 5, 4, 3)])
    found = holders(problem, torchrec(problem))
    loads = np.zeros(2)
    for i, load in enumerate((10, 7, 5, 4, 3)):
        loads[found[f"t{i}"][0]] += load
    assert loads.max() == 15  # longest first: 10 4 | 7 5 3


# --- RecShard's program ---


def random_two_tier(rng):
    """A problem, its borders, and the same for RecShard's program."""
    curves, shares = [], []
    for _ in range(int(rng.integers(1, 5))):
        steps = int(rng.integers(2, 6))
        widths = rng.integers(1, 2000, steps - 1)
        rates = np.sort(rng.uniform(0.0001, 0.02, steps - 1))[::-1]
        curve = RateCurve(np.concatenate([[0], np.cumsum(widths)]), rates)
        curves.append(curve)
        shares.append(np.concatenate([[0], np.cumsum(widths * rates)]) / curve.lookups)
    size = sum(64 * curve.rows for curve in curves)
    count = int(rng.integers(1, 4))
    mib = size / count * float(rng.uniform(0.2, 1.2)) / 2**20
    problem = problem_of(curves, devices=((count, max(mib, 0.01)),))
    budget = problem.classes[0].budget
    fast = 64 / (8.1e9 * 1)
    device = TwoTierDevice(
        fast_bytes=budget.dram_bytes,
        slow_bytes=budget.ssd_bytes - 4096 * len(curves),
        fast=[fast] * len(curves),
        slow=[1 / 400e3] * len(curves),
    )
    tables = [
        TwoTierTable(c.edges, s, c.lookups, 64, c.rows) for c, s in zip(curves, shares, strict=True)
    ]
    return problem, tables, [device] * count


def brute_two_tier(tables, devices):
    """Try every device and every step of every table."""
    best = np.inf
    choices = [list(itertools.product(range(len(devices)), range(len(t.rows)))) for t in tables]
    for chosen in itertools.product(*choices):
        times, fast = np.zeros(len(devices)), np.zeros(len(devices))
        for j, (table, (m, i)) in enumerate(zip(tables, chosen, strict=True)):
            hot = table.share[i] * table.lookups
            times[m] += hot * devices[m].fast[j] + (table.lookups - hot) * devices[m].slow[j]
            fast[m] += table.rows[i] * table.stride
        if (fast <= [d.fast_bytes for d in devices]).all():
            best = min(best, times.max())
    return best


def test_three_ways_to_solve_the_two_tier_program_agree():
    rng = np.random.default_rng(2)
    splits = compared = 0
    while compared < 20:
        problem, tables, devices = random_two_tier(rng)
        if len(devices) ** len(tables) * np.prod([len(t.rows) for t in tables]) > 20_000:
            continue
        compared += 1
        best = brute_two_tier(tables, devices)
        found = two_tier(tables, devices, rel_gap=1e-9)
        whole = solve_monolith(problem, [t.rows for t in tables], serial=True)
        assert found.seconds == pytest.approx(best, rel=1e-6)
        assert whole.seconds == pytest.approx(best, rel=1e-6)
        assert whole.bound <= best * (1 + 1e-6)
        assert found.proven
        splits += any(0 < i < len(t.rows) - 1 for i, t in zip(found.step, tables, strict=True))
        holders(problem, Placement(whole.devices))
    assert splits > 5


def test_a_two_tier_program_without_solution_is_none():
    table = TwoTierTable(np.array([0, 10]), np.array([0.0, 1.0]), 1.0, 64, 10)
    device = TwoTierDevice(fast_bytes=100, slow_bytes=100, fast=[1e-9], slow=[1e-6])
    assert two_tier([table], [device]) is None
    no_slow = dataclasses.replace(device, slow_bytes=1e9, slow=[np.inf])
    assert two_tier([table], [no_slow]) is None
    assert two_tier([table], [dataclasses.replace(device, slow_bytes=1e9)]).step == (0,)


def test_recshard_keeps_the_hottest_rows_of_all_tables():
    curves = [zipf_curve(20_000, 10.0, 1.2), zipf_curve(20_000, 10.0, 0.3)]
    problem = problem_of(curves, devices=((1, 64 * 20_000 / 2**20),))
    placement = recshard(problem)
    assert placement.note == "solved"
    found = holders(problem, placement)
    skewed, even = found["t0"][1], found["t1"][1]
    assert 0 < skewed < even
    # nearly the last row that fits is used: a step is a percent of a table's lookups
    assert skewed + even > 19_000
    budget = problem.classes[0].budget
    assert dram_of(problem, placement).max() <= budget.dram_bytes


def test_recshard_assigns_greedily_where_its_program_is_too_large(monkeypatch):
    monkeypatch.setattr(program, "STEPS", 20)
    curves = [zipf_curve(5000, lookups, 0.9) for lookups in (9.0, 7.0, 5.0, 4.0, 3.0)]
    problem = problem_of(curves, devices=((2, 64 * 9000 / 2**20),))
    solved = recshard(problem)
    monkeypatch.setattr(program, "MOST_PRODUCTS", 0)
    assigned = recshard(problem)
    assert "pooled" in assigned.note
    seconds = [ssd_lookups(problem, placement) for placement in (solved, assigned)]
    assert seconds[0] <= seconds[1] * 1.02
    assert seconds[1] <= seconds[0] * 2


def ssd_lookups(problem, placement):
    """Lookups on SSD per sample of the device with most."""
    found = holders(problem, placement)
    load = np.zeros(len(placement.devices))
    for table in problem.tables:
        device, dram = found[table.shape.name]
        load[device] += table.rates.tail(table.rates.rates, dram)
    return load.max()


# --- the monolithic model ---


def brute_parallel(problem, borders):
    """Least time per sample over all devices, cuts and shares of samples in twentieths."""
    count = problem.devices
    klass = problem.classes[0]
    pattern, budget = klass.patterns[0], klass.budget
    cuts = [
        [(a, b) for a in edges for b in edges if a <= b]  # on chip below a, DRAM below b
        for edges in borders
    ]
    best = np.inf
    shares = [(1.0,)] if count == 1 else [(q / 20, 1 - q / 20) for q in range(21)]
    for owners in itertools.product(range(count), repeat=len(borders)):
        for cut in itertools.product(*cuts):
            loads = [dict.fromkeys(costs.TIMES, 0.0) for _ in range(count)]
            dram, chip, ring, slack = np.zeros((4, count))
            for t, (d, (a, b)) in enumerate(zip(owners, cut, strict=True)):
                table = problem.tables[t]
                curve, row = table.rates, costs.RowSizes.of(problem, table)
                tail = [curve.tail(curve.rates, e) for e in (0, a, b)]
                staged = curve.tail(curve.distinct(BATCH), b)
                parts = [
                    (costs.lookup_loads(budget, row, "onchip"), tail[0] - tail[1]),
                    (costs.lookup_loads(budget, row, "dram"), tail[1] - tail[2]),
                    (costs.lookup_loads(budget, row, "ssd"), tail[2]),
                    (costs.read_loads(budget), curve.tail(curve.reads(BATCH, 64), b)),
                    (costs.staged_loads(budget, row), staged),
                    (costs.partial_out(table, budget), table.bags if count > 1 else 0.0),
                ]
                for each, factor in parts:
                    for name, value in each.items():
                        loads[d][name] += value * factor
                chip[d] += 64 * a
                dram[d] += 64 * (b - a)
                if b < curve.rows:
                    slack[d] = 2 * 32 * 64
                    ring[d] += 2 * 2 * BATCH * 64 * staged
            ring += slack
            room = budget.dram_bytes - 64 * len(borders)
            if (chip > pattern.capacity["onchip_bytes"]).any() or (dram + ring > room).any():
                continue
            for q in shares:
                slowest = 0.0
                for d in range(count):
                    own = costs.sample_loads(problem, budget, pattern.sample_beats)
                    total = {n: loads[d][n] + q[d] * own.get(n, 0.0) for n in costs.TIMES}
                    for table in problem.tables if count > 1 else ():
                        for name, value in costs.partial_in(table, budget).items():
                            total[name] += q[d] * table.bags * value
                    for name, value in total.items():
                        if pattern.capacity[name]:
                            slowest = max(slowest, value / pattern.capacity[name])
                    slowest = max(slowest, q[d] / pattern.capacity["samples"])
                best = min(best, slowest)
    return best


def monolithic_problem(rng, count, *, scale, onchip, mib):
    """Two tables of four borders on ``count`` devices."""
    curves = [
        RateCurve(np.array([0, 300, 900, 4000]), np.sort(rng.uniform(0.001, 0.3, 3))[::-1] * scale)
        for _ in range(2)
    ]
    problem = problem_of(curves, devices=((count, mib),))
    (klass,) = problem.classes
    pattern = Catalogue(problem.shape, problem.shape, BATCH).make(
        klass.budget, memory=1, compute=1, rows=32, columns=32, onchip_beats=onchip
    )
    return dataclasses.replace(problem, classes=(dataclasses.replace(klass, patterns=(pattern,)),))


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # lookups bind, or the exchange of bags
@pytest.mark.parametrize("count", [1, 2])
def test_the_monolithic_model_equals_brute_force(count, scale):
    rng = np.random.default_rng(count)
    finite = 0
    for _ in range(4):
        mib = float(rng.uniform(0.1, 0.5)) * 2 / count
        problem = monolithic_problem(rng, count, scale=scale, onchip=1024, mib=mib)
        borders = [table.rates.edges for table in problem.tables]
        best = brute_parallel(problem, borders)
        found = solve_monolith(problem, borders)
        if not np.isfinite(best):
            assert found is None
            continue
        finite += 1
        # shares of samples are free in the model, and twentieths in brute force
        assert found.seconds <= best * (1 + 1e-6)
        assert found.seconds >= best * (1 - (1e-6 if count == 1 else 0.06))
    assert finite >= 3


def test_the_monolithic_model_leaves_room_for_a_ring():
    # rows that would just fit beside the expected rows of the ring, but not beside its slack
    problem = monolithic_problem(np.random.default_rng(5), 1, scale=1e-3, onchip=0, mib=1.0)
    tables = problem.tables
    ring = sum(4 * BATCH * 64 * t.rates.tail(t.rates.distinct(BATCH), 900) for t in tables)
    for spare, fits in ((3000, False), (5000, True)):
        size = 2 * 900 * 64 + 2 * 64 + ring + spare
        tight = monolithic_problem(
            np.random.default_rng(5), 1, scale=1e-3, onchip=0, mib=size / 2**20
        )
        borders = [table.rates.edges for table in tight.tables]
        found = solve_monolith(tight, borders)
        assert found.seconds == pytest.approx(brute_parallel(tight, borders), rel=1e-6)
        cuts = [plan.ranges[0].last for plan in found.devices[0]]
        assert (cuts == [900, 900]) == fits


def test_bags_come_to_the_device_that_computes():
    problem = problem_of([flat(100, 1e-3), flat(100, 1e-3)], devices=((1, 1.0), (1, 1.0)))
    make = Catalogue(problem.shape, problem.shape, BATCH).make
    patterns = [{"compute": 0}, {"compute": 1, "rows": 32, "columns": 32}]
    classes = tuple(
        dataclasses.replace(klass, patterns=(make(klass.budget, memory=1, **cores),))
        for klass, cores in zip(problem.classes, patterns, strict=True)
    )
    problem = dataclasses.replace(problem, classes=classes)
    found = solve_monolith(problem, [np.array([0, 100])] * 2)
    # two bags of 64 exact accumulators with their headers, bag lengths, dense features
    size = 2 * (64 * 4 + 8) + 2 * 4 + 4
    assert found.seconds == pytest.approx(size / classes[1].budget.link_rate, rel=1e-3)
    assert found.seconds > 1 / classes[1].patterns[0].capacity["samples"]


def test_the_monolithic_model_refuses_what_it_has_not():
    problem = problem_of([flat(100, 1.0)])
    borders = [np.array([0, 100])]
    (klass,) = problem.classes
    twice = dataclasses.replace(klass, patterns=klass.patterns * 2)
    cases = [
        (dataclasses.replace(problem, classes=(twice,)), borders, "one pattern"),
        (dataclasses.replace(problem, objective="energy", rate=1.0), borders, "throughput"),
        (dataclasses.replace(problem, max_latency=1.0), borders, "limit of latency"),
        (problem, [np.array([0, 50])], "must rise from 0 to 100"),
        (problem_of([flat(100, 1.0)], demands={"t0": {"replicate": True}}), borders, "replicated"),
    ]
    for wrong, edges, text in cases:
        with pytest.raises(ValueError, match=text):
            solve_monolith(wrong, edges)


# --- scores ---


def plan_of(value, devices=1):
    return types.SimpleNamespace(
        devices=(None,) * devices,
        value=value,
        bound=value,
        gap=0.0,
        intervals=7,
        bottleneck="dram",
        cartesian=(),
    )


@pytest.fixture
def scored(monkeypatch):
    """Replace the solver; returns the problems that it was asked for."""
    asked = []

    def solve_placed(problem, placement):
        asked.append(problem)
        holders(problem, placement)
        if problem.objective != "throughput" and problem.devices < 2:
            raise PlanError(PlanErrorKind.RATE, "too slow")
        if problem.objective == "energy":
            return plan_of(abs(problem.devices - 3) + 1.0)
        return plan_of(2.0 if problem.objective == "throughput" else problem.devices)

    def keeps(plan, problem):
        if not problem.split or not any(table.onchip for table in problem.tables):
            raise CheckError("not so")
        return plan

    monkeypatch.setattr(baselines, "_solve_placed", solve_placed)
    monkeypatch.setattr(baselines, "_solve", lambda problem, limit: plan_of(1.5))
    monkeypatch.setattr(baselines, "measure", keeps)
    monkeypatch.setattr(bench_plan, "check", keeps)
    return asked


def test_a_comparison_has_a_row_for_each(scored):
    problem = problem_of(CURVES)
    rows = compare(problem, plan_of(1.0))
    assert [row.name for row in rows] == baselines.names()
    values = {row.name: row.value for row in rows}
    assert [values[name] for name in BASELINES] == [2.0] * 5
    assert (values["without_tt"], values["without_stripes"]) == (1.0, 1.5)
    assert {row.name: row.factor for row in rows}["recshard"] == 2.0
    assert best_baseline(rows).factor == 2.0
    assert json.dumps([row.as_dict() for row in rows])


def test_an_infeasible_baseline_has_its_reason(scored):
    problem = problem_of([flat(40_000, 1.0)], demands={"t0": {"ssd": False}})
    row = compare_one(problem, plan_of(1.0), "greedy_size")
    assert (row.value, row.factor) == (None, None)
    assert "'t0' needs 2,560,000 bytes of DRAM" in row.reason
    assert best_baseline([row, Row("without_tt", 1.0, 1.0)]) is None


def test_fewer_devices_are_tried_where_they_may_be_better(scored):
    problem = problem_of(CURVES, devices=((8, 1.0),), objective="devices", rate=1.0)
    # from the bound on, which is 1 here
    assert compare_one(problem, plan_of(1), "greedy_lookups").value == 2
    assert [p.devices for p in scored] == [1, 2]
    scored.clear()
    problem = dataclasses.replace(problem, objective="energy")
    assert compare_one(problem, plan_of(1.0, devices=3), "greedy_lookups").value == 1.0
    assert [p.devices for p in scored] == [2, 3, 4]


def test_devices_of_all_classes_are_dropped_in_turn():
    problem = problem_of(CURVES, devices=((2, 1.0), (1, 2.0)), objective="devices", rate=1.0)
    fewer = list(baselines._with_fewer_devices(problem, 0))
    counts = [[(c.count, c.budget.dram_bytes) for c in p.classes] for p in fewer]
    mib = GIB // 1024
    assert counts == [
        [(1, 2 * mib)],
        [(1, mib)],
        [(1, mib), (1, 2 * mib)],
        [(2, mib)],
        [(2, mib), (1, 2 * mib)],
    ]
    assert [p.devices for p in baselines._with_fewer_devices(problem, 3)] == [3]


def test_ablations_take_choices_away():
    option = TtOption(
        last=1000, shape=TtShape(rows=1000, p=(10, 10, 10), q=(4, 4, 4), ranks=(4, 4))
    )
    demands = {"t0": {"tt": option}, "t1": {"dram": False, "ssd": False}}
    problem = problem_of(CURVES, demands=demands)
    assert [t.tt for t in baselines.without_tt(problem).tables] == [None] * 3
    assert not baselines.without_stripes(problem).split
    onchip = [t.onchip for t in baselines.without_onchip(problem).tables]
    assert onchip == [False, True, False]
    forced = problem_of(CURVES, demands={"t0": {"tt": option, "tt_only": True}})
    with pytest.raises(PlanError, match="TT form only"):
        baselines.without_tt(forced)


# --- bench plan ---


def test_the_bench_takes_half_of_the_best_rate(scored):
    instance = find_instance("mlperf-v2-x4")
    problem = problem_of(CURVES)
    asked = []

    def solve(wanted):
        asked.append((wanted.objective, wanted.rate))
        return plan_of(1e-3)

    results = bench_plan.run_instance(instance, problem, solve, compare=True)
    assert asked == [("throughput", None), ("energy", 500.0), ("devices", 500.0)]
    assert [r["objective"] for r in results] == ["throughput", "energy", "devices"]
    for result in results:
        assert set(bench_plan.COLUMNS) <= result.keys()
        assert result["checker_ok"] is True
        assert set(result["baselines"]) == set(baselines.names())
        assert json.dumps(result)
    first = results[0]
    assert first["factor_to_best_baseline"] == 2000.0
    assert (first["instance"], first["device_kind"], first["tables"]) == (
        "mlperf-v2-x4",
        "smartssd",
        3,
    )
    assert first["baseline_reasons"] == {}


# --- never worse than a baseline ---


def bad_plan(problem, bound):
    """A valid plan that is far from the best: all rows on SSD, the first device has most."""
    whole = [
        TablePlan(
            table=table.shape.name, ranges=(Range(tier="ssd", first=0, last=table.shape.rows),)
        )
        for table in problem.tables
    ]
    devices = [[] for _ in range(problem.devices)]
    devices[0] = whole[:2]
    devices[-1] += whole[2:]
    plan = solve_placed(problem, devices)
    return plan.model_copy(update={"bound": bound, "gap": plan.value / bound - 1})


def busy_problem(**more):
    """Three tables that are read so often that it matters where they are."""
    curves = [zipf_curve(rows, 40.0, 0.8, pieces=12) for rows in (3000, 5000, 9000)]
    problem = problem_of(curves, devices=((2, 0.5),), **more)
    (klass,) = problem.classes
    pattern = Catalogue(problem.shape, problem.shape, BATCH).make(
        klass.budget, memory=2, compute=1, onchip_beats=512
    )
    return dataclasses.replace(problem, classes=(dataclasses.replace(klass, patterns=(pattern,)),))


@pytest.mark.parametrize("objective", ["throughput", "energy", "devices"])
def test_the_best_plan_of_all_counts(objective):
    problem = busy_problem()
    best = solve(problem)
    if objective != "throughput":
        problem = at_rate(problem, objective, 1e-3 / bad_plan(problem, 1.0).value)
        best = solve(problem)
    bad = bad_plan(problem, best.bound)
    (result,) = bench_plan.run_instance(
        find_instance("rm1"), problem, lambda wanted: bad, compare=True
    )
    values = [value for value in result["baselines"].values() if value is not None]
    assert min(values) < bad.value * 0.9
    assert result["value"] == min(values)
    assert result["baselines"][result["placement_of"]] == min(values)
    assert result["checker_ok"] is True
    assert result["failure"] is None
    assert result["bound"] == best.bound
    assert result["gap"] == pytest.approx(min(values) / best.bound - 1)
    assert result["factor_to_best_baseline"] >= 1
    assert json.dumps(result)


def test_what_the_planner_found_stays_where_it_is_better():
    problem = busy_problem()
    plan = solve(problem)
    rows = compare(problem, plan)
    assert baselines.best_plan(problem, plan, rows) == (plan, None)
    assert "without_tt" in {row.name for row in rows if row.plan is plan}
    assert "without_onchip" not in {row.name for row in rows if row.plan is plan}
    assert all(row.value >= plan.value for row in rows)
    assert all(check(row.plan, problem).value == row.value for row in rows)
    assert all(row.seconds > 0 for row in rows)


def test_a_baseline_below_the_bound_is_said():
    problem = busy_problem()
    bad = bad_plan(problem, 1.0)
    wrong = bad.model_copy(update={"bound": bad.value * 0.99})
    (result,) = bench_plan.run_instance(
        find_instance("rm1"), problem, lambda wanted: wrong, compare=True
    )
    assert "below the bound" in result["failure"]
    assert result["gap"] == 0.0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_on_one_device_can_be_built(name):
    rows = (1, 2, 3, 4, 5, 3000)  # some have fewer rows than there are memory cores
    curves = [zipf_curve(n, 5.0, 0.8, pieces=8) for n in rows]
    problem = problem_of(
        curves,
        devices=((1, 0.1),),
        demands={"t2": {"dram": False, "ssd": False}, "t3": {"replicate": True}},
    )
    (klass,) = problem.classes
    pattern = Catalogue(problem.shape, problem.shape, BATCH).make(
        klass.budget, memory=4, compute=1, onchip_beats=64
    )
    klass = dataclasses.replace(klass, patterns=(pattern,))
    problem = dataclasses.replace(problem, classes=(klass,))
    plan = baselines._solve_placed(problem, BASELINES[name](problem))
    assert check(plan, problem).value == plan.value
    layout = make_layout(plan.devices[0], problem.shape, device_params(plan, problem.shape))
    assert tuple(table.resident_rows for table in layout.tables[:5]) == rows[:5]
    assert [table.replicated for table in layout.tables] == [n == 3 for n in range(6)]


def test_a_plan_of_another_problem_is_none_of_this():
    problem = busy_problem()
    plan = bad_plan(problem, 1e-9)
    other = solve(busy_problem(demands={"t0": {"ssd": False}}))
    row = Row("torchrec", other.value, 0.1, plan=other)
    found, name = baselines.best_plan(problem, plan, [row])
    assert (found.value, name) == (other.value, "torchrec")
    strict = busy_problem(demands={"t1": {"onchip": False, "dram": False}})
    assert baselines.best_plan(strict, plan, [row]) == (plan, None)


def test_the_rate_is_half_of_what_a_baseline_reaches(scored, monkeypatch):
    rates = []

    def run(wanted):
        rates.append(wanted.rate)
        return plan_of(4.0)

    monkeypatch.setattr(baselines, "best_plan", lambda problem, plan, rows: (plan_of(0.5), "x"))
    bench_plan.run_instance(find_instance("mlperf-v2-x4"), problem_of(CURVES), run, compare=True)
    assert rates == [None, 1.0, 1.0]
    rates.clear()
    bench_plan.run_instance(find_instance("mlperf-v2-x4"), problem_of(CURVES), run, compare=False)
    assert rates == [None, 0.125, 0.125]


def test_an_ablation_that_takes_nothing_away_is_the_plan(monkeypatch):
    monkeypatch.setattr(baselines, "_solve", None)  # would fail
    problem = busy_problem()
    plan = bad_plan(problem, 1e-9)
    for name in baselines.ABLATIONS:
        assert compare_one(problem, plan, name).plan is plan


def test_an_ablation_is_no_worse_than_a_baseline_that_it_allows(monkeypatch):
    problem = busy_problem()
    plan = solve(problem)
    known = [compare_one(problem, plan, name) for name in BASELINES]
    best = best_baseline(known)
    own = compare_one(problem, plan, "without_onchip", known=known)
    assert own.value <= best.value
    worse = bad_plan(problem, 1e-9)
    monkeypatch.setattr(baselines, "_solve", lambda problem, limit: worse)
    row = compare_one(problem, plan, "without_onchip", known=known)
    assert (row.plan, row.note) == (
        best.plan,
        f"as {best.name}: the planner found {worse.value:.6g}",
    )

    def late(problem, limit):
        raise PlanError(PlanErrorKind.SOLVER, "too late")

    monkeypatch.setattr(baselines, "_solve", late)
    row = compare_one(problem, plan, "without_onchip", known=known)
    assert row.plan is best.plan
    assert "too late" in row.note
    alone = compare_one(problem, plan, "without_onchip")
    assert alone.value is None
    assert "too late" in alone.reason


# --- in time ---


def test_a_plan_without_a_bound_is_found_in_the_time():
    problem = busy_problem()
    assert unproven(problem, time_limit=60).value == pytest.approx(solve(problem).value, rel=1e-3)
    with pytest.raises(PlanError, match="time limit"):
        unproven(problem, time_limit=0)


def test_no_more_counts_of_devices_are_tried_when_time_is_over(scored):
    problem = problem_of(CURVES, devices=((8, 1.0),), objective="energy", rate=1.0)
    plan = plan_of(1.0, devices=4)
    assert compare_one(problem, plan, "greedy_size").value == 1.0
    assert [p.devices for p in scored] == [3, 4, 5]
    scored.clear()
    assert compare_one(problem, plan, "greedy_size", time_limit=0).value == 1.0
    assert [p.devices for p in scored] == [3]


def test_programs_share_the_time(scored, monkeypatch):
    limits, counts = [], []

    def place(problem, *, time_limit):
        limits.append(time_limit)
        counts.append(problem.devices)
        raise PlanError(PlanErrorKind.DRAM, "none")

    monkeypatch.setitem(baselines.BASELINES, "recshard", place)
    problem = problem_of(CURVES, devices=((4, 1.0),), objective="devices", rate=1.0)
    assert compare_one(problem, plan_of(1), "recshard", time_limit=12).value is None
    np.testing.assert_allclose(limits, [6, 6, 6, 12], rtol=0.05)  # half of what is left
    assert counts == [4, 1, 2, 3]
    right = recshard
    counts.clear()

    def placed(problem, *, time_limit):
        counts.append(problem.devices)
        return right(problem)

    monkeypatch.setitem(baselines.BASELINES, "recshard", placed)
    assert compare_one(problem, plan_of(1), "recshard").value == 2
    assert counts == [4, 1, 2]


def test_recshard_takes_the_better_of_incumbent_and_assignment(monkeypatch):
    monkeypatch.setattr(program, "STEPS", 20)
    curves = [zipf_curve(5000, lookups, 0.9) for lookups in (9.0, 7.0, 5.0, 4.0, 3.0)]
    problem = problem_of(curves, devices=((2, 64 * 9000 / 2**20),))
    right = two_tier

    def stopped(tables, devices, *, time_limit):
        found = right(tables, devices)
        return dataclasses.replace(found, proven=False, step=(0,) * len(tables), seconds=seconds)

    monkeypatch.setattr(program, "two_tier", stopped)
    seconds = 1.0
    assert "pooled" in recshard(problem).note
    seconds = 0.0
    assert recshard(problem, time_limit=30).note == "incumbent after 30 s"


def test_tables_are_cut_for_all_devices_pooled_as_the_program_does(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(program, "STEPS", 20)
    cut = 0
    for _ in range(20):
        problem = random_problem(rng)
        setting = Setting(problem)
        tables = [program._two_tier_table(table) for table in setting.tables]
        size = sum(t.size * t.stride for t in tables)
        rooms = np.full(problem.devices, size / problem.devices * rng.uniform(0.1, 0.9))
        step = program._pooled(setting, tables, rooms)
        used = sum(t.rows[i] * t.stride for t, i in zip(tables, step, strict=True))
        assert used <= rooms.sum()
        one = TwoTierDevice(rooms.sum(), 1e15, [1e-9] * len(tables), [1e-6] * len(tables))
        best = two_tier(tables, [one], rel_gap=1e-9)
        seconds = program._slowest(tables, [one], [0] * len(tables), step)
        largest = max(float(np.diff(t.share).max(initial=0)) * t.lookups for t in tables) * 1e-6
        assert best.seconds * (1 - 1e-6) <= seconds <= best.seconds + largest
        cut += sum(0 < i < len(t.rows) - 1 for t, i in zip(tables, step, strict=True))
    assert cut > 20
    without = problem_of(CURVES, devices=((1, 0.2), (1, 0.1)), kinds=["u50", "u50"])
    setting = Setting(without)
    tables = [program._two_tier_table(table) for table in setting.tables]
    with pytest.raises(PlanError, match=r"tables of 448,000 bytes do not fit 314,\d{3} bytes"):
        program._pooled(setting, tables, np.array([200_000.0, 114_573.0]))
    assert program._pooled(setting, tables, np.array([250_000.0, 200_000.0])) == [
        len(t.rows) - 1 for t in tables
    ]


# --- the bench goes on ---


def test_a_baseline_that_fails_loses_nothing_else(monkeypatch):
    def place(problem):
        raise RuntimeError("lost")

    monkeypatch.setitem(baselines.BASELINES, "greedy_size", place)
    problem = busy_problem()
    (result,) = bench_plan.run_instance(find_instance("rm1"), problem, solve, compare=True)
    assert result["checker_ok"] is True
    assert result["baselines"]["greedy_size"] is None
    assert result["baseline_reasons"] == {"greedy_size": "RuntimeError: lost"}
    assert set(result["baselines"]) == set(baselines.names())


def test_the_checker_says_whether_the_plan_is_right():
    problem = busy_problem()
    plan = solve(problem)
    wrong = plan.model_copy(update={"value": plan.value / 2})
    (result,) = bench_plan.run_instance(
        find_instance("rm1"), problem, lambda wanted: wrong, compare=False
    )
    assert result["checker_ok"] is False
    assert "value is" in result["failure"]


def test_an_instance_without_cores_loses_no_other(monkeypatch):
    def none(instance):
        raise PlanError(PlanErrorKind.TIER, "no pattern")

    monkeypatch.setattr(bench_plan, "problem_of", none)
    first, second = bench_plan.bench(["rm1", "rm2"])
    assert (first["instance"], second["instance"]) == ("rm1", "rm2")
    assert "no pattern" in first["failure"]


@pytest.mark.parametrize("error", [CheckError("rank 3"), PlanError(PlanErrorKind.SSD, "full")])
def test_the_bench_goes_on_without_a_plan(error):
    def solve(wanted):
        raise error

    results = bench_plan.run_instance(
        find_instance("mlperf-v2-x4"), problem_of(CURVES), solve, compare=True
    )
    (result,) = results  # without a best rate there is no half of it
    assert result["checker_ok"] is False
    assert result["value"] is None
    assert str(error) == result["failure"]


def test_only_is_for_the_plan_bench():
    with pytest.raises(ConfigError, match='"plan" alone, not "encode"'):
        CliRunner().invoke(
            cli, ["bench", "encode", "--only", "rm1"], standalone_mode=False, catch_exceptions=False
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rm1", "three-tiers"])
def test_no_baseline_is_better_than_the_plan(name):
    (result,) = bench_plan.bench([name])
    assert result["checker_ok"]
    assert result["gap"] <= 0.01
    assert set(result["baselines"]) == set(baselines.names())
    for value in result["baselines"].values():
        if value is not None:
            assert value >= result["value"] * (1 - 1e-9)
    assert result["factor_to_best_baseline"] > 1.5


# --- screc plan --compare ---


@pytest.fixture
def compared(monkeypatch, tmp_path, scored):
    """A configuration whose plan step is replaced; returns its path."""
    from screc import flow
    from screc.plan import further
    from screc.starter import write_starter

    problem = problem_of(CURVES)
    monkeypatch.setattr(flow, "run", lambda ctx, target, force: None)
    monkeypatch.setattr(flow, "result", lambda ctx, target: {"value": 1.0})
    monkeypatch.setattr(further, "read_plan", lambda path: plan_of(1.0))
    monkeypatch.setattr(further, "read_stats", lambda path: [])
    monkeypatch.setattr(further, "make_problem", lambda config, stats, out: problem)
    write_starter(tmp_path / "new")
    monkeypatch.setattr(further.files, "write_text", None)  # the plan stays as it is
    return tmp_path / "new" / "config.toml"


def test_compare_adds_rows_to_the_plan(compared):
    found = CliRunner().invoke(
        cli, ["plan", str(compared), "--compare", "--json"], standalone_mode=False
    )
    assert found.exception is None
    data = json.loads(found.stdout)
    assert data["value"] == 1.0
    assert [row["name"] for row in data["compare"]] == ["plan", *baselines.names()]
    assert {"value", "factor", "reason", "note"} <= data["compare"][0].keys()


def test_compare_prints_a_table(compared):
    found = CliRunner().invoke(cli, ["plan", str(compared), "--compare"], standalone_mode=False)
    assert found.exception is None
    assert "greedy_size_lookups" in found.stdout
    assert "without_onchip" in found.stdout


def test_without_compare_there_is_none(compared):
    found = CliRunner().invoke(cli, ["plan", str(compared), "--json"], standalone_mode=False)
    assert json.loads(found.stdout) == {"value": 1.0}
    other = CliRunner().invoke(cli, ["compile", str(compared), "--compare"])
    assert "No such option" in other.output


def hobbled(monkeypatch):
    """Let the plan step find a poor plan."""
    from screc.plan import step

    monkeypatch.setattr(
        step, "solve", lambda problem, **more: bad_plan(problem, solve(problem).bound)
    )


def test_compare_replaces_a_plan_that_is_worse(monkeypatch, tmp_path):
    from screc.config import load_config
    from screc.plan.schema import read_plan
    from screc.plan.step import make_problem
    from screc.starter import write_starter
    from screc.stats import read_stats

    hobbled(monkeypatch)
    write_starter(tmp_path)
    small = ["--set", "log.samples=2000"]

    def run(step, *more):
        done = CliRunner().invoke(
            cli, [step, str(tmp_path / "config.toml"), *small, *more], standalone_mode=False
        )
        assert done.exception is None
        return done

    run("plan")
    out = tmp_path / "out"
    worse = read_plan(out / "plan.json")
    (out / "summary.json").write_text("{}")
    data = json.loads(run("plan", "--compare", "--json").stdout)
    first, *rows = data["compare"]
    values = [row["value"] for row in rows if row["value"] is not None]
    best = read_plan(out / "plan.json")
    assert best.value == first["value"] == data["value"] == min(values)
    assert best.value < worse.value * 0.9
    assert first["note"].removeprefix("placed as ") in [row["name"] for row in rows]
    assert {row["factor"] for row in rows if row["value"] == min(values)} == {1.0}
    assert best.bound == worse.bound
    assert not (out / "summary.json").exists()  # a verdict on the plan before
    config = load_config(tmp_path / "config.toml", ["log.samples=2000"])
    problem = make_problem(config, read_stats(out / "stats.parquet"), out)
    assert check(best, problem).value == best.value
    again = json.loads(run("plan", "--compare", "--json").stdout)
    assert again["compare"][0]["note"] is None
    assert again["value"] == best.value
    run("compile")  # it is of the form that is built


def test_a_plan_of_merged_tables_gives_way_to_a_better_one_without(monkeypatch, tmp_path):
    from screc import flow
    from screc.config import load_config
    from screc.plan import further
    from screc.starter import write_starter

    problem = busy_problem()
    merged = bad_plan(problem, 1e-9).model_copy(update={"cartesian": (("t0", "t1"),)})
    monkeypatch.setattr(further, "read_plan", lambda path: merged)
    monkeypatch.setattr(further, "read_stats", lambda path: [])
    monkeypatch.setattr(further, "make_problem", lambda config, stats, out: problem)
    one = problem_of([zipf_curve(10, 1.0, 1.0)])
    monkeypatch.setattr(further, "merged", lambda problem, pairs: one if pairs else problem)
    monkeypatch.setattr(baselines, "ABLATIONS", {})
    write_starter(tmp_path)
    ctx = flow.Context.create(load_config(tmp_path / "config.toml", []), tmp_path, -1)
    rows = further.tables(ctx, compare=True, explain=False)["compare"]
    best = schema.read_plan(tmp_path / "plan.json")
    assert best.cartesian == ()
    assert check(best, problem).value == best.value == rows[0]["value"]
    assert best.bound == pytest.approx(solve(problem).bound, rel=1e-6)
    assert best.value <= min(row["value"] for row in rows if row["value"] is not None)
