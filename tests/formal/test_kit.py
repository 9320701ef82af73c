import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import INCR, ReadSignature
from screc_hw.stream import SkidBuffer
from tests.formal.kit import prove, refute
from tests.formal.rules import held, read_master, read_port, within

pytestmark = pytest.mark.formal


class LossyBuffer(SkidBuffer):
    """Drops what it holds when it waits for a cycle."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        waited = Signal()
        m.d.sync += waited.eq(self.o.valid & ~self.o.ready)
        with m.If(waited):
            m.d.sync += self.o.valid.eq(0)
        return m


class BufferBench(wiring.Component):
    """A buffer whose output holds, and which keeps one chosen item's place in the order."""

    def __init__(self, make):
        self._make = make
        super().__init__({"i": In(stream.Signature(4)), "o": Out(stream.Signature(4))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self._make(4)
        wiring.connect(m, wiring.flipped(self.i), dut.i)
        wiring.connect(m, dut.o, wiring.flipped(self.o))
        held(m, self.i.valid, self.i.ready, self.i.payload, "i", Assume)
        held(m, self.o.valid, self.o.ready, self.o.payload, "o")
        inside = Signal(2)
        m.d.sync += inside.eq(
            inside + (self.i.valid & self.i.ready) - (self.o.valid & self.o.ready)
        )
        m.d.comb += [
            Assert(inside == self.o.valid + ~self.i.ready, "nothing lost, nothing made"),
            Cover(inside == 2, "full"),
        ]
        return m


@pytest.mark.parametrize("mode", ["bmc", "prove", "cover"])
def test_kit_passes_a_sound_component(mode, tmp_path):
    verdict = prove(BufferBench(SkidBuffer), tmp_path, mode=mode, depth=6)
    assert verdict.passed, verdict
    assert verdict.failures == ()


def test_kit_names_place_and_rule_that_a_mutant_breaks(tmp_path):
    verdict = refute(BufferBench(LossyBuffer), tmp_path, rule="o: valid holds")
    assert verdict.status == "FAIL"
    assert verdict.trace.is_file()
    assert all(failure.startswith(("rules.py:", "test_kit.py:")) for failure in verdict.failures)


def test_kit_says_when_a_mutant_survives(tmp_path):
    with pytest.raises(AssertionError, match="the mutant was not caught: PASS"):
        refute(BufferBench(SkidBuffer), tmp_path, depth=4)


class CounterBench(wiring.Component):
    """Goes round from 7 to 0, but a step from 11 would lead to 12."""

    def __init__(self, *, invariant):
        self._invariant = invariant
        super().__init__({"go": In(1)})

    def elaborate(self, platform):
        m = Module()
        count = Signal(4)
        with m.If(self.go):
            m.d.sync += count.eq(Mux(count == 7, 0, count + 1))
        m.d.comb += [Assert(count != 12, "below 12"), Cover(count == 9, "nine")]
        if self._invariant:
            m.d.comb += Assert(count < 8, "at most 7")
        return m


def test_kit_tells_unproven_from_broken(tmp_path):
    verdict = prove(CounterBench(invariant=False), tmp_path, mode="prove", depth=3)
    assert verdict.status == "UNKNOWN"
    assert not verdict.passed
    assert [failure.split(" ", 1)[1] for failure in verdict.failures] == ["below 12"]


def test_kit_proves_with_an_invariant(tmp_path):
    verdict = prove(CounterBench(invariant=True), tmp_path, mode="prove", depth=3)
    assert verdict.passed, verdict


def test_kit_says_what_cannot_be_reached(tmp_path):
    verdict = prove(CounterBench(invariant=True), tmp_path, mode="cover", depth=20)
    assert verdict.status == "FAIL"
    assert [failure.split(" ", 1)[1] for failure in verdict.failures] == ["nine"]


def test_kit_refuses_an_unknown_mode(tmp_path):
    with pytest.raises(ValueError, match=r"^mode must be one of .*, not 'live'$"):
        prove(CounterBench(invariant=True), tmp_path, mode="live")


DATA_BITS = 16
START, END = 0x0F80, 0x1480


class ReaderBench(wiring.Component):
    """A read master that keeps every rule but one, and its memory."""

    def __init__(self, fault=""):
        self._fault = fault
        port = ReadSignature(data_bits=DATA_BITS, address_bits=13)
        super().__init__({"axi": Out(port), "go": In(1), "block": In(6), "beats": In(range(5))})

    def elaborate(self, platform):
        m = Module()
        axi, fault = self.axi, self._fault
        memory = Assert if fault == "unasked" else Assume
        ledger = read_port(m, axi, most=8, memory=memory)
        read_master(m, axi, data_bits=DATA_BITS, max_beats=4, start=START, end=END)
        within(m, axi.arvalid, axi.arready, 3, "AR: accepted", Assume)
        within(m, ledger.total != 0, axi.rvalid, 4, "R: a beat comes", Assume)

        lowest = START - 128 if fault == "early" else START
        highest = END if fault == "past" else END - 8
        address = self.block << 7
        legal = (address >= lowest) & (address <= highest) & (self.beats != 0) & (self.beats <= 4)
        reserved = Signal(8)
        room = reserved <= (5 if fault == "greedy" else 4)
        move = axi.arready | (fault == "unstable")
        with m.If(~axi.arvalid | move):
            m.d.sync += axi.arvalid.eq(self.go & legal & room)
            m.d.sync += axi.arlen.eq(self.beats - 1 + (fault == "long"))
            shift = {"odd": 1, "cross": Mux(address == START, 122, 0)}.get(fault, 0)
            m.d.sync += axi.araddr.eq(address + shift)
        if fault == "withdrawn":
            with m.If(axi.arvalid & ~axi.arready & ~self.go):
                m.d.sync += axi.arvalid.eq(0)
        m.d.comb += reserved.eq(ledger.total + Mux(axi.arvalid, axi.arlen + 1, 0))
        if fault != "greedy":
            m.d.comb += Assert(reserved <= 8, "reserved: invariant")
        m.d.comb += [
            axi.arburst.eq(0 if fault == "fixed" else INCR),
            axi.arsize.eq(0 if fault == "narrow" else 1),
            axi.rready.eq(fault != "deaf"),
            Cover(axi.arvalid & (axi.arlen == 3), "a burst of 4"),
            Cover(ledger.total == 8, "8 beats outstanding"),
        ]
        if fault == "slow":
            within(m, ledger.total != 0, axi.rvalid, 3, "R: a beat comes early")
        return m


def test_rules_pass_a_master_that_keeps_them(tmp_path):
    verdict = prove(ReaderBench(), tmp_path, mode="prove", depth=4)
    assert verdict.passed, verdict


def test_rules_leave_room_for_full_traffic(tmp_path):
    verdict = prove(ReaderBench(), tmp_path, mode="cover", depth=12)
    assert verdict.passed, verdict


FAULTS = {
    "withdrawn": "AR: valid holds",
    "unstable": "AR: payload holds",
    "fixed": "AR: burst is INCR",
    "narrow": "AR: beats are of full width",
    "odd": "AR: address is aligned",
    "long": "AR: at most 4 beats",
    "cross": "AR: within a 4 KiB block",
    "early": "AR: not before the start",
    "past": "AR: not past the end",
    "greedy": "AR: at most 8 beats outstanding",
    "deaf": "R: always ready",
    "unasked": "R: a beat of ID",
    "slow": "R: a beat comes early within 3 cycles",
}
QUICK = ("unstable", "cross", "past", "greedy")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAULTS],
)
def test_each_rule_catches_its_fault(fault, tmp_path):
    refute(ReaderBench(fault), tmp_path, depth=12, rule=FAULTS[fault])
