"""TT cores into int8, and the scales between them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from screc.tt.decompose import FloatTt
from screc_hw.numerics import (
    ACC_BITS,
    IDENTITY_REQUANTISE,
    INT8_MAX,
    MIDDLE_MAX,
    SHIFT1_MAX,
    requantise_params,
)
from screc_hw.tt.image import TtTable
from screc_sim.golden.tt import FRACTION_MAX, NUMBERS_AT_ONCE, QuantTt

ACC_LIMIT = 1 << (ACC_BITS - 1)
"""Second products stay below it in magnitude."""

NEGLIGIBLE = 1e-13
"""Share of the largest energy of an axis below which an axis is rounding noise."""

EQUALISATIONS = 10
"""Rounds of equalisation of the two bonds, which depend on each other; it converges in a few."""

Matrix = NDArray[np.float64]
Cores = tuple[Matrix, Matrix, Matrix]


def quantise_tt(tt: FloatTt, row_scale: float, fraction: int) -> QuantTt:
    """Quantise a table in tensor-train form.

    The cores are balanced and get one scale each. The shift of the first product is the least with
    which no row of the table clamps it and no second product can reach 2**26.

    Parameters
    ----------
    tt
        The table.
    row_scale
        Real value of one step of the table's row grid.
    fraction
        Bits of a component below that grid, 0..8.

    Raises
    ------
    ValueError
        If a value is out of its range, or the row grid is so much finer or coarser than the table
        that no requantisation expresses it.
    """
    if not (math.isfinite(row_scale) and row_scale > 0):
        raise ValueError(f"row_scale must be finite and positive, not {row_scale}")
    if not 0 <= fraction <= FRACTION_MAX:
        raise ValueError(f"fraction must lie in 0..{FRACTION_MAX}, not {fraction}")
    balanced = balance(tt)
    (first, scale1), (second, scale2), (third, scale3) = (_codes(core) for core in balanced)
    m, s = IDENTITY_REQUANTISE
    quant = QuantTt(tt.shape, (first, second, third), 0, m, s, fraction, row_scale)
    peaks = _first_peaks(quant)
    shifts = (i for i in range(SHIFT1_MAX) if _fits(_shifted(peaks, i), third))
    shift1 = next(shifts, SHIFT1_MAX)
    middle = _shifted(peaks, shift1)
    while int(middle.max()) > MIDDLE_MAX:  # only ranks above 260 can come here
        scale2 *= 1.01 * int(middle.max()) / MIDDLE_MAX
        second = _codes(balanced[1], scale2)[0]
        quant = dataclasses.replace(quant, cores=(first, second, third))
        middle = _shifted(_first_peaks(quant), shift1)
    while not _fits(middle, third):  # only ranks above 64 can come here
        scale3 *= 1.01 * _largest_sum(middle, third) / ACC_LIMIT
        third = _codes(balanced[2], scale3)[0]
    if first.any() and second.any() and third.any():  # else every row is 0
        factor = scale1 * scale2 * scale3 * (1 << shift1) / quant.unit
        try:
            m, s = requantise_params(factor)
        except ValueError as error:
            raise ValueError(
                f"row_scale {row_scale:g} is out of proportion to the table: {error}"
            ) from error
    return dataclasses.replace(quant, cores=(first, second, third), shift1=shift1, m=m, s=s)


def reconstructor_table(quant: QuantTt, pins: int = 0) -> TtTable:
    """The table as a reconstructor holds it, with its first ``pins`` prefixes pinned.

    Raises
    ------
    ValueError
        If ``pins`` is beyond the table's prefixes.
    """
    return TtTable(quant.shape, quant.cores, quant.shift1, quant.m, quant.s, pins)


def balance(tt: FloatTt) -> Cores:
    """The same table in cores that int8 holds well, float64.

    A tensor train allows any basis of the rank between two cores. Principal axes differ in size as
    the singular values do, and one scale per core would leave the small ones few codes. So each
    bond's singular values are shared out by their roots, and an orthonormal cosine transform mixes
    the axes, which makes all channels alike; then each is scaled so that its largest number is the
    same in both cores. Measured at ranks 8 to 32 against TT-SVD's cores as they come, the errors of
    rows fall to 0.5 to 0.9 of theirs where singular values are alike, and to a third and less
    where they decay.
    """
    g1, g2, g3 = (core.astype(np.float64) for core in tt.cores)
    (p1, p2, p3), (q1, q2, q3), (r1, r2) = tt.shape.p, tt.shape.q, tt.shape.ranks
    left, right1 = np.linalg.qr(g1.reshape(p1 * q1, r1))
    right, right3 = np.linalg.qr(g3.transpose(0, 2, 1).reshape(p3 * q3, r2))
    middle = right1 @ (g2 @ right3.T).reshape(p2, r1, -1)
    k1, k2 = left.shape[1], right.shape[1]  # below the ranks where these exceed the unfoldings
    middle = middle.reshape(p2, k1, q2, k2)
    outer1, inner1 = _mix(middle.transpose(1, 0, 2, 3), r1)
    outer2, inner2 = _mix(middle.transpose(3, 0, 1, 2), r2)
    first = (left @ outer1).reshape(p1, q1, r1)
    second = (inner1.T @ (middle @ inner2).reshape(p2, k1, -1)).reshape(p2, r1, q2, r2)
    third = (right @ outer2).reshape(p3, q3, r2).transpose(0, 2, 1)
    for _ in range(EQUALISATIONS):
        ratio = _ratio(np.abs(first).max((0, 1)), np.abs(second).max((0, 2, 3)))
        first, second = first / ratio, second * ratio[:, None, None]
        ratio = _ratio(np.abs(third).max((0, 2)), np.abs(second).max((0, 1, 2)))
        third, second = third / ratio[:, None], second * ratio
    return first, second, third


def _mix(core: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """New bases of a bond for its outer and its inner core, both (k, rank).

    ``core`` is the inner one, (k, ...), and the outer one orthonormal. Outer times inner transposed
    is the identity on all axes that the inner core uses.
    """
    flat = core.reshape(len(core), -1)
    energies, axes = np.linalg.eigh(flat @ flat.T)
    used = energies > energies[-1] * NEGLIGIBLE
    root = energies[used][::-1] ** 0.25  # of the singular value
    axes = axes[:, used][:, ::-1]
    cosines = scipy.fft.dct(np.eye(rank), norm="ortho").T[: len(root)]
    return axes * root @ cosines, axes / root @ cosines


def _ratio(outer: Matrix, inner: Matrix) -> Matrix:
    """What to divide the outer by, and multiply the inner with, to make both alike."""
    used = (outer > 0) & (inner > 0)
    return np.sqrt(np.divide(outer, inner, out=np.ones_like(outer), where=used))


def _codes(core: Matrix, scale: float | None = None) -> tuple[NDArray[np.int8], float]:
    """Codes of a core and their scale, by default the least that clips nothing.

    Clipping would gain little and meet the hottest rows, whose numbers are often the largest.
    """
    step = scale or float(np.abs(core).max()) / INT8_MAX or 1.0
    codes = np.clip(np.floor(core / step + 0.5), -INT8_MAX, INT8_MAX)
    return np.ascontiguousarray(codes, np.int8), step


def _first_peaks(quant: QuantTt) -> NDArray[np.int64]:
    """Largest first product before its shift, per channel t, of any row of the table, (r2,)."""
    shape = quant.shape
    used = -(-shape.rows // shape.p[2])
    step = max(1, NUMBERS_AT_ONCE // (shape.q[0] * shape.q[1] * shape.ranks[1]))
    peaks = np.zeros(shape.ranks[1], np.int64)
    for start in range(0, used, step):
        sums = quant.first_sums(np.arange(start, min(start + step, used)))
        np.maximum(peaks, np.abs(sums).max((0, 1, 2)), out=peaks)
    return peaks


def _shifted(peaks: NDArray[np.int64], shift1: int) -> NDArray[np.int64]:
    """Largest magnitudes after the rounding shift."""
    return (peaks + ((1 << shift1) >> 1)) >> shift1


def _largest_sum(middle: NDArray[np.int64], third: NDArray[np.int8]) -> int:
    """Bound of the second product, given those of the first per channel."""
    return int(np.einsum("t,itj->ij", middle, np.abs(third.astype(np.int64))).max())


def _fits(middle: NDArray[np.int64], third: NDArray[np.int8]) -> bool:
    """Whether nothing clamps and every second product is within its width."""
    return int(middle.max()) <= MIDDLE_MAX and _largest_sum(middle, third) < ACC_LIMIT
