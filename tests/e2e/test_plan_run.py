"""What is planned from a configuration, as the command line runs it, and what is built of it."""

import json

import pytest

from tests.e2e.test_cli import invoke
from tests.e2e.test_flow import DOT, SMALL, run


@pytest.fixture
def case(tmp_path):
    (tmp_path / "config.toml").write_text(SMALL)
    (tmp_path / "model.toml").write_text(DOT)
    return tmp_path


def command_line(capsys, case, command, *overrides):
    """Exit code of the command line, and what it prints: an object, or the error."""
    settings = [part for o in overrides for part in ("--set", o)]
    out = case / "out"
    code, printed, error = invoke(
        capsys, command, case / "config.toml", "--output", out, "--json", "--quiet", *settings
    )
    return code, error if code else json.loads(printed)


@pytest.mark.parametrize("command", ["compile", "generate", "simulate", "run"])
@pytest.mark.parametrize(
    "overrides",
    [("device.0.count=2",), ("device.1.kind=u50",)],
    ids=["two of a kind", "two kinds"],
)
def test_several_devices_are_not_built(case, capsys, command, overrides):
    code, error = command_line(capsys, case, command, *overrides)
    assert code == 1
    assert "device: 2 devices can be planned for (`screc plan`)" in error
    assert not (case / "out").exists()


@pytest.mark.parametrize(
    ("objective", "overrides"),
    [
        ("throughput", ("device.0.count=2",)),
        ("energy", ("device.1.kind=u50", "plan.rate=1e5")),
        ("devices", ("device.0.count=2", "plan.rate=1e5")),
    ],
)
def test_several_devices_are_planned(case, capsys, objective, overrides):
    code, plan = command_line(capsys, case, "plan", f"plan.objective={objective}", *overrides)
    assert code == 0
    assert plan == json.loads((case / "out" / "plan.json").read_text())
    assert plan["objective"] == objective
    assert {device["kind"] for device in plan["devices"]} <= {"smartssd", "u50"}
    assert sum(device["samples"] for device in plan["devices"]) == pytest.approx(1)
    figure = {
        "throughput": plan["seconds"],
        "energy": plan["energy"],
        "devices": len(plan["devices"]),
    }[objective]
    assert plan["value"] == figure
    assert 0 <= plan["gap"] <= 0.01
    assert plan["bound"] <= plan["value"]


CROSS = 'interaction = "cross"\ncross = {layers = 2, rank = 8}'
PLANNED_ONLY = [
    ('interaction = "dot"', CROSS, r'interaction: "cross" is planned, not built yet'),
    (
        'name = "b"\nrows = 200\ndim = 8',
        'name = "b"\nrows = 200\ndim = 16\nproject = 8',
        "table.1.project: a map after pooling is planned, not built yet",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), PLANNED_ONLY, ids=["cross", "project"])
def test_layers_without_hardware_are_planned(case, capsys, old, new, message):
    (_, plain) = command_line(capsys, case, "plan")
    assert old in DOT
    (case / "model.toml").write_text(DOT.replace(old, new, 1))
    code, plan = command_line(capsys, case, "plan")
    assert code == 0
    # more to compute for the same cores
    assert plan["per_sample"]["compute"] > plain["per_sample"]["compute"]
    for command in ("generate", "compile", "run"):
        code, error = command_line(capsys, case, command)
        assert code == 1
        assert message in error
    assert not (case / "out" / "rtl").exists()


def test_an_unknown_solver_is_refused(case, capsys):
    code, error = command_line(capsys, case, "plan", "plan.solver=nonsense")
    assert code == 1
    assert "plan.solver: Pyomo knows no solver 'nonsense'" in error


def test_a_budget_of_accuracy_needs_trials(case, capsys):
    code, error = command_line(capsys, case, "plan", "plan.max_row_error=0.5")
    assert code == 1
    message = "plan.max_row_error: a budget needs measured tables: analyze.tt_ranks = [8, 16]"
    assert message in error
    trials = ("analyze.tt_ranks=[2, 4]", "analyze.tt_tables=['a']", "analyze.tt_samples=16")
    for budget, wanted in (("0.999", True), ("0.001", False)):
        small = ("device.0={kind='u50', dram_gib=0.00002}", *trials)
        code, plan = command_line(
            capsys, case, "plan", f"plan.max_row_error={budget}", "plan.gap=0.02", *small
        )
        assert code == 0
        (a, _) = plan["devices"][0]["tables"]
        assert ("tt" in {r["tier"] for r in a["ranges"]}) == wanted


@pytest.mark.cosim
def test_replicated_tables_are_bit_exact(case):
    summary = run(
        case / "config.toml",
        case / "out",
        "simulate.simulator=icarus",
        "simulate.samples=24",
        "plan.cores.memory=2",
        "plan.cores.rows=4",
        "plan.table=[{name='a', replicate=true, onchip_rows=40}, {name='b', pin='dram'}]",
    )
    assert summary["bit_exact"] is True
    assert summary["cores"]["memory"] == 2
    plan = json.loads((case / "out" / "plan.json").read_text())
    (a, b) = plan["devices"][0]["tables"]
    assert all(r.get("replicated") and "core" not in r for r in a["ranges"])
    assert not any(r.get("replicated") for r in b["ranges"])
    simulation = json.loads((case / "out" / "simulation.json").read_text())
    lookups = [core["lookups"] for core in simulation["counters"]["memory"]]
    assert min(lookups) > 0.9 * max(lookups)
