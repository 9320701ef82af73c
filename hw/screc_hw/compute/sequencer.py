"""Runs the layer program for several sub-batches at once."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
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

LOOK_CYCLES = 4
"""Cycles from a look at a sub-batch to the offer of its operation."""

PENDING_MAX = 7
"""Operations of a sub-batch under way: held, in the array, and columns on their way."""


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a look at ``slot`` found: its operation ``lacks`` inputs, or ``queues`` for the output.

    ``start``: it starts; ``fresh``: nothing has started since the look began.
    """

    slot: Signal
    start: Signal
    fresh: Value
    is_linear: Signal
    lacks: Signal
    queues: Signal


class Sequencer(wiring.Component):
    """Looks at one sub-batch after the other and starts the operation that it is at.

    An operation starts when the one before it is done, or need not be, its inputs are there and its
    unit takes it. Looks go from the oldest sub-batch to the youngest; the first that can go on
    does, urgent operations before others. Only the oldest may give results, so they leave in order.

    **Latency** 4 cycles. **Throughput** a sub-batch looked at per cycle; a start, after which the
    looks begin anew, in 5 to 4 + ``slots``.

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
    done : In(done_layout(params)).array(2)
        Of LINEARs and of DOTs.
    linear_free, pairs_free : In(1)
        The unit takes an operation, until one starts.
    linear : Out(linear_layout(params))
    pairs : Out(pairs_layout(params))
    start_linear, start_pairs : Out(1)
    release : Out(1)
        Pulse: the oldest sub-batch is finished.
    oldest : Out(range(slots))
        Slot of the oldest sub-batch; where there is none, of the next.
    busy : Out(1)
        Something of a sub-batch is here.
    present, half : In(1)
        Where weights are streamed: those of ``demand.number``, two cycles ago, are in this half of
        the memory and may be run from.
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
    oldest: Signal
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
                "done": In(done_layout(params)).array(2),
                "linear_free": In(1),
                "pairs_free": In(1),
                "linear": Out(linear_layout(params)),
                "pairs": Out(pairs_layout(params)),
                "start_linear": Out(1),
                "start_pairs": Out(1),
                "release": Out(1),
                "oldest": Out(range(params.slots)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build a context's state per slot, and the looks at them, one per cycle."""
        m = Module()
        p = self._params
        slots = range(p.slots)
        counters = Array(
            Signal(index_bits(p.program_length), name=f"counter_{slot}") for slot in slots
        )
        pending = Array(Signal(range(PENDING_MAX + 1), name=f"pending_{slot}") for slot in slots)
        dense, bags = (Signal(p.slots, name=n) for n in ("dense", "bags"))
        oldest, looked = Signal(range(p.slots)), Signal(range(p.slots))
        dense_at, bags_at = Signal(range(p.slots)), Signal(range(p.slots))
        released, running = Signal(), Signal(p.slots)
        m.d.comb += [
            running.eq(Cat(pending[slot] != 0 for slot in slots)),
            self.busy.eq((running | dense | bags).any()),
            self.oldest.eq(oldest),
        ]

        def after(slot: Signal) -> Any:
            return Mux(slot == p.slots - 1, 0, slot + 1)

        for pulse, flags, at in ((self.dense, dense, dense_at), (self.bags, bags, bags_at)):
            with m.If(pulse):
                m.d.sync += [flags.bit_select(at, 1).eq(1), at.eq(after(at))]
        # sub-batches of a model without dense inputs have passed dense_at by
        loaded = self.config.payload.target == LoadTarget.COMPUTE_SHAPE
        with m.If(self.config.valid & loaded):
            m.d.sync += dense_at.eq(oldest)
        m.d.sync += [released.eq(0), self.release.eq(released)]
        for done in self.done:
            with m.If(done.valid & done.last):
                m.d.sync += [
                    released.eq(1),
                    dense.bit_select(done.slot, 1).eq(0),
                    bags.bit_select(done.slot, 1).eq(0),
                    oldest.eq(after(oldest)),
                ]

        # a look: counter to memory, memory, its register, conditions; then the offer
        op, number = self._program(m, counters, looked)
        places: list[Any] = [looked]
        places += [Signal.like(looked, name=f"looked_{n}") for n in range(LOOK_CYCLES)]
        m.d.sync += [later.eq(before) for before, later in itertools.pairwise(places)]
        checked, offered = places[-2:]
        fits, is_linear, urgent, first = Signal(), Signal(), Signal(), Signal()
        # without anything of a sub-batch nothing starts, whatever the memory holds before LOAD
        occupied = Signal()
        linear, pairs = self.linear, self.pairs
        to_linear = op.operation == Operation.LINEAR
        to_output = op.destination == Destination.OUTPUT
        inputs = ((op.source != Source.DENSE) | ~to_linear | Array(dense)[checked]) & (
            ~op.wait_features | Array(bags)[checked]
        )
        m.d.sync += [
            first.eq(checked == oldest),
            is_linear.eq(to_linear),
            urgent.eq(op.urgent),
            fits.eq(
                (~Array(running)[checked] | op.independent)
                & inputs
                & ((self.present | ~to_linear) if p.stream_words else 1)
                & (~to_output | ((checked == oldest) & self.output_free))
                & ((op.destination != Destination.FEATURE) | self.turn_free)
                & (op.k != 0)
                & occupied
            ),
        ]
        base = Signal(index_bits(p.bank_words), name="base")
        with m.Switch(places[-3]):
            for slot in slots:
                with m.Case(slot):
                    m.d.sync += [
                        base.eq(slot * p.activation_words),
                        occupied.eq(dense[slot] | bags[slot]),
                    ]
        for unit in (linear, pairs):
            place = unit.place
            m.d.sync += [
                place.entry.eq(op.requantise_base),
                place.relu.eq(op.relu),
                place.destination.eq(op.destination),
                place.address.eq(base + op.destination_base),
                place.slot.eq(checked),
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
            pairs.slot.eq(checked),
            pairs.vectors.eq(op.n - 1),
            pairs.links.eq((op.k - 1) >> LOG2),
            pairs.tail.eq((op.k - 1)[:LOG2]),
            pairs.first.eq((base << LOG2) + op.destination_base),
        ]
        # a round begins with the oldest; a unit that becomes free in it waits for the next
        start, free, free_then = Signal(), Signal(), Signal()
        stale = Signal(LOOK_CYCLES)  # looks from before a start
        hurry = Signal(p.slots)  # urgent operations that can start
        m.d.comb += [
            free.eq(Mux(first, self.linear_free, free_then)),
            self.start_linear.eq(fits & is_linear & free & (urgent | ~hurry.any()) & ~stale[0]),
            self.start_pairs.eq(fits & ~is_linear & self.pairs_free & ~stale[0]),
            start.eq(self.start_linear | self.start_pairs),
        ]
        m.d.sync += [
            free_then.eq(free),
            stale.eq(Mux(start, -1, stale >> 1)),
            looked.eq(Mux(start, oldest, after(looked))),
        ]
        with m.If(~stale[0]):
            m.d.sync += hurry.bit_select(offered, 1).eq(fits & urgent & ~start)
        with m.If(start):
            m.d.sync += counters[offered].eq(Mux(linear.place.last, 0, counters[offered] + 1))
        for slot in slots:
            begun = Signal(name=f"begun_{slot}")
            ended = Signal(name=f"ended_{slot}")
            m.d.comb += [
                begun.eq(start & (offered == slot)),
                ended.eq(Cat(done.valid & (done.slot == slot) for done in self.done).any()),
            ]
            m.d.sync += pending[slot].eq(pending[slot] + begun - ended)
        if p.stream_words:
            lacks, queues = Signal(name="lacking"), Signal(name="queueing")
            m.d.sync += [lacks.eq(~inputs), queues.eq(to_output & (checked != oldest))]
            m.d.comb += self.demand.number.eq(number)
            look = _Look(offered, start, ~stale[0], is_linear, lacks, queues)
            self._demand(m, look, counters, running, running | dense | bags, oldest)
        return m

    def _demand(
        self, m: Module, look: _Look, counters: Any, running: Value, here: Value, oldest: Signal
    ) -> None:
        """Tell which weights every sub-batch needs next, as of the last look at it."""
        slots = self._params.slots
        lacks, queues, pairing = (
            Signal(slots, name=name) for name in ("lacks", "queues", "pairing")
        )
        with m.If(look.start):
            m.d.sync += [
                lacks.bit_select(look.slot, 1).eq(0),
                queues.bit_select(look.slot, 1).eq(0),
                pairing.bit_select(look.slot, 1).eq(~look.is_linear),
            ]
        with m.Elif(look.fresh):
            m.d.sync += [
                lacks.bit_select(look.slot, 1).eq(look.lacks),
                queues.bit_select(look.slot, 1).eq(look.queues),
            ]
        for slot in range(slots):
            # what follows pairs is not needed soon; operation 0 is the next sub-batch's
            paired = running[slot] & pairing[slot]
            ends = running[slot] & (counters[slot] == 0)
            far = ends | (paired & (oldest != slot))
            wants = here[slot] & ~lacks[slot] & ~far
            m.d.comb += [
                self.demand.at[slot].eq(counters[slot]),
                self.demand.wants[slot].eq(wants),
                self.demand.soon[slot].eq(wants & ~paired & ~queues[slot]),
                self.demand.may[slot].eq(far),
            ]

    def _program(self, m: Module, counters: Any, looked: Signal) -> tuple[Any, Signal]:
        """Build the program memory; return the operation of ``looked``, three cycles later.

        And its number, a cycle later.
        """
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
