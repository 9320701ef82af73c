"""The probability of every logit code, and how far it is from the sigmoid of the real logit."""

import math
import random

import numpy as np

from screc_hw.compute.output import Sigmoid
from screc_hw.numerics import (
    LOGIT_FRACTION_BITS,
    requantise,
    requantise_params,
    sigmoid_code,
    sigmoid_table,
)
from screc_hw.protocol import LoadTarget
from tests.support.pysim import simulate

CODES = range(-32768, 32768)

FACTOR = 2.0**-16
"""Relative error of a requantise factor, at most."""

BOUND = (
    2**-14  # half a code, where the slope is 1/4
    + 0.2240 * FACTOR  # the factor's error: |x| · slope is at most 0.22394
    + 0.09623 / (8 * 16**2)  # a chord over 1/16: the second derivative is at most 0.096225
    + 2**-17  # the table's points are rounded ...
    + 2**-17  # ... and so is the interpolation
    + 2**-16  # 65535 is the largest probability
)
"""Of the whole way from logit to probability, as docs/numerics.md says."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Exact to a few units of float64, for both signs."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def test_the_bound_is_made_of_the_largest_slopes():
    x = np.linspace(-16, 16, 1 << 20)
    y = sigmoid(x)
    slope = y * (1 - y)
    assert slope.max() <= 1 / 4
    assert (np.abs(x) * slope).max() <= 0.2240
    assert np.abs(slope * (1 - 2 * y)).max() <= 0.09623
    assert BOUND <= 2**-12


def test_circuit_gives_every_code_its_probability():
    """All 65,536, one per cycle, with pauses here and there."""
    dut = Sigmoid()
    table = sigmoid_table()
    got = []

    async def process(ctx):
        for address, value in enumerate(table):
            ctx.set(
                dut.config.payload,
                {"target": int(LoadTarget.SIGMOID), "address": address, "data": value},
            )
            ctx.set(dut.config.valid, 1)
            await ctx.tick()
        ctx.set(dut.config.valid, 0)
        await ctx.tick()
        rng = random.Random(1)
        for n in range(len(CODES) + dut.latency - 1):
            ctx.set(dut.code, CODES[min(n, len(CODES) - 1)])
            if rng.random() < 0.01:
                ctx.set(dut.enable, 0)
                await ctx.tick().repeat(rng.randint(1, 3))
            ctx.set(dut.enable, 1)
            await ctx.tick()
            if n >= dut.latency - 1:
                got.append(ctx.get(dut.probability))

    simulate(dut, process)
    assert got == [sigmoid_code(code, table) for code in CODES]


def test_every_probability_is_within_the_bound_of_every_logit_that_gives_its_code():
    """The sigmoid rises, so a code's worst logits are the ends of what is rounded to it."""
    codes = np.arange(-32768, 32768)
    table = sigmoid_table()
    got = np.array([sigmoid_code(int(code), table) for code in codes]) / 65536
    for end in (-0.5, 0.5):
        x = (codes + end) * 2.0**-LOGIT_FRACTION_BITS
        for factor in (1 - FACTOR, 1 + FACTOR):
            assert np.abs(got - sigmoid(x * factor)).max() <= BOUND
    # logits beyond the last codes
    assert got[-1] >= 1 - BOUND
    assert got[0] <= BOUND


def test_logits_of_any_scale_are_within_the_bound():
    """Integer logits and float scales through the requantise that the compiler chooses."""
    rng = random.Random(3)
    table = sigmoid_table()
    worst = 0.0
    for _ in range(40):
        scale = 2.0 ** rng.uniform(-22, 1)  # of a step of the logit
        m, s = requantise_params(scale * (1 << LOGIT_FRACTION_BITS))
        for _ in range(200):
            spread = min((1 << 26) - 1, int(rng.choice([1, 4, 20]) / scale) + 1)
            logit = rng.randint(-spread, spread)
            code = max(-32768, requantise(logit, m, s, 32768))
            code = min(32767, code)
            x = logit * scale
            exact = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
            worst = max(worst, abs(sigmoid_code(code, table) / 65536 - exact))
    assert 2**-15 < worst <= BOUND
