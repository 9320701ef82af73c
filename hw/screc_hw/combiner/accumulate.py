"""Accumulators of unfinished bags, and the counts that say when a bag is finished."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import (
    LOG2_BITS,
    bag_address,
    header_layout,
    part_layout,
    slot_address,
    sum_address,
    sum_layout,
)
from screc_hw.combiner.params import COUNT_BITS, CombinerParams
from screc_hw.stream import index_bits

__all__ = ["Accumulate"]

STALE = 3
"""Reads that miss a write under way: issued in the three cycles after the write's own read.

From address to written sum are three registers (memory, its output, the result), and the memory
gives the old word in the cycle of a write.
"""


class Accumulate(wiring.Component):
    """Adds the parts of each bag, and passes the sum on when their counts reach its length.

    The count is updated first (stages 0 to 3), the accumulator behind it (stages 2 to 5), so that
    the adder already knows whether its part is the bag's first, and whether the bag was finished
    before; then the part is dropped. Sums that a following part needs before they can be read back
    are forwarded, so parts of one bag may follow each other in any pattern.

    **Latency** 5 cycles. **Throughput** 1 slice per cycle. **Backpressure** ``parts.ready`` is 0
    while ``queue_depth`` slices are under way; each frees its place by ``taken``, or at once when
    it does not finish a bag.

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
    ahead : Out(index of a feature)
        Feature of what is on ``sums`` two cycles later.
    sums : Out(stream.Signature(sum_layout), valid-only)
    taken : In(1)
        A word that came from ``sums`` has left the combiner.
    idle : Out(1)
        Nothing is under way.
    """

    headers: stream.Interface
    parts: stream.Interface
    ahead: Signal
    sums: stream.Interface
    taken: Signal
    idle: Signal

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        super().__init__(
            {
                "headers": In(stream.Signature(header_layout(params), always_ready=True)),
                "parts": In(stream.Signature(part_layout(params))),
                "ahead": Out(index_bits(params.max_features)),
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
        stages: list[Any] = [Signal(layout, name=f"part_{n}", reset_less=True) for n in range(6)]
        valid = [Signal(name=f"valid_{n}") for n in range(6)]
        m.d.comb += [stages[0][name].eq(self.parts.payload[name]) for name, _ in layout]
        for n in range(5):
            m.d.sync += [stages[n + 1].eq(stages[n]), valid[n + 1].eq(valid[n])]
        before, after = self._count(m, stages, valid)
        keep, first, complete = self._judge(m, stages, before, after)
        result = self._add(m, stages, valid, keep, first)
        finished = Signal()
        m.d.sync += finished.eq(complete)
        m.d.comb += [
            self.ahead.eq(stages[3].feature),
            self.sums.valid.eq(valid[5] & finished),
            self.sums.payload.acc.eq(result),
            *(
                self.sums.payload[name].eq(stages[5][name])
                for name in ("slot", "row", "slice", "last")
            ),
        ]
        self._places(m, valid[0], valid[5] & ~finished)
        return m

    def _bag(self, part: Any) -> Value:
        return bag_address(self._params, part.row, part.feature)

    def _count(self, m: Module, stages: list[Any], valid: list[Signal]) -> tuple[Signal, Signal]:
        """Count lookups, stages 0 to 3; return the bag's count before and after the part.

        One memory per slot: a slot is either being admitted, which clears counts, or in use.
        """
        params = self._params
        header = self.headers.payload
        before = Signal(COUNT_BITS, reset_less=True)
        after = [Signal(COUNT_BITS, name=f"after_{n}", reset_less=True) for n in (3, 4, 5)]
        read = []
        for slot in range(params.slots):
            bank: memory.Memory[Any, Any] = memory.Memory(
                shape=COUNT_BITS, depth=params.slot_bags, init=[]
            )
            m.submodules[f"counts_{slot}"] = bank
            source, sink = bank.read_port(), bank.write_port()
            clear = self.headers.valid & (header.slot == slot)
            update = valid[3] & stages[3].last & ~stages[3].empty & (stages[3].slot == slot)
            m.d.comb += [
                source.addr.eq(self._bag(stages[0])),
                sink.addr.eq(Mux(clear, header.address, self._bag(stages[3]))),
                sink.data.eq(Mux(clear, 0, after[0])),
                sink.en.eq(clear | update),
            ]
            read.append(source.data)
        stored = Signal(COUNT_BITS, reset_less=True)
        m.d.sync += stored.eq(Array(read)[stages[1].slot])

        def bag(n: int) -> Value:
            return slot_address(params, stages[n].slot, self._bag(stages[n]))

        written = [valid[n] & stages[n].last & ~stages[n].empty for n in (2, 3, 4)]
        same = [written[n] & (bag(2 + n) == bag(1)) for n in range(STALE)]
        count = forwarded(m, "count", same, after, stored)
        total = Signal(COUNT_BITS)
        m.d.comb += total.eq(count[:-1] + stages[2].count)
        m.d.sync += [
            before.eq(count),
            # the top bit sticks: a bag with too many lookups stays finished
            after[0].eq(Cat(total[:-1], total[-1] | count[-1])),
            after[1].eq(after[0]),
            after[2].eq(after[1]),
        ]
        return before, after[0]

    def _judge(
        self, m: Module, stages: list[Any], before: Signal, after: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Read headers, stages 0 to 5; return of stage 4: add it, as the first part, finishes.

        With means, also puts reciprocal and logarithm of the length on ``sums``.
        """
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
            source.addr.eq(slot_address(params, stages[0].slot, self._bag(stages[0]))),
        ]
        read = [Signal.like(source.data, name=f"header_{n}", reset_less=True) for n in (2, 3, 4, 5)]
        m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise([source.data, *read])]
        length = read[1].length  # stage 3
        keep, first, complete = Signal(), Signal(), Signal()
        empty = stages[3].empty
        m.d.sync += [
            keep.eq(empty | (before < length)),
            first.eq(empty | (before == 0)),
            complete.eq(empty | ((before < length) & (after >= length))),
        ]
        if params.mean:
            less_one = Signal(16, reset_less=True)
            logarithm = Signal(LOG2_BITS)
            log2 = Signal(LOG2_BITS, reset_less=True)
            m.d.comb += logarithm.eq(0)
            for bit in range(16):
                with m.If(less_one[bit]):
                    m.d.comb += logarithm.eq(bit + 1)
            m.d.sync += [less_one.eq(length - 1), log2.eq(logarithm)]
            m.d.comb += [
                self.sums.payload.reciprocal.eq(read[3].reciprocal),
                self.sums.payload.log2.eq(log2),
            ]
        return keep, first, complete

    def _add(
        self, m: Module, stages: list[Any], valid: list[Signal], keep: Signal, first: Signal
    ) -> Signal:
        """Add parts up, stages 2 to 5; return the bag's sum, of stage 5."""
        params = self._params
        shape = data.ArrayLayout(signed(params.acc_bits), params.lanes)
        accumulators: memory.Memory[Any, Any]
        m.submodules.accumulators = accumulators = memory.Memory(
            shape=shape, depth=params.sums, init=[]
        )
        source, sink = accumulators.read_port(), accumulators.write_port()
        bags = slot_address(params, stages[2].slot, self._bag(stages[2]))
        address = sum_address(params, bags, stages[2].slice)
        addresses = [
            Signal(source.addr.shape(), name=f"address_{n}", reset_less=True) for n in (3, 4, 5, 6)
        ]
        parts = [Signal(shape, name=f"acc_{n}", reset_less=True) for n in (1, 2, 3, 4)]
        results = [Signal(shape, name=f"sum_{n}", reset_less=True) for n in (5, 6, 7)]
        stored = Signal(shape, reset_less=True)
        kept, busy = Signal(), Signal()
        m.d.comb += [
            source.addr.eq(address),
            sink.addr.eq(addresses[2]),
            sink.data.eq(results[0]),
            sink.en.eq(valid[5] & kept),
        ]
        for chain in ([address, *addresses], [self.parts.payload.acc, *parts], results):
            m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(chain)]
        m.d.sync += [stored.eq(source.data), kept.eq(keep), busy.eq(valid[5])]
        active = [valid[4], valid[5], busy]
        same = [active[n] & (addresses[1 + n] == addresses[0]) for n in range(STALE)]
        old = forwarded(m, "sum", same, results, stored)
        total = []
        for lane in range(params.lanes):
            base = Mux(first, 0, old[lane])
            total.append((base + parts[3][lane])[: params.acc_bits])
        m.d.sync += results[0].eq(Cat(*total))
        return results[0]

    def _places(self, m: Module, fire: Signal, dropped: Value) -> None:
        """Let a slice in while fewer than ``queue_depth`` are under way."""
        depth = self._params.queue_depth
        places = Signal(range(depth + 1), init=depth)
        available = Signal()
        m.d.comb += [
            available.eq(places != 0),
            self.parts.ready.eq(available),
            fire.eq(self.parts.valid & available),
        ]
        m.d.sync += [
            places.eq(places - fire + dropped + self.taken),
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
