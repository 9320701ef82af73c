"""Reconstructors whose mapped netlists are looked at."""

from __future__ import annotations

from typing import Any

from screc_hw.netlist import Netlist, convert
from screc_hw.tt.params import TtParams
from screc_hw.tt.reconstructor import TtReconstructor

SMALLEST: dict[str, Any] = {
    "slice_lanes": 4,
    "fraction": 0,
    "chain": 4,
    "max_rank": 4,
    "max_q2": 1,
    "max_q3": 4,
    "max_dim": 16,
    "max_tables": 2,
    "core1_words": 64,
    "core2_words": 64,
    "core3_words": 64,
    "row_bits": 10,
    "requantisers": 4,
    "slots": 4,
}

MIDDLE: dict[str, Any] = {
    "slice_lanes": 16,
    "chain": 8,
    "max_rank": 16,
    "max_q2": 4,
    "max_q3": 4,
    "max_dim": 64,
    "core1_words": 400,
    "core2_words": 3520,
    "core3_words": 500,
    "row_bits": 24,
}

SHORT: dict[str, Any] = {**MIDDLE, "chain": 4, "core2_words": 600}

POINTS: dict[str, dict[str, Any]] = {
    "smallest": SMALLEST,
    "many tables, 29 bits": {
        **SMALLEST,
        **{"max_tables": 128, "row_bits": 29, "max_rank": 16, "slots": 32},
    },
    "fine fractions": {
        **SMALLEST,
        **{
            "fraction": 8,
            "slice_lanes": 32,
            "max_dim": 32,
            "max_q2": 4,
            "max_q3": 8,
            "max_rank": 8,
        },
    },
    "three lanes": {
        **SMALLEST,
        **{"lanes": 3, "slice_lanes": 8, "max_dim": 32, "max_q2": 2, "max_q3": 8, "max_rank": 12},
        "requantisers": 8,
    },
    "pins in BRAM": {**SHORT, "pinned_words": 1000},
    "pins in UltraRAM": {**SHORT, "pinned_words": 8000},
    "rank 60": {**SHORT, "max_rank": 60, "core2_words": 2048},
    "long rows": {
        **SHORT,
        **{"max_q2": 8, "max_dim": 256, "max_q3": 16, "slots": 64, "requantisers": 4},
    },
    "two lanes": {**SHORT, "lanes": 2, "requantisers": 4, "core2_words": 1024},
    "middle": MIDDLE,
    "wide slices": {**MIDDLE, "slice_lanes": 64, "requantisers": 16},
    "rank 32, dim 128": {
        **MIDDLE,
        **{"max_rank": 32, "max_q3": 8, "max_dim": 128, "requantisers": 4, "core2_words": 14080},
    },
    "chain of 16": {
        **MIDDLE,
        **{"chain": 16, "requantisers": 16},
        **{"core1_words": 200, "core2_words": 880, "core3_words": 250},
    },
}
"""By name, the smallest first."""


def params_of(name: str) -> TtParams:
    """Return the parameters of a point."""
    return TtParams(**POINTS[name])


def netlist_of(params: TtParams) -> Netlist:
    """Return a reconstructor with DSP48E2 instances, as it is emitted for a device."""
    return convert(TtReconstructor(params), name="top", primitives=True)
