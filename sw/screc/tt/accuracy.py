"""What tensor-train form costs a model: every table alone, at every rank that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from screc import files
from screc.compile.step import quantise
from screc.compile.tt import RankedRows, decompose_ranks, lookup_weights
from screc.errors import ConfigError
from screc.flow import Context
from screc.logs import open_log
from screc.plan.device import TT_FRACTION
from screc.remap import TableRemap
from screc.stats import TableStats
from screc.tt.decompose import relative_error
from screc.tt.quantise import quantise_tt
from screc.tt.shape import choose_shape
from screc_hw.model import ModelShape
from screc_sim.golden import model as golden_model
from screc_sim.golden.metrics import auc
from screc_sim.golden.quant import QuantModel, TtRange
from screc_sim.samples import SampleBatch

MIN_ROWS = 10_000
"""Rows of the smallest table that is tried where none is named."""

BEAT_BYTES = 64
"""Beat that the bytes of exact rows are counted for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtTrial:
    """A whole table in TT form at one rank, all other tables exact.

    ``rank`` as asked for, ``ranks`` as they are (a small table has no large ones); ``tt_bytes`` of
    its cores and ``row_bytes`` of its exact rows. ``row_error`` is the relative Frobenius error of
    the float cores over all rows, ``read_error`` over those that were read, by their lookups. The
    AUCs are the golden model's on ``samples`` of the hold-out part, None without labels of both
    kinds; a positive ``auc_loss`` is what the table costs.
    """

    table: str
    rank: int
    p: tuple[int, int, int]
    q: tuple[int, int, int]
    ranks: tuple[int, int]
    tt_bytes: int
    row_bytes: int
    row_error: float
    read_error: float
    samples: int
    auc_exact: float | None
    auc_tt: float | None
    auc_loss: float | None


_SIZES = pl.List(pl.Int64)
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "table": pl.String,
    "rank": pl.Int64,
    "p": _SIZES,
    "q": _SIZES,
    "ranks": _SIZES,
    "tt_bytes": pl.Int64,
    "row_bytes": pl.Int64,
    "row_error": pl.Float64,
    "read_error": pl.Float64,
    "samples": pl.Int64,
    "auc_exact": pl.Float64,
    "auc_tt": pl.Float64,
    "auc_loss": pl.Float64,
}
SCHEMA = pl.Schema(_COLUMNS)
"""Columns of ``tt.parquet``, one row per table and rank."""


def chosen_tables(shape: ModelShape, names: Sequence[str]) -> list[int]:
    """Numbers of the tables to try: those named, or all large ones with one scale.

    Raises
    ------
    ConfigError
        If a named table does not exist or has a scale per row.
    """
    numbers = {table.name: i for i, table in enumerate(shape.tables)}
    if not names:
        return [i for i, t in enumerate(shape.tables) if t.rows >= MIN_ROWS and not t.rowwise]
    for name in names:
        if name not in numbers:
            raise ConfigError(
                f"no table {name!r}; valid: {', '.join(numbers)}", field="analyze.tt_tables"
            )
        format_ = shape.tables[numbers[name]].format
        if shape.tables[numbers[name]].rowwise:
            raise ConfigError(
                f'table {name!r}: rows in TT form need format "int8" or "int4", not "{format_}"',
                field="analyze.tt_tables",
            )
    return [numbers[name] for name in names]


def try_tables(ctx: Context, stats: Sequence[TableStats]) -> list[TtTrial]:
    """Decompose and measure every chosen table at every rank of ``[analyze]``.

    Raises
    ------
    ConfigError
        If a table cannot be had in TT form, or model or log are wrong; names it.
    """
    wish = ctx.config.analyze
    tables = chosen_tables(ctx.shape, wish.tt_tables)
    model = quantise(ctx).model
    log = open_log(ctx.config.log, ctx.shape, seed=ctx.config.model.seed)
    batch = log.holdout().take(wish.tt_samples)
    exact = _auc(model, batch)
    trials = []
    with ctx.progress("trying tables in TT form", len(tables) * len(wish.tt_ranks)) as bar:
        for table in tables:
            remap = TableRemap.build(stats[table].rows, stats[table].hot_ids)
            for rank in wish.tt_ranks:
                trials.append(_try(ctx.shape, model, batch, exact, stats, table, remap, rank))
                bar.advance()
                ctx.log(_line(trials[-1]), level=1)
    return trials


def _try(
    shape: ModelShape,
    model: QuantModel,
    batch: SampleBatch,
    exact: float | None,
    stats: Sequence[TableStats],
    number: int,
    remap: TableRemap,
    rank: int,
) -> TtTrial:
    table, sizes = model.tables[number], shape.tables[number]
    try:
        wanted = choose_shape(sizes.rows, sizes.dim, rank)
        tt = decompose_ranks(table.source, remap, stats[number], 0, wanted)
        rows = quantise_tt(tt, table.scale, TT_FRACTION)
    except ValueError as error:
        raise ConfigError(
            f"table {sizes.name!r} in TT form: {error}", field="analyze.tt_ranks"
        ) from error
    ranked = RankedRows(table.source, remap, 0, sizes.rows)
    found = None
    if exact is not None:
        found = _auc(model.with_tt(TT_FRACTION, {number: TtRange(0, rows, remap)}), batch)
    return TtTrial(
        table=sizes.name,
        rank=rank,
        p=tt.shape.p,
        q=tt.shape.q,
        ranks=tt.shape.ranks,
        tt_bytes=tt.shape.parameters,
        row_bytes=sizes.rows * sizes.stride_bytes(BEAT_BYTES),
        row_error=relative_error(ranked, tt),
        read_error=relative_error(ranked, tt, lookup_weights(stats[number], 0, sizes.rows)),
        samples=len(batch),
        auc_exact=exact,
        auc_tt=found,
        auc_loss=None if exact is None or found is None else exact - found,
    )


def _auc(model: QuantModel, batch: SampleBatch) -> float | None:
    """AUC of the golden model; None where the samples have no labels of both kinds."""
    if batch.labels is None or not 0 < np.count_nonzero(batch.labels == 1) < len(batch):
        return None
    return auc(batch.labels, golden_model.run(model, batch).logit)


def _line(trial: TtTrial) -> str:
    loss = "" if trial.auc_loss is None else f", AUC {-trial.auc_loss:+.4f}"
    return (
        f"  {trial.table} rank {trial.rank}: {trial.row_bytes / trial.tt_bytes:.1f}x smaller, "
        f"error {trial.row_error:.3f} ({trial.read_error:.3f} of what is read){loss}"
    )


def write_trials(path: Path, trials: Sequence[TtTrial]) -> None:
    """Write ``tt.parquet``, whole or not at all."""
    columns: dict[str, list[Any]] = {
        name: [getattr(trial, name) for trial in trials] for name in SCHEMA
    }
    with files.atomic_file(path) as temporary:
        pl.DataFrame(columns, schema=SCHEMA).write_parquet(temporary)


def read_trials(path: Path) -> list[TtTrial]:
    """Read what :func:`write_trials` wrote.

    Raises
    ------
    ConfigError
        If the file is no such table.
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, PolarsError) as error:
        raise ConfigError(f"cannot be read as parquet: {error}", path=path) from error
    if frame.schema != SCHEMA:
        raise ConfigError("must hold trials of TT form; run `screc analyze --force`", path=path)
    return [
        TtTrial(**row | {name: tuple(row[name]) for name in ("p", "q", "ranks")})
        for row in frame.to_dicts()
    ]
