"""The TT reconstructor as Yosys maps it, and what it was estimated to cost."""

import dataclasses

import pytest

from tests.support.levels import assert_levels
from tests.support.synth import synthesise
from tests.support.tt_points import POINTS, netlist_of, params_of

TOLERANCE = 0.1
LEVELS = 5  # between registers, at 250 MHz

SLOW = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1800)] if number else [])
    for number, name in enumerate(POINTS)
]


@pytest.mark.parametrize("name", SLOW)
def test_resources_and_paths(name):
    params = params_of(name)
    mapped = synthesise(netlist_of(params))
    estimate = params.resources()
    print(f"{name}: estimated {estimate}, mapped {mapped.resources}")
    for kind in ("lut", "ff", "dsp", "bram36", "uram"):
        actual = getattr(mapped.resources, kind)
        assert getattr(estimate, kind) == pytest.approx(actual, rel=TOLERANCE), kind
    assert_levels(mapped, LEVELS)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"lanes": 2}, 4 * 4 * 4 + 4),
        ({"chain": 8}, 4 * 4 * 4),
        ({"requantisers": 16}, 12),
        ({"core1_words": 257}, 1),  # nine bits of i1 times its stride are a multiplier
        ({"core2_words": 257}, 2),  # and those of i2's remainder, too
        ({"core3_words": 257}, 2),
        ({"pinned_words": 500}, 1),
        ({"row_bits": 8}, 0),
        ({"row_bits": 24}, 0),  # 24 and 35 bits: 17, 17 and 1
        ({"row_bits": 25}, 1),
        ({"row_bits": 26}, 1),
        ({"row_bits": 29}, 3),  # the highest of six parts is beyond every prefix
    ],
)
def test_multipliers_are_those_of_the_parts(change, more):
    smallest = params_of("smallest")
    changed = dataclasses.replace(smallest, **change)
    assert changed.resources().dsp - smallest.resources().dsp == more
    assert smallest.resources().dsp == smallest.multipliers + 4 + 4


@pytest.mark.parametrize(
    ("change", "kind", "more"),
    [
        ({"core2_words": 513}, "bram36", 4 * 1),  # 64 bits: two of 1024 × 36 for one of 512 × 72
        ({"core2_words": 2049}, "uram", 4),
        ({"core2_words": 4096}, "uram", 4),
        ({"core2_words": 4097}, "uram", 8),
        ({"pinned_words": 4096}, "uram", 8),
        ({"max_tables": 128}, "bram36", 7),  # a word of a descriptor each
    ],
)
def test_memories_are_those_of_the_banks(change, kind, more):
    smallest = params_of("smallest")
    changed = dataclasses.replace(smallest, **change)
    before, after = (getattr(p.resources(), kind) for p in (smallest, changed))
    assert after - before == more
