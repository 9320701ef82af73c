"""Solves a planning problem: refines the intervals around each split until they are exact there."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import pyomo.environ as pyo
from pyomo.contrib.solver.common.results import Results, SolutionStatus
from pyomo.contrib.solver.solvers.highs import Highs

from screc.errors import PlanError, PlanErrorKind
from screc.plan.diagnose import explain_capacity, explain_speed
from screc.plan.model import NANO, Intervals, build_model, make_intervals, prefer_small
from screc.plan.patterns import Pattern
from screc.plan.problem import Problem

ROUNDS = 8
"""Refinements at most; two or three are usual."""

REL_GAP = 1e-9
"""Relative gap at which the solver stops: patterns are few, so optimality costs nothing."""

ROW_TOLERANCE = 1e-6
"""A fraction of a row this close below a whole one counts as that one."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """What the solver decided.

    ``dram_rows`` per table, whole rows; ``bound`` seconds per sample that no plan beats.
    """

    pattern: Pattern
    dram_rows: tuple[int, ...]
    bound: float
    seconds: float


def solve(problem: Problem, time_limit: float | None = None) -> Solution:
    """Find the fastest plan, and among equally fast ones the smallest.

    Raises
    ------
    PlanError
        If there is none, or the solver found none in ``time_limit`` seconds.
    """
    started = time.perf_counter()
    cuts = [table.rates.rows for table in problem.tables]
    for _ in range(ROUNDS):
        intervals = make_intervals(problem, cuts)
        model = build_model(problem, intervals)
        result = _optimise(model, problem, _left(started, time_limit))
        bound = float(result.objective_bound)
        prefer_small(model, problem, float(result.incumbent_objective))
        _optimise(model, problem, _left(started, time_limit))
        before, cuts = cuts, _dram_rows(model, intervals)
        seen = zip(problem.tables, intervals, cuts, strict=True)
        if cuts == before or all(t.rates.is_exact(part.edges, cut) for t, part, cut in seen):
            break
    chosen = max(model.P, key=lambda p: model.pattern[p].value)
    return Solution(
        pattern=problem.patterns[chosen],
        dram_rows=tuple(cuts),
        bound=bound / NANO,
        seconds=time.perf_counter() - started,
    )


def _left(started: float, limit: float | None) -> float | None:
    return None if limit is None else max(1.0, limit - (time.perf_counter() - started))


def _optimise(model: pyo.ConcreteModel, problem: Problem, time_limit: float | None) -> Results:
    """Solve and load the solution."""
    result = Highs().solve(
        model,
        time_limit=time_limit,
        rel_gap=REL_GAP,
        raise_exception_on_nonoptimal_result=False,
        load_solutions=False,
    )
    if result.solution_status not in (SolutionStatus.optimal, SolutionStatus.feasible):
        raise _explain(problem, result)
    result.solution_loader.load_vars()
    return result


def _explain(problem: Problem, result: Results) -> PlanError:
    """Say why there is no plan: a capacity, else the required rate or latency, else the solver."""
    short = explain_capacity(problem)
    if short is not None:
        return short
    if problem.max_seconds is None and problem.max_latency is None:
        return PlanError(
            PlanErrorKind.SOLVER,
            f"HiGHS ended with {result.termination_condition.name} and no plan",
            ["a larger plan.time_limit_s", "fewer pins in [plan.cores] and [[plan.table]]"],
        )
    free = solve(dataclasses.replace(problem, max_seconds=None, max_latency=None))
    return explain_speed(problem, free.bound, free.pattern)


def _dram_rows(model: pyo.ConcreteModel, intervals: Sequence[Intervals]) -> list[int]:
    """Whole rows of every table in DRAM; a fraction of a row goes to SSD."""
    rows = [0.0] * len(intervals)
    for t, i in model.I:
        edges = intervals[t].edges
        rows[t] += float(edges[i + 1] - edges[i]) * model.share[t, i].value
    return [
        min(math.floor(count + ROW_TOLERANCE), int(part.edges[-1]))
        for count, part in zip(rows, intervals, strict=True)
    ]
