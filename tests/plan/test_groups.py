"""Tables that cost alike, cut together; and the two-point spread, which no split undercuts."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.plan import groups as module
from screc.plan.groups import make_groups, replicable
from screc.plan.rates import RateCurve, page_reads
from tests.plan.support import problem_of, zipf_curve


def curve_of(pieces):
    """A falling curve of ``(count, factor)`` pieces."""
    counts = [count for count, _ in pieces]
    rates = 3.0 * np.cumprod([factor for _, factor in pieces])
    return RateCurve(np.cumsum([0, *counts]), rates)


PIECES = st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 0.999)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), pieces=PIECES, batch=st.sampled_from([1, 16, 1024]))
def test_no_split_of_the_true_curve_costs_less_than_the_spread(data, pieces, batch):
    curve = curve_of(pieces)
    problem = problem_of([curve.rows], batch=batch, demands={"a": {"rates": curve}})
    (group,) = make_groups(problem)
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first + 1, len(pieces)))
    spread = group.spread(first, last)
    true = group.interval(first, last)
    assert sum(part.rows for part in spread) == pytest.approx(true.rows)
    assert sum(part.lookups for part in spread) == pytest.approx(true.lookups)
    # any share of each piece on SSD; the spread's rows that are as many and as hot
    share = np.array(data.draw(st.lists(st.floats(0, 1), min_size=last - first, max_size=12)))
    share = np.resize(share, last - first)
    count, rate = group.count[first:last] * share, group.rate[first:last]
    rows, lookups = count.sum(), count @ rate
    distinct, reads = count @ group.distinct[first:last], count @ group.reads[first:last]
    high, low = rate[0], rate[-1]
    if len(spread) == 1:
        if true.rows:
            assert spread == [true]
        return
    hot = (lookups - low * rows) / (high - low)
    used = np.array([hot / spread[0].rows, (rows - hot) / spread[1].rows])
    assert (used >= -1e-9).all()
    assert (used <= 1 + 1e-9).all()
    assert used @ [part.distinct for part in spread] <= distinct * (1 + 1e-9) + 1e-12
    assert used @ [part.reads for part in spread] <= reads * (1 + 1e-9) + 1e-12


def test_a_spread_without_rate_differences_is_the_interval():
    problem = problem_of([50], demands={"a": {"rates": RateCurve(np.array([0, 50]), np.ones(1))}})
    (group,) = make_groups(problem)
    assert group.spread(0, 1) == [group.interval(0, 1)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_refined_intervals_are_fine_around_the_split(data, seed):
    rng = np.random.default_rng(seed)
    rows = [int(n) for n in rng.integers(20, 3000, 3)]
    problem = problem_of(rows, pooling=[float(p) for p in rng.uniform(0.5, 5, 3)])
    (group,) = make_groups(problem)
    cuts = group.coarse(8)
    piece = data.draw(st.integers(0, len(group.rate) - 1))
    for _ in range(4):
        number = int(np.searchsorted(cuts, piece, "right")) - 1
        interval = group.interval(int(cuts[number]), int(cuts[number + 1]))
        if group.is_fine(interval, problem.intervals):
            break
        finer = group.refine(cuts, [number])
        assert set(cuts) < set(finer)
        cuts = finer
    part = slice(interval.first, interval.last)
    if interval.last - interval.first == 1 or group.rate[part].min() == group.rate[part].max():
        return
    for local, table in enumerate(problem.tables):
        mine = group.table[part] == local
        if mine.sum() <= 1:
            continue
        assert group.count[part][mine].sum() <= table.shape.rows / problem.intervals
        lookups = group.count[part][mine] @ group.rate[part][mine]
        assert lookups <= table.rates.lookups / problem.intervals * (1 + 1e-9)


def test_tables_that_cost_alike_are_one_group():
    problem = problem_of(
        [300, 200, 100, 80],
        dim=[16, 16, 32, 16],
        demands={"d": {"ssd": False}},
    )
    found = make_groups(problem)
    assert [group.tables for group in found] == [(0, 1), (2,), (3,)]
    both = found[0]
    assert (np.diff(both.rate) <= 0).all()
    assert both.interval(0, len(both.rate)).rows == 500
    for local, number in enumerate(both.tables):
        mine = both.table == local
        curve = problem.tables[number].rates
        starts = both.start[mine]
        assert (np.diff(starts) > 0).all()  # a table's pieces stay in the order of its ranks
        assert both.count[mine].sum() == curve.rows
        ranks = np.repeat(curve.rates, curve.widths)
        assert both.rate[mine] == pytest.approx(ranks[starts])
    lookups = both.lookups_by_table(both.interval(0, len(both.rate)))
    assert lookups == pytest.approx({0: 1.0, 1: 1.0})
    assert [group.tables for group in make_groups(problem, merge=False)] == [(0,), (1,), (2,), (3,)]


def test_costs_of_pieces_are_those_of_their_rates():
    problem = problem_of([400], batch=64)
    (group,) = make_groups(problem)
    stride = problem.tables[0].stride
    for rate, distinct, reads in zip(group.rate, group.distinct, group.reads, strict=True):
        assert distinct == pytest.approx((1 - np.exp(-64 * rate)) / 64)
        page = 4096 / stride
        assert reads == pytest.approx((1 - np.exp(-64 * rate * page)) / (64 * page))
    assert page_reads(np.zeros(1), 64, 8192) == pytest.approx([0.0])


def test_coarse_cuts_keep_the_places_where_rules_begin():
    problem = problem_of([5000], demands={"a": {"onchip_rows": 1234}})
    (group,) = make_groups(problem)
    cuts = group.coarse(6)
    assert cuts[0] == 0
    assert cuts[-1] == len(group.rate)
    assert 1234 in group.start[cuts[:-1]]


def test_small_tables_of_many_partials_may_be_replicated(monkeypatch):
    demands = {"b": {"replicate": False}, "c": {"replicate": True}}
    problem = problem_of([30, 30, 3000, 20], count=2, demands=demands)
    assert replicable(problem) == {2}
    monkeypatch.setattr(module, "REPLICATED", 64)
    assert replicable(problem) == {0, 2, 3}
    monkeypatch.setattr(module, "REPLICATED", 1)
    assert replicable(problem) == {2, 3}  # d has more partials per byte than a
    monkeypatch.setattr(module, "REPLICATED_SHARE", 0.0)
    assert replicable(problem) == {2}
    alone = dataclasses.replace(problem, classes=[dataclasses.replace(problem.classes[0], count=1)])
    assert replicable(alone) == frozenset()


def test_rates_of_a_group_keep_the_lookups():
    problem = problem_of([900], demands={"a": {"rates": zipf_curve(900, 7.5)}})
    (group,) = make_groups(problem)
    cuts = group.coarse(10)
    parts = [group.interval(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
    assert sum(part.lookups for part in parts) == pytest.approx(7.5)
    assert sum(part.rows for part in parts) == 900
