"""Every sum of eight packed products comes apart into the two that went in."""

import pytest
from amaranth.hdl import Assert, Assume, Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from screc_hw.dsp import FIELD_BITS, PACKED_LENGTH, PackedDotChain
from tests.formal.kit import prove, refute

pytestmark = pytest.mark.formal

MOST = 127 * 127


class SumBench(wiring.Component):
    """A chain whose sum is any that ``products`` can give, instead of its multipliers'."""

    def __init__(self, make=PackedDotChain, *, products=PACKED_LENGTH):
        self._make = make
        self._most = products * MOST
        super().__init__({"low": In(signed(20)), "high": In(signed(20))})

    def elaborate(self, platform):
        m = Module()
        total = (self.high << FIELD_BITS) + self.low

        class Given(self._make):
            def _twin(self, m, k, cascade):
                return total[: 2 * FIELD_BITS + 1].as_signed()

        m.submodules.dut = dut = Given(1)
        m.d.comb += [
            *(Assume(value <= self._most) for value in (self.low, self.high)),
            *(Assume(value >= -self._most) for value in (self.low, self.high)),
            Assert(dut.low_sum == self.low, "the low sum"),
            Assert(dut.high_sum == self.high, "the high sum"),
        ]
        return m


def test_every_sum_of_eight_comes_apart(tmp_path):
    verdict = prove(SumBench(), tmp_path, mode="bmc", depth=1)
    assert verdict.passed, verdict


def test_sums_of_nine_do_not(tmp_path):
    refute(SumBench(products=9), tmp_path, depth=1)


def test_the_correction_is_needed(tmp_path):
    class Uncorrected(PackedDotChain):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            m.d.comb += self.high_sum.eq(self._twin(m, 0, None)[FIELD_BITS : 2 * FIELD_BITS])
            return m

    refute(SumBench(Uncorrected), tmp_path, depth=1, rule="the high sum")
