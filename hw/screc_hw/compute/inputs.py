"""What comes into the core: dense words and bags, and where they are put."""

from __future__ import annotations

import functools
import operator
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.pairs import vector_write_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.compute.writer import WRITE_CYCLES, spot_layout, stripe_layout
from screc_hw.protocol import COMPUTE_SHAPE_FIELDS, LoadTarget
from screc_hw.stream import (
    DeepQueue,
    SkidBuffer,
    config_layout,
    feature_write_layout,
    index_bits,
)

__all__ = ["BagInput", "DenseInput"]

LOG2 = (CHAIN - 1).bit_length()


class DenseInput(wiring.Component):
    """Writes dense words to the sub-batches that they are for.

    **Latency** 1 cycle. **Throughput** 1 word per cycle. **Backpressure** while all slots have
    theirs, or the writer is taken.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        ``COMPUTE_SHAPE``: how many words a sub-batch has.
    slot : In(range(slots))
        At LOAD: that of the next sub-batch.
    i : In(stream.Signature(8 * rows))
    release : In(1)
        A slot is free again.
    o : Out(stream.Signature(spot_layout(params)))
    complete : Out(1)
        Pulse: the words of one more sub-batch can be read.
    held : Out(1)
        A word has come whose sub-batch is not released.
    """

    config: stream.Interface
    slot: Signal
    i: stream.Interface
    release: Signal
    o: stream.Interface
    complete: Signal
    held: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "slot": In(range(params.slots)),
                "i": In(stream.Signature(8 * params.rows)),
                "release": In(1),
                "o": Out(stream.Signature(spot_layout(params))),
                "complete": Out(1),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count words and slots."""
        m = Module()
        p = self._params
        m.submodules.skid = skid = SkidBuffer(8 * p.rows)
        wiring.connect(m, wiring.flipped(self.i), skid.i)
        low, width = COMPUTE_SHAPE_FIELDS["dense"]
        last = Signal(width)
        base = Signal(index_bits(p.bank_words))
        with m.If(self.config.valid & (self.config.payload.target == LoadTarget.COMPUTE_SHAPE)):
            m.d.sync += last.eq(self.config.payload.data[low : low + width] - 1)
            # models without dense inputs leave it behind
            with m.Switch(self.slot):
                for slot in range(p.slots):
                    with m.Case(slot):
                        m.d.sync += base.eq(slot * p.activation_words)
        number = Signal(width)
        slots = Signal(range(p.slots + 1))
        room = Signal(init=1)
        taken, ended = Signal(), Signal()
        spot: Any = self.o.payload
        m.d.comb += [
            self.o.valid.eq(skid.o.valid & room),
            skid.o.ready.eq(self.o.ready & room),
            taken.eq(self.o.valid & self.o.ready),
            ended.eq(taken & (number == last)),
            spot.bank.eq(number),
            spot.address.eq(base + (number >> LOG2)),
            spot.enable.eq(-1),
            spot.codes.eq(skid.o.payload),
            self.held.eq((slots != 0) | (number != 0) | skid.o.valid),
        ]
        following = Signal.like(slots)
        m.d.comb += following.eq(slots + ended - (self.release & (slots != 0)))
        m.d.sync += [slots.eq(following), room.eq((following != p.slots) & ~ended)]
        with m.If(taken):
            m.d.sync += number.eq(Mux(ended, 0, number + 1))
        with m.If(ended):
            end = (p.slots - 1) * p.activation_words
            m.d.sync += base.eq(Mux(base == end, 0, base + p.activation_words))
        pulse: Any = ended
        for n in range(WRITE_CYCLES):
            later = Signal(name=f"ended_{n}")
            m.d.sync += later.eq(pulse)
            pulse = later
        m.d.comb += self.complete.eq(pulse)
        return m


class BagInput(wiring.Component):
    """Cuts bags' words into parts of 8 components.

    With ``dot`` they go to the interaction's units, otherwise into the activation memory.

    **Latency** 2 cycles. **Throughput** 8 components per cycle. **Backpressure** ``words.ready``
    comes from a register.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        ``COMPUTE_SHAPE``: where word 0 of a slot goes in the activation memory.
    words : In(stream.Signature(feature_write_layout(params)))
    complete : In(1)
        Pulse: every word of one more slot has been accepted.
    vectors : Out(vector_write_layout(params))
        With ``dot``; only while ``free``.
    free : In(1)
    stripes : Out(stream.Signature(stripe_layout(params)))
        Without.
    written : Out(1)
        Pulse: all words of one more slot can be read.
    held : Out(1)
        A word is inside.
    """

    config: stream.Interface
    words: stream.Interface
    complete: Signal
    vectors: View[Any]
    free: Signal
    stripes: stream.Interface
    written: Signal
    held: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "words": In(stream.Signature(feature_write_layout(params))),
                "complete": In(1),
                "vectors": Out(vector_write_layout(params)),
                "free": In(1),
                "stripes": Out(stream.Signature(stripe_layout(params))),
                "written": Out(1),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Address words, cut them, and note when a slot's last one is written."""
        m = Module()
        p = self._params
        m.submodules.skid = skid = SkidBuffer(feature_write_layout(p))
        wiring.connect(m, wiring.flipped(self.words), skid.i)
        low, width = COMPUTE_SHAPE_FIELDS["bags"]
        at, _ = COMPUTE_SHAPE_FIELDS["dot"]
        origin = Signal(index_bits(p.bank_words))
        dot = Signal()
        word_in = self.config.payload
        with m.If(self.config.valid & (word_in.target == LoadTarget.COMPUTE_SHAPE)):
            m.d.sync += origin.eq(word_in.data[low : low + width])
            if p.dot:
                m.d.sync += dot.eq(word_in.data[at])

        word: Any = skid.o.payload
        held: Any = Signal(feature_write_layout(p), name="word", reset_less=True)
        valid, part, end, go = Signal(), Signal(index_bits(p.bag_parts)), Signal(), Signal()
        address = Signal(index_bits(max(p.bank_words, p.unit_words)))
        m.d.comb += [
            end.eq(part == p.bag_parts - 1),
            skid.o.ready.eq(~valid | (go & end)),
        ]
        # parts of 8 components before this word; a multiplier would not be registered
        if p.lanes >= CHAIN:
            ones = [bit for bit in range(p.bag_parts.bit_length()) if p.bag_parts >> bit & 1]
            parts: Value = functools.reduce(operator.add, (word.word << bit for bit in ones))
        else:
            parts = word.word >> 1
        samples, slots = (Signal.like(address, name=n) for n in ("samples", "slots"))
        group = word.row >> (p.pair_units - 1).bit_length()
        bits = (p.unit_rows - 1).bit_length()
        with m.Switch(Cat(group[:bits], word.slot)):
            for sample in range(p.slots * p.unit_rows):
                slot, row = divmod(sample, p.unit_rows)
                with m.Case(slot << bits | row):
                    m.d.comb += [
                        samples.eq(sample * p.vector_chunks),
                        slots.eq(slot * p.activation_words),
                    ]
        start = Mux(dot, samples, slots + origin) + parts
        with m.If(go):
            m.d.sync += [part.eq(Mux(end, 0, part + 1)), address.eq(address + 1)]
        with m.If(skid.o.ready):
            m.d.sync += [valid.eq(skid.o.valid), held.eq(word), address.eq(start), part.eq(0)]

        codes = [Signal(8, name=f"code_{k}") for k in range(CHAIN)]
        enable = Signal(CHAIN)
        if p.lanes >= CHAIN:
            whole, width = held.data.as_value(), 8 * CHAIN
            parts_held = Array(whole[low : low + width] for low in range(0, len(whole), width))
            chosen = Value.cast(parts_held[part]) if p.bag_parts > 1 else whole
            m.d.comb += enable.eq(-1)
        else:
            chosen = held.data.as_value().replicate(2)
            m.d.comb += enable.eq(Mux(held.word[0], 0xF0, 0x0F))
        m.d.comb += [code.eq(chosen[8 * k : 8 * k + 8]) for k, code in enumerate(codes)]
        vectors: Any = self.vectors
        unit = held.row[: (p.pair_units - 1).bit_length()]
        stripe: Any = self.stripes.payload
        m.d.comb += [
            go.eq(valid & Mux(dot, self.free, self.stripes.ready)),
            vectors.units.eq(Mux(go & dot, 1 << unit, 0)),
            vectors.address.eq(address),
            vectors.enable.eq(enable),
            *(
                vectors.codes[u][k].eq(code)
                for u in range(p.pair_units)
                for k, code in enumerate(codes)
            ),
            self.stripes.valid.eq(valid & ~dot),
            stripe.address.eq(address),
            stripe.row.eq(held.row),
            stripe.enable.eq(enable),
            *(stripe.codes[k].eq(code) for k, code in enumerate(codes)),
        ]
        self._count(m, go & end)
        m.d.comb += self.held.eq(valid | skid.o.valid)
        return m

    def _count(self, m: Module, retired: Any) -> None:
        """Pulse ``written`` when the words that had come at ``complete`` have been written."""
        p = self._params
        bits = (p.slots * p.rows * p.vector_words + 4).bit_length() + 1
        came, gone = Signal(bits), Signal(bits)
        taken = self.words.valid & self.words.ready
        m.submodules.marks = marks = DeepQueue(bits, p.slots, reserved=True)
        reached, passed = Signal(), Signal(bits)
        m.d.sync += [came.eq(came + taken), gone.eq(gone + retired)]
        m.d.comb += [
            marks.i.valid.eq(self.complete),
            marks.i.payload.eq(came + taken),
            # words of later slots may have been written before the mark is looked at
            passed.eq(gone - marks.o.payload),
            reached.eq(marks.o.valid & ~passed[-1]),
            marks.o.ready.eq(reached),
        ]
        pulse: Any = reached
        for n in range(WRITE_CYCLES):
            later = Signal(name=f"reached_{n}")
            m.d.sync += later.eq(pulse)
            pulse = later
        m.d.comb += self.written.eq(pulse)
