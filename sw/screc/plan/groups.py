"""Tables whose rows cost alike, cut together into intervals of like rates.

A row's best tier depends on its rate and on what a lookup of it costs. Tables that agree in the
latter are one group: their ranks, sorted by rate, are cut into intervals that run through all of
them, so that the planner's model does not grow with the count of tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from screc.plan.costs import RowSizes
from screc.plan.problem import Problem, TableDemand
from screc.plan.rates import distinct_rows, page_reads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COARSE = 48
"""Intervals of a group before its splits are known."""

FINE, FINE_ALONE = 24, 6
"""Pieces that an interval around a split is cut into at a time, of many tables and of one."""

REPLICATED = 0
"""Tables that are replicated at most without being asked for: those with the most bytes of partials
per byte of rows. None: which of them pays was not found in the time that a person waits."""

REPLICATED_SHARE = 0.02
"""Of a device's DRAM: larger tables are not replicated unless asked for."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Some ranks of a group's tables.

    ``pieces`` are those of the group in ``[first, last)``. ``rows``, and per sample ``lookups``,
    ``distinct`` (rows to stage) and ``reads`` (pages), if on SSD, are of all of them.
    """

    first: int
    last: int
    rows: float
    lookups: float
    distinct: float
    reads: float


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Tables that cost alike; ``alike`` is a demand that stands for all of them.

    Pieces are runs of ranks of equal rates, hottest first: ``table`` (index into ``tables``),
    ``start`` (rank), ``count``, ``rate``, ``distinct`` and ``reads`` per rank, each ``(pieces,)``.
    """

    tables: tuple[int, ...]
    alike: TableDemand
    row: RowSizes
    table: Ints
    start: Ints
    count: Ints
    rate: Floats
    distinct: Floats
    reads: Floats
    replicable: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return int(self.count.sum()) * self.row.stride

    def interval(self, first: int, last: int) -> Interval:
        """Sum pieces ``[first, last)``."""
        part = slice(first, last)
        count = self.count[part]
        return Interval(
            first,
            last,
            float(count.sum()),
            float(count @ self.rate[part]),
            float(count @ self.distinct[part]),
            float(count @ self.reads[part]),
        )

    def lookups_by_table(self, interval: Interval) -> dict[int, float]:
        """Lookups per sample of an interval's pieces, by the problem's number of the table."""
        part = slice(interval.first, interval.last)
        sums = np.bincount(self.table[part], self.count[part] * self.rate[part])
        return {self.tables[i]: float(sums[i]) for i in np.flatnonzero(sums)}

    def spread(self, first: int, last: int) -> list[Interval]:
        """Two-point spread of pieces ``[first, last)``: no split of them costs less.

        As many rows at the highest rate, and others at the lowest, as give the same rows and
        lookups. Costs on SSD are concave in the rate, so theirs are not above the true ones.
        """
        true = self.interval(first, last)
        high, low = float(self.rate[first]), float(self.rate[last - 1])
        if high == low or last - first < 2:
            return [true]
        hot = (true.lookups - low * true.rows) / (high - low)
        return [
            Interval(first, last, n, n * rate, n * distinct, n * reads)
            for n, rate, distinct, reads in (
                (hot, high, self.distinct[first], self.reads[first]),
                (true.rows - hot, low, self.distinct[last - 1], self.reads[last - 1]),
            )
        ]

    def coarse(self, most: int = COARSE) -> Ints:
        """Cuts of the pieces, evenly by the logarithm of the rate; fixed cuts beside them."""
        pieces = len(self.rate)
        if pieces <= most:
            return np.arange(pieces + 1)
        logs = np.log(np.maximum(self.rate, self.rate[self.rate > 0].min(initial=1e-30) / 10))
        levels = np.linspace(logs[0], logs[-1], most + 1)[1:-1]
        cuts = np.searchsorted(-logs, -levels)
        spaced = np.linspace(0, pieces, most // 4).astype(np.int64)
        return np.unique(np.concatenate([[0, pieces], cuts, spaced, self._fixed()]))

    def _fixed(self) -> Ints:
        """Places where another rule begins: a bound of rows on chip, the end of a TT form."""
        if len(self.tables) > 1:
            return np.empty(0, np.int64)
        demand = self.alike
        limits = [demand.onchip_rows]
        if demand.tt is not None:
            limits += [demand.tt.last, demand.tt.pins * demand.tt.shape.p[2]]
        found = [int(np.searchsorted(self.start, n)) for n in limits if n is not None]
        return np.array(found, np.int64)

    def refine(self, cuts: Ints, around: Iterable[int]) -> Ints:
        """Cut intervals ``around`` and their neighbours further."""
        parts = FINE if len(self.tables) > 1 else FINE_ALONE
        chosen: set[int] = set()
        for number in around:
            chosen |= {number - 1, number, number + 1}
        more = [
            np.linspace(cuts[number], cuts[number + 1], parts + 1).astype(np.int64)
            for number in chosen
            if 0 <= number < len(cuts) - 1
        ]
        return np.unique(np.concatenate([cuts, *more]))

    def is_fine(self, interval: Interval, intervals: int) -> bool:
        """Whether it holds at most 1 / ``intervals`` of the ranks and lookups of each table.

        A single piece is as fine as can be.
        """
        if interval.last - interval.first <= 1:
            return True
        part = slice(interval.first, interval.last)
        if self.rate[interval.first] == self.rate[interval.last - 1]:
            return True
        size = len(self.tables)
        ranks = np.bincount(self.table[part], self.count[part], size)
        lookups = np.bincount(self.table[part], self.count[part] * self.rate[part], size)
        pieces = np.bincount(self.table[part], minlength=size)
        coarse = (ranks > self._ranks / intervals) | (lookups > self._lookups / intervals)
        return not bool((coarse & (pieces > 1)).any())

    @property
    def _ranks(self) -> Floats:
        return np.asarray(np.bincount(self.table, self.count, len(self.tables)), np.float64)

    @property
    def _lookups(self) -> Floats:
        lookups = self.count * self.rate
        return np.asarray(np.bincount(self.table, lookups, len(self.tables)), np.float64)


def make_groups(problem: Problem, *, merge: bool = True) -> list[Group]:
    """Group the tables; without ``merge`` each is alone."""
    may = replicable(problem)
    found: dict[tuple[object, ...], list[int]] = {}
    for number, table in enumerate(problem.tables):
        key: tuple[object, ...] = (
            RowSizes.of(problem, table),
            table.onchip,
            table.dram,
            table.ssd,
            table.shape.rowwise,
        )
        special = table.tt is not None or table.onchip_rows is not None
        if special or not merge or number in may:
            key = (number,)
        found.setdefault(key, []).append(number)
    return [_group(problem, members, may) for members in found.values()]


def replicable(problem: Problem) -> frozenset[int]:
    """Tables that may be replicated, by number."""
    if len(problem.classes) != 1 or not problem.exchange:
        return frozenset()
    room = REPLICATED_SHARE * problem.classes[0].budget.dram_bytes
    free = []
    asked = set()
    for number, table in enumerate(problem.tables):
        size = table.shape.rows * table.stride
        if table.replicate:
            asked.add(number)
        elif table.replicate is None and table.tt is None and (table.dram or table.onchip):
            if size <= room and table.bags > 0:
                free.append((-table.bags * table.partial_bytes / size, number))
    return frozenset(asked | {number for _, number in sorted(free)[:REPLICATED]})


def _group(problem: Problem, members: Sequence[int], may: Collection[int]) -> Group:
    tables = [problem.tables[number] for number in members]
    edges, rates = [], []
    for table in tables:
        curve = table.rates
        limits = [table.onchip_rows]
        if table.tt is not None:
            limits += [table.tt.last, min(table.tt.pins * table.tt.shape.p[2], table.tt.last)]
        for limit in limits:
            if limit is not None and 0 < limit < curve.rows:
                curve = curve.cut(limit)
        edges.append(curve.edges)
        rates.append(curve.rates)
    sizes = [len(r) for r in rates]
    owner = np.repeat(np.arange(len(tables)), sizes)
    start = np.concatenate([e[:-1] for e in edges])
    count = np.concatenate([np.diff(e) for e in edges])
    rate = np.concatenate(rates)
    # of equal rates, tables in turn and lower ranks first: a table's pieces stay in rank order
    order = np.lexsort((start, owner, -rate))
    first = tables[0]
    sorted_rate = rate[order]
    return Group(
        tables=tuple(members),
        alike=first,
        row=RowSizes.of(problem, first),
        table=owner[order],
        start=start[order],
        count=count[order],
        rate=sorted_rate,
        distinct=distinct_rows(sorted_rate, problem.batch),
        reads=page_reads(sorted_rate, problem.batch, first.stride),
        replicable=len(members) == 1 and members[0] in may,
    )
