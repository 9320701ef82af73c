"""Synthetic logs: bags of Zipf-distributed ids from a seed, of any length."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from screc_hw.model import FeatureShape, ModelShape
from screc_hw.numerics import MAX_BAG
from screc_sim.samples import Bags, SampleBatch

CHUNK_SAMPLES = 4096
"""Samples drawn at a time; each chunk has a seed of its own, so any may be skipped."""

DENSE_SCALE = 3.0
"""Dense features are magnitudes of a normal of this deviation, mean square 9: as Criteo's are
after the logarithm."""

GOLDEN_SHARE = (math.sqrt(5) - 1) / 2


def zipf_ranks(
    rng: np.random.Generator, count: int, rows: int, exponent: float
) -> NDArray[np.int64]:
    """Draw ranks ``0..rows-1``, int64 ``(count,)``, of weight ``(rank + 1) ** -exponent``.

    By rejection-inversion: ``x`` is drawn below the curve ``x ** -exponent``, whose area around
    each whole number is a little more than that number's weight, and rejected accordingly.

    References
    ----------
    Hörmann, Derflinger: Rejection-inversion to generate variates from monotone discrete
    distributions, ACM TOMACS 1996.
    """
    power = 1 - exponent

    def area(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(x) if power == 0 else x**power / power

    low, high = area(np.array([0.5, rows + 0.5]))
    drawn = [np.empty(0, np.int64)]
    left = count
    while left:
        y = low + rng.random(left) * (high - low)
        x = np.exp(y) if power == 0 else (y * power) ** (1 / power)
        number = np.clip(np.rint(x), 1, rows)
        around = area(number + 0.5) - area(number - 0.5)
        kept = number[rng.random(left) * around <= number**-exponent]
        drawn.append(kept.astype(np.int64) - 1)
        left -= len(kept)
    return np.concatenate(drawn)


def scatter(ranks: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Spread ranks over the ids by a fixed bijection: hot ids are not neighbours."""
    step = max(1, round(rows * GOLDEN_SHARE))
    while math.gcd(step, rows) != 1:
        step += 1
    # unsigned: the product of two 32-bit numbers
    spread = ranks.astype(np.uint64) * np.uint64(step) % np.uint64(rows)
    return spread.astype(np.int64)


def bag_lengths(rng: np.random.Generator, count: int, pooling: float) -> NDArray[np.int64]:
    """Draw bag lengths of mean ``pooling``: 0 or 1 up to a mean of 1, else 1 + Poisson."""
    if pooling <= 1:
        return (rng.random(count) < pooling).astype(np.int64)
    return np.minimum(1 + rng.poisson(pooling - 1, count), MAX_BAG)


class SyntheticReader:
    """Draws a log for a model; sample ``i`` depends on the seed and ``i`` alone.

    Parameters
    ----------
    shape
        The model, with pooling and skew of its features.
    samples
        How many there are.
    seed
        What tells logs apart.
    """

    def __init__(self, shape: ModelShape, samples: int, seed: int) -> None:
        self._shape = shape
        self._samples = samples
        self._seed = seed

    def count(self) -> int:
        """Count of samples."""
        return self._samples

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from number ``start`` on; there are no labels."""
        for chunk in range(start // CHUNK_SAMPLES, -(-self._samples // CHUNK_SAMPLES)):
            first = chunk * CHUNK_SAMPLES
            batch = self._draw(chunk)
            yield batch.slice(max(0, start - first), min(CHUNK_SAMPLES, self._samples - first))

    def _draw(self, chunk: int) -> SampleBatch:
        rng = np.random.default_rng((self._seed, chunk))
        dense = np.abs(rng.normal(0.0, DENSE_SCALE, (CHUNK_SAMPLES, self._shape.dense)))
        bags = tuple(self._bags(rng, feature) for feature in self._shape.features)
        return SampleBatch(dense.astype(np.float32), bags)

    def _bags(self, rng: np.random.Generator, feature: FeatureShape) -> Bags:
        rows = self._shape.tables[feature.table].rows
        lengths = bag_lengths(rng, CHUNK_SAMPLES, feature.pooling)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ranks = zipf_ranks(rng, int(offsets[-1]), rows, feature.zipf)
        return Bags(scatter(ranks, rows), offsets)
