import dataclasses

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import piece_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.pool import PieceMerge, Pool
from screc_hw.stream import partial_layout
from tests.formal.kit import prove, refute
from tests.formal.mutants import cases, mutant
from tests.formal.rules import constant, held, within
from tests.formal.state import sole

pytestmark = pytest.mark.formal

SMALL = MemoryCoreParams(
    port_bits=128,
    lanes=4,
    outstanding=2,
    max_features=2,
    max_slices=2,
    rows=2,
    slots=2,
    max_bag=2,
    address_bits=16,
    onchip_beats=4,
)
HALVES = dataclasses.replace(SMALL, lanes=32, outstanding=4)
"""A slice of bytes comes as two pieces."""

BAG = 2
"""Longest bag here."""


class PoolBench(wiring.Component):
    """Two lanes' pieces, merged and pooled; any bags of up to ``BAG`` lookups.

    A partial that the solver picks leaves once, in its lane's order, slices from 0 to its last
    without another's between, with the count of its lookups, and with the sum, in a component and
    slice that the solver picks. The lanes' features tell their partials apart.
    """

    def __init__(self, params=SMALL, merge=PieceMerge, pool=Pool, *, covers=False):
        self._params = params
        self._merge = merge
        self._pool = pool
        self._covers = covers
        super().__init__(
            {
                "i": In(stream.Signature(piece_layout(params))).array(2),
                "o": Out(stream.Signature(partial_layout(params))),
                "pick": In(2),
                "slice": In(range(params.max_slices)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, o = self._params, self.o
        m.submodules.merge = merge = self._merge(p, 2)
        m.submodules.pool = pool = self._pool(p, 2)
        for number in (0, 1):
            wiring.connect(m, wiring.flipped(self.i[number]), merge.i[number])
        wiring.connect(m, merge.o, pool.i)
        wiring.connect(m, pool.o, wiring.flipped(o))
        held(m, o.valid, o.ready, o.payload, "partials")
        constant(m, self.slice)

        # slices follow each other, and are one lane's
        leave = o.valid & o.ready
        open_, slice_, feature = Signal(), Signal.like(o.payload.slice), Signal()
        with m.If(leave):
            m.d.sync += [
                open_.eq(~o.payload.last),
                slice_.eq(o.payload.slice + 1),
                feature.eq(o.payload.feature),
            ]
        with m.If(o.valid):
            m.d.comb += [
                Assert(o.payload.slice == Mux(open_, slice_, 0), "slices: from 0, one by one"),
                Assert(~open_ | (o.payload.feature == feature), "slices: of one partial"),
            ]
        owed = [self._lane(m, number, leave) for number in (0, 1)]
        within(m, Cat(owed).any(), leave | ~o.ready, 3, "a partial whose pieces came leaves")
        quiet = ~pool.busy & ~merge.o.valid
        m.d.comb += Assert(~quiet | ~Cat(owed).any(), "busy while a partial is inside")
        return m

    def _lane(self, m, number, leave):
        """State the rules of a lane; return whether it has a whole partial inside."""
        p, i, o = self._params, self.i[number], self.o
        piece = i.payload
        held(m, i.valid, i.ready, piece, f"pieces {number}", Assume)
        enter = i.valid & i.ready

        # what Slicer makes: pieces of slices, slices of lookups, lookups of bags
        half, inside = (Signal(name=f"{name}_{number}") for name in ("half", "inside"))
        index = Signal(range(p.max_slices), name=f"index_{number}")
        last_slice = Signal.like(index, name=f"last_slice_{number}")
        before = Signal(range(BAG + 1), name=f"before_{number}")
        row = Signal.like(piece.bag.row, name=f"row_{number}")
        last = Signal(name=f"last_{number}")
        with m.If(i.valid):
            m.d.comb += [
                Assume(piece.slice == index),
                Assume(piece.begin == ~half),
                Assume(piece.complete | ((p.halves == 2) & ~half)),
                Assume(piece.bag.feature == number),
                Assume(piece.complete | ~piece.end),
                Assume(~piece.complete | (index != p.max_slices - 1) | piece.end),
                # lookups of a bag are alike, and so are the pieces of a lookup
                Assume(~inside | (piece.last == last)),
                Assume((before == 0) | ~piece.complete | (piece.end == (index == last_slice))),
                Assume(piece.last | (before < BAG - 1)),
                Assume(~(inside | (before != 0)) | (piece.bag.row == row)),
            ]
        with m.If(enter):
            m.d.sync += [
                half.eq(~piece.complete),
                inside.eq(~piece.end),
                last.eq(piece.last),
                row.eq(piece.bag.row),
            ]
            with m.If(piece.complete):
                m.d.sync += index.eq(Mux(piece.end, 0, index + 1))
            with m.If(piece.end):
                m.d.sync += [before.eq(Mux(piece.last, 0, before + 1)), last_slice.eq(index)]

        # the partial that is picked, and those of the lane before it
        starts = enter & (before == 0) & ~inside & ~half
        ends = enter & piece.end & piece.last
        mine = o.payload.feature == number
        gone = leave & mine & o.payload.last
        waiting = Signal(3, name=f"waiting_{number}")  # whole partials inside
        ahead = Signal(3, name=f"ahead_{number}")
        picked, whole = Signal(name=f"picked_{number}"), Signal(name=f"whole_{number}")
        count = Signal(range(BAG + 1), name=f"lookups_{number}")
        total = Signal(len(o.payload.acc[0]), name=f"total_{number}")
        picked_row = Signal.like(row, name=f"picked_row_{number}")
        picked_last = Signal.like(index, name=f"picked_last_{number}")
        m.d.sync += waiting.eq(waiting + ends - gone)
        now = starts & self.pick[number] & ~picked
        adds = enter & (now | (picked & ~whole))
        with m.If(now):
            m.d.sync += [
                picked.eq(1),
                whole.eq(0),
                ahead.eq(waiting - gone),
                picked_row.eq(piece.bag.row),
            ]
        with m.If(adds):
            with m.If(piece.slice == self.slice):
                so_far = Mux(now, 0, total).as_signed()
                m.d.sync += total.eq(so_far + piece.data[0])
            with m.Elif(now):
                m.d.sync += total.eq(0)
            m.d.sync += count.eq(Mux(now, 0, count) + piece.end)
            with m.If(piece.end):
                m.d.sync += [whole.eq(piece.last), picked_last.eq(piece.slice)]
        with m.If(gone & picked):
            m.d.sync += [picked.eq(ahead != 0), ahead.eq(ahead - 1)]

        first = Signal(name=f"first_{number}")  # a slice may leave with its last lookup's
        m.d.comb += first.eq(picked & (ahead == 0) & o.valid & mine)
        with m.If(o.valid & mine):
            m.d.comb += Assert((waiting != 0) | inside, "only partials that came")
        with m.If(first):
            here = o.payload.slice == self.slice
            m.d.comb += [
                Assert(o.payload.row == picked_row, "the bag it was for"),
                Assert(o.payload.count == count + ~whole, "count of its lookups"),
                Assert(~here | (o.payload.acc[0] == total.as_signed()), "the exact sum"),
                Assert(~o.payload.last | whole, "not before its last lookup"),
                Assert(~whole | (o.payload.last == (o.payload.slice == picked_last)), "last slice"),
            ]
        if self._covers:
            m.d.comb += [
                Cover(first & o.payload.last & (count == BAG) & (ahead == 0) & (waiting > 1)),
                Cover(first & (o.payload.slice == 1) & (o.payload.acc[0] < -128)),
            ]
        return waiting != 0


@pytest.mark.parametrize(
    ("params", "depth"),
    [
        pytest.param(SMALL, 8, id="small"),
        pytest.param(SMALL, 10, id="longer", marks=pytest.mark.slow),
        pytest.param(HALVES, 8, id="halves", marks=pytest.mark.slow),
    ],
)
def test_merge_and_pool_emit_every_partial_once(params, depth, tmp_path):
    verdict = prove(PoolBench(params), tmp_path, depth=depth)
    assert verdict.passed, verdict


def test_long_partials_follow_each_other(tmp_path):
    verdict = prove(PoolBench(covers=True), tmp_path, mode="cover", depth=12)
    assert verdict.passed, verdict


def _let_others_between(m, merge):
    m.d.sync += sole(m, "locked").eq(0)


def _lose_a_piece(m, merge):
    m.d.comb += merge.i[0].ready.eq(1)


def _call_all_one_lane(m, merge):
    m.d.comb += merge.o.payload.lane.eq(0)


def _take_pieces_for_slices(m, merge):
    m.d.comb += merge.o.payload.complete.eq(1)


def _go_on_counting(m, pool):
    ends = pool.i.valid & pool.i.ready & pool.i.payload.end & pool.i.payload.last
    with m.If(ends & (pool.i.payload.lane == 0)):
        m.d.sync += sole(m, "count_0").eq(sole(m, "count_0") + 1)


def _read_too_early(m, pool):
    with m.If(pool.i.ready & pool.i.valid):
        m.d.sync += sole(m, "held_again").eq(0)


def _start_anew_each_lookup(m, pool):
    m.d.sync += sole(m, "first").eq(-1)


def _share_the_end(m, pool):
    with m.If(pool.i.ready & pool.i.valid & pool.i.payload.end):
        m.d.sync += sole(m, "first").eq(pool.i.payload.last.replicate(2))


def _emit_again(m, pool):
    m.d.comb += pool.i.ready.eq(pool.o.ready)


MERGE_MUTANTS = {
    _let_others_between: "slices: of one partial",
    _lose_a_piece: "",
    _call_all_one_lane: "",
}
POOL_MUTANTS = {
    _go_on_counting: "count of its lookups",
    _read_too_early: "the exact sum",
    _start_anew_each_lookup: "the exact sum",
    _share_the_end: "",
    _emit_again: "",
}


@pytest.mark.parametrize("change", cases(MERGE_MUTANTS, (_let_others_between,)))
def test_merge_rules_catch_a_mutant(change, tmp_path):
    bench = PoolBench(merge=mutant(PieceMerge, change))
    refute(bench, tmp_path, depth=9, rule=MERGE_MUTANTS[change])


@pytest.mark.slow
def test_a_piece_is_not_taken_for_a_slice(tmp_path):
    bench = PoolBench(HALVES, merge=mutant(PieceMerge, _take_pieces_for_slices))
    refute(bench, tmp_path, depth=9)


@pytest.mark.parametrize("change", cases(POOL_MUTANTS, (_read_too_early,)))
def test_pool_rules_catch_a_mutant(change, tmp_path):
    bench = PoolBench(pool=mutant(Pool, change))
    refute(bench, tmp_path, depth=9, rule=POOL_MUTANTS[change])
