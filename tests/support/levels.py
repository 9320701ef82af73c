"""Logic levels between the registers of a mapped netlist, and the paths that have most.

A path runs from a register to a register. Registers are flip-flops, block and UltraRAM, DSPs, the
clocked sides of LUT RAM and shift registers, and the ports of the top module; a flip-flop's enable
and reset are ends as its data is, so are the pins of a RAM, and the enables and resets of a DSP.
Levels are counted as slices of an UltraScale+ device build them:

- a LUT of any size, and an asynchronous read of a LUT RAM or shift register: 1;
- MUXF7 to MUXF9, and inverters (the next LUT takes them): 0;
- a carry chain of any length with the LUTs in front of it: 1. The LUT at its S belongs to it, and
  so does one at DI that fits the same place (five inputs for both). What else enters a chain, from
  a register or from further logic, pays its level;
- what a chain gives to another LUT starts the next level.

Nets at the data and mode pins of a DSP must come straight from registers; what a DSP without its
output register, or a block RAM, gives must go straight to flip-flops, which Vivado moves into it
(Yosys does not). :func:`violations` lists what does not.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.support.synth import MappedNetlist

__all__ = ["Path", "Violation", "assert_levels", "violations", "worst_paths"]

LUT = re.compile(r"LUT[1-6]")
WIDE_MUX = re.compile(r"MUXF[789]")
FLIP_FLOP = re.compile(r"(FD[RSCP]E|LD[CP]E)(_1)?")
LUT_RAM = re.compile(r"RAM(\d+)(M\d*|X\d+[DS])")
SHIFT = re.compile(r"SRL(16E|C16E|C32E)")
BLOCK_RAM = re.compile(r"RAMB(18|36)E[12]|URAM288(_BASE)?|FIFO(18|36)E[12]")
DSP = re.compile(r"DSP48E[12]")
IGNORED = re.compile(r"\$scopeinfo|VCC|GND")
CLOCK = re.compile(r"(W|RD|WR)?CLK(ARD|BWR)?[ABLU]?|C")
DSP_CONTROL = re.compile(r"CE.*|RST.*|CLK")
CARRY_WIDTH = {"CARRY4": 4, "CARRY8": 8}

Pin = tuple[str, str, int]
"""Cell, port and bit of the port; an empty cell is the top module."""


@dataclasses.dataclass(frozen=True)
class Path:
    """A path of ``levels`` from ``start`` to ``end``; ``steps`` are its cells and their nets.

    The name of a net is one that a person wrote, if any: of an end, the register's output.
    """

    levels: int
    start: str
    end: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.levels} levels: {self.start} -> {self.end}"]
        return "\n".join(lines + [f"    {step}" for step in self.steps])


@dataclasses.dataclass(frozen=True)
class Violation:
    """A pin of a DSP or RAM that is not registered: ``rule``, the pin, and what is at the net."""

    rule: str
    pin: str
    net: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.pin}, {self.net}"


@dataclasses.dataclass
class _Cell:
    type: str
    pins: dict[str, list[Any]]
    directions: dict[str, str]
    parameters: dict[str, Any]

    def nets(self, direction: str) -> Iterator[tuple[str, int, int]]:
        """Port, bit and net of every pin of a direction; constants are no nets."""
        for port, bits in self.pins.items():
            if self.directions[port] == direction:
                for index, net in enumerate(bits):
                    if isinstance(net, int):
                        yield port, index, net


class _Graph:
    """Arrival of every net in levels, and where the latest came from."""

    def __init__(self, netlist: MappedNetlist) -> None:
        module = netlist.module
        self.module = module
        self.cells: dict[str, _Cell] = {}
        for name, cell in module["cells"].items():
            if not IGNORED.fullmatch(cell["type"]):
                self.cells[name] = _Cell(
                    cell["type"],
                    cell["connections"],
                    cell.get("port_directions", {}),
                    cell.get("parameters", {}),
                )
        self.driver: dict[int, Pin] = {}
        for name, cell in self.cells.items():
            if not cell.directions or not _known(cell.type):
                raise ValueError(f"{name}: cell type {cell.type} has no rule in this module")
            for port, index, net in cell.nets("output"):
                self.driver[net] = (name, port, index)
        for name, port in module["ports"].items():
            if port["direction"] == "input":
                for index, net in enumerate(port["bits"]):
                    self.driver[net] = ("", name, index)
        self.level: dict[int, int] = {}
        self.source: dict[int, int | None] = {}  # the net before, None at a start
        self._arrive()

    def arcs(self, net: int) -> list[tuple[int, int]]:
        """Nets that ``net`` depends on within the cycle, and what the way from each costs."""
        name, port, index = self.driver[net]
        if not name:
            return []
        cell = self.cells[name]
        if LUT.fullmatch(cell.type):
            return [(bit, 1) for _, _, bit in cell.nets("input")]
        if WIDE_MUX.fullmatch(cell.type) or cell.type == "INV":
            return [(bit, 0) for _, _, bit in cell.nets("input")]
        if cell.type in CARRY_WIDTH:
            return list(self._carry(cell, port, index))
        if LUT_RAM.fullmatch(cell.type) or SHIFT.fullmatch(cell.type):
            address = _read_port(cell, port)
            return [(bit, 1) for bit in cell.pins.get(address, []) if isinstance(bit, int)]
        return []

    def _carry(self, cell: _Cell, port: str, index: int) -> Iterator[tuple[int, int]]:
        pins = cell.pins
        for bit in range(index + 1):
            select = pins["S"][bit]
            lut = self._lut(select)
            if isinstance(select, int):
                yield select, 0 if lut else 1
            if bit < index or port == "CO":
                data = pins["DI"][bit]
                if isinstance(data, int):
                    other = self._lut(data)
                    yield data, 0 if other and lut and len(other | lut) <= 5 else 1
        for first in ("CI", "CYINIT"):
            for net in pins.get(first, []):
                if isinstance(net, int):
                    driver = self.driver[net][0]
                    chained = driver and self.cells[driver].type in CARRY_WIDTH
                    yield net, 0 if chained else 1

    def _lut(self, net: Any) -> frozenset[int] | None:
        """Inputs of the LUT that drives ``net``, None where it is none."""
        name = self.driver[net][0] if isinstance(net, int) else ""
        if not name or not LUT.fullmatch(self.cells[name].type):
            return None
        return frozenset(bit for _, _, bit in self.cells[name].nets("input"))

    def _arrive(self) -> None:
        busy: set[int] = set()
        for root in self.driver:
            stack = [root]
            while stack:
                net = stack[-1]
                if net in self.level:
                    stack.pop()
                    continue
                arcs = self.arcs(net)
                open_ = [bit for bit, _ in arcs if bit not in self.level]
                if not open_:
                    busy.discard(net)
                    self.level[net], self.source[net] = max(
                        ((self.level[bit] + cost, bit) for bit, cost in arcs),
                        default=(self._start(net), None),
                    )
                    stack.pop()
                elif net in busy:
                    raise ValueError(f"combinational loop through {self.driver[net]}")
                else:
                    busy.add(net)
                    stack += open_

    def _start(self, net: int) -> int:
        """Level of a net without a net before it: the read of a LUT RAM costs one always."""
        name = self.driver[net][0]
        return int(bool(name) and bool(LUT_RAM.fullmatch(self.cells[name].type)))

    def ends(self) -> Iterator[tuple[int, Pin]]:
        """Nets at the ends of paths, with the pin each ends at."""
        for name, cell in self.cells.items():
            if not _clocked(cell.type):
                continue
            for port, index, net in cell.nets("input"):
                if not CLOCK.fullmatch(port):
                    yield net, (name, port, index)
        for name, port in self.module["ports"].items():
            if port["direction"] == "output":
                for index, net in enumerate(port["bits"]):
                    if isinstance(net, int):
                        yield net, ("", name, index)

    def path(self, net: int) -> list[int]:
        """Nets from a start to ``net``."""
        nets = [net]
        while (before := self.source[nets[-1]]) is not None:
            nets.append(before)
        return nets[::-1]

    def names(self, wanted: Iterable[int]) -> dict[int, str]:
        """Return a readable name of each net: the shortest that a person wrote, with its bit."""
        left = set(wanted)
        found: dict[int, tuple[bool, int, str]] = {}
        for name, net in self.module["netnames"].items():
            if left.isdisjoint(net["bits"]):
                continue
            for index, bit in enumerate(net["bits"]):
                if bit in left:
                    label = f"{name}[{index}]" if len(net["bits"]) > 1 else name
                    key = ("$" in name, len(name), label)
                    found[bit] = min(found.get(bit, key), key)
        return {bit: found[bit][2] if bit in found else f"net {bit}" for bit in left}


def _known(cell: str) -> bool:
    logic = LUT.fullmatch(cell) or WIDE_MUX.fullmatch(cell) or cell == "INV" or cell in CARRY_WIDTH
    return bool(logic) or _clocked(cell)


def _clocked(cell: str) -> bool:
    return any(kind.fullmatch(cell) for kind in (FLIP_FLOP, LUT_RAM, SHIFT, BLOCK_RAM, DSP))


def _read_port(cell: _Cell, output: str) -> str:
    """Address port that an output of a LUT RAM or shift register follows, "" if none."""
    if SHIFT.fullmatch(cell.type):
        return "A" if output == "Q" else ""
    if match := re.fullmatch(r"DO([A-H])", output):
        return f"ADDR{match[1]}"
    return "DPRA" if output == "DPO" else "A"


def _registered(cell: _Cell) -> bool:
    """Whether a DSP's results leave it through its output register."""
    value = cell.parameters.get("PREG", "1")
    return int(value, 2) == 1 if isinstance(value, str) else value == 1


