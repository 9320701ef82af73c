"""The ``plan`` benchmark: the planner on instances of ``data/bench_plan.toml``, and baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from screc.errors import CheckError, PlanError
from screc.plan import baselines
from screc.plan.instances import Instance, at_rate, find_instance, instances, problem_of
from screc.plan.problem import Objective, Problem
from screc.plan.schema import Plan

COLUMNS = (
    *("instance", "objective", "devices", "tables", "solve_seconds", "bound", "value", "gap"),
    *("best_baseline", "factor_to_best_baseline"),
)
"""What a person sees of a result."""

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
        a plan is None and has its reason in ``baseline_reasons``. ``failure`` says why there is no
        plan, or what the checker found; None where all is well.

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
        problem = problem_of(instance)
        seconds = time.perf_counter() - started
        found = run_instance(
            instance,
            problem,
            lambda wanted: solve(wanted, time_limit=time_limit),
            compare=compare,
            time_limit=time_limit,
        )
        results += [{**result, "problem_seconds": seconds} for result in found]
    return results


def run_instance(
    instance: Instance,
    problem: Problem,
    solve: Solve,
    *,
    compare: bool,
    time_limit: float | None = None,
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
            if objective == "throughput":
                rate = 1 / plan.value
            if compare:
                _add_baselines(result, wanted, plan, time_limit)
        results.append(result)
    return results


def _run(
    instance: Instance, problem: Problem, objective: Objective, solve: Solve
) -> tuple[dict[str, Any], Plan | None]:
    """Plan once: the result without baselines, and the plan, if there is one."""
    _say(f"{instance.name}: {objective}")
    plan, failure = None, None
    started = time.perf_counter()
    try:
        plan = solve(problem)
    except (PlanError, CheckError) as error:
        failure = str(error)
    seconds = time.perf_counter() - started
    return {
        "instance": instance.name,
        "objective": objective,
        "device_kind": instance.device_kind,
        "devices": problem.devices,
        "tables": len(problem.tables),
        "intervals": plan.intervals if plan else None,
        "batch": problem.batch,
        "format": instance.format,
        "tt_rule": instance.tt_rule,
        "seed": instance.seed,
        "rate": problem.rate,
        "solve_seconds": seconds,
        "bound": plan.bound if plan else None,
        "value": plan.value if plan else None,
        "gap": plan.gap if plan else None,
        "bottleneck": plan.bottleneck if plan else None,
        "checker_ok": plan is not None,
        "failure": failure,
        "baselines": {},
        "baseline_reasons": {},
        "baseline_notes": {},
        "best_baseline": None,
        "factor_to_best_baseline": None,
    }, plan


def _add_baselines(
    result: dict[str, Any], problem: Problem, plan: Plan, time_limit: float | None
) -> None:
    rows = []
    for name in baselines.names():
        _say(f"{result['instance']}: {result['objective']}: {name}")
        rows.append(baselines.compare_one(problem, plan, name, time_limit=time_limit))
    best = baselines.best_baseline(rows)
    result["baselines"] = {row.name: row.value for row in rows}
    result["baseline_reasons"] = {row.name: row.reason for row in rows if row.reason}
    result["baseline_notes"] = {row.name: row.note for row in rows if row.note}
    result["best_baseline"] = best.name if best else None
    result["factor_to_best_baseline"] = best.factor if best else None


def _say(text: str) -> None:
    click.echo(text, err=True)
