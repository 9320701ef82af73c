"""One row of the feature buffer with the multipliers of the interaction."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, ValueLike, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.buffers import new_memory
from screc_hw.compute.layouts import feature_port_layout, read_layout
from screc_hw.compute.params import ComputeParams

__all__ = ["FeatureRow"]


class FeatureRow(wiring.Component):
    """Vectors of one sample (of every slot), read a component at a time or multiplied in pairs.

    A word read is kept in a shift register, whose lowest components are copied out or multiplied.
    With ``dot`` there are two such registers, each behind a read port of its own.

    **Latency** :attr:`ComputeParams.copy_latency` and ``dot_latency`` cycles from a read's
    addresses to ``value``. **Throughput** see ``FeatureIssue``. **Backpressure** none.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    write : In(feature_port_layout(params))
        Readable two cycles later.
    read : In(read_layout(params))
    value : Out(signed(acc_bits))
    """

    write: View[data.StructLayout]
    read: View[data.StructLayout]
    value: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "write": In(feature_port_layout(params)),
                "read": In(read_layout(params)),
                "value": Out(signed(params.acc_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory, the shift registers and the multipliers."""
        m = Module()
        p = self._params
        m.submodules.store = store = new_memory(8 * p.lanes, p.feature_words)
        write_port = store.write_port(granularity=8)
        write = Signal.like(self.write, name="write_held")
        # copies of the control lines: every row loads its own
        read = Signal.like(self.read, name="read_held", reset_less=True)
        m.d.sync += [write.eq(self.write), read.eq(self.read)]
        m.d.comb += [
            write_port.en.eq(write.enable),
            write_port.addr.eq(write.address),
            write_port.data.eq(write.data),
        ]
        left = self._reader(m, store, read.left, read, "left")
        picked: ValueLike = left[:8].as_signed()
        if p.dot:
            right = self._reader(m, store, read.right, read, "right")
            picked = Mux(read.dot, self._sum(m, left, right, read.first), picked)
        value = Signal(signed(p.acc_bits), reset_less=True)
        m.d.sync += value.eq(picked)
        m.d.comb += self.value.eq(value)
        return m

    def _reader(
        self,
        m: Module,
        store: memory.Memory,
        address: ValueLike,
        read: View[data.StructLayout],
        name: str,
    ) -> Signal:
        """Build a read port with its output register and shift register."""
        p = self._params
        port = store.read_port()
        word = Signal(8 * p.lanes, name=f"{name}_word", reset_less=True)
        shifted = Signal(8 * p.lanes, name=name, reset_less=True)
        m.d.comb += port.addr.eq(address)
        m.d.sync += word.eq(port.data)
        with m.If(read.load):
            m.d.sync += shifted.eq(word)
        if p.dot:
            with m.Elif(read.dot):
                m.d.sync += shifted.eq(shifted >> (8 * p.dot_lanes))
        with m.Else():
            m.d.sync += shifted.eq(shifted >> 8)
        return shifted

    def _sum(self, m: Module, left: Signal, right: Signal, first: ValueLike) -> Signal:
        """Multiply, add in a tree with a register per level, and accumulate."""
        p = self._params
        terms = []
        for lane in range(p.dot_lanes):
            byte = slice(8 * lane, 8 * lane + 8)
            product = Signal(signed(16), name=f"product_{lane}", reset_less=True)
            m.d.sync += product.eq(left[byte].as_signed() * right[byte].as_signed())
            terms.append(product)
        for level in range(p.dot_levels):
            sums = []
            for pair, (a, b) in enumerate(zip(terms[::2], terms[1::2], strict=True)):
                total = Signal(signed(17 + level), name=f"sum_{level}_{pair}", reset_less=True)
                m.d.sync += total.eq(a + b)
                sums.append(total)
            terms = sums
        accumulator = Signal(signed(p.acc_bits), reset_less=True)
        m.d.sync += accumulator.eq(Mux(first, 0, accumulator) + terms[0])
        return accumulator
