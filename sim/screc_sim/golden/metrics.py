"""Figures of merit: how well a model ranks, and how far integers are from floats."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import rankdata

from screc_hw.numerics import PROBABILITY_BITS
from screc_sim.golden.quant import GoldenResult, QuantModel


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half.

    Parameters
    ----------
    labels
        0 or 1, ``(n,)``.
    scores
        Logits, codes or probabilities, ``(n,)``.

    Raises
    ------
    ValueError
        If the labels are not 0 and 1, both present, or the lengths differ.
    """
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(
            f"labels and scores must have one shape (n,), not {truth.shape} and {values.shape}"
        )
    positive = truth == 1
    count = int(positive.sum())
    if not ((truth == 0) | positive).all() or not 0 < count < len(truth):
        raise ValueError("labels must be 0 and 1, both present, for an AUC")
    wins = float(rankdata(values)[positive].sum()) - count * (count + 1) / 2
    return wins / (count * (len(truth) - count))


def bootstrap_auc(
    labels: ArrayLike, scores: ArrayLike, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """AUCs of several models on the same samples, drawn anew with replacement.

    Differences between columns are paired: a resample draws the same samples for every model.

    Parameters
    ----------
    labels
        0 or 1, ``(n,)``.
    scores
        One row per model, ``(models, n)``.
    resamples
        How often to draw n samples.
    seed
        Seed of the draws.

    Returns
    -------
    float64 ``(resamples, models)``
        NaN where a draw has labels of one kind only.

    Raises
    ------
    ValueError
        As for :func:`auc`, or if there are no resamples.
    """
    truth, values = np.asarray(labels), np.asarray(scores)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if values.ndim != 2:
        raise ValueError(f"scores must be (models, n), not {values.shape}")
    ranked = []
    for row in values:
        auc(truth, row)  # its checks
        order = np.argsort(row, kind="stable")
        ranked.append((order, np.flatnonzero(np.diff(row[order], prepend=np.nan) != 0)))
    rng = np.random.default_rng(seed)
    n = len(truth)
    done = np.empty((resamples, len(values)))
    for resample in range(resamples):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        positives = times * (truth == 1)
        pairs = int(positives.sum()) * (n - int(positives.sum()))
        for model, (order, ties) in enumerate(ranked):
            # per group of equal scores: how many positives, and how many negatives up to it
            wins = np.add.reduceat(positives[order], ties)
            losses = np.add.reduceat((times - positives)[order], ties)
            below = np.cumsum(losses) - losses
            won = float(wins @ (2 * below + losses)) / 2
            done[resample, model] = won / pairs if pairs else np.nan
    return done


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How far the integer results are from the float twin's.

    ``logit_std``: standard deviation of the float logits; ``logit_rms_error``: root mean square of
    the logit's error; ``probability_error``: mean |difference| of the probability.
    """

    logit_std: float
    logit_rms_error: float
    probability_error: float

    @property
    def relative_error(self) -> float:
        """RMS logit error as a share of the logits' standard deviation."""
        return self.logit_rms_error / self.logit_std


def fidelity(model: QuantModel, result: GoldenResult, logits: NDArray[np.floating]) -> Fidelity:
    """Compare golden results with the float twin's ``logits`` ``(n,)`` of the same samples."""
    error = result.logit * model.logit_scale - logits
    probability = result.probability / (1 << PROBABILITY_BITS)
    return Fidelity(
        logit_std=float(np.std(logits)),
        logit_rms_error=float(np.sqrt(np.mean(error**2))),
        probability_error=float(np.mean(np.abs(probability - expit(logits)))),
    )
