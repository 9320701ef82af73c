"""From shares of classes to ranges of ranks on each device: an assignment LP, then stripes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from screc.errors import PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.costs import BYTES, TIMES
from screc.plan.pool import MARGIN, TIERS, Tier
from screc.plan.problem import Problem
from screc.plan.schema import Plan, Range, Stripe, TablePlan, TtPart, table_ranges
from screc.plan.solver import silenced
from screc.plan.stamp import device_plan, unmeasured
from screc.plan.units import STRIPES, Segment, Unit, UnitCosts
from screc.tt.shape import choose_shape
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

Floats = NDArray[np.float64]

LEVELS = 4
"""Cuts at most: the last parts are 1/65,536 of a table."""

SMALL = 0.05
"""Units that take no more than this share of a device are not cut."""

WHOLE_LIMIT, WHOLE_GAP = 5.0, 5e-4
"""Seconds and relative gap in which those are given to one device each."""

WHOLE = 1e-6
"""A share this close to 1 is all of it."""


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
    rated = UnitCosts(problem)
    if len(devices) == 1:
        devices[0].units = [unit for found in units.values() for unit in found]
        devices[0].samples = 1.0
    else:
        _assign(rated, decision, devices, units, seconds)
    made = []
    for device in devices:
        tables = _table_plans(rated, decision, device, single=len(devices) == 1)
        made.append(
            device_plan(
                problem,
                device.klass,
                device.pattern,
                tables,
                samples=device.samples,
                staging_bytes=rated.staging_bytes(device.units),
            )
        )
    return unmeasured(problem, made)


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


def _assign(
    rated: UnitCosts,
    decision: Decision,
    devices: list[_Device],
    units: Mapping[int, list[Unit]],
    seconds: float,
) -> None:
    """Give every unit to a device, and every device its share of the samples."""
    problem = rated.problem
    free = [(k, unit) for k, found in units.items() for unit in found]
    shares, samples, weights = _assignment(rated, decision, devices, free, seconds)
    small = weights < (SMALL if problem.split else math.inf)
    split = shares.max(axis=1) < 1 - WHOLE
    free, homes = _settle(devices, free, shares, ~split)
    if (small & split).any():
        # every table that is cut sends its bags twice, so small ones are not
        whole = small[split]
        try:
            shares, samples, _ = _assignment(
                rated, decision, devices, free, seconds, whole=whole, computed=samples
            )
            settled = (shares.max(axis=1) > 1 - WHOLE) | whole
            free, homes = _settle(devices, free, shares, settled)
        except PlanError:  # not in the time; then they are cut like the others
            if not problem.split:
                raise
    for level in range(LEVELS):
        if not free:
            break
        # parts stay on the devices of the whole: each more would send the table's bags once more
        free = [(k, part) for k, unit in free for part in unit.parts()]
        shares, samples, _ = _assignment(
            rated,
            decision,
            devices,
            free,
            seconds,
            level=level + 1,
            homes=homes.repeat(STRIPES, axis=0),
        )
        tiny = np.array([level == LEVELS - 1 or unit_rows(u) < STRIPES for _, u in free])
        free, homes = _settle(devices, free, shares, (shares.max(axis=1) > 1 - WHOLE) | tiny)
    for device, share in zip(devices, samples, strict=True):
        device.samples = float(share)


def _settle(
    devices: Sequence[_Device],
    free: Sequence[tuple[int, Unit]],
    shares: Floats,
    settled: NDArray[np.bool_],
) -> tuple[list[tuple[int, Unit]], NDArray[np.bool_]]:
    """Give settled units to the device that has most of them.

    Return the others, and which devices have a share of each.
    """
    for (_, unit), row in zip(itertools.compress(free, settled), shares[settled], strict=True):
        devices[int(np.argmax(row))].units.append(unit)
    return list(itertools.compress(free, ~settled)), shares[~settled] > WHOLE


def unit_rows(unit: Unit) -> int:
    """Ranks of a unit, about."""
    return sum(last - first for _, first, last in unit.segments) // unit.of


def _assignment(
    rated: UnitCosts,
    decision: Decision,
    devices: Sequence[_Device],
    free: Sequence[tuple[int, Unit]],
    seconds: float,
    *,
    whole: NDArray[np.bool_] | None = None,
    computed: Floats | None = None,
    level: int = 0,
    homes: NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Shares of the free units by device, each device's share of the samples, and units' weights.

    A unit's weight is the largest share of any device's capacity that it takes. ``computed`` is
    about the share of the samples that each device will have.

    Least is the largest relative load of any device; rows must fit. A basic solution: few units
    have several devices, and those that are ``whole`` have one.
    """
    problem = rated.problem
    # what is left free of memory at first is for the rounding of later levels
    free_share = 0.6 - 0.1 * level
    names = (*TIMES, *BYTES)
    count, wide = len(devices), len(free)
    loads = np.zeros((wide, len(names)))
    for u, (k, unit) in enumerate(free):
        found = rated.loads(k, _first_tt(problem, k), unit)
        loads[u] = [found.get(name, 0.0) for name in names]
    per_sample = [
        rated.sample_side(device.klass, device.pattern, decision.whole) for device in devices
    ]
    most = np.array(
        [
            max(d.pattern.capacity[name] for d in devices) * (seconds if name in TIMES else 1.0)
            for name in names
        ]
    )
    weights: Floats = (loads / np.maximum(most, 1e-300)).max(axis=1, initial=0.0)
    # of a unit that may be cut, its bags count on every device that has a part of it
    bags = np.zeros_like(loads)
    if whole is not None and problem.exchange:
        for u, (k, unit) in enumerate(free):
            if not whole[u]:
                table, budget = problem.tables[unit.table], problem.classes[k].budget
                out = costs.partial_out(table, budget)
                bags[u] = [out.get(name, 0.0) * rated.bags(unit) for name in names]
    # variables: share of unit u on device d (where it may be), samples of d, the largest load, and
    # whether device d has any of a unit that may be cut
    places = [
        (u, d)
        for u, (k, _) in enumerate(free)
        for d in range(count)
        if devices[d].klass == k and devices[d].pattern.memory
        if homes is None or homes[u, d]
    ]
    index = {key: i for i, key in enumerate(places)}
    first_sample, theta = len(places), len(places) + count
    inward = np.zeros_like(loads)
    if bags.any():
        for u, (k, unit) in enumerate(free):
            if bags[u].any():
                table, budget = problem.tables[unit.table], problem.classes[k].budget
                found = costs.partial_in(table, budget)
                inward[u] = [found.get(name, 0.0) * rated.bags(unit) for name in names]
    cut = [key for key in places if bags[key[0]].any()]
    has = {key: theta + 1 + i for i, key in enumerate(cut)}
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    limits: list[float] = []
    line = 0
    for d, device in enumerate(devices):
        pattern = device.pattern
        fixed = _fixed_loads(rated, decision, device, free_share)
        mine = [(u, index[u, d]) for u in range(wide) if (u, d) in index]
        for n, name in enumerate(names):
            capacity = pattern.capacity[name]
            timed = name in TIMES
            room = capacity * (seconds if timed else 1 - MARGIN * free_share)
            own = loads[[u for u, _ in mine], n] if mine else np.empty(0)
            sample = per_sample[d].get(name, 0.0) if timed else 0.0
            used = fixed.get(name, 0.0)
            if not own.any() and not sample and not used:
                continue
            scale = max(room, 1e-300)
            for (u, column), value in zip(mine, own, strict=True):
                for place, load in ((column, value - bags[u, n]), (has.get((u, d)), bags[u, n])):
                    if load and place is not None:
                        rows.append(line)
                        columns.append(place)
                        values.append(load / scale)
            if computed is not None and inward[:, n].any():
                # bags of a unit on several devices come in several times where they are needed
                for (u, _), place in has.items():
                    rows.append(line)
                    columns.append(place)
                    values.append(computed[d] * inward[u, n] / scale)
                used -= computed[d] * inward[:, n].sum()
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
    for key, place in has.items():
        rows += [line, line]
        columns += [index[key], place]
        values += [1.0, -1.0]
        limits.append(0.0)
        line += 1
    equal_rows = [u for u, _ in places] + [wide] * count
    equal_columns = list(range(len(places))) + [first_sample + d for d in range(count)]
    size = theta + 1 + len(has)
    upper = np.ones(size)
    upper[theta] = np.inf
    goal = np.eye(1, size, theta)[0]
    above = sparse.csr_matrix((values, (rows, columns)), (line, size))
    equal = sparse.csr_matrix(
        (np.ones(len(equal_rows)), (equal_rows, equal_columns)), (wide + 1, size)
    )
    if whole is None:
        result = linprog(
            goal,
            A_ub=above,
            b_ub=limits,
            A_eq=equal,
            b_eq=np.ones(wide + 1),
            bounds=np.stack([np.zeros(size), upper], axis=1),
            method="highs-ds",
        )
    else:
        integral = np.zeros(size)
        for (u, _), i in index.items():
            integral[i] = whole[u]
        integral[theta + 1 :] = 1
        with silenced():
            result = milp(
                goal,
                constraints=[
                    LinearConstraint(above, -np.inf, limits),
                    LinearConstraint(equal, 1, 1),
                ],
                bounds=Bounds(np.zeros(size), upper),
                integrality=integral,
                options={"time_limit": WHOLE_LIMIT, "mip_rel_gap": WHOLE_GAP},
            )
    if result.x is None:
        raise PlanError(
            PlanErrorKind.DRAM, "rows that fit all devices together do not fit them one by one"
        )
    shares = np.zeros((wide, count))
    for (u, d), i in index.items():
        shares[u, d] = result.x[i]
    return shares, np.clip(result.x[first_sample:theta], 0, 1), weights


