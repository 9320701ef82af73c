"""The float twin: the same DLRM in floating point, stage by stage.

It is what the integers approximate. Stage names are those of :func:`screc_sim.golden.model.stages`,
so the two can be compared tensor by tensor.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import expit

from screc_hw.model import ModelShape
from screc_sim.golden.model import check_batch
from screc_sim.golden.pooling import bag_sums
from screc_sim.golden.quant import RowSource
from screc_sim.samples import SampleBatch

SAMPLES_AT_ONCE = 1024
"""Samples computed at a time by :func:`run`, so that memory does not grow with the batch."""


@dataclasses.dataclass(frozen=True)
class FloatLinear:
    """A trained linear layer: ``weight`` float32 ``(n, k)``, ``bias`` float32 ``(n,)``."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Weights:
    """All trained parameters: layers of both MLPs, and the rows of every table."""

    bottom: tuple[FloatLinear, ...]
    top: tuple[FloatLinear, ...]
    tables: tuple[RowSource, ...]


def run(shape: ModelShape, weights: Weights, batch: SampleBatch) -> NDArray[np.float64]:
    """Logits of every sample, float64 ``(n,)``; memory does not grow with the batch.

    Raises
    ------
    ValueError
        If the batch does not fit the model.
    """
    logits = np.empty(len(batch), np.float64)
    for start in range(0, len(batch), SAMPLES_AT_ONCE):
        part = batch.slice(start, start + SAMPLES_AT_ONCE)
        logits[start : start + len(part)] = stages(shape, weights, part)["logit"]
    return logits


def stages(
    shape: ModelShape, weights: Weights, batch: SampleBatch, dtype: DTypeLike = np.float64
) -> dict[str, NDArray[Any]]:
    """Compute every tensor on the way, by name.

    Parameters
    ----------
    shape, weights
        The model.
    batch
        Samples.
    dtype
        float32 or float64: type of every operation and result.

    Returns
    -------
    dict
        ``dense`` ``(n, dense)``; ``bottom{i}`` ``(n, width)`` after ReLU; ``bag{f}`` ``(n, dim)``
        per feature; ``concat`` ``(n, top_inputs)``; ``top{i}`` of the hidden layers after ReLU;
        ``logit`` and ``probability`` ``(n,)``.

    Raises
    ------
    ValueError
        If the batch does not fit the model.
    """
    check_batch(shape, batch)
    x = batch.dense.astype(dtype)
    kept: dict[str, NDArray[Any]] = {"dense": x}
    for layer, layer_shape in zip(weights.bottom, shape.bottom_layers, strict=True):
        x = kept[layer_shape.name] = np.maximum(_linear(layer, x), 0)
    vectors = [x] if shape.dense else []
    for f, (feature, bags) in enumerate(zip(shape.features, batch.bags, strict=True)):
        table = weights.tables[feature.table]
        bag = bag_sums(bags, table.fetch, table.dim, dtype)
        if feature.mode == "mean":
            bag /= np.maximum(bags.lengths, 1).astype(dtype)[:, None]
        kept[f"bag{f}"] = bag
        vectors.append(bag)
    parts = vectors
    if shape.interaction == "dot":
        stacked = np.stack(vectors, axis=1)
        i, j = np.tril_indices(stacked.shape[1], -1)
        pairs = (stacked @ stacked.transpose(0, 2, 1))[:, i, j]
        parts = [*vectors[: 1 if shape.dense else 0], pairs]
    x = kept["concat"] = np.concatenate(parts, axis=1)
    for layer, layer_shape in zip(weights.top[:-1], shape.top_layers[:-1], strict=True):
        x = kept[layer_shape.name] = np.maximum(_linear(layer, x), 0)
    kept["logit"] = _linear(weights.top[-1], x)[:, 0]
    kept["probability"] = expit(kept["logit"])
    return kept


def _linear(layer: FloatLinear, x: NDArray[Any]) -> NDArray[Any]:
    return x @ layer.weight.T.astype(x.dtype) + layer.bias.astype(x.dtype)
