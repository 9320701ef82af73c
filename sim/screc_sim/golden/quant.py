"""The quantised model: every integer that the device computes with."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from screc_hw.model import LayerShape, ModelShape
from screc_hw.numerics import INT8_MAX, MAX_BAG, pooled_bits
from screc_sim.golden.rowwise import ROWWISE_LIMITS, ROWWISE_UNIT, PackedRows, quantise_rows

CODE_LIMITS = {"int8": INT8_MAX, "int4": 7}
"""Largest code of each format with one scale per table, symmetric."""

FORMATS = (*CODE_LIMITS, *ROWWISE_LIMITS)
"""Every format of a table's rows."""

FILE_VERSION = 1
"""Version of the ``.npz`` layout of :meth:`QuantModel.save`."""

COMPONENTS_AT_ONCE = 1 << 16
"""Components quantised at a time: the temporaries of a :class:`QuantTable` stay in cache."""


def quantise(values: NDArray[np.float32], scale: float, limit: int) -> NDArray[np.int8]:
    """Codes of real values: values / scale to the nearest integer within ±limit, half up.

    The quotient is float32, so the codes are the same on every machine.
    """
    scaled = np.divide(values, np.float32(scale), dtype=np.float32)
    scaled += np.float32(0.5)
    np.floor(scaled, out=scaled)
    return np.clip(scaled, -limit, limit, out=scaled).astype(np.int8)


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
        """Return a bound of the magnitudes in the table (at most one streamed pass, cached)."""


@runtime_checkable
class PackedSource(RowSource, Protocol):
    """Rows that are row-wise quantised already, as ``format`` of :data:`ROWWISE_LIMITS`.

    :meth:`fetch` gives their values, rounded to float32; :meth:`peak` the largest exactly.
    """

    @property
    def format(self) -> str:
        """``int8r`` or ``int4r``."""

    def packed(self, ids: NDArray[np.int64]) -> PackedRows:
        """Return rows ``ids`` as they are stored."""


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


_LAYER_ARRAYS: dict[str, type] = {
    "weight": np.int8,
    "bias": np.int32,
    "m": np.uint16,
    "s": np.uint8,
    "scale": np.float64,
}


