"""Parameters of the memory-centric core, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.memory.cost import core_resources
from screc_hw.model import TableShape
from screc_hw.numerics import MAX_BAG, POOL_BITS, pooled_bits
from screc_hw.protocol import FEATURE_FIELDS, MAX_FEATURES, RANGE_PREFIX, ROW_TAIL_BYTES
from screc_hw.resources import Resources

MAX_ROW_BEATS = 32
"""Longest row in beats: a descriptor's limit, and at 64 bytes it is half of a 4 KiB block, so that
one boundary at most cuts a row."""

WORD_BITS = 64
"""A word of a LOAD block."""

RECORD_BYTES = 8
"""A lookup record."""

SECTION_BURST_BEATS = 8
"""Longest burst of lookup records: long enough to be rare beside the rows, short enough to delay
them little. Divides a 4 KiB block at every port width."""

CREDIT_LOOP_CYCLES = 9
"""Cycles a row beat's place in the FIFO is held beyond the memory's latency (request and data
registers, FIFO, slicer, count of places). Measured: tests/unit/test_memory_cycles.py."""

ONCHIP_READS = 16
"""Beats that may be read from on-chip memory and not yet taken: its latency and the FIFO's."""

REQUEST_DEPTH = 16
"""Lookups that may wait in the only lane of a core."""

SHARED_REQUEST_DEPTH = 64
"""Lookups that may wait in a lane before those of other lanes wait behind them. Lookups come in
order, so lanes that are loaded alike run dry while another's queue is full: measured with a share
of 0.5 on chip, 16 places give 0.81 of the rate, 64 give 0.89 to 0.97."""

MIN_ADDRESS_BITS = 13
"""A block of 4 KiB, and a bit that tells it from the next."""

MAX_SLICES = (1 << FEATURE_FIELDS["slices"][1]) - 1
"""Most slices of a row, the descriptor's limit."""

