"""A compute core that streams its weights: the same integers, what is read, and how fast."""

import pytest

from screc_hw.compute.core import ComputeCore
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
