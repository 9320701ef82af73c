"""Accumulators of unfinished bags, and the counts that say when a bag is finished."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import (
    ahead_layout,
    bag_address,
    header_layout,
    part_layout,
    slot_address,
    sum_address,
    sum_layout,
)
from screc_hw.combiner.params import COUNT_BITS, CombinerParams

__all__ = ["Accumulate"]

STALE_COUNTS, STALE_SUMS = 4, 3
"""Parts behind one whose reads miss what it writes.

From a sum's address to the sum written are three registers (memory, its output, the result), with
counts one more (the slot's), and the memory gives the old word in the cycle of a write.
"""

SUMS = 6
"""Stage of the sums, see :class:`Accumulate`."""


class Accumulate(wiring.Component):
    """Adds the parts of each bag, and passes the sum on when their counts reach its length.

    The count is updated first (stages 0 to 4), the accumulator behind it (stages 3 to 6), so that
    the adder already knows whether its part is the bag's first, and whether the bag was finished
    before; then the part is dropped. Sums that a following part needs before they can be read back
    are forwarded, so parts of one bag may follow each other in any pattern.

    **Latency** 6 cycles. **Throughput** 1 slice per cycle. **Backpressure** ``parts.ready`` is a
    register, 0 while ``queue_depth`` slices are under way; each frees its place by ``taken``, or
    at once when it does not finish a bag.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    headers : In(stream.Signature(header_layout), valid-only)
        Starts a bag: notes its length, clears its count. The slot has no part under way.
    parts : In(stream.Signature(part_layout))
        The slices of a part follow each other.
    ahead : Out(ahead_layout)
        The bag of what is on ``sums`` three cycles later.
    sums : Out(stream.Signature(sum_layout), valid-only)
    taken : In(1)
        A word that came from ``sums`` has left the combiner.
    idle : Out(1)
        Nothing is under way.
    """

    headers: stream.Interface
    parts: stream.Interface
    ahead: data.View[data.StructLayout]
    sums: stream.Interface
    taken: Signal
    idle: Signal

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        super().__init__(
            {
                "headers": In(stream.Signature(header_layout(params), always_ready=True)),
                "parts": In(stream.Signature(part_layout(params))),
                "ahead": Out(ahead_layout(params)),
                "sums": Out(stream.Signature(sum_layout(params), always_ready=True)),
                "taken": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the pipeline: stage n holds what entered n cycles ago."""
        m = Module()
        layout = data.StructLayout(
            {str(name): f.shape for name, f in part_layout(self._params) if name != "acc"}
        )
        stages: list[Any] = [
            Signal(layout, name=f"part_{n}", reset_less=True) for n in range(SUMS + 1)
        ]
        valid = [Signal(name=f"valid_{n}") for n in range(SUMS + 2)]
        m.d.comb += [stages[0][name].eq(self.parts.payload[name]) for name, _ in layout]
        for chain in (stages, valid):
            m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(chain)]
        same_bag, same_sum = self._compare(m, stages)
        before, after = self._count(m, stages, valid, same_bag)
        keep, first, complete = self._judge(m, stages, before, after)
        result = self._add(m, stages, valid, same_sum, keep, first)
        finished = Signal()
        m.d.sync += finished.eq(complete)
        m.d.comb += [
            self.sums.valid.eq(valid[SUMS] & finished),
            self.sums.payload.acc.eq(result),
            *(
                self.sums.payload[name].eq(stages[SUMS][name])
                for name in ("slot", "row", "slice", "last")
            ),
        ]
        self._places(m, valid[0], valid[SUMS] & ~finished)
        return m

    def _bag(self, part: Any) -> Value:
        return bag_address(self._params, part.row, part.feature)

    def _bag_of_all(self, part: Any) -> Value:
        return slot_address(self._params, part.slot, self._bag(part))

    def _compare(self, m: Module, stages: list[Any]) -> tuple[Sequence[Value], Sequence[Value]]:
        """Compare each part with those before it, as both go on in step.

        Returns, nearest first: of stage 2, whether it has the bag of each of ``STALE_COUNTS``
        parts; of stage 4, whether it has the bag and slice of each of ``STALE_SUMS``.
        """
        bags = [Signal(STALE_COUNTS, name=f"same_bag_{n}", reset_less=True) for n in (1, 2)]
        sums = [Signal(STALE_SUMS, name=f"same_sum_{n}", reset_less=True) for n in (2, 3, 4)]
        m.d.sync += bags[0].eq(
            Cat(
                self._bag_of_all(stages[0]) == self._bag_of_all(stages[d])
                for d in range(1, STALE_COUNTS + 1)
            )
        )
        m.d.sync += sums[0].eq(
            Cat(
                bags[0][d - 1] & (stages[1].slice == stages[1 + d].slice)
                for d in range(1, STALE_SUMS + 1)
            )
        )
        for chain in (bags, sums):
            m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(chain)]
        return list(bags[-1]), list(sums[-1])

    def _count(
        self, m: Module, stages: list[Any], valid: list[Signal], same_bag: Sequence[Value]
    ) -> tuple[Signal, Signal]:
        """Count lookups, stages 0 to 4; return the bag's count before and after the part.

        One memory per slot: a slot is either being admitted, which clears counts, or in use.
        """
        params = self._params
        header = self.headers.payload
        before = Signal(COUNT_BITS, reset_less=True)
        after = [
            Signal(COUNT_BITS, name=f"after_{4 + n}", reset_less=True) for n in range(STALE_COUNTS)
        ]
        # whether the part in a stage changes the count of its bag
        counted = [Signal(name=f"counted_{n}") for n in range(1, SUMS + 1)]
        m.d.sync += counted[0].eq(valid[0] & stages[0].last & ~stages[0].empty)
        m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(counted)]
        read = []
        for slot in range(params.slots):
            bank: memory.Memory[Any, Any] = memory.Memory(
                shape=COUNT_BITS, depth=params.slot_bags, init=[]
            )
            m.submodules[f"counts_{slot}"] = bank
            source, sink = bank.read_port(), bank.write_port()
            clear = self.headers.valid & (header.slot == slot)
            output = Signal(COUNT_BITS, name=f"count_{slot}", reset_less=True)
            m.d.sync += output.eq(source.data)
            m.d.comb += [
                source.addr.eq(self._bag(stages[0])),
                sink.addr.eq(Mux(clear, header.address, self._bag(stages[4]))),
                sink.data.eq(Mux(clear, 0, after[0])),
                sink.en.eq(clear | (counted[3] & (stages[4].slot == slot))),
            ]
            read.append(output)
        stored = Signal(COUNT_BITS, reset_less=True)
        m.d.sync += stored.eq(Array(read)[stages[2].slot])
        same = [same_bag[n] & counted[2 + n] for n in range(STALE_COUNTS)]
        count = forwarded(m, "count", same, after, stored)
        total = Signal(COUNT_BITS)
        m.d.comb += total.eq(count[:-1] + stages[3].count)
        # the top bit sticks: a bag with too many lookups stays finished
        m.d.sync += [before.eq(count), after[0].eq(Cat(total[:-1], total[-1] | count[-1]))]
        m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(after)]
        return before, after[0]

    def _judge(
        self, m: Module, stages: list[Any], before: Signal, after: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Read headers, stages 0 to 4; return of stage 5: add it, as the first part, finishes."""
        params = self._params
        header = self.headers.payload
        fields = {"length": 16, **({"reciprocal": 16} if params.mean else {})}
        lengths: memory.Memory[Any, Any]
        m.submodules.lengths = lengths = memory.Memory(
            shape=data.StructLayout(fields), depth=params.slots * params.slot_bags, init=[]
        )
        sink, source = lengths.write_port(), lengths.read_port()
        m.d.comb += [
            sink.addr.eq(slot_address(params, header.slot, header.address)),
            sink.en.eq(self.headers.valid),
            *(sink.data[name].eq(header[name]) for name in fields),
            source.addr.eq(self._bag_of_all(stages[0])),
        ]
        # with a reset, the memory's output register cannot become part of a shift register
        read = [Signal.like(source.data, name=f"header_{n}", reset_less=n > 2) for n in (2, 3, 4)]
        m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise([source.data, *read])]
        m.d.comb += self.ahead.feature.eq(stages[3].feature)
        if params.mean:
            m.d.comb += [self.ahead[name].eq(read[1][name]) for name in fields]
        length = read[-1].length
        keep, first, complete = Signal(), Signal(), Signal()
        empty = stages[4].empty
        m.d.sync += [
            keep.eq(empty | (before < length)),
            first.eq(empty | (before == 0)),
            complete.eq(empty | ((before < length) & (after >= length))),
        ]
        return keep, first, complete

    def _add(
        self,
        m: Module,
        stages: list[Any],
        valid: list[Signal],
        same_sum: Sequence[Value],
        keep: Signal,
        first: Signal,
    ) -> Signal:
        """Add parts up, stages 3 to 6; return the bag's sum, of stage 6."""
        params = self._params
        shape = data.ArrayLayout(signed(params.acc_bits), params.lanes)
        accumulators: memory.Memory[Any, Any]
        m.submodules.accumulators = accumulators = memory.Memory(
            shape=shape, depth=params.sums, init=[]
        )
        source, sink = accumulators.read_port(), accumulators.write_port()
        addresses = [
            Signal(source.addr.shape(), name=f"address_{n}", reset_less=True)
            for n in range(3, SUMS + 1)
        ]
        parts = [Signal(shape, name=f"acc_{n}", reset_less=True) for n in range(1, SUMS)]
        results = [
            Signal(shape, name=f"sum_{SUMS + n}", reset_less=True) for n in range(STALE_SUMS)
        ]
        stored = Signal(shape, reset_less=True)
        kept = Signal()
        m.d.sync += addresses[0].eq(
            sum_address(params, self._bag_of_all(stages[2]), stages[2].slice)
        )
        m.d.comb += [
            source.addr.eq(addresses[0]),
            sink.addr.eq(addresses[-1]),
            sink.data.eq(results[0]),
            sink.en.eq(valid[SUMS] & kept),
        ]
        for chain in (addresses, [self.parts.payload.acc, *parts], results):
            m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(chain)]
        m.d.sync += [stored.eq(source.data), kept.eq(keep)]
        same = [same_sum[n] & valid[5 + n] for n in range(STALE_SUMS)]
        old = forwarded(m, "sum", same, results, stored)
        total = []
        for lane in range(params.lanes):
            base = Mux(first, 0, old[lane])
            total.append((base + parts[-1][lane])[: params.acc_bits])
        m.d.sync += results[0].eq(Cat(*total))
        return results[0]

    def _places(self, m: Module, fire: Signal, dropped: Value) -> None:
        """Let a slice in while fewer than ``queue_depth`` are under way."""
        depth = self._params.queue_depth
        places = Signal(range(depth + 1), init=depth)
        available = Signal()
        m.d.comb += [self.parts.ready.eq(available), fire.eq(self.parts.valid & available)]
        m.d.sync += [
            places.eq(places - fire + dropped + self.taken),
            # places that come back count a cycle later
            available.eq((places > 1) | ((places == 1) & ~fire)),
            self.idle.eq((places == depth) & ~fire),
        ]


def forwarded(
    m: Module, name: str, same: Sequence[Value], newer: Sequence[Any], stored: Any
) -> Any:
    """Return the newest of what is still on its way to a memory, else what was read from it.

    ``same`` are this cycle's matches, nearest first; they select among next cycle's ``newer``.
    """
    choice = Signal(range(len(same) + 1), name=f"{name}_choice")
    value = Signal.like(stored, name=f"{name}_value")
    m.d.sync += choice.eq(0)
    for index in reversed(range(len(same))):
        with m.If(same[index]):
            m.d.sync += choice.eq(index + 1)
    with m.Switch(choice):
        for index, candidate in enumerate(newer):
            with m.Case(index + 1):
                m.d.comb += value.eq(candidate)
        with m.Default():
            m.d.comb += value.eq(stored)
    return value
