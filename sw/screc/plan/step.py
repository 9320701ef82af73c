"""The plan step: from configuration and statistics to ``plan.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from screc import files
from screc.config import Config, PlanTable
from screc.devices import resolve_device
from screc.errors import ConfigError
from screc.flow import Context
from screc.plan.budget import Budget
from screc.plan.onchip import with_onchip
from screc.plan.patterns import Pins, enumerate_patterns
from screc.plan.place import make_plan
from screc.plan.problem import Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.schema import Plan
from screc.plan.solve import solve
from screc.stats import TableStats, read_stats
from screc_hw.model import ModelShape, TableShape

TIERS = ("onchip", "dram", "ssd")
"""Tiers that are built so far."""

DEFAULT_TIERS = ("dram", "ssd")
"""Tiers of a table that names none; on-chip rows only where they are asked for, so far."""


def write_plan(ctx: Context) -> None:
    """Solve and write ``plan.json``.

    Raises
    ------
    ConfigError
        If the configuration asks for what the planner cannot do yet.
    PlanError
        If no plan exists.
    """
    problem = make_problem(ctx.config, ctx.shape, read_stats(ctx.out / "stats.parquet"))
    with ctx.progress("solving", None):
        solution = solve(problem, ctx.config.plan.time_limit_s)
    plan = make_plan(problem, solution)
    files.write_text(ctx.out / "plan.json", plan.to_json())
    ctx.log(describe(plan), level=1)


def describe(plan: Plan) -> str:
    """Summarise a plan in one line."""
    device = plan.devices[0]
    return (
        f"{device.kind}: {device.cores.memory} memory, {device.cores.compute} compute cores of "
        f"{device.shapes.rows} × {device.shapes.columns}; {1 / plan.value:,.0f} samples/s, "
        f"{plan.bottleneck} bound, gap {plan.gap:.2%}"
    )


def make_problem(config: Config, shape: ModelShape, stats: Sequence[TableStats]) -> Problem:
    """Collect what the solver needs.

    Raises
    ------
    ConfigError
        If the configuration asks for what the planner cannot do yet.
    PlanError
        If no pattern of cores fits the device.
    """
    _check_supported(config)
    plan, pins = config.plan, config.plan.cores
    budget = Budget(resolve_device(config.device[0]))
    measured = measured_shape(shape, stats)
    tables = [
        make_demand(table, table_stats, _wish(config, table.name))
        for table, table_stats in zip(measured.tables, stats, strict=True)
    ]
    patterns = enumerate_patterns(
        measured,
        budget,
        plan.batch,
        Pins(
            memory=pins.memory if plan.split else 1,
            compute=pins.compute,
            rows=pins.rows,
            columns=pins.columns,
        ),
    )
    return Problem(
        shape=measured,
        tables=tables,
        patterns=with_onchip(measured, tables, patterns, budget, plan.batch),
        budget=budget,
        batch=plan.batch,
        max_seconds=None if plan.rate is None else 1 / plan.rate,
        max_latency=None if plan.latency_ms is None else plan.latency_ms / 1e3,
        intervals=plan.intervals,
    )


def measured_shape(shape: ModelShape, stats: Sequence[TableStats]) -> ModelShape:
    """Return ``shape`` with the pooling factors that the log shows."""
    pooling = {feature.name: feature.pooling for table in stats for feature in table.features}
    return dataclasses.replace(
        shape,
        features=tuple(
            dataclasses.replace(feature, pooling=pooling[feature.name])
            for feature in shape.features
        ),
    )


def make_demand(table: TableShape, stats: TableStats, wish: PlanTable | None) -> TableDemand:
    """Estimate a table's rates, on the profile part where the hold-out part never reads it."""
    if stats.holdout_lookups:
        counts, samples = stats.holdout_counts, stats.holdout_samples
        unseen = stats.unseen_lookups / samples
    else:
        counts, samples, unseen = stats.hot_counts, max(stats.profile_samples, 1), 0.0
    tiers: Sequence[str] = DEFAULT_TIERS
    if wish is not None:
        tiers = (wish.pin,) if wish.pin else wish.tiers or DEFAULT_TIERS
    return TableDemand(
        shape=table,
        rates=RateCurve.from_counts(counts, samples, table.rows, unseen),
        dram="dram" in tiers,
        ssd="ssd" in tiers,
        onchip="onchip" in tiers,
    )


def _wish(config: Config, name: str) -> PlanTable | None:
    return next((wish for wish in config.plan.table if wish.name == name), None)


def _check_supported(config: Config) -> None:
    """Refuse what the configuration holds but this planner cannot do yet."""
    plan = config.plan
    if len(config.device) > 1 or config.device[0].count > 1:
        raise ConfigError(
            "one device is planned so far: one [[device]] with count = 1", field="device"
        )
    if plan.objective != "throughput":
        raise ConfigError(
            f'must be "throughput" so far, not "{plan.objective}"', field="plan.objective"
        )
    if not plan.split and plan.cores.memory not in (None, 1):
        raise ConfigError(
            f"without split every table is on one memory core, so memory must be 1 so far, "
            f"not {plan.cores.memory}",
            field="plan.cores.memory",
        )
    for i, wish in enumerate(plan.table):
        _check_wish(
            wish, f"plan.table.{i}", has_ssd=Budget(resolve_device(config.device[0])).has_ssd
        )


def _check_wish(wish: PlanTable, field: str, *, has_ssd: bool) -> None:
    for key in ("tt_rank", "replicate"):
        if getattr(wish, key):
            raise ConfigError(
                f"table {wish.name!r}: not built yet; leave it out", field=f"{field}.{key}"
            )
    named = {"pin": (wish.pin,) if wish.pin else (), "tiers": wish.tiers or ()}
    for key, tiers in named.items():
        wrong = [tier for tier in tiers if tier not in TIERS]
        if wrong:
            raise ConfigError(
                f'table {wish.name!r}: must be "onchip", "dram" or "ssd" so far, not "{wrong[0]}"',
                field=f"{field}.{key}",
            )
        if set(tiers) == {"onchip", "ssd"}:
            raise ConfigError(
                f'table {wish.name!r}: its hottest rows alone fit on chip; "onchip" and "ssd" need '
                '"dram" too',
                field=f"{field}.{key}",
            )
        if tiers and set(tiers) == {"ssd"} and not has_ssd:
            raise ConfigError(
                f"table {wish.name!r}: the device has no SSD to use; a SmartSSD needs "
                "device.0.ssd_kiops, as measured",
                field=f"{field}.{key}",
            )
    if wish.pin and wish.tiers and wish.pin not in wish.tiers:
        raise ConfigError(
            f"table {wish.name!r}: must be one of its tiers {list(wish.tiers)}, not {wish.pin!r}",
            field=f"{field}.pin",
        )
