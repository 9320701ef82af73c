"""From configuration and statistics to a planning problem, and to its plan."""

import dataclasses
import functools

import pytest

from screc.errors import ConfigError, PlanError
from screc.plan.check import check
from screc.plan.device import device_params
from screc.plan.solve import solve
from screc.plan.step import describe
from screc.tt.accuracy import TtTrial, write_trials
from tests.plan.configured import configured


@pytest.fixture
def problem(tmp_path):
    return functools.partial(configured, tmp_path)


def test_rates_are_those_of_the_holdout_part(problem):
    a, b = problem().tables
    assert a.rates.lookups == pytest.approx((500 * 501 / 2 + 5) / 10)
    assert b.rates.rows == 50
    assert a.bags == 0.9
    assert problem().shape.features[0].pooling == 3.0


def test_without_holdout_lookups_the_profile_part_counts(problem):
    a, _ = problem(holdout=False).tables
    assert a.rates.lookups == pytest.approx(500 * 501 / 2 / 10)


def test_a_plan_gives_the_parameters_of_its_device(problem):
    made = problem("plan.cores.rows=16", "plan.cores.memory=2")
    plan = solve(made)
    params = device_params(plan, made.shape)
    assert (params.memory, params.compute) == (2, 1)
    assert (params.core.rows, params.core.columns) == (16, 8)
    assert params in [pattern.params() for pattern in made.classes[0].patterns]
    assert "1 × smartssd (2 memory, 1 compute of 16 × 8): " in describe(plan)
    assert check(plan, made).value == plan.value
    assert plan.value == plan.seconds
    assert 0 <= plan.gap <= made.gap


def test_requirements_are_passed_on(problem):
    made = problem("plan.rate=5000", "plan.latency_ms=2.5", "plan.intervals=7", "plan.split=false")
    assert (made.rate, made.intervals, made.split) == (5000, 7, False)
    assert made.max_latency == pytest.approx(2.5e-3)
    assert made.max_loss is None


@pytest.mark.parametrize(
    ("wish", "dram", "ssd", "onchip"),
    [
        ("replicate=false", True, True, True),
        ("pin='ssd'", False, True, False),
        ("pin='dram'", True, False, False),
        ("tiers=['dram']", True, False, False),
        ("tiers=['dram', 'ssd']", True, True, False),
        ("tiers=['onchip', 'dram']", True, False, True),
        ("tiers=['ssd', 'onchip', 'dram']", True, True, True),
        ("pin='onchip'", False, False, True),
        ("onchip_rows=9", True, True, True),
    ],
)
def test_a_wish_restricts_the_tiers_of_its_table(problem, wish, dram, ssd, onchip):
    made = problem("device.0.ssd_kiops=400", "plan.table.0.name=a", f"plan.table.0.{wish}")
    a, b = made.tables
    assert (a.dram, a.ssd, a.onchip) == (dram, ssd, onchip)
    assert (b.dram, b.ssd, b.onchip) == (True, True, True)
    (table, _) = solve(made).devices[0].tables
    allowed = {tier for tier in ("dram", "ssd", "onchip") if getattr(a, tier)}
    assert {r.tier for r in table.ranges} <= allowed
    assert a.onchip_rows is None or table.onchip_rows <= a.onchip_rows


def test_rows_are_on_chip_where_nothing_says_otherwise(problem):
    plan = solve(problem())
    assert {r.tier for table in plan.devices[0].tables for r in table.ranges} == {"onchip"}


# --- several devices, other objectives ---

TWO = ("device.0.count=2", "device.0.dram_gib=0.00001", "plan.table.0.name=a")
"""Two devices whose DRAM holds less than table ``a``, which is not on chip."""


def test_two_devices_are_planned(problem):
    made = problem(*TWO, "plan.table.0.pin=dram", "device.0.dram_gib=0.00002")
    assert [(each.budget.kind, each.count) for each in made.classes] == [("smartssd", 2)]
    plan = solve(made)
    assert [device.kind for device in plan.devices] == ["smartssd", "smartssd"]
    assert "2 × smartssd" in describe(plan)
    assert sum(device.samples for device in plan.devices) == pytest.approx(1)
    assert check(plan, made).value == plan.value
    assert 0 <= plan.gap <= made.gap


