"""Mutants: components with one rule broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
from amaranth.hdl import Module

__all__ = ["Change", "cases", "mutant"]

Change = Callable[[Module, Any], None]
"""Adds statements to the module of a component; they win over what drives a signal already."""


def mutant(base: type, change: Change) -> type:
    """Return ``base`` with ``change`` made to what it elaborates to."""

    class Mutant(base):  # type: ignore[misc]
        def elaborate(self, platform: object) -> Module:
            m: Module = super().elaborate(platform)
            change(m, self)
            return m

    return Mutant


def cases(changes: Iterable[Change], quick: Collection[Change]) -> list[Any]:
    """Return ``changes`` as parameters of a test, those that are not ``quick`` marked slow."""
    return [
        pytest.param(
            change,
            id=change.__name__.removeprefix("_"),
            marks=() if change in quick else pytest.mark.slow,
        )
        for change in changes
    ]
