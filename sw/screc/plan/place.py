"""From shares of classes to ranges of ranks on each device: an assignment LP, then stripes."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from screc.errors import PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.costs import BYTES, TIMES, RowSizes
from screc.plan.groups import per_rank
from screc.plan.pool import MARGIN, TIERS, Tier
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR, Problem
from screc.plan.schema import (
    CoreCounts,
    CoreShapes,
    DevicePlan,
    Plan,
    Range,
    Stripe,
    TablePlan,
    TtPart,
    table_ranges,
)
from screc.tt.shape import choose_shape
from screc_hw.protocol import BEAT_BYTES
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

Floats = NDArray[np.float64]

STRIPES = 16
"""Parts that a table on several devices is cut into at a time."""

LEVELS = 4
"""Cuts at most: the last parts are 1/65,536 of a table."""

WHOLE = 1e-6
"""A share this close to 1 is all of it."""

Segment = tuple[Tier, int, int]
"""Ranks ``[first, last)`` of a table in a tier."""

Sums = dict[Tier, tuple[float, float, float, float]]
"""Rows, and per sample lookups, distinct rows and page reads, by tier."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the pooled model decided.

    ``patterns[k]`` pattern of each device in use of class ``k``; ``samples[k][p]`` the share of the
    samples that pattern ``p`` computes; ``whole`` tier of each replicated table, by its number;
    ``rows[t]`` of the others ``(class, tier, first, last)``, in the order of ranks. ``reserve``
    bytes of each memory core's rows on chip were left free for uneven stripes.
    """

    patterns: Sequence[Sequence[int]]
    samples: Sequence[Sequence[float]]
    whole: Mapping[int, Tier]
    rows: Mapping[int, Sequence[tuple[int, Tier, int, int]]]
    reserve: float = 0.0


@dataclasses.dataclass(frozen=True)
class Unit:
    """Ranks of a table that go to one device together.

    Those of ``segments`` that are ``residue`` modulo ``of``, counted from 0.
    """

    table: int
    segments: tuple[Segment, ...]
    of: int = 1
    residue: int = 0

    def parts(self) -> list[Unit]:
        """Cut it by further residues."""
        of = self.of * STRIPES
        return [
            dataclasses.replace(self, of=of, residue=self.residue + self.of * i)
            for i in range(STRIPES)
        ]


@dataclasses.dataclass
class _Device:
    """A device in use, and what it is given."""

    klass: int
    pattern: Pattern
    units: list[Unit] = dataclasses.field(default_factory=list)
    samples: float = 0.0


def place(problem: Problem, decision: Decision, seconds: float) -> Plan:
    """Place a decision on devices, for ``seconds`` per sample.

    Figures that the checker computes are 0 in what is returned.

    Raises
    ------
    PlanError
        If rows do not fit the devices.
    """
    devices = [
        _Device(k, problem.classes[k].patterns[p])
        for k, found in enumerate(decision.patterns)
        for p in found
    ]
    if not devices:
        raise PlanError(PlanErrorKind.SOLVER, "the model uses no device")
    units = _units(problem, decision)
    rated = _Costs(problem)
    if len(devices) == 1:
        devices[0].units = [unit for found in units.values() for unit in found]
        devices[0].samples = 1.0
    else:
        _assign(rated, decision, devices, units, seconds)
    return Plan(
        objective=problem.objective,
        batch=problem.batch,
        rate=problem.rate,
        bound=0.0,
        value=0.0,
        gap=0.0,
        seconds=0.0,
        energy=0.0,
        latency=0.0,
        solve_seconds=0.0,
        intervals=0,
        bottleneck="",
        per_sample={},
        ssd_reads=0.0,
        devices=tuple(
            _device_plan(rated, decision, device, single=len(devices) == 1)
            for device in devices
        ),
    )


def _units(problem: Problem, decision: Decision) -> dict[int, list[Unit]]:
    """Rows by class: of one class in the order of tiers, which is that of ranks."""
    single = len(problem.classes) == 1
    found: dict[int, list[Unit]] = defaultdict(list)
    for table, places in decision.rows.items():
        if not places:
            continue
        if single:
            counts = {s: sum(b - a for _, t, a, b in places if t == s) for s in TIERS}
            segments, at = [], 0
            for tier in TIERS:
                if counts[tier]:
                    segments.append((tier, at, at + counts[tier]))
                    at += counts[tier]
            found[0].append(Unit(table, tuple(segments)))
            continue
        by_class: dict[int, list[Segment]] = defaultdict(list)
        for k, tier, first, last in places:
            by_class[k].append((tier, first, last))
        for k, own in by_class.items():
            found[k].append(Unit(table, tuple(own)))
    return found


# --- assignment ---


class _Costs:
    """Loads of units and of samples, each worked out once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rows = [RowSizes.of(problem, table) for table in problem.tables]
        self.per_rank = [
            per_rank(table.rates.rates, problem.batch, table.stride) for table in problem.tables
        ]
        self.sums = functools.cache(self._sums)
        self.loads = functools.cache(self._loads)

    def _sums(self, unit: Unit) -> Sums:
        """Rows, and per sample lookups, distinct rows and page reads of a unit, by tier."""
        rates = self.problem.tables[unit.table].rates
        distinct, reads = self.per_rank[unit.table]
        found: Sums = {}
        for tier, first, last in unit.segments:
            sums = [
                rates.residue_sum(values, first, last, unit.of, unit.residue)
                for values in (np.ones_like(rates.rates), rates.rates, distinct, reads)
            ]
            before = found.get(tier, (0.0, 0.0, 0.0, 0.0))
            a, b, c, d = (x + y for x, y in zip(before, sums, strict=True))
            found[tier] = (a, b, c, d)
        return found

    def _loads(self, klass: int, tt: TtParams | None, unit: Unit) -> costs.Loads:
        """Loads and bytes of a unit on a device of a class, its partials included."""
        problem = self.problem
        table, budget = problem.tables[unit.table], problem.classes[klass].budget
        row = self.rows[unit.table]
        found: costs.Loads = defaultdict(float)
        for tier, (rows, lookups, distinct, reads) in self.sums(unit).items():
            pieces = [(costs.lookup_loads(budget, row, tier), lookups)]
            if tier == "ssd":
                pieces.append((costs.read_loads(budget), reads))
                pieces.append((costs.staged_loads(budget, row), distinct))
                found["dram_bytes"] += distinct * costs.ring_bytes_per_row(problem, row)
            if tier == "tt" and table.tt is not None and tt is not None:
                found["tt"] += lookups * costs.tt_cycles(tt, table.tt, pinned=True)
            for loads, factor in pieces:
                for name, value in loads.items():
                    found[name] += value * factor
            if tier != "tt":
                found[f"{tier}_bytes"] += rows * row.stride
        if problem.exchange:
            # of a table's parts on a device one sends its bags: each counts for its share
            for name, value in costs.partial_out(table, budget).items():
                found[name] += value * table.bags / unit.of
        return found


