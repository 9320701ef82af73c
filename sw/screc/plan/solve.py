"""Finds a plan: bisection over the time per sample, intervals refined, placement, proven bound."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo

from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan import pool
from screc.plan.catalogue import Pattern, uneven_beats
from screc.plan.check import Checked, Rule, measure
from screc.plan.decision import SPLIT, decide
from screc.plan.groups import Group, Interval, Ints, make_groups
from screc.plan.place import place
from screc.plan.pool import Pooled, Tier, build_model
from screc.plan.problem import Problem
from screc.plan.schema import Plan
from screc.plan.solver import Solver
from screc.plan.stamp import stamped
from screc_hw.protocol import BEAT_BYTES

Progress = Callable[[str], None]
"""Told in a few words what is being done."""

LP_TOLERANCE = 1e-4
MIP_TOLERANCE = 5e-4
"""Relative width at which a bisection ends."""

LONGEST = 10.0
"""Seconds per sample: no plan is looked for that is slower."""

MICRO = 1e6
"""Energies are in microjoules in the model, so that its costs are near 1."""

RELAXED_ROUNDS, ROUNDS = 2, 5
"""Refinements of the intervals at most, of the relaxed model and of the true one; two are usual."""

SLACKS = (0.0, 0.003, 0.01, 0.02, 0.035, 0.06, 0.1)
"""Shares of a required time that are kept free, in turn, until a placement keeps it."""

FASTER = 0.7
"""Time per sample ÷ the one before, while a plan's latency is too long."""

EXACT = 1e-8
"""Relative tolerance of :func:`least_value`."""

STEP_LIMIT = 6.0
"""Seconds that one solve may take: undecided, a time counts as too short for a plan, and not as
proven so for the bound."""

BOUND_LIMIT = 90.0
"""Seconds for the bound of an energy or of a count of devices; what is proven by then counts."""

BOUND_TOLERANCE = 1e-5
"""Relative: how far the solver's tolerances may carry a bound above a plan."""

ENERGY_GAP, ANY_GAP = 1e-2, 1e9
"""Relative gaps: of the least energy at a time per sample, and of any solution."""


@dataclasses.dataclass
class _Model:
    """A model in the solver, with the intervals it was made of."""

    pooled: Pooled
    m: pyo.ConcreteModel
    objective: str | None = None

    @classmethod
    def make(
        cls,
        problem: Problem,
        groups: Sequence[Group],
        cuts: Sequence[Ints],
        *,
        integral: bool = True,
        optimistic: bool = False,
        reserve: float = 0.0,
        margin: float = pool.MARGIN,
        borders: bool = False,
    ) -> _Model:
        intervals: list[list[Interval]] = []
        for group, edges in zip(groups, cuts, strict=True):
            parts: list[Interval] = []
            for first, last in itertools.pairwise(edges):
                if optimistic:
                    parts += group.spread(int(first), int(last))
                else:
                    parts.append(group.interval(int(first), int(last)))
            intervals.append(parts)
        pooled = Pooled(problem, groups, intervals, optimistic, reserve, margin)
        m = build_model(pooled, integral=integral, borders=borders)
        m.over.fix(0.0)
        return cls(pooled, m)

    def aim(self, seconds: float, objective: str) -> None:
        """Set the time per sample and what is least at it."""
        self.m.T = seconds
        if objective == self.objective:
            return
        if self.objective is not None:
            self.m.del_component(self.m.goal)
        self.objective = objective
        expression = {
            "energy": lambda: pool.energy(self.m, self.pooled, scale=MICRO),
            "devices": lambda: pool.devices(self.m, self.pooled),
        }[objective]()
        self.m.goal = pyo.Objective(expr=expression)


