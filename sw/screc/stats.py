"""Access statistics of every table: what analyze counts, and what plan and compile go by.

Hot rows are chosen on the profile part of a log, and their accesses are counted on the later
hold-out part, as a plan will meet them: a curve of the part that chose them looks too good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from screc import files
from screc.errors import ConfigError

FORMAT_VERSION = 1
"""Version of the columns of ``stats.parquet``."""

ICDF_STEPS = 100
"""Steps of the inverse cumulative frequency: one per percent of the accesses."""

MERGE_AT = 1 << 20
"""Ids that a counter gathers before it sorts them."""

Ints = NDArray[np.int64]


class IdCounter:
    """Counts ids in memory that grows with the distinct ids, not with the ids added."""

    def __init__(self) -> None:
        self._ids: Ints = np.empty(0, np.int64)
        self._counts: Ints = np.empty(0, np.int64)
        self._waiting: list[Ints] = []
        self._waiting_ids = 0

    def add(self, ids: Ints) -> None:
        """Count ``ids``, int64 ``(n,)``."""
        self._waiting.append(ids)
        self._waiting_ids += len(ids)
        # waiting for as many as there are distinct ones keeps merging linear in what is added
        if self._waiting_ids >= max(MERGE_AT, len(self._ids)):
            self._merge()

    def result(self) -> tuple[Ints, Ints]:
        """Return the distinct ids, ascending, and their counts."""
        self._merge()
        return self._ids, self._counts

    def _merge(self) -> None:
        if not self._waiting:
            return
        new, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting, self._waiting_ids = [], 0
        ids = np.concatenate([self._ids, new])
        both = np.concatenate([self._counts, counts])
        order = np.argsort(ids, kind="stable")
        ids, both = ids[order], both[order]
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        self._ids = ids[first]
        self._counts = np.add.reduceat(both, first) if len(first) else both


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureStats:
    """Bags of one feature over the whole of both parts.

    ``pooling`` is the mean bag length over all samples, ``longest`` the longest bag, ``coverage``
    the share of samples whose bag is not empty.
    """

    name: str
    pooling: float
    longest: int
    coverage: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableStats:
    """Accesses of one table, over all features that read it.

    ``hot_ids`` int64 ``(hot,)``: every id of the profile part, most frequent first, equal ones by
    id; ``hot_counts`` their lookups there, ``holdout_counts`` their lookups on the hold-out part.
    ``unseen_lookups`` are those of the hold-out part on ids that the profile part has not.
    """

    name: str
    rows: int
    dim: int
    features: tuple[FeatureStats, ...]
    profile_samples: int
    holdout_samples: int
    hot_ids: Ints
    hot_counts: Ints
    holdout_counts: Ints
    unseen_lookups: int

    @property
    def hot(self) -> int:
        """Distinct ids of the profile part."""
        return len(self.hot_ids)

    @property
    def pooling(self) -> float:
        """Mean lookups per sample, over all features that read the table."""
        return sum(feature.pooling for feature in self.features)

    @cached_property
    def profile_lookups(self) -> int:
        """Lookups of the profile part."""
        return int(self.hot_counts.sum())

    @cached_property
    def holdout_lookups(self) -> int:
        """Lookups of the hold-out part."""
        return int(self.holdout_counts.sum()) + self.unseen_lookups

    @property
    def unseen_share(self) -> float:
        """Share of the hold-out lookups on ids that the profile part has not, as counted."""
        return self.unseen_lookups / self.holdout_lookups if self.holdout_lookups else 0.0

    @property
    def unseen_estimate(self) -> float:
        """Good-Turing estimate of the same, from the profile part alone: lookups seen once.

        References
        ----------
        Good: The population frequencies of species, Biometrika 1953.
        """
        if self.hot == self.rows or not self.profile_lookups:
            return 0.0
        return int((self.hot_counts == 1).sum()) / self.profile_lookups

    @cached_property
    def icdf(self) -> Ints:
        """Fewest rows that cover i/100 of the profile part's lookups, int64 ``(101,)``."""
        covered = np.cumsum(self.hot_counts)
        # in integers: a share such as 0.29 × 100 lookups must not ask for 29.000000000000004
        wanted = np.arange(ICDF_STEPS + 1) * self.profile_lookups
        rows = np.searchsorted(covered * ICDF_STEPS, wanted, side="left") + 1
        return np.where(wanted > 0, rows, 0).astype(np.int64)

    @cached_property
    def _holdout_covered(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.holdout_counts)])

    def coverage(self, rows: int) -> float:
        """Share of the hold-out lookups that fall on the ``rows`` hottest rows.

        Lookups on unseen ids are spread evenly over the rows behind the hot ones. 1 where the
        hold-out part has no lookups.
        """
        if not self.holdout_lookups:
            return 1.0
        rows = min(rows, self.rows)
        covered = float(self._holdout_covered[min(rows, self.hot)])
        if rows > self.hot:
            covered += self.unseen_lookups * (rows - self.hot) / (self.rows - self.hot)
        return covered / self.holdout_lookups

    def describe(self) -> dict[str, Any]:
        """Summarise for people and scripts: no list grows with the table."""
        return {
            "name": self.name,
            "rows": self.rows,
            "dim": self.dim,
            "pooling": self.pooling,
            "hot_rows": self.hot,
            "profile_lookups": self.profile_lookups,
            "holdout_lookups": self.holdout_lookups,
            "unseen_share": self.unseen_share,
            "unseen_estimate": self.unseen_estimate,
            "rows_covering": {f"{i}%": int(self.icdf[i]) for i in (50, 80, 90, 95, 99, 100)},
            "features": [dataclasses.asdict(feature) for feature in self.features],
        }


