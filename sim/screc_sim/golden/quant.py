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
from screc_hw.numerics import INT8_MAX, MAX_BAG, SHIFT_MAX, pooled_bits
from screc_hw.tt.shape import TtShape
from screc_sim.golden.rowwise import ROWWISE_LIMITS, ROWWISE_UNIT, PackedRows, quantise_rows
from screc_sim.golden.tt import QuantTt

CODE_LIMITS = {"int8": INT8_MAX, "int4": 7}
"""Largest code of each format with one scale per table, symmetric."""

FORMATS = (*CODE_LIMITS, *ROWWISE_LIMITS)
"""Every format of a table's rows."""

FILE_VERSION = 3
"""Version of the ``.npz`` layout of :meth:`QuantModel.save`."""

COMPONENTS_AT_ONCE = 1 << 16
"""Components quantised at a time: the temporaries of a :class:`QuantTable` stay in cache."""


def quantise(
    values: NDArray[np.float32], scale: float, limit: int, zero: int = 0
) -> NDArray[np.int8]:
    """Codes of real values: values / scale to the nearest integer plus ``zero``, within ±limit.

    Half rounds up.

    The quotient is float32, so the codes are the same on every machine.
    """
    scaled = np.divide(values, np.float32(scale), dtype=np.float32)
    scaled += np.float32(0.5)
    np.floor(scaled, out=scaled)
    if zero:
        scaled += np.float32(zero)
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

    ``weight`` int8 ``(n, k)`` in [-127, 127], with 4 bits in [-7, 7]; ``bias`` int32 ``(n,)``;
    ``m`` uint16 and ``s`` uint8 ``(n,)``: requantisation to the next tensor's scale (the last
    layer: to Q5.11); ``scale`` float64 ``(n,)``: real value of one accumulator step.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    m: NDArray[np.uint16]
    s: NDArray[np.uint8]
    relu: bool
    scale: NDArray[np.float64]

    def entries(self) -> list[tuple[int, int, int]]:
        """Bias, m and s of every output."""
        columns = (self.bias, self.m, self.s)
        return [(int(b), int(m), int(s)) for b, m, s in zip(*columns, strict=True)]


_LAYER_ARRAYS: dict[str, type] = {
    "weight": np.int8,
    "bias": np.int32,
    "m": np.uint16,
    "s": np.uint8,
    "scale": np.float64,
}


