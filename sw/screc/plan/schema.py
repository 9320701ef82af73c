"""The plan as data: what ``plan.json`` holds. Nothing here decides anything.

A table's rows are ranked by frequency, hottest first. Its ranges say where ranks ``[first, last)``
live; over a device's ranges each rank of ``[0, rows)`` occurs exactly once, where a replicated
range counts once for all memory cores.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from screc.errors import ConfigError
from screc_hw.tt.shape import TtShape

Tier = Literal["onchip", "tt", "dram", "ssd"]

FORMAT_VERSION = 2
"""Version of the layout of ``plan.json``."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CoreCounts(_Record):
    """Cores of a device."""

    memory: int
    """Memory-centric cores, one AXI port each."""
    tt: int = 0
    """Tensor-train lanes, as many for every memory core."""
    compute: int = 1
    """Compute-centric cores."""


class CoreShapes(_Record):
    """Shapes of a device's cores."""

    rows: int
    """Samples of a sub-batch: rows of the array."""
    columns: int
    """Output channels at a time: columns of the array."""
    slots: int = 4
    """Sub-batches under way in a compute core."""
    pool_beats: int = 1
    """Row slices that a memory core pools per cycle."""
    outstanding: int = 64
    """Row beats in flight per memory core."""
    onchip_beats: int = 0
    """Beats of on-chip rows per memory core."""
    tt_multipliers: int = 0
    """Multipliers of all tensor-train lanes."""
    prefixes: int = 0
    """First products that every memory core's reconstructor keeps, of all tables together."""


class Stripe(_Record):
    """Some ranks of a range: those with ``(rank - first) mod of`` in ``take``."""

    of: int
    take: tuple[int, ...]


class TtForm(_Record):
    """TT cores of a range of ranks, which are its rows in order; see ``screc_hw.tt.shape``."""

    p: tuple[int, int, int]
    """Factors of the count of rows."""
    q: tuple[int, int, int]
    """Factors of the dimension."""
    ranks: tuple[int, int]
    pins: int = 0
    """Prefixes, hottest first, whose first products are kept."""


class Range(_Record):
    """Ranks ``[first, last)`` of a table in one tier."""

    tier: Tier
    first: int
    last: int
    stripe: Stripe | None = None
    """Absent: every rank of the range."""
    core: int | None = None
    """Memory core that the rows belong to; absent for rows on SSD, which any core may be sent."""
    replicated: bool = False
    """Other devices hold these ranks too: those that a device has are read for samples that it
    computes. Without ``core``, every memory core of the device holds them, and there is no stripe.
    Tiers ``onchip`` and ``dram``."""
    tt: TtForm | None = None
    """For tier ``tt``: the cores of the whole of ``[first, last)``, whatever the stripe."""

    @model_validator(mode="after")
    def _has_cores(self) -> Range:
        if (self.tier == "tt") != (self.tt is not None):
            raise ValueError(f'tier "tt" has TT cores and no other has, not "{self.tier}"')
        return self

    @model_validator(mode="after")
    def _may_be_replicated(self) -> Range:
        if self.replicated and self.tier not in ("onchip", "dram"):
            raise ValueError(f'a replicated range must be "onchip" or "dram", not "{self.tier}"')
        if self.replicated and self.core is None and self.stripe is not None:
            raise ValueError("a replicated range without a core is every core's: it has no stripe")
        return self


@dataclasses.dataclass(frozen=True)
class TtPart:
    """Ranks ``[first, last)`` of a table in TT form; the ``pins`` hottest prefixes are pinned."""

    first: int
    last: int
    shape: TtShape
    pins: int = 0

    @property
    def form(self) -> TtForm:
        """What ``plan.json`` says of it."""
        shape = self.shape
        return TtForm(p=shape.p, q=shape.q, ranks=shape.ranks, pins=self.pins)


class TablePlan(_Record):
    """Where one table's rows live on a device."""

    table: str
    ranges: tuple[Range, ...]

    @property
    def onchip_rows(self) -> int:
        """Count of the hottest ranks that are kept on chip."""
        return max((r.last for r in self.ranges if r.tier == "onchip"), default=0)

    @property
    def replicated(self) -> bool:
        """Whether every memory core holds a copy of the rows on chip and in DRAM."""
        return any(r.replicated for r in self.ranges)

    @property
    def tt(self) -> TtPart | None:
        """The ranks in TT form, if any.

        Raises
        ------
        ConfigError
            If their TT cores cannot be; names the table.
        """
        for r in self.ranges:
            if r.tt is None:
                continue
            try:
                shape = TtShape(rows=r.last - r.first, p=r.tt.p, q=r.tt.q, ranks=r.tt.ranks)
            except ValueError as error:
                raise ConfigError(f"TT cores of table {self.table!r}: {error}") from error
            return TtPart(r.first, r.last, shape, r.tt.pins)
        return None

    @property
    def resident_rows(self) -> int:
        """Count of the hottest ranks that the device holds; those behind are on SSD."""
        return max((r.last for r in self.ranges if r.tier != "ssd"), default=0)


