"""From a log's ids to the statistics of every table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from screc.analyze import sketch
from screc.analyze.drift import find_drift
from screc.analyze.leaves import BagTally, Leaf, Tally
from screc.analyze.reuse import Ranks, batch_reuse, windows
from screc.analyze.runners import Here, Runner
from screc.analyze.sources import (
    HOLDOUT,
    PROFILE,
    BatchSource,
    IdSource,
    Ints,
    Piece,
    Span,
    open_source,
)
from screc.flow import Bar
from screc.logs import Log
from screc.logs.lazy import UnreadableError
from screc.stats import UNSEEN_RANGES, FeatureStats, Sketch, TableStats, behind_edges
from screc_hw.model import ModelShape

EXACT_ROWS = 20_000_000
"""Distinct rows of a table that are counted exactly, where nothing else is said."""


def analyze(
    log: Log,
    shape: ModelShape,
    *,
    exact_rows: int = EXACT_ROWS,
    runner: Runner | None = None,
    source: IdSource | None = None,
    bar: Bar | None = None,
) -> list[TableStats]:
    """Count the profile and the hold-out part of a log.

    Parameters
    ----------
    log
        The whole log.
    shape
        The model.
    exact_rows
        Distinct rows of a table up to which they are counted exactly.
    runner
        Where to count; absent: here.
    source
        The log's ids; absent: by the fastest way there is for its format.
    bar
        Told how many samples of how many tables (their product) have been counted, and when a
        sketch needs more passes.

    Returns
    -------
    list of TableStats
        In the order of ``shape.tables``. The same whatever the runner and the source.
    """
    runner = runner or Here()
    found = source or open_source(log, shape)
    try:
        return _Analysis(found, shape, exact_rows, runner, bar).run()
    except UnreadableError:
        # the batch reader knows more kinds of values, and says what is wrong with others
        return _Analysis(BatchSource(log, shape), shape, exact_rows, runner, bar).run()


class _Analysis:
    """One analysis: what is known of every feature and table so far."""

    def __init__(
        self,
        source: IdSource,
        shape: ModelShape,
        exact_rows: int,
        runner: Runner,
        bar: Bar | None,
    ) -> None:
        self._source = source
        self._shape = shape
        self._exact_rows = exact_rows
        self._runner = runner
        self._bar = bar or Bar(None, None)
        self._bags = [BagTally() for _ in shape.features]
        self._pieces: list[list[Piece]] = [[] for _ in shape.features]
        self._windows = windows(*source.parts[HOLDOUT])
        self._samples = tuple(stop - start for start, stop in source.parts)
        self._total = 0
        self._expect(sum(self._samples) * len(shape.tables))

    def _expect(self, count: int) -> None:
        self._total += count
        self._bar.update(total=self._total)

    def run(self) -> list[TableStats]:
        tables = range(len(self._shape.tables))
        found = dict(self._exact(tables))
        for table in tables:
            if table not in found:
                found[table] = self._sketched(table)
        return [found[table] for table in tables]

    def _exact(self, tables: Sequence[int]) -> Iterator[tuple[int, TableStats]]:
        """Statistics of the tables that stay within the budget."""
        spans = self._source.spans(tables, self._runner.pieces)
        last = {table: i for i, span in enumerate(spans) for table in span.tables}
        unread = [table for table in tables if table not in last]
        tallies: dict[tuple[int, int], Tally] = {}
        for i, (span, leaves, notes) in enumerate(
            self._runner(self._source, self._shape, spans, self._windows)
        ):
            for leaf in leaves:
                self._tally(tallies, leaf.table, leaf.part).add(leaf.ids, leaf.counts)
            for feature, tally in notes.bags.items():
                self._bags[feature].merge(tally)
            for piece in notes.windows:
                self._pieces[piece.feature].append(piece)
            for table in span.tables:
                if last[table] == i:
                    yield from self._whole(tallies, table)
            self._bar.advance((span.stop - span.start) * len(span.tables))
        for table in unread:
            yield from self._whole(tallies, table)

    def _tally(self, tallies: dict[tuple[int, int], Tally], table: int, part: int) -> Tally:
        if (table, part) not in tallies:
            tallies[table, part] = Tally(self._shape.tables[table].rows, self._exact_rows)
        return tallies[table, part]

    def _whole(
        self, tallies: dict[tuple[int, int], Tally], table: int
    ) -> Iterator[tuple[int, TableStats]]:
        """Statistics of a table whose last span is counted; none where it is over the budget."""
        parts = [self._tally(tallies, table, part) for part in (PROFILE, HOLDOUT)]
        (ids, counts), (later_ids, later_counts) = (tally.result() for tally in parts)
        for part in (PROFILE, HOLDOUT):
            del tallies[table, part]
        if any(tally.over for tally in parts):
            return
        seen = _positions(ids, later_ids)
        later = np.zeros(len(ids), np.int64)
        later[seen[seen >= 0]] = later_counts[seen >= 0]
        unseen_ids, unseen_counts = later_ids[seen < 0], later_counts[seen < 0]
        order = np.argsort(-counts, kind="stable")  # stable: equally hot ids stay in id order
        rows = self._shape.tables[table].rows
        drift = find_drift(
            lookups=(int(counts.sum()), int(later_counts.sum())),
            counts=(
                np.concatenate([counts, np.zeros(len(unseen_ids), np.int64)]),
                np.concatenate([later, unseen_counts]),
            ),
        )
        yield (
            table,
            dataclasses.replace(
                self._table(table, ids[order]),
                hot_counts=counts[order],
                holdout_counts=later[order],
                unseen_lookups=int(unseen_counts.sum()),
                unseen_by_rank=_by_rank(ids, unseen_ids, unseen_counts, rows),
                unseen_rows=len(unseen_ids),
                once=int((counts + later == 1).sum()) + int((unseen_counts == 1).sum()),
                drift=drift,
            ),
        )

    def _table(self, table: int, hot_ids: Ints) -> TableStats:
        """Statistics that do not depend on how lookups are counted; the others are empty."""
        features = [i for i, f in enumerate(self._shape.features) if f.table == table]
        total = sum(self._samples)
        pieces = [piece for i in features for piece in self._pieces[i]]
        shape = self._shape.tables[table]
        return TableStats(
            name=shape.name,
            rows=shape.rows,
            dim=shape.dim,
            features=tuple(
                FeatureStats(
                    name=self._shape.features[i].name,
                    pooling=self._bags[i].lookups / total,
                    longest=self._bags[i].longest,
                    coverage=self._bags[i].filled / total,
                )
                for i in features
            ),
            profile_samples=self._samples[PROFILE],
            holdout_samples=self._samples[HOLDOUT],
            hot_ids=hot_ids,
            hot_counts=np.zeros(len(hot_ids), np.int64),
            holdout_counts=np.zeros(len(hot_ids), np.int64),
            unseen_lookups=0,
            batches=batch_reuse(shape, Ranks(hot_ids), pieces, self._windows),
        )

    def _leaves(self, table: int, part: int | None = None) -> Iterator[Leaf]:
        """Counts of a table again, profile part first."""
        spans: list[Span] = [
            span
            for span in self._source.spans([table], self._runner.pieces)
            if part is None or span.part == part
        ]
        self._expect(sum(span.stop - span.start for span in spans))
        for span, leaves, _ in self._runner(self._source, self._shape, spans):
            yield from leaves
            self._bar.advance(span.stop - span.start)

    def _sketched(self, table: int) -> TableStats:
        """Statistics of a table over the budget, in two more passes over its ids."""
        rows = self._shape.tables[table].rows
        bags = [self._bags[i] for i, f in enumerate(self._shape.features) if f.table == table]
        counters = sketch.CountMin(self._exact_rows, sum(tally.lookups for tally in bags))
        for leaf in self._leaves(table, PROFILE):
            counters.add(leaf.ids, leaf.counts)
        listing = sketch.Listing(counters, self._exact_rows)
        sample = sketch.DistinctSample()
        lookups = [0, 0]
        found: tuple[Ints, Ints, int] | None = None
        later, by_rank = np.empty(0, np.int64), np.zeros(UNSEEN_RANGES, np.int64)
        for leaf in self._leaves(table):
            lookups[leaf.part] += int(leaf.counts.sum())
            sample.add(leaf.part, leaf.ids, leaf.counts)
            if leaf.part == PROFILE:
                listing.add(leaf.ids, leaf.counts)
                continue
            if found is None:  # the profile part is over
                found = listing.result()
                later = np.zeros(len(found[0]), np.int64)
            ids = found[0]
            seen = _positions(ids, leaf.ids)
            later[seen[seen >= 0]] += leaf.counts[seen >= 0]
            by_rank += _by_rank(ids, leaf.ids[seen < 0], leaf.counts[seen < 0], rows)
        ids, counts, listed_above = found or listing.result()
        later = later if found else np.zeros(len(ids), np.int64)
        order = np.argsort(-counts, kind="stable")
        level, sampled, profile, holdout = sample.result()
        listed = _positions(ids, sampled) >= 0
        rest = _Rest(profile[~listed], holdout[~listed], 1 << level)
        unseen = int(by_rank.sum())
        classes, rest_rows, rest_holdout = rest.classes(unseen)
        return dataclasses.replace(
            self._table(table, ids[order]),
            hot_counts=counts[order],
            holdout_counts=later[order],
            unseen_lookups=unseen,
            unseen_by_rank=by_rank,
            unseen_rows=rest.rows((rest.profile == 0) & (rest.holdout > 0)),
            once=int((counts + later == 1).sum()) + rest.rows(rest.profile + rest.holdout == 1),
            rest_lookups=lookups[PROFILE] - int(counts.sum()),
            rest_counts=classes,
            rest_rows=rest_rows,
            rest_holdout=rest_holdout,
            drift=find_drift(
                lookups=(lookups[PROFILE], lookups[HOLDOUT]),
                counts=(counts, later),
                sampled=(profile, holdout),
                # in the profile part such ids are above the listing's bar, but for chance
                at_least=_at_least(listed_above, lookups),
            ),
            sketch=Sketch(
                name=sketch.NAME,
                width=counters.width,
                depth=sketch.DEPTH,
                listed_above=listed_above,
                level=level,
                sampled=len(sampled),
            ),
        )


@dataclasses.dataclass(frozen=True)
class _Rest:
    """Sampled ids that are not listed, with their counts; each stands for ``each`` ids."""

    profile: Ints
    holdout: Ints
    each: int

    def rows(self, which: np.typing.NDArray[np.bool_]) -> int:
        """How many ids there are, about, of those chosen."""
        return int(which.sum()) * self.each

    def classes(self, lookups: int) -> tuple[Ints, Ints, Ints]:
        """Ids by their profile lookups, falling: lookups, how many ids, hold-out lookups.

        The latter so that, with those on ids of no profile lookup, they are ``lookups`` in all.
        """
        counts, which = np.unique(self.profile, return_inverse=True)
        rows = np.bincount(which, minlength=len(counts)) * self.each
        holdout = np.zeros(len(counts), np.int64)
        np.add.at(holdout, which, self.holdout)
        holdout = holdout * lookups // max(int(self.holdout.sum()), 1)
        seen = np.flatnonzero(counts)[::-1]
        return counts[seen], rows[seen], holdout[seen]


def _at_least(listed_above: int, lookups: Sequence[int]) -> int:
    """Lookups in both parts from which an id is listed, but for 5 standard deviations of chance."""
    share = lookups[PROFILE] / max(sum(lookups), 1)
    if not share:
        return 0
    # mean share * k, variance below it: share * k - 5 * sqrt(share * k) > listed_above
    root = (5 + (25 + 4 * listed_above) ** 0.5) / 2
    return int(root**2 / share) + 1


def _positions(ids: Ints, wanted: Ints) -> Ints:
    """Position of every wanted id in ``ids``, ascending; -1 where it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[place] == wanted, place, -1)


def _by_rank(hot: Ints, ids: Ints, counts: Ints, rows: int) -> Ints:
    """Lookups of ids that are not hot, by ranges of the ranks behind the hot ones.

    ``hot`` and ``ids`` ascend. Ids keep their order behind the hot ones.
    """
    found = np.zeros(UNSEEN_RANGES, np.int64)
    place = ids - np.searchsorted(hot, ids)
    ranges = np.searchsorted(behind_edges(rows - len(hot)), place, side="right") - 1
    np.add.at(found, ranges, counts)
    return found
