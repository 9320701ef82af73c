"""Packaging of an emitted device as a Vitis RTL kernel, and its clock constraint.

Everything is made from ``design.json``: ports and registers are those of the emitted top module.
``kernel.xml`` follows UG1702, "RTL Kernel XML File", the Tcl AMD's example ``rtl_vadd_2clks`` in
Vitis_Accel_Examples. No AMD tool has run them; tests check the XML against the registers, and run
the Tcl against strict stand-ins of the commands it uses.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from screc_hw.files import write_whole

__all__ = ["PLATFORMS", "VitisPlatform", "emit_constraints", "emit_vitis", "vitis_platform"]

CONTROL = "s_axi_control"
CONTROL_BYTES = 0x1000
PORTS_PER_BANK = 15
"""Kernel ports that one memory bank takes. Source: UG1393, "Mapping Kernel Ports to Memory"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitisPlatform:
    """A card's platform as the linker knows it.

    Parameters
    ----------
    name
        Platform that ``v++ --platform`` gets.
    banks
        Memory tags of ``sp=``: memory core *i* gets bank *i* modulo their count.
    legacy
        Whether its tools are older than 2023.2, which changed the separator in ``nk=`` and the
        clock option. (Vitis 2021.2 is the last release with the SmartSSD.)
    """

    name: str
    banks: tuple[str, ...]
    legacy: bool = False


def _channels(tag: str, count: int) -> tuple[str, ...]:
    return tuple(f"{tag}[{i}]" for i in range(count))


PLATFORMS = {
    "smartssd": VitisPlatform(
        name="xilinx_u2_gen3x4_xdma_gc_2_202110_1", banks=("bank0",), legacy=True
    ),
    "u50": VitisPlatform(name="xilinx_u50_gen3x16_xdma_5_202210_1", banks=_channels("HBM", 32)),
    "u55c": VitisPlatform(name="xilinx_u55c_gen3x16_xdma_3_202210_1", banks=_channels("HBM", 32)),
    "u280": VitisPlatform(name="xilinx_u280_gen3x16_xdma_1_202211_1", banks=_channels("HBM", 32)),
    "u200": VitisPlatform(name="xilinx_u200_gen3x16_xdma_2_202110_1", banks=_channels("DDR", 4)),
    "u250": VitisPlatform(name="xilinx_u250_gen3x16_xdma_4_1_202210_1", banks=_channels("DDR", 4)),
}
"""Platforms by kind of device. Sources: names as in AMD's FINN (finn/util/platforms.py), the
SmartSSD's from a published Vivado 2021.1 build; memory tags as in Vitis_Accel_Examples."""


