"""``screc plan --compare``: the user's own plan beside the baselines."""

from __future__ import annotations

from typing import Any

from screc.flow import Context
from screc.plan import baselines
from screc.plan.baselines import Row
from screc.plan.problem import Problem
from screc.plan.schema import read_plan
from screc.stats import read_stats


def compare_plan(ctx: Context) -> list[dict[str, Any]]:
    """Score baselines and ablations on the problem of ``plan.json``, which comes first.

    ``factor`` is a value ÷ the plan's: above 1 the plan is better.
    """
    plan = read_plan(ctx.out / "plan.json")
    problem = _problem(ctx)
    rows = [Row("plan", plan.value, 1.0)]
    limit = ctx.config.plan.time_limit_s
    for name in baselines.names():
        with ctx.progress(name, None):
            rows.append(baselines.compare_one(problem, plan, name, time_limit=limit))
    return [row.as_dict() for row in rows]


def _problem(ctx: Context) -> Problem:
    from screc.plan.step import make_problem  # it brings the solver, which takes half a second

    return make_problem(ctx.config, read_stats(ctx.out / "stats.parquet"), ctx.out)
