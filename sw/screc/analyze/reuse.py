"""What batches share: distinct rows, pages and TT prefixes of a table per batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from screc.analyze.leaves import Window
from screc.analyze.sources import Ints, Piece
from screc.stats import BatchReuse, prefix_rows
from screc_hw.model import TableShape
from screc_hw.protocol import BEAT_BYTES

BATCHES = (128, 512, 2048)
"""Samples of the batches that are looked at."""

WINDOWS = 4
WINDOW_SAMPLES = 4096
"""Batches are taken from so many runs of so many samples, spread evenly over the hold-out part:
not from all of it, as the ids of their samples are held in memory."""

PAGE_BYTES = 4096


def windows(start: int, stop: int) -> list[Window]:
    """Runs of samples of the hold-out part ``[start, stop)`` that batches are taken from."""
    if stop - start <= WINDOWS * WINDOW_SAMPLES:
        return [(start, stop)]
    firsts = np.linspace(start, stop - WINDOW_SAMPLES, WINDOWS).astype(int).tolist()
    return [(first, first + WINDOW_SAMPLES) for first in firsts]


class Ranks:
    """Ranks of a table's ids: hot ones in their order, others behind them in id order.

    As ``screc.remap.TableRemap`` has them, without its bitmap.
    """

    def __init__(self, hot_ids: Ints) -> None:
        self._order = np.argsort(hot_ids, kind="stable")
        self._ids = hot_ids[self._order]

    def __call__(self, ids: Ints) -> Ints:
        """Rank of every id, int64 ``(n,)``."""
        hot = len(self._ids)
        below = np.searchsorted(self._ids, ids)
        if not hot:
            return ids
        place = np.minimum(below, hot - 1)
        return np.where(self._ids[place] == ids, self._order[place], hot + ids - below)


def batch_reuse(
    table: TableShape, ranks: Ranks, pieces: Sequence[Piece], found: Sequence[Window]
) -> tuple[BatchReuse, ...]:
    """Count what batches of :data:`BATCHES` samples read of a table.

    Parameters
    ----------
    table
        The table.
    ranks
        Its row order.
    pieces
        Samples of ``found``, of all features that read the table, in any order.
    found
        Runs of samples; batches begin at their first one and do not reach over their end.

    Returns
    -------
    tuple of BatchReuse
        Without the sizes that no run has a whole batch of.
    """
    samples, values = _lookups(pieces)
    ranked = ranks(values)
    # as the planner has it: a row of more than a page is one read
    per_page = max(1, PAGE_BYTES // table.stride_bytes(BEAT_BYTES))
    p3 = prefix_rows(table.rows) or 1
    result = []
    for size in BATCHES:
        firsts = list(itertools.chain.from_iterable(range(a, b - size + 1, size) for a, b in found))
        if not firsts:
            continue
        batch = np.searchsorted(firsts, samples, side="right") - 1
        inside = (batch >= 0) & (samples < np.asarray(firsts)[batch] + size)
        chosen, of = ranked[inside], batch[inside]
        result.append(
            BatchReuse(
                samples=size,
                batches=len(firsts),
                lookups=len(chosen),
                rows=_distinct(of, chosen, table.rows),
                pages=_distinct(of, chosen // per_page, table.rows),
                prefixes=_distinct(of, chosen // p3, table.rows),
            )
        )
    return tuple(result)


def _lookups(pieces: Sequence[Piece]) -> tuple[Ints, Ints]:
    """Sample number and id of every lookup."""
    samples, ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for piece in pieces:
        numbers = np.arange(piece.first, piece.first + len(piece))
        samples.append(numbers if piece.lengths is None else np.repeat(numbers, piece.lengths))
        ids.append(piece.ids)
    return np.concatenate(samples), np.concatenate(ids)


def _distinct(batch: Ints, values: Ints, bound: int) -> int:
    """Distinct pairs of a batch and a value below ``bound``."""
    return len(np.unique(batch * bound + values))
