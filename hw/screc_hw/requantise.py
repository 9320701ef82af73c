"""Multiply, shift and round: the pipelines behind every change of scale.

Both components are straight pipelines: a DSP48E2's operand, product and output registers, then a
barrel shifter in two stages, at most three LUT levels between registers.
"""

from __future__ import annotations

import itertools

from amaranth.hdl import Cat, Const, Module, Mux, Signal, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.numerics import INT8_MAX, LOGIT_CODE_BITS, MULTIPLIER_BITS, SHIFT_MAX

__all__ = ["Requantise", "ScaleShift"]

FINE_BITS = 2
"""Low bits of the shift that the second shifter stage takes."""


class ScaleShift(wiring.Component):
    """``(acc * m) >> (s - 1)`` per lane: a rounding shift short of its last step.

    Half-up rounding is ``(y + 1) >> 1``, so that no lane needs an adder as wide as its product.

    **Latency** :attr:`latency` enabled cycles. **Throughput** 1 per cycle. **Backpressure**
    ``enable`` 0 stops the whole pipeline.

    Parameters
    ----------
    acc_bits
        Signed width of ``acc``. Up to 27 bits a lane is one DSP48E2, above that two.
    lanes
        Values per cycle, all with the same ``m`` and ``s``.

    Members
    -------
    acc : In(ArrayLayout(signed(acc_bits), lanes))
    m : In(16)
        Unsigned multiplier.
    s : In(6)
        Shift, 1..47.
    enable : In(1)
        1 where unconnected.
    y : Out(ArrayLayout(signed(acc_bits + 16), lanes))
    """

    latency = 5

    acc: View[data.ArrayLayout]
    m: Signal
    s: Signal
    enable: Signal
    y: View[data.ArrayLayout]

    def __init__(self, acc_bits: int, lanes: int) -> None:
        if acc_bits < 1:
            raise ValueError(f"acc_bits must be at least 1, not {acc_bits!r}")
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        self._acc_bits = acc_bits
        self._lanes = lanes
        self._product_bits = acc_bits + MULTIPLIER_BITS
        super().__init__(
            {
                "acc": In(data.ArrayLayout(signed(acc_bits), lanes)),
                "m": In(MULTIPLIER_BITS),
                "s": In(SHIFT_MAX.bit_length()),
                "enable": In(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "y": Out(data.ArrayLayout(signed(self._product_bits), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the lanes around one pipeline of multiplier and shift."""
        m = Module()
        multiplier = Signal(MULTIPLIER_BITS)
        # the shift follows its value: operand, product and output register, then coarse, fine
        shifts = [Signal.like(self.s, name=f"shift_{stage}") for stage in range(4)]
        with m.If(self.enable):
            m.d.sync += [multiplier.eq(self.m), shifts[0].eq(self.s - 1)]
            m.d.sync += [after.eq(before) for before, after in itertools.pairwise(shifts)]
        for lane in range(self._lanes):
            wide = signed(self._product_bits)
            operand = Signal(signed(self._acc_bits), name=f"operand_{lane}")
            product = Signal(wide, name=f"product_{lane}")
            output = Signal(wide, name=f"output_{lane}")
            coarse = Signal(wide, name=f"coarse_{lane}")
            with m.If(self.enable):
                m.d.sync += [
                    operand.eq(self.acc[lane]),
                    product.eq(operand * multiplier),
                    output.eq(product),
                    coarse.eq(output >> Cat(Const(0, FINE_BITS), shifts[2][FINE_BITS:])),
                    self.y[lane].eq(coarse >> shifts[3][:FINE_BITS]),
                ]
        return m


class Requantise(wiring.Component):
    """``clamp((acc * m + 2**(s - 1)) >> s)`` per lane, as ``numerics.requantise``.

    **Latency** :attr:`latency` enabled cycles. **Throughput** 1 per cycle. **Backpressure**
    ``enable`` 0 stops the whole pipeline.

    Parameters
    ----------
    acc_bits
        Signed width of ``acc``. Up to 27 bits a lane is one DSP48E2, above that two.
    lanes
        Values per cycle, all with the same ``m`` and ``s``.
    limit
        Results are clamped to ``[-limit, limit]``.
    wide
        Whether single cycles may saturate at 16 bits instead (the logit's code). Adds the member
        ``wide``, and ``y`` has 16 bits.

    Members
    -------
    acc : In(ArrayLayout(signed(acc_bits), lanes))
    m : In(16)
        Unsigned multiplier.
    s : In(6)
        Shift, 1..47.
    wide : In(1)
        With ``wide``: this cycle's values are clamped to [-32768, 32767].
    enable : In(1)
        1 where unconnected.
    y : Out(ArrayLayout(signed(bits of limit + 1, or 16), lanes))
    """

    latency = ScaleShift.latency + 2

    acc: View[data.ArrayLayout]
    m: Signal
    s: Signal
    wide: Signal
    enable: Signal
    y: View[data.ArrayLayout]

    def __init__(
        self, acc_bits: int, lanes: int, limit: int = INT8_MAX, *, wide: bool = False
    ) -> None:
        if not 1 <= limit < 1 << (LOGIT_CODE_BITS - 1):
            raise ValueError(f"limit must be in 1..32767, not {limit!r}")
        self._scale = ScaleShift(acc_bits, lanes)
        self._lanes = lanes
        self._limit = limit
        self._wide = wide
        self._bits = LOGIT_CODE_BITS if wide else limit.bit_length() + 1
        super().__init__(
            {
                "acc": In(data.ArrayLayout(signed(acc_bits), lanes)),
                "m": In(MULTIPLIER_BITS),
                "s": In(SHIFT_MAX.bit_length()),
                **({"wide": In(1)} if wide else {}),
                "enable": In(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "y": Out(data.ArrayLayout(signed(self._bits), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Round what the scaler gives, noting what lies beyond the result's width; then clamp."""
        m = Module()
        m.submodules.scale = scale = self._scale
        m.d.comb += [
            scale.acc.eq(self.acc),
            scale.m.eq(self.m),
            scale.s.eq(self.s),
            scale.enable.eq(self.enable),
        ]
        low, high = self._bounds(m)
        # what rounds into the result's bits or just above them has one bit more before rounding
        kept = self._bits + 1
        for lane in range(self._lanes):
            shifted = scale.y[lane]
            above = shifted[kept - 1 :]
            rounded = Signal(signed(kept), name=f"rounded_{lane}")
            over = Signal(name=f"over_{lane}")
            under = Signal(name=f"under_{lane}")
            with m.If(self.enable):
                m.d.sync += [
                    rounded.eq((shifted[:kept].as_signed() + 1) >> 1),
                    over.eq(~shifted[-1] & above.any()),
                    under.eq(shifted[-1] & ~above.all()),
                ]
                with m.If(over | (~under & (rounded > high))):
                    m.d.sync += self.y[lane].eq(high)
                with m.Elif(under | (rounded < low)):
                    m.d.sync += self.y[lane].eq(low)
                with m.Else():
                    m.d.sync += self.y[lane].eq(rounded)
        return m

    def _bounds(self, m: Module) -> tuple[ValueLike, ValueLike]:
        """Return lowest and highest result of the values that are being clamped."""
        if not self._wide:
            return -self._limit, self._limit
        marks = [self.wide]
        for stage in range(self.latency - 1):
            mark = Signal(name=f"wide_{stage}")
            with m.If(self.enable):
                m.d.sync += mark.eq(marks[-1])
            marks.append(mark)
        half = 1 << (LOGIT_CODE_BITS - 1)
        return Mux(marks[-1], -half, -self._limit), Mux(marks[-1], half - 1, self._limit)
