"""From the values of a log to row numbers: modulo, numbered by appearance, or from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from screc.errors import ConfigError
from screc.logs.digits import Fields, Text
from screc_hw.model import ModelShape
from screc_sim.samples import Bags

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

HASH_CHARACTERS = 8
"""Characters of a hashed value in Criteo's logs."""

FILE_COLUMNS = ("feature", "value", "id")
"""Columns of an id file."""


@dataclasses.dataclass(frozen=True)
class RawBags:
    """Bags of one feature before its values have become ids.

    ``values``: UInt64 or String, ``(lookups,)``; ``missing``: bool ``(lookups,)``, where there was
    no value, or None; ``offsets`` int64 ``(samples + 1,)``.
    """

    values: pl.Series
    missing: Mask | None
    offsets: Ints

    def bags(self, ids: Ints) -> Bags:
        """Put ids in the place of the values; a missing value is id 0."""
        if self.missing is not None and self.missing.any():
            ids = np.where(self.missing, 0, ids)
        return Bags(np.ascontiguousarray(ids), self.offsets)


class IdMap(Protocol):
    """Turns values into ids."""

    in_order: bool
    """Whether ids depend on the samples before, so that none may be skipped."""
    numbers: bool
    """Whether values must be numbers."""

    def __call__(self, raw: Sequence[RawBags]) -> tuple[Bags, ...]:
        """Map a batch: one entry per feature."""


class Modulo:
    """The id is the value modulo the table's rows."""

    in_order = False
    numbers = True

    def __init__(self, shape: ModelShape) -> None:
        self.rows = [shape.tables[feature.table].rows for feature in shape.features]

    def __call__(self, raw: Sequence[RawBags]) -> tuple[Bags, ...]:
        """Map a batch of UInt64 values."""
        return tuple(
            bags.bags((bags.values.to_numpy() % np.uint64(rows)).astype(np.int64))
            for bags, rows in zip(raw, self.rows, strict=True)
        )


class Dictionary:
    """Ids number a table's values by first appearance: by sample, then feature, then in the bag."""

    in_order = True
    numbers = False

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._numbers: list[dict[Any, int]] = [{} for _ in shape.tables]

    def __call__(self, raw: Sequence[RawBags]) -> tuple[Bags, ...]:
        """Map a batch.

        Raises
        ------
        ConfigError
            If a table has fewer rows than the log has values.
        """
        bags: list[Bags | None] = [None] * len(raw)
        for table in range(len(self._shape.tables)):
            features = [i for i, f in enumerate(self._shape.features) if f.table == table]
            self._number(table, [raw[i] for i in features])
            for i in features:
                bags[i] = raw[i].bags(_translate(raw[i].values, self._numbers[table]))
        return tuple(found for found in bags if found is not None)

    def _number(self, table: int, columns: Sequence[RawBags]) -> None:
        known = self._numbers[table]
        shape = self._shape.tables[table]
        for value in _in_order(columns).unique(maintain_order=True).to_list():
            if value in known:
                continue
            if len(known) == shape.rows:
                raise ConfigError(
                    f'"dictionary": table {shape.name!r} has {shape.rows} rows, but the log has '
                    f"more values: {value!r} is number {shape.rows + 1}; give it more rows, or use "
                    'ids = "modulo"',
                    field="log.ids",
                )
            known[value] = len(known)


def _in_order(columns: Sequence[RawBags]) -> pl.Series:
    """Values that are there, sample by sample, feature by feature."""
    kept = []
    for raw in columns:
        lengths = np.diff(raw.offsets)
        sample = np.repeat(np.arange(len(lengths)), lengths)
        there = np.ones(len(sample), np.bool_) if raw.missing is None else ~raw.missing
        kept.append((raw.values.filter(pl.Series(there)), sample[there]))
    if len(kept) == 1:
        return kept[0][0]
    order = np.argsort(np.concatenate([sample for _, sample in kept]), kind="stable")
    return pl.concat([values for values, _ in kept])[order]


