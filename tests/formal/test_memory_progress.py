import dataclasses

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES, ReadSignature
from screc_hw.memory import engine
from screc_hw.memory.lanes import Lanes
from screc_hw.memory.layouts import routed_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import config_layout, partial_layout
from tests.formal.kit import prove, refute
from tests.formal.rules import constant, held, read_port
from tests.formal.state import sole

pytestmark = pytest.mark.formal


class ShortQueues(MemoryCoreParams):
    """Queues that are full within the depth of a proof."""

    @property
    def request_depth(self):
        return 2

    @property
    def onchip_reads(self):
        return max(2, self.max_row_beats)


class FewReads(ShortQueues):
    """On-chip reads that a row-wise row of three beats does not fit."""

    @property
    def onchip_reads(self):
        return 2


SMALL = ShortQueues(
    port_bits=128,
    lanes=16,
    outstanding=2,
    max_features=2,
    max_slices=2,
    rows=2,
    slots=2,
    max_bag=2,
    address_bits=16,
    onchip_beats=4,
)
"""Rows of one or two beats, the fewest beats outstanding."""

BAG = 2
"""Longest bag here."""


class LanesToPartials(engine.GatherEngine):
    """The engine from the lookups whose address is known, on chip and in DRAM."""

    def __init__(self, params):
        self._params = params
        port = ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
        wiring.Component.__init__(
            self,
            {
                "i": In(stream.Signature(routed_layout(params))),
                "axi": Out(port),
                "partials": Out(stream.Signature(partial_layout(params))),
                "busy": Out(1),
                "error": Out(1),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
            },
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes = lanes = Lanes(self._params)
        wiring.connect(m, wiring.flipped(self.i), lanes.i)
        busy = [lanes.busy]
        pieces = [self._lane(m, tier, lanes, busy, []) for tier in self._params.tiers]
        self._pools(m, pieces, busy)
        m.d.comb += self.busy.eq(Cat(*busy).any())
        return m


class ProgressBench(wiring.Component):
    """A number of lookups, in one lane or two, a memory and a sink that may be slow.

    From reset, the next lookup is taken, and after the last all partials have left, within a bound.
    Which lookups they are, and which of memory and sink are slow, the solver picks.
    """

    def __init__(self, params=SMALL, *, bound, lookups):
        self._params = params
        self._bound = bound
        self._lookups = lookups
        super().__init__(
            {
                "i": In(stream.Signature(routed_layout(params))),
                "axi": Out(ReadSignature(data_bits=params.port_bits, address_bits=16)),
                "slow": In(3),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, i, axi = self._params, self.i, self.axi
        dut = LanesToPartials(p)
        m.submodules.dut = dut
        wiring.connect(m, wiring.flipped(i), dut.i)
        wiring.connect(m, dut.axi, wiring.flipped(axi))
        o = dut.partials
        held(m, i.valid, i.ready, i.payload, "lookups", Assume)
        self._stream(m)
        ledger = read_port(m, axi, most=p.outstanding)
        m.d.comb += Assume(~axi.rvalid | (axi.rid == 0))
        # each of them goes on always, or in every other cycle
        constant(m, self.slow)
        odd = Signal()
        m.d.sync += odd.eq(~odd)
        address, beat, partial = ((~slow | odd) for slow in self.slow)
        m.d.comb += [
            Assume(axi.arready == address),
            Assume(axi.rvalid == ((ledger.total != 0) & beat)),
            o.ready.eq(partial),
        ]

        # the count of lookups is known, so that a lookup less is a lookup held up
        enter = i.valid & i.ready
        come, since = Signal(range(self._lookups + 1)), Signal(range(self._bound + 1))
        done = come == self._lookups
        m.d.sync += [come.eq(come + enter), since.eq(Mux(enter, 0, since + (since != self._bound)))]
        m.d.comb += [
            Assume(i.valid == ~done),
            Assume((come != self._lookups - 1) | i.payload.row.last),
            Assert((since != self._bound) | (done & ~dut.busy), "all leaves in time"),
        ]
        return m

    def _stream(self, m):
        """State what ``Bound`` is proven to make, of bags of up to ``BAG`` lookups."""
        p, i = self._params, self.i
        lookup, row, dram = i.payload, i.payload.row, i.payload.dram
        size = p.beat_log2
        room = (BOUNDARY_BYTES - dram.address % BOUNDARY_BYTES) >> size
        before = Signal(range(BAG))
        slices = Signal.like(row.last_slice)
        with m.If(i.valid & i.ready):
            m.d.sync += [before.eq(Mux(row.last, 0, before + 1)), slices.eq(row.last_slice)]
        in_dram = lookup.lane[0] & ~row.zero
        with m.If(i.valid):
            m.d.comb += [
                Assume((lookup.lane == 1) | (lookup.lane == 2)),
                Assume(~row.zero | lookup.lane[0]),
                Assume((dram.address == 0) | (dram.address == BOUNDARY_BYTES - p.beat_bytes)),
                Assume((dram.beats != 0) & (dram.beats <= p.max_row_beats)),
                Assume(dram.head == Mux(dram.beats < room, dram.beats, room)),
                Assume(~in_dram | (dram.beats == row.last_beat + 1)),
                Assume(row.last_beat < p.max_row_beats),
                Assume(lookup.onchip.last_beat == row.last_beat),
                Assume(row.last_slice < p.max_slices),
                Assume((before == 0) | (row.last_slice == slices)),
                Assume(row.last | (before < BAG - 1)),
                # of no matter for what waits for what
                Assume(~Cat(row.position, row.int4, row.bag.slot, row.bag.row).any()),
                Assume(lookup.onchip.address == 0),
                # the parts do not look at the bag; here it tells the lanes' partials apart
                Assume(row.bag.feature == lookup.lane[1]),
            ]
            if p.rowwise:
                for tail in (dram.tail, lookup.onchip.tail):
                    m.d.comb += Assume(tail.rowwise == row.rowwise)


ROWWISE = dataclasses.replace(SMALL, outstanding=3, rowwise=True)
"""Rows of up to three beats, of which the last may hold scale and bias alone."""


def bound(params, lookups):
    """Cycles after which all has left: a row at a time, in every other cycle, and the way."""
    return 14 * lookups + (18 if params.rowwise else 12)


@pytest.mark.parametrize(
    ("params", "lookups"),
    [
        pytest.param(SMALL, 1, id="int8-1"),
        pytest.param(SMALL, 2, id="int8-2", marks=pytest.mark.slow),
        pytest.param(SMALL, 3, id="int8-3", marks=pytest.mark.slow),
        pytest.param(ROWWISE, 1, id="rowwise-1", marks=pytest.mark.slow),
    ],
)
def test_every_lookup_is_taken_and_every_partial_leaves(params, lookups, tmp_path):
    bench = ProgressBench(params, bound=bound(params, lookups), lookups=lookups)
    verdict = prove(bench, tmp_path, depth=bound(params, lookups) + 2 * lookups + 6)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_reads_of_less_than_a_row_never_end(tmp_path):
    params = FewReads(**dataclasses.asdict(ROWWISE))
    bench = ProgressBench(params, bound=bound(params, 1), lookups=1)
    refute(bench, tmp_path, depth=bound(params, 1) + 8, rule="all leaves in time")


class NeverKnown(Lanes):
    """Waits for the next lookup of the lane where the bag has ended in the other."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(~self.i.payload.lane[0]):
            m.d.sync += sole(m, "known_dram").eq(sole(m, "known_dram"))
        return m


@pytest.mark.slow
def test_a_bag_that_ends_in_another_lane_must_be_known(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "Lanes", NeverKnown)
    bench = ProgressBench(SMALL, bound=bound(SMALL, 2), lookups=2)
    refute(bench, tmp_path, depth=bound(SMALL, 2) + 10, rule="all leaves in time")
