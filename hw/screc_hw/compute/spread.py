"""Copies of registers, so that none of them drives too much."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal

__all__ = ["copies"]


def copies(m: Module, name: str, value: Any, count: int = 1) -> list[Any]:
    """Register ``value`` in ``count`` equal registers, which no tool may merge."""
    registers: list[Any] = [
        Signal(value.shape(), name=f"{name}_{copy}", reset_less=True, attrs={"keep": True})
        for copy in range(count)
    ]
    m.d.sync += [register.eq(value) for register in registers]
    return registers
