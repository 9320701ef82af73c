"""What the integers of a table in tensor-train form must be, for hardware and golden model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from screc_hw.numerics import INT8_MAX, MULTIPLIER_BITS, SHIFT1_MAX, SHIFT_MAX, SHIFT_MIN
from screc_hw.tt.shape import TtShape

Int8Cores = tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]]


def check_codes(shape: TtShape, cores: Int8Cores, *, shift1: int, m: int, s: int) -> None:
    """Check TT cores and the scales between them.

    Raises
    ------
    ValueError
        If a core has another shape or type, or a value is out of its range; names it.
    """
    for number, (core, sizes) in enumerate(zip(cores, shape.core_shapes, strict=True), 1):
        if core.shape != sizes or core.dtype != np.int8:
            raise ValueError(f"core {number} must be int8 {sizes}, not {core.dtype} {core.shape}")
        if int(core.min()) < -INT8_MAX:
            raise ValueError(f"core {number} must be in -{INT8_MAX}..{INT8_MAX}, not {core.min()}")
    for name, value, low, high in (
        ("shift1", shift1, 0, SHIFT1_MAX),
        ("m", m, 1 << (MULTIPLIER_BITS - 1), (1 << MULTIPLIER_BITS) - 1),
        ("s", s, SHIFT_MIN, SHIFT_MAX),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low}..{high}, not {value}")
