"""Parquet logs by lazy queries: the same statistics as by their batches, or the batches' error."""

import numpy as np
import polars as pl
import pytest

from screc.analyze.count import analyze
from screc.analyze.sources import BatchSource, LazySource, open_source
from screc.config import LogConfig
from screc.errors import ConfigError
from screc.logs import lazy, open_log
from tests.unit.analyze_support import model, values

ROWS = (700, 90, 5, 4_000_000_000)


def write(folder, frames):
    for i, frame in enumerate(frames):
        frame.write_parquet(folder / f"log{i}.parquet", row_group_size=100)
    return str(folder / "*.parquet")


def open_parquet(path, shape, columns, **keys):
    tables = tuple(
        {"table": f.name, "column": c} for f, c in zip(shape.features, columns, strict=True)
    )
    return open_log(LogConfig(path=path, table=tables, **keys), shape, seed=0)


def lists(rng, samples, *, nulls):
    found = [rng.integers(0, 2**40, rng.integers(0, 4)).tolist() for _ in range(samples)]
    if nulls:
        found[3], found[7] = None, [5, None, 6]
    return found


def frame(seed, samples=333, nulls=True):
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 2**63, samples, dtype=np.uint64) * 2 + 1
    narrow = [
        None if nulls and i % 50 == 9 else v
        for i, v in enumerate(rng.integers(0, 200, samples).tolist())
    ]
    return pl.DataFrame(
        {
            "wide": pl.Series(wide, dtype=pl.UInt64),
            "list": pl.Series(lists(rng, samples, nulls=nulls), dtype=pl.List(pl.Int64)),
            "narrow": pl.Series(narrow, dtype=pl.UInt8),
            "u32": pl.Series(rng.integers(0, 2**32, samples), dtype=pl.UInt32),
        }
    )


COLUMNS = ("wide", "list", "narrow", "u32")


@pytest.mark.parametrize("block", [100, 130, 1 << 22])
@pytest.mark.parametrize("nulls", [False, True])
def test_same_as_the_batches(tmp_path, monkeypatch, block, nulls):
    monkeypatch.setattr(lazy, "BLOCK_LOOKUPS", block)
    monkeypatch.setattr(lazy, "MIN_BLOCK_SAMPLES", 64)
    path = write(tmp_path, [frame(0, nulls=nulls), frame(1, 1, nulls=False), frame(2, nulls=nulls)])
    shape = model(*ROWS)
    log = open_parquet(path, shape, COLUMNS, profile=0.4, holdout=0.35)
    assert isinstance(open_source(log, shape), LazySource)
    found = analyze(log, shape)
    expected = analyze(log, shape, source=BatchSource(log, shape))
    assert [values(t) for t in found] == [values(t) for t in expected]
    assert found[1].pooling > 1
    assert found[3].hot_ids.max() > 2**31


def test_features_of_one_table(tmp_path):
    path = write(tmp_path, [frame(5)])
    shape = model(700, 50, features=(0, 1, 0))
    log = open_parquet(path, shape, ("list", "u32", "narrow"))
    expected = analyze(log, shape, source=BatchSource(log, shape))
    assert [values(t) for t in analyze(log, shape)] == [values(t) for t in expected]


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pl.Series("a", ["7", "1f", "7", "300"]), "modulo"),
        (pl.Series("a", [7, 9, 7, 300]), "dictionary"),
    ],
    ids=["text", "dictionary"],
)
def test_other_values_are_read_in_batches(tmp_path, column, ids):
    path = write(tmp_path, [pl.DataFrame([column])])
    shape = model(100)
    log = open_parquet(path, shape, ("a",), ids=ids)
    assert isinstance(open_source(log, shape), BatchSource)
    assert analyze(log, shape)[0].profile_lookups == 2


@pytest.mark.parametrize("dtype", [pl.Int64, pl.List(pl.Int64)])
def test_what_is_no_id_is_named(tmp_path, dtype):
    ids = [4, 5, -3, 1]
    column = pl.Series("a", [[i] for i in ids] if dtype != pl.Int64 else ids, dtype=dtype)
    path = write(tmp_path, [pl.DataFrame([column])])
    shape = model(100)
    log = open_parquet(path, shape, ("a",))
    assert isinstance(open_source(log, shape), LazySource)
    with pytest.raises(ConfigError, match=r"log0\.parquet: row 2: a: -3 is no id: 0 or more"):
        analyze(log, shape)


def test_blocks_follow_the_mean_bag(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "MIN_BLOCK_SAMPLES", 4)
    monkeypatch.setattr(lazy, "BLOCK_LOOKUPS", 100)
    long = pl.DataFrame({"a": [list(range(10))] * 50, "b": range(50)})
    path = write(tmp_path, [long.clear(), long])
    shape = model(100, 100)
    found = open_parquet(path, shape, ("a", "b")).reader.lazy()
    assert [found.block_samples(i) for i in (0, 1)] == [10, 100]
    none = lazy.LazyIds((), (), found.columns)
    assert none.block_samples(0) == 100
