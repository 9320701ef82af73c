"""The plan as data: what ``plan.json`` holds. Nothing here decides anything.

A table's rows are ranked by frequency, hottest first. Its ranges say where ranks ``[first, last)``
live; over a device's ranges each rank of ``[0, rows)`` occurs exactly once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screc.errors import ConfigError

Tier = Literal["onchip", "tt", "dram", "ssd"]

FORMAT_VERSION = 1
"""Version of the layout of ``plan.json``."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CoreCounts(_Record):
    """Cores of a device."""

    memory: int
    """Memory-centric cores, one AXI port each."""
    tt: int = 0
    """Tensor-train lanes."""
    compute: int = 1
    """Compute-centric cores."""


class CoreShapes(_Record):
    """Shapes of a device's cores."""

    rows: int
    """Samples of a sub-batch: rows of the array."""
    columns: int
    """Output channels at a time: columns of the array."""
    pool_beats: int = 1
    """Row slices that a memory core pools per cycle."""
    outstanding: int = 64
    """Row beats in flight per memory core."""
    onchip_beats: int = 0
    """Beats of on-chip rows per memory core."""
    tt_multipliers: int = 0
    prefixes: int = 0


class Stripe(_Record):
    """Some ranks of a range: those with ``(rank - first) mod of`` in ``take``."""

    of: int
    take: tuple[int, ...]


class Range(_Record):
    """Ranks ``[first, last)`` of a table in one tier."""

    tier: Tier
    first: int
    last: int
    stripe: Stripe | None = None
    """Absent: every rank of the range."""
    core: int | None = None
    """Memory core that the rows belong to; absent for rows on SSD, which any core may be sent."""


class TablePlan(_Record):
    """Where one table's rows live on a device."""

    table: str
    ranges: tuple[Range, ...]

    @property
    def onchip_rows(self) -> int:
        """Count of the hottest ranks that are kept on chip."""
        return max((r.last for r in self.ranges if r.tier == "onchip"), default=0)

    @property
    def resident_rows(self) -> int:
        """Count of the hottest ranks that stay on chip or in DRAM; those behind are on SSD."""
        return max((r.last for r in self.ranges if r.tier in ("onchip", "dram")), default=0)


def table_ranges(
    rows: int, resident: int, cores: int, shift: int, *, onchip: int = 0
) -> tuple[Range, ...]:
    """Ranges of a table whose ``resident`` hottest ranks are striped over memory cores.

    Of those the ``onchip`` hottest ones are on chip and the others in DRAM. Core ``c`` takes the
    ranks that are ``(c + shift) mod cores``; the ranks from ``resident`` on are on SSD.
    """
    ranges = []
    parts: tuple[tuple[Tier, int, int], ...] = (
        ("onchip", 0, onchip),
        ("dram", onchip, resident),
    )
    for tier, first, last in parts:
        for core in range(cores if first < last else 0):
            take = (core + shift - first) % cores
            stripe = Stripe(of=cores, take=(take,)) if cores > 1 else None
            ranges.append(Range(tier=tier, first=first, last=last, stripe=stripe, core=core))
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
    utilisation: dict[str, float]
    """Used ÷ usable of ``lut``, ``ff``, ``dsp``, ``bram36``, ``uram``, ``dram``, ``ssd``."""
    tables: tuple[TablePlan, ...]


class Plan(_Record):
    """A whole plan; times are seconds per sample."""

    version: int = FORMAT_VERSION
    objective: Literal["throughput", "energy", "devices"]
    batch: int
    """Samples of a block that the plan was made for."""
    bound: float
    """No plan of this model is faster: the solver's dual bound."""
    value: float
    """This plan's time, recomputed on integer rows."""
    gap: float
    """|value - bound| / bound."""
    solve_seconds: float
    bottleneck: str
    """Key of ``per_sample`` that sets the pace."""
    per_sample: dict[str, float]
    """Seconds per sample that each resource is busy."""
    ssd_reads: float
    """Expected 4 KiB reads per sample."""
    devices: tuple[DevicePlan, ...]
    cartesian: tuple[tuple[str, str], ...] = ()
    """Pairs of tables merged into one; none so far."""

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
