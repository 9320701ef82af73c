"""The planner's MIP: the devices of a class together, at a fixed time per sample.

One function per family of constraints, each under a name of its own. Indices: ``k`` a class of
devices, ``p`` one of its patterns, ``j`` an interval of ranks (of a group of tables), ``s`` a tier,
``r`` a resource, ``t`` a table.

======================== =========================================================================
``devices[k, p]``        count of devices of class k with pattern p
``computed[k, p]``       share of the samples that they compute
``share[k, j, s]``       share of the interval's rows that class k has in tier s
``whole[t, s]``          1 if table t is replicated, in tier s
``held[t, s]``           devices that hold it then
``tt[k, t]``             1 if class k has table t's rows in TT form
``staging[k]``           1 if class k has any row on SSD
``ring[k]``              GiB of its staging rings
``over``                 how far anything is exceeded, relative; 0: there is a plan at this time
======================== =========================================================================

Every inequality is divided by a scale of its own, so that coefficients stay near 1.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.costs import Loads
from screc.plan.groups import Group, Interval
from screc.plan.problem import Problem, TableDemand, TtOption
from screc.tt.shape import choose_shape

GIB = float(1 << 30)

Tier = Literal["onchip", "tt", "dram", "ssd"]
TIERS: tuple[Tier, ...] = ("onchip", "tt", "dram", "ssd")
"""Fastest first."""

MARGIN = 2e-4
"""Share of a device's memory that is left free for whole rows and whole beats."""

OWN = ("port", "dram")
"""What a device without memory cores has for its samples alone, and not for lookups of others."""

PIN_SIZES = 64
"""Sizes of a TT form that are looked at for how many rows a prefix stands for."""

