"""Parameters of the memory-centric core, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.numerics import INT8_MAX, MAX_BAG
from screc_hw.resources import Resources, memory_blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatherParams:
    """Compile-time maxima of a memory-centric core.

    Parameters
    ----------
    port_bits
        Width of its AXI4 read port: 128, 256 or 512.
    lanes
        Components pooled per cycle (one *slice*), a power of two dividing every dimension.
    outstanding
        Row beats that may be requested and not yet pooled.
    max_features, max_slices
        Largest feature count and dimension / lanes.
    rows, slots
        Samples per batch slot and batch slots of the combiner, powers of two.
    """

    port_bits: int = 512
    lanes: int
    outstanding: int = 64
    max_features: int
    max_slices: int
    rows: int
    slots: int
    max_bag: int = MAX_BAG
    address_bits: int = 64

    def __post_init__(self) -> None:
        if self.port_bits not in (128, 256, 512):
            raise ValueError(f"port_bits must be 128, 256 or 512, not {self.port_bits}")
        for name in ("lanes", "rows", "slots"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        if self.lanes * 8 > self.port_bits:
            raise ValueError(f"lanes {self.lanes} must fit a beat of {self.port_bits // 8} bytes")
        if self.outstanding < 2:
            raise ValueError(f"outstanding must be at least 2, not {self.outstanding}")

    @property
    def beat_bytes(self) -> int:
        """Bytes per beat of the port."""
        return self.port_bits // 8

    @property
    def acc_bits(self) -> int:
        """Signed width of a pooled component: max_bag rows of codes in [-127, 127]."""
        return (INT8_MAX * self.max_bag).bit_length() + 1

    @property
    def sequence_bits(self) -> int:
        """Width of the running sub-batch number, compared modulo."""
        return 16

    def cycles(self, *, lookups: float, slices: float, row_beats: float) -> float:
        """Steady-state cycles for ``lookups`` rows of ``slices`` slices and ``row_beats`` beats.

        One slice is pooled per cycle, one row beat arrives per cycle, and the lookup records
        (8 bytes each) share the port.
        """
        records = 8 / self.beat_bytes
        return lookups * max(slices, row_beats + records, 1.0)

    def resources(self) -> Resources:
        """Estimate from the datapath's widths."""
        fifo = memory_blocks(self.outstanding, self.port_bits)
        return fifo + Resources(
            lut=3000 + self.port_bits * 6 + self.lanes * self.acc_bits * 2,
            ff=3000 + self.port_bits * 4 + self.lanes * self.acc_bits * 3,
            dsp=2,
        )
