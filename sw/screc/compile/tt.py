"""TT cores of the ranges that a plan has in TT form: decomposed once, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc import files
from screc.compile.layout import Layout
from screc.errors import ConfigError
from screc.flow import Context, model_inputs, source_hash
from screc.plan.schema import TtPart
from screc.remap import TableRemap
from screc.stats import TableStats
from screc.tt.decompose import FloatTt, decompose
from screc.tt.quantise import quantise_tt, reconstructor_table
from screc_hw.tt.image import TtTable
from screc_hw.tt.shape import TtShape
from screc_sim.golden.quant import QuantModel, RowSource, TtRange

CACHE = "tt"
"""Folder of decomposed tables in the output folder."""

UNREAD = 0.5
"""Lookups that all rows that were never read count for together, where none is expected: rows
without any weight could become anything."""


class RankedRows:
    """Rows of ranks ``[first, last)`` of a table, as a source of its own.

    Parameters
    ----------
    source, remap
        The table and its row order.
    first, last
        The ranks.
    """

    def __init__(self, source: RowSource, remap: TableRemap, first: int, last: int) -> None:
        self._source = source
        self._remap = remap
        self._first = first
        self._rows = last - first

    @property
    def rows(self) -> int:
        """Count of rows."""
        return self._rows

    @property
    def dim(self) -> int:
        """Components of a row."""
        return self._source.dim

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows of ranks ``first + ids`` as float32 ``(len(ids), dim)``."""
        return self._source.fetch(self._remap.ids(ids + self._first))

    def peak(self) -> float:
        """Return a bound of the magnitudes, the whole table's."""
        return self._source.peak()


def lookup_weights(stats: TableStats, first: int, last: int) -> NDArray[np.float64]:
    """Expected lookups of ranks ``[first, last)``, by the profile part alone, float64 ``(n,)``.

    What is expected of rows never read is spread evenly over them.
    """
    unread = stats.unseen_estimate * stats.profile_lookups or UNREAD
    weights = np.full(last - first, unread / max(stats.rows - stats.hot, 1))
    seen = stats.hot_counts[first:last]
    weights[: len(seen)] = seen
    return weights


def decompose_ranks(
    source: RowSource, remap: TableRemap, stats: TableStats, first: int, shape: TtShape
) -> FloatTt:
    """Decompose ranks ``[first, first + shape.rows)`` of a table, the often read ones best."""
    last = first + shape.rows
    rows = RankedRows(source, remap, first, last)
    return decompose(rows, shape, weights=lookup_weights(stats, first, last))


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Decomposed tables on disk, by a hash of all that they depend on."""

    folder: Path

    def get(self, key: str, shape: TtShape) -> FloatTt | None:
        """Return the table of a key, None where it is not there or unreadable."""
        try:
            # a stream, for numpy would leave a file open that is no archive
            with self._path(key).open("rb") as stream, np.load(stream) as archive:
                one, two, three = (archive[f"core{i}"] for i in range(3))
            return FloatTt(shape, (one, two, three))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def put(self, key: str, tt: FloatTt) -> None:
        """Keep a table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        one, two, three = tt.cores
        with files.atomic_file(self._path(key)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, core0=one, core1=two, core2=three)

    def keep_only(self, keys: list[str]) -> None:
        """Delete all others."""
        for path in self.folder.glob("*.npz"):
            if path.stem not in keys:
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def _key(ctx: Context, table: int, stats: TableStats, part: TtPart) -> str:
    digest = hashlib.sha256(stats.hot_ids.tobytes() + stats.hot_counts.tobytes())
    material: list[Any] = [
        source_hash(),
        model_inputs(ctx),
        table,
        part.first,
        dataclasses.asdict(part.shape),
        stats.profile_lookups,
    ]
    digest.update(json.dumps(material, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def add_tt(
    ctx: Context,
    model: QuantModel,
    layout: Layout,
    fraction: int,
    stats: list[TableStats],
    remaps: list[TableRemap],
) -> QuantModel:
    """Return the model with the TT rows that the layout asks for.

    Decomposed tables are kept in the folder :data:`CACHE` of the output, those of this plan alone.

    Raises
    ------
    ConfigError
        If a table cannot be decomposed or quantised; names it.
    """
    stored = _Stored(ctx.out / CACHE)
    ranges, keys = {}, []
    parts = [(i, place.tt) for i, place in enumerate(layout.tables) if place.tt is not None]
    with ctx.progress("decomposing tables", len(parts)) as bar:
        for i, part in parts:
            table = model.tables[i]
            keys.append(_key(ctx, i, stats[i], part))
            tt = stored.get(keys[-1], part.shape)
            try:
                if tt is None:
                    tt = decompose_ranks(table.source, remaps[i], stats[i], part.first, part.shape)
                    stored.put(keys[-1], tt)
                rows = quantise_tt(tt, table.scale, fraction)
                ranges[i] = TtRange(part.first, rows, remaps[i])
            except ValueError as error:
                raise ConfigError(
                    f"table {layout.tables[i].name!r} in TT form: {error}", field="plan.table"
                ) from error
            bar.advance()
    stored.keep_only(keys)
    return model.with_tt(fraction, ranges)


def reconstructor_tables(model: QuantModel, layout: Layout) -> list[TtTable]:
    """Tables as every reconstructor holds them, in order of the model's tables."""
    tables = []
    for table, place in zip(model.tables, layout.tables, strict=True):
        if table.tt is not None and place.tt is not None:
            tables.append(reconstructor_table(table.tt.rows, place.tt.pins))
    return tables
