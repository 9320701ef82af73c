"""What a memory core costs on UltraScale+, part by part.

LUTs are counted before they are packed in pairs, flip-flops before a tool moves them into DSPs and
RAMs, as Yosys maps them (``synth_xilinx -family xcup``). Names of widths follow
``memory.layouts``; bits that are constant or that nobody reads are not built and not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from screc_hw.costs import bits, memory, queue, registers, skid
from screc_hw.protocol import FEATURE_FIELDS, FEATURE_WORDS, LOOKUP_FIELDS, ROW_TAIL_BYTES
from screc_hw.resources import URAM_DEPTH, Resources, memory_blocks

if TYPE_CHECKING:
    from screc_hw.memory.params import MemoryCoreParams

RANK_BITS = LOOKUP_FIELDS["rank"][1]
OFFSET_BITS = FEATURE_FIELDS["base"][1]
RECORD_BITS = LOOKUP_FIELDS["reserved"][0]  # a lookup record without its reserved bits
SECTION_BITS = 16 + 16  # samples and first sub-batch of a section, beside each record
SEQUENCE_BITS = 16
COUNT_BITS = 16  # lookups of a partial
TAIL_BITS = 8 * ROW_TAIL_BYTES
WORD_BITS = 64  # of a LOAD block
STAGING_BITS = OFFSET_BITS + 2 * RANK_BITS
COUNTERS = 6  # range errors, lookups, stalls; beats of the engine, of records, of both
COUNTER_BITS = 32


class _Cost:
    """Costs of the parts of a core with ``params``."""

    def __init__(self, params: MemoryCoreParams, requests: int, reads: int) -> None:
        p = self._p = params
        self._requests, self._reads = requests, reads
        self._feature = max(1, bits(p.max_features))
        self._slice = bits(p.max_slices)
        self._rowwise = int(p.rowwise)
        self._bag = bits(p.slots) + bits(p.rows) + self._feature
        self._count = p.max_row_beats.bit_length()
        self._address = p.address_bits - p.beat_log2  # in beats
        self._tail_place = (1 + bits(p.beat_bytes // 4)) * self._rowwise
        # bag, last, zero, int4; position, last slice, last beat
        self._row = (
            self._bag + 3 + self._rowwise + bits(p.positions) + self._slice + bits(p.max_row_beats)
        )
        # the bag's slot is part of its sub-batch's number
        self._checked = RANK_BITS + 2 + SEQUENCE_BITS + self._bag - bits(p.slots)
        self._lanes = len(p.tiers) if len(p.tiers) > 1 else 0
        self._local = RANK_BITS + FEATURE_FIELDS["tt_table"][1] if "tt" in p.tiers else 0
        self._onchip = max(1, bits(p.onchip_beats)) + bits(p.max_row_beats) + self._tail_place
        # bag, slice, begin, end, last, and complete; scale and bias
        self._header = self._bag + self._slice + 3 + (p.halves == 2)
        # with TT rows, codes that are only signed lie above the fraction
        codes = p.lanes * (p.code_bits if p.rowwise else 8)
        tail = (TAIL_BITS + 1 + (p.halves == 2)) * self._rowwise
        self._tail = self._header + tail
        self._piece = self._tail + codes
        self._tt_piece = self._tail + p.lanes * p.code_bits
        self._sums = p.lanes * p.acc_bits
        # bag, slice, last, count
        self._partial = self._sums + self._bag + self._slice + 1 + COUNT_BITS
        self._groups = [p.tiers] if p.pool_beats == 1 else [p.tiers[:1], p.tiers[1:]]

    def total(self) -> Resources:
        """Add up the core."""
        p = self._p
        parts = [self._records(), self._port(), self._lookups(), self._remap(), self._bound()]
        parts += [self._lane(tier) for tier in p.tiers]
        parts += [self._pool(group) for group in self._groups]
        if p.pool_beats == 2:
            parts.append(registers(self._partial + 3, self._partial + 8))  # Merge
        # counters: their sums are carries alone, but for that of two counts; idle
        parts.append(registers(COUNTERS * COUNTER_BITS + 12, COUNTER_BITS + 30))
        return sum(parts, Resources())

    def _records(self) -> Resources:
        """Section reader, fetch of records and their unpacker."""
        p = self._p
        beat = RECORD_BITS * p.records_per_beat
        # beats left, next beat, burst and section; their steps
        reader = registers(32 + 2 * self._address + 4 + 64 + 4, 2 * self._address + 30)
        # address, length, free places
        fetch = registers(self._address + 15, 20)
        # word that shifts; lookups left in the section
        unpacker = registers(beat + 64 + 32 + 6, beat - RECORD_BITS + 45)
        fifo = queue(beat, p.section_beats, reserved=True, stored=p.port_bits)
        return reader + fetch + unpacker + fifo

    def _port(self) -> Resources:
        """Arbiter of records and rows: skid buffer and choice of addresses; beats."""
        p = self._p
        address = p.address_bits + 8
        # the beat in the arbiter, and in the two fetches, which is one register
        return registers(2 * p.port_bits) + skid(address) + registers(10, address + 5)

    def _lookups(self) -> Resources:
        """Check of records and admission."""
        record = RECORD_BITS + SECTION_BITS + 1
        held = RECORD_BITS + SEQUENCE_BITS
        check = registers(2 * held + 6, 30)
        gate = registers(self._checked + 2, 35)
        # the run's end in the buffer's input; the sub-batch's number ends at the gate
        admitted = self._checked - SEQUENCE_BITS + bits(self._p.slots)
        return skid(record, 10) + check + skid(self._checked, 28) + gate + skid(admitted, 6)

    def _remap(self) -> Resources:
        """Descriptors, differences and comparisons of every tier, two multipliers."""
        p = self._p
        words = [p.descriptor_bits(i) for i in range(FEATURE_WORDS)]
        memories = sum(
            (memory(width, max(2, p.max_features)) for width in words if width), Resources()
        )
        # descriptor and staging ring; decoding of LOAD words
        loaded = registers(sum(words) + STAGING_BITS, 20)
        # two bounds, residue, distance in two stages, stripe in two
        tier = registers(2 + 32 + 64 + 10, 75 + 36 + 32 + 6)
        # delays longer than two cycles are shift registers
        shifted = self._bag + 60 + self._rowwise
        common = registers(430, 200 + shifted)
        return memories + loaded + len(p.tiers) * tier + common + Resources(dsp=2)

    def _bound(self) -> Resources:
        """Address, end and comparisons; the buffers before and behind."""
        p = self._p
        beats = OFFSET_BITS + 1 - p.beat_log2
        place = self._lanes + beats + self._count + self._local + self._row
        onchip = self._onchip if "onchip" in p.tiers else 0
        routed = (
            self._lanes
            + self._address
            + 2 * self._count
            + self._tail_place
            + onchip
            + self._local
            + self._row
        )
        first = place - beats + self._address + beats + 1 + (self._slice + 1) * self._rowwise
        first += max(1, bits(p.onchip_beats)) if onchip else 0
        return skid(place) + registers(first, 60) + registers(routed + 3, 25) + skid(routed)

    def _lane(self, tier: str) -> Resources:
        """Holding register, queues, source and slicer of a tier."""
        p = self._p
        depth = p.outstanding if tier == "dram" else self._requests
        request = {
            "dram": p.address_bits + 2 * self._count + self._tail_place,
            "onchip": self._onchip,
            "tt": self._local,
        }[tier]
        queues = registers(self._row + 2, 5) + queue(self._row, depth)
        queues += queue(request, self._requests)
        if tier == "tt":
            piece = self._tt_piece
            return queues + registers(piece + self._slice + 1, 10) + skid(piece)
        reads = p.outstanding if tier == "dram" else self._reads
        fifo = queue(p.port_bits, reads, reserved=True)
        if tier == "dram":
            # address, second burst's; free places, lengths
            source = registers(p.address_bits + self._address + 40, p.address_bits + 40)
        else:
            source = self._onchip_rows()
        if p.rowwise:
            source += self._tails(reads)
        return queues + fifo + source + self._slicer() + skid(self._piece)

    def _onchip_rows(self) -> Resources:
        """The memory in columns of a LOAD word; its registers, one per bank."""
        p = self._p
        banks = -(-p.onchip_beats // URAM_DEPTH)
        # always blocks, which are at least 512 deep
        column = memory_blocks(max(512, min(p.onchip_beats, URAM_DEPTH)), WORD_BITS)
        words = p.port_bits // WORD_BITS
        chosen = registers(p.port_bits, p.port_bits * -(-banks // 4)) if banks > 1 else Resources()
        # LOAD word, address, places
        control = registers(WORD_BITS + 32 + 35, 60 + words * banks)
        return banks * (words * column + registers(p.port_bits)) + chosen + control

    def _tails(self, depth: int) -> Resources:
        """Catcher of scales and biases: queue of rows to come, a beat, the choice of its word."""
        p = self._p
        coming = queue(bits(p.max_row_beats) + self._tail_place, depth, reserved=True)
        words = p.beat_bytes // 4
        catcher = registers(p.port_bits + TAIL_BITS + 8, TAIL_BITS * -(-words // 4) + 10)
        return coming + catcher + queue(TAIL_BITS, depth, reserved=True)

    def _slicer(self) -> Resources:
        """Choice of the word, then of its bytes or nibbles."""
        p = self._p
        word = min(p.lanes * 8, p.port_bits)
        words = p.port_bits // word
        choice = word * -(-(words - 1) // 3)  # 4 to 1 in a LUT
        return registers(word + self._tail + 20 + self._piece, choice + 9 * p.lanes + 45)

    def _pool(self, tiers: tuple[str, ...]) -> Resources:
        """Merge of pieces, dequantise, the sums and the buffer behind them."""
        p = self._p
        lanes = len(tiers)
        choice = self._piece if lanes > 1 else 2  # of three, too, in a LUT
        piece = self._tt_piece if "tt" in tiers else self._piece
        merge = registers(piece + 3, choice + 6 * (lanes - 1))
        header = self._header + bits(lanes)
        value = p.lanes * p.acc_bits if p.rowwise else piece - self._tail
        stored = lanes << self._slice
        sums = registers(value + header + COUNT_BITS + 4, self._sums)
        counts = registers(lanes * (COUNT_BITS + 1), 20 * lanes)
        if stored > 1:
            columns = max(1, p.lanes // 8)
            sums += columns * memory(min(p.lanes, 8) * p.acc_bits, stored)
        out = registers(self._partial + 1) + skid(self._partial)
        result = merge + sums + counts + out
        return result + self._dequantise() if p.rowwise else result

    def _dequantise(self) -> Resources:
        """Operands and product of every lane; shifts of scale and bias."""
        p = self._p
        # code, product twice, value; the value's choice and sum
        lane = registers(2 * p.code_bits + 2 * 36 + p.acc_bits, p.acc_bits)
        common = registers(12 + 5 + 12 + 5 + 27 + 2 * p.acc_bits + 10, 120 + 3 * p.acc_bits)
        bias = p.halves * registers(p.acc_bits, p.acc_bits)
        header = registers(self._header, self._header)  # four cycles of a shift register
        return p.lanes * (lane + Resources(dsp=1)) + common + bias + header


def core_resources(params: MemoryCoreParams, *, requests: int, reads: int) -> Resources:
    """Return what a core with ``params`` costs.

    Parameters
    ----------
    params
        The core's parameters.
    requests
        Depth of a lane's queue of requests, and of the rows of all lanes but DRAM's.
    reads
        Beats that may be read on chip and not yet taken.
    """
    return _Cost(params, requests, reads).total()
