"""Random samples of a model."""

from __future__ import annotations

import numpy as np

from screc_hw.model import ModelShape
from screc_sim.samples import Bags, SampleBatch


def random_batch(shape: ModelShape, samples: int, seed: int, *, longest: int = 6) -> SampleBatch:
    """Random samples; bags of 0 to ``longest`` ids."""
    rng = np.random.default_rng(seed)
    bags = []
    for feature in shape.features:
        lengths = rng.integers(0, longest + 1, samples)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = shape.tables[feature.table].rows
        bags.append(Bags(rng.integers(0, rows, offsets[-1]), offsets))
    dense = rng.normal(size=(samples, shape.dense)).astype(np.float32)
    return SampleBatch(dense, tuple(bags))
