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
from screc.tt.shape import MAX_ROWS, row_factors

FORMAT_VERSION = 2
"""Version of the columns of ``stats.parquet``."""

ICDF_STEPS = 100
"""Steps of the inverse cumulative frequency: one per percent of the accesses."""

MERGE_AT = 1 << 20
"""Ids that a counter gathers before it sorts them."""

UNSEEN_RANGES = 64
UNSEEN_RANGES_PER_OCTAVE = 4
"""Ranges of the ranks behind the hot ones that lookups are counted in."""

PREFIXES = (128, 256, 512, 1024)
"""Counts of pinned TT prefixes that hits are told for."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class IdCounter:
    """Counts ids in memory that grows with the distinct ids, not with the ids added."""

    def __init__(self) -> None:
        self._ids: Ints = np.empty(0, np.int64)
        self._counts: Ints = np.empty(0, np.int64)
        self._waiting: list[tuple[Ints, Ints]] = []
        self._waiting_ids = 0

    def add(self, ids: Ints, counts: Ints | None = None) -> None:
        """Count ``ids``, int64 ``(n,)``, each ``counts`` times (None: once)."""
        self._waiting.append((ids, np.ones(len(ids), np.int64) if counts is None else counts))
        self._waiting_ids += len(ids)
        # waiting for as many as there are distinct ones keeps merging linear in what is added
        if self._waiting_ids >= max(MERGE_AT, len(self._ids)):
            self._merge()

    @property
    def distinct(self) -> int:
        """Distinct ids of those that are merged so far."""
        return len(self._ids)

    def result(self) -> tuple[Ints, Ints]:
        """Return the distinct ids, ascending, and their counts."""
        self._merge()
        return self._ids, self._counts

    def _merge(self) -> None:
        if not self._waiting:
            return
        parts = [(self._ids, self._counts), *self._waiting]
        self._waiting, self._waiting_ids = [], 0
        ids = np.concatenate([part for part, _ in parts])
        counts = np.concatenate([part for _, part in parts])
        order = np.argsort(ids, kind="stable")
        ids, counts = ids[order], counts[order]
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        self._ids = ids[first]
        self._counts = np.add.reduceat(counts, first) if len(first) else counts


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
class BatchReuse:
    """What batches of ``samples`` samples of the hold-out part read of a table, in all of them.

    ``batches`` were looked at, with ``lookups`` lookups. ``rows`` and ``pages`` are sums over the
    batches of distinct rows and of distinct 4 KiB pages, where rows lie by rank, one stride apart;
    ``prefixes`` of distinct TT prefixes (rank // p3).
    """

    samples: int
    batches: int
    lookups: int
    rows: int
    pages: int
    prefixes: int

    @property
    def prefix_repeats(self) -> float:
        """Share of the lookups whose TT prefix the same batch has already asked for."""
        return 1 - self.prefixes / self.lookups if self.lookups else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the hold-out part is from the profile part, as shares of its lookups.

    ``unseen_excess``: lookups on rows that the profile part has not, above what is expected where
    both parts are alike; ``moved``: lookups that changed rows, beyond chance. ``unseen_p`` and
    ``moved_p``: probability of as much or more by chance.
    """

    unseen_excess: float = 0.0
    unseen_p: float = 1.0
    moved: float = 0.0
    moved_p: float = 1.0
    flagged: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch:
    """What stands for exact counts of a table with more distinct rows than are counted.

    ``name``: of the sketches; ``width`` and ``depth`` of the Count-Min sketch that the rows in
    ``hot_ids`` were chosen by, and the estimate ``listed_above`` above which it lists every row;
    one row of ``2 ** level`` is in the distinct sample, ``sampled`` in all.
    """

    name: str
    width: int
    depth: int
    listed_above: int
    level: int
    sampled: int


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableStats:
    """Accesses of one table, over all features that read it.

    ``hot_ids`` int64 ``(hot,)``: ids of the profile part, most frequent first, equal ones by id:
    all of them, or with a ``sketch`` those that it found; ``hot_counts`` their lookups there,
    ``holdout_counts`` their lookups on the hold-out part. ``unseen_lookups`` are those of the
    hold-out part on other ids; ``unseen_by_rank`` int64 ``(k,)`` the same by where those ids rank,
    between the edges of :func:`behind_edges`. ``unseen_rows`` are how many distinct ids the
    hold-out part has that the profile part has not, ``once`` ids that both parts together have
    once.

    With a sketch, ids of the profile part that are not in ``hot_ids`` are known by their sample
    alone: ``rest_rows`` of them, about, have ``rest_counts`` lookups there (falling) and
    ``rest_holdout`` in all on the hold-out part; ``rest_lookups`` is their lookups on the profile
    part, exactly.
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
    unseen_by_rank: Ints = dataclasses.field(default_factory=_none)
    unseen_rows: int = 0
    once: int = 0
    rest_lookups: int = 0
    rest_counts: Ints = dataclasses.field(default_factory=_none)
    rest_rows: Ints = dataclasses.field(default_factory=_none)
    rest_holdout: Ints = dataclasses.field(default_factory=_none)
    batches: tuple[BatchReuse, ...] = ()
    drift: Drift = Drift()
    sketch: Sketch | None = None

    @property
    def hot(self) -> int:
        """Ids that are ranked by their counts."""
        return len(self.hot_ids)

    @cached_property
    def distinct(self) -> int:
        """Distinct ids of the profile part; with a sketch, about."""
        return min(self.rows, self.hot + int(self.rest_rows.sum()))

    @property
    def pooling(self) -> float:
        """Mean lookups per sample, over all features that read the table."""
        return sum(feature.pooling for feature in self.features)

    @cached_property
    def profile_lookups(self) -> int:
        """Lookups of the profile part."""
        return int(self.hot_counts.sum()) + self.rest_lookups

    @cached_property
    def holdout_lookups(self) -> int:
        """Lookups of the hold-out part."""
        return int(self.holdout_counts.sum()) + self.unseen_lookups

    @property
    def unseen_share(self) -> float:
        """Share of the hold-out lookups on ids that the profile part has not.

        As counted; with a sketch, by the sample.
        """
        if not self.holdout_lookups:
            return 0.0
        return (self.unseen_lookups - int(self.rest_holdout.sum())) / self.holdout_lookups

    @cached_property
    def unseen_estimate(self) -> float:
        """Good-Turing estimate of the same, from the profile part alone: lookups seen once.

        References
        ----------
        Good: The population frequencies of species, Biometrika 1953.
        """
        if self.distinct >= self.rows or not self.profile_lookups:
            return 0.0
        once = int((self.hot_counts == 1).sum()) + int(self.rest_rows[self.rest_counts == 1].sum())
        return min(once / self.profile_lookups, 1.0)

    @cached_property
    def unseen_later(self) -> float:
        """Good-Turing estimate of the share of later lookups on ids that neither part has."""
        lookups = self.profile_lookups + self.holdout_lookups
        if not lookups or self.distinct + self.unseen_rows >= self.rows:
            return 0.0
        return min(self.once / lookups, 1.0)

    @cached_property
    def icdf(self) -> Ints:
        """Fewest rows that cover i/100 of the profile part's lookups, int64 ``(101,)``."""
        # in integers: a share such as 0.29 × 100 lookups must not ask for 29.000000000000004
        wanted = np.arange(ICDF_STEPS + 1) * self.profile_lookups
        covered = np.cumsum(self.hot_counts)
        rows = np.searchsorted(covered * ICDF_STEPS, wanted, side="left") + 1
        if self.rest_lookups:
            ends, sums = self._rest_curve(self.rest_counts * self.rest_rows, self.rest_lookups)
            listed = self.profile_lookups - self.rest_lookups
            behind = np.ceil(np.interp(wanted / ICDF_STEPS - listed, sums, ends))
            rows = np.where(rows > self.hot, self.hot + behind.astype(np.int64), rows)
            rows = np.minimum(rows, self.rows)
        return np.where(wanted > 0, rows, 0).astype(np.int64)

    def _rest_curve(self, lookups: Ints, total: float) -> tuple[Floats, Floats]:
        """Ranks behind the hot ones and lookups up to there, of the rows that the sample tells of.

        ``lookups`` of each class are scaled so that they are ``total`` in all.
        """
        scale = total / max(int(lookups.sum()), 1)
        ends = np.concatenate([[0.0], np.cumsum(self.rest_rows)])
        return ends, np.concatenate([[0.0], np.cumsum(lookups)]) * scale

    @cached_property
    def _holdout_covered(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.holdout_counts)])

    def coverage(self, rows: int) -> float:
        """Share of later lookups expected on the ``rows`` hottest rows, in the order of the ranks.

        Those rows were chosen on the profile part and are counted on the hold-out part; its
        lookups on other ids are spread over the rows behind the hot ones as
        :attr:`unseen_by_rank` says, evenly within each range. Where the hold-out part has no
        lookups, the profile part's counts stand in, less the Good-Turing estimate of what it has
        not seen, which is spread evenly.
        """
        rows = min(rows, self.rows)
        behind = self._behind(rows)
        if self.holdout_lookups:
            covered = float(self._holdout_covered[min(rows, self.hot)])
            return (covered + self.unseen_lookups * behind) / self.holdout_lookups
        if not self.profile_lookups:
            return 1.0
        seen = float(self.hot_counts[: min(rows, self.hot)].sum()) / self.profile_lookups
        unseen = self.unseen_estimate
        rest = self.rest_lookups / self.profile_lookups
        return (1 - unseen) * (seen + rest * behind) + unseen * behind

    def _behind(self, rows: int) -> float:
        """Share of the lookups on ids behind the hot ones that the ranks below ``rows`` have."""
        if rows <= self.hot:
            return 0.0
        return self._spread((rows - self.hot) / (self.rows - self.hot))

    def _spread(self, share: float) -> float:
        """Share of those lookups that the first ``share`` of the ids behind has."""
        total = int(self.unseen_by_rank.sum())
        if not total:
            return share
        covered = np.concatenate([[0], np.cumsum(self.unseen_by_rank)])
        behind = self.rows - self.hot
        return float(np.interp(share * behind, behind_edges(behind), covered)) / total

    def ranked_coverage(self, rows: int) -> float:
        """Share of later lookups on the ``rows`` hottest rows if every row seen were ranked.

        The same as :meth:`coverage` up to the last hot row, and without a sketch. With one it says
        what counting the rows that it leaves out (``analyze.exact_rows``) would bring.
        """
        rows = min(rows, self.rows)
        new = self.unseen_lookups - int(self.rest_holdout.sum())
        if not len(self.rest_counts) or rows <= self.hot or not self.holdout_lookups:
            return self.coverage(rows)
        ends, sums = self._rest_curve(self.rest_holdout, float(self.rest_holdout.sum()))
        covered = float(self._holdout_covered[-1]) + float(np.interp(rows - self.hot, ends, sums))
        unseen = max(rows - self.distinct, 0) / max(self.rows - self.distinct, 1)
        return (covered + new * self._spread(unseen)) / self.holdout_lookups

    @cached_property
    def p3(self) -> int | None:
        """Ranks of a TT prefix, where the table could be in tensor-train form."""
        return prefix_rows(self.rows)

    def prefix_hits(self, prefixes: int) -> float:
        """Share of later lookups expected on the hottest ``prefixes`` TT prefixes, all in TT form.

        Prefixes are ranges of ranks, so the hottest are the first ones.
        """
        return self.coverage(prefixes * (self.p3 or 1))

    def describe(self) -> dict[str, Any]:
        """Summarise for people and scripts: no list grows with the table."""
        return {
            "name": self.name,
            "rows": self.rows,
            "dim": self.dim,
            "pooling": self.pooling,
            "hot_rows": self.hot,
            "distinct_rows": self.distinct,
            "profile_lookups": self.profile_lookups,
            "holdout_lookups": self.holdout_lookups,
            "unseen_share": self.unseen_share,
            "unseen_estimate": self.unseen_estimate,
            "unseen_later": self.unseen_later,
            "rows_covering": {f"{i}%": int(self.icdf[i]) for i in (50, 80, 90, 95, 99, 100)},
            "prefixes": None
            if self.p3 is None
            else {"p3": self.p3, "hits": {str(k): self.prefix_hits(k) for k in PREFIXES}},
            "batches": [
                {**dataclasses.asdict(b), "prefix_repeats": b.prefix_repeats} for b in self.batches
            ],
            "drift": dataclasses.asdict(self.drift),
            "sketch": None if self.sketch is None else dataclasses.asdict(self.sketch),
            "features": [dataclasses.asdict(feature) for feature in self.features],
        }


