"""Where everything lies: in the buffer of each memory core, and in the image of the SSD."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from screc.errors import ConfigError
from screc.plan.schema import DevicePlan, TablePlan, TtPart, table_ranges
from screc_hw.compute.program import streamed_beats
from screc_hw.model import ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES
from screc_hw.tt.shape import TtShape

LAYOUT_VERSION = 5
"""Version of ``layout.json`` and of the images that it describes."""

PAGE_BYTES = 4096
"""Read unit of the SSD; its tables start at one. Source: NVMe drives' 4 KiB logical page."""


def striped_rows(rows: int, cores: int, residue: int) -> int:
    """Count the ranks below ``rows`` that are ``residue`` modulo ``cores``."""
    return max(0, -(-(rows - residue) // cores))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableLayout:
    """A table: ``stride`` bytes from row to row, wherever they are.

    Ranks below ``onchip_rows`` are on chip, those up to ``dram_first`` in TT form, those up to
    ``resident_rows`` in DRAM, others on SSD. Rank ``r`` below ``resident_rows`` belongs to memory
    core ``(r - shift) mod cores``, as local row ``(r - first) div cores`` on chip and in DRAM,
    where ``first`` is 0 or ``dram_first``, a multiple of ``cores`` where DRAM holds any row, and
    as row ``r - onchip_rows`` of its reconstructor in TT form.

    Where ``replicated``, every memory core holds all of them, each rank ``r`` as local row
    ``r - first``, and ``dram_first`` may be any rank.

    ``offsets`` per memory core: byte offset, from the core's base, of its first row in DRAM;
    ``onchip_offsets``: likewise in its on-chip memory; ``ssd_offset``: byte offset of rank
    ``resident_rows`` in the SSD image.
    """

    name: str
    rows: int
    onchip_rows: int
    resident_rows: int
    shift: int
    stride: int
    row_bytes: int
    row_beats: int
    offsets: tuple[int, ...]
    onchip_offsets: tuple[int, ...]
    ssd_offset: int
    tt: TtPart | None = None
    replicated: bool = False

    @property
    def stripe(self) -> int:
        """Memory cores that the rows are striped over: 1 where each of them holds all rows."""
        return 1 if self.replicated else len(self.offsets)

    @property
    def stripe_log2(self) -> int:
        """log2 of :attr:`stripe`."""
        return (self.stripe - 1).bit_length()

    @property
    def dram_first(self) -> int:
        """Rank from which on rows are in DRAM."""
        return self.onchip_rows if self.tt is None else self.tt.last

    @property
    def dram_rows(self) -> int:
        """Rows in DRAM."""
        return self.resident_rows - self.dram_first

    @property
    def ssd_rows(self) -> int:
        """Rows on SSD."""
        return self.rows - self.resident_rows

    def residue(self, core: int) -> int:
        """Low rank bits of the rows that memory core ``core`` holds."""
        return (core + self.shift) % self.stripe


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreLayout:
    """The buffer of one memory core: its rows, staging ring, lookup sections.

    ``image_bytes`` hold its rows and, from ``weight_offset`` on, ``weight_bytes`` of weights that
    compute cores stream. Offsets are bytes from the core's base pointer, whole beats;
    ``staging_beats`` may be 0. The lookup area has no end of its own: what follows
    ``lookup_offset`` is for requests. ``onchip_bytes`` of its on-chip memory hold rows, whole
    beats.
    """

    onchip_bytes: int
    image_bytes: int
    weight_offset: int
    weight_bytes: int
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
    def onchip_bytes(self) -> int:
        """Bytes of on-chip rows, all memory cores together."""
        return sum(core.onchip_bytes for core in self.cores)

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
            tables = tuple(_table(table) for table in data.pop("tables"))
            return cls(cores=cores, tables=tables, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"is no memory layout: {error}", path=path) from error


def make_layout(device: DevicePlan, shape: ModelShape, params: DeviceParams) -> Layout:
    """Lay out ``device``: tables in the model's order, each beat-aligned, then ring, then lookups.

    Raises
    ------
    ConfigError
        If the plan is for other tables or memory cores than model and parameters say.
    """
    beat, cores = params.gather.beat_bytes, params.memory
    places = _parts(device, shape, cores)
    ends, onchip_ends = [0] * cores, [0] * cores
    tables, ssd_end = [], 0
    for table, part in zip(shape.tables, places, strict=True):
        entry = TableLayout(
            name=table.name,
            rows=table.rows,
            onchip_rows=part.onchip_rows,
            resident_rows=part.resident_rows,
            shift=part.shift,
            stride=table.stride_bytes(beat),
            row_bytes=table.row_bytes,
            row_beats=table.row_beats(beat),
            offsets=tuple(ends),
            onchip_offsets=tuple(onchip_ends),
            ssd_offset=ssd_end,
            tt=part.tt,
            replicated=part.replicated,
        )
        for core in range(cores):
            onchip, before, all_ = (
                striped_rows(rows, entry.stripe, entry.residue(core))
                for rows in (entry.onchip_rows, entry.dram_first, entry.resident_rows)
            )
            onchip_ends[core] = _up(onchip_ends[core] + onchip * entry.stride, beat)
            ends[core] = _up(ends[core] + (all_ - before) * entry.stride, beat)
        ssd_end = _up(ssd_end + entry.ssd_rows * entry.stride, PAGE_BYTES)
        tables.append(entry)
    if max(onchip_ends) > params.gather.onchip_beats * beat:
        raise ConfigError(
            f"the plan has {max(onchip_ends) // beat} beats of on-chip rows for a memory core, "
            f"which has {params.gather.onchip_beats}"
        )
    # compute core c reads from the memory of core c mod cores
    weights = [
        BEAT_BYTES * streamed_beats(shape, params.core) if core < params.compute else 0
        for core in range(cores)
    ]
    rings = [striped_rows(device.staging_bytes // beat, cores, core) for core in range(cores)]
    return Layout(
        beat_bytes=beat,
        cores=tuple(
            CoreLayout(
                onchip_bytes=onchip_end,
                image_bytes=end + size,
                weight_offset=end,
                weight_bytes=size,
                staging_offset=end + size,
                staging_beats=ring,
                lookup_offset=end + size + ring * beat,
            )
            for onchip_end, end, size, ring in zip(onchip_ends, ends, weights, rings, strict=True)
        ),
        tables=tuple(tables),
        ssd_bytes=ssd_end,
    )


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _table(data: dict[str, Any]) -> TableLayout:
    """Make a table's layout from its JSON."""
    fields = {name: tuple(data[name]) for name in ("offsets", "onchip_offsets")}
    tt = data["tt"]
    if tt is not None:
        sizes = {name: tuple(tt["shape"][name]) for name in ("p", "q", "ranks")}
        tt = TtPart(**tt | {"shape": TtShape(**tt["shape"] | sizes)})
    return TableLayout(**data | fields | {"tt": tt})


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where a table's rows are, as :class:`TableLayout` says it."""

    onchip_rows: int
    tt: TtPart | None
    resident_rows: int
    shift: int
    replicated: bool


def _parts(device: DevicePlan, shape: ModelShape, cores: int) -> list[_Part]:
    """Return where every table's rows are, if the plan is for this device."""
    if device.cores.memory != cores:
        raise ConfigError(f"the plan has {device.cores.memory} memory cores, the device {cores}")
    plans = {table.table: table for table in device.tables}
    if set(plans) != {table.name for table in shape.tables}:
        raise ConfigError(
            f"the plan's tables {sorted(plans)} must be the model's, "
            f"{sorted(table.name for table in shape.tables)}"
        )
    return [_part(plans[table.name], table, cores) for table in shape.tables]


def _part(plan: TablePlan, table: TableShape, cores: int) -> _Part:
    """Return where a table's rows are, if its ranges are of the one form that is built."""
    onchip, tt, resident = plan.onchip_rows, plan.tt, plan.resident_rows
    exact = onchip if tt is None else tt.last
    replicated = plan.replicated
    if replicated and tt is not None:
        raise ConfigError(
            f"table {table.name!r} has ranks [{tt.first}, {tt.last}) in TT form, so it cannot be "
            "replicated: every memory core's reconstructor holds their TT cores already"
        )
    own = next((r for r in plan.ranges if r.core == 0), None)
    shift = (own.first + own.stripe.take[0]) % cores if own and own.stripe else 0
    expected = table_ranges(
        table.rows, resident, cores, shift, onchip=onchip, tt=tt, replicated=replicated
    )
    aligned = replicated or exact == resident or exact % cores == 0
    if sorted(plan.ranges, key=repr) != sorted(expected, key=repr) or not aligned:
        raise ConfigError(
            f"ranges of table {table.name!r} must be onchip [0, a), tt [a, b), dram [b, c), all "
            f"striped over all {cores} memory cores by the same residue each, then "
            f"ssd [c, {table.rows}); b must be a multiple of {cores}, or c; or, both replicated, "
            f"onchip [0, a) and dram [a, c), then ssd [c, {table.rows})"
        )
    return _Part(onchip, tt, resident, shift, replicated)