def _translate(values: pl.Series, numbers: dict[Any, int]) -> Ints:
    """Look every value up; those that have no number get 0."""
    distinct = values.unique()
    if not len(distinct):
        return np.empty(0, np.int64)
    found = pl.Series([numbers.get(value, 0) for value in distinct.to_list()], dtype=pl.Int64)
    return values.replace_strict(distinct, found, return_dtype=pl.Int64).to_numpy()


class FileIds:
    """Ids that a trained model gave to values; a value that it did not know is id 0.

    Parameters
    ----------
    path
        Parquet file with the columns of :data:`FILE_COLUMNS`: names of features, values as text,
        and ids.
    shape
        The model.

    Raises
    ------
    ConfigError
        If the file cannot be read, a column is missing, or an id is out of its table's range.
    """

    in_order = False
    numbers = False

    def __init__(self, path: Path, shape: ModelShape) -> None:
        try:
            frame = pl.read_parquet(path)
        except (OSError, PolarsError) as error:
            raise ConfigError(f"cannot be read as parquet: {error}", path=path) from error
        for column in FILE_COLUMNS:
            if column not in frame.columns:
                raise ConfigError(
                    f"column {column!r} is missing; needs {', '.join(FILE_COLUMNS)}, has "
                    f"{', '.join(frame.columns)}",
                    path=path,
                )
        self._texts: list[dict[Any, int]] = []
        self._values: list[dict[Any, int] | None] = [None] * len(shape.features)
        for feature in shape.features:
            part = frame.filter(pl.col("feature") == feature.name)
            rows = shape.tables[feature.table].rows
            wrong = part.filter(~pl.col("id").is_between(0, rows - 1))
            if len(part) == 0 or len(wrong):
                what = (
                    f"id {wrong['id'][0]} of value {wrong['value'][0]!r} must lie in [0, {rows})"
                    if len(wrong)
                    else "has no values of this feature"
                )
                raise ConfigError(what, path=path, field=feature.name)
            texts = part["value"].cast(pl.String).to_list()
            self._texts.append(dict(zip(texts, part["id"].to_list(), strict=True)))

    def __call__(self, raw: Sequence[RawBags]) -> tuple[Bags, ...]:
        """Map a batch."""
        return tuple(
            bags.bags(_translate(bags.values, self._numbers(i, bags.values.dtype)))
            for i, bags in enumerate(raw)
        )

    def _numbers(self, feature: int, dtype: pl.DataType) -> dict[Any, int]:
        """Ids by text, or by number where the log has numbers."""
        texts = self._texts[feature]
        if dtype == pl.String:
            return texts
        by_value = self._values[feature]
        if by_value is None:
            numbers, bad = text_numbers(list(texts), hashes=True)
            by_value = {
                int(number): id_
                for number, wrong, id_ in zip(numbers, bad, texts.values(), strict=True)
                if not wrong
            }
            self._values[feature] = by_value
        return by_value


def id_numbers(
    fields: Fields, *, hashes: bool = False, hexadecimal: bool | None = None
) -> tuple[NDArray[np.uint64], Mask]:
    """Values of ids in text, and which are none.

    Parameters
    ----------
    fields
        The fields; an empty one has value 0.
    hashes
        Whether fields of eight characters are hexadecimal even without a letter.
    hexadecimal
        Whether all are hexadecimal; None: those with a letter.
    """
    lengths = fields.lengths
    values, bad = fields.hexadecimal()
    if hexadecimal or (hashes and bool(((lengths == HASH_CHARACTERS) | (lengths == 0)).all())):
        return values, bad
    plain, not_plain = fields.decimal()
    if hexadecimal is None:
        if hashes:
            not_plain |= lengths == HASH_CHARACTERS
        return np.where(not_plain, values, plain), not_plain & bad
    return plain, not_plain


def text_numbers(
    texts: Sequence[str], *, hashes: bool = False, hexadecimal: bool | None = None
) -> tuple[NDArray[np.uint64], Mask]:
    """Apply :func:`id_numbers` to separate texts."""
    encoded = [text.encode() for text in texts]
    lengths = np.array([len(text) for text in encoded], np.int64)
    starts = np.cumsum(lengths) - lengths
    fields = Fields(Text(b"".join(encoded)), starts, lengths)
    return id_numbers(fields, hashes=hashes, hexadecimal=hexadecimal)
