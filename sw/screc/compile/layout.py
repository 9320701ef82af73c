"""Where everything lies: in the buffer of each memory core, and in the image of the SSD."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from screc.errors import ConfigError
from screc.plan.schema import DevicePlan, Range, table_ranges
from screc_hw.model import ModelShape, TableShape
from screc_hw.params import DeviceParams

LAYOUT_VERSION = 1
"""Version of ``layout.json`` and of the images that it describes."""

PAGE_BYTES = 4096
"""Read unit of the SSD; its tables start at one. Source: NVMe drives' 4 KiB logical page."""


def striped_rows(rows: int, cores: int, residue: int) -> int:
    """Count the ranks below ``rows`` that are ``residue`` modulo ``cores``."""
    return max(0, -(-(rows - residue) // cores))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableLayout:
    """A table: ``stride`` bytes from row to row; ranks below ``dram_rows`` in DRAM, others on SSD.

    Rank ``r`` below ``dram_rows`` belongs to memory core ``(r - shift) mod cores``, as its local
    row ``r div cores``. ``offsets`` per memory core: byte offset, from the core's base, of its
    first row; ``ssd_offset``: byte offset of rank ``dram_rows`` in the SSD image.
    """

    name: str
    rows: int
    dram_rows: int
    shift: int
    stride: int
    row_bytes: int
    row_beats: int
    offsets: tuple[int, ...]
    ssd_offset: int

    @property
    def ssd_rows(self) -> int:
        """Rows on SSD."""
        return self.rows - self.dram_rows

    def residue(self, core: int) -> int:
        """Low rank bits of the rows that memory core ``core`` holds."""
        return (core + self.shift) % len(self.offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreLayout:
    """The buffer of one memory core: its rows (``image_bytes``), staging ring, lookup sections.

    Offsets are bytes from the core's base pointer, whole beats; ``staging_beats`` may be 0. The
    lookup area has no end of its own: what follows ``lookup_offset`` is for requests.
    """

    image_bytes: int
    staging_offset: int
    staging_beats: int
    lookup_offset: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Memory of a whole device; the count of memory cores is a power of two."""

    beat_bytes: int
    cores: tuple[CoreLayout, ...]
    tables: tuple[TableLayout, ...]
    ssd_bytes: int

    @property
    def stripe_log2(self) -> int:
        """log2 of the memory cores that ranks are striped over."""
        return (len(self.cores) - 1).bit_length()

    def save(self, path: Path) -> None:
        """Write ``layout.json``."""
        data = {"version": LAYOUT_VERSION, **dataclasses.asdict(self)}
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Layout:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ConfigError
            If the file is of another version or not a layout; names the file.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = data.pop("version")
            if version != LAYOUT_VERSION:
                raise ConfigError(
                    f"must be {LAYOUT_VERSION}, not {version}; run `screc compile` again",
                    path=path,
                    field="version",
                )
            cores = tuple(CoreLayout(**core) for core in data.pop("cores"))
            tables = tuple(
                TableLayout(**{**table, "offsets": tuple(table["offsets"])})
                for table in data.pop("tables")
            )
            return cls(cores=cores, tables=tables, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"is no memory layout: {error}", path=path) from error


def _beats_up(size: int, beat: int) -> int:
    return -(-size // beat) * beat


def make_layout(device: DevicePlan, shape: ModelShape, params: DeviceParams) -> Layout:
    """Lay out ``device``: tables in the model's order, each beat-aligned, then ring, then lookups.

    Raises
    ------
    ConfigError
        If the plan is for other tables or memory cores than model and parameters say.
    """
    beat, cores = params.gather.beat_bytes, params.memory
    places = _dram_parts(device, shape, cores)
    ends = [0] * cores
    tables, ssd_end = [], 0
    for table, (dram_rows, shift) in zip(shape.tables, places, strict=True):
        entry = TableLayout(
            name=table.name,
            rows=table.rows,
            dram_rows=dram_rows,
            shift=shift,
            stride=table.stride_bytes(beat),
            row_bytes=table.row_bytes,
            row_beats=table.row_beats(beat),
            offsets=tuple(ends),
            ssd_offset=ssd_end,
        )
        for core in range(cores):
            rows = striped_rows(dram_rows, cores, entry.residue(core))
            ends[core] = _up(ends[core] + rows * entry.stride, beat)
        ssd_end = _up(ssd_end + entry.ssd_rows * entry.stride, PAGE_BYTES)
        tables.append(entry)
    rings = [striped_rows(device.staging_bytes // beat, cores, core) for core in range(cores)]
    return Layout(
        beat_bytes=beat,
        cores=tuple(
            CoreLayout(
                image_bytes=end,
                staging_offset=end,
                staging_beats=ring,
                lookup_offset=end + ring * beat,
            )
            for end, ring in zip(ends, rings, strict=True)
        ),
        tables=tuple(tables),
        ssd_bytes=ssd_end,
    )


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _dram_parts(device: DevicePlan, shape: ModelShape, cores: int) -> list[tuple[int, int]]:
    """(DRAM rows, shift) of every table of ``shape``, if the plan is for this device."""
    if device.cores.memory != cores:
        raise ConfigError(f"the plan has {device.cores.memory} memory cores, the device {cores}")
    plans = {table.table: table for table in device.tables}
    if set(plans) != {table.name for table in shape.tables}:
        raise ConfigError(
            f"the plan's tables {sorted(plans)} must be the model's, "
            f"{sorted(table.name for table in shape.tables)}"
        )
    return [_dram_part(plans[table.name].ranges, table, cores) for table in shape.tables]


def _dram_part(ranges: Sequence[Range], table: TableShape, cores: int) -> tuple[int, int]:
    """(DRAM rows, shift) of ``table``, if its ranges are of the one form that is built so far."""
    dram = {r.core: r for r in ranges if r.tier == "dram"}
    count, shift = 0, 0
    if 0 in dram:
        stripe = dram[0].stripe
        count, shift = dram[0].last, stripe.take[0] if stripe else 0
    expected = table_ranges(table.rows, count, cores, shift)
    if sorted(ranges, key=repr) != sorted(expected, key=repr):
        raise ConfigError(
            f"ranges of table {table.name!r} must be dram [0, n), striped over all {cores} memory "
            f"cores by one residue each, then ssd [n, {table.rows})"
        )
    return count, shift
