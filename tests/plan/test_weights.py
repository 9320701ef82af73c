"""Where the planner puts the weights of the MLPs."""

import dataclasses

import pytest

from screc.errors import PlanError
from screc.plan.catalogue import Catalogue, enumerate_patterns
from tests.plan.support import SMALL_PINS, budget_of, shape_of

FITS = shape_of([100])
LARGE = shape_of([100], top=(4096, 4096, 1))
"""17 MB of weights: four times a SmartSSD's UltraRAM."""


def patterns(shape, weights=None):
    pins = dataclasses.replace(SMALL_PINS, weights=weights)
    catalogue = Catalogue(shape, shape, 16)
    return enumerate_patterns(catalogue, budget_of(), pins, alone=True, onchip_beats=0)


def streamed(found):
    return [bool(pattern.core.stream_words) for pattern in found]


def test_weights_that_fit_are_on_chip():
    assert streamed(patterns(FITS)) == [False]


def test_weights_that_do_not_fit_are_streamed():
    (pattern,) = patterns(LARGE)
    assert streamed([pattern]) == [True]
    assert pattern.used["uram"] <= budget_of().limits["uram"]
    macs = sum(layer.macs for layer in LARGE.top_layers)
    assert pattern.weight_bytes >= macs
    # 16 samples in 2 sub-batches of 8: the core's 2 slots take all weights once
    assert pattern.sample_beats >= macs / 64 / 16


@pytest.mark.parametrize("weights", ["onchip", "stream"])
def test_a_wish_is_kept(weights):
    assert streamed(patterns(FITS, weights)) == [weights == "stream"]


def test_a_wish_that_cannot_be_kept_names_what_is_scarce():
    with pytest.raises(PlanError, match="uram"):
        patterns(LARGE, "onchip")