def _assign(
    rated: _Costs,
    decision: Decision,
    devices: list[_Device],
    units: Mapping[int, list[Unit]],
    seconds: float,
) -> None:
    """Give every unit to a device, and every device its share of the samples."""
    problem = rated.problem
    free = [(k, unit) for k, found in units.items() for unit in found]
    for level in range(LEVELS + 1):
        shares, samples = _assignment_lp(rated, decision, devices, free, seconds)
        again: list[tuple[int, Unit]] = []
        for (k, unit), row in zip(free, shares, strict=True):
            best = int(np.argmax(row))
            final = level == LEVELS or not problem.split or unit_rows(unit) < STRIPES
            if row[best] > 1 - WHOLE or final:
                devices[best].units.append(unit)
            else:
                again += [(k, part) for part in unit.parts()]
        free = again
        if not free:
            break
    for device, share in zip(devices, samples, strict=True):
        device.samples = float(share)


def unit_rows(unit: Unit) -> int:
    """Ranks of a unit, about."""
    return sum(last - first for _, first, last in unit.segments) // unit.of


def _assignment_lp(
    rated: _Costs,
    decision: Decision,
    devices: Sequence[_Device],
    free: Sequence[tuple[int, Unit]],
    seconds: float,
) -> tuple[Floats, Floats]:
    """Shares of the free units by device, and each device's share of the samples.

    Least is the largest relative load of any device; rows must fit. A basic solution: few units
    have several devices.
    """
    problem = rated.problem
    names = (*TIMES, *BYTES)
    count, wide = len(devices), len(free)
    loads = np.zeros((wide, len(names)))
    for u, (k, unit) in enumerate(free):
        found = rated.loads(k, _first_tt(problem, k), unit)
        loads[u] = [found.get(name, 0.0) for name in names]
    per_sample = [_sample_side(rated, decision, device) for device in devices]
    # variables: share of unit u on device d (where it may be), samples of d, the largest load
    places = [(u, d) for u, (k, _) in enumerate(free) for d in range(count) if devices[d].klass == k and devices[d].pattern.memory]
    index = {key: i for i, key in enumerate(places)}
    first_sample, theta = len(places), len(places) + count
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    limits: list[float] = []
    line = 0
    for d, device in enumerate(devices):
        pattern = device.pattern
        fixed = _fixed_loads(rated, decision, device)
        mine = [(u, index[u, d]) for u in range(wide) if (u, d) in index]
        for n, name in enumerate(names):
            capacity = pattern.capacity[name]
            timed = name in TIMES
            room = capacity * (seconds if timed else 1 - MARGIN / 2)
            own = loads[[u for u, _ in mine], n] if mine else np.empty(0)
            sample = per_sample[d].get(name, 0.0) if timed else 0.0
            used = fixed.get(name, 0.0)
            if not own.any() and not sample and not used:
                continue
            scale = max(room, 1e-300)
            for (_, column), value in zip(mine, own, strict=True):
                if value:
                    rows.append(line)
                    columns.append(column)
                    values.append(value / scale)
            if sample:
                rows.append(line)
                columns.append(first_sample + d)
                values.append(sample / scale)
            if timed:
                rows.append(line)
                columns.append(theta)
                values.append(-1.0)
            limits.append((0.0 if timed else 1.0) - used / scale)
            line += 1
        room = pattern.capacity["samples"] * seconds
        rows += [line, line]
        columns += [first_sample + d, theta]
        values += [1.0, -room]
        limits.append(0.0)
        line += 1
    equal_rows = [u for u, _ in places] + [wide] * count
    equal_columns = list(range(len(places))) + [first_sample + d for d in range(count)]
    size = theta + 1
    result = linprog(
        np.eye(1, size, theta)[0],
        A_ub=sparse.csr_matrix((values, (rows, columns)), (line, size)),
        b_ub=limits,
        A_eq=sparse.csr_matrix(
            (np.ones(len(equal_rows)), (equal_rows, equal_columns)), (wide + 1, size)
        ),
        b_eq=np.ones(wide + 1),
        bounds=[(0, 1)] * theta + [(0, None)],
        method="highs-ds",
    )
    if not result.success:
        raise PlanError(
            PlanErrorKind.DRAM, "rows that fit all devices together do not fit them one by one"
        )
    shares = np.zeros((wide, count))
    for (u, d), i in index.items():
        shares[u, d] = result.x[i]
    return shares, np.clip(result.x[first_sample:theta], 0, 1)


