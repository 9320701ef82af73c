"""What a compute core costs on UltraScale+, part by part, as ``screc_hw.costs`` counts."""

from __future__ import annotations

import math

from screc_hw.compute.layouts import (
    OPERATION_WORDS,
    columns_layout,
    linear_layout,
    place_layout,
    tagged_layout,
)
from screc_hw.compute.memories import WORD_BITS
from screc_hw.compute.params import COUNTER_BITS, ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.costs import bits, queue, registers, skid
from screc_hw.numerics import LOGIT_CODE_BITS, MULTIPLIER_BITS, SIGMOID_ENTRIES
from screc_hw.protocol import BEAT_BYTES, LAYER_FIELDS, REQUANTISE_FIELDS
from screc_hw.requantise import Requantise
from screc_hw.resources import RAMB18_SHAPES, Resources, bank_depth, memory_blocks
from screc_hw.stream import config_layout, feature_write_layout, index_bits

__all__ = ["array_resources", "compute_resources"]

CODE_BITS = 8
SHIFT_BITS = REQUANTISE_FIELDS["s"][1]
ENTRY_BITS = sum(REQUANTISE_FIELDS["s"])
"""Bits of a requantise entry."""

PROGRAM_BITS = tuple(
    sum(
        width
        for name, (low, width) in LAYER_FIELDS.items()
        if name != "reserved" and low // WORD_BITS == word
    )
    for word in range(OPERATION_WORDS)
)
"""Bits of an operation's words that are fields."""

SHIFTED_FROM = 3
"""Registers from which on a delay is a shift register."""


