"""Rows with a scale and bias of their own: against fractions, value by value."""

import dataclasses
import math
import re
from fractions import Fraction

import numpy as np
import pytest

from screc_hw import numerics
from screc_sim.golden import ops
from screc_sim.golden.calibrate import CalibrationError, calibrate
from screc_sim.golden.float_twin import Weights
from screc_sim.golden.quant import QuantTable
from screc_sim.golden.rowwise import (
    ROWWISE_LIMITS,
    ROWWISE_UNIT,
    PackedRows,
    pack_rows,
    quantise_rows,
    unpack_rows,
)
from screc_sim.samples import Bags
from tests.golden.support import ArrayTable, PackedArray, random_batch, small_shape
from tests.golden.test_calibrate import random_weights

LARGEST = float(np.finfo(np.float16).max)


def rows_of(codes, scale, bias):
    return PackedRows(
        np.array(codes, np.uint8), np.array(scale, np.float16), np.array(bias, np.float16)
    )


def test_every_fp16_is_a_whole_number_of_units():
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16)
    finite = np.isfinite(values)
    for word, value in zip(bits[finite].tolist(), values[finite].tolist(), strict=True):
        assert numerics.fp16_units(word) == Fraction(value) * 2**24
    for word in (0x7C00, 0xFC00, 0x7E00, 0xFFFF):
        with pytest.raises(ValueError, match=f"must be finite, not {word:#06x}"):
            numerics.fp16_units(word)


def test_values_are_code_times_scale_plus_bias():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 0x7C00, (2, 500)).astype(np.uint16)
    scale, bias = (bits | rng.integers(0, 2, (2, 500)).astype(np.uint16) << 15).view(np.float16)
    scale[:4], bias[:4] = [LARGEST, -LARGEST, 2.0**-24, 0], [LARGEST, -LARGEST, -(2.0**-24), 0]
    codes = rng.integers(0, 256, (500, 8))
    codes[:4, 0] = 255
    values = rows_of(codes, scale, bias).values()
    for row in range(500):
        a, b = (Fraction(float(part[row])) for part in (scale, bias))
        assert values[row].tolist() == [(int(c) * a + b) * 2**24 for c in codes[row]]


@pytest.mark.parametrize("format_", ROWWISE_LIMITS)
@pytest.mark.parametrize("span", [1e-7, 1e-4, 0.05, 1.0, 100.0])
def test_codes_are_the_nearest_for_the_rounded_scale_and_bias(format_, span):
    limit = ROWWISE_LIMITS[format_]
    rng = np.random.default_rng(int(span * 1e7))
    real = (rng.uniform(-0.5, 0.5, (60, 16)) * span + rng.normal(size=(60, 1)) * span).astype("f4")
    rows = quantise_rows(real, limit)
    for row in range(60):
        low, high = Fraction(float(real[row].min())), Fraction(float(real[row].max()))
        scale, bias = Fraction(float(rows.scale[row])), Fraction(float(rows.bias[row]))
        # half of an fp16 step: 2**-11 of the value, or half of the smallest one
        tiny = Fraction(1, 2**25)
        assert abs(bias - low) <= max(abs(low) / 2**11, tiny)
        assert abs(scale - (high - low) / limit) <= max((high - low) / limit / 2**10, tiny)
        for x, code in zip(real[row], rows.codes[row], strict=True):
            if scale == 0:
                assert code == 0
                continue
            quotient = (Fraction(float(x)) - bias) / scale
            off = abs(int(code) - min(max(quotient, 0), limit))
            assert off <= Fraction(1, 2) + Fraction(limit, 2**18)  # float32 rounds the quotient
    assert rows.codes.max() == (limit if rows.scale.any() else 0)


def test_codes_round_half_up():
    real = np.array([[0, 255, 0.5, 1.5, 2.499, 254.5]], np.float32)
    rows = quantise_rows(real, 255)
    assert (rows.scale[0], rows.bias[0]) == (1, 0)
    assert rows.codes.tolist() == [[0, 255, 1, 2, 2, 255]]


def test_a_constant_row_is_its_bias():
    rows = quantise_rows(np.full((2, 4), 0.1, np.float32) * [[1], [0]], 15)
    assert rows.codes.tolist() == [[0] * 4] * 2
    assert rows.scale.tolist() == [0, 0]
    assert rows.bias.tolist() == [float(np.float16(0.1)), 0]


