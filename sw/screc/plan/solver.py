"""One way to call a MIP solver: HiGHS, kept between calls, or any other that Pyomo knows."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyomo.environ as pyo
from pyomo.contrib.solver.common.results import Results, SolutionStatus, TerminationCondition
from pyomo.contrib.solver.solvers.highs import Highs

from screc.errors import ConfigError, PlanError, PlanErrorKind, ToolchainError

MIP_GAP = 1e-4
"""Relative gap at which a solve with an objective ends."""

UNDECIDED = (TerminationCondition.error, TerminationCondition.unknown)
"""Ends after which HiGHS is asked again with other options."""


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what C++ code prints to stdout meanwhile: HiGHS leaves traces there, ``--json`` none."""
    sys.stdout.flush()
    library = ctypes.CDLL(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            try:
                yield
            finally:
                library.fflush(None)
                os.dup2(kept, 1)
    finally:
        os.close(kept)


def solved_once(
    model: pyo.ConcreteModel, *, time_limit: float | None, rel_gap: float
) -> Results | None:
    """Solve a model by HiGHS and load what it found into it; None where it found nothing."""
    with silenced():
        result = Highs().solve(
            model,
            time_limit=time_limit,
            rel_gap=rel_gap,
            raise_exception_on_nonoptimal_result=False,
            load_solutions=False,
        )
    if result.solution_status not in (SolutionStatus.optimal, SolutionStatus.feasible):
        return None
    result.solution_loader.load_vars()
    return result


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether there is a solution (it is in the model then), the objective and its proven bound.

    Not ``decided``: none was found in the time, and there may be one.
    """

    feasible: bool
    value: float = 0.0
    bound: float = 0.0
    decided: bool = True


class Solver:
    """Solves models; each model stays in the solver, so that a changed parameter costs little.

    Parameters
    ----------
    name
        ``highs``, or a name that Pyomo's ``SolverFactory`` has.
    time_limit
        Seconds for all solves together; None: no limit.
    tolerance
        How far a row or a whole number may be off, for HiGHS; None: what it has itself (1e-6).

    Raises
    ------
    ConfigError
        If Pyomo knows no such solver.
    ToolchainError
        If it is not installed.
    """

    def __init__(
        self,
        name: str = "highs",
        time_limit: float | None = None,
        *,
        tolerance: float | None = None,
    ) -> None:
        self.name = name
        names = ("primal_feasibility_tolerance", "mip_feasibility_tolerance")
        self._options = {} if tolerance is None else dict.fromkeys(names, tolerance)
        self._end = None if time_limit is None else time.perf_counter() + time_limit
        self._kept: dict[int, Any] = {}
        if name != "highs":
            known = pyo.SolverFactory(name)
            if type(known).__name__ == "UnknownSolver":
                raise ConfigError(f"Pyomo knows no solver {name!r}", field="plan.solver")
            if not known.available(exception_flag=False):
                raise ToolchainError(name, f'install it, or use plan.solver = "highs" ({name!r})')

    def left(self) -> float | None:
        """Seconds that are left.

        Raises
        ------
        PlanError
            If none are.
        """
        if self._end is None:
            return None
        left = self._end - time.perf_counter()
        if left <= 0:
            raise PlanError(
                PlanErrorKind.SOLVER,
                "the time limit is over and no plan was found",
                ["a larger plan.time_limit_s"],
            )
        return left

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and time.perf_counter() >= self._end

    def solve(
        self, model: pyo.ConcreteModel, *, gap: float = MIP_GAP, limit: float = math.inf
    ) -> Outcome:
        """Solve ``model`` in ``limit`` seconds, and load the solution into it where there is one.

        Raises
        ------
        PlanError
            If the solver ends without an answer.
        """
        if self.name == "highs":
            with silenced():
                return self._highs(model, gap, limit)
        return self._other(model, gap)

    def _highs(self, model: pyo.ConcreteModel, gap: float, limit: float) -> Outcome:
        solver = self._kept.get(id(model))
        if solver is None:
            solver = self._kept[id(model)] = Highs()
            updates = solver.config.auto_updates
            # the shape of a model never changes after its first solve; its time, bounds and
            # objective do
            updates.check_for_new_or_removed_constraints = False
            updates.check_for_new_or_removed_vars = False
            updates.check_for_new_or_removed_params = False
            updates.update_constraints = False
            updates.update_named_expressions = False
        left = self.left()
        # at the very edge of what is feasible, HiGHS 1.15 may fail in presolve, or not know
        for options in (
            {"presolve": "choose", "solver": "choose"},
            {"presolve": "off", "solver": "choose"},
            {"presolve": "choose", "solver": "ipm"},
        ):
            result = solver.solve(
                model,
                time_limit=None
                if left is None and limit == math.inf
                else min(left or limit, limit),
                rel_gap=gap,
                threads=1,
                solver_options=self._options | options,
                raise_exception_on_nonoptimal_result=False,
                load_solutions=False,
            )
            solved = result.solution_status in (SolutionStatus.optimal, SolutionStatus.feasible)
            if solved and result.incumbent_objective is None:
                continue  # an LP that ended with a point that it does not vouch for
            if result.termination_condition not in UNDECIDED:
                break
        if solved and result.incumbent_objective is not None:
            result.solution_loader.load_vars()
            bound = result.objective_bound
            value = float(result.incumbent_objective)
            return Outcome(True, value, value if bound is None else float(bound))
        if result.termination_condition in (
            TerminationCondition.provenInfeasible,
            TerminationCondition.infeasibleOrUnbounded,
            TerminationCondition.locallyInfeasible,
        ):
            return Outcome(False)
        if result.termination_condition is TerminationCondition.maxTimeLimit and limit < math.inf:
            bound = result.objective_bound
            return Outcome(False, bound=-math.inf if bound is None else float(bound), decided=False)
        raise PlanError(
            PlanErrorKind.SOLVER,
            f"HiGHS ended with {result.termination_condition.name} and no plan",
            ["a larger plan.time_limit_s", "fewer pins in [plan.cores] and [[plan.table]]"],
        )

    def _other(self, model: pyo.ConcreteModel, gap: float) -> Outcome:
        solver = pyo.SolverFactory(self.name)
        limit = self.left()
        options = {"cbc": {"ratioGap": gap, "sec": limit}, "glpk": {"mipgap": gap, "tmlim": limit}}
        for key, value in options.get(self.name, {}).items():
            if value is not None:
                solver.options[key] = value
        result = solver.solve(model, load_solutions=False)
        condition = result.solver.termination_condition
        if condition in (pyo.TerminationCondition.infeasible,):
            return Outcome(False)
        if condition != pyo.TerminationCondition.optimal:
            raise PlanError(PlanErrorKind.SOLVER, f"{self.name} ended with {condition} and no plan")
        model.solutions.load_from(result)
        objective = next(model.component_data_objects(pyo.Objective, active=True))
        value = float(pyo.value(objective))
        return Outcome(True, value, value - abs(value) * gap)
