"""From a model to the operations, weight words and memory regions of a compute core.

Needs no Amaranth: the compiler and the cycle formula use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import (
    CHAIN,
    Regions,
    chunks,
    concat_parts,
    padded_inputs,
    padded_outputs,
    vector_bases,
    words,
)
from screc_hw.model import ModelShape
from screc_hw.protocol import (
    COMPUTE_SHAPE_FIELDS,
    LAYER_FIELDS,
    LAYER_WORDS,
    REQUANTISE_FIELDS,
    Destination,
    Operation,
    Source,
    pack,
)

__all__ = [
    "layer_program",
    "pack_nibbles",
    "program_words",
    "requantise_words",
    "shape_word",
    "streamed_beats",
    "weight_words",
]

Entry = tuple[int, int, int]
"""Bias, m and s of a channel."""


def weight_words(
    weights: list[NDArray[np.int8]], model: ModelShape, params: ComputeParams
) -> NDArray[np.uint64]:
    """Words of LOAD ``WEIGHTS``: for every few steps, a word for each of the 8 positions.

    Where weights are streamed, the same words are a beat in memory, and a layer begins with one.

    Parameters
    ----------
    weights
        int8 ``(n, k)`` of every layer, bottom before top.
    model, params
        What runs where.
    """
    outs, images = params.outs, []
    first_top = len(model.bottom_layers)
    shapes = zip(padded_inputs(model), padded_outputs(model), strict=True)
    for number, (weight, (k, n)) in enumerate(zip(weights, shapes, strict=True)):
        links, groups = words(k), -(-n // outs)
        padded = np.zeros((groups * outs, links * CHAIN), np.int8)
        padded[: len(weight), : weight.shape[1]] = weight
        if number == first_top and model.dense and model.interaction != "dot":
            bottom = model.bottom[-1]
            start = concat_parts(model)[0]
            padded[: len(weight), bottom:start] = 0
            padded[: len(weight), start:k] = weight[:, bottom:]
        image = padded.reshape(groups, outs, links, CHAIN).transpose(0, 2, 3, 1)
        images.append(image.reshape(-1, CHAIN, outs))
        if params.stream_words:
            images.append(np.zeros((-len(images[-1]) % params.word_steps, CHAIN, outs), np.int8))
    whole = np.concatenate(images)
    pad = -len(whole) % params.word_steps
    whole = np.concatenate([whole, np.zeros((pad, CHAIN, outs), np.int8)])
    parts = whole.reshape(-1, params.word_steps, CHAIN, outs).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts).reshape(-1).view("<u8")


def streamed_beats(model: ModelShape, params: ComputeParams) -> int:
    """Beats of memory that streamed weights take, 0 where they are on chip."""
    layers = chunks(model, params.outs, params.stream_words)
    return sum(chunk.beats for layer in layers for chunk in layer)


def pack_nibbles(weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Words of LOAD ``WEIGHTS4`` from those of ``WEIGHTS``: half as many.

    Parameters
    ----------
    weights
        uint64, an even count of words; every byte is a code in [-7, 7].
    """
    codes = weights.view(np.uint8).reshape(-1, 2) & 0xF
    return np.ascontiguousarray(codes[:, 0] | codes[:, 1] << 4).view("<u8")


def shape_word(model: ModelShape, params: ComputeParams) -> int:
    """The word of LOAD ``COMPUTE_SHAPE``."""
    bases = vector_bases(model, params.lanes)
    first = bases[1] if model.dense else 0  # the first bag's word
    start = Regions.of(model).concat + words(concat_parts(model)[0])
    before = first * params.lanes // CHAIN
    low, width = COMPUTE_SHAPE_FIELDS["bags"]
    return pack(
        {name: field for name, field in COMPUTE_SHAPE_FIELDS.items() if name != "bags"},
        dense=model.dense,
        dot=int(model.interaction == "dot"),
    ) | ((start - before) % (1 << width) << low)


