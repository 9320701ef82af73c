"""The longest paths of the memory core, and the registers at its RAMs and DSPs."""

import pytest

from screc_hw.memory.core import MemoryCore
from tests.support.levels import assert_levels
from tests.support.memory_cores import LARGE, SMALLEST, core
from tests.support.synth import synthesise

LEVELS = 5  # between registers, at 250 MHz


def check(shape):
    assert_levels(synthesise(MemoryCore(core(shape))), LEVELS)


def test_paths_of_a_small_core():
    check(SMALLEST)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE.keys())
def test_paths_of_a_wide_port(shape):
    check(shape)
