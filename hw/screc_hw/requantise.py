"""Multiply, shift and round: the pipelines behind every change of scale.

Straight pipelines: a DSP48E2's operand, product and output registers, then a barrel shifter in two
stages, then rounding; at most three LUT levels between registers.
"""

from __future__ import annotations

import itertools

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.numerics import INT8_MAX, LOGIT_CODE_BITS, MULTIPLIER_BITS, SHIFT_MAX

__all__ = ["Multiply", "Requantise"]

DSP_BITS = 27
"""Signed width of a DSP48E2's wide operand."""

FINE_BITS = 2
"""Low bits of the shift that the second shifter stage takes."""


GROUPS = 5
"""Groups of bits above the result that one register sums up."""


class Multiply(wiring.Component):
    """``acc * m`` per lane.

    Up to 27 bits a lane is one DSP48E2. A wider ``acc`` is split into its low 26 bits, unsigned,
    and the rest: two DSP48E2, whose products are added a cycle later.

    **Latency** :attr:`latency` enabled cycles. **Throughput** 1 per cycle. **Backpressure**
    ``enable`` 0 stops the whole pipeline.

    Parameters
    ----------
    acc_bits
        Signed width of ``acc``, up to 53.
    lanes
        Values per cycle, all with the same ``m``.

    Members
    -------
    acc : In(ArrayLayout(signed(acc_bits), lanes))
    m : In(16)
        Unsigned multiplier.
    enable : In(1)
        1 where unconnected.
    y : Out(ArrayLayout(signed(acc_bits + 16), lanes))

    Raises
    ------
    ValueError
        If ``acc_bits`` is outside 1..53 or ``lanes`` below 1.
    """

    acc: View[data.ArrayLayout]
    m: Signal
    enable: Signal
    y: View[data.ArrayLayout]

    def __init__(self, acc_bits: int, lanes: int) -> None:
        if not 1 <= acc_bits < 2 * DSP_BITS:
            raise ValueError(f"acc_bits must be in 1..{2 * DSP_BITS - 1}, not {acc_bits!r}")
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        self._acc_bits = acc_bits
        self._lanes = lanes
        self.latency = self.latency_of(acc_bits)
        super().__init__(
            {
                "acc": In(data.ArrayLayout(signed(acc_bits), lanes)),
                "m": In(MULTIPLIER_BITS),
                "enable": In(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "y": Out(data.ArrayLayout(signed(acc_bits + MULTIPLIER_BITS), lanes)),
            }
        )

    @staticmethod
    def latency_of(acc_bits: int) -> int:
        """Enabled cycles from ``acc`` to ``y``: operand, product, output, and sum where wide."""
        return 3 if acc_bits <= DSP_BITS else 4

    def elaborate(self, platform: object) -> Module:
        """Build the lanes around one register of the multiplier."""
        m = Module()
        multiplier = Signal(MULTIPLIER_BITS)
        with m.If(self.enable):
            m.d.sync += multiplier.eq(self.m)
        low_bits = DSP_BITS - 1  # unsigned, so the DSP's sign bit is 0
        for lane in range(self._lanes):
            acc = self.acc[lane]
            if self._acc_bits <= DSP_BITS:
                m.d.comb += self.y[lane].eq(self._product(m, f"{lane}", acc, multiplier))
                continue
            low = self._product(m, f"low_{lane}", acc[:low_bits], multiplier)
            high = self._product(m, f"high_{lane}", acc[low_bits:].as_signed(), multiplier)
            with m.If(self.enable):
                m.d.sync += self.y[lane].eq(Cat(low[:low_bits], high + low[low_bits:]))
        return m

    def _product(self, m: Module, name: str, value: ValueLike, multiplier: Signal) -> Signal:
        """Return the product three enabled cycles later."""
        operand = Signal.like(value, name=f"operand_{name}")
        product = Signal((operand * multiplier).shape(), name=f"product_{name}")
        output = Signal.like(product, name=f"output_{name}")
        with m.If(self.enable):
            m.d.sync += [
                operand.eq(value),
                product.eq(operand * multiplier),
                output.eq(product),
            ]
        return output


class Requantise(wiring.Component):
    """``clamp((acc * m + 2**(s - 1)) >> s)`` per lane, as ``numerics.requantise``.

    Half-up rounding is ``(y + 1) >> 1`` of the product shifted by ``s - 1``, so that no lane needs
    an adder as wide as its product; and of the shifted product only the bits of the result are
    built, with a note whether any bit above differs from the sign.

    **Latency** :attr:`latency` enabled cycles. **Throughput** 1 per cycle. **Backpressure**
    ``enable`` 0 stops the whole pipeline.

    Parameters
    ----------
    acc_bits
        Signed width of ``acc``, up to 53. Up to 27 bits a lane is one DSP48E2, above that two.
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

    Raises
    ------
    ValueError
        If ``acc_bits`` is outside 1..53, ``lanes`` below 1 or ``limit`` outside 1..32767.
    """

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
        self._multiply = Multiply(acc_bits, lanes)
        self._lanes = lanes
        self._limit = limit
        self._wide = wide
        self._bits = LOGIT_CODE_BITS if wide else limit.bit_length() + 1
        # the fine shift takes the result's bits from a window; above it are groups of bits
        step = 1 << FINE_BITS
        self._window_bits = self._bits + step - 1
        self._groups = range(self._window_bits, acc_bits + MULTIPLIER_BITS, step)
        self.latency = self.latency_of(acc_bits)
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

    @staticmethod
    def latency_of(acc_bits: int) -> int:
        """Enabled cycles from ``acc`` to ``y``: multiply, coarse and fine shift, round, clamp."""
        return Multiply.latency_of(acc_bits) + 4

    def elaborate(self, platform: object) -> Module:
        """Multiply, shift, round, clamp; the shift's amount follows its value."""
        m = Module()
        m.submodules.multiply = multiply = self._multiply
        m.d.comb += [
            multiply.acc.eq(self.acc),
            multiply.m.eq(self.m),
            multiply.enable.eq(self.enable),
        ]
        amounts = [Signal.like(self.s, name=f"shift_{n}") for n in range(multiply.latency + 1)]
        # the groups of bits that the coarse shift leaves above the window
        counts = Signal(max(1, len(self._groups)))
        with m.If(self.enable):
            m.d.sync += amounts[0].eq(self.s - 1)
            m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(amounts)]
            ahead = amounts[-3][FINE_BITS:]
            m.d.sync += counts.eq(Cat(ahead <= k for k in range(len(self._groups))))
        low, high = self._bounds(m)
        for lane in range(self._lanes):
            rounded, over, under = self._round(
                m, lane, amounts[-2][FINE_BITS:], counts, amounts[-1][:FINE_BITS]
            )
            with m.If(self.enable):
                with m.If(over | (~under & (rounded > high))):
                    m.d.sync += self.y[lane].eq(high)
                with m.Elif(under | (rounded < low)):
                    m.d.sync += self.y[lane].eq(low)
                with m.Else():
                    m.d.sync += self.y[lane].eq(rounded)
        return m

    def _round(
        self, m: Module, lane: int, coarse: Value, counts: Signal, fine: Value
    ) -> tuple[Signal, Signal, Signal]:
        """Shift and round a product; return it, and whether it is over or under its width.

        ``coarse`` and ``counts`` are of the product's cycle, ``fine`` of the next.
        """
        product = self._multiply.y[lane]
        step, window_bits = 1 << FINE_BITS, self._window_bits
        signs = product[-1].replicate(step)
        differs = [
            counts[k] & (group ^ signs[: len(group)]).any()
            for k, group in enumerate(product[at : at + step] for at in self._groups)
        ]
        beyond = Signal(-(-len(differs) // GROUPS), name=f"beyond_{lane}")
        # steps of 16 first, so that the steps of 4 have little left to select from
        sixteens = Signal(window_bits + step * (step - 1), name=f"sixteens_{lane}")
        window = Signal(window_bits, name=f"window_{lane}")
        sign = Signal(2, name=f"sign_{lane}")
        shifted = Signal(self._bits, name=f"shifted_{lane}")
        excess = Signal(name=f"excess_{lane}")
        rounded = Signal(signed(self._bits + 1), name=f"rounded_{lane}")
        over, under = Signal(name=f"over_{lane}"), Signal(name=f"under_{lane}")
        above = window[self._bits :] ^ sign[0].replicate(step - 1)
        m.d.comb += sixteens.eq(_shifted(product, coarse[FINE_BITS:], step**2, len(sixteens)))
        with m.If(self.enable):
            m.d.sync += [
                window.eq(_shifted(sixteens, coarse[:FINE_BITS], step, window_bits)),
                sign.eq(Cat(product[-1], sign[0])),
                beyond.eq(
                    Cat(Cat(differs[k : k + GROUPS]).any() for k in range(0, len(differs), GROUPS))
                ),
                shifted.eq(window >> fine),
                excess.eq(beyond.any() | (above >> fine).any()),
                rounded.eq((Cat(shifted, sign[1]).as_signed() + 1) >> 1),
                over.eq(excess & ~sign[1]),
                under.eq(excess & sign[1]),
            ]
        return rounded, over, under

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


def _shifted(value: Value, amount: Value, step: int, bits: int) -> Value:
    """Return ``bits`` of a signed value from bit ``amount * step``, of a 2-bit ``amount``.

    A multiplexer of four, one LUT6 per bit, which a shift operator is not always mapped to.
    """
    sign = value[-1].replicate(3 * step + bits)
    choices = [Cat(value, sign)[k * step : k * step + bits] for k in range(4)]
    halves = [Mux(amount[0], choices[k + 1], choices[k]) for k in (0, 2)]
    return Mux(amount[1], halves[1], halves[0])
