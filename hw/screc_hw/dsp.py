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

__all__ = ["DotChain", "Primitives"]

A_BITS, B_BITS, P_BITS = 27, 18, 48
"""Signed widths of a DSP48E2's multiplier operands and of its sum. Source: UG579."""


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
        last = k == self._length - 1
        out = Signal(signed(P_BITS), name=f"cascade_{k}")
        a, b = Signal(signed(30), name=f"a_{k}"), Signal(signed(B_BITS), name=f"b_{k}")
        m.d.comb += [a.eq(self.a[k]), b.eq(self.b[k])]
        z = 0 if cascade is None else 1
        enables = {
            f"i_CE{name}": Const(name in ("A2", "B2", "M", "P"), 1)
            for name in (
                "A1",
                "A2",
                "AD",
                "ALUMODE",
                "B1",
                "B2",
                "C",
                "CARRYIN",
                "CTRL",
                "D",
                "INMODE",
                "M",
                "P",
            )
        }
        resets = {
            f"i_RST{name}": Const(0, 1)
            for name in ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")
        }
        m.submodules[f"dsp_{k}"] = Instance(
            "DSP48E2",
            p_AMULTSEL="A",
            p_BMULTSEL="B",
            p_USE_MULT="MULTIPLY",
            p_AREG=1,
            p_ACASCREG=1,
            p_BREG=1,
            p_BCASCREG=1,
            p_CREG=0,
            p_DREG=0,
            p_ADREG=0,
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
            i_D=Const(0, A_BITS),
            i_CARRYIN=Const(0, 1),
            i_CARRYINSEL=Const(0, 3),
            i_ALUMODE=Const(0, 4),
            i_INMODE=Const(0, 5),
            i_OPMODE=Cat(Const(0b0101, 4), Const(z, 3), Const(0, 2)),
            i_PCIN=Const(0, P_BITS) if cascade is None else cascade,
            **({"o_P": out} if last else {"o_PCOUT": out}),
            **enables,
            **resets,
        )
        return out
