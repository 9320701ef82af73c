"""Operations, weights and regions of models, against slow forms that go number by number."""

import random

import numpy as np
import pytest

from screc_hw.compute.program import layer_program, shape_word, weight_words
from screc_hw.compute.tensors import (
    Regions,
    concat_parts,
    entry_count,
    padded_inputs,
    padded_outputs,
    vector_bases,
    vector_words,
    weight_steps,
)
from screc_hw.protocol import COMPUTE_SHAPE_FIELDS, Destination, Operation, Source, unpack
from tests.support.compute import core_params, model_shape

LANES = (4, 8, 16, 32, 64, 128)


def some_model(seed, lanes):
    rng = random.Random(f"{seed} {lanes}")
    dense = rng.choice([0, 1, 7, 8, 13])
    top = (*(rng.randint(1, 40) for _ in range(rng.randint(0, 3))), 1)
    hidden = tuple(rng.randint(1, 40) for _ in range(rng.randint(0, 3)))
    if rng.random() < 0.5:
        dim = lanes * rng.randint(1, 3)
        return model_shape(
            dense=dense,
            bottom=(*hidden, dim) if dense else (),
            dims=(dim,) * rng.randint(1 if dense else 2, 5),
            top=top,
        )
    return model_shape(
        dense=dense,
        bottom=(*hidden, rng.randint(1, 40)) if dense else (),
        dims=tuple(lanes * rng.randint(1, 3) for _ in range(rng.randint(1, 5))),
        top=top,
        interaction="concat",
    )


CASES = [(some_model(seed, lanes), lanes) for lanes in LANES for seed in range(12)]


def ids(case):
    return case if isinstance(case, int) else f"{case.interaction}-{case.dense}-{case.top}"


def params_of(model, lanes, columns=32):
    return core_params(model, rows=4, columns=columns, lanes=lanes)


def parts(model, params):
    """Return number of the layer, its first output and fields of every LINEAR.

    A long layer may be several, all but the first ``independent`` of the one before.
    """
    number, first, found = -1, 0, []
    for op in layer_program(model, params):
        if op["operation"] == Operation.LINEAR:
            if not op.get("independent"):
                number, first = number + 1, 0
            found.append((number, first, op))
            first += op["n"]
    return found