def _first_tt(problem: Problem, klass: int) -> TtParams | None:
    return next((p.tt for p in problem.classes[klass].patterns if p.tt is not None), None)


def _sample_side(rated: _Costs, decision: Decision, device: _Device) -> costs.Loads:
    """Loads of all samples on the device, were it to compute them all."""
    problem = rated.problem
    budget = problem.classes[device.klass].budget
    found: costs.Loads = defaultdict(float)
    loads = [(costs.sample_loads(problem, budget, device.pattern.sample_beats), 1.0)]
    for number, table in enumerate(problem.tables):
        tier = decision.whole.get(number)
        if tier is not None:
            row = rated.rows[number]
            loads.append((costs.lookup_loads(budget, row, tier), table.rates.lookups))
        elif problem.exchange:
            loads.append((costs.partial_in(table, budget), table.bags))
    for each, factor in loads:
        for name, value in each.items():
            found[name] += value * factor
    return found


def _fixed_loads(rated: _Costs, decision: Decision, device: _Device) -> costs.Loads:
    """What the device holds and does already."""
    problem = rated.problem
    found: costs.Loads = defaultdict(float)
    for unit in device.units:
        for name, value in rated.loads(device.klass, device.pattern.tt, unit).items():
            found[name] += value
    if device.pattern.memory:
        found["dram_bytes"] += costs.waste_bytes(problem, device.pattern.memory)
        found["dram_bytes"] += problem.staging_slack
    found["dram_bytes"] += device.pattern.weight_bytes
    room = device.pattern.capacity["onchip_bytes"]
    found["onchip_bytes"] += min(decision.reserve * device.pattern.memory / 2, room / 4)
    for number, tier in decision.whole.items():
        table = problem.tables[number]
        found[f"{tier}_bytes"] += table.shape.rows * table.stride
    return found


