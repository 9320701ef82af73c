"""Result writer: packs results into beats, writes them, and ends every block with its status."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import INCR, WriteSignature
from screc_hw.device.params import HostParams
from screc_hw.protocol import BEAT_BYTES, STATUS_MAGIC, Status, StatusBit
from screc_hw.stream import Queue, block_layout, result_layout

__all__ = ["BeatWriter", "Packer", "ResultWriter"]

RECORD_BITS = result_layout().size
RECORDS = BEAT_BYTES * 8 // RECORD_BITS
"""Results in a beat."""

COUNT_BITS = block_layout()["records"].width
BEAT_ADDRESS_BITS = 64 - (BEAT_BYTES - 1).bit_length()
"""Addresses in whole beats: the pointer's lower bits are 0."""

COMMANDS = 16
"""Commands the reader may be ahead, two per block; more than one small block fits the pipeline."""


def packed_layout() -> data.StructLayout:
    """Beat of results: ``lanes`` says which of its eight hold one, ``last`` ends the block."""
    return data.StructLayout(
        {"data": data.ArrayLayout(RECORD_BITS, RECORDS), "lanes": RECORDS, "last": 1}
    )


def beat_layout() -> data.StructLayout:
    """Beat to write at ``address``, counted in beats."""
    return data.StructLayout(
        {
            "address": BEAT_ADDRESS_BITS,
            "data": data.ArrayLayout(RECORD_BITS, RECORDS),
            "lanes": RECORDS,
        }
    )


