"""The best core patterns for rows whose place is given: what baselines are scored with.

At a fixed time per sample each device can be looked at by itself: of the patterns that carry its
rows, the one that leaves room for the most samples is best. A time is long enough if the devices'
samples add up to all of them; the least one is found by bisection.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.check import measure
from screc.plan.costs import BYTES, TIMES
from screc.plan.place import stripe_over_cores
from screc.plan.problem import Problem
from screc.plan.schema import Plan, TablePlan, table_ranges
from screc.plan.stamp import device_plan, stamped, unmeasured
from screc.plan.units import Unit, UnitCosts

TOLERANCE = 1e-4
"""Relative width at which the bisection ends."""

LONGEST = 1e3
"""Seconds per sample beyond which nothing is tried."""


@dataclasses.dataclass(frozen=True)
class _Given:
    """A device whose rows are given: its class, its tables, and their loads."""

    klass: int
    tables: tuple[TablePlan, ...]
    loads: costs.Loads
    staging_bytes: int


def solve_placed(problem: Problem, placement: Sequence[Sequence[TablePlan]]) -> Plan:
    """Find the best core patterns and shares of the samples for a placement, and check the plan.

    Parameters
    ----------
    problem
        The problem; its devices are those of the classes in order.
    placement
        Tables of every device; ranges name no memory core.

    Raises
    ------
    PlanError
        If no patterns carry it; at a required rate also if it is not reached.
    """
    classes = [k for k, klass in enumerate(problem.classes) for _ in range(klass.count)]
    rated = UnitCosts(problem)
    numbers = {table.shape.name: number for number, table in enumerate(problem.tables)}
    given = [
        _given(rated, k, tuple(tables), numbers)
        for k, tables in zip(classes, placement, strict=True)
    ]
    best: Plan | None = None
    failure: CheckError | PlanError | None = None
    counts = {p.memory for klass in problem.classes for p in klass.patterns if p.memory}
    for memory in sorted(counts):  # more memory cores may be loaded less evenly
        try:
            plan = _with_memory(rated, given, memory)
        except (PlanError, CheckError) as error:
            failure = failure or error
            continue
        if best is None or (plan.value, plan.seconds) < (best.value, best.seconds):
            best = plan
    if best is None:
        reason = str(failure).splitlines()[0]
        raise PlanError(PlanErrorKind.TIER, f"this placement has no plan: {reason}") from failure
    return best


def _given(
    rated: UnitCosts, klass: int, tables: tuple[TablePlan, ...], numbers: dict[str, int]
) -> _Given:
    """Sum the loads of a device's rows, its staging ring included."""
    found: costs.Loads = dict.fromkeys((*TIMES, *BYTES), 0.0)
    problem, units = rated.problem, []
    for plan in tables:
        number = numbers[plan.table]
        own = []
        for r in plan.ranges:
            of, take = (r.stripe.of, r.stripe.take) if r.stripe else (1, (0,))
            segment = ((r.tier, r.first, r.last),)
            own += [Unit(number, segment, of, (residue + r.first) % of) for residue in take]
        for unit in own:
            for name, value in rated.loads(klass, None, unit).items():
                found[name] += value
        units += own
        if problem.exchange:  # a bag leaves the device once, however many parts it has there
            table, budget = problem.tables[number], problem.classes[klass].budget
            here = sum(sums[1] for unit in own for sums in rated.sums(unit).values())
            met = table.bags_met(here / max(table.rates.lookups, 1e-300))
            counted = sum(rated.bags(unit) for unit in own)
            for name, value in costs.partial_out(table, budget).items():
                found[name] += value * (met - counted)
    staging = rated.staging_bytes(units)
    found["dram_bytes"] += problem.staging_slack if staging else 0
    return _Given(klass, tables, found, staging)