def solve(
    problem: Problem,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    progress: Progress = lambda text: None,
    explained: bool = True,
) -> Plan:
    """Find a plan that is at most ``problem.gap`` from a proven bound, place it and check it.

    Raises
    ------
    PlanError
        If there is none: by :mod:`screc.plan.explain`, if it is to be ``explained``, which takes
        longer than to find that out; or if time ran out.
    """
    started = time.perf_counter()
    chosen = Solver(solver, time_limit)
    search = _Search(problem, chosen, progress, explained=explained)
    several = found = _tried(search)
    bounds = []
    for alone in _alone(problem):
        progress("one device")
        one = _Search(alone, chosen, lambda text: None, explained=False)
        bound = one.least()
        if bound is None:
            continue
        if isinstance(found, PlanError) or bound < found.value:
            plan = _tried(one)
            if isinstance(plan, Plan):
                bound = plan.bound
                if isinstance(found, PlanError) or plan.value < found.value:
                    found = plan
        bounds.append(bound)
    if isinstance(found, PlanError):
        raise found
    # without a placement on several devices there may be a plan that was not found all the same
    least = several.bound if isinstance(several, Plan) else search.least()
    # a plan of several devices that uses one exchanges nothing: its bound is that of one
    bound = _proven(min(bounds if least is None else [least, *bounds]), found.value)
    return found.model_copy(
        update={
            "bound": bound,
            "gap": abs(found.value - bound) / bound,
            "solve_seconds": time.perf_counter() - started,
        }
    )


def unproven(problem: Problem, *, time_limit: float) -> Plan:
    """Find a plan as :func:`solve` does, but in ``time_limit`` seconds and without a bound.

    What was placed when time ran out is the plan; its bound and gap say nothing.

    Raises
    ------
    PlanError
        If none was found.
    """
    solver = Solver("highs", time_limit)
    best: Plan | PlanError | None = None
    for each in (problem, *_alone(problem)):
        search = _Search(each, solver, lambda text: None, explained=False, proven=False)
        if isinstance(best, Plan) and not search.may_beat(best.value):
            continue
        found = _tried(search)
        if best is None:
            best = found
        elif isinstance(found, Plan):
            best = (
                min(found, best, key=lambda plan: plan.value) if isinstance(best, Plan) else found
            )
    if not isinstance(best, Plan):
        assert best is not None  # the problem itself was tried
        raise best
    return best


def _tried(search: _Search) -> Plan | PlanError:
    """Return the search's plan, or why there is none."""
    try:
        return search.fastest() if search.problem.objective == "throughput" else search.at_rate()
    except PlanError as error:
        return error


def relaxed_value(
    problem: Problem, *, solver: str = "highs", time_limit: float | None = None
) -> float:
    """Least value if devices could be divided, without placing anything; inf where there is none.

    Cheap, and near what :func:`solve` finds where problems are alike: to choose between them.

    Raises
    ------
    PlanError
        If time ran out.
    """
    return _Search(problem, Solver(solver, time_limit), lambda text: None).relaxed()


def least_value(
    problem: Problem, ranks: Sequence[Ints], *, solver: str = "highs", borders: bool = True
) -> float:
    """Least value of the pooled model on given intervals; inf where there is no solution.

    Nothing is placed, and no memory kept free for it. What an enumeration can be compared with.

    Parameters
    ----------
    ranks
        Of every table: where its intervals begin and end, from 0 to its rows; some of its curve's
        edges.
    borders
        Whether each interval must be in one tier of one class; else they may be split.
    """
    exact = Solver(solver, tolerance=EXACT)
    best = math.inf
    for each in (problem, *_alone(problem)):
        groups = make_groups(each, merge=False)
        cuts = [np.searchsorted(g.start, r) for g, r in zip(groups, ranks, strict=True)]
        model = _Model.make(each, groups, cuts, margin=0.0, borders=borders)
        best = min(best, _least_value(each, model, exact, best))
    return best


def _least_value(problem: Problem, model: _Model, exact: Solver, known: float) -> float:
    """Least value of a model if it is below ``known``."""
    if problem.objective != "throughput":
        assert problem.rate is not None  # Problem's contract for these objectives
        model.aim(1 / problem.rate, problem.objective)
        outcome = exact.solve(model.m, gap=0.0)
        unit = MICRO if problem.objective == "energy" else 1.0
        return outcome.value / unit if outcome.feasible else math.inf

    def feasible(seconds: float) -> bool:
        model.aim(seconds, "devices")
        return exact.solve(model.m, gap=1e9).feasible

    low, high = 0.0, known * (1 - EXACT)
    if math.isinf(known):
        high = _first_guess(problem)
        while not feasible(high):
            low, high = high, 64 * high
            if high > LONGEST:
                return math.inf
    elif not feasible(high):
        return math.inf
    while high > low * (1 + EXACT):
        middle = math.sqrt(low * high) if low else high / 64
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high


