"""The cycle formula against the circuit: exact from sub-batch to sub-batch."""

import itertools

import pytest

from screc_hw.compute.array import SystolicArray
from screc_hw.compute.core import ComputeCore
from screc_hw.compute.finish import Finish
from screc_hw.compute.params import LINEAR_LATENCY, REQUANTISE_LATENCY
from screc_hw.numerics import ACC_BITS
from screc_hw.requantise import Requantise
from tests.support.compute import Bench, IntegerModel, Stimulus, core_params, model_shape

CASES = {
    "k below columns, odd n": (
        {"dense": 3, "bottom": (17, 8), "dims": (8, 8), "top": (9, 1)},
        {"rows": 2, "columns": 8, "lanes": 8},
    ),
    "words of several parts, one output": (
        {"dense": 4, "bottom": (16,), "dims": (16, 16, 16), "top": (1,)},
        {"rows": 2, "columns": 16, "lanes": 8, "dot_lanes": 2},
    ),
    "as many multipliers as lanes, no bottom": (
        {"dense": 0, "bottom": (), "dims": (8, 8, 8, 8), "top": (24, 1)},
        {"rows": 2, "columns": 8, "lanes": 4, "dot_lanes": 4},
    ),
    "concat": (
        {
            "dense": 2,
            "bottom": (7,),
            "dims": (8, 4),
            "top": (20, 1),
            "interaction": "concat",
        },
        {"rows": 2, "columns": 16, "lanes": 4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cycles_is_exact_from_sub_batch_to_sub_batch(case):
    sizes, core = CASES[case]
    shape = model_shape(**sizes)
    params = core_params(shape, **core)
    model = IntegerModel.random(shape, 1)
    stimulus = Stimulus.random(shape, params.rows, 5, 2)
    bench = Bench(ComputeCore(params), params)
    bench.run([(model, stimulus)])
    assert bench.results == stimulus.expected(model)
    cycles = params.cycles(shape)
    steps = [b - a for a, b in itertools.pairwise(bench.release_cycles)]
    assert steps == [cycles] * 4
    layers = (*shape.bottom_layers, *shape.top_layers)
    inputs = sum(layer.k * -(-layer.n // params.columns) for layer in layers)
    assert bench.counters["active"] == 5 * inputs
    assert 5 * cycles <= bench.counters["busy"] <= 5 * cycles + bench.counters["waiting"] + 5


def test_latencies_are_those_of_the_parts():
    assert REQUANTISE_LATENCY == Requantise.latency_of(ACC_BITS)
    memory = 2
    assert LINEAR_LATENCY == memory + SystolicArray.latency + Finish.latency
