"""Parameters of the memory-centric core, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.numerics import INT8_MAX, MAX_BAG
from screc_hw.protocol import FEATURE_FIELDS, FEATURE_WORDS, MAX_FEATURES
from screc_hw.resources import Resources, memory_blocks

MAX_ROW_BEATS = 32
"""Longest row in beats: a descriptor's limit, and at 64 bytes it is half of a 4 KiB block, so that
one boundary at most cuts a row."""

RECORD_BYTES = 8
"""A lookup record."""

SECTION_BURST_BEATS = 8
"""Longest burst of lookup records: long enough to be rare beside the rows, short enough to delay
them little. Divides a 4 KiB block at every port width."""

CREDIT_LOOP_CYCLES = 3
"""Cycles a row beat's place in the FIFO is held beyond the memory's latency (request register, FIFO
and slicer). Measured: tests/unit/test_memory_cycles.py."""

MAX_SLICES = (1 << FEATURE_FIELDS["slices"][1]) - 1
"""Most slices of a row, the descriptor's limit."""

PIPELINE_CYCLES = 28
"""Cycles from a section command to its first slice beyond two memory latencies (records, then
row). Measured: tests/unit/test_memory_cycles.py."""


_LOOKUP_BITS = 32
"""About what is kept of a lookup in flight: ``layouts.row_layout``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatherParams:
    """Compile-time maxima of a memory-centric core.

    Parameters
    ----------
    port_bits
        Width of its AXI4 read port: 128, 256 or 512.
    lanes
        Components pooled per cycle (one *slice*), a power of two dividing every dimension, 4..64.
    outstanding
        Row beats that may be requested and not yet pooled; to run at line rate, at least the
        memory's latency in cycles.
    max_features, max_slices
        Largest feature count and dimension / lanes.
    rows, slots
        Samples per batch slot and batch slots of the combiner, powers of two.
    max_bag
        Longest bag.
    address_bits
        Width of AXI addresses.

    Raises
    ------
    ValueError
        If a value cannot be built; the message names it and what would be valid.
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
        if not 4 <= self.lanes <= 64:
            raise ValueError(f"lanes must lie in 4..64, not {self.lanes}")
        if self.lanes * 8 > self.port_bits:
            raise ValueError(f"lanes {self.lanes} must fit a beat of {self.port_bits // 8} bytes")
        for name, limit in (("max_features", MAX_FEATURES), ("max_slices", MAX_SLICES)):
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise ValueError(f"{name} must lie in 1..{limit}, not {value}")
        if self.max_row_beats > MAX_ROW_BEATS:
            raise ValueError(
                f"a row of max_slices × lanes = {self.max_slices * self.lanes} bytes takes "
                f"{self.max_row_beats} beats of {self.beat_bytes} bytes, more than {MAX_ROW_BEATS}"
            )
        if self.outstanding < max(2, self.max_row_beats):
            raise ValueError(
                f"outstanding must be at least {max(2, self.max_row_beats)} (the longest row), "
                f"not {self.outstanding}"
            )

    @property
    def beat_bytes(self) -> int:
        """Bytes per beat of the port."""
        return self.port_bits // 8

    @property
    def beat_log2(self) -> int:
        """log2 of :attr:`beat_bytes`."""
        return self.beat_bytes.bit_length() - 1

    @property
    def records_per_beat(self) -> int:
        """Lookup records in a beat."""
        return self.beat_bytes // RECORD_BYTES

    @property
    def max_row_beats(self) -> int:
        """Beats of the longest row, int8."""
        return -(-self.max_slices * self.lanes // self.beat_bytes)

    @property
    def positions(self) -> int:
        """Places in a beat where a slice can start: a slice of int4 codes takes lanes / 2 bytes."""
        return 2 * self.beat_bytes // self.lanes

    @property
    def section_beats(self) -> int:
        """Beats of lookup records that may be requested and not yet unpacked, a power of two.

        As many records as rows may be outstanding, and two bursts.
        """
        need = -(-self.outstanding // self.records_per_beat) + 2 * SECTION_BURST_BEATS
        return 1 << (need - 1).bit_length()

    @property
    def acc_bits(self) -> int:
        """Signed width of a pooled component: max_bag rows of codes in [-127, 127]."""
        return (INT8_MAX * self.max_bag).bit_length() + 1

    @property
    def sequence_bits(self) -> int:
        """Width of the running sub-batch number, compared modulo."""
        return 16

    def cycles(
        self, *, lookups: float, slices: float, row_beats: float, latency: float = 0.0
    ) -> float:
        """Steady-state cycles for ``lookups`` rows of ``slices`` slices and ``row_beats`` beats.

        One slice is pooled per cycle, one beat arrives per cycle, and the lookup records share the
        port with the rows. The bursts that ``outstanding`` beats allow are under way for
        ``latency`` cycles (request accepted to first data beat) and their own length: a slow memory
        limits the rows.
        """
        port = row_beats + RECORD_BYTES / self.beat_bytes
        bursts = max(1.0, self.outstanding // max(row_beats, 1.0))
        flight = (latency + CREDIT_LOOP_CYCLES + row_beats) / bursts
        return lookups * max(slices, port, flight)

    @staticmethod
    def fill(*, latency: float) -> float:
        """Cycles from a section command to its first slice: records, then a row, are read."""
        return 2 * latency + PIPELINE_CYCLES

    def resources(self) -> Resources:
        """Estimate from the datapath's widths.

        Within 10 % of Yosys' mapping (``synth_xilinx -family xcup``) of the core for 4 to 64 lanes
        and all port widths, which counts LUTs before they are packed in pairs; tested in
        tests/unit/test_memory_resources.py.
        """
        sums = self.lanes * self.acc_bits
        descriptor_bits = 64 * (FEATURE_WORDS - 1)  # the last word is reserved and not stored
        memories = (
            memory_blocks(self.outstanding, self.port_bits)
            + memory_blocks(self.outstanding, _LOOKUP_BITS)
            + memory_blocks(self.section_beats, self.port_bits)
            + memory_blocks(self.max_features, descriptor_bits)
            + (memory_blocks(self.max_slices, sums) if self.max_slices > 1 else Resources())
        )
        return memories + Resources(
            # control; record shift register and word selection; nibbles; adder, skid buffer
            lut=1220 + self.port_bits * 5 // 4 + self.lanes * 8 + sums * 2,
            # control; record beat, two FIFO outputs; word, codes, operand; sums read, formed, skid
            ff=2300 + self.port_bits * 3 + self.lanes * 24 + sums * 4,
            dsp=2,  # remap: a 32-bit row times a stride of up to 12 bits, 27 × 18 each
        )
