"""One position of the array: its banks of the cores and of the store, and what it multiplies."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.protocol import LoadTarget
from screc_hw.resources import URAM_DEPTH
from screc_hw.stream import config_layout, index_bits
from screc_hw.tt.layouts import operands_layout, step_layout, write_layout
from screc_hw.tt.params import COLUMNS, CORE_BITS, MIDDLE_BITS, TtParams
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

        choices = [Cat(following.second, following.upper)]
        choice = Signal(3, name="choice", reset_less=True)
        m.d.sync += choice.eq(choices[0])
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

    def _memory(self, m: Module, name: str, words: int, width: int) -> Any:
        style = "ultra" if words >= URAM_DEPTH else "block"
        made: Any = memory.Memory(
            shape=width, depth=max(2, words), init=[], attrs={"ram_style": style}
        )
        m.submodules[name] = made
        return made

    def _read(self, m: Module, name: str, made: Any, address: Value) -> Value:
        source = made.read_port()
        value = Signal(len(source.data), name=name, reset_less=True)
        m.d.comb += source.addr.eq(address)
        m.d.sync += value.eq(source.data)
        return value

    def _core(self, m: Module, core: int, words: int, width: int, address: Value) -> Value:
        """Build the bank of a core; return what is read, two cycles after ``address``."""
        target = LoadTarget.TT_CORE1 + core - 1
        made = self._memory(m, f"core{core}", words, width)
        sink = made.write_port()
        word = self.config.payload
        # LOAD words go through the positions, then to the next word of the core
        per_word = WORD_BITS // width
        per_address = self._params.chain // per_word
        place, part = divmod(self._number, per_word)
        low = (per_address - 1).bit_length()
        valid = Signal(name=f"load{core}")
        at = Signal(index_bits(max(2, words)), name=f"load{core}_at", reset_less=True)
        value = Signal(width, name=f"load{core}_value", reset_less=True)
        m.d.sync += [
            valid.eq(
                self.config.valid
                & (word.target == target)
                & (word.address[:low] == place)
                & (word.address[low:] < words)
            ),
            at.eq(word.address[low:]),
            value.eq(word.data.word_select(part, width)),
        ]
        m.d.comb += [sink.en.eq(valid), sink.addr.eq(at), sink.data.eq(value)]
        return self._read(m, f"core{core}_read", made, address)

    def _store(self, m: Module) -> Value:
        """Build the bank of first products; return what is read."""
        made = self._memory(m, "store", self._params.store_words, ROWS_BITS)
        sink = made.write_port()
        part, column = divmod(self._number, COLUMNS)
        mine = self.write.valid & (self.write.part == part)
        m.d.comb += [
            sink.en.eq(mine),
            sink.addr.eq(self.write.entry),
            sink.data.eq(Cat(self.write.data[group][column] for group in range(GROUPS))),
        ]
        return self._read(m, "store_read", made, self.step.at.store)
