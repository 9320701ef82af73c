"""The registers inside a component, for the invariants that induction needs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Value

__all__ = ["State", "opened", "sole"]


def sole(module: Module, name: str) -> Any:
    """Return the one signal named ``name`` that ``module`` drives.

    Raises
    ------
    KeyError
        If there is none, or are several.
    """
    found = [signal for signal in module._driving if signal.name == name]
    if len(found) != 1:
        raise KeyError(f"{len(found)} signals are named {name!r}, not 1")
    return found[0]


class State:
    """Registers and parts of an elaborated component, by name.

    Parameters
    ----------
    component
        What it was made of, with its ports.
    module
        The same, elaborated.
    """

    def __init__(self, component: Any, module: Module) -> None:
        self.ports = component
        self._module = module
        self._parts: dict[str, State] = {}
        for name, (part, *rest) in list(module._named_submodules.items()):
            if type(part).__module__.startswith(("screc_hw.", "amaranth.lib.fifo")):
                inner = _elaborated(part)
                module._named_submodules[name] = (inner, *rest)
                self._parts[name] = State(part, inner)

    def part(self, path: str) -> State:
        """Return the state of the part at ``path``: names with dots between."""
        name, _, rest = path.partition(".")
        return self._parts[name].part(rest) if rest else self._parts[name]

    def __getitem__(self, path: str) -> Any:
        """Return the signal at ``path``: names of parts, then its own, with dots between."""
        part, _, name = path.rpartition(".")
        return sole((self.part(part) if part else self)._module, name)

    def entries(self, queue: str) -> Value:
        """Return how many entries the ``DeepQueue`` at ``queue`` holds, itself if empty."""
        part = self.part(queue) if queue else self
        # of its two last registers: one, and both
        ends = part.ports.o.valid + ~part["load"]
        return part["fifo.inner_level"] + part.part("fifo").ports.r_rdy + ends

    def overflows(self, queue: str) -> Value:
        """Return that the ``DeepQueue`` at ``queue`` is full and is written."""
        return self.part(queue).ports.i.valid & ~self.part(f"{queue}.fifo").ports.w_rdy


def _elaborated(component: Any) -> Module:
    component._MustUse__used = True
    module: Module = component.elaborate(None)
    return module


def opened(component: Any) -> tuple[Module, State]:
    """Elaborate ``component``; return it as a submodule to use, and its state.

    Parameters
    ----------
    component
        Of this project.
    """
    module = _elaborated(component)
    return module, State(component, module)