class Packer(wiring.Component):
    """Packs the compute cores' results in sequence order, eight per beat.

    Sub-batch ``q``, counted from reset, is ``rows`` records of core ``q mod c``. A block's last
    beat holds what is left; its other lanes are 0 and not written.

    **Latency** 1 cycle from a beat's last record. **Throughput** 1 record per cycle, but for 1
    cycle per beat in which the beat leaves. **Backpressure** ``results[i].ready`` is a function of
    registers.

    Parameters
    ----------
    rows
        Records of a sub-batch.
    cores
        Compute cores.

    Members
    -------
    records : In(stream.Signature(COUNT_BITS))
        Records of the next block, at least 1.
    results : In(stream.Signature(result_layout())).array(cores)
    beats : Out(stream.Signature(packed_layout()))
    """

    records: stream.Interface
    results: list[stream.Interface]
    beats: stream.Interface

    def __init__(self, *, rows: int, cores: int) -> None:
        self._rows = rows
        self._cores = cores
        super().__init__(
            {
                "records": In(stream.Signature(COUNT_BITS)),
                "results": In(stream.Signature(result_layout())).array(cores),
                "beats": Out(stream.Signature(packed_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters, the choice of the core and the beat under way."""
        m = Module()
        owner = Signal(range(self._cores))
        row = Signal(range(self._rows))
        lane = Signal(range(RECORDS))
        remaining = Signal(COUNT_BITS)
        take, ends = Signal(), Signal()
        beat = self.beats.payload
        record = Array(Value.cast(result.payload) for result in self.results)[owner]
        valid = Array(result.valid for result in self.results)[owner]
        open_ = Signal()
        m.d.comb += [
            self.records.ready.eq(remaining == 0),
            open_.eq((remaining != 0) & ~self.beats.valid),
            take.eq(open_ & valid),
            ends.eq(remaining == 1),
        ]
        m.d.comb += [
            result.ready.eq(open_ & (owner == core)) for core, result in enumerate(self.results)
        ]
        with m.If(self.records.valid & self.records.ready):
            m.d.sync += remaining.eq(self.records.payload)
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [self.beats.valid.eq(0), Value.cast(beat).eq(0), lane.eq(0)]
        with m.If(take):
            m.d.sync += [
                beat.data[lane].eq(record),
                beat.lanes.bit_select(lane, 1).eq(1),
                beat.last.eq(ends),
                self.beats.valid.eq(ends | (lane == RECORDS - 1)),
                lane.eq(lane + 1),
                remaining.eq(remaining - 1),
                row.eq(row + 1),
            ]
            with m.If(row == self._rows - 1):
                m.d.sync += [row.eq(0), owner.eq(Mux(owner == self._cores - 1, 0, owner + 1))]
        return m


class BeatWriter(wiring.Component):
    """Writes single beats through AXI4, several outstanding, in order.

    **Latency** 1 cycle. **Throughput** 1 beat in 2 cycles. **Backpressure** ``i.ready`` is a
    function of registers.

    Parameters
    ----------
    outstanding
        Beats whose response may be missing.

    Members
    -------
    i : In(stream.Signature(beat_layout()))
    axi : Out(WriteSignature(data_bits=512))
    quiet : Out(1)
        No beat is under way.
    answered, failed : Out(1)
        Pulses per response, and per response that is an error.
    """

    i: stream.Interface
    axi: Any
    quiet: Signal
    answered: Signal
    failed: Signal

    def __init__(self, *, outstanding: int) -> None:
        self._outstanding = outstanding
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout())),
                "axi": Out(WriteSignature(data_bits=BEAT_BYTES * 8)),
                "quiet": Out(1),
                "answered": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the registers of both channels and the count of responses to come."""
        m = Module()
        axi, beat = self.axi, self.i.payload
        missing = Signal(range(self._outstanding + 1))
        take = Signal()
        record_bytes = RECORD_BITS // 8
        m.d.comb += [
            self.i.ready.eq(~axi.awvalid & ~axi.wvalid & (missing != self._outstanding)),
            take.eq(self.i.valid & self.i.ready),
            axi.awsize.eq((BEAT_BYTES - 1).bit_length()),
            axi.awburst.eq(INCR),
            axi.wlast.eq(1),
            axi.bready.eq(1),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(take):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(Cat(Const(0, 64 - BEAT_ADDRESS_BITS), beat.address)),
                axi.wvalid.eq(1),
                axi.wdata.eq(Value.cast(beat.data)),
                axi.wstrb.eq(Cat(lane.replicate(record_bytes) for lane in beat.lanes)),
            ]
        m.d.sync += [
            missing.eq(missing + take - axi.bvalid),
            self.answered.eq(axi.bvalid),
            self.failed.eq(axi.bvalid & axi.bresp[1]),  # SLVERR 0b10, DECERR 0b11
        ]
        m.d.comb += self.quiet.eq((missing == 0) & ~self.answered)
        return m


class ResultWriter(wiring.Component):
    """Writes the results of every block, and its status beat after all of them have arrived.

    The status beat lies at the block's offset from ``result``, the results follow it, in order of
    samples. A write that is answered by an error sets ``AXI_WRITE`` in the status beat of its
    block; that of a status beat itself shows in ``status`` alone. A read error of a memory core
    (``read_error``) marks every block from then on, because cores read ahead of blocks.

    **Throughput** 1 result per cycle, but for about 2 cycles per beat. **Backpressure** every
    ``ready`` is a function of registers.

    Parameters
    ----------
    params
        Host side.
    compute
        Compute cores.
    rows
        Results of a sub-batch.

    Members
    -------
    blocks : In(stream.Signature(block_layout()))
    results : In(stream.Signature(result_layout())).array(compute)
    result : In(64)
        Base of all results, in bytes; a multiple of 64 (the lower bits are taken as 0).
    clock, range_errors : In(32)
        Running cycle count and count of lookups out of range, for the status beat.
    read_error, read_timeout : In(1)
        A memory core's read failed, or its port did not answer; ``AXI_READ`` and ``TIMEOUT`` of
        the blocks that end from then on.
    clear : In(1)
        Pulse before a run: forget ``status`` and ``done_blocks``.
    axi : Out(WriteSignature(data_bits=512))
    done_blocks : Out(32)
        Blocks whose status beat has been written, or that end without one.
    block_done : Out(1)
        Pulse: one more of them.
    status : Out(8)
        All ``protocol.StatusBit`` since ``clear``.
    idle : Out(1)
        No command, result or response is under way.
    """

    blocks: stream.Interface
    results: list[stream.Interface]
    result: Signal
    clock: Signal
    range_errors: Signal
    read_error: Signal
    read_timeout: Signal
    clear: Signal
    axi: Any
    done_blocks: Signal
    block_done: Signal
    status: Signal
    idle: Signal

    def __init__(self, params: HostParams, *, compute: int, rows: int) -> None:
        self._params = params
        self._rows = rows
        self._compute = compute
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout())),
                "results": In(stream.Signature(result_layout())).array(compute),
                "result": In(64),
                "clock": In(32),
                "range_errors": In(32),
                "read_error": In(1),
                "read_timeout": In(1),
                "clear": In(1),
                "axi": Out(WriteSignature(data_bits=params.port_bits)),
                "done_blocks": Out(32),
                "block_done": Out(1),
                "status": Out(8),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect commands, packer and writer; count what they finish."""
        m = Module()
        commands = m.submodules.commands = Queue(block_layout(), COMMANDS)
        packer = m.submodules.packer = Packer(rows=self._rows, cores=self._compute)
        writer = m.submodules.writer = BeatWriter(outstanding=self._params.write_outstanding)
        wiring.connect(m, wiring.flipped(self.blocks), commands.i)
        for mine, its in zip(self.results, packer.results, strict=True):
            wiring.connect(m, wiring.flipped(mine), its)
        wiring.connect(m, writer.axi, wiring.flipped(self.axi))

        flags, closed, closing, failed = Signal(8), Signal(), Signal(), Signal()
        taken = self._sequence(m, commands, packer, writer, flags, closed, failed)
        # responses keep their order, and a status beat is alone: the next one after it is its own
        with m.If(taken):
            m.d.sync += closing.eq(1)
        with m.Elif(writer.answered):
            m.d.sync += closing.eq(0)
        with m.If(writer.failed & ~closing):
            m.d.sync += failed.eq(1)
        with m.Elif(closed):
            m.d.sync += failed.eq(0)
        m.d.comb += self.block_done.eq((closed & ~taken) | (closing & writer.answered))
        errors = Mux(closed, flags, 0) | Mux(writer.failed, int(StatusBit.AXI_WRITE), 0)
        with m.If(self.clear):
            m.d.sync += [self.status.eq(0), self.done_blocks.eq(0)]
        with m.Else():
            m.d.sync += [
                self.status.eq(self.status | errors),
                self.done_blocks.eq(self.done_blocks + self.block_done),
            ]
        return m

    def _sequence(
        self,
        m: Module,
        commands: Queue,
        packer: Packer,
        writer: BeatWriter,
        flags: Signal,
        closed: Signal,
        failed: Signal,
    ) -> Signal:
        """Build a block's states; return the pulse of an accepted status beat.

        ``flags`` and the pulse ``closed`` are the block's status at its end.
        """
        command, beat = commands.o.payload, writer.i.payload
        base, address = Signal(BEAT_ADDRESS_BITS), Signal(BEAT_ADDRESS_BITS)
        ending, busy, taken = Signal.like(command), Signal(), Signal()
        elapsed, ranges = Signal(32), Signal(32)
        words: dict[int, ValueLike] = {
            Status.MAGIC: Const(STATUS_MAGIC, 32),
            Status.BLOCK_ID: ending.id,
            Status.STATUS: flags,
            Status.SAMPLES: ending.samples,
            Status.CYCLES: elapsed,
            Status.RANGE_ERRORS: ranges,
            Status.CRC: ending.crc,
        }
        zero = Const(0, 32)
        status = Cat(Cat(words.get(i, zero), zero)[:32] for i in range(BEAT_BYTES // 4))
        m.d.comb += [
            packer.records.payload.eq(command.records),
            self.idle.eq(~busy & ~commands.o.valid & (commands.level == 0) & writer.quiet),
        ]
        with m.FSM():
            with m.State("open"):
                with m.If(commands.o.valid & packer.records.ready):
                    m.d.comb += [
                        commands.o.ready.eq(1),
                        packer.records.valid.eq(command.records.any()),
                    ]
                    m.d.sync += [
                        base.eq(self.result[-BEAT_ADDRESS_BITS:] + command.offset),
                        ending.eq(command),
                        busy.eq(1),
                    ]
                    m.next = "address"
            with m.State("address"):
                m.d.sync += address.eq(base + 1)
                m.next = "results"
                with m.If(ending.records == 0):
                    m.next = "drain"
            with m.State("results"):
                m.d.comb += [
                    beat.eq(Cat(address, packer.beats.payload.data, packer.beats.payload.lanes)),
                    writer.i.valid.eq(packer.beats.valid),
                    packer.beats.ready.eq(writer.i.ready),
                ]
                with m.If(writer.i.valid & writer.i.ready):
                    m.d.sync += address.eq(address + 1)
                    with m.If(packer.beats.payload.last):
                        m.next = "drain"
            with m.State("drain"):
                with m.If(writer.quiet & commands.o.valid):
                    read = Mux(self.read_error, int(StatusBit.AXI_READ), 0)
                    timeout = Mux(self.read_timeout, int(StatusBit.TIMEOUT), 0)
                    write = Mux(failed, int(StatusBit.AXI_WRITE), 0)
                    m.d.comb += commands.o.ready.eq(1)
                    m.d.sync += [
                        ending.eq(command),
                        flags.eq(command.status | read | timeout | write),
                        elapsed.eq(self.clock - command.arrival),
                        ranges.eq(self.range_errors),
                    ]
                    m.next = "status"
            with m.State("status"):
                m.d.comb += [
                    beat.eq(Cat(base, status, Const(-1, RECORDS))),
                    writer.i.valid.eq(ending.write),
                    taken.eq(ending.write & writer.i.ready),
                    closed.eq(taken | ~ending.write),
                ]
                with m.If(closed):
                    m.d.sync += busy.eq(0)
                    m.next = "open"
        return taken
