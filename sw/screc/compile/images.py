"""Table images: rows in rank order, streamed, so that a large model needs little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import Layout, TableLayout
from screc.remap import TableRemap
from screc_sim.golden.quant import QuantTable
from screc_sim.golden.rowwise import pack_rows

CHUNK_BYTES = 4 << 20
"""Codes made at a time: their float rows, four times as large, still fit a server's cache."""


def pack_codes(codes: NDArray[np.int8], format_: str) -> NDArray[np.uint8]:
    """Bytes ``(n, row bytes)`` of int8 codes ``(n, dim)`` of a table with one scale.

    ``int4`` puts two codes in a byte, the first one in the low nibble.
    """
    if format_ == "int4":
        nibbles = codes.view(np.uint8) & 0xF
        return (nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8, copy=False)
    return codes.view(np.uint8)


def stored_rows(table: QuantTable, ids: NDArray[np.int64], stride: int) -> NDArray[np.uint8]:
    """Rows ``ids`` as memory holds them, ``(n, stride)``: zeros behind codes and tail."""
    if table.rowwise:
        body = pack_rows(table.packed(ids), table.format)
    else:
        body = pack_codes(table.codes(ids), table.format)
    if body.shape[1] == stride:
        return body
    rows = np.zeros((len(body), stride), np.uint8)
    rows[:, : body.shape[1]] = body
    return rows


def _chunks(
    table: QuantTable, remap: TableRemap, stride: int, first: int, last: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Stored rows of ranks ``[first, last)`` as (first rank, rows) of bounded size."""
    step = max(1, CHUNK_BYTES // table.source.dim)
    for start in range(first, last, step):
        ranks = np.arange(start, min(start + step, last))
        ids = np.asarray(remap.ids(ranks), np.int64)
        yield start, stored_rows(table, ids, stride)


def _write_resident(
    files: Sequence[BinaryIO],
    place: TableLayout,
    offsets: Sequence[int],
    start: int,
    rows: NDArray[np.uint8],
) -> None:
    """Write rows to the memory cores that hold them.

    ``start`` is the first one's number in its tier, whose rows of a core begin at ``offsets``.
    """
    step = place.stripe
    for core, file in enumerate(files):
        skip = (place.residue(core) - start) % step
        mine, first = rows[skip::step], start + skip
        file.seek(offsets[core] + first // step * place.stride)
        file.write(mine.tobytes())


def write_table_images(
    folder: Path,
    layout: Layout,
    tables: tuple[QuantTable, ...],
    remaps: list[TableRemap],
    advance: Callable[[float], None],
) -> list[Path]:
    """Write ``mem<i>.bin`` of every memory core, and ``onchip<i>.bin`` and ``ssd.bin`` if needed.

    Parameters
    ----------
    folder
        Where the images go.
    layout, tables, remaps
        Memory of the device; rows and row order of every table.
    advance
        Called with the count of rows written.

    Returns
    -------
    list of Path
        The files written. Parts that no row covers are holes of zeros.
    """
    sizes = {folder / f"mem{i}.bin": core.image_bytes for i, core in enumerate(layout.cores)}
    if layout.onchip_bytes:
        sizes |= {onchip_path(folder, i): core.onchip_bytes for i, core in enumerate(layout.cores)}
    if layout.ssd_bytes:
        sizes[folder / "ssd.bin"] = layout.ssd_bytes
    count = len(layout.cores)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in sizes]
        for file, size in zip(files, sizes.values(), strict=True):
            file.truncate(size)
        dram, onchip = files[:count], files[count : 2 * count]
        for place, table, remap in zip(layout.tables, tables, remaps, strict=True):
            first, end = place.dram_first, place.resident_rows
            for start, rows in _chunks(table, remap, place.stride, 0, place.onchip_rows):
                _write_resident(onchip, place, place.onchip_offsets, start, rows)
                advance(len(rows))
            for start, rows in _chunks(table, remap, place.stride, first, end):
                _write_resident(dram, place, place.offsets, start - first, rows)
                advance(len(rows))
            if place.ssd_rows:
                files[-1].seek(place.ssd_offset)
            for _, rows in _chunks(table, remap, place.stride, end, place.rows):
                files[-1].write(rows.data)
                advance(len(rows))
    return list(sizes)


def write_weights(folder: Path, layout: Layout, words: NDArray[np.uint64]) -> None:
    """Write streamed weights behind the rows of every memory core that compute cores read from."""
    for i, core in enumerate(layout.cores):
        if core.weight_bytes:
            with (folder / f"mem{i}.bin").open("r+b") as file:
                file.seek(core.weight_offset)
                file.write(words.tobytes())


def onchip_path(folder: Path, core: int) -> Path:
    """Image of the on-chip rows of memory core ``core``."""
    return folder / f"onchip{core}.bin"


def read_onchip(folder: Path, layout: Layout) -> list[bytes]:
    """On-chip rows of every memory core; empty where there are none."""
    return [
        onchip_path(folder, i).read_bytes() if core.onchip_bytes else b""
        for i, core in enumerate(layout.cores)
    ]
