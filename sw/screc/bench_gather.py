"""The ``gather`` benchmark: row beats per cycle of the gather engine, measured in its RTL."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.bench_native import Progress, find_data, measure_points, with_progress
from screc.errors import CheckError
from screc.logs.synthetic import zipf_ranks
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.model import TableShape
from screc_sim.native.ddr4 import ACCESS_BYTES, Ddr4
from screc_sim.native.gather import FORMATS, Bags, GatherCase, Table, check_partials
from screc_sim.native.harness import PORT_PERIOD_PS, Memory, build, run

Ints = NDArray[np.int64]

COLUMNS = (
    *("format", "dim", "port_bits", "latency_cycles", "pooling", "source", "beats_per_cycle"),
    *("prediction_error", "gb_per_s", "memory_gb_per_s"),
)
"""What a person sees of a result."""

ROW_BEATS = 30_000
"""Row beats of a point, about: the time that the memory takes to answer first is then small."""

DDR4_BEATS = 60_000
"""Row beats of a point with DDR4: some 30 refreshes."""

SEED = 0

CRITEO_FILE = Path("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
CRITEO_FIRST = 14
"""First categorical column of a Criteo row, after the label and 13 numbers."""

CRITEO_ROWS = (
    *(540, 503, 5100, 4600, 130, 12, 3600, 220, 3, 4300, 2300, 5000, 2000),
    *(25, 2600, 4800, 10, 1600, 750, 4, 4900, 10, 14, 3500, 40, 2600),
)
"""Rows of the stand-in for Criteo's tables: about those that 8,000 samples name."""

CRITEO_EXPONENT, GOWALLA_EXPONENT = 1.05, 0.6
"""Skew of the stand-ins; Gowalla's is mild."""

GOWALLA_FILE = Path("gowalla_bags") / "gowalla_bags.npz"
GOWALLA_ROWS, GOWALLA_MEAN, GOWALLA_SHORTEST = 40_981, 27.1, 8

UNIFORM_BYTES = 4 << 30
"""Memory over which uniform rows are spread: the SmartSSD's."""

IMAGE_BYTES = 16 << 20
"""Contents of that memory, which repeat."""

