"""Why there is no plan, in numbers, and what more of each resource would buy.

An amount is a figure of a class of devices, or a requirement. Without a plan, the pooled model is
solved with amounts that may be raised, for the least weighted sum of relative raises. What that
names is lowered one by one, in the true model with patterns of its own, as far as there still is a
plan: together the amounts suffice, and each of them is needed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyomo.environ as pyo

from screc.devices import all_devices
from screc.errors import Need, PlanError, PlanErrorKind
from screc.plan.budget import GIB, RESOURCES
from screc.plan.catalogue import RATES, frontier, lacks
from screc.plan.problem import Problem, TableDemand
from screc.plan.rebuild import rebuild
from screc.plan.schema import Plan
from screc.plan.solve import LONGEST, ROUNDS, SLACKS, _alone, _Model, _Search
from screc.plan.solver import Solver
from screc_hw.protocol import BEAT_BYTES

CLOSE = 1e-2
"""Relative distance from an amount that is known not to suffice, at most."""

REFINED = 3
"""Rounds of finer intervals at most, until a plan is taken not to exist."""

FASTER = (1.005, 1.1, 2.0, 10.0)
"""Times the shortest time per sample that are tried where a latency is limited."""

DIGITS = 5
"""Significant digits of an amount, rounded to the side that suffices."""

MOST_CLOCK = 1000.0
"""MHz: the highest target clock that a configuration may ask for."""

MOST_DEVICES = 64
"""Times as many devices as there are that are tried for a hint."""

EXTENDED = (1.1, 1.3, 1.6, 2.0, 3.0)
"""Factors of all logic for which patterns are enumerated that do not fit."""

TINY = 1e-3
"""Share of :data:`SSD_LIKE` that a device without an SSD has where one might help."""

SSD_LIKE = {"ssd_gib": 3576.0, "ssd_kiops": 400.0, "p2p_gbs": 3.0}
"""What a raise is relative to where there is none: those of a SmartSSD."""

DRAM_FIGURES = (
    "random_64_gbs",
    "random_128_gbs",
    "random_256_gbs",
    "random_512_gbs",
    "stream_gbs",
)
"""Raised together, by one factor; the first stands for all."""

WEIGHTS = {
    "dram_gib": 1.0,
    "ssd_gib": 1.0,
    "ssd_kiops": 1.0,
    "p2p_gbs": 1.0,
    "pcie_gbs": 1.0,
    "random_64_gbs": 1.5,
    **dict.fromkeys(RESOURCES, 2.0),
    "watts": 2.0,
    "rate": 3.0,
    "latency_ms": 3.0,
    "max_loss": 3.0,
    "clock_mhz": 4.0,
}
"""Cost of doubling an amount. A part with more memory is easier to get than a faster clock."""

RAISED_BY = {
    **dict.fromkeys(RATES, "clock_mhz"),
    "dram": "random_64_gbs",
    "iops": "ssd_kiops",
    "p2p": "p2p_gbs",
    "link_in": "pcie_gbs",
    "link_out": "pcie_gbs",
    "power": "watts",
    "dram_bytes": "dram_gib",
    "ssd_bytes": "ssd_gib",
}
"""The figure that a resource's capacity is proportional to; of the watts, those for work."""

KINDS = {
    "dram_gib": PlanErrorKind.DRAM,
    "ssd_gib": PlanErrorKind.SSD,
    "ssd_kiops": PlanErrorKind.SSD,
    "p2p_gbs": PlanErrorKind.SSD,
    "lut": PlanErrorKind.LUT,
    "ff": PlanErrorKind.FF,
    "dsp": PlanErrorKind.DSP,
    "bram36": PlanErrorKind.BRAM,
    "uram": PlanErrorKind.URAM,
    "watts": PlanErrorKind.POWER,
    "latency_ms": PlanErrorKind.LATENCY,
    "max_loss": PlanErrorKind.LOSS,
}

Key = tuple[int, str]
"""Number of a class, -1 for the plan, and a field."""

PLAN = -1