WHOLE: tuple[Tier, ...] = ("onchip", "dram")
"""Tiers of replicated tables."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """A problem as the model sees it: its intervals, and how far they may be trusted.

    ``intervals[g]`` are those of group ``g``, hottest first. With ``optimistic`` whatever whole
    devices and whole rows cost beyond the sums is left out, so that no plan does better. Of each
    memory core's room for rows on chip ``reserve`` bytes are left free for uneven stripes, and of
    each memory the share ``margin`` for whole rows and whole beats.
    """

    problem: Problem
    groups: Sequence[Group]
    intervals: Sequence[Sequence[Interval]]
    optimistic: bool = False
    reserve: float = 0.0
    margin: float = MARGIN

    @cached_property
    def flat(self) -> list[tuple[int, Interval]]:
        """Every interval with its group's number."""
        return [(g, part) for g, parts in enumerate(self.intervals) for part in parts]

    def demand(self, group: int) -> TableDemand:
        """What stands for the group's tables."""
        return self.groups[group].alike

    def ordered(self, group: int) -> bool:
        """Whether no row of a group is in a faster tier than a hotter one of it.

        Not so for the bound: where the lookups on chip bind, a hot row in DRAM may be better.
        """
        return len(self.problem.classes) == 1 and not self.optimistic

    def tiers(self, klass: int, group: int, interval: Interval) -> Iterator[Tier]:
        """Tiers that rows of an interval may be in."""
        demand, budget = self.demand(group), self.problem.classes[klass].budget
        start = int(self.groups[group].start[interval.first])
        forced = demand.tt is not None and demand.tt_only and start < demand.tt.last
        alone = len(self.groups[group].tables) == 1
        limit = demand.onchip_rows
        if demand.onchip and (limit is None or not alone or start < limit):
            if any(p.capacity["onchip_bytes"] for p in self._patterns(klass)):
                yield "onchip"
        if demand.tt is not None and start < demand.tt.last:
            if any(p.tt is not None for p in self._patterns(klass)):
                yield "tt"
        if demand.dram and not forced:
            yield "dram"
        if demand.ssd and budget.has_ssd and not forced:
            yield "ssd"

    def _patterns(self, klass: int) -> Sequence[Pattern]:
        return self.problem.classes[klass].patterns

    def loads(self, klass: int, group: int, interval: Interval, tier: Tier) -> Loads:
        """Loads of all rows of an interval in a tier of a class, exchange included."""
        problem, row = self.problem, self.groups[group].row
        budget = problem.classes[klass].budget
        found: Loads = defaultdict(float)

        def add(loads: Loads, factor: float) -> None:
            for name, value in loads.items():
                found[name] += value * factor

        add(costs.lookup_loads(budget, row, tier), interval.lookups)
        if tier == "ssd":
            add(costs.read_loads(budget), interval.reads)
            add(costs.staged_loads(budget, row), interval.distinct)
        if tier == "tt":
            pinned = not self.optimistic and self._pinned(group, interval)
            found["tt"] += interval.lookups * self.tt_cycles(klass, group, pinned=pinned)
            joules = costs.tt_joules(budget, self.tt_option(group), pinned=pinned)
            found["power"] += interval.lookups * joules
        if problem.exchange:
            # the least partials: lookups of a table, whole, on one device (concave: a chord)
            for number, lookups in self._owners(group, interval):
                table = problem.tables[number]
                bags = table.bags * lookups / max(table.rates.lookups, 1e-300)
                add(costs.partial_out(table, budget), bags)
        sizes = {"onchip": "onchip_bytes", "dram": "dram_bytes", "ssd": "ssd_bytes"}
        if tier in sizes:
            found[sizes[tier]] += interval.rows * row.stride
        return dict(found)

    def _owners(self, group: int, interval: Interval) -> Iterator[tuple[int, float]]:
        """Tables of an interval, by number, and their lookups in it."""
        each = self.groups[group]
        if len(each.tables) == 1:
            yield each.tables[0], interval.lookups
            return
        totals = each.lookups_by_table(interval)
        true = sum(totals.values())
        for number, lookups in totals.items():
            yield number, lookups * interval.lookups / true if true else 0.0

    def sample_rate(self, klass: int, number: int) -> float:
        """Samples per second that a device with a pattern computes.

        Without memory cores, weights, requests and partials come through a port of its own.
        """
        problem, pattern = self.problem, self._patterns(klass)[number]
        rate = pattern.capacity["samples"]
        if pattern.memory or not rate:
            return rate
        budget = problem.classes[klass].budget
        loads = costs.sample_loads(problem, budget, pattern.sample_beats)
        if problem.exchange:
            # where tables are replicated, all devices have memory cores
            for table in problem.tables:
                loads["dram"] += table.bags * costs.partial_in(table, budget)["dram"]
        return min(rate, *(pattern.capacity[r] / loads[r] for r in OWN if loads[r]))

    def saved_by_pins(self, klass: int, group: int, interval: Interval) -> Loads:
        """Loads that the bound's model saves if all of an interval's prefixes are pinned."""
        budget, option = self.problem.classes[klass].budget, self.tt_option(group)
        cycles, joules = (
            [each(pinned) for pinned in (False, True)]
            for each in (
                lambda pinned: self.tt_cycles(klass, group, pinned=pinned),
                lambda pinned: costs.tt_joules(budget, option, pinned=pinned),
            )
        )
        return {
            "tt": interval.lookups * (cycles[0] - cycles[1]),
            "power": interval.lookups * (joules[0] - joules[1]),
        }

    def most_pinned(self, group: int) -> float:
        """Rows of a table whose prefixes are pinned at most, whichever of its ranks are in TT form.

        Prefixes stand for more rows each where more rows are in TT form.
        """
        option = self.tt_option(group)
        dim, rank = self.demand(group).shape.dim, max(option.shape.ranks)
        sizes = {max(1, round(option.last * i / PIN_SIZES)) for i in range(1, PIN_SIZES + 1)}
        each = max(choose_shape(size, dim, rank).p[2] for size in sizes)
        return float(option.pins * max(each, option.shape.p[2]))

    def tt_cycles(self, klass: int, group: int, *, pinned: bool) -> float:
        """Cycles of a reconstructor's lane per row, the least that any pattern's takes."""
        option = self.tt_option(group)
        return min(
            costs.tt_cycles(p.tt, option, pinned=pinned)
            for p in self.problem.classes[klass].patterns
            if p.tt is not None
        )

    def tt_option(self, group: int) -> TtOption:
        """TT form of a group that has one."""
        option = self.demand(group).tt
        assert option is not None  # asked of groups with a TT form only
        return option

    def _pinned(self, group: int, interval: Interval) -> bool:
        option = self.tt_option(group)
        start = int(self.groups[group].start[interval.first])
        return start < option.pins * option.shape.p[2]


