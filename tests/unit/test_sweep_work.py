"""What a sweep keeps: finished points, what ends a point, figures of plans old and new."""

import dataclasses

import pytest

from screc import flow
from screc.config import Config, load_config, model_shape
from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind, ToolchainError
from screc.sweep import evaluate
from screc.sweep.command import Outcome, parse_rtl
from screc.sweep.evaluate import Task, perform
from screc.sweep.figures import measured_figures, planned_figures
from screc.sweep.grid import Case
from screc.sweep.work import Work, analysis_key, measurement_key, plan_key
from screc.sweep.workers import Workers, available_cores

MODEL = """
name = "m"
top = [4, 1]
interaction = "concat"
[[table]]
name = "a"
rows = 10
dim = 4
"""

PLAN = {
    "objective": "throughput",
    "bound": 0.9e-6,
    "value": 1e-6,
    "gap": 0.1,
    "solve_seconds": 0.5,
    "bottleneck": "dram",
    "devices": [
        {
            "cores": {"memory": 2, "tt": 0, "compute": 1},
            "shapes": {"rows": 8, "columns": 16},
            "utilisation": {"lut": 0.5, "dram": 0.25},
        }
    ],
}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "model.toml").write_text(MODEL)
    (tmp_path / "config.toml").write_text('[model]\nfile = "model.toml"\n[log]\nsamples = 20\n')
    return tmp_path / "config.toml"


def case(config, *overrides):
    loaded = load_config(config, overrides)
    return Case(loaded, model_shape(loaded))


def task(config, kind="plan"):
    return Task(kind, "k", case(config), config.parent / "work", analysis="a", plan="k")


def test_finished_points_are_whole_or_absent(tmp_path):
    work = Work(tmp_path / "w")
    assert work.finished("planned", "k") is None
    work.finish("planned", "k", {"status": "ok"})
    assert work.finished("planned", "k") == {"status": "ok"}
    assert work.finished("measured", "k") is None
    (tmp_path / "w" / "planned" / "k.json").write_text('{"status": ')
    assert work.finished("planned", "k") is None


def test_what_a_killed_sweep_left_half_written_goes(tmp_path):
    work = Work(tmp_path / "w")
    work.finish("planned", "k", {})
    half = tmp_path / "w" / "planned" / ".k.json.x1y2"
    half.write_text("{")
    with work.lock():
        assert not half.exists()
        assert work.finished("planned", "k") == {}


def test_one_sweep_at_a_time(tmp_path):
    with (
        Work(tmp_path / "w").lock(),
        pytest.raises(ConfigError, match="another sweep"),
        Work(tmp_path / "w").lock(),
    ):
        pass


def test_keys_depend_on_what_counts(config, tmp_path):
    def keys(*overrides):
        one = case(config, *overrides)
        analysis = analysis_key(one, tmp_path)
        plan = plan_key(one, tmp_path, analysis)
        return analysis, plan, measurement_key(one.config, plan)

    base = keys()
    assert keys() == base
    assert keys("plan.batch=128") == base  # the default, named
    same = {
        "simulate.samples=9": (True, True, False),
        "plan.batch=9": (True, False, False),
        "device.0={kind='u50'}": (True, False, False),
        "model.calibration='mse'": (True, False, False),
        "model.seed=9": (False, False, False),
        "model.scale=0.5": (False, False, False),
        "log.samples=30": (False, False, False),
    }
    for override, expected in same.items():
        found = tuple(a == b for a, b in zip(keys(override), base, strict=True))
        assert found == expected, override
    (config.parent / "model.toml").write_text(MODEL.replace("rows = 10", "rows = 11"))
    assert not set(keys()) & set(base)


@pytest.mark.parametrize(
    ("error", "status", "kept"),
    [
        (PlanError(PlanErrorKind.DSP, "need 9 dsp"), "infeasible", True),
        (PlanError(PlanErrorKind.SOLVER, "out of time"), "error", False),
        (ConfigError("no", field="plan.rate"), "error", True),
        (CheckError("does not build"), "error", True),
        (ToolchainError("make", "apt install make"), "error", False),
        (OSError(28, "No space left on device"), "error", False),
        (ValueError("surprise"), "error", False),
    ],
)
def test_what_ends_a_point_is_its_record(config, monkeypatch, error, status, kept):
    def fail(task, work):
        raise error

    monkeypatch.setattr(evaluate, "_plan", fail)
    record = perform(task(config))
    assert record["status"] == status
    assert str(error.args[-1]) in record["message"]
    assert (Work(task(config).folder).finished("planned", "k") == record) is kept


