"""A synthetic log of 26 tables: what the script writes, and what analysing it takes."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from screc.analyze.count import analyze
from screc.config import load_config, model_shape
from screc.logs import open_log

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_log.py"

MEASURE = """
import json, resource, sys, time
from screc.cli import main
started = time.perf_counter()
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
usage = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss would begin with that of the process that started this one
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps({
    "wall_s": time.perf_counter() - started,
    "cpu_s": usage.ru_utime + usage.ru_stime,
    "peak_gb": peak * 1024 / 1e9,
}))
"""


def write(folder, samples, **keys):
    runpy.run_path(str(SCRIPT))["write_folder"](
        folder, samples, **{"zipf": 1.05, "seed": 0, **keys}
    )
    return folder / "config.toml"


def measure(config, out):
    """Analyse in a process of its own: seconds, CPU seconds, and its peak memory in GB."""
    command = [sys.executable, "-c", MEASURE, "analyze", str(config), "-o", str(out), "-q"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    found = json.loads(done.stdout)
    print(f"{config.parent.name}: {found}")
    return found


def test_a_log_depends_on_its_seed_and_chunk_alone(tmp_path):
    module = runpy.run_path(str(SCRIPT))
    module["write_log"].__globals__["CHUNK_ROWS"] = 100
    rows = (1000, 3, 50_000_000)
    frames = []
    for name, samples, seed in (("a", 250, 0), ("b", 100, 0), ("c", 250, 1)):
        path = tmp_path / f"{name}.parquet"
        module["write_log"](path, rows, samples, zipf=1.05, seed=seed)
        frames.append(pl.read_parquet(path))
    assert [len(frame) for frame in frames] == [250, 100, 250]
    assert frames[0].columns == ["C1", "C2", "C3"]
    assert frames[0].head(100).equals(frames[1])
    assert not frames[0].equals(frames[2])
    assert not frames[0]["C1"].head(100).equals(frames[0]["C1"].slice(100, 100))
    for column, count in zip(frames[0].iter_columns(), rows, strict=True):
        assert column.max() < count


def test_a_written_log_is_counted_whole(tmp_path):
    config = load_config(write(tmp_path, 50_000))
    shape = model_shape(config)
    stats = analyze(open_log(config.log, shape, seed=0), shape)
    frame = pl.read_parquet(tmp_path / "log.parquet")
    assert len(stats) == 26
    for table, column in zip(stats, frame.iter_columns(), strict=True):
        ids = column.to_numpy().astype(np.int64)
        assert table.hot == len(np.unique(ids[:25_000]))
        assert table.profile_lookups == table.holdout_lookups == 25_000
        assert not table.drift.flagged


def test_a_million_rows_stay_within_memory_and_time(tmp_path):
    found = measure(write(tmp_path, 1_000_000), tmp_path / "out")
    assert found["peak_gb"] < 1
    assert found["cpu_s"] < 20


@pytest.mark.slow
def test_twenty_million_rows(tmp_path):
    """Time is the processor's: the machine may be doing other things, and two cores halve it."""
    found = []
    for millions in (20, 40):
        folder = tmp_path / f"{millions} million"
        found.append(measure(write(folder, millions * 10**6), folder / "out"))
        (folder / "log.parquet").unlink()
    assert found[0]["cpu_s"] < 40
    assert max(run["peak_gb"] for run in found) < 4
    assert found[1]["cpu_s"] < 2.2 * found[0]["cpu_s"]
