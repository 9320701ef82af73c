"""Packed rows of PyTorch and FBGEMM, and how they become this tool's.

===========  ===========  =====================================================================
format       row bytes    made by
===========  ===========  =====================================================================
``int4r``    dim / 2 + 4  ``torch.ops.quantized.embedding_bag_4bit_prepack``, FBGEMM's fused
                          4-bit rows with fp16 scale and bias: kept as they are
``int8r``    dim + 4      FBGEMM's fused 8-bit rows with fp16 scale and bias: kept as they are
``byte``     dim + 8      ``torch.ops.quantized.embedding_bag_byte_prepack``, fp32 scale and
                          bias: codes are kept, scale and bias are rounded to fp16
===========  ===========  =====================================================================

The scale and the bias follow the codes in all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc.errors import ConfigError
from screc.importers.checkpoint import Tensor
from screc.models import DIM_STEP, INT4R_DIM_STEP
from screc_sim.golden.rowwise import PackedRows, pack_rows, unpack_rows

FORMATS = ("int4r", "int8r", "byte")

FLOAT_TAIL_BYTES = 8
"""fp32 scale and bias of a ``byte`` row."""

CODE_MAX = 255

CHUNK_BYTES = 16 << 20
"""Bytes of rows converted at a time."""


def row_dim(format_: str, width: int) -> int | None:
    """Components of a packed row of ``width`` bytes; None where no row of the format has it."""
    dim = {"int4r": 2 * (width - 4), "int8r": width - 4, "byte": width - FLOAT_TAIL_BYTES}[format_]
    step = INT4R_DIM_STEP if format_ == "int4r" else DIM_STEP
    return dim if dim > 0 and dim % step == 0 else None


@dataclasses.dataclass
class Rounding:
    """Largest error that rounding scales and biases to fp16 may make in a component of a row."""

    bound: float = 0.0


def converted_rows(
    path: Path, tensor: Tensor, format_: str, rounding: Rounding
) -> Iterator[NDArray[np.uint8]]:
    """Rows of ``format_`` as this tool stores them, a part at a time.

    ``rounding`` is raised to the largest error met.

    Raises
    ------
    ConfigError
        If a scale or bias is not finite or beyond fp16; names tensor and row.
    """
    rows, width = tensor.shape
    step = max(1, CHUNK_BYTES // width)
    for start in range(0, rows, step):
        stored = np.ascontiguousarray(tensor.values[start : start + step])
        if format_ == "byte":
            tail = stored[:, -FLOAT_TAIL_BYTES:].copy().view("<f4")
            with np.errstate(over="ignore"):
                small = tail.astype(np.float16)
            _check_finite(path, tensor.name, small, tail, start)
            error = np.abs(small.astype(np.float64) - tail.astype(np.float64))
            worst = CODE_MAX * error[:, 0] + error[:, 1]
            rounding.bound = max(rounding.bound, float(worst.max(initial=0.0)))
            codes = stored[:, :-FLOAT_TAIL_BYTES]
            yield pack_rows(PackedRows(codes, small[:, 0], small[:, 1]), "int8r")
        else:
            kept = unpack_rows(stored, format_)
            small = np.stack([kept.scale, kept.bias], axis=1)
            _check_finite(path, tensor.name, small, small.astype(np.float32), start)
            yield stored


def _check_finite(
    path: Path,
    name: str,
    rounded: NDArray[np.float16],
    tail: NDArray[np.float32],
    first: int,
) -> None:
    """Check scales and biases ``(n, 2)`` after rounding; ``tail`` are those of the file."""
    wrong = np.argwhere(~np.isfinite(rounded))
    if len(wrong):
        row, which = (int(i) for i in wrong[0])
        raise ConfigError(
            f"tensor {name!r} has the {('scale', 'bias')[which]} {tail[row, which]:g} in row "
            f"{row + first}: must be finite as fp16, at most {np.finfo(np.float16).max} "
            "in magnitude",
            path=path,
        )
