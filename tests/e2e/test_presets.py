"""Every preset's device elaborates, lints without combinational loops and passes Yosys's check."""

import pytest

from screc.models import preset_names, preset_shape
from screc_hw.emit import lint
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
    from screc_hw.device.top import Device, emit_device
    from screc_hw.netlist import check_netlist

    params = DeviceParams.for_model(preset_shape(name), rows=8, columns=8, memory=2, compute=2)
    design = emit_device(params, tmp_path)
    lint(sorted(tmp_path.glob("*.sv")), design["name"])
    check_netlist(Device(params))
