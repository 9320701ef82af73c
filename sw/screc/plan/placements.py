"""Placements of whole tables in DRAM or on SSD: greedy ones, and one as TorchRec's planner has it.

None of them knows rows on chip or in TT form, stripes, or tables on several devices. A table that
may be nowhere but on chip is put there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES
from screc.errors import PlanError, PlanErrorKind
from screc.plan.budget import Budget
from screc.plan.costs import (
    RowSizes,
    lookup_loads,
    ring_bytes_per_row,
    staged_loads,
    waste_bytes,
)
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.schema import Range, TablePlan
from screc_hw.protocol import BEAT_BYTES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RING_ROUNDS = 20
"""Times that room for the staging ring is made at most."""

MOST_PROPOSALS = 64
"""Proposals of one kind that the TorchRec-like planner rates at first, evenly spaced; then those
next to the best one."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Tables of every device, classes in order and devices of a class in turn.

    Ranges name no memory core: that is the solver's choice. ``note`` says how it was found where
    there is more than one way.
    """

    devices: tuple[tuple[TablePlan, ...], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table as the baselines see it: whole, or cut into hot rows in DRAM and others on SSD."""

    demand: TableDemand
    row: RowSizes
    batch: int
    ring_per_row: float

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.demand.shape.rows

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.demand.stride

    @property
    def lookups(self) -> float:
        """Lookups per sample."""
        return self.demand.rates.lookups

    @property
    def traffic(self) -> float:
        """Components that are read per sample: lookups × dimension."""
        return self.lookups * self.demand.shape.dim

    @property
    def on_chip_only(self) -> bool:
        """Whether its rows may be nowhere else."""
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
class Device:
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

    def dram_seconds(self, table: Table) -> float:
        """Seconds per sample of DRAM where the whole table is there."""
        return table.lookups * lookup_loads(self.budget, table.row, "dram")["dram"] / self.channels

    def ssd_seconds(self, table: Table) -> float:
        """Seconds per sample where the whole table is on SSD, read and then gathered."""
        if not self.ssd_rate:
            return math.inf
        staged = table.whole_ring / table.ring_per_row  # rows per sample
        written = staged * staged_loads(self.budget, table.row)["dram"] / self.channels
        return table.reads(0) / self.ssd_rate + written + self.dram_seconds(table)


class Setting:
    """A problem's tables and devices."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.slack = problem.staging_slack
        self.tables: list[Table] = []
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
            self.tables.append(Table(demand, row, problem.batch, ring_bytes_per_row(problem, row)))
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


def _device(problem: Problem, each: DeviceClass) -> Device:
    holders = [p for p in each.patterns if p.memory] or list(each.patterns)
    memory = max(p.memory for p in holders)
    reserved = waste_bytes(problem, memory) + max(p.weight_bytes for p in holders)
    return Device(
        budget=each.budget,
        channels=max(1, min(each.budget.channels, memory)),
        dram=each.budget.dram_bytes - reserved,
        ssd=each.budget.ssd_bytes - len(problem.tables) * PAGE_BYTES,
    )


# --- greedy ---


def by_size(table: Table) -> float:
    """Bytes of the table."""
    return float(table.bytes)


def by_lookups(table: Table) -> float:
    """Components that are read per sample."""
    return table.traffic


def by_both(table: Table) -> float:
    """Product of both."""
    return table.bytes * table.traffic


def greedy(problem: Problem, key: Callable[[Table], float]) -> Placement:
    """Place whole tables, those of the largest ``key`` first.

    Each goes to the device of the least sum of keys (in proportion to its DRAM's rate) that has
    room for it in DRAM, and where none has, to that on whose SSD there is room.

    Raises
    ------
    PlanError
        If a table finds room nowhere.
    """
    setting = Setting(problem)
    order = sorted(setting.movable, key=lambda i: (-key(setting.tables[i]), i))
    rings = np.zeros(len(setting.devices))
    for _ in range(RING_ROUNDS):
        owner, dram, needed = _pour(setting, order, key, rings)
        if (needed <= rings).all():
            return setting.placement(owner, dram)
        rings = np.maximum(rings, needed)
    raise PlanError(PlanErrorKind.DRAM, "no room is left for the staging ring")


def _pour(
    setting: Setting, order: Sequence[int], key: Callable[[Table], float], rings: Floats
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
            chosen = least(load, room >= size)
            room[chosen] -= size
            dram[number] = table.rows
        elif table.demand.ssd and (ssd >= size).any():
            chosen = least(load, ssd >= size)
            ssd[chosen] -= size
            needed[chosen] += table.whole_ring + (setting.slack if not needed[chosen] else 0)
        elif table.demand.ssd:
            raise setting.full("SSD", number, size, max(0.0, float(ssd.max())))
        else:
            raise setting.full("DRAM", number, size, max(0.0, float(room.max())))
        owner[number] = chosen
        load[chosen] += key(table) / rates[chosen]
    return owner, dram, needed


def least(load: Floats, allowed: NDArray[np.bool_]) -> int:
    """Number of the least loaded device of those ``allowed``."""
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
    setting = Setting(problem)
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
    setting: Setting,
    tables: Sequence[Table],
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
        chosen = least(load + each[:, i], allowed)
        load[chosen] += each[chosen, i]
        room[chosen] -= need[chosen]
        if not resident[i]:
            ssd[chosen] -= table.bytes
            staged[chosen] = True
        owner[int(i)] = chosen
    return float(load.max(initial=0.0)), owner
