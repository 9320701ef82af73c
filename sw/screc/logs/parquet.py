"""Parquet files: columns of scalars (bags of one) or of lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from screc.errors import ConfigError
from screc.logs.ids import IdMap, Modulo, RawBags, text_numbers
from screc.logs.lazy import LazyColumn, LazyIds
from screc.logs.values import NO_LABEL, Columns, labels_of, log_dense
from screc_sim.samples import SampleBatch

CHUNK_SAMPLES = 1 << 16
"""Rows read at a time."""


class ParquetReader:
    """Reads parquet files, a slice at a time; which column is what is declared as for CSV.

    Null is a missing value: id 0 of a scalar, an empty bag of a list, 0 of a dense feature.
    """

    def __init__(
        self, paths: Sequence[Path], columns: Columns, ids: IdMap, *, logarithm: bool
    ) -> None:
        self._paths = paths
        self._columns = columns
        self._ids = ids
        self._logarithm = logarithm

    @cached_property
    def _sizes(self) -> list[int]:
        return [self._size(path) for path in self._paths]

    def _size(self, path: Path) -> int:
        try:
            frame = pl.scan_parquet(path)
            names = frame.collect_schema().names()
            size = int(frame.select(pl.len()).collect().item())
        except (OSError, PolarsError) as error:
            raise ConfigError(f"cannot be read as parquet: {error}", path=path) from error
        for name in self._columns.names:
            if name not in names:
                raise ConfigError(
                    f"column {name!r} is missing; the file has {', '.join(names)}", path=path
                )
        return size

    def count(self) -> int:
        """Count the rows; the files say it."""
        return sum(self._sizes)

    def lazy(self) -> LazyIds | None:
        """Return the ids by lazy queries; None where they must be read in batches."""
        if not isinstance(self._ids, Modulo):
            return None
        columns = tuple(
            LazyColumn(name, rows)
            for (name, _), rows in zip(self._columns.ids, self._ids.rows, strict=True)
        )
        found = LazyIds(tuple(self._paths), tuple(self._sizes), columns)
        return found if found.reads() else None

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from row ``start`` on; errors name file, column and row."""
        first = 0
        for path, size in zip(self._paths, self._sizes, strict=True):
            skip = min(size, max(0, start - first))
            first += size
            for begin in range(0 if self._ids.in_order else skip, size, CHUNK_SAMPLES):
                frame = (
                    pl.scan_parquet(path)
                    .select(list(dict.fromkeys(self._columns.names)))
                    .slice(begin, CHUNK_SAMPLES)
                    .collect()
                )
                batch = self._batch(_Slice(path, begin, frame))
                yield batch.slice(max(0, skip - begin), len(batch))

    def _batch(self, rows: _Slice) -> SampleBatch:
        raw = [
            rows.bags(name, numbers=self._ids.numbers, hexadecimal=hexadecimal)
            for name, hexadecimal in self._columns.ids
        ]
        dense = np.zeros((len(rows.frame), len(self._columns.dense)))
        for i, name in enumerate(self._columns.dense):
            dense[:, i] = rows.reals(name, missing=0.0)
        labels = None
        if self._columns.label is not None:
            labels = rows.labels(*self._columns.label)
        features = log_dense(dense) if self._logarithm else dense.astype(np.float32)
        return SampleBatch(features, self._ids(raw), labels)


@dataclasses.dataclass(frozen=True)
class _Slice:
    """Rows of a file, from row ``begin`` on."""

    path: Path
    begin: int
    frame: pl.DataFrame

    def error(self, name: str, row: int, message: str) -> ConfigError:
        return ConfigError(message, path=self.path, field=f"row {self.begin + row}: {name}")

    def bags(self, name: str, *, numbers: bool, hexadecimal: bool | None) -> RawBags:
        column = self.frame[name]
        if isinstance(column.dtype, pl.List):
            lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
            values = column.filter(lengths > 0).explode()
        else:
            lengths = np.ones(len(column), np.int64)
            values = column
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        missing = values.is_null().to_numpy()

        def row(place: int) -> int:
            return int(np.searchsorted(offsets, place, side="right")) - 1

        if values.dtype.is_integer():
            low = values.min()
            if isinstance(low, int) and low < 0:
                place = values.arg_min() or 0
                raise self.error(name, row(place), f"{low} is no id: 0 or more")
            return RawBags(values.fill_null(0).cast(pl.UInt64), missing, offsets)
        if values.dtype not in (pl.String, pl.Categorical):
            raise self.error(
                name, 0, f"must hold whole numbers or text, or lists of them, not {values.dtype}"
            )
        texts = values.cast(pl.String).fill_null("")
        missing |= (texts == "").to_numpy()
        if not numbers:
            return RawBags(texts, missing, offsets)
        found, bad = text_numbers(texts.to_list(), hexadecimal=hexadecimal)
        if bad.any():
            place = int(np.argmax(bad))
            raise self.error(
                name,
                row(place),
                f"{texts[place]!r} is no decimal or hexadecimal number below 2**64; "
                'ids = "dictionary" takes any text',
            )
        return RawBags(pl.Series(found), missing, offsets)

    def reals(self, name: str, missing: float | None) -> NDArray[np.float64]:
        column = self.frame[name]
        if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            raise self.error(name, 0, f"must hold numbers, not {column.dtype}")
        values = column.cast(pl.Float64)
        wrong = ~values.is_finite()
        wrong = wrong.fill_null(missing is None)
        if wrong.any():
            place = wrong.arg_max() or 0
            raise self.error(name, place, f"{values[place]} is not a number")
        return values.fill_null(missing or 0.0).to_numpy()

    def labels(self, name: str, at_least: float | None) -> NDArray[np.float32]:
        values = self.reals(name, missing=None)
        labels, wrong = labels_of(values, at_least)
        if wrong.any():
            place = int(np.argmax(wrong))
            raise self.error(name, place, f"{values[place]:g} {NO_LABEL}")
        return labels
