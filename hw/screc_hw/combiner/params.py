"""Parameters of the combiner, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.model import ModelShape
from screc_hw.numerics import MAX_BAG, POOL_BITS, pooled_bits
from screc_hw.resources import Resources, memory_blocks

COUNT_BITS = MAX_BAG.bit_length() + 1
"""A bag's count of lookups so far, plus a sticky bit above the longest bag."""

ACCUMULATE_LATENCY = 6
"""Cycles from a part's entry to its sum: four for the count, two for the accumulator."""

MULTIPLY_LATENCY, MULTIPLY_LATENCY_WIDE = 3, 4
"""As ``requantise.Multiply.latency`` (that module needs Amaranth; a test compares the two)."""

DSP_BITS = 27
"""Widest sum that is one DSP48E2 to multiply; above, it takes two."""

REQUANTISE_STEPS = 4
"""Behind the multiplier: coarse and fine shift, round, clamp."""

MEAN_STEPS = 3
"""Behind the multiplier: two shifts, the last one with the round."""

ADMISSION_CYCLES = 2
"""Per sub-batch, beside its headers: its ``begin`` and its count."""

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
        Words of ``lanes`` bytes that one sample's vectors take in the feature buffer.
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
    def queue_depth(self) -> int:
        """Finished words that may be under way: enough for one slice per cycle."""
        latency = ACCUMULATE_LATENCY + self.requantise_latency + OUTPUT_LATENCY
        return 1 << (latency + self.mean_latency - 1).bit_length()

    def cycles(self, model: ModelShape, *, partials_per_bag: float) -> float:
        """Cycles per sub-batch in steady state: one header, and one slice of a part, per cycle.

        ``partials_per_bag`` counts an empty bag as one part: its zeros take the same way. Two
        cycles go to each sub-batch's admission.
        """
        headers = self.rows * len(model.features) + ADMISSION_CYCLES
        slices = self.rows * sum(
            model.feature_dim(f) // self.lanes for f in range(len(model.features))
        )
        return max(headers, slices * partials_per_bag)

    @staticmethod
    def expected_partials(model: ModelShape, *, inputs: int, lookups: float | None = None) -> float:
        """Mean partials per bag, weighted by its slices, where rows are spread over ``inputs``.

        A bag of L lookups meets ``n (1 - (1 - 1/n)**L)`` of n memory cores. ``lookups`` per sample
        over all features; the model's own where None.
        """
        scale = 1.0 if lookups is None else lookups / max(model.lookups, 1e-9)
        dims = [model.feature_dim(f) for f in range(len(model.features))]
        missed = 1 - 1 / inputs
        parts = [max(1.0, inputs * (1 - missed ** (f.pooling * scale))) for f in model.features]
        weighted = sum(d * p for d, p in zip(dims, parts, strict=True))
        return weighted / max(sum(dims), 1)

    def resources(self, *, inputs: int = 1) -> Resources:
        """Estimate from the memories and datapath as built, for ``inputs`` memory cores.

        Within 10 % of Yosys' mapping (``synth_xilinx -family xcup``, a DSP's operand, product and
        output registers counted in the DSP) for 1 and 4 inputs, 16 lanes, with and without means.
        """
        sum_bits = self.lanes * self.acc_bits
        header = 32 if self.mean else 16
        # registers of a sum's width: one per merge, operand delay, forwarded copies, result
        wide = (inputs + 4) * sum_bits
        product = self.acc_bits + 16
        scalers = 2 if self.mean else 1
        return (
            memory_blocks(self.sums, sum_bits)
            + memory_blocks(self.slots * self.slot_bags, header)
            + self.slots * memory_blocks(self.slot_bags, COUNT_BITS)
            + memory_blocks(self.max_features, 64)
            + memory_blocks(self.queue_depth, self.lanes * 8 + 32)
            + Resources(
                # merges, operand delay, forwarding, sum: 1 per bit each; shifts and clamp 3.5
                lut=1200 + (inputs + 3) * sum_bits + scalers * self.lanes * product * 7 // 2,
                ff=1500 + wide + scalers * self.lanes * 2 * product,
                dsp=self.lanes * scalers,
            )
        )
