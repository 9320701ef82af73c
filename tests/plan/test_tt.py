"""Ranks in tensor-train form: which they are, what is pinned, and a plan that knows of them."""

import dataclasses

import numpy as np
import pytest

from screc.compile.layout import make_layout
from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns, excess
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.problem import DeviceClass
from screc.plan.rates import RateCurve
from screc.plan.schema import Range, read_plan
from screc.plan.solve import solve
from screc.plan.step import onchip_beats
from screc.plan.tt import LANES, TtWish, reconstructors, with_tt
from screc_hw.params import DeviceParams
from tests.plan.configured import configured, stats_of
from tests.plan.support import problem_of

NONE = {"onchip": False}


def planned(wishes, demands=None, rows=(20_000, 3000), memory=2, prefixes=None, lanes=1, **more):
    """A problem with tables in TT form, ``wishes`` by number, as the plan step makes it."""
    wishes = {
        n: wish if isinstance(wish, TtWish) else TtWish(8, wish) for n, wish in wishes.items()
    }
    demands = {"a": NONE, "b": NONE} | (demands or {})
    problem = problem_of(rows, demands=demands, **more)
    tables = [
        dataclasses.replace(t, tt_only=n in wishes and not wishes[n].loss)
        for n, t in enumerate(problem.tables)
    ]
    tables = with_tt(tables, wishes, prefixes)
    rebuild = reconstructors(
        tables, slice_lanes=DeviceParams.lanes(problem.shape), lanes=lanes, devices=1
    )
    pins = Pins(memory=memory, compute=1, rows=8, columns=8, slots=2, weights="onchip")
    budget = problem.classes[0].budget
    patterns = enumerate_patterns(
        Catalogue(problem.shape, problem.shape, problem.batch),
        budget,
        pins,
        alone=True,
        onchip_beats=onchip_beats(tables),
        reconstructors=rebuild,
    )
    classes = (DeviceClass(budget, 1, patterns),)
    return dataclasses.replace(problem, tables=tables, classes=classes)


def solved(problem):
    plan = solve(problem)
    assert check(plan, problem).value == plan.value
    return plan