def layer_program(model: ModelShape, params: ComputeParams) -> list[dict[str, int]]:
    """List the operations of one sub-batch of ``model``.

    Returns
    -------
    list of dict
        Per operation the values of ``protocol.LAYER_FIELDS``; a field that is absent is 0.
    """
    regions = Regions.of(model)
    turns = (regions.a, regions.b)
    inputs, outputs = padded_inputs(model), padded_outputs(model)
    cut = chunks(model, params.outs, params.stream_words)
    program: list[dict[str, int]] = []
    entry = 0
    bottoms = len(model.bottom_layers)
    dot = model.interaction == "dot"
    for number, layer in enumerate((*model.bottom_layers, *model.top_layers)):
        bottom = number < bottoms
        i = number if bottom else number - bottoms
        final = number == bottoms - 1 if bottom else layer is model.top_layers[-1]
        if not bottom and i == 0:
            if dot:
                program.append(
                    {
                        "operation": int(Operation.DOT),
                        "wait_features": 1,
                        "k": model.vector_dims[0],
                        "n": len(model.vector_dims),
                        "destination_base": CHAIN * regions.concat + concat_parts(model)[0],
                        "requantise_base": entry + 1,
                    }
                )
            entry += 2  # copy, pairs
        whole = {
            "operation": int(Operation.LINEAR),
            "source": int(Source.DENSE if bottom and i == 0 else Source.ACTIVATION),
            "source_base": turns[(i + 1) % 2],
            "destination": int(Destination.ACTIVATION),
            "destination_base": turns[i % 2],
            "relu": int(layer.relu),
            "wait_features": int(not bottom and i == 0),
            "urgent": int(bottom and dot),
            "k": inputs[number],
        }
        if i == 0:
            whole["source_base"] = regions.dense if bottom else regions.concat
        if final and bottom:
            whole["destination_base"] = regions.concat
            if dot:
                whole["destination"] = int(Destination.FEATURE)
        if final and not bottom:
            whole["destination"] = int(Destination.OUTPUT)
            whole["last"] = 1
        program += [
            whole
            | {
                "destination_base": whole["destination_base"] + chunk.first // CHAIN,
                "n": chunk.outputs,
                "weight_base": chunk.base,
                "weight_beats": chunk.beats,
                "requantise_base": entry + chunk.first,
                "independent": int(chunk.first > 0),
            }
            for chunk in cut[number]
        ]
        entry += outputs[number]
    for operation in program:
        pack(LAYER_FIELDS, **operation)
    return program


def program_words(model: ModelShape, params: ComputeParams) -> list[int]:
    """Words of LOAD ``PROGRAM``: ``LAYER_WORDS`` per operation."""
    return [
        pack(LAYER_FIELDS, **fields) >> 64 * word & (1 << 64) - 1
        for fields in layer_program(model, params)
        for word in range(LAYER_WORDS)
    ]


def requantise_words(
    model: ModelShape,
    bottom: Sequence[Entry],
    top: Sequence[Entry],
    copy: tuple[int, int],
    pairs: tuple[int, int],
) -> list[int]:
    """Words of LOAD ``REQUANTISE``, an entry each, in the order of the program.

    Parameters
    ----------
    model
        Whose layers they are.
    bottom, top
        Entries of all outputs of the bottom and the top MLP.
    copy, pairs
        m and s of what the interaction copies and of its products.
    """
    bottoms = model.bottom_layers
    padded = sum(padded_outputs(model)[: len(bottoms)]) - sum(layer.n for layer in bottoms)
    # outputs that only fill a tensor up to whole words are 0, whatever their scale
    filler = [(0, 1 << 15, 1)] * padded
    return [
        pack(REQUANTISE_FIELDS, bias=bias, m=m, s=s)
        for bias, m, s in (*bottom, *filler, (0, *copy), (0, *pairs), *top)
    ]
