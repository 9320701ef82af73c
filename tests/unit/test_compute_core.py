"""The compute core against plain integer arithmetic, in every order its inputs may come."""

import numpy as np
import pytest

from screc_hw.compute.core import ComputeCore
from screc_hw.compute.program import pack_nibbles
from tests.support.compute import Bench, IntegerModel, Stimulus, core_params, model_shape

MODELS = {
    "dot": {"dense": 5, "bottom": (12, 8), "dims": (8, 8), "top": (10, 1)},
    "dot of dims that are not whole parts": {
        "dense": 2,
        "bottom": (12,),
        "dims": (12, 12),
        "top": (3, 1),
    },
    "dot without dense": {"dense": 0, "bottom": (), "dims": (8, 8, 8), "top": (9, 1)},
    "dot of two vectors, one layer": {"dense": 1, "bottom": (8,), "dims": (8,), "top": (1,)},
    "concat": {
        "dense": 3,
        "bottom": (17, 6),
        "dims": (4, 12, 8),
        "top": (11, 1),
        "interaction": "concat",
    },
    "concat, a narrow bottom": {
        "dense": 3,
        "bottom": (4,),
        "dims": (4, 4, 12),
        "top": (3, 1),
        "interaction": "concat",
    },
    "concat without dense": {
        "dense": 0,
        "bottom": (),
        "dims": (8, 4),
        "top": (3, 9, 1),
        "interaction": "concat",
    },
}
CORES = {
    "2x8": {"rows": 2, "columns": 8, "lanes": 4},
    "4x16": {"rows": 4, "columns": 16, "lanes": 4, "pair_units": 2},
    "8x32": {"rows": 8, "columns": 32, "lanes": 8, "slots": 4, "pair_units": 4},
    "4x64, two slots": {"rows": 4, "columns": 64, "lanes": 8, "slots": 2, "max_fanout": 8},
}


def check(shape, params, *, seed, count=3, pattern="none", extreme=False):
    model = IntegerModel.random(shape, seed, extreme=extreme)
    stimulus = Stimulus.random(shape, params.rows, count, seed + 1, extreme=extreme)
    bench = Bench(ComputeCore(params), params, pattern=pattern, seed=seed + 2)
    bench.run([(model, stimulus)], cycles=8_000)
    assert bench.results == stimulus.expected(model)
    return bench


@pytest.mark.parametrize("pattern", ["none", "random"])
@pytest.mark.parametrize("name", MODELS)
def test_core_computes_every_kind_of_model(name, pattern):
    shape = model_shape(**MODELS[name])
    check(shape, core_params(shape, **CORES["2x8"]), seed=10, pattern=pattern)


@pytest.mark.parametrize("core", CORES)
def test_core_of_every_shape_computes(core):
    shape = model_shape(**MODELS["dot"])
    check(shape, core_params(shape, **CORES[core]), seed=20, pattern="random", count=5)


@pytest.mark.parametrize("seed", range(6))
def test_core_takes_inputs_in_any_order(seed):
    """Six small sub-batches whose words interleave, over slots, with pauses and back-pressure."""
    shape = model_shape(dense=2, bottom=(8,), dims=(8, 8), top=(1,))
    params = core_params(shape, rows=2, columns=8, lanes=4)
    check(shape, params, seed=30 + seed, pattern="random", count=6)


@pytest.mark.parametrize("name", ["dot", "concat"])
def test_core_computes_at_the_bounds_of_its_integers(name):
    """Codes and weights of ±127, biases that bring the sum next to ±2**26."""
    shape = model_shape(**MODELS[name])
    check(shape, core_params(shape, **CORES["2x8"]), seed=40, extreme=True)


