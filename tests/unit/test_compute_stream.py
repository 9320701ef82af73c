"""A compute core that streams its weights: the same integers, what is read, and how fast."""

import dataclasses

import numpy as np
import pytest

from screc_hw.compute.core import ComputeCore
from screc_hw.compute.program import streamed_beats
from screc_hw.compute.tensors import chunks, least_stream_words
from screc_hw.protocol import LAYER_FIELDS, LAYER_WORDS, LoadTarget
from tests.support.compute import Bench, IntegerModel, Stimulus, core_params, model_shape
from tests.unit.test_compute_core import MODELS

CORES = {
    "2x8": {"rows": 2, "columns": 8, "lanes": 4},
    "4x32": {"rows": 4, "columns": 32, "lanes": 4, "slots": 4, "pair_units": 2},
    "4x64, two slots": {"rows": 4, "columns": 64, "lanes": 4, "slots": 2},
}


def streamed(shape, *, stream_words=2, **core):
    return core_params(shape, stream_words=stream_words, **core)


def check(shape, params, *, seed, count=4, pattern="none", memory=None, cycles=20_000):
    model = IntegerModel.random(shape, seed)
    stimulus = Stimulus.random(shape, params.rows, count, seed + 1)
    bench = Bench(ComputeCore(params), params, pattern=pattern, seed=seed + 2, memory=memory)
    bench.run([(model, stimulus)], cycles=cycles)
    assert bench.results == stimulus.expected(model)
    assert bench.weight_errors == 0
    return bench


@pytest.mark.parametrize("name", MODELS)
def test_core_computes_every_kind_of_model(name):
    shape = model_shape(**MODELS[name])
    params = streamed(shape, **CORES["2x8"])
    check(shape, params, seed=10, pattern="random", memory={"seed": 1})


@pytest.mark.parametrize(
    "core", ["2x8", "4x32", pytest.param("4x64, two slots", marks=pytest.mark.slow)]
)
def test_core_of_every_shape_computes(core):
    shape = model_shape(dense=9, bottom=(20, 8), dims=(8, 8), top=(18, 9, 1))
    params = streamed(shape, stream_words=4, **CORES[core])
    bench = check(shape, params, seed=20, pattern="random", count=5, memory={"seed": 2})
    assert max(beats for _, beats in bench.memory.bursts) <= 16


def test_weights_are_shared_by_the_sub_batches_that_are_here():
    """Eight sub-batches in four slots: two passes over all weights, and a prefetch at the end."""
    shape = model_shape(dense=8, bottom=(16, 8), dims=(8, 8), top=(32, 16, 1), interaction="concat")
    params = streamed(shape, rows=2, columns=16, lanes=4, slots=4, stream_words=16)
    bench = check(shape, params, seed=30, count=8, memory={"latency": 60})
    layers = chunks(shape, params.outs, params.stream_words)
    once = sum(chunk.beats for layer in layers for chunk in layer)
    passes = params.streamed_beats(shape, 8) / once
    assert passes == 2
    assert bench.memory.beats - once * passes in (0, layers[0][0].beats)
    assert bench.counters["weight_beats"] == bench.memory.beats


@pytest.mark.slow
def test_reading_and_running_overlap():
    """Each operation takes about as long as the next one's weights: one behind the other is 2 T."""
    shape = model_shape(dense=0, bottom=(), dims=(64,), top=(64, 64, 1), interaction="concat")
    params = streamed(shape, rows=2, columns=16, lanes=4, slots=2, stream_words=16)
    latency = 90
    bench = check(shape, params, seed=31, count=4, memory={"latency": latency})
    parts = [chunk for layer in chunks(shape, 2, 16) for chunk in layer]
    assert len(parts) == 9
    alternating = sum(2 * params.linear_steps(64, c.outputs) + c.beats + latency for c in parts)
    assert bench.release_cycles[2] - bench.release_cycles[0] < 0.75 * alternating


def test_a_program_cannot_read_outside_its_region(monkeypatch):
    """Wrong places and sizes are refused and told; what is right is read, and the core goes on."""
    shape = model_shape(**MODELS["dot"])
    params = streamed(shape, **CORES["2x8"])
    core = ComputeCore(params)
    model = IntegerModel.random(shape, 40)
    stimulus = Stimulus.random(shape, params.rows, 2, 41)
    end = sum(c.beats for layer in chunks(shape, params.outs, params.stream_words) for c in layer)
    right = model.load(params)
    # of the operations 0, 1, 3, 4: first beat, beats
    low, high = LAYER_FIELDS["weight_base"][0] // 64, LAYER_FIELDS["weight_beats"][0]
    wrong = {
        0: (end, 2),  # behind the end
        1: (end - 1, 2),  # over it
        3: (0, params.stream_words + 1),  # more than a half
        4: ((1 << 32) - 1, 1),  # a sum that wraps in 32 bits
    }

    def load(self, params):
        words = [dict(word) for word in right]
        for word in words:
            if word["target"] == LoadTarget.PROGRAM:
                number, part = divmod(word["address"], LAYER_WORDS)
                if number in wrong and part == low:
                    word["data"] = word["data"] >> 32 << 32 | wrong[number][0]
                if number in wrong and part == 0:
                    word["data"] &= (1 << high) - 1
                    word["data"] |= wrong[number][1] << high
        return words

    monkeypatch.setattr(IntegerModel, "load", load)
    bench = Bench(core, params)
    bench.run([(model, stimulus)])
    assert len(bench.results) == 4
    assert bench.weight_errors >= len(wrong)
    assert {start for start, _ in bench.memory.bursts} == {64 * (end - 1)}  # operation 5
    monkeypatch.undo()
    check(shape, params, seed=42)


