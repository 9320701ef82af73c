"""Ranks in tensor-train form: which they are, what is pinned, and a plan that knows of them."""

import dataclasses

import numpy as np
import pytest

from screc.compile.layout import make_layout
from screc.config import load_config
from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.onchip import with_onchip
from screc.plan.patterns import Pins, excess
from screc.plan.place import make_plan
from screc.plan.problem import tt_loads
from screc.plan.rates import RateCurve
from screc.plan.schema import Range, read_plan
from screc.plan.solve import solve
from screc.plan.step import make_problem
from screc.plan.tt import TtWish, with_tt
from tests.plan.support import problem_of
from tests.plan.test_step import CONFIG, SHAPE, stats_of

DEFAULT = TtWish()


def planned(demands, rows=(20_000, 3000), memory=2, wish=DEFAULT, **more):
    """A problem with the patterns that the planner would give it."""
    pins = Pins(memory=memory, compute=1, rows=8, columns=8)
    problem = problem_of(rows, pins=pins, demands=demands, **more)
    tables = [
        dataclasses.replace(table, rates=table.rates.cut(table.tt_rows)) for table in problem.tables
    ]
    patterns = problem.patterns
    for give in (
        lambda *given: with_tt(*given, wish),
        with_onchip,
        lambda *given: with_tt(*given, wish),
    ):
        patterns = give(problem.shape, tables, patterns, problem.budget, problem.batch)
    return dataclasses.replace(problem, tables=tables, patterns=patterns)


def tt(rows, rank=8, **tiers):
    return {"tt_rank": rank, "tt_rows": rows, **tiers}


