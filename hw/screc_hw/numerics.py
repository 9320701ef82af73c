"""The integer rules that hardware and golden model share (docs/numerics.md).

Only constants and scalar helpers: the vectorised golden model is in ``screc_sim.golden``, the
circuits in the cores.
"""

from __future__ import annotations

import math

INT8_MAX = 127
"""Codes are symmetric, [-127, 127]: -128 never occurs, so products fit 15 bits signed."""

MULTIPLIER_BITS = 16
"""Requantise multiplier ``m``: unsigned, top bit set, so 2**15 <= m < 2**16."""

SHIFT_MIN, SHIFT_MAX = 1, 47
"""Requantise shift ``s``."""

ACC_BITS = 27
"""Width of a linear accumulator plus bias: |acc + bias| < 2**26, one 27×18 multiply (DSP48E2)."""

BIAS_BITS = 27
"""Width of an integer bias (same bound)."""

LOGIT_FRACTION_BITS = 11
LOGIT_CODE_BITS = 16
"""The logit's Q5.11 code: signed 16 bits, saturating."""

SIGMOID_STEP_LOG2 = 7
"""log2 of codes per table interval: 256 intervals of 1/16, linear error 4.7e-5 < 2**-12."""

SIGMOID_ENTRIES = (1 << (LOGIT_CODE_BITS - 1 - SIGMOID_STEP_LOG2)) + 1
"""Table points at |code| = i * 2**SIGMOID_STEP_LOG2, i = 0..256."""

PROBABILITY_BITS = 16
"""Probability as UQ0.16, saturating at 65535."""

MIDDLE_BITS = 16
"""Signed width of a TT row's first product after its rounding."""

MIDDLE_MAX = (1 << (MIDDLE_BITS - 1)) - 1
"""Its largest magnitude."""

SHIFT1_MAX = 7
"""Largest rounding shift of a TT row's first product."""

MAX_BAG = 65535
"""Longest bag of a request."""

POOL_BITS = 48
"""Signed width of a bag's sum of row-wise rows, unless said: a DSP48E2's accumulator."""

FP16_FRACTION_BITS = 24
"""Every finite fp16 value is an integer times 2**-24, its smallest subnormal number."""


def fp16_units(bits: int) -> int:
    """Value of a finite fp16, given by its 16 bits, in units of 2**-24: exact.

    Raises
    ------
    ValueError
        If it is infinite or a NaN.
    """
    exponent, fraction = bits >> 10 & 31, bits & 1023
    if exponent == 31:
        raise ValueError(f"an fp16 scale or bias must be finite, not {bits:#06x}")
    units = (fraction | 1 << 10) << (exponent - 1) if exponent else fraction
    return -units if bits >> 15 else units


def row_limit(max_bag: int = MAX_BAG, pool_bits: int = POOL_BITS) -> int:
    """Largest magnitude of a row-wise row's component, in units of 2**-24.

    ``max_bag`` of them stay below 2**(pool_bits - 1) in magnitude.
    """
    return ((1 << (pool_bits - 1)) - 1) // max_bag


def pooled_bits(
    max_bag: int, *, rowwise: bool = False, pool_bits: int = POOL_BITS, fraction: int = 0
) -> int:
    """Signed width of a pooled component of at most ``max_bag`` rows.

    Codes in [-127, 127] with ``fraction`` more bits below; ``pool_bits`` where rows may be
    ``rowwise`` (then the loader refuses a table whose bags could exceed it).
    """
    width = ((INT8_MAX << fraction) * max_bag).bit_length() + 1
    return max(pool_bits, width) if rowwise else width


RECIPROCAL_FRACTION_BITS = 15
"""r_L = round(2**(15 + ceil(log2 L)) / L), in [2**15, 2**16]; see :func:`mean_reciprocal`."""


def requantise_params(scale: float) -> tuple[int, int]:
    """Encode a positive real factor as ``(m, s)`` with ``m * 2**-s`` closest to it.

    Raises
    ------
    ValueError
        If the factor lies outside what 1 <= s <= 47 can represent, or is not finite and positive.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"a requantise factor must be finite and positive, not {scale!r}")
    mantissa, exponent = math.frexp(scale)  # scale = mantissa * 2**exponent, 0.5 <= mantissa < 1
    m = round(mantissa * (1 << MULTIPLIER_BITS))
    s = MULTIPLIER_BITS - exponent
    if m == 1 << MULTIPLIER_BITS:
        m, s = m >> 1, s - 1
    if not SHIFT_MIN <= s <= SHIFT_MAX:
        low, high = 2.0 ** (15 - SHIFT_MAX), 2.0 ** (16 - SHIFT_MIN)
        raise ValueError(f"a requantise factor must lie in [{low:g}, {high:g}), not {scale!r}")
    return m, s


IDENTITY_REQUANTISE = (1 << 15, 15)
"""``(m, s)`` that maps every int8 to itself."""


def requantise(acc: int, m: int, s: int, limit: int = INT8_MAX) -> int:
    """Requantise one integer: clamp((acc * m + 2**(s-1)) >> s) to [-limit, limit]."""
    return max(-limit, min(limit, (acc * m + (1 << (s - 1))) >> s))


def mean_reciprocal(length: int) -> tuple[int, int]:
    """Return ``(r_L, shift)`` of a bag of ``length`` >= 1: mean = (acc * r_L + half) >> shift.

    A power of two gives exactly 2**15; every other length stays below 2**16, so r_L is u16.
    """
    shift = RECIPROCAL_FRACTION_BITS + (length - 1).bit_length()
    return ((1 << shift) * 2 + length) // (2 * length), shift


def sigmoid_table() -> list[int]:
    """Return sigmoid(i / 16) in UQ0.16, saturated at 65535, for ``SIGMOID_ENTRIES`` points."""
    step = 2.0 ** (SIGMOID_STEP_LOG2 - LOGIT_FRACTION_BITS)
    full = 1 << PROBABILITY_BITS
    return [min(full - 1, round(full / (1 + math.exp(-i * step)))) for i in range(SIGMOID_ENTRIES)]


def sigmoid_code(code: int, table: list[int]) -> int:
    """Sigmoid of a Q5.11 ``code`` by table and interpolation, UQ0.16.

    The magnitude saturates at 32767; a negative code gives 65536 minus the positive value, clamped
    to 65535.
    """
    magnitude = min(abs(code), (1 << (LOGIT_CODE_BITS - 1)) - 1)
    index, rest = magnitude >> SIGMOID_STEP_LOG2, magnitude & ((1 << SIGMOID_STEP_LOG2) - 1)
    half = 1 << (SIGMOID_STEP_LOG2 - 1)
    y = table[index] + (((table[index + 1] - table[index]) * rest + half) >> SIGMOID_STEP_LOG2)
    return min(65535, 65536 - y) if code < 0 else y