Raises = dict[Key, float]
"""Relative raises."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """A figure that may be raised: ``have``, and what a raise of 1 adds to it."""

    klass: int
    field: str
    have: float
    unit: float

    def value(self, by: float) -> float:
        """The amount, raised by ``by`` relative to its unit."""
        if self.field == "rate":
            return _digits(self.have / (1 + by), up=False)
        value = self.have + by * self.unit
        if self.field in RESOURCES:
            return float(math.ceil(value - 1e-6))
        return _digits(value, up=True) if by else self.have

    def at(self, value: float) -> float:
        """The raise that gives ``value``."""
        if self.field == "rate":
            return self.have / value - 1
        return (value - self.have) / self.unit


def _digits(value: float, *, up: bool) -> float:
    """Round to :data:`DIGITS` significant digits."""
    if value <= 0:
        return 0.0
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(value)))
    number = value * scale
    return (math.ceil(number - 1e-6) if up else math.floor(number + 1e-6)) / scale


def amounts(problem: Problem) -> dict[Key, Amount]:
    """Everything that might be raised."""
    found: dict[Key, Amount] = {}

    def add(klass: int, field: str, have: float, unit: float | None = None) -> None:
        if have > 0 or unit:
            found[klass, field] = Amount(klass, field, have, have if unit is None else unit)

    for k, each in enumerate(problem.classes):
        spec = each.budget.spec
        for field in ("dram_gib", "pcie_gbs", "random_64_gbs", "clock_mhz", *RESOURCES):
            add(k, field, float(getattr(spec, field)))
        add(k, "watts", spec.watts, each.budget.work_watts)
        for field, like in SSD_LIKE.items():
            have = getattr(spec, field)
            add(k, field, have or 0.0, have or like)
    if problem.rate is not None:
        add(PLAN, "rate", problem.rate)
    if problem.max_latency is not None:
        add(PLAN, "latency_ms", problem.max_latency * 1e3)
    if problem.max_loss is not None and any(table.tt for table in problem.tables):
        most = max(table.tt.loss for table in problem.tables if table.tt)
        add(PLAN, "max_loss", problem.max_loss, problem.max_loss or most)
    return found


def with_values(problem: Problem, values: Mapping[Key, float]) -> Problem:
    """Return the problem with amounts replaced.

    Raises
    ------
    PlanError
        If no pattern of cores fits a device then.
    """
    by_class: dict[int, dict[str, float]] = defaultdict(dict)
    for (k, field), value in values.items():
        by_class[k][field] = value
    for k, figures in by_class.items():
        if k == PLAN:
            continue
        first = figures.pop(DRAM_FIGURES[0], None)
        if first is not None:
            spec = problem.classes[k].budget.spec
            factor = first / getattr(spec, DRAM_FIGURES[0])
            figures |= {name: getattr(spec, name) * factor for name in DRAM_FIGURES}
        problem = rebuild(problem, k, count=None, **figures)
    plan = by_class.get(PLAN, {})
    changes: dict[str, float] = {}
    if "rate" in plan:
        changes["rate"] = plan["rate"]
    if "latency_ms" in plan:
        changes["max_latency"] = plan["latency_ms"] / 1e3
    if "max_loss" in plan:
        changes["max_loss"] = plan["max_loss"]
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def with_needs(problem: Problem, needs: Sequence[Need]) -> Problem:
    """Return the problem with the amounts that an error names."""
    kinds = [each.budget.kind for each in problem.classes]
    return with_values(
        problem,
        {
            (PLAN if each.resource == "plan" else kinds.index(each.resource), each.field): each.need
            for each in needs
        },
    )


def explain(problem: Problem, *, solver: str = "highs", alternatives: bool = True) -> PlanError:
    """Say what is missing: amounts that suffice together, and each of which is needed.

    The error is returned, not raised. ``alternatives``: also solve for other remedies, as hints.
    """
    return _Explainer(problem, solver).error(alternatives=alternatives)


def homeless(problem: Problem) -> list[TableDemand]:
    """Tables with ranks that may be in no tier of any class."""
    return [
        table
        for table in problem.tables
        if not any(_has_tier(problem, k, table) for k in range(len(problem.classes)))
    ]


def _has_tier(problem: Problem, klass: int, table: TableDemand) -> bool:
    """Whether the coldest rank of a table may be anywhere; hotter ones then may be too."""
    each = problem.classes[klass]
    if table.dram or (table.ssd and each.budget.has_ssd):
        exact = not (table.tt_only and table.tt is not None)
        if exact or any(p.tt for p in each.patterns):
            return True
    if table.most_onchip >= table.shape.rows:
        return any(p.capacity["onchip_bytes"] for p in each.patterns)
    return bool(
        table.tt is not None
        and table.tt.last >= table.shape.rows
        and any(p.tt for p in each.patterns)
    )


class _Explainer:
    """One problem's search for the amounts that are short."""

    def __init__(self, problem: Problem, solver: str) -> None:
        self.problem = problem
        self.name = solver
        self.kept = [
            _Search(each, Solver(solver), lambda text: None) for each in _variants(problem)
        ]
        self.amounts = amounts(problem)
        self.fastest: dict[int, float] = {}
        """Time per sample of each variant if it may answer however late."""

    # --- is there a plan? ---

    def _at(self, variant: int, problem: Problem) -> _Search:
        """The search of another problem, with the intervals found so far."""
        search = copy.copy(self.kept[variant])
        search.problem = problem
        search.solver = Solver(self.name)
        search.cuts = list(search.cuts)
        return search

    def fits(self, problem: Problem) -> bool:
        """Whether the pooled model has a solution at the required rate, with fine intervals."""
        return any(self._fits(i, each) for i, each in enumerate(_variants(problem)))

    def _fits(self, variant: int, problem: Problem) -> bool:
        if homeless(problem):
            return False
        seconds = _seconds(problem)
        for _ in range(REFINED):
            search = self._at(variant, problem)
            if search._found(search._model(), seconds):
                return True
            if search._refuted(search._model(integral=False, optimistic=True), seconds):
                return False  # however finely the intervals are cut
            if not search.approach(seconds):
                return False
            self.kept[variant].cuts = search.cuts
        return False

    def planned(self, problem: Problem) -> bool:
        """Whether a plan is placed that keeps the checker's rules."""
        return any(
            self._fits(i, each) and self._placed(i, each) is not None
            for i, each in enumerate(_variants(problem))
        )

    def _placed(self, variant: int, problem: Problem) -> Plan | None:
        """A plan that keeps all rules; the pooled model's time is cut until there is one."""
        search = self._at(variant, problem)
        model = search._model()
        for seconds in self._times(variant, problem):
            if not search._solve(model, seconds, "energy"):
                if problem.rate is None:
                    continue
                return None
            plan = search._placed(model, seconds)
            if plan is not None:
                return plan
            search.reserve *= 2
            model = search._model()
        return None

    def _times(self, variant: int, problem: Problem) -> list[float]:
        """Times per sample to try: with no rate, what is fast answers soon."""
        seconds = _seconds(problem)
        if problem.rate is not None:
            return [seconds * (1 - slack) for slack in SLACKS]
        slow = [seconds] * 3
        if problem.max_latency is None:
            return slow
        if variant not in self.fastest:
            free = dataclasses.replace(problem, max_latency=None)
            self.fastest[variant] = self._at(variant, free).relaxed()
        return [each for f in FASTER if (each := f * self.fastest[variant]) < seconds] + slow

    def _test(self, raises: Raises, holds: Callable[[Problem], bool]) -> bool:
        try:
            return holds(self.raised(raises))
        except PlanError:
            return False

    def raised(self, raises: Raises) -> Problem:
        """The problem with these raises."""
        return with_values(
            self.problem,
            {key: self.amounts[key].value(by) for key, by in raises.items() if by > 0},
        )

    # --- the amounts ---

    def least(self) -> Raises:
        """Raises that suffice together and are needed each; empty if none are needed."""
        if self.fits(self.problem):
            found: Raises = {}
        else:
            try:
                raises = self._elastic()
            except PlanError:  # more logic than any of the extended patterns has
                raises = {}
            found = self._polished(self._enough(raises), self.fits)
        return self._placeable(found)

    def _placeable(self, found: Raises) -> Raises:
        """Raises with which rows can be placed on single devices too, within all limits."""
        if self._test(found, self.planned):
            return found
        for raises in self._with_room(found):
            if self._test(raises, self.planned):
                return self._polished(raises, self.planned)
        return found

    def _with_room(self, found: Raises) -> Iterator[Raises]:
        """Larger raises to try: the figures first, then requirements that a real plan keeps."""
        rate, latency = (PLAN, "rate"), (PLAN, "latency_ms")
        if latency in self.amounts:
            # the pooled model knows a part of the latency only: take that of a real plan
            simple = {
                key: by for key, by in found.items() if key[1] not in (*RESOURCES, "clock_mhz")
            }
            for raises in (simple, found):
                plan = self._free(raises)
                if plan is not None:
                    slow = self.amounts[latency].at(plan.latency * 1e3)
                    for more in (1.001, 1.1, 2.0):
                        yield raises | {latency: (1 + slow) * more - 1}
        seconds = _seconds(self.raised(found))
        plan = self._free(found)
        if plan is None:  # rows do not fit the devices one by one
            room = found or {key: 0.0 for key in self.amounts if key[1] == "dram_gib"}
            for step in (0.005, 0.02, 0.1, 0.5, 2.0):
                yield {key: self._within(key, by + step * (1 + by)) for key, by in room.items()}
            return
        if rate not in self.amounts:
            return
        late = plan.seconds / seconds
        timed = {key: by for key, by in found.items() if not key[1].endswith("_gib")}
        if set(timed) - {rate, latency}:
            for more in (1.002, 1.05, 1.2):
                yield found | {
                    key: self._within(key, (1 + by) * late * more - 1) for key, by in timed.items()
                }
        own, slow = found.get(rate, 0.0), 0.0
        if latency in self.amounts:
            slow = self.amounts[latency].at(plan.latency * 1e3)
        for more in (1.001, 1.02, 1.1, 1.3, 2.0, 5.0):
            slower = found | {rate: (1 + own) * late * more - 1}
            yield slower
            if slow > 0:
                yield slower | {latency: (1 + slow) * more - 1}

    def _free(self, raises: Raises) -> Plan | None:
        """A plan for the required rate, but held to no rate and latency."""
        problem = dataclasses.replace(self.raised(raises), max_latency=None)
        free = dataclasses.replace(problem, rate=None, objective="throughput")
        seconds = _seconds(problem)
        for i, each in enumerate(_variants(free)):
            search = self._at(i, each)
            model = search._model()
            if search._solve(model, seconds, "energy"):
                plan = search._placed(model, seconds)
                if plan is not None:
                    return plan
        return None

    def _enough(self, raises: Raises) -> Raises:
        """Raise what the elastic model names until there is a solution, then all if need be."""
        for factor in (1.0, 1.003, 1.02, 1.1, 1.5, 3.0, 10.0):
            more = {key: self._within(key, by * factor) for key, by in raises.items()}
            if self._test(more, self.fits):
                return more
        for factor in (0.1, 1.0, 10.0, 100.0, 1e3):
            more = {
                key: self._within(key, max(raises.get(key, 0.0), factor)) for key in self._allowed()
            }
            if self._test(more, self.fits):
                return more
        raise PlanError(
            PlanErrorKind.TIER,
            "no amount of any resource is known to make a plan possible",
            ["fewer pins in [plan.cores] and [[plan.table]]"],
        )

    def _allowed(self) -> list[Key]:
        """Amounts that may be raised; no SSD where none is, unless rows can be nowhere else."""
        unlock = bool(self._stranded())
        return [
            (k, field)
            for k, field in self.amounts
            if field not in SSD_LIKE or unlock or self.problem.classes[k].budget.has_ssd
        ]

    def _stranded(self) -> list[TableDemand]:
        """Tables that only an SSD could hold, where no device has one that can be used."""
        if any(each.budget.has_ssd for each in self.problem.classes):
            return []
        return [table for table in self.problem.tables if table.ssd and not table.dram]

    def _within(self, key: Key, by: float) -> float:
        """Keep the clock below what may be asked for."""
        if key[1] != "clock_mhz":
            return by
        return min(by, max(0.0, MOST_CLOCK / self.amounts[key].have - 1))

    def _polished(self, raises: Raises, holds: Callable[[Problem], bool]) -> Raises:
        """Lower one raise after the other as far as ``holds`` does."""
        found = {key: by for key, by in raises.items() if by > 1e-6}
        # what costs most, and of that what matters least, first
        order = sorted(found, key=lambda key: (-WEIGHTS[key[1]], found[key]))
        for key in order:
            rest = {other: by for other, by in found.items() if other != key}
            if self._test(rest, holds):
                found = rest
                continue
            found[key] = self._lowest(key, found, holds)
        return found

    def _lowest(self, key: Key, raises: Raises, holds: Callable[[Problem], bool]) -> float:
        """The least raise of ``key`` that suffices beside the others; 0 does not."""
        amount = self.amounts[key]
        low, high = amount.have, amount.value(raises[key])
        near = amount.at(high * (1.01 if key[1] == "rate" else 0.99))
        if near > 0 and not self._test(raises | {key: near}, holds):
            low = amount.value(near)
        while not _is_close(amount, low, high):
            middle = math.sqrt(low * high) if low else high / 16
            if amount.field in RESOURCES:
                middle = float(round(middle))
            trial = amount.at(middle)
            if self._test(raises | {key: trial}, holds):
                high = amount.value(trial)
            else:
                low = middle
        return amount.at(high)

    # --- in words ---

    def error(self, *, alternatives: bool) -> PlanError:
        """The amounts that are short, and what else would help."""
        try:
            raises = self.least()
        except PlanError as error:
            return error
        if not raises:
            return PlanError(
                PlanErrorKind.SOLVER,
                "no amount is short, but no plan was found",
                ["a rate that is a few percent lower", "one more device", "plan.split = true"],
            )
        needs = [self._need(key, by) for key, by in sorted(raises.items())]
        scarcest = max(raises, key=lambda key: WEIGHTS[key[1]] * raises[key])
        kind = KINDS.get(scarcest[1], PlanErrorKind.RATE)
        if kind is PlanErrorKind.RATE and self.problem.rate is None:
            kind = PlanErrorKind.LATENCY
        return PlanError(
            kind,
            "; ".join(_describe(need) for need in needs) + (" (together)" if needs[1:] else ""),
            [
                _options(self, raises),
                *_devices(self.problem, needs),
                *_formats(self.problem, needs),
                *_tiers(self.problem),
                *(self._alternatives(raises) if alternatives else ()),
            ],
            needs,
        )

    def _alternatives(self, raises: Raises) -> Iterator[str]:
        """Other remedies, each alone, solved for."""
        rate = (PLAN, "rate")
        if rate in self.amounts and set(raises) != {rate}:
            found = self._alone([rate])
            if found is not None:
                served = self.amounts[rate].value(found[rate])
                yield f"or what these devices serve: --set plan.rate={served:.10g}"
        for k, each in enumerate(self.problem.classes):
            unused = not each.budget.has_ssd and (k, "ssd_kiops") not in raises
            if unused and any(table.ssd for table in self.problem.tables):
                yield from self._with_ssd(k)
        if not all(k == PLAN for k, _ in raises):
            yield from self._more_devices()

    def _alone(self, keys: Sequence[Key]) -> Raises | None:
        """The least raise of these amounts alone; None where they do not do."""
        most = dict.fromkeys(keys, 1e3)
        return self._polished(most, self.fits) if self._test(most, self.fits) else None

    def _with_ssd(self, klass: int) -> Iterator[str]:
        """Whether an SSD of known speed would do, and how fast it must be."""
        spec = self.problem.classes[klass].budget.spec
        values = {(klass, n): getattr(spec, n) or like for n, like in SSD_LIKE.items()}
        kiops = (klass, "ssd_kiops")
        trial = with_values(self.problem, values)
        if not self._keeps(trial):
            return
        what = "its SSD" if spec.has_ssd else f"an SSD of {values[klass, 'ssd_gib']:,.0f} GiB"
        if self.problem.rate is None:
            yield f"or rows on {what}: set device.{klass}.ssd_kiops to what fio measures"
            return
        low, high = 0.0, values[kiops]
        while high > max(low * 1.02, 1e-3):
            middle = math.sqrt(low * high) if low else high / 16
            if self._keeps(with_values(self.problem, values | {kiops: middle})):
                high = middle
            else:
                low = middle
        high = _digits(high, up=True)
        yield f"or rows on {what}, of at least: --set device.{klass}.ssd_kiops={high:.10g}"

    def _keeps(self, problem: Problem) -> bool:
        """Whether a problem with other tiers, or another count of devices, has a solution."""
        return _Explainer(problem, self.name).fits(problem)

    def _more_devices(self) -> Iterator[str]:
        """The fewest devices of one class that would do."""
        for k, each in enumerate(self.problem.classes):

            def enough(count: int, klass: int = k) -> bool:
                try:
                    return self._keeps(rebuild(self.problem, klass, count=count))
                except PlanError:
                    return False

            low, high = each.count, 2 * each.count
            while high <= MOST_DEVICES * each.count and not enough(high):
                low, high = high, 2 * high
            if high > MOST_DEVICES * each.count:
                continue
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if enough(middle) else (middle, high)
            yield f"or {high} {each.budget.kind}: --set device.{k}.count={high}"

    def _need(self, key: Key, by: float) -> Need:
        amount = self.amounts[key]
        resource = "plan" if key[0] == PLAN else self.problem.classes[key[0]].budget.kind
        return Need(resource, key[1], amount.have or None, amount.value(by))

    # --- the elastic model ---

    def _elastic(self) -> Raises:
        """Least weighted sum of relative raises, by the pooled model.

        Raises
        ------
        PlanError
            If no raises do.
        """
        problem, own = self._extended()
        error: PlanError | None = None
        found: list[Raises] = []
        for i, each in enumerate(_variants(problem)):
            if i and len(problem.classes) > 1:
                break  # a class alone has other numbers
            try:
                found.append(self._elastic_of(i, each, own))
            except PlanError as refused:
                error = refused
        if error is not None and not found:
            raise error
        return min(found, key=lambda raises: sum(WEIGHTS[k[1]] * by for k, by in raises.items()))

    def _elastic_of(self, variant: int, problem: Problem, own: Sequence[Collection[str]]) -> Raises:
        """The same of one variant; exact for the devices that are chosen."""
        allowed = self._allowed()
        search = self._at(variant, problem)
        first = _Elastic(search._model(), self.amounts, allowed, own)
        raises = first.solve(Solver(self.name))
        for _ in range(ROUNDS):
            fixed = _Elastic(search._model(), self.amounts, allowed, own, first.devices())
            try:
                raises = fixed.solve(Solver(self.name))
            except PlanError:  # the devices chosen do not do alone: the first guess is as good
                break
            if search._refine(fixed.model):
                break
            self.kept[variant].cuts = search.cuts
        return raises

    def _extended(self) -> tuple[Problem, list[set[str]]]:
        """The problem with patterns that do not fit beside its own, and its own."""
        problem = self.problem
        unlock = bool(self._stranded())
        classes, own = [], []
        timed = problem.rate or problem.max_latency or len(homeless(problem)) or unlock
        for k, each in enumerate(problem.classes):
            tried = problem
            missing: dict[str, float | None] = {
                name: TINY * like
                for name, like in SSD_LIKE.items()
                if unlock and not getattr(each.budget.spec, name)
            }
            if missing:
                tried = rebuild(problem, k, count=None, **missing)
            base = tried.classes[k]
            patterns = {p.name: p for p in base.patterns}
            names = set(patterns)
            spec = base.budget.spec
            for factor in EXTENDED if timed else ():
                larger = rebuild(
                    tried, k, **{name: getattr(spec, name) * factor for name in RESOURCES}
                ).classes[k]
                patterns = {p.name: p for p in larger.patterns} | patterns
            every = tuple(patterns.values())
            slrs = len(base.budget.slr_limits)
            kept = {every[i].name for i in frontier(every, used=True, slrs=slrs)} | names
            every = tuple(p for p in every if p.name in kept)
            classes.append(dataclasses.replace(base, patterns=every))
            own.append(names)
        return dataclasses.replace(problem, classes=tuple(classes)), own


