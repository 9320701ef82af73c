import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import SLVERR, ReadSignature
from screc_hw.axi.guard import ReadGuard
from tests.formal.kit import prove, refute
from tests.formal.rules import held, read_port, within

pytestmark = pytest.mark.formal

WIDTHS = {"data_bits": 8, "address_bits": 13, "id_bits": 1}
IDS = 2
TIMEOUT = 2
MOST = 4

ANSWERED = TIMEOUT + IDS + 4
"""Cycles to a beat: the port fails, the turn comes round, the beat passes the registers."""

ACCEPTED = TIMEOUT + MOST + 2 * IDS + 2
"""Cycles that an address waits: for a failing port, or for the last answers."""


class GuardBench(wiring.Component):
    """A guard between masters and a memory that may stop, or go on, at any time."""

    def __init__(self, make=ReadGuard, *, progress=False, covers=False, invariants=True):
        self._make = make
        self._progress = progress
        self._covers = covers
        self._invariants = invariants
        port = ReadSignature(**WIDTHS)
        super().__init__({"i": In(port), "o": Out(port)})

    def elaborate(self, platform):
        m = Module()
        dut = self._make(**WIDTHS, timeout_cycles=TIMEOUT, outstanding=MOST)
        m.submodules.dut = dut
        wiring.connect(m, wiring.flipped(self.i), dut.i)
        wiring.connect(m, dut.o, wiring.flipped(self.o))
        i, o = self.i, self.o
        address_i, address_o = (
            Cat(axi.araddr, axi.arid, axi.arlen, axi.arsize, axi.arburst) for axi in (i, o)
        )
        beat_i, beat_o = (Cat(axi.rid, axi.rresp, axi.rdata, axi.rlast) for axi in (i, o))

        held(m, i.arvalid, i.arready, address_i, "masters", Assume)
        held(m, o.arvalid, o.arready, address_o, "AR")
        masters = read_port(m, i, most=MOST, master=Assume, memory=Assert)
        memory = read_port(m, o, most=MOST, master=Assert, memory=Assume)
        # what a master has offered it has a place for
        offered = Mux(i.arvalid, i.arlen + 1, 0)
        m.d.comb += Assume(masters.total + offered <= MOST)

        late_now, late = Signal(range(MOST + 1)), Signal(range(MOST + 1))
        pending = Mux(o.arvalid, o.arlen + 1, 0)
        m.d.comb += late_now.eq(Mux(dut.expired, memory.total + pending, late))
        m.d.sync += late.eq(late_now - (o.rvalid & (late_now != 0)))
        m.d.comb += Assert(dut.owing | (late_now == 0), "owing while beats are late")
        there = [
            owed + Mux(o.arid == number, pending, 0) for number, owed in enumerate(memory.owed)
        ]
        for number, owed in enumerate(masters.owed):
            waits = owed - (i.rvalid & (i.rid == number))
            m.d.comb += Assert(dut.owing | (waits == there[number]), "R: all is at the port")

        if self._progress:
            within(m, masters.total != 0, i.rvalid, ANSWERED, "R: a beat comes")
            within(m, i.arvalid, i.arready, ACCEPTED, "AR: accepted")
            none_late = dut.owing & (late_now == 0)
            within(m, none_late, Const(0), ACCEPTED, "owing ends when none is late")

        started, passed, owing = Signal(), Signal(), Signal()
        beat = Signal(len(beat_o))
        m.d.sync += [
            started.eq(1),
            passed.eq(o.rvalid & (late_now == 0)),
            owing.eq(dut.owing),
            beat.eq(beat_o),
        ]
        answer = (i.rresp == SLVERR) & (i.rdata == 0)
        with m.If(passed):
            m.d.comb += Assert(i.rvalid & (beat_i == beat), "R: beats in time pass unchanged")
        with m.Elif(i.rvalid):
            m.d.comb += Assert(owing & answer, "R: other beats are answers of a failed port")

        taken, waited, failed = Signal(), Signal(), Signal()
        address = Signal(len(address_i))
        m.d.sync += [
            taken.eq(i.arvalid & i.arready & ~dut.owing),
            waited.eq(o.arvalid & ~o.arready),
            failed.eq(dut.owing & ~dut.expired),
            address.eq(address_i),
        ]
        m.d.comb += Assert(o.arvalid == (taken | waited), "AR: what was taken in time, no more")
        with m.If(taken):
            m.d.comb += Assert(address_o == address, "AR: passes unchanged")
        m.d.comb += Assert(~dut.expired | ~owing, "expired begins a failure")
        m.d.comb += Assert(dut.expired == (dut.owing & started & ~owing), "expired is a pulse")

        if self._covers:
            again = Signal()
            with m.If(owing & ~dut.owing):
                m.d.sync += again.eq(1)
            m.d.comb += [
                Cover(dut.expired & (late_now == MOST), "all is outstanding when it fails"),
                Cover(again & passed & i.rvalid, "reads pass again"),
                Cover(again & dut.expired, "fails again"),
                Cover(failed & o.arvalid & o.arready, "accepts a late address"),
            ]
        if self._invariants:
            self._state_invariants(m, dut, masters, memory, pending, there, late_now)
        return m

    def _state_invariants(self, m, dut, masters, memory, pending, there, late_now):
        """Tie the guard's counters to the bench's, so that induction starts from real states."""
        for number, owed in enumerate(dut._owed):
            recent = Mux(dut._taken & (dut._asker == number), dut._length + 1, 0)
            leaving = self.i.rvalid & (self.i.rid == number)
            m.d.comb += Assert(~dut._left[number] | (owed != 0), "left: invariant")
            m.d.comb += Assert(masters.owed[number] == owed + recent + leaving, "owed: invariant")
            m.d.comb += Assert(dut.owing | (owed + recent == there[number]), "in time: invariant")
        recent = Mux(dut._through, dut._length + 1, 0)
        m.d.comb += [
            Assert(dut._port_owes + recent == memory.total + pending, "port owes: invariant"),
            Assert(memory.total + pending <= MOST, "at the port: invariant"),
            Assert((dut._turn == 1) | (dut._turn == 2), "one turn: invariant"),
            Assert(~(dut._failed & dut._closing), "states: invariant"),
            Assert(~dut._through | dut._taken, "through: invariant"),
        ]
        with m.If(~dut.owing):
            owed = sum(dut._owed[1:], start=dut._owed[0])
            m.d.comb += [
                Assert(owed == dut._port_owes, "both owed: invariant"),
                Assert(dut._through == dut._taken, "all through: invariant"),
            ]
        with m.Else():
            m.d.comb += Assert(late_now == memory.total + pending, "late: invariant")
            with m.If(~dut.expired):
                m.d.comb += Assert(~dut._through, "none through: invariant")
        with m.If(dut._closing):
            m.d.comb += Assert(late_now == 0, "closing: invariant")


