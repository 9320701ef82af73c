"""The combiner as Yosys maps it: what it costs, and its longest paths."""

import pytest

from screc_hw.combiner.core import Combiner
from screc_hw.combiner.params import CombinerParams
from tests.support.levels import assert_levels
from tests.support.synth import synthesise

LEVELS = 5
TOLERANCE = 0.1


def shape(lanes=4, **changes):
    sizes = {"rows": 8, "slots": 4, "max_features": 26, "max_slices": 2, "vector_words": 64}
    return CombinerParams(lanes=lanes, **{**sizes, **changes})


def check(params, inputs, cores):
    netlist = synthesise(Combiner(params, inputs, cores))
    estimate = params.resources(inputs=inputs, cores=cores)
    print(f"{params}: estimated {estimate}, mapped {netlist.resources}")
    assert estimate.lut == pytest.approx(netlist.lut, rel=TOLERANCE)
    assert estimate.ff == pytest.approx(netlist.ff, rel=TOLERANCE)
    assert estimate.bram36 == pytest.approx(netlist.bram36, rel=TOLERANCE)
    assert estimate.dsp == netlist.dsp
    assert_levels(netlist, LEVELS)


def test_small_combiner():
    check(shape(), 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "inputs", "cores"),
    [
        (shape(8), 1, 1),
        (shape(mean=True), 1, 1),
        (shape(8, mean=True), 4, 1),
        (shape(rowwise=True), 4, 1),
        (shape(8, rowwise=True, mean=True), 4, 1),
        (shape(rowwise=True, pool_bits=40), 2, 1),
        (shape(tt_fraction=8, mean=True), 3, 2),
        (shape(16, slots=8, max_slices=1), 2, 4),
        (shape(16, rows=16, slots=2, max_features=10, rowwise=True), 8, 2),
        (shape(8), 16, 1),
        (shape(rows=1, slots=2, max_features=4, max_slices=1, vector_words=4), 1, 1),
    ],
)
def test_any_combiner(params, inputs, cores):
    check(params, inputs, cores)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [1, 4])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("rowwise", [False, True])
def test_paths_of_every_kind(rowwise, mean, inputs):
    check(shape(16, rowwise=rowwise, mean=mean), inputs, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rowwise", "mean", "inputs"), [(False, False, 1), (True, True, 4)])
def test_combiner_of_a_wide_port(rowwise, mean, inputs):
    check(shape(64, rowwise=rowwise, mean=mean, vector_words=32), inputs, 1)
