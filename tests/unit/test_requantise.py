import itertools
import random

import pytest
from amaranth.sim import Simulator

from screc_hw.numerics import requantise
from screc_hw.requantise import Multiply, Requantise

LANES = 4


def cases(acc_bits, rng):
    """Boundaries of every width and shift, and random values near the clamp's edge."""
    top = (1 << (acc_bits - 1)) - 1
    magnitudes = [min(v, top) for v in (0, 1, 2, 126, 127, 128, 255, 256, top - 1, top)]
    for s, m in itertools.product(range(1, 48), (1 << 15, 46341, (1 << 16) - 1)):
        values = [rng.choice(magnitudes) * rng.choice((-1, 1)) for _ in range(LANES // 2)]
        edge = round(127.5 * 2.0**s / m)
        values += [
            max(-top - 1, min(top, rng.choice((-1, 1)) * edge + rng.randrange(-2, 3)))
            for _ in range(LANES - len(values))
        ]
        yield values, m, s, rng.random() < 0.5
    yield [-top - 1] * LANES, (1 << 16) - 1, 1, False
    yield [-top - 1] * LANES, (1 << 16) - 1, 47, True


def run(dut, sequence, latency, wide=False, stall=0.0, seed=0):
    """Feed ``sequence``, one a cycle where enabled; return the outputs in order."""
    seen = []

    async def bench(ctx):
        rng = random.Random(seed)
        fed = 0
        while len(seen) < len(sequence):
            enable = rng.random() >= stall
            ctx.set(dut.enable, enable)
            acc, m, s, saturate = sequence[min(fed, len(sequence) - 1)]
            ctx.set(dut.acc, acc)
            ctx.set(dut.m, m)
            ctx.set(dut.s, s)
            if wide:
                ctx.set(dut.wide, saturate)
            await ctx.tick()
            fed += enable
            if enable and fed >= latency:
                seen.append([ctx.get(lane) for lane in dut.y])

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return seen


@pytest.mark.parametrize("acc_bits", [9, 24, 27, 28, 40, 48])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_requantise_equals_the_rule(acc_bits, stall):
    sequence = list(cases(acc_bits, random.Random(acc_bits)))
    seen = run(Requantise(acc_bits, LANES), sequence, Requantise.latency_of(acc_bits), stall=stall)
    assert seen == [[requantise(a, m, s) for a in acc] for acc, m, s, _ in sequence]


def test_one_pipeline_saturates_codes_and_logits():
    sequence = list(cases(27, random.Random(5)))
    seen = run(Requantise(27, LANES, wide=True), sequence, Requantise.latency_of(27), wide=True)

    def rule(a, m, s, saturate):
        if not saturate:
            return requantise(a, m, s)
        return max(-32768, min(32767, (a * m + (1 << (s - 1))) >> s))

    assert seen == [[rule(a, m, s, wide) for a in acc] for acc, m, s, wide in sequence]


@pytest.mark.parametrize("limit", [1, 7, 100, 32767])
def test_requantise_clamps_at_any_limit(limit):
    sequence = list(cases(24, random.Random(limit)))
    seen = run(Requantise(24, LANES, limit), sequence, Requantise.latency_of(27))
    assert seen == [[requantise(a, m, s, limit) for a in acc] for acc, m, s, _ in sequence]


def test_every_small_accumulator_at_every_small_shift():
    sequence = [
        (list(range(start, start + LANES)), m, s, False)
        for s in range(1, 21, 3)
        for m in (1 << 15, 65535)
        for start in range(-256, 256, LANES)
    ]
    seen = run(Requantise(10, LANES), sequence, Requantise.latency_of(27))
    assert seen == [[requantise(a, m, s) for a in acc] for acc, m, s, _ in sequence]


@pytest.mark.parametrize("acc_bits", [1, 26, 27, 28, 40, 48, 53])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_products_are_exact_at_every_width(acc_bits, stall):
    rng = random.Random(acc_bits)
    top = (1 << (acc_bits - 1)) - 1
    edges = [0, -1, top, -top - 1]
    edges += [v for v in ((1 << 26) - 1, 1 << 26, -(1 << 26), -(1 << 26) - 1) if abs(v) <= top]
    sequence = [
        ([rng.choice((rng.randint(-top - 1, top), rng.choice(edges))) for _ in range(LANES)], m)
        for m in (0, 1, 1 << 15, (1 << 16) - 1, *(rng.randrange(1 << 16) for _ in range(100)))
    ]
    dut, seen = Multiply(acc_bits, LANES), []

    async def bench(ctx):
        fed = 0
        while len(seen) < len(sequence):
            enable = rng.random() >= stall
            ctx.set(dut.enable, enable)
            acc, m = sequence[min(fed, len(sequence) - 1)]
            ctx.set(dut.acc, acc)
            ctx.set(dut.m, m)
            await ctx.tick()
            fed += enable
            if enable and fed >= dut.latency:
                seen.append([ctx.get(lane) for lane in dut.y])

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert seen == [[a * m for a in acc] for acc, m in sequence]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 1), r"acc_bits must be in 1\.\.53, not 0"),
        ((54, 1), r"acc_bits must be in 1\.\.53, not 54"),
        ((8, 0), "lanes must be at least 1, not 0"),
        ((8, 1, 0), r"limit must be in 1\.\.32767, not 0"),
        ((8, 1, 32768), r"limit must be in 1\.\.32767, not 32768"),
    ],
)
def test_requantise_refuses_impossible_sizes(arguments, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        Requantise(*arguments)
