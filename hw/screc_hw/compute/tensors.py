"""How a model's tensors are laid out in a compute core: words, regions, padded widths.

Needs no Amaranth: parameters, compiler and cycle formulas use it.
"""

from __future__ import annotations

import dataclasses
import itertools

from screc_hw.model import ModelShape

CHAIN = 8
"""Products that are added before they are taken apart: as many as a field of a packed sum holds."""


PART_STEPS = 256
"""Steps of an operation, about: as long as it takes nothing else gets its turn."""


def words(components: int) -> int:
    """Words of the activation memory that a tensor takes: 8 components of every sample each."""
    return -(-components // CHAIN)


def _bag_words(model: ModelShape, lanes: int) -> list[int]:
    """Words of ``lanes`` components of every interaction vector.

    What a part of 8 components begins belongs to one vector, or to the tensor's bags.
    """
    even = max(1, CHAIN // lanes)
    counts = [-(-dim // lanes) for dim in model.vector_dims]
    if model.interaction == "dot":
        return [-(-count // even) * even for count in counts]
    return [-(-counts[0] // even) * even, *counts[1:]] if model.dense else counts


def vector_bases(model: ModelShape, lanes: int) -> list[int]:
    """First word of every interaction vector in a slot, in words of ``lanes`` components.

    In the order of ``ModelShape.vector_dims``: the bottom output, where there is one, then the bag
    of every feature.
    """
    return [0, *itertools.accumulate(_bag_words(model, lanes)[:-1])]


def vector_words(model: ModelShape, lanes: int) -> int:
    """Words of ``lanes`` components that one sample's vectors take in a slot."""
    return sum(_bag_words(model, lanes))


@dataclasses.dataclass(frozen=True)
class Regions:
    """First words of a sub-batch's regions of the activation memory, and their count.

    ``dense`` inputs; ``concat``, the top MLP's input; ``a`` and ``b``, which layers write in turn.
    """

    dense: int
    concat: int
    a: int
    b: int
    words: int

    @classmethod
    def of(cls, model: ModelShape) -> Regions:
        """Lay out a model."""
        a = b = 0
        for layers in (model.bottom_layers, model.top_layers):
            for i, layer in enumerate(layers[:-1]):
                a, b = (max(a, layer.n), b) if i % 2 == 0 else (a, max(b, layer.n))
        dense = words(model.dense)
        concat = dense + words(sum(concat_parts(model)))
        return cls(0, dense, concat, concat + words(a), concat + words(a) + words(b))


def concat_parts(model: ModelShape) -> tuple[int, int]:
    """Components that the bottom output, and all that follows it, take in the top's input.

    Bags are written in whole words of 8, so with ``concat`` the bottom output is padded to one.
    """
    bottom = model.bottom[-1] if model.dense else 0
    rest = model.top_inputs - bottom
    return (bottom if model.interaction == "dot" else CHAIN * words(bottom)), rest


def padded_outputs(model: ModelShape) -> list[int]:
    """Outputs of every layer as computed, bottom before top: those of a padded tensor are more."""
    outputs = [layer.n for layer in (*model.bottom_layers, *model.top_layers)]
    if model.dense:
        outputs[len(model.bottom_layers) - 1] = concat_parts(model)[0]
    return outputs


def padded_inputs(model: ModelShape) -> list[int]:
    """Inputs of every layer as computed, bottom before top."""
    inputs = [layer.k for layer in (*model.bottom_layers, *model.top_layers)]
    inputs[len(model.bottom_layers)] = sum(concat_parts(model))
    return inputs


def entry_count(model: ModelShape) -> int:
    """Requantise entries: every computed output, the copy's and the pairs'."""
    return sum(padded_outputs(model)) + 2


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Weights of an operation: those of ``outputs`` outputs of a layer, from ``first`` on.

    On chip they begin at step ``base``, and ``beats`` is 0. Streamed, they are ``beats`` beats of
    memory from beat ``base`` on, each a word of every position.
    """

    first: int
    outputs: int
    base: int
    beats: int


def chunks(model: ModelShape, outs: int, stream_words: int = 0) -> list[list[Chunk]]:
    """Cut every layer, bottom before top, into operations over parts of its outputs.

    The bottom output that ``dot`` reads is not cut.

    Parameters
    ----------
    model
        The layers.
    outs
        Outputs that are worked on together.
    stream_words
        Words of a position that one operation's weights may take. 0: all are on chip, and a part
        has about :data:`PART_STEPS` steps, for others to get their turn.

    Raises
    ------
    ValueError
        If ``stream_words`` is less than :func:`least_stream_words`.
    """
    shapes = list(zip(padded_inputs(model), padded_outputs(model), strict=True))
    cut: list[list[Chunk]] = []
    if not stream_words:
        bases = itertools.accumulate(weight_steps(model, outs), initial=0)
        made_at_once = len(model.bottom_layers) - 1 if model.interaction == "dot" else None
        for number, ((k, n), base) in enumerate(zip(shapes, bases, strict=False)):
            each = words(k) * -(-CHAIN // outs)  # steps of a word of outputs
            size = CHAIN * max(1, PART_STEPS // max(each, CHAIN))
            if number == made_at_once:
                size = n
            cut.append(
                [
                    Chunk(first, min(size, n - first), base + words(k) * first // outs, 0)
                    for first in range(0, n, size)
                ]
            )
        return cut
    least = least_stream_words(model, outs)
    if stream_words < least:
        raise ValueError(f"stream_words must be at least {least} for {model.name}: {stream_words}")
    base = 0
    for k, n in shapes:
        # 8 outputs are whole words of weights and of results; parts of nearly the same size
        units = words(n)
        fits = (
            max(1, stream_words // words(k)) if streamed_words(k, n, outs) > stream_words else units
        )
        parts = -(-units // fits)
        edges = [min(n, CHAIN * (units * part // parts)) for part in range(parts)] + [n]
        cut.append([])
        for first, last in itertools.pairwise(edges):
            beats = streamed_words(k, last - first, outs)
            cut[-1].append(Chunk(first, last - first, base, beats))
            base += beats
    return cut


def streamed_words(k: int, n: int, outs: int) -> int:
    """Words of one position that the weights of ``n`` outputs of ``k`` inputs take."""
    return -(-words(k) * -(-n // outs) * outs // CHAIN)


def least_stream_words(model: ModelShape, outs: int) -> int:
    """Words of a position that must fit, or a layer cannot be cut.

    Operations have whole words of outputs, and the bottom output that ``dot`` reads is made at
    once.
    """
    shapes = list(zip(padded_inputs(model), padded_outputs(model), strict=True))
    needed = [streamed_words(k, min(n, CHAIN), outs) for k, n in shapes]
    if model.dense and model.interaction == "dot":
        k, n = shapes[len(model.bottom_layers) - 1]
        needed.append(streamed_words(k, n, outs))
    return max(needed)


def weight_steps(model: ModelShape, outs: int) -> list[int]:
    """Steps of weights of every layer, bottom before top."""
    return [
        words(k) * -(-n // outs)
        for k, n in zip(padded_inputs(model), padded_outputs(model), strict=True)
    ]
