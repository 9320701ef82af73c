"""Layers of the layer program in parts, and the cycles of what is beside the array."""

import itertools

import pytest

from screc.models import preset_shape
from screc_hw.compute.params import PART_STEPS, ComputeParams
from screc_hw.compute.program import layer_program, program_words
from screc_hw.compute.tensors import padded_inputs, padded_outputs
from screc_hw.protocol import LAYER_WORDS, Destination, Operation
from tests.support.compute import core_params, model_shape

PRESETS = ("criteo-kaggle", "criteo-terabyte", "rm1", "rm2", "rm3")


def layers_of(program):
    """Parts of every layer, in order."""
    layers = []
    for op in program:
        if op["operation"] != Operation.LINEAR:
            continue
        if not op.get("independent", 0):
            layers.append([])
        layers[-1].append(op)
    return layers


@pytest.mark.parametrize("columns", [8, 16, 32, 64])
@pytest.mark.parametrize("name", PRESETS)
def test_parts_of_a_layer_are_the_layer(name, columns):
    model = preset_shape(name)
    params = ComputeParams.for_model(model, rows=16, columns=columns, lanes=16)
    program = layer_program(model, params)
    assert len(program) <= params.program_length
    assert len(program_words(model, params)) == LAYER_WORDS * len(program)
    layers = layers_of(program)
    shapes = list(zip(padded_inputs(model), padded_outputs(model), strict=True))
    assert len(layers) == len(shapes)
    for parts, (k, n) in zip(layers, shapes, strict=True):
        assert {op["k"] for op in parts} == {k}
        assert sum(op["n"] for op in parts) == n
        steps = sum(params.linear_steps(k, op["n"]) for op in parts)
        assert steps == params.linear_steps(k, n)
        for one, following in itertools.pairwise(parts):
            assert one["n"] % 8 == 0
            assert following["destination_base"] - one["destination_base"] == one["n"] // 8
            assert following["requantise_base"] - one["requantise_base"] == one["n"]
            used = -(-k // 8) * -(-one["n"] // params.outs)
            assert following["weight_base"] - one["weight_base"] == used
            # as long as it may be, or a single word of outputs
            assert params.linear_steps(k, one["n"]) <= PART_STEPS or one["n"] == 8


def test_what_is_turned_or_given_out_stays_whole():
    model = model_shape(dense=200, bottom=(64,), dims=(64, 64), top=(16, 1))
    params = core_params(model, rows=4, columns=8, lanes=8)
    program = layer_program(model, params)
    whole = [op for op in program if op.get("destination") != Destination.ACTIVATION]
    assert [op["operation"] for op in whole] == [0, Operation.DOT, 0]
    assert params.part_outputs(200, 64) < 64 == whole[0]["n"]
    assert not any(op.get("independent", 0) for op in whole)


@pytest.mark.parametrize("lanes", [4, 16, 64])
def test_inputs_take_a_write_for_8_components(lanes):
    dot = model_shape(dense=5, bottom=(64,), dims=(64, 64), top=(8, 1))
    params = core_params(dot, rows=8, columns=16, lanes=lanes, pair_units=2)
    parts = 64 // min(8, lanes) * 2 * 8
    assert params.input_cycles(dot) == parts
    assert params.writer_cycles(dot) == 64 + 8 + 3 * 4 + 5
    assert params.turn_cycles(dot) == 64 * (4 + 1)
    concat = model_shape(dense=5, bottom=(64,), dims=(64, 64), top=(8, 1), interaction="concat")
    params = core_params(concat, rows=8, columns=16, lanes=lanes)
    assert params.input_cycles(concat) == parts + 5 + 64
    assert params.writer_cycles(concat) == 64 + 8 + 5 + parts
    assert params.turn_cycles(concat) == 0


def test_a_core_without_room_waits_for_its_contexts():
    model = model_shape(dense=64, bottom=(64, 16), dims=(16,) * 6, top=(64, 1))
    few, many = (core_params(model, rows=8, columns=16, lanes=16, slots=s) for s in (2, 16))
    assert few.cycles(model, 8) == few.alone_cycles(model) / 2
    assert many.cycles(model, 8) < few.cycles(model, 8)
    assert many.cycles(model, 65) == 9 * many.cycles(model, 1)
