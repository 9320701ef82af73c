"""Which memory core reads a row that each of them holds."""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray

__all__ = ["deal", "level"]

Ints = NDArray[np.int64]


def level(loads: Ints, count: int, cost: int) -> Ints:
    """Split ``count`` rows over cores as if each went to the one with the least load so far.

    Parameters
    ----------
    loads
        Of every core so far, int64 ``(cores,)``.
    count, cost
        Rows, and what each adds to its core's load, at least 1.

    Returns
    -------
    int64 ``(cores,)``
        Rows of every core. Of equal loads the first core's counts as less.
    """

    def begun(load: int) -> Ints:
        """Rows of every core that are given to it while its load is below ``load``."""
        return np.maximum(0, -((loads - load) // cost))

    low, high = int(loads.min()), int(loads.max()) + cost * count
    # the last load up to which no more rows are begun than there are
    at = low + bisect.bisect_right(range(low, high + 1), count, key=lambda n: begun(n).sum()) - 1
    rows = begun(at)
    lowest = np.flatnonzero(loads + rows * cost == at)
    rows[lowest[: count - int(rows.sum())]] += 1
    return rows


def deal(counts: Ints, windows: Ints) -> Ints:
    """Give every row a core: ``counts`` of each, evenly over time.

    Each window has its share of every core's rows, within two of each. In a window, rows of one
    core follow each other, so that few bags are cut in two.

    Parameters
    ----------
    counts
        Rows of every core, int64 ``(cores,)``.
    windows
        Window of every row, in order, int64 ``(rows,)``, as many as ``counts`` in all.

    Returns
    -------
    int64 ``(rows,)``
        Core of every row.
    """
    cores = len(counts)
    core = np.repeat(np.arange(cores), counts)
    within = np.arange(len(core)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.argsort((within + 0.5) / counts[core], kind="stable")
    return np.sort(windows * cores + core[turn], kind="stable") % cores
