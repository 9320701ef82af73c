"""Tables and rows that a TT reconstructor is tried with, on any simulator."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc_hw.emit import emit_systemverilog
from screc_hw.tt.params import TtParams
from screc_hw.tt.reconstructor import TtReconstructor
from screc_hw.tt.shape import TtShape
from screc_sim import runner
from screc_sim.native import tt as native
from screc_sim.native.tt import Outcome, Timing, TtCase, random_table
from tests.cosim.support import CACHE, needs

TOP = "tt"

Ints = NDArray[np.int64]


@dataclasses.dataclass
class Given:
    """What a run is given: LOAD words, requests (row, table), slices that must come."""

    params: TtParams
    config: list[tuple[int, int, int]]
    requests: list[tuple[int, int]]
    slices: int
    timing: Timing


@dataclasses.dataclass
class Played:
    """What came out of a run."""

    slices: list[int]
    counters: dict[str, int]
    faults: list[str]
    cycles: int


def shape(rows, p, q, ranks):
    return TtShape(rows=rows, p=p, q=q, ranks=ranks)


SHAPES = {
    # one row of the fewest components; the sizes that nothing is smaller than
    "smallest": [
        shape(1, (1, 1, 1), (1, 1, 4), (1, 1)),
        shape(5, (1, 1, 5), (1, 1, 4), (1, 1)),
    ],
    # every q1, odd and even q2, ranks below, at and above multiples of a chain; rows that are
    # fewer than p1 · p2 · p3; a p of 1 in every place
    "mixed": [
        shape(1, (1, 1, 1), (1, 1, 8), (1, 1)),
        shape(119, (4, 5, 6), (2, 2, 4), (8, 8)),
        shape(60, (3, 4, 5), (4, 2, 4), (7, 9)),
        shape(61, (1, 7, 9), (3, 4, 4), (16, 1)),
        shape(100, (10, 1, 11), (1, 2, 12), (1, 16)),
        shape(33, (5, 7, 1), (2, 3, 4), (15, 10)),
        shape(210, (6, 6, 6), (4, 4, 4), (16, 16)),
    ],
    # the largest rows of all, and none but whole steps
    "largest": [
        shape(500, (8, 8, 8), (4, 4, 8), (32, 32)),
        shape(512, (8, 8, 8), (4, 4, 8), (1, 32)),
        shape(100, (5, 5, 5), (1, 4, 4), (32, 5)),
        shape(1000, (10, 10, 10), (2, 2, 4), (16, 16)),
    ],
    # digits as long as they may be
    "long": [
        shape((1 << 29) - 1, (1024, 1024, 512), (2, 2, 4), (4, 1)),
        shape(1023, (1, 1, 1024), (2, 2, 4), (4, 4)),
    ],
}

PINS = {
    "smallest": [1, 0],
    "mixed": [0, 20, 5, 0, 1, 35, 3],
    "largest": [10, 0, 25, 100],
    "long": [40, 1],
}

BUILDS = {
    "smallest": TtParams.for_tables(
        SHAPES["smallest"], PINS["smallest"], slice_lanes=4, chain=4, fraction=0, slots=2
    ),
    "mixed": TtParams.for_tables(
        SHAPES["mixed"], PINS["mixed"], slice_lanes=8, chain=8, requantisers=8
    ),
    "unpinned": TtParams.for_tables(
        SHAPES["mixed"], slice_lanes=8, chain=4, lanes=3, requantisers=4, slots=4
    ),
    "largest": TtParams.for_tables(
        SHAPES["largest"],
        PINS["largest"],
        slice_lanes=16,
        chain=16,
        lanes=2,
        requantisers=16,
        fraction=8,
    ),
    "long": TtParams.for_tables(
        SHAPES["long"], PINS["long"], slice_lanes=16, chain=4, max_tables=128
    ),
}

TABLES = {name: "mixed" if name == "unpinned" else name for name in BUILDS}


@functools.cache
def case(name: str, *, loud: bool = False) -> TtCase:
    """The tables of a build."""
    params = BUILDS[name]
    tables = [
        random_table(s, fraction=params.fraction, seed=seed, loud=loud)
        for seed, s in enumerate(SHAPES[TABLES[name]])
    ]
    pins = PINS[TABLES[name]] if params.pinned_words else None
    return TtCase(params, tables, pins)


def some_rows(chosen: TtCase, count: int, *, seed: int) -> tuple[Ints, Ints]:
    """Rows of all tables: anywhere, of pinned prefixes, the first and last, ones that are none."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, len(chosen.tables), count)
    rows = np.array([t.shape.rows for t in chosen.tables])[table]
    pinned = np.array([p * t.shape.p[2] for t, p in zip(chosen.tables, chosen.pins, strict=True)])
    local = rng.integers(0, rows)
    kind = rng.random(count)
    hot = np.minimum(rows, np.maximum(1, 2 * pinned[table]))
    local = np.where(kind < 0.4, rng.integers(0, hot), local)
    ends = np.stack([np.zeros(count, np.int64), rows - 1])
    local = np.where(kind > 0.9, rng.choice(ends), local)
    none = np.stack([rows, rows + rng.integers(0, 100, count), np.full(count, (1 << 32) - 1)])
    local = np.where(kind > 0.96, rng.choice(none), local)
    # each table's last row and the one behind it, for certain
    both = np.repeat(np.arange(len(chosen.tables)), 2)
    last = np.array([t.shape.rows for t in chosen.tables])[both] - np.tile([1, 0], len(both) // 2)
    return np.concatenate([last, local]), np.concatenate([both, table])


def played_by_icarus(
    name: str, runs: list[tuple[Ints, Ints, Timing]], folder: Path, *, loud: bool = False
) -> list[Outcome]:
    """Play runs of a build, one after the other, in one run of Icarus."""
    needs("icarus")
    chosen = case(name, loud=loud)
    rtl = folder / "rtl"
    emit_systemverilog(TtReconstructor(chosen.params), name=TOP, folder=rtl)
    build = runner.build("icarus", sorted(rtl.glob("*.sv")), TOP, cache=CACHE)
    given = [
        Given(
            chosen.params,
            chosen.config(),
            list(zip(local.tolist(), table.tolist(), strict=True)),
            len(chosen.expected(local, table)),
            timing,
        )
        for local, table, timing in runs
    ]
    source, target = folder / "given.pickle", folder / "played.pickle"
    source.write_bytes(pickle.dumps(given))
    environment = {"TT_GIVEN": str(source), "TT_PLAYED": str(target)}
    runner.run(build, folder, "tests.cosim.tt_tb", environment=environment)
    return [_outcome(chosen.params, played) for played in pickle.loads(target.read_bytes())]


def _outcome(params: TtParams, played: Played) -> Outcome:
    assert played.faults == []
    bits, half = params.code_bits, 1 << (params.code_bits - 1)
    codes = [
        [(word >> bits * lane) % (1 << bits) for lane in range(params.slice_lanes)]
        for word in played.slices
    ]
    slices = np.array(codes, np.int64).reshape(-1, params.slice_lanes)
    return Outcome(
        cycles=played.cycles,
        pin_cycles=0,
        slices=(slices ^ half) - half,
        cycles_run=played.cycles,
        seconds=0.0,
        **played.counters,
    )


def played_by_verilator(
    name: str, local: Ints, table: Ints, timing: Timing, *, loud: bool = False
) -> Outcome:
    """Play a run of a build on Verilator, without cocotb."""
    design = native.build(BUILDS[name], cache=CACHE)
    return native.run(design, case(name, loud=loud), local, table, timing)
