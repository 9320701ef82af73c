"""What the registers of a mapped netlist drive."""

from __future__ import annotations

import collections
import re

from tests.support.synth import MappedNetlist

__all__ = ["Load", "loads_of"]

FLIP_FLOP = re.compile(r"FD[RSCP]E")

Load = tuple[str, str]
"""Cell and port."""


def loads_of(netlist: MappedNetlist) -> dict[str, set[Load]]:
    """Return what every flip-flop's output drives, by the flip-flop's name; inverters count."""
    cells = netlist.module["cells"]
    driver = {
        cell["connections"]["Q"][0]: name
        for name, cell in cells.items()
        if FLIP_FLOP.fullmatch(cell["type"])
    }
    loads: dict[str, set[Load]] = collections.defaultdict(set)
    for name, cell in cells.items():
        for port, nets in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for net in nets:
                    if net in driver:
                        loads[driver[net]].add((name, port))
    return loads
