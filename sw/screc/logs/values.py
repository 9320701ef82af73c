"""What columns mean, and the values of dense features and labels, in every format alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_LABEL = (
    "is not a label, 0 or 1; label = {column = ..., at_least = ...} makes one of a larger number"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a CSV or parquet file are what.

    ``ids`` are names of the columns of every feature, and whether those are hexadecimal (None:
    where a letter occurs); ``dense`` names in order; ``label`` name and threshold, or None.
    """

    ids: Sequence[tuple[str, bool | None]]
    dense: Sequence[str]
    label: tuple[str, float | None] | None

    @cached_property
    def names(self) -> list[str]:
        """Every column that is read."""
        label = [self.label[0]] if self.label else []
        return [*(name for name, _ in self.ids), *self.dense, *label]


def log_dense(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return log(1 + max(x, 0)), as Criteo's integer features are taken."""
    return np.log1p(np.maximum(values, 0)).astype(np.float32)


def labels_of(
    values: NDArray[Any], at_least: float | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return labels of 0 and 1, and where there is none.

    Parameters
    ----------
    values
        Numbers ``(n,)``.
    at_least
        What counts as positive; None: the values are labels.
    """
    if at_least is not None:
        return (values >= at_least).astype(np.float32), np.zeros(len(values), np.bool_)
    return values.astype(np.float32), (values != 0) & (values != 1)
