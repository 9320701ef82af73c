"""The analyze step on a Dask cluster: the same bytes as in one process."""

import runpy
import socket
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from screc.analyze.count import analyze
from screc.analyze.runners import Cluster, open_runner
from screc.cli import cli
from screc.config import LogConfig
from screc.errors import ConfigError
from screc.logs import open_log
from tests.unit.analyze_support import log_of, model, values, zipf_ids

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_log.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("log")
    runpy.run_path(str(SCRIPT))["write_folder"](found, 12_000, zipf=1.05, seed=1)
    return found


def run(folder, out, *options):
    arguments = ["analyze", str(folder / "config.toml"), "-o", str(out), "-q", *options]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return (out / "stats.parquet").read_bytes()


def test_workers_of_this_machine_give_the_same_bytes(folder, tmp_path):
    # some tables over the budget: exact counts and sketches
    options = ("--set", "analyze.exact_rows=2000")
    here = run(folder, tmp_path / "here", *options)
    assert run(folder, tmp_path / "there", *options, "--workers", "2") == here
    assert run(folder, tmp_path / "exact") != here


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as found:
        yield found


def test_a_running_cluster_gives_the_same_bytes(folder, tmp_path, cluster):
    here = run(folder, tmp_path / "here")
    address = cluster.scheduler_address
    assert run(folder, tmp_path / "there", "--scheduler", address) == here


@pytest.mark.parametrize("budget", [10**6, 700])
@pytest.mark.parametrize("samples", [3, 5000])
def test_batches_on_a_cluster(cluster, samples, budget):
    columns = [zipf_ids(i, samples, 3000, 1.0) for i in range(3)]
    log = log_of(*columns, profile=0.4, holdout=0.5, at_once=100)
    shape = model(3000, 3000, features=(0, 1, 0))
    here = analyze(log, shape, exact_rows=budget)
    with Client(cluster) as client:
        there = analyze(log, shape, exact_rows=budget, runner=Cluster(client))
    assert [values(table) for table in there] == [values(table) for table in here]
    assert np.array_equal(here[1].hot_counts, there[1].hot_counts)


def test_what_is_no_id_is_named_from_a_cluster_too(cluster, tmp_path):
    pl.DataFrame({"a": [4, 5, -3, 1]}).write_parquet(tmp_path / "log.parquet")
    shape = model(100)
    table = {"table": "f0", "column": "a"}
    log = open_log(LogConfig(path=str(tmp_path / "log.parquet"), table=(table,)), shape, seed=0)
    with Client(cluster) as client, pytest.raises(ConfigError, match=r"row 2: a: -3 is no id"):
        analyze(log, shape, runner=Cluster(client))


def test_either_workers_or_a_scheduler():
    with pytest.raises(ConfigError, match="--workers: a scheduler has its own workers"):
        with open_runner(2, "tcp://somewhere"):
            pass


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("screc.analyze.runners.CONNECT_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match="--scheduler: no Dask scheduler answers at 'tcp:"):
            with open_runner(None, address):
                pass
    with pytest.raises(
        ConfigError, match="--scheduler: no Dask scheduler answers at 'nonsense://x'"
    ):
        with open_runner(None, "nonsense://x"):
            pass
