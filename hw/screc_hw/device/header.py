"""Block headers: collected word by word, and checked against what the design can serve."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.device.fetch import BEAT_LOG2, BEATS_BITS
from screc_hw.protocol import (
    BEAT_BYTES,
    HEADER_WORDS,
    MAGIC,
    MAX_SAMPLES,
    VERSION,
    Header,
    LoadTarget,
    Opcode,
    StatusBit,
)

__all__ = ["HeaderCheck", "block_fields"]

OPCODE_SHIFT = 16
CORE_SHIFT = 8
FEATURE_BITS = 12
DENSE_BITS = 16


def block_fields(rows: int) -> data.StructLayout:
    """A block's header as the reader needs it; ``beats`` is its length with the header."""
    return data.StructLayout(
        {
            "run": 1,
            "opcode": 8,
            "id": 32,
            "offset": 32,
            "samples": 16,
            "sub_batches": (-(-MAX_SAMPLES // rows)).bit_length(),
            "features": FEATURE_BITS,
            "dense": DENSE_BITS,
            "target": 4,
            "core": 8,
            "address": 32,
            "words": 32,
            "crc": 32,
            "beats": BEATS_BITS,
        }
    )


class HeaderCheck(wiring.Component):
    """Collects the sixteen words of a header and judges it.

    **Latency** ``done`` is 1 :attr:`latency` cycles after the last word, until the next header's
    first. **Throughput** 1 word per cycle. **Backpressure** none.

    Parameters
    ----------
    memory, rows, max_features, max_dense
        What the design can serve.

    Members
    -------
    word : In(32)
    valid : In(1)
        ``word`` is the next one of the header.
    left : In(26)
        Beats of the queue from this header on.
    index : Out(4)
        Which word comes next.
    done : Out(1)
        ``fields`` and ``status`` hold.
    fields : Out(block_fields)
    status : Out(8)
        ``StatusBit``: 0, or why the block is refused.

    Raises
    ------
    ValueError
        If ``max_features`` or ``max_dense`` exceed what a header's fields hold.
    """

    latency = 7

    word: Signal
    valid: Signal
    left: Signal
    index: Signal
    done: Signal
    fields: Any
    status: Signal

    def __init__(self, *, memory: int, rows: int, max_features: int, max_dense: int) -> None:
        if not 0 <= max_features < 1 << FEATURE_BITS:
            raise ValueError(f"max_features must be in 0..4095, not {max_features!r}")
        if not 0 <= max_dense < 1 << DENSE_BITS:
            raise ValueError(f"max_dense must be in 0..65535, not {max_dense!r}")
        self._memory = memory
        self._rows = rows
        self._max_features = max_features
        self._max_dense = max_dense
        super().__init__(
            {
                "word": In(32),
                "valid": In(1),
                "left": In(BEATS_BITS),
                "index": Out(range(HEADER_WORDS)),
                "done": Out(1),
                "fields": Out(block_fields(rows)),
                "status": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the registers of the words, then the checks, in steps of one adder each."""
        m = Module()
        words = [Signal(32, name=word.name.lower()) for word in Header]
        parity = Signal(32)
        age = Signal(range(self.latency + 1), init=0)
        m.d.comb += self.done.eq(age == self.latency)
        with m.If(self.valid):
            m.d.sync += [
                self.index.eq(self.index + 1),
                parity.eq(self.word ^ Mux(self.index == 0, 0, parity)),
                age.eq(self.index == HEADER_WORDS - 1),
            ]
            with m.Switch(self.index):
                for word in Header:
                    with m.Case(int(word)):
                        m.d.sync += words[word].eq(self.word)
        with m.Elif((age != 0) & ~self.done):
            m.d.sync += age.eq(age + 1)
        beats = self._length(m, words)
        ok = self._counts(m, words)
        fields = self.fields
        m.d.comb += [
            fields.opcode.eq(words[Header.VERSION_OPCODE][OPCODE_SHIFT:]),
            fields.id.eq(words[Header.BLOCK_ID]),
            fields.offset.eq(words[Header.RESULT_OFFSET]),
            fields.samples.eq(words[Header.SAMPLES]),
            fields.features.eq(words[Header.FEATURES]),
            fields.dense.eq(words[Header.DENSE]),
            fields.target.eq(words[Header.LOAD_TARGET]),
            fields.core.eq(words[Header.LOAD_TARGET][CORE_SHIFT:]),
            fields.address.eq(words[Header.LOAD_ADDRESS]),
            fields.words.eq(words[Header.LOAD_WORDS]),
            fields.crc.eq(words[Header.LOAD_CRC]),
            fields.beats.eq(words[Header.BLOCK_BYTES][BEAT_LOG2:]),
        ]
        fits, whole = Signal(), Signal()
        wrong = Signal(8)
        m.d.sync += [
            fields.run.eq(words[Header.VERSION_OPCODE][OPCODE_SHIFT:] == Opcode.RUN),
            fits.eq((fields.beats == beats) & (words[Header.BLOCK_BYTES][:BEAT_LOG2] == 0)),
            whole.eq(fields.beats <= self.left),
            wrong.eq(
                Mux(words[Header.MAGIC] == MAGIC, 0, StatusBit.MAGIC)
                | Mux(parity.all(), 0, StatusBit.CHECKSUM)
            ),
            # what cannot be trusted is not judged further
            self.status.eq(Mux(wrong.any() | (ok & fits & whole), wrong, StatusBit.HEADER)),
        ]
        return m

    def _length(self, m: Module, words: list[Signal]) -> Signal:
        """Return the beats that the counts ask for, 5 cycles after the last word."""
        rows, fields = self._rows, self.fields
        row_log2 = (rows - 1).bit_length()
        most_bags = -(-self._max_features * rows // 16)
        most_dense = -(-self._max_dense * rows // BEAT_BYTES)
        most = most_bags + most_dense
        bags, dense = Signal(range(most_bags + 1)), Signal(range(most_dense + 1))
        batch = Signal(range(most + 1))
        blocks = Signal.like(fields.sub_batches)
        total = Signal(range(-(-MAX_SAMPLES // rows) * most + 1))
        load = Signal(30)
        beats = Signal(max(len(total), len(load)) + 1)
        table = 1 + -(-self._memory // 8)
        m.d.sync += [
            blocks.eq((fields.samples + self._rows - 1) >> row_log2),
            bags.eq(((fields.features << row_log2) + 15) >> 4),
            dense.eq(((fields.dense << row_log2) + 63) >> 6),
            load.eq((fields.words + 7) >> 3),
            batch.eq(bags + dense),
            total.eq(blocks * batch),
            beats.eq(Mux(fields.run, total + table, load + 1)),
        ]
        m.d.comb += fields.sub_batches.eq(blocks)
        return beats

    def _counts(self, m: Module, words: list[Signal]) -> Signal:
        """Return whether version, opcode and counts are servable, 3 cycles after the last word."""
        run, load, ok = Signal(), Signal(), Signal()
        samples, target = words[Header.SAMPLES], words[Header.LOAD_TARGET][:CORE_SHIFT]
        version_run = VERSION | Opcode.RUN << OPCODE_SHIFT
        version_load = VERSION | Opcode.LOAD << OPCODE_SHIFT
        m.d.sync += [
            run.eq(
                (words[Header.VERSION_OPCODE] == version_run)
                & (samples != 0)
                & (samples <= MAX_SAMPLES)
                & (words[Header.FEATURES] <= self._max_features)
                & (words[Header.DENSE] <= self._max_dense)
                & (words[Header.SECTIONS] == self._memory)
            ),
            load.eq(
                (words[Header.VERSION_OPCODE] == version_load)
                & (target <= max(LoadTarget))
                & (words[Header.LOAD_WORDS] != 0)
            ),
            ok.eq(run | load),
        ]
        return ok
