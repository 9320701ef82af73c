"""The analyze step: one pass over the log, counting every table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from screc.analyze.count import analyze
from screc.analyze.runners import open_runner
from screc.flow import Context
from screc.logs import open_log
from screc.stats import TableStats, describe_stats, write_stats

__all__ = ["TRIALS", "analyze", "describe", "run"]

TRIALS = "tt.parquet"
"""File of what tables in TT form cost."""


def run(ctx: Context) -> None:
    """Write ``stats.parquet``, and ``tt.parquet`` where tables are to be tried in TT form."""
    log = open_log(ctx.config.log, ctx.shape, seed=ctx.config.model.seed)
    samples = log.profile().count() + log.holdout().count()
    with (
        open_runner(ctx.workers, ctx.scheduler) as runner,
        ctx.progress("counting samples × tables", None) as bar,
    ):
        stats = analyze(
            log,
            ctx.shape,
            exact_rows=ctx.config.analyze.exact_rows,
            runner=runner,
            bar=bar,
        )
    write_stats(ctx.out / "stats.parquet", stats)
    (ctx.out / TRIALS).unlink(missing_ok=True)
    if ctx.config.analyze.tt_ranks:
        from screc.tt.accuracy import try_tables, write_trials  # compile's imports take a while

        write_trials(ctx.out / TRIALS, try_tables(ctx, stats))
    ctx.log(f"{samples:,} samples, {sum(t.distinct for t in stats):,} distinct rows", level=1)
    for table in stats:
        _tell(ctx, table)


def _tell(ctx: Context, table: TableStats) -> None:
    """Say what of a table's statistics a person should know before a plan."""
    if table.drift.flagged:
        drift = table.drift
        ctx.log(
            f"[yellow]warning[/yellow]: table {table.name}: the log drifts: in the hold-out part "
            f"{drift.unseen_excess:.1%} more of the lookups than expected are on rows not seen "
            f"before, {drift.moved:.1%} went to other rows; a plan for later traffic may be off by "
            "as much"
        )
    if table.sketch is not None:
        ctx.log(
            f"table {table.name}: about {table.distinct:,} distinct rows, {table.hot:,} of them "
            f"ranked, by {table.sketch.name}; analyze.exact_rows sets how many"
        )


def describe(out: Path) -> dict[str, Any]:
    """Summarise what :func:`run` left in the folder ``out`` as one object."""
    described = describe_stats(out / "stats.parquet")
    if (out / TRIALS).exists():
        from screc.tt.accuracy import read_trials

        described["tt"] = [dataclasses.asdict(trial) for trial in read_trials(out / TRIALS)]
    return described
