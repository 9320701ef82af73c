"""A plan around what was decided: before its figures are known, and with the checker's."""

from __future__ import annotations

from collections.abc import Sequence

from screc.plan.catalogue import Pattern
from screc.plan.check import Checked
from screc.plan.problem import Problem
from screc.plan.schema import CoreCounts, CoreShapes, DevicePlan, Plan, TablePlan


def device_plan(
    problem: Problem,
    klass: int,
    pattern: Pattern,
    tables: tuple[TablePlan, ...],
    *,
    samples: float,
    staging_bytes: int,
) -> DevicePlan:
    """Describe a device: its cores, its share of the samples, its tables."""
    core, gather = pattern.core, pattern.gather
    pins = {t.table: r.tt.pins for t in tables for r in t.ranges if r.tt is not None}
    tt = pattern.tt if pins else None
    return DevicePlan(
        kind=problem.classes[klass].budget.kind,
        cores=CoreCounts(
            memory=pattern.memory,
            tt=pattern.memory * tt.lanes if tt else 0,
            compute=pattern.compute,
        ),
        shapes=CoreShapes(
            rows=core.rows if core else gather.rows if gather else 0,
            columns=core.columns if core else 0,
            slots=core.slots if core else 4,
            pool_beats=gather.pool_beats if gather else 1,
            outstanding=gather.outstanding if gather else 0,
            onchip_beats=gather.onchip_beats if gather else 0,
            tt_multipliers=pattern.memory * tt.multipliers if tt else 0,
            prefixes=sum(pins.values()),
        ),
        weights="stream" if core and core.stream_words else "onchip",
        staging_bytes=staging_bytes,
        samples=samples,
        utilisation={},
        tables=tables,
    )


def unmeasured(problem: Problem, devices: Sequence[DevicePlan]) -> Plan:
    """Return a plan whose figures, the checker's, are 0 so far."""
    return Plan(
        objective=problem.objective,
        batch=problem.batch,
        rate=problem.rate,
        bound=0.0,
        value=0.0,
        gap=0.0,
        seconds=0.0,
        energy=0.0,
        latency=0.0,
        solve_seconds=0.0,
        intervals=0,
        bottleneck="",
        per_sample={},
        ssd_reads=0.0,
        devices=tuple(devices),
    )


def stamped(plan: Plan, checked: Checked, intervals: int) -> Plan:
    """Return the plan with the checker's figures; its value stands for the bound so far."""
    devices = tuple(
        device.model_copy(update={"utilisation": dict(used)})
        for device, used in zip(plan.devices, checked.utilisation, strict=True)
    )
    return plan.model_copy(
        update={
            "devices": devices,
            "value": checked.value,
            "bound": checked.value,
            "gap": 0.0,
            "seconds": checked.seconds,
            "energy": checked.energy,
            "latency": checked.latency,
            "per_sample": dict(checked.per_sample),
            "bottleneck": checked.bottleneck,
            "ssd_reads": checked.ssd_reads,
            "intervals": intervals,
        }
    )
