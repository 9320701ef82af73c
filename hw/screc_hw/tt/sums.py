"""Sums over the rank: first products go to the store, second ones on to be requantised."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.numerics import INT8_MAX, MIDDLE_MAX
from screc_hw.tt.layouts import block_layout, tag_layout, write_layout
from screc_hw.tt.params import COLUMNS, TtParams
from screc_hw.tt.shape import GROUPS

__all__ = ["Sums"]


class Sums(wiring.Component):
    """Adds the dot products of a sum over the rank.

    A first product starts at half a step of its rounding, so that its shift rounds half up, and is
    clamped to 16 bits.

    **Latency** 1 cycle to ``blocks``, :attr:`LATENCY` to ``write``. **Throughput** 1 step per
    cycle. **Backpressure** none: places for the blocks are reserved.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    dots : In(ArrayLayout(ArrayLayout(signed(dot_bits), 4), 4))
        By group and column.
    tag : In(tag_layout(params))
        Of the same step.
    write : Out(write_layout(params))
    done : Out(1)
        The last block of a first product that is waited for is on ``write``.
    blocks : Out(stream.Signature(block_layout(params), always_ready=True))
    """

    LATENCY = 3
    """Sum, shift, clamp."""

    dots: View[data.ArrayLayout]
    tag: View[data.StructLayout]
    write: View[data.StructLayout]
    done: Signal
    blocks: stream.Interface

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "dots": In(
                    data.ArrayLayout(data.ArrayLayout(signed(params.dot_bits), COLUMNS), GROUPS)
                ),
                "tag": In(tag_layout(params)),
                "write": Out(write_layout(params)),
                "done": Out(1),
                "blocks": Out(stream.Signature(block_layout(params), always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the accumulators and the first products' rounding."""
        m = Module()
        p = self._params
        tag = self.tag
        # half a step of the shift: 0, 1, 2, 4 ... 64
        half = Signal(7)
        m.d.comb += half.eq((1 << tag.shift) >> 1)
        start = Mux(tag.second, 0, half)
        summed: Any = Signal(tag_layout(p), name="summed", reset_less=True)
        shifted: Any = Signal(tag_layout(p), name="shifted", reset_less=True)
        sum_valid, shift_valid, write_valid = Signal(), Signal(), Signal()
        write: Any = Signal(write_layout(p), name="write_register", reset_less=True)
        m.d.sync += [
            sum_valid.eq(tag.valid & tag.end),
            shift_valid.eq(sum_valid & ~summed.second),
            write_valid.eq(shift_valid),
            summed.eq(tag),
            shifted.eq(summed),
            write.entry.eq(shifted.entry),
            write.part.eq(shifted.part),
            self.done.eq(shift_valid & shifted.done),
        ]
        block: Any = self.blocks.payload
        m.d.comb += [
            self.blocks.valid.eq(sum_valid & summed.second),
            block.block.eq(summed.block),
            block.last.eq(summed.last),
            block.finish.eq(summed.finish),
            self.write.eq(write),
            self.write.valid.eq(write_valid),
        ]
        first_bits = (p.max_links * p.chain * INT8_MAX**2 + 64).bit_length() + 1
        for group in range(GROUPS):
            for column in range(COLUMNS):
                name = f"{group}_{column}"
                total = Signal(signed(p.sum_bits), name=f"sum_{name}", reset_less=True)
                m.d.sync += total.eq(self.dots[group][column] + Mux(tag.begin, start, total))
                m.d.comb += block.data[group][column].eq(total[: p.acc_bits])
                first = total[: min(first_bits, p.sum_bits)].as_signed()
                moved = Signal(first.shape(), name=f"moved_{name}", reset_less=True)
                over, under = moved > MIDDLE_MAX, moved < -MIDDLE_MAX
                m.d.sync += [
                    moved.eq(first >> summed.shift),
                    write.data[group][column].eq(
                        Mux(over, MIDDLE_MAX, Mux(under, -MIDDLE_MAX, moved))
                    ),
                ]
        return m
