"""The ``tt`` benchmark: rows and multiply-accumulates per cycle of the TT reconstructor's RTL."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.bench_native import Progress, find_data, measure_points, with_progress
from screc.logs.criteo import CriteoReader
from screc.logs.ids import Modulo
from screc.logs.synthetic import zipf_ranks
from screc.models import preset_shape
from screc.remap import TableRemap
from screc.stats import IdCounter
from screc.tt.shape import choose_shape
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from screc_sim.native.tt import Timing, TtCase, build, random_table, run

Ints = NDArray[np.int64]

COLUMNS = (
    *("build", "rank", "dim", "lanes", "dsp", "prefixes", "trace", "prefix_hit_rate"),
    *("rows_per_cycle", "gain", "mac_utilisation", "prediction_error"),
)
"""What a person sees of a result."""

SEED = 0

RANKS, DIMS = (8, 16, 32), (16, 64, 128)

SLICE_LANES = 16

ARRAY_CYCLES = 60_000
"""Cycles of a point, about: filling and draining are then below 1 %."""

ZIPF_ROWS = 20_000
"""Rows of a point with a prefix cache."""

ZIPF_EXPONENT = 1.05

PREFIXES = 2048
"""Pinned prefixes of the builds that have them."""

CACHES = (128, 256, 512, 1024, PREFIXES)
"""Sizes at which pinned prefixes are compared with least recently used ones."""

MODEL = "criteo-kaggle"
CRITEO_FILE = Path("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
CRITEO_COLUMNS = ("C3", "C12", "C21")
"""The largest tables."""

CRITEO_PROFILE = 4000
"""Samples by which rows are ranked; the rest are measured."""

LARGEST = "C3"
"""Table of the points without a trace of its own: 10 M rows."""


@functools.cache
def shape(column: str, dim: int, rank: int) -> TtShape:
    """Shape of a table of the Kaggle model, of any dimension and rank."""
    model = preset_shape(MODEL)
    rows = next(table.rows for table in model.tables if table.name == column)
    return choose_shape(rows, dim, rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement: ``rows`` rows of ``trace`` from a table of ``shape``.

    ``trace`` is ``uniform``, ``zipf`` or the name of a Criteo column; ``prefixes`` are pinned.
    Points of equal ``params`` share a build, which ``build`` names.
    """

    build: str
    params: TtParams
    shape: TtShape
    trace: str
    rows: int
    prefixes: int = 0


def _requantisers(shapes: Sequence[TtShape], one: TtParams, hit_rate: float) -> int:
    """Fewest that keep ahead of the array."""
    for count in (4, 8):
        params = dataclasses.replace(one, requantisers=count)
        slack = dataclasses.replace(one, requantisers=16)
        if all(params.row_cycles(s, hit_rate) == slack.row_cycles(s, hit_rate) for s in shapes):
            return count
    return 16


def _params(shapes: Sequence[TtShape], pins: int = 0, lanes: int = 1) -> TtParams:
    """Return parameters for tables of which one at a time is there."""

    def fit(some: Sequence[TtShape]) -> TtParams:
        return TtParams.for_tables(some, [pins] * len(some), slice_lanes=SLICE_LANES, lanes=lanes)

    each = [fit([one]) for one in shapes]
    words = {
        name: max(getattr(params, name) for params in each)
        for name in ("core1_words", "core2_words", "core3_words", "pinned_words")
    }
    whole = dataclasses.replace(fit(shapes), max_tables=2, **words)
    hit_rate = 1.0 if pins else 0.0
    return dataclasses.replace(whole, requantisers=_requantisers(shapes, whole, hit_rate))


def points() -> list[Point]:
    """Return all points of the benchmark."""
    shapes = [shape(LARGEST, dim, rank) for rank, dim in itertools.product(RANKS, DIMS)]
    largest = _params(shapes)
    found = []
    for one in shapes:
        own = _params([one])
        rows = round(ARRAY_CYCLES / own.row_cycles(one))
        at = functools.partial(Point, shape=one, trace="uniform", rows=rows)
        found.append(at(build=f"rank {one.ranks[0]}, dim {one.dim}", params=own))
        found.append(at(build="any up to rank 32, dim 128", params=largest))
    one = shape(LARGEST, 64, 16)
    for lanes in (1, 2):
        params = _params([one], PREFIXES, lanes)
        found += [
            Point(
                build=f"rank 16, dim 64, {PREFIXES} prefixes, lanes {lanes}",
                params=params,
                shape=one,
                trace="zipf",
                rows=lanes * ZIPF_ROWS,
                prefixes=prefixes,
            )
            for prefixes in (0, 512, 1024, PREFIXES)
        ]
    tables = [shape(column, 16, 16) for column in CRITEO_COLUMNS]
    params = _params(tables, PREFIXES)
    found += [
        Point(
            build=f"rank 16, dim 16, {PREFIXES} prefixes",
            params=params,
            shape=table,
            trace=column,
            rows=ZIPF_ROWS,
            prefixes=prefixes,
        )
        for column, table in zip(CRITEO_COLUMNS, tables, strict=True)
        for prefixes in (0, 128, PREFIXES)
    ]
    return found


