"""Decomposition of tables, against dense forms of the same."""

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from screc.tt import decompose as module
from screc.tt.decompose import FloatTt, decompose, relative_error
from screc.tt.shape import choose_shape
from screc_hw.tt.shape import TtShape
from tests.support.large_table import NoisyTt, random_float_tt

SHAPE = TtShape(rows=500, p=(7, 8, 9), q=(2, 2, 4), ranks=(5, 6))


def dense(tt):
    """The whole table by one contraction, digits most significant first."""
    g1, g2, g3 = (core.astype(np.float64) for core in tt.cores)
    full = np.einsum("ajs,bskt,ctl->abcjkl", g1, g2, g3)
    return full.reshape(-1, tt.shape.dim)[: tt.shape.rows]


def textbook(table, shape):
    """TT-SVD from the right by numpy's SVD of whole unfoldings, as a dense table."""
    (p1, p2, p3), (q1, q2, q3), (r1, r2) = shape.p, shape.q, shape.ranks
    full = np.zeros((p1 * p2 * p3, shape.dim))
    full[: shape.rows] = table
    full = full.reshape(p1, p2, p3, q1, q2, q3).transpose(0, 3, 1, 4, 2, 5)
    u, s, v = np.linalg.svd(full.reshape(-1, p3 * q3), full_matrices=False)
    rest = (u[:, :r2] * s[:r2]).reshape(p1 * q1, -1)
    a, b, c = np.linalg.svd(rest, full_matrices=False)
    rest = (a[:, :r1] * b[:r1] @ c[:r1]).reshape(-1, r2)
    full = (rest @ v[:r2]).reshape(p1, q1, p2, q2, p3, q3).transpose(0, 2, 4, 1, 3, 5)
    return full.reshape(-1, shape.dim)[: shape.rows]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two prefixes, so that several and a short last one occur."""
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 2 * 9 * 16)


def noisy(shape, noise=0.5, seed=0):
    source = NoisyTt(random_float_tt(shape, seed), noise, seed)
    return source.fetch(np.arange(shape.rows))


def test_the_noisy_source_keeps_its_bound():
    source = NoisyTt(random_float_tt(TtShape(rows=50, p=(3, 4, 5), q=(2, 2, 4), ranks=(3, 2))), 0.5)
    assert np.abs(source.fetch(np.arange(50))).max() <= source.peak() < 100


def norm_ratio(off, whole, weights=1.0):
    squares = (np.sum(weights * (m * m).sum(axis=1)) for m in (off, whole))
    return np.sqrt(next(squares) / next(squares))


@pytest.mark.parametrize(
    "shape", [SHAPE, TtShape(rows=1, p=(1, 1, 1), q=(1, 1, 4), ranks=(1, 1))], ids=str
)
def test_rows_are_the_dense_contraction(shape, small_blocks):
    tt = random_float_tt(shape)
    ids = np.random.default_rng(1).integers(0, shape.rows, 100)
    np.testing.assert_allclose(tt.rows(ids), dense(tt)[ids], rtol=1e-4, atol=1e-5)
    assert tt.rows(ids[:0]).shape == (0, shape.dim)


@pytest.mark.parametrize("rows", [504, 500, 433, 71])
def test_a_table_of_exact_rank_comes_back(rows, small_blocks):
    shape = dataclasses.replace(SHAPE, rows=504)
    table = dense(random_float_tt(shape)).astype(np.float32)
    table[rows // 72 * 72 :] = 0  # whole slices of zeros cost no rank
    tt = decompose(table, shape)
    np.testing.assert_allclose(tt.rows(np.arange(504)), table, atol=1e-5)
    assert relative_error(table, tt) < 1e-6


@pytest.mark.parametrize("ranks", [(5, 6), (1, 1), (14, 36), (2, 9)])
def test_truncation_is_that_of_a_textbook_tt_svd(ranks, small_blocks):
    shape = dataclasses.replace(SHAPE, ranks=ranks)
    table = noisy(SHAPE)
    tt = decompose(table, shape)
    expected = textbook(table, shape)
    np.testing.assert_allclose(tt.rows(np.arange(500)), expected, atol=2e-5)
    assert tt.shape == shape
    error = norm_ratio(expected - table, table)
    assert relative_error(table, tt) == pytest.approx(error, rel=1e-5, abs=1e-6)


def test_ranks_beyond_the_unfoldings_are_lowered():
    shape = TtShape(rows=30, p=(2, 3, 5), q=(1, 2, 4), ranks=(40, 40))
    table = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    tt = decompose(table, shape)
    assert tt.shape.ranks == (2, 20)
    assert relative_error(table, tt) < 1e-6


@pytest.mark.parametrize("error", [0.05, 0.2, 0.5])
def test_an_error_budget_is_kept_with_the_least_rank_of_each_bond(error):
    table = noisy(SHAPE, noise=0.3)
    most = dataclasses.replace(SHAPE, ranks=(14, 36))
    tt = decompose(table, most, error=error)
    assert relative_error(table, tt) <= error
    r1, r2 = tt.shape.ranks
    # of either bond, a rank less alone leaves more than its half
    full = np.zeros((504, 16))
    full[:500] = table
    full = full.reshape(7, 8, 9, 2, 2, 4).transpose(0, 3, 1, 4, 2, 5)
    values = np.linalg.svd(full.reshape(-1, 36), compute_uv=False)
    allowed = error**2 / 2 * np.sum(table**2)
    assert np.sum(values[r2:] ** 2) <= allowed < np.sum(values[r2 - 1 :] ** 2)
    assert r1 <= 14


def test_an_error_out_of_reach_names_the_rank_it_needs():
    with pytest.raises(ValueError, match=r"an error of 0\.01 needs a rank of \d+, .* at most 6"):
        decompose(noisy(SHAPE), SHAPE, error=0.01)


def test_a_byte_budget_gives_the_ranks_of_least_error():
    table = noisy(SHAPE)
    most = dataclasses.replace(SHAPE, ranks=(14, 36))
    budget = 500
    tt = decompose(table, most, budget=budget)
    assert tt.shape.parameters <= budget
    got = relative_error(table, tt)
    for ranks in itertools.product(range(1, 15), range(1, 15)):
        other = dataclasses.replace(most, ranks=ranks)
        if other.parameters <= budget:
            assert got <= norm_ratio(textbook(table, other) - table, table) * 1.02
    with pytest.raises(ValueError, match=r"a budget of 60 bytes: rank 1 takes 66"):
        decompose(table, most, budget=60)


def test_weights_fit_the_rows_that_are_read(small_blocks):
    table = noisy(SHAPE)
    weights = 1000.0 / np.arange(1, 501)
    shape = dataclasses.replace(SHAPE, ranks=(3, 3))
    plain, fitted = decompose(table, shape), decompose(table, shape, weights=weights)
    off = norm_ratio(fitted.rows(np.arange(500)) - table, table, weights)
    assert relative_error(table, fitted, weights) == pytest.approx(off, rel=1e-5)
    assert off < 0.9 * relative_error(table, plain, weights)


def test_a_weighted_fit_is_that_of_dense_least_squares(small_blocks, monkeypatch):
    # one core at a time, by numpy's lstsq on the whole design matrix
    monkeypatch.setattr(module, "SWEEPS", 1)
    monkeypatch.setattr(module, "RIDGE", 1e-12)
    shape = TtShape(rows=59, p=(3, 4, 5), q=(2, 2, 4), ranks=(2, 3))
    table = np.random.default_rng(3).standard_normal((59, 16)).astype(np.float32)
    weights = np.random.default_rng(4).uniform(0.1, 3, 59)
    cores = [core.astype(np.float64) for core in decompose(table, shape).cores]
    full = np.zeros((60, 16))
    full[:59] = table
    root = np.zeros(60)
    root[:59] = np.sqrt(weights)
    for solved in (1, 0, 2):  # the order of a sweep
        columns = []
        for number in range(cores[solved].size):
            unit = np.zeros(cores[solved].size)
            unit[number] = 1
            parts = list(cores)
            parts[solved] = unit.reshape(cores[solved].shape)
            part = np.einsum("ajs,bskt,ctl->abcjkl", *parts).reshape(60, 16)
            columns.append((root[:, None] * part).ravel())
        answer = np.linalg.lstsq(np.stack(columns, 1), (root[:, None] * full).ravel(), rcond=None)
        cores[solved] = answer[0].reshape(cores[solved].shape)
    got = decompose(table, shape, weights=weights)
    expected = np.einsum("ajs,bskt,ctl->abcjkl", *cores).reshape(60, 16)[:59]
    np.testing.assert_allclose(got.rows(np.arange(59)), expected, atol=1e-4)


def test_rows_of_weight_zero_do_not_count():
    rng = np.random.default_rng(5)
    table = noisy(SHAPE, noise=0.1)
    weights = (rng.random(500) < 0.5).astype(float)
    other = table.copy()
    other[weights == 0] += rng.standard_normal((np.count_nonzero(weights == 0), 16))
    fits = [
        relative_error(t, decompose(t, SHAPE, weights=weights), weights) for t in (table, other)
    ]
    assert fits[0] < 0.15
    assert fits[1] < 0.5 * relative_error(other, decompose(other, SHAPE), weights)


def test_slices_that_no_weight_reaches_stay_finite():
    table = noisy(SHAPE)
    weights = np.zeros(500)
    weights[3] = 2.0
    tt = decompose(table, SHAPE, weights=weights)
    assert relative_error(table, tt, weights) < 1e-2


def test_a_table_of_zeros():
    table = np.zeros((500, 16), np.float32)
    tt = decompose(table, SHAPE)
    assert not tt.rows(np.arange(500)).any()
    assert relative_error(table, tt) == 0
    assert relative_error(table, random_float_tt(SHAPE)) == np.inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"error": 0.0}, r"error must lie between 0 and 1, not 0\.0"),
        ({"error": 0.1, "budget": 100}, "give error or budget, not both"),
        ({"weights": np.ones(499)}, r"weights must be \(500,\), not \(499,\)"),
        ({"weights": np.zeros(500)}, "weights must be finite, not negative, and not all 0"),
        ({"weights": np.full(500, np.nan)}, "weights must be finite"),
    ],
)
def test_bad_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        decompose(np.ones((500, 16), np.float32), SHAPE, **given)


def test_bad_tables_are_refused(small_blocks):
    with pytest.raises(ValueError, match="the table is 501 × 16, and the shape 500 × 16"):
        decompose(np.ones((501, 16), np.float32), SHAPE)
    with pytest.raises(ValueError, match=r"a table must be \(rows, dim\), not \(3,\)"):
        decompose(np.ones(3, np.float32), SHAPE)
    table = np.ones((500, 16), np.float32)
    table[417, 3] = np.inf
    with pytest.raises(ValueError, match="row 417 of the table is not finite"):
        decompose(table, SHAPE)


def test_bad_cores_are_refused():
    first, second, third = random_float_tt(SHAPE).cores
    with pytest.raises(ValueError, match=r"core 3 must be float32 \(9, 6, 4\), not float64"):
        FloatTt(SHAPE, (first, second, third.astype(np.float64)))
    first = first.copy()
    first[2, 1, 4] = np.nan
    with pytest.raises(ValueError, match=r"core 1 must be finite, not nan at \(2, 1, 4\)"):
        FloatTt(SHAPE, (first, second, third))


def large(rows, dim, rank):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_table", str(rows), str(dim), str(rank)],
        check=True,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_table():
    small, big = large(100_000, 64, 8), large(400_000, 64, 8)
    assert big["peak_bytes"] < small["peak_bytes"] + 0.5 * 300_000 * 64 * 4
    assert big["relative_error"] == pytest.approx(0.28, abs=0.006)


@pytest.mark.slow
def test_ten_million_rows_within_eight_gigabytes():
    figures = large(10_131_227, 64, 16)
    assert choose_shape(10_131_227, 64, 16).p == (200, 220, 250)
    assert figures["peak_bytes"] < 8e9
    assert figures["relative_error"] == pytest.approx(0.28, abs=0.006)
