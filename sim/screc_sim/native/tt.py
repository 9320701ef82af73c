"""Tables and rows for a TT reconstructor, a C++ test bench that asks for them, and what it gives.

Tables have random cores: a reconstructor's time and exactness do not depend on their values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc_hw.memory.layouts import tt_request_layout
from screc_hw.numerics import INT8_MAX, SHIFT1_MAX, requantise_params
from screc_hw.stream import config_layout
from screc_hw.tt.image import TtTable, load_blocks
from screc_hw.tt.params import TtParams
from screc_hw.tt.reconstructor import TtReconstructor
from screc_hw.tt.shape import TtShape
from screc_sim.golden.tt import MIDDLE_MAX, QuantTt
from screc_sim.native.program import (
    Design,
    build_design,
    job_folder,
    layout_fields,
    pack_words,
    read_lanes,
    run_job,
    word_count,
    write_config,
)

__all__ = ["Design", "Outcome", "Timing", "TtCase", "build", "random_table", "run"]

TOP = "tt"

CORE_VARIANCE = INT8_MAX * (INT8_MAX + 1) / 3
"""Variance of whole numbers that are uniform in [-127, 127]."""

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What the surroundings do, cycle by cycle.

    Parameters
    ----------
    request_gap, row_stall
        Probability per cycle that no request is offered, slices are not taken.
    wait
        Whether the first request waits until all pinned prefixes are computed.
    seed
        Of all random choices.
    """

    request_gap: float = 0.0
    row_stall: float = 0.0
    wait: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("request_gap", "row_stall"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    cycles
        From the first request taken to the last slice.
    pin_cycles
        From the end of LOAD until the pinned prefixes are computed, 0 if nothing waits for it.
    slices
        int64 ``(slices, slice_lanes)``, in order.
    range_errors, hits, reconstructed
        The reconstructor's counters.
    cycles_run, seconds
        All cycles of the run, and how long it took.
    """

    cycles: int
    pin_cycles: int
    slices: Ints
    range_errors: int
    hits: int
    reconstructed: int
    cycles_run: int
    seconds: float


def random_table(shape: TtShape, *, fraction: int, seed: int = 0, loud: bool = False) -> QuantTt:
    """Return a table of random cores whose rows use the whole range, and clamp now and then.

    Parameters
    ----------
    shape
        Its sizes.
    fraction
        Bits of a component below the row grid.
    seed
        Of the cores.
    loud
        Whether every number of a core is -127 or 127, so that sums are as large as they can be.
    """
    rng = np.random.default_rng(seed)

    def core(sizes: tuple[int, ...]) -> NDArray[np.int8]:
        if loud:
            return rng.choice(np.array([-INT8_MAX, INT8_MAX], np.int8), sizes)
        return rng.integers(-INT8_MAX, INT8_MAX, sizes, np.int8, endpoint=True)

    variance = INT8_MAX**2 if loud else CORE_VARIANCE
    first = variance * math.sqrt(shape.ranks[0])
    # six standard deviations fit, of a sum that is nearly normal
    shift1 = min(SHIFT1_MAX, max(0, math.ceil(math.log2(6 * first / MIDDLE_MAX))))
    second = min(first / 2**shift1, MIDDLE_MAX) * math.sqrt(variance * shape.ranks[1])
    m, s = requantise_params((INT8_MAX << fraction) / (3 * second))
    first_core, second_core, third_core = (core(sizes) for sizes in shape.core_shapes)
    return QuantTt(
        shape=shape,
        cores=(first_core, second_core, third_core),
        shift1=shift1,
        m=m,
        s=s,
        fraction=fraction,
        scale=1.0,
    )


class TtCase:
    """Tables in a reconstructor.

    Parameters
    ----------
    params
        The reconstructor's.
    tables
        By number.
    pins
        Pinned prefixes of each; none if left out.

    Raises
    ------
    ValueError
        If the tables do not fit, or have another fraction.
    """

    def __init__(
        self, params: TtParams, tables: Sequence[QuantTt], pins: Sequence[int] | None = None
    ) -> None:
        self.params, self.tables = params, tuple(tables)
        self.pins = tuple(pins) if pins is not None else (0,) * len(self.tables)
        for number, table in enumerate(self.tables):
            if table.fraction != params.fraction:
                raise ValueError(
                    f"table {number} has {table.fraction} fraction bits, the reconstructor"
                    f" {params.fraction}"
                )

    def config(self) -> list[tuple[int, int, int]]:
        """LOAD words of the reconstructor: descriptors, cores, and the order to pin."""
        held = [
            TtTable(
                shape=table.shape,
                cores=table.cores,
                shift1=table.shift1,
                m=table.m,
                s=table.s,
                pins=pins,
            )
            for table, pins in zip(self.tables, self.pins, strict=True)
        ]
        return [
            (int(target), address, value)
            for target, words in load_blocks(held, self.params)
            for address, value in enumerate(words.tolist())
        ]

    def hits(self, local: Ints, table: Ints) -> NDArray[np.bool_]:
        """Whether each row's prefix is pinned."""
        last = np.array([t.shape.p[2] * n for t, n in zip(self.tables, self.pins, strict=True)])
        return (local < last[table]) & self.valid(local, table)

    def valid(self, local: Ints, table: Ints) -> NDArray[np.bool_]:
        """Whether each row exists."""
        rows = np.array([table.shape.rows for table in self.tables])
        exist: NDArray[np.bool_] = local < rows[table]
        return exist

    def macs(self, local: Ints, table: Ints) -> int:
        """Multiply-accumulates that these rows need: a first product where none is pinned."""
        first = np.array([t.shape.prefix_macs for t in self.tables])[table]
        second = np.array([t.shape.row_macs for t in self.tables])[table]
        needed = second + np.where(self.hits(local, table), 0, first)
        return int(needed[self.valid(local, table)].sum())

    def expected(self, local: Ints, table: Ints) -> Ints:
        """Return the slices that these rows must give, int64 ``(slices, slice_lanes)``."""
        lanes = self.params.slice_lanes
        counts = np.array([t.shape.dim // lanes for t in self.tables])[table]
        ends = np.cumsum(counts)
        slices = np.zeros((int(counts.sum()), lanes), np.int64)
        for number, quant in enumerate(self.tables):
            (mine,) = np.nonzero(table == number)
            count = quant.shape.dim // lanes
            places = (ends[mine] - count)[:, None] + np.arange(count)
            slices[places.reshape(-1)] = quant.rows(local[mine]).reshape(-1, lanes)
        return slices

    def check(self, outcome: Outcome, local: Ints, table: Ints) -> None:
        """Compare every slice and counter of a run, exactly.

        Raises
        ------
        AssertionError
            If anything differs; with the first difference.
        """
        expected = self.expected(local, table)
        if outcome.slices.shape != expected.shape:
            raise AssertionError(f"{len(outcome.slices)} slices came, not {len(expected)}")
        wrong = np.argwhere(outcome.slices != expected)
        if len(wrong):
            place, lane = wrong[0]
            counts = np.array([t.shape.dim // self.params.slice_lanes for t in self.tables])
            ends = np.cumsum(counts[table])
            row = int(np.searchsorted(ends, place, side="right"))
            raise AssertionError(
                f"row {local[row]} of table {table[row]}, number {row}: component"
                f" {(place - ends[row] + counts[table[row]]) * self.params.slice_lanes + lane} is"
                f" {outcome.slices[place, lane]}, not {expected[place, lane]};"
                f" {len(wrong)} values differ"
            )
        valid = self.valid(local, table)
        counters = {
            "range_errors": int((~valid).sum()),
            "hits": int(self.hits(local, table).sum()),
            "reconstructed": len(local),
        }
        for name, count in counters.items():
            if getattr(outcome, name) != count:
                raise AssertionError(f"{name} is {getattr(outcome, name)}, not {count}")


def build(params: TtParams, *, cache: Path | None = None) -> Design[TtParams]:
    """Compile the reconstructor of ``params`` with its test bench, or return the kept build.

    Parameters
    ----------
    params
        The reconstructor's.
    cache
        Folder of kept builds; None: :func:`screc_sim.runner.default_cache`.

    Raises
    ------
    screc_sim.runner.SimulatorMissingError
        If a tool is not installed.
    screc_sim.runner.SimulationError
        If something does not compile.
    """
    constants = {
        "CONFIG_WORDS": word_count(config_layout().size),
        "REQUEST_WORDS": word_count(tt_request_layout().size),
        "ROW_WORDS": word_count(params.code_bits * params.slice_lanes),
    }
    return build_design(TtReconstructor, params, TOP, constants, cache=cache)


def run(
    design: Design[TtParams],
    case: TtCase,
    local: Ints,
    table: Ints,
    timing: Timing,
    *,
    folder: Path | None = None,
) -> Outcome:
    """Ask for rows.

    Parameters
    ----------
    local, table
        Row and table of every request, int64 ``(n,)``.
    folder
        Where its files go, kept; None: a temporary folder.

    Raises
    ------
    screc_sim.runner.SimulationError
        If a stream breaks its rules, or the reconstructor does not come to an end.
    """
    with job_folder(folder, TOP) as place:
        return _run(design, case, local, table, timing, place)


def _run(
    design: Design[TtParams], case: TtCase, local: Ints, table: Ints, timing: Timing, folder: Path
) -> Outcome:
    p = design.params
    write_config(folder / "config.bin", case.config())
    layout = tt_request_layout()
    columns = {"local": local, "table": table}
    pack_words(layout_fields(layout), columns, layout.size).tofile(folder / "requests.bin")
    pinning = sum(
        pins * (p.steps1(t.shape) + 16) for pins, t in zip(case.pins, case.tables, strict=True)
    )
    values = {name: folder / f"{name}.bin" for name in ("config", "requests", "rows")}
    settings = {
        "request_gap": timing.request_gap,
        "row_stall": timing.row_stall,
        "wait": int(timing.wait),
        "seed": timing.seed,
        "patience": pinning + 20_000,
    }
    report, seconds = run_job(
        design.program,
        folder,
        {**values, **settings},
        stuck="{requests} requests and {slices} slices",
    )
    words = np.fromfile(folder / "rows.bin", np.uint32)
    words = words.reshape(-1, word_count(p.code_bits * p.slice_lanes))
    return Outcome(
        cycles=report["last_slice"] - report["first_request"] + 1,
        pin_cycles=report["pin_cycles"],
        slices=read_lanes(words, 0, p.code_bits, p.slice_lanes),
        range_errors=report["range_errors"],
        hits=report["hits"],
        reconstructed=report["reconstructed"],
        cycles_run=report["cycles_run"],
        seconds=seconds,
    )