def worst_paths(netlist: MappedNetlist, top: int = 5, *, within: str = "") -> list[Path]:
    """Return the longest paths, one for each pair of starting and ending register.

    Parameters
    ----------
    netlist
        A design.
    top
        Most paths to return.
    within
        Only ends whose name starts so (``engine.pool.``).
    """
    graph = _Graph(netlist)
    ends = sorted(graph.ends(), key=lambda end: -graph.level[end[0]])
    # equal paths of many bits stand before what is next, so more are traced than returned
    paths: dict[tuple[str, str], Path] = {}
    for first in range(0, len(ends), 4096):
        part = [(graph.path(net), pin) for net, pin in ends[first : first + 4096]]
        outputs = {pin[0]: _outputs(graph, pin) for _, pin in part}
        names = graph.names({*(n for nets, _ in part for n in nets), *outputs.values()} - {None})
        for nets, pin in part:
            register = names.get(outputs[pin[0]], pin[0]) if pin[0] else ""
            if not (register or pin[1]).startswith(within):
                continue
            path = _describe(graph, nets, pin, register, names)
            paths.setdefault((_vector(path.start), _vector(path.end)), path)
            if len(paths) == top:
                return list(paths.values())
    return list(paths.values())


def _outputs(graph: _Graph, pin: Pin) -> int | None:
    """Return a net that names the register a pin belongs to: its first output."""
    if not pin[0]:
        return None
    return next((net for _, _, net in graph.cells[pin[0]].nets("output")), None)


