"""Tables to devices by an assignment LP; those on several devices are cut into stripes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from screc.errors import PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.costs import BYTES, TIMES
from screc.plan.decision import Decision, InUse, first_tt, fixed_loads
from screc.plan.pool import MARGIN
from screc.plan.solver import silenced
from screc.plan.units import STRIPES, Unit, UnitCosts

Floats = NDArray[np.float64]

LEVELS = 4
"""Cuts at most: the last parts are 1/65,536 of a table."""

SMALL = 0.05
"""Units that take no more than this share of a device are not cut."""

WHOLE_LIMIT, WHOLE_GAP = 5.0, 5e-4
"""Seconds and relative gap in which those are given to one device each."""

WHOLE = 1e-6
"""A share this close to 1 is all of it."""


def assign_striped(
    rated: UnitCosts,
    decision: Decision,
    devices: list[InUse],
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
    devices: Sequence[InUse],
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
    devices: Sequence[InUse],
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
        found = rated.loads(k, first_tt(problem, k), unit)
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
        fixed = fixed_loads(rated, decision, device, free_share)
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
