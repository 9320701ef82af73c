"""The ``encode`` benchmark: how fast ids become frequency ranks, which every lookup needs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from screc.logs.synthetic import scatter, zipf_ranks
from screc.remap import TableRemap

ROWS = (40_000_000, 1_000_000_000)
"""Rows of the tables: the largest of MLPerf's DLRM, and a billion."""

HOT_ROWS = 1_000_000
EXPONENT = 1.05
LOOKUPS = 4_000_000
REPEATS = 5
SEED = 0


def bench_encode(
    rows: Sequence[int] = ROWS, *, hot_rows: int = HOT_ROWS, lookups: int = LOOKUPS
) -> list[dict[str, Any]]:
    """Measure the row order of a table on one core, memory-mapped from a file.

    Parameters
    ----------
    rows
        Rows of each table that is measured.
    hot_rows
        Rows that are ranked explicitly, at most half of a table's.
    lookups
        Ids, Zipf-distributed with exponent :data:`EXPONENT`, ranked in each of
        :data:`REPEATS` runs, of which the fastest counts.

    Returns
    -------
    list of dict
        Per table ``rows``, ``hot_rows``, ``lookups``, ``lookups_per_s_per_core``,
        ``bytes_per_row`` (of the parts in memory), ``file_bytes`` (that the file takes on disk),
        ``kind``.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [
            _measure(Path(folder) / f"{count}.bin", count, min(hot_rows, count // 2), lookups)
            for count in rows
        ]


def bench() -> list[dict[str, Any]]:
    """Run :func:`bench_encode` as ``screc bench encode`` does."""
    return bench_encode()


def _measure(path: Path, rows: int, hot_rows: int, lookups: int) -> dict[str, Any]:
    TableRemap.build(rows, scatter(np.arange(hot_rows), rows)).save(path)
    remap = TableRemap.load(path)
    rng = np.random.default_rng(SEED)
    ids = scatter(zipf_ranks(rng, lookups, rows, EXPONENT), rows)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        remap.ranks(ids)
        seconds.append(time.perf_counter() - started)
    return {
        "rows": rows,
        "hot_rows": hot_rows,
        "lookups": lookups,
        "lookups_per_s_per_core": lookups / min(seconds),
        "bytes_per_row": remap.nbytes / rows,
        "file_bytes": path.stat().st_blocks * 512,
        "kind": "measured",
    }
