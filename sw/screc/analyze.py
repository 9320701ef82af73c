"""The analyze step: one pass over the log, counting every table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from screc.flow import Context
from screc.logs import Log, open_log
from screc.stats import FeatureStats, IdCounter, Ints, TableStats, describe_stats, write_stats
from screc_hw.model import ModelShape
from screc_sim.samples import SampleBatch

TRIALS = "tt.parquet"
"""File of what tables in TT form cost."""

SAMPLES_AT_ONCE = 1 << 16
"""Samples counted at a time."""


@dataclasses.dataclass
class _BagCounter:
    """Lengths of one feature's bags."""

    lookups: int = 0
    longest: int = 0
    filled: int = 0

    def add(self, lengths: Ints) -> None:
        self.lookups += int(lengths.sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        self.filled += int(np.count_nonzero(lengths))


def analyze(
    log: Log, shape: ModelShape, advance: Callable[[int], None] = lambda count: None
) -> list[TableStats]:
    """Count the profile and the hold-out part of a log.

    Parameters
    ----------
    log
        The whole log.
    shape
        The model.
    advance
        Told how many samples have been counted since it was last called.

    Returns
    -------
    list of TableStats
        In the order of ``shape.tables``.
    """
    bags = [_BagCounter() for _ in shape.features]
    profile, holdout = log.profile(), log.holdout()
    counters = [[IdCounter() for _ in shape.tables] for _ in range(2)]
    for part, ids in zip((profile, holdout), counters, strict=True):
        for batch in part.batches(SAMPLES_AT_ONCE):
            _count(batch, shape, bags, ids)
            advance(len(batch))
    samples = (profile.count(), holdout.count())
    return [
        _table(shape, i, bags, (counters[0][i], counters[1][i]), samples)
        for i in range(len(shape.tables))
    ]


def _count(
    batch: SampleBatch,
    shape: ModelShape,
    bags: Sequence[_BagCounter],
    counters: Sequence[IdCounter],
) -> None:
    for feature, found, counter in zip(shape.features, batch.bags, bags, strict=True):
        counter.add(found.lengths)
        counters[feature.table].add(found.ids)


def _table(
    shape: ModelShape,
    table: int,
    bags: Sequence[_BagCounter],
    counters: tuple[IdCounter, IdCounter],
    samples: tuple[int, int],
) -> TableStats:
    ids, counts = counters[0].result()
    order = np.argsort(-counts, kind="stable")  # stable: ids that are equally hot stay in id order
    hot_ids = ids[order]
    later_ids, later_counts = counters[1].result()
    place = np.searchsorted(later_ids, hot_ids)
    # one more entry, of an id that cannot be, for places past the end
    found = np.append(later_ids, -1)[place] == hot_ids
    holdout_counts = np.where(found, np.append(later_counts, 0)[place], 0)
    total = sum(samples)
    return TableStats(
        name=shape.tables[table].name,
        rows=shape.tables[table].rows,
        dim=shape.tables[table].dim,
        features=tuple(
            FeatureStats(
                name=feature.name,
                pooling=counter.lookups / total,
                longest=counter.longest,
                coverage=counter.filled / total,
            )
            for feature, counter in zip(shape.features, bags, strict=True)
            if feature.table == table
        ),
        profile_samples=samples[0],
        holdout_samples=samples[1],
        hot_ids=hot_ids,
        hot_counts=counts[order],
        holdout_counts=holdout_counts,
        unseen_lookups=int(later_counts.sum() - holdout_counts.sum()),
    )


def run(ctx: Context) -> None:
    """Write ``stats.parquet``, and ``tt.parquet`` where tables are to be tried in TT form."""
    log = open_log(ctx.config.log, ctx.shape, seed=ctx.config.model.seed)
    samples = log.profile().count() + log.holdout().count()
    with ctx.progress("counting samples", samples) as bar:
        stats = analyze(log, ctx.shape, bar.advance)
    write_stats(ctx.out / "stats.parquet", stats)
    (ctx.out / TRIALS).unlink(missing_ok=True)
    if ctx.config.analyze.tt_ranks:
        from screc.tt.accuracy import try_tables, write_trials  # compile's imports take a while

        write_trials(ctx.out / TRIALS, try_tables(ctx, stats))
    ctx.log(f"{samples:,} samples, {sum(t.hot for t in stats):,} distinct rows", level=1)


def describe(out: Path) -> dict[str, Any]:
    """Summarise what :func:`run` left in the folder ``out`` as one object."""
    described = describe_stats(out / "stats.parquet")
    if (out / TRIALS).exists():
        from screc.tt.accuracy import read_trials

        described["tt"] = [dataclasses.asdict(trial) for trial in read_trials(out / TRIALS)]
    return described