def test_core_runs_another_model_after_a_load():
    first = model_shape(**MODELS["dot"])
    second = model_shape(**MODELS["concat"])
    third = model_shape(**MODELS["dot without dense"])
    params = core_params(
        first,
        **CORES["2x8"],
        vector_words=8,
        max_vectors=4,
        activation_words=64,
        weight_steps=200,
        requantise_words=64,
        max_k=32,
        max_n=32,
    )
    bench = Bench(ComputeCore(params), params, pattern="random", seed=52)
    rounds = []
    for shape, seed in ((first, 50), (second, 51), (third, 54), (first, 55)):
        model = IntegerModel.random(shape, seed)
        rounds.append((model, Stimulus.random(shape, params.rows, 3, seed + 10)))
    bench.run(rounds)
    assert bench.results == [
        result for model, stimulus in rounds for result in stimulus.expected(model)
    ]


def test_padded_rows_give_the_result_of_zeros():
    shape = model_shape(**MODELS["dot"])
    params = core_params(shape, **CORES["4x16"])
    model = IntegerModel.random(shape, 60)
    stimulus = Stimulus.random(shape, params.rows, 2, 61)
    stimulus.dense[1, 1:] = 0
    stimulus.bags[1][1:] = [[np.zeros(8, int) for _ in range(2)] for _ in range(3)]
    bench = Bench(ComputeCore(params), params)
    bench.run([(model, stimulus)])
    assert bench.results == stimulus.expected(model)
    assert len({*bench.results[5:]}) == 1


def test_core_waits_for_its_inputs_and_counts_it():
    """Bags that take longer to arrive than to compute: the rest of the time is waiting."""
    shape = model_shape(dense=1, bottom=(8,), dims=(8,) * 6, top=(1,), interaction="concat")
    params = core_params(shape, rows=8, columns=8, lanes=4)
    bench = check(shape, params, seed=70, pattern="random", count=3)
    assert bench.counters["waiting"] > 50
    assert bench.counters["active"] == 3 * params.array_steps(shape)


def test_an_unloaded_core_does_nothing():
    """Dense words for a program of zeros wait; no result, no release, not idle."""
    from tests.support.pysim import driver, simulate

    shape = model_shape(**MODELS["dot"])
    core = ComputeCore(core_params(shape, **CORES["2x8"]))
    seen = []

    async def watch(ctx):
        await driver(core.dense, [1] * 2)(ctx)
        for _ in range(60):
            _, _, valid, release, idle = await ctx.tick().sample(
                core.results.valid, core.release, core.idle
            )
            seen.append((valid, release, idle))

    simulate(core, watch)
    assert set(seen[5:]) == {(0, 0, 0)}


def test_nibbles_are_two_codes_a_byte_of_two_neighbours():
    """WEIGHTS has position 0's 8 codes, then position 1's; a packed word both."""
    words = np.array([[1, -2, 3, -4, 5, -6, 7, 0], [-7, 6, -5, 4, -3, 2, -1, 0]], np.int8)
    packed = pack_nibbles(words.reshape(-1).view("<u8"))
    digits = "1e3c5a70" + "96b4d2f0"  # two's complement, lowest nibble first
    assert [f"{int(word):016x}"[::-1] for word in packed] == [digits]


@pytest.mark.parametrize("core", ["2x8", "8x32"])
def test_core_unpacks_weights_of_four_bits(core):
    """Also after bytes, and before them: a load replaces all."""
    wide = model_shape(**MODELS["dot"])
    narrow = model_shape(**MODELS["dot"], mlp_format="int4")
    params = core_params(wide, **CORES[core])
    rounds = []
    for seed, (shape, extreme) in enumerate([(narrow, True), (wide, False), (narrow, False)]):
        model = IntegerModel.random(shape, 70 + seed, extreme=extreme)
        rounds.append((model, Stimulus.random(shape, params.rows, 3, 80 + seed)))
    bench = Bench(ComputeCore(params), params)
    bench.run(rounds)
    assert bench.results == [
        result for model, stimulus in rounds for result in stimulus.expected(model)
    ]