def _describe(
    graph: _Graph, nets: Sequence[int], pin: Pin, register: str, names: dict[int, str]
) -> Path:
    steps = []
    for net in nets:
        name, port, index = graph.driver[net]
        kind = f"{graph.cells[name].type} {port}[{index}]" if name else "port"
        steps.append(f"{graph.level[net]:2} {kind} {names[net]}")
    kind = f"{register} ({graph.cells[pin[0]].type} {pin[1]})" if pin[0] else f"port {pin[1]}"
    return Path(graph.level[nets[-1]], names[nets[0]], kind, tuple(steps))


def _vector(name: str) -> str:
    return re.sub(r"\[\d+\]", "", name)


def violations(netlist: MappedNetlist) -> list[Violation]:
    """Return the DSP and RAM pins that logic is at, one for each port of a cell."""
    graph = _Graph(netlist)
    loads: dict[int, list[Pin]] = collections.defaultdict(list)
    for name, cell in graph.cells.items():
        for port, index, net in cell.nets("input"):
            loads[net].append((name, port, index))
    found: list[tuple[str, Pin, int, str]] = []
    for name, cell in graph.cells.items():
        dsp = DSP.fullmatch(cell.type)
        if dsp:
            for port, index, net in cell.nets("input"):
                source = graph.driver[net][0]
                if not DSP_CONTROL.fullmatch(port) and not _straight(graph, source):
                    rule = f"{graph.level[net]} levels before a DSP's pin"
                    found.append((rule, (name, port, index), net, graph.cells[source].type))
        if BLOCK_RAM.fullmatch(cell.type) or (dsp and not _registered(cell)):
            kind = "DSP" if dsp else "RAM"
            for port, index, net in cell.nets("output"):
                for load, pin, _ in loads[net]:
                    if not (FLIP_FLOP.fullmatch(graph.cells[load].type) and pin == "D"):
                        where = f"{graph.cells[load].type} {pin}"
                        rule = f"output of a {kind} not registered"
                        found.append((rule, (name, port, index), net, where))
                        break
    names = graph.names(net for _, _, net, _ in found)
    first: dict[tuple[str, str, str], Violation] = {}
    for rule, (name, port, index), net, other in found:
        pin = f"{graph.cells[name].type} {name} {port}[{index}]"
        first.setdefault((rule, name, port), Violation(rule, pin, f"{other} at {names[net]}"))
    return list(first.values())


def _straight(graph: _Graph, source: str) -> bool:
    return not source or bool(
        FLIP_FLOP.fullmatch(graph.cells[source].type) or DSP.fullmatch(graph.cells[source].type)
    )


def assert_levels(netlist: MappedNetlist, limit: int = 5, *, dsp: bool = True) -> None:
    """Fail with the worst paths if any has more than ``limit`` levels.

    With ``dsp``, also if :func:`violations` finds any.
    """
    worst = [path for path in worst_paths(netlist) if path.levels > limit]
    assert not worst, f"more than {limit} LUT levels:\n" + "\n".join(map(str, worst))
    wrong = violations(netlist) if dsp else []
    assert not wrong, "not registered:\n" + "\n".join(map(str, wrong[:20]))
