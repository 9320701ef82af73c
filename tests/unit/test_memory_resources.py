"""The estimate and the netlist of the core, by Yosys."""

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from screc_hw.memory.core import MemoryCore
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.netlist import check_netlist, convert, run_yosys
from screc_hw.stream import config_layout

PARAMS = MemoryCoreParams(
    port_bits=128, lanes=16, max_features=26, max_slices=4, rows=8, slots=4, outstanding=64
)
LUTS_OF = {"RAM32M16": 8, "RAM64M8": 8, "SRL16E": 1, "SRLC32E": 1}
TOLERANCE = 0.1


class Top(wiring.Component):
    """The core with a port for every signal: a top level has no constant ``ready``."""

    def __init__(self, params):
        self.core = MemoryCore(params)
        members = dict(self.core.signature.members)
        members["config"] = In(stream.Signature(config_layout()))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        for name, member in core.signature.members.items():
            outer, inner = getattr(self, name), getattr(core, name)
            if member.is_signature and member.flow is In:
                wiring.connect(m, wiring.flipped(outer), inner)
            elif member.is_signature:
                wiring.connect(m, inner, wiring.flipped(outer))
            elif member.flow is In:
                m.d.comb += inner.eq(outer)
            else:
                m.d.comb += outer.eq(inner)
        return m


def test_netlist_has_no_loop_and_no_missing_driver():
    check_netlist(Top(PARAMS))


def test_resources_are_what_yosys_maps():
    netlist = convert(Top(PARAMS), name="top")
    script = "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top top; tee -o stat stat"
    (text,) = run_yosys(netlist.text, script, "stat")
    cells = {name: int(count) for count, name in re.findall(r"^\s+(\d+)\s+(\w+)$", text, re.M)}
    lut = sum(count * LUTS_OF.get(name, 0) for name, count in cells.items())
    lut += sum(cells.get(f"LUT{i}", 0) for i in range(2, 7))
    estimate = PARAMS.resources()
    assert estimate.lut == pytest.approx(lut, rel=TOLERANCE)
    assert estimate.ff == pytest.approx(cells["FDRE"] + cells.get("FDSE", 0), rel=TOLERANCE)
    assert estimate.dsp == cells["DSP48E2"]
    assert estimate.bram36 == cells.get("RAMB36E2", 0) + cells.get("RAMB18E2", 0) / 2