def table_ranges(
    rows: int,
    resident: int,
    cores: int,
    shift: int,
    *,
    onchip: int = 0,
    tt: TtPart | None = None,
    replicated: bool = False,
) -> tuple[Range, ...]:
    """Ranges of a table whose ``resident`` hottest ranks are striped over memory cores.

    Of those the ``onchip`` hottest ones are on chip, the next ones in TT form up to the last of
    ``tt``, and the others in DRAM. Core ``c`` takes the ranks that are ``(c + shift) mod cores``;
    the ranks from ``resident`` on are on SSD. Where ``replicated``, every core takes all of them;
    not with ``tt``, whose cores every reconstructor holds already.

    Raises
    ------
    ValueError
        If ``replicated`` with ``tt``.
    """
    if replicated and tt is not None:
        raise ValueError(
            f"ranks [{tt.first}, {tt.last}) in TT form cannot be replicated: every memory core's "
            "reconstructor holds their TT cores already"
        )
    ranges = []
    exact = onchip if tt is None else tt.last
    parts: tuple[tuple[Tier, int, int, TtForm | None], ...] = (
        ("onchip", 0, onchip, None),
        ("tt", onchip, exact, tt.form if tt else None),
        ("dram", exact, resident, None),
    )
    for tier, first, last, form in parts:
        if replicated and first < last:
            ranges.append(Range(tier=tier, first=first, last=last, replicated=True))
            continue
        for core in range(cores if first < last else 0):
            take = (core + shift - first) % cores
            stripe = Stripe(of=cores, take=(take,)) if cores > 1 else None
            ranges.append(
                Range(tier=tier, first=first, last=last, stripe=stripe, core=core, tt=form)
            )
    if resident < rows:
        ranges.append(Range(tier="ssd", first=resident, last=rows))
    return tuple(ranges)


class DevicePlan(_Record):
    """One device of the plan."""

    kind: str
    cores: CoreCounts
    shapes: CoreShapes
    weights: Literal["onchip", "stream"] = "onchip"
    """Where the MLP's weights are read from."""
    staging_bytes: int
    """Rings in DRAM, all memory cores together, that SSD rows are staged in; 0 without such."""
    samples: float = 1.0
    """Share of all samples that it computes."""
    utilisation: dict[str, float]
    """Used ÷ usable of ``lut``, ``ff``, ``dsp``, ``bram36``, ``uram``, ``dram``, ``ssd``."""
    tables: tuple[TablePlan, ...]
    """Tables of which it holds any rows."""


class Plan(_Record):
    """A whole plan. Everything in it is estimated, by the formulas of ``docs/planner.md``."""

    version: int = FORMAT_VERSION
    objective: Literal["throughput", "energy", "devices"]
    batch: int
    """Samples of a block that the plan was made for."""
    rate: float | None = None
    """Samples per second that were required."""
    bound: float
    """No plan of this model does better: proven. Unit as that of ``value``."""
    value: float
    """By objective: seconds per sample, joules per sample, devices; recomputed on whole rows."""
    gap: float
    """|value - bound| / bound."""
    seconds: float
    """Time per sample at full speed, s: that of the busiest resource of all devices."""
    energy: float
    """Joules per sample, at ``rate`` where it is given, else at full speed."""
    latency: float
    """Time of one batch on idle devices, s."""
    solve_seconds: float
    intervals: int
    """Intervals that the tables' curves were cut into at last, all tables together."""
    bottleneck: str
    """Key of ``per_sample`` that sets the pace."""
    per_sample: dict[str, float]
    """Seconds per sample that each part of the busiest device is busy."""
    ssd_reads: float
    """Expected 4 KiB reads per sample, all devices together."""
    devices: tuple[DevicePlan, ...]
    """Devices in use, classes in the order of the configuration."""
    cartesian: tuple[tuple[str, str], ...] = ()
    """Pairs of tables merged into one."""

    def to_json(self) -> str:
        """Return the text of ``plan.json``."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises
    ------
    ConfigError
        If it is no JSON, or a field is missing, unknown or wrong; names the file and the field.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"must be JSON: {error}", path=path) from error
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], path=path, field=field or None) from error
    if plan.version != FORMAT_VERSION:
        raise ConfigError(
            f"must be {FORMAT_VERSION}, not {plan.version}; make it again with `screc plan`",
            path=path,
            field="version",
        )
    return plan
