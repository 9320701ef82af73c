"""Rows of a table in tensor-train form as a source of rows."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from screc.tt.decompose import FloatTt

NUMBERS_AT_ONCE = 1 << 22
"""Numbers made at a time while the largest is looked for."""


class TtRows:
    """A table that three TT cores make up, for golden model and float twin.

    Parameters
    ----------
    tt
        The TT cores.
    """

    def __init__(self, tt: FloatTt) -> None:
        self.tt = tt

    @property
    def rows(self) -> int:
        """Count of rows."""
        return self.tt.shape.rows

    @property
    def dim(self) -> int:
        """Components of a row."""
        return self.tt.shape.dim

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows ``ids`` as float32 ``(len(ids), dim)``."""
        return self.tt.rows(ids)

    def peak(self) -> float:
        """Return a bound of the magnitudes: the largest of all p1·p2·p3 rows, by one pass, kept."""
        return self._peak

    @cached_property
    def _peak(self) -> float:
        shape = self.tt.shape
        r2 = shape.ranks[1]
        last = self.tt.cores[2].transpose(1, 0, 2).reshape(r2, -1)
        used = -(-shape.rows // shape.p[2])
        step = max(1, NUMBERS_AT_ONCE // (shape.q[0] * shape.q[1] * last.shape[1]))
        peak = 0.0
        for start in range(0, used, step):
            prefixes = np.arange(start, min(start + step, used))
            values = self.tt.first_products(prefixes).reshape(-1, r2) @ last
            peak = max(peak, float(values.max()), -float(values.min()))
        return peak
