import math

import pytest

from screc.models import preset_shape
from screc.tt.shape import choose_shape, compression, dim_factors, entropy, row_factors

# those of TT-Rec and FBTT-Embedding
KAGGLE = {
    10_131_227: (200, 220, 250),
    8_351_593: (200, 200, 209),
    7_046_547: (200, 200, 200),
    5_461_306: (166, 175, 188),
    2_202_608: (125, 130, 136),
    286_181: (53, 72, 75),
    142_572: (50, 52, 55),
    93_145: (45, 45, 46),
}
TERABYTE_10M = {
    9_994_222: (200, 200, 250),
    9_980_333: (200, 222, 225),
    9_946_608: (200, 203, 245),
    9_758_201: (203, 209, 230),
    7_267_859: (200, 200, 200),
    1_333_352: (125, 125, 128),
    415_421: (70, 75, 80),
    313_829: (50, 80, 80),
}
TERABYTE_40M = {
    39_979_771: (334, 342, 350),
    39_884_406: (304, 350, 375),
    39_664_984: (250, 397, 400),
    38_532_951: (320, 325, 375),
    25_641_295: (285, 300, 300),
    2_953_546: (130, 142, 160),
    585_935: (75, 80, 100),
    403_346: (50, 82, 100),
}


@pytest.mark.parametrize(("rows", "p"), (KAGGLE | TERABYTE_10M | TERABYTE_40M).items())
def test_the_published_row_factors(rows, p):
    assert row_factors(rows) == p


@pytest.mark.parametrize(
    ("dim", "q"),
    [
        (4, (1, 1, 4)),
        (8, (1, 2, 4)),
        (16, (2, 2, 4)),
        (24, (3, 2, 4)),
        (32, (2, 4, 4)),
        (48, (4, 3, 4)),
        (64, (4, 4, 4)),
        (128, (4, 4, 8)),
        (256, (4, 8, 8)),
    ],
)
def test_factors_of_the_usual_dimensions(dim, q):
    assert dim_factors(dim) == q


def test_every_dimension_has_factors():
    for dim in range(4, 513, 4):
        q1, q2, q3 = dim_factors(dim)
        assert q1 * q2 * q3 == dim
        assert q1 <= 4
        assert q3 % 4 == 0


def slow_factors(rows):
    """Every ordered triple of every rounding, its entropy written out."""
    best, chosen = -1.0, None
    for k in range(len(str(rows))):
        number = math.ceil(rows / 10**k) * 10**k
        for a in range(1, number + 1):
            for b in range(a, number // a + 1):
                c = number // (a * b)
                if a * b * c == number and b <= c:
                    value = entropy((a, b, c))
                    if value > best:
                        best, chosen = value, (a, b, c)
    return chosen


def test_row_factors_are_those_of_a_search_over_everything():
    for rows in [*range(1, 60), 97, 101, 210, 599, 997]:
        assert row_factors(rows) == slow_factors(rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 1021, 1 << 30, (1 << 30) - 35, 1_073_000_001, 10**9 + 7])
def test_factors_hold_every_row_in_ten_bits(rows):
    p = row_factors(rows)
    assert math.prod(p) >= rows
    assert max(p) <= 1024
    assert list(p) == sorted(p)


@pytest.mark.parametrize(("tables", "ratio"), [(3, 4.1), (5, 48.3), (7, 117.4)])
def test_compression_of_criteo_kaggle_at_rank_32(tables, ratio):
    assert round(compression(preset_shape("criteo-kaggle"), tables, 32), 1) == ratio


def test_compression_of_criteo_terabyte_at_rank_8():
    assert round(compression(preset_shape("criteo-terabyte-10m"), 7, 8), 1) == 112.5


def test_compression_of_no_table_is_one_and_of_too_many_is_refused():
    shape = preset_shape("criteo-kaggle")
    assert compression(shape, 0, 8) == 1
    with pytest.raises(ValueError, match=r"tables must lie in 0\.\.26, not 27"):
        compression(shape, 27, 8)


def test_ranks_beyond_those_of_any_table_are_lowered():
    assert choose_shape(10_131_227, 64, 16).ranks == (16, 16)
    assert choose_shape(10_131_227, 64, (8, 32)).ranks == (8, 32)
    assert choose_shape(1, 16, 8).ranks == (2, 4)
    assert choose_shape(1, 4, 8).ranks == (1, 1)


@pytest.mark.parametrize(
    ("rows", "dim", "rank", "message"),
    [
        (0, 16, 8, r"rows must lie in 1\.\.1073741824 for a TT table, not 0"),
        ((1 << 30) + 1, 16, 8, r"rows must lie in .*, not 1073741825"),
        (10, 6, 8, "dim must be a positive multiple of 4 for a TT table, not 6"),
        (10, 0, 8, "dim must be a positive multiple of 4 .*, not 0"),
        (10, 16, 0, "rank must be at least 1, not 0"),
        (10, 16, (4, 0), r"rank must be at least 1, not \(4, 0\)"),
    ],
)
def test_bad_sizes_are_refused(rows, dim, rank, message):
    with pytest.raises(ValueError, match=message):
        choose_shape(rows, dim, rank)
