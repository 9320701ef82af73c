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
from screc.plan.tt import COVERAGE, TtWish, with_tt
from screc.stats import TableStats, read_stats
from screc_hw.model import ModelShape, TableShape

DEFAULT_TIERS = ("dram", "ssd")
"""Tiers of a table that names none; on chip and in TT form only where asked for, so far."""


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
    for table in problem.tables:
        if table.tt_rank is not None and not any(
            part.tier == "tt"
            for planned in plan.devices[0].tables
            if planned.table == table.shape.name
            for part in planned.ranges
        ):
            ctx.log(
                f"table {table.shape.name!r}: no rows are left for tensor-train form beside those "
                "on chip; fewer onchip_rows or more tt_rows leave some",
                level=0,
            )


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
    _check_supported(config, shape)
    plan, pins = config.plan, config.plan.cores
    budget = Budget(resolve_device(config.device[0]))
    measured = measured_shape(shape, stats)
    tables = [
        make_demand(table, table_stats, _wish(config, table.name))
        for table, table_stats in zip(measured.tables, stats, strict=True)
    ]
    wish = TtWish.of(pins.tt_lanes, pins.prefixes)
    patterns = enumerate_patterns(
        measured,
        budget,
        plan.batch,
        Pins(
            memory=pins.memory if plan.split else 1,
            compute=pins.compute,
            rows=pins.rows,
            columns=pins.columns,
            weights=pins.weights,
        ),
    )
    # room for TT cores is set aside before rows on chip take what is left; how many those are then
    # says which ranks the TT cores are for
    patterns = with_tt(measured, tables, patterns, budget, plan.batch, wish)
    patterns = with_onchip(measured, tables, patterns, budget, plan.batch)
    return Problem(
        shape=measured,
        tables=tables,
        patterns=with_tt(measured, tables, patterns, budget, plan.batch, wish),
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
    rates = RateCurve.from_counts(counts, samples, table.rows, unseen)
    demand = TableDemand(
        shape=table,
        rates=rates,
        dram="dram" in tiers,
        ssd="ssd" in tiers,
        onchip="onchip" in tiers,
        onchip_rows=wish.onchip_rows if wish else None,
    )
    if wish is None or "tt" not in tiers:
        return demand
    if not (demand.dram or demand.ssd):
        rows = table.rows
    elif wish.tt_rows is not None:
        rows = wish.tt_rows
    else:
        rows = rates.covering(COVERAGE)
    return dataclasses.replace(demand, rates=rates.cut(rows), tt_rank=wish.tt_rank, tt_rows=rows)


def _wish(config: Config, name: str) -> PlanTable | None:
    return next((wish for wish in config.plan.table if wish.name == name), None)


def _check_supported(config: Config, shape: ModelShape) -> None:
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
    for key in ("max_auc_loss", "max_row_error"):
        if getattr(plan, key) is not None:
            raise ConfigError(
                "budgets of rows in tensor-train form are not planned for so far; leave it out and "
                "choose tt_rank by `screc analyze` with analyze.tt_ranks",
                field=f"plan.{key}",
            )
    tables = {table.name: table for table in shape.tables}
    for i, wish in enumerate(plan.table):
        field = f"plan.table.{i}"
        _check_wish(wish, field, has_ssd=Budget(resolve_device(config.device[0])).has_ssd)
        _check_rows(wish, tables[wish.name], field)


def _check_rows(wish: PlanTable, table: TableShape, field: str) -> None:
    """Refuse what ``onchip_rows``, ``tt_rank`` and ``tt_rows`` cannot be together."""

    def wrong(key: str, reason: str) -> ConfigError:
        return ConfigError(f"table {wish.name!r}: {reason}", field=f"{field}.{key}")

    tiers = (wish.pin,) if wish.pin else wish.tiers or ()
    for key, tier in (("onchip_rows", "onchip"), ("tt_rank", "tt"), ("tt_rows", "tt")):
        if getattr(wish, key) is not None and tier not in tiers:
            raise wrong(key, f'is for tables with "{tier}" among their tiers')
    for key in ("onchip_rows", "tt_rows"):
        count = getattr(wish, key)
        if count is not None and count > table.rows:
            raise wrong(key, f"must be at most its {table.rows} rows, not {count}")
    if wish.onchip_rows is not None and not {"tt", "dram"} & set(tiers):
        raise wrong("onchip_rows", 'the other rows need "tt" or "dram" among its tiers')
    if "tt" not in tiers:
        return
    if wish.tt_rank is None:
        raise wrong("tt_rank", 'is missing: the rank of its TT cores, such as 16, for "tt"')
    if table.rowwise:
        raise wrong(
            "tt_rank", f'rows in TT form need format "int8" or "int4", not "{table.format}"'
        )
    if wish.tt_rows is not None and not {"dram", "ssd"} & set(tiers):
        raise wrong("tt_rows", 'the rows behind them need "dram" or "ssd" among its tiers')


def _check_wish(wish: PlanTable, field: str, *, has_ssd: bool) -> None:
    if wish.replicate:
        raise ConfigError(
            f"table {wish.name!r}: not built yet; leave it out", field=f"{field}.replicate"
        )
    named = {"pin": (wish.pin,) if wish.pin else (), "tiers": wish.tiers or ()}
    for key, tiers in named.items():
        if set(tiers) == {"onchip", "ssd"}:
            raise ConfigError(
                f'table {wish.name!r}: its hottest rows alone fit on chip; "onchip" and "ssd" need '
                '"dram" too',
                field=f"{field}.{key}",
            )
        if set(tiers) - {"onchip", "tt"} == {"ssd"} and not has_ssd:
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
