"""Whether the hold-out part of a table is like its profile part.

Where both are draws from one log, every lookup of an id is in the hold-out part with the same
probability q, its share of all lookups, whatever the id. So an id with k lookups in all is missing
from the profile part with q**k, and its lookups split binomially: no popularity is estimated.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtrc, ndtr  # its distributions take a while to import

from screc.analyze.sources import Ints
from screc.stats import Drift

SIGNIFICANCE = 1e-6
"""Probability by chance below which a difference is one: one table in a million is flagged so."""

SHARE = 0.02
"""Share of the lookups that a difference must reach to be flagged: in a log of millions the least
of them is significant, but tier shares are not off by more than this."""

EXPECTED = 5
"""Lookups that a row must have in either part, in expectation, to be compared by itself (Cochran's
rule for chi-squared tests)."""


def find_drift(
    *,
    lookups: tuple[int, int],
    counts: tuple[Ints, Ints],
    sampled: tuple[Ints, Ints] | None = None,
    at_least: int = 0,
) -> Drift:
    """Compare the parts of a table.

    Parameters
    ----------
    lookups
        Lookups of the profile and of the hold-out part.
    counts
        Lookups of ids in both parts, int64 ``(n,)`` each: all ids that occur, or the listed ones.
    sampled
        The same of a sample of ids that does not depend on counts, where ``counts`` are listed ids.
    at_least
        Lookups, in both parts, above which no id is missing from ``counts``.

    References
    ----------
    Cochran: Some methods for strengthening the common chi-squared tests, Biometrics 1954.
    De Moivre's mean absolute deviation of the binomial: Diaconis, Zabell: Closed form summation
    for classical distributions, Statistical Science 1991.
    """
    total = sum(lookups)
    if not min(lookups):
        return Drift()
    q = lookups[1] / total
    unseen_excess, unseen_p = _unseen(q, *(counts if sampled is None else sampled))
    moved, moved_p = _moved(lookups, q, *counts, at_least)
    return Drift(
        unseen_excess=unseen_excess,
        unseen_p=unseen_p,
        moved=moved,
        moved_p=moved_p,
        flagged=(unseen_p < SIGNIFICANCE and unseen_excess > SHARE)
        or (moved_p < SIGNIFICANCE and moved > SHARE),
    )


def _unseen(q: float, profile: Ints, holdout: Ints) -> tuple[float, float]:
    """Share of the hold-out lookups on ids of no profile lookup, less what is expected."""
    later = int(holdout.sum())
    if not later:
        return 0.0, 1.0
    lookups, ids = np.unique(profile + holdout, return_counts=True)
    missing = q**lookups
    expected = float((ids * lookups * missing).sum())
    variance = float((ids * lookups.astype(float) ** 2 * missing * (1 - missing)).sum())
    excess = int(holdout[profile == 0].sum()) - expected
    if variance <= 0:
        return 0.0, 1.0
    return excess / later, float(ndtr(-excess / math.sqrt(variance)))


def _moved(
    lookups: tuple[int, int], q: float, profile: Ints, holdout: Ints, at_least: int
) -> tuple[float, float]:
    """Total variation between the parts beyond chance, over rows with enough lookups."""
    both = profile + holdout
    often = both >= max(EXPECTED / min(q, 1 - q), at_least)
    count = int(often.sum())
    if not count:
        return 0.0, 1.0
    variance = both[often] * (q * (1 - q))
    off = holdout[often] - both[often] * q
    chance = np.sqrt(2 * variance / math.pi)
    per_lookup = (1 / lookups[0] + 1 / lookups[1]) / 2
    moved = float((np.abs(off) - chance).sum()) * per_lookup
    return moved, float(chdtrc(count, (off**2 / variance).sum()))
