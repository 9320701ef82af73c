"""What a TT reconstructor costs on UltraScale+, part by part, as ``screc_hw.costs`` counts."""

from __future__ import annotations

import math

from screc_hw.costs import bits, queue, registers
from screc_hw.numerics import INT8_MAX, MIDDLE_BITS, MULTIPLIER_BITS
from screc_hw.resources import RAMB18_SHAPES, Resources, bank_depth, memory_blocks
from screc_hw.stream import config_layout, index_bits
from screc_hw.tt.digits import NARROW, NARROWEST, WIDE
from screc_hw.tt.layouts import (
    addresses_layout,
    block_layout,
    finish_layout,
    first_layout,
    job_layout,
    operands_layout,
    second_layout,
    slice_layout,
    step_layout,
    tag_layout,
)
from screc_hw.tt.params import (
    COLUMNS,
    CORE_BITS,
    DIGIT_BITS,
    PREFIX_BITS,
    TtParams,
)
from screc_hw.tt.rows import ROWS_HELD
from screc_hw.tt.sequencer import JOBS_HELD
from screc_hw.tt.shape import CHUNK, GROUPS

DOTS = GROUPS * COLUMNS
DSP_PRODUCT_BITS = NARROWEST
"""Narrower products are LUTs."""

WORD_BITS = 64
DESCRIPTOR_WIDTHS = (54, 40, 40, 56, 53, 55, 56)
"""Of a descriptor's words, about: bits that nobody reads are not built."""

COUNTER_BITS = 32


