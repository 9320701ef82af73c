"""From configuration and statistics to a planning problem."""

import numpy as np
import pytest

from screc.config import load_config
from screc.errors import ConfigError
from screc.plan.device import device_params
from screc.plan.place import make_plan
from screc.plan.solve import solve
from screc.plan.step import describe, make_problem
from screc.stats import FeatureStats, TableStats
from tests.plan.support import shape_of

CONFIG = """
[model]
preset = "criteo-kaggle"
[[device]]
kind = "smartssd"
[plan]
batch = 16
[plan.cores]
memory = 1
compute = 1
rows = 8
columns = 8
"""

SHAPE = shape_of([1000, 50])


def stats_of(shape, *, holdout=True):
    """Half of each table's rows are hot, three lookups per sample, 10 samples in each part."""
    found = []
    for table in shape.tables:
        hot = table.rows // 2
        counts = np.arange(hot, 0, -1)
        found.append(
            TableStats(
                name=table.name,
                rows=table.rows,
                dim=table.dim,
                features=(FeatureStats(name=table.name, pooling=3.0, longest=9, coverage=0.9),),
                profile_samples=10,
                holdout_samples=10,
                hot_ids=np.arange(hot),
                hot_counts=counts,
                holdout_counts=counts if holdout else np.zeros_like(counts),
                unseen_lookups=5 if holdout else 0,
            )
        )
    return found


@pytest.fixture
def problem(tmp_path):
    def make(*overrides, stats=None):
        path = tmp_path / "config.toml"
        path.write_text(CONFIG)
        return make_problem(load_config(path, overrides), SHAPE, stats or stats_of(SHAPE))

    return make


def test_rates_are_those_of_the_holdout_part(problem):
    a, b = problem().tables
    assert a.rates.lookups == pytest.approx((500 * 501 / 2 + 5) / 10)
    assert b.rates.rows == 50
    assert problem().shape.features[0].pooling == 3.0


def test_without_holdout_lookups_the_profile_part_counts(problem):
    a, _ = problem(stats=stats_of(SHAPE, holdout=False)).tables
    assert a.rates.lookups == pytest.approx(500 * 501 / 2 / 10)


def test_a_plan_gives_the_parameters_of_its_device(problem):
    made = problem("plan.cores.rows=16", "plan.cores.memory=2")
    plan = make_plan(made, solve(made))
    params = device_params(plan, SHAPE)
    assert (params.memory, params.compute) == (2, 1)
    assert (params.core.rows, params.core.columns) == (16, 8)
    assert "2 memory, 1 compute cores of 16 × 8" in describe(plan)


def test_requirements_are_passed_on(problem):
    made = problem("plan.rate=5000", "plan.latency_ms=2.5", "plan.intervals=7")
    assert made.max_seconds == pytest.approx(2e-4)
    assert made.max_latency == pytest.approx(2.5e-3)
    assert made.intervals == 7


@pytest.mark.parametrize(
    ("wish", "dram", "ssd", "onchip"),
    [
        ("pin='ssd'", False, True, False),
        ("pin='dram'", True, False, False),
        ("tiers=['dram']", True, False, False),
        ("tiers=['onchip', 'dram']", True, False, True),
        ("tiers=['ssd', 'onchip', 'dram']", True, True, True),
        ("pin='onchip'", False, False, True),
    ],
)
def test_a_wish_restricts_the_tiers_of_its_table(problem, wish, dram, ssd, onchip):
    made = problem("device.0.ssd_kiops=400", "plan.table.0.name=a", f"plan.table.0.{wish}")
    a, b = made.tables
    assert (a.dram, a.ssd, a.onchip) == (dram, ssd, onchip)
    assert (b.dram, b.ssd, b.onchip) == (True, True, False)


TOO_MANY = "plan.table.0.tt_rows=999999999"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device.0.count=2"], "device: one device is planned so far"),
        (["device.1.kind=u50"], "device: one device is planned so far"),
        (["plan.objective=energy", "plan.rate=9"], 'plan.objective: must be "throughput" so far'),
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
        (["plan.table.0.onchip_rows=8"], 'table.0.onchip_rows: .* is for tables with "onchip"'),
        (
            ["plan.table.0.pin=onchip", "plan.table.0.onchip_rows=8"],
            'table.0.onchip_rows: .* the other rows need "tt" or "dram"',
        ),
        (
            ["plan.table.0.tiers=['tt', 'ssd']", "plan.table.0.tt_rank=8"],
            "table.0.tiers: .*ssd_kiops, as measured",
        ),
        (["plan.table.0.tiers=['ssd', 'onchip']"], '"onchip" and "ssd" need "dram" too'),
        (["plan.table.0.replicate=true"], "table.0.replicate: table 'a': not built yet"),
        (["plan.table.0.pin=ssd"], "table.0.pin: .*ssd_kiops, as measured"),
        (["plan.table.0.pin=dram", "plan.table.0.tiers=['ssd']"], "no SSD to use"),
        (
            ["plan.table.0.pin=dram", "plan.table.0.tiers=['ssd']", "device.0.ssd_kiops=9"],
            "must be one of its tiers .'ssd'., not 'dram'",
        ),
        (["plan.split=false", "plan.cores.memory=2"], "plan.cores.memory: without split"),
    ],
)
def test_what_is_not_planned_yet_is_refused(problem, overrides, message):
    table = ["plan.table.0.name=a"] if any("plan.table" in o for o in overrides) else []
    with pytest.raises(ConfigError, match=message):
        problem(*table, *overrides)
