"""RecShard's placement (Sethi et al., ASPLOS 2022): two tiers, a cut of each table, one device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.errors import PlanError, PlanErrorKind
from screc.plan.placements import Placement, Setting, Table, least
from screc.plan.problem import Problem, TableDemand

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 100
"""Steps of RecShard's inverse coverage curves: each is a percent of a table's lookups."""

TIME_LIMIT = 30.0
"""Seconds that one baseline or ablation may take; then the best that it has counts."""

REL_GAP = 1e-3
"""Relative gap at which RecShard's program is solved."""

MOST_PRODUCTS = 60_000
"""Products of a device's, a table's and a step's choice in RecShard's program: with more, an open
solver finds no incumbent in the time, and tables are cut first and assigned afterwards."""

RING_MARGIN = 1.25
"""RecShard's room for staging rings ÷ what the hottest rows in DRAM would leave to stage."""


@dataclasses.dataclass(frozen=True)
class TwoTierTable:
    """A table as RecShard's program sees it.

    ``rows`` of fast memory at each step, rising, int64 ``(steps,)``, and the ``share`` of lookups
    that they serve, float64 ``(steps,)``; ``lookups`` per sample; ``stride`` bytes of a row.
    """

    rows: Ints
    share: Floats
    lookups: float
    stride: int
    size: int


@dataclasses.dataclass(frozen=True)
class TwoTierDevice:
    """A device as RecShard's program sees it.

    ``fast_bytes`` and ``slow_bytes`` are capacities; ``fast`` and ``slow`` the seconds of a lookup
    of each table, ``(tables,)``, ``slow`` infinite where there is no slow memory.
    """

    fast_bytes: float
    slow_bytes: float
    fast: Sequence[float]
    slow: Sequence[float]

    def seconds(self, table: int, share: float, lookups: float) -> float:
        """Time per sample of a table of which ``share`` of the lookups are fast."""
        slow = (1 - share) * self.slow[table] if share < 1 else 0.0
        return lookups * (share * self.fast[table] + slow)


@dataclasses.dataclass(frozen=True)
class TwoTier:
    """What RecShard's program found: each table's device and step, and the slowest time.

    ``proven`` says whether it is the best within the gap.
    """

    device: tuple[int, ...]
    step: tuple[int, ...]
    seconds: float
    proven: bool


