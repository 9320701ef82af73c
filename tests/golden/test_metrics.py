import numpy as np
import pytest

from screc_sim.golden.metrics import auc


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = rng.integers(0, 10, 60)  # many ties
    wins = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert auc(labels, scores) == pytest.approx(np.mean(wins))


def test_auc_extremes():
    assert auc([0, 0, 1, 1], [1, 2, 3, 4]) == 1.0
    assert auc([1, 1, 0, 0], [1, 2, 3, 4]) == 0.0
    assert auc([0, 1, 0, 1], [5, 5, 5, 5]) == 0.5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 2], [0, np.nan], []])
def test_auc_needs_both_classes(labels):
    with pytest.raises(ValueError, match="labels must be 0 and 1, both present"):
        auc(np.array(labels, np.float64), np.zeros(len(labels)))


def test_auc_needs_one_shape():
    with pytest.raises(ValueError, match=r"one shape \(n,\), not \(2,\) and \(3,\)"):
        auc([0, 1], [1, 2, 3])