def test_devices_of_two_kinds_are_planned(problem):
    made = problem("device.1.kind=u50", "device.1.count=2", "plan.cores={}")
    assert [(each.budget.kind, each.count) for each in made.classes] == [
        ("smartssd", 1),
        ("u50", 2),
    ]
    plan = solve(made)
    assert {device.kind for device in plan.devices} <= {"smartssd", "u50"}
    assert check(plan, made).value == plan.value
    assert 0 <= plan.gap <= made.gap
    alone = solve(problem("device.0.kind=u50", "plan.cores={}"))
    assert plan.value <= alone.value * (1 + made.gap)


def test_least_energy_at_a_rate(problem):
    fast = solve(problem("plan.cores={}"))
    made = problem("plan.cores={}", "plan.objective=energy", f"plan.rate={0.25 / fast.seconds}")
    plan = solve(made)
    assert plan.value == plan.energy
    assert plan.seconds <= 4 * fast.seconds
    assert 0 <= plan.gap <= made.gap
    assert check(plan, made).value == plan.value
    # at a lower rate, idle seconds cost more static power per sample
    slower = problem("plan.cores={}", "plan.objective=energy", f"plan.rate={0.1 / fast.seconds}")
    assert solve(slower).energy > plan.energy


def test_fewest_devices_at_a_rate(problem):
    one = solve(problem("plan.table=[{name='a', pin='dram'}]"))
    counts = []
    for factor in (0.5, 1.5):
        made = problem(
            "device.0.count=3",
            "plan.objective=devices",
            f"plan.rate={factor / one.seconds}",
            "plan.table=[{name='a', pin='dram'}]",
        )
        plan = solve(made)
        assert plan.value == len(plan.devices)
        assert plan.seconds <= one.seconds / factor * (1 + 1e-9)
        assert check(plan, made).value == plan.value
        assert plan.bound <= plan.value
        counts.append(len(plan.devices))
    assert counts[0] == 1
    assert counts[1] > 1


# --- tensor-train form within a budget of accuracy ---


def trial(rank, row_error, auc_loss, table="a"):
    return TtTrial(
        table=table,
        rank=rank,
        p=(10, 10, 10),
        q=(2, 2, 4),
        ranks=(rank, rank),
        tt_bytes=100,
        row_bytes=16_000,
        row_error=row_error,
        read_error=row_error,
        samples=10,
        auc_exact=0.8,
        auc_tt=None if auc_loss is None else 0.8 - auc_loss,
        auc_loss=auc_loss,
    )


TRIALS = [trial(8, 0.02, 0.004), trial(2, 0.5, 0.1), trial(4, 0.3, -0.001)]


@pytest.mark.parametrize(
    ("budget", "rank", "loss"),
    [
        ("max_row_error=0.01", None, 0),
        ("max_row_error=0.1", 8, 0.02),
        ("max_row_error=0.4", 4, 0.3),
        ("max_row_error=0.5", 2, 0.5),
        ("max_auc_loss=0.003", 4, 0.0),
        ("max_auc_loss=0.2", 2, 0.1),
    ],
)
def test_a_budget_allows_the_least_rank_within_it(problem, tmp_path, budget, rank, loss):
    write_trials(tmp_path / "tt.parquet", TRIALS)
    made = problem(f"plan.{budget}")
    a, b = made.tables
    assert b.tt is None
    assert made.max_loss == float(budget.partition("=")[2])
    if rank is None:
        assert a.tt is None
        return
    assert max(a.tt.shape.ranks) == rank
    assert (a.tt.last, a.tt.loss, a.tt_only) == (1000, loss, False)


def test_tiers_that_are_named_are_kept_whatever_the_budget(problem, tmp_path):
    write_trials(tmp_path / "tt.parquet", TRIALS)
    made = problem("plan.max_row_error=1", "plan.table=[{name='a', tiers=['dram']}]")
    assert made.tables[0].tt is None


