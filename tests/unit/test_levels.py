"""LUT levels counted in netlists of a depth that is known."""

import collections

import pytest
from amaranth.hdl import Array, Cat, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.resources import Resources
from tests.support.levels import assert_levels, violations, worst_paths
from tests.support.synth import MappedNetlist, synthesise


class Between(wiring.Component):
    """``function`` between a register of each input and one of its result."""

    def __init__(self, widths, result, function):
        self.function = function
        inputs = {f"i{index}": In(width) for index, width in enumerate(widths)}
        super().__init__({**inputs, "o": Out(result)})

    def elaborate(self, platform):
        m = Module()
        operands = []
        for name, member in self.signature.members.items():
            if member.flow is In:
                operand = Signal(member.shape, name=f"{name}_register", reset_less=True)
                m.d.sync += operand.eq(getattr(self, name))
                operands.append(operand)
        m.d.sync += self.o.eq(self.function(m, *operands))
        return m


def held(m, value, stages):
    for _ in range(stages):
        later = Signal(value.shape(), reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


def choose(m, data, select):
    return Array(data)[select]


def add_twice(m, a, b, c):
    return ((a + b) ^ (a + b) << 1) + c


def compare(m, counter, limit):
    return (counter < limit).replicate(16) ^ limit


def add_parities(m, words, other):
    return Cat(*(words.word_select(index, 16).xor() for index in range(16))) + other


def read_lut_ram(m, address, data):
    m.submodules.ram = ram = memory.Memory(shape=8, depth=32, init=[])
    write, port = ram.write_port(), ram.read_port(domain="comb")
    m.d.comb += [write.en.eq(1), write.addr.eq(~address), write.data.eq(data)]
    m.d.comb += port.addr.eq(address)
    return port.data


DEPTHS = {
    # name: widths of the inputs, of the result, logic, levels
    "wire": ([1], 1, lambda m, a: a, 0),
    "xor6": ([6], 1, lambda m, a: a.xor(), 1),
    "xor8": ([8], 1, lambda m, a: a.xor(), 1),  # LUT6, MUXF7, MUXF8
    "xor36": ([36], 1, lambda m, a: a.xor(), 2),
    "xor65": ([65], 1, lambda m, a: a.xor(), 3),  # 8 * 8 + 1
    "choice4": ([4, 2], 1, choose, 1),
    "add12": ([12, 12], 12, lambda m, a, b: a + b, 1),
    "add64": ([64, 64], 64, lambda m, a, b: a + b, 1),
    "two_chains": ([24, 24, 24], 24, add_twice, 2),
    "comparison": ([16, 16], 16, compare, 2),
    "parities": ([256, 16], 16, add_parities, 2),  # 16 bits: the chain's own LUT ends the XOR
    "read": ([5, 8], 8, read_lut_ram, 1),
    "read_xor": ([5, 8], 4, lambda m, a, d: (w := read_lut_ram(m, a, d))[:4] ^ w[4:], 2),
    "delay": ([1], 1, lambda m, a: held(m, a, 20), 0),
}


class Parts(wiring.Component):
    """The logic of ``DEPTHS`` with ``levels`` levels, side by side.

    Deeper logic would let Yosys save LUTs in them.
    """

    def __init__(self, levels):
        self.parts = {name: part for name, part in DEPTHS.items() if part[-1] in (0, levels)}
        members = {}
        for name, (widths, result, *_) in self.parts.items():
            members |= {f"{name}_i{index}": In(width) for index, width in enumerate(widths)}
            members[f"{name}_o"] = Out(result)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        for name, (widths, result, function, _) in self.parts.items():
            m.submodules[name] = part = Between(widths, result, function)
            for index in range(len(widths)):
                m.d.comb += getattr(part, f"i{index}").eq(getattr(self, f"{name}_i{index}"))
            m.d.comb += getattr(self, f"{name}_o").eq(part.o)
        return m


@pytest.fixture(scope="module")
def netlists():
    return {levels: synthesise(Parts(levels)) for levels in (1, 2, 3)}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_of_known_logic(netlists, name):
    expected = DEPTHS[name][-1]
    path = worst_paths(netlists[max(1, expected)], within=f"{name}.")[0]
    assert path.levels == expected, path


def test_cells_are_counted(netlists):
    netlist = netlists[1]
    assert netlist.cells["RAM32M16"] == 1
    assert netlist.cells["SRL16E"] + netlist.cells["SRLC32E"] == 1
    assert netlist.cells["CARRY4"] == (12 + 64) // 4
    luts = sum(netlist.cells[f"LUT{inputs}"] for inputs in range(2, 7))
    assert netlist.lut == luts + 8 + 1
    assert netlist.ff == netlist.cells["FDRE"] > 200
    assert netlist.resources == Resources(lut=netlist.lut, ff=netlist.ff)


def test_second_synthesis_is_the_first_ones(netlists, monkeypatch):
    monkeypatch.setattr("tests.support.synth.run_yosys", None)
    again = synthesise(Parts(1))
    assert again.cells == netlists[1].cells
    assert again.module == netlists[1].module


def test_limit_fails_with_the_worst_paths(netlists):
    netlist = netlists[3]
    path = worst_paths(netlist)[0]
    assert path.start.startswith("xor65.i0_register[")
    assert (path.end, path.pin) == ("xor65.o", "FDRE.D")
    assert path.steps[0][:2] == ("FDRE", 0)
    assert sorted({level for _, level, _ in path.steps}) == [0, 1, 2, 3]
    assert_levels(netlist, 3)
    message = (
        r"more than 2 LUT levels:\n3 levels: xor65\.i0_register\[\d+\] -> xor65\.o: FDRE > LUT"
    )
    with pytest.raises(AssertionError, match=message):
        assert_levels(netlist, 2)


def test_enables_and_resets_are_ends():
    class Counter(wiring.Component):
        def __init__(self):
            super().__init__({"go": In(40), "o": Out(4)})

        def elaborate(self, platform):
            m = Module()
            go = Signal(40, reset_less=True)
            m.d.sync += go.eq(self.go)
            with m.If(go.all()):
                m.d.sync += self.o.eq(self.go[:4])
            return m

    path = worst_paths(synthesise(Counter()), within="go")[0]
    assert (path.levels, path.pin) == (2, "FDRE.CE")


def product(before, after):
    def function(m, a, b):
        result = held(m, held(m, a ^ b, before) * b, after)
        return result ^ (result >> 1)

    return function


def read_block_ram(after):
    def function(m, address, data):
        m.submodules.ram = ram = memory.Memory(shape=36, depth=512, init=[])
        write, port = ram.write_port(), ram.read_port()
        m.d.comb += [write.en.eq(1), write.addr.eq(~address), write.data.eq(data)]
        m.d.comb += port.addr.eq(address)
        return held(m, port.data, after).xor()

    return function


LOGIC_BEFORE = "1 levels before a DSP's pin"
DSP_OUTPUT = "output of a DSP not registered"
RAM_OUTPUT = "output of a RAM not registered"


@pytest.mark.parametrize(
    ("widths", "result", "function", "shifts", "rules"),
    [
        ([16, 16], 32, product(1, 1), 0, set()),
        pytest.param([16, 16], 32, product(8, 8), 16 + 32, set(), marks=pytest.mark.slow),
        ([16, 16], 32, product(0, 1), 0, {LOGIC_BEFORE}),
        ([16, 16], 32, product(1, 0), 0, {DSP_OUTPUT}),
        ([9, 36], 1, read_block_ram(8), 36, set()),
        ([9, 36], 1, read_block_ram(0), 0, {RAM_OUTPUT}),
    ],
)
def test_pins_of_dsps_and_rams_are_registered(widths, result, function, shifts, rules):
    netlist = synthesise(Between(widths, result, function))
    assert netlist.dsp + 2 * netlist.bram36 == 1
    assert netlist.cells["SRL16E"] == shifts
    assert {violation.rule for violation in violations(netlist)} == rules
    assert_levels(netlist, 2, registered=False)
    if rules:
        with pytest.raises(AssertionError, match=r"not registered:\n.*(DSP48E2|RAMB18E2) "):
            assert_levels(netlist)
    else:
        assert_levels(netlist)


def handmade(cells):
    """A netlist of ``cells`` (type, directions, connections), without Yosys."""
    module = {"ports": {}, "netnames": {}, "cells": {}}
    for index, (kind, ways, pins) in enumerate(cells):
        module["cells"][f"cell{index}"] = {
            "type": kind,
            "port_directions": {port: ways[port] for port in pins},
            "connections": {port: [net] for port, net in pins.items()},
        }
    netlist = MappedNetlist("top", collections.Counter(kind for kind, _, _ in cells), None)
    netlist.__dict__["module"] = module
    return netlist


def test_loop_is_named():
    ways = {"I0": "input", "O": "output"}
    loop = [("LUT1", ways, {"I0": 2, "O": 3}), ("LUT1", ways, {"I0": 3, "O": 2})]
    with pytest.raises(ValueError, match=r"combinational loop through .*cell"):
        worst_paths(handmade(loop))


def test_unknown_cell_is_named():
    with pytest.raises(ValueError, match="cell0: cell type ISERDES has no rule"):
        worst_paths(handmade([("ISERDES", {"D": "input"}, {"D": 2})]))


def test_missing_module_is_named():
    class Missing(wiring.Component):
        def __init__(self):
            super().__init__({"o": Out(1)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.box = Instance("nowhere", o_O=self.o)
            return m

    with pytest.raises(RuntimeError, match="nowhere"):
        synthesise(Missing())