def behind_edges(rows: int) -> Ints:
    """Edges of the ranges that lookups on the ``rows`` ids behind the hot ones are counted in.

    Where ids were given by popularity or by first appearance, lookups crowd behind the hot rows: so
    four ranges to an octave, from 0 to ``rows``; int64 ``(65,)``, of small tables some are equal.
    """
    octaves = np.arange(1 - UNSEEN_RANGES, 1) / UNSEEN_RANGES_PER_OCTAVE
    return np.concatenate([[0], np.ceil(rows * 2.0**octaves).astype(np.int64)])


def prefix_rows(rows: int) -> int | None:
    """Rows that share a TT prefix in a table of ``rows`` rows, None where TT form is not for it."""
    return row_factors(rows)[2] if rows <= MAX_ROWS else None


_RECORDS: dict[str, type[Any]] = {
    "features": FeatureStats,
    "batches": BatchReuse,
    "drift": Drift,
    "sketch": Sketch,
}
_POLARS = {"str": pl.String, "float": pl.Float64, "int": pl.Int64, "bool": pl.Boolean}


def _struct(record: type[Any]) -> pl.Struct:
    # annotations are text here, as ``from __future__ import annotations`` leaves them
    return pl.Struct({f.name: _POLARS[str(f.type)] for f in dataclasses.fields(record)})


