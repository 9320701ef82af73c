"""Tier shares out of sample: predicted from a log, compared with what comes after it."""

import itertools

import numpy as np
import pytest

from screc.analyze.count import analyze
from screc.analyze.reuse import Ranks
from screc.stats import UNSEEN_RANGES, behind_edges
from tests.unit.analyze_support import log_of, model, zipf_ids

ROWS = 10_000_000


@pytest.mark.parametrize("scattered", [True, False], ids=["scattered", "in order"])
@pytest.mark.parametrize("zipf", [0.6, 0.8, 1.05, 1.2])
def test_shares_of_a_later_slice(zipf, scattered):
    ids = zipf_ids(7, 200_000, ROWS, zipf, scattered=scattered)
    table = analyze(log_of(ids[:100_000]), model(ROWS))[0]
    later = ids[100_000:]
    ranks = Ranks(table.hot_ids)(later)
    for rows in (10, 1000, 10_000, table.hot, 10**5, 10**6, 5 * 10**6, 9 * 10**6, ROWS):
        assert table.coverage(rows) == pytest.approx(np.mean(ranks < rows), abs=0.02), rows
    assert table.unseen_share == pytest.approx(np.mean(ranks >= table.hot), abs=0.01)
    assert table.unseen_estimate == pytest.approx(table.unseen_share, abs=0.01)
    new = ~np.isin(later, ids[:100_000])
    assert table.unseen_later == pytest.approx(new.mean(), abs=0.01)


def test_lookups_behind_the_hot_rows_by_rank():
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.integers(0, 500, 400), rng.integers(0, 1000, 400)])
    table = analyze(log_of(ids), model(1000))[0]
    ranks = Ranks(table.hot_ids)(ids[400:])
    behind = ranks[ranks >= table.hot] - table.hot
    edges = behind_edges(1000 - table.hot)
    assert (edges[0], edges[-1], len(edges)) == (0, 1000 - table.hot, UNSEEN_RANGES + 1)
    expected = [((behind >= a) & (behind < b)).sum() for a, b in itertools.pairwise(edges)]
    assert table.unseen_by_rank.tolist() == expected
    assert table.unseen_rows == len(set(behind.tolist()))
    counts = np.bincount(ids)
    assert table.once == (counts == 1).sum()
    # every edge of a range is exact
    for rank in table.hot + edges:
        assert table.coverage(rank) == pytest.approx(np.mean(ranks < rank))


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_edges_of_few_rows(rows):
    edges = behind_edges(rows)
    assert (edges[0], edges[-1]) == (0, rows)
    assert (np.diff(edges) >= 0).all()


def test_without_later_lookups_the_estimate_stands_in():
    ids = zipf_ids(3, 20_000, 50_000, 1.0)
    log = log_of(np.concatenate([ids[:10_000], ids[:10_000]]))
    bag = log.reader.bags[0]
    offsets = np.minimum(np.arange(20_001), 10_000)
    log.reader.bags[0] = type(bag)(bag.ids[:10_000], offsets)
    table = analyze(log, model(50_000))[0]
    assert table.holdout_lookups == 0
    ranks = Ranks(table.hot_ids)(ids[10_000:])
    assert table.unseen_estimate == pytest.approx(np.mean(ranks >= table.hot), abs=0.02)
    assert table.coverage(table.hot) == pytest.approx(1 - table.unseen_estimate)
    assert table.coverage(25_000) == pytest.approx(np.mean(ranks < 25_000), abs=0.02)
    assert table.coverage(50_000) == pytest.approx(1)
