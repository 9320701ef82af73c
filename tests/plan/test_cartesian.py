"""Tables merged into their Cartesian product: rates, rules, and where that pays."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from screc import cli
from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan import cartesian
from screc.plan.cartesian import (
    PIECES,
    candidates,
    choices_of,
    coarser,
    computing_seconds,
    merged,
    product,
    solve_with_cartesian,
    spread,
)
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns
from screc.plan.check import check
from screc.plan.problem import DeviceClass, Problem, TableDemand, TtOption
from screc.plan.rates import RateCurve
from screc.plan.solve import solve
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_hw.tt.shape import TtShape
from tests.plan.support import budget_of, zipf_curve

BATCH = 16
PINS = Pins(memory=1, compute=1, rows=8, columns=8, slots=2, weights="onchip", pool_beats=1)
SLOW_DRAM = {"random_64_gbs": 0.1, "random_128_gbs": 0.1}


def problem_of(
    rows, *, dims=16, features=None, demands=None, device=None, count=1, onchip_beats=0, **more
):
    """Tables t0, t1, ... of ``rows``, one id of each per sample; ``features`` and ``demands`` are
    fields of some of them by name."""
    dims = [dims] * len(rows) if isinstance(dims, int) else dims
    tables = tuple(
        TableShape(name=f"t{i}", rows=n, dim=dim)
        for i, (n, dim) in enumerate(zip(rows, dims, strict=True))
    )
    given = [
        {"shape": table, "rates": zipf_curve(table.rows, 1.0), "onchip": bool(onchip_beats)}
        | (demands or {}).get(table.name, {})
        for table in tables
    ]
    shape = ModelShape(
        name="tiny",
        dense=4,
        bottom=(8, 16),
        top=(8, 1),
        interaction="concat",
        tables=tuple(each["shape"] for each in given),
        features=tuple(
            FeatureShape(**{"name": f"f{i}", "table": i} | (features or {}).get(f"f{i}", {}))
            for i in range(len(rows))
        ),
    )
    budget = budget_of(**(device or {}))
    patterns = enumerate_patterns(
        Catalogue(shape, shape, BATCH), budget, PINS, alone=count == 1, onchip_beats=onchip_beats
    )
    return Problem(
        shape=shape,
        compute_shape=shape,
        tables=[TableDemand(**each) for each in given],
        classes=(DeviceClass(budget, count, patterns, PINS, onchip_beats),),
        batch=BATCH,
        **more,
    )


def per_rank(curve):
    return np.repeat(curve.rates, curve.widths)


def falling(rng, rows, *, unread=0):
    """Rates of every rank, some of them equal, the last ones 0; one lookup in all."""
    rates = np.sort(rng.integers(1, 6, rows))[::-1].astype(float)
    rates[rows - unread :] = 0
    return rates / rates.sum()


def curve_of(rates):
    edges = np.flatnonzero(np.diff(rates, prepend=-1.0))
    return RateCurve(np.append(edges, len(rates)), rates[edges])


# --- rates ---


@pytest.mark.parametrize(("a", "b", "unread"), [(7, 5, 0), (1, 1, 0), (12, 1, 3), (9, 14, 4)])
def test_rates_are_those_of_all_pairs_of_rows(a, b, unread):
    rng = np.random.default_rng(a + b)
    left, right = falling(rng, a, unread=unread), falling(rng, b)
    found = product(curve_of(left), curve_of(right))
    every = sorted((x * y for x, y in itertools.product(left, right)), reverse=True)
    assert per_rank(found) == pytest.approx(every, abs=1e-15)
    assert found.lookups == pytest.approx(1, rel=1e-12)


def test_a_product_of_estimated_rates_is_one_lookup():
    almost = curve_of(falling(np.random.default_rng(3), 8) * (1 + 5e-7))
    assert product(almost, almost).lookups == pytest.approx(1, rel=1e-12)


def test_a_long_product_keeps_its_hot_rows_and_its_sums():
    a, b = zipf_curve(300, 1.0), zipf_curve(700, 1.0, 0.8)
    found = product(a, b)
    every = np.sort(np.outer(per_rank(a), per_rank(b)).ravel())[::-1]
    assert len(found.rates) <= PIECES
    assert found.rows == 300 * 700
    assert found.lookups == pytest.approx(1, rel=1e-9)
    assert np.all(np.diff(found.rates) <= 0)
    assert per_rank(found)[:100] == pytest.approx(every[:100], rel=1e-9)
    gap = np.cumsum(every) - np.cumsum(per_rank(found))  # hot ranks get fewer lookups, not more
    assert gap.min() > -1e-9
    assert gap.max() < 2e-3


@pytest.mark.parametrize("pieces", [4, 10, 39, 40, 41])
def test_a_coarser_curve_has_the_same_rows_and_lookups(pieces):
    rates = np.append(0.5 ** np.arange(30), np.zeros(1))
    curve = RateCurve(np.cumsum([0, *range(1, 32)]), rates)
    found = coarser(curve, pieces)
    assert len(found.rates) <= pieces
    assert found.rows == curve.rows
    assert found.lookups == pytest.approx(curve.lookups)
    assert found.rates[-1] == 0  # rows that are never read stay apart
    assert found.edges[-2] == curve.edges[-2]
    assert found.rates[: pieces // 2] == pytest.approx(curve.rates[: pieces // 2])
    assert set(found.edges) <= set(curve.edges)


# --- what may be merged ---

TT = TtOption(last=40, shape=TtShape(rows=40, p=(2, 4, 5), q=(2, 2, 4), ranks=(4, 4)))


@pytest.mark.parametrize(
    ("name", "feature", "demand"),
    [
        ("two ids", {"pooling": 2.0}, {"rates": zipf_curve(40, 2.0)}),
        ("weighted", {"weighted": True}, {}),
        ("read twice", {"table": 0}, {}),
        ("empty bags", {}, {"bags": 0.9}),
        ("other rates", {}, {"rates": zipf_curve(40, 1.1)}),
        ("TT form", {}, {"tt": TT}),
        ("rows on chip", {}, {"onchip_rows": 5}),
        ("row scales", {}, {"shape": TableShape(name="t1", rows=40, dim=16, format="int8r")}),
    ],
)
def test_tables_that_are_not_read_once_or_are_special_stay_alone(name, feature, demand):
    problem = problem_of([30, 40, 50, 60], features={"f1": feature}, demands={"t1": demand})
    left = [2, 3] if name == "read twice" else [0, 2, 3]
    assert candidates(problem) == left


def test_the_smallest_is_merged_with_the_largest_of_the_smallest():
    problem = problem_of([50, 10, 40, 20, 30, 60])
    assert choices_of(problem) == [
        (("t1", "t3"),),
        (("t1", "t2"), ("t3", "t4")),
        (("t0", "t3"), ("t1", "t5"), ("t2", "t4")),
    ]


@pytest.mark.parametrize(
    "demand",
    [
        {"ssd": False},
        {"dram": False},
        {"onchip": True},
        {"replicate": True},
        {"shape": TableShape(name="t1", rows=20, dim=16, format="int4")},
    ],
    ids=lambda demand: next(iter(demand)),
)
def test_tables_that_differ_are_no_pair(demand):
    problem = problem_of([10, 20, 30], demands={"t1": demand})
    assert choices_of(problem) == []
    assert choices_of(problem_of([10, 20, 30, 40], demands={"t1": demand})) == [(("t0", "t3"),)]


def test_a_merged_table_takes_a_small_share_of_the_memory():
    product_bytes = 100 * 200 * 32
    for spare, count in ((64, 1), (-64, 0)):
        problem = problem_of(
            [100, 200], device={"dram_gib": (100 * product_bytes + 100 * spare) / 2**30}
        )
        assert len(choices_of(problem)) == count


def test_the_widest_slices_are_tried_too():
    dims = [4] * 8 + [8] * 20  # eight tables of the least dimension: four pairs of 8
    problem = problem_of(range(10, 38), dims=dims)
    choices = choices_of(problem)
    assert len(choices) == 14
    assert [len(pairs) for pairs in spread(problem, choices)] == [3, 4, 6, 8, 11, 14]
    alike = problem_of(range(10, 35))  # an odd one is left over: no wider slices
    assert [len(pairs) for pairs in spread(alike, choices_of(alike))] == [2, 4, 6, 8, 10, 12]


def test_rows_longer_than_a_core_takes_are_not_made():
    assert len(choices_of(problem_of([10, 20], dims=1024))) == 1
    assert choices_of(problem_of([10, 20], dims=1088)) == []


# --- merged problems ---


def test_a_merged_problem_has_one_feature_for_two():
    problem = problem_of([10, 20, 30], dims=[16, 8, 24], features={"f0": {"mode": "mean"}})
    found = merged(problem, [("t0", "t2")])
    assert found.shape.tables == (
        TableShape(name="t0*t2", rows=300, dim=40),
        TableShape(name="t1", rows=20, dim=8),
    )
    assert [(f.name, f.table, f.mode) for f in found.shape.features] == [
        ("f0*f2", 0, "sum"),
        ("f1", 1, "sum"),
    ]
    assert tuple(table.shape for table in found.tables) == found.shape.tables
    assert found.lookups == pytest.approx(2)
    assert [table.bags for table in found.tables] == [1, 1]
    assert found.header_bytes == problem.header_bytes - 4
    assert found.compute_shape == problem.compute_shape
    assert found.tables[1] is problem.tables[1]


def test_the_order_of_a_pair_is_that_of_its_rows_not_of_its_place():
    found = merged(problem_of([10, 20, 30]), [("t2", "t0")])
    assert [table.shape.name for table in found.tables] == ["t1", "t2*t0"]
    assert [feature.table for feature in found.shape.features] == [0, 1]


def test_cores_are_chosen_anew_with_the_same_pins():
    problem = problem_of([10, 20, 30, 40], dims=8)
    found = merged(problem, [("t0", "t1"), ("t2", "t3")])
    assert DeviceParams.lanes(found.shape) == 2 * DeviceParams.lanes(problem.shape)
    for pattern in found.classes[0].patterns:
        assert (pattern.memory, pattern.core.rows, pattern.core.columns) == (1, 8, 8)
        assert pattern.gather.lanes == 16
        assert pattern.gather.max_features == 2
        assert pattern.gather.onchip_beats == 0


def test_reconstructors_have_the_lanes_of_the_merged_model():
    from screc.plan.tt import reconstructors

    option = dataclasses.replace(TT, shape=TtShape(rows=40, p=(2, 4, 5), q=(2, 4, 4), ranks=(4, 4)))
    problem = problem_of([10, 20, 40], dims=[16, 16, 32], demands={"t2": {"tt": option}})
    tt = reconstructors(problem.tables, slice_lanes=16, lanes=2, devices=1)
    klass = dataclasses.replace(problem.classes[0], reconstructors=tuple(tt))
    found = merged(dataclasses.replace(problem, classes=(klass,)), [("t0", "t1")])
    built = [params for params in found.classes[0].reconstructors if params is not None]
    assert {(params.slice_lanes, params.lanes) for params in built} == {(32, 2)}
    assert any(pattern.tt is not None for pattern in found.classes[0].patterns)


# --- plans ---


def dram_bytes_per_sample(lookups, dense):
    """What a sample moves: rows of a beat at random, records and headers and results in runs."""
    return 64 * lookups, 8 * lookups + 4 * lookups + dense + 8


def test_merging_pays_where_accesses_to_dram_bind():
    problem = problem_of([40, 50, 60, 70], device=SLOW_DRAM)
    alone, plan = solve(problem), solve_with_cartesian(problem)
    assert alone.bottleneck == plan.bottleneck == "dram"
    assert plan.cartesian == (("t0", "t3"), ("t1", "t2"))
    stream = problem.classes[0].budget.streamed_rate
    for lookups, found in ((4, alone), (2, plan)):
        rows, runs = dram_bytes_per_sample(lookups, 4)
        assert found.value == pytest.approx(rows / 0.1e9 + runs / stream, rel=1e-6)
    assert alone.value / plan.value == pytest.approx(2, rel=0.01)
    checked = check(plan, merged(problem, plan.cartesian))
    assert checked.value == pytest.approx(plan.value)
    assert [table.table for table in plan.devices[0].tables] == ["t0*t3", "t1*t2"]
    assert 0 <= plan.gap < problem.gap
    with pytest.raises(CheckError, match="there is no table 't0"):
        check(plan, problem)


def test_merging_is_not_tried_where_computing_binds(monkeypatch):
    problem = problem_of([40, 50, 60, 70])
    alone = solve(problem)
    assert computing_seconds(problem) == pytest.approx(alone.value, rel=1e-3)
    monkeypatch.setattr(cartesian, "merged", None)
    plan = solve_with_cartesian(problem)
    assert plan.bottleneck == "compute"
    assert plan.cartesian == ()
    assert plan.value == alone.value
    check(plan, problem)


def test_rows_that_fit_on_chip_are_not_merged():
    problem = problem_of([40, 50, 60, 70], device=SLOW_DRAM, onchip_beats=512)
    plan = solve_with_cartesian(problem)
    assert {r.tier for table in plan.devices[0].tables for r in table.ranges} == {"onchip"}
    assert plan.cartesian == ()


@pytest.mark.parametrize("objective", ["energy", "devices"])
def test_a_rate_that_needs_merging_is_reached(objective):
    fast = 1.5 / solve(problem_of([40, 50, 60, 70], device=SLOW_DRAM)).value
    problem = problem_of([40, 50, 60, 70], device=SLOW_DRAM, objective=objective, rate=fast)
    with pytest.raises(PlanError):
        solve(problem)
    plan = solve_with_cartesian(problem)
    assert len(plan.cartesian) == 2
    assert check(plan, merged(problem, plan.cartesian)).seconds <= 1 / fast
    beyond = dataclasses.replace(problem, rate=2 * fast)
    with pytest.raises(PlanError) as caught:
        solve_with_cartesian(beyond)
    assert caught.value.kind is not PlanErrorKind.SOLVER


def test_fewer_devices_suffice_with_merged_tables():
    rate = 1.5 / solve(problem_of([40, 50, 60, 70], device=SLOW_DRAM)).value
    problem = problem_of(
        [40, 50, 60, 70], device=SLOW_DRAM, count=2, objective="devices", rate=rate
    )
    assert solve(problem).value == 2
    plan = solve_with_cartesian(problem)
    assert plan.value == 1
    check(plan, merged(problem, plan.cartesian))


def test_the_plan_without_is_kept_when_time_runs_out(monkeypatch):
    def late(problem, **more):
        raise PlanError(PlanErrorKind.SOLVER, "the time limit is over")

    problem = problem_of([40, 50, 60, 70], device=SLOW_DRAM)
    monkeypatch.setattr(cartesian, "relaxed_value", late)
    assert solve_with_cartesian(problem).cartesian == ()


@pytest.mark.parametrize(
    ("value", "tried", "best"),
    [
        (lambda tables: 1.0, [24, 22, 20, 18, 16, 14, 12], 0),
        (lambda tables: 0.9995 if tables < 24 else 1.0, [24, 22, 20, 18, 16, 14, 12], 0),
        (lambda tables: 1.0 if tables > 22 else 0.5, [24, 22, 20, 18], 2),
        (lambda tables: 1.0 if tables > 18 else 0.5, [24, 22, 20, 18, 16, 14], 6),
        (lambda tables: {22: 0.9, 20: 0.9, 18: 0.8}.get(tables, 1.0), [24, 22, 20, 18, 16, 14], 6),
        (lambda tables: tables / 24, [24, 22, 20, 18, 16, 14, 12], 12),
    ],
    ids=["none", "too little", "the first one", "a late one", "with one between", "always"],
)
def test_few_sets_of_pairs_are_tried(monkeypatch, value, tried, best):
    """Up to 12 pairs of 24 tables, two more each time: the relaxed values are given."""
    found = []

    def relaxed(problem, **more):
        found.append(len(problem.tables))
        return value(len(problem.tables))

    monkeypatch.setattr(cartesian, "relaxed_value", relaxed)
    plan = solve_with_cartesian(problem_of(range(10, 34), device=SLOW_DRAM))
    assert found == tried
    assert len(plan.cartesian) == best


# --- the command ---

CONFIG = """
[model]
file = "model.toml"
[log]
samples = 2000
[[device]]
kind = "smartssd"
random_64_gbs = 0.05
[plan]
cartesian = true
[plan.cores]
memory = 1
compute = 1
rows = 8
columns = 8
"""
MODEL = """
name = "pairs"
dense = 4
bottom = [8, 16]
top = [8, 1]
interaction = "dot"
"""
TABLE = """
[[table]]
name = "{name}"
rows = {rows}
dim = 16
"""
PINNED = '[[plan.table]]\nname = "{name}"\npin = "dram"\n'


@pytest.fixture
def project(tmp_path):
    sizes = {"A": 40, "B": 50, "C": 60, "D": 70}
    tables = "".join(TABLE.format(name=name, rows=rows) for name, rows in sizes.items())
    (tmp_path / "model.toml").write_text(MODEL + tables)
    wishes = "".join(PINNED.format(name=name) for name in sizes)
    (tmp_path / "config.toml").write_text(CONFIG + wishes)
    return tmp_path


def run(capsys, *arguments):
    """Exit code and stderr of the command line."""
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def test_a_plan_lists_merged_tables_and_no_hardware_is_made_of_it(project, capsys):
    config = project / "config.toml"
    code, text = run(capsys, "plan", config, "-v")
    assert code == 0, text
    assert "merged tables: A × D, B × C" in text
    plan = json.loads((project / "out" / "plan.json").read_text())
    assert plan["cartesian"] == [["A", "D"], ["B", "C"]]
    assert {table["table"] for table in plan["devices"][0]["tables"]} == {"A*D", "B*C"}
    for step in ("generate", "compile"):
        code, text = run(capsys, step, config)
        assert code == 1
        assert "plan.cartesian: merged tables (A × D, B × C) are not built yet; use false" in text


def test_a_plan_without_merged_tables_says_so(project, capsys):
    code, text = run(
        capsys, "plan", project / "config.toml", "-v", "--set", "device.0.random_64_gbs=8"
    )
    assert code == 0, text
    assert "no tables are merged" in text
    assert json.loads((project / "out" / "plan.json").read_text())["cartesian"] == []
