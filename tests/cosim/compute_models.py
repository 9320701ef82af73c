"""Cores and models that the compute core is tried with."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from screc_hw.compute.params import ComputeParams
from screc_hw.model import ModelShape
from tests.support.compute import IntegerModel, Stimulus, core_params, model_shape

Round = tuple[IntegerModel, Stimulus]


def roomy(*, rows: int, columns: int, lanes: int, **more: Any) -> ComputeParams:
    """Parameters that many small models fit."""
    values: dict[str, Any] = {
        "slots": 3,
        "vector_words": 64,
        "max_vectors": 8,
        "max_dense": 24,
        "max_k": 8 * lanes + 160,
        "max_n": 3 * lanes + 64,
        "max_dim": 3 * lanes,
        "activation_words": lanes + 64,
        "weight_steps": 4096,
        "requantise_words": 600,
        "program_length": 16,
    }
    return ComputeParams(rows=rows, columns=columns, lanes=lanes, **(values | more))


TINY_DOT = model_shape(dense=1, bottom=(4,), dims=(4,), top=(1,))
TINY_CONCAT = model_shape(dense=0, bottom=(), dims=(4,), top=(1,), interaction="concat")

CORES = {
    "smallest": roomy(rows=2, columns=8, lanes=4, slots=2),
    # nothing is larger than one model needs it
    "tight, dot": core_params(TINY_DOT, rows=2, columns=8, lanes=4, slots=2),
    "tight, concat": core_params(TINY_CONCAT, rows=2, columns=64, lanes=4, slots=2),
    "without dot": roomy(rows=4, columns=16, lanes=16, dot=False),
    "middle": roomy(rows=8, columns=32, lanes=8, slots=4, pair_units=4, max_fanout=8),
    "wide": roomy(rows=2, columns=64, lanes=128, slots=2, pair_units=2),
    "tall": roomy(rows=32, columns=16, lanes=32, slots=3, pair_units=2, max_fanout=8),
}


def models(core: str) -> dict[str, ModelShape]:
    """Models of every kind that a core runs."""
    if core.startswith("tight"):
        return {"its own": TINY_DOT if core == "tight, dot" else TINY_CONCAT}
    params = CORES[core]
    d = params.lanes
    dot = {
        "dot": model_shape(dense=5, bottom=(12, d), dims=(d, d), top=(10, 1)),
        "dot, three words": model_shape(dense=2, bottom=(3 * d,), dims=(3 * d,) * 2, top=(3, 1)),
        "dot without dense": model_shape(dense=0, bottom=(), dims=(d, d, d), top=(9, 1)),
        "dot of two vectors": model_shape(dense=1, bottom=(d,), dims=(d,), top=(1,)),
    }
    concat = {
        "concat": model_shape(
            dense=3, bottom=(17, 6), dims=(d, 3 * d, 2 * d), top=(11, 1), interaction="concat"
        ),
        "concat, one of everything": model_shape(
            dense=1, bottom=(1, 1), dims=(d,), top=(1, 1), interaction="concat"
        ),
        "concat without dense": model_shape(
            dense=0, bottom=(), dims=(2 * d, d), top=(3, 9, 1), interaction="concat"
        ),
        "concat, outputs beyond groups": model_shape(
            dense=24, bottom=(9, 33, 7), dims=(d, d), top=(25, 8, 1), interaction="concat"
        ),
    }
    return {**(dot if params.dot else {}), **concat}


def some(shape: ModelShape, params: ComputeParams, seed: int, *, count: int = 3) -> Round:
    """Random weights and samples."""
    data = Stimulus.random(shape, params.rows, count, seed + 1)
    return IntegerModel.random(shape, seed), data


def extremes(shape: ModelShape, params: ComputeParams) -> dict[str, Round]:
    """Models and samples at the bounds of their integers."""
    rows, most = params.rows, 1 << 26

    def same(weight: int, code: int, **more: int) -> Round:
        return (
            IntegerModel.uniform(shape, weight=weight, **more),
            Stimulus.uniform(shape, rows, 2, code),
        )

    silent = IntegerModel.random(shape, 7)
    for layer in silent.layers:  # some channels have neither weights nor a bias: their scale is 1
        off = np.arange(len(layer.bias)) % 3 == 0
        layer.weight[off], layer.bias[off], layer.m[off], layer.s[off] = 0, 0, 1 << 15, 15
    signs = Stimulus.random(shape, rows, 2, 8, extreme=True)
    return {
        "all 127": same(127, 127),
        "weights -127": same(-127, 127, bias=most),
        "codes -127": same(127, -127, bias=most),
        "all -127": same(-127, -127),
        "the largest sums": same(127, 127, bias=most, s=1),
        "the smallest sums": same(127, -127, bias=-most, m=(1 << 16) - 1, s=1),
        "everything rounds to 0": same(127, 127, s=47),
        "zero weights": same(0, 127, bias=-3, m=40000, s=16),
        "biases alone": same(0, -127, bias=12345, m=(1 << 16) - 1, s=22),
        "codes 0": same(127, 0, bias=999, s=24),
        "signs": (IntegerModel.random(shape, 9, extreme=True), signs),
        "silent channels": (silent, Stimulus.random(shape, rows, 2, 10)),
    }


@st.composite
def shapes(draw: Any, params: ComputeParams) -> ModelShape:
    """Any small model that a :func:`roomy` core runs, from one output and one input on."""
    lanes = params.lanes
    width = st.integers(1, 40)
    dense = draw(st.integers(0, params.max_dense))
    hidden = draw(st.lists(width, max_size=2)) if dense else []
    top = (*draw(st.lists(width, max_size=3)), 1)
    dot = params.dot and draw(st.booleans())
    if dot:
        dim = lanes * draw(st.integers(1, params.max_dim // lanes))
        dims = (dim,) * draw(st.integers(1 if dense else 2, 5))
        bottom = (*hidden, dim) if dense else ()
    else:
        dims = tuple(draw(st.lists(st.integers(1, 2).map(lanes.__mul__), min_size=1, max_size=4)))
        bottom = (*hidden, draw(width)) if dense else ()
    return model_shape(
        dense=dense,
        bottom=bottom,
        dims=dims,
        top=top,
        interaction="dot" if dot else "concat",
    )
