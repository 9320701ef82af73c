"""Streamed weights in RTL: bit-exact whatever the memory does, and as fast as predicted."""

import numpy as np
import pytest

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import streamed_beats
from screc_sim.native.gemm import GemmCase, Timing, build, run
from tests.support.compute import model_shape

pytestmark = [pytest.mark.cosim, pytest.mark.slow]

MODELS = {
    "concat": {"dims": (16, 16), "interaction": "concat"},
    "dot": {"dims": (16,) * 6},
}
SLOTS = 4


def case(name):
    shape = model_shape(dense=13, bottom=(64, 16), top=(128, 64, 1), **MODELS[name])
    params = ComputeParams.for_model(
        shape, rows=4, columns=16, lanes=16, slots=SLOTS, stream_words=64
    )
    return build(params), GemmCase(params, shape, seed=1)


# pairs put sub-batches out of step, which costs passes that the formula does not have
@pytest.mark.parametrize(("name", "tolerance"), [("concat", 0.03), ("dot", 0.05)])
def test_streamed_weights_are_as_fast_as_predicted(name, tolerance):
    """At a latency of 100 cycles; sub-batches share what is read."""
    design, made = case(name)
    params = design.params
    count = 6 * SLOTS + 5
    stimulus = made.stimulus(count)
    outcome = run(design, made, stimulus, Timing(latency=100))
    made.check(outcome, stimulus)
    interval = (outcome.ends[5 * SLOTS - 1] - outcome.ends[SLOTS - 1]) / (4 * SLOTS)
    predicted = params.cycles(made.shape, params.rows, latency=100)
    assert interval == pytest.approx(predicted, rel=tolerance)
    passes = outcome.weight_beats / streamed_beats(made.shape, params)
    assert passes <= count / 2
    assert outcome.weight_errors == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_results_do_not_depend_on_what_memory_and_surroundings_do(name, seed):
    design, made = case(name)
    rng = np.random.default_rng(seed)
    stimulus = made.stimulus(12)
    gaps = ("dense_gap", "word_gap", "result_stall", "ar_stall", "r_gap")
    chances = {gap: float(rng.choice([0, 0.3, 0.9])) for gap in gaps}
    outcome = run(design, made, stimulus, Timing(latency=(1, 400), seed=seed, **chances))
    made.check(outcome, stimulus)
