"""Other ways to place tables, scored like the planner's own plan.

Each fixes its placement only: which rows of which table are where. The planner then gives it its
best core patterns and shares of samples, and the same checker recomputes its figures.

None of them knows rows on chip or in TT form, stripes, or tables on several devices: rows are in
DRAM or on SSD. A table that may be nowhere but on chip is put there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES
from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan.budget import Budget
from screc.plan.check import measure
from screc.plan.costs import (
    RowSizes,
    lookup_loads,
    ring_bytes_per_row,
    staged_loads,
    waste_bytes,
)
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.schema import Plan, Range, TablePlan
from screc.plan.stamp import stamped
from screc_hw.protocol import BEAT_BYTES

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

RING_ROUNDS = 20
"""Times that room for the staging ring is made at most."""

RING_MARGIN = 1.25
"""RecShard's room for staging rings ÷ what the hottest rows in DRAM would leave to stage."""

MOST_PROPOSALS = 64
"""Proposals of one kind that the TorchRec-like planner rates at first, evenly spaced; then those
next to the best one."""

LEAST_GAIN = 1e-9
"""Relative: what a baseline must be better by, to be the plan."""

MORE_DEVICES = 2
"""For energy: counts of devices that are tried beside the fewest that do."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Tables of every device, classes in order and devices of a class in turn.

    Ranges name no memory core: that is the solver's choice. ``note`` says how it was found where
    there is more than one way.
    """

    devices: tuple[tuple[TablePlan, ...], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison; ``factor`` is its value ÷ the plan's.

    ``plan`` is that of the value, as the checker recomputed it; None where there is no value.
    """

    name: str
    value: float | None
    factor: float | None
    reason: str | None = None
    note: str | None = None
    seconds: float = 0.0
    plan: Plan | None = dataclasses.field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """What ``screc plan --compare --json`` says of it."""
        names = ("name", "value", "factor", "reason", "note", "seconds")
        return {name: getattr(self, name) for name in names}


# --- what tables and devices look like to the baselines ---


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """A table as the baselines see it: whole, or cut into hot rows in DRAM and others on SSD."""

    demand: TableDemand
    row: RowSizes
    batch: int
    ring_per_row: float

    @property
    def rows(self) -> int:
        return self.demand.shape.rows

    @property
    def bytes(self) -> int:
        return self.rows * self.demand.stride

    @property
    def lookups(self) -> float:
        return self.demand.rates.lookups

    @property
    def traffic(self) -> float:
        """Components that are read per sample: lookups × dimension."""
        return self.lookups * self.demand.shape.dim

    @property
    def on_chip_only(self) -> bool:
        return not (self.demand.dram or self.demand.ssd)

    def reads(self, first: int) -> float:
        """Page reads per sample where ranks from ``first`` on are on SSD."""
        rates = self.demand.rates
        return rates.tail(rates.reads(self.batch, self.demand.stride), first)

    def ring(self, first: int) -> float:
        """Bytes of staging ring that they need."""
        rates = self.demand.rates
        return self.ring_per_row * rates.tail(rates.distinct(self.batch), first)

    @cached_property
    def whole_ring(self) -> float:
        """Bytes of staging ring that the whole table needs."""
        return self.ring(0)

    def plan(self, dram: int) -> TablePlan:
        """Place the ``dram`` hottest ranks in DRAM and the others on SSD."""
        if self.on_chip_only:
            ranges = [Range(tier="onchip", first=0, last=self.rows)]
        else:
            ranges = [Range(tier="dram", first=0, last=dram)] if dram else []
            if dram < self.rows:
                ranges.append(Range(tier="ssd", first=dram, last=self.rows))
        return TablePlan(table=self.demand.shape.name, ranges=tuple(ranges))


@dataclasses.dataclass(frozen=True, eq=False)
class _Device:
    """A device as the baselines see it."""

    budget: Budget
    channels: int
    dram: float
    """Bytes for rows and rings that every pattern of cores leaves."""
    ssd: float

    @property
    def ssd_rate(self) -> float:
        """4 KiB reads per second; 0 without an SSD."""
        return min(self.budget.ssd_iops, self.budget.p2p_rate / PAGE_BYTES)

    def row_seconds(self, row: RowSizes) -> float:
        """Seconds of a row's bytes from DRAM, at random."""
        size = row.beats * BEAT_BYTES
        return size / self.budget.random_rate(size) / self.channels

    def dram_seconds(self, table: _Table) -> float:
        """Seconds per sample of DRAM where the whole table is there."""
        return table.lookups * lookup_loads(self.budget, table.row, "dram")["dram"] / self.channels

    def ssd_seconds(self, table: _Table) -> float:
        """Seconds per sample where the whole table is on SSD, read and then gathered."""
        if not self.ssd_rate:
            return math.inf
        staged = table.whole_ring / table.ring_per_row  # rows per sample
        written = staged * staged_loads(self.budget, table.row)["dram"] / self.channels
        return table.reads(0) / self.ssd_rate + written + self.dram_seconds(table)


class _Setting:
    """A problem's tables and devices."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.slack = problem.staging_slack
        self.tables: list[_Table] = []
        sizes: dict[object, RowSizes] = {}
        for demand in problem.tables:
            if demand.tt_only:
                raise PlanError(
                    PlanErrorKind.TIER,
                    f"table {demand.shape.name!r} may live in TT form only, which baselines "
                    "do not know",
                )
            key = (demand.shape.dim, demand.shape.format)
            if key not in sizes:
                sizes[key] = RowSizes.of(problem, demand)
            row = sizes[key]
            self.tables.append(_Table(demand, row, problem.batch, ring_bytes_per_row(problem, row)))
        self.devices = [
            device for each in problem.classes for device in [_device(problem, each)] * each.count
        ]

    @cached_property
    def movable(self) -> list[int]:
        """Tables that are in DRAM or on SSD, by number."""
        return [i for i, table in enumerate(self.tables) if not table.on_chip_only]

    def placement(self, owner: Mapping[int, int], dram: Mapping[int, int]) -> Placement:
        """Collect tables by the device that owns them; those on chip alone go to the emptiest."""
        held: list[list[int]] = [[] for _ in self.devices]
        for number, device in owner.items():
            held[device].append(number)
        for number, table in enumerate(self.tables):
            if table.on_chip_only:
                min(
                    held,
                    key=lambda those: sum(
                        self.tables[i].bytes for i in those if self.tables[i].on_chip_only
                    ),
                ).append(number)
        return Placement(
            tuple(
                tuple(self.tables[i].plan(dram.get(i, 0)) for i in sorted(those)) for those in held
            )
        )

    def full(self, tier: str, number: int, needed: float, had: float) -> PlanError:
        """No device has room for a table."""
        kind = PlanErrorKind.SSD if tier == "SSD" else PlanErrorKind.DRAM
        name = self.tables[number].demand.shape.name
        return PlanError(
            kind,
            f"table {name!r} needs {needed:,.0f} bytes of {tier}; the device with most room "
            f"has {had:,.0f} left",
        )


def _device(problem: Problem, each: DeviceClass) -> _Device:
    holders = [p for p in each.patterns if p.memory] or list(each.patterns)
    memory = max(p.memory for p in holders)
    reserved = waste_bytes(problem, memory) + max(p.weight_bytes for p in holders)
    return _Device(
        budget=each.budget,
        channels=max(1, min(each.budget.channels, memory)),
        dram=each.budget.dram_bytes - reserved,
        ssd=each.budget.ssd_bytes - len(problem.tables) * PAGE_BYTES,
    )


# --- greedy ---


def _by_size(table: _Table) -> float:
    return float(table.bytes)


def _by_lookups(table: _Table) -> float:
    return table.traffic


def _by_both(table: _Table) -> float:
    return table.bytes * table.traffic


def greedy(problem: Problem, key: Callable[[_Table], float]) -> Placement:
    """Place whole tables, those of the largest ``key`` first.

    Each goes to the device of the least sum of keys (in proportion to its DRAM's rate) that has
    room for it in DRAM, and where none has, to that on whose SSD there is room.

    Raises
    ------
    PlanError
        If a table finds room nowhere.
    """
    setting = _Setting(problem)
    order = sorted(setting.movable, key=lambda i: (-key(setting.tables[i]), i))
    rings = np.zeros(len(setting.devices))
    for _ in range(RING_ROUNDS):
        owner, dram, needed = _pour(setting, order, key, rings)
        if (needed <= rings).all():
            return setting.placement(owner, dram)
        rings = np.maximum(rings, needed)
    raise PlanError(PlanErrorKind.DRAM, "no room is left for the staging ring")


def _pour(
    setting: _Setting, order: Sequence[int], key: Callable[[_Table], float], rings: Floats
) -> tuple[dict[int, int], dict[int, int], Floats]:
    """Greedy assignment beside ``rings`` bytes; returns owners, rows in DRAM, and rings needed."""
    rates = np.array([d.channels * d.budget.random_rate(BEAT_BYTES) for d in setting.devices])
    load = np.zeros(len(rates))
    room = np.array([device.dram for device in setting.devices]) - rings
    ssd = np.array([device.ssd for device in setting.devices])
    needed = np.zeros(len(rates))
    owner: dict[int, int] = {}
    dram: dict[int, int] = {}
    for number in order:
        table = setting.tables[number]
        size = table.bytes
        if table.demand.dram and (room >= size).any():
            chosen = _least(load, room >= size)
            room[chosen] -= size
            dram[number] = table.rows
        elif table.demand.ssd and (ssd >= size).any():
            chosen = _least(load, ssd >= size)
            ssd[chosen] -= size
            needed[chosen] += table.whole_ring + (setting.slack if not needed[chosen] else 0)
        elif table.demand.ssd:
            raise setting.full("SSD", number, size, max(0.0, float(ssd.max())))
        else:
            raise setting.full("DRAM", number, size, max(0.0, float(room.max())))
        owner[number] = chosen
        load[chosen] += key(table) / rates[chosen]
    return owner, dram, needed


def _least(load: Floats, allowed: NDArray[np.bool_]) -> int:
    return int(np.argmin(np.where(allowed, load, np.inf)))


# --- TorchRec ---


def torchrec(problem: Problem) -> Placement:
    """Place whole tables as TorchRec's planner does, table-wise.

    Every table has two options, all in DRAM ("fused") or all on SSD ("UVM"), with an estimated time
    by the bandwidths of device and SSD. Proposals move one table after another from DRAM to SSD: by
    the least rise of the time (its greedy proposer), or of the time per byte (which is what its
    dynamic program finds, but for the last table). Each proposal is partitioned: tables of the
    longest time first, to the device of the least time that has room. The best estimate wins.

    Raises
    ------
    PlanError
        If no proposal can be partitioned.

    References
    ----------
    pytorch/torchrec, ``distributed/planner``: ``proposers``, ``partitioners``.
    """
    setting = _Setting(problem)
    tables = [setting.tables[i] for i in setting.movable]
    # the first device of each kind stands for it: times differ by kind alone
    seconds = {
        budget: (
            np.array([device.dram_seconds(table) for table in tables]),
            np.array([device.ssd_seconds(table) for table in tables]),
        )
        for budget, device in {id(d.budget): d for d in setting.devices}.items()
    }
    times = [seconds[id(device.budget)] for device in setting.devices]
    rise = np.min([ssd - dram for dram, ssd in times], axis=0)
    free = np.array([table.demand.dram and table.demand.ssd for table in tables], bool)
    start = np.array([table.demand.dram for table in tables], bool)
    sizes = np.array([table.bytes for table in tables], np.float64)
    best: tuple[float, dict[int, int], NDArray[np.bool_]] | None = None
    moved = np.flatnonzero(free & np.isfinite(rise))

    def rate(order: Ints, count: int) -> float:
        nonlocal best
        resident = start.copy()
        resident[order[:count]] = False
        found = _partition(setting, tables, times, resident)
        if found is not None and (best is None or found[0] < best[0]):
            best = (*found, resident)
        return found[0] if found is not None else math.inf

    for order in (moved[np.argsort(rise[moved])], moved[np.argsort((rise / sizes)[moved])]):
        counts = np.unique(np.linspace(0, len(order), MOST_PROPOSALS).astype(int))
        rated = [rate(order, count) for count in counts]
        near = int(np.argmin(rated))
        low, high = counts[max(near - 1, 0)], counts[min(near + 1, len(counts) - 1)]
        for count in range(low + 1, high):
            rate(order, count)
    if best is None:
        worst = int(np.argmax(sizes)) if len(sizes) else 0
        raise PlanError(
            PlanErrorKind.DRAM,
            f"no proposal of whole tables fits DRAM and SSD of the devices; the largest table "
            f"{tables[worst].demand.shape.name!r} has {sizes[worst]:,.0f} bytes",
        )
    _, owner, resident = best
    return setting.placement(
        {setting.movable[i]: device for i, device in owner.items()},
        {setting.movable[i]: tables[i].rows for i in np.flatnonzero(resident)},
    )


def _partition(
    setting: _Setting,
    tables: Sequence[_Table],
    times: Sequence[tuple[Floats, Floats]],
    resident: NDArray[np.bool_],
) -> tuple[float, dict[int, int]] | None:
    """Assign tables to devices, those of the longest time first; returns the time and owners.

    None where one finds no room.
    """
    each = np.array([np.where(resident, dram, ssd) for dram, ssd in times])
    order = np.argsort(-each.min(axis=0), kind="stable")
    load = np.zeros(len(times))
    room = np.array([device.dram for device in setting.devices])
    ssd = np.array([device.ssd for device in setting.devices])
    staged = np.zeros(len(times), bool)
    owner: dict[int, int] = {}
    for i in order:
        table = tables[i]
        if resident[i]:
            need = np.full(len(times), float(table.bytes))
            allowed = room >= need
        else:
            need = table.whole_ring + np.where(staged, 0.0, setting.slack)
            allowed = (room >= need) & (ssd >= table.bytes)
        if not allowed.any():
            return None
        chosen = _least(load + each[:, i], allowed)
        load[chosen] += each[chosen, i]
        room[chosen] -= need[chosen]
        if not resident[i]:
            ssd[chosen] -= table.bytes
            staged[chosen] = True
        owner[int(i)] = chosen
    return float(load.max(initial=0.0)), owner


# --- RecShard ---


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
    from pyomo.contrib.solver.solvers.highs import Highs

    from screc.plan.solver import silenced  # it brings Pyomo, which takes half a second

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
    with silenced():
        result = Highs().solve(
            model,
            time_limit=time_limit,
            rel_gap=rel_gap,
            raise_exception_on_nonoptimal_result=False,
            load_solutions=False,
        )
    if result.solution_status not in (SolutionStatus.optimal, SolutionStatus.feasible):
        return None
    result.solution_loader.load_vars()
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
    setting = _Setting(problem)
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


def _ring_behind(setting: _Setting, room: float) -> float:
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


def _two_tier_table(table: _Table) -> TwoTierTable:
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


def _two_tier_devices(setting: _Setting, rooms: Floats) -> list[TwoTierDevice]:
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


def _pooled(setting: _Setting, tables: Sequence[TwoTierTable], rooms: Floats) -> list[int]:
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
    setting: _Setting, tables: Sequence[TwoTierTable], cut: Sequence[int], rooms: Floats
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
            chosen = _least(load + times(j, rows), allowed)
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


def _with_rings(setting: _Setting, owner: dict[int, int], rows: dict[int, int]) -> Placement:
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


# --- all of them ---

BASELINES: Mapping[str, Callable[..., Placement]] = {
    "greedy_size": lambda problem: greedy(problem, _by_size),
    "greedy_lookups": lambda problem: greedy(problem, _by_lookups),
    "greedy_size_lookups": lambda problem: greedy(problem, _by_both),
    "recshard": recshard,
    "torchrec": torchrec,
}
"""Placements by name."""

TIMED = frozenset({"recshard"})
"""Those that take the time they are given, as ``time_limit``."""


def without_tt(problem: Problem) -> Problem:
    """Return the problem without TT forms.

    Raises
    ------
    PlanError
        If a table may live in TT form only.
    """
    for table in problem.tables:
        if table.tt_only:
            raise PlanError(
                PlanErrorKind.TIER, f"table {table.shape.name!r} may live in TT form only"
            )
    tables = [dataclasses.replace(table, tt=None) for table in problem.tables]
    return dataclasses.replace(problem, tables=tables)


def without_stripes(problem: Problem) -> Problem:
    """Return the problem with every table on one device."""
    return dataclasses.replace(problem, split=False)


def without_onchip(problem: Problem) -> Problem:
    """Return the problem without rows on chip, but for tables that may live nowhere else."""
    tables = [
        dataclasses.replace(table, onchip=False) if table.dram or table.ssd else table
        for table in problem.tables
    ]
    return dataclasses.replace(problem, tables=tables)


ABLATIONS: Mapping[str, Callable[[Problem], Problem]] = {
    "without_tt": without_tt,
    "without_stripes": without_stripes,
    "without_onchip": without_onchip,
}
"""The planner itself with less to choose from."""


def compare(problem: Problem, plan: Plan, *, time_limit: float = TIME_LIMIT) -> list[Row]:
    """Score every baseline and every ablation on a problem that ``plan`` solves."""
    rows: list[Row] = []
    for name in names():
        rows.append(compare_one(problem, plan, name, time_limit=time_limit, known=rows))
    return rows


def names() -> list[str]:
    """Names of all baselines and ablations."""
    return [*BASELINES, *ABLATIONS]


def compare_one(
    problem: Problem,
    plan: Plan,
    name: str,
    *,
    time_limit: float = TIME_LIMIT,
    known: Sequence[Row] = (),
) -> Row:
    """Score one baseline or ablation; without a value where it has no plan, with the reason.

    Parameters
    ----------
    time_limit
        Seconds; the best plan that was found by then counts.
    known
        Rows so far: those of their plans that an ablation allows are plans of it too.
    """
    started = time.perf_counter()
    found: Plan | None = None
    reason = note = None
    try:
        if name in BASELINES:
            found, note = _score(problem, plan, name, started + time_limit)
        else:
            found, note = _ablated(problem, plan, name, time_limit, known)
    except (PlanError, CheckError) as error:
        reason = str(error).splitlines()[0]
    seconds = time.perf_counter() - started
    if found is None:
        return Row(name, None, None, reason=reason, seconds=seconds)
    value = found.value
    return Row(name, value, value / plan.value, note=note or None, seconds=seconds, plan=found)


def best_baseline(rows: Sequence[Row]) -> Row | None:
    """The best row that is no ablation; None where no baseline has a plan."""
    found = [row for row in rows if row.name in BASELINES and row.value is not None]
    return min(found, key=lambda row: row.value or math.inf, default=None)


def best_plan(problem: Problem, plan: Plan, rows: Sequence[Row]) -> tuple[Plan, str | None]:
    """The best of ``plan`` and the rows' plans, and the name of its row; None for ``plan`` itself.

    A row's plan is one of ``problem`` too. The checker says its figures; bound, intervals, merged
    tables and time to solve are those of ``plan``.
    """
    found, name = plan, None
    for row in rows:
        if row.plan is None or row.plan is plan:
            continue
        try:
            checked = measure(row.plan, problem)
        except CheckError:  # not of this problem: its tables are not merged
            continue
        if checked.value < found.value * (1 - LEAST_GAIN):
            found, name = stamped(row.plan, checked, plan.intervals), row.name
    if name is None:
        return plan, None
    bound = min(plan.bound, found.value)
    return found.model_copy(
        update={
            "bound": bound,
            "gap": (found.value - bound) / bound,
            "solve_seconds": plan.solve_seconds,
            "cartesian": plan.cartesian,
        }
    ), name


def beside(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Rows with their factors to another plan."""
    return [
        row if row.value is None else dataclasses.replace(row, factor=row.value / plan.value)
        for row in rows
    ]


def _keeps(plan: Plan, problem: Problem) -> bool:
    """Whether a plan is one of another problem, too."""
    try:
        measure(plan, problem)
    except CheckError:
        return False
    return True


def _ablated(
    problem: Problem, plan: Plan, name: str, time_limit: float, known: Sequence[Row]
) -> tuple[Plan, str]:
    """Plan of an ablation; ``plan`` itself where it does without what is taken away.

    Raises
    ------
    PlanError
        If none was found in time and none of the known plans is one.
    """
    started = time.perf_counter()
    less = ABLATIONS[name](problem)
    if _keeps(plan, less):
        return plan, ""
    allowed = [row for row in known if row.plan is not None and _keeps(row.plan, less)]
    best = min(allowed, key=lambda row: row.value or math.inf, default=None)
    try:
        found = _solve(less, time_limit - (time.perf_counter() - started))
    except PlanError as error:
        if best is None or best.plan is None:
            raise
        return best.plan, f"as {best.name}: {str(error).splitlines()[0]}"
    if best is not None and best.plan is not None and best.plan.value < found.value:
        return best.plan, f"as {best.name}: the planner found {found.value:.6g}"
    stopped = time.perf_counter() - started >= time_limit
    return found, f"the best in {time_limit:g} s" if stopped else ""


def _score(problem: Problem, plan: Plan, name: str, end: float) -> tuple[Plan, str]:
    """Plan of a baseline; for ``energy`` and ``devices`` with as many devices as suit it best.

    For ``devices`` from the proven fewest on; for ``energy`` from one fewer than ``plan`` uses. No
    further count is tried after ``end``. What takes time is tried with all devices first, in half
    of it, as these are the likeliest to do.

    Raises
    ------
    PlanError
        If it has no plan with any count of devices: that of all devices.
    """
    several = problem.objective != "throughput" and problem.devices > 1
    least = len(plan.devices) - 1
    if problem.objective == "devices":
        least = math.ceil(plan.bound - 1e-6)
    choices = list(_with_fewer_devices(problem, least)) if several else [problem]
    all_first = name in TIMED and len(choices) > 1
    if all_first:
        choices = [choices[-1], *choices[:-1]]
    best: tuple[Plan, str] | None = None
    fewest = problem.devices
    failure: PlanError | None = None
    for number, fewer in enumerate(choices):
        if best is not None and fewer.devices > fewest + MORE_DEVICES:
            break
        left = end - time.perf_counter()
        if number and left <= 0:
            break
        try:
            if name in TIMED:
                share = left / min(2, len(choices) - number)
                placement = BASELINES[name](fewer, time_limit=share)
            else:
                placement = BASELINES[name](fewer)
            found = _solve_placed(fewer, placement)
        except PlanError as error:
            failure = error
            continue
        fewest = min(fewest, fewer.devices)
        if best is None or found.value < best[0].value:
            best = (found, placement.note)
        if problem.objective == "devices" and (number or not all_first):
            break
    if best is None:
        assert failure is not None  # one count is tried at least
        raise failure
    return best


def _with_fewer_devices(problem: Problem, least: int) -> Iterator[Problem]:
    """Yield the problem with every count of devices from ``least`` on, all of them last."""
    counts = itertools.product(*(range(each.count + 1) for each in problem.classes))
    enough = [c for c in counts if sum(c) >= max(least, 1)]
    for chosen in sorted(enough, key=lambda c: (sum(c), c)):
        classes = [
            dataclasses.replace(each, count=count)
            for each, count in zip(problem.classes, chosen, strict=True)
            if count
        ]
        yield dataclasses.replace(problem, classes=classes)


def _solve(problem: Problem, time_limit: float) -> Plan:
    from screc.plan.solve import unproven  # the solver takes half a second to import

    return unproven(problem, time_limit=time_limit)


def _solve_placed(problem: Problem, placement: Placement) -> Plan:
    from screc.plan.placed import solve_placed

    return solve_placed(problem, placement.devices)