def test_tables_in_tt_form_lose_the_budget_at_most(problem, tmp_path):
    write_trials(tmp_path / "tt.parquet", [trial(2, 0.3, None), trial(2, 0.3, None, "b")])

    def planned(limit, *elsewhere):
        """Tables in TT form; those that may be ``elsewhere`` may be in DRAM instead."""
        made = problem(f"plan.max_row_error={limit}", "plan.cores.tt_lanes=1")
        tables = [
            dataclasses.replace(t, onchip=False, ssd=False, dram=t.shape.name in elsewhere)
            for t in made.tables
        ]
        made = dataclasses.replace(made, tables=tables)
        plan = solve(made)
        check(plan, made)
        return {t.table for t in plan.devices[0].tables if t.tt is not None}

    assert planned(0.3, "b") == {"a"}
    assert planned(0.3, "a") == {"b"}
    assert planned(0.6) == {"a", "b"}
    with pytest.raises(PlanError):
        planned(0.5)


# --- what is wrong ---

TOO_MANY = "plan.table.0.tt_rows=999999999"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device.1.kind=smartssd"], r"device\.1: is the same kind as device\.0: raise its count"),
        (["plan.table.0.pin=tt"], "table.0.tt_rank: .* is missing: the rank of its TT cores"),
        (["plan.table.0.tiers=['tt', 'dram']"], "table.0.tt_rank: .* is missing"),
        (["plan.table.0.tt_rank=8"], 'table.0.tt_rank: .* is for tables with "tt" among their'),
        (
            ["plan.table.0.pin=tt", "plan.table.0.tt_rank=8", "plan.table.0.tt_rows=9"],
            'table.0.tt_rows: .* the rows behind them need "dram" or "ssd"',
        ),
        (
            ["plan.table.0.tiers=['tt', 'dram']", "plan.table.0.tt_rank=8", TOO_MANY],
            "table.0.tt_rows: .* must be at most its .* rows, not 999999999",
        ),
        (["plan.table.0.tt_rows=8"], 'table.0.tt_rows: .* is for tables with "tt"'),
        (
            ["plan.table.0.pin=dram", "plan.table.0.onchip_rows=8"],
            'table.0.onchip_rows: .* is for tables with "onchip"',
        ),
        (
            ["plan.table.0.pin=onchip", "plan.table.0.onchip_rows=8"],
            'table.0.onchip_rows: .* the other rows need "tt" or "dram"',
        ),
        (
            ["plan.table.0.tiers=['tt', 'ssd']", "plan.table.0.tt_rank=8"],
            "table.0.tiers: .*ssd_kiops, as measured",
        ),
        (["plan.table.0.tiers=['ssd', 'onchip']"], '"onchip" and "ssd" need "dram" too'),
        (["plan.table.0.pin=ssd"], "table.0.pin: .*ssd_kiops, as measured"),
        (["plan.table.0.pin=dram", "plan.table.0.tiers=['ssd']"], "no SSD to use"),
        (
            ["plan.table.0.pin=dram", "plan.table.0.tiers=['ssd']", "device.0.ssd_kiops=9"],
            "must be one of its tiers .'ssd'., not 'dram'",
        ),
        (["plan.max_row_error=1", "plan.max_auc_loss=1"], "plan.max_row_error: give max_auc_loss"),
        (
            ["plan.max_row_error=0.1"],
            r"plan.max_row_error: a budget needs measured tables: analyze.tt_ranks",
        ),
        (["plan.max_auc_loss=0.1"], "plan.max_auc_loss: a budget needs measured tables"),
    ],
)
def test_what_cannot_be_planned_is_refused(problem, overrides, message):
    table = ["plan.table.0.name=a"] if any("plan.table" in o for o in overrides) else []
    with pytest.raises(ConfigError, match=message):
        problem(*table, *overrides)


def test_an_auc_that_was_not_measured_is_no_budget(problem, tmp_path):
    write_trials(tmp_path / "tt.parquet", [trial(2, 0.5, None)])
    with pytest.raises(ConfigError, match=r"plan\.max_auc_loss: the log has no labels"):
        problem("plan.max_auc_loss=0.1")


def test_an_unknown_solver_is_named(problem):
    with pytest.raises(ConfigError, match=r"plan\.solver: Pyomo knows no solver 'nonsense'"):
        solve(problem(), solver="nonsense")