@pytest.mark.parametrize(
    ("row", "name"), [([7e4, 7e4], "bias"), ([-6e4, 2e7], "scale"), ([-3e38, 3e38], "scale")]
)
def test_rows_beyond_fp16_are_refused(row, name):
    with pytest.raises(ValueError, match=f"has a {name} beyond fp16, 65504"):
        quantise_rows(np.array([[0, 0], row], np.float32), 255)


@pytest.mark.parametrize("format_", ROWWISE_LIMITS)
def test_stored_rows_come_back(format_):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, ROWWISE_LIMITS[format_] + 1, (20, 8))
    rows = rows_of(codes, rng.uniform(0, 1, 20), rng.normal(size=20))
    stored = pack_rows(rows, format_)
    assert stored.shape == (20, (8 if format_ == "int8r" else 4) + 4)
    again = unpack_rows(stored, format_)
    for field in dataclasses.fields(rows):
        assert np.array_equal(getattr(again, field.name), getattr(rows, field.name))


def test_stored_rows_are_codes_then_scale_then_bias():
    rows = rows_of([[1, 2, 3, 15]], [1.0], [-2.0])  # 0x3c00 and 0xc000
    assert pack_rows(rows, "int8r").tolist() == [[1, 2, 3, 15, 0, 0x3C, 0, 0xC0]]
    assert pack_rows(rows, "int4r").tolist() == [[0x21, 0xF3, 0, 0x3C, 0, 0xC0]]


# --- sums ----------------------------------------------------------------------------------------
EDGE = (1 << 47) - 1


@pytest.mark.parametrize("m", [1 << 15, 54321, (1 << 16) - 1])
@pytest.mark.parametrize("s", [1, 15, 31, 38, 46, 47])
def test_the_widest_sums_are_requantised_exactly(m, s):
    rng = np.random.default_rng(s)
    near = [round(c * 2**s / m) + d for c in (-127.5, -0.5, 0.5, 126.5) for d in (-1, 0, 1)]
    spread = [int(x) for x in rng.integers(-EDGE, EDGE, 200)]
    accs = [EDGE, -EDGE, *(a for a in near if abs(a) <= EDGE), *spread]
    exact = [math.floor(Fraction(a * m, 2**s) + Fraction(1, 2)) for a in accs]
    expected = [max(-127, min(127, value)) for value in exact]
    assert ops.requantise(np.array(accs), m, s).tolist() == expected
    assert [numerics.requantise(a, m, s) for a in accs] == expected


@pytest.mark.parametrize("length", [1, 2, 3, 7, 1000, 40000, 65535])
def test_the_widest_sums_have_exact_means(length):
    r, shift = numerics.mean_reciprocal(length)
    sums = [EDGE, -EDGE, 0, 12345678901, -98765432109]
    expected = [(a * r + (1 << (shift - 1))) >> shift for a in sums]
    lengths = np.full(len(sums), length)
    assert ops.mean(np.array(sums)[:, None], lengths)[:, 0].tolist() == expected
    if length & (length - 1) == 0:
        assert expected == [math.floor(Fraction(a, length) + Fraction(1, 2)) for a in sums]


def test_the_longest_bag_of_the_largest_rows_fits():
    assert numerics.row_limit() * numerics.MAX_BAG < 1 << 47
    assert (numerics.row_limit() + 1) * numerics.MAX_BAG >= 1 << 47
    for sign in (1, -1):
        source = PackedArray([[255] * 4], [sign * 0.5], [sign * 0.5], "int8r")  # 128 each
        table = QuantTable(source, "int8r", ROWWISE_UNIT)
        bags = Bags(np.zeros(65535, np.int64), np.array([0, 65535]))
        assert ops.pool(table, bags, "f").tolist() == [[sign * 65535 * 2**31] * 4]
    source = PackedArray([[255] * 4], [0.5], [1.0], "int8r")
    table = QuantTable(source, "int8r", ROWWISE_UNIT)
    with pytest.raises(ops.AccumulatorOverflowError, match=r"f: accumulator .* 48 bits signed"):
        ops.pool(table, bags, "f")