# --- traces ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Rows by frequency: those ``before`` rank them or warm a cache, ``rows`` are measured."""

    before: Ints
    rows: Ints
    source: str


@functools.cache
def _criteo_ids() -> dict[str, Ints] | None:
    """Ids of the largest tables in real samples, None if the data is not there."""
    path = find_data(CRITEO_FILE)
    if path is None:
        return None
    model = preset_shape(MODEL)
    names = [feature.name for feature in model.features]
    reader = CriteoReader([path], model.dense, len(names), Modulo(model))
    batches = list(reader.chunks(0))
    return {
        column: np.concatenate([batch.bags[names.index(column)].ids for batch in batches])
        for column in CRITEO_COLUMNS
    }


@functools.cache
def criteo(column: str, rows: int) -> Trace:
    """Return a column's rows: ranked by their frequency in the first samples, then in id order."""
    ids = _criteo_ids()
    if ids is None:
        rng = np.random.default_rng(SEED)
        drawn = zipf_ranks(rng, 2 * CRITEO_PROFILE, rows, ZIPF_EXPONENT)
        chosen, source = drawn * 7_368_787 % rows, f"synthetic, shaped as criteo {column}"
    else:
        chosen, source = ids[column], f"criteo {column}"
    counter = IdCounter()
    counter.add(chosen[:CRITEO_PROFILE])
    seen, counts = counter.result()
    order = TableRemap.build(rows, seen[np.argsort(-counts, kind="stable")])
    ranks = order.ranks(chosen).astype(np.int64)
    return Trace(ranks[:CRITEO_PROFILE], ranks[CRITEO_PROFILE:], source)


def trace(name: str, rows: int, count: int) -> Trace:
    """Return ``count`` rows of a table of ``rows`` rows, and those before them."""
    rng = np.random.default_rng(SEED)
    if name == "uniform":
        return Trace(rng.integers(0, rows, count), rng.integers(0, rows, count), name)
    if name == "zipf":
        drawn = zipf_ranks(rng, 2 * count, rows, ZIPF_EXPONENT)
        return Trace(drawn[:count], drawn[count:], f"zipf({ZIPF_EXPONENT})")
    real = criteo(name, rows)
    return Trace(real.before, np.resize(real.rows, count), real.source)


# --- which prefixes to keep -----------------------------------------------------------------------


def pinned_hit_rate(prefixes: Ints, kept: int) -> float:
    """Share of accesses that go to the ``kept`` lowest prefixes."""
    return float((prefixes < kept).mean())


def lru_hit_rate(before: Ints, prefixes: Ints, kept: int) -> float:
    """Share of accesses that find their prefix among the ``kept`` used last.

    Parameters
    ----------
    before
        Accesses that fill the cache first and are not counted.
    """
    cache: collections.OrderedDict[int, None] = collections.OrderedDict()
    hits = 0
    for number, prefix in enumerate([*before.tolist(), *prefixes.tolist()]):
        if prefix in cache:
            cache.move_to_end(prefix)
            hits += number >= len(before)
            continue
        cache[prefix] = None
        if len(cache) > kept:
            cache.popitem(last=False)
    return hits / len(prefixes)


def policies(accesses: int = 200_000) -> list[dict[str, Any]]:
    """Compare pinned prefixes with a cache of the last used, in software, on the same traces.

    Parameters
    ----------
    accesses
        Of the trace that is drawn, counted; as many fill the cache first.

    Returns
    -------
    list of dict
        ``trace``, ``prefixes``, and the hit rates ``pinned`` and ``lru``.
    """
    found = []
    for name in ("zipf", *CRITEO_COLUMNS):
        table = shape(LARGEST if name == "zipf" else name, 16, 16)
        if name == "zipf":
            chosen = trace(name, table.rows, accesses)
        else:
            chosen = criteo(name, table.rows)
        before, rows = chosen.before // table.p[2], chosen.rows // table.p[2]
        found += [
            {
                "trace": chosen.source,
                "prefixes": kept,
                "pinned": pinned_hit_rate(rows, kept),
                "lru": lru_hit_rate(before, rows, kept),
            }
            for kept in CACHES
        ]
    return found