def two_tier(
    tables: Sequence[TwoTierTable],
    devices: Sequence[TwoTierDevice],
    *,
    time_limit: float | None = None,
    rel_gap: float = REL_GAP,
) -> TwoTier | None:
    """Solve RecShard's program; None where it has no solution, or none was found in time.

    With p[m, j] the choice of a device for table j, x[j, i] of a step of its inverse coverage
    curve, and w[m, j, i] for their product (x is then its sum over devices, and left out)::

        min C,  C ≥ Σ_j Σ_i seconds[m, j, i] w[m, j, i]           for all m
        Σ_m p[m, j] = 1                                           for all j
        Σ_i w[m, j, i] = p[m, j]                                  for all m, j
        Σ_j Σ_i rows[j, i] stride[j] w[m, j, i] ≤ fast[m]         for all m
        Σ_j Σ_i (size[j] - rows[j, i]) stride[j] w[m, j, i] ≤ slow[m]

    References
    ----------
    Sethi et al.: RecShard, ASPLOS 2022, section 4.2.
    """
    import pyomo.environ as pyo
    from pyomo.contrib.solver.common.results import SolutionStatus

    from screc.plan.solver import solved_once  # it brings Pyomo, which takes half a second

    choices = [
        (m, j, i)
        for m, device in enumerate(devices)
        for j, table in enumerate(tables)
        for i in range(len(table.rows))
        if table.share[i] >= 1 or math.isfinite(device.slow[j])
    ]
    seconds = {
        (m, j, i): devices[m].seconds(j, float(tables[j].share[i]), tables[j].lookups)
        for m, j, i in choices
    }
    # the largest table's time in slow memory: coefficients near 1 suit the solver's tolerances
    unit = max(seconds.values(), default=0.0) or 1.0
    model = pyo.ConcreteModel()
    model.M, model.J = pyo.RangeSet(0, len(devices) - 1), pyo.RangeSet(0, len(tables) - 1)
    model.W = pyo.Set(initialize=choices)
    model.p = pyo.Var(model.M, model.J, domain=pyo.Binary)
    model.w = pyo.Var(model.W, domain=pyo.Binary)
    model.C = pyo.Var(domain=pyo.NonNegativeReals)
    by_device: dict[int, list[tuple[int, int]]] = {m: [] for m in range(len(devices))}
    by_pair: dict[tuple[int, int], list[int]] = {}
    for m, j, i in choices:
        by_device[m].append((j, i))
        by_pair.setdefault((m, j), []).append(i)

    def bytes_fast(j: int, i: int) -> float:
        return float(tables[j].rows[i]) * tables[j].stride

    def bytes_slow(j: int, i: int) -> float:
        return (tables[j].size - float(tables[j].rows[i])) * tables[j].stride

    def total(m: int, each: Callable[[int, int], float]) -> Any:
        return pyo.quicksum(each(j, i) * model.w[m, j, i] for j, i in by_device[m])

    @model.Constraint(model.M)
    def slowest(model: Any, m: int) -> Any:
        return model.C >= total(m, lambda j, i: seconds[m, j, i] / unit)

    @model.Constraint(model.J)
    def one_device(model: Any, j: int) -> Any:
        return pyo.quicksum(model.p[m, j] for m in model.M) == 1

    @model.Constraint(model.M, model.J)
    def product(model: Any, m: int, j: int) -> Any:
        chosen = pyo.quicksum(model.w[m, j, i] for i in by_pair.get((m, j), ()))
        return chosen == model.p[m, j]

    @model.Constraint(model.M)
    def fast_bytes(model: Any, m: int) -> Any:
        scale = max(devices[m].fast_bytes, 1.0)
        return total(m, lambda j, i: bytes_fast(j, i) / scale) <= devices[m].fast_bytes / scale

    @model.Constraint(model.M)
    def slow_bytes(model: Any, m: int) -> Any:
        scale = max(devices[m].slow_bytes, 1.0)
        return total(m, lambda j, i: bytes_slow(j, i) / scale) <= devices[m].slow_bytes / scale

    model.objective = pyo.Objective(expr=model.C)
    result = solved_once(model, time_limit=time_limit, rel_gap=rel_gap)
    if result is None:
        return None
    chosen = [(m, j, i) for m, j, i in choices if model.w[m, j, i].value > 0.5]
    device = [m for m, j, i in sorted(chosen, key=lambda choice: choice[1])]
    step = [i for m, j, i in sorted(chosen, key=lambda choice: choice[1])]
    return TwoTier(
        tuple(device),
        tuple(step),
        _slowest(tables, devices, device, step),
        result.solution_status == SolutionStatus.optimal,
    )


def _slowest(
    tables: Sequence[TwoTierTable],
    devices: Sequence[TwoTierDevice],
    device: Sequence[int],
    step: Sequence[int],
) -> float:
    """Seconds per sample of the slowest device."""
    load = np.zeros(len(devices))
    for j, (m, i) in enumerate(zip(device, step, strict=True)):
        load[m] += devices[m].seconds(j, float(tables[j].share[i]), tables[j].lookups)
    return float(load.max())


def recshard(problem: Problem, *, time_limit: float = TIME_LIMIT) -> Placement:
    """Place tables by RecShard's program: a cut of each between DRAM and SSD, and its device.

    Where the program is too large, or not solved in time, tables are cut for all devices pooled,
    and assigned then, those of the longest time first, to the device of the least time; the better
    of this and the incumbent counts.

    Raises
    ------
    PlanError
        If there is no such placement.
    """
    setting = Setting(problem)
    numbers = setting.movable
    if not numbers:
        return setting.placement({}, {})
    tables = [_two_tier_table(setting.tables[i]) for i in numbers]
    rooms = np.array([device.dram for device in setting.devices])
    # the program knows no staging ring: what rows behind the hottest need is set aside, and more
    ring = _ring_behind(setting, float(rooms.sum()))
    ssds = sum(bool(device.ssd_rate) for device in setting.devices)
    reserve = RING_MARGIN * ring / max(ssds, 1) + setting.slack if ring else 0.0
    rooms -= [reserve if device.ssd_rate else 0.0 for device in setting.devices]
    products = len(rooms) * sum(len(table.rows) for table in tables)
    whole, seconds = None, math.inf
    if products <= MOST_PRODUCTS:
        whole = two_tier(tables, _two_tier_devices(setting, rooms), time_limit=time_limit)
    if whole is not None:
        owner = dict(zip(numbers, whole.device, strict=True))
        rows = {n: int(t.rows[i]) for n, t, i in zip(numbers, tables, whole.step, strict=True)}
        seconds = whole.seconds
        note = "solved" if whole.proven else f"incumbent after {time_limit:.0f} s"
    if whole is None or not whole.proven:
        try:
            pooled = _pooled(setting, tables, rooms)
            cut = [int(table.rows[i]) for table, i in zip(tables, pooled, strict=True)]
            assigned = _assign(setting, tables, cut, rooms)
        except PlanError:
            if whole is None:
                raise
        else:
            if assigned[2] < seconds:
                owner, rows, _ = assigned
                note = "cut for all devices pooled, then assigned greedily"
    return dataclasses.replace(_with_rings(setting, owner, rows), note=note)