def with_tables(shape, tables, seed=5):
    rng = np.random.default_rng(seed)
    weights = random_weights(shape, rng)
    return Weights(weights.bottom, weights.top, tables), random_batch(shape, rng, 50)


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        (PackedArray([[255] * 4, [0] * 4], [0.5, 1], [0.5, 1], "int8r"), True),
        (PackedArray([[255] * 4, [0] * 4], [0.5, 1], [0.625, 1], "int8r"), False),
        (PackedArray([[0] * 4, [1] * 4], [1, 1], [-128, -129], "int8r"), True),
        (PackedArray([[0] * 4, [0] * 4], [1, 1], [-128, -129], "int8r"), False),
        (ArrayTable([[-120] * 4, [1, 2, 3, 120]]), True),
        (ArrayTable([[-128.1] * 4, [1, 2, 3, 4]]), False),
    ],
)
def test_a_table_whose_bags_could_overflow_is_refused(table, fits):
    shape = small_shape(rows=(2, 4), formats=("int8r", "int8"))
    weights, batch = with_tables(shape, (table, ArrayTable(np.ones((4, 4)))))
    if fits:
        assert calibrate(shape, weights, batch).tables[0].scale == 2.0**-24
        return
    message = r"table 't0': row values reach 1\d\d.*, and the sum of 65535 .* 48 bits .* 128\.002"
    with pytest.raises(CalibrationError, match=message):
        calibrate(shape, weights, batch)


@pytest.mark.parametrize("format_", ROWWISE_LIMITS)
def test_the_bound_of_float_rows_holds(format_):
    # the worst rows for rounding: a bias that rounds away from 0, codes half a step off
    rng = np.random.default_rng(6)
    real = rng.uniform(-1, 1, (4000, 8)).astype(np.float32)
    real[:, 0] = rng.choice([-1, 1], 4000) * (1 - rng.uniform(0, 2**-11, 4000))
    rows = quantise_rows(real, ROWWISE_LIMITS[format_])
    reach = np.abs(rows.values()).max() * ROWWISE_UNIT
    assert reach <= np.abs(real).max() * (1 + 1 / ROWWISE_LIMITS[format_] + 2.0**-8) + ROWWISE_UNIT


def test_vectors_too_large_for_the_shift_are_an_error():
    # sums of 64 rows of 120 in each component: codes of the vectors would be worth more than 256
    shape = small_shape(
        dense=0,
        interaction="concat",
        rows=(2, 4),
        formats=("int8r", "int8"),
        features=((0, "sum"),),
    )
    weights, _ = with_tables(
        shape, (ArrayTable([[-120] * 4, [120] * 4]), ArrayTable(np.ones((4, 4))))
    )
    for length, fits in ((200, True), (400, False)):
        bags = Bags(np.ones(10 * length, np.int64), np.arange(0, 10 * length + 1, length))
        batch = dataclasses.replace(random_batch(shape, np.random.default_rng(0), 10), bags=(bags,))
        if fits:
            assert calibrate(shape, weights, batch, clip="minmax").bag_s[0] == 47
            continue
        with pytest.raises(CalibrationError, match=re.escape("feature 'f0': one code of")):
            calibrate(shape, weights, batch, clip="minmax")


# --- tables --------------------------------------------------------------------------------------
def test_packed_rows_are_kept_and_float_rows_do_not_depend_on_how_many_are_asked_for(monkeypatch):
    rng = np.random.default_rng(7)
    packed = PackedArray(
        rng.integers(0, 16, (9, 8)), rng.uniform(0, 1, 9), rng.normal(size=9), "int4r"
    )
    table = QuantTable(packed, "int4r", ROWWISE_UNIT)
    assert np.array_equal(table.packed(np.array([3, 3, 0])).codes, packed.rows_.codes[[3, 3, 0]])
    table = QuantTable(ArrayTable(rng.normal(size=(50, 8))), "int4r", ROWWISE_UNIT)
    whole = table.values(np.arange(50))
    monkeypatch.setattr("screc_sim.golden.quant.COMPONENTS_AT_ONCE", 20)
    assert (table.values(np.arange(50)) == whole).all()
    assert table.values(np.zeros(0, np.int64)).shape == (0, 8)


def test_a_row_wise_table_has_one_unit_and_its_own_format():
    with pytest.raises(ValueError, match=r"format 'int8r' has the scale 5\.96.*, not 1"):
        QuantTable(ArrayTable(np.zeros((1, 4))), "int8r", 1.0)
    packed = PackedArray([[1] * 8], [1], [0], "int4r")
    for format_ in ("int8r", "int8"):
        with pytest.raises(ValueError, match=f"packed as 'int4r' cannot be .* '{format_}'"):
            QuantTable(packed, format_, ROWWISE_UNIT)
