"""Two dot products in one sum: every value comes apart as it went in."""

from __future__ import annotations

import numpy as np
import pytest

from screc_hw.dsp import FIELD_BITS, PACKED_LENGTH, PackedDotChain
from tests.support.pysim import simulate

MOST = 127 * 127


def apart(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take packed sums apart as the hardware does, from their bits."""
    field = (1 << FIELD_BITS) - 1
    low, high = total & field, total >> FIELD_BITS & field
    negative = low >> (FIELD_BITS - 1)
    low = low - (negative << FIELD_BITS)
    high = high - ((high >> (FIELD_BITS - 1)) << FIELD_BITS)
    return low, high + negative


def test_every_low_sum_comes_apart() -> None:
    """Exhaustive: the low sum decides the borrow, whatever the high one is."""
    most = PACKED_LENGTH * MOST
    low = np.arange(-most, most + 1)
    for high in (-most, -most + 1, -1, 0, 1, most - 1, most):
        got = apart((high << FIELD_BITS) + low)
        assert (got[0] == low).all()
        assert (got[1] == high).all()


def test_every_high_sum_comes_apart() -> None:
    most = PACKED_LENGTH * MOST
    high = np.arange(-most, most + 1)
    for low in (-most, -1, 0, 1, most):
        got = apart((high << FIELD_BITS) + low)
        assert (got[0] == low).all()
        assert (got[1] == high).all()


def test_one_product_more_would_not_fit() -> None:
    most = (PACKED_LENGTH + 1) * MOST
    assert apart(np.array([most]))[0] != most


def test_a_product_of_the_packed_operand_is_that_of_both_for_every_code() -> None:
    low, b = np.meshgrid(np.arange(-127, 128), np.arange(-127, 128))
    for high in range(-127, 128):
        packed = (high << FIELD_BITS) + low
        got = apart(packed * b)
        assert (np.abs(packed) < 1 << 26).all()  # fits the pre-adder's 27 bits
        assert (got[0] == low * b).all()
        assert (got[1] == high * b).all()


@pytest.mark.parametrize("length", [1, 3, 8])
def test_the_chain_adds_up(length: int) -> None:
    rng = np.random.default_rng(length)
    dut = PackedDotChain(length)
    values = rng.integers(-127, 128, (60, 3, length))
    values[:8] = rng.choice([-127, 127], (8, 3, length))
    got: list[tuple[int, int]] = []

    async def process(ctx):
        for cycle in range(len(values) + dut.latency + length):
            for n, name in enumerate(("low", "high", "b")):
                for k in range(length):  # element k comes k cycles later
                    row = cycle - k
                    if 0 <= row < len(values):
                        ctx.set(getattr(dut, name)[k], int(values[row, n, k]))
            await ctx.tick()
            got.append((ctx.get(dut.low_sum), ctx.get(dut.high_sum)))

    simulate(dut, process)
    wanted = [(int(v[0] @ v[2]), int(v[1] @ v[2])) for v in values]
    assert got[dut.latency - 1 :][: len(values)] == wanted
