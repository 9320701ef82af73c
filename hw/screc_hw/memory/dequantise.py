"""From codes of row-wise rows to values that add up."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import lane_piece_layout, value_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.stages import Stages

__all__ = ["Dequantise"]

MANTISSA_BITS = 12
"""A signed fp16 significand: sign, hidden bit and ten fraction bits."""

NEAR_BITS = 16
"""Exponents below are shifted into the multiplier's operand: 12 + 15 bits, a DSP48E2's 27."""


class Dequantise(wiring.Component):
    """``code × scale + bias`` per lane, exactly, in units of 2**-24 modulo ``2**acc_bits``.

    fp16 values are integers of these units. Codes of other rows pass unchanged: scale 1, bias 0.

    **Latency** 5 cycles. **Throughput** 1 piece per cycle. **Backpressure** ``o.ready`` stops every
    stage and reaches ``i.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters, with ``rowwise``.

    Members
    -------
    i : In(stream.Signature(lane_piece_layout(params)))
    o : Out(stream.Signature(value_layout(params)))
    busy : Out(1)
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal

    STAGES = 5

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(lane_piece_layout(params))),
                "o": Out(stream.Signature(value_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages; a name's number is the count of registers it has passed."""
        m = Module()
        p = self._params
        stages = Stages(m, self.i, self.o, self.STAGES)
        advance, delay = stages.advance, stages.delay
        m.d.comb += self.busy.eq(stages.valid.any())

        piece = self.i.payload
        # 0-1: significands and exponents
        scale0, near0 = _fp16(piece.tail.scale)
        bias0, place0 = _fp16(piece.tail.bias)
        scale1 = delay(Mux(piece.rowwise, scale0, 1).as_signed(), 1)
        shift1 = delay(Mux(piece.rowwise, near0, 0), 1)
        bias1 = delay(Mux(piece.rowwise, bias0, 0).as_signed(), 1)
        # 0 as well, for simulators with X: other rows' tails may never have been written
        place1 = delay(Mux(piece.rowwise, place0, 0), 1)
        # 1-2: the multiplier's operand; the bias in two steps
        scale2 = delay((scale1 << shift1[:4])[: MANTISSA_BITS + NEAR_BITS - 1].as_signed(), 1)
        far4 = delay(shift1[4], 3)
        bias2 = delay(_place(bias1, place1[:3], p.acc_bits), 1)
        bias3 = delay(_place(bias2, Cat(Const(0, 3), delay(place1[3:], 1)), p.acc_bits), 1)
        active3 = delay(piece.active, 3)
        biases4 = [delay(Mux(active3[half], bias3, 0), 1) for half in range(p.halves)]
        value: Any = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(value)
        for lane in range(p.lanes):
            # 2-4: the product, in the multiplier's own registers
            code2 = delay(piece.data[lane], 2)
            product4 = delay(scale2 * code2, 2)
            near, far = (_place(product4, n, p.acc_bits) for n in (0, NEAR_BITS))
            bias4 = biases4[lane * p.halves // p.lanes]
            with m.If(advance):
                m.d.sync += value.data[lane].eq(Mux(far4, far, near) + bias4)
        with m.If(advance):
            for name in ("bag", "slice", "begin", "complete", "end", "last", "lane"):
                m.d.sync += value[name].eq(delay(piece[name], self.STAGES - 1))
        return m


def _fp16(bits: Value) -> tuple[Value, Value]:
    """Signed significand and exponent 0..30 of a finite fp16 value in units of 2**-24."""
    exponent = bits[10:15]
    magnitude = Cat(bits[:10], exponent.any())
    significand = Mux(bits[15], -magnitude, magnitude)[:MANTISSA_BITS]
    return significand, (exponent - exponent.any())[:5]


def _place(value: Value, shift: Value | int, bits: int) -> Value:
    """``value × 2**shift`` modulo ``2**bits``, signed."""
    moved = value.shift_left(shift) if isinstance(shift, int) else value << shift
    return moved[:bits].as_signed()
