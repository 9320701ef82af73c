"""From what the pooled model decided to ranges of ranks on each device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from screc.errors import PlanError, PlanErrorKind
from screc.plan.decision import Decision, InUse, in_use, units_by_class
from screc.plan.exchange import Floats
from screc.plan.problem import Problem
from screc.plan.schema import Plan, Range, Stripe, TablePlan, TtPart, table_ranges
from screc.plan.stamp import device_plan, unmeasured
from screc.plan.stripes import assign_striped
from screc.plan.units import Unit, UnitCosts
from screc.plan.whole import assign_whole
from screc.tt.shape import choose_shape
from screc_hw.tt.shape import TtShape


def place(problem: Problem, decision: Decision, seconds: float, *, whole: bool = False) -> Plan:
    """Place a decision on devices, for ``seconds`` per sample.

    Figures that the checker computes are 0 in what is returned.

    Parameters
    ----------
    whole
        Whether tables stay on one device each if they can, with tiers chosen anew for every device;
        for one class of several devices. Else the decision's tiers stay as they are.

    Raises
    ------
    PlanError
        If rows do not fit the devices.
    """
    devices = in_use(problem, decision)
    if not devices:
        raise PlanError(PlanErrorKind.SOLVER, "the model uses no device")
    rated = UnitCosts(problem)
    if len(devices) == 1:
        devices[0].units = [
            unit for found in units_by_class(problem, decision).values() for unit in found
        ]
        devices[0].samples = 1.0
    elif whole:
        assign_whole(rated, decision, devices, seconds)
    else:
        assign_striped(rated, decision, devices, units_by_class(problem, decision), seconds)
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


# --- ranges ---


def _table_plans(
    rated: UnitCosts, decision: Decision, device: InUse, *, single: bool
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
    problem: Problem, device: InUse, by_table: Mapping[int, Sequence[Unit]]
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
