import dataclasses

import pytest

from screc_hw.memory.params import MAX_ROW_BEATS, SECTION_BURST_BEATS, MemoryCoreParams
from screc_hw.model import TableShape

GOOD = {"lanes": 16, "max_features": 26, "max_slices": 4, "rows": 8, "slots": 2}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"port_bits": 64}, "port_bits must be 128, 256 or 512, not 64"),
        ({"lanes": 12}, "lanes must be a power of two, not 12"),
        ({"lanes": 2}, "lanes must lie in 4..128, not 2"),
        ({"lanes": 256}, "lanes must lie in 4..128, not 256"),
        ({"lanes": 64, "port_bits": 128}, "lanes 64 must fit a beat of 16 bytes, two each"),
        ({"pool_bits": 31}, "pool_bits must lie in 32..64, not 31"),
        ({"onchip_beats": -1}, "onchip_beats must lie in 0..4294967296, not -1"),
        ({"max_bag": 0}, "max_bag must lie in 1..65535, not 0"),
        ({"max_bag": 65536}, "max_bag must lie in 1..65535, not 65536"),
        ({"address_bits": 12}, "address_bits must lie in 13..64, not 12"),
        ({"rows": 1 << 17}, "rows must lie in 1..65536, not 131072"),
        ({"tt_fraction": 11}, "tt_fraction must lie in 0..10, not 11"),
        ({"pool_beats": 3}, "pool_beats must be 1 or 2, not 3"),
        ({"pool_beats": 2}, "pool_beats 2 needs on-chip or TT rows beside those in DRAM"),
        ({"rows": 3}, "rows must be a power of two, not 3"),
        ({"slots": 0}, "slots must be a power of two, not 0"),
        ({"max_features": 0}, "max_features must lie in 1..4096, not 0"),
        ({"max_features": 4097}, "max_features must lie in 1..4096, not 4097"),
        ({"max_slices": 256}, "max_slices must lie in 1..255, not 256"),
        (
            {"port_bits": 128, "max_slices": 33},
            "a row of max_slices × lanes = 528 bytes takes 33 beats of 16 bytes, more than 32",
        ),
        ({"outstanding": 1}, "outstanding must be at least 2 (the longest row), not 1"),
        (
            {"port_bits": 128, "max_slices": 8, "outstanding": 7},
            "outstanding must be at least 8 (the longest row), not 7",
        ),
    ],
)
def test_parameters_that_cannot_be_built_are_refused(change, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        MemoryCoreParams(**{**GOOD, **change})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("port_bits", "lanes", "max_slices", "beats"),
    [(512, 64, 32, 32), (512, 16, 1, 1), (512, 16, 5, 2), (128, 4, 9, 3)],
)
def test_row_beats_hold_the_longest_int8_row(port_bits, lanes, max_slices, beats):
    change = {"port_bits": port_bits, "lanes": lanes, "max_slices": max_slices}
    params = MemoryCoreParams(**{**GOOD, **change})
    assert params.max_row_beats == beats <= MAX_ROW_BEATS


@pytest.mark.parametrize(("max_bag", "bits"), [(1, 8), (2, 9), (129, 15), (65535, 24)])
def test_accumulator_holds_the_longest_bag_and_no_more(max_bag, bits):
    params = MemoryCoreParams(**GOOD, max_bag=max_bag)
    assert params.acc_bits == bits
    assert -(1 << bits - 1) <= -127 * max_bag
    assert 127 * max_bag < 1 << bits - 1
    assert 127 * max_bag >= 1 << bits - 2


@pytest.mark.parametrize("port_bits", [128, 256, 512])
@pytest.mark.parametrize("outstanding", [2, 32, 64, 128])
def test_section_places_cover_the_outstanding_rows(port_bits, outstanding):
    change = {"port_bits": port_bits, "lanes": 4, "outstanding": outstanding}
    params = MemoryCoreParams(**{**GOOD, **change})
    records = (params.section_beats - 2 * SECTION_BURST_BEATS) * params.records_per_beat
    assert records >= outstanding
    assert params.section_beats & (params.section_beats - 1) == 0


def test_cycles_are_those_of_the_slowest_part():
    params = MemoryCoreParams(**GOOD)
    one = {"lookups": 100, "slices": 1, "row_beats": 1}
    assert params.cycles(**one) == 112.5
    assert params.cycles(**one, records=False) == 100
    assert params.cycles(**one, partials=200) == 200
    assert params.cycles(lookups=100, slices=4, row_beats=1) == 400
    assert params.cycles(lookups=100, slices=1, row_beats=2, row_cycles=2, onchip=0.5) == 112.5
    assert params.cycles(**one, latency=2 * 64) > 2 * 100
    assert params.cycles(lookups=0, slices=1, row_beats=1) == 0
    two = MemoryCoreParams(**GOOD, onchip_beats=64, pool_beats=2)
    half = {"lookups": 100, "slices": 2, "row_beats": 1, "onchip": 0.5, "records": False}
    assert two.cycles(**half) == 100
    assert dataclasses.replace(two, pool_beats=1).cycles(**half) == 200


@pytest.mark.parametrize(
    ("lanes", "dim", "format_", "cycles"),
    [
        (64, 64, "int8", 1),
        (64, 128, "int8", 2),
        (64, 128, "int4", 2),
        (128, 128, "int4", 1),
        (128, 128, "int8", 2),
        (64, 64, "int8r", 2),  # a beat of codes, and one of scale and bias
        (64, 64, "int4r", 1),
        (64, 128, "int8r", 3),
        (128, 128, "int4r", 2),
        (16, 16, "int8r", 1),
    ],
)
def test_row_cycles_are_pieces_and_dropped_beats(lanes, dim, format_, cycles):
    params = MemoryCoreParams(**{**GOOD, "lanes": lanes, "rowwise": True})
    assert params.row_cycles(TableShape(name="t", rows=1, dim=dim, format=format_)) == cycles


@pytest.mark.parametrize(
    ("change", "resource"),
    [
        ({"lanes": 64}, "lut"),
        ({"max_slices": 64}, "lut"),  # beyond the 32 words of a LUT RAM
        ({"max_slices": 255, "lanes": 4}, "bram36"),
        ({"outstanding": 512}, "bram36"),
        ({"max_features": 600}, "bram36"),
    ],
)
def test_resources_grow_with_the_parameters(change, resource):
    params = MemoryCoreParams(**GOOD)
    small, large = params.resources(), dataclasses.replace(params, **change).resources()
    assert getattr(large, resource) > getattr(small, resource)


def test_a_narrower_port_takes_less():
    wide, narrow = (MemoryCoreParams(**GOOD, port_bits=bits).resources() for bits in (512, 128))
    assert narrow.lut < wide.lut
    assert narrow.ff < wide.ff


def test_sums_of_up_to_32_slices_take_the_same_lut_ram():
    # but no memory at all where there is one
    few, many, one = (MemoryCoreParams(**{**GOOD, "max_slices": n}).resources() for n in (2, 32, 1))
    assert 0 < many.lut - few.lut < 100  # the slices' numbers grow
    assert few.lut - one.lut > 200