class RowOrder(Protocol):
    """Order of a table's rows: id to frequency rank."""

    def ranks(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the rank of every id, ``(len(ids),)``."""


@dataclasses.dataclass(frozen=True)
class TtRange:
    """Ranks ``[first, last)`` of a table, whose rows are rebuilt from TT cores.

    Parameters
    ----------
    first
        First rank.
    rows
        Row ``i`` is that of rank ``first + i``.
    order
        Ranks of the table's ids.
    """

    first: int
    rows: QuantTt
    order: RowOrder

    @property
    def last(self) -> int:
        """Rank behind the last one."""
        return self.first + self.rows.shape.rows

    def local(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of ids, int64; those outside ``[0, last - first)`` are of other ranks."""
        return self.order.ranks(ids).astype(np.int64) - self.first


@dataclasses.dataclass(frozen=True)
class QuantTable:
    """A table's rows in integers of ``scale / 2**fraction`` each.

    ``int8``, ``int4``: codes ``round(row / scale)``. ``int8r``, ``int4r``: ``scale`` is
    :data:`ROWWISE_UNIT`, and a :class:`PackedSource` keeps its codes, scales and biases.
    ``fraction`` bits below the codes make room for the rows of ``tt``; row-wise tables have none.

    Raises
    ------
    ValueError
        If ``format`` is none of :data:`FORMATS` or not that of a packed source, the scale of a
        row-wise table is another, or ``tt`` is not of this table, its scale and its fraction.
    """

    source: RowSource
    format: str
    scale: float
    fraction: int = 0
    tt: TtRange | None = None

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
        if self.rowwise and (self.fraction or self.tt is not None):
            raise ValueError(f"a table of format {self.format!r} has no rows in TT form")
        if self.tt is not None:
            self._check_tt(self.tt)

    def _check_tt(self, tt: TtRange) -> None:
        for name, found, needed in (
            ("scale", tt.rows.scale, self.scale),
            ("fraction", tt.rows.fraction, self.fraction),
            ("dimension", tt.rows.shape.dim, self.source.dim),
        ):
            if found != needed:
                raise ValueError(f"TT rows must have the table's {name} {needed}, not {found}")
        if not 0 <= tt.first < tt.last <= self.source.rows:
            raise ValueError(
                f"TT ranks must lie in [0, {self.source.rows}), not [{tt.first}, {tt.last})"
            )

    @property
    def rowwise(self) -> bool:
        """Whether every row has a scale and bias of its own."""
        return self.format in ROWWISE_LIMITS

    @property
    def pooled_bits(self) -> int:
        """Signed width of the sum of a bag."""
        return pooled_bits(MAX_BAG, rowwise=self.rowwise, fraction=self.fraction)

    def values(self, ids: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.int8]:
        """Components of rows ``ids`` in units of ``scale / 2**fraction``: what the device adds."""
        if self.rowwise:
            return self.packed(ids).values()
        if self.tt is None:
            codes = self.codes(ids)
            return codes.astype(np.int64) << self.fraction if self.fraction else codes
        local = self.tt.local(ids)
        inside = (local >= 0) & (local < self.tt.rows.shape.rows)
        values = np.empty((len(ids), self.source.dim), np.int64)
        values[inside] = self.tt.rows.rows(local[inside])
        values[~inside] = self.codes(ids[~inside]).astype(np.int64) << self.fraction
        return values

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

    ``dense_scale``: real value of one dense code; ``dense_zero``: code of a dense feature of 0,
    whose share of the accumulators the first biases take off. ``bag_m``/``bag_s`` per feature:
    pooled codes to the interaction's scale. ``vector_scale``: one code of the interaction's input
    vectors.
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
    dense_zero: int = 0

    @property
    def logit_scale(self) -> float:
        """Real value of one step of the integer logit."""
        return float(self.top[-1].scale[0])

    def with_tt(self, fraction: int, ranges: Mapping[int, TtRange]) -> QuantModel:
        """Return the model with rows of some tables in TT form.

        Sums of all tables with one scale get ``fraction`` bits below the codes, whether they have
        TT rows or not, and the shift of their requantisation grows by as many.

        Parameters
        ----------
        fraction
            Bits below the codes.
        ranges
            TT rows by number of the table.

        Raises
        ------
        ValueError
            If the model has a fraction already, TT rows do not fit their table, or a shift would
            exceed 47.
        """
        if any(table.fraction or table.tt for table in self.tables):
            raise ValueError("the model has rows in TT form already")
        tables = tuple(
            table
            if table.rowwise and i not in ranges
            else dataclasses.replace(table, fraction=fraction, tt=ranges.get(i))
            for i, table in enumerate(self.tables)
        )
        finer = np.array([tables[f.table].fraction for f in self.shape.features], np.int64)
        shifts = self.bag_s + finer
        for feature, shift in zip(self.shape.features, shifts, strict=True):
            if shift > SHIFT_MAX:
                raise ValueError(
                    f"feature {feature.name!r}: with {fraction} bits below the codes the shift of "
                    f"its requantisation is {shift}, and must be at most {SHIFT_MAX}"
                )
        return dataclasses.replace(self, tables=tables, bag_s=shifts.astype(np.uint8))

    def quantise_dense(self, dense: NDArray[np.float32]) -> NDArray[np.int8]:
        """Dense features as int8 codes ``(n, dense)``, what the host sends; half rounds up."""
        return quantise(dense, self.dense_scale, INT8_MAX, self.dense_zero)

    def save(self, path: Path) -> None:
        """Write every integer and scale, but no table rows, as one ``.npz`` without pickle."""
        arrays: dict[str, Any] = {
            "version": np.int64(FILE_VERSION),
            "dense_scale": np.float64(self.dense_scale),
            "dense_zero": np.int64(self.dense_zero),
            "vector_scale": np.float64(self.vector_scale),
            "concat_scale": np.float64(self.concat_scale),
            "copy_ms": np.array(self.copy_ms, np.int64),
            "pair_ms": np.array(self.pair_ms, np.int64),
            "bag_m": self.bag_m,
            "bag_s": self.bag_s,
            "table_scale": np.array([table.scale for table in self.tables], np.float64),
            "table_fraction": np.array([table.fraction for table in self.tables], np.int64),
        }
        for i, table in enumerate(self.tables):
            if table.tt is not None:
                arrays |= _tt_arrays(i, table.tt)
        shapes = (*self.shape.bottom_layers, *self.shape.top_layers)
        for shape, layer in zip(shapes, (*self.bottom, *self.top), strict=True):
            arrays |= {f"{shape.name}.{name}": getattr(layer, name) for name in _LAYER_ARRAYS}
        with path.open("wb") as stream:  # a stream, or numpy would append ".npz" to the name
            np.savez(stream, **arrays)

    @classmethod
    def load(
        cls,
        path: Path,
        shape: ModelShape,
        sources: Sequence[RowSource],
        orders: Sequence[RowOrder] = (),
    ) -> QuantModel:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path
            The ``.npz`` file.
        shape
            The model that was saved.
        sources
            Rows of every table, in the order of ``shape.tables``.
        orders
            Row order of every table; only needed where one has rows in TT form.

        Raises
        ------
        ValueError
            If the file is no such ``.npz``, of another version or of another model, or row orders
            are missing; names the file and the array.
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
            fractions = read("table_fraction", (tables,), np.int64)
            copy_m, copy_s = read("copy_ms", (2,), np.int64)
            pair_m, pair_s = read("pair_ms", (2,), np.int64)
            return cls(
                shape=shape,
                dense_scale=float(read("dense_scale", (), np.float64)),
                dense_zero=int(read("dense_zero", (), np.int64)),
                bottom=tuple(read.layer(layer) for layer in shape.bottom_layers),
                tables=tuple(
                    read.table(i, QuantTable(source, table.format, float(scale)), fraction, orders)
                    for i, (source, table, scale, fraction) in enumerate(
                        zip(sources, shape.tables, scales, fractions.tolist(), strict=True)
                    )
                ),
                bag_m=read("bag_m", (features,), np.uint16),
                bag_s=read("bag_s", (features,), np.uint8),
                vector_scale=float(read("vector_scale", (), np.float64)),
                copy_ms=(int(copy_m), int(copy_s)),
                pair_ms=(int(pair_m), int(pair_s)),
                concat_scale=float(read("concat_scale", (), np.float64)),
                top=tuple(read.layer(layer) for layer in shape.top_layers),
            )


_TT_NUMBERS = 14
"""Of a table's TT rows in a file: first rank, rows, p, q, ranks, shift1, m, s, fraction."""


def _tt_arrays(table: int, tt: TtRange) -> dict[str, Any]:
    """Arrays of a table's TT rows, by name."""
    rows, shape = tt.rows, tt.rows.shape
    sizes = (shape.rows, *shape.p, *shape.q, *shape.ranks)
    numbers = (tt.first, *sizes, rows.shift1, rows.m, rows.s, rows.fraction)
    arrays = {f"tt{table}.core{i}": core for i, core in enumerate(rows.cores)}
    return {f"tt{table}.numbers": np.array(numbers, np.int64), **arrays}


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

    def table(
        self, index: int, exact: QuantTable, fraction: int, orders: Sequence[RowOrder]
    ) -> QuantTable:
        """Add to a table its fraction and its TT rows, where it has such."""
        name = f"tt{index}.numbers"
        if name not in self._archive:
            return dataclasses.replace(exact, fraction=fraction)
        if not orders:
            raise ValueError(f"{self._path}: array {name!r} needs the row orders of the tables")
        numbers = self(name, (_TT_NUMBERS,), np.int64).tolist()
        first, rows, p1, p2, p3, q1, q2, q3, r1, r2, shift1, m, s, finer = numbers
        shape = TtShape(rows=rows, p=(p1, p2, p3), q=(q1, q2, q3), ranks=(r1, r2))
        one, two, three = (
            self(f"tt{index}.core{i}", size, np.int8) for i, size in enumerate(shape.core_shapes)
        )
        tt = QuantTt(shape, (one, two, three), shift1, m, s, finer, exact.scale)
        return dataclasses.replace(exact, fraction=fraction, tt=TtRange(first, tt, orders[index]))

    def layer(self, shape: LayerShape) -> QuantLinear:
        """Read the arrays of one layer."""
        sizes = {"weight": (shape.n, shape.k)}
        arrays = {
            name: self(f"{shape.name}.{name}", sizes.get(name, (shape.n,)), dtype)
            for name, dtype in _LAYER_ARRAYS.items()
        }
        limit = CODE_LIMITS[shape.format]
        wrong = np.argwhere(np.abs(arrays["weight"].astype(np.int16)) > limit)
        if len(wrong):
            n, k = wrong[0]
            raise ValueError(
                f"{self._path}: layer {shape.name!r}: weight {k} of channel {n} must lie in "
                f"[{-limit}, {limit}] ({shape.format}), not {arrays['weight'][n, k]}"
            )
        return QuantLinear(relu=shape.relu, **arrays)


@dataclasses.dataclass(frozen=True)
class GoldenResult:
    """What the device must return for each sample, all ``(n,)``.

    ``logit`` int32, ``code`` int16 (Q5.11), ``probability`` uint16 (UQ0.16).
    """

    logit: NDArray[np.int32]
    code: NDArray[np.int16]
    probability: NDArray[np.uint16]
