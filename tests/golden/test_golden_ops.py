import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from screc_hw import numerics
from screc_sim.golden import ops
from screc_sim.golden.quant import QuantLinear, QuantTable, quantise
from screc_sim.samples import Bags
from tests.golden.support import ArrayTable


@pytest.fixture
def linear_of():
    def make(weight, bias):
        n = len(bias)
        return QuantLinear(
            weight=np.asarray(weight, np.int8),
            bias=np.asarray(bias, np.int32),
            m=np.full(n, 1 << 15, np.uint16),
            s=np.full(n, 15, np.uint8),
            relu=False,
            scale=np.ones(n),
        )

    return make


def half_up(value):
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("m", [1 << 15, (1 << 15) + 1, 54321, (1 << 16) - 1])
@pytest.mark.parametrize("s", [1, 2, 15, 16, 23, 46, 47])
def test_requantise_is_exact_rounding_half_up(m, s):
    near = [round(c * 2**s / m) + d for c in (-127.5, -126.5, -0.5, 0.5, 126.5) for d in (-1, 0, 1)]
    bound = 1 << 26
    accs = [*range(-400, 401), -bound + 1, bound - 1, *(a for a in near if abs(a) < bound)]
    expected = [max(-127, min(127, half_up(Fraction(a * m, 2**s)))) for a in accs]
    assert ops.requantise(np.array(accs), m, s).tolist() == expected
    assert [numerics.requantise(a, m, s) for a in accs] == expected


def test_requantise_rounds_every_half_up():
    # m / 2**s = 1/2: odd accumulators are exact halves
    accs = np.arange(-20, 21)
    assert ops.requantise(accs, 1 << 15, 16).tolist() == [
        half_up(Fraction(int(a), 2)) for a in accs
    ]


def test_identity_requantise_keeps_every_code():
    codes = np.arange(-127, 128)
    assert (ops.requantise(codes, *numerics.IDENTITY_REQUANTISE) == codes).all()


@pytest.mark.parametrize("exponent", range(-32, 15))
def test_requantise_params_are_the_closest(exponent):
    rng = np.random.default_rng(exponent + 100)
    for scale in [2.0**exponent, *(2.0**exponent * rng.uniform(1, 2 - 2**-16, 50))]:
        m, s = numerics.requantise_params(scale)
        assert m in range(1 << 15, 1 << 16)
        assert s in range(1, 48)
        assert abs(Fraction(m, 2**s) / Fraction(scale) - 1) <= Fraction(1, 2**16)


@pytest.mark.parametrize("scale", [2.0**15, 2.0**-33, 0.0, -1.0, math.inf, math.nan])
def test_requantise_params_refuse_what_they_cannot_hold(scale):
    with pytest.raises(ValueError, match="a requantise factor must"):
        numerics.requantise_params(scale)


def test_reciprocals_equal_the_scalar_rule_for_every_length():
    lengths = np.arange(1, numerics.MAX_BAG + 1)
    r, shift = ops.reciprocals(lengths)
    expected = [numerics.mean_reciprocal(int(length)) for length in lengths]
    assert list(zip(r.tolist(), shift.tolist(), strict=True)) == expected
    assert r.max() < 1 << 16
    assert r.min() == 1 << 15


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100, 65535])
def test_mean_is_within_its_rounding(length):
    sums = np.linspace(-127 * length, 127 * length, 1001).astype(np.int64)[:, None]
    got = ops.mean(sums, np.full(1001, length))[:, 0]
    # half a code of the final rounding, and the reciprocal's 2**-17 of at most 127
    assert np.abs(got - sums[:, 0] / length).max() <= 0.5 + 127 * 2**-16
    if length & (length - 1) == 0:
        assert got.tolist() == [half_up(Fraction(int(v), length)) for v in sums[:, 0]]


def test_sigmoid_of_every_code():
    codes = np.arange(-32768, 32768).astype(np.int16)
    table = numerics.sigmoid_table()
    got = ops.sigmoid(codes)
    assert got.tolist() == [numerics.sigmoid_code(int(c), table) for c in codes]
    exact = 1 / (1 + np.exp(codes / -(2.0**11)))
    assert np.abs(got / 65536 - exact).max() <= 2**-12
    assert (np.diff(got.astype(np.int64)) >= 0).all()


