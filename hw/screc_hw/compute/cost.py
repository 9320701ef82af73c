"""What a compute core costs on UltraScale+, part by part, as ``screc_hw.costs`` counts."""

from __future__ import annotations

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.numerics import SIGMOID_ENTRIES
from screc_hw.resources import Resources, memory_blocks

__all__ = ["compute_resources"]


def compute_resources(params: ComputeParams) -> Resources:
    """Return what a core with ``params`` costs."""
    p = params
    chains = p.pairs * p.outs
    banks = memory_blocks(p.bank_words, 8 * p.rows) + memory_blocks(p.weight_words, 64)
    array = Resources(
        lut=2 * chains * 2 * p.acc_bits,
        ff=chains * 4 * p.acc_bits + 60 * p.rows,
        dsp=CHAIN * chains,
    )
    pairs = p.pair_units * (
        Resources(lut=300, ff=900, dsp=CHAIN + 1) + memory_blocks(p.unit_words, 64)
    )
    finish = p.rows * Resources(lut=120, ff=250, dsp=1) + memory_blocks(p.requantise_words, 54)
    rest = Resources(lut=1500, ff=3000, dsp=1) + 2 * memory_blocks(SIGMOID_ENTRIES, 16)
    return CHAIN * banks + array + (1 if p.dot else 0) * pairs + finish + rest
