"""Sums over jagged bags, for integer codes and float rows alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from screc_sim.samples import Bags

LOOKUPS_AT_ONCE = 1 << 15
"""Lookups gathered at a time, so that memory stays bounded whatever the bags' lengths."""


def bag_sums(
    bags: Bags, fetch: Callable[[NDArray[np.int64]], NDArray[Any]], dim: int, dtype: DTypeLike
) -> NDArray[Any]:
    """Sum the rows of every bag; an empty bag is 0.

    Parameters
    ----------
    bags
        Ids of every bag.
    fetch
        Gives rows ``(len(ids), dim)`` of ids.
    dim
        Components of a row.
    dtype
        Type of the sums; rows are converted to it before they are added.

    Returns
    -------
    ndarray
        ``(bags, dim)`` of ``dtype``.
    """
    sums = np.zeros((len(bags.offsets) - 1, dim), dtype)
    for first, last in _runs(bags.offsets):
        part = bags.slice(first, last)
        filled = np.flatnonzero(part.lengths)
        if len(filled):
            # empty bags take no lookups, so the starts of the others delimit them exactly
            rows = fetch(part.ids).astype(dtype)
            if len(filled) < len(part.ids):
                rows = np.add.reduceat(rows, part.offsets[filled], axis=0)
            sums[first + filled] = rows
    return sums


def _runs(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut bags into runs ``[first, last)`` of at most LOOKUPS_AT_ONCE lookups, or of one bag."""
    first, bags = 0, len(offsets) - 1
    while first < bags:
        fits = int(np.searchsorted(offsets, offsets[first] + LOOKUPS_AT_ONCE, side="right")) - 1
        last = min(max(fits, first + 1), bags)
        yield first, last
        first = last
