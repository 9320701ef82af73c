from __future__ import annotations

import re

import numpy as np
import pytest

from screc_hw.protocol import TT_TABLE_FIELDS, unpack
from screc_hw.tt.image import TtTable, descriptor, load_blocks, reciprocal
from screc_hw.tt.params import DIGIT_BITS, PREFIX_BITS, TtParams
from screc_hw.tt.shape import MAX_DIGIT, TtShape

KAGGLE = TtShape(rows=10_131_227, p=(200, 220, 250), q=(2, 2, 4), ranks=(32, 32))


@pytest.mark.parametrize("bits", range(2, 30))
def test_the_reciprocal_divides_every_row_number(bits: int) -> None:
    """The condition of the proof for every divisor, and the quotients that are nearest to fail."""
    shift = bits + DIGIT_BITS
    last = (1 << bits) - 1
    for divisor in range(1, MAX_DIGIT + 1):
        m = reciprocal(divisor, bits)
        excess = m * divisor - (1 << shift)
        assert 0 <= excess < divisor
        assert last * excess < 1 << shift
        top = last // divisor * divisor
        for n in (0, divisor - 1, divisor, top - 1, top, last):
            if 0 <= n <= last:
                assert n * m >> shift == n // divisor


def test_the_reciprocal_of_few_bits_is_tried_out() -> None:
    for divisor in range(1, MAX_DIGIT + 1):
        m = reciprocal(divisor, 12)
        n = np.arange(1 << 12)
        assert (n * m >> (12 + DIGIT_BITS) == n // divisor).all()


def test_digits_of_the_kaggle_table_by_reciprocals() -> None:
    n = np.random.default_rng(0).integers(0, KAGGLE.rows, 100_000)
    _, p2, p3 = KAGGLE.p
    prefix = n * reciprocal(p3, 24) >> (24 + DIGIT_BITS)
    assert (prefix == n // p3).all()
    assert (
        prefix * reciprocal(p2, PREFIX_BITS) >> (PREFIX_BITS + DIGIT_BITS) == n // p3 // p2
    ).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p": (0, 1, 1)}, "p must be 3 numbers of at least 1, not (0, 1, 1)"),
        ({"q": (2, 2)}, "q must be 3 numbers of at least 1, not (2, 2)"),
        ({"ranks": (4, 0)}, "ranks must be 2 numbers of at least 1, not (4, 0)"),
        ({"p": (1025, 1, 1)}, "p must be at most 1024 each, not (1025, 1, 1)"),
        ({"p": (1024, 1024, 2), "rows": 1}, None),
        ({"rows": 0}, "rows must lie in 1..24 (the product of p (2, 3, 4)), not 0"),
        ({"rows": 25}, "rows must lie in 1..24 (the product of p (2, 3, 4)), not 25"),
        ({"q": (5, 1, 4)}, "q1 must be at most 4, not 5"),
        ({"q": (2, 2, 6)}, "q3 must be a multiple of 4, not 6"),
    ],
)
def test_wrong_shapes_are_refused(changed: dict, message: str | None) -> None:
    good = {"rows": 24, "p": (2, 3, 4), "q": (2, 2, 4), "ranks": (3, 5)}
    if message is None:
        TtShape(**{**good, **changed})
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        TtShape(**{**good, **changed})


def test_counts_of_a_shape() -> None:
    assert KAGGLE.parameters == 200 * 2 * 32 + 220 * 32 * 2 * 32 + 250 * 32 * 4
    assert (KAGGLE.prefix_macs, KAGGLE.row_macs, KAGGLE.macs) == (4096, 512, 4608)  # facts: 9,216/2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slice_lanes": 12}, "slice_lanes must be one of 4, 8, 16, 32, 64, 128, not 12"),
        ({"chain": 5}, "chain must be one of 4, 8, 16, not 5"),
        ({"requantisers": 2}, "requantisers must be one of 4, 8, 16, not 2"),
        ({"fraction": 9}, "fraction must lie in 0..8, not 9"),
        ({"lanes": 0}, "lanes must lie in 1..16, not 0"),
        ({"slots": 6}, "slots must be a power of two, not 6"),
        ({"max_tables": 3}, "max_tables must be a power of two, not 3"),
        ({"max_dim": 72}, "max_dim must be a multiple of slice_lanes 16, not 72"),
        ({"row_bits": 30}, "row_bits must lie in 2..29, not 30"),
        ({"max_rank": 121}, "max_rank must lie in 1..120, not 121"),
        ({"max_rank": 96, "max_q2": 31}, "q2 × (r2 / 4) × (r1 / chain) must be at most 4095"),
        ({"max_rank": 40, "max_q2": 32, "chain": 4}, "q2 × (r2 / chain) must be at most 255"),
        ({"max_q2": 32, "max_q3": 60, "chain": 16}, "q2 × (q3 / 4) must be at most 255, not 480"),
    ],
)
def test_wrong_parameters_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TtParams(**{"slice_lanes": 16, **changed})


