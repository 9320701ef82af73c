"""The numerics as vectorised integer operations: what each core computes, one function each.

The rules are in docs/numerics.md and, as scalars, in :mod:`screc_hw.numerics`; widths are checked
here, so a value that the hardware could not hold raises :class:`AccumulatorOverflowError` and is
not silently right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from screc_hw.model import FeatureShape, ModelShape
from screc_hw.numerics import (
    ACC_BITS,
    INT8_MAX,
    LOGIT_CODE_BITS,
    PROBABILITY_BITS,
    RECIPROCAL_FRACTION_BITS,
    SIGMOID_STEP_LOG2,
    sigmoid_table,
)
from screc_sim.golden.pooling import bag_sums
from screc_sim.samples import Bags

if TYPE_CHECKING:
    from screc_sim.golden.quant import QuantLinear, QuantTable

LOGIT_CODE_MIN = -(1 << (LOGIT_CODE_BITS - 1))
LOGIT_CODE_MAX = (1 << (LOGIT_CODE_BITS - 1)) - 1


class AccumulatorOverflowError(ArithmeticError):
    """An accumulator left the width that the hardware gives it: names where, value and width."""


def check_width(values: NDArray[np.int64], bits: int, where: str) -> None:
    """Check that every value is within a signed width, symmetric: |value| < 2**(bits - 1).

    Parameters
    ----------
    values
        Accumulators, any shape.
    bits
        Signed width.
    where
        What the accumulators are, for the message.

    Raises
    ------
    AccumulatorOverflowError
        Names the first value outside, its index and the width.
    """
    bound = 1 << (bits - 1)
    if values.size and (values.max() >= bound or values.min() <= -bound):
        index = np.unravel_index(int(np.argmax(np.abs(values) >= bound)), values.shape)
        raise AccumulatorOverflowError(
            f"{where}: accumulator {values[index]} at {tuple(map(int, index))} must be within "
            f"{bits} bits signed, below {bound} in magnitude"
        )


def requantise(
    acc: NDArray[np.int64],
    m: ArrayLike,
    s: ArrayLike,
    low: int = -INT8_MAX,
    high: int = INT8_MAX,
) -> NDArray[np.int64]:
    """Requantise: clamp((acc * m + 2**(s-1)) >> s) to [low, high], half rounds up.

    ``acc`` int64 of any shape, below 2**47 in magnitude so that the sum fits: a product is at most
    2**63 - 2**47, and half a step 2**46. ``m`` and ``s`` broadcast.
    """
    factor, shift = np.asarray(m, np.int64), np.asarray(s, np.int64)
    return np.clip((acc * factor + (np.int64(1) << (shift - 1))) >> shift, low, high)


def accumulate(layer: QuantLinear, x: NDArray[np.int8], where: str) -> NDArray[np.int64]:
    """Accumulator plus bias of a linear layer, int64 ``(samples, n)``, before ReLU.

    ``x`` is int8 ``(samples, k)``. The product runs in float64, where BLAS is fast: every partial
    sum is an integer below 127² · k < 2**53, so it is exact in any order.

    Raises
    ------
    AccumulatorOverflowError
        If accumulator plus bias needs more than ``ACC_BITS``.
    """
    product = x.astype(np.float64) @ layer.weight.T.astype(np.float64)
    acc = product.astype(np.int64) + layer.bias.astype(np.int64)
    check_width(acc, ACC_BITS, where)
    return acc


def linear(layer: QuantLinear, x: NDArray[np.int8], where: str) -> NDArray[np.int8]:
    """Run a hidden layer: accumulate, ReLU, requantise; int8 ``(samples, n)``."""
    acc = accumulate(layer, x, where)
    if layer.relu:
        acc = np.maximum(acc, 0)
    return requantise(acc, layer.m, layer.s).astype(np.int8)


def pool(table: QuantTable, bags: Bags, where: str) -> NDArray[np.int64]:
    """Exact integer sums of the rows of every bag, int64 ``(bags, dim)``; an empty bag is 0.

    Raises
    ------
    AccumulatorOverflowError
        If a sum needs more than the table's ``pooled_bits``.
    """
    sums = bag_sums(bags, table.values, table.source.dim, np.int64)
    check_width(sums, table.pooled_bits, where)
    return sums


def reciprocals(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``(r_L, shift)`` for bag lengths >= 1, as :func:`screc_hw.numerics.mean_reciprocal`.

    Both int64 with the shape of ``lengths``.
    """
    _, ceil_log2 = np.frexp((lengths - 1).astype(np.float64))  # the bit length, 0 for length 1
    shift = RECIPROCAL_FRACTION_BITS + ceil_log2.astype(np.int64)
    return ((np.int64(2) << shift) + lengths) // (2 * lengths), shift


