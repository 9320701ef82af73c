"""Counting ids in parts: any pieces, sorted or in an array, up to a budget."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.analyze import leaves as counting
from screc.analyze.count import analyze
from screc.analyze.leaves import BagTally, Notes, Tally, count_ids
from screc.analyze.sources import Piece
from screc_sim.samples import Bags
from tests.unit.analyze_support import log_of, model, values


@pytest.mark.parametrize("sparse", [0, 4, 10**9], ids=["sorted", "by size", "in an array"])
@pytest.mark.parametrize("ids", [[0], [6], [6, 0, 6, 3, 3, 3], list(range(7))])
def test_distinct_ids_and_counts(monkeypatch, sparse, ids):
    monkeypatch.setattr(counting, "SPARSE", sparse)
    found, counts = count_ids(np.array(ids), 7)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == Counter(ids)
    assert found.tolist() == sorted(set(ids))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=20), max_size=8),
    st.sampled_from([1, 1 << 30]),
    st.integers(0, 40),
)
def test_tally_is_exact_up_to_its_budget(pieces, dense_rows, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "DENSE_ROWS", dense_rows)
        patch.setattr("screc.stats.MERGE_AT", 8)
        tally = Tally(31, budget)
        for piece in pieces:
            tally.add(*np.unique(np.array(piece), return_counts=True))
        ids, counts = tally.result()
    expected = Counter(identity for piece in pieces for identity in piece)
    assert tally.over == (len(expected) > budget)
    if not tally.over:
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == expected
        assert (np.diff(ids) > 0).all()
    else:
        assert len(ids) == len(counts) == 0


def test_bags():
    tally = BagTally()
    tally.add(Piece(0, 0, np.arange(5), np.array([2, 0, 3])))
    tally.add(Piece(0, 3, np.arange(4), None))
    assert (tally.lookups, tally.longest, tally.filled) == (9, 3, 6)
    tally = BagTally()
    tally.add(Piece(0, 0, np.arange(2), None))
    assert (tally.lookups, tally.longest, tally.filled) == (2, 1, 2)


@pytest.mark.parametrize("jagged", [False, True])
def test_notes_keep_the_samples_of_windows(jagged):
    ids = np.arange(100, 112)
    lengths = np.array([1, 2, 0, 3, 1, 5]) if jagged else None
    notes = Notes()
    notes.add(Piece(0, 10, ids, lengths), [(0, 11), (12, 14), (15, 99), (99, 120)])
    if jagged:
        assert [(p.first, p.ids.tolist(), p.lengths.tolist()) for p in notes.windows] == [
            (10, [100], [1]),
            (12, [103, 104, 105], [0, 3]),
            (15, [107, 108, 109, 110, 111], [5]),
        ]
    else:
        assert [(p.first, p.ids.tolist()) for p in notes.windows] == [
            (10, [100]),
            (12, [102, 103]),
            (15, list(range(105, 112))),
        ]


@pytest.mark.parametrize(("waiting", "at_once"), [(1, 7), (50, 1000), (1 << 23, 64)])
def test_statistics_do_not_depend_on_the_pieces(monkeypatch, waiting, at_once):
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 4, 500)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    bags = Bags(rng.integers(0, 90, offsets[-1]), offsets)
    shape = model(90, 40, features=(0, 1, 0))
    columns = rng.integers(0, 40, 500), rng.integers(0, 90, 500)
    log = log_of(*columns, columns[0])
    log.reader.bags = [bags, *log.reader.bags[:2]]
    whole = [values(table) for table in analyze(log, shape)]
    monkeypatch.setattr(counting, "WAITING_LOOKUPS", waiting)
    monkeypatch.setattr("screc.analyze.sources.SAMPLES_AT_ONCE", at_once)
    log.reader.at_once = at_once
    assert [values(table) for table in analyze(log, shape)] == whole
    assert whole[0]["features"][0].longest == lengths.max()


def test_a_table_that_no_feature_reads_has_empty_statistics():
    shape = model(10, 5, features=(0,))
    found = analyze(log_of(np.arange(10)), shape)
    assert (found[0].hot, found[1].hot, found[1].pooling) == (5, 0, 0)
    assert found[1].coverage(0) == 1