def _is_close(amount: Amount, low: float, high: float) -> bool:
    if amount.field in RESOURCES and high - low <= 1:
        return True
    if not low:
        return high < 1e-9
    return abs(high / low - 1) <= CLOSE * 1.02


def _variants(problem: Problem) -> list[Problem]:
    """All devices, and one of each class alone: it exchanges nothing."""
    return [problem, *_alone(problem)]


def _seconds(problem: Problem) -> float:
    """Longest time per sample that will do."""
    return LONGEST if problem.rate is None else 1 / problem.rate


class _Elastic:
    """The pooled model with amounts that may be raised, for the least weighted sum of raises.

    Raised capacity is that of all devices of the class, by the pattern that has most of it; with
    ``devices`` given it is exact.
    """

    def __init__(
        self,
        model: _Model,
        amounts: Mapping[Key, Amount],
        allowed: Sequence[Key],
        own: Sequence[Collection[str]],
        devices: Mapping[tuple[int, int], float] | None = None,
    ) -> None:
        self.model = model
        self.amounts = amounts
        self.problem = model.pooled.problem
        self.own = own
        m = model.m
        self.seconds = _seconds(self.problem)
        m.T = self.seconds
        if devices is not None:
            for place, value in devices.items():
                m.devices[place].fix(value)
        m.raised = pyo.Var(allowed, domain=pyo.NonNegativeReals)
        for key in allowed:
            if key[1] == "clock_mhz":
                m.raised[key].setub(max(0.0, MOST_CLOCK / self.amounts[key].have - 1))
        self.allowed = set(allowed)
        self._capacities(devices)
        self._samples(devices)
        self._latency()
        self._loss()
        self._logic()
        m.goal = pyo.Objective(expr=sum(WEIGHTS[key[1]] * m.raised[key] for key in allowed))

    def solve(self, solver: Solver) -> Raises:
        """Return the least raises.

        Raises
        ------
        PlanError
            If no raises do.
        """
        m = self.model.m
        if not solver.solve(m, gap=1e-2).feasible:
            raise PlanError(
                PlanErrorKind.TIER,
                "rows or samples have no place, whatever is raised",
                ["fewer pins in [plan.cores] and [[plan.table]]"],
            )
        return {key: float(m.raised[key].value or 0.0) for key in sorted(self.allowed)}

    def devices(self) -> dict[tuple[int, int], float]:
        """Devices of each pattern, whole."""
        m = self.model.m
        return {key: float(round(m.devices[key].value or 0.0)) for key in m.P}

    def _raised(self, klass: int, field: str) -> list[Any]:
        """The raise of a figure and that of the requirement that eases it."""
        m = self.model.m
        return [m.raised[key] for key in ((klass, field), (PLAN, "rate")) if key in self.allowed]

    def _own_raise(self, klass: int, field: str) -> list[Any]:
        key = (klass, field)
        return [self.model.m.raised[key]] if key in self.allowed else []

    def _per_raise(self, klass: int, field: str) -> float:
        """Raise of capacity, relative to what the model's devices have, of a raise of 1."""
        have = getattr(self.problem.classes[klass].budget.spec, field)
        return self.amounts[klass, field].unit / have if have else 0.0

    def _offered(
        self, klass: int, resource: str, devices: Mapping[tuple[int, int], float] | None
    ) -> float:
        """What all devices of a class have of a resource."""
        each = self.problem.classes[klass]
        have = [
            p.capacity[resource] if p.memory or resource in ("link_in", "link_out") else 0.0
            for p in each.patterns
        ]
        if devices is None:
            return each.count * max(have)
        return sum(value * devices[klass, i] for i, value in enumerate(have))

    def _capacities(self, devices: Mapping[tuple[int, int], float] | None) -> None:
        m = self.model.m
        for index, timed in ((m.capacity, True), (m.bytes, False)):
            for k, r in list(index):
                if r not in RAISED_BY:
                    continue
                each, field = self.problem.classes[k], RAISED_BY[r]
                offered = self._offered(k, r, devices)
                if timed:
                    unit = self.seconds * offered / max(m.terms[k, r][0])
                    terms = self._raised(k, field)
                else:
                    unit = offered / max(p.capacity[r] for p in each.patterns)
                    terms = self._own_raise(k, field)
                if not unit or not terms:
                    continue
                per = self._per_raise(k, field)
                more = per * terms[0] + sum(terms[1:]) if (k, field) in self.allowed else terms[0]
                body = index[k, r].body - unit * more
                index[k, r].set_value(body <= pyo.value(index[k, r].upper))

    def _samples(self, devices: Mapping[tuple[int, int], float] | None) -> None:
        """Time that devices have more of, by pattern; of a class all of it is its raise."""
        m = self.model.m
        m.more = pyo.Var(m.P, domain=pyo.NonNegativeReals)
        m.more_sum = pyo.ConstraintList()
        for k, each in enumerate(self.problem.classes):
            easier = sum(self._raised(k, "clock_mhz"))
            for i in range(len(each.patterns)):
                rate = self.model.pooled.sample_rate(k, i)
                if not rate:
                    continue
                row = m.sample_time[k, i]
                body = row.body - self.seconds * rate * m.more[k, i]
                row.set_value(body <= pyo.value(row.upper))
                if devices is not None:
                    m.more_sum.add(m.more[k, i] <= devices[k, i] * easier)
            if devices is None:
                m.more_sum.add(
                    sum(m.more[k, i] for i in range(len(each.patterns))) <= each.count * easier
                )

    def _latency(self) -> None:
        """A slow pattern may compute once the clock, or the limit, is raised as far."""
        m, limit = self.model.m, self.problem.max_latency
        if limit is None:
            return
        m.quick = pyo.Var(list(m.latency), domain=pyo.Binary)
        m.quick_rules = pyo.ConstraintList()
        for k, i in list(m.latency):
            over = self.problem.classes[k].patterns[i].latency / limit - 1
            terms = [
                m.raised[key]
                for key in ((k, "clock_mhz"), (PLAN, "latency_ms"))
                if key in self.allowed
            ]
            m.latency[k, i].set_value(m.computed[k, i] <= m.quick[k, i])
            m.quick_rules.add(sum(terms) >= over * m.quick[k, i])

    def _loss(self) -> None:
        m, key = self.model.m, (PLAN, "max_loss")
        if not hasattr(m, "tt_loss") or key not in self.allowed:
            return
        losses = [table.tt.loss for table in self.problem.tables if table.tt is not None]
        limit = self.problem.max_loss or 0.0
        scale = max(*losses, limit, 1e-12)
        body = m.tt_loss.body - self.amounts[key].unit / scale * m.raised[key]
        m.tt_loss.set_value(body <= pyo.value(m.tt_loss.upper))

    def _logic(self) -> None:
        """A pattern that does not fit may be used once all logic that it lacks is raised."""
        m = self.model.m
        foreign = [
            (k, i) for k, i in m.P if self.problem.classes[k].patterns[i].name not in self.own[k]
        ]
        if not foreign:
            return
        m.larger = pyo.Var(foreign, domain=pyo.Binary)
        m.larger_rules = pyo.ConstraintList()
        for k, i in foreign:
            each = self.problem.classes[k]
            p, usable = each.patterns[i], each.budget.usable
            m.larger_rules.add(m.devices[k, i] <= each.count * m.larger[k, i])
            for name, figure in lacks(p, each.budget).items():
                if (k, name) not in self.allowed:
                    m.larger_rules.add(m.larger[k, i] <= 0)
                    continue
                over = figure / usable[name] - 1 if usable[name] else 1e3
                m.larger_rules.add(m.raised[k, name] >= over * m.larger[k, i])


