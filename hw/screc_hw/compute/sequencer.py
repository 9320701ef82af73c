"""Runs the layer program for several sub-batches at once."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import (
    OPERATION_WORDS,
    demand_layout,
    done_layout,
    linear_layout,
    operation_layout,
    pairs_layout,
)
from screc_hw.compute.memories import WORD_BITS, LoadedMemory
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.protocol import LAYER_WORDS, Destination, LoadTarget, Operation, Source
from screc_hw.stream import config_layout, index_bits

__all__ = ["Sequencer"]

LOG2 = (CHAIN - 1).bit_length()


class Sequencer(wiring.Component):
    """Looks at one sub-batch after the other and starts the operation that it is at.

    An operation starts when the one before it is done, its inputs are there and its unit takes it.
    Sub-batches take turns, the oldest first; only it may give results, so they leave in order.

    **Latency** 4 cycles per sub-batch that is looked at, well below an operation's.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    dense, bags : In(1)
        Pulse: all dense words, or bags, of one more sub-batch have been written; in order.
    output_free : In(1)
        Results can be taken.
    turn_free : In(1)
        The bottom output of another sub-batch can be taken.
    done : In(done_layout(params)).array(3)
    linear_free, pairs_free : In(1)
        The unit takes an operation, until one starts.
    linear : Out(linear_layout(params))
    pairs : Out(pairs_layout(params))
    start_linear, start_pairs : Out(1)
    release : Out(1)
        Pulse: the oldest sub-batch is finished.
    busy : Out(1)
        Something of a sub-batch is here.
    present, half : In(1)
        Where weights are streamed: those of ``demand.number`` are in this half of the memory.
    demand : Out(demand_layout(params))
        Likewise: which operations' weights are needed next.
    """

    config: stream.Interface
    dense: Signal
    bags: Signal
    output_free: Signal
    turn_free: Signal
    done: list[View[data.StructLayout]]
    linear_free: Signal
    pairs_free: Signal
    linear: View[data.StructLayout]
    pairs: View[data.StructLayout]
    start_linear: Signal
    start_pairs: Signal
    release: Signal
    busy: Signal
    present: Signal
    half: Signal
    demand: View[data.StructLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        streamed = {"present": In(1), "half": In(1), "demand": Out(demand_layout(params))}
        super().__init__(
            {
                **(streamed if params.stream_words else {}),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "dense": In(1),
                "bags": In(1),
                "output_free": In(1),
                "turn_free": In(1),
                "done": In(done_layout(params)).array(3),
                "linear_free": In(1),
                "pairs_free": In(1),
                "linear": Out(linear_layout(params)),
                "pairs": Out(pairs_layout(params)),
                "start_linear": Out(1),
                "start_pairs": Out(1),
                "release": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build a context's state per slot, and the round."""
        m = Module()
        p = self._params
        slots = range(p.slots)
        counters = Array(
            Signal(index_bits(p.program_length), name=f"counter_{slot}") for slot in slots
        )
        running, dense, bags = (Signal(p.slots, name=n) for n in ("running", "dense", "bags"))
        oldest, looked = Signal(range(p.slots)), Signal(range(p.slots))
        dense_at, bags_at = Signal(range(p.slots)), Signal(range(p.slots))
        released = Signal()
        m.d.comb += self.busy.eq((running | dense | bags).any())

        def after(slot: Signal) -> Any:
            return Mux(slot == p.slots - 1, 0, slot + 1)

        for pulse, flags, at in ((self.dense, dense, dense_at), (self.bags, bags, bags_at)):
            with m.If(pulse):
                m.d.sync += [flags.bit_select(at, 1).eq(1), at.eq(after(at))]
        m.d.sync += [released.eq(0), self.release.eq(released)]
        for done in self.done:
            with m.If(done.valid):
                m.d.sync += running.bit_select(done.slot, 1).eq(0)
                with m.If(done.last):
                    m.d.sync += [
                        released.eq(1),
                        dense.bit_select(done.slot, 1).eq(0),
                        bags.bit_select(done.slot, 1).eq(0),
                        oldest.eq(after(oldest)),
                    ]

        op, counter = self._program(m, counters, looked)
        start, fits = Signal(), Signal()
        offers, steady = Signal(), Signal()
        linear, pairs = self.linear, self.pairs
        is_linear = op.operation == Operation.LINEAR
        to_output = op.destination == Destination.OUTPUT
        inputs = ((op.source != Source.DENSE) | ~is_linear | Array(dense)[looked]) & (
            ~op.wait_features | Array(bags)[looked]
        )
        m.d.sync += fits.eq(
            ~Array(running)[looked]
            & inputs
            & ((self.present | ~is_linear) if p.stream_words else 1)
            & (~to_output | ((looked == oldest) & self.output_free))
            & ((op.destination != Destination.FEATURE) | self.turn_free)
            & (op.k != 0)
        )
        base = Signal(index_bits(p.bank_words), name="base")
        with m.Switch(looked):
            for slot in slots:
                with m.Case(slot):
                    m.d.sync += base.eq(slot * p.activation_words)
        for unit in (linear, pairs):
            place = unit.place
            m.d.sync += [
                place.entry.eq(op.requantise_base),
                place.relu.eq(op.relu),
                place.destination.eq(op.destination),
                place.address.eq(base + op.destination_base),
                place.slot.eq(looked),
                place.last.eq(op.last),
            ]
        m.d.sync += [
            linear.source.eq(base + op.source_base),
            linear.links.eq((op.k - 1) >> LOG2),
            linear.tail.eq((op.k - 1)[:LOG2]),
            linear.n.eq(op.n - 1),
            linear.weight.eq(
                Cat(Const(0, p.step_bits - 1), self.half) if p.stream_words else op.weight_base
            ),
            pairs.slot.eq(looked),
            pairs.vectors.eq(op.n - 1),
            pairs.links.eq((op.k - 1) >> LOG2),
            pairs.tail.eq((op.k - 1)[:LOG2]),
            pairs.first.eq((base << LOG2) + op.destination_base),
        ]
        with m.FSM():
            # a look is: counter to memory, memory, its register, conditions; then the offer
            for phase in range(5):
                with m.State(f"look{phase}"):
                    m.d.comb += steady.eq(phase == 2)
                    m.next = f"look{phase + 1}" if phase < 4 else "offer"
            with m.State("offer"):
                m.d.comb += [
                    offers.eq(1),
                    self.start_linear.eq(fits & is_linear & self.linear_free),
                    self.start_pairs.eq(fits & ~is_linear & self.pairs_free),
                    start.eq(self.start_linear | self.start_pairs),
                ]
                with m.If(start):
                    m.d.sync += [
                        running.bit_select(looked, 1).eq(1),
                        counters[looked].eq(Mux(op.last, 0, counter + 1)),
                    ]
                m.d.sync += looked.eq(Mux(start, oldest, after(looked)))
                m.next = "look0"
        if p.stream_words:
            blocked, paired = Signal(p.slots), Signal(p.slots)
            waits = Signal()  # for inputs
            m.d.sync += waits.eq(~inputs)
            with m.If(offers):
                m.d.sync += [
                    blocked.bit_select(looked, 1).eq(waits & ~start),
                ]
            with m.If(start):
                m.d.sync += paired.bit_select(looked, 1).eq(~is_linear)
            m.d.comb += [
                self.demand.oldest.eq(oldest),
                self.demand.number.eq(counter),
                self.demand.steady.eq(steady),
            ]
            for slot in slots:
                here = running[slot] | dense[slot] | bags[slot]
                # what comes after pairs is not needed soon; operation 0 is the next sub-batch's
                later = running[slot] & ((counters[slot] == 0) | (paired[slot] & (oldest != slot)))
                m.d.comb += [
                    self.demand.at[slot].eq(counters[slot]),
                    self.demand.wants[slot].eq(here & ~blocked[slot] & ~later),
                    self.demand.may[slot].eq(later),
                ]
        return m

    def _program(self, m: Module, counters: Any, looked: Signal) -> tuple[Any, Signal]:
        """Build the program memory; return the operation of ``looked`` and its number."""
        words = []
        counter = Signal.like(counters[0], name="counter")
        m.d.sync += counter.eq(counters[looked])
        for part in range(OPERATION_WORDS):
            store = LoadedMemory(
                LoadTarget.PROGRAM,
                width=WORD_BITS,
                depth=self._params.program_length,
                parts=LAYER_WORDS,
                part=part,
            )
            m.submodules[f"word_{part}"] = store
            wiring.connect(m, wiring.flipped(self.config), store.config)
            m.d.comb += store.address[0].eq(counter)
            words.append(store.data[0])
        op: Any = Signal(operation_layout(), name="operation")
        m.d.comb += op.eq(Cat(*words))
        return op, counter
