"""Parameters of the combiner, its derived widths and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from screc_hw.model import ModelShape
from screc_hw.numerics import (
    MAX_BAG,
    MULTIPLIER_BITS,
    POOL_BITS,
    RECIPROCAL_FRACTION_BITS,
    pooled_bits,
)
from screc_hw.resources import Resources, memory_blocks

COUNT_BITS = MAX_BAG.bit_length() + 1
"""A bag's count of lookups so far, plus a sticky bit above the longest bag."""

ACCUMULATE_LATENCY = 6
"""Cycles from a part's entry to its sum: four for the count, two for the accumulator."""

MULTIPLY_LATENCY, MULTIPLY_LATENCY_WIDE = 3, 4
"""As ``requantise.Multiply.latency`` (that module needs Amaranth; a test compares the two)."""

DSP_BITS = 27
"""Widest sum that is one DSP48E2 to multiply; above, it takes two."""

MAX_ACC_BITS = 2 * DSP_BITS - 1
"""Widest sum that two DSP48E2 can multiply."""

REQUANTISE_STEPS = 4
"""Behind the multiplier: coarse and fine shift, round, clamp."""

MEAN_STEPS = 3
"""Behind the multiplier: two shifts, the last one with the round."""

ADMISSION_CYCLES = 2
"""Per sub-batch, beside its headers: its ``begin`` and its count."""

SLOT_LATENCY = 11
"""A slot's way beside its headers, partials and the pipeline: admission, output, completion, and
back to the next sub-batch by a compute core that returns it at once."""

