"""Tables into TT cores: TT-SVD of a table that is streamed, and a fit to the rows that are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from screc_hw.tt.shape import TtShape
from screc_sim.golden.quant import RowSource

NUMBERS_AT_ONCE = 1 << 22
"""Components of the table in memory at a time: 16 MiB of float32, 32 MiB of float64."""

SWEEPS = 3
"""Sweeps of alternating least squares over the cores where rows have weights."""

RIDGE = 1e-4
"""How hard a weighted fit holds on to the core it began with, relative to the mean evidence."""

FloatCores = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FloatTt:
    """A table in tensor-train form, in floating point.

    Parameters
    ----------
    shape
        Its sizes.
    cores
        float32 (p1, q1, r1), (p2, r1, q2, r2), (p3, r2, q3).

    Raises
    ------
    ValueError
        If a core has another shape or type, or a value is not finite.
    """

    shape: TtShape
    cores: FloatCores

    def __post_init__(self) -> None:
        for number, (core, sizes) in enumerate(
            zip(self.cores, self.shape.core_shapes, strict=True), 1
        ):
            if core.shape != sizes or core.dtype != np.float32:
                raise ValueError(
                    f"core {number} must be float32 {sizes}, not {core.dtype} {core.shape}"
                )
            if not np.isfinite(core).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(core))[0])
                raise ValueError(f"core {number} must be finite, not {core[index]} at {index}")

    def first_products(self, prefixes: NDArray[np.int64]) -> NDArray[np.float32]:
        """First products of prefixes ``i1 · p2 + i2``, float32 ``(n, q1, q2, r2)``."""
        (q1, q2, _), (r1, r2), p2 = self.shape.q, self.shape.ranks, self.shape.p[1]
        i1, i2 = np.divmod(prefixes, p2)
        product: NDArray[np.float32] = self.cores[0][i1] @ self.cores[1][i2].reshape(
            -1, r1, q2 * r2
        )
        return product.reshape(-1, q1, q2, r2)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rebuild rows ``ids`` in ``[0, shape.rows)``, float32 ``(n, dim)``."""
        shape = self.shape
        (q1, q2, q3), (r1, r2) = shape.q, shape.ranks
        rows = np.empty((len(ids), shape.dim), np.float32)
        step = max(1, NUMBERS_AT_ONCE // max(shape.dim, q1 * q2 * r2, r1 * q2 * r2, r2 * q3))
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            prefix, i3 = np.divmod(ids[part], shape.p[2])
            prefixes, which = np.unique(prefix, return_inverse=True)
            first = self.first_products(prefixes).reshape(-1, q1 * q2, r2)
            rows[part] = (first[which] @ self.cores[2][i3]).reshape(-1, shape.dim)
        return rows


def decompose(
    source: RowSource | NDArray[np.float32],
    shape: TtShape,
    *,
    error: float | None = None,
    budget: int | None = None,
    weights: NDArray[np.floating] | None = None,
) -> FloatTt:
    """Decompose a table into TT cores.

    TT-SVD from the right over two streamed passes: the Gram matrix of the columns (i3, j3) gives
    the third core, the table projected on it the others. Without weights every row counts alike.
    With weights, alternating least squares then fits the cores to the weighted rows, two passes per
    sweep; a row of weight 0 does not count. Memory beyond the source is that of two square matrices
    of p3·q3 and one of p1·q1 numbers, a few blocks of the table, and p1·p2·q1·q2·r2 numbers (with
    weights p1·p2·r2² more), all of 8 bytes.

    Parameters
    ----------
    source
        Rows in frequency order: a source, or float32 ``(rows, dim)``.
    shape
        p, q and the largest ranks.
    error
        Lower the ranks as far as this bound of the relative Frobenius error allows.
    budget
        Lower the ranks until the cores have at most this many numbers, bytes as int8: of all such
        ranks the ones of the least error.
    weights
        Per row, its weight in the squared error, as its count of lookups, ``(rows,)``, >= 0.

    Returns
    -------
    FloatTt
        Its shape has the ranks chosen.

    Raises
    ------
    ValueError
        If the source or the weights have other sizes than the shape, a value is not finite, an
        option is out of its range, or no ranks are within the budget or reach the error.
    """
    table = _Table.of(source, shape, weights)
    if error is not None and not 0 < error < 1:
        raise ValueError(f"error must lie between 0 and 1, not {error}")
    if error is not None and budget is not None:
        raise ValueError("give error or budget, not both")
    cores = _TtSvd(table).cores(error, budget)
    fitted = dataclasses.replace(shape, ranks=(cores[0].shape[2], cores[1].shape[3]))
    if weights is not None:
        cores = _Fit(table, fitted, cores).sweep(SWEEPS)
    g1, g2, g3 = (np.ascontiguousarray(core, np.float32) for core in cores)
    return FloatTt(fitted, (g1, g2, g3))


def relative_error(
    source: RowSource | NDArray[np.float32],
    tt: FloatTt,
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Relative Frobenius error of a table's tensor-train form, by one streamed pass.

    Parameters
    ----------
    source
        The table: a source, or float32 ``(rows, dim)``.
    tt
        Its tensor-train form.
    weights
        Per row, its weight in both sums of squares, as its count of lookups; equal where None.

    Returns
    -------
    float
        Root of the sum of squared differences over that of the table; 0 for a table of zeros that
        is met exactly.

    Raises
    ------
    ValueError
        As :func:`decompose`.
    """
    table = _Table.of(source, tt.shape, weights)
    (q1, q2, _), r2 = tt.shape.q, tt.shape.ranks[1]
    third = _third_matrix(tt.cores[2].astype(np.float64))
    off = whole = 0.0
    for prefixes, x, w in table.blocks():
        first = tt.first_products(prefixes).astype(np.float64).reshape(-1, r2)
        delta = (first @ third).reshape(len(prefixes), q1 * q2, -1) - x
        off += float(np.sum(_per_row(delta, w)))
        whole += float(np.sum(_per_row(x, w)))
    if whole == 0:
        return 0.0 if off == 0 else math.inf
    return math.sqrt(off / whole)


def _per_row(x: Matrix, w: Matrix) -> Matrix:
    """Weighted squares per row of the table, (prefixes, p3)."""
    squares = np.einsum("bjk,bjk->bk", x, x)
    return w * squares.reshape(*w.shape, -1).sum(axis=2)


def _third_matrix(core: Matrix) -> Matrix:
    """The third core (p3, r2, q3) as a matrix (r2, p3·q3)."""
    return core.transpose(1, 0, 2).reshape(core.shape[1], -1)


class _Table:
    """A table in blocks of whole prefixes: the unfolding whose columns are (i3, j3)."""

    def __init__(
        self, source: RowSource, shape: TtShape, weights: NDArray[np.floating] | None
    ) -> None:
        self.source = source
        self.shape = shape
        self.weights = weights

    @classmethod
    def of(
        cls,
        source: RowSource | NDArray[np.float32],
        shape: TtShape,
        weights: NDArray[np.floating] | None,
    ) -> _Table:
        """Check the sizes."""
        rows = ArrayRows(source) if isinstance(source, np.ndarray) else source
        if (rows.rows, rows.dim) != (shape.rows, shape.dim):
            raise ValueError(
                f"the table is {rows.rows} × {rows.dim}, and the shape {shape.rows} × {shape.dim}"
            )
        if weights is not None:
            if weights.shape != (shape.rows,):
                raise ValueError(f"weights must be ({shape.rows},), not {weights.shape}")
            if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
                raise ValueError("weights must be finite, not negative, and not all 0")
        return cls(rows, shape, weights)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], Matrix, Matrix]]:
        """Prefixes (n,), their components (n, q1·q2, p3·q3) and weights (n, p3).

        Rows beyond the table's last are 0 and have weight 0.
        """
        shape = self.shape
        (q1, q2, q3), p3 = shape.q, shape.p[2]
        step = max(1, NUMBERS_AT_ONCE // (p3 * shape.dim))
        used = -(-shape.rows // p3)
        for start in range(0, used, step):
            prefixes = np.arange(start, min(start + step, used))
            ids = np.arange(start * p3, min((start + len(prefixes)) * p3, shape.rows))
            values = self.source.fetch(ids)
            if not np.isfinite(values).all():
                row = int(ids[np.argmin(np.isfinite(values).all(axis=1))])
                raise ValueError(f"row {row} of the table is not finite")
            x = np.zeros((len(prefixes) * p3, shape.dim))
            x[: len(ids)] = values
            w = np.zeros(len(prefixes) * p3)
            w[: len(ids)] = 1.0 if self.weights is None else self.weights[ids]
            unfolded = x.reshape(-1, p3, q1 * q2, q3).transpose(0, 2, 1, 3)
            yield prefixes, unfolded.reshape(-1, q1 * q2, p3 * q3), w.reshape(-1, p3)


class ArrayRows:
    """Rows of an array ``(rows, dim)`` as a source."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        if values.ndim != 2 or not values.size:
            raise ValueError(f"a table must be (rows, dim), not {values.shape}")
        self._values = values

    @property
    def rows(self) -> int:
        """Count of rows."""
        return len(self._values)

    @property
    def dim(self) -> int:
        """Components of a row."""
        return self._values.shape[1]

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows ``ids`` as float32 ``(len(ids), dim)``."""
        return self._values[ids].astype(np.float32, copy=False)

    def peak(self) -> float:
        """Largest magnitude in the table."""
        return float(np.abs(self._values).max())


class _TtSvd:
    """TT-SVD from the right; ``table``'s weights do not enter."""

    def __init__(self, table: _Table) -> None:
        self.table = table
        self.shape = shape = table.shape
        (q1, q2, q3), (p1, p2, p3) = shape.q, shape.p
        columns = p3 * q3
        gram = np.zeros((columns, columns))
        for _, x, _ in table.blocks():
            flat = x.reshape(-1, columns)
            gram += flat.T @ flat
        self.energies3, vectors = _largest(gram)
        self.most = min(shape.ranks[1], columns)
        self.third = np.ascontiguousarray(vectors[:, : self.most])
        del gram, vectors
        projected = np.zeros((p1 * p2, q1 * q2, self.most))
        for prefixes, x, _ in table.blocks():
            projected[prefixes] = x @ self.third
        middle = projected.reshape(p1, p2, q1, q2, self.most).transpose(0, 2, 1, 3, 4)
        # (p1·q1, p2·q2, r2): the unfolding of the first bond
        self.projected = middle.reshape(p1 * q1, p2 * q2, self.most)

    def cores(self, error: float | None, budget: int | None) -> tuple[Matrix, Matrix, Matrix]:
        """Truncate to the ranks that error or budget ask for, else to those of the shape."""
        (q1, q2, q3), (p1, p2, p3) = self.shape.q, self.shape.p
        r2 = self.most
        if error is not None:
            r2 = self._least_rank(self.energies3, error, self.most)
        if budget is not None:
            r1, r2 = self._within(budget)
        unfolded = self.projected[:, :, :r2].reshape(p1 * q1, -1)
        energies1, vectors = _largest(unfolded @ unfolded.T)
        if error is not None:
            r1 = self._least_rank(energies1, error, min(self.shape.ranks[0], len(energies1)))
        elif budget is None:
            r1 = min(self.shape.ranks[0], len(energies1))
        first = vectors[:, :r1]
        second = (first.T @ unfolded).reshape(r1, p2, q2, r2)
        return (
            first.reshape(p1, q1, r1),
            second.transpose(1, 0, 2, 3),
            self.third[:, :r2].reshape(p3, q3, r2).transpose(0, 2, 1),
        )

    def _least_rank(self, energies: Matrix, error: float, most: int) -> int:
        """Least rank that leaves half of the squared error that is allowed to this bond."""
        allowed = error * error / 2 * float(self.energies3.sum())
        rank = int(np.count_nonzero(_tails(energies) > allowed)) or 1
        if rank > most:
            raise ValueError(
                f"an error of {error} needs a rank of {rank}, and the shape has at most {most}"
            )
        return rank

    def _within(self, budget: int) -> tuple[int, int]:
        """Ranks of the least error whose cores have at most ``budget`` numbers."""
        (q1, q2, q3), (p1, p2, p3) = self.shape.q, self.shape.p
        flat = self.projected.reshape(p1 * q1, -1)
        tail1 = _tails(_largest(flat @ flat.T)[0])
        tail2 = _tails(self.energies3)
        best: tuple[float, int, int] | None = None
        for r2 in range(1, self.most + 1):
            left = budget - p3 * q3 * r2
            r1 = min(left // (p1 * q1 + p2 * q2 * r2), self.shape.ranks[0], p1 * q1)
            if r1 >= 1:
                off = (float(tail1[r1] + tail2[r2]), r1, r2)
                best = off if best is None else min(best, off)
        if best is None:
            least = p1 * q1 + p2 * q2 + p3 * q3
            raise ValueError(f"a budget of {budget} bytes: rank 1 takes {least}")
        return best[1], best[2]


def _largest(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, none below 0, and eigenvectors of a Gram matrix, the largest first."""
    values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _tails(energies: Matrix) -> Matrix:
    """Sum of all but the first k, for k = 0 to all."""
    return np.append(np.cumsum(energies[::-1])[::-1], 0.0)


class _Fit:
    """Alternating least squares of the cores to weighted rows.

    Given the third core, the sums over i3 of each prefix are all that the first two need; given
    those two, one more pass sums what the third needs. A slice that no weight reaches stays.
    """

    def __init__(self, table: _Table, shape: TtShape, cores: tuple[Matrix, Matrix, Matrix]) -> None:
        self.table = table
        self.shape = shape
        self.first, self.second, self.third = cores

    def sweep(self, sweeps: int) -> tuple[Matrix, Matrix, Matrix]:
        """Run sweeps; the cores."""
        for _ in range(sweeps):
            gram, moment = self._sum_prefixes()
            # thousands of small systems: BLAS threads would cost more than they give
            with threadpool_limits(1, user_api="blas"):
                self._solve_second(gram, moment)
                self._solve_first(gram, moment)
            self._solve_third()
        return self.first, self.second, self.third

    def _sum_prefixes(self) -> tuple[Matrix, Matrix]:
        """Weighted squares of the third core per prefix, and its products with the rows.

        (prefixes, r2, r2) and (prefixes, q1·q2, r2).
        """
        (q1, q2, q3), r2 = self.shape.q, self.shape.ranks[1]
        third = _third_matrix(self.third)
        squares = (self.third @ self.third.transpose(0, 2, 1)).reshape(-1, r2 * r2)
        gram = np.zeros((self.shape.prefixes, r2 * r2))
        moment = np.zeros((self.shape.prefixes, q1 * q2, r2))
        for prefixes, x, w in self.table.blocks():
            gram[prefixes] = w @ squares
            x *= np.repeat(w, q3, axis=1)[:, None]
            moment[prefixes] = x @ third.T
        return gram.reshape(-1, r2, r2), moment

    def _solve_second(self, gram: Matrix, moment: Matrix) -> None:
        (q1, q2, _), (r1, r2), (p1, p2, _) = self.shape.q, self.shape.ranks, self.shape.p
        gram = gram.reshape(p1, p2, r2 * r2)
        moment = moment.reshape(p1, p2, q1, q2, r2)
        squares = (self.first.transpose(0, 2, 1) @ self.first).reshape(p1, r1 * r1)
        for i2 in range(p2):
            normal = (squares.T @ gram[:, i2]).reshape(r1, r1, r2, r2)
            matrix = normal.transpose(0, 2, 1, 3).reshape(r1 * r2, r1 * r2)
            right = np.tensordot(self.first, moment[:, i2], ((0, 1), (0, 1)))  # (r1, q2, r2)
            before = self.second[i2].transpose(0, 2, 1).reshape(r1 * r2, q2)
            after = _solve(matrix, right.transpose(0, 2, 1).reshape(r1 * r2, q2), before)
            self.second[i2] = after.reshape(r1, r2, q2).transpose(0, 2, 1)

    def _solve_first(self, gram: Matrix, moment: Matrix) -> None:
        (q1, q2, _), (r1, r2), (p1, p2, _) = self.shape.q, self.shape.ranks, self.shape.p
        gram = gram.reshape(p1, p2, 1, r2, r2)
        moment = moment.reshape(p1, p2, q1, q2 * r2)
        second = self.second.transpose(0, 2, 1, 3)  # (p2, q2, r1, r2)
        flat = self.second.reshape(p2, r1, q2 * r2)
        for i1 in range(p1):
            normal = (second @ gram[i1] @ second.transpose(0, 1, 3, 2)).sum(axis=(0, 1))
            right = (flat @ moment[i1].transpose(0, 2, 1)).sum(axis=0)
            self.first[i1] = _solve(normal, right, self.first[i1].T).T

    def _solve_third(self) -> None:
        (q1, q2, q3), (r1, r2), (_, p2, p3) = self.shape.q, self.shape.ranks, self.shape.p
        gram = np.zeros((p3, r2 * r2))
        moment = np.zeros((r2, p3 * q3))
        flat = self.second.reshape(p2, r1, q2 * r2)
        for prefixes, x, w in self.table.blocks():
            i1, i2 = np.divmod(prefixes, p2)
            first = (self.first[i1] @ flat[i2]).reshape(-1, q1 * q2, r2)
            gram += w.T @ (first.transpose(0, 2, 1) @ first).reshape(-1, r2 * r2)
            x *= np.repeat(w, q3, axis=1)[:, None]
            moment += first.reshape(-1, r2).T @ x.reshape(-1, p3 * q3)
        right = moment.reshape(r2, p3, q3)
        with threadpool_limits(1, user_api="blas"):
            for i3 in range(p3):
                self.third[i3] = _solve(gram[i3].reshape(r2, r2), right[:, i3], self.third[i3])


def _solve(normal: Matrix, right: Matrix, before: Matrix) -> Matrix:
    """Least squares by the normal matrix (n, n), held to ``before`` (n, k) by a small ridge."""
    ridge = RIDGE * float(np.trace(normal)) / len(normal)
    if ridge == 0:
        return before
    held = normal + ridge * np.eye(len(normal))
    result: Matrix = scipy.linalg.solve(held, right + ridge * before, assume_a="pos")
    return result
