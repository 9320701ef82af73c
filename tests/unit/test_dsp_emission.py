"""Modules with instances of primitives are emitted beside the others."""

from __future__ import annotations

import re
from pathlib import Path

from screc_hw.emit import emit_netlist, emit_primitives
from screc_hw.netlist import convert
from screc_hw.stream import SkidBuffer
from screc_hw.tt.lane import TtLane
from screc_hw.tt.params import TtParams
from screc_hw.vitis import package_tcl


def test_only_modules_with_instances_are_written_twice(tmp_path: Path) -> None:
    params = TtParams(slice_lanes=16, chain=4, max_rank=8, max_q2=2, max_q3=4, max_dim=16)
    plain = convert(TtLane(params), name="lane")
    files = emit_netlist(plain, tmp_path)
    found = emit_primitives(plain, convert(TtLane(params), name="lane", primitives=True), tmp_path)
    # one module for all of the lane's dot products, and the one that has them
    assert [file.name for file in found] == ["lane.sv", "lane_dot_0_0.sv"]
    assert len(files) > 10
    text = {file.name: file.read_text(encoding="utf-8") for file in found}
    assert len(re.findall(r"^  DSP48E2 #\(", text["lane_dot_0_0.sv"], re.MULTILINE)) == params.chain
    assert len(re.findall(r"^  lane_dot_0_0 dot_", text["lane.sv"], re.MULTILINE)) == 16


def test_a_design_without_them_has_no_such_folder(tmp_path: Path) -> None:
    plain = convert(SkidBuffer(8), name="skid")
    emit_netlist(plain, tmp_path)
    again = convert(SkidBuffer(8), name="skid", primitives=True)
    assert emit_primitives(plain, again, tmp_path) == []
    assert not (tmp_path / "primitives").exists()


def test_vivado_gets_the_instances() -> None:
    design = {
        "name": "screc",
        "files": ["screc.sv", "screc_dot.sv"],
        "primitives": ["screc_dot.sv"],
        "ports": [],
        "registers": {},
    }
    script = package_tcl(design)
    assert "[file join $rtl screc.sv]" in script
    assert "[file join $rtl primitives screc_dot.sv]" in script
