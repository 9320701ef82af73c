"""A log as a run of samples: batches of any size, parts, and how many there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from screc.errors import ConfigError
from screc_sim.samples import SampleBatch, concatenate


class Reader(Protocol):
    """Reads one format. Reading again gives the same samples."""

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from number ``start`` on, in batches of any size."""

    def count(self) -> int:
        """Count the samples, by a pass over the files where they do not say it."""


class _Counted:
    """Count of a reader's samples, taken once for a log and all its parts."""

    def __init__(self, reader: Reader, limit: int | None) -> None:
        self._reader = reader
        self._limit = limit
        self.known: int | None = None

    def count(self) -> int:
        if self.known is None:
            found = self._reader.count()
            self.known = found if self._limit is None else min(found, self._limit)
        return self.known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """Samples ``[start, stop)`` of a reader; ``stop`` None is the end.

    ``shares`` are those of the profile part, from the start, and of the hold-out part, from the
    end. ``where`` names the log in messages.
    """

    reader: Reader
    shares: tuple[float, float]
    where: str
    counted: _Counted
    start: int = 0
    stop: int | None = None

    @classmethod
    def create(
        cls, reader: Reader, *, profile: float, holdout: float, where: str, limit: int | None
    ) -> Log:
        """Return the log of all that ``reader`` has, at most ``limit`` samples."""
        return cls(
            reader=reader,
            shares=(profile, holdout),
            where=where,
            counted=_Counted(reader, limit),
            stop=limit,
        )

    @property
    def samples(self) -> int | None:
        """Count of samples, None before :meth:`count` or a part has asked for it."""
        if self.counted.known is None:
            return None
        stop = self.counted.known if self.stop is None else min(self.stop, self.counted.known)
        return max(0, stop - self.start)

    def count(self) -> int:
        """Count the samples; takes a pass over the files the first time.

        Raises
        ------
        ConfigError
            If the log has fewer than 2 samples: there are no parts of it then.
        """
        found = self.counted.count()
        if found < 2:
            raise ConfigError(f"a log needs at least 2 samples, not {found}", path=self.where)
        return self.samples or 0

    def profile(self) -> Log:
        """Return the part that hot rows are chosen on: the first samples, at least 1."""
        taken = max(1, int(self.count() * self.shares[0]))
        return dataclasses.replace(self, stop=self.start + taken)

    def holdout(self) -> Log:
        """Return the part that accesses are counted on: the last samples, at least 1."""
        count = self.count()
        taken = max(1, int(count * self.shares[1]))
        return dataclasses.replace(self, start=self.start + count - taken, stop=self.start + count)

    def batches(self, size: int) -> Iterator[SampleBatch]:
        """Yield the samples in batches of ``size``, the last one shorter; repeatable."""
        left = None if self.stop is None else self.stop - self.start
        waiting: list[SampleBatch] = []
        have = 0
        for chunk in self.reader.chunks(self.start):
            taken = chunk if left is None else chunk.slice(0, left)
            left = None if left is None else left - len(taken)
            waiting.append(taken)
            have += len(taken)
            if have >= size:
                joined = concatenate(waiting) if len(waiting) > 1 else taken
                for first in range(0, have - size + 1, size):
                    yield joined.slice(first, first + size)
                waiting = [joined.slice(have - have % size, have)]
                have %= size
            if left == 0:
                break
        if have:
            yield concatenate(waiting)

    def take(self, count: int, skip: int = 0) -> SampleBatch:
        """Return ``count`` samples after the first ``skip``, or as many as there are.

        Raises
        ------
        ConfigError
            If there is none.
        """
        start = self.start + skip
        stop = start + count if self.stop is None else min(start + count, self.stop)
        part = dataclasses.replace(self, start=start, stop=max(start, stop))
        for batch in part.batches(count):
            return batch
        raise ConfigError(f"has no samples after the first {start}", path=self.where)