@pytest.mark.parametrize(
    ("logit", "code"), [(0, 0), (1, 1), (32767, 32767), (32768, 32767), (-32768, -32768)]
)
def test_logit_code_saturates_at_int16(logit, code):
    logits = np.array([logit, -(1 << 26) + 1, (1 << 26) - 1])
    assert ops.logit_code(logits, 1 << 15, 15).tolist() == [code, -32768, 32767]


def test_linear_accumulators_are_exact_and_checked(linear_of):
    layer = linear_of(np.full((2, 4127), 127), [60817, 60818])
    x = np.full((1, 4127), 127, np.int8)
    limit = 127 * 127 * 4127
    assert limit + 60817 < (1 << 26) - 1
    assert ops.accumulate(layer, x, "wide").tolist() == [[limit + 60817, limit + 60818]]


@pytest.mark.parametrize("sign", [-1, 1])
def test_linear_overflow_is_named(linear_of, sign):
    edge = (1 << 26) - 1
    layer = linear_of(np.zeros((3, 2)), [0, sign * edge, 0])
    x = np.zeros((2, 2), np.int8)
    ops.accumulate(layer, x, "edge")
    layer = linear_of(np.zeros((3, 2)), [0, 0, sign * (edge + 1)])
    with pytest.raises(
        ops.AccumulatorOverflowError,
        match=rf"top1: accumulator {sign * (edge + 1)} at \(0, 2\) must be within 27 bits signed",
    ):
        ops.accumulate(layer, x, "top1")


def test_bag_overflow_is_named():
    table = QuantTable(ArrayTable(np.full((1, 4), 127.0)), "int8", 1.0)
    longest = Bags(np.zeros(65535, np.int64), np.array([0, 65535]))
    assert ops.pool(table, longest, "f").tolist() == [[127 * 65535] * 4]
    too_long = Bags(np.zeros(66053, np.int64), np.array([0, 66053]))
    with pytest.raises(ops.AccumulatorOverflowError, match=r"f: accumulator 8388731 .* 24 bits"):
        ops.pool(table, too_long, "f")


def test_pool_handles_empty_bags_everywhere(monkeypatch):
    monkeypatch.setattr("screc_sim.golden.pooling.LOOKUPS_AT_ONCE", 4)
    rng = np.random.default_rng(0)
    table = QuantTable(ArrayTable(rng.integers(-127, 128, (9, 4))), "int8", 1.0)
    for lengths in ([], [0], [0, 0, 3, 0], [9, 0, 1, 1, 0, 2, 0, 0], [1] * 9, [2, 2, 2, 0]):
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = rng.integers(0, 9, offsets[-1])
        expected = [
            table.source.values[ids[a:b]].sum(axis=0).tolist()
            for a, b in itertools.pairwise(offsets)
        ]
        assert ops.pool(table, Bags(ids, offsets), "f").tolist() == expected


def test_quantise_is_half_up_and_symmetric():
    values = np.array([-1000, -127.5, -2.5, -0.5, 0.49, 0.5, 2.5, 127.4, 1e30], np.float32)
    assert quantise(values, 1.0, 127).tolist() == [-127, -127, -2, 0, 0, 1, 3, 127, 127]
    assert quantise(values, 1.0, 7).tolist() == [-7, -7, -2, 0, 0, 1, 3, 7, 7]


def test_codes_do_not_depend_on_how_many_are_asked_for(monkeypatch):
    rng = np.random.default_rng(1)
    table = QuantTable(ArrayTable(rng.normal(size=(50, 8))), "int4", 0.2)
    whole = table.codes(np.arange(50))
    monkeypatch.setattr("screc_sim.golden.quant.COMPONENTS_AT_ONCE", 20)
    assert (table.codes(np.arange(50)) == whole).all()
    assert np.abs(whole).max() == 7


def test_table_refuses_an_unknown_format():
    message = "format must be one of int8, int4, int8r, int4r, not 'int2'"
    with pytest.raises(ValueError, match=message):
        QuantTable(ArrayTable(np.zeros((1, 4))), "int2", 1.0)
