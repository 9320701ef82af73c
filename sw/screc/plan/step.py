"""The plan step: from configuration and statistics to ``plan.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from screc import files
from screc.config import Config, PlanTable, model_file
from screc.devices import resolve_device
from screc.errors import ConfigError
from screc.flow import Context
from screc.models import planning_shapes
from screc.plan.budget import Budget
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.schema import Plan
from screc.plan.solve import solve
from screc.plan.tt import COVERAGE, TtWish, reconstructors, with_tt
from screc.stats import TableStats, behind_edges, read_stats
from screc_hw.model import ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES

DEFAULT_TIERS = ("onchip", "dram", "ssd")
"""Tiers of a table that names none; in TT form only where asked for, or within a budget."""


def write_plan(ctx: Context) -> None:
    """Solve and write ``plan.json``.

    Raises
    ------
    ConfigError
        If the configuration asks for what the planner cannot do yet.
    PlanError
        If no plan exists.
    """
    problem = make_problem(ctx.config, read_stats(ctx.out / "stats.parquet"), ctx.out)
    wish = ctx.config.plan
    with ctx.progress("planning", None) as bar:
        plan = solve(
            problem,
            solver=wish.solver,
            time_limit=wish.time_limit_s,
            progress=lambda text: bar.describe(f"planning: {text}"),
        )
    files.write_text(ctx.out / "plan.json", plan.to_json())
    ctx.log(describe(plan), level=1)
    in_tt = {t.table for d in plan.devices for t in d.tables for r in t.ranges if r.tier == "tt"}
    for table in problem.tables:
        if table.tt_only and table.shape.name not in in_tt:
            ctx.log(
                f"table {table.shape.name!r}: no rows are left for tensor-train form beside those "
                "on chip; fewer onchip_rows or more tt_rows leave some",
                level=0,
            )


def describe(plan: Plan) -> str:
    """Summarise a plan in one line."""
    groups: dict[str, int] = {}
    for device in plan.devices:
        cores, shapes = device.cores, device.shapes
        name = f"{device.kind} ({cores.memory} memory, {cores.compute} compute"
        name += f" of {shapes.rows} × {shapes.columns})" if cores.compute else ")"
        groups[name] = groups.get(name, 0) + 1
    kinds = ", ".join(f"{count} × {name}" for name, count in groups.items())
    return (
        f"{kinds}: {1 / plan.seconds:,.0f} samples/s, {plan.energy * 1e6:,.1f} µJ and batches in "
        f"{plan.latency * 1e3:,.3g} ms, all estimated; {plan.bottleneck} bound, gap {plan.gap:.2%}"
    )


def make_problem(config: Config, stats: Sequence[TableStats], out: Path | None = None) -> Problem:
    """Collect what the solver needs; ``out`` holds the trials of tables in TT form.

    Raises
    ------
    ConfigError
        If the configuration asks for what the planner cannot do yet.
    PlanError
        If no pattern of cores fits a device.
    """
    model = model_file(config)
    gather, compute = (measured_shape(shape, stats) for shape in planning_shapes(model))
    _check_supported(config, gather)
    plan = config.plan
    tables = [
        make_demand(table, each, _wish(config, table.name))
        for table, each in zip(gather.tables, stats, strict=True)
    ]
    tables = with_tt(tables, _tt_wishes(config, tables, out), plan.cores.prefixes)
    return build_problem(config, gather, compute, tables)


def build_problem(
    config: Config, gather: ModelShape, compute: ModelShape, tables: Sequence[TableDemand]
) -> Problem:
    """Put tables and devices together; errors as :func:`make_problem`."""
    plan, pins = config.plan, config.plan.cores
    count = sum(device.count for device in config.device)
    catalogue = Catalogue(gather, compute, plan.batch)
    chosen = Pins(
        memory=pins.memory,
        compute=pins.compute,
        rows=pins.rows,
        columns=pins.columns,
        weights=pins.weights,
    )
    rebuild = reconstructors(
        tables,
        slice_lanes=DeviceParams.lanes(gather),
        lanes=pins.tt_lanes,
        devices=count,
    )
    classes = []
    for device in config.device:
        budget = Budget(resolve_device(device))
        patterns = enumerate_patterns(
            catalogue,
            budget,
            chosen,
            alone=count == 1,
            onchip_beats=onchip_beats(tables),
            reconstructors=rebuild,
        )
        classes.append(
            DeviceClass(
                budget,
                device.count,
                patterns,
                pins=chosen,
                onchip_beats=onchip_beats(tables),
                reconstructors=rebuild,
            )
        )
    return Problem(
        shape=gather,
        compute_shape=compute,
        tables=tables,
        classes=tuple(classes),
        batch=plan.batch,
        objective=plan.objective,
        rate=plan.rate,
        max_latency=None if plan.latency_ms is None else plan.latency_ms / 1e3,
        max_loss=_max_loss(config),
        gap=plan.gap,
        intervals=plan.intervals,
        split=plan.split,
    )


def onchip_beats(tables: Sequence[TableDemand]) -> int:
    """Beats that all rows which may be on chip would take, with some for uneven stripes."""
    total = 0
    for table in tables:
        read = int(table.rates.edges[1:][table.rates.rates > 0].max(initial=0))
        rows = min(table.most_onchip, read) if table.dram or table.ssd else table.most_onchip
        total += -(-rows * table.stride // BEAT_BYTES) + 8
    return total if any(table.most_onchip for table in tables) else 0


def _max_loss(config: Config) -> float | None:
    plan = config.plan
    return plan.max_auc_loss if plan.max_auc_loss is not None else plan.max_row_error


def _tt_wishes(
    config: Config, tables: Sequence[TableDemand], out: Path | None
) -> dict[int, TtWish]:
    """TT forms that tables ask for, and those that a budget of accuracy allows.

    Raises
    ------
    ConfigError
        If there is a budget and no measured table.
    """
    found: dict[int, TtWish] = {}
    for number, table in enumerate(tables):
        wish = _wish(config, table.shape.name)
        if wish is None or wish.tt_rank is None:
            continue
        if wish.tt_rows is not None:
            rows = wish.tt_rows
        elif table.dram or table.ssd:
            rows = table.rates.covering(COVERAGE)
        else:
            rows = table.shape.rows
        found[number] = TtWish(wish.tt_rank, rows)
    if _max_loss(config) is None:
        return found
    return _budgeted(config, tables, out) | found


def _budgeted(config: Config, tables: Sequence[TableDemand], out: Path | None) -> dict[int, TtWish]:
    """Every measured table whose loss is within the budget, at the least rank that is."""
    from screc.analyze import TRIALS
    from screc.tt.accuracy import read_trials  # compile's imports take a while

    by_auc = config.plan.max_auc_loss is not None
    field = "plan.max_auc_loss" if by_auc else "plan.max_row_error"
    path = None if out is None else out / TRIALS
    if path is None or not path.exists():
        raise ConfigError(
            "a budget needs measured tables: analyze.tt_ranks = [8, 16] tries them", field=field
        )
    limit = _max_loss(config)
    assert limit is not None  # the caller has asked
    numbers = {table.shape.name: number for number, table in enumerate(tables)}
    found: dict[int, TtWish] = {}
    for trial in sorted(read_trials(path), key=lambda each: each.rank):
        loss = trial.auc_loss if by_auc else trial.row_error
        if loss is None:
            raise ConfigError(
                "the log has no labels, so no AUC was measured; max_row_error needs none",
                field=field,
            )
        number = numbers[trial.table]
        wish = _wish(config, trial.table)
        if loss <= limit and number not in found and not (wish and (wish.pin or wish.tiers)):
            # noise can make a loss negative: no table pays for another one
            found[number] = TtWish(trial.rank, tables[number].shape.rows, max(loss, 0.0))
    return found


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
    behind = None
    if len(stats.unseen_by_rank):
        behind = (behind_edges(table.rows - stats.hot), stats.unseen_by_rank)
    tiers = _tiers(wish)
    return TableDemand(
        shape=table,
        rates=RateCurve.from_counts(counts, samples, table.rows, unseen, behind),
        bags=sum(feature.coverage for feature in stats.features),
        onchip="onchip" in tiers,
        dram="dram" in tiers,
        ssd="ssd" in tiers,
        onchip_rows=wish.onchip_rows if wish else None,
        tt_only="tt" in tiers,
        replicate=True if wish and wish.replicate else None,
    )


def _wish(config: Config, name: str) -> PlanTable | None:
    return next((wish for wish in config.plan.table if wish.name == name), None)


def _tiers(wish: PlanTable | None) -> Sequence[str]:
    """Tiers that a table's rows may be in."""
    if wish is None:
        return DEFAULT_TIERS
    return (wish.pin,) if wish.pin else wish.tiers or DEFAULT_TIERS


