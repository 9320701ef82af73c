"""Row order of a table: id to frequency rank and back, without an entry per row.

Hot ids take ranks ``0..hot-1`` in the order given; every other id keeps its id order behind them.
A bitmap says which ids are hot, and a directory how many hot ids lie before each block of it, so
the position of an id among the hot ones costs one word and one population count:

    position(id)  = directory[id / 256] + ones before the id in its block
    rank(hot id)  = hot_rank[position]
    rank(other)   = hot + id - position

A row costs 1.125 bits, a hot id 4 bytes more, and both parts are memory-mapped.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from screc import files
from screc.errors import ConfigError

MAGIC = b"SCRECMAP"
VERSION = 1
PAGE_BYTES = 4096
"""The parts of a file start at pages, and pages without a hot id are holes."""

HEADER_BYTES = PAGE_BYTES
"""The file's header: :data:`MAGIC`, then JSON, padded with blanks."""

WORD_BITS = 64
BLOCK_LOG2 = 8
BLOCK_BITS = 1 << BLOCK_LOG2
BLOCK_WORDS = BLOCK_BITS // WORD_BITS
"""Words of the bitmap per directory entry: half a cache line."""

MAX_ROWS = (1 << 32) - 1
"""Ranks are unsigned 32-bit."""

LOOKUPS_AT_ONCE = 1 << 14
"""Lookups ranked at a time: the temporaries stay in the second-level cache."""

WORDS_AT_ONCE = 1 << 17
"""Words of the bitmap that are unpacked at a time."""

Words = NDArray[np.uint64]
Counts = NDArray[np.uint32]

_BITS_BELOW: Words = np.array(
    [
        [
            (1 << min(max(place - first, 0), WORD_BITS)) - 1
            for first in range(0, BLOCK_BITS, WORD_BITS)
        ]
        for place in range(BLOCK_BITS)
    ],
    np.uint64,
)
"""Masks of the bits before each place of a block, ``(256, 4)``."""


