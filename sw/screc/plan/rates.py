"""Access rates of a table's ranks, and what a tail of ranks costs when it lives on SSD."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from screc.compile.layout import PAGE_BYTES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def distinct_rows(rates: Floats, batch: int) -> Floats:
    """Rows to stage per sample for each rank of these rates, in blocks of ``batch`` samples."""
    return -np.expm1(-batch * rates) / batch


def page_reads(rates: Floats, batch: int, stride: int) -> Floats:
    """Reads of 4 KiB per sample for each rank; ranks of like rates share pages, by ``stride``."""
    per_page = max(1.0, PAGE_BYTES / stride)
    return -np.expm1(-batch * rates * per_page) / (batch * per_page)


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """Lookups per sample of every rank, piecewise constant and never rising.

    ``edges`` int64 ``(k + 1,)`` from 0 to the table's rows, strictly rising; ``rates`` float64
    ``(k,)``: lookups per sample of *each* rank in ``[edges[i], edges[i + 1])``.

    Since each rank's cost on SSD rises with its rate, every cost of a tail of ranks is convex and
    piecewise linear in where the tail begins, with corners at ``edges`` alone.
    """

    edges: Ints
    rates: Floats

    @classmethod
    def from_counts(
        cls,
        counts: Ints | Floats,
        samples: float,
        rows: int,
        unseen: float,
        behind: tuple[Ints, Ints | Floats] | None = None,
    ) -> RateCurve:
        """Estimate rates from counts of the hold-out part, ordered by the profile part.

        The order of the profile part is not that of the hold-out part, so counts scatter around a
        falling curve: the best falling one (isotonic regression) is taken.

        Parameters
        ----------
        counts
            Hold-out lookups of the hot ranks, ``(hot,)``.
        samples
            Samples in the hold-out part.
        rows
            Rows of the table; those behind the hot ones share ``unseen``.
        unseen
            Lookups per sample, in all, of rows that are not hot.
        behind
            Where those rows are known to differ: edges ``(k + 1,)`` of ranges of them, from 0 to
            their count, and lookups ``(k,)`` in each, whose proportions ``unseen`` is spread by.
        """
        hot = len(counts)
        values = np.asarray(counts, np.float64) / samples
        weights = np.ones(hot)
        if rows > hot:
            widths = np.array([rows - hot])
            shares: NDArray[Any] = np.ones(1)
            if behind is not None and np.sum(behind[1]):
                widths = np.diff(behind[0])
                shares = np.asarray(behind[1], np.float64)[widths > 0] / np.sum(behind[1])
                widths = widths[widths > 0]
            values = np.append(values, unseen * shares / widths)
            weights = np.append(weights, widths)
        fit = isotonic_regression(values, weights=weights, increasing=False)
        blocks = np.asarray(fit.blocks, np.int64)
        edges = np.concatenate([[0], np.cumsum(weights)]).astype(np.int64)[blocks]
        return cls(edges, np.asarray(fit.x)[blocks[:-1]])

    def cut(self, rank: int) -> RateCurve:
        """Return the same rates with an edge at ``rank``."""
        edges = np.union1d(self.edges, [rank])
        pieces = np.searchsorted(self.edges, edges[:-1], "right") - 1
        return RateCurve(edges, self.rates[pieces])

    def covering(self, share: float) -> int:
        """Fewest hottest ranks that get ``share`` of the lookups; all where there are none."""
        ends = np.cumsum(self.rates * self.widths)
        wanted = share * ends[-1]
        piece = int(np.searchsorted(ends, wanted))
        if not self.lookups or piece == len(ends):
            return self.rows
        rest = (wanted - (ends[piece - 1] if piece else 0.0)) / self.rates[piece]
        return min(int(self.edges[piece]) + math.ceil(rest), self.rows)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return int(self.edges[-1])

    @property
    def widths(self) -> Ints:
        """Ranks of each piece."""
        return np.diff(self.edges)

    @cached_property
    def lookups(self) -> float:
        """Lookups per sample of the whole table."""
        return float(self.rates @ self.widths)

    def distinct(self, batch: int) -> Floats:
        """Expected distinct rows per sample that each rank adds to a block of ``batch`` samples.

        Lookups are taken as independent (Poisson): a rank is absent with exp(-batch × rate).
        """
        return distinct_rows(self.rates, batch)

    def reads(self, batch: int, stride: int) -> Floats:
        """Expected page reads per sample that each rank adds; ranks lie in order, by ``stride``."""
        return page_reads(self.rates, batch, stride)

    def tail(self, per_rank: Floats, first: int) -> float:
        """Sum ``per_rank`` (one value for each piece's ranks) over ranks from ``first`` on."""
        inside = np.clip(self.edges[1:] - np.maximum(self.edges[:-1], first), 0, None)
        return float(per_rank @ inside)

    def residue_sum(self, per_rank: Floats, first: int, last: int, of: int, residue: int) -> float:
        """Sum ``per_rank`` over the ranks ``[first, last)`` that are ``residue`` modulo ``of``."""
        if of == 1:
            return self.tail(per_rank, first) - self.tail(per_rank, last)
        below = -((residue - self.edges.clip(first, last)) // of)
        return float(per_rank @ np.diff(below))
