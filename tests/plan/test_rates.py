import itertools

import numpy as np
import pytest

from screc.plan.rates import RateCurve
from tests.plan.support import zipf_curve


def per_rank(curve):
    return np.repeat(curve.rates, curve.widths)


def test_rates_never_rise_and_keep_the_lookups():
    counts = np.array([90.0, 60, 70, 5, 9, 0, 2])
    curve = RateCurve.from_counts(counts, 10, 1007, 3.0)
    assert curve.rows == 1007
    assert (np.diff(curve.rates) < 0).all()
    assert curve.lookups == pytest.approx(counts.sum() / 10 + 3.0)
    assert per_rank(curve)[1] == pytest.approx(6.5)  # 60 and 70 are out of order: their mean


def test_unseen_rows_share_their_lookups():
    curve = RateCurve.from_counts(np.array([8.0, 4.0]), 2, 102, 0.5)
    assert per_rank(curve)[2:] == pytest.approx(0.005)


@pytest.mark.parametrize("hot", [0, 5], ids=["nothing hot", "all hot"])
def test_extreme_tables(hot):
    curve = RateCurve.from_counts(np.arange(hot, 0, -1.0), 1, max(hot, 5), 0.0)
    assert curve.rows == 5
    assert curve.lookups == hot * (hot + 1) / 2


@pytest.mark.parametrize("of", [1, 2, 4, 7, 16, 64])
def test_tail_and_residues_match_a_sum_over_ranks(of):
    curve = RateCurve.from_counts(np.array([9.0, 9, 5, 1, 1, 1]), 3, 30, 0.7)
    rates = per_rank(curve)
    for first, last in itertools.combinations((0, 1, 4, 17, 29, 30), 2):
        assert curve.tail(curve.rates, first) == pytest.approx(rates[first:].sum())
        for residue in range(of):
            wanted = [rates[r] for r in range(first, last) if r % of == residue]
            found = curve.residue_sum(curve.rates, first, last, of, residue)
            assert found == pytest.approx(sum(wanted))
            ones = np.ones_like(curve.rates)
            assert curve.residue_sum(ones, first, last, of, residue) == len(wanted)


def test_a_cut_changes_no_rate():
    curve = RateCurve.from_counts(np.array([9.0, 9, 5, 1, 1, 1]), 3, 30, 0.7)
    for rank in (0, 1, 17, 30):
        again = curve.cut(rank)
        assert rank in again.edges
        assert per_rank(again) == pytest.approx(per_rank(curve))


def test_covering_is_the_fewest_ranks():
    curve = RateCurve.from_counts(np.array([9.0, 9, 5, 1, 1, 1]), 3, 30, 0.7)
    shares = np.cumsum(per_rank(curve)) / curve.lookups
    for share in (0.01, 0.3, 0.5, 0.9, 0.97):
        rank = curve.covering(share)
        assert shares[rank - 1] >= share * (1 - 1e-12)
        assert rank == 1 or shares[rank - 2] < share


def test_distinct_rows_and_reads_by_simulation():
    curve = zipf_curve(400, 3.0)
    rates, batch, stride = per_rank(curve), 50, 512
    rng = np.random.default_rng(1)
    hits = rng.poisson(rates * batch, (4000, 400)) > 0
    assert (curve.distinct(batch) @ curve.widths) * batch == pytest.approx(
        hits.sum(1).mean(), rel=0.01
    )
    pages = hits.reshape(4000, 50, 8).any(2).sum(1).mean()  # 8 rows of 512 bytes to a page
    assert (curve.reads(batch, stride) @ curve.widths) * batch == pytest.approx(pages, rel=0.02)


def test_costs_of_a_rank_on_ssd_fall_with_its_rank():
    curve = zipf_curve(1000, 20.0)
    for cost in (curve.distinct(64), curve.reads(64, 64)):
        assert (np.diff(cost) <= 0).all()