def build_model(
    pooled: Pooled, *, integral: bool = True, borders: bool = False
) -> pyo.ConcreteModel:
    """Build the whole model; ``m.T`` (s) and the objective are for the caller to set.

    Without ``integral`` counts of devices, and choices, may be fractions. With ``borders`` every
    interval is in one tier of one class: splits are at their borders alone.
    """
    m = pyo.ConcreteModel("screc")
    add_variables(m, pooled, integral=integral, borders=borders)
    add_terms(m, pooled)
    for add in FAMILIES:
        add(m, pooled)
    return m


def add_variables(
    m: pyo.ConcreteModel, pooled: Pooled, *, integral: bool, borders: bool = False
) -> None:
    """Declare sets and variables."""
    problem = pooled.problem
    classes = range(len(problem.classes))
    m.T = pyo.Param(mutable=True, initialize=1e-6)
    m.K = pyo.Set(initialize=classes)
    m.P = pyo.Set(
        initialize=[(k, p) for k in classes for p in range(len(problem.classes[k].patterns))],
        dimen=2,
    )
    m.J = pyo.Set(initialize=range(len(pooled.flat)))
    m.S = pyo.Set(
        initialize=[
            (k, j, s)
            for j, (g, part) in enumerate(pooled.flat)
            for k in classes
            for s in pooled.tiers(k, g, part)
        ],
        dimen=3,
    )
    whole = [
        (g, s)
        for g, group in enumerate(pooled.groups)
        if group.replicable
        for s in WHOLE
        if (pooled.demand(g).most_onchip >= pooled.demand(g).shape.rows if s == "onchip" else True)
        and getattr(pooled.demand(g), s)
    ]
    m.W = pyo.Set(initialize=whole, dimen=2)
    chosen = [
        (k, g)
        for g, group in enumerate(pooled.groups)
        if group.alike.tt is not None
        for k in classes
    ]
    m.C = pyo.Set(initialize=chosen, dimen=2)
    count, yes = (
        (pyo.NonNegativeIntegers, pyo.Binary)
        if integral
        else (
            pyo.NonNegativeReals,
            pyo.UnitInterval,
        )
    )
    m.devices = pyo.Var(m.P, domain=count, bounds=lambda m, k, p: (0, problem.classes[k].count))
    m.computed = pyo.Var(m.P, bounds=(0, 1))
    m.share = pyo.Var(m.S, domain=pyo.Binary if borders else pyo.UnitInterval)
    m.whole = pyo.Var(m.W, domain=pyo.UnitInterval if pooled.optimistic else yes)
    m.tt = pyo.Var(m.C, domain=yes)
    m.staging = pyo.Var(m.K, domain=yes)
    # which ranks' prefixes are pinned depends on what is on chip: free for the bound
    in_tt = [(k, j) for k, j, s in m.S if s == "tt"] if pooled.optimistic else []
    m.pinned = pyo.Var(pyo.Set(initialize=in_tt, dimen=2), domain=pyo.UnitInterval)
    m.ring = pyo.Var(m.K, domain=pyo.NonNegativeReals)
    m.over = pyo.Var(domain=pyo.NonNegativeReals)


