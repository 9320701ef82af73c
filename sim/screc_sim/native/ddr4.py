"""The DDR4 memory of a SmartSSD: its timing, what bounds random reads, and what it can give.

The card has one channel of five MT40A512M16HA-075E (x16: 2 bank groups of 4 banks; 64 data bits and
8 of ECC) at DDR4-2400, TimePeriod 833 ps, address map ROW_COLUMN_BANK, 512-bit AXI. Source: Vivado
build tree of its shell (``anthony-etim/fpga-smartssd``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACCESS_BYTES", "Ddr4"]

ACCESS_BYTES = 64
"""A burst of 8 on a 64-bit bus."""

GUARD_BAND = 0.025
"""Part of a clock that rounding to clocks forgives. Source: JEDEC JESD79-4, rounding algorithms."""

ACTIVATES_PER_WINDOW = 4
"""Of tFAW."""

MAPS = ("row_column_bank", "row_bank_column")
"""Order of the address parts from the top; the last lies right above an access's 64 bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ddr4:
    """Timing of a channel, its address map and its controller.

    The JEDEC values (JESD79-4, speed bin DDR4-2400, x16 device of 8 Gb) are from memory, not from
    a copy of the standard, except where another source is given.

    Parameters
    ----------
    tck_ps
        Clock period. Source: TimePeriod of the card's controller.
    trcd_ns, trp_ns
        Activate to read; precharge to activate. JEDEC.
    cl
        Read to first data, clocks. JEDEC.
    tras_ns
        Activate to precharge; tRC, activate to activate of a bank, is this and ``trp_ns``. JEDEC.
    trtp_ns
        Read to precharge. JEDEC.
    trrd_s_ns, trrd_l_ns
        Activate to activate of another bank, in another and in the same bank group, for pages of
        2 KiB. JEDEC.
    tfaw_ns
        Window of four activates, for pages of 2 KiB. JEDEC.
    tccd_s, tccd_l_ns
        Read to read: clocks in another bank group, time in the same one. JEDEC.
    trefi_ns, trfc_ns
        From refresh to refresh, at most 85 °C; length of one, 8 Gb. JEDEC.
    bank_groups, banks
        Groups and banks per group of an x16 device. Source: the card's part number.
    page_bytes
        Of a bank over the whole bus: 4 devices of 2 KiB.
    map
        One of :data:`MAPS`. Source: Mem_Add_Map of the card's controller; that its lowest bits are
        the bank group's and then the bank's stands in AMD's guide of the controller (PG150).
    queue
        Reads among which the controller chooses. Assumed; enough for the memory to be the limit.
    age_ns
        Time after which a read no longer waits for row hits of others. Assumed.
    accepted
        Accesses taken from the port that are on their way to the queue or wait for it. Assumed;
        enough for the path not to be the limit.
    path_ns
        From the port to the queue and from the data to the port together. Derived: an idle read
        then takes 260 ns, what AMD's example ``axi_burst_performance`` implies for a U200's
        DDR4-2400 (4 outstanding reads of 256 bytes at 3.93 GB/s).
    """

    tck_ps: int = 833
    trcd_ns: float = 13.75
    trp_ns: float = 13.75
    cl: int = 17
    tras_ns: float = 32.0
    trtp_ns: float = 7.5
    trrd_s_ns: float = 5.3
    trrd_l_ns: float = 6.4
    tfaw_ns: float = 30.0
    tccd_s: int = 4
    tccd_l_ns: float = 5.0
    trefi_ns: float = 7800.0
    trfc_ns: float = 350.0
    bank_groups: int = 2
    banks: int = 4
    page_bytes: int = 8192
    map: str = "row_column_bank"
    queue: int = 32
    age_ns: float = 1000.0
    accepted: int = 64
    path_ns: float = 228.0

    def __post_init__(self) -> None:
        if self.map not in MAPS:
            raise ValueError(f"map must be one of {', '.join(MAPS)}, not {self.map!r}")
        for name in ("bank_groups", "banks", "page_bytes"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if self.queue < 1 or self.accepted < 1:
            raise ValueError(
                f"queue and accepted must be at least 1, not {self.queue} and {self.accepted}"
            )

    def clocks(self, nanoseconds: float, least: int = 1) -> int:
        """Clocks that a minimum time takes, JEDEC's way of rounding."""
        return max(least, math.ceil(nanoseconds * 1000 / self.tck_ps - GUARD_BAND))

    @property
    def burst(self) -> int:
        """Clocks that an access takes the data bus: burst of 8, two per clock."""
        return 4

    @property
    def peak_gb_per_s(self) -> float:
        """Every clock of the data bus used."""
        return ACCESS_BYTES * 1000 / (self.burst * self.tck_ps)

    @property
    def refreshing(self) -> float:
        """Part of the time that refreshes take."""
        return self.trfc_ns / self.trefi_ns

    @property
    def trc(self) -> int:
        """Clocks from activate to activate of a bank; each of its parts is rounded, too."""
        parts = self.clocks(self.tras_ns) + self.clocks(self.trp_ns)
        return max(self.clocks(self.tras_ns + self.trp_ns), parts)

    def tfaw_gb_per_s(self, accesses_per_activate: float = 1) -> float:
        """Bound by four activates per window, refreshes left out."""
        window = self.clocks(self.tfaw_ns) * self.tck_ps / 1000
        return ACTIVATES_PER_WINDOW * accesses_per_activate * ACCESS_BYTES / window

    def trc_gb_per_s(self, accesses_per_activate: float = 1) -> float:
        """Bound by every bank activated as often as it can be, refreshes left out."""
        trc = self.trc * self.tck_ps / 1000
        return self.bank_groups * self.banks * accesses_per_activate * ACCESS_BYTES / trc

    def accesses_per_activate(self, row_bytes: int) -> float:
        """Accesses of an aligned random row of ``row_bytes`` that lie in the same bank and page."""
        accesses = max(1, row_bytes // ACCESS_BYTES)
        if self.map == "row_bank_column":
            return accesses
        return max(1, accesses / (self.bank_groups * self.banks))

    def bound_gb_per_s(self, row_bytes: int) -> float:
        """Least of the closed-form bounds for random rows, less the time of refreshes."""
        accesses = self.accesses_per_activate(row_bytes)
        bounds = (self.peak_gb_per_s, self.tfaw_gb_per_s(accesses), self.trc_gb_per_s(accesses))
        return min(bounds) * (1 - self.refreshing)

    def idle_cycles(self, period_ps: int) -> int:
        """Cycles of a port of this period that a read takes when nothing else is under way."""
        clocks = self.clocks(self.trcd_ns) + self.cl + self.burst
        return math.ceil((self.path_ns * 1000 + clocks * self.tck_ps) / period_ps)

    def job_values(self) -> dict[str, Any]:
        """Values for the programs, in clocks and picoseconds."""
        half = round(self.path_ns * 1000 / 2)
        values = {
            "tck_ps": self.tck_ps,
            "trcd": self.clocks(self.trcd_ns),
            "trp": self.clocks(self.trp_ns),
            "tcl": self.cl,
            "tras": self.clocks(self.tras_ns),
            "trc": self.trc,
            "trtp": self.clocks(self.trtp_ns, 4),
            "trrd_s": self.clocks(self.trrd_s_ns, 4),
            "trrd_l": self.clocks(self.trrd_l_ns, 4),
            "tfaw": self.clocks(self.tfaw_ns, 28),
            "tccd_s": self.tccd_s,
            "tccd_l": self.clocks(self.tccd_l_ns, 5),
            "trefi": self.clocks(self.trefi_ns),
            "trfc": self.clocks(self.trfc_ns),
            "burst": self.burst,
            "bank_groups": self.bank_groups,
            "banks": self.banks,
            "page_bytes": self.page_bytes,
            "bank_lowest": int(self.map == "row_column_bank"),
            "queue": self.queue,
            "age": self.clocks(self.age_ns),
            "request_ps": half,
            "response_ps": half,
            "accepted": self.accepted,
        }
        return {f"ddr4.{name}": value for name, value in values.items()}

    def measure(self, addresses: NDArray[np.uint64], *, cache: Path | None = None) -> float:
        """Return the GB/s that the memory gives with its queue always full of these reads.

        Parameters
        ----------
        addresses
            uint64 ``(n,)``: byte addresses of accesses of 64 bytes, in the order of arrival.
        cache
            Folder of kept builds, as in :func:`screc_sim.native.harness.build`.
        """
        from screc_sim.native.program import build_program, run_program, write_values

        program = build_program("ddr4_alone", cache=cache)
        with tempfile.TemporaryDirectory(prefix="screc-ddr4-") as name:
            folder = Path(name)
            np.asarray(addresses, np.uint64).tofile(folder / "addresses.bin")
            values = {"addresses": folder / "addresses.bin", **self.job_values()}
            write_values(folder / "job.txt", values)
            return float(json.loads(run_program(program, folder / "job.txt"))["gb_per_s"])
