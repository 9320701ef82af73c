import pytest

from screc_hw.compute.core import ComputeCore
from tests.support.compute import Bench, IntegerModel, Stimulus, core_params, model_shape

DOT = {"dense": 5, "bottom": (12, 8), "dims": (8, 8), "top": (10, 1)}


@pytest.mark.parametrize("pattern", ["none", "random"])
def test_core_computes_a_dot_model(pattern):
    shape = model_shape(**DOT)
    params = core_params(shape, rows=2, columns=8, lanes=4)
    model = IntegerModel.random(shape, 1)
    stimulus = Stimulus.random(shape, 2, 3, 2)
    bench = Bench(ComputeCore(params), params, pattern=pattern, seed=3)
    bench.run([(model, stimulus)])
    assert bench.results == stimulus.expected(model)