# --- ranges ---


def _device_plan(
    rated: _Costs, decision: Decision, device: _Device, *, single: bool
) -> DevicePlan:
    problem, pattern = rated.problem, device.pattern
    core, gather = pattern.core, pattern.gather
    budget = problem.classes[device.klass].budget
    tables, parts = _table_plans(problem, decision, device, single=single)
    staging = _staging_bytes(rated, device)
    return DevicePlan(
        kind=budget.kind,
        cores=CoreCounts(
            memory=pattern.memory,
            tt=pattern.memory * pattern.tt.lanes if pattern.tt and parts else 0,
            compute=pattern.compute,
        ),
        shapes=CoreShapes(
            rows=core.rows if core else gather.rows if gather else 0,
            columns=core.columns if core else 0,
            slots=core.slots if core else 4,
            pool_beats=gather.pool_beats if gather else 1,
            outstanding=gather.outstanding if gather else 0,
            onchip_beats=gather.onchip_beats if gather else 0,
            tt_multipliers=pattern.memory * pattern.tt.multipliers if pattern.tt and parts else 0,
            prefixes=sum(part.pins for part in parts),
        ),
        weights="stream" if core and core.stream_words else "onchip",
        staging_bytes=staging,
        samples=device.samples,
        utilisation={},
        tables=tables,
    )


def _staging_bytes(rated: _Costs, device: _Device) -> int:
    """Bytes of all rings of a device, whole beats; 0 where it has no rows on SSD."""
    beats = 0.0
    staged = False
    for unit in device.units:
        for tier, (_, _, distinct, _) in rated.sums(unit).items():
            if tier == "ssd":
                staged = True
                beats += distinct * rated.problem.batch * rated.rows[unit.table].beats
    if not staged:
        return 0
    expected = int(np.ceil(STAGED_BLOCKS * STAGING_FACTOR * beats))
    return expected * BEAT_BYTES + rated.problem.staging_slack


def _table_plans(
    problem: Problem, decision: Decision, device: _Device, *, single: bool
) -> tuple[tuple[TablePlan, ...], list[TtPart]]:
    """Ranges of every table on a device, and its parts in TT form."""
    cores = device.pattern.memory
    by_table: dict[int, list[Unit]] = defaultdict(list)
    for unit in device.units:
        by_table[unit.table].append(unit)
    shifts = _shifts(problem, device, by_table)
    plans: list[TablePlan] = []
    parts: list[TtPart] = []
    for number, table in enumerate(problem.tables):
        name, rows = table.shape.name, table.shape.rows
        whole = decision.whole.get(number)
        if whole is not None and cores:
            unit = Unit(number, ((whole, 0, rows),))
            copies = _striped_ranges([unit], cores, number % cores, replicated=True)
            plans.append(TablePlan(table=name, ranges=copies))
            continue
        units = by_table.get(number)
        if not units or not cores:
            continue
        if single:
            made, part = _single_ranges(problem, number, units[0], cores, shifts[number])
            parts += [part] if part else []
        else:
            made = _striped_ranges(units, cores, shifts[number])
        plans.append(TablePlan(table=name, ranges=made))
    return tuple(plans), parts


