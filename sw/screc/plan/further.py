"""What ``screc plan`` says beside its plan: baselines, and what more of each resource would buy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from screc import files
from screc.flow import VERDICTS, Context
from screc.plan import baselines
from screc.plan.baselines import Row
from screc.plan.cartesian import merged
from screc.plan.gains import what_more
from screc.plan.problem import Problem
from screc.plan.schema import Plan, read_plan
from screc.plan.solve import solve
from screc.plan.step import make_problem
from screc.stats import read_stats


def tables(ctx: Context, *, compare: bool, explain: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that are asked for, by name.

    ``compare``: baselines and ablations on the problem of ``plan.json``, which comes first; a
    ``factor`` is a value ÷ the plan's, above 1 the plan is better; baselines merge no tables. Where
    one is better, ``plan.json`` is its plan from then on, and the first row says so.
    ``explain``: what one more of each resource would buy, the most useful first.
    """
    plan = read_plan(ctx.out / "plan.json")
    problem = make_problem(ctx.config, read_stats(ctx.out / "stats.parquet"), ctx.out)
    found: dict[str, list[dict[str, Any]]] = {}
    if compare:
        plan, rows = _compared(ctx, problem, plan)
        found["compare"] = [row.as_dict() for row in rows]
    if explain:
        with ctx.progress("what more would buy", None) as bar:
            gains = what_more(
                merged(problem, plan.cartesian),
                plan,
                solver=ctx.config.plan.solver,
                progress=bar.describe,
            )
        found["explain"] = [dataclasses.asdict(gain) for gain in gains]
    return found


def _compared(ctx: Context, problem: Problem, plan: Plan) -> tuple[Plan, list[Row]]:
    """The best plan of all, in ``plan.json`` now, and the rows of the comparison."""
    merged_problem = merged(problem, plan.cartesian)
    limit = min(ctx.config.plan.time_limit_s or math.inf, baselines.TIME_LIMIT)
    rows: list[Row] = []
    for name in baselines.names():
        others = problem if name in baselines.BASELINES else merged_problem
        with ctx.progress(name, None):
            row = baselines.compare_one(others, plan, name, time_limit=limit, known=rows)
            rows.append(row)
    best, source = baselines.best_plan(merged_problem, plan, rows)
    plain = baselines.best_baseline(rows)
    if plan.cartesian and plain is not None and plain.value is not None:
        if plain.value < best.value * (1 - baselines.LEAST_GAIN):
            # of tables that are not merged another bound is proven
            with ctx.progress("planning without merged tables", None):
                alone = solve(
                    problem, solver=ctx.config.plan.solver, time_limit=ctx.config.plan.time_limit_s
                )
            best, source = baselines.best_plan(problem, alone, rows)
    note = f"placed as {source}" if source else None
    if best is not plan:
        files.write_text(ctx.out / "plan.json", best.to_json())
        for name in VERDICTS:
            (ctx.out / name).unlink(missing_ok=True)
        ctx.log(f"plan.json: {note or 'no tables are merged'}, which is better", level=0)
    return best, [Row("plan", best.value, 1.0, note=note), *baselines.beside(best, rows)]
