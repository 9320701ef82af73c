"""What the compute cores ran, cycle by cycle, named by the layers of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import layer_program
from screc_hw.model import ModelShape
from screc_hw.protocol import Operation

__all__ = ["timeline"]

UNITS = ("array", "interaction")
"""Of a compute core, as the test bench numbers them."""


def timeline(
    shape: ModelShape, params: ComputeParams, operations: Sequence[Sequence[Sequence[int]]]
) -> list[list[dict[str, Any]]]:
    """Name what the test bench noted of every compute core.

    Parameters
    ----------
    shape, params
        The model and the cores.
    operations
        Of every core: unit, slot, first cycle and the one behind the last, in order of the first.

    Returns
    -------
    list of list of dict
        Of every core: ``unit`` (:data:`UNITS`), ``sub_batch`` of the core, ``layer``, ``first``
        cycle and ``end``, the one behind the last, from the first operation of any core on. Parts
        of a layer that follow each other without a gap are one.
    """
    layers = [layer.name for layer in (*shape.bottom_layers, *shape.top_layers)]
    names: tuple[list[str], list[str]] = [], ["interaction"]
    number = -1
    for fields in layer_program(shape, params):
        if fields["operation"] == Operation.LINEAR:
            number += 1 - fields.get("independent", 0)
            names[0].append(layers[number])
    origin = min((spans[0][2] for spans in operations if spans), default=0)
    found = []
    for spans in operations:
        done = [[0] * params.slots for _ in UNITS]
        core: list[dict[str, Any]] = []
        last: dict[int, dict[str, Any]] = {}
        for unit, slot, first, end in spans:
            turn, place = divmod(done[unit][slot], len(names[unit]))
            done[unit][slot] += 1
            span = {
                "unit": UNITS[unit],
                "sub_batch": turn * params.slots + slot,
                "layer": names[unit][place],
                "first": first - origin,
                "end": end - origin,
            }
            before = last.get(unit)
            if (
                before is not None
                and before["end"] == span["first"]
                and all(before[key] == span[key] for key in ("sub_batch", "layer"))
            ):
                before["end"] = span["end"]
                continue
            core.append(span)
            last[unit] = span
        found.append(core)
    return found
