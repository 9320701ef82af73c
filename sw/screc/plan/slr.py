"""Whether cores can be dealt to a device's SLRs: each lies in one, and so does all that is shared.

Counts are few, so that every way to share out compute cores and the rest is looked at; memory cores
fill what is left of each SLR.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from screc.plan.budget import RESOURCES, Budget
from screc_hw.resources import Resources

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MANY = 1e6
"""More cores than there are of a kind."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """Logic that lies together: a memory core with its reconstructor, a compute core, all else."""

    memory: Resources
    compute: Resources
    rest: Resources


class Dealer:
    """Deals cores to the SLRs of a device; how many compute cores there are is fixed.

    Parameters
    ----------
    compute
        Count of compute cores.
    core, rest
        Logic of one of them, and of all that is neither memory nor compute core.
    limits
        What a plan may use, by SLR and resource ``(slrs, resources)``.
    """

    def __init__(self, compute: int, core: Resources, rest: Resources, limits: Floats) -> None:
        self._ways, self._at = _ways(compute, len(limits))
        counts = np.arange(compute + 1)[:, None] * _vector(core)
        taken = np.stack([counts, counts + _vector(rest)])  # (without and with rest, counts, ...)
        # what is left of each SLR, by whether the rest is there and how many compute cores are
        self._left = limits[:, None, None, :] - taken
        self._over = (self._left < 0).any(axis=-1)

    def most(self, memory: Resources) -> float:
        """Most memory cores that fit, below 0 if the others do not."""
        needs = _vector(memory)
        none = needs == 0
        needs[none] = 1 / MANY  # one more of it is plenty
        room = np.floor(((self._left + none) / needs).min(axis=-1))
        room[self._over] = -MANY * MANY
        return float(room[self._at, self._ways[0], self._ways[1]].sum(axis=1).max())


@functools.lru_cache(maxsize=64)
def _ways(compute: int, slrs: int) -> tuple[tuple[Ints, Ints], Ints]:
    """Every way to deal: whether the rest, and how many compute cores, are in each SLR.

    And the SLRs' numbers; all ``(ways, slrs)``.
    """
    bars = itertools.combinations(range(compute + slrs - 1), slrs - 1)
    ends = [(-1, *each, compute + slrs - 1) for each in bars]
    counts = [[b - a - 1 for a, b in itertools.pairwise(each)] for each in ends]
    cores = np.repeat(np.array(counts, np.int64), slrs, axis=0)
    rest = np.tile(np.eye(slrs, dtype=np.int64), (len(counts), 1))
    return (rest, cores), np.broadcast_to(np.arange(slrs), cores.shape)


def _vector(logic: Resources) -> Floats:
    return np.array([getattr(logic, name) for name in RESOURCES], np.float64)


def limits_of(budget: Budget) -> Floats:
    """What a plan may use, by SLR and resource."""
    return np.array([[each[name] for name in RESOURCES] for each in budget.slr_limits])


def can_deal(parts: Parts, memory: int, compute: int, budget: Budget) -> bool:
    """Whether all cores have a place."""
    dealer = Dealer(compute, parts.compute, parts.rest, limits_of(budget))
    return dealer.most(parts.memory) >= memory


def figures_needed(
    parts: Parts, memory: int, compute: int, budget: Budget, used: Mapping[str, float]
) -> dict[str, float]:
    """Figures of the resources that are short: raised to these together, all cores have a place.

    None of them is more than it must be beside the others. ``used`` is the logic of all cores
    together, by resource.
    """
    usable, spec = budget.usable, budget.spec
    least = {name: int(max(budget.figure(name, used[name]), usable[name])) for name in RESOURCES}
    if len(budget.slr_limits) == 1:
        return {name: float(n) for name, n in least.items() if n > usable[name]}

    @functools.cache
    def column(name: str, figure: int) -> list[int]:
        return [spec.filled(name, have) for have in spec.by_slr(name, figure)]

    def enough(figures: Mapping[str, int]) -> bool:
        limits = np.array([column(*each) for each in figures.items()], np.float64).T
        return Dealer(compute, parts.compute, parts.rest, limits).most(parts.memory) >= memory

    def lowest(figures: Mapping[str, int], name: str) -> int:
        """The least figure that does beside the others, of which its own does."""
        low, high = least[name] - 1, figures[name]
        if enough({**figures, name: least[name]}):
            return least[name]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough({**figures, name: middle}) else (middle, high)
        return high

    def scaled(share: float) -> dict[str, int]:
        return {name: math.ceil(figure * share) for name, figure in least.items()}

    low, high = 0.0, 1.0
    while not enough(scaled(high)):
        low, high = high, 2 * high
    while low and high - low > 1e-3 * low:  # all alike at first, as any one may ease the others
        middle = (low + high) / 2
        low, high = (low, middle) if enough(scaled(middle)) else (middle, high)
    choices = []
    for order in (RESOURCES, RESOURCES[::-1]):
        figures = scaled(high)
        for name in order:
            figures[name] = lowest(figures, name)
        choices.append({name: float(n) for name, n in figures.items() if n > usable[name]})
    return min(
        choices,
        key=lambda figures: sum(n / max(usable[name], 1.0) for name, n in figures.items()),
    )
