"""The compute core as Yosys maps it: what it costs, its longest paths and nets, its DSPs."""

from __future__ import annotations

import collections
import dataclasses
import json

import pytest

from screc_hw.compute.array import Array
from screc_hw.compute.cost import array_resources
from screc_hw.compute.tensors import CHAIN
from screc_hw.netlist import run_yosys
from tests.support.compute_points import POINTS, netlist_of, params_of
from tests.support.fanout import loads_of
from tests.support.levels import assert_levels
from tests.support.synth import synthesise

TOLERANCE = 0.1
LEVELS = 5  # between registers, at 250 MHz
LUT_PER_MULTIPLIER, FF_PER_MULTIPLIER = 35, 60

REGISTERS = {"AREG": 1, "DREG": 1, "ADREG": 1, "BREG": 2, "MREG": 1, "PREG": 1}

SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]


def check(mapped, estimate):
    print(f"estimated {estimate}, mapped {mapped.resources}")
    for kind in ("lut", "ff", "dsp", "bram36", "uram"):
        actual = getattr(mapped.resources, kind)
        assert getattr(estimate, kind) == pytest.approx(actual, rel=TOLERANCE), kind


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in POINTS])
def test_core(name):
    params = params_of(name)
    mapped = synthesise(netlist_of(params))
    check(mapped, params.resources())
    assert_levels(mapped, LEVELS)


@pytest.mark.parametrize(
    "name", ["16x16", *(pytest.param(n, marks=SLOW) for n in ("2x64", "16x16 MLPerf", "32x32"))]
)
def test_array(name):
    params = params_of(name)
    mapped = synthesise(netlist_of(params, Array))
    check(mapped, array_resources(params))
    assert_levels(mapped, LEVELS)
    multipliers = params.rows * params.columns
    assert mapped.dsp == multipliers // 2
    if params.rows == params.columns:
        assert mapped.lut <= LUT_PER_MULTIPLIER * multipliers
        assert mapped.ff <= FF_PER_MULTIPLIER * multipliers
    check_fanout(mapped, params)


def check_fanout(mapped, params):
    """No register of operands, begin or end drives more than ``max_fanout`` multipliers."""
    cells, loads = mapped.module["cells"], loads_of(mapped)
    driven = collections.Counter()
    for register, pins in loads.items():
        for cell, port in pins:
            if cells[cell]["type"] == "DSP48E2":
                driven[register] += 2 if port == "B" else 1  # a weight is for two samples
    assert max(driven.values()) == max(params.outs, min(params.rows, params.max_fanout))
    register_of = {
        cells[cell]["connections"]["Q"][0]: cell
        for cell in cells
        if cells[cell]["type"] in ("FDRE", "FDSE")
    }
    shared = params.max_fanout // CHAIN
    names = mapped.module["netnames"]
    for kind in ("begin", "end"):
        for out in range(params.outs):
            nets = {
                names[f"accumulate.{kind}_{out}_{copy}"]["bits"][0]
                for copy in range(-(-params.rows // shared))
            }
            assert len(nets) == -(-params.rows // shared)  # none is merged with another
            for net in nets:
                # a LUT per bit, and a carry's input
                assert len(loads.get(register_of[net], ())) <= shared * (params.acc_bits + 1)
    # whatever the others drive, it is a bounded number of pins
    assert max(map(len, loads.values())) <= 8 * params.max_fanout


@pytest.mark.slow
def test_registers_are_copied_where_they_may_drive_less():
    params = dataclasses.replace(params_of("16x16"), columns=8, max_fanout=8)
    mapped = synthesise(netlist_of(params, Array))
    check_fanout(mapped, params)


@pytest.mark.parametrize(("rows", "columns", "count"), [(16, 16, 128), (2, 8, 8)])
def test_emitted_multipliers_use_their_registers(rows, columns, count):
    params = dataclasses.replace(params_of("16x16"), rows=rows, columns=columns)
    netlist = netlist_of(params, Array)
    script = f"hierarchy -top {netlist.name}; proc; flatten; write_json out.json"
    (text,) = run_yosys(netlist.text, script, "out.json")
    cells = json.loads(text)["modules"][netlist.name]["cells"].values()
    dsps = [cell["parameters"] for cell in cells if cell["type"] == "DSP48E2"]
    assert len(dsps) == count
    assert 2 * count == rows * columns
    for dsp in dsps:
        assert {name: int(dsp[name], 2) for name in REGISTERS} == REGISTERS
        assert dsp["AMULTSEL"] == "AD"


@pytest.mark.parametrize(
    ("change", "kind", "more"),
    [
        ({"pair_units": 2}, "dsp", CHAIN + 1),
        ({"slots": 5}, "dsp", 0),
        ({"rows": 4}, "dsp", CHAIN + 2),
        ({"columns": 16}, "dsp", CHAIN),
        ({"dot": False}, "dsp", -CHAIN - 1),
        ({"weight_steps": 8 * 2049}, "uram", CHAIN),  # eight steps a word
        ({"weight_steps": 8 * 4096}, "uram", CHAIN),
        ({"weight_steps": 8 * 4097}, "uram", 2 * CHAIN),
        ({"requantise_words": 513}, "bram36", 3 * 0.5),
        ({"requantise_words": 4096}, "uram", 3),
    ],
)
def test_a_parts_cost_is_that_of_its_blocks(change, kind, more):
    smallest = params_of("2x8")
    changed = dataclasses.replace(smallest, **change)
    before, after = (getattr(p.resources(), kind) for p in (smallest, changed))
    assert after - before == more