def _first_tt(problem: Problem, klass: int) -> TtParams | None:
    return next((p.tt for p in problem.classes[klass].patterns if p.tt is not None), None)


def _fixed_loads(
    rated: UnitCosts, decision: Decision, device: _Device, free_share: float
) -> costs.Loads:
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
    found["onchip_bytes"] += min(decision.reserve * device.pattern.memory * free_share, room / 4)
    for number, tier in decision.whole.items():
        table = problem.tables[number]
        found[f"{tier}_bytes"] += table.shape.rows * table.stride
    return found


# --- ranges ---


def _table_plans(
    rated: UnitCosts, decision: Decision, device: _Device, *, single: bool
) -> tuple[TablePlan, ...]:
    """Ranges of every table on a device."""
    problem = rated.problem
    cores = device.pattern.memory
    by_table: dict[int, list[Unit]] = defaultdict(list)
    for unit in device.units:
        by_table[unit.table].append(unit)
    shifts = _shifts(problem, device, by_table)
    plans: list[TablePlan] = []
    for number, table in enumerate(problem.tables):
        name, rows = table.shape.name, table.shape.rows
        whole = decision.whole.get(number)
        units = by_table.get(number)
        if not cores or not (whole or units):
            continue
        if whole is not None:
            unit = Unit(number, ((whole, 0, rows),))
            made = _striped_ranges([unit], cores, number % cores, replicated=True)
        elif single:
            assert units is not None  # or there would be nothing to list
            made = _single_ranges(problem, number, units[0], cores, shifts[number])
        else:
            assert units is not None
            made = _striped_ranges(units, cores, shifts[number])
        plans.append(TablePlan(table=name, ranges=made))
    return tuple(plans)