class TableRemap:
    """Row order of one table; make it with :meth:`build` or :meth:`load`.

    Parameters
    ----------
    rows
        Rows of the table.
    words
        uint64, whole pages of 512: bit ``i % 64`` of word ``i // 64`` is 1 where id ``i`` is hot.
    directory
        uint32 ``(ceil(rows / 256),)``: hot ids before each block.
    hot_rank
        uint32 ``(hot,)``: rank of the hot ids in id order.
    """

    def __init__(self, rows: int, words: Words, directory: Counts, hot_rank: Counts) -> None:
        self._rows = rows
        # plain views: indexing a memory map costs more
        self._words = np.asarray(words)
        self._blocks = self._words.reshape(-1, BLOCK_WORDS)
        self._directory = np.asarray(directory)
        self._hot_rank = np.asarray(hot_rank)

    @classmethod
    def build(cls, rows: int, hot_ids: NDArray[np.int64]) -> TableRemap:
        """Make the order of a table.

        Parameters
        ----------
        rows
            Rows of the table, 1 to 2**32 - 1.
        hot_ids
            Distinct ids in ``[0, rows)``, hottest first; may be empty.

        Raises
        ------
        ValueError
            If ``rows`` or an id is out of range, or an id occurs twice.
        """
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"rows must lie in 1..{MAX_ROWS}, not {rows}")
        hot = np.asarray(hot_ids, np.int64)
        order = np.argsort(hot, kind="stable")
        ids = hot[order]
        if len(ids) and not (ids[0] >= 0 and ids[-1] < rows):
            wrong = ids[0] if ids[0] < 0 else ids[-1]
            raise ValueError(f"hot ids must lie in [0, {rows}), not {wrong}")
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise ValueError(f"hot ids must be distinct, {twice[0]} occurs twice")
        count = -(-rows // BLOCK_BITS)
        words = np.zeros(_bitmap_words(rows), np.uint64)
        _set_bits(words, ids)
        before = np.searchsorted(ids, np.arange(count, dtype=np.int64) * BLOCK_BITS)
        return cls(rows, words, before.astype(np.uint32), order.astype(np.uint32))

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self._rows

    @property
    def hot(self) -> int:
        """Ids that are ranked explicitly."""
        return len(self._hot_rank)

    @property
    def nbytes(self) -> int:
        """Bytes of bitmap, directory and ranks."""
        return self._words.nbytes + self._directory.nbytes + self._hot_rank.nbytes

    def ranks(self, ids: NDArray[np.int64]) -> Counts:
        """Rank of every id.

        Parameters
        ----------
        ids
            int64 ``(n,)`` in ``[0, rows)``.

        Returns
        -------
        uint32 ``(n,)``
            A permutation of ``[0, rows)`` over all ids.

        Raises
        ------
        ValueError
            If an id is out of range.
        """
        ids = np.asarray(ids, np.int64)
        if len(ids) and not (ids.min() >= 0 and ids.max() < self._rows):
            wrong = ids[(ids < 0) | (ids >= self._rows)][0]
            raise ValueError(f"ids must lie in [0, {self._rows}), not {wrong}")
        ranks = np.empty(len(ids), np.uint32)
        for start in range(0, len(ids), LOOKUPS_AT_ONCE):
            part = slice(start, start + LOOKUPS_AT_ONCE)
            self._rank(ids[part], ranks[part])
        return ranks

    def _rank(self, ids: NDArray[np.int64], out: Counts) -> None:
        block, place = ids >> BLOCK_LOG2, ids & (BLOCK_BITS - 1)
        before = np.take(self._blocks, block, axis=0)
        before &= np.take(_BITS_BELOW, place, axis=0)
        # four counts side by side in 32 bits: multiplying adds them up in the top byte, as at most
        # 255 bits are before a place
        counts = np.bitwise_count(before).view(np.uint32).reshape(-1)
        position = counts * np.uint32(0x01010101) >> np.uint32(24)
        position += np.take(self._directory, block)
        np.subtract(ids.astype(np.uint32), position, out=out)
        out += np.uint32(self.hot)
        word = np.take(self._words, ids >> 6)
        bit = (place & (WORD_BITS - 1)).view(np.uint64)
        is_hot = np.flatnonzero((word >> bit) & np.uint64(1))
        out[is_hot] = np.take(self._hot_rank, position[is_hot])

    def ids(self, ranks: NDArray[Any]) -> NDArray[np.int64]:
        """Id of every rank, int64 ``(n,)``: the inverse of :meth:`ranks`.

        The first call makes the inverse of the hot part, 16 bytes per hot id.

        Raises
        ------
        ValueError
            If a rank is out of range.
        """
        ranks = np.asarray(ranks, np.int64)
        if len(ranks) and not (ranks.min() >= 0 and ranks.max() < self._rows):
            wrong = ranks[(ranks < 0) | (ranks >= self._rows)][0]
            raise ValueError(f"ranks must lie in [0, {self._rows}), not {wrong}")
        hot_ids = self._hot_ids
        # non-hot ids below the j-th hot id: the r-th non-hot id lies behind every hot id that has
        # at most r of them below
        others = hot_ids - np.arange(self.hot)
        rest = ranks - self.hot
        ids = rest + np.searchsorted(others, rest, side="right")
        is_hot = ranks < self.hot
        ids[is_hot] = self._by_rank[ranks[is_hot]]
        return ids

    @functools.cached_property
    def _hot_ids(self) -> NDArray[np.int64]:
        """Hot ids in id order, from the bitmap."""
        found = []
        for start in range(0, len(self._words), WORDS_AT_ONCE):
            words = self._words[start : start + WORDS_AT_ONCE]
            used = np.flatnonzero(words)
            octets = words[used].view(np.uint8).reshape(-1, WORD_BITS // 8)
            word, bit = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
            found.append((used[word] + start) * WORD_BITS + bit)
        return np.concatenate(found)

    @functools.cached_property
    def _by_rank(self) -> NDArray[np.int64]:
        """Hot ids in rank order."""
        ids = np.empty(self.hot, np.int64)
        ids[self._hot_rank] = self._hot_ids
        return ids

    def save(self, path: Path) -> None:
        """Write the order to a file, whole or not at all; pages of no hot id take no space."""
        pages = _pages(self._words)
        used = np.flatnonzero(pages.any(axis=1))
        header = {
            "version": VERSION,
            "rows": self._rows,
            "hot": self.hot,
            "sha256": _digest(self._directory, self._hot_rank, pages, used),
        }
        text = MAGIC + json.dumps(header).encode()
        directory_at, hot_rank_at, bitmap_at, end = _offsets(self._rows, self.hot)
        with files.atomic_file(path) as temporary, temporary.open("wb") as stream:
            stream.write(text.ljust(HEADER_BYTES))
            stream.seek(directory_at)
            stream.write(self._directory.tobytes())
            stream.seek(hot_rank_at)
            stream.write(self._hot_rank.tobytes())
            for run in np.split(used, np.flatnonzero(np.diff(used) > 1) + 1):
                if len(run):
                    stream.seek(bitmap_at + int(run[0]) * PAGE_BYTES)
                    stream.write(pages[run[0] : run[-1] + 1].tobytes())
            stream.truncate(end)

    @classmethod
    def load(cls, path: Path) -> TableRemap:
        """Map a file that :meth:`save` wrote.

        Raises
        ------
        ConfigError
            If the file is something else, of another version, or damaged.
        """
        try:
            with path.open("rb") as stream:
                header = _read_header(path, stream)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
        rows, hot = int(header["rows"]), int(header["hot"])
        directory_at, hot_rank_at, bitmap_at, end = _offsets(rows, hot)
        if path.stat().st_size != end:
            raise ConfigError(
                f"is damaged: {rows} rows of which {hot} are hot take {end} bytes, not "
                f"{path.stat().st_size}; run `screc compile --force`",
                path=path,
            )
        count = -(-rows // BLOCK_BITS)
        directory = np.memmap(path, np.dtype("<u4"), "r", directory_at, (count,))
        # an empty part cannot be mapped
        hot_rank = (
            np.memmap(path, np.dtype("<u4"), "r", hot_rank_at, (hot,))
            if hot
            else np.empty(0, np.uint32)
        )
        padded = (end - bitmap_at) // (WORD_BITS // 8)
        words = np.memmap(path, np.dtype("<u8"), "r", bitmap_at, (padded,))
        pages = _pages(words)
        if (
            _digest(directory, hot_rank, pages, np.flatnonzero(pages.any(axis=1)))
            != header["sha256"]
        ):
            raise ConfigError(
                "is damaged: its checksum is wrong; run `screc compile --force`", path=path
            )
        return cls(rows, words, directory, hot_rank)


def _set_bits(words: Words, ids: NDArray[np.int64]) -> None:
    """Set the bits of ascending ``ids``."""
    if not len(ids):
        return
    word = ids >> 6
    first = np.flatnonzero(np.diff(word, prepend=-1))
    bits = np.uint64(1) << (ids & (WORD_BITS - 1)).astype(np.uint64)
    words[word[first]] = np.bitwise_or.reduceat(bits, first)


def _padded(size: int) -> int:
    """Round up to whole pages."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _bitmap_words(rows: int) -> int:
    """Words of a bitmap: whole pages, so that files and memory are cut alike."""
    return _padded(-(-rows // 8)) * 8 // WORD_BITS


def _offsets(rows: int, hot: int) -> tuple[int, int, int, int]:
    """Byte offsets in a file: directory, hot ranks, bitmap, end."""
    directory = HEADER_BYTES
    hot_rank = directory + _padded(-(-rows // BLOCK_BITS) * 4)
    bitmap = hot_rank + _padded(hot * 4)
    return directory, hot_rank, bitmap, bitmap + _bitmap_words(rows) * WORD_BITS // 8


def _pages(words: Words) -> Words:
    return words.reshape(-1, PAGE_BYTES * 8 // WORD_BITS)


def _digest(directory: Counts, hot_rank: Counts, pages: Words, used: NDArray[np.intp]) -> str:
    """Hash what is not zero; ``used`` are the pages that are not."""
    digest = hashlib.sha256(used.astype("<i8").tobytes())
    for part in (directory, hot_rank, pages[used]):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _read_header(path: Path, stream: IO[bytes]) -> dict[str, Any]:
    head = stream.read(HEADER_BYTES)
    if not head.startswith(MAGIC):
        raise ConfigError(
            f"is no row order: must start with {MAGIC!r}, not {head[:8]!r}", path=path
        )
    try:
        header = json.loads(head[len(MAGIC) :])
    except ValueError as error:
        raise ConfigError(f"is damaged: its header is no JSON: {error}", path=path) from error
    if header.get("version") != VERSION:
        raise ConfigError(
            f"has version {header.get('version')}, this tool reads {VERSION}; run "
            "`screc compile --force`",
            path=path,
        )
    return dict(header)
