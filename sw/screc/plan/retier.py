"""Tiers of the rows of each device, once it is known which tables it has.

The pooled model chooses tiers for a class of devices as a whole: a rank of some rate is in the same
tier wherever it is. A device that got more bytes than others, and less work, is better off with a
few more rows on SSD. So each device's tiers are chosen again by an LP over its own rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from screc.errors import PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.costs import BYTES, TIMES, Loads
from screc.plan.decision import SPLIT
from screc.plan.groups import Group, Ints, make_groups
from screc.plan.pool import Pooled, Tier
from screc.plan.problem import Problem
from screc.plan.units import Segment

Floats = NDArray[np.float64]

PARTS = 400
"""Intervals of a group of tables: neighbours differ by a few percent in rate."""

NAMES = (*TIMES, *BYTES)
"""Resources in the order of columns here."""

Tiers = Mapping[int, tuple[Segment, ...]]
"""Segments of every table, by its number, in the order of ranks."""


@dataclasses.dataclass(frozen=True)
class Room:
    """What rows may take of a device, each ``(len(NAMES),)``.

    ``capacity`` is per sample for times and in bytes for memories; ``used`` of it is spoken for.
    """

    capacity: Floats
    used: Floats


@dataclasses.dataclass(frozen=True)
class Retiered:
    """Tiers of a device's tables; ``level`` is its largest relative load, of times.

    ``prices`` ``(len(NAMES),)``: how much the level rises with each resource's relative load.
    ``coarse``: intervals around splits that are not fine enough, by number of the group.
    """

    level: float
    prices: Floats
    tiers: Tiers
    coarse: Mapping[int, tuple[int, ...]]


class _Part:
    """One group's intervals: what all of a table's rows of each would cost in each tier."""

    def __init__(self, problem: Problem, group: Group, klass: int, cuts: Ints) -> None:
        self.cuts = cuts
        intervals = [group.interval(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
        self.group = group
        self.fine = [group.is_fine(each, problem.intervals) for each in intervals]
        self.starts = cuts[:-1]
        self.number = np.repeat(np.arange(len(intervals)), np.diff(cuts))
        pooled = Pooled(problem, [group], [intervals])
        tiers = [[s for s in pooled.tiers(klass, 0, i) if s != "tt"] for i in intervals]
        budget, row = problem.classes[klass].budget, group.row
        self.places: list[tuple[int, Tier]] = [(i, s) for i, own in enumerate(tiers) for s in own]
        ring = {"dram_bytes": costs.ring_bytes_per_row(problem, row)}
        # of rows, lookups, distinct rows and page reads
        self.unit = {
            s: np.stack(
                [
                    _row({f"{s}_bytes": float(row.stride)}),
                    _row(costs.lookup_loads(budget, row, s)),
                    _row({**costs.staged_loads(budget, row), **ring}) if s == "ssd" else _row({}),
                    _row(costs.read_loads(budget)) if s == "ssd" else _row({}),
                ]
            )
            for s in {s for _, s in self.places}
        }

    def amounts(self, shares: Floats) -> Floats:
        """Rows, lookups, distinct rows, reads of each interval ``(intervals, 4)``.

        Of a device that has the share ``shares`` ``(tables of the problem,)`` of each table.
        """
        group = self.group
        count = group.count * shares[np.array(group.tables)][group.table]
        each = np.stack(
            [count, count * group.rate, count * group.distinct, count * group.reads], axis=1
        )
        return np.add.reduceat(each, self.starts, axis=0)


def _row(loads: Loads) -> Floats:
    return np.array([loads.get(name, 0.0) for name in NAMES])


class Retier:
    """Chooses tiers for devices of one class."""

    def __init__(self, problem: Problem, fixed: frozenset[int], klass: int = 0) -> None:
        """Prepare all tables but the ``fixed`` ones."""
        self.problem = problem
        self.klass = klass
        self.parts = [
            _Part(problem, group, klass, group.coarse(PARTS))
            for group in make_groups(problem)
            if not fixed.issuperset(group.tables)
        ]

    def refine(self, found: Sequence[Retiered]) -> bool:
        """Cut intervals around splits further; False if all are fine enough already."""
        around: dict[int, set[int]] = defaultdict(set)
        for each in found:
            for number, intervals in each.coarse.items():
                around[number].update(intervals)
        for number, chosen in around.items():
            group = self.parts[number].group
            cuts = group.refine(self.parts[number].cuts, chosen)
            self.parts[number] = _Part(self.problem, group, self.klass, cuts)
        return bool(around)

    def __call__(self, shares: Floats, room: Room, *, level: float | None = None) -> Retiered:
        """Tiers of least relative load; of least energy at a ``level`` that is given.

        Parameters
        ----------
        shares
            Share of each of the problem's tables that the device has, ``(tables,)``.

        Raises
        ------
        PlanError
            If the rows do not fit.
        """
        columns, owner, places = [], [], []
        intervals = 0
        amounts = [part.amounts(shares) for part in self.parts]
        for part, each in zip(self.parts, amounts, strict=True):
            has = np.flatnonzero(each[:, 0])
            index = np.full(len(each), -1)
            index[has] = intervals + np.arange(len(has))
            intervals += len(has)
            for i, s in part.places:
                if index[i] >= 0:
                    columns.append(each[i] @ part.unit[s])
                    owner.append(index[i])
                    places.append((part, i, s))
        size = len(columns)
        scale = np.maximum(room.capacity, 1e-30)
        timed = np.arange(len(NAMES)) < len(TIMES)
        each_load = np.array(columns).reshape(size, len(NAMES))
        joules = each_load[:, NAMES.index("power")]
        joules = joules / max(joules.sum(), 1e-300)
        loads = each_load.T / scale[:, None]
        limits = np.where(timed, 0.0, 1.0) - room.used / scale
        upper = sparse.csr_matrix(np.hstack([loads, np.where(timed, -1.0, 0.0)[:, None]]))
        equal = sparse.csr_matrix((np.ones(size), (owner, np.arange(size))), (intervals, size + 1))
        goal = np.append(np.zeros(size), 1.0) if level is None else np.append(joules, 0.0)
        bounds = np.array([[0.0, 1.0]] * size + [[0.0, np.inf if level is None else level]])
        result = linprog(
            goal,
            A_ub=upper,
            b_ub=limits,
            A_eq=equal,
            b_eq=np.ones(intervals),
            bounds=bounds,
            method="highs",
        )
        if result.x is None:
            raise PlanError(PlanErrorKind.DRAM, "a device's rows do not fit it")
        chosen = {
            (id(part), i, s): float(v) for (part, i, s), v in zip(places, result.x, strict=False)
        }
        return Retiered(
            level=float(result.x[-1]),
            prices=-result.ineqlin.marginals,
            tiers=self._tiers(shares, chosen),
            coarse=self._coarse(chosen),
        )

    def _coarse(self, chosen: Mapping[tuple[int, int, Tier], float]) -> dict[int, tuple[int, ...]]:
        """Intervals that are divided among tiers and not fine enough, by number of the group."""
        found: dict[int, tuple[int, ...]] = {}
        for number, part in enumerate(self.parts):
            share = ((i, chosen.get((id(part), i, s), 0.0)) for i, s in part.places)
            divided = {i for i, v in share if SPLIT < v < 1 - SPLIT}
            coarse = tuple(sorted(i for i in divided if not part.fine[i]))
            if coarse:
                found[number] = coarse
        return found

    def _tiers(self, shares: Floats, chosen: Mapping[tuple[int, int, Tier], float]) -> Tiers:
        """Ranks of every table by tier: as many as its pieces have in each interval's."""
        found: dict[int, tuple[Segment, ...]] = {}
        for part in self.parts:
            group = part.group
            faster = np.zeros(len(group.tables))
            ends: dict[Tier, Floats] = {}
            for s in ("onchip", "dram", "ssd"):
                if s not in part.unit:
                    continue
                share = np.array(
                    [chosen.get((id(part), i, s), 0.0) for i in range(len(part.starts))]
                )
                weights = group.count * share[part.number]
                faster = faster + np.bincount(group.table, weights, len(group.tables))
                ends[s] = faster
            for local, number in enumerate(group.tables):
                if not shares[number]:
                    continue
                rows = self.problem.tables[number].shape.rows
                at, segments = 0, []
                for s, each in ends.items():
                    last = rows if s == next(reversed(ends)) else min(rows, round(each[local]))
                    if last > at:
                        segments.append((s, at, last))
                        at = last
                found[number] = tuple(segments)
        return found
