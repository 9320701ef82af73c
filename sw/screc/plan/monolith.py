"""The planner's problem as one MIP with a binary for every table and device: small instances only.

Every table is whole on one device (``split = false``), cut between tiers at given borders, and each
device has its one pattern of cores. Equal devices are interchangeable here, which makes the program
hopeless at size: it is what the pooled model is compared with where it can still be solved.

With ``serial`` tier times it is RecShard's two-tier program: a device's time is the sum of its
tiers' times, each tier is its bandwidth alone, and there are no rings, exchange and compute.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES
from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.costs import RowSizes
from screc.plan.problem import DeviceClass, Problem
from screc.plan.schema import Range, TablePlan, Tier
from screc_hw.protocol import BEAT_BYTES

Ints = NDArray[np.int64]

TIERS: tuple[Tier, ...] = ("onchip", "dram", "ssd")
"""Fastest first; TT form is not among them."""

REL_GAP = 1e-9
"""Relative gap at which the program is solved."""

UNIT = 1e-9
"""Seconds that the time is counted in: coefficients near 1 suit the solver's tolerances."""


@dataclasses.dataclass(frozen=True)
class Monolithic:
    """The best plan: ``seconds`` per sample, its proven ``bound``, and tables by device."""

    seconds: float
    bound: float
    devices: tuple[tuple[TablePlan, ...], ...]


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Ranks ``[first, last)`` of a table, and per sample their lookups, staged rows and reads."""

    first: int
    last: int
    lookups: float
    distinct: float
    reads: float


def solve_monolith(
    problem: Problem,
    borders: Sequence[Ints],
    *,
    serial: bool = False,
    time_limit: float | None = None,
    rel_gap: float = REL_GAP,
) -> Monolithic | None:
    """Solve for the least time per sample; None where there is no plan, or none was found in time.

    Parameters
    ----------
    borders
        Of every table, ranks at which it may be cut: int64, rising from 0 to its rows.
    serial
        Whether tiers work one after another, as RecShard has it.

    Raises
    ------
    ValueError
        If the problem has what this model has not: a choice of cores, TT form, replicas, limits.
    """
    _check(problem, borders)
    return _Model(problem, borders, serial=serial).solve(time_limit, rel_gap)


def _check(problem: Problem, borders: Sequence[Ints]) -> None:
    if any(len(each.patterns) != 1 for each in problem.classes):
        raise ValueError("every class of devices must have one pattern of cores")
    if problem.objective != "throughput" or problem.max_latency is not None:
        raise ValueError('the objective must be "throughput", without a limit of latency')
    for table, edges in zip(problem.tables, borders, strict=True):
        if table.tt is not None or table.replicate:
            raise ValueError(f"table {table.shape.name!r} must not be in TT form or replicated")
        if edges[0] != 0 or edges[-1] != table.shape.rows or (np.diff(edges) <= 0).any():
            raise ValueError(
                f"borders of table {table.shape.name!r} must rise from 0 to {table.shape.rows}"
            )


class _Model:
    """``own[d, t]``: device d holds table t; ``at[d, t, i, s]``: and its piece i is in tier s."""

    def __init__(self, problem: Problem, borders: Sequence[Ints], *, serial: bool) -> None:
        import pyomo.environ as pyo

        self.problem = problem
        self.serial = serial
        self.rows = [RowSizes.of(problem, table) for table in problem.tables]
        self.pieces = [self._pieces(t, edges) for t, edges in enumerate(borders)]
        self.devices: list[tuple[DeviceClass, Pattern]] = [
            (each, each.patterns[0]) for each in problem.classes for _ in range(each.count)
        ]
        m = self.m = pyo.ConcreteModel()
        m.D = pyo.RangeSet(0, len(self.devices) - 1)
        m.N = pyo.RangeSet(0, len(problem.tables) - 1)
        m.Z = pyo.Set(initialize=list(self._places()), dimen=4)
        m.own = pyo.Var(m.D, m.N, domain=pyo.Binary)
        m.at = pyo.Var(m.Z, domain=pyo.Binary)
        m.computed = pyo.Var(m.D, bounds=(0, 1))
        m.staging = pyo.Var(m.D, domain=pyo.Binary)
        m.time = pyo.Var(domain=pyo.NonNegativeReals)
        m.every_table = pyo.Constraint(m.N, rule=lambda m, t: sum(m.own[d, t] for d in m.D) == 1)
        m.every_rank = pyo.Constraint(
            m.D,
            [(t, i) for t, pieces in enumerate(self.pieces) for i in range(len(pieces))],
            rule=lambda m, d, t, i: self._tiers(d, t, i, TIERS) == m.own[d, t],
        )
        m.hot_first = pyo.Constraint(
            m.D,
            [(t, i) for t, pieces in enumerate(self.pieces) for i in range(len(pieces) - 1)],
            [1, 2],
            rule=self._hot_first,
        )
        (self._add_serial if serial else self._add_parallel)()
        self._add_bytes()
        m.objective = pyo.Objective(expr=m.time)

    def _pieces(self, t: int, edges: Ints) -> list[_Piece]:
        table, batch = self.problem.tables[t], self.problem.batch
        rates = table.rates
        each = (rates.rates, rates.distinct(batch), rates.reads(batch, table.stride))
        tails = [[rates.tail(per_rank, int(edge)) for edge in edges] for per_rank in each]
        return [
            _Piece(int(edges[i]), int(edges[i + 1]), *(x[i] - x[i + 1] for x in tails))
            for i in range(len(edges) - 1)
        ]

    def _places(self) -> Iterator[tuple[int, int, int, Tier]]:
        for d, (each, pattern) in enumerate(self.devices):
            for t, table in enumerate(self.problem.tables):
                onchip = bool(pattern.capacity["onchip_bytes"]) and not self.serial
                allowed = {
                    "onchip": table.onchip and onchip and pattern.memory,
                    "dram": table.dram and pattern.memory,
                    "ssd": table.ssd and each.budget.has_ssd and pattern.memory,
                }
                for i, piece in enumerate(self.pieces[t]):
                    for tier in TIERS:
                        if tier == "onchip" and piece.last > table.most_onchip:
                            continue
                        if allowed[tier]:
                            yield d, t, i, tier

    def _tiers(self, d: int, t: int, i: int, tiers: Sequence[Tier]) -> Any:
        m = self.m
        return sum((m.at[d, t, i, s] for s in tiers if (d, t, i, s) in m.Z), start=0 * m.own[d, t])

    def _hot_first(self, m: Any, d: int, t: int, i: int, count: int) -> Any:
        """A piece is in one of the ``count`` fastest tiers only if the hotter one is."""
        tiers = TIERS[:count]
        return self._tiers(d, t, i, tiers) >= self._tiers(d, t, i + 1, tiers)

    def _add_serial(self) -> None:
        """Time >= the sum of all lookups' times, each by the bandwidth of its tier."""
        import pyomo.environ as pyo

        def rule(m: Any, d: int) -> Any:
            each, pattern = self.devices[d]
            budget = each.budget
            total = 0.0
            for key in m.Z:
                if key[0] != d:
                    continue
                _, t, i, tier = key
                size = self.rows[t].beats * BEAT_BYTES
                seconds = size / budget.random_rate(size) / pattern.capacity["dram"]
                if tier == "ssd":
                    seconds = 1 / min(budget.ssd_iops, budget.p2p_rate / PAGE_BYTES)
                total += self.pieces[t][i].lookups * seconds / UNIT * m.at[key]
            return m.time >= total

        self.m.busy = pyo.Constraint(self.m.D, rule=rule)

    def _loads(self, d: int, t: int, i: int, tier: Tier) -> Mapping[str, float]:
        """Loads of a piece in a tier."""
        budget, row, piece = self.devices[d][0].budget, self.rows[t], self.pieces[t][i]
        found: dict[str, float] = defaultdict(float)
        parts = [(costs.lookup_loads(budget, row, tier), piece.lookups)]
        if tier == "ssd":
            parts.append((costs.read_loads(budget), piece.reads))
            parts.append((costs.staged_loads(budget, row), piece.distinct))
        for loads, factor in parts:
            for name, value in loads.items():
                found[name] += value * factor
        return found

    def _add_parallel(self) -> None:
        """Load of every resource <= time × its capacity; samples are computed where there is."""
        import pyomo.environ as pyo

        problem, m = self.problem, self.m
        loads = {key: self._loads(*key) for key in m.Z}

        def busy(m: Any, d: int, r: str) -> Any:
            each, pattern = self.devices[d]
            own = costs.sample_loads(problem, each.budget, pattern.sample_beats).get(r, 0.0)
            total = own * m.computed[d]
            total += sum(loads[key].get(r, 0.0) * m.at[key] for key in m.Z if key[0] == d)
            if problem.exchange:
                for t, table in enumerate(problem.tables):
                    out = costs.partial_out(table, each.budget).get(r, 0.0)
                    total += table.bags * out * m.own[d, t]
                    into = costs.partial_in(table, each.budget).get(r, 0.0)
                    total += table.bags * into * m.computed[d]
            capacity = pattern.capacity[r]
            if not capacity:
                return pyo.Constraint.Skip
            return m.time >= total / capacity / UNIT

        m.busy = pyo.Constraint(m.D, costs.TIMES, rule=busy)
        m.all_computed = pyo.Constraint(expr=sum(m.computed[d] for d in m.D) == 1)
        m.sample_time = pyo.Constraint(
            m.D,
            rule=lambda m, d: (
                m.computed[d] <= m.time * UNIT * self.devices[d][1].capacity["samples"]
            ),
        )

    def _add_bytes(self) -> None:
        """Rows, and in parallel rings and alignment too, fit every device."""
        import pyomo.environ as pyo

        problem, m = self.problem, self.m
        names = {"onchip": "onchip_bytes", "dram": "dram_bytes", "ssd": "ssd_bytes"}

        def held(d: int, tier: Tier) -> Any:
            return sum(
                (self.pieces[t][i].last - self.pieces[t][i].first)
                * self.rows[t].stride
                * m.at[d, t, i, s]
                for e, t, i, s in m.Z
                if e == d and s == tier
            )

        def fits(m: Any, d: int, tier: Tier) -> Any:
            pattern = self.devices[d][1]
            room = pattern.capacity[names[tier]]
            used: Any = held(d, tier)
            if isinstance(used, int):  # nothing may be there
                return pyo.Constraint.Skip
            if tier == "ssd":
                room -= PAGE_BYTES * len(problem.tables)
            if tier == "dram" and not self.serial:
                room -= pattern.weight_bytes + costs.waste_bytes(problem, pattern.memory)
                used += problem.staging_slack * m.staging[d] + sum(
                    costs.ring_bytes_per_row(problem, self.rows[t])
                    * self.pieces[t][i].distinct
                    * m.at[d, t, i, s]
                    for e, t, i, s in m.Z
                    if e == d and s == "ssd"
                )
            scale = max(room, 1.0)
            return used / scale <= room / scale

        m.bytes = pyo.Constraint(m.D, TIERS, rule=fits)
        m.staging_switch = pyo.Constraint(
            m.Z,
            rule=lambda m, d, t, i, s: (
                m.at[d, t, i, s] <= m.staging[d] if s == "ssd" else pyo.Constraint.Skip
            ),
        )

    def solve(self, time_limit: float | None, rel_gap: float) -> Monolithic | None:
        from screc.plan.solver import solved_once  # it brings Pyomo, which takes half a second

        result = solved_once(self.m, time_limit=time_limit, rel_gap=rel_gap)
        if result is None:
            return None
        return Monolithic(
            float(result.incumbent_objective) * UNIT,
            float(result.objective_bound) * UNIT,
            tuple(tuple(self._tables(d)) for d in range(len(self.devices))),
        )

    def _tables(self, d: int) -> Iterator[TablePlan]:
        """Tables of a device as they are placed."""
        m = self.m
        for t, table in enumerate(self.problem.tables):
            if m.own[d, t].value < 0.5:
                continue
            ranges: list[Range] = []
            for i, piece in enumerate(self.pieces[t]):
                tier = next(
                    s for s in TIERS if (d, t, i, s) in m.Z and m.at[d, t, i, s].value > 0.5
                )
                if ranges and ranges[-1].tier == tier:
                    ranges[-1] = ranges[-1].model_copy(update={"last": piece.last})
                else:
                    ranges.append(Range(tier=tier, first=piece.first, last=piece.last))
            yield TablePlan(table=table.shape.name, ranges=tuple(ranges))
