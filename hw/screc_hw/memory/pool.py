"""Exact sums of bags."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import slice_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import partial_layout


class Pool(wiring.Component):
    """Adds the lookups of a partial, slice by slice, and emits the sums with its last lookup.

    **Latency** 2 cycles. **Throughput** 1 slice per cycle, for bags of one as for long ones.
    **Backpressure** ``o.ready`` reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(slice_layout(params)))
    o : Out(stream.Signature(partial_layout(params)))
    busy : Out(1)
        A partial is unfinished or has not left.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(slice_layout(params))),
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
        sums = Signal(acc_layout)
        assert isinstance(sums, data.View)

        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
        ]

        # the slice whose sum so far is being read
        first = Signal(init=1)  # the next lookup opens a partial
        count = Signal(count_width)  # lookups before it
        held = Signal(slice_layout(p))
        held_valid, held_first, held_again = Signal(), Signal(), Signal()
        held_count = Signal(count_width)
        with m.If(advance):
            m.d.sync += held_valid.eq(self.i.valid)
            with m.If(self.i.valid):
                now = count + 1
                m.d.sync += [
                    held.eq(piece),
                    held_first.eq(first),
                    # its sum is the one being formed now, which the memory does not have yet
                    held_again.eq(piece.slice == held.slice),
                    held_count.eq(now),
                ]
                with m.If(piece.end):
                    m.d.sync += [first.eq(piece.last), count.eq(Mux(piece.last, 0, now))]

        result = self.o.payload
        so_far = result.acc
        if p.max_slices > 1:
            store: memory.Memory = memory.Memory(shape=acc_layout, depth=p.max_slices, init=[])
            m.submodules.store = store
            write_port, read_port = store.write_port(), store.read_port()
            m.d.comb += [
                read_port.en.eq(advance),
                read_port.addr.eq(piece.slice),
                write_port.en.eq(advance & held_valid),
                write_port.addr.eq(held.slice),
                write_port.data.eq(sums),
            ]
            so_far = Mux(held_again, result.acc, read_port.data)
        before = data.View(acc_layout, Mux(held_first, 0, so_far))
        for lane in range(p.lanes):
            m.d.comb += sums[lane].eq(before[lane] + held.data[lane])
        with m.If(advance):
            m.d.sync += self.o.valid.eq(held_valid & held.last)
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
        m.d.comb += self.busy.eq(held_valid | self.o.valid | ~first)
        return m