def add_terms(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Collect, for every class and resource, the coefficients of its load."""
    problem = pooled.problem
    terms: dict[tuple[int, str], tuple[list[float], list[object]]] = defaultdict(lambda: ([], []))
    for k, j, s in m.S:
        group, interval = pooled.flat[j]
        for name, value in pooled.loads(k, group, interval, s).items():
            terms[k, name][0].append(value)
            terms[k, name][1].append(m.share[k, j, s])
    for k, j in m.pinned:
        group, interval = pooled.flat[j]
        for name, value in pooled.saved_by_pins(k, group, interval).items():
            terms[k, name][0].append(-value)
            terms[k, name][1].append(m.pinned[k, j])
    for g, s in m.W:  # of one class alone
        group = pooled.groups[g]
        interval = group.interval(0, len(group.rate))
        budget = problem.classes[0].budget
        for name, value in costs.lookup_loads(budget, group.row, s).items():
            terms[0, name][0].append(value * interval.lookups)
            terms[0, name][1].append(m.whole[g, s])
    for k, p in m.P:
        klass = problem.classes[k]
        pattern = klass.patterns[p]
        for name, value in costs.sample_loads(problem, klass.budget, pattern.sample_beats).items():
            if not pattern.memory and name in OWN:
                continue  # see Pooled.sample_rate
            terms[k, name][0].append(value)
            terms[k, name][1].append(m.computed[k, p])
    m.terms = dict(terms)


def add_device_count(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Sum over p of devices[k, p] <= devices of class k."""
    classes = pooled.problem.classes
    m.device_count = pyo.Constraint(
        m.K,
        rule=lambda m, k: (
            sum(m.devices[k, p] for p in range(len(classes[k].patterns))) <= classes[k].count
        ),
    )


def add_every_row(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Shares of an interval over classes and tiers, and of its replicated table, add up to 1."""
    places: dict[int, list[tuple[int, int, Tier]]] = defaultdict(list)
    for key in m.S:
        places[key[1]].append(key)

    def rule(m: pyo.ConcreteModel, j: int) -> object:
        whole = [m.whole[g, s] for g, s in m.W if g == pooled.flat[j][0]]
        if not (places[j] or whole):
            return m.over >= 1  # its rows may be nowhere
        return sum(m.share[key] for key in places[j]) + sum(whole) == 1

    m.every_row = pyo.Constraint(m.J, rule=rule)


def add_computed(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Every sample is computed: sum of computed = 1."""
    m.all_computed = pyo.Constraint(expr=sum(m.computed[key] for key in m.P) == 1)


def add_sample_time(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """computed[k, p] <= T × samples per second of p × devices[k, p]."""

    def rule(m: pyo.ConcreteModel, k: int, p: int) -> object:
        rate = pooled.sample_rate(k, p)
        if not rate:
            return m.computed[k, p] <= 0
        return m.computed[k, p] <= m.T * rate * m.devices[k, p] + m.over

    m.sample_time = pyo.Constraint(m.P, rule=rule)


def add_capacity(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Load of r on class k <= T × sum of capacity[p, r] × devices[k, p]."""
    classes = pooled.problem.classes

    def rule(m: pyo.ConcreteModel, k: int, r: str) -> object:
        if (k, r) not in m.terms:
            return pyo.Constraint.Skip
        factors, variables = m.terms[k, r]
        scale = max(factors, default=0.0)
        if not scale:
            return pyo.Constraint.Skip
        load = LinearExpression(
            linear_coefs=[f / scale for f in factors], linear_vars=variables, constant=0
        )
        offered = sum(
            p.capacity[r] / scale * m.devices[k, i]
            for i, p in enumerate(classes[k].patterns)
            if p.capacity[r] and (p.memory or r not in OWN)
        )
        extra = _partials_in(m, pooled, k, r)
        return load + extra / scale <= m.T * offered + m.over

    m.capacity = pyo.Constraint(m.K, costs.TIMES, rule=rule)


def _partials_in(m: pyo.ConcreteModel, pooled: Pooled, k: int, r: str) -> Any:
    """Load of bags that come in from the devices that hold rows of them.

    With one class they come to it, whoever computes. With several, each class takes its share of
    the samples of all bags: nothing is replicated then, so every bag goes out once.
    """
    problem = pooled.problem
    if not problem.exchange or r not in ("link_in", "dram", "power"):
        return 0.0
    budget = problem.classes[k].budget
    each = [table.bags * costs.partial_in(table, budget)[r] for table in problem.tables]
    total = sum(each)
    patterns = problem.classes[k].patterns
    mine = [p for p, each in enumerate(patterns) if each.memory or r not in OWN]
    taken = total * sum(m.computed[k, p] for p in mine)
    if len(problem.classes) > 1:
        return taken
    saved = sum(each[pooled.groups[g].tables[0]] * m.whole[g, s] for g, s in m.W)
    return (total if len(mine) == len(patterns) else taken) - saved


def add_bytes(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Bytes of rows, rings, streamed weights on class k <= sum of what its devices hold."""
    problem = pooled.problem

    def rule(m: pyo.ConcreteModel, k: int, r: str) -> object:
        klass = problem.classes[k]
        held = sum(
            (p.capacity[r] - _fixed_bytes(pooled, k, i, r)) / GIB * m.devices[k, i]
            for i, p in enumerate(klass.patterns)
            if p.capacity[r] and p.memory
        )
        factors, variables = m.terms.get((k, r), ([], []))
        rows = LinearExpression(
            linear_coefs=[f / GIB for f in factors], linear_vars=variables, constant=0
        )
        scale = max(p.capacity[r] for p in klass.patterns) / GIB
        if not scale:
            return pyo.Constraint.Skip
        ring = m.ring[k] if r == "dram_bytes" else 0.0
        if not factors and r != "dram_bytes":
            return pyo.Constraint.Skip
        return (rows + ring) / scale <= held / scale + m.over

    m.bytes = pyo.Constraint(m.K, costs.BYTES, rule=rule)


def _fixed_bytes(pooled: Pooled, k: int, p: int, r: str) -> float:
    """Bytes of a device that rows and rings cannot have: weights, alignment, what placing needs."""
    problem = pooled.problem
    pattern = problem.classes[k].patterns[p]
    fixed = pattern.weight_bytes if r == "dram_bytes" else 0.0
    if pooled.optimistic:
        return fixed
    fixed += pooled.margin * pattern.capacity[r]
    if r == "dram_bytes":
        fixed += costs.waste_bytes(problem, pattern.memory)
    elif r == "onchip_bytes":
        fixed += min(pooled.reserve * pattern.memory, pattern.capacity[r] / 2)
    return fixed


def add_copies(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Replicated tables fit each device: their bytes <= what every device in use holds.

    In the sums of bytes, held[t, s] >= devices in use - count × (1 - whole[t, s]) hold one each.
    Devices without memory cores can hold none: devices[p] <= count × (1 - copying) of them, with
    copying >= whole[t, s].
    """
    problem = pooled.problem
    if not m.W:
        return
    klass = problem.classes[0]

    def fits(m: pyo.ConcreteModel, p: int, s: str) -> object:
        r = "onchip_bytes" if s == "onchip" else "dram_bytes"
        pattern = klass.patterns[p]
        rows = [
            (pooled.demand(g).shape.rows * pooled.groups[g].row.stride, m.whole[g, t])
            for g, t in m.W
            if t == s
        ]
        need = sum(size * v for size, v in rows)
        most = sum(size for size, _ in rows)
        if not most or not pattern.memory:
            return pyo.Constraint.Skip
        room = pattern.capacity[r]
        # free where no device has the pattern
        return (need - room) / most <= 1 - m.devices[0, p] / klass.count + m.over

    m.copies = pyo.Constraint(range(len(klass.patterns)), WHOLE, rule=fits)
    bare = [p for p, pattern in enumerate(klass.patterns) if not pattern.memory]
    m.copying = pyo.Var(bounds=(0, 1))
    m.copying_any = pyo.Constraint(m.W, rule=lambda m, g, s: m.copying >= m.whole[g, s])
    m.copying_bare = pyo.Constraint(
        bare, rule=lambda m, p: m.devices[0, p] <= klass.count * (1 - m.copying)
    )
    # in the sums too: every device in use holds one
    m.held = pyo.Var(m.W, domain=pyo.NonNegativeReals)
    used = sum(m.devices[key] for key in m.P)
    m.held_copies = pyo.Constraint(
        m.W, rule=lambda m, g, s: m.held[g, s] >= used - klass.count * (1 - m.whole[g, s])
    )
    for g, s in m.W:
        r = "onchip_bytes" if s == "onchip" else "dram_bytes"
        factors, variables = m.terms.setdefault((0, r), ([], []))
        factors.append(float(pooled.demand(g).shape.rows * pooled.groups[g].row.stride))
        variables.append(m.held[g, s])


def add_asked(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """A table that must be replicated is: sum over s of whole[t, s] = 1."""
    asked = [
        g for g, group in enumerate(pooled.groups) if group.replicable and group.alike.replicate
    ]

    def rule(m: pyo.ConcreteModel, g: int) -> object:
        tiers = [m.whole[t, s] for t, s in m.W if t == g]
        return sum(tiers) == 1 if tiers else m.over >= 1

    m.asked = pyo.Constraint(asked, rule=rule)


def add_ring(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """ring[k] >= 2 blocks × (2 × expected beats + slack rows), once any row is on SSD."""
    problem = pooled.problem

    def rule(m: pyo.ConcreteModel, k: int) -> object:
        rows = [
            (costs.ring_bytes_per_row(problem, pooled.groups[g].row) * part.distinct, j)
            for j, (g, part) in enumerate(pooled.flat)
            if (k, j, "ssd") in m.S
        ]
        if not rows:
            return pyo.Constraint.Skip
        if pooled.optimistic:
            slack = problem.least_staging_slack / GIB
        else:
            slack = problem.classes[k].count * problem.staging_slack / GIB
        load = sum(size / GIB * m.share[k, j, "ssd"] for size, j in rows)
        return m.ring[k] >= load + slack * m.staging[k]

    m.ring_bytes = pyo.Constraint(m.K, rule=rule)


def add_staging(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """share[k, j, ssd] <= staging[k]: of the coldest interval where hotter ones are no slower."""
    last: dict[int, int] = {}
    for j, (g, _) in enumerate(pooled.flat):
        last[g if pooled.ordered(g) else -1 - j] = j
    m.staging_switch = pyo.Constraint(
        [(k, j) for k in m.K for j in last.values() if (k, j, "ssd") in m.S],
        rule=lambda m, k, j: m.share[k, j, "ssd"] <= m.staging[k],
    )


def add_hot_first(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Of one class: an interval's share of the fastest tiers is at least that of a colder one."""
    pairs = [
        (j, s)
        for j, (g, _) in enumerate(pooled.flat[:-1])
        if pooled.flat[j + 1][0] == g and pooled.ordered(g)
        for s in TIERS[:-1]
    ]

    def rule(m: pyo.ConcreteModel, j: int, s: Tier) -> object:
        upper = TIERS[: TIERS.index(s) + 1]
        hot = [m.share[0, j, t] for t in upper if (0, j, t) in m.S]
        cold = [m.share[0, j + 1, t] for t in upper if (0, j + 1, t) in m.S]
        if not cold or all((0, j, t) not in m.S for t in TIERS[TIERS.index(s) + 1 :]):
            return pyo.Constraint.Skip  # the hot ones are in no slower tier anyway
        return sum(hot) >= sum(cold)

    m.hot_first = pyo.Constraint(pairs, rule=rule)


def add_tt_choice(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """share[k, j, tt] <= tt[k, g]; losses of the tables in TT form stay below the limit."""
    problem = pooled.problem
    if not m.C:
        return
    m.tt_choice = pyo.Constraint(
        [(k, j) for k, j, s in m.S if s == "tt"],
        rule=lambda m, k, j: m.share[k, j, "tt"] <= m.tt[k, pooled.flat[j][0]],
    )
    if pooled.optimistic:
        m.tt_pinned = pyo.Constraint(
            list(m.pinned), rule=lambda m, k, j: m.pinned[k, j] <= m.share[k, j, "tt"]
        )
        m.tt_pins = pyo.Constraint(
            m.C,
            rule=lambda m, k, g: (
                sum(
                    pooled.flat[j][1].rows * m.pinned[i, j]
                    for i, j in m.pinned
                    if i == k and pooled.flat[j][0] == g
                )
                <= pooled.most_pinned(g)
            ),
        )
    if problem.max_loss is not None:
        losses = [(pooled.tt_option(g).loss, k, g) for k, g in m.C]
        scale = max(max(loss for loss, _, _ in losses), problem.max_loss, 1e-12)
        m.tt_loss = pyo.Constraint(
            expr=sum(loss / scale * m.tt[k, g] for loss, k, g in losses)
            <= problem.max_loss / scale + m.over
        )


def add_tt_words(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """Words of the chosen tables' TT cores <= those of the reconstructors, core by core."""
    problem = pooled.problem
    if not m.C:
        return

    def rule(m: pyo.ConcreteModel, k: int, core: int) -> object:
        patterns = problem.classes[k].patterns
        built = [p.tt for p in patterns if p.tt is not None]
        if not built:
            return pyo.Constraint.Skip
        names = ("core1_words", "core2_words", "core3_words")
        need = [
            (min(tt.core_words(pooled.tt_option(g).shape)[core] for tt in built), g)
            for kk, g in m.C
            if kk == k
        ]
        scale = max(sum(words for words, _ in need), 1)
        held = sum(
            getattr(p.tt, names[core]) / scale * m.devices[k, i]
            for i, p in enumerate(patterns)
            if p.tt is not None
        )
        return sum(words / scale * m.tt[k, g] for words, g in need) <= held + m.over

    m.tt_words = pyo.Constraint(m.K, range(3), rule=rule)


def add_latency(m: pyo.ConcreteModel, pooled: Pooled) -> None:
    """No pattern computes whose own latency exceeds the limit."""
    problem = pooled.problem
    if problem.max_latency is None:
        return
    slow = [(k, p) for k, p in m.P if problem.classes[k].patterns[p].latency > problem.max_latency]
    m.latency = pyo.Constraint(slow, rule=lambda m, k, p: m.computed[k, p] <= 0)


FAMILIES: tuple[Callable[[pyo.ConcreteModel, Pooled], None], ...] = (
    add_copies,
    add_asked,
    add_device_count,
    add_every_row,
    add_computed,
    add_sample_time,
    add_capacity,
    add_bytes,
    add_ring,
    add_staging,
    add_hot_first,
    add_tt_choice,
    add_tt_words,
    add_latency,
)
"""Every family of constraints; :func:`build_model` adds them in this order."""


def energy(m: pyo.ConcreteModel, pooled: Pooled, *, scale: float = 1.0) -> Any:
    """Joules per sample at ``m.T`` seconds per sample, times ``scale``, as an expression."""
    total: Any = 0.0
    for k in m.K:
        factors, variables = m.terms[k, "power"]
        total += LinearExpression(
            linear_coefs=[scale * f for f in factors], linear_vars=variables, constant=0.0
        )
        total += scale * _partials_in(m, pooled, k, "power")
    for k, p in m.P:
        # of a mutable parameter: a new time changes the objective that the solver has
        watts = pooled.problem.classes[k].budget.spec.static_watts
        total += scale * watts * m.T * m.devices[k, p]
    return total


def devices(m: pyo.ConcreteModel, pooled: Pooled) -> object:
    """Devices in use, as an expression."""
    return sum(m.devices[key] for key in m.P)
