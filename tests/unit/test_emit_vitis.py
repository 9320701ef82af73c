import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from screc_hw.device.control import register_map
from screc_hw.vitis import PLATFORMS, VitisPlatform, emit_constraints, emit_vitis, vitis_platform

# every command the script may use: an unknown one is an error; all calls are printed
STAND_INS = r"""
proc say {args} { puts [join $args " "] }
foreach command {
  create_project add_files set_property update_compile_order close_project package_xo
  ipx::package_project ipx::unload_core ipx::edit_ip_in_project ipx::remove_user_parameter
  ipx::associate_bus_interfaces ipx::create_xgui_files ipx::update_checksums
  ipx::check_integrity ipx::save_core
} { namespace eval ipx {}; proc $command {args} "say $command {*}\$args" }
foreach command {
  current_fileset ipx::current_core ipx::get_user_parameters ipx::add_memory_map
  ipx::add_address_block ipx::add_register ipx::add_register_parameter ipx::get_bus_interfaces
  get_property
} { proc $command {args} "say $command {*}\$args; return \[lindex \$args end-1\]" }
proc ipx::add_register {args} { say ipx::add_register {*}$args; return reg:[lindex $args end-1] }
"""


def design(memory=2, compute=1):
    ports = [{"name": "ap_clk", "direction": "input", "width": 1}]
    for i in range(memory):
        name = f"m_axi_gmem{i}_RDATA"
        ports.append({"name": name, "direction": "input", "width": 256})
    ports.append({"name": "m_axi_host_RDATA", "direction": "input", "width": 512})
    return {
        "name": "screc",
        "ports": ports,
        "registers": register_map(memory=memory, compute=compute),
        "files": ["screc.sv", "screc_device.sv"],
    }


def emit(tmp_path, memory=2, kind="smartssd"):
    platform = vitis_platform(kind)
    files = emit_vitis(design(memory), tmp_path / "vitis", platform=platform, clock_mhz=250.0)
    assert [path.name for path in files] == ["kernel.xml", "package_kernel.tcl", "link.cfg"]
    return {path.name: path.read_text() for path in files}


def test_kernel_xml_has_the_registers_offsets_and_every_port(tmp_path):
    kernel = ElementTree.fromstring(emit(tmp_path, memory=3)["kernel.xml"]).find("kernel")
    assert kernel.get("hwControlProtocol") == "ap_ctrl_chain"
    assert kernel.get("interrupt") == "true"
    widths = {port.get("name"): port.get("dataWidth") for port in kernel.iter("port")}
    assert widths == {
        "s_axi_control": "32",
        "m_axi_host": "512",
        **{f"m_axi_gmem{i}": "256" for i in range(3)},
    }
    args = [
        (a.get("id"), a.get("name"), a.get("port"), a.get("offset"), a.get("size"))
        for a in kernel.iter("arg")
    ]
    assert args == [
        ("0", "queue", "m_axi_host", "0x010", "0x8"),
        ("1", "result", "m_axi_host", "0x01c", "0x8"),
        ("2", "queue_bytes", "s_axi_control", "0x028", "0x4"),
        ("3", "gmem0", "m_axi_gmem0", "0x030", "0x8"),
        ("4", "gmem1", "m_axi_gmem1", "0x03c", "0x8"),
        ("5", "gmem2", "m_axi_gmem2", "0x048", "0x8"),
    ]


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="tclsh is not installed")
def test_package_script_uses_known_commands_and_names_every_register(tmp_path):
    emit(tmp_path)
    stand_ins = tmp_path / "stand_ins.tcl"
    stand_ins.write_text(STAND_INS + "source [lindex $argv 0]\n")
    script = tmp_path / "vitis" / "package_kernel.tcl"
    done = subprocess.run(
        ["tclsh", str(stand_ins), str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = done.stdout.splitlines()
    rtl = tmp_path / "rtl"
    assert f"add_files -norecurse {rtl}/screc.sv {rtl}/screc_device.sv" in calls
    for bus in ("s_axi_control", "m_axi_host", "m_axi_gmem0", "m_axi_gmem1"):
        assert any(
            call.startswith(f"ipx::associate_bus_interfaces -busif {bus} ") for call in calls
        )
    offsets = {}
    for call in calls:
        words = call.split()
        if words[:2] == ["set_property", "address_offset"]:
            offsets[words[3].removeprefix("reg:")] = int(words[2], 16)
    wanted = {reg["name"]: reg["offset"] for reg in design()["registers"]}
    wanted["IP_IER"], wanted["IP_ISR"] = wanted.pop("IER"), wanted.pop("ISR")
    assert offsets == wanted
    package = next(call for call in calls if call.startswith("package_xo"))
    assert "-ctrl_protocol ap_ctrl_chain" in package
    assert str(tmp_path) not in script.read_text(), "the script finds itself"


def test_link_config_follows_the_platforms_tools(tmp_path):
    assert emit(tmp_path / "a")["link.cfg"].splitlines() == [
        "platform=xilinx_u2_gen3x4_xdma_gc_2_202110_1",
        "kernel_frequency=250",
        "",
        "[connectivity]",
        "nk=screc:1:screc_1",
        "sp=screc_1.m_axi_host:bank0",
        "sp=screc_1.m_axi_gmem0:bank0",
        "sp=screc_1.m_axi_gmem1:bank0",
    ]
    lines = emit(tmp_path / "b", memory=12, kind="u280")["link.cfg"].splitlines()
    assert "sp=screc_1.m_axi_host:HBM[0]" in lines
    assert "sp=screc_1.m_axi_gmem0:HBM[0]" in lines
    assert "sp=screc_1.m_axi_gmem11:HBM[11]" in lines
    assert lines[-1] == "freqHz=250000000:screc_1.ap_clk"


def test_link_config_refuses_more_ports_than_a_bank_takes(tmp_path):
    with pytest.raises(ValueError, match=r"bank bank0 of .* takes 15 ports, not 17"):
        emit(tmp_path, memory=16)


def test_vitis_refuses_unknown_platforms_and_ports(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of smartssd, .*, not 'kcu105'"):
        vitis_platform("kcu105")
    wrong = design()
    wrong["registers"][4]["port"] = "m_axi_nowhere"
    with pytest.raises(ValueError, match="register 'queue' must name one of m_axi_host"):
        emit_vitis(wrong, tmp_path, platform=PLATFORMS["u50"], clock_mhz=300)
    assert isinstance(PLATFORMS["u50"], VitisPlatform)


def test_constraints_give_the_clocks_period(tmp_path):
    (path,) = emit_constraints(design(), tmp_path, clock_mhz=300.0)
    assert "create_clock -name ap_clk -period 3.333 [get_ports ap_clk]\n" in path.read_text()