def _single_ranges(
    problem: Problem, number: int, unit: Unit, cores: int, shift: int
) -> tuple[Range, ...]:
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
        return table_ranges(rows, resident, cores, shift, onchip=onchip, replicated=True)
    return table_ranges(rows, resident, cores, shift, onchip=onchip, tt=part)


def tt_part(first: int, last: int, dim: int, like: TtShape, pins: int) -> TtPart:
    """TT form of ranks ``[first, last)``, of the ranks and pins of a form of more rows."""
    shape = choose_shape(last - first, dim, max(like.ranks))
    return TtPart(first, last, shape, min(pins, shape.prefixes))


def _striped_ranges(
    units: Sequence[Unit], cores: int, shift: int, *, replicated: bool = False
) -> tuple[Range, ...]:
    """Ranges of units of one table on one device, over its memory cores."""
    found: list[Range] = []
    for of, group in _by_of(units):
        residues = [unit.residue for unit in group]
        for tier, first, last in group[0].segments:
            if tier == "ssd":
                stripe = _stripe(of, residues, first, last)
                if stripe is not None or of == 1:
                    found.append(Range(tier=tier, first=first, last=last, stripe=stripe))
                continue
            wide = of * cores
            for core, own in enumerate(_dealt(residues, of, cores, shift)):
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


def stripe_over_cores(r: Range, cores: int, shift: int) -> Iterator[Range]:
    """Share a range of a device among its memory cores: the next core takes the next rank."""
    if r.tier == "ssd" or r.core is not None:
        yield r
        return
    of, take = (r.stripe.of, r.stripe.take) if r.stripe else (1, (0,))
    for core, own in enumerate(_dealt(take, of, cores, shift)):
        mine = tuple(residue for residue in own if residue < r.last - r.first)
        if mine:
            stripe = Stripe(of=of * cores, take=mine) if of * cores > 1 else None
            yield r.model_copy(update={"core": core, "stripe": stripe})


def _by_of(units: Sequence[Unit]) -> list[tuple[int, list[Unit]]]:
    """Units of one table by how finely they are cut, each in the order of residues."""
    found: dict[int, list[Unit]] = defaultdict(list)
    for unit in sorted(units, key=lambda unit: (unit.of, unit.residue)):
        found[unit.of].append(unit)
    return list(found.items())


def _dealt(residues: Sequence[int], of: int, cores: int, shift: int) -> list[list[int]]:
    """Each core's residues modulo ``of`` × ``cores`` of a device's ranks, dealt out in turn.

    Of those that are one of ``residues`` (ascending) modulo ``of``, core ``c`` takes those whose
    number is (c + shift) mod ``cores``: the hottest ones are on different cores.
    """
    own = [r + of * period for period in range(cores) for r in residues]
    return [own[(core + shift) % cores :: cores] for core in range(cores)]


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
        rates, loads = table.rates, np.zeros(cores)
        for of, group in _by_of(units):
            residues = [unit.residue for unit in group]
            for tier, first, last in group[0].segments:
                beats = table.row_beats if tier != "onchip" else 1
                for slot, own in enumerate(_dealt(residues, of, cores, 0)):
                    loads[slot] += beats * sum(
                        rates.residue_sum(rates.rates, first, last, of * cores, residue)
                        for residue in own
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
