"""From the solver's decision to a plan: ranges of ranks, stripes over memory cores, the ring."""

from __future__ import annotations

import math

from screc.plan.check import Checked, check
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR, Problem
from screc.plan.schema import (
    CoreCounts,
    CoreShapes,
    DevicePlan,
    Plan,
    TablePlan,
    table_ranges,
)
from screc.plan.solve import Solution
from screc_hw.protocol import BEAT_BYTES


def staging_bytes(problem: Problem, dram_rows: tuple[int, ...]) -> int:
    """Bytes of all rings together, whole beats; 0 where every row is in DRAM."""
    if all(n == table.shape.rows for n, table in zip(dram_rows, problem.tables, strict=True)):
        return 0
    beats = 0.0
    for table, first in zip(problem.tables, dram_rows, strict=True):
        distinct = table.rates.tail(table.rates.distinct(problem.batch), first)
        beats += distinct * problem.batch * table.row_beats
    expected = math.ceil(STAGED_BLOCKS * STAGING_FACTOR * beats)
    return expected * BEAT_BYTES + problem.staging_slack


def make_plan(problem: Problem, solution: Solution) -> Plan:
    """Place a solution, check it from scratch, and return it with its true figures.

    Raises
    ------
    CheckError
        If the placed plan breaks a capacity: a fault of the planner.
    """
    params = solution.pattern.params
    onchip = solution.pattern.onchip or (0,) * len(problem.tables)
    tt = solution.pattern.tt or (None,) * len(problem.tables)
    # hot rows are on chip, or in TT form, even where the solver had moved them to SSD
    resident = tuple(
        max(rows, solution.pattern.fast_rows(t)) for t, rows in enumerate(solution.dram_rows)
    )
    device = DevicePlan(
        kind=problem.budget.kind,
        cores=CoreCounts(
            memory=params.memory,
            tt=params.memory * params.tt.lanes if params.tt else 0,
            compute=params.compute,
        ),
        shapes=CoreShapes(
            rows=params.core.rows,
            columns=params.core.columns,
            outstanding=params.gather.outstanding,
            onchip_beats=params.gather.onchip_beats,
            tt_multipliers=params.memory * params.tt.multipliers if params.tt else 0,
            prefixes=sum(part.pins for part in tt if part),
        ),
        weights="stream" if params.core.stream_words else "onchip",
        staging_bytes=staging_bytes(problem, resident),
        utilisation={},
        tables=tuple(
            TablePlan(
                table=table.shape.name,
                # the hottest rank of each table goes to another core than that of the one before
                ranges=table_ranges(
                    table.shape.rows,
                    rows,
                    params.memory,
                    index % params.memory,
                    onchip=kept,
                    tt=part,
                ),
            )
            for index, (table, rows, kept, part) in enumerate(
                zip(problem.tables, resident, onchip, tt, strict=True)
            )
        ),
    )
    checked: Checked = check(device, params, problem)
    bound = min(solution.bound, checked.value)
    return Plan(
        objective="throughput",
        batch=problem.batch,
        bound=bound,
        value=checked.value,
        gap=(checked.value - bound) / bound,
        solve_seconds=solution.seconds,
        bottleneck=checked.bottleneck,
        per_sample=dict(checked.per_sample),
        ssd_reads=checked.ssd_reads,
        devices=(device.model_copy(update={"utilisation": dict(checked.utilisation)}),),
    )
