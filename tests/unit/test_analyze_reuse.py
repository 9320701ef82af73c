"""What batches share, against sets of every batch, and against the planner's estimate."""

import itertools

import numpy as np
import pytest

from screc.analyze import reuse
from screc.analyze.count import analyze
from screc.analyze.reuse import BATCHES, Ranks, batch_reuse, windows
from screc.analyze.sources import Piece
from screc.plan.rates import RateCurve
from screc.remap import TableRemap
from screc.stats import PREFIXES, prefix_rows
from screc.tt.shape import choose_shape
from screc_hw.model import TableShape
from tests.unit.analyze_support import log_of, model, zipf_ids


@pytest.mark.parametrize("hot", [[], [5], [9, 0, 4], list(range(11, -1, -1))])
def test_ranks_are_those_of_the_row_order(hot):
    ids = np.arange(12)
    expected = TableRemap.build(12, np.array(hot, np.int64)).ranks(ids)
    assert Ranks(np.array(hot, np.int64))(ids).tolist() == expected.tolist()


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (70, 16_454), (70, 16_455), (5, 10**6)])
def test_windows(start, stop):
    found = windows(start, stop)
    assert found[0][0] == start
    assert found[-1][1] == stop
    if stop - start <= 16_384:
        assert found == [(start, stop)]
    else:
        assert [b - a for a, b in found] == [4096] * 4
        assert all(a <= b for (_, a), (b, _) in itertools.pairwise(found))


@pytest.mark.parametrize("dim", [16, 96, 8192])
@pytest.mark.parametrize("jagged", [False, True])
def test_batches_against_sets(monkeypatch, dim, jagged):
    monkeypatch.setattr(reuse, "BATCHES", (3, 10, 40, 41))
    rng = np.random.default_rng(dim)
    table = TableShape(name="t", rows=1000, dim=dim)
    ranks = Ranks(rng.permutation(1000)[:300])
    found = [(20, 60), (75, 90)]
    samples: dict[int, list[int]] = {}
    pieces = []
    for feature in range(2):
        for a, b in found:
            lengths = rng.integers(0, 3, b - a) if jagged else None
            count = b - a if lengths is None else lengths.sum()
            piece = Piece(feature, a, rng.integers(0, 1000, count), lengths)
            pieces.append(piece)
            for i in range(b - a):
                samples.setdefault(a + i, []).extend(piece.slice(i, i + 1).ids.tolist())
    rng.shuffle(pieces)
    stride = {16: 16, 96: 128, 8192: 8192}[dim]
    p3 = choose_shape(1000, 16, 8).p[2]
    result = batch_reuse(table, ranks, pieces, found)
    assert [batch.samples for batch in result] == [3, 10, 40]
    for batch in result:
        sets = []
        for a, b in found:
            for first in range(a, b - batch.samples + 1, batch.samples):
                ids = list(itertools.chain(*map(samples.get, range(first, first + batch.samples))))
                sets.append(ranks(np.array(ids, np.int64)).tolist())
        assert batch.batches == len(sets)
        assert batch.lookups == sum(map(len, sets))
        assert batch.rows == sum(len(set(s)) for s in sets)
        per_page = max(1, 4096 // stride)
        assert batch.pages == sum(len({r // per_page for r in s}) for s in sets)
        assert batch.prefixes == sum(len({r // p3 for r in s}) for s in sets)
        assert batch.prefix_repeats == pytest.approx(1 - batch.prefixes / batch.lookups)


def test_independent_lookups_are_as_the_planner_expects():
    rows, count = 1_000_000, 120_000
    shape = model(rows, dim=64)
    ids = zipf_ids(1, count, rows, 1.05)
    table = analyze(log_of(ids), shape)[0]
    curve = RateCurve.from_counts(
        table.holdout_counts, count // 2, rows, table.unseen_lookups / (count // 2)
    )
    stride = shape.tables[0].stride_bytes(64)
    assert [b.samples for b in table.batches] == list(BATCHES)
    for batch in table.batches:
        for counted, per_rank, tolerance in (
            (batch.rows, curve.distinct(batch.samples), 0.03),
            # pages of unequal ranks are taken as equal: a little too many
            (batch.pages, curve.reads(batch.samples, stride), 0.06),
        ):
            expected = curve.tail(per_rank, 0) * batch.samples
            assert counted / batch.batches == pytest.approx(expected, rel=tolerance)


def test_prefix_hits_are_shares_of_later_lookups():
    rows = 100_000
    ids = zipf_ids(2, 60_000, rows, 1.1)
    table = analyze(log_of(ids[:40_000]), model(rows))[0]
    assert table.p3 == prefix_rows(rows) == choose_shape(rows, 16, 8).p[2]
    ranks = Ranks(table.hot_ids)(ids[40_000:])
    for prefixes in PREFIXES:
        hits = np.mean(ranks // table.p3 < prefixes)
        assert table.prefix_hits(prefixes) == pytest.approx(hits, abs=0.02)
    assert table.describe()["prefixes"]["hits"]["512"] == table.prefix_hits(512)
    assert prefix_rows(1 << 31) is None