def _describe(need: Need) -> str:
    have = "none" if need.have is None else f"{need.have:.5g}"
    return f"{need.field} of {need.resource}: have {have}, need {need.need:.5g}"


def _options(explainer: _Explainer, raises: Raises) -> str:
    """The ``--set`` options that give the amounts."""
    words = []
    for (k, field), by in sorted(raises.items()):
        value = explainer.amounts[k, field].value(by)
        if k == PLAN:
            words.append(f"--set plan.{field}={value:.10g}")
        elif field == DRAM_FIGURES[0]:
            spec = explainer.problem.classes[k].budget.spec
            factor = value / getattr(spec, field)
            words += [
                f"--set device.{k}.{name}={_digits(getattr(spec, name) * factor, up=True):.10g}"
                for name in DRAM_FIGURES
            ]
        else:
            words.append(f"--set device.{k}.{field}={value:.10g}")
    return "to see what would be: " + " ".join(words)


def _devices(problem: Problem, needs: Sequence[Need]) -> list[str]:
    """Kinds that have as much as is needed of everything."""
    asked = [need for need in needs if need.resource != "plan"]
    owners = {need.resource for need in asked}
    if len(owners) != 1:
        return []
    enough = [
        spec.kind
        for spec in all_devices()
        if spec.kind not in owners
        and all((getattr(spec, need.field) or 0.0) >= need.need for need in asked)
    ]
    fields = " and ".join(need.field for need in asked)
    return [f"kinds with as much {fields}: {', '.join(enough)}"] if enough else []


def _formats(problem: Problem, needs: Sequence[Need]) -> list[str]:
    """What rows of four bits would save, where there is no room."""
    if not any(need.field.endswith("_gib") for need in needs):
        return []
    saved = 0
    for table in problem.tables:
        small = {"int8": "int4", "int8r": "int4r"}.get(table.shape.format)
        if small is not None:
            shape = dataclasses.replace(table.shape, format=small)
            saved += table.shape.rows * (table.stride - shape.stride_bytes(BEAT_BYTES))
    return [f"rows in int4 take {saved / GIB:.3g} GiB less than in int8"] if saved > 0 else []


def _tiers(problem: Problem) -> list[str]:
    """Tables that may not be in DRAM or on SSD."""
    bound = [t.shape.name for t in problem.tables if not (t.dram and t.ssd)]
    if not bound:
        return []
    names = ", ".join(bound[:5]) + (", ..." if bound[5:] else "")
    return [f"more tiers in [[plan.table]]: these may not be in both DRAM and SSD: {names}"]