def test_without_a_region_nothing_is_read(monkeypatch):
    shape = model_shape(**MODELS["dot"])
    params = streamed(shape, **CORES["2x8"])
    model = IntegerModel.random(shape, 43)
    words = [w for w in model.load(params) if w["target"] != LoadTarget.WEIGHT_REGION]
    monkeypatch.setattr(IntegerModel, "load", lambda self, params: words)
    bench = Bench(ComputeCore(params), params)
    bench.run([(model, Stimulus.random(shape, params.rows, 1, 44))])
    assert bench.memory.bursts == []
    assert bench.weight_errors >= 5
    assert len(bench.results) == 2


def test_an_error_response_is_told_and_the_next_run_is_right():
    """Also where memory has changed: ``clear`` forgets what is held."""
    shape = model_shape(**MODELS["dot"])
    params = streamed(shape, **CORES["2x8"])
    models = [IntegerModel.random(shape, seed) for seed in (50, 51)]
    stimuli = [Stimulus.random(shape, params.rows, 2, 52 + i) for i in range(2)]
    bench = Bench(ComputeCore(params), params, memory={"error_at": 3})
    errors = []
    bench.between = lambda: errors.append(bench.weight_errors)
    # the second model is in memory alone: program and region are not loaded again
    models[1].load = lambda params: [
        word
        for word in IntegerModel.load(models[1], params)
        if word["target"] not in (LoadTarget.PROGRAM, LoadTarget.WEIGHT_REGION)
    ]
    bench.run(list(zip(models, stimuli, strict=True)))
    assert errors == [1]
    assert bench.weight_errors == 1
    assert bench.results[:4] == stimuli[0].expected(models[0])  # the data came nevertheless
    assert bench.results[4:] == stimuli[1].expected(models[1])


def test_core_runs_another_model_after_a_load():
    first, second = (model_shape(**MODELS[name]) for name in ("dot", "dot without dense"))
    params = streamed(
        first,
        **CORES["2x8"],
        stream_words=8,
        vector_words=8,
        max_vectors=4,
        activation_words=64,
        requantise_words=64,
        program_length=8,
        max_k=32,
        max_n=32,
    )
    bench = Bench(ComputeCore(params), params, pattern="random", seed=60, memory={"seed": 61})
    rounds = []
    for shape, seed in ((first, 62), (second, 63), (first, 64)):
        model = IntegerModel.random(shape, seed)
        rounds.append((model, Stimulus.random(shape, params.rows, 3, seed + 10)))
    bench.run(rounds)
    assert bench.results == [
        result for model, stimulus in rounds for result in stimulus.expected(model)
    ]


@pytest.mark.parametrize("k", [1, 8, 9, 64])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("outs", [1, 2, 8])
@pytest.mark.parametrize("spare", [0, 1, 100])
def test_operations_cover_a_layer_within_the_half(k, n, outs, spare):
    shape = model_shape(dense=0, bottom=(), dims=(k,), top=(n, 1), interaction="concat")
    words = least_stream_words(shape, outs) + spare
    assert words - spare == max(
        -(-steps * outs // 8) for steps in (-(-k // 8) * -(-min(n, 8) // outs), -(-n // 8))
    )
    base = 0
    for (inputs, outputs), parts in zip(((k, n), (n, 1)), chunks(shape, outs, words), strict=True):
        at = 0
        for part in parts:
            assert (part.first, part.base) == (at, base)
            assert part.first % 8 == 0
            assert part.beats <= words
            assert 8 * part.beats >= -(-inputs // 8) * -(-part.outputs // outs) * outs
            at, base = at + part.outputs, base + part.beats
        assert at == outputs
    with pytest.raises(ValueError, match=rf"stream_words must be at least {words - spare} for"):
        chunks(shape, outs, words - spare - 1 or -1)


def test_streamed_words_are_those_of_the_operations():
    """Byte by byte: output o of input i is where the steps of its operation find it."""
    shape = model_shape(dense=5, bottom=(12, 8), dims=(8, 8), top=(20, 1))
    params = streamed(shape, rows=2, columns=16, lanes=4, stream_words=4)
    model = IntegerModel.random(shape, 70)
    # of every beat: position, step, output
    image = model.weight_image(params).view(np.int8).reshape(-1, 8, 4, 2)
    layers = chunks(shape, params.outs, params.stream_words)
    assert len(image) == streamed_beats(shape, params)
    assert [len(parts) for parts in layers] == [1, 1, 2, 1]
    found = np.zeros_like(image)
    for layer, parts in zip(model.layers, layers, strict=True):
        k = layer.weight.shape[1]
        links = -(-k // 8)
        for part in parts:
            for o in range(part.outputs):
                for i in range(k):
                    step = o // 2 * links + i // 8
                    found[part.base + step // 4, i % 8, step % 4, o % 2] = layer.weight[
                        part.first + o, i
                    ]
    assert np.array_equal(found, image)


@pytest.mark.parametrize("words", [-2, 1, 3, 12])
def test_halves_that_cannot_be_built_are_refused(words):
    params = streamed(model_shape(**MODELS["dot"]), **CORES["2x8"])
    with pytest.raises(ValueError, match=rf"stream_words must be .*power of two.*not {words}$"):
        dataclasses.replace(params, stream_words=words)
