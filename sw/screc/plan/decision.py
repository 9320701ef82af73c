"""What the pooled model decided, and the devices that it is placed on."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyomo.environ as pyo

from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.pool import TIERS, Pooled, Tier
from screc.plan.problem import Problem
from screc.plan.units import Segment, Unit, UnitCosts
from screc_hw.tt.params import TtParams

SPLIT = 1e-6
"""Shares of an interval this close to 0 or 1 are no split."""


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


def decide(pooled: Pooled, m: pyo.ConcreteModel) -> Decision:
    """Read a model's solution: patterns of devices, and whole rows of every table by tier."""
    problem = pooled.problem
    patterns: list[list[int]] = []
    for k, klass in enumerate(problem.classes):
        found: list[int] = []
        for p in range(len(klass.patterns)):
            found += [p] * round(m.devices[k, p].value or 0.0)
        patterns.append(found)
    whole = {pooled.groups[g].tables[0]: s for g, s in m.W if (m.whole[g, s].value or 0.0) > 0.5}
    order = [(s, k) for s in TIERS for k in range(len(problem.classes))]
    rows: dict[int, list[tuple[int, Tier, int, int]]] = {t: [] for t in range(len(problem.tables))}
    keys: dict[int, list[tuple[int, Tier]]] = defaultdict(list)
    for k, j, s in m.S:
        keys[j].append((k, s))
    for j, (g, interval) in enumerate(pooled.flat):
        group = pooled.groups[g]
        if len(group.tables) == 1 and group.tables[0] in whole:
            continue
        chosen = [(s, k, m.share[k, j, s].value or 0.0) for s, k in order if (k, s) in keys[j]]
        total = sum(v for _, _, v in chosen)
        if total < SPLIT:  # a replicated table's, by more than half
            chosen, total = [(chosen[-1][0], chosen[-1][1], 1.0)], 1.0
        part = slice(interval.first, interval.last)
        size = len(group.tables)
        count = np.bincount(group.table[part], group.count[part], size)
        for local in np.flatnonzero(count):
            table, n = group.tables[local], int(count[local])
            places = rows[table]
            at = places[-1][3] if places else 0
            sofar, end = 0.0, at
            for number, (s, k, v) in enumerate(chosen):
                sofar += v / total
                last = at + n if number == len(chosen) - 1 else at + int(sofar * n + 1e-6)
                if last > end:
                    if places and places[-1][:2] == (k, s) and places[-1][3] == end:
                        places[-1] = (k, s, places[-1][2], last)
                    else:
                        places.append((k, s, end, last))
                    end = last
    samples = [
        [m.computed[k, p].value or 0.0 for p in range(len(klass.patterns))]
        for k, klass in enumerate(problem.classes)
    ]
    return Decision(
        patterns=patterns, samples=samples, whole=whole, rows=rows, reserve=pooled.reserve
    )


@dataclasses.dataclass
class InUse:
    """A device in use, and what it is given."""

    klass: int
    pattern: Pattern
    units: list[Unit] = dataclasses.field(default_factory=list)
    samples: float = 0.0


def in_use(problem: Problem, decision: Decision) -> list[InUse]:
    """Devices of a decision, with nothing on them yet."""
    return [
        InUse(k, problem.classes[k].patterns[p])
        for k, found in enumerate(decision.patterns)
        for p in found
    ]


def units_by_class(problem: Problem, decision: Decision) -> dict[int, list[Unit]]:
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


def first_tt(problem: Problem, klass: int) -> TtParams | None:
    """Reconstructors of a class, which are all of one kind."""
    return next((p.tt for p in problem.classes[klass].patterns if p.tt is not None), None)


def fixed_loads(
    rated: UnitCosts, decision: Decision, device: InUse, free_share: float
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
