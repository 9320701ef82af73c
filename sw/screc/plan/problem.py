"""What a plan depends on: tables with their rates, classes of equal devices, and the aim."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from screc.plan.budget import Budget
from screc.plan.catalogue import Pins
from screc.plan.rates import RateCurve
from screc_hw.model import ModelShape, TableShape
from screc_hw.protocol import BEAT_BYTES
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

if TYPE_CHECKING:
    from screc.plan.catalogue import Pattern

Objective = Literal["throughput", "energy", "devices"]

FREE = Pins()
"""No count or size is fixed."""

RECORD_BYTES = 8
"""Bytes of a lookup record, of a result, and of a partial's header."""

STAGED_BLOCKS = 2
"""Blocks that a staging ring holds: one that runs and one that the host fills meanwhile."""

STAGING_FACTOR = 2
STAGING_SLACK_ROWS = 32
"""Ring rows per block: factor × expected + slack. Six standard deviations of a Poisson count of
mean n are 6·sqrt(n) <= n + 9; the rest of the slack is for uneven rings and a row that wraps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtOption:
    """The hottest ``last`` ranks of a table, less those on chip, may be in TT form.

    ``shape`` is that of TT cores of all of ``[0, last)``; ``pins`` of their hottest prefixes are
    kept; ``loss`` is what that costs, in the unit of :attr:`Problem.max_loss`.
    """

    last: int
    shape: TtShape
    pins: int = 0
    loss: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableDemand:
    """A table: its shape, rates, and where its rows may live.

    Parameters
    ----------
    shape
        Rows, dimension, format.
    rates
        Lookups per sample of every rank.
    bags
        Bags per sample that are not empty, of all features that read the table, mean.
    onchip, dram, ssd
        Whether rows may live there.
    onchip_rows
        Most rows on chip; None: no bound.
    tt
        Its TT form, if it may have one.
    tt_only
        Whether all ranks below ``tt.last`` must be on chip or in TT form.
    replicate
        True: every memory core of every device holds the table; else none does. A plan from
        elsewhere may do so where it is None, and not where it is False.
    """

    shape: TableShape
    rates: RateCurve
    bags: float = 1.0
    onchip: bool = True
    dram: bool = True
    ssd: bool = True
    onchip_rows: int | None = None
    tt: TtOption | None = None
    tt_only: bool = False
    replicate: bool | None = None

    @property
    def most_onchip(self) -> int:
        """Most rows that may be on chip."""
        if not self.onchip:
            return 0
        return self.shape.rows if self.onchip_rows is None else self.onchip_rows

    @property
    def stride(self) -> int:
        """Bytes of a row in DRAM and on SSD."""
        return self.shape.stride_bytes(BEAT_BYTES)

    @property
    def row_beats(self) -> int:
        """Beats of a row, in DRAM and in the staging ring."""
        return self.shape.row_beats(BEAT_BYTES)

    def bags_met(self, share: float) -> float:
        """Bags per sample that meet one of some rows that get ``share`` of the lookups.

        Lookups of a bag are taken as independent and a bag as long as all others; at most all bags,
        and concave in ``share``.
        """
        length = self.rates.lookups / self.bags if self.bags else 1.0
        return self.bags * (1 - (1 - min(share, 1.0)) ** max(length, 1.0))

    @property
    def partial_bytes(self) -> int:
        """Bytes of a bag's exact accumulators as they leave a device, header included."""
        return RECORD_BYTES + self.shape.dim * (8 if self.shape.rowwise else 4)


@dataclasses.dataclass(frozen=True)
class DeviceClass:
    """Equal devices: what each offers, how many there are, and what cores may fit one.

    No pattern is at least as good as another one in every respect. ``pins``, ``onchip_beats`` and
    ``reconstructors`` are what they were enumerated with, so that they can be again with other
    figures; ``onchip_beats`` None: what all rows that may be on chip take.
    """

    budget: Budget
    count: int
    patterns: tuple[Pattern, ...]
    pins: Pins = FREE
    onchip_beats: int | None = None
    reconstructors: tuple[TtParams | None, ...] = (None,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a plan depends on.

    Parameters
    ----------
    shape
        The model as memory cores see it, with the log's pooling factors.
    compute_shape
        The model as compute cores do, see ``screc.models.planning_shapes``.
    tables
        In the order of ``shape.tables``.
    classes
        Devices; no two classes have equal figures.
    batch
        Samples of a block.
    objective
        What is least: seconds per sample; joules per sample or devices, at ``rate``.
    rate
        Samples per second that must be served; None only for ``throughput``.
    max_latency
        Seconds; None: no limit.
    max_loss
        Sum of :attr:`TtOption.loss` over tables in TT form; None: no limit.
    gap
        Relative distance of value and bound that is good enough.
    intervals
        Pieces that a table's curve is cut into around a split, at least.
    split
        Whether a table may be on several devices.
    """

    shape: ModelShape
    compute_shape: ModelShape
    tables: Sequence[TableDemand]
    classes: Sequence[DeviceClass]
    batch: int
    objective: Objective = "throughput"
    rate: float | None = None
    max_latency: float | None = None
    max_loss: float | None = None
    gap: float = 0.01
    intervals: int = 50
    split: bool = True

    @property
    def devices(self) -> int:
        """Devices of all classes."""
        return sum(each.count for each in self.classes)

    @property
    def exchange(self) -> bool:
        """Whether bags may be on other devices than those that compute."""
        return self.devices > 1

    @cached_property
    def lookups(self) -> float:
        """Lookups per sample."""
        return sum(table.rates.lookups for table in self.tables)

    @property
    def least_staging_slack(self) -> int:
        """The same where only tables of the shortest rows have any on SSD."""
        beats = min((table.row_beats for table in self.tables if table.ssd), default=0)
        return STAGED_BLOCKS * STAGING_SLACK_ROWS * beats * BEAT_BYTES

    @property
    def header_bytes(self) -> int:
        """Bytes per sample of a request's block beside its lookups: bag lengths, dense features."""
        return 4 * len(self.shape.features) + self.shape.dense

    @property
    def staging_slack(self) -> int:
        """Bytes of a device's staging rings that do not depend on the rows on SSD."""
        beats = max((table.row_beats for table in self.tables if table.ssd), default=0)
        return STAGED_BLOCKS * STAGING_SLACK_ROWS * beats * BEAT_BYTES