def vitis_platform(kind: str) -> VitisPlatform:
    """Return the platform of a kind of device.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    if kind not in PLATFORMS:
        raise ValueError(f"a Vitis platform must be one of {', '.join(PLATFORMS)}, not {kind!r}")
    return PLATFORMS[kind]


def emit_vitis(
    design: dict[str, Any], folder: Path, *, platform: VitisPlatform, clock_mhz: float
) -> list[Path]:
    """Write ``kernel.xml``, ``package_kernel.tcl`` and ``link.cfg`` into ``folder``.

    ::

        vivado -mode batch -source package_kernel.tcl     # screc.xo
        v++ -l -t hw --config link.cfg -o screc.xclbin screc.xo

    Parameters
    ----------
    design
        Content of ``design.json``. Its files are expected in ``../rtl``.
    folder
        Made if absent.
    platform
        Card to link for.
    clock_mhz
        Clock to ask for: a target.

    Raises
    ------
    ValueError
        If a memory bank would get more ports than it takes, or a pointer register names no port.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "kernel.xml": kernel_xml(design),
        "package_kernel.tcl": package_tcl(design),
        "link.cfg": link_cfg(design, platform, clock_mhz),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def emit_constraints(design: dict[str, Any], folder: Path, *, clock_mhz: float) -> list[Path]:
    """Write the clock constraint for synthesis of the device alone (out of context).

    Inside a Vitis platform the shell constrains the clock, and the kernel has no pins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{design['name']}_ooc.xdc"
    period = 1000 / clock_mhz
    write_whole(
        path,
        f"# {clock_mhz:g} MHz: a target, see README.md of this project's constraints folder\n"
        f"create_clock -name ap_clk -period {period:.3f} [get_ports ap_clk]\n",
    )
    return [path]


def masters(design: dict[str, Any]) -> dict[str, int]:
    """Return the AXI masters of a design with their data widths, in order of their names' numbers.

    The host port comes first.
    """
    found = {}
    for port in design["ports"]:
        if match := re.fullmatch(r"(m_axi_\w+)_RDATA", port["name"]):
            found[match[1]] = port["width"]
    return dict(
        sorted(found.items(), key=lambda item: (item[0] != "m_axi_host", len(item[0]), item))
    )


def arguments(design: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the registers that are kernel arguments, in order of their offsets."""
    named = (reg for reg in design["registers"] if reg["access"] == "rw" and reg["name"].islower())
    found = sorted(named, key=lambda reg: reg["offset"])
    known = masters(design)
    for register in found:
        if register["port"] is not None and register["port"] not in known:
            raise ValueError(
                f"register {register['name']!r} must name one of {', '.join(known)}, "
                f"not {register['port']!r}"
            )
    return found


