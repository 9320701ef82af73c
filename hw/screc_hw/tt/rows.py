"""Blocks of second products are requantised and put together to rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.requantise import Requantise
from screc_hw.stream import DeepQueue, index_bits
from screc_hw.tt.layouts import block_layout, slice_layout
from screc_hw.tt.params import COLUMNS, TtParams
from screc_hw.tt.shape import CHUNK, GROUPS

__all__ = ["ROWS_HELD", "Rows"]

ROWS_HELD = 32
"""Rows from their second product's first step to their last slice: the depth of a LUT RAM."""


class Rows(wiring.Component):
    """Queues blocks, requantises some groups of a block per cycle, and collects rows.

    **Latency** about 16 cycles. **Throughput** 1 slice per cycle, ``requantisers`` components per
    cycle. **Backpressure** places in the queue and rows are reserved by whoever starts a row.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    blocks : In(stream.Signature(block_layout(params), always_ready=True))
    taken : Out(1)
        A block has left the queue.
    emitted : Out(1)
        A row has left.
    o : Out(stream.Signature(slice_layout(params)))
    """

    blocks: stream.Interface
    taken: Signal
    emitted: Signal
    o: stream.Interface

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(params), always_ready=True)),
                "taken": Out(1),
                "emitted": Out(1),
                "o": Out(stream.Signature(slice_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Queue, requantise, write chunks, read rows."""
        m = Module()
        p = self._params
        m.submodules.queue = queue = DeepQueue(block_layout(p), p.block_depth, reserved=True)
        wiring.connect(m, wiring.flipped(self.blocks), queue.i)
        at_once = p.requantisers // COLUMNS
        turns = GROUPS // at_once
        turn = Signal(index_bits(turns))
        valid = Signal()
        block = queue.o.payload
        held: Any = Signal(block_layout(p), reset_less=True)
        end = turn == turns - 1
        # a block is held while its groups are requantised in turn
        m.d.comb += queue.o.ready.eq(~valid | end)
        m.d.sync += self.taken.eq(queue.o.valid & queue.o.ready)
        with m.If(queue.o.ready):
            m.d.sync += [held.eq(block), valid.eq(queue.o.valid), turn.eq(0)]
        with m.Else():
            m.d.sync += turn.eq(turn + 1)

        m.submodules.requantise = requantise = Requantise(p.acc_bits, p.requantisers, p.limit)
        groups = Signal(
            data.ArrayLayout(block_layout(p)["data"].shape.elem_shape, at_once),
            name="groups",
            reset_less=True,
        )
        m_reg, s_reg = Signal(16, reset_less=True), Signal(6, reset_less=True)
        chosen_valid, last = Signal(), Signal(reset_less=True)
        chunks = Signal(data.ArrayLayout(p.chunk_bits, at_once), name="chunks", reset_less=True)
        most = Signal(p.chunk_bits, reset_less=True)
        slices = Signal(index_bits(p.max_slices), reset_less=True)
        m.d.sync += [
            chosen_valid.eq(valid),
            last.eq(held.last & end),
            m_reg.eq(held.finish.m),
            s_reg.eq(held.finish.s),
            most.eq(held.finish.chunks),
            slices.eq(held.finish.slices),
        ]
        for i in range(at_once):
            choice = [held.data[t * at_once + i] for t in range(turns)]
            places = []
            for t in range(turns):
                group = t * at_once + i
                one = held.finish.chunk1 if group & 1 else 0
                two = held.finish.chunk2 if group & 2 else 0
                places.append((one, two))
            with m.Switch(turn):
                for t in range(turns):
                    with m.Case(t):
                        one, two = places[t]
                        m.d.sync += [
                            groups[i].eq(choice[t]),
                            chunks[i].eq(held.block + one + two),
                        ]
        m.d.comb += [
            requantise.acc.eq(groups),
            requantise.m.eq(m_reg),
            requantise.s.eq(s_reg),
        ]
        # chunks beyond the row are padding
        wanted = Signal(at_once, reset_less=True)
        m.d.sync += wanted.eq(Cat(chunk < most for chunk in chunks))
        after = self._delay(m, [chosen_valid, last, slices, chunks], requantise.latency - 1)
        wanted = self._delay(m, [wanted], requantise.latency - 2)[0]
        self._collect(m, requantise.y, wanted, *after)
        return m

    @staticmethod
    def _delay(m: Module, values: list[Any], cycles: int) -> list[Any]:
        for _ in range(cycles):
            later = []
            for value in values:
                delayed = Signal.like(value, name="later", reset_less=True)
                m.d.sync += delayed.eq(value)
                later.append(delayed)
            values = later
        return values

    def _collect(
        self,
        m: Module,
        codes: Any,
        wanted: Signal,
        valid: Signal,
        last: Signal,
        slices: Signal,
        chunks: Any,
    ) -> None:
        """Write chunks to the row being made and read finished rows.

        ``codes`` come a cycle after the others, which are decoded meanwhile.
        """
        p = self._params
        at_once = len(chunks)
        width = CHUNK * p.code_bits
        row = Signal(range(ROWS_HELD))
        finished = Signal()
        finished_slices = Signal.like(slices, reset_less=True)
        at = Signal.like(row, reset_less=True)
        m.d.sync += [
            finished.eq(valid & last),
            finished_slices.eq(slices),
            at.eq(row),
            row.eq(row + (valid & last)),
        ]
        pieces = [Cat(codes[i * CHUNK + j] for j in range(CHUNK)) for i in range(at_once)]

        # finished rows: the slices of each, less one
        m.submodules.lengths = lengths = DeepQueue(len(slices), ROWS_HELD, reserved=True)
        advance = Signal()
        reading = Signal(range(ROWS_HELD))
        index = Signal(index_bits(p.max_slices))
        read_valid, read_last = Signal(), Signal(reset_less=True)
        read_index = Signal.like(index, reset_less=True)
        issue, end = Signal(), Signal()
        m.d.comb += [
            lengths.i.valid.eq(finished),
            lengths.i.payload.eq(finished_slices),
            advance.eq(~self.o.valid | self.o.ready),
            issue.eq(advance & lengths.o.valid),
            end.eq(index == lengths.o.payload),
            lengths.o.ready.eq(advance & end),
        ]
        m.d.sync += self.emitted.eq(issue & end)
        with m.If(issue):
            m.d.sync += index.eq(Mux(end, 0, index + 1))
            m.d.sync += reading.eq(reading + end)
        whole = Signal(p.chunks * width, reset_less=True)
        for chunk in range(p.chunks):
            store: Any = memory.Memory(
                shape=width, depth=ROWS_HELD, init=[], attrs={"ram_style": "distributed"}
            )
            m.submodules[f"chunk_{chunk}"] = store
            sink, source = store.write_port(), store.read_port(domain="comb")
            hits = Signal(at_once, name=f"hits_{chunk}", reset_less=True)
            enable = Signal(name=f"enable_{chunk}")
            mine = Cat(chunks[i] == chunk for i in range(at_once)) & wanted
            m.d.sync += [hits.eq(mine), enable.eq(valid & mine.any())]
            piece: Value = pieces[0]
            for i in range(1, at_once):
                piece = Mux(hits[i], pieces[i], piece)
            m.d.comb += [
                sink.en.eq(enable),
                sink.addr.eq(at),
                sink.data.eq(piece),
                source.addr.eq(reading),
            ]
            with m.If(advance):
                m.d.sync += whole[chunk * width : (chunk + 1) * width].eq(source.data)
        slice_bits = p.slice_lanes * p.code_bits
        o: Any = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(o)
        with m.If(advance):
            m.d.sync += [
                read_valid.eq(lengths.o.valid),
                read_last.eq(end),
                read_index.eq(index),
                self.o.valid.eq(read_valid),
                o.last.eq(read_last),
                o.data.eq(whole.word_select(read_index, slice_bits)),
            ]
