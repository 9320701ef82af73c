"""Counts of a span of samples: distinct ids of every table, bags of every feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from screc.analyze.sources import HOLDOUT, IdSource, Ints, Piece, Span
from screc.stats import IdCounter
from screc_hw.model import ModelShape

WAITING_LOOKUPS = 1 << 23
"""Lookups that are gathered before they are counted, over all tables: 64 MiB."""

DENSE_ROWS = 1 << 25
"""Tables up to this size are counted in an array of all rows: 256 MiB at most."""

SPARSE = 4
"""... where a leaf has at least one lookup for this many rows; else its ids are sorted."""

Window = tuple[int, int]
"""Samples ``[start, stop)`` of the hold-out part whose batches are looked at."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Distinct ids of one table and part, ascending, and their counts; int64 ``(n,)`` each."""

    table: int
    part: int
    ids: Ints
    counts: Ints


@dataclasses.dataclass
class BagTally:
    """Lengths of one feature's bags."""

    lookups: int = 0
    longest: int = 0
    filled: int = 0

    def add(self, piece: Piece) -> None:
        """Count the bags of a piece."""
        if piece.lengths is None:
            self.merge(BagTally(len(piece), min(len(piece), 1), len(piece)))
            return
        longest = int(piece.lengths.max(initial=0))
        self.merge(BagTally(len(piece.ids), longest, int(np.count_nonzero(piece.lengths))))

    def merge(self, other: BagTally) -> None:
        """Add the bags of ``other``."""
        self.lookups += other.lookups
        self.longest = max(self.longest, other.longest)
        self.filled += other.filled


@dataclasses.dataclass
class Notes:
    """What a span tells beside its leaves: bags by feature, and the samples of windows."""

    bags: dict[int, BagTally] = dataclasses.field(default_factory=dict)
    windows: list[Piece] = dataclasses.field(default_factory=list)

    def add(self, piece: Piece, windows: Sequence[Window]) -> None:
        """Count a piece's bags and keep what of it lies in ``windows``."""
        self.bags.setdefault(piece.feature, BagTally()).add(piece)
        for start, stop in windows:
            low = max(start - piece.first, 0)
            high = min(stop - piece.first, len(piece))
            if low < high:
                kept = piece.slice(low, high)
                # a copy, or the whole piece would stay in memory
                self.windows.append(dataclasses.replace(kept, ids=kept.ids.copy()))


def leaves(
    source: IdSource,
    shape: ModelShape,
    span: Span,
    notes: Notes | None = None,
    windows: Sequence[Window] = (),
) -> Iterator[Leaf]:
    """Count a span, in memory that does not grow with it.

    Parameters
    ----------
    source
        The log's ids.
    shape
        The model.
    span
        What to count.
    notes
        Takes the bags, and of the hold-out part the samples of ``windows``.
    windows
        Samples to keep.

    Yields
    ------
    Leaf
        One or more per table; the same id may be in several.
    """
    waiting: dict[int, list[Ints]] = {}
    lookups = 0
    for piece in source.read(span):
        if notes is not None:
            notes.add(piece, windows if span.part == HOLDOUT else ())
        waiting.setdefault(shape.features[piece.feature].table, []).append(piece.ids)
        lookups += len(piece.ids)
        if lookups >= WAITING_LOOKUPS:
            yield from _count(waiting, shape, span.part)
            waiting, lookups = {}, 0
    yield from _count(waiting, shape, span.part)


def _count(waiting: dict[int, list[Ints]], shape: ModelShape, part: int) -> Iterator[Leaf]:
    for table, pieces in waiting.items():
        ids = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        if len(ids):
            yield Leaf(table, part, *count_ids(ids, shape.tables[table].rows))


def count_ids(ids: Ints, rows: int) -> tuple[Ints, Ints]:
    """Distinct ids, ascending, of a table with ``rows`` rows, and how often each is there."""
    if rows <= DENSE_ROWS and rows <= SPARSE * len(ids):
        counts = np.bincount(ids, minlength=rows)
        found = np.flatnonzero(counts)
        return found, counts[found]
    return np.unique(ids, return_counts=True)


class Tally:
    """Counts of one table and part, exact up to a budget of distinct ids.

    Parameters
    ----------
    rows
        Rows of the table.
    budget
        Distinct ids that are counted.
    """

    def __init__(self, rows: int, budget: int) -> None:
        self._rows = rows
        self._budget = budget
        self._sparse: IdCounter | None = IdCounter()
        self._dense: Ints | None = None
        self.over = False

    def add(self, ids: Ints, counts: Ints) -> None:
        """Add distinct ids and their counts; nothing more is counted once over the budget."""
        if self._dense is not None:
            self._dense[ids] += counts
        elif self._sparse is not None:
            self._sparse.add(ids, counts)
            known = self._sparse.distinct
            if known > self._budget:
                self._drop()
            # a sorted id takes 16 bytes and some more while merging, a row in the array 8
            elif self._rows <= min(DENSE_ROWS, 2 * SPARSE * known):
                self._dense = np.zeros(self._rows, np.int64)
                known_ids, known_counts = self._sparse.result()
                self._dense[known_ids] = known_counts
                self._sparse = None

    def result(self) -> tuple[Ints, Ints]:
        """Return distinct ids, ascending, and their counts; none once over the budget."""
        if self._dense is not None:
            ids = np.flatnonzero(self._dense)
            counts = self._dense[ids]
        elif self._sparse is not None:
            ids, counts = self._sparse.result()
        else:
            ids, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        if len(ids) > self._budget:
            self._drop()
            return self.result()
        return ids, counts

    def _drop(self) -> None:
        self._sparse, self._dense, self.over = None, None, True
