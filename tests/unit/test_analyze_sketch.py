"""Tables over the budget of exact counts: what their sketches say, against an exact count."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import flow
from screc.analyze import sketch
from screc.analyze.count import _at_least, analyze
from screc.analyze.reuse import Ranks
from screc.analyze.sketch import CountMin, DistinctSample, Listing, hash_ids
from screc.config import load_config
from screc.stats import read_stats, write_stats
from tests.unit.analyze_support import log_of, model, values, zipf_ids

ROWS = 3_000_000


def test_hash_is_splitmix64():
    # the first outputs of the generator with seed 0
    states = [0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A]
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = hash_ids(np.array(states, np.uint64).view(np.int64), 0)
    assert found.tolist() == expected


def test_estimates_are_never_below_the_count(monkeypatch):
    monkeypatch.setattr(sketch, "MIN_WIDTH", 1)
    ids, counts = np.unique(zipf_ids(0, 20_000, 5000, 1.1), return_counts=True)
    counters = CountMin(100, 20_000)
    assert counters.width == 256
    for part in np.array_split(np.random.default_rng(0).permutation(len(ids)), 7):
        counters.add(ids[part], counts[part])
    estimates = counters.estimate(ids)
    assert (estimates >= counts).all()
    # Cormode and Muthukrishnan: above it by e / width of all lookups with exp(-depth) at most
    assert np.mean(estimates - counts > np.e / 256 * 20_000) <= np.exp(-sketch.DEPTH)


pieces = st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=40), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(pieces, st.integers(1, 30), st.randoms(use_true_random=False))
def test_listing_does_not_depend_on_the_order(found, limit, random):
    counts = Counter(identity for piece in found for identity in piece)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "MIN_WIDTH", 16)
        patch.setattr("screc.stats.MERGE_AT", 4)
        counters = CountMin(limit, 10_000)
        counters.add(np.array(list(counts)), np.array(list(counts.values())))
        for order in (found, random.sample(found, len(found)), [[*itertools.chain(*found)]]):
            listing = Listing(counters, limit)
            for piece in order:
                listing.add(*np.unique(np.array(piece), return_counts=True))
            ids, listed, bound = listing.result()
            results.append((ids.tolist(), listed.tolist(), bound))
    assert results[0] == results[1] == results[2]
    ids, listed, bound = results[0]
    assert len(ids) == min(limit, len(counts))
    assert listed == [counts[identity] for identity in ids]
    assert all(identity in ids for identity, count in counts.items() if count > bound)


@settings(max_examples=40, deadline=None)
@given(pieces, pieces, st.integers(1, 30), st.randoms(use_true_random=False))
def test_sample_does_not_depend_on_the_order(profile, holdout, limit, random):
    parts = [(0, piece) for piece in profile] + [(1, piece) for piece in holdout]
    counts = [Counter(i for p, piece in parts if p == part for i in piece) for part in (0, 1)]
    results = []
    for order in (parts, random.sample(parts, len(parts))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("screc.stats.MERGE_AT", 4)
            sample = DistinctSample(limit)
            for part, piece in order:
                sample.add(part, *np.unique(np.array(piece), return_counts=True))
            level, *arrays = sample.result()
            results.append([level, *(array.tolist() for array in arrays)])
    assert results[0] == results[1]
    level, ids, *found = results[0]
    assert len(ids) <= limit
    everything = sorted({*counts[0], *counts[1]})
    hashes = hash_ids(np.array(everything), sketch.DEPTH)
    bits = [int(h) >> (64 - level) == 0 if level else True for h in hashes]
    assert ids == [identity for identity, inside in zip(everything, bits, strict=True) if inside]
    if level:  # one bit less would have been too many
        assert sum(int(h) >> (65 - level) == 0 for h in hashes) > limit
    for part in (0, 1):
        assert found[part] == [counts[part][identity] for identity in ids]


@pytest.mark.parametrize("sampled", [1 << 18, 1 << 15])
@pytest.mark.parametrize("budget", [3000, 20_000])
@pytest.mark.parametrize("zipf", [0.8, 1.05])
def test_shares_are_those_of_an_exact_run(monkeypatch, zipf, budget, sampled):
    monkeypatch.setattr(DistinctSample.__init__, "__defaults__", (sampled,))
    ids = zipf_ids(11, 200_000, ROWS, zipf)
    exact = analyze(log_of(ids), model(ROWS))[0]
    found = analyze(log_of(ids), model(ROWS), exact_rows=budget)[0]
    assert found.sketch is not None
    assert exact.sketch is None
    assert found.sketch.level == (0 if sampled > 2**17 else found.sketch.level or 1)
    assert (found.hot, found.profile_lookups) == (budget, exact.profile_lookups)
    assert found.holdout_lookups == exact.holdout_lookups
    assert found.distinct == pytest.approx(exact.distinct, rel=0.05)
    for rows in (10, 100, 1000, budget):  # the order is the same
        assert found.coverage(rows) == pytest.approx(exact.coverage(rows), abs=0.01)
    for rows in (budget, exact.hot // 2, exact.hot, 10**6, 2 * 10**6, ROWS):
        assert found.ranked_coverage(rows) == pytest.approx(exact.coverage(rows), abs=0.01)
    for name in ("unseen_share", "unseen_estimate", "unseen_later"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=0.01)
    covered = np.concatenate([[0], np.cumsum(exact.hot_counts)]) / exact.profile_lookups
    shares = covered[np.minimum(found.icdf, exact.hot)]
    assert shares == pytest.approx(covered[exact.icdf], abs=0.01)
    assert not found.drift.flagged


def test_the_plan_gets_what_later_lookups_do_in_its_order():
    ids = zipf_ids(12, 200_000, ROWS, 1.05)
    found = analyze(log_of(ids[:100_000]), model(ROWS), exact_rows=2000)[0]
    ranks = Ranks(found.hot_ids)(ids[100_000:])
    for rows in (100, 2000, 10_000, 10**6, 2 * 10**6):
        assert found.coverage(rows) == pytest.approx(np.mean(ranks < rows), abs=0.02)


def test_a_sketched_table_in_the_file(tmp_path):
    ids = zipf_ids(13, 20_000, ROWS, 1.0)
    found = analyze(log_of(ids, ids % 7), model(ROWS, 7), exact_rows=500)
    write_stats(tmp_path / "stats.parquet", found)
    again = read_stats(tmp_path / "stats.parquet")
    assert [values(table) for table in again] == [values(table) for table in found]
    assert [table.sketch is None for table in again] == [False, True]
    assert found[0].describe()["sketch"]["name"] == "count-min + distinct sample"


def test_a_budget_of_all_rows_is_exact():
    ids = np.concatenate([np.arange(50), np.arange(50)])
    assert analyze(log_of(ids), model(50), exact_rows=50)[0].sketch is None
    assert analyze(log_of(ids), model(50), exact_rows=49)[0].sketch is not None
    # the hold-out part has a budget, too
    few = np.concatenate([np.arange(50) % 10, np.arange(50)])
    assert analyze(log_of(few), model(50), exact_rows=40)[0].sketch is not None


def test_listed_by_chance():
    assert _at_least(0, (1, 1)) >= 50
    # 5 standard deviations below the mean there are listed_above lookups
    k = _at_least(100, (30, 70))
    mean = 0.3 * k
    assert mean - 5 * mean**0.5 >= 100
    assert 0.3 * (k - 5) - 5 * (0.3 * (k - 5)) ** 0.5 < 100
    assert _at_least(7, (0, 5)) == 0


def test_step_names_sketched_tables(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(
        '[model]\nfile = "model.toml"\n[log]\nsamples = 4000\n[analyze]\nexact_rows = 100\n'
    )
    (tmp_path / "model.toml").write_text(
        'name = "m"\ninteraction = "concat"\ntop = [1]\n'
        '[[table]]\nname = "big"\nrows = 90000\ndim = 4\n'
        '[[table]]\nname = "small"\nrows = 90\ndim = 4\n'
    )
    ctx = flow.Context.create(load_config(tmp_path / "config.toml"), tmp_path / "out")
    flow.run(ctx, "analyze")
    tables = flow.result(ctx, "analyze")["tables"]
    assert [table["sketch"] is None for table in tables] == [False, True]
    text = capsys.readouterr().err
    assert "table big: about" in text
    assert "100 of them ranked, by count-min + distinct sample; analyze.exact_rows" in text
    assert "small" not in text


@pytest.mark.parametrize("budget", [10**6, 50])
def test_progress_ends_at_its_total(budget):
    class Told:
        done = total = 0

        def advance(self, count=1):
            assert count > 0
            self.done += count

        def update(self, *, completed=None, total=None):
            assert total > self.total
            self.total = total

    told = Told()
    ids = zipf_ids(1, 3000, ROWS, 1.0)
    analyze(log_of(ids, ids % 9), model(ROWS, 9), exact_rows=budget, bar=told)
    assert told.done == told.total == 2 * 3000 + (budget == 50) * (1500 + 3000)
