"""Arithmetic as a DSP48E2 does it: the primitive where it is asked for, else its behavioural twin.

``elaborate`` of these components looks at the platform: with :class:`Primitives` it makes instances
of the primitive, for tools that know it; otherwise plain registers and operators, cycle for cycle
alike.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

__all__ = ["DotChain", "PackedDotChain", "Primitives"]

A_BITS, B_BITS, P_BITS = 27, 18, 48
"""Signed widths of a DSP48E2's multiplier operands and of its sum. Source: UG579."""

PORT_A_BITS = 30
"""Width of port A, whose upper bits the multiplier does not use."""

FIELD_BITS = 18
"""Bits of one of two sums in a packed one."""

PACKED_LENGTH = 8
"""Most products that a field holds: 8 · 127² < 2**17."""

ENABLES = "A1 A2 AD ALUMODE B1 B2 C CARRYIN CTRL D INMODE M P".split()
RESETS = "A ALLCARRYIN ALUMODE B C CTRL D INMODE M P".split()


class Primitives:
    """The platform that has DSP48E2 primitives."""


class DotChain(wiring.Component):
    """A dot product of ``length`` elements, one multiplier each, cascaded.

    Element k of a dot product comes k cycles after element 0, so every multiplier adds its product
    to the sum that its neighbour has just finished: a column of DSP48E2 with operand, product and
    sum registers and the dedicated cascade.

    **Latency** :attr:`latency` cycles from element 0 to ``p``. **Throughput** 1 dot product per
    cycle. **Backpressure** none.

    Parameters
    ----------
    length
        Elements.
    a_bits, b_bits
        Signed widths, up to 27 and 18.

    Members
    -------
    a : In(ArrayLayout(signed(a_bits), length))
    b : In(ArrayLayout(signed(b_bits), length))
        Registers, for they are wired to the primitive's pins.
    p : Out(signed(a_bits + b_bits + ceil(log2 length)))
    """

    a: View[data.ArrayLayout]
    b: View[data.ArrayLayout]
    p: Signal

    def __init__(self, length: int, a_bits: int, b_bits: int) -> None:
        if not (1 <= a_bits <= A_BITS and 1 <= b_bits <= B_BITS):
            raise ValueError(
                f"operands have at most {A_BITS} and {B_BITS} bits, not {a_bits} and {b_bits}"
            )
        self._length = length
        self.latency = length + 2
        super().__init__(
            {
                "a": In(data.ArrayLayout(signed(a_bits), length)),
                "b": In(data.ArrayLayout(signed(b_bits), length)),
                "p": Out(signed(a_bits + b_bits + (length - 1).bit_length())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Chain the multipliers."""
        m = Module()
        cascade = None
        for k in range(self._length):
            if isinstance(platform, Primitives):
                cascade = self._primitive(m, k, cascade)
                continue
            a, b = (
                Signal(port[k].shape(), name=f"{name}_{k}", reset_less=True)
                for name, port in (("a", self.a), ("b", self.b))
            )
            product = Signal((a * b).shape(), name=f"product_{k}", reset_less=True)
            total = Signal(self.p.shape(), name=f"sum_{k}", reset_less=True)
            m.d.sync += [
                a.eq(self.a[k]),
                b.eq(self.b[k]),
                product.eq(a * b),
                total.eq(product if cascade is None else product + cascade),
            ]
            cascade = total
        m.d.comb += self.p.eq(cascade)
        return m

    def _primitive(self, m: Module, k: int, cascade: Signal | None) -> Signal:
        """Add multiplier k as a primitive; return its cascade output, of the last one its sum."""
        a, b = Signal(signed(PORT_A_BITS), name=f"a_{k}"), Signal(signed(B_BITS), name=f"b_{k}")
        m.d.comb += [a.eq(self.a[k]), b.eq(self.b[k])]
        last = k == self._length - 1
        return _multiply_add(m, f"dsp_{k}", a=a, b=b, cascade=cascade, last=last)


class PackedDotChain(wiring.Component):
    """Two dot products of ``length`` elements that share an operand, one multiplier per element.

    The wide operand is ``high * 2**18 + low``, which the pre-adder of a DSP48E2 makes, so the sum
    is that of both dot products side by side. With operands in [-127, 127] and up to 8 elements the
    low one is below 2**17 in magnitude, so it is the sum's low 18 bits as a signed number; where it
    is negative it has borrowed 1 from the high one.

    Elements come as in :class:`DotChain`.

    **Latency** :attr:`latency` cycles from element 0 to the sums. **Throughput** 1 per cycle.
    **Backpressure** none.

    Parameters
    ----------
    length
        Elements, 1..8.

    Members
    -------
    low, high : In(ArrayLayout(signed(8), length))
    b : In(ArrayLayout(signed(8), length))
        The shared operand. All are registers, for they are wired to the primitive's pins; none is
        ever -128.
    low_sum, high_sum : Out(signed(18))
    """

    low: View[data.ArrayLayout]
    high: View[data.ArrayLayout]
    b: View[data.ArrayLayout]
    low_sum: Signal
    high_sum: Signal

    def __init__(self, length: int) -> None:
        if not 1 <= length <= PACKED_LENGTH:
            raise ValueError(f"length must lie in 1..{PACKED_LENGTH}, not {length}")
        self._length = length
        self.latency = length + 3
        codes = data.ArrayLayout(signed(8), length)
        super().__init__(
            {
                "low": In(codes),
                "high": In(codes),
                "b": In(codes),
                "low_sum": Out(signed(FIELD_BITS)),
                "high_sum": Out(signed(FIELD_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Chain the multipliers and take the sum apart."""
        m = Module()
        cascade = None
        for k in range(self._length):
            chain = self._primitive if isinstance(platform, Primitives) else self._twin
            cascade = chain(m, k, cascade)
        assert cascade is not None
        low = cascade[:FIELD_BITS].as_signed()
        m.d.comb += [
            self.low_sum.eq(low),
            self.high_sum.eq(cascade[FIELD_BITS : 2 * FIELD_BITS].as_signed() + low[-1]),
        ]
        return m

    def _twin(self, m: Module, k: int, cascade: Signal | None) -> Signal:
        """Add multiplier k as registers and operators: operands, pre-adder, product, sum."""
        registers: dict[str, Signal] = {}
        for name, shape in (
            ("low", signed(8)),
            ("high", signed(8)),
            ("b", signed(8)),
            ("both", signed(A_BITS)),
            ("b_later", signed(8)),
            ("product", signed(A_BITS + 8)),
            ("sum", signed(2 * FIELD_BITS + 1)),
        ):
            registers[name] = Signal(shape, name=f"{name}_{k}", reset_less=True)
        r = registers
        m.d.sync += [
            r["low"].eq(self.low[k]),
            r["high"].eq(self.high[k]),
            r["b"].eq(self.b[k]),
            r["both"].eq((r["high"] << FIELD_BITS) + r["low"]),
            r["b_later"].eq(r["b"]),
            r["product"].eq(r["both"] * r["b_later"]),
            r["sum"].eq(r["product"] if cascade is None else r["product"] + cascade),
        ]
        return r["sum"]

    def _primitive(self, m: Module, k: int, cascade: Signal | None) -> Signal:
        """Add multiplier k as a primitive; return its cascade output, of the last one its sum."""
        high, low = (
            Signal(signed(PORT_A_BITS), name=f"high_{k}"),
            Signal(signed(A_BITS), name=f"low_{k}"),
        )
        b = Signal(signed(B_BITS), name=f"b_{k}")
        m.d.comb += [
            high.eq(self.high[k] << FIELD_BITS),
            low.eq(self.low[k]),
            b.eq(self.b[k]),
        ]
        last = k == self._length - 1
        return _multiply_add(m, f"dsp_{k}", a=high, b=b, d=low, cascade=cascade, last=last)


def _multiply_add(
    m: Module,
    name: str,
    *,
    a: Signal,
    b: Signal,
    cascade: Signal | None,
    last: bool,
    d: Signal | None = None,
) -> Signal:
    """Add a DSP48E2 that gives ``(a + d) * b`` plus its neighbour's ``cascade``; return its output.

    One register for the operands, the product and the sum each; with ``d`` one for ``a + d`` and a
    second one for ``b`` too. ``last``: the output leaves to the fabric.
    """
    out = Signal(signed(P_BITS), name=f"{name}_out")
    adds = d is not None
    used = ("A2", "B2", "M", "P", *(("D", "AD", "B1") if adds else ()))
    enables = {f"i_CE{pin}": Const(pin in used, 1) for pin in ENABLES}
    resets = {f"i_RST{pin}": Const(0, 1) for pin in RESETS}
    b_registers = 2 if adds else 1
    m.submodules[name] = Instance(
        "DSP48E2",
        p_AMULTSEL="AD" if adds else "A",
        p_BMULTSEL="B",
        p_USE_MULT="MULTIPLY",
        p_AREG=1,
        p_ACASCREG=1,
        p_BREG=b_registers,
        p_BCASCREG=b_registers,
        p_CREG=0,
        p_DREG=int(adds),
        p_ADREG=int(adds),
        p_MREG=1,
        p_PREG=1,
        p_ALUMODEREG=0,
        p_CARRYINREG=0,
        p_CARRYINSELREG=0,
        p_INMODEREG=0,
        p_OPMODEREG=0,
        i_CLK=ClockSignal(),
        i_A=a,
        i_B=b,
        i_C=Const(0, P_BITS),
        i_D=Const(0, A_BITS) if d is None else d,
        i_CARRYIN=Const(0, 1),
        i_CARRYINSEL=Const(0, 3),
        i_ALUMODE=Const(0, 4),
        i_INMODE=Const(0b00100 if adds else 0, 5),  # bit 2: D enters the pre-adder
        i_OPMODE=Cat(Const(0b0101, 4), Const(0 if cascade is None else 1, 3), Const(0, 2)),
        i_PCIN=Const(0, P_BITS) if cascade is None else cascade,
        **({"o_P": out} if last else {"o_PCOUT": out}),
        **enables,
        **resets,
    )
    return out
