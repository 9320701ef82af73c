"""What a device offers, in the units the planner computes with: bytes, seconds, counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

from screc.devices import RESOURCE_NAMES, DeviceSpec

RESOURCES = RESOURCE_NAMES
"""Logic that cores share, as in ``screc_hw.resources.Resources``."""

GIB = 1 << 30

PCIE_EFFICIENCY = 0.85
"""Share of a link's raw rate that is data: 256-byte packets with their headers, acknowledgements
and flow control. Assumed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """One device, seen by the planner."""

    spec: DeviceSpec

    @property
    def kind(self) -> str:
        """Name of the kind of device."""
        return self.spec.kind

    @cached_property
    def usable(self) -> Mapping[str, float]:
        """What a kernel may use of each of :data:`RESOURCES`."""
        return {name: float(getattr(self.spec, name)) for name in RESOURCES}

    @cached_property
    def limits(self) -> Mapping[str, float]:
        """What a plan may use of each: the usable amount × the fill limit."""
        budget = self.spec.budget().as_dict()
        return {name: float(budget[name]) for name in RESOURCES}

    @cached_property
    def slr_limits(self) -> tuple[Mapping[str, float], ...]:
        """The same of each SLR."""
        found = (each.as_dict() for each in self.spec.slr_budgets())
        return tuple({name: float(each[name]) for name in RESOURCES} for each in found)

    def figure(self, name: str, used: float) -> float:
        """The least figure of a resource of which ``used`` is within the fill limit."""
        fill = getattr(self.spec, "bram_fill" if name == "bram36" else f"{name}_fill")
        figure = int(used / fill)
        while self.spec.filled(name, figure) < used:
            figure += 1
        return float(figure)

    @property
    def clock_hz(self) -> float:
        """Target clock."""
        return self.spec.clock_mhz * 1e6

    @property
    def channels(self) -> int:
        """Memory channels."""
        return self.spec.channels

    def random_rate(self, row_bytes: int) -> float:
        """Bytes per second of one channel on random reads of ``row_bytes``."""
        return self.spec.random_gbs(row_bytes) * 1e9

    @property
    def streamed_rate(self) -> float:
        """Bytes per second of one channel on long runs."""
        return self.spec.stream_gbs * 1e9

    @property
    def dram_bytes(self) -> int:
        """Device memory for rows and staging rings."""
        return int(self.spec.dram_gib * GIB)

    @property
    def has_ssd(self) -> bool:
        """Whether rows may live on SSD: there is one and its random reads are known."""
        return self.spec.has_ssd and self.spec.ssd_kiops is not None

    @property
    def ssd_bytes(self) -> int:
        """SSD for rows; 0 where it cannot be used."""
        return int((self.spec.ssd_gib or 0) * GIB) if self.has_ssd else 0

    @property
    def ssd_iops(self) -> float:
        """4 KiB random reads per second; 0 where the SSD cannot be used."""
        return (self.spec.ssd_kiops or 0) * 1e3 if self.has_ssd else 0.0

    @property
    def p2p_rate(self) -> float:
        """Bytes per second from SSD to device memory; 0 where the SSD cannot be used."""
        return (self.spec.p2p_gbs or 0) * 1e9 if self.has_ssd else 0.0

    @property
    def work_watts(self) -> float:
        """Watts that work may take beyond what the device draws at rest."""
        return max(0.0, self.spec.watts - self.spec.static_watts)

    @property
    def link_rate(self) -> float:
        """Bytes per second of the host link, in one direction."""
        return self.spec.pcie_gbs * 1e9 * PCIE_EFFICIENCY
