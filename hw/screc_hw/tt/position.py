"""One position of the array: its banks of the cores and of the store, and what it multiplies."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.numerics import MIDDLE_BITS
from screc_hw.protocol import LoadTarget
from screc_hw.resources import URAM_DEPTH, bank_depth
from screc_hw.stream import config_layout, index_bits
from screc_hw.tt.layouts import operands_layout, step_layout, write_layout
from screc_hw.tt.params import COLUMNS, CORE_BITS, TtParams
from screc_hw.tt.shape import GROUPS

__all__ = ["Position"]

HALF_BITS = COLUMNS * CORE_BITS
ROWS_BITS = GROUPS * MIDDLE_BITS
WORD_BITS = 64


class Position(wiring.Component):
    """Element ``number`` of every dot product: reads its banks and chooses the operands.

    **Latency** :attr:`LATENCY` cycles from ``step`` to ``operands``; 1 to ``next``. **Throughput**
    1 step per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        Sizes.
    number
        Position in the chain.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    write : In(write_layout(params))
        Blocks of first products; those of other positions are ignored.
    step : In(step_layout(params))
    next : Out(step_layout(params))
        The step for the position after this.
    operands : Out(operands_layout())
    """

    LATENCY = 3
    """Address to memory output, its register, the operands' register."""

    config: stream.Interface
    write: View[data.StructLayout]
    step: View[data.StructLayout]
    next: View[data.StructLayout]
    operands: View[data.StructLayout]

    def __init__(self, params: TtParams, number: int) -> None:
        self._params = params
        self._number = number
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "write": In(write_layout(params)),
                "step": In(step_layout(params)),
                "next": Out(step_layout(params)),
                "operands": Out(operands_layout()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build four memories and the choice between them."""
        m = Module()
        p = self._params
        following: Any = Signal(step_layout(p), name="following", reset_less=True)
        m.d.sync += following.eq(self.step)
        m.d.comb += self.next.eq(following)

        core1 = self._core(m, 1, p.core1_words, GROUPS * CORE_BITS, self.step.at.core1)
        core2 = self._core(m, 2, p.core2_words, 2 * HALF_BITS, self.step.at.core2)
        core3 = self._core(m, 3, p.core3_words, HALF_BITS, self.step.at.core3)
        first = self._store(m)

        choice = Signal(3, name="choice", reset_less=True)
        m.d.sync += choice.eq(Cat(following.second, following.upper))
        second, upper = choice[0], choice[1:]
        operands: Any = Signal(operands_layout(), name="chosen", reset_less=True)
        m.d.comb += self.operands.eq(operands)
        for group in range(GROUPS):
            own = core1.word_select(group, CORE_BITS).as_signed()
            done = first.word_select(group, MIDDLE_BITS).as_signed()
            m.d.sync += operands.rows[group].eq(Mux(second, done, own))
        for half in range(2):
            for column in range(COLUMNS):
                low = core2.word_select(column, CORE_BITS)
                high = core2.word_select(COLUMNS + column, CORE_BITS)
                last = core3.word_select(column, CORE_BITS)
                m.d.sync += operands.columns[half][column].eq(
                    Mux(second, last, Mux(upper[half], high, low)).as_signed()
                )
        return m

    def _banks(
        self, m: Module, name: str, words: int, width: int, write: Any, address: Value
    ) -> Value:
        """Build a memory; return what is read at ``address``, two cycles later.

        Blocks behind each other have a register each before one is chosen. ``write`` has ``en``,
        ``addr`` and ``data``.
        """
        depth = bank_depth(words)
        low = (depth - 1).bit_length()
        count = -(-words // depth)
        style = "ultra" if depth >= URAM_DEPTH else "block"
        read: Any = Signal(data.ArrayLayout(width, count), name=f"{name}_read", reset_less=True)
        for bank in range(count):
            made: Any = memory.Memory(shape=width, depth=depth, init=[], attrs={"ram_style": style})
            m.submodules[f"{name}_{bank}"] = made
            sink, source = made.write_port(), made.read_port()
            m.d.comb += [
                sink.en.eq(write.en & (write.addr[low:] == bank)),
                sink.addr.eq(write.addr),
                sink.data.eq(write.data),
                source.addr.eq(address),
            ]
            m.d.sync += read[bank].eq(source.data)
        if count == 1:
            return read[0]
        near, here = (
            Signal(index_bits(count), name=f"{name}_{n}", reset_less=True) for n in ("near", "here")
        )
        m.d.sync += [near.eq(address[low:]), here.eq(near)]
        return read[here]

    def _core(self, m: Module, core: int, words: int, width: int, address: Value) -> Value:
        """Build the bank of a core; return what is read, two cycles after ``address``."""
        target = LoadTarget.TT_CORE1 + core - 1
        word = self.config.payload
        # LOAD words go through the positions, then to the next word of the core
        per_word = WORD_BITS // width
        per_address = self._params.chain // per_word
        place, part = divmod(self._number, per_word)
        low = (per_address - 1).bit_length()
        mine, inside = Signal(name=f"load{core}_mine"), Signal(name=f"load{core}_inside")
        write: Any = Signal(_write_layout(words, width), name=f"load{core}", reset_less=True)
        held: Any = Signal(_write_layout(words, width), name=f"load{core}_held", reset_less=True)
        m.d.sync += [
            mine.eq(self.config.valid & (word.target == target) & (word.address[:low] == place)),
            inside.eq(word.address[low:] < words),
            held.addr.eq(word.address[low:]),
            held.data.eq(word.data.word_select(part, width)),
            write.eq(held),
            write.en.eq(mine & inside),
        ]
        return self._banks(m, f"core{core}", words, width, write, address)

    def _store(self, m: Module) -> Value:
        """Build the bank of first products; return what is read."""
        part, column = divmod(self._number, COLUMNS)
        p = self._params
        write: Any = Signal(_write_layout(p.store_words, ROWS_BITS), name="store_write")
        m.d.comb += [
            write.en.eq(self.write.valid & (self.write.part == part)),
            write.addr.eq(self.write.entry),
            write.data.eq(Cat(self.write.data[group][column] for group in range(GROUPS))),
        ]
        return self._banks(m, "store", p.store_words, ROWS_BITS, write, self.step.at.store)


def _write_layout(words: int, width: int) -> data.StructLayout:
    return data.StructLayout({"en": 1, "addr": index_bits(max(2, words)), "data": width})
