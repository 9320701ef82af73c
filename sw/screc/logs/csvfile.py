"""CSV files with a header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screc.errors import ConfigError
from screc.logs.delimited import (
    UNIT_SEPARATOR,
    Cells,
    IdColumn,
    blocks_from,
    cut,
    read_ids,
)
from screc.logs.ids import IdMap
from screc.logs.lines import Block, blocks, count_lines
from screc.logs.values import NO_LABEL, Columns, labels_of, log_dense
from screc_sim.samples import SampleBatch


class CsvReader:
    """CSV files with a header line each; which column is what is declared."""

    def __init__(
        self,
        paths: Sequence[Path],
        separator: str,
        columns: Columns,
        ids: IdMap,
        *,
        logarithm: bool,
    ) -> None:
        self._paths = paths
        self._separator = separator
        self._columns = columns
        self._ids = ids
        self._logarithm = logarithm

    def count(self) -> int:
        """Count the lines without the headers."""
        return sum(max(0, count_lines([path]) - 1) for path in self._paths)

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from number ``start`` on; errors name file, line, column and text."""
        names: dict[Path, list[str]] = {}
        for block, skip in blocks_from(self._read(names), start, in_order=self._ids.in_order):
            batch = self._batch(self._cut(block, names[block.path]), names[block.path])
            yield batch.slice(skip, len(batch))

    def _read(self, names: dict[Path, list[str]]) -> Iterator[Block]:
        """Yield blocks without the headers, whose columns go into ``names``."""
        for block in blocks(self._paths):
            if block.line > 1:
                yield block
                continue
            head, _, rest = block.data.partition(b"\n")
            header = next(csv.reader([head.decode("utf-8-sig")], delimiter=self._separator))
            self._check_header(block.path, header)
            names[block.path] = header
            if rest:
                yield Block(block.path, 2, rest, block.lines - 1)

    def _check_header(self, path: Path, names: Sequence[str]) -> None:
        for name in self._columns.names:
            if name not in names:
                raise ConfigError(
                    f"column {name!r} is missing; the header has {', '.join(names)} "
                    f"(separator {self._separator!r})",
                    path=path,
                    field="line 1",
                )

    def _cut(self, block: Block, names: Sequence[str]) -> Cells:
        if b'"' not in block.data:
            return cut(block, self._separator, names)
        rows = csv.reader(io.StringIO(block.data.decode("utf-8")), delimiter=self._separator)
        lines = [UNIT_SEPARATOR.join(row) for row in rows]
        if len(lines) != block.lines or any("\n" in line for line in lines):
            raise ConfigError(
                "has a line break inside quotes; a sample must be one line",
                path=block.path,
                field=f"lines {block.line} to {block.line + block.lines - 1}",
            )
        data = "".join(f"{line}\n" for line in lines).encode()
        return cut(Block(block.path, block.line, data, block.lines), UNIT_SEPARATOR, names)

    def _batch(self, cells: Cells, names: list[str]) -> SampleBatch:
        columns = [
            IdColumn(index=names.index(name), hexadecimal=hexadecimal)
            for name, hexadecimal in self._columns.ids
        ]
        raw = read_ids(cells, columns, numbers=self._ids.numbers)
        dense = np.zeros((len(cells), len(self._columns.dense)))
        for i, name in enumerate(self._columns.dense):
            dense[:, i] = _reals(cells, names.index(name), missing=0.0)
        labels = None
        if self._columns.label is not None:
            name, at_least = self._columns.label
            labels = _label_column(cells, names.index(name), at_least)
        features = log_dense(dense) if self._logarithm else dense.astype(np.float32)
        return SampleBatch(features, self._ids(raw), labels)


def _reals(cells: Cells, column: int, missing: float | None) -> NDArray[np.float64]:
    """Read a column of numbers; ``missing`` takes an empty cell's place, None forbids them."""
    texts = pl.Series(cells.texts(column), dtype=pl.String)
    values = texts.str.strip_chars().cast(pl.Float64, strict=False)
    wrong = values.is_null() | values.is_nan() | values.is_infinite()
    if missing is not None:
        wrong &= texts != ""
    if wrong.any():
        first = wrong.arg_max()
        raise cells.error(column, first or 0, "is not a number")
    return values.fill_null(missing or 0.0).to_numpy()


def _label_column(cells: Cells, column: int, at_least: float | None) -> NDArray[np.float32]:
    labels, wrong = labels_of(_reals(cells, column, missing=None), at_least)
    if wrong.any():
        raise cells.error(column, int(np.argmax(wrong)), NO_LABEL)
    return labels
