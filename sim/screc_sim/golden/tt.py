"""Tables in tensor-train form in integers: rows rebuilt exactly as the reconstructor does.

The rules are in docs/tt.md, "Arithmetic".
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from screc_hw.numerics import (
    ACC_BITS,
    INT8_MAX,
    MIDDLE_MAX,
)
from screc_hw.tt.codes import Int8Cores, check_codes
from screc_hw.tt.shape import TtShape
from screc_sim.golden.ops import check_width, requantise

FRACTION_MAX = 8
"""Most bits of a component below the table's row grid."""

NUMBERS_AT_ONCE = 1 << 20
"""Numbers of the largest temporary while rows are rebuilt: 8 MiB."""


@dataclasses.dataclass(frozen=True)
class QuantTt:
    """A quantised table in tensor-train form.

    Parameters
    ----------
    shape
        Its sizes.
    cores
        int8 (p1, q1, r1), (p2, r1, q2, r2), (p3, r2, q3), in [-127, 127].
    shift1
        Rounding shift of the first product, 0..7.
    m, s
        Requantisation of the second product.
    fraction
        Bits of a component below the table's row grid, 0..8.
    scale
        Real value of one step of the table's row grid; a component is in units of
        ``scale / 2**fraction``.

    Raises
    ------
    ValueError
        If a core has another shape or type, or a value is out of its range; names it.
    """

    shape: TtShape
    cores: Int8Cores
    shift1: int
    m: int
    s: int
    fraction: int
    scale: float

    def __post_init__(self) -> None:
        check_codes(self.shape, self.cores, shift1=self.shift1, m=self.m, s=self.s)
        if not 0 <= self.fraction <= FRACTION_MAX:
            raise ValueError(f"fraction must lie in 0..{FRACTION_MAX}, not {self.fraction}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be finite and positive, not {self.scale}")

    @property
    def unit(self) -> float:
        """Real value of one step of a component."""
        return self.scale / (1 << self.fraction)

    @property
    def limit(self) -> int:
        """Largest magnitude of a component."""
        return INT8_MAX << self.fraction

    def first_sums(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Accumulators of the first product, exact, int64 ``(n, q1, q2, r2)``.

        They fit 16 + log2 rank bits whatever the cores hold.

        Parameters
        ----------
        prefixes
            ``i1 · p2 + i2`` in ``[0, shape.prefixes)``, int64 ``(n,)``.
        """
        (q1, q2, _), (r1, r2), p2 = self.shape.q, self.shape.ranks, self.shape.p[1]
        sums = np.empty((len(prefixes), q1, q2 * r2), np.int64)
        step = max(1, NUMBERS_AT_ONCE // (max(q1, r1) * q2 * r2))
        first, second = self.cores[0], self.cores[1].reshape(p2, r1, q2 * r2)
        for start in range(0, len(prefixes), step):
            part = slice(start, start + step)
            i1, i2 = np.divmod(prefixes[part], p2)
            # float64 is exact: every partial sum is an integer below 127² · r1 < 2**53
            sums[part] = first[i1].astype(np.float64) @ second[i2].astype(np.float64)
        return sums.reshape(-1, q1, q2, r2)

    def first_products(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """First products, rounded and clamped, int64 ``(n, q1, q2, r2)``.

        Parameters
        ----------
        prefixes
            ``i1 · p2 + i2`` in ``[0, shape.prefixes)``, int64 ``(n,)``.
        """
        sums = self.first_sums(prefixes)
        half = (1 << self.shift1) >> 1
        return np.clip((sums + half) >> self.shift1, -MIDDLE_MAX, MIDDLE_MAX)

    def rows(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rebuild rows, int64 ``(n, dim)`` in units of :attr:`unit`.

        Rows of one prefix share their first product, and memory beyond the result is bounded.

        Parameters
        ----------
        local
            Numbers of the rows, int64 ``(n,)``; one outside ``[0, shape.rows)`` gives zeros, as in
            hardware.

        Raises
        ------
        AccumulatorOverflowError
            If a second product needs more than ``ACC_BITS``.
        """
        shape = self.shape
        (q1, q2, q3), r2 = shape.q, shape.ranks[1]
        local = np.asarray(local, np.int64)
        rows = np.zeros((len(local), shape.dim), np.int64)
        (found,) = np.nonzero((local >= 0) & (local < shape.rows))
        order = found[np.argsort(local[found], kind="stable")]
        step = max(1, NUMBERS_AT_ONCE // max(shape.dim, q1 * q2 * r2, r2 * q3))
        for start in range(0, len(order), step):
            part = order[start : start + step]
            prefix, i3 = np.divmod(local[part], shape.p[2])
            prefixes, which = np.unique(prefix, return_inverse=True)
            first = self.first_products(prefixes).reshape(-1, q1 * q2, r2)
            # exact in float64: below 32767 · 127 · r2 < 2**53
            acc = first.astype(np.float64)[which] @ self.cores[2][i3].astype(np.float64)
            sums = acc.astype(np.int64).reshape(-1, shape.dim)
            check_width(sums, ACC_BITS, "second product of a TT row")
            rows[part] = requantise(sums, self.m, self.s, -self.limit, self.limit)
        return rows
