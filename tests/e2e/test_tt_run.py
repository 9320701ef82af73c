"""The whole path with rows in tensor-train form, as the command line runs it."""

import json

import pytest

from screc.compile.layout import Layout
from tests.conftest import shared_data
from tests.e2e.test_flow import CRITEO, DOT, SMALL, check_real, real, run

WISH = """
[[plan.table]]
name = "a"
tiers = ["onchip", "tt", "dram"]
onchip_rows = 100
tt_rank = 6
tt_rows = 2000
[plan.cores]
prefixes = 20
"""


@pytest.fixture
def case(tmp_path):
    (tmp_path / "config.toml").write_text(SMALL.replace("[plan.cores]", WISH))
    (tmp_path / "model.toml").write_text(DOT)
    return tmp_path


@pytest.mark.cosim
@pytest.mark.slow  # by default tests/cosim/test_device_tt.py runs such a device
@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_a_small_model_is_bit_exact(case, simulator):
    summary = run(case / "config.toml", case / "out", f"simulate.simulator={simulator}")
    assert summary["bit_exact"] is True
    assert summary["cores"] == {"memory": 1, "tt": 1, "compute": 1}
    assert 0 < summary["tt_lookups"] < summary["lookups"]
    assert 0 < summary["tt_hit_rate"] < 1
    assert summary["bound_cycles_per_sample"] <= summary["cycles_per_sample"]
    assert "tt" in summary["bounds"]
    simulation = json.loads((case / "out" / "simulation.json").read_text())
    assert simulation["predicted"]["parts"]["tt"] > 0


def test_decomposed_tables_are_kept(case):
    out = case / "out"
    run(case / "config.toml", out, target="compile")
    (kept,) = (out / "tt").iterdir()
    stamp = kept.stat().st_mtime_ns
    before = (out / "images" / "load.bin").read_bytes()
    # another batch is another plan, but not another table in TT form
    run(case / "config.toml", out, "plan.batch=20", "plan.cores.prefixes=7", target="compile")
    assert [path.stat().st_mtime_ns for path in (out / "tt").iterdir()] == [stamp]
    assert Layout.load(out / "images" / "layout.json").tables[0].tt.pins == 7
    assert (out / "images" / "load.bin").read_bytes() != before
    run(case / "config.toml", out, "plan.table.0.tt_rows=1990", target="compile")
    (other,) = (out / "tt").iterdir()
    assert other != kept
    # a damaged one is made again
    made = other.read_bytes()
    other.write_bytes(made[:50])
    run(case / "config.toml", out, "plan.table.0.tt_rows=1990", "model.seed=4", target="compile")
    (other,) = (out / "tt").iterdir()
    other.write_bytes(made[:50])
    (out / "images" / "manifest.json").unlink()
    run(case / "config.toml", out, "plan.table.0.tt_rows=1990", "model.seed=4", target="compile")
    assert len(other.read_bytes()) == len(made)


def test_a_table_may_be_wholly_in_tt_form(case):
    out = case / "out"
    run(
        case / "config.toml",
        out,
        'plan.table.0={name="a", pin="tt", tt_rank=4}',
        "device.0.dram_gib=0.00002",
        target="compile",
    )
    (table, _) = Layout.load(out / "images" / "layout.json").tables
    assert (table.tt.first, table.tt.last, table.dram_rows, table.ssd_rows) == (0, 3000, 0, 0)


MIDDLE = 'tiers=["onchip", "tt", "dram"], onchip_rows=64, tt_rank=16, tt_rows=100000'


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.cosim
@pytest.mark.data
@pytest.mark.parametrize(
    "overrides",
    [(), ("simulate.simulator=icarus", "simulate.samples=16")],
    ids=["verilator", "icarus"],
)
def test_criteo_with_large_tables_in_tt_form_is_bit_exact(tmp_path, overrides):
    data = shared_data("criteo_raw8k") / CRITEO
    wishes = [
        f'plan.table.{i}={{name="{name}", {MIDDLE}}}' for i, name in enumerate(("C3", "C12", "C21"))
    ]
    summary = real(tmp_path, "criteo-kaggle.toml", data, *wishes, *overrides)
    check_real(summary, 16 if overrides else 256)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    for table in plan["devices"][0]["tables"]:
        if table["table"] in ("C3", "C12", "C21"):
            assert [r["tier"] for r in table["ranges"]] == ["onchip", "tt", "dram"]
    assert summary["tt_lookups"] > len(wishes) * 2
    assert 0 < summary["auc_device"] < 1
