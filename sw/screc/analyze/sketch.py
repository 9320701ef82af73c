"""Sketches of tables with more distinct rows than are counted.

Both are linear: what they hold depends on the counts alone, not on the order in which these come
nor on how a log is cut, so they give the same on one core and on a cluster.

* Count-Min chooses the rows that are listed: its estimate of a row is never below the count.
* A distinct sample, the ids whose hash falls below a bound, with exact counts in both parts, tells
  of the rows that are not listed.

References
----------
Cormode, Muthukrishnan: An improved data stream summary: the Count-Min sketch and its applications,
Journal of Algorithms 2005. Gibbons: Distinct sampling for highly-accurate answers to distinct
values queries and event reports, VLDB 2001. The hash: Steele, Lea, Flood: Fast splittable
pseudorandom number generators, OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from screc.analyze.sources import PROFILE, Ints
from screc.stats import IdCounter

NAME = "count-min + distinct sample"

DEPTH = 3
"""Rows of a Count-Min sketch."""

WIDTH_PER_ROW = 2
MIN_WIDTH = 1 << 20
"""Counters of each of those, per listed id and at least; the width is a power of two."""

CANDIDATES = 2
"""Ids that are counted exactly, for each one that is listed: the estimates order them roughly."""

SAMPLED = 1 << 18
"""Ids that a distinct sample has at most: shares of the rest are then off by 1 / sqrt(this)."""

Words = NDArray[np.uint64]


def hash_ids(ids: Ints, seed: int) -> Words:
    """Hash ids to 64 bits each."""
    word = ids.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


class CountMin:
    """Estimates of counts, never below them.

    Parameters
    ----------
    listed
        Ids that it is to find, about.
    lookups
        Lookups that it is given in all.
    """

    def __init__(self, listed: int, lookups: int) -> None:
        self._bits = (max(WIDTH_PER_ROW * listed, MIN_WIDTH) - 1).bit_length()
        dtype = np.uint32 if lookups < 1 << 32 else np.uint64
        self._counters = np.zeros((DEPTH, 1 << self._bits), dtype)

    @property
    def width(self) -> int:
        """Counters per row."""
        return self._counters.shape[1]

    def add(self, ids: Ints, counts: Ints) -> None:
        """Add ids and their counts."""
        for row, counters in enumerate(self._counters):
            np.add.at(counters, self._places(ids, row), counts.astype(counters.dtype))

    def estimate(self, ids: Ints) -> Ints:
        """Upper bounds of the counts of ids."""
        found = [counters[self._places(ids, row)] for row, counters in enumerate(self._counters)]
        return np.min(found, axis=0).astype(np.int64)

    def _places(self, ids: Ints, row: int) -> Ints:
        return (hash_ids(ids, row) >> np.uint64(64 - self._bits)).astype(np.int64)


class Listing:
    """The ids with the highest counts, ``limit`` at most, of those with the highest estimates.

    :data:`CANDIDATES` times ``limit`` ids, by their estimates, are counted exactly. Which ids those
    are does not depend on the order in which they come: the bar only rises, and never above where
    the ids of the whole log put it.
    """

    def __init__(self, sketch: CountMin, limit: int) -> None:
        self._sketch = sketch
        self._limit = limit
        self._candidates = CANDIDATES * limit
        self._bar = (0, 0)
        self._found = IdCounter()

    def add(self, ids: Ints, counts: Ints) -> None:
        """Add ids and their counts."""
        kept = self._above(ids, self._sketch.estimate(ids))
        self._found.add(ids[kept], counts[kept])
        if self._found.distinct > self._candidates:
            self._raise()

    def result(self) -> tuple[Ints, Ints, int]:
        """Return the listed ids, ascending, their counts, and a bound: ids above it are listed."""
        if len(self._found.result()[0]) > self._candidates:
            self._raise()
        ids, counts = self._found.result()
        if len(ids) <= self._limit:
            return ids, counts, self._bar[0]
        listed = np.argsort(-counts, kind="stable")[: self._limit]
        lowest = int(counts[listed[-1]])
        listed.sort()
        return ids[listed], counts[listed], max(self._bar[0], lowest)

    def _above(self, ids: Ints, estimates: Ints) -> NDArray[np.bool_]:
        # equal estimates are told apart by id, as equal counts are in the row order
        lowest, first_out = self._bar
        above: NDArray[np.bool_] = (estimates > lowest) | (
            (estimates == lowest) & (ids < first_out)
        )
        return above

    def _raise(self) -> None:
        ids, counts = self._found.result()
        estimates = self._sketch.estimate(ids)
        out = np.lexsort((-ids, estimates))[len(ids) - self._candidates - 1]
        self._bar = (int(estimates[out]), int(ids[out]))
        kept = self._above(ids, estimates)
        self._found = IdCounter()
        self._found.add(ids[kept], counts[kept])


class DistinctSample:
    """Ids by hash, one of ``2 ** level``, with exact counts in both parts."""

    def __init__(self, limit: int = SAMPLED) -> None:
        self._limit = limit
        self._level = 0
        self._found = (IdCounter(), IdCounter())

    def add(self, part: int, ids: Ints, counts: Ints) -> None:
        """Add ids of one part and their counts."""
        kept = self._sampled(ids)
        self._found[part].add(ids[kept], counts[kept])
        if max(found.distinct for found in self._found) > self._limit:
            self._thin()

    def result(self) -> tuple[int, Ints, Ints, Ints]:
        """Return the level, the sampled ids, ascending, and their counts in both parts."""
        self._thin()
        return self._level, *self._joined()

    def _sampled(self, ids: Ints) -> NDArray[np.bool_]:
        if not self._level:
            return np.ones(len(ids), np.bool_)
        kept: NDArray[np.bool_] = hash_ids(ids, DEPTH) >> np.uint64(64 - self._level) == 0
        return kept

    def _thin(self) -> None:
        """Halve the sample until it is within its limit."""
        while len(self._joined()[0]) > self._limit:
            self._level += 1
            thinned = (IdCounter(), IdCounter())
            for before, after in zip(self._found, thinned, strict=True):
                ids, counts = before.result()
                kept = self._sampled(ids)
                after.add(ids[kept], counts[kept])
            self._found = thinned

    def _joined(self) -> tuple[Ints, Ints, Ints]:
        parts = [found.result() for found in self._found]
        ids = np.union1d(parts[PROFILE][0], parts[1 - PROFILE][0])
        counts = np.zeros((2, len(ids)), np.int64)
        for row, (known, found) in zip(counts, parts, strict=True):
            row[np.searchsorted(ids, known)] = found
        return ids, counts[0], counts[1]
