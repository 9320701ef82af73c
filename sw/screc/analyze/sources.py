"""Where a log's ids come from: spans of samples of some tables, by lazy queries or in batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from screc.logs import Log
from screc.logs.lazy import LazyIds
from screc.logs.parquet import ParquetReader
from screc_hw.model import ModelShape

Ints = NDArray[np.int64]

SAMPLES_AT_ONCE = 1 << 16
"""Samples of a batch, where a log is read in batches."""

PROFILE, HOLDOUT = 0, 1
"""The parts of a log."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Samples ``[start, stop)`` of one part, as some tables see them."""

    part: int
    tables: tuple[int, ...]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """Lookups of one feature: ids int64 ``(lookups,)`` of samples from number ``first`` on.

    ``lengths`` int64 ``(samples,)`` of the bags, None where every sample has one lookup.
    """

    feature: int
    first: int
    ids: Ints
    lengths: Ints | None

    def __len__(self) -> int:
        return len(self.ids) if self.lengths is None else len(self.lengths)

    def slice(self, start: int, stop: int) -> Piece:
        """Return samples ``start`` to ``stop`` of the piece."""
        if self.lengths is None:
            return Piece(self.feature, self.first + start, self.ids[start:stop], None)
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        ids = self.ids[ends[start] : ends[min(stop, len(self))]]
        return Piece(self.feature, self.first + start, ids, self.lengths[start:stop])


class IdSource(Protocol):
    """Ids of a log. Reading again gives the same ones."""

    parts: tuple[tuple[int, int], tuple[int, int]]
    """First and last sample (exclusive) of the profile and of the hold-out part."""

    def spans(self, tables: Sequence[int], pieces: int) -> list[Span]:
        """Cut both parts into spans, at least ``pieces`` where the log can be cut so."""

    def read(self, span: Span) -> Iterator[Piece]:
        """Yield the ids of a span, pieces of a feature in the order of the samples."""


class BatchSource:
    """Any log, by its batches: all features of a span in one pass.

    Parameters
    ----------
    log
        The whole log.
    shape
        The model.
    """

    def __init__(self, log: Log, shape: ModelShape) -> None:
        self._log = log
        self._shape = shape
        self.parts = _parts(log)

    def spans(self, tables: Sequence[int], pieces: int) -> list[Span]:
        """Cut every part into ``pieces``; all tables are read together."""
        found = []
        for part, (start, stop) in enumerate(self.parts):
            cuts = np.linspace(start, stop, min(pieces, stop - start) + 1).astype(int).tolist()
            found += [
                Span(part, tuple(tables), low, high) for low, high in itertools.pairwise(cuts)
            ]
        return found

    def read(self, span: Span) -> Iterator[Piece]:
        """Yield the ids of a span, batch by batch."""
        log = dataclasses.replace(self._log, start=span.start, stop=span.stop)
        first = span.start
        for batch in log.batches(SAMPLES_AT_ONCE):
            for i, (feature, bags) in enumerate(zip(self._shape.features, batch.bags, strict=True)):
                if feature.table in span.tables:
                    yield Piece(i, first, bags.ids, bags.lengths)
            first += len(batch)


class LazySource:
    """A log whose columns can be read alone, a table at a time.

    Parameters
    ----------
    log
        The whole log.
    ids
        Its ids.
    shape
        The model.
    """

    def __init__(self, log: Log, ids: LazyIds, shape: ModelShape) -> None:
        self._ids = ids
        self.parts = _parts(log)
        self._features = [
            tuple(i for i, feature in enumerate(shape.features) if feature.table == table)
            for table in range(len(shape.tables))
        ]
        blocks = [ids.block_samples(feature) for feature in range(len(shape.features))]
        self._samples = [
            min((blocks[i] for i in features), default=1) for features in self._features
        ]

    def spans(self, tables: Sequence[int], pieces: int) -> list[Span]:
        """Cut every table's parts into blocks, table after table."""
        found = []
        for table in tables:
            if not self._features[table]:
                continue
            for part, (start, stop) in enumerate(self.parts):
                found += [
                    Span(part, (table,), low, min(low + self._samples[table], stop))
                    for low in range(start, stop, self._samples[table])
                ]
        return found

    def read(self, span: Span) -> Iterator[Piece]:
        """Yield the ids of a span, feature by feature."""
        for table in span.tables:
            for feature in self._features[table]:
                first = span.start
                for ids, lengths in self._ids.read(feature, span.start, span.stop):
                    piece = Piece(feature, first, ids, lengths)
                    yield piece
                    first += len(piece)


def open_source(log: Log, shape: ModelShape) -> IdSource:
    """Return the fastest source of a log's ids."""
    reader = log.reader
    lazy = reader.lazy() if isinstance(reader, ParquetReader) else None
    return BatchSource(log, shape) if lazy is None else LazySource(log, lazy, shape)


def _parts(log: Log) -> tuple[tuple[int, int], tuple[int, int]]:
    profile, holdout = log.profile(), log.holdout()
    return (
        (profile.start, profile.start + profile.count()),
        (holdout.start, holdout.start + holdout.count()),
    )