def _ring_behind(setting: Setting, room: float) -> float:
    """Bytes of staging ring where the rows that are read most per byte fill ``room`` bytes."""
    rates, sizes, rings = [], [], []
    for number in setting.movable:
        table = setting.tables[number]
        curve = table.demand.rates
        rates.append(curve.rates / table.demand.stride)
        sizes.append(curve.widths * table.demand.stride)
        rings.append(curve.distinct(setting.problem.batch) * curve.widths * table.ring_per_row)
    order = np.argsort(-np.concatenate(rates), kind="stable")
    used = np.cumsum(np.concatenate(sizes)[order])
    return float(np.concatenate(rings)[order][used > room].sum())


def _two_tier_table(table: Table) -> TwoTierTable:
    """Rows that cover 0, 1, ... 100 % of the lookups, and all; of equal ones the last."""
    demand = table.demand
    rates = demand.rates
    rows = [0, *(rates.covering(i / STEPS) for i in range(1, STEPS)), demand.shape.rows]
    share = [i / STEPS for i in range(STEPS)] + [1.0]
    if not demand.dram:
        rows, share = rows[:1], share[:1]
    elif not demand.ssd:
        rows, share = rows[-1:], share[-1:]
    last = [k for k in range(len(rows)) if k + 1 == len(rows) or rows[k] < rows[k + 1]]
    return TwoTierTable(
        np.array([rows[k] for k in last], np.int64),
        np.array([share[k] for k in last], np.float64),
        rates.lookups,
        demand.stride,
        demand.shape.rows,
    )


def _two_tier_devices(setting: Setting, rooms: Floats) -> list[TwoTierDevice]:
    tables = [setting.tables[i] for i in setting.movable]
    return [
        TwoTierDevice(
            fast_bytes=float(room),
            slow_bytes=max(0.0, device.ssd),
            fast=[device.row_seconds(table.row) for table in tables],
            slow=[1 / device.ssd_rate if device.ssd_rate else math.inf] * len(tables),
        )
        for device, room in zip(setting.devices, rooms, strict=True)
    ]


def _pooled(setting: Setting, tables: Sequence[TwoTierTable], rooms: Floats) -> list[int]:
    """Steps of all tables where one device has the memory and bandwidth of all.

    The steps that save most time per byte first, until the next one of no table fits: rows get
    colder along a table, so that no cut is better by more than one step saves.
    """
    devices = _two_tier_devices(setting, rooms)
    fast = [1 / sum(1 / device.fast[j] for device in devices) for j in range(len(tables))]
    slow = [_parallel(device.slow[j] for device in devices) for j in range(len(tables))]
    # without an SSD all rows are in DRAM
    step = [0 if math.isfinite(slow[j]) else len(t.rows) - 1 for j, t in enumerate(tables)]
    room = float(rooms.sum()) - sum(
        float(table.rows[i]) * table.stride for table, i in zip(tables, step, strict=True)
    )
    saved, sizes, owner = [], [], []
    for j, table in enumerate(tables):
        more = np.diff(table.rows[step[j] :]) * table.stride
        seconds = np.diff(table.share[step[j] :]) * table.lookups * (slow[j] - fast[j])
        saved.append(np.minimum.accumulate(seconds / more))
        sizes.append(more)
        owner.append(np.full(len(more), j))
    order = np.argsort(-np.concatenate(saved), kind="stable")
    closed = [False] * len(tables)
    for j, more in zip(
        np.concatenate(owner)[order].tolist(), np.concatenate(sizes)[order].tolist(), strict=True
    ):
        closed[j] = closed[j] or more > room
        if not closed[j]:
            step[j] += 1
            room -= more
    behind = sum(
        (table.size - float(table.rows[i])) * table.stride
        for table, i in zip(tables, step, strict=True)
    )
    most = sum(device.slow_bytes for device in devices)
    if room < 0 or behind > most:
        size = sum(table.size * table.stride for table in tables)
        raise PlanError(
            PlanErrorKind.DRAM,
            f"tables of {size:,.0f} bytes do not fit {rooms.sum():,.0f} bytes of DRAM and "
            f"{most:,.0f} of SSD",
        )
    return step


