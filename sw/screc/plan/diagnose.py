"""Why a planning problem has no solution, in words that help."""

from __future__ import annotations

from collections.abc import Sequence

from screc.errors import PlanError, PlanErrorKind
from screc.plan.patterns import Pattern
from screc.plan.problem import Problem, TableDemand

GIB = 1 << 30


def _bytes(tables: Sequence[TableDemand]) -> int:
    return sum(table.stored_rows * table.stride for table in tables)


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"


def explain_capacity(problem: Problem) -> PlanError | None:
    """Return the error for a memory that cannot hold what must be in it, or None."""
    budget = problem.budget
    if not budget.has_ssd:
        if problem.bytes <= budget.dram_bytes:
            return None
        return PlanError(
            PlanErrorKind.DRAM,
            f"the tables take {_gib(problem.bytes)}; {budget.kind} has "
            f"{_gib(budget.dram_bytes)} of DRAM and no SSD to use",
            [
                'a device with an SSD: kind = "smartssd", with device.0.ssd_kiops as measured',
                'smaller tables: format = "int4", or fewer rows',
                "a device with more DRAM: `screc devices` lists them",
            ],
        )
    dram_only = [table for table in problem.tables if not table.ssd]
    ssd_only = [table for table in problem.tables if table.ssd and not table.dram]
    staging = problem.staging_slack if problem.bytes > budget.dram_bytes or ssd_only else 0
    in_dram = _bytes(dram_only) + staging
    if in_dram > budget.dram_bytes:
        return PlanError(
            PlanErrorKind.DRAM,
            f"tables that may live in DRAM alone and the staging ring take {_gib(in_dram)}; "
            f"{budget.kind} has {_gib(budget.dram_bytes)}",
            ['allow tiers = ["dram", "ssd"] for more tables', "more device.0.dram_gib"],
        )
    on_ssd = max(_bytes(ssd_only), problem.bytes - budget.dram_bytes)
    if on_ssd > budget.ssd_bytes:
        return PlanError(
            PlanErrorKind.SSD,
            f"at least {_gib(on_ssd)} of rows must be on SSD; {budget.kind} has "
            f"{_gib(budget.ssd_bytes)}",
            ['smaller tables: format = "int4", or fewer rows', "more device.0.ssd_gib"],
        )
    return None


def explain_speed(problem: Problem, best: float, pattern: Pattern) -> PlanError:
    """Return the error for a rate or a latency that no plan reaches.

    ``best`` is the least time per sample (s) without these requirements, with ``pattern``.
    """
    hints = [
        "fewer rows on SSD: more device.0.dram_gib, a faster SSD",
        "leave [plan.cores] to the planner",
        "a larger device: `screc devices` lists them",
    ]
    if problem.max_seconds is not None and best > problem.max_seconds:
        return PlanError(
            PlanErrorKind.RATE,
            f"{1 / problem.max_seconds:,.0f} samples/s are required; "
            f"{problem.budget.kind} reaches {1 / best:,.0f}",
            hints,
        )
    if problem.max_latency is None:
        return PlanError(PlanErrorKind.SOLVER, "no plan was found", hints)
    return PlanError(
        PlanErrorKind.LATENCY,
        f"a batch of {problem.batch} within {problem.max_latency * 1e3:.3g} ms is required; the "
        f"fastest plan ({pattern.name}) needs {pattern.latency * 1e3:.3g} ms and its SSD reads",
        ["a smaller plan.batch", *hints],
    )
