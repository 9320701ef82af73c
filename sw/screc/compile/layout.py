"""Where everything lies: in the buffer of each memory core, and in the image of the SSD."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from screc.errors import ConfigError
from screc.plan.schema import DevicePlan
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

    ``offsets`` per memory core: byte offset, from the core's base, of its first row; ``ssd_offset``
    byte offset of rank ``dram_rows`` in the SSD image.
    """

    name: str
    rows: int
    dram_rows: int
    stride: int
    row_bytes: int
    row_beats: int
    offsets: tuple[int, ...]
    ssd_offset: int

    @property
    def ssd_rows(self) -> int:
        """Rows on SSD."""
        return self.rows - self.dram_rows


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
    """Memory of a whole device.

    Rank ``r`` of a table's DRAM part belongs to memory core ``r mod len(cores)``, as its local row
    ``r div len(cores)``; the count of cores is a power of two.
    """

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
    beat = params.gather.beat_bytes
    counts = _dram_rows(device, shape, params.memory)
    offsets: list[list[int]] = [[] for _ in shape.tables]
    cores = []
    ring_beats = device.staging_bytes // beat
    for core in range(params.memory):
        end = 0
        for table, count, places in zip(shape.tables, counts, offsets, strict=True):
            places.append(end)
            rows = striped_rows(count, params.memory, core)
            end = _beats_up(end + rows * table.stride_bytes(beat), beat)
        staging_beats = striped_rows(ring_beats, params.memory, core)
        cores.append(
            CoreLayout(
                image_bytes=end,
                staging_offset=end,
                staging_beats=staging_beats,
                lookup_offset=end + staging_beats * beat,
            )
        )
    tables, ssd_end = [], 0
    for table, count, places in zip(shape.tables, counts, offsets, strict=True):
        entry = TableLayout(
            name=table.name,
            rows=table.rows,
            dram_rows=count,
            stride=table.stride_bytes(beat),
            row_bytes=table.row_bytes,
            row_beats=table.row_beats(beat),
            offsets=tuple(places),
            ssd_offset=ssd_end,
        )
        ssd_end = _beats_up(ssd_end + entry.ssd_rows * entry.stride, PAGE_BYTES)
        tables.append(entry)
    return Layout(beat_bytes=beat, cores=tuple(cores), tables=tuple(tables), ssd_bytes=ssd_end)


def _dram_rows(device: DevicePlan, shape: ModelShape, memory: int) -> list[int]:
    """DRAM rows of every table of ``shape``, after checking that the plan is for this device."""
    if device.cores.memory != memory:
        raise ConfigError(f"the plan has {device.cores.memory} memory cores, the device {memory}")
    plans = {table.table: table for table in device.tables}
    if set(plans) != {table.name for table in shape.tables}:
        raise ConfigError(
            f"the plan's tables {sorted(plans)} must be the model's, "
            f"{sorted(table.name for table in shape.tables)}"
        )
    return [_check_ranges(plans[table.name].ranges, table, memory) for table in shape.tables]


def _check_ranges(ranges: tuple[Any, ...], table: TableShape, memory: int) -> int:
    """Return the DRAM rows of ``table`` if its ranges are of the one form that is built so far."""
    dram = [r for r in ranges if r.tier == "dram"]
    ssd = [r for r in ranges if r.tier == "ssd"]
    count = dram[0].last if dram else 0
    taken = {(r.stripe.take if r.stripe else (0,), r.core) for r in dram}
    expected = {((core,), core) for core in range(memory)} if dram else set()
    parts = {r.stripe.of if r.stripe else 1 for r in dram}
    if (
        len(dram) + len(ssd) != len(ranges)
        or any((r.first, r.last) != (0, count) for r in dram)
        or taken != expected
        or parts - {memory}
        or [(r.first, r.last) for r in ssd] != [(count, table.rows)] * (count < table.rows)
        or any(r.stripe for r in ssd)
    ):
        raise ConfigError(
            f"ranges of table {table.name!r} must be dram [0, n), striped over all {memory} memory "
            f"cores, then ssd [n, {table.rows})"
        )
    return count
