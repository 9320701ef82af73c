"""The golden reconstructor against plain Python integers, one product at a time."""

import dataclasses

import numpy as np
import pytest

from screc_hw.tt.shape import TtShape
from screc_sim.golden import tt
from screc_sim.golden.ops import AccumulatorOverflowError
from screc_sim.golden.tt import QuantTt

SHAPES = {
    "rank 1": TtShape(rows=24, p=(2, 3, 4), q=(1, 1, 4), ranks=(1, 1)),
    "one row": TtShape(rows=1, p=(1, 1, 1), q=(2, 2, 4), ranks=(3, 2)),
    "unequal": TtShape(rows=53, p=(3, 5, 4), q=(3, 2, 8), ranks=(7, 5)),
    "dim 64": TtShape(rows=210, p=(6, 5, 7), q=(4, 4, 4), ranks=(16, 16)),
    "rank 240": TtShape(rows=4, p=(2, 2, 1), q=(2, 1, 4), ranks=(240, 240)),
}


def random_tt(shape, seed=0, **changes):
    rng = np.random.default_rng(seed)
    codes = 127 if max(shape.ranks) <= 16 else 20  # 32767 · 127 · 16 < 2**26 < that of rank 17
    cores = tuple(rng.integers(-codes, codes + 1, s).astype(np.int8) for s in shape.core_shapes)
    given = {"shift1": 3, "m": 40503, "s": 27, "fraction": 4, "scale": 0.5}
    return QuantTt(shape, cores, **given | changes)


def slow_row(quant, row):
    """(components, first products) of a row in Python integers."""
    shape = quant.shape
    if row not in range(shape.rows):
        return [0] * shape.dim, {}
    i3 = row % shape.p[2]
    i2 = row // shape.p[2] % shape.p[1]
    i1 = row // (shape.p[1] * shape.p[2])
    first, second, third = (core.tolist() for core in quant.cores)
    (q1, q2, q3), (r1, r2) = shape.q, shape.ranks
    a = {}
    for j1 in range(q1):
        for j2 in range(q2):
            for t in range(r2):
                acc = sum(first[i1][j1][s] * second[i2][s][j2][t] for s in range(r1))
                if quant.shift1:
                    acc = (acc + 2 ** (quant.shift1 - 1)) // 2**quant.shift1
                a[j1, j2, t] = min(max(acc, -32767), 32767)
    limit = 127 * 2**quant.fraction
    out = []
    for j1 in range(q1):
        for j2 in range(q2):
            for j3 in range(q3):
                acc = sum(a[j1, j2, t] * third[i3][t][j3] for t in range(r2))
                assert abs(acc) < 2**26
                scaled = (acc * quant.m + 2 ** (quant.s - 1)) // 2**quant.s
                out.append(min(max(scaled, -limit), limit))
    return out, a


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("shift1", "s", "fraction"), [(0, 33, 0), (1, 30, 4), (7, 22, 8)])
def test_rows_are_the_slow_forms(name, shift1, s, fraction):
    shape = SHAPES[name]
    quant = random_tt(shape, shift1=shift1, s=s, fraction=fraction)
    local = np.r_[0, shape.rows - 1, np.random.default_rng(1).integers(0, shape.rows, 8)]
    expected = [slow_row(quant, int(row))[0] for row in local]
    got = quant.rows(local)
    assert got.dtype == np.int64
    assert got.tolist() == expected
    assert np.abs(got).max() > 0


def test_every_row_in_any_order_and_in_small_parts(monkeypatch):
    quant = random_tt(SHAPES["unequal"])
    local = np.random.default_rng(2).permutation(np.repeat(np.arange(53), 3))
    expected = [slow_row(quant, int(row))[0] for row in local]
    assert quant.rows(local).tolist() == expected
    monkeypatch.setattr(tt, "NUMBERS_AT_ONCE", 100)
    assert quant.rows(local).tolist() == expected


