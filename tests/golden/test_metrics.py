import numpy as np
import pytest

from screc_sim.golden.metrics import auc, bootstrap_auc


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


def test_bootstrap_draws_the_same_samples_for_every_model():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 80)
    scores = np.stack([rng.integers(0, 6, 80) + labels, rng.normal(size=80), np.arange(80)])
    drawn = bootstrap_auc(labels, scores, 25, seed=3)
    again = np.random.default_rng(3)
    for row in drawn:
        chosen = again.integers(0, 80, 80)
        expected = [auc(labels[chosen], score[chosen]) for score in scores]
        assert row == pytest.approx(expected, abs=1e-12)


def test_bootstrap_spreads_as_theory_says():
    rng = np.random.default_rng(2)
    n = 4000
    labels = np.arange(n) % 2
    scores = rng.normal(size=(1, n)) + labels
    spread = bootstrap_auc(labels, scores, 400).std()
    # DeLong's variance from the placements of each kind among the other
    positive, negative = scores[0, labels == 1], np.sort(scores[0, labels == 0])
    of_positive = np.searchsorted(negative, positive) / (n / 2)
    of_negative = 1 - np.searchsorted(np.sort(positive), negative) / (n / 2)
    expected = np.sqrt((of_positive.var(ddof=1) + of_negative.var(ddof=1)) / (n / 2))
    assert spread == pytest.approx(expected, rel=0.15)


def test_bootstrap_without_both_labels_in_a_draw_is_nan():
    drawn = bootstrap_auc([0, 1], [[0.0, 1.0]], 50)[:, 0]
    assert np.isnan(drawn).any()
    assert set(drawn[~np.isnan(drawn)]) == {1.0}


def test_bootstrap_refuses_bad_input():
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        bootstrap_auc([0, 1], [[1, 2]], 0)
    with pytest.raises(ValueError, match=r"scores must be \(models, n\), not \(2,\)"):
        bootstrap_auc([0, 1], [1, 2], 5)
    with pytest.raises(ValueError, match="labels must be 0 and 1, both present"):
        bootstrap_auc([1, 1], [[1, 2]], 5)
