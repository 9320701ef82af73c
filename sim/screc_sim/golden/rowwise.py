"""Rows with a scale and bias of their own: their integers, and how they are stored."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from screc_hw.numerics import FP16_FRACTION_BITS
from screc_hw.protocol import ROW_TAIL_BYTES

ROWWISE_LIMITS = {"int8r": 255, "int4r": 15}
"""Largest code of each format with a scale and bias per row, from 0."""

ROWWISE_UNIT = 2.0**-FP16_FRACTION_BITS
"""Real value of one integer step of a row-wise row: every finite fp16 is a multiple of it."""


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Row-wise rows as they are stored.

    ``codes`` uint8 ``(n, dim)``; ``scale`` and ``bias`` float16 ``(n,)``, finite. A component is
    ``code * scale + bias``.
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    bias: NDArray[np.float16]

    def values(self) -> NDArray[np.int64]:
        """Components in units of :data:`ROWWISE_UNIT`, exact, ``(n, dim)``."""
        scale, bias = (
            (part.astype(np.float64) * (1 << FP16_FRACTION_BITS)).astype(np.int64)[:, None]
            for part in (self.scale, self.bias)
        )
        return self.codes * scale + bias


def quantise_rows(values: NDArray[np.float32], limit: int) -> PackedRows:
    """Row-wise codes of real rows ``(n, dim)``: codes 0 to ``limit``, half up.

    ``bias`` is the row's least value and ``scale`` its range over ``limit``, both rounded to fp16
    first; the codes follow from the rounded ones. All in float32, so they are the same on every
    machine.

    Raises
    ------
    ValueError
        If a row's scale or bias is beyond fp16; names the value.
    """
    low, high = values.min(axis=1), values.max(axis=1)
    with np.errstate(over="ignore"):
        scale = ((high - low) / np.float32(limit)).astype(np.float16)
        bias = low.astype(np.float16)
    for name, part in (("scale", scale), ("bias", bias)):
        if not np.isfinite(part).all():
            row = int(np.argmin(np.isfinite(part)))
            raise ValueError(
                f"a row of values from {low[row]:g} to {high[row]:g} has a {name} beyond fp16, "
                f"{np.finfo(np.float16).max}"
            )
    step = scale.astype(np.float32)
    step[step == 0] = np.inf  # a constant row, or one of a range below fp16: every code is 0
    codes = values - bias.astype(np.float32)[:, None]
    codes /= step[:, None]
    codes += np.float32(0.5)
    np.floor(codes, out=codes)
    return PackedRows(np.clip(codes, 0, limit, out=codes).astype(np.uint8), scale, bias)


def pack_rows(rows: PackedRows, format_: str) -> NDArray[np.uint8]:
    """Rows as bytes ``(n, row bytes)``: codes, fp16 scale, fp16 bias, little-endian.

    ``int4r`` puts two codes in a byte, the first one in the low nibble.
    """
    codes: NDArray[np.uint8] = rows.codes
    if format_ == "int4r":
        codes = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8, copy=False)
    tail = np.stack([rows.scale, rows.bias], axis=1).astype("<f2", copy=False).view(np.uint8)
    return np.concatenate([codes, tail], axis=1)


def unpack_rows(stored: NDArray[np.uint8], format_: str) -> PackedRows:
    """Take bytes ``(n, row bytes)`` apart: the inverse of :func:`pack_rows`."""
    codes = stored[:, :-ROW_TAIL_BYTES]
    if format_ == "int4r":
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)
    tail = np.ascontiguousarray(stored[:, -ROW_TAIL_BYTES:]).view("<f2")
    return PackedRows(codes, tail[:, 0].astype(np.float16), tail[:, 1].astype(np.float16))
