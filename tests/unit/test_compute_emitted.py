"""The emitted core: clean code, and the same integers in Verilator and Icarus."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from screc_hw.compute.core import ComputeCore
from screc_hw.emit import emit_systemverilog, lint
from screc_hw.netlist import check_netlist, convert, run_yosys
from screc_sim.runner import build, run
from tests.support.compute_tb import case

CACHE = Path(__file__).resolve().parents[2] / "build" / "sim"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    _, params, _ = case()
    return emit_systemverilog(
        ComputeCore(params), name="compute_core", folder=tmp_path_factory.mktemp("rtl")
    )


def test_emitted_core_is_clean(files):
    lint(files, "compute_core")
    check_netlist(ComputeCore(case()[1]))


def test_equal_parts_are_emitted_once(files):
    names = {path.stem for path in files}
    assert "compute_core_row_0" in names
    assert "compute_core_row_1" not in names


@pytest.mark.parametrize("more", [{}, {"dot_lanes": 4, "rows": 2}, {"dot": False, "columns": 8}])
def test_multipliers_are_counted_as_built(more):
    params = dataclasses.replace(case()[1], **more)
    netlist = convert(ComputeCore(params), name="core")
    (text,) = run_yosys(
        netlist.text,
        "hierarchy -top core; proc; flatten; tee -q -o stat.json stat -json",
        "stat.json",
    )
    cells = json.loads(text)["design"]["num_cells_by_type"]
    assert cells["$mul"] == params.multipliers == params.resources().dsp


@pytest.mark.cosim
@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_emitted_core_computes(files, simulator, tmp_path):
    if simulator == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("Icarus is not installed")
    design = build(simulator, files, "compute_core", cache=CACHE)
    result = tmp_path / "result.json"
    run(
        design,
        tmp_path / "run",
        "tests.support.compute_tb",
        environment={"COMPUTE_RESULT": str(result)},
    )
    model, _, stimulus = case()
    assert json.loads(result.read_text()) == [list(r) for r in stimulus.expected(model)]
