"""The float twin: the same DLRM in floating point, stage by stage.

It is what the integers approximate. Stage names are those of :func:`screc_sim.golden.model.stages`,
so the two can be compared tensor by tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
    """A trained linear layer: ``weight`` float32 ``(n, k)``, ``bias`` float32 ``(n,)``.

    ``scale`` float64 ``(n,)``, of a layer that is quantised already: the weights of channel ``n``
    are integers in [-127, 127] times it; 0 where the channel is not, None where no channel is.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale: NDArray[np.float64] | None = None


@dataclasses.dataclass(frozen=True)
class GivenScales:
    """Scales that a model was quantised with before it came here; what is absent is chosen.

    ``tensors``: real value of one code by tensor: ``dense``, ``bottom{i}`` and ``top{i}`` of hidden
    layers, ``vectors``, ``concat``. ``dense_zero``: code of a dense feature of 0, where ``dense``
    is given. ``tables``: likewise the scale of a table by its number.
    """

    tensors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dense_zero: int = 0
    tables: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
    """All trained parameters: layers of both MLPs, and the rows of every table."""

    bottom: tuple[FloatLinear, ...]
    top: tuple[FloatLinear, ...]
    tables: tuple[RowSource, ...]
    scales: GivenScales = dataclasses.field(default_factory=GivenScales)


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
    x = _bottom(shape, weights, x, 0, kept)
    vectors = [x] if shape.dense else []
    for f, (feature, bags) in enumerate(zip(shape.features, batch.bags, strict=True)):
        table = weights.tables[feature.table]
        bag = bag_sums(bags, table.fetch, table.dim, dtype)
        if feature.mode == "mean":
            bag /= np.maximum(bags.lengths, 1).astype(dtype)[:, None]
        kept[f"bag{f}"] = bag
        vectors.append(bag)
    x = kept["concat"] = _interact(shape, vectors)
    kept["logit"] = _top(shape, weights, x, 0, kept)
    kept["probability"] = expit(kept["logit"])
    return kept


def vectors_of(shape: ModelShape, kept: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Vectors that meet in the interaction, of what :func:`stages` returned."""
    bags = [kept[f"bag{f}"] for f in range(len(shape.features))]
    return [kept[shape.bottom_layers[-1].name], *bags] if shape.dense else bags


def resume(
    shape: ModelShape,
    weights: Weights,
    kept: Mapping[str, NDArray[Any]],
    name: str,
    values: Sequence[NDArray[Any]],
) -> NDArray[Any]:
    """Compute logits again with one tensor replaced, from there on.

    Parameters
    ----------
    shape, weights
        The model.
    kept
        What :func:`stages` returned.
    name
        ``dense``, ``bottom{i}`` or ``top{i}`` of a hidden layer, ``concat``, or ``vectors``.
    values
        What replaces it, of its shape: one tensor, or all :func:`vectors_of`.

    Returns
    -------
    Logits ``(n,)`` of the tensors' type.
    """
    bottoms = [layer.name for layer in shape.bottom_layers[:-1]]
    tops = [layer.name for layer in shape.top_layers[:-1]]
    if name in tops:
        return _top(shape, weights, values[0], tops.index(name) + 1, {})
    if name == "concat":
        return _top(shape, weights, values[0], 0, {})
    vectors = list(values)
    if name != "vectors":
        first = 0 if name == "dense" else bottoms.index(name) + 1
        vectors = vectors_of(shape, kept)
        vectors[0] = _bottom(shape, weights, values[0], first, {})
    return _top(shape, weights, _interact(shape, vectors), 0, {})


def _bottom(
    shape: ModelShape, weights: Weights, x: NDArray[Any], first: int, kept: dict[str, NDArray[Any]]
) -> NDArray[Any]:
    """Bottom layers from number ``first`` on."""
    for layer, layer_shape in zip(weights.bottom[first:], shape.bottom_layers[first:], strict=True):
        x = kept[layer_shape.name] = np.maximum(_linear(layer, x), 0)
    return x


def _interact(shape: ModelShape, vectors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    parts = list(vectors)
    if shape.interaction == "dot":
        stacked = np.stack(vectors, axis=1)
        i, j = np.tril_indices(stacked.shape[1], -1)
        pairs = (stacked @ stacked.transpose(0, 2, 1))[:, i, j]
        parts = [*vectors[: 1 if shape.dense else 0], pairs]
    return np.concatenate(parts, axis=1)


def _top(
    shape: ModelShape, weights: Weights, x: NDArray[Any], first: int, kept: dict[str, NDArray[Any]]
) -> NDArray[Any]:
    """Logits: top layers from number ``first`` on."""
    for layer, layer_shape in zip(weights.top[first:-1], shape.top_layers[first:-1], strict=True):
        x = kept[layer_shape.name] = np.maximum(_linear(layer, x), 0)
    return _linear(weights.top[-1], x)[:, 0]


def _linear(layer: FloatLinear, x: NDArray[Any]) -> NDArray[Any]:
    return x @ layer.weight.T.astype(x.dtype) + layer.bias.astype(x.dtype)
