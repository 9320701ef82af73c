"""Ids of a parquet log by lazy queries: one feature's columns at a time, the modulo in the query.

Only plain whole numbers, or lists of them, that become rows by modulo are read so; whatever else a
log holds is left to its batch reader, which also names what is wrong with a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

Ints = NDArray[np.int64]

BLOCK_LOOKUPS = 1 << 22
"""Lookups of a feature that are read at a time, about: 32 MiB of ids."""

MIN_BLOCK_SAMPLES = 1 << 12


class UnreadableError(Exception):
    """A value that a lazy query does not take; the batch reader says which, and where."""


@dataclasses.dataclass(frozen=True)
class LazyColumn:
    """A feature's column: its name, and the table's rows that its values are taken modulo."""

    name: str
    rows: int


@dataclasses.dataclass(frozen=True)
class LazyIds:
    """Ids of parquet files, any feature and any range of samples alone.

    Parameters
    ----------
    paths
        The files, in order.
    sizes
        Samples of each.
    columns
        One per feature.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    columns: tuple[LazyColumn, ...]

    def reads(self) -> bool:
        """Whether every column of every file is one that lazy queries take."""
        for path in self.paths:
            schema = pl.scan_parquet(path).collect_schema()
            for column in self.columns:
                dtype = schema[column.name]
                inner = dtype.inner if isinstance(dtype, pl.List) else dtype
                if not (isinstance(inner, pl.DataType) and inner.is_integer()):
                    return False
        return True

    def block_samples(self, feature: int) -> int:
        """Samples of a block of one feature: from the mean bag of the first ones."""
        name = self.columns[feature].name
        for path, size in zip(self.paths, self.sizes, strict=True):
            if not size:
                continue
            head = pl.scan_parquet(path).select(name).head(MIN_BLOCK_SAMPLES).collect()[name]
            if not isinstance(head.dtype, pl.List):
                return BLOCK_LOOKUPS
            mean = float(head.list.len().fill_null(0).sum()) / len(head)
            return max(MIN_BLOCK_SAMPLES, int(BLOCK_LOOKUPS / max(mean, 1.0)))
        return BLOCK_LOOKUPS

    def read(self, feature: int, start: int, stop: int) -> Iterator[tuple[Ints, Ints | None]]:
        """Yield ids and bag lengths (None: one each) of the samples ``[start, stop)``.

        Raises
        ------
        UnreadableError
            If a value is no id.
        """
        first = 0
        for path, size in zip(self.paths, self.sizes, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            first += size
            if low < high:
                yield self._piece(path, self.columns[feature], low, high)

    def _piece(
        self, path: Path, column: LazyColumn, low: int, high: int
    ) -> tuple[Ints, Ints | None]:
        rows = pl.scan_parquet(path).select(pl.col(column.name)).slice(low, high - low)
        name = column.name
        try:
            dtype = rows.collect_schema()[name]
            if not isinstance(dtype, pl.List):
                query = rows.select(_row(pl.col(name), dtype, column.rows))
                return query.collect(engine="streaming")[name].to_numpy(), None
            lists = rows.collect(engine="streaming")
            lengths = lists.select(pl.col(name).list.len().fill_null(0).cast(pl.Int64))[name]
            # exploding an empty list would leave a null in its place
            values = lists.lazy().filter(pl.col(name).list.len() > 0).explode(name)
            taken = values.select(_row(pl.col(name), dtype.inner, column.rows)).collect()
            return taken[name].to_numpy(), lengths.to_numpy()
        except PolarsError as error:
            raise UnreadableError(f"{path}: {name}: {error}") from error


def _row(values: pl.Expr, dtype: object, rows: int) -> pl.Expr:
    """Row of a value: itself modulo ``rows``; a missing one is row 0, a negative one an error."""
    unsigned = pl.UInt32 if dtype == pl.UInt32 else pl.UInt64
    taken = values.cast(unsigned) % pl.lit(rows, dtype=unsigned)
    return taken.fill_null(0).cast(pl.Int64)