def _parallel(seconds: Iterator[float]) -> float:
    """Seconds of a lookup where several devices share the lookups."""
    rate = sum(1 / each for each in seconds if math.isfinite(each))
    return 1 / rate if rate else math.inf


def _assign(
    setting: Setting, tables: Sequence[TwoTierTable], cut: Sequence[int], rooms: Floats
) -> tuple[dict[int, int], dict[int, int], float]:
    """Assign cut tables to devices, those of the longest time first, to that of the least time.

    Where none has room for the rows in DRAM, the emptiest device takes as many as fit. Returns
    owners, rows in DRAM, and the seconds per sample of the slowest device.
    """
    devices = _two_tier_devices(setting, rooms)
    room, ssd = rooms.copy(), np.array([device.slow_bytes for device in devices])
    load = np.zeros(len(devices))

    def times(j: int, rows: int) -> Floats:
        share = _share(setting.tables[setting.movable[j]].demand, rows)
        return np.array([d.seconds(j, share, tables[j].lookups) for d in devices])

    order = sorted(range(len(tables)), key=lambda j: (-times(j, cut[j]).min(), j))
    owner: dict[int, int] = {}
    dram: dict[int, int] = {}
    for j in order:
        number, table, rows = setting.movable[j], tables[j], cut[j]
        behind = (table.size - rows) * table.stride
        allowed = (room >= rows * table.stride) & (ssd >= behind)
        if not allowed.any():
            if not setting.tables[number].demand.ssd:
                raise setting.full("DRAM", number, rows * table.stride, float(room.max()))
            most = np.minimum(rows, np.maximum(room, 0) // table.stride)
            fits = ssd >= (table.size - most) * table.stride
            if not fits.any():
                raise setting.full("SSD", number, behind, float(ssd.max()))
            chosen = int(np.argmax(np.where(fits, most, -1)))
            rows = int(most[chosen])
        else:
            chosen = least(load + times(j, rows), allowed)
        load[chosen] += times(j, rows)[chosen]
        room[chosen] -= rows * table.stride
        ssd[chosen] -= (table.size - rows) * table.stride
        owner[number], dram[number] = chosen, rows
    return owner, dram, float(load.max(initial=0.0))


def _share(demand: TableDemand, rows: int) -> float:
    """Share of the lookups that the ``rows`` hottest ranks get."""
    rates = demand.rates
    if rows >= demand.shape.rows or not rates.lookups:
        return 1.0 if rows >= demand.shape.rows else 0.0
    return 1 - rates.tail(rates.rates, rows) / rates.lookups


def _with_rings(setting: Setting, owner: dict[int, int], rows: dict[int, int]) -> Placement:
    """Move as many of a device's coldest rows from DRAM to SSD as its staging ring needs room for.

    Rows of the lowest rate go first, a thousandth of the device's DRAM at a time.
    """
    rows = dict(rows)
    for m, device in enumerate(setting.devices):
        held = [n for n, chosen in owner.items() if chosen == m]
        while True:
            used = float(sum(rows[n] * setting.tables[n].demand.stride for n in held))
            if any(rows[n] < setting.tables[n].rows for n in held):
                used += setting.slack + sum(setting.tables[n].ring(rows[n]) for n in held)
            excess = used - device.dram
            if excess <= 0:
                break
            movable = [n for n in held if rows[n] and setting.tables[n].demand.ssd]
            if not movable or not device.ssd_rate:
                raise PlanError(
                    PlanErrorKind.DRAM,
                    f"{device.budget.kind} {m} lacks {excess:,.0f} bytes of DRAM",
                )
            coldest = min(movable, key=lambda n: _rate(setting.tables[n].demand, rows[n] - 1))
            step = max(excess, device.dram / 1000) / setting.tables[coldest].demand.stride
            rows[coldest] = max(0, rows[coldest] - math.ceil(step))
    return setting.placement(owner, rows)


def _rate(demand: TableDemand, rank: int) -> float:
    """Lookups per sample of a rank."""
    piece = int(np.searchsorted(demand.rates.edges, rank, "right")) - 1
    return float(demand.rates.rates[piece])
