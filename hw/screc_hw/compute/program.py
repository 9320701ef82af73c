"""From a model to the operations, weight words and table positions of a compute core.

Needs no Amaranth: the compiler and the cycle formula use it. Positions within the memories:

* activation memory: region A then B (:meth:`ComputeParams.activation_regions`);
* feature buffer, per slot: vector 0 first, every vector at a whole word (:func:`vector_bases`);
* weights: layers one after the other, bottom first, each as tiles of ``columns`` outputs;
* requantise entries: channels of the bottom layers, the copy entry, the pair entry, channels of the
  top layers.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from screc_hw.compute.params import ComputeParams
from screc_hw.model import LayerShape, ModelShape
from screc_hw.protocol import LAYER_FIELDS, Destination, Operation, Source, pack

__all__ = [
    "copy_entry",
    "layer_program",
    "pair_entry",
    "vector_bases",
    "weight_words",
]


def vector_bases(model: ModelShape, lanes: int) -> list[int]:
    """First word of every interaction vector in a slot of the feature buffer.

    In the order of ``ModelShape.vector_dims``: the bottom output, where there is one, then the bag
    of every feature. A word holds ``lanes`` components.
    """
    words = [-(-dim // lanes) for dim in model.vector_dims]
    return [0, *itertools.accumulate(words[:-1])]


def copy_entry(model: ModelShape) -> int:
    """Requantise entry of the copied vectors."""
    return sum(layer.n for layer in model.bottom_layers)


def pair_entry(model: ModelShape) -> int:
    """Requantise entry of the pairwise products."""
    return copy_entry(model) + 1


def layer_program(model: ModelShape, params: ComputeParams) -> list[dict[str, int]]:
    """List the operations of one sub-batch of ``model``.

    Returns
    -------
    list of dict
        Per operation the values of ``protocol.LAYER_FIELDS``; a field that is absent is 0.

    Raises
    ------
    ValueError
        If the model does not fit a core of ``params``; names the parameter, the need and the value.
    """
    _check(model, params)
    program = [
        *_layers(model, params, model.bottom_layers, channel=0, weight=0),
        *_interaction(model, params),
        *_layers(
            model,
            params,
            model.top_layers,
            channel=pair_entry(model) + 1,
            weight=_weight_words(model.bottom_layers, params),
        ),
    ]
    program[-1]["last"] = 1
    for operation in program:
        pack(LAYER_FIELDS, **operation)
    return program


def weight_words(weight: NDArray[np.int8], columns: int) -> NDArray[np.uint64]:
    """Order one layer's weights as a compute core's memory holds them.

    Parameters
    ----------
    weight
        int8 ``(n, k)``.
    columns
        Columns of the array; the last tile is filled with zeros.

    Returns
    -------
    uint64 ``(tiles * k * columns // 8,)``
        Words of LOAD ``WEIGHTS``: for every tile, for every input, ``columns`` bytes, the tile's
        first output in the lowest byte.
    """
    n, k = weight.shape
    tiles = -(-n // columns)
    padded = np.zeros((tiles * columns, k), np.int8)
    padded[:n] = weight
    ordered = np.ascontiguousarray(padded.reshape(tiles, columns, k).transpose(0, 2, 1))
    return ordered.reshape(-1).view("<u8").astype(np.uint64)


def _weight_words(layers: tuple[LayerShape, ...], params: ComputeParams) -> int:
    """Words of ``columns`` bytes that the weights of ``layers`` take."""
    return sum(layer.k * -(-layer.n // params.columns) for layer in layers)


def _layers(
    model: ModelShape,
    params: ComputeParams,
    layers: tuple[LayerShape, ...],
    *,
    channel: int,
    weight: int,
) -> list[dict[str, int]]:
    """LINEAR operations of the bottom or the top MLP."""
    region_b, _ = params.activation_regions(model)
    bottom = layers is model.bottom_layers
    # the bottom MLP begins with region A, the top MLP reads its input there
    regions = (0, region_b) if bottom else (region_b, 0)
    operations = []
    for i, layer in enumerate(layers):
        destination, base = Destination.ACTIVATION, regions[i % 2]
        if i == len(layers) - 1:
            destination, base = (Destination.FEATURE if bottom else Destination.OUTPUT), 0
        from_dense = bottom and i == 0
        operations.append(
            {
                "operation": int(Operation.LINEAR),
                "source": int(Source.DENSE if from_dense else Source.ACTIVATION),
                "source_base": 0 if from_dense else regions[(i + 1) % 2],
                "destination": int(destination),
                "destination_base": base,
                "relu": int(layer.relu),
                "k": layer.k,
                "n": layer.n,
                "weight_base": weight,
                "requantise_base": channel,
            }
        )
        weight += _weight_words((layer,), params)
        channel += layer.n
    return operations


def _interaction(model: ModelShape, params: ComputeParams) -> list[dict[str, int]]:
    """COPY and DOT operations that make the concatenated tensor in region A.

    The bottom output is copied on its own, before the bags are waited for. Where its last word is
    partly filled, the copy of the bags then overwrites what was copied beyond it.
    """
    words = [-(-dim // params.lanes) for dim in model.vector_dims]
    bases = vector_bases(model, params.lanes)
    done = model.vector_dims[0] if model.dense else 0
    operations = []
    if model.dense:
        operations.append(_copy(model, base=0, words=words[0], to=0))
    if model.pairs:
        operations.append(
            {
                "operation": int(Operation.DOT),
                "wait_features": 1,
                "k": words[0],
                "n": len(words),
                "destination_base": done,
                "requantise_base": pair_entry(model),
            }
        )
    elif model.interaction == "concat":
        first = 1 if model.dense else 0
        copy = _copy(model, base=bases[first], words=sum(words[first:]), to=done)
        operations.append(copy | {"wait_features": 1})
    return operations


def _copy(model: ModelShape, *, base: int, words: int, to: int) -> dict[str, int]:
    return {
        "operation": int(Operation.COPY),
        "k": words,
        "source_base": base,
        "destination_base": to,
        "requantise_base": copy_entry(model),
    }


def _check(model: ModelShape, params: ComputeParams) -> None:
    """Refuse a model that a core of ``params`` cannot run."""
    if not model.features:
        raise ValueError(f"model {model.name!r} needs at least one sparse feature")
    if model.top[-1] != 1:
        raise ValueError(f"model {model.name!r}: top must end in 1 output, not {model.top[-1]}")
    dims = set(model.vector_dims)
    if model.interaction == "dot":
        if not params.dot:
            raise ValueError(f"model {model.name!r} needs dot, which this core was built without")
        if len(dims) != 1:
            raise ValueError(
                f"model {model.name!r}: dot needs vectors of one dimension, not {sorted(dims)}"
            )
        if len(model.vector_dims) < 2:
            raise ValueError(f"model {model.name!r}: dot needs at least two vectors")
    bags = {model.feature_dim(f) for f in range(len(model.features))}
    if any(dim % params.lanes for dim in (dims if model.interaction == "dot" else bags)):
        raise ValueError(
            f"model {model.name!r}: dimensions {sorted(dims)} must be multiples of lanes "
            f"{params.lanes}"
        )
    layers = (*model.bottom_layers, *model.top_layers)
    needs = {
        "vector_words": sum(-(-dim // params.lanes) for dim in model.vector_dims),
        "max_dense": model.dense,
        "max_k": max(layer.k for layer in layers),
        "max_dim": max(dims) if model.interaction == "dot" else 0,
        "activation_words": params.activation_words_for(model),
        "weight_words": _weight_words(layers, params),
        "requantise_words": sum(layer.n for layer in layers) + 2,
        "program_length": len(layers) + 2,
    }
    for name, need in needs.items():
        if need > getattr(params, name):
            raise ValueError(
                f"model {model.name!r} needs {name} {need}, more than {getattr(params, name)}"
            )
