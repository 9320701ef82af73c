"""Logic levels between the registers of a mapped netlist, and the paths that have most.

A path runs from a register to a register. Registers are flip-flops, block and UltraRAM, DSPs, the
clocked sides of LUT RAM and shift registers, and the ports of the top module; a flip-flop's enable
and reset are ends as its data is, so are the pins of a RAM, and the enables and resets of a DSP.
Levels are counted as slices of an UltraScale+ device build them:

- a LUT of any size, and an asynchronous read of a LUT RAM or shift register: 1;
- MUXF7 to MUXF9 behind LUTs: 0, so that a wide function is one level from all of its inputs, those
  that select too;
- inverters, which the next LUT takes: 0;
- a carry chain of any length with the LUTs in front of it: 1. The LUT at its S belongs to it, and
  so does one at DI with the same inputs, six for both: Yosys compares three bits there, where a
  LUT with two outputs compares two in a longer chain. What else enters a chain, from a register or
  from further logic, pays its level;
- what a chain gives to another LUT starts the next level.

Yosys makes the longest path short and then saves LUTs on the others, up to its length: where one is
too long, others may be as long without need.

Nets at the data and mode pins of a DSP must come straight from registers; what a DSP without its
output register, or a block RAM, gives must go straight to flip-flops, which Vivado moves into it
(Yosys does not). A shift register stands for the flip-flops that Yosys made it of.
:func:`violations` lists what is not so.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
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

FLAT = "$flatten\\"

Pin = tuple[str, str, int]
"""Cell, port and bit of the port; an empty cell is the top module."""


@dataclasses.dataclass(frozen=True)
class Path:
    """A path of ``levels`` from the register ``start`` to the ``pin`` of the register ``end``.

    Registers are called by what they drive. ``steps`` are the cells, the start first, with the
    level and name of the net that each drives; nets that Yosys made have none.
    """

    levels: int
    start: str
    end: str
    pin: str
    steps: tuple[tuple[str, int, str], ...]

    def __str__(self) -> str:
        between = [f"{cell}:{level} {net}".strip() for cell, level, net in self.steps[1:]]
        way = " > ".join([self.steps[0][0], *_runs(between), self.pin])
        return f"{self.levels} levels: {self.start} -> {self.end}: {way}"


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
        inputs = cell.nets("input")
        if LUT.fullmatch(cell.type):
            return [(bit, 1) for _, _, bit in inputs]
        if WIDE_MUX.fullmatch(cell.type):
            return [(bit, int(pin == "S" or not self._wide(bit))) for pin, _, bit in inputs]
        if cell.type == "INV":
            return [(bit, 0) for _, _, bit in inputs]
        if cell.type in CARRY_WIDTH:
            return list(self._carry(cell, port, index))
        if _is(cell.type, LUT_RAM, SHIFT):
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
                    yield data, 0 if other and lut and len(other | lut) <= 6 else 1
        for first in ("CI", "CYINIT"):
            for net in pins.get(first, []):
                if isinstance(net, int):
                    driver = self.driver[net][0]
                    chained = driver and self.cells[driver].type in CARRY_WIDTH
                    yield net, 0 if chained else 1

    def _wide(self, net: int) -> bool:
        """Whether ``net`` is the part of a wide function: a LUT's or another multiplexer's."""
        name = self.driver[net][0]
        return bool(name) and _is(self.cells[name].type, LUT, WIDE_MUX, LUT_RAM)

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
        return int(bool(name) and _is(self.cells[name].type, LUT_RAM))

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
        """Return a name of each net, with its bit; "" where it has none but Yosys' own.

        A net may have kept several of the names that it had in the modules that it passes: a
        register's own comes first, then the deepest.
        """
        left = set(wanted)
        found: dict[int, tuple[bool, int, int, str]] = {}
        for name, net in self.module["netnames"].items():
            if net["hide_name"] or left.isdisjoint(net["bits"]):
                continue
            for index, bit in enumerate(net["bits"]):
                if bit in left:
                    label = f"{name}[{index}]" if len(net["bits"]) > 1 else name
                    own = "register" in net["attributes"]
                    key = (not own, -name.count("."), len(name), label)
                    found[bit] = min(found.get(bit, key), key)
        return {bit: found[bit][-1] if bit in found else "" for bit in left}


def _known(cell: str) -> bool:
    return _is(cell, LUT, WIDE_MUX) or cell == "INV" or cell in CARRY_WIDTH or _clocked(cell)


def _clocked(cell: str) -> bool:
    return _is(cell, FLIP_FLOP, LUT_RAM, SHIFT, BLOCK_RAM, DSP)


def _is(cell: str, *kinds: re.Pattern[str]) -> bool:
    return any(kind.fullmatch(cell) for kind in kinds)


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
    """Return the longest paths, one for each register that they end at.

    Parameters
    ----------
    netlist
        A design.
    top
        Most paths to return.
    within
        Only paths from or to a register whose name starts so (``pool.``); ports have no dot.
    """
    graph = _Graph(netlist)
    ends = sorted(graph.ends(), key=lambda end: -graph.level[end[0]])
    names = graph.names(_named_by(graph, cell) for cell in ["", *graph.cells])
    paths: dict[str, Path] = {}
    for net, (cell, port, _) in ends:
        name = names[_named_by(graph, cell)] or cell if cell else port
        register = re.sub(r"\[\d+\]$", "", name)
        if register in paths:
            continue
        start, _, _ = graph.driver[graph.path(net)[0]]
        if not (name.startswith(within) or names[_named_by(graph, start)].startswith(within)):
            continue
        pin = f"{graph.cells[cell].type}.{port}" if cell else "port"
        paths[register] = _describe(graph, net, name, pin)
        if len(paths) == top:
            break
    return list(paths.values())


def _named_by(graph: _Graph, cell: str) -> int:
    """Return the net that names a cell, its first output; -1 for none."""
    if not cell:
        return -1
    return next((net for _, _, net in graph.cells[cell].nets("output")), -1)


def _describe(graph: _Graph, end: int, name: str, pin: str) -> Path:
    nets = graph.path(end)
    names = graph.names(nets)
    steps = []
    for net in nets:
        cell, port, _ = graph.driver[net]
        steps.append((graph.cells[cell].type if cell else "port", graph.level[net], names[net]))
    cell, port, _ = graph.driver[nets[0]]
    return Path(graph.level[end], names[nets[0]] or f"{cell} {port}", name, pin, tuple(steps))


def _runs(steps: Sequence[str]) -> list[str]:
    """Write equal neighbours once, with their number."""
    runs = [(step, len(list(group))) for step, group in itertools.groupby(steps)]
    return [f"{count} x {step}" if count > 1 else step for step, count in runs]


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
                    kind_of_load = graph.cells[load].type
                    if pin != "D" or not _is(kind_of_load, FLIP_FLOP, SHIFT):
                        where = f"{kind_of_load} {pin}"
                        rule = f"output of a {kind} not registered"
                        found.append((rule, (name, port, index), net, where))
                        break
    names = graph.names(net for _, _, net, _ in found)
    first: dict[tuple[str, str, str], Violation] = {}
    for rule, (name, port, index), net, other in found:
        pin = f"{graph.cells[name].type} {name.removeprefix(FLAT)} {port}[{index}]"
        where = f"{other} {names[net]}".strip()
        first.setdefault((rule, name, port), Violation(rule, pin, where))
    return list(first.values())


def _straight(graph: _Graph, source: str) -> bool:
    return not source or _is(graph.cells[source].type, FLIP_FLOP, SHIFT, DSP)


def assert_levels(netlist: MappedNetlist, limit: int = 5, *, registered: bool = True) -> None:
    """Fail with the worst paths if any has more than ``limit`` levels.

    With ``registered``, also if :func:`violations` finds any.
    """
    worst = [path for path in worst_paths(netlist) if path.levels > limit]
    assert not worst, f"more than {limit} LUT levels:\n" + "\n".join(map(str, worst))
    wrong = violations(netlist) if registered else []
    assert not wrong, "not registered:\n" + "\n".join(map(str, wrong[:20]))
