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
