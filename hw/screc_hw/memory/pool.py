"""Exact sums of bags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import lane_piece_layout, piece_layout, value_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import partial_layout

__all__ = ["PieceMerge", "Pool"]

COLUMN_LANES = 8
"""Lanes of sums in one memory: simulators are slow with words of thousands of bits."""


class PieceMerge(wiring.Component):
    """The pieces of several lanes on one stream, in turn, each marked with its lane's number.

    The pieces of a lookup that ends a partial follow each other, so that its sums do.

    **Latency** 1 cycle. **Throughput** 1 piece per cycle. **Backpressure** ``o.ready`` reaches the
    inputs' ``ready`` through two gates.

    Parameters
    ----------
    params
        The core's parameters.
    lanes
        Count of inputs.

    Members
    -------
    i : lanes × In(stream.Signature(piece_layout(params)))
    o : Out(stream.Signature(lane_piece_layout(params)))
    """

    i: list[stream.Interface]
    o: stream.Interface

    def __init__(self, params: MemoryCoreParams, lanes: int) -> None:
        self._params = params
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(piece_layout(params))).array(lanes),
                "o": Out(stream.Signature(lane_piece_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the choice, which goes to whom it was longest ago of those that wait."""
        m = Module()
        advance = Signal()
        grant = Signal(self._lanes)
        turn = Signal(range(self._lanes))  # the lane that comes first
        locked = Signal()  # no other comes at all
        payload: Any = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.o.payload.eq(payload)]
        for offset in reversed(range(self._lanes)):
            for first in range(self._lanes):
                lane = (first + offset) % self._lanes
                among = ~locked if offset else 1
                with m.If((turn == first) & self.i[lane].valid & among):
                    m.d.comb += grant.eq(1 << lane)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(grant.any())
        for lane, piece in enumerate(self.i):
            m.d.comb += piece.ready.eq(advance & grant[lane])
            with m.If(advance & grant[lane]):
                locks = piece.payload.last & ~piece.payload.end
                m.d.sync += [
                    locked.eq(locks),
                    turn.eq(Mux(locks, lane, (lane + 1) % self._lanes)),
                    payload.lane.eq(lane),
                    *(payload[name].eq(piece.payload[name]) for name, _ in piece.p.shape()),
                ]
        return m


class Pool(wiring.Component):
    """Adds the lookups of a partial, piece by piece, and emits the sums with its last lookup.

    Lanes are independent of each other: each has its own sums and its own partial under way.

    **Latency** 2 cycles. **Throughput** 1 piece per cycle, for bags of one as for long ones.
    **Backpressure** ``o.ready`` reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.
    lanes
        Lanes that share this pool.

    Members
    -------
    i : In(stream.Signature(value_layout(params)))
        Pieces of the lanes in any order, those of a lane in theirs.
    o : Out(stream.Signature(partial_layout(params)))
        The slices of a partial follow each other if those of lanes do on ``i``.
    busy : Out(1)
        A partial is unfinished or has not left.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams, lanes: int = 1) -> None:
        self._params = params
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(value_layout(params))),
                "o": Out(stream.Signature(partial_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the adders around a memory of sums."""
        m = Module()
        p = self._params
        piece = self.i.payload
        count_width = len(self.o.payload.count)
        acc_layout = partial_layout(p)["acc"].shape
        sums: Any = Signal(acc_layout)

        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
        ]

        # the piece whose sum so far is being read
        first = Signal(self._lanes, init=-1)  # the lane's next lookup opens a partial
        counts = [Signal(count_width, name=f"count_{i}") for i in range(self._lanes)]  # before it
        held: Any = Signal(value_layout(p), reset_less=True)
        held_valid, held_fresh, held_again = Signal(), Signal(), Signal()
        held_count = Signal(count_width, reset_less=True)
        lane = piece.lane if self._lanes > 1 else Const(0)
        now = Signal(count_width)
        m.d.comb += now.eq(Array(counts)[lane] + 1)
        with m.If(advance):
            m.d.sync += held_valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [
                    held.eq(piece),
                    held_fresh.eq(Array(first)[lane] & piece.begin),
                    # its sum is the one being formed now, which the memory does not have yet
                    held_again.eq((piece.slice == held.slice) & (piece.lane == held.lane)),
                    held_count.eq(now),
                ]
                with m.If(piece.end):
                    m.d.sync += first.bit_select(lane, 1).eq(piece.last)
                    with m.Switch(lane):
                        for i in range(self._lanes):
                            with m.Case(i):
                                m.d.sync += counts[i].eq(Mux(piece.last, 0, now))

        result: Any = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(result)
        so_far = result.acc
        if p.max_slices * self._lanes > 1:
            stored = self._store(
                m, sums, write=advance & held_valid, read=advance, at=(held, piece)
            )
            so_far = Mux(held_again, result.acc, stored)
        before: Any = Signal(acc_layout)
        m.d.comb += before.eq(Mux(held_fresh, 0, so_far))
        for index in range(p.lanes):
            m.d.comb += sums[index].eq(before[index] + held.data[index])
        with m.If(advance):
            m.d.sync += self.o.valid.eq(held_valid & held.last & held.complete)
            with m.If(held_valid):
                m.d.sync += [
                    result.slot.eq(held.bag.slot),
                    result.row.eq(held.bag.row),
                    result.feature.eq(held.bag.feature),
                    result.slice.eq(held.slice),
                    result.last.eq(held.end),
                    result.count.eq(held_count),
                    result.acc.eq(sums),
                ]
        m.d.comb += self.busy.eq(held_valid | self.o.valid | ~first.all())
        return m

    def _store(
        self, m: Module, sums: Any, *, write: Value, read: Value, at: tuple[Any, Any]
    ) -> Value:
        """Build the memory, ``sums`` of every lane and slice; return those read a cycle ago.

        ``at``: the pieces whose sums are written and read.
        """
        p = self._params
        slice_bits, lane_bits = ((n - 1).bit_length() for n in (p.max_slices, self._lanes))
        addresses = [Cat(piece.slice[:slice_bits], piece.lane[:lane_bits]) for piece in at]
        shape = unsigned(min(p.lanes, COLUMN_LANES) * p.acc_bits)
        read_data = []
        for column in range(p.lanes * p.acc_bits // shape.width):
            # distributed, for its output is a register then
            store: memory.Memory[Any, Any] = memory.Memory(
                shape=shape,
                depth=self._lanes << slice_bits,
                init=[],
                attrs={"ram_style": "distributed"},
            )
            m.submodules[f"store_{column}"] = store
            write_port, read_port = store.write_port(), store.read_port()
            m.d.comb += [
                write_port.en.eq(write),
                write_port.addr.eq(addresses[0]),
                write_port.data.eq(sums.as_value().word_select(column, shape.width)),
                read_port.en.eq(read),
                read_port.addr.eq(addresses[1]),
            ]
            read_data.append(read_port.data)
        return Cat(*read_data)
