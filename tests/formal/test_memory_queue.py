import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.stream import DeepQueue
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import constant, held, within
from tests.formal.state import opened, sole

pytestmark = pytest.mark.formal

DEPTH = 2
"""Three entries in its memory, and two registers."""


class QueueBench(wiring.Component):
    """A queue, a bit wide: what goes in comes out, once and in its order.

    The solver picks a place in the order; the bit that went in there comes out there.
    """

    def __init__(self, make=DeepQueue, *, reserved=False, covers=False):
        self._make = make
        self._reserved = reserved
        self._covers = covers
        super().__init__(
            {
                "i": In(stream.Signature(1, always_ready=reserved)),
                "o": Out(stream.Signature(1)),
                "place": In(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, o = self.i, self.o
        dut = self._make(1, DEPTH, reserved=self._reserved)
        m.submodules.dut, state = opened(dut)
        wiring.connect(m, wiring.flipped(i), dut.i)
        wiring.connect(m, dut.o, wiring.flipped(o))
        held(m, o.valid, o.ready, o.payload, "o")
        if not self._reserved:
            held(m, i.valid, i.ready, i.payload, "i", Assume)
        constant(m, self.place)

        enter, leave = i.valid & i.ready, o.valid & o.ready
        came, gone, inside = Signal(4), Signal(4), Signal(4)
        bit = Signal()
        m.d.sync += [
            came.eq(Mux(came == 15, 15, came + enter)),
            gone.eq(Mux(gone == 15, 15, gone + leave)),
            inside.eq(inside + enter - leave),
        ]
        with m.If(enter & (came == self.place)):
            m.d.sync += bit.eq(i.payload)
        if self._reserved:
            m.d.comb += Assume(~enter | (inside < DEPTH))
        full = DEPTH if self._reserved else DEPTH + 3
        picked = o.valid & (gone == self.place) & (self.place != 15)
        m.d.comb += [
            Assert(~picked | ((came > self.place) & (o.payload == bit)), "in order, unchanged"),
            Assert(inside == state.entries(""), "none lost"),
            Assert(inside <= full, "as many as it has places"),
            Assert(dut.busy == (inside != 0), "busy while it holds an entry"),
        ]
        within(m, inside != 0, o.valid, 2, "an entry comes out")
        within(m, i.valid, i.ready | (inside >= DEPTH), 2, "an entry goes in")
        if self._covers:
            m.d.comb += Cover((inside > DEPTH) & (gone == 2), "full")
        return m


@pytest.mark.parametrize("reserved", [False, True])
def test_queue_keeps_what_it_holds(reserved, tmp_path):
    verdict = prove(QueueBench(reserved=reserved), tmp_path, depth=14)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_queue_fills(tmp_path):
    verdict = prove(QueueBench(covers=True), tmp_path, mode="cover", depth=14)
    assert verdict.passed, verdict


def _load_over_what_waits(m, queue):
    m.d.comb += sole(m, "load").eq(1)


def _hold_the_wrong_one(m, queue):
    m.d.sync += sole(m, "held").eq(sole(m, "last"))


MUTANTS = {
    _load_over_what_waits: "",
    _hold_the_wrong_one: "o: payload holds",
}


@pytest.mark.parametrize("change", cases(MUTANTS, (_load_over_what_waits,)))
def test_queue_rules_catch_a_mutant(change, tmp_path):
    refute(QueueBench(mutant(DeepQueue, change)), tmp_path, depth=12, rule=MUTANTS[change])