def test_rows_outside_the_table_are_zeros_among_others():
    quant = random_tt(SHAPES["unequal"], s=20)
    local = np.array([52, 53, -1, 59, 0, 1 << 40])
    got = quant.rows(local)
    assert not got[[1, 2, 3, 5]].any()
    assert got[[0, 4]].tolist() == [slow_row(quant, 52)[0], slow_row(quant, 0)[0]]
    assert quant.rows(np.array([], np.int64)).shape == (0, 48)


def test_first_products_round_and_clamp():
    shape = TtShape(rows=4, p=(1, 2, 2), q=(1, 1, 4), ranks=(3, 2))
    first = np.array([[[127, 127, 127]]], np.int8)
    second = np.empty((2, 3, 1, 2), np.int8)
    second[0] = np.array([[127, -127], [127, -127], [127, -127]])[:, None]
    second[1] = np.array([[1, -1], [2, -2], [0, 0]])[:, None]  # ±381: halves at shift 1
    third = np.ones((2, 2, 4), np.int8)
    quant = QuantTt(shape, (first, second, third), 0, 1 << 15, 15, 8, 1.0)
    assert quant.first_sums(np.array([0, 1])).ravel().tolist() == [48387, -48387, 381, -381]
    assert quant.first_products(np.array([0, 1])).ravel().tolist() == [32767, -32767, 381, -381]
    halved = dataclasses.replace(quant, shift1=1)
    assert halved.first_products(np.array([1])).ravel().tolist() == [191, -190]
    assert halved.first_products(np.array([0])).ravel().tolist() == [24194, -24193]
    # 32767 - 32767, 381 - 381 at shift 0; halves up at shift 1
    assert halved.rows(np.arange(4)).tolist() == [[1] * 4] * 4


def test_first_products_of_every_prefix():
    quant = random_tt(SHAPES["unequal"])
    got = quant.first_products(np.arange(quant.shape.prefixes))
    for prefix in range(13):
        a = slow_row(quant, prefix * 4)[1]
        assert {k: int(got[(prefix, *k)]) for k in a} == a


def test_second_products_stop_at_27_bits():
    # 32767 · 127 · 16 = 66,582,544 < 2**26 = 67,108,864: rank 16 fits, and one more does not
    for rank, fits in ((16, True), (17, False)):
        shape = TtShape(rows=1, p=(1, 1, 1), q=(1, 1, 4), ranks=(8, rank))
        cores = tuple(np.full(s, 127, np.int8) for s in shape.core_shapes)
        quant = QuantTt(shape, cores, 0, 1 << 15, 47, 0, 1.0)
        if fits:
            assert quant.rows(np.array([0])).tolist() == [[0] * 4]
        else:
            with pytest.raises(AccumulatorOverflowError, match="second product of a TT row"):
                quant.rows(np.array([0]))


def test_components_saturate_at_the_row_grids_limit():
    quant = random_tt(SHAPES["dim 64"], s=16, fraction=2)
    assert np.abs(quant.rows(np.arange(210))).max() == 127 << 2
    assert quant.limit == 508
    assert quant.unit == 0.125


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift1": 8}, r"shift1 must lie in 0\.\.7, not 8"),
        ({"m": 32767}, r"m must lie in 32768\.\.65535, not 32767"),
        ({"s": 0}, r"s must lie in 1\.\.47, not 0"),
        ({"fraction": 9}, r"fraction must lie in 0\.\.8, not 9"),
        ({"scale": 0.0}, r"scale must be finite and positive, not 0\.0"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        random_tt(SHAPES["rank 1"], **changes)


def test_bad_cores_are_refused():
    quant = random_tt(SHAPES["rank 1"])
    first, second, third = quant.cores
    with pytest.raises(ValueError, match=r"core 2 must be int8 \(3, 1, 1, 1\), not int8 \(3, 1\)"):
        dataclasses.replace(quant, cores=(first, second[:, :, 0, 0], third))
    with pytest.raises(ValueError, match=r"core 3 must be int8 .* not int16"):
        dataclasses.replace(quant, cores=(first, second, third.astype(np.int16)))
    low = np.full_like(first, -128)
    with pytest.raises(ValueError, match=r"core 1 must be in -127\.\.127, not -128"):
        dataclasses.replace(quant, cores=(low, second, third))
