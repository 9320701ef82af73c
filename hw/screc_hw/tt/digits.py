"""From a row's number to its digits, and to where a lane finds its slices of the cores.

A division by a run-time p is a multiplication by ``image.reciprocal(p)``, exact for every row
number below ``2**row_bits``: one row per cycle, and the host need not know of the shapes.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import tt_request_layout
from screc_hw.memory.stages import Stages
from screc_hw.protocol import TT_TABLE_FIELDS, TT_TABLE_WORDS, LoadTarget
from screc_hw.stream import config_layout, index_bits
from screc_hw.tt.layouts import addresses_layout, job_layout
from screc_hw.tt.params import DIGIT_BITS, PREFIX_BITS, TtParams

__all__ = ["Digits", "row_request_layout"]

WIDE, NARROW = 26, 17
"""Unsigned widths of a DSP48E2's multiplier operands."""

NARROWEST = 9
"""Bits of a product from which on it is made in a DSP48E2, by Yosys."""

PRODUCT = 3
"""Registers of a product: operands, product, output."""

WORD_BITS = 64

LUT_RAM_TABLES = 64
"""Descriptors of more tables are in block RAM."""


def row_request_layout() -> data.StructLayout:
    """A row to reconstruct, or with ``pin`` the prefix of that row to compute into its place."""
    request = tt_request_layout()
    return data.StructLayout({**{str(n): f.shape for n, f in request}, "pin": 1})


