"""Where the planner puts the weights of the MLPs."""

import dataclasses

import pytest

from screc.errors import PlanError
from screc.plan.patterns import enumerate_patterns
from tests.plan.support import SMALL_PINS, budget_of, shape_of

FITS = shape_of([100])
LARGE = shape_of([100], top=(4096, 4096, 1))
"""17 MB of weights: four times a SmartSSD's UltraRAM."""


def patterns(shape, weights=None):
    pins = dataclasses.replace(SMALL_PINS, weights=weights)
    return enumerate_patterns(shape, budget_of(), 16, pins)


def streamed(found):
    return [bool(pattern.params.core.stream_words) for pattern in found]


def test_weights_that_fit_are_on_chip():
    assert streamed(patterns(FITS)) == [False]


def test_weights_that_do_not_fit_are_streamed():
    (pattern,) = patterns(LARGE)
    assert streamed([pattern]) == [True]
    assert pattern.used["uram"] <= budget_of().limits["uram"]
    assert pattern.weight_bytes(LARGE) >= sum(layer.macs for layer in LARGE.top_layers)


@pytest.mark.parametrize("weights", ["onchip", "stream"])
def test_a_wish_is_kept(weights):
    assert streamed(patterns(FITS, weights)) == [weights == "stream"]


def test_a_wish_that_cannot_be_kept_names_what_is_scarce():
    with pytest.raises(PlanError, match="uram"):
        patterns(LARGE, "onchip")