_FEATURE = pl.Struct(
    {"name": pl.String, "pooling": pl.Float64, "longest": pl.Int64, "coverage": pl.Float64}
)
_LIST = pl.List(pl.Int64)
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "version": pl.Int64,
    "name": pl.String,
    "rows": pl.Int64,
    "dim": pl.Int64,
    "features": pl.List(_FEATURE),
    "profile_samples": pl.Int64,
    "holdout_samples": pl.Int64,
    "hot_ids": _LIST,
    "hot_counts": _LIST,
    "holdout_counts": _LIST,
    "unseen_lookups": pl.Int64,
    "unseen_estimate": pl.Float64,
    "icdf": _LIST,
}
SCHEMA = pl.Schema(_COLUMNS)
"""Columns of ``stats.parquet``, one row per table; the last two follow from the others."""

_DERIVED = ("version", "unseen_estimate", "icdf")
_ARRAYS = ("hot_ids", "hot_counts", "holdout_counts", "icdf")


def write_stats(path: Path, stats: Sequence[TableStats]) -> None:
    """Write ``stats.parquet``, whole or not at all."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for table in stats:
        row: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "features": [dataclasses.asdict(f) for f in table.features],
        }
        for name, column in columns.items():
            value = row[name] if name in row else getattr(table, name)
            column.append(pl.Series(value, dtype=pl.Int64) if name in _ARRAYS else value)
    with files.atomic_file(path) as temporary:
        pl.DataFrame(columns, schema=SCHEMA).write_parquet(temporary)


def read_stats(path: Path) -> list[TableStats]:
    """Read what :func:`write_stats` wrote.

    Raises
    ------
    ConfigError
        If the file is no such table, or of another version.
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, PolarsError) as error:
        raise ConfigError(f"cannot be read as parquet: {error}", path=path) from error
    versions = frame["version"].unique().to_list() if "version" in frame.columns else []
    if versions != [FORMAT_VERSION] or frame.schema != SCHEMA:
        raise ConfigError(
            f"must hold statistics of version {FORMAT_VERSION}, not {versions or 'none'}; run "
            "`screc analyze --force`",
            path=path,
        )
    stats = []
    for i in range(len(frame)):
        values: dict[str, Any] = {}
        for name in SCHEMA:
            if name in _DERIVED:
                continue
            value = frame[name][i]
            values[name] = value.to_numpy() if name in _ARRAYS else value
        values["features"] = tuple(FeatureStats(**f) for f in values["features"])
        stats.append(TableStats(**values))
    return stats


def describe_stats(path: Path) -> dict[str, Any]:
    """Summarise ``stats.parquet`` as one object; errors as :func:`read_stats`."""
    return {"tables": [table.describe() for table in read_stats(path)]}
