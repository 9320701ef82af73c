"""Words that wait behind the array's own writes are in place before the bags are read.

The array's results for the feature buffer go before bags' words, so words that the core has taken
may wait in its buffer while ``complete`` says that all of them have come.
"""

import pytest

import tests.support.compute as support
from screc_hw.compute.core import ComputeCore
from screc_hw.compute.program import layer_program, vector_bases
from screc_hw.protocol import Destination
from tests.support.compute import IntegerModel, Stimulus, core_params, model_shape
from tests.support.pysim import collector, driver, simulate

SHAPE = model_shape(dense=2, bottom=(24,), dims=(4,), top=(1,), interaction="concat")
PARAMS = core_params(SHAPE, rows=1, columns=8, lanes=4)
ARRIVALS = (30, 38, 40, 41, 42, 43, 44, 46)
"""Cycles after the dense words at which the bag's word is offered: while the array writes, which
ends with cycle 42, and about its end."""


def bags_first(model, params):
    """Return the program with its two copies swapped: the bags' follows the last LINEAR."""
    program = layer_program(model, params)
    at = next(i for i, op in enumerate(program) if op.get("wait_features"))
    assert program[at - 2]["destination"] == Destination.FEATURE
    program[at - 1], program[at] = program[at], program[at - 1]
    return program


def run(arrival, count, seed):
    """Offer the bag's word ``count`` times from ``arrival`` on; check the result."""
    core = ComputeCore(PARAMS)
    model = IntegerModel.random(SHAPE, seed)
    stimulus = Stimulus.random(SHAPE, 1, 1, seed + 1)
    results = []
    base = vector_bases(SHAPE, PARAMS.lanes)[1]
    vector = [int(x) for x in stimulus.bags[0][0][0]]

    def word(data):
        return {"slot": 0, "row": 0, "word": base, "data": data}

    async def feed(ctx):
        for entry in model.load(PARAMS):
            ctx.set(core.config.payload, entry)
            ctx.set(core.config.valid, 1)
            await ctx.tick()
        ctx.set(core.config.valid, 0)
        await ctx.tick().repeat(3)
        columns = [int(x) & 0xFF for x in stimulus.dense[0, 0]]
        await driver(core.dense, columns)(ctx)
        await ctx.tick().repeat(arrival)
        for data in [*(count - 1) * [[99] * 4], vector]:  # the last one overwrites the others
            ctx.set(core.words.payload, word(data))
            ctx.set(core.words.valid, 1)
            await ctx.tick().until(core.words.ready)
        ctx.set(core.words.valid, 0)
        ctx.set(core.complete, 1)  # as early as can be
        await ctx.tick()
        ctx.set(core.complete, 0)

    taken = collector(core.results, results, decode=lambda r: (r.logit, r.probability, r.code))
    simulate(core, feed, background=[taken], until=lambda: len(results) == 1, cycles=3000)
    assert results == stimulus.expected(model)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("arrival", ARRIVALS)
def test_bags_are_read_behind_their_last_word(monkeypatch, arrival, count):
    monkeypatch.setattr(support, "layer_program", bags_first)
    run(arrival, count, seed=arrival)