def mean(sums: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Means of bags in units of the sums: (sum * r_L + half) >> shift, int64 ``(bags, dim)``."""
    r, shift = reciprocals(np.maximum(lengths, 1))  # an empty bag's sum is 0: any divisor does
    return (sums * r[:, None] + (np.int64(1) << (shift[:, None] - 1))) >> shift[:, None]


def bag_vector(
    feature: FeatureShape, table: QuantTable, bags: Bags, ms: tuple[int, int]
) -> NDArray[np.int8]:
    """Pool the bags of a feature and requantise them, int8 ``(bags, dim)``: the combiner's work."""
    sums = pool(table, bags, feature.name)
    if feature.mode == "mean":
        sums = mean(sums, bags.lengths)
    return requantise(sums, *ms).astype(np.int8)


def pair_products(vectors: NDArray[np.int8]) -> NDArray[np.int64]:
    """Strict lower triangle of each sample's Gram matrix, row-major, int64 ``(samples, pairs)``.

    ``vectors`` is int8 ``(samples, vectors, dim)``; pair ``(i, j)`` with ``i > j`` is number
    ``i (i - 1) / 2 + j``.
    """
    values = vectors.astype(np.float64)  # exact, as in accumulate
    gram = values @ values.transpose(0, 2, 1)
    i, j = np.tril_indices(vectors.shape[1], -1)
    return gram[:, i, j].astype(np.int64)


def interact(
    shape: ModelShape,
    vectors: Sequence[NDArray[np.int8]],
    copy_ms: tuple[int, int],
    pair_ms: tuple[int, int],
) -> NDArray[np.int8]:
    """Concatenated tensor, the top MLP's input, int8 ``(samples, top_inputs)``.

    ``vectors`` are the bottom output, where there is one, and then the bags, each int8
    ``(samples, dim)``. ``dot``: the bottom output, then the pairs; ``concat``: every vector.
    """
    dot = shape.interaction == "dot"
    copied = vectors[: 1 if shape.dense else 0] if dot else vectors
    parts = [requantise(vector.astype(np.int64), *copy_ms) for vector in copied]
    if dot:
        parts.append(requantise(pair_products(np.stack(vectors, axis=1)), *pair_ms))
    return np.concatenate(parts, axis=1).astype(np.int8)


def logit_code(logit: NDArray[np.int64], m: int, s: int) -> NDArray[np.int16]:
    """Q5.11 code of an integer logit, int16, saturating."""
    return requantise(logit, m, s, LOGIT_CODE_MIN, LOGIT_CODE_MAX).astype(np.int16)


_SIGMOID = np.array(sigmoid_table(), np.int64)


def sigmoid(code: NDArray[np.int16]) -> NDArray[np.uint16]:
    """Sigmoid of Q5.11 codes by table and interpolation, UQ0.16, saturating at 65535."""
    full = 1 << PROBABILITY_BITS
    magnitude = np.minimum(np.abs(code.astype(np.int64)), LOGIT_CODE_MAX)
    index, rest = magnitude >> SIGMOID_STEP_LOG2, magnitude & ((1 << SIGMOID_STEP_LOG2) - 1)
    rise = (_SIGMOID[index + 1] - _SIGMOID[index]) * rest
    y = _SIGMOID[index] + ((rise + (1 << (SIGMOID_STEP_LOG2 - 1))) >> SIGMOID_STEP_LOG2)
    return np.minimum(np.where(code < 0, full - y, y), full - 1).astype(np.uint16)
