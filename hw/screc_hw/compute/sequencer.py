"""Runs the layer program once per sub-batch, one operation after the other."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.buffers import LoadedMemory
from screc_hw.compute.layouts import OPERATION_WORDS, WORD_BITS, operation_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.protocol import LAYER_WORDS, Destination, LoadTarget, Operation, Source
from screc_hw.stream import config_layout, index_bits

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Program memory, conditions of every operation, slots.

    The next operation is read from the program memory while one runs, so that an operation starts
    in the cycle after the one before is done. What an operation may wait for: dense words of all
    its inputs, a complete slot, a free result register. An operation without inputs (``k`` 0, an
    unloaded program) never starts.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    complete : In(1)
        Pulse: the bags of one more slot are complete, in order.
    dense_level : In(range(dense_words + 1))
        Dense words there are.
    output_free : In(1)
        A result can be taken.
    done : In(1)
        Pulse: the running operation is done.
    start_linear, start_feature : Out(1)
        Pulse: ``operation`` starts, on the array or on the feature buffer.
    operation : Out(operation_layout())
    slot_base : Out(range(feature_words))
        First word of the slot in the feature buffer.
    release : Out(1)
        Pulse: the slot is not needed any more.
    pending : Out(1)
        A sub-batch has begun or something of it has arrived.
    waiting : Out(1)
        It is pending and no operation runs or starts.
    """

    config: stream.Interface
    complete: Signal
    dense_level: Signal
    output_free: Signal
    done: Signal
    start_linear: Signal
    start_feature: Signal
    operation: View
    slot_base: Signal
    release: Signal
    pending: Signal
    waiting: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "complete": In(1),
                "dense_level": In(range(params.dense_words + 1)),
                "output_free": In(1),
                "done": In(1),
                "start_linear": Out(1),
                "start_feature": Out(1),
                "operation": Out(operation_layout()),
                "slot_base": Out(index_bits(params.feature_words)),
                "release": Out(1),
                "pending": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the state machine: waiting for the next operation's inputs, or running one."""
        m = Module()
        p = self._params
        op = self.operation
        counter = Signal(index_bits(p.program_length))
        self._program(m, counter)

        running, begun, final = Signal(), Signal(), Signal()
        slots_complete = Signal(range(p.slots + 1))
        start, finish = Signal(), Signal()
        m.d.comb += [
            # whatever an unloaded program holds, nothing starts before something has arrived
            start.eq(self.pending & ~running & self._inputs_there(m, slots_complete)),
            finish.eq(running & self.done),
            self.start_linear.eq(start & (op.operation == Operation.LINEAR)),
            self.start_feature.eq(start & (op.operation != Operation.LINEAR)),
            self.pending.eq(begun | (self.dense_level != 0) | (slots_complete != 0)),
            self.waiting.eq(self.pending & ~running & ~start),
        ]
        # the last operation of a program has all it needs: its slot no longer counts
        m.d.sync += slots_complete.eq(slots_complete + self.complete - (start & op.last))
        m.d.sync += self.release.eq(finish & final)
        with m.If(start):
            m.d.sync += [running.eq(1), begun.eq(1), final.eq(op.last), counter.eq(counter + 1)]
            with m.If(op.last):
                m.d.sync += counter.eq(0)
        with m.If(finish):
            m.d.sync += [running.eq(0), begun.eq(~final)]
            with m.If(final):
                last_slot = (p.slots - 1) * p.vector_words
                m.d.sync += self.slot_base.eq(self.slot_base + p.vector_words)
                with m.If(self.slot_base == last_slot):
                    m.d.sync += self.slot_base.eq(0)
        return m

    def _program(self, m: Module, counter: Signal) -> None:
        """Build the program memory; ``operation`` follows ``counter`` two cycles later."""
        words = []
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
        m.d.comb += self.operation.eq(Cat(*words))

    def _inputs_there(self, m: Module, slots_complete: Signal) -> Signal:
        """Say whether the next operation may start.

        Compared a cycle early: an operation lasts longer than reading the next and comparing take.
        """
        op = self.operation
        dense, bags, place, there = (Signal(name=n) for n in ("dense", "bags", "place", "there"))
        from_dense = (op.operation == Operation.LINEAR) & (op.source == Source.DENSE)
        m.d.sync += [
            dense.eq(~from_dense | (self.dense_level >= op.k)),
            bags.eq(~(op.wait_features | op.last) | (slots_complete != 0)),
            place.eq((op.destination != Destination.OUTPUT) | self.output_free),
            there.eq(op.k != 0),
        ]
        ready = Signal(name="ready")
        m.d.comb += ready.eq(dense & bags & place & there)
        return ready
