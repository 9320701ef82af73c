"""TT cores in int8 against the same cores in floating point."""

import dataclasses

import numpy as np
import pytest

from screc.tt.decompose import FloatTt, decompose, relative_error
from screc.tt.quantise import balance, quantise_tt, reconstructor_table
from screc.tt.shape import choose_shape
from screc_hw.tt.shape import TtShape
from tests.support.large_table import NoisyTt, random_float_tt

SHAPE = TtShape(rows=500, p=(7, 8, 9), q=(2, 2, 4), ranks=(5, 6))


def decaying(shape, seed=0):
    """A table whose singular values fall off at both bonds."""
    first, second, third = random_float_tt(shape, seed).cores
    r1, r2 = shape.ranks
    fall = 1 / np.outer(np.arange(1, r1 + 1), np.arange(1, r2 + 1)).astype(np.float32)
    return FloatTt(shape, (first, second * fall[:, None], third))


def row_scale(tt):
    return float(np.abs(tt.rows(np.arange(tt.shape.rows))).max()) / 127


def integer_error(quant, tt, ids):
    expected = tt.rows(ids)
    return float(np.linalg.norm(quant.rows(ids) * quant.unit - expected) / np.linalg.norm(expected))


def plain_error(tt, ids):
    """Error with int8 cores as they come, one scale each, everything else in floating point."""
    cores = []
    for core in tt.cores:
        scale = np.abs(core).max() / 127
        cores.append((np.round(core / scale) * scale).astype(np.float32))
    expected = tt.rows(ids)
    off = FloatTt(tt.shape, tuple(cores)).rows(ids) - expected
    return float(np.linalg.norm(off) / np.linalg.norm(expected))


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("rank", [8, 16, 32])
def test_int8_adds_little_to_the_error_of_the_tensor_train(rank, dim):
    true = random_float_tt(choose_shape(40_000, dim, rank))
    table = NoisyTt(true, 0.5)
    tt = decompose(table, true.shape)
    ids = np.random.default_rng(0).choice(40_000, 2000, replace=False)
    quant = quantise_tt(tt, row_scale(tt), 4)
    error = integer_error(quant, tt, ids)
    left = relative_error(table, tt)
    print(f"dim {dim} rank {rank}: int8 {error:.4f} of the float rows, TT {left:.4f} of the table")
    assert error < 0.02
    both = np.linalg.norm(quant.rows(ids) * quant.unit - table.fetch(ids))
    assert both < 1.005 * np.linalg.norm(tt.rows(ids) - table.fetch(ids))


@pytest.mark.parametrize("rank", [8, 32])
def test_balance_helps_where_singular_values_fall(rank):
    tt = decaying(choose_shape(40_000, 64, rank))
    ids = np.random.default_rng(0).choice(40_000, 2000, replace=False)
    tt = decompose(tt.rows(np.arange(40_000)), tt.shape)
    assert integer_error(quantise_tt(tt, row_scale(tt), 8), tt, ids) < 0.4 * plain_error(tt, ids)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        TtShape(rows=1, p=(1, 1, 1), q=(1, 1, 4), ranks=(1, 1)),
        TtShape(rows=30, p=(2, 3, 5), q=(1, 2, 4), ranks=(7, 40)),  # beyond the unfoldings
        TtShape(rows=24, p=(2, 3, 4), q=(3, 2, 4), ranks=(1, 9)),
    ],
    ids=str,
)
def test_balanced_cores_are_the_same_table(shape):
    tt = decaying(shape)
    cores = tuple(core.astype(np.float32) for core in balance(tt))
    ids = np.arange(shape.rows)
    np.testing.assert_allclose(FloatTt(shape, cores).rows(ids), tt.rows(ids), atol=1e-5)
    for bond in (0, 1):
        one = np.abs(cores[bond]).max(axis=(0, 1) if bond == 0 else (0, 1, 2))
        other = np.abs(cores[bond + 1]).max(axis=(0, 2, 3) if bond == 0 else (0, 2))
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_any_basis_of_the_same_table_is_as_good():
    tt = random_float_tt(SHAPE)
    first, second, third = tt.cores
    basis = np.diag(10.0 ** np.arange(-2, 3)).astype(np.float32)
    undone = (np.linalg.inv(basis) @ second.reshape(8, 5, -1)).reshape(second.shape)
    skewed = FloatTt(SHAPE, (first @ basis, undone, third))
    ids = np.arange(500)
    quant, other = (quantise_tt(t, row_scale(tt), 4) for t in (tt, skewed))
    assert integer_error(other, tt, ids) < 1.1 * integer_error(quant, tt, ids)


