"""Streamed weights: an operation's are read into a half of the memory while the other half runs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.axi import INCR, ReadSignature
from screc_hw.compute.layouts import demand_layout, fill_layout
from screc_hw.compute.memories import WORD_BITS, LoadedMemory
from screc_hw.compute.params import COUNTER_BITS, ComputeParams
from screc_hw.protocol import (
    BEAT_BYTES,
    LAYER_FIELDS,
    LAYER_WORDS,
    REGION_FIELDS,
    LoadTarget,
    Operation,
)
from screc_hw.stream import config_layout, index_bits

__all__ = ["BURST_BEATS", "WeightFetch"]

BURST_BEATS = 16
"""Beats of a burst, 1 KiB: other masters of the port wait no longer; aligned, so none crosses
4 KiB."""

CLOSE_CYCLES = 6
"""Cycles after which what was about to start from a half has started, and is seen."""

HALVES = range(2)
BEAT_LOG2 = (BEAT_BYTES - 1).bit_length()
BURST_LOG2 = (BURST_BEATS - 1).bit_length()


class WeightFetch(wiring.Component):
    """Keeps the weights of two operations in the halves of the weight memory.

    It looks at what sub-batches are at, in turn, and reads the weights of the first operation that
    is in neither half, as soon as a half is free: nothing runs from it, and no sub-batch is about
    to. What one sub-batch leaves there serves all others that come to the same
    operation before it is replaced; those that will soon run it do before the other half is run
    from, so that reading has as long as it can. Those that only wait for results of an older one
    are at the same operation, so the other half serves all others. Where nothing is wanted, what
    may be wanted later is read.

    A beat is a word for every position. What is outside the region that LOAD named, or larger than
    a half, is not read: the operation runs on what is there, and ``error`` tells.

    **Latency** about 14 cycles from a free half to the first address, for the oldest sub-batch.
    **Throughput** 1 beat per cycle; all bursts of an operation may be outstanding.
    **Backpressure** ``axi.rready`` is always 1.

    Parameters
    ----------
    params
        Sizes, with ``stream_words``.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Program and region; what is held is forgotten.
    clear : In(1)
        Forget what is held, and what is being read; only while no sub-batch is here.
    base : In(address_bits)
        Of the memory, beat-aligned, constant while anything runs.
    demand : In(demand_layout(params))
        What sub-batches are at.
    used : In(2)
        Something runs from a half, or is about to.
    present : Out(1)
        The operation ``demand.number`` of 2 cycles before may start, within 3 cycles.
    half : Out(1)
        From this half.
    axi : Out(ReadSignature)
        One ID, 0.
    fill : Out(fill_layout(params))
        Writes to the positions' memories.
    beats : Out(32)
        Beats received since reset.
    error : Out(1)
        Pulse: an error response, or weights that must not be read.
    """

    config: stream.Interface
    clear: Signal
    base: Signal
    demand: View[data.StructLayout]
    used: Signal
    present: Signal
    half: Signal
    axi: Any
    fill: View[data.StructLayout]
    beats: Signal
    error: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "clear": In(1),
                "base": In(params.address_bits),
                "demand": In(demand_layout(params)),
                "used": In(len(HALVES)),
                "present": Out(1),
                "half": Out(1),
                "axi": Out(
                    ReadSignature(data_bits=8 * BEAT_BYTES, address_bits=params.address_bits)
                ),
                "fill": Out(fill_layout(params)),
                "beats": Out(COUNTER_BITS),
                "error": Out(1),
            }
        )
        # state of the halves
        counter = index_bits(params.program_length)
        self._number = [Signal(counter, name=f"number_{h}", reset_less=True) for h in HALVES]
        self._held = Signal(len(HALVES))  # has an operation's weights, or waits for them
        self._ready = Signal(len(HALVES))  # has them
        self._closed = Signal(len(HALVES))  # nothing starts from it
        self._recent = Signal()  # half that was given weights last

    def elaborate(self, platform: object) -> Module:
        """Build the search for what to read, the address channel, and the way of the beats."""
        m = Module()
        demand, number = self.demand, self._number
        match, spared, first = (Signal(len(HALVES), name=n) for n in ("match", "spared", "first"))
        later = Signal()  # what may be wanted is looked for
        for h in HALVES:
            wanted = [
                (demand.wants[slot] | (later & demand.may[slot])) & (demand.at[slot] == number[h])
                for slot in range(self._params.slots)
            ]
            soon = [
                demand.soon[slot] & (demand.at[slot] == number[h])
                for slot in range(self._params.slots)
            ]
            m.d.sync += [
                match[h].eq(demand.number == number[h]),
                spared[h].eq(Cat(wanted).any()),
                first[h].eq(self._held[h] & (self._recent != h) & Cat(soon).any()),
            ]
        usable = Signal(len(HALVES))
        m.d.comb += usable.eq(match & self._ready & ~self._closed & ~Cat(first[1], first[0]))
        m.d.sync += [self.present.eq(usable.any()), self.half.eq(usable[1])]
        begin, half, skip = Signal(), Signal(), Signal()
        void = Signal()  # what comes is of no use any more
        forget = Signal()
        word = self.config.payload
        loads = word.target.matches(LoadTarget.PROGRAM, LoadTarget.WEIGHT_REGION)
        m.d.comb += forget.eq(self.clear | (self.config.valid & loads))
        amount = self._search(m, later, spared, begin, half, skip, void | forget)
        coming, finished, finished_half = self._receive(m, begin & ~skip, half, amount)
        with m.If(~coming):
            m.d.sync += void.eq(0)
        with m.If(finished & ~void):
            m.d.sync += self._ready.bit_select(finished_half, 1).eq(1)
        with m.If(begin):
            m.d.sync += [
                self._ready.bit_select(half, 1).eq(skip),
                self._held.bit_select(half, 1).eq(1),
            ]
        with m.If(forget):
            m.d.sync += [self._ready.eq(0), self._held.eq(0), void.eq(coming)]
        return m

    def _search(
        self,
        m: Module,
        later: Signal,
        spared: Signal,
        begin: Signal,
        half: Signal,
        skip: Signal,
        void: Value,
    ) -> Signal:
        """Find an operation to read, give it a half (``begin``), ask for it; return its beats.

        ``skip``: there is nothing to read, or it must not be read.
        """
        p, demand = self._params, self.demand
        slot = Signal(index_bits(p.slots), reset_less=True)
        following = Signal.like(slot)
        turn = Signal.like(slot)  # who is looked at first: the one after whom was read for
        sought = Signal(index_bits(p.program_length), reset_less=True)
        wanted, known = Signal(reset_less=True), Signal(reset_less=True)
        valid = Signal()  # nothing was forgotten since the search began
        entry = self._program(m, sought)
        region: Any = Signal(
            data.StructLayout({name: width for name, (_, width) in REGION_FIELDS.items()})
        )
        word = self.config.payload
        with m.If(self.config.valid & (word.target == LoadTarget.WEIGHT_REGION)):
            m.d.sync += [
                region[name].eq(word.data[low : low + width])
                for name, (low, width) in REGION_FIELDS.items()
            ]
        amount = Signal(len(entry["weight_beats"]), reset_less=True)
        start = Signal(len(region.offset) + 1, reset_less=True)
        end = Signal(len(region.beats) + 1, reset_less=True)
        first = Signal(p.address_bits - BEAT_LOG2, reset_less=True)
        wrong = Signal(reset_less=True)
        free, chosen = Signal(len(HALVES)), Signal(reset_less=True)
        left = Signal(range(CLOSE_CYCLES))
        m.d.comb += [
            following.eq(Mux(slot == p.slots - 1, 0, slot + 1)),
            free.eq(~self._held | (self._ready & ~spared & ~self.used)),
            half.eq(chosen),
            skip.eq(wrong | (amount == 0)),
        ]
        ask, asked = Signal(), Signal()
        refused = Signal()
        m.d.sync += refused.eq(begin & wrong)
        m.d.sync += self.error.eq(refused | (self.axi.rvalid & self.axi.rresp[1]))
        self._addresses(m, ask, asked, first, amount)
        with m.If(void):
            m.d.sync += valid.eq(0)
        with m.FSM(name="search"):
            with m.State("begin"):
                m.d.sync += [slot.eq(turn), valid.eq(~void)]
                m.next = "look"
            with m.State("look"):
                of = (demand.wants | Mux(later, demand.may, 0)).bit_select(slot, 1)
                m.d.sync += [sought.eq(demand.at[slot]), wanted.eq(of)]
                m.next = "read"
            with m.State("read"):
                same = [self._held[h] & (self._number[h] == sought) for h in HALVES]
                m.d.sync += known.eq(Cat(same).any())
                m.next = "register"
            with m.State("register"):
                m.next = "judge"
            with m.State("judge"):
                m.d.sync += [
                    amount.eq(entry["weight_beats"]),
                    start.eq(region.offset + entry["weight_base"]),
                    end.eq(entry["weight_base"] + entry["weight_beats"]),
                    slot.eq(following),
                ]
                with m.If(wanted & ~known & (entry["operation"] == Operation.LINEAR)):
                    m.next = "check"
                with m.Elif(following == turn):
                    m.d.sync += later.eq(~later)
                    m.next = "begin"
                with m.Else():
                    m.next = "look"
            with m.State("check"):
                m.d.sync += [
                    first.eq(self.base[BEAT_LOG2:] + start),
                    wrong.eq((end > region.beats) | (amount > p.stream_words)),
                ]
                m.next = "take"
            with m.State("take"):
                m.d.sync += [
                    chosen.eq(Mux(free.all(), ~self._recent, free[1])),
                    left.eq(CLOSE_CYCLES - 1),
                ]
                with m.If(free.any()):
                    m.next = "close"
                with m.Else():
                    m.d.sync += later.eq(0)
                    m.next = "begin"
            with m.State("close"):
                # something may be about to start from it
                m.d.comb += self._closed.bit_select(chosen, 1).eq(1)
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.d.comb += begin.eq(free.bit_select(chosen, 1) & valid & ~void)
                    m.d.sync += later.eq(0)
                    m.next = "begin"
                    with m.If(begin):
                        m.d.sync += [self._recent.eq(chosen), turn.eq(slot)]
                        for h in HALVES:
                            with m.If(chosen == h):
                                m.d.sync += self._number[h].eq(sought)
                        with m.If(~skip):
                            m.d.comb += ask.eq(1)
                            m.next = "ask"
            with m.State("ask"), m.If(asked):
                m.next = "begin"
        return amount

    def _program(self, m: Module, sought: Signal) -> dict[str, Any]:
        """Build a copy of the program; return what is needed of operation ``sought``."""
        words = {}
        for part in (0, 2):
            store = LoadedMemory(
                LoadTarget.PROGRAM,
                width=WORD_BITS,
                depth=self._params.program_length,
                parts=LAYER_WORDS,
                part=part,
            )
            m.submodules[f"word_{part}"] = store
            wiring.connect(m, wiring.flipped(self.config), store.config)
            m.d.comb += store.address[0].eq(sought)
            words[part] = store.data[0]
        entry = {}
        for name in ("operation", "weight_base", "weight_beats"):
            low, width = LAYER_FIELDS[name]
            word, low = words[low // WORD_BITS], low % WORD_BITS
            entry[name] = word[low : low + width]
        return entry

    def _addresses(
        self, m: Module, ask: Signal, asked: Signal, first: Signal, amount: Signal
    ) -> None:
        """Ask for ``amount`` beats from ``first`` on; ``asked`` with the last burst."""
        axi = self.axi
        cursor = Signal.like(first, reset_less=True)
        left = Signal.like(amount)
        room = Signal(BURST_LOG2 + 1)
        count = Signal.like(room)
        free = Signal()
        m.d.comb += [
            room.eq(BURST_BEATS - cursor[:BURST_LOG2]),
            count.eq(Mux(left < room, left, room)),
            free.eq(~axi.arvalid | axi.arready),
            asked.eq(left == 0),
            axi.arsize.eq(BEAT_LOG2),
            axi.arburst.eq(INCR),
        ]
        with m.If(free):
            m.d.sync += [
                axi.arvalid.eq(left != 0),
                axi.araddr.eq(Cat(Const(0, BEAT_LOG2), cursor)),
                axi.arlen.eq(count - 1),
                left.eq(left - count),
                cursor.eq(Cat(Const(0, BURST_LOG2), cursor[BURST_LOG2:] + 1)),
            ]
        with m.If(ask):
            m.d.sync += [left.eq(amount), cursor.eq(first)]

    def _receive(
        self, m: Module, begin: Value, half: Signal, amount: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Write beats where they belong.

        Return whether any are to come, a pulse with the last of a half, and which half.
        """
        axi, fill = self.axi, self.fill
        count = Signal.like(amount)
        # what comes now, and what comes then
        now_half, then_half = (Signal(name=f"{n}_half", reset_less=True) for n in ("now", "then"))
        now_left, then_left = (Signal.like(amount, name=f"{n}_left") for n in ("now", "then"))
        coming, following = Signal(), Signal()
        row = Signal((self._params.stream_words - 1).bit_length())
        last = Signal()
        m.d.comb += [
            axi.rready.eq(1),
            count.eq(amount - 1),
            last.eq(axi.rvalid & (now_left == 0)),
        ]
        m.d.sync += [
            fill.valid.eq(axi.rvalid),
            fill.address.eq(Cat(row, now_half)),
            fill.data.eq(axi.rdata),
            self.beats.eq(self.beats + axi.rvalid),
        ]
        with m.If(axi.rvalid):
            m.d.sync += [row.eq(row + 1), now_left.eq(now_left - 1)]
        with m.If(last):
            m.d.sync += [
                row.eq(0),
                now_half.eq(then_half),
                now_left.eq(then_left),
                coming.eq(following),
                following.eq(0),
            ]
        with m.If(begin):
            with m.If(coming & ~last):
                m.d.sync += [following.eq(1), then_half.eq(half), then_left.eq(count)]
            with m.Else():
                m.d.sync += [coming.eq(1), now_half.eq(half), now_left.eq(count)]
        return coming, last, now_half
