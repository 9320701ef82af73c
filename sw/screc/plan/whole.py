"""Whole tables to equal devices: of a table on one device a bag is sent once.

What the pooled model's prices say a table costs is one number; by it tables are moved between
devices (:mod:`screc.plan.exchange`). Then each device's own tiers (:mod:`screc.plan.retier`) make
up for what it has too much of one resource, and say what it costs there in truth; and again.
Tables that no device could carry are cut, into as few parts as can be; where levels stay uneven,
as with few tables, others too, one part more or less at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from screc.errors import PlanError, PlanErrorKind
from screc.plan import costs
from screc.plan.costs import TIMES
from screc.plan.decision import Decision, InUse, first_tt, fixed_loads, units_by_class
from screc.plan.exchange import Balance, Floats, Ints, exchanged, greedy
from screc.plan.pool import MARGIN
from screc.plan.retier import NAMES, Retier, Retiered, Room
from screc.plan.units import STRIPES, Unit, UnitCosts

GIANT = 0.9
"""Tables that would take more of a device than that are on several ones."""

ROUNDS, FAILURES = 8, 2
"""Searches at most, and how many in a row may be in vain."""

CURVED = 2.0
"""Of the first search: weight of the square of how far a device's memory is from full."""

CUT_TABLES, CUT_WORK = 8, 2_000
"""Dearest tables that other counts of parts are tried of; and searches × devices × tables."""

CUT_ABOVE, CUT_GAIN = 1.003, 1e-3
"""Level ÷ that of all devices as one above which they are tried, and the gain that counts."""

SHARINGS = 4
"""Times at most that tables are assigned for the shares of the samples that the last one led to."""

REFINEMENTS = 4
"""Of the intervals around each device's splits, at most."""

BETTER = 1e-5
"""Relative gain that counts."""

HALVINGS = 60
"""Of the interval in which a level is looked for."""

TIMED = np.arange(len(NAMES)) < len(TIMES)
"""Which resources are times."""


@dataclasses.dataclass(frozen=True)
class _Item:
    """Stripes of a table that go to one device together."""

    table: int
    of: int = 1
    residues: tuple[int, ...] = (0,)

    @property
    def share(self) -> float:
        return len(self.residues) / self.of


@dataclasses.dataclass(frozen=True)
class _State:
    """Devices of the items, what that leads to on each, and the level of the worst."""

    items: list[_Item]
    owner: Ints
    samples: Floats
    tiers: Sequence[Retiered]
    levels: Floats

    @property
    def worst(self) -> float:
        return float(self.levels.max())


def assign_whole(
    rated: UnitCosts, decision: Decision, devices: Sequence[InUse], seconds: float
) -> None:
    """Give every device of a class its units and its share of the samples.

    Raises
    ------
    PlanError
        If rows do not fit the devices.
    """
    search = _Whole(rated, decision, devices, seconds)
    state = search.best()
    problem = rated.problem
    # of what is as fast, the least energy
    level = state.worst if problem.objective == "throughput" else max(1.0, state.worst)
    for _ in range(REFINEMENTS):
        found = [search.retiered(d, state, level=level * (1 + BETTER)) for d in range(len(devices))]
        if not search.retier.refine(found):
            break
    for d, device in enumerate(devices):
        tiers = found[d].tiers
        device.samples = float(state.samples[d])
        for i in np.flatnonzero(state.owner == d):
            item = state.items[int(i)]
            segments = tiers.get(item.table, search.units[item.table].segments)
            device.units += [Unit(item.table, segments, item.of, r) for r in item.residues]


