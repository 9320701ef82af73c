import numpy as np
import pytest

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import (
    copy_entry,
    layer_program,
    pair_entry,
    vector_bases,
    weight_words,
)
from screc_hw.protocol import LAYER_FIELDS, Destination, Operation, Source
from tests.support.compute import core_params, model_shape

DOT = {"dense": 5, "bottom": (12, 8), "dims": (8, 8), "top": (10, 1)}


def test_program_of_a_dot_model():
    shape = model_shape(**DOT)
    params = core_params(shape, rows=2, columns=8, lanes=4)
    program = layer_program(shape, params)
    assert [(op["operation"], op["k"], op.get("n")) for op in program] == [
        (Operation.LINEAR, 5, 12),
        (Operation.LINEAR, 12, 8),
        (Operation.COPY, 2, None),
        (Operation.DOT, 2, 3),
        (Operation.LINEAR, 11, 10),
        (Operation.LINEAR, 10, 1),
    ]
    # region A holds 12 words (the first layer's output), B follows
    assert [op.get("source_base", 0) for op in program] == [0, 0, 0, 0, 0, 12]
    assert [op["destination_base"] for op in program] == [0, 0, 0, 8, 12, 0]
    assert [op.get("destination", 0) for op in program] == [
        Destination.ACTIVATION,
        Destination.FEATURE,
        Destination.ACTIVATION,
        Destination.ACTIVATION,
        Destination.ACTIVATION,
        Destination.OUTPUT,
    ]
    assert [op.get("source", 0) for op in program if op["operation"] == Operation.LINEAR] == [
        Source.DENSE,
        Source.ACTIVATION,
        Source.ACTIVATION,
        Source.ACTIVATION,
    ]
    assert [op.get("weight_base", 0) for op in program] == [0, 10, 0, 0, 22, 44]
    assert [op["requantise_base"] for op in program] == [0, 12, 20, 21, 22, 32]
    assert (copy_entry(shape), pair_entry(shape)) == (20, 21)
    assert [op.get("wait_features", 0) for op in program] == [0, 0, 0, 1, 0, 0]
    assert [op.get("last", 0) for op in program] == [0, 0, 0, 0, 0, 1]
    assert [op.get("relu", 0) for op in program] == [1, 1, 0, 0, 1, 0]


def test_program_copies_the_bags_over_the_padding_of_the_bottom_output():
    shape = model_shape(dense=3, bottom=(6,), dims=(4, 12), top=(1,), interaction="concat")
    params = core_params(shape, rows=2, columns=8, lanes=4)
    assert vector_bases(shape, 4) == [0, 2, 3]
    copies = [op for op in layer_program(shape, params) if op["operation"] == Operation.COPY]
    assert [(op["source_base"], op["k"], op["destination_base"]) for op in copies] == [
        (0, 2, 0),
        (2, 4, 6),
    ]
    assert [op.get("wait_features", 0) for op in copies] == [0, 1]


def test_layers_never_read_what_they_write():
    shape = model_shape(dense=5, bottom=(30, 20, 9, 8), dims=(8,), top=(40, 7, 19, 1))
    params = core_params(shape, rows=2, columns=8, lanes=4)
    for op in layer_program(shape, params):
        if op["operation"] != Operation.LINEAR or op["destination"] != Destination.ACTIVATION:
            continue
        written = range(op["destination_base"], op["destination_base"] + op["n"])
        assert written.stop <= params.activation_words
        if op["source"] == Source.ACTIVATION:
            read = range(op["source_base"], op["source_base"] + op["k"])
            assert not {*read} & {*written}


def test_weights_are_packed_tile_by_tile():
    weight = np.arange(-60, 60, dtype=np.int8).reshape(12, 10)
    words = weight_words(weight, 8)
    assert words.dtype == np.uint64
    assert words.shape == (2 * 10,)
    bytes_ = words.view(np.int8).reshape(2, 10, 8)
    assert (bytes_[0] == weight[:8].T).all()
    assert (bytes_[1, :, :4] == weight[8:].T).all()
    assert (bytes_[1, :, 4:] == 0).all()
    assert (weight_words(weight, 16).view(np.int8).reshape(10, 16)[:, :12] == weight.T).all()


def test_fields_of_a_program_are_fields_of_the_protocol():
    shape = model_shape(**DOT)
    for op in layer_program(shape, core_params(shape, rows=2, columns=8, lanes=4)):
        assert {*op} <= {*LAYER_FIELDS}


@pytest.mark.parametrize(
    "name",
    [
        "vector_words",
        "max_dense",
        "max_k",
        "max_dim",
        "activation_words",
        "weight_words",
        "requantise_words",
        "program_length",
    ],
)
def test_program_refuses_a_model_larger_than_the_core(name):
    shape = model_shape(**DOT)
    fit = getattr(core_params(shape, rows=2, columns=8, lanes=4), name)
    params = core_params(shape, rows=2, columns=8, lanes=4, **{name: fit - 1})
    with pytest.raises(ValueError, match=rf"needs {name} {fit}, more than {fit - 1}$"):
        layer_program(shape, params)


@pytest.mark.parametrize(
    ("sizes", "more", "text"),
    [
        (DOT | {"top": (10, 2)}, {}, "top must end in 1 output, not 2"),
        (DOT, {"dot": False}, "needs dot, which this core was built without"),
        (DOT | {"dims": (8, 4)}, {}, r"dot needs vectors of one dimension, not \[4, 8\]"),
        (DOT | {"dense": 0, "bottom": (), "dims": (8,)}, {}, "dot needs at least two vectors"),
        (DOT | {"dims": ()}, {}, "needs at least one sparse feature"),
        (DOT, {"lanes": 16}, r"dimensions \[8\] must be multiples of lanes 16"),
    ],
)
def test_program_refuses_a_model_no_core_runs(sizes, more, text):
    shape = model_shape(**sizes)
    params = core_params(shape, **({"rows": 2, "columns": 8, "lanes": 4} | more))
    with pytest.raises(ValueError, match=f"^model 'test'.*{text}$"):
        layer_program(shape, params)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows": 3}, "rows must be a power of two, not 3"),
        ({"lanes": 0}, "lanes must be a power of two, not 0"),
        ({"slots": 6}, "slots must be a power of two, not 6"),
        ({"dot_lanes": 8}, "dot_lanes 8 must not exceed lanes 4"),
        ({"columns": 12}, "columns must be 8 times a power of two, not 12"),
        ({"columns": 24}, "columns must be 8 times a power of two, not 24"),
        ({"columns": 0}, "columns must be 8 times a power of two, not 0"),
        ({"weight_words": 0}, "weight_words must be at least 1, not 0"),
        ({"max_dense": -1}, "max_dense must be at least 0, not -1"),
        ({"max_dim": 4161}, "max_dim must be at most 4160, not 4161"),
    ],
)
def test_params_refuse_impossible_sizes(change, text):
    values = {
        "rows": 2,
        "columns": 8,
        "lanes": 4,
        "vector_words": 4,
        "max_dense": 4,
        "activation_words": 16,
        "weight_words": 16,
        "requantise_words": 16,
        "program_length": 4,
        "max_k": 16,
    }
    with pytest.raises(ValueError, match=f"^{text}$"):
        ComputeParams(**(values | change))