def _first_guess(problem: Problem) -> float:
    """Time in which all devices could take all lookups if each were one beat."""
    rate = sum(
        klass.count * max(p.capacity["lookups"] for p in klass.patterns)
        for klass in problem.classes
    )
    return max(problem.lookups, 1.0) / rate


def _alone(problem: Problem) -> list[Problem]:
    """The problem of one device, of each class: it exchanges nothing."""
    if problem.devices == 1:
        return []
    return [
        dataclasses.replace(problem, classes=(dataclasses.replace(klass, count=1),))
        for klass in problem.classes
    ]


class _Search:
    """One problem's search; groups and their cuts get finer as it goes on."""

    def __init__(
        self,
        problem: Problem,
        solver: Solver,
        progress: Progress,
        *,
        explained: bool = True,
        proven: bool = True,
    ) -> None:
        self.explained = explained
        self.proven = proven
        self.problem = problem
        self.solver = solver
        self.progress = progress
        self.whole: dict[tuple[int, Tier], int] = {}
        """Tables that are replicated, as the relaxed model has it: 1, or 0."""
        self.broken: object = None
        """Rule that the last placement broke."""
        self.reason = ""
        self.groups = make_groups(problem)
        each = -(-len(problem.tables) // problem.devices)
        self.reserve = float(BEAT_BYTES * uneven_beats(each))
        self.cuts = [
            group.coarse() if len(group.tables) > 1 or len(self.groups) < 8 else group.coarse(10)
            for group in self.groups
        ]

    # --- throughput ---

    def fastest(self) -> Plan:
        """Least time per sample."""
        self.progress("relaxed model")
        relaxed = self._relaxed()
        if self.problem.rate is not None and relaxed > (1 + LP_TOLERANCE) / self.problem.rate:
            raise self._no_plan()
        self.progress("whole devices")
        upper = relaxed
        plan: Plan | None = None
        for number in range(ROUNDS):
            model = self._model()
            tolerance = MIP_TOLERANCE if number else 4 * MIP_TOLERANCE
            upper = self._least_time(model, lower=relaxed, guess=upper, tolerance=tolerance)
            if self._refine(model) and number:
                break
        self.progress("placing")
        for slack in SLACKS:
            seconds = upper * (1 + slack)
            if plan is not None and plan.value <= seconds * (1 + MIP_TOLERANCE):
                break
            if plan is not None and not self.proven and self.solver.over:
                break
            if not self._solve(model, seconds, "energy"):
                continue
            found = self._placed(model, seconds)
            if found is None:
                self.reserve *= 2
                model = self._model()
            elif plan is None or found.value < plan.value:
                plan = found
        if plan is None:
            raise self._unplaced()
        if not self.proven:
            return plan
        self.progress("bound")
        return plan.model_copy(update={"bound": self._bound(upper)})

    def _relaxed(self) -> float:
        """Time per sample if devices could be divided, with intervals fine at its splits."""
        least = None
        for _ in range(RELAXED_ROUNDS):
            model = self._model(integral=False)
            if least is None:
                self._require()
            least = self._least_time(model, lower=0.0, guess=least, tolerance=LP_TOLERANCE)
            if self._refine(model):
                break
        self._fix_whole(model)
        assert least is not None  # RELAXED_ROUNDS is at least 1
        return least

    def relaxed(self) -> float:
        """Value if devices could be divided; inf where there is no solution."""
        problem = self.problem
        if problem.objective == "throughput":
            return self._relaxed() if self._possible() else math.inf
        assert problem.rate is not None  # Problem's contract for these objectives
        for _ in range(RELAXED_ROUNDS):
            model = self._model(integral=False)
            if not self._solve(model, 1 / problem.rate, problem.objective):
                return math.inf
            if self._refine(model):
                break
        value = float(pyo.value(model.m.goal))
        return value / MICRO if problem.objective == "energy" else value

    def _possible(self) -> bool:
        """Whether there is a plan if a sample may take however long."""
        model = self._model(integral=False)
        model.m.capacity.deactivate()
        model.m.sample_time.deactivate()
        model.aim(1.0, "energy")
        return self.solver.solve(model.m).feasible

    def _require(self) -> None:
        """Raise if there is no plan however long a sample takes."""
        if not self._possible():
            raise self._no_plan()

    def _least_time(
        self, model: _Model, *, lower: float, guess: float | None, tolerance: float
    ) -> float:
        """Least time at which there is a solution, which is in the model then.

        ``lower`` is known to be too short, or 0.
        """
        high = guess or _first_guess(self.problem)
        step = 4 * tolerance if guess else 1.0
        while not self._found(model, high):
            lower, high = high, high * (1 + step)
            step = min(2 * step, 3.0)
            if high > LONGEST:
                raise self._no_plan()
        step = 4 * tolerance
        while not lower or lower < high / (1 + 8 * step):
            probe = high / (1 + step)
            if probe <= lower:
                break
            if self._found(model, probe):
                high, step = probe, min(3 * step, 1.0)
            else:
                lower = probe
                break
        while high > lower * (1 + tolerance):
            middle = math.sqrt(high * lower)
            if self._found(model, middle):
                high = middle
            else:
                lower = middle
        self._found(model, high)
        return high

    def _bound(self, upper: float) -> float:
        """Largest time per sample that is proven too short, from ``upper`` downwards."""
        model = self._model(optimistic=True)
        step, tried, low = MIP_TOLERANCE, upper, 0.0
        while step < 64:
            probe = upper / (1 + step)
            if self._refuted(model, probe):
                low = probe
                break
            tried, step = probe, 2 * step
        while low and tried > low * (1 + MIP_TOLERANCE):
            middle = math.sqrt(tried * low)
            if self._refuted(model, middle):
                low = middle
            else:
                tried = middle
        return low

    # --- energy and devices, at a rate ---

    def at_rate(self) -> Plan:
        """Least energy or fewest devices at the required rate."""
        problem = self.problem
        assert problem.rate is not None  # Problem's contract for these objectives
        required = 1 / problem.rate
        self.progress("relaxed model")
        model = self._model(integral=False)
        for _ in range(ROUNDS):
            if self._solve(model, required, problem.objective):
                break
            if not self.approach(required):
                raise self._no_plan()
            model = self._model(integral=False)
        else:
            raise self._no_plan()
        self._refine(model)
        self._fix_whole(model)
        self.progress("whole devices")
        plan: Plan | None = None
        for _ in range(ROUNDS):
            model = self._model()
            if self._solve(model, required, problem.objective):
                if self._refine(model):
                    break
            elif not self.approach(required):
                raise self._no_plan()
        self.progress("placing")
        seconds, slacks = required, iter(SLACKS)
        next(slacks)
        while plan is None and self._solve(model, seconds, problem.objective):
            if problem.objective == "devices":
                count = round(sum(v.value for v in model.m.devices.values()))
                self._spend(model, seconds, count)
            found = self._placed(model, seconds)
            if found is not None and found.seconds <= required * (1 + 1e-9):
                plan = found
            elif self.broken is Rule.LATENCY:
                seconds *= FASTER  # what is idle longer answers sooner
            else:
                if found is None:
                    self.reserve *= 2
                    model = self._model()
                seconds = required * (1 - next(slacks, 1.0))
        if plan is None:
            raise self._unplaced()
        if not self.proven:
            return plan
        self.progress("bound")
        return plan.model_copy(update={"bound": self._bound_at_rate(required)})

    def _no_plan(self) -> PlanError:
        """Say why the pooled model has no solution, in numbers where that is wanted."""
        if not self.explained:
            return PlanError(PlanErrorKind.SOLVER, "the pooled model has no solution")
        from screc.plan.explain import explain

        return explain(self.problem, solver=self.solver.name)

    def _unplaced(self) -> PlanError:
        """Say that the pooled model has a solution, and no placement was found."""
        problem = self.problem
        if self.broken is Rule.LATENCY and problem.max_latency is not None:
            return PlanError(
                PlanErrorKind.LATENCY,
                f"a batch of {problem.batch} within {problem.max_latency * 1e3:.4g} ms is "
                f"required; no plan that was found does it: {self.reason}",
                ["a smaller plan.batch", "fewer rows on SSD: more device.0.dram_gib"],
            )
        if problem.rate is not None:
            return PlanError(
                PlanErrorKind.RATE,
                f"{problem.rate:,.0f} samples/s are possible for all devices together, but no "
                f"placement on single devices was found: {self.reason}",
                ["a rate that is a few percent lower", "one more device"],
            )
        return PlanError(
            PlanErrorKind.SOLVER,
            f"no placement of the rows on whole devices was found: {self.reason}",
            ["more DRAM or SSD", "plan.split = true"],
        )

    def _spend(self, model: _Model, seconds: float, count: int) -> None:
        """Of plans with ``count`` devices, take the one of least energy."""
        used: Any = pool.devices(model.m, model.pooled)
        model.m.most = pyo.Constraint(expr=used <= count)
        fresh = Solver(self.solver.name, self.solver.left())
        model.aim(seconds, "energy")
        fresh.solve(model.m, gap=ENERGY_GAP, limit=STEP_LIMIT)
        model.m.del_component(model.m.most)

    def _bound_at_rate(self, required: float) -> float:
        """Proven bound of the objective: the solver's, on the optimistic model."""
        model = self._model(optimistic=True)
        model.aim(required, self.problem.objective)
        outcome = self.solver.solve(model.m, gap=self.problem.gap / 5, limit=BOUND_LIMIT)
        bound = outcome.bound
        if self.problem.objective == "energy":
            bound /= MICRO
        if self.problem.objective == "devices":
            bound = float(math.ceil(bound - 1e-6))
        return bound

    def least(self) -> float | None:
        """Bound of the objective by the relaxed model; None where it has no solution."""
        model = self._model(integral=False, optimistic=True)
        if self.problem.rate is not None and self.problem.objective != "throughput":
            model.aim(1 / self.problem.rate, self.problem.objective)
            outcome = self.solver.solve(model.m)
            unit = MICRO if self.problem.objective == "energy" else 1.0
            return outcome.bound / unit if outcome.feasible else None
        try:
            self._require()
            return self._least_time(model, lower=0.0, guess=None, tolerance=LP_TOLERANCE)
        except PlanError:
            return None

    def may_beat(self, value: float) -> bool:
        """Whether the relaxed model has a lower value, as far as that is found out in time."""
        try:
            bound = self.least()
        except PlanError:
            return False
        return bound is not None and bound < value

    # --- shared ---

    def _model(self, *, integral: bool = True, optimistic: bool = False) -> _Model:
        model = _Model.make(
            self.problem,
            self.groups,
            self.cuts,
            integral=integral,
            optimistic=optimistic,
            reserve=self.reserve,
        )
        if integral and not optimistic:
            for key, value in self.whole.items():
                model.m.whole[key].fix(value)
            for (k, p), pattern in self._patterns():
                if any(pattern.capacity[f"{s}_bytes"] < size for s, size in self._copies().items()):
                    model.m.devices[k, p].fix(0)
        return model

    def _patterns(self) -> Iterator[tuple[tuple[int, int], Pattern]]:
        """Every pattern with its class and number."""
        for k, klass in enumerate(self.problem.classes):
            for p, pattern in enumerate(klass.patterns):
                yield (k, p), pattern

    def _copies(self) -> dict[str, float]:
        """Bytes of replicated tables that every device holds, by tier; only of tiers with some."""
        found: dict[str, float] = defaultdict(float)
        for (g, s), chosen in self.whole.items():
            if chosen:
                found[s] += self.groups[g].bytes
        return found

    def _fix_whole(self, model: _Model) -> None:
        """Take which tables are replicated from a relaxed solution: few of them are so in part.

        On chip are as many as every pattern in that solution has room for, in half of what it has.
        """
        m = model.m
        shares = {key: m.whole[key].value or 0.0 for key in m.W}
        used = [p for key, p in self._patterns() if (m.devices[key].value or 0.0) > SPLIT]
        room = min((p.capacity["onchip_bytes"] for p in used), default=0.0) / 2
        for g in {g for g, _ in shares}:
            own = {s: v for (group, s), v in shares.items() if group == g}
            best: Tier = max(own, key=lambda tier: own[tier])
            chosen = sum(own.values()) > 0.5 or bool(self.groups[g].alike.replicate)
            if chosen and best == "onchip":
                if self.groups[g].bytes <= room:
                    room -= self.groups[g].bytes
                elif "dram" in own:
                    best = "dram"
            for tier in own:
                self.whole[g, tier] = int(chosen and tier == best)

    def _solve(self, model: _Model, seconds: float, objective: str) -> bool:
        """Whether a solution at ``seconds`` per sample is found; it is in the model then."""
        model.aim(seconds, objective)
        gap = ENERGY_GAP if objective == "energy" else 1e-6
        return self.solver.solve(model.m, gap=gap, limit=STEP_LIMIT).feasible

    def approach(self, seconds: float) -> bool:
        """Refine intervals where limits are exceeded least; False if that leads no further."""
        model = self._model(integral=False)
        model.m.T = seconds
        model.m.over.unfix()
        model.m.goal = pyo.Objective(expr=model.m.over)
        fresh = Solver(self.solver.name, self.solver.left())
        return fresh.solve(model.m, gap=1e-2).feasible and not self._refine(model)

    def _found(self, model: _Model, seconds: float) -> bool:
        """Whether any solution is found; it is in the model then."""
        model.aim(seconds, "energy")
        return self.solver.solve(model.m, gap=ANY_GAP, limit=STEP_LIMIT).feasible

    def _refuted(self, model: _Model, seconds: float) -> bool:
        """Whether it is proven that there is no solution."""
        model.aim(seconds, "energy")
        outcome = self.solver.solve(model.m, gap=ANY_GAP, limit=STEP_LIMIT)
        return outcome.decided and not outcome.feasible

    def _refine(self, model: _Model) -> bool:
        """Cut intervals around splits; True if all were fine enough already."""
        problem, m = self.problem, model.m
        shares: dict[int, dict[tuple[int, Tier], float]] = defaultdict(dict)
        for k, j, s in m.S:
            shares[j][k, s] = m.share[k, j, s].value or 0.0
        number = dict.fromkeys(range(len(self.groups)), 0)
        around: dict[int, list[int]] = defaultdict(list)
        before: tuple[int, tuple[int, Tier]] | None = None
        for j, (g, _) in enumerate(model.pooled.flat):
            place = number[g]
            number[g] += 1
            split = any(SPLIT < v < 1 - SPLIT for v in shares[j].values())
            best = max(shares[j], key=lambda key: shares[j][key])
            changed = before is not None and before[0] == g and before[1] != best
            before = (g, best)
            if not (split or changed):
                continue
            near = [place] if split else [place - 1, place]
            parts = model.pooled.intervals[g]
            if any(not self.groups[g].is_fine(parts[n], problem.intervals) for n in near):
                around[g] += near
        for g, places in around.items():
            self.cuts[g] = self.groups[g].refine(self.cuts[g], places)
        return not around

    def _placed(self, model: _Model, seconds: float) -> Plan | None:
        """Place the model's solution and check it; None where no placement keeps its room.

        Tables whole, where that may be; cut into stripes only if that is not near enough.
        """
        problem = self.problem
        decision = decide(model.pooled, model.m)
        several = sum(len(found) for found in decision.patterns) > 1
        energy = problem.objective == "energy"
        hoped = float(pyo.value(model.m.goal)) / MICRO if energy else seconds
        best: Plan | None = None
        for whole in (True, False) if several and len(problem.classes) == 1 else (False,):
            try:
                plan = place(problem, decision, seconds, whole=whole)
                checked: Checked = measure(plan, problem)
            except (PlanError, CheckError) as error:
                self.broken = error.rule if isinstance(error, CheckError) else None
                self.reason = str(error).splitlines()[0]
                continue
            found = stamped(plan, checked, sum(len(c) - 1 for c in self.cuts))
            if best is None or _order(found, seconds) < _order(best, seconds):
                best = found
            late, value = _order(best, seconds)
            if not late and (value if energy else best.seconds) <= hoped * (1 + problem.gap / 2):
                break
        return best


def _proven(bound: float, value: float) -> float:
    """Return ``bound``, which no plan can be better than; ``value`` where one is, and say so."""
    if bound > value * (1 + BOUND_TOLERANCE):
        warnings.warn(
            f"the plan ({value:.6g}) is better than its proven bound ({bound:.6g}): please report",
            RuntimeWarning,
            stacklevel=2,
        )
    return min(bound, value)


def _order(plan: Plan, seconds: float) -> tuple[float, float]:
    """What makes one placement better than another: keeping a required rate, then the value."""
    late = plan.seconds > seconds * (1 + 1e-9) if plan.rate is not None else False
    return (plan.seconds if late else 0.0, plan.value)