class _Cost:
    """Costs of the parts of a core with ``params``."""

    def __init__(self, params: ComputeParams) -> None:
        self._p = params
        self._bank = index_bits(params.bank_words)
        self._groups = -(-params.rows // params.max_fanout)

    def total(self) -> Resources:
        """Add up the core."""
        parts = (
            self._sequencer()
            + self._issue()
            + self.array()
            + self._finish()
            + self._writer()
            + self._inputs()
            + self._output()
            + self._top()
            + self._weights()
        )
        return parts + (self._pairs() + self._turn() if self._p.dot else Resources())

    def array(self) -> Resources:
        """Positions and their operands; multipliers, and the accumulators behind them."""
        p = self._p
        chains = p.pairs * p.outs
        sums = p.rows * p.outs * p.acc_bits
        # the last output's columns come from nowhere else
        drain = (p.outs - 1) * p.rows * p.acc_bits
        shared = p.outs * (1 + -(-p.rows // (p.max_fanout // CHAIN)))
        accumulate = registers(2 * sums + 2 * shared + 4 * p.outs + 8, sums + drain + 2 * p.outs)
        # words of LOAD are registered once for all positions
        load = registers(WORD_BITS + index_bits(p.weight_words))
        return load + CHAIN * self._position() + accumulate + Resources(dsp=CHAIN * chains)

    def _position(self) -> Resources:
        """Memories and what they gave, the step, the choice, and operands for all multipliers."""
        p = self._p
        step = self._bank + p.step_bits + 3
        inputs, weights = CODE_BITS * p.rows, CODE_BITS * p.outs
        copies = -(-p.pairs // (p.max_fanout // 2))
        chosen = registers(
            step + 2 * inputs + weights * (1 + copies) + self._groups + bits(p.word_steps) + 1,
            weights * (2 if p.word_steps > 4 else int(p.word_steps > 1)) + 12,
        )
        return _banked(inputs, p.bank_words, p.rows) + _banked(WORD_BITS, p.weight_words) + chosen

    def _sequencer(self) -> Resources:
        """Program, contexts, and the operation that is offered."""
        p = self._p
        linear, first = linear_layout(p).size, index_bits(CHAIN * p.bank_words)
        counter, slot = index_bits(p.program_length), bits(p.slots)
        program = sum((_banked(width, p.program_length) for width in PROGRAM_BITS), Resources())
        contexts = p.slots * (counter + 3)
        state = registers(
            2 * linear + first + self._bank + contexts + 4 * slot + 21,
            linear + contexts + 4 * slot + 25,
        )
        return Resources(bram36=program.bram36, uram=program.uram) + state

    def _weights(self) -> Resources:
        """What reads streamed weights: a beat, addresses, the region, a copy of the program."""
        p = self._p
        if not p.stream_words:
            return Resources()
        beat, address = 8 * BEAT_BYTES, p.address_bits - bits(BEAT_BYTES)
        state = registers(beat + 3 * address + 350, 3 * address + 190)
        return 2 * _banked(WORD_BITS, p.program_length) + state

    def _issue(self) -> Resources:
        """Counters of inputs, outputs and steps."""
        p = self._p
        counted = index_bits(p.links) + index_bits(p.max_n) + self._bank + p.step_bits
        more = index_bits(p.links) + self._bank + bits(p.outs) + 6
        return registers(counted + more, counted + 20)

    def _finish(self) -> Resources:
        """Columns to come, their entries and tags; bias and requantiser of every row."""
        p = self._p
        columns, tag = columns_layout(p).size, tagged_layout(p).size
        tags = Requantise.latency_of(p.acc_bits) + 3
        numbers = queue(columns, 4) + registers(columns + tags * tag + 6)
        # what a group of rows shares: bias and factors, or those of a copy
        factors = MULTIPLIER_BITS + SHIFT_BITS
        group = registers(2 * factors + 6 * SHIFT_BITS, factors + p.acc_bits // 2)
        # a row: the choice of a column or a copy, biased; ReLU; logit
        row = _requantiser(p.acc_bits, LOGIT_CODE_BITS)
        row += registers(2 * p.acc_bits, (3 if p.dot else 2) * p.acc_bits + LOGIT_CODE_BITS)
        entries = _banked(ENTRY_BITS, p.requantise_words)
        return numbers + entries + self._groups * group + p.rows * row

    def _writer(self) -> Resources:
        """Choice between four sources, and a register per bank."""
        p = self._p
        data = CODE_BITS * p.rows
        banks = min(CHAIN, p.lanes)  # those that a word of a bag repeats in are equal
        return registers(
            banks * data + CHAIN * p.rows + self._bank,
            banks * data + CHAIN * p.rows + data + 2 * p.rows + 2 * self._bank + 20,
        )

    def _inputs(self) -> Resources:
        """Dense words and bags on their way to the writer."""
        p = self._p
        dense = skid(CODE_BITS * p.rows) + registers(2 * 16 + self._bank + 6, 50)
        word = feature_write_layout(p).size
        address = index_bits(max(p.bank_words, p.unit_words))
        counted = bits(p.slots * p.rows * p.vector_words + 5) + 1
        chosen = 8 * CHAIN * -(-(p.bag_parts - 1) // 3)
        bags = skid(word) + registers(
            word + address + self._bank + 2 * counted + 10, chosen + 3 * address + 2 * counted + 8
        )
        return dense + bags + queue(counted, p.slots, reserved=True)

    def _output(self) -> Resources:
        """Logits and codes of a sub-batch, the sigmoid, and records."""
        p = self._p
        row = p.acc_bits + LOGIT_CODE_BITS
        table = 2 * _banked(16, SIGMOID_ENTRIES)
        return p.rows * registers(row, row) + table + registers(320, 160) + Resources(dsp=1)

    def _pairs(self) -> Resources:
        """The walk over vectors, the units, and the queue of their codes."""
        p = self._p
        place = index_bits(CHAIN * p.bank_words)
        tag = 2 + place + index_bits(p.unit_rows)
        address = index_bits(p.unit_words)
        links = index_bits(-(-p.max_dim // CHAIN))
        walk = registers(
            5 * address + 3 * place + 4 * index_bits(p.max_vectors) + 3 * links + 20,
            3 * address + 2 * place + 4 * index_bits(p.max_vectors) + 2 * links + 40,
        )
        latency = 14 + Requantise.latency_of(p.acc_bits)
        tags = registers(tag * (latency + 1), 0)
        codes = queue(tag + CODE_BITS * p.pair_units, 32, reserved=True)
        spread = registers(0, p.rows)
        return walk + tags + codes + spread + p.pair_units * self._pair_unit()

    def _pair_unit(self) -> Resources:
        """Vectors, the one that is held, delays of the elements, chain, requantiser."""
        p = self._p
        held = memory_blocks(max(2, -(-p.max_dim // CHAIN)), WORD_BITS)
        # element k of either word waits k cycles behind a register; from three registers on they
        # are a shift register
        waits = 2 * CODE_BITS * (1 + 2)
        shifted = 2 * CODE_BITS * (CHAIN - SHIFTED_FROM + 1)
        masked = WORD_BITS - CODE_BITS  # components beyond a vector
        return (
            _banked(WORD_BITS, p.unit_words, CHAIN)
            + held
            + registers(WORD_BITS + waits + p.acc_bits + 14, shifted + masked + p.acc_bits + 8)
            + _requantiser(p.acc_bits, CODE_BITS)
            + Resources(dsp=CHAIN)
        )

    def _turn(self) -> Resources:
        """Columns of the bottom output, and the choice of samples from each."""
        p = self._p
        address = index_bits(p.unit_words)
        chosen = CODE_BITS * p.pair_units * -(-(p.unit_rows - 1) // 3)
        state = 2 * address + place_layout(p).size + 2 * bits(max(2, p.max_dim)) + 8
        held = queue(CODE_BITS * p.rows + 1, max(2, p.max_dim), reserved=True)
        return held + registers(state, chosen + 2 * address + self._bank + 25)

    def _top(self) -> Resources:
        """LOAD words, the operation that waits, counters; entries and words of the interaction."""
        p = self._p
        ends = 2 * (bits(p.slots) + 2)
        load = registers(config_layout().size)
        # a counter is a carry chain without LUTs
        core = registers(linear_layout(p).size + 3 * COUNTER_BITS + ends + 8, 12)
        if not p.dot:
            return load + core
        entry = index_bits(p.requantise_words)
        write = p.pair_units + index_bits(p.unit_words) + CHAIN
        codes = CODE_BITS * min(CHAIN, p.lanes) * p.pair_units
        vectors = registers(write + codes, write + codes)
        scalars = 2 * _banked(ENTRY_BITS, p.requantise_words)
        return load + core + vectors + scalars + registers(2 * entry, entry)


def _banked(width: int, depth: int, enables: int = 1) -> Resources:
    """A ``BankedMemory`` of one port: never LUT RAM; with banks, a choice and who is meant.

    With ``enables``, one per byte, the ninth bits of a block's bytes stay unused.
    """
    bank = bank_depth(depth)
    count = -(-depth // bank)
    shallowest = RAMB18_SHAPES[0][0]
    taken = width if enables == 1 else 9 * enables
    blocks = count * memory_blocks(max(shallowest, bank), taken)
    if count == 1:
        return blocks + registers(width)
    number = bits(count)
    choice = width * math.ceil((count - 1) / 4) + 2 * count + enables * count
    return blocks + registers(count * width + number, choice)


def _requantiser(acc_bits: int, code_bits: int) -> Resources:
    """A lane of ``Requantise`` of up to 27 bits."""
    product = acc_bits + MULTIPLIER_BITS
    groups = math.ceil((product - code_bits - 3) / 4)
    ff = acc_bits + 2 * product + 4 * code_bits + math.ceil(groups / 5) + 10
    return Resources(dsp=1, ff=ff, lut=5 * code_bits + 20 + groups)


def array_resources(params: ComputeParams) -> Resources:
    """Return what the array of a core with ``params`` costs."""
    return _Cost(params).array()


def compute_resources(params: ComputeParams) -> Resources:
    """Return what a core with ``params`` costs."""
    return _Cost(params).total()
