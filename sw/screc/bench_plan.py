"""The ``plan`` benchmark: the planner on instances of ``data/bench_plan.toml``, and baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from screc.errors import CheckError, PlanError
from screc.plan import baselines
from screc.plan.baselines import Row
from screc.plan.check import check
from screc.plan.instances import Instance, at_rate, find_instance, instances, problem_of
from screc.plan.problem import Objective, Problem
from screc.plan.schema import Plan

COLUMNS = (
    *("instance", "objective", "devices", "tables", "solve_seconds", "bound", "value", "gap"),
    *("best_baseline", "factor_to_best_baseline"),
)
"""What a person sees of a result."""

BOUND_TOLERANCE = 1e-6
"""Relative: how far rounding may bring a plan below a bound."""

Solve = Callable[[Problem], Plan]


def bench(
    only: Sequence[str] = (), *, compare: bool = True, time_limit: float | None = None
) -> list[dict[str, Any]]:
    """Plan every instance for each of its objectives.

    Parameters
    ----------
    only
        Names of the instances; all where there is none.
    compare
        Whether baselines and ablations are scored too.
    time_limit
        Of one plan, in seconds.

    Returns
    -------
    list of dict
        ``bound`` and ``value`` in seconds per sample, joules per sample or devices, by
        ``objective``; ``rate`` in samples per second is what the plan must reach, None for
        ``throughput``; ``solve_seconds`` for this plan alone, ``problem_seconds`` for the catalogue
        of core patterns before it; ``intervals`` of all curves together at last. A baseline without
        a plan is None and has its reason in ``baseline_reasons``. Where one is better than what the
        planner found, its plan is the result's, and ``placement_of`` its name. ``failure`` says why
        there is no plan, or what the checker found; None where all is well.

    Raises
    ------
    ConfigError
        If there is no instance of a name.
    """
    from screc.plan.solve import solve

    chosen = [find_instance(name) for name in only] if only else list(instances())
    results = []
    for instance in chosen:
        _say(f"{instance.name}: catalogue")
        started = time.perf_counter()
        try:
            problem = problem_of(instance)
        except PlanError as error:
            _say(f"{instance.name}: {error}")
            results.append(_result(instance, "throughput", 0, 0) | {"failure": str(error)})
            continue
        seconds = time.perf_counter() - started
        found = run_instance(
            instance,
            problem,
            lambda wanted: solve(wanted, time_limit=time_limit),
            compare=compare,
        )
        results += [{**result, "problem_seconds": seconds} for result in found]
    return results


def run_instance(
    instance: Instance,
    problem: Problem,
    solve: Solve,
    *,
    compare: bool,
) -> list[dict[str, Any]]:
    """Plan one instance for each of its objectives, see :func:`bench`."""
    results = []
    rate: float | None = None
    for objective in instance.objectives:
        if objective == "throughput":
            wanted = problem
        elif rate is None:  # no plan to take a rate from
            break
        else:
            wanted = at_rate(problem, objective, instance.rate_share * rate)
        result, plan = _run(instance, wanted, objective, solve)
        if plan is not None:
            if compare:
                plan = _add_baselines(result, wanted, plan)
            _add_plan(result, wanted, plan)
            if objective == "throughput":
                rate = 1 / plan.value
        results.append(result)
    return results


def _run(
    instance: Instance, problem: Problem, objective: Objective, solve: Solve
) -> tuple[dict[str, Any], Plan | None]:
    """Plan once: the result without the plan's figures, and the plan, if there is one."""
    _say(f"{instance.name}: {objective}")
    result = _result(instance, objective, problem.devices, len(problem.tables))
    result["rate"] = problem.rate
    plan = None
    started = time.perf_counter()
    try:
        plan = solve(problem)
    except (PlanError, CheckError) as error:
        result["failure"] = str(error)
    result["solve_seconds"] = time.perf_counter() - started
    return result, plan


def _result(instance: Instance, objective: Objective, devices: int, tables: int) -> dict[str, Any]:
    """All fields of a result, without a plan."""
    return {
        "instance": instance.name,
        "objective": objective,
        "device_kind": instance.device_kind,
        "devices": devices,
        "tables": tables,
        "intervals": None,
        "batch": instance.batch,
        "format": instance.format,
        "tt_rule": instance.tt_rule,
        "seed": instance.seed,
        "rate": None,
        "solve_seconds": None,
        "bound": None,
        "value": None,
        "gap": None,
        "bottleneck": None,
        "checker_ok": False,
        "placement_of": None,
        "failure": None,
        "baselines": {},
        "baseline_reasons": {},
        "baseline_notes": {},
        "baseline_seconds": {},
        "best_baseline": None,
        "factor_to_best_baseline": None,
    }


def _add_plan(result: dict[str, Any], problem: Problem, plan: Plan) -> None:
    """Add a plan's figures, and what the checker says of them."""
    for name in ("intervals", "bound", "value", "gap", "bottleneck"):
        result[name] = getattr(plan, name)
    try:
        check(plan, problem)
        result["checker_ok"] = True
    except CheckError as error:
        result["failure"] = str(error)


def _add_baselines(result: dict[str, Any], problem: Problem, plan: Plan) -> Plan:
    """Add the baselines' figures; returns the best plan of all."""
    rows: list[Row] = []
    for name in baselines.names():
        _say(f"{result['instance']}: {result['objective']}: {name}")
        try:
            row = baselines.compare_one(problem, plan, name, known=rows)
        except Exception as error:  # minutes of results are not lost for one that fails
            row = Row(name, None, None, reason=f"{type(error).__name__}: {error}")
        rows.append(row)
    chosen, result["placement_of"] = baselines.best_plan(problem, plan, rows)
    if chosen.value < plan.bound * (1 - BOUND_TOLERANCE):
        result["failure"] = (
            f"{result['placement_of']} has the value {chosen.value:.6g}, below the bound "
            f"{plan.bound:.6g} that was said to be proven"
        )
    rows = baselines.beside(chosen, rows)
    best = baselines.best_baseline(rows)
    result["baselines"] = {row.name: row.value for row in rows}
    result["baseline_reasons"] = {row.name: row.reason for row in rows if row.reason}
    result["baseline_notes"] = {row.name: row.note for row in rows if row.note}
    result["baseline_seconds"] = {row.name: row.seconds for row in rows}
    result["best_baseline"] = best.name if best else None
    result["factor_to_best_baseline"] = best.factor if best else None
    return chosen


def _say(text: str) -> None:
    click.echo(text, err=True)