class _Cost:
    """Costs of the parts of a reconstructor with ``params``."""

    def __init__(self, params: TtParams) -> None:
        self._p = params

    def total(self) -> Resources:
        """Add up the reconstructor."""
        lane = self._sequencer() + self._array() + self._sums() + self._rows()
        return self._pinner() + self._digits() + self._p.lanes * lane + self._top()

    def _pinner(self) -> Resources:
        """Notes of every table, and the walk over them."""
        p = self._p
        notes = math.ceil(p.max_tables / 64) * memory_blocks(min(p.max_tables, 64), 32)
        return notes + registers(93 + 2 * p.max_tables.bit_length(), 165)

    def _digits(self) -> Resources:
        """Descriptors, divisions and places, in a pipeline of delays."""
        p = self._p
        job = job_layout(p).size
        delayed = registers(5 * job + 8 * p.row_bits + 115, 16 * job // 10 + 5 * p.row_bits // 2)
        words = [_memory(width, p.max_tables) for width in DESCRIPTOR_WIDTHS]
        sums = registers(0, 280)
        return sum(words, delayed + sums) + Resources(dsp=self._digits_dsp())

    def _digits_dsp(self) -> int:
        """Multipliers of the digits and the places; products of few bits are LUTs."""
        p = self._p
        at = addresses_layout(p)
        core1, core2, core3, store = (
            at[name].width >= DSP_PRODUCT_BITS for name in ("core1", "core2", "core3", "store")
        )
        prefix_low, digit_low = p.row_bits + DIGIT_BITS, PREFIX_BITS + DIGIT_BITS
        parts = _products(p.row_bits, prefix_low + 1, prefix_low + PREFIX_BITS)
        parts += _products(PREFIX_BITS, digit_low + 1, digit_low + DIGIT_BITS)
        # the last digits' remainders are as wide as their cores' addresses
        return parts + core1 + 2 * core2 + 2 * core3 + store

    def _sequencer(self) -> Resources:
        """Two queues, their places, and the counters of what runs."""
        p = self._p
        first, second = first_layout(p).size, second_layout(p).size
        at, finish = addresses_layout(p), finish_layout(p).size
        store, links = at["store"].width, index_bits(p.max_links)
        blocks = p.block_depth.bit_length()
        places = 2 * p.slots.bit_length() + index_bits(p.ring_words) + blocks + 6 + 2
        run = at.size + p.steps_bits + 2 * links + at["core1"].width + at["core3"].width
        run += 2 * store + 2 * index_bits(p.max_q3 // CHUNK) + p.chunk_bits + finish + 12
        queues = queue(first, p.slots) + queue(second, JOBS_HELD)
        return queues + registers(places + run, places + run - finish + 43)

    def _array(self) -> Resources:
        """Positions: memories, what they gave, the step and the choice; multipliers; tags."""
        p = self._p
        banks = [
            (p.core1_words, GROUPS * CORE_BITS),
            (p.core2_words, 2 * COLUMNS * CORE_BITS),
            (p.core3_words, COLUMNS * CORE_BITS),
            (p.store_words, GROUPS * MIDDLE_BITS),
        ]
        operands = operands_layout().size
        step = step_layout(p).size + 3
        position = registers(step + operands + sum(width for _, width in banks) + 3, operands + 4)
        for words, width in banks:
            depth = bank_depth(words)
            count = math.ceil(words / depth)
            # a choice of four is a LUT, and so are two of two
            position += count * _block_ram(width, depth) + registers(
                width * (count - 1) + 2 * bits(count),
                width * (count - 1) // 2 + 2 * count * (count > 1),
            )
        latency = 3 + p.chain + 2
        tags = registers(latency + 4, tag_layout(p).size * math.ceil(latency / 32) + 6)
        return p.chain * (position + Resources(dsp=DOTS)) + tags

    def _sums(self) -> Resources:
        """Accumulators; shift and clamp of first products."""
        p = self._p
        first = min(p.sum_bits, (p.max_links * p.chain * INT8_MAX**2 + 64).bit_length() + 1)
        ff = p.sum_bits + first + MIDDLE_BITS
        # a choice of eight takes two LUTs and a part of the level before
        lut = p.sum_bits + round(2.65 * first) + MIDDLE_BITS
        return DOTS * registers(ff, lut) + registers(50, 20)

    def _rows(self) -> Resources:
        """Queue of blocks, requantisers, rows in the making, and the slice that leaves."""
        p = self._p
        block, at_once = block_layout(p).size, p.requantisers // COLUMNS
        turns = GROUPS // at_once
        chosen = p.requantisers * p.acc_bits
        blocks = queue(block, p.block_depth, reserved=True)
        choice = registers(block + chosen + 40, chosen if turns > 1 else 0)
        width = CHUNK * p.code_bits
        # with four pieces, seven inputs
        pieces = {1: 0, 2: width, 4: 2 * width}[at_once]
        chunk = memory_blocks(ROWS_HELD, width) + registers(
            width + at_once + 1, pieces + 2 * at_once
        )
        out = registers(
            slice_layout(p).size + 20,
            slice_layout(p).size * math.ceil((p.max_slices - 1) / 3) + 30,
        )
        lanes = p.requantisers * self._requantiser()
        return blocks + choice + p.chunks * chunk + out + lanes + registers(60, 40)

    def _requantiser(self) -> Resources:
        """A lane of ``Requantise`` of up to 27 bits."""
        p = self._p
        code, product = p.code_bits, p.acc_bits + MULTIPLIER_BITS
        groups = math.ceil((product - code - 3) / 4)
        ff = p.acc_bits + 2 * product + 4 * code + math.ceil(groups / 5) + 10
        return Resources(dsp=1, ff=ff, lut=5 * code + 20 + groups)

    def _top(self) -> Resources:
        """LOAD words, spread to the banks; dispatch; the slice of the lane whose turn it is."""
        p = self._p
        low = bits(p.chain)
        reach = max(low + index_bits(p.core2_words), low - 1 + index_bits(p.core1_words))
        load = registers(config_layout().size + 1 + WORD_BITS + reach - low + 1, 20 + 4 * p.chain)
        counters = registers(4 * COUNTER_BITS + 8, COUNTER_BITS + 20)
        job = p.lanes * 4
        collect = slice_layout(p).size * math.ceil((p.lanes - 1) / 3)
        return load + counters + registers(4, job + collect)


def _products(a_bits: int, b_bits: int, read: int) -> int:
    """Multipliers of an unsigned product whose low ``read`` bits are read; by one bit is none."""
    return sum(
        a_bits - i > 1 and b_bits - j > 1 and i + j < read
        for i in range(0, a_bits, WIDE)
        for j in range(0, b_bits, NARROW)
    )


def _memory(width: int, depth: int) -> Resources:
    """A memory of descriptors: LUT RAM up to 64 deep."""
    return memory_blocks(depth, width) if depth <= 64 else _block_ram(width, depth)


def _block_ram(width: int, depth: int) -> Resources:
    """A memory that is never LUT RAM."""
    return memory_blocks(max(RAMB18_SHAPES[0][0], depth), width)


def tt_resources(params: TtParams) -> Resources:
    """Return what a reconstructor with ``params`` costs."""
    return _Cost(params).total()
