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

DEPTH = 4
"""Rows of a Count-Min sketch."""

WIDTH_PER_ROW = 2
"""Counters of each of those per listed id, at least; the width is a power of two."""

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
        self._bits = max((WIDTH_PER_ROW * listed - 1).bit_length(), 4)
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
    """Exact counts of the ids that have the highest estimates, ``limit`` at most.

    Which ids those are does not depend on the order in which they come: the bar only rises, and
    never above where the ids of the whole log put it.
    """

    def __init__(self, sketch: CountMin, limit: int) -> None:
        self._sketch = sketch
        self._limit = limit
        self._bar = (0, np.uint64(0))
        self._found = IdCounter()

    @property
    def listed_above(self) -> int:
        """Every id with more lookups than this is listed."""
        return self._bar[0]

    def add(self, ids: Ints, counts: Ints) -> None:
        """Add ids and their counts."""
        kept = self._above(*self._keys(ids))
        self._found.add(ids[kept], counts[kept])
        if self._found.distinct > self._limit:
            self._raise()

    def result(self) -> tuple[Ints, Ints]:
        """Return the listed ids, ascending, and their counts."""
        if len(self._found.result()[0]) > self._limit:
            self._raise()
        return self._found.result()

    def _keys(self, ids: Ints) -> tuple[Ints, Words]:
        """Estimates, and hashes that tell equal estimates apart."""
        return self._sketch.estimate(ids), hash_ids(ids, DEPTH)

    def _above(self, estimates: Ints, hashes: Words) -> NDArray[np.bool_]:
        estimate, tie = self._bar
        above: NDArray[np.bool_] = (estimates > estimate) | (
            (estimates == estimate) & (hashes > tie)
        )
        return above

    def _raise(self) -> None:
        ids, counts = self._found.result()
        estimates, hashes = self._keys(ids)
        first = np.lexsort((hashes, estimates))[len(ids) - self._limit - 1]
        self._bar = (int(estimates[first]), hashes[first])
        kept = self._above(estimates, hashes)
        self._found = IdCounter()
        self._found.add(ids[kept], counts[kept])


class DistinctSample:
    """Ids by hash, one of ``2 ** level``, with exact counts in both parts."""

    def __init__(self, limit: int = SAMPLED) -> None:
        self._limit = limit
        self.level = 0
        self._found = (IdCounter(), IdCounter())

    def add(self, part: int, ids: Ints, counts: Ints) -> None:
        """Add ids of one part and their counts."""
        kept = self._sampled(ids)
        self._found[part].add(ids[kept], counts[kept])
        if max(found.distinct for found in self._found) > self._limit:
            self._thin()

    def result(self) -> tuple[Ints, Ints, Ints]:
        """Return the sampled ids, ascending, and their counts in both parts."""
        self._thin()
        return self._joined()

    def _sampled(self, ids: Ints) -> NDArray[np.bool_]:
        if not self.level:
            return np.ones(len(ids), np.bool_)
        kept: NDArray[np.bool_] = hash_ids(ids, DEPTH + 1) >> np.uint64(64 - self.level) == 0
        return kept

    def _thin(self) -> None:
        """Halve the sample until it is within its limit."""
        while len(self._joined()[0]) > self._limit:
            self.level += 1
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