def _with_memory(rated: UnitCosts, given: Sequence[_Given], memory: int) -> Plan:
    """The best plan whose devices have ``memory`` cores, or none."""
    problem = rated.problem
    samples = [
        [rated.sample_side(k, pattern, {}) for pattern in klass.patterns]
        for k, klass in enumerate(problem.classes)
    ]

    def most(device: _Given, seconds: float) -> tuple[float, int]:
        """Largest share of the samples that the device can compute, and by which pattern."""
        found = (-1.0, -1)
        for number, pattern in enumerate(problem.classes[device.klass].patterns):
            if pattern.memory not in (0, memory):
                continue
            share = _share(device, pattern, samples[device.klass][number], seconds)
            found = max(found, (share, -1 - number))
        return found[0], -1 - found[1]

    def enough(seconds: float) -> bool:
        shares = [most(device, seconds)[0] for device in given]
        return min(shares) >= 0 and sum(shares) >= 1

    if problem.rate is not None:
        seconds = 1 / problem.rate
        if not enough(seconds):
            raise PlanError(PlanErrorKind.RATE, f"does not reach {problem.rate:,.0f} samples/s")
        return _plan(rated, given, [most(d, seconds) for d in given])
    low, high = 0.0, max(problem.lookups, 1.0) * 1e-9
    while not enough(high):
        low, high = high, 2 * high
        if high > LONGEST:
            raise PlanError(PlanErrorKind.DRAM, "rows do not fit the devices they are on")
    while high > low * (1 + TOLERANCE):
        middle = math.sqrt(high * max(low, high / 4))
        low, high = (low, middle) if enough(middle) else (middle, high)
    return _plan(rated, given, [most(device, high) for device in given])


def _share(device: _Given, pattern: Pattern, side: costs.Loads, seconds: float) -> float:
    """Largest share of the samples that a pattern can compute beside its rows; -1: none fits."""
    if device.tables and not pattern.memory:
        return -1.0
    weights = {"dram_bytes": float(pattern.weight_bytes)}
    for name in BYTES:
        if device.loads[name] + weights.get(name, 0.0) > pattern.capacity[name]:
            return -1.0
    share = min(1.0, seconds * pattern.capacity["samples"])
    for name in TIMES:
        room = seconds * pattern.capacity[name] - device.loads[name]
        if room < 0:
            return -1.0
        each = side.get(name, 0.0)
        if each:
            share = min(share, room / each)
    return share


def _plan(rated: UnitCosts, given: Sequence[_Given], chosen: Sequence[tuple[float, int]]) -> Plan:
    """Make the plan: devices with rows compute first, others as far as they are needed."""
    problem = rated.problem
    total = sum(share for share, _ in chosen)
    if problem.rate is None:
        shares = [share / total for share, _ in chosen]
    else:
        left, shares = 1.0, [0.0] * len(given)
        order = sorted(range(len(given)), key=lambda d: (not given[d].tables, -chosen[d][0]))
        for d in order:
            shares[d] = min(left, chosen[d][0])
            left -= shares[d]
    devices = []
    for device, share, (_, number) in zip(given, shares, chosen, strict=True):
        if not device.tables and share <= 0:
            continue
        pattern = problem.classes[device.klass].patterns[number]
        tables = tuple(
            _over_cores(problem, plan, pattern.memory, shift, alone=len(given) == 1)
            for shift, plan in enumerate(device.tables)
        )
        devices.append(
            device_plan(
                problem,
                device.klass,
                pattern,
                tables,
                samples=share,
                staging_bytes=device.staging_bytes,
            )
        )
    plan = unmeasured(problem, devices)
    return stamped(plan, measure(plan, problem), 0)


def _over_cores(
    problem: Problem, plan: TablePlan, cores: int, shift: int, *, alone: bool
) -> TablePlan:
    """Share a table's ranges among the memory cores; of one device, in the form that is built."""
    if not alone:
        ranges = [part for r in plan.ranges for part in stripe_over_cores(r, cores, shift)]
        return plan.model_copy(update={"ranges": tuple(ranges)})
    table = next(table for table in problem.tables if table.shape.name == plan.table)
    made = table_ranges(
        table.shape.rows,
        plan.resident_rows,
        cores,
        shift,
        onchip=plan.onchip_rows,
        replicated=bool(table.replicate),
    )
    return plan.model_copy(update={"ranges": made})