@pytest.mark.parametrize("chain", [4, 8, 16])
@pytest.mark.parametrize("rank", [16, 32])
@pytest.mark.parametrize("q", [(2, 2, 4), (4, 4, 4), (4, 4, 8)])
def test_no_step_is_wasted_on_the_usual_shapes(chain: int, rank: int, q: tuple) -> None:
    shape = TtShape(rows=60, p=(3, 4, 5), q=q, ranks=(rank, rank))
    params = TtParams.for_tables([shape], slice_lanes=16, chain=chain)
    assert params.multipliers * params.steps1(shape) == shape.prefix_macs
    assert params.multipliers * params.steps2(shape) == shape.row_macs


def table(shape: TtShape, **changed: int) -> TtTable:
    cores = tuple(np.zeros(core, np.int8) for core in shape.core_shapes)
    return TtTable(shape, cores, **{"shift1": 0, "m": 1 << 15, "s": 15, **changed})


def test_a_descriptor_holds_what_the_hardware_reads() -> None:
    params = TtParams.for_tables([KAGGLE], [64], slice_lanes=16)
    words = descriptor(table(KAGGLE, pins=64, shift1=5), params, (1, 2, 3), 77)
    fields = unpack(TT_TABLE_FIELDS, sum(word << 64 * i for i, word in enumerate(words)))
    wanted = {
        "rows": 10_131_227,
        "p3": 250,
        "p2": 220,
        "base1": 1,
        "base2": 2,
        "base3": 3,
        "stride1": 4,
        "stride2": 32,
        "stride3": 4,
        "entry_words": 4,
        "pins": 64,
        "pin_base": 77,
        "steps1": 32,
        "steps2": 4,
        "k2": 4,
        "blocks": 1,
        "row_blocks": 1,
        "shift1": 5,
        "pairs": 1,
        "slices": 1,
        "chunk1": 2,
        "chunk2": 1,
        "chunks": 4,
    }
    assert {name: fields[name] for name in wanted} == wanted


def test_tables_that_do_not_fit_are_refused() -> None:
    params = TtParams.for_tables([KAGGLE], slice_lanes=16, max_tables=2)
    with pytest.raises(ValueError, match="at most 2 tables fit, not 3"):
        load_blocks([table(KAGGLE)] * 3, params)
    with pytest.raises(ValueError, match="take 1600 core1_words, which has 800"):
        load_blocks([table(KAGGLE)] * 2, params)
    with pytest.raises(ValueError, match="take 4 pinned_words, which has 0"):
        load_blocks([table(KAGGLE, pins=1)], params)
    wide = TtShape(rows=1, p=(1, 1, 1), q=(4, 4, 4), ranks=(1, 1))
    with pytest.raises(ValueError, match="TT table 0: q2 must be at most 2 here, not 4"):
        load_blocks([table(wide)], params)


def test_wrong_tables_are_refused() -> None:
    cores = tuple(np.zeros(core, np.int8) for core in KAGGLE.core_shapes)
    with pytest.raises(ValueError, match=re.escape("core 2 must be int8 (220, 32, 2, 32), not")):
        TtTable(KAGGLE, (cores[0], cores[2], cores[2]), 0, 1 << 15, 15)
    with pytest.raises(ValueError, match=re.escape("shift1 must lie in 0..7, not 8")):
        table(KAGGLE, shift1=8)
    with pytest.raises(ValueError, match=re.escape("m must lie in 32768..65535, not 1")):
        table(KAGGLE, m=1)
    with pytest.raises(ValueError, match=re.escape("s must lie in 1..47, not 0")):
        table(KAGGLE, s=0)
    with pytest.raises(ValueError, match=re.escape("core 3 must be in -127..127, not -128")):
        TtTable(KAGGLE, (cores[0], cores[1], cores[2] - np.int8(127) - np.int8(1)), 0, 1 << 15, 15)
    with pytest.raises(ValueError, match=re.escape("pins must lie in 0..44000, not 44001")):
        table(KAGGLE, pins=44_001)
