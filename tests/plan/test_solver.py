"""One way to call any solver."""

import math
import shutil

import pyomo.environ as pyo
import pytest
from pyomo.contrib.solver.common.results import TerminationCondition

from screc.errors import ConfigError, PlanError, PlanErrorKind, ToolchainError
from screc.plan.solver import Solver


def knapsack(room=10.0):
    """Most value in ``room``: 11 of items 0 and 2; ``m.room`` may be changed."""
    m = pyo.ConcreteModel()
    m.room = pyo.Param(mutable=True, initialize=room)
    m.x = pyo.Var([0, 1, 2], domain=pyo.Binary)
    m.fits = pyo.Constraint(expr=6 * m.x[0] + 5 * m.x[1] + 4 * m.x[2] <= m.room)
    m.some = pyo.Constraint(expr=m.x[0] + m.x[1] + m.x[2] >= 1)
    m.goal = pyo.Objective(expr=-(7 * m.x[0] + 5 * m.x[1] + 4 * m.x[2]))
    return m


def chosen(m):
    return [round(m.x[i].value) for i in range(3)]


@pytest.mark.parametrize("name", ["highs", "glpk", "cbc"])
def test_every_solver_finds_the_same(name):
    program = {"glpk": "glpsol", "cbc": "cbc"}.get(name)
    if program and shutil.which(program) is None:
        pytest.skip(f"the program {program} is not installed")
    solver, m = Solver(name), knapsack()
    found = solver.solve(m, gap=0.0)
    assert found.feasible
    assert found.value == pytest.approx(-11)
    assert found.bound <= found.value + 1e-9
    assert found.bound == pytest.approx(-11, rel=1e-3)
    assert chosen(m) == [1, 0, 1]
    # the same model again, with another parameter
    m.room = 5.0
    assert solver.solve(m, gap=0.0).value == pytest.approx(-5)
    assert chosen(m) == [0, 1, 0]
    m.room = 3.0
    assert not solver.solve(m).feasible


def test_an_unknown_solver_is_named():
    with pytest.raises(ConfigError, match="knows no solver 'simplexx'") as caught:
        Solver("simplexx")
    assert caught.value.field == "plan.solver"


@pytest.mark.parametrize("name", ["glpk", "cbc"])
def test_a_solver_that_is_not_installed_is_named(name, monkeypatch, tmp_path):
    if shutil.which({"glpk": "glpsol"}.get(name, name)):
        pytest.skip(f"{name} is installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="highs") as caught:
        Solver(name)
    assert name in str(caught.value)


def test_time_that_is_over_is_said():
    with pytest.raises(PlanError, match="time limit") as caught:
        Solver("highs", -1.0).solve(knapsack())
    assert caught.value.kind is PlanErrorKind.SOLVER
    assert Solver("highs", 60).left() <= 60
    assert Solver("highs").left() is None


def test_a_failure_of_presolve_is_tried_without_it(monkeypatch):
    tried = []

    def fail(self, model, **options):
        tried.append(options["solver_options"]["presolve"])
        result = whole(self, model, **options)
        if tried[-1] == "choose":
            result.termination_condition = TerminationCondition.error
        return result

    from pyomo.contrib.solver.solvers.highs import Highs

    whole = Highs.solve
    monkeypatch.setattr(Highs, "solve", fail)
    assert Solver("highs").solve(knapsack()).value == pytest.approx(-11)
    assert tried == ["choose", "off"]


def test_a_tolerance_is_kept():
    m = knapsack()
    m.y = pyo.Var(bounds=(0, None))
    m.tight = pyo.Constraint(expr=m.y >= 1 + 1e-7 * m.x[0])
    m.del_component(m.goal)
    m.goal = pyo.Objective(expr=m.y - 1e-9 * m.x[0])
    exact = Solver("highs", tolerance=1e-9).solve(m, gap=0.0)
    assert math.isclose(exact.value, 1.0, abs_tol=1e-8)