def test_guard_keeps_its_rules(tmp_path):
    verdict = prove(GuardBench(), tmp_path, mode="prove", depth=3)
    assert verdict.passed, verdict


def test_guard_never_keeps_masters_waiting(tmp_path):
    verdict = prove(GuardBench(progress=True), tmp_path, mode="prove", depth=ACCEPTED + 2)
    assert verdict.passed, verdict


def test_guard_fails_and_recovers(tmp_path):
    verdict = prove(GuardBench(covers=True), tmp_path, mode="cover", depth=30)
    assert verdict.passed, verdict


def _withdraw(m, guard):
    with m.If(guard.expired):
        m.d.sync += guard.o.arvalid.eq(0)


def _load_anew(m, guard):
    with m.If(guard.o.arvalid & guard.expired):
        m.d.sync += guard.o.araddr.eq(guard.i.araddr)


def _pass_late(m, guard):
    with m.If(guard._failed & guard.o.rvalid):
        m.d.sync += [guard.i.rvalid.eq(1), guard.i.rid.eq(guard.o.rid)]


def _reopen_early(m, guard):
    with m.If(guard._failed & ~guard._taken & ~Cat(guard._owed).any()):
        m.d.sync += guard._failed.eq(0)


def _forget_the_offered(m, guard):
    with m.If(guard.expired & guard.o.arvalid & guard.o.arready):
        m.d.sync += guard._port_owes.eq(0)


def _close_early(m, guard):
    with m.If(guard._closing):
        m.d.sync += guard._closing.eq(0)


def _never_expire(m, guard):
    m.d.sync += [guard._failed.eq(0), guard.expired.eq(0)]


def _answer_twice(m, guard):
    with m.If(guard.owing):
        m.d.sync += guard._owed[1].eq(guard._owed[1])


def _one_turn(m, guard):
    m.d.sync += guard._turn.eq(1)


def _let_through(m, guard):
    with m.If(guard._failed & guard.i.arvalid & ~guard.o.arvalid):
        m.d.sync += guard.o.arvalid.eq(1)


def _good_answer(m, guard):
    m.d.sync += guard.i.rresp.eq(guard.o.rresp)


def _early_data(m, guard):
    m.d.comb += guard.i.rdata.eq(guard.o.rdata)


MUTANTS = {
    _withdraw: "AR: valid holds",
    _load_anew: "AR: payload holds",
    _pass_late: "R: a beat of ID 1 was asked for",
    _reopen_early: "R: all is at the port",
    _forget_the_offered: "owing while beats are late",
    _close_early: "R: all is at the port",
    _never_expire: "R: a beat comes",
    _answer_twice: "R: a beat of ID 1 was asked for",
    _one_turn: "R: a beat comes",
    _let_through: "AR: what was taken in time, no more",
    _good_answer: "R: other beats are answers",
    _early_data: "R: beats in time pass unchanged",
}

QUICK = (_withdraw, _good_answer, _close_early)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(c, id=c.__name__[1:], marks=() if c in QUICK else pytest.mark.slow)
        for c in MUTANTS
    ],
)
def test_guard_rules_catch_a_mutant(change, tmp_path):
    class Mutant(ReadGuard):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            change(m, self)
            return m

    bench = GuardBench(Mutant, progress=True, invariants=False)
    refute(bench, tmp_path, depth=24, rule=MUTANTS[change])
