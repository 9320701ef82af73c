"""The memory core as Yosys maps it, and what it was estimated to cost."""

import pytest

from screc_hw.memory.core import MemoryCore
from screc_hw.netlist import check_netlist
from tests.support.memory_cores import LARGE, SMALL, SMALLEST, core
from tests.support.synth import synthesise

TOLERANCE = 0.1


def check(params):
    netlist = synthesise(MemoryCore(params))
    estimate = params.resources()
    print(f"{params}: estimated {estimate}, mapped {netlist.resources}")
    assert estimate.lut == pytest.approx(netlist.lut, rel=TOLERANCE)
    assert estimate.ff == pytest.approx(netlist.ff, rel=TOLERANCE)
    assert estimate.bram36 == pytest.approx(netlist.bram36, rel=TOLERANCE)
    assert (estimate.dsp, estimate.uram) == (netlist.dsp, netlist.uram)


def test_netlist_has_no_loop_and_no_missing_driver():
    check_netlist(MemoryCore(core(SMALLEST)))


def test_small_core():
    check(core(SMALLEST))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL.keys())
def test_any_core(shape):
    check(core(shape))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE.keys())
def test_core_of_a_wide_port(shape):
    check(core(shape))


@pytest.mark.parametrize(
    ("change", "resource", "more"),
    [
        ({"max_features": 600}, "bram36", 5),  # 62, 64 and 29 bits: 2, 2 and 1 of 1024 × 36
        ({"onchip_beats": 64}, "bram36", 2),  # a RAMB36 for each 64-bit column
        ({"onchip_beats": 4096}, "uram", 2),
        ({"onchip_beats": 4097}, "uram", 4),
        ({"rowwise": True}, "dsp", 4),
    ],
)
def test_a_part_costs_what_it_is_made_of(change, resource, more):
    small, large = core(SMALLEST).resources(), core({**SMALLEST, **change}).resources()
    assert getattr(large, resource) - getattr(small, resource) == more
