"""Local search: items are moved between devices, or exchanged, until their loads are alike."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOVES = 5_000
"""Moves and exchanges at most."""

LEAST = 1e-7
"""Relative gain of a step at least."""


@dataclasses.dataclass(frozen=True)
class Balance:
    """Loads of items, and what is known of the devices that they go to.

    ``loads`` ``(items, resources)``; ``room`` and what is ``used`` of it ``(devices, resources)``.
    Around relative loads ``centre`` ``(devices, resources)`` a device has ``level`` ``(devices,)``,
    which rises by ``prices`` ``(devices, resources)`` and by ``curved`` ``(resources,)`` × the
    square of the distance. Of the ``timed`` ``(resources,)`` the largest relative load counts in
    any case.
    """

    loads: Floats
    room: Floats
    used: Floats
    timed: NDArray[np.bool_]
    level: Floats
    centre: Floats
    prices: Floats
    curved: Floats

    def relative(self, sums: Floats, device: Ints | int) -> Floats:
        """Relative loads of devices with such sums ``(…, resources)``."""
        found: Floats = (sums + self.used[device]) / self.room[device]
        return found

    def levels(self, sums: Floats, device: Ints | int) -> Floats:
        """Relative load that devices with such sums will have, about."""
        relative = self.relative(sums, device)
        off = relative - self.centre[device]
        priced = self.level[device] + (off * (self.prices[device] + self.curved * off)).sum(-1)
        found: Floats = np.maximum(priced, np.where(self.timed, relative, 0.0).max(-1))
        return found


def greedy(balance: Balance, order: Ints) -> Ints:
    """Give items in ``order`` to the device of the least level; devices ``(items,)``."""
    devices = np.arange(len(balance.room))
    owner = np.zeros(len(balance.loads), np.int64)
    sums = np.zeros_like(balance.room)
    for item in order:
        owner[item] = int(balance.levels(sums, devices).argmin())
        sums[owner[item]] += balance.loads[item]
    return owner


def exchanged(balance: Balance, owner: Ints) -> Ints:
    """Move and exchange items, the most loaded devices' first, as long as that lowers a level.

    A step never makes the other device worse than the first one was, so the levels, sorted, fall
    in lexicographic order.

    Parameters
    ----------
    owner
        Device of each item at first, ``(items,)``.
    """
    owner = owner.copy()
    sums = np.zeros_like(balance.room)
    np.add.at(sums, owner, balance.loads)
    levels = balance.levels(sums, np.arange(len(balance.room)))
    for _ in range(MOVES):
        steps = (_best_step(balance, owner, sums, levels, int(d)) for d in np.argsort(-levels))
        step = next((step for step in steps if step is not None), None)
        if step is None:
            break
        one, other, to = step
        source = int(owner[one])
        change = balance.loads[one] - (balance.loads[other] if other is not None else 0.0)
        owner[one] = to
        if other is not None:
            owner[other] = source
        sums[source] -= change
        sums[to] += change
        pair = np.array([source, to])
        levels[pair] = balance.levels(sums[pair], pair)
    return owner


def _best_step(
    balance: Balance, owner: Ints, sums: Floats, levels: Floats, worst: int
) -> tuple[int, int | None, int] | None:
    """An item of a device, one for it if any, and where it goes; None: nothing helps."""
    others = np.flatnonzero(owner != worst)
    there = owner[others]
    devices = np.flatnonzero(np.arange(len(levels)) != worst)
    best = levels[worst] * (1 - LEAST)
    found: tuple[int, int | None, int] | None = None
    for one in np.flatnonzero(owner == worst):
        load = balance.loads[one]
        less = sums[worst] - load
        moved = np.maximum(
            balance.levels(less, worst), balance.levels(sums[devices] + load, devices)
        )
        at = int(moved.argmin())
        if moved[at] < best:
            best, found = float(moved[at]), (int(one), None, int(devices[at]))
        if not len(others):
            continue
        given = balance.loads[others]
        swapped = np.maximum(
            balance.levels(less + given, worst), balance.levels(sums[there] + load - given, there)
        )
        at = int(swapped.argmin())
        if swapped[at] < best:
            best, found = float(swapped[at]), (int(one), int(others[at]), int(there[at]))
    return found
