"""The TT reconstructor: digits, lanes side by side, and the prefixes that are pinned at load."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import tt_request_layout
from screc_hw.protocol import TT_TABLE_FIELDS, TT_TABLE_WORDS, LoadTarget
from screc_hw.stream import config_layout, index_bits
from screc_hw.tt.digits import Digits, row_request_layout
from screc_hw.tt.lane import TtLane
from screc_hw.tt.layouts import slice_layout
from screc_hw.tt.params import TtParams

__all__ = ["Pinner", "TtReconstructor"]

COUNTER_BITS = 32
SETTLE_CYCLES = 15
"""Cycles without work after which the last pinned prefix is in the store: more than the registers
between the digits and a lane's ``busy``."""


class Pinner(wiring.Component):
    """Has every pinned prefix computed, table by table, when LOAD says so.

    Requests pass while it rests. **Throughput** 1 row per cycle. **Backpressure** ``o.ready``
    reaches ``requests.ready`` through one gate.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Notes every table's ``pins`` and ``p3``; ``TT_PIN`` starts it.
    requests : In(stream.Signature(tt_request_layout()))
    o : Out(stream.Signature(row_request_layout()))
    settled : In(1)
        No row is under way.
    busy : Out(1)
    """

    config: stream.Interface
    requests: stream.Interface
    o: stream.Interface
    settled: Signal
    busy: Signal

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "requests": In(stream.Signature(tt_request_layout())),
                "o": Out(stream.Signature(row_request_layout())),
                "settled": In(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Walk the tables."""
        m = Module()
        p = self._params
        config = self.config.payload
        log2 = (TT_TABLE_WORDS - 1).bit_length()
        pins_low, pins_bits = TT_TABLE_FIELDS["pins"]
        p3_low, p3_bits = TT_TABLE_FIELDS["p3"]
        notes = {}
        for name, low, width in (("pins", pins_low, pins_bits), ("p3", p3_low, p3_bits)):
            made: Any = memory.Memory(
                shape=width, depth=p.max_tables, init=[], attrs={"ram_style": "distributed"}
            )
            m.submodules[name] = made
            sink, notes[name] = made.write_port(), made.read_port()
            word, at = divmod(low, 64)
            m.d.comb += [
                sink.en.eq(
                    self.config.valid
                    & (config.target == LoadTarget.TT_TABLES)
                    & (config.address[:log2] == word)
                    & (config.address[log2:] < p.max_tables)
                ),
                sink.addr.eq(config.address[log2:]),
                sink.data.eq(config.data[at : at + width]),
            ]
        tables = Signal(range(p.max_tables + 1))
        table = Signal(range(p.max_tables + 1))
        left = Signal(pins_bits)
        local = Signal(32)
        quiet = Signal(range(SETTLE_CYCLES + 1))
        asked = Signal()
        o: Any = self.o.payload
        m.d.comb += [
            notes["pins"].addr.eq(table),
            notes["p3"].addr.eq(table),
        ]
        with m.If(self.config.valid & (config.target == LoadTarget.TT_PIN)):
            m.d.sync += [
                asked.eq(1),
                tables.eq(Mux(config.data > p.max_tables, p.max_tables, config.data)),
            ]
        with m.FSM() as fsm:
            with m.State("pass"):
                m.d.comb += [
                    self.o.valid.eq(self.requests.valid),
                    self.requests.ready.eq(self.o.ready),
                    o.local.eq(self.requests.payload.local),
                    o.table.eq(self.requests.payload.table),
                ]
                m.d.sync += table.eq(0)
                # a request that is offered stays offered: it has to go first
                with m.If(asked & (self.o.ready | ~self.requests.valid)):
                    m.d.sync += asked.eq(0)
                    m.next = "look"
            with m.State("look"):
                m.next = "take"
            with m.State("take"):
                m.d.sync += [left.eq(notes["pins"].data), local.eq(0), quiet.eq(0)]
                m.next = "send"
                with m.If(table == tables):
                    m.next = "settle"
            with m.State("send"):
                m.d.comb += [
                    self.o.valid.eq(left != 0),
                    o.local.eq(local),
                    o.table.eq(table),
                    o.pin.eq(1),
                ]
                with m.If(self.o.ready):
                    m.d.sync += [left.eq(left - 1), local.eq(local + notes["p3"].data)]
                with m.If((left == 0) | (self.o.ready & (left == 1))):
                    m.d.sync += table.eq(table + 1)
                    m.next = "look"
            with m.State("settle"):
                m.d.sync += quiet.eq(Mux(self.settled, quiet + 1, 0))
                with m.If(self.settled & (quiet == SETTLE_CYCLES)):
                    m.next = "pass"
        m.d.comb += self.busy.eq(asked | ~fsm.ongoing("pass"))
        return m


class TtReconstructor(wiring.Component):
    """Rows of TT tables, in the order in which they are asked for.

    **Latency** about 80 cycles and the steps of the row. **Throughput** ``TtParams.cycles``.
    **Backpressure** ``rows.ready`` reaches the registers of the slice that is offered; requests
    wait in the lanes.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        LOAD words of the ``TT_`` targets, see ``tt.image``; others are ignored. Not while rows are
        under way; every table that a request may name must be loaded.
    requests : In(stream.Signature(tt_request_layout()))
    rows : Out(stream.Signature(ArrayLayout(signed(code_bits), slice_lanes)))
        Slices of the rows. A row beyond its table is 0.
    range_errors, hits, reconstructed : Out(32)
        From reset, wrapping: rows beyond their table; others whose prefix was pinned; all rows.
    idle : Out(1)
        Every row asked for has left, and prefixes are pinned.
    """

    config: stream.Interface
    requests: stream.Interface
    rows: stream.Interface
    range_errors: Signal
    hits: Signal
    reconstructed: Signal
    idle: Signal

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "requests": In(stream.Signature(tt_request_layout())),
                "rows": Out(stream.Signature(slice_layout(params)["data"].shape)),
                "range_errors": Out(COUNTER_BITS),
                "hits": Out(COUNTER_BITS),
                "reconstructed": Out(COUNTER_BITS),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts."""
        m = Module()
        p = self._params
        m.submodules.pinner = pinner = Pinner(p)
        m.submodules.digits = digits = Digits(p)
        lanes = [TtLane(p) for _ in range(p.lanes)]
        wiring.connect(m, wiring.flipped(self.requests), pinner.requests)
        wiring.connect(m, pinner.o, digits.i)
        for part in (pinner, digits):
            m.d.comb += [
                part.config.valid.eq(self.config.valid),
                part.config.payload.eq(self.config.payload),
            ]
        for i, lane in enumerate(lanes):
            m.submodules[f"lane_{i}"] = lane
            word = Signal(config_layout(), name=f"word_{i}", reset_less=True)
            valid = Signal(name=f"word_valid_{i}")
            m.d.sync += [word.eq(self.config.payload), valid.eq(self.config.valid)]
            m.d.comb += [lane.config.valid.eq(valid), lane.config.payload.eq(word)]
        self._dispatch(m, digits, lanes)
        left = self._collect(m, lanes)

        under_way = Signal(COUNTER_BITS)
        taken = self.requests.valid & self.requests.ready
        m.d.sync += [
            under_way.eq(under_way + taken - left),
            self.idle.eq((under_way == 0) & ~taken & ~pinner.busy),
            pinner.settled.eq(~(digits.busy | Cat(lane.busy for lane in lanes).any())),
            self.range_errors.eq(self.range_errors + digits.error),
            self.hits.eq(self.hits + digits.hit),
            self.reconstructed.eq(self.reconstructed + digits.passed),
        ]
        return m

    def _dispatch(self, m: Module, digits: Digits, lanes: list[TtLane]) -> None:
        """Give rows to the lanes in turn, and prefixes to pin to all of them."""
        jobs = digits.jobs
        turn = Signal(index_bits(len(lanes)))
        took = Signal(len(lanes))
        ready = Cat(lane.jobs.ready for lane in lanes)
        pin = jobs.payload.pin
        m.d.comb += jobs.ready.eq(Mux(pin, (took | ready).all(), ready.bit_select(turn, 1)))
        for i, lane in enumerate(lanes):
            m.d.comb += [
                lane.jobs.payload.eq(jobs.payload),
                lane.jobs.valid.eq(jobs.valid & Mux(pin, ~took[i], turn == i)),
            ]
        with m.If(jobs.valid & jobs.ready):
            m.d.sync += took.eq(0)
            with m.If(~pin):
                m.d.sync += turn.eq(Mux(turn == len(lanes) - 1, 0, turn + 1))
        with m.Elif(jobs.valid & pin):
            m.d.sync += took.eq(took | ready)

    def _collect(self, m: Module, lanes: list[TtLane]) -> Signal:
        """Take rows from the lanes in turn; return the signal of a row that leaves."""
        turn = Signal(index_bits(len(lanes)))
        left = Signal()
        last = Array([lane.rows.payload.last for lane in lanes])[turn]
        m.d.comb += [
            self.rows.valid.eq(Array([lane.rows.valid for lane in lanes])[turn]),
            self.rows.payload.eq(
                Array([lane.rows.payload.data.as_value() for lane in lanes])[turn]
            ),
            left.eq(self.rows.valid & self.rows.ready & last),
        ]
        for i, lane in enumerate(lanes):
            m.d.comb += lane.rows.ready.eq(self.rows.ready & (turn == i))
        with m.If(left):
            m.d.sync += turn.eq(Mux(turn == len(lanes) - 1, 0, turn + 1))
        return left
