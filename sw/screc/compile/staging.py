"""Rows from SSD: a ring of DRAM per memory core that the host fills ahead of the requests."""

from __future__ import annotations

import dataclasses
import mmap
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES, Layout
from screc.errors import ConfigError, ScrecError

Ints = NDArray[np.int64]


class StagingFullError(ScrecError):
    """A block's rows from SSD find no room in a staging ring.

    ``free`` beats are left of ``length`` in the ring of memory core ``core``; ``needed`` more than
    ``length`` never fits.
    """

    def __init__(self, core: int, needed: int, free: int, length: int) -> None:
        self.core, self.needed, self.free, self.length = core, needed, free, length
        super().__init__(
            f"staging ring of memory core {core}: the block needs {needed} beats of SSD rows and "
            f"{free} of {length} are free; "
            + (
                "retire earlier blocks first"
                if needed <= length
                else "use a smaller plan.batch or more device.0.dram_gib"
            )
        )


@dataclasses.dataclass(frozen=True)
class StagedWrite:
    """Bytes to place before a block runs: ``data`` at ring beat ``beat`` of memory core ``core``.

    In the core's buffer that is byte ``staging_offset + beat * beat_bytes`` of its layout.
    """

    core: int
    beat: int
    data: bytes


class StagingRing:
    """Space of one ring, given to blocks in order and taken back in the same order."""

    def __init__(self, core: int, length: int) -> None:
        self._core = core
        self._length = length
        self._head = 0  # beats given out since the start, waste at the ring's end included
        self._tail = 0

    @property
    def free(self) -> int:
        """Beats not in use."""
        return self._length - (self._head - self._tail)

    @property
    def head(self) -> int:
        """Running position behind the last row, to hand to :meth:`retire` later."""
        return self._head

    def place(self, sizes: Ints) -> Ints:
        """Give each row of ``sizes`` beats its first beat; no row wraps around the ring's end.

        Raises
        ------
        StagingFullError
            If they do not all fit; nothing is taken then.
        """
        if not len(sizes):
            return np.zeros(0, np.int64)
        ends = np.cumsum(sizes)
        needed = int(ends[-1])
        if needed > self.free:
            raise StagingFullError(self._core, needed, self.free, self._length)
        at = self._head % self._length + ends - sizes
        over = np.flatnonzero(at + sizes > self._length)
        waste = 0
        if len(over):
            first = over[0]
            waste = self._length - int(at[first])
            at[first:] -= at[first]
        if needed + waste > self.free:
            raise StagingFullError(self._core, needed + waste, self.free, self._length)
        self._head += needed + waste
        return at

    def undo(self, head: int) -> None:
        """Take back what was given since the head was ``head``."""
        self._head = head

    def retire(self, head: int) -> None:
        """Free everything up to the running position ``head``; an empty ring starts over at 0."""
        self._tail = max(self._tail, head)
        if self._tail == self._head and self._length:
            self._head = self._tail = -(-self._head // self._length) * self._length


@dataclasses.dataclass(frozen=True)
class Staged:
    """The distinct SSD rows of one block.

    ``inverse`` maps each of the block's staged lookups to its row; ``core`` and ``beat`` say where
    row ``i`` is placed; ``pages`` counts the distinct 4 KiB reads that bring them.
    """

    inverse: Ints
    core: Ints
    beat: Ints
    writes: tuple[StagedWrite, ...]
    pages: int

    @property
    def rows(self) -> int:
        """Count of distinct rows."""
        return len(self.core)


class Stager:
    """Places SSD rows into the rings of all memory cores.

    Parameters
    ----------
    layout
        Memory of the device.
    image
        The SSD image; read row by row through a memory map. May be absent without SSD rows.
    """

    def __init__(self, layout: Layout, image: Path) -> None:
        self._layout = layout
        self._rings = [StagingRing(i, core.staging_beats) for i, core in enumerate(layout.cores)]
        self._in_flight: deque[list[int]] = deque()
        self._image = _map(image) if layout.ssd_bytes else np.zeros(0, np.uint8)
        if len(self._image) != layout.ssd_bytes:
            raise ConfigError(
                f"has {len(self._image)} bytes, the layout {layout.ssd_bytes}; "
                "run `screc compile` again",
                path=image,
            )

    def stage(self, tables: Ints, ranks: Ints) -> Staged:
        """Place the distinct rows among lookups of ``ranks`` in ``tables``, both ``(lookups,)``.

        Raises
        ------
        StagingFullError
            If a ring is too full; nothing is placed then.
        """
        if not len(ranks):
            self._in_flight.append([ring.head for ring in self._rings])
            none = np.zeros(0, np.int64)
            return Staged(none, none, none, (), 0)
        layout = self._layout
        rows, inverse = np.unique(tables << 32 | ranks, return_inverse=True)
        table, rank = rows >> 32, rows & 0xFFFFFFFF
        offset, first, stride, beats = (
            np.array([getattr(t, name) for t in layout.tables], np.int64)[table]
            for name in ("ssd_offset", "resident_rows", "stride", "row_beats")
        )
        source = offset + (rank - first) * stride
        core = np.arange(len(rows)) % len(layout.cores)
        heads = [ring.head for ring in self._rings]
        beat = np.zeros(len(rows), np.int64)
        try:
            for i, ring in enumerate(self._rings):
                mine = core == i
                beat[mine] = ring.place(beats[mine])
        except StagingFullError:
            for ring, head in zip(self._rings, heads, strict=True):
                ring.undo(head)
            raise
        self._in_flight.append([ring.head for ring in self._rings])
        writes = [
            write
            for i in range(len(layout.cores))
            for write in self._writes(i, source[core == i], beat[core == i], table[core == i])
        ]
        return Staged(inverse, core, beat, tuple(writes), _pages(source, stride))

    def retire(self) -> None:
        """Free the space of the oldest block not yet retired: its results are back."""
        for ring, head in zip(self._rings, self._in_flight.popleft(), strict=True):
            ring.retire(head)

    def _writes(self, core: int, source: Ints, beat: Ints, table: Ints) -> list[StagedWrite]:
        """Copy rows from the image; rows that follow each other in the ring make one write."""
        if not len(source):
            return []
        unit = self._layout.beat_bytes
        wrap = int(np.argmin(beat))  # the one row that starts again at the ring's first beat
        parts = [slice(0, len(beat))] if wrap == 0 else [slice(0, wrap), slice(wrap, len(beat))]
        writes = []
        for part in parts:
            first = int(beat[part][0])
            last = part.stop - 1
            span = int(beat[last]) - first + self._layout.tables[table[last]].row_beats
            data = np.zeros(span * unit, np.uint8)
            for index in np.unique(table[part]):
                entry = self._layout.tables[index]
                chosen = np.flatnonzero(table[part] == index) + part.start
                inner = np.arange(entry.row_bytes)
                places = (beat[chosen] - first) * unit
                data[places[:, None] + inner] = self._image[source[chosen][:, None] + inner]
            writes.append(StagedWrite(core, first, data.tobytes()))
        return writes


def _map(image: Path) -> NDArray[np.uint8]:
    """Map a file for reads at random: without reading ahead, which rows elsewhere would waste."""
    with image.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8)


def _pages(source: Ints, stride: Ints) -> int:
    """Distinct pages under rows at ``source`` bytes of ``stride`` bytes, at most a page each."""
    ends = (source // PAGE_BYTES, (source + stride - 1) // PAGE_BYTES)
    return len(np.unique(np.concatenate(ends)))
