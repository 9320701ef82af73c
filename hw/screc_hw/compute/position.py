"""One position of the array: its bank of activations and of weights."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import (
    bank_write_layout,
    fill_layout,
    operands_layout,
    step_layout,
)
from screc_hw.compute.memories import WORD_BITS, BankedMemory
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.spread import copies
from screc_hw.compute.tensors import CHAIN
from screc_hw.protocol import LoadTarget
from screc_hw.stream import config_layout

__all__ = ["Position"]


class Position(wiring.Component):
    """Element ``number`` of every dot product.

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
        Words of weights; those of other positions are ignored.
    write : In(bank_write_layout(params))
    step : In(step_layout(params))
    next : Out(step_layout(params))
        The step for the position after this.
    fill : In(fill_layout(params))
        Where weights are streamed: those of all positions. None are loaded then.
    operands : Out(operands_layout(params))
    """

    LATENCY = 3
    """Address to memory output, its register, the operands' register."""

    config: stream.Interface
    write: View[Any]
    step: View[Any]
    next: View[Any]
    operands: View[Any]
    fill: View[Any]

    def __init__(self, params: ComputeParams, number: int) -> None:
        self._params = params
        self._number = number
        fill = {"fill": In(fill_layout(params))} if params.stream_words else {}
        super().__init__(
            {
                **fill,
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "write": In(bank_write_layout(params)),
                "step": In(step_layout(params)),
                "next": Out(step_layout(params)),
                "operands": Out(operands_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build both banks and their registers."""
        m = Module()
        p = self._params
        following: Any = Signal(step_layout(p), name="following", reset_less=True)
        m.d.sync += following.eq(self.step)
        m.d.comb += self.next.eq(following)

        inputs = self._activations(m)
        word = self._weights(m)
        # a word holds the weights of several steps
        part = Signal((p.word_steps - 1).bit_length(), reset_less=True)
        m.d.sync += part.eq(following.weight)
        here = (following.last >= self._number) if self._number else Const(1, 1)
        used = copies(m, "used", here, -(-p.rows // p.max_fanout))
        width = 8 * p.outs
        steps = Array(word[low : low + width] for low in range(0, WORD_BITS, width))
        operands: Any = Signal(operands_layout(p), name="chosen", reset_less=True)
        m.d.sync += [
            *(
                operands.inputs[row].eq(
                    Mux(used[row // p.max_fanout], inputs.word_select(row, 8).as_signed(), 0)
                )
                for row in range(p.rows)
            ),
            operands.weights.eq(steps[part] if len(steps) > 1 else word),
        ]
        m.d.comb += self.operands.eq(operands)
        return m

    def _activations(self, m: Module) -> Value:
        """Build the bank of activations; return what is read, two cycles after the step."""
        p = self._params
        m.submodules.activations = store = BankedMemory(8 * p.rows, p.bank_words, granularity=8)
        m.d.comb += [
            store.write.enable.eq(self.write.enable),
            store.write.address.eq(self.write.address),
            store.write.data.eq(self.write.data),
            store.address[0].eq(self.step.activation),
        ]
        return store.data[0]

    def _weights(self, m: Module) -> Value:
        """Build the bank of weights; return what is read, two cycles after the step."""
        p = self._params
        m.submodules.weights = store = BankedMemory(WORD_BITS, p.weight_words)
        load: Any = Signal(store.write.shape(), name="load")
        comes, address, coming = self._coming()
        m.d.sync += [load.enable.eq(comes), load.address.eq(address), load.data.eq(coming)]
        m.d.comb += [
            store.write.eq(load),
            store.address[0].eq(self.step.weight >> (p.word_steps - 1).bit_length()),
        ]
        return store.data[0]

    def _coming(self) -> tuple[Value, Value, Value]:
        """Return whether a word of weights comes for this position, its address and the word."""
        p = self._params
        if p.stream_words:
            return self.fill.valid, self.fill.address, self.fill.data[self._number]
        word = self.config.payload
        bits = (CHAIN - 1).bit_length()
        # nibbles come for two neighbours at once, which share all but the lowest bit of the number
        nibbles = word.target == LoadTarget.WEIGHTS4
        low = WORD_BITS // 2 * (self._number % 2)
        codes = [word.data[at : at + 4] for at in range(low, low + WORD_BITS // 2, 4)]
        unpacked = Cat(Cat(code, code[-1].replicate(4)) for code in codes)
        whole, shared = word.address[bits:], word.address[bits - 1 :]
        mine = Mux(
            nibbles,
            (word.address[: bits - 1] == self._number // 2) & (shared < p.weight_words),
            (word.target == LoadTarget.WEIGHTS)
            & (word.address[:bits] == self._number)
            & (whole < p.weight_words),
        )
        return (
            self.config.valid & mine,
            Mux(nibbles, shared, whole),
            Mux(nibbles, unpacked, word.data),
        )
