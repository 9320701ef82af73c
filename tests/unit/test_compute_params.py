"""What a compute core can be built with, and what its maxima are for a model."""

import dataclasses
import re

import pytest

from screc_hw.compute.params import MAX_INPUTS, ComputeParams
from tests.support.compute import core_params, model_shape

FITTING = {
    "rows": 4,
    "columns": 16,
    "lanes": 8,
    "vector_words": 4,
    "max_vectors": 3,
    "max_dense": 5,
    "max_k": 32,
    "max_n": 16,
    "activation_words": 16,
    "weight_steps": 64,
    "requantise_words": 40,
    "program_length": 6,
}

REFUSED = [
    ({"rows": 3}, "rows must be a power of two, not 3"),
    ({"rows": 0}, "rows must be a power of two, not 0"),
    ({"rows": 1}, "rows must lie in 2..64, not 1"),
    ({"rows": 128}, "rows must lie in 2..64, not 128"),
    ({"columns": 12}, "columns must be 8, 16, 32 or 64, not 12"),
    ({"columns": 128}, "columns must be 8, 16, 32 or 64, not 128"),
    ({"lanes": 12}, "lanes must be a power of two, not 12"),
    ({"lanes": 2}, "lanes must be at least 4, not 2"),
    ({"slots": 1}, "slots must be at least 2, not 1"),
    ({"pair_units": 3}, "pair_units must be a power of two, not 3"),
    ({"pair_units": 8}, "pair_units must be at most rows 4, not 8"),
    ({"vector_words": 0}, "vector_words must be at least 1, not 0"),
    ({"max_vectors": 0}, "max_vectors must be at least 1, not 0"),
    ({"max_dense": -1}, "max_dense must be at least 0, not -1"),
    ({"max_k": 0}, "max_k must be at least 1, not 0"),
    ({"max_n": 0}, "max_n must be at least 1, not 0"),
    ({"max_dim": 0}, "max_dim must be at least 1, not 0"),
    ({"activation_words": 0}, "activation_words must be at least 1, not 0"),
    ({"weight_steps": 0}, "weight_steps must be at least 1, not 0"),
    ({"requantise_words": 0}, "requantise_words must be at least 1, not 0"),
    ({"program_length": 0}, "program_length must be at least 1, not 0"),
    ({"max_fanout": 7}, "max_fanout must be at least 8, not 7"),
    ({"address_bits": 31}, "address_bits must be at least 32, not 31"),
    ({"stream_words": 1}, "stream_words must be 0 or a power of two from 2 on, not 1"),
    ({"stream_words": 12}, "stream_words must be 0 or a power of two from 2 on, not 12"),
    ({"max_k": 4161}, "max_k and max_dim must be at most 4160, not 4161, 128"),
    ({"max_dim": 4161}, "max_k and max_dim must be at most 4160, not 32, 4161"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_params_refuse(changed, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ComputeParams(**(FITTING | changed))


def test_every_number_is_refused_somewhere():
    numbers = {f.name for f in dataclasses.fields(ComputeParams)} - {"dot"}
    assert numbers == {name for changed, _ in REFUSED for name in changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": 2, "pair_units": 2},
        {"rows": 64},
        *({"columns": columns} for columns in (8, 16, 32, 64)),
        *({"lanes": lanes} for lanes in (4, 8, 16, 32, 64, 128)),
        {"slots": 2},
        {"max_k": 4160, "max_dim": 4160},
        {"max_dense": 0},
    ],
)
def test_params_take_their_bounds(changed):
    params = ComputeParams(**(FITTING | changed))
    assert params.outs * 8 == params.columns
    assert 2 * params.pairs == params.rows
    # a 64-bit word is a whole number of a position's steps
    assert params.word_steps * params.outs == 8
    assert params.bag_parts * 8 >= params.lanes > (params.bag_parts - 1) * 8


def test_longest_sum_fits_the_accumulator():
    assert MAX_INPUTS == 4160
    assert MAX_INPUTS * 127 * 127 < 1 << 26
    assert (MAX_INPUTS + 1) * 127 * 127 >= 1 << 26


def test_multipliers_are_those_of_array_interaction_and_sigmoid():
    params = ComputeParams(**FITTING)
    assert params.multipliers == 4 * 16 + 8 + 1
    assert dataclasses.replace(params, pair_units=4).multipliers == 4 * 16 + 32 + 1
    assert dataclasses.replace(params, dot=False).multipliers == 4 * 16 + 1


MODEL = model_shape(dense=5, bottom=(12, 8), dims=(8, 8, 8), top=(10, 1))


def test_maxima_of_a_model():
    params = core_params(MODEL, rows=4, columns=16, lanes=4)
    got = {name: getattr(params, name) for name in FITTING}
    assert got == {
        "rows": 4,
        "columns": 16,
        "lanes": 4,
        "vector_words": 4 * 2,
        "max_vectors": 4,
        "max_dense": 5,
        "max_k": 14,  # 8 of the bottom output, 6 pairs
        "max_n": 12,
        # dense 1, concatenated 2, 12 outputs of the bottom's first layer 2
        "activation_words": 5,
        # (steps, groups of 2 outputs): 1 · 6 + 2 · 4 + 2 · 5 + 2 · 1
        "weight_steps": 26,
        "requantise_words": 12 + 8 + 10 + 1 + 2,
        "program_length": 5,
    }
    assert (params.max_dim, params.dot) == (8, True)


def test_a_part_of_eight_holds_one_vector_of_narrow_words():
    params = core_params(
        model_shape(dense=1, bottom=(12,), dims=(12,), top=(1,)), rows=2, columns=8, lanes=4
    )
    assert params.vector_words == 2 * 4  # three words each, and one that stays empty
    assert params.vector_chunks == 2 * 2


def test_interaction_keeps_up_with_the_array_where_units_are_left_open():
    wide = model_shape(dense=1, bottom=(64,), dims=(64,) * 20, top=(1,))
    params = ComputeParams.for_model(wide, rows=16, columns=16, lanes=64)
    assert params.pair_cycles(wide) <= params.array_steps(wide) or params.pair_units == 16
    half = dataclasses.replace(params, pair_units=params.pair_units // 2)
    assert half.pair_cycles(wide) > half.array_steps(wide)
    small = model_shape(dense=64, bottom=(64, 8), dims=(8,), top=(64, 1))
    assert ComputeParams.for_model(small, rows=16, columns=16, lanes=8).pair_units == 1


@pytest.mark.parametrize("columns", [8, 32, 64])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (8, 4), (9, 5), (13, 512), (64, 1), (7, 63)])
def test_steps_of_a_linear_are_those_of_its_groups(columns, k, n):
    params = ComputeParams(**(FITTING | {"columns": columns, "max_n": 512}))
    outs = columns // 8
    groups = [min(outs, n - first) for first in range(0, n, outs)]
    assert params.linear_steps(k, n) == sum(max(-(-k // 8), columns) for columns in groups)