PIPELINE_CYCLES = 48
"""Cycles from a section command to its first slice beyond two memory latencies (records, then
row). Measured: tests/unit/test_memory_cycles.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryCoreParams:
    """Compile-time maxima of a memory-centric core.

    Parameters
    ----------
    port_bits
        Width of its AXI4 read port: 128, 256 or 512.
    lanes
        Components pooled per cycle (one *slice*), a power of two dividing every dimension, 4..128,
        at most two int8 beats: 4-bit rows then fill a slice with every beat.
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
    rowwise
        Whether tables may have a scale and bias per row (``int8r``, ``int4r``).
    pool_bits
        With ``rowwise``: width of the sums, in units of 2**-24.
    onchip_beats
        Beats of on-chip rows, 0 for none.
    tt_fraction
        Fraction bits of reconstructed TT rows below the table's row grid; None: no TT rows.
    pool_beats
        Slices pooled per cycle, 1 or 2: with 2, DRAM rows have a pool of their own beside that of
        on-chip and TT rows.

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
    rowwise: bool = False
    pool_bits: int = POOL_BITS
    onchip_beats: int = 0
    tt_fraction: int | None = None
    pool_beats: int = 1

    def __post_init__(self) -> None:
        if self.port_bits not in (128, 256, 512):
            raise ValueError(f"port_bits must be 128, 256 or 512, not {self.port_bits}")
        for name in ("lanes", "rows", "slots"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        for name, low, high in (
            ("rows", 1, 1 << 16),
            ("slots", 1, 1 << 16),
            ("max_bag", 1, MAX_BAG),
            ("address_bits", MIN_ADDRESS_BITS, 64),
            ("onchip_beats", 0, 1 << 32),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in {low}..{high}, not {getattr(self, name)}")
        if not 4 <= self.lanes <= 128:
            raise ValueError(f"lanes must lie in 4..128, not {self.lanes}")
        if self.lanes * 4 > self.port_bits:
            raise ValueError(
                f"lanes {self.lanes} must fit a beat of {self.port_bits // 8} bytes, two each"
            )
        if not 32 <= self.pool_bits <= 64:
            raise ValueError(f"pool_bits must lie in 32..64, not {self.pool_bits}")
        if self.tt_fraction is not None and not 0 <= self.tt_fraction <= 10:
            raise ValueError(f"tt_fraction must lie in 0..10, not {self.tt_fraction}")
        if self.pool_beats not in (1, 2):
            raise ValueError(f"pool_beats must be 1 or 2, not {self.pool_beats}")
        if self.pool_beats == 2 and not self.onchip_beats and self.tt_fraction is None:
            raise ValueError("pool_beats 2 needs on-chip or TT rows beside those in DRAM")
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
        """Beats of the longest row, int8 or int8r."""
        tail = ROW_TAIL_BYTES if self.rowwise else 0
        return -(-(self.max_slices * self.lanes + tail) // self.beat_bytes)

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
    def request_depth(self) -> int:
        """Lookups that may wait in a lane."""
        return SHARED_REQUEST_DEPTH if len(self.tiers) > 1 else REQUEST_DEPTH

    @property
    def onchip_reads(self) -> int:
        """Beats that may be read from on-chip memory and not yet taken.

        A whole row at least, for the first beat of a row-wise row is taken when the last has come.
        """
        return max(ONCHIP_READS, self.max_row_beats)

    @property
    def port_beats(self) -> int:
        """Beats of rows and records that the core may have asked for and not received."""
        return self.outstanding + self.section_beats

    @property
    def acc_bits(self) -> int:
        """Signed width of a pooled component, see ``numerics.pooled_bits``."""
        return pooled_bits(
            self.max_bag,
            rowwise=self.rowwise,
            pool_bits=self.pool_bits,
            fraction=self.tt_fraction or 0,
        )

    @property
    def code_bits(self) -> int:
        """Signed width of a component before it is scaled and added."""
        return max(8 + self.rowwise, 8 + (self.tt_fraction or 0))

    @property
    def halves(self) -> int:
        """Beats that a slice of bytes takes where one holds less than a slice: 2, else 1."""
        return max(1, self.lanes * 8 // self.port_bits)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Sources of rows that are built, in the order of their lanes; DRAM serves staged rows."""
        onchip = ("onchip",) if self.onchip_beats else ()
        return ("dram", *onchip, *(("tt",) if self.tt_fraction is not None else ()))

    @property
    def sequence_bits(self) -> int:
        """Width of the running sub-batch number, compared modulo."""
        return 16

    def descriptor_bits(self, word: int) -> int:
        """Bits of a descriptor's ``word`` that are used here; 0 where it is for tiers not built."""
        unused = tuple(prefix for tier, prefix in RANGE_PREFIX.items() if tier not in self.tiers)
        ends = [
            low + width - word * WORD_BITS
            for name, (low, width) in FEATURE_FIELDS.items()
            if low // WORD_BITS == word and name != "reserved" and not name.startswith(unused)
        ]
        return max(ends, default=0)

    def row_cycles(self, table: TableShape) -> int:
        """Cycles that a row of ``table`` takes in its lane: its pieces, and its other beats.

        A beat that holds no codes, only scale and bias, is dropped in a cycle of its own.
        """
        nibbles = table.format.startswith("int4")
        pieces = table.dim // self.lanes * (1 if nibbles else self.halves)
        codes = table.dim // 2 if nibbles else table.dim
        return pieces + table.row_beats(self.beat_bytes) - -(-codes // self.beat_bytes)

    def cycles(
        self,
        *,
        lookups: float,
        slices: float,
        row_beats: float,
        latency: float = 0.0,
        row_cycles: float | None = None,
        onchip: float = 0.0,
        partials: float = 0.0,
        records: bool = True,
    ) -> float:
        """Steady-state cycles for ``lookups`` rows of ``row_beats`` beats, means over all rows.

        The slowest of: one lookup per cycle; one beat of the port per cycle, which the lookup
        records share; a lane's pieces, or its beats on chip; a pool's pieces; one slice of a
        partial per cycle; and, as the bursts that ``outstanding`` beats allow are under way for
        ``latency`` cycles (request accepted to first data beat) and their own length, a slow
        memory.

        Parameters
        ----------
        lookups
            Rows of all tiers.
        slices, row_beats, row_cycles
            Slices, beats and :meth:`row_cycles` of a row; the latter is ``slices`` where None.
        latency
            Cycles.
        onchip
            Share of the lookups that other lanes than DRAM's answer.
        partials
            Slices of partials: those of a bag count once per lane that has a row of it.
        records
            Whether lookup records are read on the same port.
        """
        pieces = slices if row_cycles is None else row_cycles
        dram = lookups * (1 - onchip)
        fast = lookups - dram
        port = dram * row_beats + (lookups * RECORD_BYTES / self.beat_bytes if records else 0)
        bursts = max(1.0, self.outstanding // max(row_beats, 1.0))
        # places left over by whole rows are part of the next one's
        spare = self.outstanding % row_beats if row_beats else 0.0
        flight = (latency + CREDIT_LOOP_CYCLES + row_beats - spare) / bursts
        lane = max(dram * pieces, fast * pieces, fast * row_beats)
        pool = lookups * slices if self.pool_beats == 1 else lane
        return max(lookups, port, lane, pool, partials, dram * flight)

    @staticmethod
    def fill(*, latency: float) -> float:
        """Cycles from a section command to its first slice: records, then a row, are read."""
        return 2 * latency + PIPELINE_CYCLES

    def resources(self) -> Resources:
        """Estimate part by part, see ``memory.cost``.

        Within 10 % of Yosys' mapping (``synth_xilinx -family xcup``) of the core for all port
        widths, 4 to 128 lanes and every tier; tests/unit/test_memory_resources.py.
        """
        return core_resources(self, requests=self.request_depth, reads=self.onchip_reads)
