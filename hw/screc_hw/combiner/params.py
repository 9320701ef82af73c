"""Parameters of the combiner, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.model import ModelShape
from screc_hw.numerics import INT8_MAX, MAX_BAG
from screc_hw.resources import Resources, memory_blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CombinerParams:
    """Compile-time maxima of the combiner.

    Parameters
    ----------
    lanes
        Components per partial slice.
    rows
        Samples per batch slot.
    slots
        Batch slots over all compute cores.
    max_features, max_slices
        Largest feature count and dimension / lanes.
    vector_words
        Words of ``lanes`` bytes that one sample's vectors take in the feature buffer.
    mean
        Whether any bag may be a mean (adds one multiplier per lane).
    """

    lanes: int
    rows: int
    slots: int
    max_features: int
    max_slices: int
    vector_words: int
    mean: bool = False
    max_bag: int = MAX_BAG

    @property
    def acc_bits(self) -> int:
        """Signed width of a pooled component: max_bag rows of codes in [-127, 127]."""
        return (INT8_MAX * self.max_bag).bit_length() + 1

    def cycles(self, model: ModelShape, *, partials_per_bag: float) -> float:
        """Cycles per sub-batch: one bag header or one partial slice per cycle."""
        headers = self.rows * len(model.features)
        slices = self.rows * sum(
            model.feature_dim(f) // self.lanes for f in range(len(model.features))
        )
        return max(headers, slices * partials_per_bag)

    def resources(self) -> Resources:
        """Estimate from the datapath's widths."""
        bags = self.slots * self.rows * self.max_features
        return (
            memory_blocks(bags * self.max_slices, self.lanes * self.acc_bits)
            + memory_blocks(bags, 48)
            + Resources(
                lut=1500 + self.lanes * 260,
                ff=1500 + self.lanes * 300,
                dsp=self.lanes * (2 if self.mean else 1),
            )
        )
