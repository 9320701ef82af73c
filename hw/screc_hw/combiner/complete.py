"""Completion of slots, in order, for one compute core."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.params import CombinerParams
from screc_hw.stream import index_bits

__all__ = ["Complete"]


class Complete(wiring.Component):
    """Counts down each slot's bags; pulses once per slot, in the order of admission.

    A later slot may have its last bag before an earlier one (memory cores run ahead of each other),
    but its pulse waits.

    **Latency** 3 cycles from the last bag to the pulse. **Throughput** 1 bag, and 1
    slot, per cycle.

    Parameters
    ----------
    params
        Sizes.
    cores
        Compute cores; this one has ``params.slots // cores`` slots.

    Members
    -------
    start : In(1)
        The core's next slot waits for ``count`` bags.
    count : In(range(rows × max_features + 1))
    bag : In(1)
        A bag of ``slot`` is complete.
    slot : In(index of a local slot)
    complete : Out(1)
        Pulse: all bags of the oldest slot are complete.
    abort : In(1)
        Every slot counts as complete, whatever bags it misses.
    idle : Out(1)
        No slot waits.
    """

    start: Signal
    count: Signal
    bag: Signal
    slot: Signal
    complete: Signal
    abort: Signal
    idle: Signal

    def __init__(self, params: CombinerParams, cores: int) -> None:
        self._slots = params.slots // cores
        super().__init__(
            {
                "start": In(1),
                "count": In(range(params.rows * params.max_features + 1)),
                "bag": In(1),
                "slot": In(index_bits(self._slots)),
                "complete": Out(1),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build one counter per slot, and the walk over them."""
        m = Module()
        slots = self._slots
        newest, oldest = Signal(range(slots)), Signal(range(slots))
        waiting = Array(Signal(name=f"waiting_{slot}") for slot in range(slots))
        finished = Array(Signal(name=f"finished_{slot}") for slot in range(slots))
        for slot in range(slots):
            left = Signal.like(self.count, name=f"left_{slot}")
            m.d.sync += finished[slot].eq(waiting[slot] & ((left == 0) | self.abort))
            with m.If(self.start & (newest == slot)):
                m.d.sync += [left.eq(self.count), waiting[slot].eq(1)]
            with m.Elif(self.bag & (self.slot == slot)):
                m.d.sync += left.eq(left - 1)
            with m.If(self.complete & (oldest == slot)):
                m.d.sync += [waiting[slot].eq(0), finished[slot].eq(0)]
        with m.If(self.start):
            m.d.sync += newest.eq(newest + 1)
        m.d.comb += [
            self.complete.eq(finished[oldest]),
            self.idle.eq(~Cat(*waiting).any()),
        ]
        with m.If(self.complete):
            m.d.sync += oldest.eq(oldest + 1)
        return m