@pytest.mark.parametrize("ran", [True, False])
def test_words_that_differ_are_told_with_their_cycles(config, monkeypatch, ran):
    one = task(config, "measure")
    folder = Work(one.folder).plan("k")
    (folder / "rtl").mkdir(parents=True)
    text = '{"cycles_per_sample": 10, "predicted": {"total": 24}, "samples": 3, "bit_exact": false}'

    def run(ctx, target):
        assert target == "simulate"
        if ran:
            (ctx.out / "simulation.json").write_text(text)
        raise CheckError("3 of 3 samples differ")

    monkeypatch.setattr(flow, "run", run)
    record = perform(one)
    assert record["status"] == "error"
    assert "differ" in record["message"]
    assert record.get("bit_exact") is (False if ran else None)
    assert record.get("predicted_cycles_per_sample") == (8 if ran else None)
    assert (folder / "rtl").exists() is not ran


def test_an_analysis_is_shared_without_a_copy(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    (source / "stats.parquet").write_text("stats")
    (source / flow.STATE_FILE).write_text("{}")
    (source / ".half").write_text("")
    evaluate._link(source, target)
    assert sorted(path.name for path in target.iterdir()) == [flow.STATE_FILE, "stats.parquet"]
    assert (target / "stats.parquet").samefile(source / "stats.parquet")
    # one that was begun and not ended is begun again
    (target / flow.STATE_FILE).unlink()
    evaluate._link(source, target)
    assert (target / flow.STATE_FILE).exists()


def test_an_analysis_is_copied_where_links_cannot_be(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(evaluate.os, "link", refuse)
    source = tmp_path / "a"
    source.mkdir()
    (source / "stats.parquet").write_text("stats")
    (source / flow.STATE_FILE).write_text("{}")
    evaluate._link(source, tmp_path / "b")
    assert (tmp_path / "b" / "stats.parquet").read_text() == "stats"


def config_of(**plan):
    return Config.model_validate({"model": {"preset": "rm1"}, "plan": plan})


def test_figures_of_a_plan():
    found = planned_figures(config_of(), "m", PLAN)
    assert found["throughput"] == pytest.approx(1e6)
    assert (found["devices"], found["memory"], found["rows"]) == (1, 2, 8)
    assert (found["lut"], found["dsp"], found["clock_mhz"]) == (0.5, None, 250)
    assert found["energy_per_sample"] is None
    assert found["latency"] is None


def test_figures_of_a_plan_of_several_devices():
    first = PLAN["devices"][0]
    second = {
        "cores": {"memory": 4, "tt": 0, "compute": 1},
        "shapes": first["shapes"],
        "utilisation": {"lut": 0.75},
    }
    plan = PLAN | {"devices": [first, second], "energy": 2e-6, "latency": 1e-3}
    plan |= {"objective": "energy", "value": 2e-6}
    found = planned_figures(config_of(objective="energy", rate=5e5), "m", plan)
    assert found["throughput"] == 5e5
    assert (found["energy_per_sample"], found["latency"]) == (2e-6, 1e-3)
    assert (found["devices"], found["memory"], found["compute"]) == (2, None, 1)
    assert (found["lut"], found["dram"]) == (0.75, 0.25)


def test_figures_of_a_simulation():
    simulation = {
        "cycles_per_sample": 10.0,
        "predicted": {"total": 36.0},
        "samples": 4,
        "bit_exact": True,
    }
    found = measured_figures(config_of(), simulation)
    assert found["predicted_cycles_per_sample"] == 9
    assert found["error_percent"] == pytest.approx(-10)
    assert found["measured_throughput"] == pytest.approx(25e6)


def measured(predicted, cycles, throughput):
    return {
        "status": "ok",
        "throughput": throughput,
        "predicted_cycles_per_sample": predicted,
        "measured_cycles_per_sample": cycles,
        "bit_exact": True,
    }


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        ([(10, 11, 1), (9, 10, 2)], True),
        ([(10, 9, 1), (9, 10, 2)], False),
        ([(10, 10, 1), (10, 10, 2)], True),
    ],
)
def test_winners(tmp_path, rows, same):
    outcome = Outcome([], [measured(*one) for one in rows], tmp_path, tmp_path)
    winners = outcome.winners()
    assert winners["same"] is same
    assert winners["planned"]["throughput"] == 2
    assert Outcome([], [{"status": "error"}], tmp_path, tmp_path).winners() is None


@pytest.mark.parametrize("text", ["0", "-1", "most", "1.5", ""])
def test_rtl_is_a_name_or_a_count(text):
    with pytest.raises(ConfigError, match="--rtl"):
        parse_rtl(text)
    assert parse_rtl("7") == "7"


def test_one_worker_is_this_process(config, monkeypatch):
    tasks = [dataclasses.replace(task(config), key=name) for name in "ab"]
    monkeypatch.setattr("screc.sweep.workers.perform", lambda one: {"status": one.key})
    with Workers(1) as workers:
        assert [(t.key, r["status"]) for t, r in workers.run(tasks)] == [("a", "a"), ("b", "b")]
    assert available_cores() >= 1