def further() -> dict[str, list[dict[str, Any]]]:
    """More tables for people."""
    return {"prefixes kept: hit rates in software": policies()}


# --- measurement ----------------------------------------------------------------------------------


def measure(point: Point, *, cache: Path | None = None) -> dict[str, Any]:
    """Measure a point; every component of every row is compared with the golden model's.

    Returns
    -------
    dict
        See :func:`bench_tt`.

    Raises
    ------
    AssertionError
        If a row or a counter is wrong.
    screc_sim.runner.SimulationError
        If a stream breaks its rules or the reconstructor does not come to an end.
    """
    params, table = point.params, point.shape
    chosen = trace(point.trace, table.rows, point.rows)
    case = TtCase(params, [random_table(table, fraction=params.fraction)], [point.prefixes])
    number = np.zeros(point.rows, np.int64)
    outcome = run(build(params, cache=cache), case, chosen.rows, number, Timing())
    case.check(outcome, chosen.rows, number)
    hit_rate = outcome.hits / point.rows
    macs = case.macs(chosen.rows, number)
    predicted = params.cycles(table, point.rows, hit_rate)
    return {
        "rows": table.rows,
        "dim": table.dim,
        "rank": table.ranks[0],
        "build": point.build,
        "lanes": params.lanes,
        "chain": params.chain,
        "requantisers": params.requantisers,
        "multipliers": params.multipliers,
        "dsp": params.resources().dsp,
        "prefixes": point.prefixes,
        "policy": "pinned" if point.prefixes else "none",
        "trace": chosen.source,
        "prefix_hit_rate": hit_rate,
        "rows_reconstructed": outcome.reconstructed,
        "cycles": outcome.cycles,
        "pin_cycles": outcome.pin_cycles,
        "macs": macs,
        "mac_utilisation": macs / (params.multipliers * outcome.cycles),
        "rows_per_cycle": outcome.reconstructed / outcome.cycles,
        "predicted_cycles": predicted,
        "prediction_error": predicted / outcome.cycles - 1,
        "kind": "measured in RTL (verilator)",
    }


def bench_tt(
    chosen: Sequence[Point],
    *,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Measure points, and check every row of them.

    Parameters
    ----------
    chosen
        What to measure.
    cache
        Folder of kept builds; None: the user's.
    workers
        Builds and runs at a time.
    progress
        Told what is being done.

    Returns
    -------
    list of dict
        Per point: the table's ``rows``, ``dim`` and ``rank``; ``build`` and its ``lanes``,
        ``chain``, ``requantisers``, ``multipliers`` and all its ``dsp``; ``prefixes`` that are
        pinned, and the ``policy``; ``trace`` and its ``prefix_hit_rate``; ``rows_reconstructed``;
        ``cycles`` from the first request taken to the last slice; ``pin_cycles`` after LOAD;
        ``macs``, multiply-accumulates that these rows need; ``mac_utilisation``, their share of
        what the multipliers could do in those cycles; ``rows_per_cycle`` and its ``gain`` over the
        same build and trace without prefixes, None where that was not measured;
        ``predicted_cycles`` by ``TtParams`` and their relative ``prediction_error``. ``kind``.

    Raises
    ------
    CheckError
        If a row is wrong, or a rule is broken.
    ToolchainError
        If a tool is missing.
    """
    results = measure_points(
        chosen, build=build, measure=measure, cache=cache, workers=workers, progress=progress
    )
    plain = {
        (point.params, point.shape, point.trace): result["rows_per_cycle"]
        for point, result in zip(chosen, results, strict=True)
        if not point.prefixes
    }
    for point, result in zip(chosen, results, strict=True):
        before = plain.get((point.params, point.shape, point.trace)) if point.prefixes else None
        result["gain"] = result["rows_per_cycle"] / before if before else None
    return results


def bench() -> list[dict[str, Any]]:
    """Run :func:`bench_tt` as ``screc bench tt`` does, with progress on stderr."""
    return with_progress(lambda progress: bench_tt(points(), progress=progress))
