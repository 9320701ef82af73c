import numpy as np
import pytest

from screc.tt.fbtt import export_fbtt, import_fbtt

P, Q, RANKS = [3, 5, 4], [2, 3, 4], [6, 7]


def stored(tables=2, seed=0):
    rng = np.random.default_rng(seed)
    r = [1, *RANKS, 1]
    return [
        rng.standard_normal((tables, P[k], r[k] * Q[k] * r[k + 1])).astype(np.float32)
        for k in range(3)
    ]


def lookup(cores, table, row):
    """A row as FBTT's kernels: strides, slices, a chain of matrix products with reshapes."""
    r = [1, *RANKS, 1]
    strides = [P[1] * P[2], P[2], 1]
    result = np.ones((1, 1), np.float64)
    for k in range(3):
        digit, row = row // strides[k], row % strides[k]
        matrix = cores[k][table][digit].astype(np.float64).reshape(r[k], Q[k] * r[k + 1])
        result = (result.reshape(-1, r[k]) @ matrix).reshape(-1, r[k + 1])
    return result.ravel()


@pytest.mark.parametrize("ends", [False, True])
def test_rows_are_those_of_fbtts_own_contraction(ends):
    cores = stored()
    tables = import_fbtt(cores, 57, P, Q, [1, *RANKS, 1] if ends else RANKS)
    assert len(tables) == 2
    for number, tt in enumerate(tables):
        assert tt.shape.rows == 57
        expected = [lookup(cores, number, row) for row in range(57)]
        np.testing.assert_allclose(tt.rows(np.arange(57)), expected, rtol=1e-4, atol=1e-4)


def test_export_is_the_inverse():
    cores = stored()
    back = export_fbtt(import_fbtt(cores, 60, P, Q, RANKS))
    for one, other in zip(cores, back, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_one_table_without_the_first_axis_and_doubles():
    cores = stored(tables=1)
    (tt,) = import_fbtt([core[0].astype(np.float64) for core in cores], 60, P, Q, RANKS)
    np.testing.assert_array_equal(tt.cores[1].ravel(), cores[1].ravel())
    assert tt.cores[1].dtype == np.float32


@pytest.mark.parametrize("count", [2, 4])
def test_two_or_four_cores_are_refused(count):
    cores = [np.ones((1, 4, 4), np.float32)] * count
    with pytest.raises(ValueError, match=f"a TT table must have 3 cores, p and q, not {count}"):
        import_fbtt(cores, 4, [4] * count, [4] * count, [2] * (count - 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": [6]}, r"ranks must be 2 numbers, not \[6\]"),
        ({"ranks": [2, 6, 7, 1]}, r"ranks must be 2 numbers, not \[2, 6, 7, 1\]"),
        ({"ranks": [6, 8]}, r"tt_cores\.1 must be \(2, 5, 144\), not \(2, 5, 126\)"),
        ({"p": [3, 4, 5]}, r"tt_cores\.1 must be \(2, 4, 126\), not \(2, 5, 126\)"),
        ({"rows": 61}, r"rows must lie in 1\.\.60"),
        ({"q": [2, 4, 3]}, "q3 must be a multiple of 4, not 3"),
        ({"q": [8, 1, 4]}, "q1 must be at most 4, not 8"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    given = {"rows": 60, "p": P, "q": Q, "ranks": RANKS} | changes
    with pytest.raises(ValueError, match=message):
        import_fbtt(stored(), **given)


def test_export_of_several_shapes_is_refused():
    one = import_fbtt(stored(1), 60, P, Q, RANKS)
    other = import_fbtt(stored(1), 59, P, Q, RANKS)
    with pytest.raises(ValueError, match="tables must be of one shape, not 2"):
        export_fbtt([*one, *other])
    with pytest.raises(ValueError, match="tables must be of one shape, not 0"):
        export_fbtt([])
