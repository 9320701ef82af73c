import json
import re

import pytest

from screc_hw.device.top import KERNEL_NAME, Device, Kernel, device_ports, emit_device
from screc_hw.emit import emit_netlist, lint
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.netlist import check_netlist, convert
from screc_hw.params import DeviceParams
from screc_hw.protocol import Register
from screc_hw.vitis import emit_vitis, vitis_platform

SLOW = pytest.mark.slow


def small(interaction="dot", dense=4, **sizes):
    model = ModelShape(
        name="small",
        dense=dense,
        bottom=(16, 8) if dense else (),
        top=(16, 1),
        interaction=interaction,
        tables=(TableShape(name="a", rows=100, dim=8), TableShape(name="b", rows=50, dim=8)),
        features=(
            FeatureShape(name="a", table=0, mode="mean"),
            FeatureShape(name="b", table=1, pooling=3),
        ),
    )
    return model, DeviceParams.for_model(model, rows=4, columns=8, **sizes)


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    model, params = small(memory=2, compute=2)
    folder = tmp_path_factory.mktemp("rtl")
    return params, folder, emit_device(params, folder, model=model)


def test_device_ports_are_those_of_a_vitis_kernel(emitted):
    params, *_ = emitted
    ports = {port.name: port for port in device_ports(params)}
    rest = set(ports) - {"ap_clk", "ap_rst_n", "interrupt"}
    pattern = r"(s_axi_control|m_axi_host|m_axi_gmem[01])_(AW|W|B|AR|R)[A-Z]+"
    assert all(re.fullmatch(pattern, name) for name in rest)
    assert not any(name.startswith(("m_axi_gmem0_AW", "m_axi_gmem0_W")) for name in rest)
    assert ports["m_axi_host_AWADDR"].width == 64
    assert ports["m_axi_host_AWADDR"].direction == "output"
    assert ports["m_axi_gmem1_RDATA"].width == 512
    assert ports["s_axi_control_ARADDR"].direction == "input"
    assert ports["interrupt"].direction == "output"


def test_emitted_device_describes_itself(emitted):
    params, folder, design = emitted
    assert json.loads((folder / "design.json").read_text()) == design
    assert design["name"] == KERNEL_NAME
    assert DeviceParams.from_dict(design["params"]) == params
    assert {p["name"] for p in design["ports"]} == {p.name for p in device_ports(params)}
    assert design["files"][0] == f"{KERNEL_NAME}.sv"
    assert sorted(design["files"]) == sorted(path.name for path in folder.glob("*.sv"))
    assert design["resources"]["kind"] == "estimate"
    assert design["cycles"]["parts"]["compute"] > 0
    offsets = {register["name"]: register["offset"] for register in design["registers"]}
    assert offsets["gmem1"] == Register.GMEM + 12
    assert offsets["memory1_stalls"] == Register.MEMORY_COUNTERS + 32 + 12
    assert offsets["compute1_waiting"] == Register.COMPUTE_COUNTERS + 16 + 8
    assert len(set(offsets.values())) == len(offsets)


def test_emitted_device_keeps_equal_cores_once(emitted):
    _, _, design = emitted
    cores = [name for name in design["files"] if re.search(r"_(memory|compute)_\d\.sv$", name)]
    assert cores == ["screc_device_compute_0.sv", "screc_device_memory_0.sv"]


def test_emitted_device_is_clean(emitted):
    params, folder, design = emitted
    lint([folder / name for name in design["files"]], design["name"])
    check_netlist(Device(params))


def test_emitted_device_packages(emitted, tmp_path):
    _, _, design = emitted
    files = emit_vitis(design, tmp_path, platform=vitis_platform("u280"), clock_mhz=250)
    assert all(path.read_text() for path in files)


@pytest.mark.parametrize(
    ("interaction", "dense", "sizes"),
    [
        ("concat", 4, {"memory": 2, "compute": 2, "port_bits": 128}),
        pytest.param("concat", 0, {"memory": 1, "compute": 1, "port_bits": 256}, marks=SLOW),
        pytest.param("dot", 0, {"memory": 1, "compute": 1}, marks=SLOW),
    ],
)
def test_device_of_any_kind_of_model_is_clean(interaction, dense, sizes, tmp_path):
    _, params = small(interaction, dense, **sizes)
    netlist = convert(Kernel(params), name=KERNEL_NAME)
    lint(emit_netlist(netlist, tmp_path), KERNEL_NAME)
    check_netlist(netlist)