def _single_ranges(
    problem: Problem, number: int, unit: Unit, cores: int, shift: int
) -> tuple[tuple[Range, ...], TtPart | None]:
    """Ranges of the one form that is compiled: on chip, TT, DRAM, SSD, whole groups of cores."""
    table = problem.tables[number]
    ends = {tier: last for tier, _, last in unit.segments}
    rows = table.shape.rows

    def aligned(rank: int) -> int:
        return rank if rank == rows else rank // cores * cores

    onchip = aligned(ends.get("onchip", 0))
    part = None
    if "tt" in ends and table.tt is not None:
        last = min(rows, -(-ends["tt"] // cores) * cores)
        if last > onchip:
            part = tt_part(onchip, last, table.shape.dim, table.tt.shape, table.tt.pins)
    exact = part.last if part else onchip
    resident = rows if "ssd" not in ends else max(ends.get("dram", 0), exact)
    if table.replicate:
        return table_ranges(rows, resident, cores, shift, onchip=onchip, replicated=True), None
    return table_ranges(rows, resident, cores, shift, onchip=onchip, tt=part), part


def tt_part(first: int, last: int, dim: int, like: TtShape, pins: int) -> TtPart:
    """TT form of ranks ``[first, last)``, of the ranks and pins of a form of more rows."""
    shape = choose_shape(last - first, dim, max(like.ranks))
    return TtPart(first, last, shape, min(pins, shape.prefixes))


def _striped_ranges(
    units: Sequence[Unit], cores: int, shift: int, *, replicated: bool = False
) -> tuple[Range, ...]:
    """Ranges of units of one table on one device, over its memory cores."""
    found: list[Range] = []
    by_of: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        by_of[unit.of].append(unit)
    for of, group in sorted(by_of.items()):
        residues = sorted(unit.residue for unit in group)
        for tier, first, last in group[0].segments:
            if tier == "ssd":
                stripe = _stripe(of, residues, first, last)
                if stripe is not None or of == 1:
                    found.append(Range(tier=tier, first=first, last=last, stripe=stripe))
                continue
            for core in range(cores):
                # the next core takes the next rank of the device's own
                wide = of * cores
                slot = (core + shift) % cores
                own = [r + of * slot for r in residues]
                stripe = _stripe(wide, own, first, last)
                if stripe is not None or wide == 1:
                    found.append(
                        Range(
                            tier=tier,
                            first=first,
                            last=last,
                            stripe=stripe,
                            core=core,
                            replicated=replicated,
                        )
                    )
    return tuple(found)


def _stripe(of: int, residues: Sequence[int], first: int, last: int) -> Stripe | None:
    """Ranks that are one of ``residues`` modulo ``of``, counted from 0, as ``first`` has them."""
    if of == 1:
        return None
    take = sorted((r - first) % of for r in residues)
    take = [r for r in take if r < last - first]
    return Stripe(of=of, take=tuple(take)) if take else None


def _shifts(
    problem: Problem, device: _Device, by_table: Mapping[int, Sequence[Unit]]
) -> dict[int, int]:
    """Turn every table's stripes so that memory cores are loaded alike.

    Tables with the most uneven residues first, each turned to where the largest sum is least.
    """
    cores = device.pattern.memory
    if cores < 2:
        return dict.fromkeys(by_table, 0)
    uneven: list[tuple[float, int, Floats]] = []
    for number, units in by_table.items():
        table = problem.tables[number]
        loads = np.zeros(cores)
        for unit in units:
            for tier, first, last in unit.segments:
                beats = table.row_beats if tier != "onchip" else 1
                rates = table.rates
                wide = unit.of * cores
                for slot in range(cores):
                    residue = unit.residue + unit.of * slot
                    loads[slot] += beats * rates.residue_sum(
                        rates.rates, first, last, wide, residue
                    )
        uneven.append((-float(loads.max() - loads.min()), number, loads))
    total = np.zeros(cores)
    shifts: dict[int, int] = {}
    for _, number, loads in sorted(uneven, key=lambda entry: entry[:2]):
        # core c takes slot (c + shift) mod cores
        turned = [np.roll(loads, -shift) for shift in range(cores)]
        shift = min(range(cores), key=lambda s: (float((total + turned[s]).max()), s))
        shifts[number] = shift
        total += turned[shift]
    return shifts
