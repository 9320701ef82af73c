"""The AXI4 read master of a memory core."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES, INCR, ReadSignature
from screc_hw.memory.layouts import burst_layout, count_bits, request_layout, row_layout
from screc_hw.memory.params import SECTION_BURST_BEATS, MemoryCoreParams
from screc_hw.stream import Queue

SECTION_ID = 0
"""AXI ID of lookup records."""

ROW_ID = 1
"""AXI ID of table rows."""


class ReadMaster(wiring.Component):
    """Reads bursts of records and rows on one port, several outstanding.

    A request leaves only when its beats have a place in their FIFO, so ``rready`` is always 1 and
    neither kind of data can hold up the other. Records go first: they cannot starve the rows,
    because the place of a burst of records is free only when as many lookups have gone on to be
    rows. A row that a 4 KiB boundary cuts becomes two bursts. A row out of range leaves without a
    request.

    **Latency** 1 cycle to the address channel, 2 cycles from data to ``rows`` or ``sections``.
    **Throughput** 1 burst and 1 beat per cycle. **Backpressure** each ``ready`` depends on
    registers and the valid streams.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    bursts : In(stream.Signature(burst_layout(params, SECTION_BURST_BEATS)))
        Records to read.
    requests : In(stream.Signature(request_layout(params)))
        Rows to read.
    axi : Out(ReadSignature)
    sections, rows : Out(stream.Signature(port_bits))
        Beats of records and of rows, in the order of their requests.
    lookups : Out(stream.Signature(row_layout(params)))
        One per request, in order.
    beat, error : Out(1)
        Pulse per beat received, and per one with an error response.
    busy : Out(1)
    """

    bursts: stream.Interface
    requests: stream.Interface
    axi: Any
    sections: stream.Interface
    rows: stream.Interface
    lookups: stream.Interface
    beat: Signal
    error: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "bursts": In(stream.Signature(burst_layout(params, SECTION_BURST_BEATS))),
                "requests": In(stream.Signature(request_layout(params))),
                "axi": Out(
                    ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
                ),
                "sections": Out(stream.Signature(params.port_bits)),
                "rows": Out(stream.Signature(params.port_bits)),
                "lookups": Out(stream.Signature(row_layout(params))),
                "beat": Out(1),
                "error": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the address channel's register, the reservations and the FIFOs."""
        m = Module()
        p = self._params
        axi = self.axi
        # one place more than reserved: a FIFO's output register may be empty
        m.submodules.section_fifo = section_fifo = Queue(p.port_bits, p.section_beats + 1)
        m.submodules.row_fifo = row_fifo = Queue(p.port_bits, p.outstanding + 1)
        m.submodules.lookup_fifo = lookup_fifo = Queue(row_layout(p), p.outstanding + 1)
        wiring.connect(m, section_fifo.o, wiring.flipped(self.sections))
        wiring.connect(m, row_fifo.o, wiring.flipped(self.rows))
        wiring.connect(m, lookup_fifo.o, wiring.flipped(self.lookups))

        burst, request = self.bursts.payload, self.requests.payload
        row = request.row
        section_free = Signal(range(p.section_beats + 1), init=p.section_beats)
        row_free = Signal(range(p.outstanding + 1), init=p.outstanding)
        tail = Signal()  # the head of the row at `requests` has left, the rest has not
        cut = Signal()
        m.d.comb += cut.eq(~row.zero & (request.head != row.beats))

        free = Signal()  # the address register can be loaded
        take_section, take_row, take_tail = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~axi.arvalid | axi.arready),
            take_section.eq(free & self.bursts.valid & (burst.beats <= section_free)),
            take_tail.eq(free & ~take_section & tail),
            take_row.eq(
                free
                & ~take_section
                & ~tail
                & self.requests.valid
                & lookup_fifo.i.ready
                & (row.zero | (row.beats <= row_free))
            ),
            self.bursts.ready.eq(take_section),
            self.requests.ready.eq(take_tail | (take_row & ~cut)),
            lookup_fifo.i.valid.eq(take_row),
            lookup_fifo.i.payload.eq(row),
        ]
        with m.If(take_row):
            m.d.sync += tail.eq(cut)
        with m.If(take_tail):
            m.d.sync += tail.eq(0)

        # reservations: taken with the request, returned when the beat leaves its FIFO
        m.d.sync += [
            section_free.eq(
                section_free
                - Mux(take_section, burst.beats, 0)
                + (self.sections.valid & self.sections.ready)
            ),
            row_free.eq(
                row_free
                - Mux(take_row & ~row.zero, row.beats, 0)
                + (self.rows.valid & self.rows.ready)
            ),
        ]

        next_block = (request.address >> _BLOCK_LOG2) + 1
        length = Signal(count_bits(max(SECTION_BURST_BEATS, p.max_row_beats)))
        m.d.comb += length.eq(
            Mux(take_section, burst.beats, Mux(tail, row.beats - request.head, request.head))
        )
        with m.If(free):
            m.d.sync += [
                axi.arvalid.eq(take_section | take_tail | (take_row & ~row.zero)),
                axi.arid.eq(Mux(take_section, SECTION_ID, ROW_ID)),
                axi.araddr.eq(
                    Mux(
                        take_section,
                        burst.address,
                        Mux(tail, next_block << _BLOCK_LOG2, request.address),
                    )
                ),
                axi.arlen.eq(length - 1),
            ]
        m.d.comb += [
            axi.arsize.eq(p.beat_log2),
            axi.arburst.eq(INCR),
            axi.rready.eq(1),
            section_fifo.i.valid.eq(axi.rvalid & (axi.rid == SECTION_ID)),
            section_fifo.i.payload.eq(axi.rdata),
            row_fifo.i.valid.eq(axi.rvalid & (axi.rid == ROW_ID)),
            row_fifo.i.payload.eq(axi.rdata),
            self.beat.eq(axi.rvalid),
            self.error.eq(axi.rvalid & axi.rresp[1]),
            self.busy.eq(
                axi.arvalid
                | self.bursts.valid
                | self.requests.valid
                | lookup_fifo.o.valid
                | (lookup_fifo.level != 0)
                | (section_free != p.section_beats)
                | (row_free != p.outstanding)
            ),
        ]
        return m


_BLOCK_LOG2 = BOUNDARY_BYTES.bit_length() - 1
