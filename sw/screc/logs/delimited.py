"""Text with one sample per line and a separator between columns, cut into cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screc.errors import ConfigError
from screc.logs.digits import Fields, Text
from screc.logs.ids import RawBags, id_numbers
from screc.logs.lines import Block

Ints = NDArray[np.int64]

UNIT_SEPARATOR = "\x1f"
"""Takes the separator's place in lines that had quotes."""


@dataclasses.dataclass(frozen=True)
class Cells:
    """A block cut into cells: ``starts`` and ``lengths`` int64 ``(columns, lines)``."""

    block: Block
    names: Sequence[str]
    starts: Ints
    lengths: Ints

    @cached_property
    def _text(self) -> Text:
        return Text(self.block.data)

    def __len__(self) -> int:
        return self.starts.shape[1]

    def error(self, column: int, line: int, message: str) -> ConfigError:
        """Return an error about one cell: ``message`` says what its text must be."""
        text = self.texts(column)[line]
        return ConfigError(
            f"{text!r} {message}",
            path=self.block.path,
            field=f"line {self.block.line + line}: {self.names[column]}",
        )

    def fields(self, columns: Sequence[int]) -> Fields:
        """Return the cells of some columns as ``(columns, lines)`` numbers to be."""
        picked = list(columns)
        return Fields(self._text, self.starts[picked], self.lengths[picked])

    def signed(self, columns: Sequence[int]) -> tuple[Fields, Ints]:
        """Return some columns without their minus signs, and where those are: 1, else 0."""
        picked = list(columns)
        starts, lengths = self.starts[picked], self.lengths[picked]
        minus = (np.frombuffer(self.block.data, np.uint8)[starts] == ord("-")).astype(np.int64)
        return Fields(self._text, starts + minus, lengths - minus), minus

    def texts(self, column: int) -> list[str]:
        """Return the cells of one column as text."""
        data = self.block.data
        ends = self.starts[column] + self.lengths[column]
        return [
            data[start:end].decode("utf-8", "replace")
            for start, end in zip(self.starts[column].tolist(), ends.tolist(), strict=True)
        ]


def cut(block: Block, separator: str, names: Sequence[str]) -> Cells:
    """Cut a block into the columns ``names``.

    Raises
    ------
    ConfigError
        If a line has another count of columns; names file and line.
    """
    data = np.frombuffer(block.data, np.uint8)
    ends = np.flatnonzero((data == ord(separator)) | (data == ord("\n")))
    columns = len(names)
    regular = len(ends) == block.lines * columns
    if not (regular and (data[ends[columns - 1 :: columns]] == ord("\n")).all()):
        raise _irregular(block, data, ends, separator, names)
    starts = np.concatenate([[0], ends[:-1] + 1])
    shape = (block.lines, columns)
    lengths = np.ascontiguousarray((ends - starts).reshape(shape).T)
    return Cells(block, names, np.ascontiguousarray(starts.reshape(shape).T), lengths)


def _irregular(
    block: Block, data: NDArray[np.uint8], ends: Ints, separator: str, names: Sequence[str]
) -> ConfigError:
    is_line_end = data[ends] == ord("\n")
    counts = np.diff(np.flatnonzero(is_line_end), prepend=-1)
    line = int(np.flatnonzero(counts != len(names))[0])
    kind = {"\t": "tab", ",": "comma", UNIT_SEPARATOR: "quoted"}.get(separator, repr(separator))
    return ConfigError(
        f"must have {len(names)} {kind}-separated columns ({_abridged(names)}), not {counts[line]}",
        path=block.path,
        field=f"line {block.line + line}",
    )


def _abridged(names: Sequence[str]) -> str:
    shown = names if len(names) <= 4 else (*names[:2], "...", names[-1])
    return ", ".join(shown)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdColumn:
    """A column of ids; see :func:`screc.logs.ids.id_numbers`."""

    index: int
    hashes: bool = False
    hexadecimal: bool | None = None


def read_ids(cells: Cells, columns: Sequence[IdColumn], *, numbers: bool) -> list[RawBags]:
    """Bags of one id per sample; an empty cell is missing.

    Raises
    ------
    ConfigError
        If ``numbers`` are wanted and a cell is none; names file, line, column and text.
    """
    offsets = np.arange(len(cells) + 1, dtype=np.int64)
    missing = [cells.lengths[column.index] == 0 for column in columns]
    if not numbers:
        return [
            RawBags(pl.Series(cells.texts(column.index), dtype=pl.String), empty, offsets)
            for column, empty in zip(columns, missing, strict=True)
        ]
    values: list[NDArray[np.uint64]] = []
    for alike in _runs(columns):
        fields = cells.fields([column.index for column in alike])
        found, bad = id_numbers(fields, hashes=alike[0].hashes, hexadecimal=alike[0].hexadecimal)
        if bad.any():
            line, place = np.argwhere(bad.T)[0]
            wanted = "a hexadecimal" if alike[0].hexadecimal else "a decimal or hexadecimal"
            raise cells.error(
                alike[place].index,
                int(line),
                f'is not {wanted} number below 2**64; ids = "dictionary" takes any text',
            )
        values.extend(found)
    return [
        RawBags(pl.Series(value), empty, offsets)
        for value, empty in zip(values, missing, strict=True)
    ]


def _runs(columns: Sequence[IdColumn]) -> Iterator[list[IdColumn]]:
    """Neighbours that are read alike, which are then read together."""
    run: list[IdColumn] = []
    for column in columns:
        same = run and dataclasses.replace(run[-1], index=column.index) == column
        if run and not same:
            yield run
            run = []
        run.append(column)
    if run:
        yield run


def blocks_from(
    found: Iterator[Block], start: int, *, in_order: bool
) -> Iterator[tuple[Block, int]]:
    """Yield the blocks that matter from sample ``start`` on, and how many lines to drop."""
    first = 0
    for block in found:
        if in_order or first + block.lines > start:
            yield block, min(block.lines, max(0, start - first))
        first += block.lines
