"""Two dot products in one sum: every value comes apart as it went in.

The operand high · 2**18 + low times b is high · b · 2**18 + low · b, an integer that every register
of the chain holds; so a sum is H · 2**18 + L. With 8 products of codes in [-127, 127] both H and L
are at most 8 · 127² = 129,032 < 2**17 in magnitude. L is then the sum's low 18 bits as a signed
number, whatever H is; the bits above are H, less 1 where L is negative, so they depend on L by its
sign alone. All L beside H at its bounds and all H beside L at its bounds are therefore all there is
to try; products are tried for all 255³ codes. tests/formal proves the sums once more.
"""

from __future__ import annotations

import numpy as np
import pytest

from screc_hw import dsp
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


def test_eight_is_the_most_that_a_field_holds() -> None:
    half = 1 << (FIELD_BITS - 1)
    assert PACKED_LENGTH * MOST == 129_032
    assert PACKED_LENGTH * MOST < half <= (PACKED_LENGTH + 1) * MOST
    # codes of -128 would not fit: they are outside the contract
    assert PACKED_LENGTH * 128 * 128 == half


@pytest.mark.parametrize("length", [0, 9])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"^length must lie in 1\.\.8, not {length}$"):
        PackedDotChain(length)


def constant_sums(dut: PackedDotChain, low: int, high: int, b: int) -> tuple[int, int]:
    """Both sums of elements that never change."""
    got: list[int] = []

    async def process(ctx):
        for name, value in (("low", low), ("high", high), ("b", b)):
            port = getattr(dut, name)
            for k in range(dut.latency - 3):
                ctx.set(port[k], value)
        await ctx.tick().repeat(2 * dut.latency)
        got.extend((ctx.get(dut.low_sum), ctx.get(dut.high_sum)))

    simulate(dut, process)
    return got[0], got[1]


@pytest.mark.parametrize("b", [-127, 127])
@pytest.mark.parametrize("high", [-127, 0, 127])
@pytest.mark.parametrize("low", [-127, 0, 127])
def test_the_largest_sums_of_the_circuit(low: int, high: int, b: int) -> None:
    assert constant_sums(PackedDotChain(8), low, high, b) == (8 * low * b, 8 * high * b)


def test_a_chain_of_nine_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsp, "PACKED_LENGTH", 9)
    assert constant_sums(PackedDotChain(9), 100, -3, 127) == (9 * 12_700, -9 * 381)
    assert constant_sums(PackedDotChain(9), 127, 127, 127) != (9 * MOST, 9 * MOST)


def test_codes_of_minus_128_are_outside_the_contract() -> None:
    assert constant_sums(PackedDotChain(8), -128, 0, -128) != (8 * 128 * 128, 0)


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