@pytest.mark.parametrize("rank", [0, 1, 3, 7, 10, 40, 100])
def test_a_cut_changes_no_rate(rank):
    curve = RateCurve(np.array([0, 3, 10, 100]), np.array([5.0, 2.0, 0.5]))
    cut = curve.cut(rank)
    assert rank in cut.edges
    assert (np.diff(cut.edges) > 0).all()
    assert np.array_equal(np.repeat(cut.rates, cut.widths), np.repeat(curve.rates, curve.widths))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_covering_is_the_fewest_ranks_that_get_a_share(share):
    curve = RateCurve(np.array([0, 3, 10, 60, 100]), np.array([5.0, 2.0, 0.5, 0.0]))
    each = np.repeat(curve.rates, curve.widths)
    covered = np.concatenate([[0.0], np.cumsum(each)]) >= share * each.sum() - 1e-12
    assert curve.covering(share) == int(np.argmax(covered))
    assert RateCurve(np.array([0, 9]), np.array([0.0])).covering(share) == 9


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_a_plan_has_onchip_then_tt_then_dram_rows(memory, tmp_path):
    demands = {
        "a": tt(7001, onchip=True, onchip_rows=101),
        "b": tt(3000, rank=4, dram=False, ssd=False),
    }
    problem = planned(demands, memory=memory)
    pattern = problem.patterns[0]
    assert not excess(pattern, problem.budget)
    plan = make_plan(problem, solve(problem))
    device = plan.devices[0]
    a, b = device.tables
    last = -(-7001 // memory) * memory
    assert a.onchip_rows == 101 // memory * memory
    assert (a.tt.first, a.tt.last, a.resident_rows) == (a.onchip_rows, last, 20_000)
    assert (b.tt.first, b.tt.last, b.resident_rows) == (0, 3000, 3000)
    assert a.tt.shape.ranks == (8, 8)
    for r in (*a.ranges, *b.ranges):
        assert (r.tier == "tt") == (r.tt is not None)
    assert device.cores.tt == memory
    assert device.shapes.prefixes == a.tt.pins + b.tt.pins
    assert device.shapes.tt_multipliers == memory * pattern.params.tt.multipliers
    params = device_params(plan, problem.shape)
    assert params == pattern.params
    assert plan.per_sample["tt"] > 0
    assert check(device, params, problem).value == plan.value
    layout = make_layout(device, problem.shape, params)
    beats = [-(-(20_000 - last) // memory * 16 // 64) * 64 for _ in layout.cores]
    assert [core.image_bytes for core in layout.cores] == pytest.approx(beats, abs=64)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_plan(path) == plan


def test_rows_in_tt_form_are_not_read_from_dram():
    plain, problem = planned({}), planned({"a": tt(10_000)})
    pattern = problem.patterns[0]
    (load,) = tt_loads(problem.tables, pattern.tt)[:1]
    each = np.repeat(problem.tables[0].rates.rates, problem.tables[0].rates.widths)
    assert load.rows == pytest.approx(each[:10_000].sum())
    pinned = pattern.tt[0].pins * load.shape.p[2]
    assert load.hit_rate == pytest.approx(each[:pinned].sum() / each[:10_000].sum())
    assert problem.dram_seconds(pattern) < problem.dram_seconds(plain.patterns[0])


@pytest.mark.parametrize("prefixes", [0, 1, 7, 50, 10_000])
def test_the_hottest_prefixes_are_pinned(prefixes):
    problem = planned(
        {"a": tt(10_000), "b": tt(2000)}, pooling=[1.0, 3.0], wish=TtWish(prefixes=prefixes)
    )
    parts = problem.patterns[0].tt
    rates, pinned = [], []
    for table, part in zip(problem.tables, parts, strict=True):
        each = np.repeat(table.rates.rates, table.rates.widths)[part.first : part.last]
        count = -(-len(each) // part.shape.p[2])
        padded = np.zeros(count * part.shape.p[2])
        padded[: len(each)] = each
        loads = padded.reshape(count, -1).sum(axis=1)
        rates += loads.tolist()
        pinned += loads[: part.pins].tolist()
    assert sum(pinned) == pytest.approx(sum(sorted(rates, reverse=True)[:prefixes]))
    assert len(pinned) == min(prefixes, len(rates))


def test_a_table_beyond_dram_fits_in_tt_form():
    size = 20_000 * 16
    with pytest.raises(PlanError) as refused:
        solve(planned({"a": {"ssd": False}}, (20_000, 50), dram_bytes=size // 4, device=NO_SSD))
    assert refused.value.kind == PlanErrorKind.DRAM
    for tail in (0, 2000):
        wish = {"a": tt(20_000 - tail)}
        problem = planned(wish, (20_000, 50), dram_bytes=size // 4, device=NO_SSD)
        plan = make_plan(problem, solve(problem))
        assert plan.devices[0].tables[0].tt.last == 20_000 - tail


NO_SSD = {"kind": "u50"}


def test_rows_behind_tt_ranks_may_be_on_ssd():
    wish = {"a": tt(5001, dram=False)}
    plan = make_plan(problem := planned(wish), solve(problem))
    (table, _) = plan.devices[0].tables
    assert {r.tier for r in table.ranges} == {"tt", "ssd"}
    assert table.resident_rows == table.tt.last == 5002
    assert plan.ssd_reads > 0


def test_tt_cores_that_do_not_fit_are_named():
    with pytest.raises(PlanError) as refused:
        planned({"a": tt(19_000, rank=64)}, device={"uram": 30})
    assert refused.value.kind == PlanErrorKind.URAM
    assert "with TT reconstructors" in str(refused.value)
    assert any("tt_rank" in hint for hint in refused.value.hints)


def test_a_rank_that_no_reconstructor_takes_is_named():
    with pytest.raises(
        ConfigError, match=r"plan\.table: tables in TT form, of ranks .*: max_rank must"
    ):
        planned({"a": tt(19_000, rank=200)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core2_words": 3}, "words of the second TT cores, a reconstructor room for 3"),
        ({"pinned_words": 1}, "words of pinned prefixes, a reconstructor room for 1"),
        ({}, "the plan has rows in TT form, the device no reconstructor"),
    ],
)
def test_a_reconstructor_too_small_is_found(change, message):
    problem = planned({"a": tt(7000)})
    plan = make_plan(problem, solve(problem))
    params = device_params(plan, problem.shape)
    made = params.with_tt(dataclasses.replace(params.tt, **change) if change else None)
    with pytest.raises(CheckError, match=message):
        check(plan.devices[0], made, problem)


def test_ranges_say_whether_they_have_tt_cores():
    with pytest.raises(ValueError, match='tier "tt" has TT cores and no other has, not "tt"'):
        Range(tier="tt", first=0, last=9)


def configured(tmp_path, *overrides):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    wishes = ("plan.table.0.name=a", *(f"plan.table.0.{o}" for o in overrides))
    return make_problem(load_config(path, wishes), SHAPE, stats_of(SHAPE))


def test_wishes_become_ranges(tmp_path):
    ask = "tiers=['onchip', 'tt', 'dram']", "tt_rank=4"
    named = configured(tmp_path, *ask, "tt_rows=300", "onchip_rows=20")
    assert named.patterns[0].onchip == (20, 0)
    assert [part and (part.first, part.last) for part in named.patterns[0].tt] == [(20, 300), None]
    covered = configured(tmp_path, *ask, "onchip_rows=20").patterns[0].tt[0]
    table = stats_of(SHAPE)[0]
    assert table.coverage(covered.last) == pytest.approx(0.9, abs=0.01)
    whole = configured(tmp_path, "pin=tt", "tt_rank=4").patterns[0].tt[0]
    assert (whole.first, whole.last) == (0, 1000)
    # all that is read is on chip where nothing limits it
    free = configured(tmp_path, *ask, "tt_rows=300").patterns[0]
    assert free.tt == (None, None)
    assert free.params.tt is None
