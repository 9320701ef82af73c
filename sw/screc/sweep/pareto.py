"""Points that no other point beats."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from screc.sweep.figures import UTILISATION

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Best:
    """A point that no other beats, and how many more have exactly its figures."""

    row: Row
    equal: int


@dataclasses.dataclass(frozen=True)
class Front:
    """The points that no other beats, fastest first, and what ``cost`` compares beside devices."""

    cost: str
    points: tuple[Best, ...]


ENERGY, SHARE = "energy_per_sample", "largest_share"


def largest_share(row: Row) -> float | None:
    """Used share of the resource that is used most."""
    return max((row[name] for name in UTILISATION if row.get(name) is not None), default=None)


def cost_of(row: Row, cost: str) -> float | None:
    """Value of a row's cost: J per sample, or the largest share used."""
    value: float | None = row.get(ENERGY) if cost == ENERGY else largest_share(row)
    return value


def pareto_front(rows: Sequence[Row]) -> Front:
    """Find the rows with status ``ok`` that no other beats.

    One beats another if it is no worse in throughput, cost and count of devices, and better in one.
    The cost is the energy per sample; where a row has none, the largest share of a resource used.
    """
    feasible = [row for row in rows if row["status"] == "ok"]
    cost = SHARE if any(row.get(ENERGY) is None for row in feasible) else ENERGY
    figures = [
        (-row["throughput"], cost_of(row, cost) or 0.0, float(row["devices"])) for row in feasible
    ]
    found: dict[tuple[float, ...], Best] = {}
    # in this order only an earlier one can beat a later one
    for i in sorted(range(len(feasible)), key=lambda i: (figures[i], i)):
        mine = figures[i]
        if mine in found:
            found[mine] = dataclasses.replace(found[mine], equal=found[mine].equal + 1)
        elif not any(all(a <= b for a, b in zip(f, mine, strict=True)) for f in found):
            found[mine] = Best(feasible[i], 0)
    return Front(cost, tuple(found.values()))
