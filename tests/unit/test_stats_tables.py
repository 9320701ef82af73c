"""Access statistics: counting, shares, and the file."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import stats
from screc.errors import ConfigError
from screc.stats import FeatureStats, IdCounter, TableStats, describe_stats, read_stats, write_stats


def table(hot=((7, 5), (2, 3), (9, 1), (11, 1)), holdout=(4, 0, 2, 0), unseen=2, rows=20):
    return TableStats(
        name="t",
        rows=rows,
        dim=4,
        features=(FeatureStats(name="f", pooling=1.5, longest=4, coverage=0.9),),
        profile_samples=6,
        holdout_samples=5,
        hot_ids=np.array([identity for identity, _ in hot], np.int64),
        hot_counts=np.array([count for _, count in hot], np.int64),
        holdout_counts=np.array(holdout, np.int64),
        unseen_lookups=unseen,
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=12))
def test_counter_counts_whatever_the_pieces(pieces):
    counter = IdCounter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "MERGE_AT", 16)
        for piece in pieces:
            counter.add(np.array(piece, np.int64))
        ids, counts = counter.result()
    flat = [identity for piece in pieces for identity in piece]
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {
        identity: flat.count(identity) for identity in flat
    }
    assert ids.tolist() == sorted(ids.tolist())


def test_counter_memory_follows_the_distinct_ids(monkeypatch):
    monkeypatch.setattr(stats, "MERGE_AT", 1000)
    counter = IdCounter()
    for _ in range(100):
        counter.add(np.arange(700))
        assert counter._waiting_ids < 1700
    assert counter.result()[1].tolist() == [100] * 700


def test_shares():
    found = table()
    assert (found.hot, found.profile_lookups, found.holdout_lookups) == (4, 10, 8)
    assert found.unseen_share == 0.25
    assert found.unseen_estimate == 0.2  # two of ten lookups are on ids seen once
    assert [found.coverage(k) for k in (0, 1, 2, 3, 4)] == [0, 0.5, 0.5, 0.75, 0.75]
    assert found.coverage(12) == 0.75 + 0.25 * 8 / 16
    assert found.coverage(20) == found.coverage(99) == 1


def test_icdf_is_the_fewest_rows_for_each_percent():
    icdf = table().icdf
    assert len(icdf) == 101
    assert icdf[[0, 1, 50, 51, 80, 81, 90, 91, 100]].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_icdf_of_even_counts_is_exact():
    even = table(hot=[(i, 3) for i in range(100)], holdout=[0] * 100, rows=100)
    assert even.icdf.tolist() == list(range(101))


def test_a_table_without_lookups():
    empty = table(hot=(), holdout=(), unseen=0)
    assert empty.icdf.tolist() == [0] * 101
    assert empty.unseen_share == empty.unseen_estimate == 0
    assert empty.coverage(0) == 1


def test_a_table_seen_whole_has_nothing_unseen():
    assert table(rows=4, unseen=0, hot=((0, 1), (1, 1), (2, 1), (3, 1))).unseen_estimate == 0


def test_file_gives_back_the_same(tmp_path):
    path = tmp_path / "stats.parquet"
    write_stats(path, [table(), table(hot=(), holdout=(), unseen=0)])
    for before, after in zip(
        [table(), table(hot=(), holdout=(), unseen=0)], read_stats(path), strict=True
    ):
        assert before.describe() == after.describe()
        for name in ("hot_ids", "hot_counts", "holdout_counts", "icdf"):
            assert getattr(before, name).tolist() == getattr(after, name).tolist()
    frame = pl.read_parquet(path)
    assert frame["icdf"][0].to_list() == table().icdf.tolist()
    assert describe_stats(path)["tables"][0]["rows_covering"]["90%"] == 3


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "stats.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match=r"stats\.parquet: cannot be read as parquet"):
        read_stats(path)
    write_stats(path, [table()])
    frame = pl.read_parquet(path)
    frame.with_columns(version=pl.lit(9, pl.Int64)).write_parquet(path)
    with pytest.raises(ConfigError, match=r"must hold statistics of version 2, not \[9\]; run"):
        read_stats(path)
    frame.drop("icdf").write_parquet(path)
    with pytest.raises(ConfigError, match="must hold statistics of version 2"):
        read_stats(path)
