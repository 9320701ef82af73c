"""Memory cores that are synthesised: points that span what a core can be."""

from __future__ import annotations

from typing import Any

from screc_hw.memory.params import MemoryCoreParams

Shape = dict[str, Any]

SMALLEST: Shape = {
    "port_bits": 128,
    "lanes": 4,
    "outstanding": 16,
    "max_features": 1,
    "max_slices": 1,
}
_NARROW: Shape = {"port_bits": 128, "outstanding": 64}
_MIDDLE: Shape = {"port_bits": 256, "outstanding": 128}
SMALL: dict[str, Shape] = {
    "plain": {**_NARROW, "lanes": 16, "max_slices": 4, "max_features": 100},
    "rowwise": {**_NARROW, "lanes": 16, "max_slices": 4, "rowwise": True},
    "deep": {**_NARROW, "lanes": 8, "max_slices": 8, "outstanding": 256, "onchip_beats": 16384},
    "tt": {
        **_NARROW,
        "lanes": 32,
        "max_slices": 1,
        "outstanding": 32,
        "max_features": 600,
        "tt_fraction": 4,
        "pool_beats": 2,
    },
    "tiers": {**_MIDDLE, "lanes": 16, "max_slices": 8, "onchip_beats": 1024, "tt_fraction": 4},
    "rowwise-onchip": {
        **_MIDDLE,
        "lanes": 32,
        "max_features": 600,
        "onchip_beats": 64,
        "rowwise": True,
        "pool_beats": 2,
    },
}
LARGE: dict[str, Shape] = {
    "plain": {"lanes": 64},
    "nibbles": {"lanes": 128, "max_slices": 1, "outstanding": 128},
    "slices": {
        "lanes": 32,
        "max_slices": 8,
        "outstanding": 512,
        "max_features": 600,
        "onchip_beats": 1024,
    },
    "rowwise": {"lanes": 32, "max_slices": 4, "outstanding": 128, "rowwise": True},
    "full": {
        "lanes": 64,
        "outstanding": 512,
        "rowwise": True,
        "onchip_beats": 4096,
        "pool_beats": 2,
    },
}
"""With a port of 512 bits."""


def core(shape: Shape) -> MemoryCoreParams:
    """Return the parameters of a core of ``shape``, the rest as a real one's."""
    rest = {"max_features": 26, "max_slices": 2, "rows": 128, "slots": 4}
    return MemoryCoreParams(**{**rest, **shape})
