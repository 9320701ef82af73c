"""Compute cores whose mapped netlists are looked at."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring

from screc_hw.compute.core import ComputeCore
from screc_hw.compute.params import ComputeParams
from screc_hw.netlist import Netlist, convert

from .compute import model_shape

MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"dense": 5, "bottom": (12, 8), "dims": (8, 8), "top": (10, 1)},
    "small": {"dense": 13, "bottom": (32, 16), "dims": (16,) * 6, "top": (32, 16, 1)},
    "Kaggle": {"dense": 13, "bottom": (512, 256, 64, 16), "dims": (16,) * 26, "top": (512, 256, 1)},
    "MLPerf": {
        "dense": 13,
        "bottom": (512, 256, 128),
        "dims": (128,) * 26,
        "top": (1024, 1024, 512, 256, 1),
    },
}

POINTS: dict[str, dict[str, Any]] = {
    "2x8": {"model": "tiny", "rows": 2, "columns": 8, "lanes": 4, "slots": 2},
    "2x16 concat": {
        **{"model": "small", "interaction": "concat"},
        **{"rows": 2, "columns": 16, "lanes": 8, "slots": 3},
    },
    "2x64": {"model": "small", "rows": 2, "columns": 64, "lanes": 8, "pair_units": 2},
    "4x8": {"model": "small", "rows": 4, "columns": 8, "lanes": 16, "pair_units": 4},
    "8x16": {"model": "Kaggle", "rows": 8, "columns": 16, "lanes": 16, "pair_units": 4},
    "8x32 concat": {
        **{"model": "Kaggle", "interaction": "concat"},
        **{"rows": 8, "columns": 32, "lanes": 64},
    },
    "4x16 MLPerf": {"model": "MLPerf", "rows": 4, "columns": 16, "lanes": 64, "slots": 3},
    "16x16": {"model": "small", "rows": 16, "columns": 16, "lanes": 16},
    "16x16 Kaggle": {"model": "Kaggle", "rows": 16, "columns": 16, "lanes": 16, "pair_units": 8},
    "16x16 MLPerf": {"model": "MLPerf", "rows": 16, "columns": 16, "lanes": 64, "pair_units": 2},
    "32x8": {"model": "small", "rows": 32, "columns": 8, "lanes": 16, "pair_units": 8, "slots": 8},
    "32x16 concat": {
        **{"model": "Kaggle", "interaction": "concat"},
        **{"rows": 32, "columns": 16, "lanes": 16},
    },
    "16x32": {"model": "Kaggle", "rows": 16, "columns": 32, "lanes": 64, "pair_units": 16},
    "32x32": {"model": "small", "rows": 32, "columns": 32, "lanes": 32, "pair_units": 4},
}
"""By name, the smallest first."""


def params_of(name: str) -> ComputeParams:
    """Return the parameters of a point."""
    values = {"pair_units": 1, **POINTS[name]}
    model = MODELS[values.pop("model")]
    shape = model_shape(**model, interaction=values.pop("interaction", "dot"))
    return ComputeParams.for_model(shape, **values)


def netlist_of(params: ComputeParams, part: type[wiring.Component] = ComputeCore) -> Netlist:
    """Return a core, or a part of it, with DSP48E2 instances, as it is emitted for a device."""
    return convert(part(params), name="top", primitives=True)
