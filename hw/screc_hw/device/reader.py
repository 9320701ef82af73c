"""Request reader: walks the queue once and hands every block's parts to the cores."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC  # type: ignore[import-untyped]
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.device.fetch import BEAT_LOG2, BEATS_BITS, QueueFetch, WordCutter
from screc_hw.device.header import HeaderCheck
from screc_hw.device.params import MAX_ROWS, HostParams
from screc_hw.protocol import BAG_LENGTH_BITS, BAG_RECIPROCAL_SHIFT, HEADER_WORDS, StatusBit
from screc_hw.stream import (
    SkidBuffer,
    bag_header_layout,
    block_layout,
    config_layout,
    section_layout,
)

__all__ = ["RequestReader"]

HALF, FULL, DENSE = range(3)
"""Kinds of words: 32 bits, 64 bits, one byte per row."""

MAX_BLOCKS = 1 << 8
"""Blocks under way, far more than the pipeline and the writer's queue can hold."""


class RequestReader(wiring.Component):
    """Reads a request queue and streams sections, bag headers, dense words and loads.

    A block is checked before anything of it leaves. The first of its two ``blocks`` commands comes
    at its header, the second behind its last word. A block that fails ends the queue: the rest is
    discarded unread. After a read error the bags that follow in the block are empty, so that every
    core gets what it waits for and the block ends.

    A LOAD waits until every block before it is done, so that it never changes what a running block
    uses. A RUN behind a LOAD needs no wait: its header takes longer than a word on the config bus.

    **Latency** 30 cycles from ``start`` to the first header's verdict, beside the memory's.
    **Throughput** 1 bag header, 1 dense word or 1 config word per cycle; per sub-batch 1 cycle more
    (``HostParams.cycles``). **Backpressure** any output stops the walk.

    Parameters
    ----------
    params
        Bursts.
    memory, compute
        Counts of cores; ``compute`` is a power of two.
    rows
        Samples of a sub-batch, a power of two up to 64.
    max_features, max_dense
        Largest counts of a block.

    Members
    -------
    start : In(1)
        Pulse, while ``done``: read the queue.
    queue : In(64)
        Address of the queue, a multiple of 64.
    queue_bytes : In(32)
        Its length, whole beats.
    axi : Out(ReadSignature(data_bits=512))
    sections : memory × Out(stream.Signature(section_layout))
        One command per block and core; none where it has no lookups.
    begin : Out(stream, empty payload)
        A sub-batch starts; ``features`` holds its count.
    bags : Out(stream.Signature(bag_header_layout))
    dense : compute × Out(stream.Signature(8 × rows))
        To the compute core that owns the sub-batch.
    features : Out(12)
    config : Out(stream.Signature(config_layout), valid-only)
    core : Out(8)
        Which core of the target kind ``config`` is for; 255 all.
    blocks : Out(stream.Signature(block_layout))
    block_done : In(1)
        Pulse: the writer is done with a block.
    done : Out(1)
        No queue is being read and every block is done. Falls the cycle after ``start`` unless the
        queue is empty.
    crc : Out(32)
        CRC-32 of the last LOAD block's words.
    clock : Out(32)
        Cycles since reset, modulo 2**32: the time of ``arrival``.

    Raises
    ------
    ValueError
        If a count is out of range; the message names it.
    """

    start: Signal
    queue: Signal
    queue_bytes: Signal
    axi: Any
    sections: list[stream.Interface]
    begin: stream.Interface
    bags: stream.Interface
    dense: list[stream.Interface]
    features: Signal
    config: stream.Interface
    core: Signal
    blocks: stream.Interface
    block_done: Signal
    done: Signal
    crc: Signal
    clock: Signal

    def __init__(
        self,
        params: HostParams,
        *,
        memory: int,
        compute: int,
        rows: int,
        max_features: int,
        max_dense: int,
    ) -> None:
        if memory < 1:
            raise ValueError(f"memory must be at least 1, not {memory!r}")
        if compute < 1 or compute & (compute - 1):
            raise ValueError(f"compute must be a power of two, not {compute!r}")
        if not 1 <= rows <= MAX_ROWS or rows & (rows - 1):
            raise ValueError(f"rows must be a power of two up to {MAX_ROWS}, not {rows!r}")
        self._memory, self._compute, self._rows = memory, compute, rows
        self._fetch = QueueFetch(params)
        self._header = HeaderCheck(
            memory=memory, rows=rows, max_features=max_features, max_dense=max_dense
        )
        self._words = WordCutter(32, 64, 8 * rows)
        super().__init__(
            {
                "start": In(1),
                "queue": In(64),
                "queue_bytes": In(32),
                "axi": Out(ReadSignature(data_bits=params.port_bits)),
                "sections": Out(stream.Signature(section_layout())).array(memory),
                "begin": Out(stream.Signature(0)),
                "bags": Out(stream.Signature(bag_header_layout())),
                "dense": Out(stream.Signature(8 * rows)).array(compute),
                "features": Out(12),
                "config": Out(stream.Signature(config_layout())),
                "core": Out(8),
                "blocks": Out(stream.Signature(block_layout())),
                "block_done": In(1),
                "done": Out(1),
                "crc": Out(32),
                "clock": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect fetch, words and header check; walk the blocks, a state per kind of word."""
        m = Module()
        m.submodules.fetch = fetch = self._fetch
        m.submodules.words = words = self._words
        m.submodules.header = header = self._header
        wiring.connect(m, fetch.axi, wiring.flipped(self.axi))
        wiring.connect(m, fetch.o, words.i)
        walk = _Walk(header.fields)
        idle = Signal()
        m.d.sync += [
            self.clock.eq(self.clock + 1),
            walk.under_way.eq(walk.under_way + walk.closed - self.block_done),
        ]
        m.d.comb += [
            fetch.address.eq(self.queue),
            fetch.beats.eq(self.queue_bytes[BEAT_LOG2:]),
            header.word.eq(words.word),
            header.left.eq(walk.left),
            walk.last.eq(walk.count == 0),
            self.done.eq(idle & (walk.under_way == 0)),
        ]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += idle.eq(1)
                m.d.sync += walk.left.eq(fetch.beats)
                with m.If(self.start & (fetch.beats != 0)):
                    m.d.comb += fetch.start.eq(1)
                    m.next = "Header"
            self._block(m, walk)
            self._run(m, walk)
            self._load(m, walk)
            with m.State("Drain"):
                m.d.comb += [fetch.stop.eq(1), words.take.eq(words.valid), words.skip.eq(1)]
                with m.If(fetch.quiet & ~words.valid):
                    m.next = "Idle"
        return m

    def _block(self, m: Module, walk: _Walk) -> None:
        """Read and judge a header; open and close the block at the writer."""
        words, header, block = self._words, self._header, walk.block
        command = self.blocks.payload
        trusted, arrival = Signal(), Signal(32)
        records = Signal.like(command.records)
        m.d.comb += [
            command.write.eq(trusted),
            command.opcode.eq(block.opcode),
            command.id.eq(block.id),
            command.offset.eq(block.offset),
            command.samples.eq(block.samples),
            command.records.eq(records),
            command.arrival.eq(arrival),
            command.crc.eq(Mux(block.run, 0, self.crc)),
        ]
        with m.State("Header"):
            m.d.comb += [words.take.eq(words.valid), header.valid.eq(words.valid)]
            with m.If(words.valid):
                m.d.sync += walk.failed.eq(Mux(words.error, StatusBit.AXI_READ, 0))
                with m.If(header.index == 0):
                    m.d.sync += arrival.eq(self.clock)
                with m.If(header.index == HEADER_WORDS - 1):
                    m.next = "Judge"
        with m.State("Judge"), m.If(header.done):
            untrusted = StatusBit.MAGIC | StatusBit.CHECKSUM
            m.d.sync += [
                walk.failed.eq(Mux(walk.failed.any(), walk.failed, header.status)),
                trusted.eq(~walk.failed.any() & ~(header.status & untrusted).any()),
                self.features.eq(block.features),
                walk.batches.eq(block.sub_batches - 1),
                records.eq(0),
            ]
            with m.If(block.run & ~(walk.failed | header.status).any()):
                row_log2 = (self._rows - 1).bit_length()
                m.d.sync += records.eq(block.sub_batches << row_log2)
            m.next = "Open"
        with m.State("Open"):
            m.d.comb += self.blocks.valid.eq(1)
            with m.If(self.blocks.ready):
                m.next = "Close"
                with m.If(~walk.failed.any()):
                    m.d.sync += [
                        walk.left.eq(walk.left - block.beats),
                        walk.count.eq(Mux(block.run, self._memory, block.words) - 1),
                    ]
                    m.next = "Wait"
                    with m.If(block.run):
                        m.next = "Section"
        with m.State("Close"):
            m.d.comb += [
                self.blocks.valid.eq(1),
                command.last.eq(1),
                command.status.eq(walk.failed),
                walk.closed.eq(self.blocks.ready),
            ]
            with m.If(self.blocks.ready):
                with m.If(walk.failed.any()):
                    m.next = "Drain"
                with m.Elif(walk.left == 0):
                    m.next = "Idle"
                with m.Else():
                    m.next = "Header"

    def _run(self, m: Module, walk: _Walk) -> None:
        """Hand out a RUN block: the section table, then every sub-batch."""
        words, block = self._words, walk.block
        row_log2 = (self._rows - 1).bit_length()
        index = Signal(range(self._memory))
        section: Any = Signal(section_layout())
        sending = Signal()
        sequence = Signal(16)
        bags, dense, dense_ready = self._outputs(m, words.word, sequence)
        unread = words.error | walk.failed.any()
        ready = Array(core.ready for core in self.sections)[index]
        for number, core in enumerate(self.sections):
            m.d.comb += [
                core.valid.eq(sending & (index == number)),
                core.payload.eq(section),
            ]

        def start(part: str, count: Value) -> None:
            m.d.sync += walk.count.eq(count - 1)
            m.next = part

        def end_batch() -> None:
            m.d.sync += [sequence.eq(sequence + 1), walk.batches.eq(walk.batches - 1)]
            m.next = "Begin"
            with m.If(walk.batches == 0):
                m.next = "Close"

        with m.State("Section"):
            m.d.comb += [
                words.kind.eq(FULL),
                words.take.eq(words.valid),
                words.skip.eq(walk.last),
            ]
            m.d.sync += [
                section.offset.eq(words.word[:32]),
                section.lookups.eq(Mux(unread, 0, words.word[32:64])),
                section.samples.eq(block.samples),
                section.sequence.eq(sequence),
            ]
            with m.If(words.valid):
                self._note(m, walk)
                m.next = "Send"
        with m.State("Send"):
            m.d.comb += sending.eq(section.lookups != 0)
            with m.If(~sending | ready):
                m.d.sync += [walk.count.eq(walk.count - 1), index.eq(index + 1)]
                m.next = "Section"
                with m.If(walk.last):
                    m.d.sync += index.eq(0)
                    m.next = "Begin"
        with m.State("Begin"):
            m.d.comb += self.begin.valid.eq(1)
            with m.If(self.begin.ready):
                with m.If(block.features != 0):
                    start("Bags", block.features << row_log2)
                with m.Elif(block.dense != 0):
                    start("Dense", block.dense)
                with m.Else():
                    end_batch()
        with m.State("Bags"):
            m.d.comb += [
                words.kind.eq(HALF),
                words.take.eq(words.valid & bags.ready),
                words.skip.eq(walk.last),
                bags.valid.eq(words.valid),
                bags.payload.length.eq(Mux(unread, 0, words.word[:BAG_LENGTH_BITS])),
                bags.payload.reciprocal.eq(words.word[BAG_RECIPROCAL_SHIFT:32]),
            ]
            with m.If(words.take):
                self._note(m, walk)
                m.d.sync += walk.count.eq(walk.count - 1)
                with m.If(walk.last):
                    with m.If(block.dense != 0):
                        start("Dense", block.dense)
                    with m.Else():
                        end_batch()
        with m.State("Dense"):
            m.d.comb += [
                words.kind.eq(DENSE),
                words.take.eq(words.valid & dense_ready),
                words.skip.eq(walk.last),
                dense.eq(words.valid),
            ]
            with m.If(words.take):
                self._note(m, walk)
                m.d.sync += walk.count.eq(walk.count - 1)
                with m.If(walk.last):
                    end_batch()

    def _outputs(
        self, m: Module, word: Signal, sequence: Signal
    ) -> tuple[stream.Interface, Signal, Value]:
        """Buffer bag headers and dense words; return bags, and the owner's dense valid, ready."""
        m.submodules.bags = bags = SkidBuffer(bag_header_layout())
        wiring.connect(m, bags.o, wiring.flipped(self.bags))
        owner = sequence[: (self._compute - 1).bit_length()]
        valid = Signal()
        ready = []
        for core in range(self._compute):
            m.submodules[f"dense_{core}"] = buffer = SkidBuffer(8 * self._rows)
            wiring.connect(m, buffer.o, wiring.flipped(self.dense[core]))
            m.d.comb += [
                buffer.i.valid.eq(valid & (owner == core)),
                buffer.i.payload.eq(word),
            ]
            ready.append(buffer.i.ready & (owner == core))
        return bags.i, valid, Cat(*ready).any()

    def _load(self, m: Module, walk: _Walk) -> None:
        """Hand out a LOAD block's words and check their CRC."""
        words, block = self._words, walk.block
        m.submodules.checksum = checksum = CRC32_ISO_HDLC(data_width=64).create()
        config = self.config.payload
        summed = Signal()  # the word on config counts for the CRC, which a word not read does too
        address = Signal(32)
        m.d.sync += [summed.eq(0), self.config.valid.eq(0)]
        m.d.comb += [checksum.data.eq(config.data), checksum.valid.eq(summed)]
        with m.State("Wait"):
            m.d.comb += checksum.start.eq(1)
            m.d.sync += address.eq(block.address)
            with m.If(walk.under_way == 0):
                m.next = "Load"
        with m.State("Load"):
            m.d.comb += [
                words.kind.eq(FULL),
                words.take.eq(words.valid),
                words.skip.eq(walk.last),
            ]
            with m.If(words.valid):
                self._note(m, walk)
                m.d.sync += [
                    summed.eq(1),
                    self.config.valid.eq(~words.error),
                    config.target.eq(block.target),
                    config.address.eq(address),
                    config.data.eq(words.word[:64]),
                    self.core.eq(block.core),
                    address.eq(address + 1),
                    walk.count.eq(walk.count - 1),
                ]
                with m.If(walk.last):
                    m.next = "Sum"
        with m.State("Sum"), m.If(~summed):
            m.d.sync += self.crc.eq(checksum.crc)
            with m.If(checksum.crc != block.crc):
                m.d.sync += walk.failed.eq(walk.failed | StatusBit.CRC)
            m.next = "Close"

    def _note(self, m: Module, walk: _Walk) -> None:
        """Remember that the word being taken could not be read."""
        with m.If(self._words.error):
            m.d.sync += walk.failed.eq(walk.failed | StatusBit.AXI_READ)


class _Walk:
    """What the states share.

    ``left``: beats of the queue behind the block under way (from its header, until it is opened);
    ``count``: words of the part under way behind the current one; ``batches``: sub-batches behind
    the current one; ``failed``: the block's status; ``under_way``: blocks closed, not yet done.
    """

    def __init__(self, block: Any) -> None:
        self.block = block
        self.left = Signal(BEATS_BITS)
        self.count = Signal(32)
        self.last = Signal()
        self.batches = Signal.like(block.sub_batches)
        self.failed = Signal(StatusBit.TIMEOUT.bit_length() + 1)
        self.under_way = Signal(range(MAX_BLOCKS))
        self.closed = Signal()
