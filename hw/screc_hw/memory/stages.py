"""Straight pipelines that stop as a whole."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream

__all__ = ["Stages"]


class Stages:
    """The handshakes of a pipeline of ``count`` registers from stream ``i`` to stream ``o``.

    Added to ``m``. The last register is ``o.payload`` itself; every register moves in cycles with
    ``advance``, so ``o.ready`` reaches ``i.ready`` through one gate.

    Attributes
    ----------
    advance : Signal
        Everything moves on.
    valid : Signal
        Bit n: what has passed n + 1 registers is valid.
    """

    def __init__(self, m: Module, i: stream.Interface, o: stream.Interface, count: int) -> None:
        self._m = m
        advance, valid = Signal(name="advance"), Signal(count, name="valid")
        self.advance, self.valid = advance, valid
        m.d.comb += [
            advance.eq(~o.valid | o.ready),
            i.ready.eq(advance),
            o.valid.eq(valid[-1]),
        ]
        with m.If(advance):
            m.d.sync += valid.eq(Cat(i.valid, valid[:-1]))

    def delay(self, value: Any, cycles: int) -> Any:
        """Return ``value`` after ``cycles`` registers."""
        for _ in range(cycles):
            later = Signal.like(value, name="later", reset_less=True)
            with self._m.If(self.advance):
                self._m.d.sync += later.eq(value)
            value = later
        return value
