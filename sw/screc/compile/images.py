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

CHUNK_BYTES = 4 << 20
"""Codes made at a time: their float rows, four times as large, still fit a server's cache."""


def pack_rows(codes: NDArray[np.int8], format_: str, stride: int) -> NDArray[np.uint8]:
    """Store int8 codes ``(n, dim)`` as rows of ``stride`` bytes, zeros behind them.

    ``int4`` puts two codes in a byte, the first one in the low nibble.
    """
    if format_ == "int4":
        nibbles = codes.view(np.uint8) & 0xF
        body = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8, copy=False)
    else:
        body = codes.view(np.uint8)
    if body.shape[1] == stride:
        return body
    rows = np.zeros((len(body), stride), np.uint8)
    rows[:, : body.shape[1]] = body
    return rows


def _chunks(
    source: QuantTable, remap: TableRemap, stride: int, first: int, last: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Stored rows of ranks ``[first, last)`` as (first rank, rows) of bounded size."""
    step = max(1, CHUNK_BYTES // source.source.dim)
    for start in range(first, last, step):
        ranks = np.arange(start, min(start + step, last))
        ids = np.asarray(remap.ids(ranks), np.int64)
        yield start, pack_rows(source.codes(ids), source.format, stride)


def _write_dram(
    files: Sequence[BinaryIO], place: TableLayout, start: int, rows: NDArray[np.uint8]
) -> None:
    """Write the rows of ranks from ``start`` on to the memory cores that own them."""
    cores = len(files)
    for core, file in enumerate(files):
        skip = (place.residue(core) - start) % cores
        mine, first = rows[skip::cores], start + skip
        file.seek(place.offsets[core] + first // cores * place.stride)
        file.write(mine.tobytes())


def write_table_images(
    folder: Path,
    layout: Layout,
    tables: tuple[QuantTable, ...],
    remaps: list[TableRemap],
    advance: Callable[[float], None],
) -> list[Path]:
    """Write ``mem<i>.bin`` of every memory core and, if rows are on SSD, ``ssd.bin``.

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
    paths = [folder / f"mem{core}.bin" for core in range(len(layout.cores))]
    sizes = [core.image_bytes for core in layout.cores]
    if layout.ssd_bytes:
        paths.append(folder / "ssd.bin")
        sizes.append(layout.ssd_bytes)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for file, size in zip(files, sizes, strict=True):
            file.truncate(size)
        for place, table, remap in zip(layout.tables, tables, remaps, strict=True):
            for start, rows in _chunks(table, remap, place.stride, 0, place.dram_rows):
                _write_dram(files[: len(layout.cores)], place, start, rows)
                advance(len(rows))
            if place.ssd_rows:
                files[-1].seek(place.ssd_offset)
            for _, rows in _chunks(table, remap, place.stride, place.dram_rows, place.rows):
                files[-1].write(rows.data)
                advance(len(rows))
    return paths