OUTPUT_LATENCY = 8
"""Word number, output queue, and back to the count of free places."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CombinerParams:
    """Compile-time maxima of the combiner.

    Parameters
    ----------
    lanes
        Components per partial slice.
    rows
        Samples per batch slot, a power of two.
    slots
        Batch slots over all compute cores, a power of two.
    max_features, max_slices
        Largest feature count and dimension / lanes.
    vector_words
        Words of ``lanes`` bytes that one sample's vectors take in a compute core.
    mean
        Whether any bag may be a mean (adds one multiplier per lane).
    max_bag
        Longest bag, up to 65535.
    rowwise, pool_bits, tt_fraction
        As those of the memory cores: formats of the rows, which set the width of the sums.
    """

    lanes: int
    rows: int
    slots: int
    max_features: int
    max_slices: int
    vector_words: int
    mean: bool = False
    max_bag: int = MAX_BAG
    rowwise: bool = False
    pool_bits: int = POOL_BITS
    tt_fraction: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "slots"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        for name in ("lanes", "max_features", "max_slices", "vector_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.max_bag <= MAX_BAG:
            raise ValueError(f"max_bag must be in 1..{MAX_BAG}, not {self.max_bag}")
        if self.acc_bits > MAX_ACC_BITS:
            raise ValueError(
                f"sums of {self.acc_bits} bits (pool_bits {self.pool_bits}, tt_fraction "
                f"{self.tt_fraction}) must have at most {MAX_ACC_BITS}"
            )

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
    def slot_bags(self) -> int:
        """Addresses of one slot's bags: (row, feature), the feature padded to a power of two."""
        return self.rows << (self.max_features - 1).bit_length()

    @property
    def sums(self) -> int:
        """Addresses of the accumulator memory: (slot, row, feature, slice)."""
        return self.slots * self.slot_bags << (self.max_slices - 1).bit_length()

    @property
    def multiply_latency(self) -> int:
        """Cycles of multiplying a sum."""
        return MULTIPLY_LATENCY if self.acc_bits <= DSP_BITS else MULTIPLY_LATENCY_WIDE

    @property
    def requantise_latency(self) -> int:
        """Cycles from a sum, or its mean, to int8."""
        return self.multiply_latency + REQUANTISE_STEPS

    @property
    def mean_latency(self) -> int:
        """Cycles from a sum to its mean; 0 without means."""
        return self.multiply_latency + MEAN_STEPS if self.mean else 0

    @property
    def latency(self) -> int:
        """Cycles from a part to its requantised word."""
        return ACCUMULATE_LATENCY + self.mean_latency + self.requantise_latency

    @property
    def queue_depth(self) -> int:
        """Finished words that may be under way: enough for one slice per cycle."""
        return 1 << (self.latency + OUTPUT_LATENCY - 1).bit_length()

    def cycles(self, model: ModelShape, *, partials_per_bag: float) -> float:
        """Cycles per sub-batch in steady state: one header, and one slice of a part, per cycle.

        ``partials_per_bag`` counts an empty bag as one part: its zeros take the same way. Two
        cycles go to each sub-batch's admission. Where sub-batches are so small that the slots do
        not cover the pipeline, the way of a slot decides (its compute core's time excluded).
        """
        headers = self.rows * len(model.features) + ADMISSION_CYCLES
        slices = self.rows * sum(
            model.feature_dim(f) // self.lanes for f in range(len(model.features))
        )
        adding = slices * partials_per_bag
        slot = headers - ADMISSION_CYCLES + adding + self.latency + SLOT_LATENCY
        return max(headers, adding, slot / self.slots)

    @staticmethod
    def expected_partials(
        model: ModelShape,
        *,
        inputs: int,
        lookups: float | None = None,
        replicated: Collection[int] = (),
    ) -> float:
        """Mean partials per bag, weighted by its slices, where rows are spread over ``inputs``.

        A bag of L lookups meets ``n (1 - (1 - 1/n)**L)`` of n memory cores; one of the tables
        ``replicated``, by number, is read by one core (but for few that the host cuts in two).
        ``lookups`` per sample over all features; the model's own where None.
        """
        scale = 1.0 if lookups is None else lookups / max(model.lookups, 1e-9)
        dims = [model.feature_dim(f) for f in range(len(model.features))]
        missed = 1 - 1 / inputs
        parts = [
            1.0 if f.table in replicated else max(1.0, inputs * (1 - missed ** (f.pooling * scale)))
            for f in model.features
        ]
        weighted = sum(d * p for d, p in zip(dims, parts, strict=True))
        return weighted / max(sum(dims), 1)

    def resources(self, *, inputs: int = 1, cores: int = 1) -> Resources:
        """Estimate from the memories and datapath as built.

        Fitted to Yosys' mapping (``synth_xilinx -family xcup``), within 10 % for sums of 24 to 48
        bits, with and without means. Yosys leaves the multipliers' operand, product and output
        registers in flip-flops; Vivado moves them into the DSPs.

        Parameters
        ----------
        inputs
            Memory cores.
        cores
            Compute cores.
        """
        acc, lanes = self.acc_bits, self.lanes
        product = acc + MULTIPLIER_BITS
        wide = acc > DSP_BITS
        # a multiplier: the sum of the two halves; operands, products, outputs, sum
        multiply_lut = product - DSP_BITS + 1 if wide else 0
        multiply_ff = acc + (2 * (product + MULTIPLIER_BITS) + product if wide else 2 * product)
        # per lane: operand delay, forwarding, adder; shifts, round and clamp
        lane_lut = 3 * acc + multiply_lut + 95 + product * 5 // 12
        # per lane: forwarded copies, then what is as wide as the result
        lane_ff = 4 * acc + multiply_ff + 67
        if self.mean:
            kept = product - RECIPROCAL_FRACTION_BITS + 1  # the shift's fixed part is not built
            lane_lut += multiply_lut + 3 * kept + 4
            lane_ff += multiply_ff - (3 if wide else 2) * (product - kept) + 2 * kept + acc
        sum_bits = lanes * acc
        address = (self.sums - 1).bit_length()
        bags = (self.rows * self.max_features).bit_length()
        word = (self.vector_words - 1).bit_length()
        header = 32 if self.mean else 16
        skids, streams = 0, -(-inputs // 8)  # see merge_tree
        while streams > 1:
            skids, streams = skids + streams, -(-streams // 8)
        return (
            memory_blocks(self.sums, sum_bits)
            + memory_blocks(self.slots * self.slot_bags, header)
            + self.slots * memory_blocks(self.slot_bags, COUNT_BITS)
            + memory_blocks(self.max_features, 22 + word)
            + memory_blocks(self.queue_depth, lanes * 8 + address + word)
            + Resources(
                lut=250
                + (inputs - 1 + skids) * (sum_bits + 37)
                + lanes * lane_lut
                + 45 * self.slots
                + 11 * address
                + (cores - 1) * (8 * lanes + 33)
                + (46 if self.mean else 0),
                ff=387
                + (inputs + 2 * skids) * (sum_bits + 31)
                + lanes * lane_ff
                + self.slots * (COUNT_BITS + 2 + bags)
                + 17 * address
                + (cores - 1) * (16 * lanes + 30)
                + (98 if self.mean else 0),
                dsp=lanes * (2 if wide else 1) * (2 if self.mean else 1),
            )
        )