def exact_peaks(quant):
    """Largest |first sum| and |second sum| over every row, by whole tables in integers."""
    shape = quant.shape
    first, second, third = (core.astype(np.int64) for core in quant.cores)
    sums = np.einsum("ajs,bskt->abjkt", first, second).reshape(shape.prefixes, -1, shape.ranks[1])
    middle = (sums + (1 << quant.shift1 >> 1)) >> quant.shift1
    middle = np.repeat(middle, shape.p[2], axis=0)[: shape.rows]
    acc = np.einsum("njt,ntl->njl", middle, np.tile(third, (shape.prefixes, 1, 1))[: shape.rows])
    return int(np.abs(middle).max()), int(np.abs(acc).max())


@pytest.mark.parametrize("rank", [1, 4, 16, 64, 120])
def test_no_row_clamps_or_overflows_even_where_all_products_agree(rank):
    shape = TtShape(rows=13, p=(2, 2, 4), q=(2, 2, 4), ranks=(rank, rank))
    cores = tuple(np.ones(size, np.float32) for size in shape.core_shapes)
    for tt in (FloatTt(shape, cores), random_float_tt(shape)):
        quant = quantise_tt(tt, row_scale(tt), 4)
        middle, acc = exact_peaks(quant)
        assert middle <= 32767
        assert acc < 1 << 26
        assert integer_error(quant, tt, np.arange(13)) < 0.02
        if quant.shift1:  # the least shift that does: twice as large would not
            peaks = exact_peaks(dataclasses.replace(quant, shift1=quant.shift1 - 1))
            assert peaks[0] > 32767 or rank > 32


def test_rows_beyond_the_last_do_not_set_the_shift():
    shape = dataclasses.replace(SHAPE, rows=72, ranks=(16, 16))  # i1 = 0 alone
    cores = [np.ones(size, np.float32) for size in shape.core_shapes]
    cores[0][0] /= 16  # 8 · 127 · 16 fits 15 bits, 127 · 127 · 16 does not
    assert quantise_tt(FloatTt(shape, tuple(cores)), 0.1, 4).shift1 == 0
    whole = dataclasses.replace(shape, rows=73)
    assert quantise_tt(FloatTt(whole, tuple(cores)), 0.1, 4).shift1 == 3


def test_components_are_in_units_of_the_row_grid():
    tt = random_float_tt(SHAPE)
    ids = np.arange(500)
    for fraction in (0, 4, 8):
        quant = quantise_tt(tt, 0.05, fraction)
        assert quant.unit == 0.05 / 2**fraction
        off = quant.rows(ids) * quant.unit - tt.rows(ids)
        assert np.abs(off).max() < 0.5 * quant.unit + 0.08
        assert np.abs(quant.rows(ids)).max() < 127 << fraction


def test_a_table_of_zeros_has_rows_of_zeros():
    cores = tuple(np.zeros(size, np.float32) for size in SHAPE.core_shapes)
    quant = quantise_tt(FloatTt(SHAPE, cores), 1e-9, 8)
    assert not quant.rows(np.arange(500)).any()


@pytest.mark.parametrize(
    ("scale", "fraction", "message"),
    [
        (0.0, 4, r"row_scale must be finite and positive, not 0\.0"),
        (np.inf, 4, "row_scale must be finite and positive, not inf"),
        (0.1, 9, r"fraction must lie in 0\.\.8, not 9"),
        (1e-30, 4, "row_scale 1e-30 is out of proportion to the table"),
        (1e30, 4, r"row_scale 1e\+30 is out of proportion to the table"),
    ],
)
def test_bad_grids_are_refused(scale, fraction, message):
    with pytest.raises(ValueError, match=message):
        quantise_tt(random_float_tt(SHAPE), scale, fraction)


def test_the_reconstructors_table_is_the_golden_models():
    quant = quantise_tt(random_float_tt(SHAPE), 0.05, 4)
    table = reconstructor_table(quant, pins=3)
    assert (table.shift1, table.m, table.s, table.pins) == (quant.shift1, quant.m, quant.s, 3)
    assert table.cores is quant.cores
    with pytest.raises(ValueError, match=r"pins must lie in 0\.\.56, not 57"):
        reconstructor_table(quant, pins=57)


def test_first_products_beyond_their_width_lower_the_second_core() -> None:
    """Above rank 260, products of cores that agree leave 16 bits even after the largest shift."""
    shape = TtShape(rows=8, p=(2, 2, 2), q=(1, 1, 4), ranks=(300, 4))
    ones = tuple(np.ones(core, np.float32) for core in shape.core_shapes)
    tt = FloatTt(shape, ones)
    quant = quantise_tt(tt, row_scale=10.0, fraction=4)
    rows = quant.rows(np.arange(8)) * quant.unit
    assert np.abs(quant.first_products(np.arange(4))).max() <= 32767
    assert rows == pytest.approx(np.full((8, 4), 1200.0), rel=0.02)
