"""The quantised model: every integer that the device computes with."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from screc_hw.model import ModelShape


class RowSource(Protocol):
    """Where embedding rows come from: a tensor, a seed, later a hash or a tensor train."""

    @property
    def rows(self) -> int:
        """Count of rows."""

    @property
    def dim(self) -> int:
        """Components of a row."""

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows ``ids`` as float32 ``(len(ids), dim)``; ids are in ``[0, rows)``."""

    def peak(self) -> float:
        """Largest magnitude in the table (one streamed pass, cached)."""


@dataclasses.dataclass(frozen=True)
class QuantLinear:
    """A linear layer in integers.

    ``weight`` int8 ``(n, k)`` in [-127, 127]; ``bias`` int32 ``(n,)``; ``m`` uint16 and ``s`` uint8
    ``(n,)``: requantisation to the next tensor's scale (the last layer: to Q5.11);
    ``scale`` float64 ``(n,)``: real value of one accumulator step.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    m: NDArray[np.uint16]
    s: NDArray[np.uint8]
    relu: bool
    scale: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class QuantTable:
    """A table's rows as integer codes: ``code = round(row / scale)``, int8 or int4 range."""

    source: RowSource
    format: str
    scale: float

    def codes(self, ids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return integer codes of rows ``ids``, int8 ``(len(ids), dim)``, symmetric."""
        limit = 127 if self.format == "int8" else 7
        scaled = self.source.fetch(ids) / np.float32(self.scale)
        return np.clip(np.floor(scaled + np.float32(0.5)), -limit, limit).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class QuantModel:
    """A whole quantised DLRM.

    ``dense_scale``: real value of one dense code. ``bag_m``/``bag_s`` per feature: pooled codes to
    the interaction's scale. ``vector_scale``: one code of the interaction's input vectors.
    ``copy_ms``: bottom output (``dot``) or every vector (``concat``: identity) to the concatenated
    tensor; ``pair_ms``: Gram entries to it. ``concat_scale``: one code of the concatenated tensor.
    """

    shape: ModelShape
    dense_scale: float
    bottom: tuple[QuantLinear, ...]
    tables: tuple[QuantTable, ...]
    bag_m: NDArray[np.uint16]
    bag_s: NDArray[np.uint8]
    vector_scale: float
    copy_ms: tuple[int, int]
    pair_ms: tuple[int, int]
    concat_scale: float
    top: tuple[QuantLinear, ...]

    def quantise_dense(self, dense: NDArray[np.float32]) -> NDArray[np.int8]:
        """Dense features as int8 codes ``(n, dense)``, what the host sends; half rounds up."""
        scaled = dense / np.float32(self.dense_scale)
        return np.clip(np.floor(scaled + np.float32(0.5)), -127, 127).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class GoldenResult:
    """What the device must return for each sample, all ``(n,)``.

    ``logit`` int32, ``code`` int16 (Q5.11), ``probability`` uint16 (UQ0.16).
    """

    logit: NDArray[np.int32]
    code: NDArray[np.int16]
    probability: NDArray[np.uint16]