@pytest.mark.parametrize("columns", [8, 16, 32, 64])
@pytest.mark.parametrize(("model", "lanes"), CASES[::5], ids=ids)
def test_every_weight_is_where_its_step_reads_it(model, lanes, columns):
    params = params_of(model, lanes, columns)
    rng = np.random.default_rng(columns)
    layers = [*model.bottom_layers, *model.top_layers]
    weights = [rng.integers(-127, 128, (layer.n, layer.k)).astype(np.int8) for layer in layers]
    image = weight_words(weights, model, params)
    assert len(image) == 8 * params.weight_words
    codes = image.view(np.int8).reshape(-1, 8)
    start, bottom = concat_parts(model)[0], model.bottom[-1] if model.dense else 0
    seen = np.zeros(codes.shape, bool)
    for number, first, op in parts(model, params):
        weight = weights[number][first:]
        links = -(-op["k"] // 8)
        for n in range(op["n"]):
            group, out = divmod(n, params.outs)
            for i in range(op["k"]):
                step = op["weight_base"] + group * links + i // 8
                word, part = divmod(step, params.word_steps)
                at = 8 * word + i % 8, part * params.outs + out
                k = i
                if number == len(model.bottom_layers) and model.interaction == "concat" and bottom:
                    # what follows the bottom output begins at a whole word
                    k = i if i < bottom else i - (start - bottom) if i >= start else -1
                there = n < len(weight) and k >= 0
                assert codes[at] == (weight[n, k] if there else 0)
                assert not seen[at]
                seen[at] = True
    assert not codes[~seen].any()  # inputs and outputs beyond the layer count as 0


@pytest.mark.parametrize(("model", "lanes"), CASES, ids=ids)
def test_operations_read_what_was_written_and_overwrite_nothing_that_is_needed(model, lanes):
    """Walk the program with a map of the activation memory: component -> what it holds."""
    params = params_of(model, lanes)
    regions = Regions.of(model)
    concat = model.interaction == "concat"
    start, rest = concat_parts(model)
    memory = {8 * regions.dense + i: ("dense", i) for i in range(model.dense)}
    if concat:  # bags come at any time: they are there from the beginning, and stay
        base = 8 * regions.concat + start
        memory |= {base + i: ("concat", start + i) for i in range(rest)}
    program = layer_program(model, params)
    assert len(program) <= params.program_length
    layers = [*model.bottom_layers, *model.top_layers]
    linears = iter(parts(model, params))
    name = before = "dense"
    for op in program:
        if op["operation"] == Operation.DOT:
            assert op["wait_features"]
            assert op["n"] == len(model.vector_dims)
            assert op["k"] == model.vector_dims[0]
            assert op["destination_base"] == 8 * regions.concat + start
            memory |= {op["destination_base"] + i: ("concat", start + i) for i in range(rest)}
            continue
        number, first, _ = next(linears)
        layer = layers[number]
        if first == 0:
            before = "concat" if number == len(model.bottom_layers) else name
        assert op["wait_features"] == (number == len(model.bottom_layers))
        read = [memory.get(8 * op["source_base"] + i) for i in range(op["k"])]
        assert read == [(before, i) for i in range(op["k"])]
        assert (op["source"] == Source.DENSE) == (before == "dense")
        assert op["relu"] == layer.relu
        last = layer is model.top_layers[-1]
        assert op.get("last", 0) == last
        if last:
            assert op["destination"] == Destination.OUTPUT
            break
        name = layer.name
        if number == len(model.bottom_layers) - 1:
            name = "concat"
            assert op["destination"] == (Destination.ACTIVATION if concat else Destination.FEATURE)
        else:
            assert op["destination"] == Destination.ACTIVATION
        for i in range(op["n"]):
            at = 8 * op["destination_base"] + i
            # neither the input of this very layer, nor bags of the sub-batch
            assert at not in range(8 * op["source_base"], 8 * op["source_base"] + op["k"])
            if name != "concat" or first + i >= start:
                assert memory.get(at, ("",))[0] not in ("concat", "dense")
            memory[at] = (name, first + i)
        assert max(memory) < 8 * params.activation_words
    assert op.get("last") == 1


@pytest.mark.parametrize(("model", "lanes"), CASES, ids=ids)
def test_entries_and_steps_follow_each_other(model, lanes):
    params = params_of(model, lanes)
    steps = entries = 0
    inputs, outputs = padded_inputs(model), padded_outputs(model)
    done = {}
    for number, first, op in parts(model, params):
        if number == len(model.bottom_layers) and first == 0:
            entries += 2  # of the copy and the pairs
        done[number] = first + op["n"]
        assert op["k"] == inputs[number]
        assert (op["weight_base"], op["requantise_base"]) == (steps, entries)
        steps += -(-op["k"] // 8) * -(-op["n"] // params.outs)
        entries += op["n"]
    assert [*done.values()] == outputs
    assert steps == sum(weight_steps(model, params.outs)) == params.weight_steps
    assert entries == entry_count(model) == params.requantise_words
    pairs = [op for op in layer_program(model, params) if op["operation"] == Operation.DOT]
    assert len(pairs) == (model.interaction == "dot")
    for op in pairs:
        assert op["requantise_base"] == sum(outputs[: len(model.bottom_layers)]) + 1


@pytest.mark.parametrize(("model", "lanes"), CASES, ids=ids)
def test_vectors_do_not_overlap_and_begin_where_they_are_read(model, lanes):
    params = params_of(model, lanes)
    bases = vector_bases(model, lanes)
    assert len(bases) == len(model.vector_dims)
    shape = unpack(COMPUTE_SHAPE_FIELDS, shape_word(model, params))
    assert shape["dense"] == model.dense
    assert shape["dot"] == (model.interaction == "dot")
    first = 1 if model.dense else 0
    if model.interaction == "dot":
        chunks = set()
        for base, dim in zip(bases, model.vector_dims, strict=True):
            assert base * lanes % 8 == 0
            here = {base * lanes // 8 + i for i in range(-(-dim // 8))}
            assert not here & chunks
            chunks |= here
        # the interaction takes vector after vector without looking where it begins
        assert chunks == set(range(len(chunks)))
        assert len(chunks) <= params.vector_chunks
        return
    component = 8 * Regions.of(model).concat + concat_parts(model)[0]
    for base, dim in zip(bases[first:], model.vector_dims[first:], strict=True):
        for i in range(dim):
            word, lane = base + i // lanes, i % lanes
            at = (8 * shape["bags"] + word * lanes + lane) % (8 << COMPUTE_SHAPE_FIELDS["bags"][1])
            assert at == component
            component += 1
    assert component == 8 * Regions.of(model).concat + sum(concat_parts(model))
    assert vector_words(model, lanes) == params.vector_words


def test_bottom_output_is_padded_to_whole_words_with_concat_alone():
    concat = model_shape(dense=3, bottom=(9,), dims=(8,), top=(1,), interaction="concat")
    assert padded_outputs(concat) == [16, 1]
    assert padded_inputs(concat) == [3, 24]
    dot = model_shape(dense=3, bottom=(12,), dims=(12,), top=(1,))
    assert padded_outputs(dot) == [12, 1]
    assert padded_inputs(dot) == [3, 13]


def test_a_program_whose_numbers_do_not_fit_their_fields_is_refused():
    model = model_shape(dense=70_000, bottom=(8,), dims=(8,), top=(1,))
    params = params_of(model_shape(dense=1, bottom=(8,), dims=(8,), top=(1,)), 8)
    with pytest.raises(ValueError, match=r"^field 'k' has 16 bits, which 70000 does not fit$"):
        layer_program(model, params)