@dataclasses.dataclass(frozen=True)
class QuantTable:
    """A table's rows in integers of ``scale`` each.

    ``int8``, ``int4``: codes ``round(row / scale)``. ``int8r``, ``int4r``: ``scale`` is
    :data:`ROWWISE_UNIT`, and a :class:`PackedSource` keeps its codes, scales and biases.

    Raises
    ------
    ValueError
        If ``format`` is none of :data:`FORMATS` or not that of a packed source, or the scale of a
        row-wise table is another.
    """

    source: RowSource
    format: str
    scale: float

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(
                f"a table's format must be one of {', '.join(FORMATS)}, not {self.format!r}"
            )
        if self.rowwise and self.scale != ROWWISE_UNIT:
            raise ValueError(
                f"a table of format {self.format!r} has the scale {ROWWISE_UNIT}, not {self.scale}"
            )
        if isinstance(self.source, PackedSource) and self.source.format != self.format:
            raise ValueError(
                f"rows packed as {self.source.format!r} cannot be a table of format {self.format!r}"
            )

    @property
    def rowwise(self) -> bool:
        """Whether every row has a scale and bias of its own."""
        return self.format in ROWWISE_LIMITS

    @property
    def pooled_bits(self) -> int:
        """Signed width of the sum of a bag."""
        return pooled_bits(MAX_BAG, rowwise=self.rowwise)

    def values(self, ids: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.int8]:
        """Components of rows ``ids`` in units of ``scale``: what the device adds up."""
        return self.packed(ids).values() if self.rowwise else self.codes(ids)

    def packed(self, ids: NDArray[np.int64]) -> PackedRows:
        """Return rows ``ids`` of a row-wise table as the device stores them."""
        if isinstance(self.source, PackedSource):
            return self.source.packed(ids)
        rows = PackedRows(
            np.empty((len(ids), self.source.dim), np.uint8),
            np.empty(len(ids), np.float16),
            np.empty(len(ids), np.float16),
        )
        for part in self._parts(len(ids)):
            done = quantise_rows(self.source.fetch(ids[part]), ROWWISE_LIMITS[self.format])
            rows.codes[part], rows.scale[part], rows.bias[part] = done.codes, done.scale, done.bias
        return rows

    def codes(self, ids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return codes of rows ``ids`` of a table with one scale, int8 ``(len(ids), dim)``."""
        limit = CODE_LIMITS[self.format]
        codes = np.empty((len(ids), self.source.dim), np.int8)
        for part in self._parts(len(ids)):
            codes[part] = quantise(self.source.fetch(ids[part]), self.scale, limit)
        return codes

    def _parts(self, rows: int) -> Iterator[slice]:
        """Cut ``rows`` rows into parts of at most COMPONENTS_AT_ONCE."""
        step = max(1, COMPONENTS_AT_ONCE // self.source.dim)
        return (slice(start, start + step) for start in range(0, rows, step))


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

    @property
    def logit_scale(self) -> float:
        """Real value of one step of the integer logit."""
        return float(self.top[-1].scale[0])

    def quantise_dense(self, dense: NDArray[np.float32]) -> NDArray[np.int8]:
        """Dense features as int8 codes ``(n, dense)``, what the host sends; half rounds up."""
        return quantise(dense, self.dense_scale, INT8_MAX)

    def save(self, path: Path) -> None:
        """Write every integer and scale, but no table rows, as one ``.npz`` without pickle."""
        arrays: dict[str, Any] = {
            "version": np.int64(FILE_VERSION),
            "dense_scale": np.float64(self.dense_scale),
            "vector_scale": np.float64(self.vector_scale),
            "concat_scale": np.float64(self.concat_scale),
            "copy_ms": np.array(self.copy_ms, np.int64),
            "pair_ms": np.array(self.pair_ms, np.int64),
            "bag_m": self.bag_m,
            "bag_s": self.bag_s,
            "table_scale": np.array([table.scale for table in self.tables], np.float64),
        }
        shapes = (*self.shape.bottom_layers, *self.shape.top_layers)
        for shape, layer in zip(shapes, (*self.bottom, *self.top), strict=True):
            arrays |= {f"{shape.name}.{name}": getattr(layer, name) for name in _LAYER_ARRAYS}
        with path.open("wb") as stream:  # a stream, or numpy would append ".npz" to the name
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, path: Path, shape: ModelShape, sources: Sequence[RowSource]) -> QuantModel:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path
            The ``.npz`` file.
        shape
            The model that was saved.
        sources
            Rows of every table, in the order of ``shape.tables``.

        Raises
        ------
        ValueError
            If the file is no such ``.npz``, of another version or of another model; names the file
            and the array.
        """
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError(f"{path}: must be an .npz file")
        with np.load(path, allow_pickle=False) as archive:
            read = _Reader(path, archive)
            version = int(read("version", (), np.int64))
            if version != FILE_VERSION:
                raise ValueError(f"{path}: version must be {FILE_VERSION}, not {version}")
            features, tables = len(shape.features), len(shape.tables)
            scales = read("table_scale", (tables,), np.float64)
            copy_m, copy_s = read("copy_ms", (2,), np.int64)
            pair_m, pair_s = read("pair_ms", (2,), np.int64)
            return cls(
                shape=shape,
                dense_scale=float(read("dense_scale", (), np.float64)),
                bottom=tuple(read.layer(layer) for layer in shape.bottom_layers),
                tables=tuple(
                    QuantTable(source, table.format, float(scale))
                    for source, table, scale in zip(sources, shape.tables, scales, strict=True)
                ),
                bag_m=read("bag_m", (features,), np.uint16),
                bag_s=read("bag_s", (features,), np.uint8),
                vector_scale=float(read("vector_scale", (), np.float64)),
                copy_ms=(int(copy_m), int(copy_s)),
                pair_ms=(int(pair_m), int(pair_s)),
                concat_scale=float(read("concat_scale", (), np.float64)),
                top=tuple(read.layer(layer) for layer in shape.top_layers),
            )


class _Reader:
    """Reads arrays of known shape and type out of an ``.npz``, with errors that name them."""

    def __init__(self, path: Path, archive: Mapping[str, NDArray[Any]]) -> None:
        self._path = path
        self._archive = archive

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        if name not in self._archive:
            raise ValueError(f"{self._path}: array {name!r} is missing")
        array = self._archive[name]
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{self._path}: array {name!r} must be {np.dtype(dtype)} {shape}, "
                f"not {array.dtype} {array.shape}"
            )
        return array

    def layer(self, shape: LayerShape) -> QuantLinear:
        """Read the arrays of one layer."""
        sizes = {"weight": (shape.n, shape.k)}
        arrays = {
            name: self(f"{shape.name}.{name}", sizes.get(name, (shape.n,)), dtype)
            for name, dtype in _LAYER_ARRAYS.items()
        }
        return QuantLinear(relu=shape.relu, **arrays)


@dataclasses.dataclass(frozen=True)
class GoldenResult:
    """What the device must return for each sample, all ``(n,)``.

    ``logit`` int32, ``code`` int16 (Q5.11), ``probability`` uint16 (UQ0.16).
    """

    logit: NDArray[np.int32]
    code: NDArray[np.int16]
    probability: NDArray[np.uint16]