def per_rank(table):
    return np.repeat(table.rates.rates, table.rates.widths)


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
    wishes = {0: 7001, 1: TtWish(4, 3000)}
    demands = {
        "a": {"onchip_rows": 101},
        "b": {"onchip": False, "dram": False, "ssd": False},
    }
    problem = planned(wishes, demands, memory=memory)
    assert not any(excess(p, problem.classes[0].budget) for p in problem.classes[0].patterns)
    plan = solved(problem)
    device = plan.devices[0]
    a, b = device.tables
    last = -(-7001 // memory) * memory
    assert a.onchip_rows <= 101
    assert (a.tt.first, a.tt.last, a.resident_rows) == (a.onchip_rows, last, 20_000)
    assert (b.tt.first, b.tt.last, b.resident_rows) == (0, 3000, 3000)
    assert (a.tt.shape.ranks, b.tt.shape.ranks) == ((8, 8), (4, 4))
    for r in (*a.ranges, *b.ranges):
        assert (r.tier == "tt") == (r.tt is not None)
    assert device.cores.tt == memory
    assert device.shapes.prefixes == a.tt.pins + b.tt.pins
    params = device_params(plan, problem.shape)
    assert device.shapes.tt_multipliers == memory * params.tt.multipliers
    assert plan.per_sample["tt"] > 0
    layout = make_layout(device, problem.shape, params)
    beats = [-(-(20_000 - last) // memory * 16 // 64) * 64 for _ in layout.cores]
    assert [core.image_bytes for core in layout.cores] == pytest.approx(beats, abs=64)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_plan(path) == plan


def test_rows_in_tt_form_are_not_read_from_dram():
    plain, plan = (solved(planned(wishes)) for wishes in ({}, {0: 10_000}))
    assert plain.per_sample["tt"] == 0
    assert 0 < plan.per_sample["dram"] < 0.7 * plain.per_sample["dram"]


def test_prefixes_that_are_kept_make_it_faster():
    kept, none = (solved(planned({0: 20_000}, prefixes=n)) for n in (2000, 0))
    assert none.devices[0].shapes.prefixes == 0
    assert kept.devices[0].shapes.prefixes == kept.devices[0].tables[0].tt.pins > 0
    assert kept.per_sample["tt"] < none.per_sample["tt"]


@pytest.mark.parametrize("prefixes", [0, 1, 7, 50, 10_000])
def test_the_hottest_prefixes_are_pinned(prefixes):
    problem = planned({0: 10_000, 1: 2000}, pooling=[1.0, 3.0], prefixes=prefixes)
    rates, pinned = [], []
    for table in problem.tables:
        each = per_rank(table)[: table.tt.last]
        count = -(-len(each) // table.tt.shape.p[2])
        padded = np.zeros(count * table.tt.shape.p[2])
        padded[: len(each)] = each
        loads = padded.reshape(count, -1).sum(axis=1)
        rates += loads.tolist()
        pinned += loads[: table.tt.pins].tolist()
    assert sum(pinned) == pytest.approx(sum(sorted(rates, reverse=True)[:prefixes]))
    assert len(pinned) == min(prefixes, len(rates))


NO_SSD = {"kind": "u50"}


def test_a_table_beyond_dram_fits_in_tt_form():
    size = 20_000 * 16
    little = {"rows": (20_000, 50), "dram_bytes": size // 4, "device": NO_SSD}
    with pytest.raises(PlanError) as refused:
        solve(planned({}, **little))
    assert refused.value.kind == PlanErrorKind.DRAM
    for tail in (0, 2000):
        plan = solved(planned({0: 20_000 - tail}, **little))
        assert plan.devices[0].tables[0].tt.last == 20_000 - tail


def test_rows_behind_tt_ranks_may_be_on_ssd():
    plan = solved(planned({0: 5001}, {"a": {"onchip": False, "dram": False}}))
    (table, _) = plan.devices[0].tables
    assert {r.tier for r in table.ranges} == {"tt", "ssd"}
    assert table.resident_rows == table.tt.last == 5002
    assert plan.ssd_reads > 0


def test_lanes_are_chosen_where_none_are_given():
    """More of them are faster where rows in TT form set the pace."""
    settings = {"pooling": [40.0, 0.1], "memory": 1}
    one, best = (solved(planned({0: 20_000}, lanes=n, **settings)) for n in (1, None))
    assert one.bottleneck == "tt"
    assert one.devices[0].cores.tt == 1
    assert best.devices[0].cores.tt in LANES[1:]
    assert best.value < 0.9 * one.value
    assert best.bound > 0.98 * best.value
    assert solved(planned({0: 20_000}, lanes=2)).devices[0].cores.tt == 4


def test_tt_cores_that_do_not_fit_are_named():
    with pytest.raises(PlanError) as refused:
        planned({0: TtWish(64, 19_000)}, device={"uram": 30})
    assert refused.value.kind == PlanErrorKind.URAM
    assert "with TT reconstructors" in str(refused.value)
    assert any("tt_rank" in hint for hint in refused.value.hints)


def test_a_rank_that_no_reconstructor_takes_is_named():
    with pytest.raises(
        ConfigError, match=r"plan\.table: tables in TT form, of ranks .*: max_rank must"
    ):
        planned({0: TtWish(200, 19_000)})


def test_a_reconstructor_too_small_is_found():
    problem = planned({0: 7000})
    plan = solved(problem)
    (device,) = plan.devices
    cores = device.cores.model_copy(update={"tt": 0})
    bare = plan.model_copy(update={"devices": (device.model_copy(update={"cores": cores}),)})
    with pytest.raises(CheckError) as caught:
        check(bare, problem)
    assert caught.value.rule == "tt"


def test_ranges_say_whether_they_have_tt_cores():
    with pytest.raises(ValueError, match='tier "tt" has TT cores and no other has, not "tt"'):
        Range(tier="tt", first=0, last=9)


def test_wishes_become_ranges(tmp_path):
    def table(*wishes):
        wishes = ("plan.table.0.name=a", *(f"plan.table.0.{wish}" for wish in wishes))
        problem = configured(tmp_path, *wishes)
        return problem, solved(problem).devices[0].tables[0]

    ask = "tiers=['onchip', 'tt', 'dram']", "tt_rank=4"
    _, named = table(*ask, "tt_rows=300", "onchip_rows=20")
    assert (named.tt.first, named.tt.last) == (named.onchip_rows, 300)
    assert named.onchip_rows <= 20
    problem, _ = table(*ask, "onchip_rows=20")
    stats = stats_of(problem.shape)[0]
    assert stats.coverage(problem.tables[0].tt.last) == pytest.approx(0.9, abs=0.01)
    _, whole = table("pin=tt", "tt_rank=4")
    assert (whole.tt.first, whole.tt.last) == (0, 1000)
    # all that is read may be on chip where nothing limits it
    _, free = table(*ask, "tt_rows=300")
    assert free.onchip_rows > 20


def test_no_ranks_below_tt_rows_are_in_dram():
    """Tables that ask for TT form have it, whatever would be faster."""
    plan = solved(planned({0: 7000}, {"a": {"onchip_rows": 50}}, memory=1))
    a = plan.devices[0].tables[0]
    assert all(r.first >= 7000 for r in a.ranges if r.tier == "dram")
