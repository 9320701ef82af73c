"""Build a gather engine with its C++ test bench, once, and run jobs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.memory.engine import GatherEngine
from screc_hw.memory.layouts import record_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import config_layout, partial_layout
from screc_sim.native.ddr4 import Ddr4
from screc_sim.native.program import (
    Design,
    build_design,
    job_folder,
    layout_fields,
    pack_words,
    read_lanes,
    run_job,
    unpack_field,
    word_count,
    write_config,
)

__all__ = ["Design", "Job", "Memory", "Outcome", "build", "run"]

TOP = "gather"

PORT_PERIOD_PS = 4000
"""Clock of the port, for memories with a clock of their own: 250 MHz."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """How the memory answers and what the surroundings do, cycle by cycle.

    Parameters
    ----------
    latency
        Cycles from an accepted request to its first beat, or the lowest and highest of random ones.
    ddr4
        The memory that sets them instead; None: ``latency`` does.
    ar_stall, r_gap, partial_stall, lookup_gap
        Probability per cycle that requests wait, no beat is offered, partials are not taken, no
        lookup is offered.
    error_beat
        Number of the beat that comes with an error response; None: none does.
    seed
        Of all random choices.
    """

    latency: int | tuple[int, int] = 100
    ddr4: Ddr4 | None = None
    ar_stall: float = 0.0
    r_gap: float = 0.0
    partial_stall: float = 0.0
    lookup_gap: float = 0.0
    error_beat: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.latencies
        if not 1 <= low <= high:
            raise ValueError(f"latency must be at least 1, lowest first, not {self.latency!r}")
        for name in ("ar_stall", "r_gap", "partial_stall", "lookup_gap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)!r}")

    @property
    def latencies(self) -> tuple[int, int]:
        """Lowest and highest latency."""
        if isinstance(self.latency, int):
            return self.latency, self.latency
        return self.latency


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What a run is given.

    Parameters
    ----------
    config
        LOAD words: (target, address, data).
    image
        uint8; the memory from ``base`` on, repeated as often as needed.
    regions
        Byte ranges from ``base`` that may be read, [first, last).
    lookups
        Structured or plain columns by field of ``record_layout()``: ``rank``, ``feature``,
        ``sample``, ``staged``, ``last``, ``final``, ``samples``, ``sequence``, equally long.
    base
        Start of the memory.
    """

    config: Sequence[tuple[int, int, int]]
    image: NDArray[np.uint8]
    regions: Sequence[tuple[int, int]]
    lookups: dict[str, NDArray[np.int64]]
    base: int = 0x3_4560_0000


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    cycles
        From the first lookup taken to the last partial.
    beat_cycles
        From the first row beat to the last, both included.
    row_beats, bursts, most_beats
        Beats that came, requests, and the most beats that were owed at a time.
    range_errors, beats_counted
        The engine's own counters.
    error_beats
        Cycles with ``error``.
    partials
        By field: ``slot``, ``row``, ``feature``, ``slice``, ``last``, ``count``: int64 ``(n,)``;
        ``acc`` int64 ``(n, lanes)``. In order.
    cycles_run, seconds
        All cycles of the run, and how long it took.
    """

    cycles: int
    beat_cycles: int
    row_beats: int
    bursts: int
    most_beats: int
    range_errors: int
    beats_counted: int
    error_beats: int
    partials: dict[str, NDArray[np.int64]]
    cycles_run: int
    seconds: float


def _constants(params: MemoryCoreParams) -> dict[str, int]:
    return {
        "BEAT_BYTES": params.beat_bytes,
        "ID_BITS": 1,
        "CONFIG_WORDS": word_count(config_layout().size),
        "LOOKUP_WORDS": word_count(record_layout().size),
        "PARTIAL_WORDS": word_count(partial_layout(params).size),
        "SEQUENCE_LOW": layout_fields(record_layout())["sequence"][0],
    }


def build(params: MemoryCoreParams, *, cache: Path | None = None) -> Design[MemoryCoreParams]:
    """Compile the engine of ``params`` with its test bench, or return the kept build.

    Parameters
    ----------
    params
        The engine's; without TT rows, which come from another core.
    cache
        Folder of kept builds; None: :func:`screc_sim.runner.default_cache`.

    Raises
    ------
    screc_sim.runner.SimulatorMissingError
        If a tool is not installed.
    screc_sim.runner.SimulationError
        If something does not compile.
    ValueError
        If the engine has TT rows.
    """
    if params.tt_fraction is not None:
        raise ValueError(f"tt_fraction must be None here, not {params.tt_fraction}")
    return build_design(GatherEngine, params, TOP, _constants(params), cache=cache)


def run(
    design: Design[MemoryCoreParams], job: Job, memory: Memory, *, folder: Path | None = None
) -> Outcome:
    """Run ``job``; every rule that the memory's side can check holds, or an error says which.

    Parameters
    ----------
    folder
        Where its files go, kept; None: a temporary folder.

    Raises
    ------
    screc_sim.runner.SimulationError
        If a read breaks a rule of AXI or lies outside of the regions, a stream breaks its rules, or
        the engine does not come to an end.
    """
    with job_folder(folder, TOP) as place:
        report, seconds = run_job(
            design.program,
            place,
            _write_job(design.params, job, memory, place),
            stuck="{lookups} lookups, {row_beats} beats and {partials} partials",
        )
        partials = _read_partials(design.params, place / "partials.bin")
    return Outcome(
        cycles=report["last_partial"] - report["first_lookup"] + 1,
        beat_cycles=report["last_beat"] - report["first_beat"] + 1,
        row_beats=report["row_beats"],
        bursts=report["bursts"],
        most_beats=report["most_beats"],
        range_errors=report["range_errors"],
        beats_counted=report["beats_counted"],
        error_beats=report["error_beats"],
        partials=partials,
        cycles_run=report["cycles_run"],
        seconds=seconds,
    )


def _write_job(params: MemoryCoreParams, job: Job, memory: Memory, folder: Path) -> dict[str, Any]:
    """Write what the program reads; return the job's values."""
    write_config(folder / "config.bin", job.config)
    fields = layout_fields(record_layout())
    pack_words(fields, job.lookups, record_layout().size).tofile(folder / "lookups.bin")
    np.asarray(job.regions, np.uint64).tofile(folder / "regions.bin")
    np.ascontiguousarray(job.image).tofile(folder / "image.bin")
    low, high = memory.latencies
    values: dict[str, Any] = {
        **{name: folder / f"{name}.bin" for name in ("config", "lookups", "regions", "image")},
        "partials": folder / "partials.bin",
        "base": job.base,
        "memory": "fixed" if memory.ddr4 is None else "ddr4",
        "latency_low": low,
        "latency_high": high,
        "ar_stall": memory.ar_stall,
        "r_gap": memory.r_gap,
        "partial_stall": memory.partial_stall,
        "lookup_gap": memory.lookup_gap,
        "error_beat": (1 << 64) - 1 if memory.error_beat is None else memory.error_beat,
        "seed": memory.seed,
        "patience": 10 * high + 10_000,
    }
    if memory.ddr4 is not None:
        values |= {"cycle_ps": PORT_PERIOD_PS, **memory.ddr4.job_values()}
    return values


def _read_partials(params: MemoryCoreParams, path: Path) -> dict[str, NDArray[np.int64]]:
    layout = partial_layout(params)
    words = np.fromfile(path, np.uint32).reshape(-1, word_count(layout.size))
    fields = layout_fields(layout)
    low, _ = fields.pop("acc")
    values = {n: unpack_field(words, *place).astype(np.int64) for n, place in fields.items()}
    values["acc"] = read_lanes(words, low, params.acc_bits, params.lanes)
    return values