_LIST = pl.List(pl.Int64)
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "version": pl.Int64,
    "name": pl.String,
    "rows": pl.Int64,
    "dim": pl.Int64,
    "features": pl.List(_struct(FeatureStats)),
    "profile_samples": pl.Int64,
    "holdout_samples": pl.Int64,
    "hot_ids": _LIST,
    "hot_counts": _LIST,
    "holdout_counts": _LIST,
    "unseen_lookups": pl.Int64,
    "unseen_by_rank": _LIST,
    "unseen_rows": pl.Int64,
    "once": pl.Int64,
    "rest_lookups": pl.Int64,
    "rest_counts": _LIST,
    "rest_rows": _LIST,
    "rest_holdout": _LIST,
    "batches": pl.List(_struct(BatchReuse)),
    "drift": _struct(Drift),
    "sketch": _struct(Sketch),
    "unseen_estimate": pl.Float64,
    "icdf": _LIST,
}
SCHEMA = pl.Schema(_COLUMNS)
"""Columns of ``stats.parquet``, one row per table; the last two follow from the others."""

_DERIVED = ("version", "unseen_estimate", "icdf")
_ARRAYS = tuple(name for name, dtype in _COLUMNS.items() if dtype == _LIST)


def write_stats(path: Path, stats: Sequence[TableStats]) -> None:
    """Write ``stats.parquet``, whole or not at all."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for table in stats:
        for name, column in columns.items():
            value: Any = FORMAT_VERSION if name == "version" else getattr(table, name)
            if name in _ARRAYS:
                value = pl.Series(value, dtype=pl.Int64)
            elif isinstance(value, tuple):
                value = [dataclasses.asdict(entry) for entry in value]
            elif name in _RECORDS and value is not None:
                value = dataclasses.asdict(value)
            column.append(value)
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
            if name in _ARRAYS:
                value = value.to_numpy()
            elif isinstance(value, pl.Series):
                value = tuple(_RECORDS[name](**entry) for entry in value)
            elif name in _RECORDS and value is not None:
                value = _RECORDS[name](**value)
            values[name] = value
        stats.append(TableStats(**values))
    return stats


def describe_stats(path: Path) -> dict[str, Any]:
    """Summarise ``stats.parquet`` as one object; errors as :func:`read_stats`.

    ``drift`` names the tables whose hold-out part is not like their profile part.
    """
    tables = read_stats(path)
    return {
        "tables": [table.describe() for table in tables],
        "drift": [table.name for table in tables if table.drift.flagged],
    }
