"""Sweeps as the command line runs them: rows, resuming after any end, Dask, RTL beside plans."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from screc import cli
from tests.e2e.test_flow import DOT, SMALL

MODEL = """
name = "tiny"
top = [4, 1]
interaction = "concat"
[[table]]
name = "a"
rows = 200
dim = 8
pooling = 6
[[table]]
name = "b"
rows = 30
dim = 8
"""

CONFIG = """
[model]
file = "model.toml"
[log]
samples = 400
[[device]]
kind = "smartssd"
ssd_kiops = 400
[plan]
batch = 8
[plan.cores]
rows = 2
columns = 8
memory = 1
compute = 1
prefixes = 4
[[plan.table]]
name = "a"
tiers = ["onchip", "tt", "dram"]
onchip_rows = 10
tt_rank = 4
[simulate]
simulator = "icarus"
samples = 64
"""

GRID = ("plan.batch=8,12,16,20,24,28", "plan.cores.columns=8,16", "plan.cores.memory=1,2")
TIMES = ["solve_seconds"]
"""Columns that differ from run to run."""


@pytest.fixture
def case(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "model.toml").write_text(MODEL)
    return tmp_path


def arguments(case, grid, *more, file="s.parquet"):
    sets = [word for axis in grid for word in ("--set", axis)]
    return ["sweep", str(case / "config.toml"), "-o", str(case / file), *sets, *map(str, more)]


def sweep(capsys, case, grid, *more, file="s.parquet"):
    """Run the command in this process; return (exit code, what --json says, stderr)."""
    code = 0
    try:
        cli.main(arguments(case, grid, "--json", *more, file=file))
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def table(case, file="s.parquet"):
    return pl.read_parquet(case / file)


def finished(case, file="s.parquet"):
    """Time of change of every finished point and of its plan, by name."""
    work = case / f"{file}.work"
    times = {}
    for record in (work / "planned").glob("[!.]*.json"):
        for path in (record, work / "plans" / record.stem / "plan.json"):
            if path.exists():
                times[str(path.relative_to(work))] = path.stat().st_mtime_ns
    return times


def count(times):
    """Finished points among the files of :func:`finished`."""
    return sum(name.startswith("planned") for name in times)


def test_every_point_is_a_row_whatever_becomes_of_it(case, capsys):
    grid = ("plan.cores.columns=8,64", "plan.cores.rows=2,3,64", "plan.table.0.tiers=['dram']")
    grid += ("plan.table.0={name='a'}",)
    code, found, err = sweep(capsys, case, grid, "--workers", 1)
    assert code == 0
    rows = table(case)
    assert rows.height == 6
    expected = itertools.product((8, 64), (2, 3, 64))
    assert rows.select("plan.cores.columns", "plan.cores.rows").rows() == list(expected)
    statuses = rows["status"].to_list()
    assert statuses == ["ok", "error", "ok", "ok", "error", "infeasible"]
    assert (found["ok"], found["infeasible"], found["error"]) == (3, 1, 2)
    assert found["planned"] == 4  # what is no configuration is not planned
    assert "power of two" in rows["message"][1]
    assert "dsp" in rows["message"][5]
    ok = rows.filter(pl.col("status") == "ok")
    assert ok["columns"].to_list() == ok["plan.cores.columns"].to_list()
    assert (ok["throughput"] > 0).all()
    assert (ok["gap"] <= 0.01).all()
    assert rows.filter(pl.col("status") != "ok")["throughput"].null_count() == 3
    assert "Points that no other beats" in err
    assert Path(found["picture"]).exists()


def test_a_plan_of_a_sweep_is_that_of_the_flow(case, capsys):
    assert sweep(capsys, case, ("plan.batch=16,24",), "--workers", 1, "-q")[0] == 0
    out = case / "out"
    config = str(case / "config.toml")
    cli.main(["plan", config, "-o", str(out), "--set", "plan.batch=24", "-q"])
    plan = json.loads((out / "plan.json").read_text())
    row = table(case).row(1, named=True)
    assert row["throughput"] == 1 / plan["value"]
    assert (row["bound"], row["gap"], row["bottleneck"]) == (
        plan["bound"],
        plan["gap"],
        plan["bottleneck"],
    )
    assert row["lut"] == plan["devices"][0]["utilisation"]["lut"]


def test_a_changed_grid_reuses_equal_points(case, capsys):
    code, found, _ = sweep(capsys, case, ("plan.batch=8,16",), "--workers", 1)
    assert (code, found["planned"]) == (0, 2)
    first, before = table(case), finished(case)
    code, found, _ = sweep(capsys, case, ("plan.batch=8,16",), "--workers", 1)
    assert (code, found["planned"]) == (0, 0)
    assert table(case).equals(first)
    # the same settings by other ways
    grid = ("plan.batch=16,32", "plan.cores.columns=8", "device.0.clock_mhz=250,250.5")
    code, found, _ = sweep(capsys, case, grid, "--workers", 1)
    assert code == 0
    assert found["planned"] == 4  # a clock that is named is another configuration
    grid = ("plan.batch=32,16,8", "plan.cores.columns=8")
    code, found, _ = sweep(capsys, case, grid, "--workers", 1)
    assert (code, found["planned"]) == (0, 1)
    assert table(case)["plan.batch"].to_list() == [32, 16, 8]
    assert before.items() <= finished(case).items()
    assert len(list((case / "s.parquet.work" / "analyses").iterdir())) == 1


def test_points_share_an_analysis_where_they_may(case, capsys):
    grid = ("log.samples=300,400", "model.scale=1,0.5", "plan.batch=8,16")
    code, found, _ = sweep(capsys, case, grid, "--workers", 1, "-q")
    assert (code, found["ok"]) == (0, 8)
    assert len(list((case / "s.parquet.work" / "analyses").iterdir())) == 4


@pytest.mark.parametrize(
    ("grid", "more", "expected"),
    [
        (("plan.bach=1,2",), (), "bach"),
        (("plan.batch",), (), "--set"),
        (("plan.batch=8",), ("--rtl", "most"), "--rtl"),
        (("plan.batch=8",), ("--workers", "0"), "--workers"),
        (("model={preset='rm1'}",), (), "column"),
        (("log.path=none.npz",), ("--workers", "1"), "none.npz"),
    ],
)
def test_bad_input_exits_1_and_leaves_no_table(case, capsys, grid, more, expected):
    code, found, err = sweep(capsys, case, grid, *more)
    assert (code, found) == (1, None)
    assert expected in err
    assert "Traceback" not in err
    assert not (case / "s.parquet").exists()


def test_the_file_is_parquet(case, capsys):
    code, _, err = sweep(capsys, case, ("plan.batch=8",), file="s.csv")
    assert code == 1
    assert ".parquet" in err


def test_a_missing_simulator_is_told_before_anything_runs(case, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = sweep(capsys, case, ("plan.batch=8,16",), "--rtl", "best")
    assert code == 3
    assert "iverilog" in err
    assert not (case / "s.parquet.work").exists()


def test_a_cluster_gives_the_same_rows(case, capsys):
    from distributed import LocalCluster

    grid = GRID[1:]
    assert sweep(capsys, case, grid, "--workers", 1)[0] == 0
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        address = cluster.scheduler_address
        code, found, _ = sweep(capsys, case, grid, "--scheduler", address, file="c.parquet")
    assert (code, found["planned"]) == (0, 4)
    one, two = (table(case, file).drop(TIMES) for file in ("s.parquet", "c.parquet"))
    assert one.equals(two)


def test_a_scheduler_that_does_not_answer_is_named(case, capsys, monkeypatch):
    monkeypatch.setattr("screc.sweep.workers.CONNECT_S", 0.2)
    code, _, err = sweep(capsys, case, ("plan.batch=8",), "--scheduler", "tcp://nowhere.invalid:1")
    assert code == 1
    assert "nowhere.invalid" in err
    assert "Traceback" not in err


def start(case, grid, workers):
    """Start the command in a process group of its own, quiet."""
    command = [sys.executable, "-m", "screc", *arguments(case, grid, "--workers", workers, "-q")]
    return subprocess.Popen(
        command,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after(process, case, points, delay, signals):
    """Send a signal once that many more points are finished, and ``delay`` s later."""
    goal = count(finished(case)) + points
    while process.poll() is None and count(finished(case)) < goal:
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signals)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def check_unchanged(case, before):
    """No finished point of ``before`` was done again."""
    assert before.items() <= finished(case).items()


def test_a_stopped_sweep_goes_on_where_it_was(case, capsys):
    assert sweep(capsys, case, GRID, "--workers", 1, file="whole.parquet")[0] == 0
    code, _ = stop_after(start(case, GRID, 1), case, 3, 0.02, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = finished(case)
    assert count(before) >= 3
    # on a terminal, Ctrl-C goes to the workers too
    code, err = stop_after(start(case, GRID, 2), case, 2, 0, signal.SIGINT)
    assert code == 130
    assert err.strip().endswith("interrupted")
    check_unchanged(case, before)
    before = finished(case)
    assert 3 <= table(case).height <= 24
    code, found, _ = sweep(capsys, case, GRID, "--workers", 1)
    assert code == 0
    assert found["planned"] == 24 - count(before)
    check_unchanged(case, before)
    whole = table(case, "whole.parquet")
    assert table(case).drop(TIMES).equals(whole.drop(TIMES))


BIG = (
    "plan.batch=8,12,16,20,24",
    "device.0.clock_mhz=150,175,200,225,250",
    "plan.cores.columns=8,16,32,64",
    "plan.cores.memory=1,2",
)


@pytest.mark.slow
def test_200_points_survive_being_killed_at_any_moment(case, capsys):
    code, found, _ = sweep(capsys, case, BIG, "--workers", 1, "-q", file="whole.parquet")
    assert (code, found["points"], found["planned"]) == (0, 200, 200)
    generator = random.Random(5)
    kills, before = 0, {}
    while count(before) < 170 or kills < 6:
        process = start(case, BIG, 1 + kills % 2)
        points = generator.randint(0, 40)
        code, _ = stop_after(process, case, points, generator.uniform(0, 0.3), signal.SIGKILL)
        check_unchanged(case, before)
        before = finished(case)
        if code == 0:
            break
        kills += 1
        with capsys.disabled():
            print(f"kill {kills}: {count(before)} of 200 points are finished")
    assert kills >= 4
    code, found, _ = sweep(capsys, case, BIG, "--workers", 2, "-q")
    assert code == 0
    assert found["planned"] == 200 - count(before)
    check_unchanged(case, before)
    whole = table(case, "whole.parquet")
    assert table(case).drop(TIMES).equals(whole.drop(TIMES))
    with capsys.disabled():
        print(f"{kills} kills, {found['planned']} points in the last run; the table is the same")


@pytest.mark.cosim
def test_measured_cycles_stand_beside_predicted_ones(case, capsys):
    # no TT cores, which take half of the time to build; rows in DRAM, as gathering is the limit
    # then: the array's cycles are not predicted as well where layers are as small as these
    tables = "plan.table=[{name='a', pin='dram'}, {name='b', pin='dram'}]"
    grid = ("plan.cores.rows=8,16", "plan.batch=64,32", tables)
    code, found, err = sweep(capsys, case, grid, "--workers", 1, "--rtl", 2)
    assert code == 0
    assert found["simulated"] == 2
    rows = table(case)
    ran = rows.filter(pl.col("measured_cycles_per_sample").is_not_null())
    others = rows.filter(pl.col("measured_cycles_per_sample").is_null())
    assert ran.height == 2
    assert ran["throughput"].min() >= others["throughput"].max()
    check_measured(found, ran, within=15)
    assert "winner" in err
    # what was simulated is not simulated again
    code, found, _ = sweep(capsys, case, grid, "--workers", 1, "--rtl", 2)
    assert (code, found["planned"], found["simulated"]) == (0, 0, 0)
    assert table(case).equals(rows)


def check_measured(found, ran, within):
    """Every run is bit exact, ``within`` percent of what was predicted; the winner is the same."""
    assert ran["bit_exact"].all()
    for row in ran.iter_rows(named=True):
        ratio = row["predicted_cycles_per_sample"] / row["measured_cycles_per_sample"]
        assert row["error_percent"] == pytest.approx(100 * (ratio - 1))
        assert abs(row["error_percent"]) <= within
        cycles = row["clock_mhz"] * 1e6 / row["measured_throughput"]
        assert cycles == pytest.approx(row["measured_cycles_per_sample"])
    assert found["winners"]["same"]


TT = """
[[plan.table]]
name = "a"
tiers = ["onchip", "tt", "dram"]
onchip_rows = 20
tt_rank = 16
[plan.cores]
prefixes = 16
"""


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_predicted_and_measured_cycles_pick_the_same_winner(tmp_path, capsys):
    config = SMALL.replace("[plan.cores]", TT).replace("batch = 24", "batch = 32")
    (tmp_path / "config.toml").write_text(config.replace("samples = 40", "samples = 64"))
    model = DOT.replace("pooling = 5", "pooling = 19").replace("dim = 8", "dim = 16")
    (tmp_path / "model.toml").write_text(model.replace("[16, 8]", "[16, 16]"))
    grid = ("plan.cores.tt_lanes=1,2", "plan.cores.columns=8,16", "plan.cores.memory=1,2")
    code, found, err = sweep(capsys, tmp_path, grid, "--rtl", "all")
    with capsys.disabled():
        print(err)
    assert code == 0
    rows = table(tmp_path)
    assert rows["measured_cycles_per_sample"].null_count() == 0
    check_measured(found, rows, within=20)  # few samples: filling and draining count
    winners = found["winners"]
    chosen = [
        [winners[kind][key.partition("=")[0]] for key in grid]
        for kind in ("planned", "predicted", "measured")
    ]
    assert chosen == [[2, 16, 2]] * 3
