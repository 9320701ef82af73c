import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature, arbiter
from screc_hw.axi.arbiter import ReadArbiter, ReadArbiterNode, arbiter_id_bits
from tests.formal.kit import prove, refute
from tests.formal.rules import held, within

pytestmark = pytest.mark.formal

WIDTHS = {"data_bits": 8, "address_bits": 4}
LEVELS = {2: [1, 1], 3: [2, 2, 1]}
"""Of every master, by the number of masters."""


def _address(axi):
    return Cat(axi.araddr, axi.arlen, axi.arsize, axi.arburst)


class ArbiterBench(wiring.Component):
    """An arbiter between masters and a memory that sends beats as it likes.

    A read leaves with its master's number above its ID, and a beat goes where that number says:
    together, to the one that asked. Bounded: nothing is said of later cycles than ``depth``.
    """

    def __init__(self, inputs, *, watched=(0, 1), progress=False):
        self._inputs = inputs
        self._watched = watched
        self._progress = progress
        port = ReadSignature(**WIDTHS, id_bits=1)
        outer = ReadSignature(**WIDTHS, id_bits=arbiter_id_bits(inputs, 1))
        super().__init__({"i": In(port).array(inputs), "o": Out(outer), "watch": In(inputs)})

    def elaborate(self, platform):
        m = Module()
        dut = ReadArbiter(self._inputs, **WIDTHS, id_bits=1)
        m.submodules.dut = dut
        wiring.connect(m, dut.o, wiring.flipped(self.o))
        o = self.o
        held(m, o.arvalid, o.arready, Cat(_address(o), o.arid), "AR")
        m.d.comb += Assume((o.rid >> 1) < self._inputs)
        if self._progress:
            within(m, o.arvalid, o.arready, 1, "port", Assume)
        for number in range(self._inputs):
            wiring.connect(m, wiring.flipped(self.i[number]), dut.i[number])
            self._master(m, number)
        return m

    def _master(self, m, number):
        """State that ``number`` gets its beats, unchanged and only those, and its reads leave."""
        i, o = self.i[number], self.o
        held(m, i.arvalid, i.arready, Cat(_address(i), i.arid), f"master {number}", Assume)

        # beats: what the port sends with this master's bits comes out after the levels above it
        beat = o.rvalid & ((o.rid >> 1) == number)
        came = Cat(beat, o.rid[0], o.rdata, o.rresp, o.rlast)
        for _ in range(LEVELS[self._inputs][number]):
            later = Signal(len(came))
            m.d.sync += later.eq(came)
            came = later
        seen = Cat(i.rvalid, i.rid, i.rdata, i.rresp, i.rlast)
        m.d.comb += Assert(i.rvalid == came[0], f"R: beats of master {number}, no others")
        with m.If(i.rvalid):
            m.d.comb += Assert(seen == came, f"R: beats of master {number} unchanged")

        if number in self._watched:
            self._reads(m, number)

    def _reads(self, m, number):
        """State that ``number``'s reads leave unchanged, in order, and in time.

        One that the solver picks is watched; those before it are counted.
        """
        i, o = self.i[number], self.o
        enter = i.arvalid & i.arready
        leave = o.arvalid & o.arready & ((o.arid >> 1) == number)
        inside = Signal(3)
        ahead = Signal(3)
        watching = Signal()
        picked = Signal(len(Cat(_address(i), i.arid)))
        m.d.sync += inside.eq(inside + enter - leave)
        m.d.comb += Assert(~leave | (inside != 0), f"AR: reads of master {number}, no others")
        with m.If(~watching & enter & self.watch[number]):
            m.d.sync += [
                watching.eq(1),
                ahead.eq(inside - leave),
                picked.eq(Cat(_address(i), i.arid)),
            ]
        out = Cat(_address(o), o.arid[0])
        with m.If(watching & leave):
            m.d.sync += [watching.eq(ahead != 0), ahead.eq(ahead - 1)]
            with m.If(ahead == 0):
                m.d.comb += Assert(out == picked, f"AR: reads of master {number} unchanged")
        # every level holds two, and the other master's take their turns
        places = 2 * LEVELS[self._inputs][number]
        m.d.comb += Assert(inside <= places, "AR: two places a level")
        if self._progress:
            cycles = 2 * (1 << LEVELS[self._inputs][number])
            within(m, i.arvalid, i.arready, cycles, f"AR: turn of master {number}")
            within(m, inside != 0, leave, cycles + 2, f"AR: master {number} leaves")


def test_arbiter_loses_nothing_and_mixes_nothing_up(tmp_path):
    verdict = prove(ArbiterBench(2), tmp_path, depth=12)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_arbiter_of_two_levels_loses_nothing_and_mixes_nothing_up(tmp_path):
    verdict = prove(ArbiterBench(3, watched=(1,)), tmp_path, depth=8)
    assert verdict.passed, verdict


def test_arbiter_gives_every_master_its_turn(tmp_path):
    verdict = prove(ArbiterBench(2, progress=True), tmp_path, depth=12)
    assert verdict.passed, verdict


def _prefer_a(m, node):
    m.d.sync += node._owner.eq(1)


def _lose(m, node):
    m.d.comb += node.a.arready.eq(1)


def _change(m, node):
    m.d.comb += node.o.arlen.eq(node.a.arlen)


def _withdraw(m, node):
    with m.If(~node.a.arvalid & ~node.b.arvalid):
        m.d.comb += node.o.arvalid.eq(0)


def _to_both(m, node):
    m.d.sync += node.b.rvalid.eq(node.o.rvalid)


def _to_none(m, node):
    with m.If(node.a.rvalid):
        m.d.sync += node.a.rvalid.eq(0)


def _swap_ids(m, node):
    m.d.comb += node.o.arid[-1].eq(0)


def _early_data(m, node):
    m.d.comb += node.b.rdata.eq(node.o.rdata)


MUTANTS = {
    _prefer_a: "AR: turn of master 1",
    _lose: "AR: reads of master 0 unchanged",
    _change: "AR: reads of master 1 unchanged",
    _withdraw: "AR: valid holds",
    _to_both: "R: beats of master 1, no others",
    _to_none: "R: beats of master 0, no others",
    _swap_ids: "AR: reads of master 0, no others",
    _early_data: "R: beats of master 1 unchanged",
}

QUICK = (_prefer_a, _to_both)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(c, id=c.__name__[1:], marks=() if c in QUICK else pytest.mark.slow)
        for c in MUTANTS
    ],
)
def test_arbiter_rules_catch_a_mutant(change, tmp_path, monkeypatch):
    class Mutant(ReadArbiterNode):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            change(m, self)
            return m

    monkeypatch.setattr(arbiter, "ReadArbiterNode", Mutant)
    refute(ArbiterBench(2, progress=True), tmp_path, depth=12, rule=MUTANTS[change])