def _check_supported(config: Config, shape: ModelShape) -> None:
    """Refuse what the configuration holds but this planner cannot do yet."""
    plan = config.plan
    kinds = [device.model_dump(exclude={"count"}) for device in config.device]
    for i, kind in enumerate(kinds):
        if kind in kinds[:i]:
            raise ConfigError(
                f"is the same kind as device.{kinds.index(kind)}: raise its count instead",
                field=f"device.{i}",
            )
    if plan.max_auc_loss is not None and plan.max_row_error is not None:
        raise ConfigError("give max_auc_loss or this, not both", field="plan.max_row_error")
    tables = {table.name: table for table in shape.tables}
    for i, wish in enumerate(plan.table):
        field = f"plan.table.{i}"
        ssd = any(Budget(resolve_device(device)).has_ssd for device in config.device)
        _check_wish(wish, field, has_ssd=ssd)
        _check_rows(wish, tables[wish.name], field)


def _check_rows(wish: PlanTable, table: TableShape, field: str) -> None:
    """Refuse what ``onchip_rows``, ``tt_rank`` and ``tt_rows`` cannot be together."""

    def wrong(key: str, reason: str) -> ConfigError:
        return ConfigError(f"table {wish.name!r}: {reason}", field=f"{field}.{key}")

    tiers = _tiers(wish)
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