class _Whole:
    """What is known of tables and devices, and the search."""

    def __init__(
        self, rated: UnitCosts, decision: Decision, devices: Sequence[InUse], seconds: float
    ) -> None:
        problem = rated.problem
        budget = problem.classes[0].budget
        self.rated = rated
        self.units = {unit.table: unit for unit in units_by_class(problem, decision).get(0, ())}
        # tables in TT form keep their tiers: their cores are on every device that has some of them
        tt = {t for t, u in self.units.items() if any(tier == "tt" for tier, _, _ in u.segments)}
        self.fixed = frozenset(tt | set(decision.whole))
        self.retier = Retier(problem, self.fixed)
        self.free = np.array([float(t not in self.fixed) for t in range(len(problem.tables))])
        self.room = np.array([[d.pattern.capacity[name] for name in NAMES] for d in devices])
        self.room = np.maximum(self.room * np.where(TIMED, seconds, 1 - MARGIN), 1e-30)
        self.held = np.array([_row(fixed_loads(rated, decision, d, 1.0)) for d in devices])
        side = [_row(rated.sample_side(0, d.pattern, decision.whole)) for d in devices]
        self.side = np.where(TIMED, side, 0.0)
        self.limit = np.array([d.pattern.capacity["samples"] for d in devices]) * seconds
        counts = Counter(itertools.chain(*decision.patterns))
        shares = [decision.samples[0][p] / counts[p] for p in itertools.chain(*decision.patterns)]
        self.samples = np.array(shares) / sum(shares)
        self.out = np.array([_row(costs.partial_out(t, budget)) for t in problem.tables])
        self.tables = np.zeros((len(problem.tables), len(NAMES)))
        for t, unit in self.units.items():
            self.tables[t] = _row(rated.loads(0, first_tt(problem, 0), unit))
        self._price()
        self.known: dict[tuple[int, float, bytes], Retiered] = {}

    def _price(self) -> None:
        """Take tiers and prices from all devices as one, were rows divided among them at will."""
        used = self.held.sum(0) + (self.side * self.samples[:, None]).sum(0)
        placed = sorted(self.units)
        own = self.tables[sorted(self.fixed & set(placed))].sum(0)
        own = own + sum((self._bags(t, 1.0) for t in placed if t not in self.fixed), np.zeros(1))
        pooled = self.retier(self.free, Room(self.room.sum(0), used + own))
        for t, segments in pooled.tiers.items():
            self.tables[t] = _row(self.rated.loads(0, None, Unit(t, segments)))
        self.level, self.price = pooled.level, pooled.prices
        self.centre = (self.tables[placed].sum(0) + used) / self.room.sum(0)

    def _bags(self, table: int, share: float) -> Floats:
        """Loads of the bags that a device with a share of a table sends."""
        found: Floats = self.out[table] * self.rated.problem.tables[table].bags_met(share)
        return found

    def _parts(self) -> dict[int, int]:
        """Parts of every table, the dearest first: several where one device could not carry it."""
        mean = self.room.mean(0)
        used = self.held.mean(0) / mean  # a device may leave the samples to others
        memory = np.where(TIMED, 0.0, 1.0)
        allowed = self.level + float(((memory - used) * self.price).sum())
        dear = {t: float((self.tables[t] / mean * self.price).sum()) for t in self.units}
        parts: dict[int, int] = {}
        for t in sorted(dear, key=lambda t: (-dear[t], t)):
            parts[t] = 1
            if t not in self.fixed and self.rated.problem.split:
                least = math.ceil(dear[t] / max(GIANT * allowed, 1e-30))
                parts[t] = max(1, min(least, STRIPES))
        return parts

    def best(self) -> _State:
        """Search with as few parts as can be, then with more or fewer of the dearest tables."""
        problem, parts = self.rated.problem, self._parts()
        state = self._searched(parts)
        trials = CUT_WORK // (len(self.room) * len(parts)) if problem.split and parts else 0
        movable = [t for t in parts if t not in self.fixed][:CUT_TABLES]
        better = True
        while better and state.worst > CUT_ABOVE * self.level:
            better = False
            for t, change in itertools.product(movable, (1, -1, None)):
                count = 1 if change is None else parts[t] + change
                if trials <= 0 or not 1 <= count <= min(len(self.room), STRIPES):
                    continue
                if change is None and parts[t] < 3:
                    continue
                trials -= 1
                try:
                    found = self._searched(parts | {t: count})
                except PlanError:
                    continue
                if found.worst < state.worst * (1 - CUT_GAIN):
                    state, parts, better = found, parts | {t: count}, True
        return state

    def _load(self, item: _Item) -> Floats:
        whole = self.tables[item.table] - self._bags(item.table, 1.0)
        return whole * item.share + self._bags(item.table, item.share)

    def _searched(self, parts: Mapping[int, int]) -> _State:
        """Search for the best devices of all parts, and the best shares of the samples, in turn."""
        state = best = self._assigned(parts, self.samples)
        for _ in range(SHARINGS):
            levelled = self._levelled(state)
            if levelled.worst > state.worst * (1 - CUT_GAIN):
                break  # the samples were where they should be
            best = min(best, levelled, key=lambda each: each.worst)
            if len(self.room) * len(parts) > CUT_WORK:
                break  # that takes too long
            state = self._assigned(parts, levelled.samples)
            best = min(best, state, key=lambda each: each.worst)
        return best

    def _assigned(self, parts: Mapping[int, int], samples: Floats) -> _State:
        """Search, look what each device can do, and search again around the best found."""
        items = [
            _Item(t, STRIPES, tuple(range(i, STRIPES, count))) if count > 1 else _Item(t)
            for t, count in sorted(parts.items())
            for i in range(count)
        ]
        loads = np.array([self._load(item) for item in items]).reshape(-1, len(NAMES))
        devices = np.arange(len(self.room))
        curved, failures = CURVED, 0
        balance = Balance(
            loads=loads,
            room=self.room,
            used=self.held + self.side * samples[:, None],
            timed=TIMED,
            level=np.full(len(devices), self.level),
            centre=np.tile(self.centre, (len(devices), 1)),
            prices=np.tile(self.price, (len(devices), 1)),
            curved=curved * self.price * ~TIMED,
        )
        order = np.argsort(-(loads / self.room.mean(0) * self.price).sum(1), kind="stable")
        owner = greedy(balance, order)
        best: _State | None = None
        for _ in range(ROUNDS):
            owner = exchanged(balance, owner)
            try:
                state = self._state(items, owner, samples)
            except PlanError:
                state = None
            if state is not None and (best is None or state.worst < best.worst * (1 - BETTER)):
                best, curved, failures = state, curved / 2, 0
                sums = np.zeros_like(self.room)
                np.add.at(sums, owner, loads)
                balance = dataclasses.replace(
                    balance,
                    level=state.levels,
                    centre=balance.relative(sums, devices),
                    prices=np.array([each.prices for each in state.tiers]),
                )
            else:
                curved, failures = curved * 4, failures + 1
                owner = best.owner if best is not None else owner
                if failures >= FAILURES:
                    break
            balance = dataclasses.replace(balance, curved=curved * self.price * ~TIMED)
        if best is None:
            raise PlanError(PlanErrorKind.DRAM, "whole tables do not fit the devices")
        return best

    def _levelled(self, state: _State) -> _State:
        """Give samples from devices that have much to do to others."""
        slopes = np.array(
            [
                (each.prices * self.side[d] / self.room[d])[TIMED].sum()
                for d, each in enumerate(state.tiers)
            ]
        )
        found = self._state(state.items, state.owner, _shared(state, slopes, self.limit))
        return found if found.worst < state.worst else state

    def _state(self, items: list[_Item], owner: Ints, samples: Floats) -> _State:
        state = _State(items, owner, samples, (), np.zeros(0))
        tiers = [self.retiered(d, state) for d in range(len(self.room))]
        busy = np.divide(samples, self.limit, where=self.limit > 0, out=np.zeros_like(samples))
        levels = np.maximum([each.level for each in tiers], busy)
        return dataclasses.replace(state, tiers=tiers, levels=levels)

    def retiered(self, d: int, state: _State, *, level: float | None = None) -> Retiered:
        """Tiers of a device's tables, see :class:`~screc.plan.retier.Retier`."""
        shares = np.zeros(len(self.free))
        for i in np.flatnonzero(state.owner == d):
            item = state.items[int(i)]
            shares[item.table] += item.share
        key = (d, float(state.samples[d]), shares.tobytes())
        if level is None and key in self.known:
            return self.known[key]
        used = self.held[d] + self.side[d] * state.samples[d]
        for t in np.flatnonzero(shares):
            used = used + (self.tables[t] if t in self.fixed else self._bags(int(t), shares[t]))
        found = self.retier(shares * self.free, Room(self.room[d], used), level=level)
        if level is None:
            self.known[key] = found
        return found


def _row(loads: Mapping[str, float]) -> Floats:
    return np.array([loads.get(name, 0.0) for name in NAMES])


def _shared(state: _State, slopes: Floats, limit: Floats) -> Floats:
    """Shares of the samples that make the levels alike, if these rise by ``slopes``."""
    wide = np.maximum(slopes, 1e-9)
    low, high = 0.0, 4 * state.worst
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shares = np.clip(state.samples + (middle - state.levels) / wide, 0, limit * middle)
        low, high = (low, middle) if shares.sum() >= 1 else (middle, high)
    found: Floats = shares / shares.sum()
    return found
