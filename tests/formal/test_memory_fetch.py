import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES, ReadSignature
from screc_hw.memory.fetch import RowFetch
from screc_hw.memory.layouts import burst_layout, request_layout
from screc_hw.memory.params import SECTION_BURST_BEATS, MemoryCoreParams
from screc_hw.memory.records import RecordFetch
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import constant, held, read_master, read_port
from tests.formal.state import opened, sole

pytestmark = pytest.mark.formal

SMALL = MemoryCoreParams(
    port_bits=128,
    lanes=16,
    outstanding=4,
    max_features=2,
    max_slices=3,
    rows=2,
    slots=2,
    address_bits=16,
)


class FetchBench(wiring.Component):
    """A read master behind requests that lie in ``[start, end)``, before any memory."""

    def __init__(self, params, make, *, layout, most, longest, invariants=True, covers=False):
        self._params = params
        self._make = make
        self._layout = layout
        self._most = most
        self._longest = longest
        self._invariants = invariants
        self._covers = covers
        bits = params.address_bits
        port = ReadSignature(data_bits=params.port_bits, address_bits=bits)
        super().__init__(
            {
                "i": In(stream.Signature(layout)),
                "axi": Out(port),
                "taken": In(1),
                "start": In(bits),
                "end": In(bits + 1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, axi, most = self._params, self.axi, self._most
        dut = self._make(p)
        m.submodules.dut, state = opened(dut)
        rows = isinstance(dut, RowFetch)
        requests = dut.requests if rows else dut.bursts
        wiring.connect(m, wiring.flipped(self.i), requests)
        wiring.connect(m, dut.axi, wiring.flipped(axi))
        m.d.comb += dut.beats.ready.eq(self.taken)

        held(m, self.i.valid, self.i.ready, self.i.payload, "requests", Assume)
        constant(m, Cat(self.start, self.end))
        self._requests(m, rows)
        read_master(
            m,
            axi,
            data_bits=p.port_bits,
            max_beats=self._longest,
            start=self.start,
            end=self.end,
        )
        ledger = read_port(m, axi, most=most)
        m.d.comb += Assume(~axi.rvalid | (axi.rid == 0))

        here = Signal(range(most + 257))  # asked for and not yet taken
        asked = Mux(axi.arvalid & axi.arready, axi.arlen + 1, 0)
        queue = state.entries("fifo")
        there = dut.beats.valid & self.taken
        m.d.sync += here.eq(here + asked - there)
        m.d.comb += [
            Assert(here <= most, "outstanding: at most the limit"),
            Assert(state["places"] <= most, "places: never wrap"),
            Assert(~state.overflows("fifo"), "FIFO: never overflows"),
            Assert(dut.busy | (here == 0), "busy while beats are outstanding"),
        ]
        if self._covers:
            m.d.comb += [
                Cover((here == most) & (queue == most), "full"),
                Cover((here == most) & (ledger.total == most), "all at the memory"),
            ]
        if self._invariants:
            arrived = state.part("fifo").ports.i.valid
            offered = Mux(axi.arvalid, axi.arlen + 1, 0)
            coming = offered + here
            m.d.comb += [
                Assert(here == ledger.total + arrived + queue, "here: invariant"),
                Assert(ledger.owed[0] == ledger.total, "one ID: invariant"),
            ]
            if rows:
                self._row_invariants(m, state, coming)
            else:
                self._record_invariants(m, state, coming)
        return m

    def _requests(self, m, rows):
        """State what a request is: of ``Bound`` that is proven, of ``SectionReader`` simulated."""
        request, size = self.i.payload, self._params.beat_log2
        m.d.comb += Assume(self.end <= 1 << self._params.address_bits)
        with m.If(self.i.valid):
            last = request.address + (request.beats << size)
            room = (BOUNDARY_BYTES - request.address % BOUNDARY_BYTES) >> size
            m.d.comb += [
                Assume((request.beats != 0) & (request.beats <= self._longest)),
                Assume(request.address[:size] == 0),
                Assume(request.address >= self.start),
                Assume(last <= self.end),
            ]
            if rows:
                m.d.comb += Assume(request.head == Mux(request.beats < room, request.beats, room))
            else:
                m.d.comb += Assume(request.beats <= room)

    def _row_invariants(self, m, state, coming):
        """Tie the count of places, and what is left of a row, to the bench's counts."""
        axi, tail, rest = self.axi, state["tail"], state["rest"]
        left = Mux(tail, rest, 0)
        known = state["places"] + state["returned"]
        m.d.comb += [
            Assert(known + coming + left == self._most + state["taken"], "places: invariant"),
            Assert(state["taken"] <= state["places"], "places: taken are there"),
            Assert(~tail | axi.arvalid, "tail: invariant"),
        ]
        following = state["following"] << 12
        with m.If(tail):
            m.d.comb += [
                Assert((rest != 0) & (rest <= self._longest), "rest: invariant"),
                Assert(following >= self.start, "rest: not before the start"),
                Assert(following + (rest << self._params.beat_log2) <= self.end, "rest: end"),
            ]

    def _record_invariants(self, m, state, coming):
        """Tie the count of places, and the burst looked at, to the bench's counts."""
        beats, places = state.ports.beats, state["places"]
        looked_at = self.i.ready
        returned = Signal()
        m.d.sync += returned.eq(beats.valid & beats.ready)
        m.d.comb += [
            Assert(places + returned + coming == self._most, "places: invariant"),
            Assert(~looked_at | (self.i.valid & ~self.axi.arvalid), "ready: invariant"),
            Assert(~looked_at | (self.i.payload.beats <= places), "ready: there is place"),
        ]


def row_bench(make=RowFetch, **options):
    return FetchBench(
        SMALL,
        make,
        layout=request_layout(SMALL),
        most=SMALL.outstanding,
        longest=SMALL.max_row_beats,
        **options,
    )


def record_bench(make=RecordFetch, **options):
    return FetchBench(
        SMALL,
        make,
        layout=burst_layout(SMALL, SECTION_BURST_BEATS),
        most=SMALL.section_beats,
        longest=SECTION_BURST_BEATS,
        **options,
    )


@pytest.mark.parametrize("bench", [row_bench, record_bench])
def test_fetch_keeps_its_limit_its_memory_and_axi(bench, tmp_path):
    verdict = prove(bench(), tmp_path, mode="prove", depth=3)
    assert verdict.passed, verdict


@pytest.mark.parametrize("bench", [row_bench, pytest.param(record_bench, marks=pytest.mark.slow)])
def test_fetch_reaches_its_limit(bench, tmp_path):
    verdict = prove(bench(invariants=False, covers=True), tmp_path, mode="cover", depth=45)
    assert verdict.passed, verdict


def _forget_what_is_taken(m, fetch):
    places = sole(m, "places")
    m.d.sync += places.eq(places + sole(m, "returned"))


def _count_the_head_alone(m, fetch):
    taken = sole(m, "taken")
    m.d.sync += taken.eq(Mux(sole(m, "take"), fetch.requests.payload.head, 0))


def _return_twice(m, fetch):
    with m.If(fetch.axi.rvalid & (sole(m, "places") < SMALL.outstanding)):
        m.d.sync += sole(m, "places").eq(sole(m, "places") + 1)


def _cross_4_kib(m, fetch):
    with m.If(sole(m, "take")):
        m.d.sync += fetch.axi.arlen.eq(fetch.requests.payload.beats - 1)


def _go_on_in_the_wrong_block(m, fetch):
    with m.If(sole(m, "take")):
        m.d.sync += sole(m, "following").eq(fetch.requests.payload.address[12:] + 2)


def _change_the_address(m, fetch):
    m.d.sync += fetch.axi.araddr.eq(fetch.requests.payload.address)


def _withdraw(m, fetch):
    with m.If(~sole(m, "take") & ~sole(m, "tail")):
        m.d.sync += fetch.axi.arvalid.eq(0)


def _stop_the_memory(m, fetch):
    m.d.comb += fetch.axi.rready.eq(fetch.beats.ready)


def _ask_without_a_place(m, fetch):
    ready = fetch.bursts.ready
    m.d.comb += ready.eq(fetch.bursts.valid & ~fetch.axi.arvalid)


MUTANTS = {
    _forget_what_is_taken: (row_bench, "while beats are outstanding"),
    _count_the_head_alone: (row_bench, "outstanding: at most the limit"),
    _return_twice: (row_bench, ""),
    _cross_4_kib: (row_bench, "AR: within a 4 KiB block"),
    _go_on_in_the_wrong_block: (row_bench, "AR: not "),
    _change_the_address: (row_bench, "AR: payload holds"),
    _withdraw: (row_bench, "AR: valid holds"),
    _stop_the_memory: (row_bench, "R: always ready"),
    _ask_without_a_place: (record_bench, "places: never wrap"),
}


@pytest.mark.parametrize("change", cases(MUTANTS, (_count_the_head_alone, _cross_4_kib)))
def test_fetch_rules_catch_a_mutant(change, tmp_path):
    bench, rule = MUTANTS[change]
    base = RowFetch if bench is row_bench else RecordFetch

    refute(bench(mutant(base, change), invariants=False), tmp_path, depth=16, rule=rule)
