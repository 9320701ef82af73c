"""Parameters of the TT reconstructor, its derived widths and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from screc_hw.numerics import ACC_BITS, INT8_MAX, MIDDLE_BITS, MIDDLE_MAX
from screc_hw.protocol import TT_TABLE_FIELDS
from screc_hw.resources import Resources
from screc_hw.stream import index_bits
from screc_hw.tt.shape import CHUNK, GROUPS, MAX_DIGIT, MAX_PREFIXES, TtShape

PREFIX_BITS = (MAX_PREFIXES - 1).bit_length()
DIGIT_BITS = (MAX_DIGIT - 1).bit_length()

COLUMNS = 4
"""Dot products of a group: columns of the second or third core worked on together."""

CORE_BITS = 8
"""Signed width of a number in a core."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtParams:
    """Compile-time maxima of a TT reconstructor.

    A lane has 4 groups × 4 columns of dot products over ``chain`` elements, one DSP48E2 each, that
    do first and second products in turn.

    Parameters
    ----------
    slice_lanes
        Components of a slice that leaves, ``MemoryCoreParams.lanes``.
    fraction
        Bits of a component below the table's row grid, 0..8.
    lanes
        Reconstructors side by side, each with its own copy of the cores.
    chain
        Elements of a dot product per cycle: 4, 8 or 16. Ranks are padded to multiples of it.
    max_rank, max_q2, max_q3, max_dim
        Largest rank, q2, q3 and dimension.
    max_tables
        Tables, a power of two.
    core1_words, core2_words, core3_words
        Words of ``4 · chain``, ``8 · chain`` and ``4 · chain`` bytes for the cores of all tables.
    pinned_words
        Words of ``8 · chain`` bytes for pinned first products, 0 for none.
    row_bits
        Rows are numbered below 2**row_bits, up to 29.
    requantisers
        Components requantised per cycle and lane: 4, 8 or 16.
    slots
        First products under way, a power of two.

    Raises
    ------
    ValueError
        If a value cannot be built; the message names it and what would be valid.
    """

    slice_lanes: int
    fraction: int = 4
    lanes: int = 1
    chain: int = 8
    max_rank: int = 32
    max_q2: int = 4
    max_q3: int = 8
    max_dim: int = 128
    max_tables: int = 8
    core1_words: int = 1024
    core2_words: int = 4096
    core3_words: int = 1024
    pinned_words: int = 0
    row_bits: int = 26
    requantisers: int = 8
    slots: int = 16

    def __post_init__(self) -> None:
        for name, valid in (
            ("slice_lanes", (4, 8, 16, 32, 64, 128)),
            ("chain", (4, 8, 16)),
            ("requantisers", (4, 8, 16)),
        ):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, valid))}, not {getattr(self, name)}"
                )
        for name, low, high in (
            ("fraction", 0, 8),
            ("lanes", 1, 16),
            ("max_rank", 1, 15 * self.chain),
            ("max_q2", 1, 32),
            ("max_q3", CHUNK, 15 * CHUNK),
            ("max_dim", self.slice_lanes, 512),
            ("max_tables", 2, 1 << 12),
            ("core1_words", 2, 1 << 20),
            ("core2_words", 2, 1 << 24),
            ("core3_words", 2, 1 << 20),
            ("pinned_words", 0, 1 << 24),
            ("row_bits", 2, 29),
            ("slots", 2, 64),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in {low}..{high}, not {getattr(self, name)}")
        for name in ("max_tables", "slots"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        links = self.max_links
        steps1 = self.max_q2 * -(-links * self.chain // COLUMNS) * links
        for name, what, count in (
            ("steps1", "q2 × (r2 / 4) × (r1 / chain)", steps1),
            ("entry_words", "q2 × (r2 / chain)", self.max_entry),
            ("row_blocks", "q2 × (q3 / 4)", self.max_blocks),
            ("steps2", "q2 × (q3 / 4) × (r2 / chain)", self.max_blocks * links),
            ("stride3", "(q3 / 4) × (r2 / chain)", self.max_q3 // CHUNK * links),
        ):
            most = (1 << TT_TABLE_FIELDS[name][1]) - 1
            if count > most:
                raise ValueError(
                    f"max_q2 {self.max_q2}, max_q3 {self.max_q3} and max_rank {self.max_rank} with "
                    f"chain {self.chain}: {what} must be at most {most}, not {count}"
                )
        if self.max_dim % self.slice_lanes:
            raise ValueError(
                f"max_dim must be a multiple of slice_lanes {self.slice_lanes}, not {self.max_dim}"
            )

    @classmethod
    def for_tables(
        cls,
        shapes: Sequence[TtShape],
        pins: Sequence[int] | None = None,
        *,
        slice_lanes: int,
        **chosen: int,
    ) -> TtParams:
        """Size the maxima for these tables, with ``pins`` pinned prefixes each.

        ``chosen`` parameters are taken as they are; depths are those of the tables.
        """
        least = {
            "max_rank": max(max(shape.ranks) for shape in shapes),
            "max_q2": max(shape.q[1] for shape in shapes),
            "max_q3": max(shape.q[2] for shape in shapes),
            "max_dim": max(-(-shape.dim // slice_lanes) * slice_lanes for shape in shapes),
            "max_tables": max(2, 1 << (len(shapes) - 1).bit_length()),
            "row_bits": max(2, *(shape.rows.bit_length() for shape in shapes)),
        }
        one = cls(slice_lanes=slice_lanes, **{**least, **chosen})
        pins = pins or [0] * len(shapes)
        words = [one.core_words(shape) for shape in shapes]
        return dataclasses.replace(
            one,
            core1_words=max(2, sum(w[0] for w in words)),
            core2_words=max(2, sum(w[1] for w in words)),
            core3_words=max(2, sum(w[2] for w in words)),
            pinned_words=sum(
                min(pin, shape.prefixes) * one.entry_words(shape)
                for pin, shape in zip(pins, shapes, strict=True)
            ),
        )

    # --- a table on this reconstructor ---

    def check(self, shape: TtShape) -> None:
        """Check that a table is within the maxima.

        Raises
        ------
        ValueError
            Naming the first that is not.
        """
        for name, value, most in (
            ("rank", max(shape.ranks), self.max_rank),
            ("q2", shape.q[1], self.max_q2),
            ("q3", shape.q[2], self.max_q3),
            ("dimension", shape.dim, self.max_dim),
            ("rows", shape.rows, (1 << self.row_bits) - 1),
        ):
            if value > most:
                raise ValueError(f"{name} must be at most {most} here, not {value}")
        if shape.dim % self.slice_lanes:
            raise ValueError(f"dimension must be a multiple of {self.slice_lanes}, not {shape.dim}")

    def pairs(self, shape: TtShape) -> bool:
        """Whether groups 2 and 3 compute the upper half of j2, and not rows 2 and 3 of core 1."""
        return shape.q[0] <= GROUPS // 2 and shape.q[1] % 2 == 0

    def rounds(self, shape: TtShape) -> int:
        """Values of j2 that a group computes: T."""
        return shape.q[1] // 2 if self.pairs(shape) else shape.q[1]

    def links(self, rank: int) -> int:
        """Steps of ``chain`` elements that a rank takes: K."""
        return -(-rank // self.chain)

    def steps1(self, shape: TtShape) -> int:
        """Array cycles of a first product."""
        r1, r2 = shape.ranks
        blocks = self.links(r2) * self.chain // COLUMNS
        return self.rounds(shape) * blocks * self.links(r1)

    def steps2(self, shape: TtShape) -> int:
        """Array cycles of a second product."""
        return self.blocks(shape) * self.links(shape.ranks[1])

    def blocks(self, shape: TtShape) -> int:
        """Blocks of 4 groups × 4 components that make a row."""
        return self.rounds(shape) * shape.q[2] // CHUNK

    def core_words(self, shape: TtShape) -> tuple[int, int, int]:
        """Words of each core of a table."""
        k1, k2 = (self.links(rank) for rank in shape.ranks)
        p1, p2, p3 = shape.p
        return p1 * k1, p2 * self.stride2(shape), p3 * k2 * shape.q[2] // CHUNK

    def stride2(self, shape: TtShape) -> int:
        """Words of the second core per i2."""
        steps = self.steps1(shape)
        return steps if self.pairs(shape) else -(-steps // 2)

    def entry_words(self, shape: TtShape) -> int:
        """Words of a finished first product."""
        return self.rounds(shape) * self.links(shape.ranks[1])

    # --- derived sizes ---

    @property
    def multipliers(self) -> int:
        """Multipliers of all lanes, requantisation apart."""
        return self.lanes * GROUPS * COLUMNS * self.chain

    @property
    def max_links(self) -> int:
        """Largest K."""
        return self.links(self.max_rank)

    @property
    def max_entry(self) -> int:
        """Words of the largest finished first product, of a place in the ring."""
        return self.max_q2 * self.max_links

    @property
    def ring_words(self) -> int:
        """Words of the store for first products that are not pinned; they come first."""
        return self.slots * self.max_entry

    @property
    def store_words(self) -> int:
        """Words of the store of first products."""
        return self.ring_words + self.pinned_words

    @property
    def store_bits(self) -> int:
        """Width of a word's number in the store."""
        return index_bits(self.store_words)

    @property
    def max_blocks(self) -> int:
        """Blocks of the largest row that is not mostly padding."""
        return self.max_q2 * self.max_q3 // CHUNK

    @property
    def steps_bits(self) -> int:
        """Width of a count of steps, less one."""
        links = self.max_links
        first = self.max_q2 * links * self.chain // COLUMNS * links
        return index_bits(max(first, self.max_blocks * links))

    @property
    def chunk_bits(self) -> int:
        """Width of a chunk's number, and of their count; padding may reach further."""
        return max(self.chunks, GROUPS * self.max_blocks).bit_length()

    @property
    def block_depth(self) -> int:
        """Blocks of second products that may be under way: those of four rows, and a few."""
        return 1 << (4 * self.max_blocks + 7).bit_length()

    @property
    def chunks(self) -> int:
        """Chunks of 4 components of the largest row."""
        return self.max_dim // CHUNK

    @property
    def max_slices(self) -> int:
        """Slices of the largest row."""
        return self.max_dim // self.slice_lanes

    @property
    def code_bits(self) -> int:
        """Signed width of a component of a row."""
        return 8 + self.fraction

    @property
    def limit(self) -> int:
        """Largest magnitude of a component of a row."""
        return INT8_MAX << self.fraction

    @property
    def dot_bits(self) -> int:
        """Signed width of a dot product of ``chain`` elements."""
        return MIDDLE_BITS + CORE_BITS + (self.chain - 1).bit_length()

    @property
    def sum_bits(self) -> int:
        """Signed width of a sum over the rank: products of ±MIDDLE_MAX and ±127."""
        return (self.max_links * self.chain * MIDDLE_MAX * INT8_MAX).bit_length() + 1

    @property
    def acc_bits(self) -> int:
        """Signed width of the second product that is requantised; the cores' scales see to it."""
        return min(ACC_BITS, self.sum_bits)

    # --- cost ---

    def row_cycles(self, shape: TtShape, hit_rate: float = 0.0) -> float:
        """Mean cycles of a lane per row in steady state.

        The slower of the array, whose first products only misses of the prefix cache take, and the
        requantisers.

        Parameters
        ----------
        shape
            The table.
        hit_rate
            Share of the rows whose prefix is pinned.
        """
        array = self.steps2(shape) + (1 - hit_rate) * self.steps1(shape)
        finish = self.blocks(shape) * GROUPS * COLUMNS / self.requantisers
        return max(array, finish)

    def cycles(self, shape: TtShape, rows: float, hit_rate: float = 0.0) -> float:
        """Steady-state cycles for ``rows`` rows; one enters, and a slice leaves, per cycle."""
        slices = shape.dim // self.slice_lanes
        return rows * max(self.row_cycles(shape, hit_rate) / self.lanes, slices, 1)

    def resources(self) -> Resources:
        """Estimated LUT, FF, DSP, BRAM and URAM of the reconstructor."""
        from screc_hw.tt.cost import tt_resources  # which needs the layouts of these parameters

        return tt_resources(self)
