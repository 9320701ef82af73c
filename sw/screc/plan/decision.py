"""What the pooled model decided, and the devices that it is placed on."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.pool import TIERS, Tier
from screc.plan.problem import Problem
from screc.plan.units import Segment, Unit, UnitCosts
from screc_hw.tt.params import TtParams


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
