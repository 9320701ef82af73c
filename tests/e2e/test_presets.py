"""Every preset's device elaborates, lints without combinational loops and passes Yosys's check."""

import pytest

from screc.models import preset_names, preset_shape
from screc_hw.emit import emit_netlist, lint
from screc_hw.params import DeviceParams

LARGE = {"criteo-terabyte", "criteo-terabyte-10m", "rm2", "rm3"}
"""Presets whose like is among the others."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
        for name in preset_names()
    ],
)
def test_preset_is_clean_rtl(name, tmp_path):
    from screc_hw.device.top import KERNEL_NAME, Kernel
    from screc_hw.netlist import check_netlist, convert

    params = DeviceParams.for_model(preset_shape(name), rows=8, columns=8, memory=2, compute=2)
    netlist = convert(Kernel(params), name=KERNEL_NAME)
    lint(emit_netlist(netlist, tmp_path), KERNEL_NAME)
    check_netlist(netlist)