MAX_FEATURES, SAMPLES_LOG2 = 26, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement.

    ``source`` names the traffic: ``criteo``, ``gowalla`` or ``uniform``; ``pooling`` is the length
    of all bags, None: the real ones of Gowalla. ``onchip`` is the wanted share of lookups of
    on-chip rows. ``ddr4`` replaces the fixed ``latency``.
    """

    format: str
    dim: int
    lanes: int
    source: str
    pooling: int | None
    latency: int = 100
    outstanding: int = 128
    port_bits: int = 512
    onchip: float = 0.0
    ddr4: Ddr4 | None = None
    row_beats: int = ROW_BEATS

    @property
    def params(self) -> MemoryCoreParams:
        """The engine's parameters: points of the same share a build."""
        beats = ONCHIP_BEATS if self.onchip else 0
        return MemoryCoreParams(
            port_bits=self.port_bits,
            lanes=self.lanes,
            outstanding=self.outstanding,
            max_features=MAX_FEATURES,
            max_slices=max(1, 256 // self.lanes),
            rows=1 << SAMPLES_LOG2 // 2,
            slots=1 << SAMPLES_LOG2 // 2,
            rowwise=True,
            onchip_beats=beats,
            pool_beats=2 if beats else 1,
        )


ONCHIP_BEATS = 1 << 15
"""On-chip memory of the mixes: 2 MiB, 64 UltraRAMs."""

LATENCIES = ((100, 128), (400, 512))
"""Cycles of latency, and beats outstanding for them."""

POOLINGS = (1, 20, 80)


def points() -> list[Point]:
    """Return all points of the benchmark."""
    found = []
    for latency, outstanding in LATENCIES:
        at = functools.partial(Point, latency=latency, outstanding=outstanding)
        for dim, name in itertools.product((64, 128), FORMATS):
            lanes = 128 if FORMATS[name].bits == 4 and dim == 128 else 64
            found += [
                at(format=name, dim=dim, lanes=lanes, source=source, pooling=pooling)
                for source in ("criteo", "gowalla")
                for pooling in POOLINGS
            ]
        found += [
            at(format=name, dim=dim, lanes=64, source="gowalla", pooling=None)
            for name, dim in (("int8", 64), ("int8r", 128))
        ]
    for dim in (16, 32):
        found += [
            Point(format=name, dim=dim, lanes=dim, source="criteo", pooling=pooling)
            for name in FORMATS
            for pooling in (1, 20)
        ]
    for port_bits in (128, 256):
        found += [
            Point(
                format="int8",
                dim=64,
                lanes=port_bits // 8,
                source="criteo",
                pooling=pooling,
                port_bits=port_bits,
            )
            for pooling in (1, 20)
        ]
    found += [
        Point(format=name, dim=dim, lanes=64, source="criteo", pooling=20, onchip=share)
        for name, dim, share in (("int8", 128, 0.3), ("int8r", 64, 0.7))
    ]
    # with the other order of address bits the memory gives more than the port takes
    for order, outstanding in (("row_column_bank", 128), ("row_bank_column", 512)):
        found += [
            Point(
                format="int8",
                dim=dim,
                lanes=64,
                source="uniform",
                pooling=20,
                outstanding=outstanding,
                ddr4=Ddr4(map=order),
                row_beats=DDR4_BEATS,
            )
            for dim in (64, 128, 256)
        ]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Traffic:
    """Lookups of a log: ``ranks`` of every feature by frequency, hottest first, in its order.

    ``lengths`` are those of real bags, where the log has any; ``source`` says where it is from.
    """

    ranks: tuple[Ints, ...]
    rows: tuple[int, ...]
    lengths: Ints | None
    source: str

    def bags(self, pooling: int | None, lookups: int) -> Bags:
        """Return about ``lookups`` lookups, a bag of every feature per sample.

        A bag of ``pooling`` holds as many successive lookups of the feature.
        """
        features = len(self.ranks)
        if pooling is None:
            assert self.lengths is not None
            assert features == 1
            count = int(np.searchsorted(np.cumsum(self.lengths), lookups)) + 1
            lengths = self.lengths[:count]
            ranks = self.ranks[0][: lengths.sum()]
            return Bags(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), lengths, ranks)
        samples = -(-lookups // (pooling * features))
        columns = [np.resize(ranks, samples * pooling) for ranks in self.ranks]
        ranks = np.stack([column.reshape(samples, pooling) for column in columns], axis=1)
        return Bags(
            np.repeat(np.arange(samples), features),
            np.tile(np.arange(features), samples),
            np.full(samples * features, pooling),
            ranks.reshape(-1),
        )


def _by_frequency(ids: NDArray[Any]) -> tuple[Ints, int]:
    """Ranks of ids, the most frequent one's is 0, and how many there are."""
    _, number, counts = np.unique(ids, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank[number.reshape(-1)], len(counts)


def criteo() -> Traffic:
    """Return the lookups of real Criteo samples, one per sample and feature, or a stand-in's."""
    path = find_data(CRITEO_FILE)
    if path is not None:
        with gzip.open(path, "rt") as file:
            cells = np.array([line.rstrip("\n").split("\t")[CRITEO_FIRST:] for line in file])
        ranked = [_by_frequency(column) for column in cells.T]
        return Traffic(tuple(r for r, _ in ranked), tuple(n for _, n in ranked), None, "criteo")
    rng = np.random.default_rng(SEED)
    ranks = tuple(zipf_ranks(rng, 8000, rows, CRITEO_EXPONENT) for rows in CRITEO_ROWS)
    return Traffic(ranks, CRITEO_ROWS, None, "synthetic, shaped as criteo")


def gowalla() -> Traffic:
    """Return the lookups and bag lengths of real Gowalla users, or a stand-in's."""
    path = find_data(GOWALLA_FILE)
    if path is not None:
        with np.load(path) as arrays:
            ids, offsets = arrays["train_indices"], arrays["train_offsets"]
        ranks, rows = _by_frequency(ids)
        return Traffic((ranks,), (rows,), np.diff(offsets).astype(np.int64), "gowalla")
    rng = np.random.default_rng(SEED)
    lengths = GOWALLA_SHORTEST + rng.geometric(1 / (GOWALLA_MEAN - GOWALLA_SHORTEST), 20_000)
    ranks = zipf_ranks(rng, int(lengths.sum()), GOWALLA_ROWS, GOWALLA_EXPONENT)
    return Traffic((ranks,), (GOWALLA_ROWS,), lengths, "synthetic, shaped as gowalla")


def uniform(row_bytes: int, lookups: int) -> Traffic:
    """Return random rows of a table as large as the memory."""
    rows = UNIFORM_BYTES // row_bytes
    ranks = np.random.default_rng(SEED).integers(0, rows, lookups)
    return Traffic((ranks,), (rows,), None, "uniform")


def _traffic(point: Point, row_bytes: int, lookups: int) -> Traffic:
    if point.source == "uniform":
        return uniform(row_bytes, lookups)
    return {"criteo": criteo, "gowalla": gowalla}[point.source]()


def _onchip_rows(traffic: Traffic, bags: Bags, share: float, row_beats: int) -> list[int]:
    """Hottest rows of each table so that ``share`` of all lookups is theirs."""
    if not share:
        return [0] * len(traffic.rows)
    feature = bags.feature[bags.bag]
    counts = [
        np.bincount(bags.ranks[feature == i], minlength=r) for i, r in enumerate(traffic.rows)
    ]
    flat = np.concatenate(counts)
    table = np.repeat(np.arange(len(counts)), traffic.rows)
    # ranks are by frequency in the whole log, so a table's hottest rows are its first ones
    hot = np.concatenate([np.minimum.accumulate(count) for count in counts])
    order = np.argsort(-hot, kind="stable")
    taken = order[: int(np.searchsorted(np.cumsum(flat[order]), share * flat.sum())) + 1]
    if len(taken) * row_beats > ONCHIP_BEATS:
        raise CheckError(f"{len(taken)} on-chip rows do not fit {ONCHIP_BEATS} beats")
    return np.bincount(table[taken], minlength=len(counts)).tolist()


def measure(point: Point, *, cache: Path | None = None) -> dict[str, Any]:
    """Measure a point; every partial is compared with numpy's.

    Returns
    -------
    dict
        See :func:`bench_gather`.

    Raises
    ------
    AssertionError
        If a partial is wrong.
    screc_sim.runner.SimulationError
        If the engine breaks a rule or does not come to an end.
    """
    params = point.params
    row = FORMATS[point.format]
    row_beats = row.row_beats(point.dim, params.beat_bytes)
    lookups = round(point.row_beats / row_beats)
    traffic = _traffic(point, row.stride(point.dim, params.beat_bytes), lookups)
    bags = traffic.bags(point.pooling, lookups)
    onchip = _onchip_rows(traffic, bags, point.onchip, row_beats)
    tables = [
        Table(format=point.format, dim=point.dim, rows=rows, onchip=hot)
        for rows, hot in zip(traffic.rows, onchip, strict=True)
    ]
    image_bytes = IMAGE_BYTES if point.source == "uniform" else None
    case = GatherCase(params, tables, image_bytes=image_bytes, seed=SEED)
    memory = Memory(latency=point.latency, ddr4=point.ddr4)
    outcome = run(build(params, cache=cache), case.job(bags), memory)
    expected = case.expected(bags)
    check_partials(outcome.partials, expected)
    if outcome.row_beats != case.row_beats(bags) or outcome.range_errors:
        raise AssertionError(
            f"{outcome.row_beats} row beats, not {case.row_beats(bags)};"
            f" {outcome.range_errors} range errors, not 0"
        )
    taken = len(bags.ranks)
    share = float(case.onchip_lookups(bags).mean())
    latency = point.latency if point.ddr4 is None else point.ddr4.idle_cycles(PORT_PERIOD_PS)
    shape = TableShape(name="table", rows=traffic.rows[0], dim=point.dim, format=point.format)
    predicted = params.cycles(
        lookups=taken,
        slices=point.dim / point.lanes,
        row_beats=row_beats,
        row_cycles=params.row_cycles(shape),
        partials=len(expected["slot"]),
        latency=latency,
        onchip=share,
        records=False,
    )
    beats = taken * row_beats
    result: dict[str, Any] = {
        "format": point.format,
        "dim": point.dim,
        "lanes": point.lanes,
        "port_bits": point.port_bits,
        "memory": "fixed" if point.ddr4 is None else f"ddr4, {point.ddr4.map}",
        "latency_cycles": latency,
        "outstanding": point.outstanding,
        "pooling": point.pooling or taken / len(bags.lengths),
        "pool_beats": params.pool_beats,
        "onchip_share": share,
        "source": traffic.source,
        "lookups": taken,
        "beats": beats,
        "port_beats": outcome.row_beats,
        "cycles": outcome.cycles,
        "beats_per_cycle": beats / outcome.cycles,
        "rows_per_cycle": taken / outcome.cycles,
        "predicted_cycles": None,
        "prediction_error": None,
        "gb_per_s": None,
        "memory_gb_per_s": None,
        "bound_gb_per_s": None,
        "port_gb_per_s": None,
        "of_reachable": None,
        "kind": "measured in RTL (verilator)",
    }
    if point.ddr4 is None:
        error = predicted / outcome.cycles - 1
        return {**result, "predicted_cycles": predicted, "prediction_error": error}
    return {**result, **_rates(point, case, bags, outcome.beat_cycles, cache)}


def _rates(
    point: Point, case: GatherCase, bags: Bags, beat_cycles: int, cache: Path | None
) -> dict[str, float]:
    """GB/s of a run with DDR4, of that memory with the same reads, and of the port."""
    assert point.ddr4 is not None
    stride = case.strides[0]
    starts = case.bases[0] + bags.ranks * stride
    reads = (starts[:, None] + np.arange(0, stride, ACCESS_BYTES)).reshape(-1)
    gives = point.ddr4.measure(reads.astype(np.uint64), cache=cache)
    port = case.params.beat_bytes * 1000 / PORT_PERIOD_PS
    reached = len(bags.ranks) * stride * 1000 / (beat_cycles * PORT_PERIOD_PS)
    return {
        "gb_per_s": reached,
        "memory_gb_per_s": gives,
        "bound_gb_per_s": point.ddr4.bound_gb_per_s(stride),
        "port_gb_per_s": port,
        "of_reachable": reached / min(gives, port),
    }


def bench_gather(
    chosen: Sequence[Point],
    *,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Measure points, and check every partial of them.

    Parameters
    ----------
    chosen
        What to measure.
    cache
        Folder of kept builds; None: the user's.
    workers
        Builds and runs at a time.
    progress
        Called with what is being done, how many of them are, and of how many.

    Returns
    -------
    list of dict
        Per point: its own fields; ``latency_cycles``, with DDR4 that of an idle read; ``pooling``,
        mean lookups of a bag; ``onchip_share`` of the lookups; ``lookups``; ``beats``, of rows,
        on-chip ones included; ``port_beats`` without them; ``cycles`` from the first lookup taken
        to the last partial; ``beats_per_cycle``, ``rows_per_cycle``; ``predicted_cycles`` by
        ``MemoryCoreParams`` and their relative ``prediction_error``. With DDR4, from its first beat
        to its last: ``gb_per_s``, ``memory_gb_per_s`` (the memory alone, its queue always full),
        ``bound_gb_per_s`` (closed form), ``port_gb_per_s``, and ``of_reachable``, the part of the
        lesser of memory and port that the engine gets. None where a field does not apply.
        ``kind``.

    Raises
    ------
    CheckError
        If a partial is wrong, or a rule is broken.
    ToolchainError
        If a tool is missing.
    """
    return measure_points(
        chosen, build=build, measure=measure, cache=cache, workers=workers, progress=progress
    )


def bench() -> list[dict[str, Any]]:
    """Run :func:`bench_gather` as ``screc bench gather`` does, with progress on stderr."""
    return with_progress(lambda progress: bench_gather(points(), progress=progress))