def product_parts(a_bits: int, b_bits: int) -> int:
    """Multipliers of an unsigned product."""
    return -(-a_bits // WIDE) * -(-b_bits // NARROW)


def product_latency(a_bits: int, b_bits: int) -> int:
    """Cycles of an unsigned product: those of a multiplier, and a level of adders each."""
    return PRODUCT + (product_parts(a_bits, b_bits) - 1).bit_length()


class Digits(wiring.Component):
    """Splits row numbers by mixed radix and looks up the table.

    **Latency** about 25 cycles. **Throughput** 1 row per cycle. **Backpressure** ``jobs.ready``
    reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Words of the descriptors; others are ignored. Every table that is named must be loaded.
    i : In(stream.Signature(row_request_layout()))
    jobs : Out(stream.Signature(job_layout(params)))
    error : Out(1)
        A row beyond its table has passed: its row will be 0.
    hit, passed : Out(1)
        A row of its table whose prefix is pinned, and any row, have passed.
    busy : Out(1)
        A row is inside.
    """

    config: stream.Interface
    i: stream.Interface
    jobs: stream.Interface
    error: Signal
    hit: Signal
    passed: Signal
    busy: Signal

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "i": In(stream.Signature(row_request_layout())),
                "jobs": Out(stream.Signature(job_layout(params))),
                "error": Out(1),
                "hit": Out(1),
                "passed": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Divide by p3, then by p2, then find the addresses."""
        m = Module()
        p = self._params
        # what is known after how many registers
        known_at = 2 + (p.max_tables > LUT_RAM_TABLES)  # request, descriptor, block RAM's register
        row_at = known_at + 2  # comparison, row
        prefix_at = row_at + product_latency(p.row_bits, self._reciprocal_bits(p.row_bits))
        first_at = prefix_at + product_latency(PREFIX_BITS, self._reciprocal_bits(PREFIX_BITS))
        digits_at = first_at + PRODUCT + 1
        place_at = digits_at + PRODUCT + 1
        stages = self._stages = Stages(m, self.i, self.jobs, place_at)
        self._m = m
        delay = stages.delay

        request = delay(self.i.payload, 1)
        early = self._descriptor(request.table, (0, 1, 2))
        late = self._descriptor(delay(request.table, digits_at - known_at), (3, 4, 5, 6))

        # the row's number, 0 for one beyond the table
        outside = delay(delay(request.local, known_at - 1) >= early["rows"], 1)
        row = delay(Mux(outside, 0, delay(request.local, known_at))[: p.row_bits], 1)
        prefix = self._product(row, delay(early["m3"], 2), self._reciprocal_bits(p.row_bits))[
            p.row_bits + DIGIT_BITS :
        ][:PREFIX_BITS]
        # a core of few words needs as few bits of its digit
        at = addresses_layout(p)
        bits2, bits3 = (min(DIGIT_BITS, at[name].width) for name in ("core2", "core3"))
        rest = self._low_product(prefix, delay(early["p3"], prefix_at - known_at), bits3)
        digit3 = delay(delay(row[:bits3], prefix_at + PRODUCT - row_at) - rest, 1)[:bits3]
        digit1 = self._product(
            prefix, delay(early["m2"], prefix_at - known_at), self._reciprocal_bits(PREFIX_BITS)
        )[PREFIX_BITS + DIGIT_BITS :][:DIGIT_BITS]
        rest = self._low_product(digit1, delay(early["p2"], first_at - known_at), bits2)
        digit2 = delay(delay(prefix[:bits2], first_at + PRODUCT - prefix_at) - rest, 1)[:bits2]

        digit1 = delay(digit1, digits_at - first_at)
        digit3 = delay(digit3, digits_at - prefix_at - PRODUCT - 1)
        prefix = delay(prefix, digits_at - prefix_at)
        hit = delay(delay(prefix < late["pins"], 1), place_at - digits_at - 1)
        void = delay(outside, place_at - row_at + 1)
        pin = delay(request.pin, place_at - 1)

        job = self.jobs.payload
        first, second = job.first, job.second
        m.d.comb += [
            job.pin.eq(pin),
            job.hit.eq(hit),
            first.core1.eq(self._place(digit1, late["stride1"], late["base1"], first.core1)),
            first.core2.eq(self._place(digit2, late["stride2"], late["base2"], first.core2)),
            second.core3.eq(self._place(digit3, late["stride3"], late["base3"], second.core3)),
            second.entry.eq(
                self._place(prefix, late["entry_words"], late["pin_base"], second.entry)
            ),
            first.steps.eq(self._less_one(late["steps1"])),
            first.links.eq(self._less_one(late["stride1"])),
            first.pairs.eq(delay(late["pairs"], PRODUCT + 1)),
            first.shift.eq(delay(late["shift1"], PRODUCT + 1)),
            second.steps.eq(self._less_one(late["steps2"])),
            second.links.eq(self._less_one(late["k2"])),
            second.blocks.eq(self._less_one(late["blocks"])),
            second.row_blocks.eq(delay(late["row_blocks"], PRODUCT + 1)),
            second.finish.m.eq(Mux(void, 0, delay(late["m"], PRODUCT + 1))),
            second.finish.slices.eq(self._less_one(late["slices"])),
        ]
        m.d.comb += [
            second.finish[name].eq(delay(late[name], PRODUCT + 1))
            for name in ("s", "chunk1", "chunk2", "chunks")
        ]
        passed = self.jobs.valid & self.jobs.ready & ~pin
        m.d.sync += [
            self.error.eq(passed & void),
            self.hit.eq(passed & hit & ~void),
            self.passed.eq(passed),
            self.busy.eq(stages.valid.any() | self.i.valid),
        ]
        return m

    @staticmethod
    def _reciprocal_bits(bits: int) -> int:
        """Width of ``image.reciprocal`` for numbers of ``bits``: of 1 it is 2**(bits + 10)."""
        return bits + DIGIT_BITS + 1

    def _descriptor(self, table: Value, words: tuple[int, ...]) -> dict[str, Value]:
        """Read words of the descriptor of ``table``, a cycle later or, from block RAM, two."""
        m, p = self._m, self._params
        config = self.config.payload
        log2 = (TT_TABLE_WORDS - 1).bit_length()
        loaded = self.config.valid & (config.target == LoadTarget.TT_TABLES)
        inside = config.address[log2:] < p.max_tables
        blocks = p.max_tables > LUT_RAM_TABLES
        fields: dict[str, Value] = {}
        for word in words:
            mine = {
                name: (low - word * WORD_BITS, width)
                for name, (low, width) in TT_TABLE_FIELDS.items()
                if low // WORD_BITS == word
            }
            made: Any = memory.Memory(
                shape=max(low + width for low, width in mine.values()),
                depth=p.max_tables,
                init=[],
                attrs={"ram_style": "block" if blocks else "distributed"},
            )
            m.submodules[f"word_{word}"] = made
            sink, source = made.write_port(), made.read_port()
            valid = Signal(name=f"load_{word}")
            at = Signal(index_bits(p.max_tables), name=f"load_{word}_at", reset_less=True)
            value = Signal(WORD_BITS, name=f"load_{word}_value", reset_less=True)
            m.d.sync += [
                valid.eq(loaded & inside & (config.address[:log2] == word)),
                at.eq(config.address[log2:]),
                value.eq(config.data),
            ]
            m.d.comb += [
                sink.en.eq(valid),
                sink.addr.eq(at),
                sink.data.eq(value),
                source.addr.eq(table),
                source.en.eq(self._stages.advance),
            ]
            read = self._stages.delay(source.data, int(blocks))
            for name, (low, width) in mine.items():
                fields[name] = read[low : low + width]
        return fields

    def _product(self, a: Value, b: Value, bits: int) -> Value:
        """Return ``a`` times the low ``bits`` of ``b``, ``product_latency`` later."""
        delay = self._stages.delay
        b = b[:bits]
        terms: list[Value] = []
        for i in range(0, len(a), WIDE):
            for j in range(0, len(b), NARROW):
                x, y = delay(a[i : i + WIDE], 1), delay(b[j : j + NARROW], 1)
                terms.append(delay(delay(x * y, 1), 1) << (i + j))
        while len(terms) > 1:
            pairs = [terms[n : n + 2] for n in range(0, len(terms), 2)]
            terms = [delay(pair[0] + pair[1] if len(pair) == 2 else pair[0], 1) for pair in pairs]
        return terms[0]

    def _place(self, digit: Value, stride: Value, base: Value, address: Signal) -> Value:
        """Return ``base + digit * stride``, as wide as ``address``, when the job is known."""
        delay, bits = self._stages.delay, len(address)
        product = self._low_product(digit, stride, bits)
        return delay((delay(base[:bits], PRODUCT) + product)[:bits], 1)

    def _low_product(self, a: Value, b: Value, bits: int) -> Value:
        """Return the low ``bits`` of ``a * b``, ``PRODUCT`` later.

        A product too narrow for a multiplier is LUTs, in two steps.
        """
        delay = self._stages.delay
        x, y = delay(a[:bits], 1), delay(b[:bits], 1)
        if bits >= NARROWEST:
            return delay(delay((x * y)[:bits], 1), 1)
        terms = [delay(((x * y[i : i + 2]) << i)[:bits], 1) for i in range(0, len(y), 2)]
        return delay(sum(terms[1:], terms[0])[:bits], 1)

    def _less_one(self, count: Value) -> Value:
        return self._stages.delay(self._stages.delay(count - 1, 1), PRODUCT)