def kernel_xml(design: dict[str, Any]) -> str:
    """Return ``kernel.xml``: ports and arguments as XRT reads them."""
    name = design["name"]
    root = ElementTree.Element("root", versionMajor="1", versionMinor="6")
    kernel = ElementTree.SubElement(
        root,
        "kernel",
        name=name,
        language="ip_c",
        vlnv=f"screc:kernel:{name}:1.0",
        attributes="",
        preferredWorkGroupSizeMultiple="0",
        workGroupSize="1",
        interrupt="true",
        hwControlProtocol="ap_ctrl_chain",
    )
    ports = ElementTree.SubElement(kernel, "ports")
    for port, mode, size, width in (
        (CONTROL, "slave", f"{CONTROL_BYTES:#x}", 32),
        *(
            (port, "master", f"{(1 << 64) - 1:#x}", width)
            for port, width in masters(design).items()
        ),
    ):
        ElementTree.SubElement(
            ports,
            "port",
            name=port,
            mode=mode,
            range=size,
            dataWidth=str(width),
            portType="addressable",
            base="0x0",
        )
    args = ElementTree.SubElement(kernel, "args")
    for i, register in enumerate(arguments(design)):
        pointer = register["port"] is not None
        size = f"{register['size']:#x}"
        ElementTree.SubElement(
            args,
            "arg",
            name=register["name"],
            addressQualifier="1" if pointer else "0",
            id=str(i),
            port=register["port"] or CONTROL,
            size=size,
            offset=f"{register['offset']:#05x}",
            type="void*" if pointer else "uint",
            hostOffset="0x0",
            hostSize=size,
        )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def package_tcl(design: dict[str, Any]) -> str:
    """Return the Tcl script that packages ``../rtl`` as ``<name>.xo`` with Vivado."""
    name = design["name"]
    instances = set(design.get("primitives", ()))
    sources = [f"primitives {file}" if file in instances else file for file in design["files"]]
    lines = [
        f"# Packages {name} as a Vitis kernel: vivado -mode batch -source package_kernel.tcl",
        "set here [file dirname [file normalize [info script]]]",
        "set rtl [file normalize [file join $here .. rtl]]",
        "set project [file join $here build project]",
        "set packaged [file join $here build packaged]",
        "",
        "create_project -force kernel_pack $project",
        "add_files -norecurse [list \\",
        *(f"  [file join $rtl {file}] \\" for file in sources),
        "]",
        f"set_property top {name} [current_fileset]",
        "update_compile_order -fileset sources_1",
        "ipx::package_project -root_dir $packaged -vendor screc -library kernel \\",
        "  -taxonomy /KernelIP -import_files -set_current false",
        "ipx::unload_core [file join $packaged component.xml]",
        "ipx::edit_ip_in_project -upgrade true -name edit -directory $packaged \\",
        "  [file join $packaged component.xml]",
        "set core [ipx::current_core]",
        "foreach parameter [ipx::get_user_parameters -of_objects $core] {",
        "  ipx::remove_user_parameter [get_property NAME $parameter] $core",
        "}",
        "",
        *(
            f"ipx::associate_bus_interfaces -busif {bus} -clock ap_clk $core"
            for bus in (CONTROL, *masters(design))
        ),
        "ipx::associate_bus_interfaces -clock ap_clk -reset ap_rst_n $core",
        "",
        f"set map [ipx::add_memory_map -quiet {CONTROL} $core]",
        "set block [ipx::add_address_block -quiet reg0 $map]",
        f"set_property range {CONTROL_BYTES} $block",
        "set_property usage register $block",
    ]
    vitis_names = {"GIER": "GIER", "IER": "IP_IER", "ISR": "IP_ISR"}
    for register in design["registers"]:
        shown = vitis_names.get(register["name"], register["name"])
        access = "read-write" if register["access"] == "rw" else "read-only"
        lines += [
            f"set register [ipx::add_register -quiet {shown} $block]",
            f"set_property address_offset {register['offset']:#05x} $register",
            f"set_property size {8 * register['size']} $register",
            f"set_property access {access} $register",
        ]
        if register["port"] is not None:
            lines += [
                "set parameter [ipx::add_register_parameter -quiet ASSOCIATED_BUSIF $register]",
                f"set_property value {register['port']} $parameter",
            ]
    lines += [
        f"set control [ipx::get_bus_interfaces {CONTROL} -of_objects $core]",
        f"set_property slave_memory_map_ref {CONTROL} $control",
        "",
        "set_property sdx_kernel true $core",
        "set_property sdx_kernel_type rtl $core",
        "set_property supported_families {} $core",
        "set_property auto_family_support_level level_2 $core",
        "ipx::create_xgui_files $core",
        "ipx::update_checksums $core",
        "ipx::check_integrity -kernel $core",
        "ipx::save_core $core",
        "close_project -delete",
        "",
        f"package_xo -force -xo_path [file join $here {name}.xo] -kernel_name {name} \\",
        "  -ip_directory $packaged -ctrl_protocol ap_ctrl_chain \\",
        "  -kernel_xml [file join $here kernel.xml]",
    ]
    return "\n".join(lines) + "\n"


def link_cfg(design: dict[str, Any], platform: VitisPlatform, clock_mhz: float) -> str:
    """Return ``link.cfg``: one kernel, every master on its bank, and the clock.

    The host port shares the first bank with memory core 0: the queue is read at a small part of a
    channel's rate.
    """
    name = design["name"]
    unit = f"{name}_1"
    lines = [f"platform={platform.name}"]
    hertz = round(clock_mhz * 1e6)
    if platform.legacy:
        lines.append(f"kernel_frequency={round(clock_mhz)}")
    lines += ["", "[connectivity]", f"nk={name}:1:{unit}"]
    ports = list(masters(design))
    placed: dict[str, int] = {}
    for i, port in enumerate(ports):
        bank = platform.banks[max(0, i - 1) % len(platform.banks)]
        placed[bank] = placed.get(bank, 0) + 1
        lines.append(f"sp={unit}.{port}:{bank}")
    for bank, count in placed.items():
        if count > PORTS_PER_BANK:
            raise ValueError(
                f"bank {bank} of {platform.name} takes {PORTS_PER_BANK} ports, not {count}"
            )
    if not platform.legacy:
        lines += ["", "[clock]", f"freqHz={hertz}:{unit}.ap_clk"]
    return "\n".join(lines) + "\n"
