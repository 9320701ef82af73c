"""The planning problem: tables with their rates, patterns of cores, one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

from screc.plan.budget import Budget
from screc.plan.patterns import Pattern
from screc.plan.rates import RateCurve
from screc.plan.schema import TtPart
from screc_hw.model import ModelShape, TableShape
from screc_hw.params import TtLoad
from screc_hw.protocol import BEAT_BYTES

RECORD_BYTES = 8
"""Bytes of a lookup record and of a result, each read or written once."""

STAGED_BLOCKS = 2
"""Blocks that a staging ring holds: one that runs and one that the host fills meanwhile."""

STAGING_FACTOR = 2
STAGING_SLACK_ROWS = 32
"""Ring rows per block: factor × expected + slack. Six standard deviations of a Poisson count of
mean n are 6·sqrt(n) <= n + 9; the rest of the slack is for uneven rings and a row that wraps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableDemand:
    """A table: its shape, rates, and where its rows may live.

    At most ``onchip_rows`` are on chip, where it is not None; with a ``tt_rank``, the ``tt_rows``
    hottest ranks are in TT form where they are not on chip, and an edge of ``rates`` is there.
    """

    shape: TableShape
    rates: RateCurve
    dram: bool = True
    ssd: bool = True
    onchip: bool = False
    onchip_rows: int | None = None
    tt_rank: int | None = None
    tt_rows: int = 0

    @property
    def pinned_onchip(self) -> bool:
        """Whether all its rows must be on chip."""
        return self.onchip and not self.dram and self.tt_rank is None

    @property
    def most_onchip(self) -> int:
        """Most rows that may be on chip."""
        if not self.onchip:
            return 0
        return self.shape.rows if self.onchip_rows is None else self.onchip_rows

    @property
    def stored_rows(self) -> int:
        """Rows that need room in DRAM or on SSD."""
        return self.shape.rows - self.tt_rows

    @property
    def stride(self) -> int:
        """Bytes of a row in DRAM and on SSD."""
        return self.shape.stride_bytes(BEAT_BYTES)

    @property
    def row_beats(self) -> int:
        """Beats of a row, in DRAM and in the staging ring."""
        return self.shape.row_beats(BEAT_BYTES)


def tt_loads(tables: Sequence[TableDemand], parts: Sequence[TtPart | None]) -> list[TtLoad]:
    """Rows per sample that are rebuilt of every table with a part in TT form."""
    loads = []
    for table, part in zip(tables, parts, strict=True):
        if part is None:
            continue
        pinned = min(part.last, part.first + part.pins * part.shape.p[2])
        first, hot, last = (
            table.rates.tail(table.rates.rates, rank) for rank in (part.first, pinned, part.last)
        )
        rows = first - last
        loads.append(
            TtLoad(shape=part.shape, rows=rows, hit_rate=(first - hot) / rows if rows else 0.0)
        )
    return loads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a plan depends on.

    ``shape`` carries the log's pooling factors. ``intervals`` bounds the pieces of a table's curve
    that the solver sees at a time.
    """

    shape: ModelShape
    tables: Sequence[TableDemand]
    patterns: Sequence[Pattern]
    budget: Budget
    batch: int
    max_seconds: float | None = None
    max_latency: float | None = None
    intervals: int = 256

    @cached_property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return sum(table.stored_rows * table.stride for table in self.tables)

    @cached_property
    def streamed_bytes(self) -> float:
        """Bytes per sample that the device reads or writes in long runs, wherever rows live."""
        lookups = sum(table.rates.lookups for table in self.tables)
        headers = 4 * len(self.shape.features) + self.shape.dense
        return RECORD_BYTES * lookups + headers + RECORD_BYTES

    def dram_seconds(self, pattern: Pattern) -> float:
        """Seconds per sample that row reads and request streams keep the channels busy.

        Every lookup but those of rows on chip or in TT form reads its row from DRAM, a staged one
        too; streamed weights are read once for all sub-batches that share them. A memory core uses
        one channel.
        """
        channels = min(self.budget.channels, pattern.params.memory)
        rows = 0.0
        for number, table in enumerate(self.tables):
            size = table.row_beats * BEAT_BYTES
            lookups = table.rates.tail(table.rates.rates, pattern.fast_rows(number))
            rows += lookups * size / self.budget.random_rate(size)
        core, cores = pattern.params.core, pattern.params.compute
        batches = -(-self.batch // core.rows)
        beats = cores * core.streamed_beats(self.shape, -(-batches // cores))
        streamed = self.streamed_bytes + BEAT_BYTES * beats / self.batch
        return (rows + streamed / self.budget.streamed_rate) / channels

    @property
    def staging_slack(self) -> int:
        """Bytes of the staging rings that do not depend on the rows on SSD."""
        beats = max(table.row_beats for table in self.tables)
        return STAGED_BLOCKS * STAGING_SLACK_ROWS * beats * BEAT_BYTES

    @property
    def rounding(self) -> int:
        """Bytes by which the rings may grow when splits move to whole rows and whole beats."""
        beats = sum(table.row_beats for table in self.tables)
        return (STAGED_BLOCKS * STAGING_FACTOR * beats + 1) * BEAT_BYTES
