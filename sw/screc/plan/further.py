"""What ``screc plan`` says beside its plan: baselines, and what more of each resource would buy."""

from __future__ import annotations

import dataclasses
from typing import Any

from screc.flow import Context
from screc.plan import baselines
from screc.plan.baselines import Row
from screc.plan.cartesian import merged
from screc.plan.gains import what_more
from screc.plan.schema import read_plan
from screc.plan.step import make_problem
from screc.stats import read_stats


def tables(ctx: Context, *, compare: bool, explain: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that are asked for, by name.

    ``compare``: baselines and ablations on the problem of ``plan.json``, which comes first; a
    ``factor`` is a value ÷ the plan's, above 1 the plan is better; baselines merge no tables.
    ``explain``: what one more of each resource would buy, the most useful first.
    """
    plan = read_plan(ctx.out / "plan.json")
    problem = make_problem(ctx.config, read_stats(ctx.out / "stats.parquet"), ctx.out)
    merged_problem = merged(problem, plan.cartesian)
    wish = ctx.config.plan
    found: dict[str, list[dict[str, Any]]] = {}
    if compare:
        rows = [Row("plan", plan.value, 1.0)]
        for name in baselines.names():
            others = problem if name in baselines.BASELINES else merged_problem
            with ctx.progress(name, None):
                rows.append(baselines.compare_one(others, plan, name, time_limit=wish.time_limit_s))
        found["compare"] = [row.as_dict() for row in rows]
    if explain:
        with ctx.progress("what more would buy", None) as bar:
            gains = what_more(merged_problem, plan, solver=wish.solver, progress=bar.describe)
        found["explain"] = [dataclasses.asdict(gain) for gain in gains]
    return found
