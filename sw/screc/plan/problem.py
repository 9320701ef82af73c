"""The planning problem: tables with their rates, patterns of cores, one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

from screc.plan.budget import Budget
from screc.plan.patterns import Pattern
from screc.plan.rates import RateCurve
from screc_hw.model import ModelShape, TableShape
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
    """A table: its shape, rates, and where its rows may live."""

    shape: TableShape
    rates: RateCurve
    dram: bool = True
    ssd: bool = True
    onchip: bool = False

    @property
    def stride(self) -> int:
        """Bytes of a row in DRAM and on SSD."""
        return self.shape.stride_bytes(BEAT_BYTES)

    @property
    def row_beats(self) -> int:
        """Beats of a row, in DRAM and in the staging ring."""
        return self.shape.row_beats(BEAT_BYTES)


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
        return sum(table.shape.rows * table.stride for table in self.tables)

    @cached_property
    def streamed_bytes(self) -> float:
        """Bytes per sample that the device reads or writes in long runs, wherever rows live."""
        lookups = sum(table.rates.lookups for table in self.tables)
        headers = 4 * len(self.shape.features) + self.shape.dense
        return RECORD_BYTES * lookups + headers + RECORD_BYTES

    def dram_seconds(self, pattern: Pattern) -> float:
        """Seconds per sample that row reads and request streams keep the channels busy.

        Every lookup but those of on-chip rows reads its row from DRAM, a staged one too. A memory
        core uses one channel.
        """
        channels = min(self.budget.channels, pattern.params.memory)
        rows = 0.0
        onchip = pattern.onchip or (0,) * len(self.tables)
        for table, first in zip(self.tables, onchip, strict=True):
            size = table.row_beats * BEAT_BYTES
            lookups = table.rates.tail(table.rates.rates, first)
            rows += lookups * size / self.budget.random_rate(size)
        return (rows + self.streamed_bytes / self.budget.streamed_rate) / channels

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
