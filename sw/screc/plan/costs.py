"""What a lookup, a row and a sample cost, tier by tier: the formulas of ``docs/planner.md``.

Loads are per sample, in the unit of the resource's capacity per second. Everything is linear in the
lookups, rows and samples, so loads of parts add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from screc.compile.layout import PAGE_BYTES
from screc.plan.budget import Budget
from screc.plan.catalogue import flight_cycles
from screc.plan.problem import (
    RECORD_BYTES,
    STAGED_BLOCKS,
    STAGING_FACTOR,
    Problem,
    TableDemand,
    TtOption,
)
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES
from screc_hw.tt.params import TtParams

Loads = dict[str, float]

TIMES = (
    "lookups",
    "port",
    "lane",
    "flight",
    "fast",
    "pool",
    "tt",
    "dram",
    "iops",
    "p2p",
    "link_in",
    "link_out",
    "power",
)
"""Resources with a load per sample and a capacity per second; ``samples`` beside them. Of ``power``
these are joules, and the watts that a device may draw beyond what it draws at rest."""

BYTES = ("dram_bytes", "ssd_bytes", "onchip_bytes")
"""Resources that rows fill."""

STAGES = {
    "gather": ("lookups", "port", "lane", "flight", "fast", "pool"),
    "tt": ("tt",),
    "dram": ("dram",),
    "ssd": ("iops",),
    "p2p": ("p2p",),
    "link": ("link_in", "link_out"),
    "compute": ("samples",),
    "power": ("power",),
}
"""Parts of a device, as people read them, and the resources that each consists of."""


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """A table's row as a memory core sees it."""

    beats: int
    cycles: int
    slices: int
    stride: int

    @classmethod
    def of(cls, problem: Problem, table: TableDemand) -> RowSizes:
        """Sizes of ``table``'s rows."""
        lanes = DeviceParams.lanes(problem.shape)
        core = MemoryCoreParams(
            lanes=lanes,
            max_features=1,
            max_slices=max(t.dim for t in problem.shape.tables) // lanes,
            rows=1,
            slots=1,
            rowwise=any(t.rowwise for t in problem.shape.tables),
        )
        return cls(
            beats=table.row_beats,
            cycles=core.row_cycles(table.shape),
            slices=table.shape.dim // lanes,
            stride=table.stride,
        )


def lookup_loads(budget: Budget, row: RowSizes, tier: str) -> Loads:
    """Loads of one lookup of a row in ``tier``; on SSD, beside those of :func:`staged_loads`."""
    records = RECORD_BYTES / budget.streamed_rate
    common = {
        "lookups": 1.0,
        "pool": float(row.slices),
        "link_in": float(RECORD_BYTES),
        "port": RECORD_BYTES / BEAT_BYTES,
        "dram": records,
        "power": _lookup_joules(budget, row, tier),
    }
    if tier == "onchip":
        return common | {"fast": float(max(row.cycles, row.beats))}
    if tier == "tt":
        return common | {"fast": float(row.slices)}
    size = row.beats * BEAT_BYTES
    return common | {
        "port": common["port"] + row.beats,
        "lane": float(row.cycles),
        "flight": flight_cycles(row.beats),
        "dram": records + size / budget.random_rate(size),
    }


def read_loads(budget: Budget) -> Loads:
    """Loads of one 4 KiB read of the SSD."""
    spec = budget.spec
    return {
        "iops": 1.0,
        "p2p": float(PAGE_BYTES),
        "dram": PAGE_BYTES / budget.streamed_rate,
        "power": spec.ssd_uj_read * 1e-6 + 8e-12 * PAGE_BYTES * spec.dram_pj_bit,
    }


def staged_loads(budget: Budget, row: RowSizes) -> Loads:
    """Loads of one row that is written to the staging ring."""
    size = BEAT_BYTES * row.beats
    return {
        "dram": size / budget.streamed_rate,
        "power": 8e-12 * size * budget.spec.dram_pj_bit,
    }


def sample_loads(problem: Problem, budget: Budget, weight_beats: float) -> Loads:
    """Loads of one sample where it is computed, with ``weight_beats`` of streamed weights."""
    streamed = problem.header_bytes + RECORD_BYTES + BEAT_BYTES * weight_beats
    return {
        "port": weight_beats,
        "dram": streamed / budget.streamed_rate,
        "link_in": float(problem.header_bytes),
        "link_out": float(RECORD_BYTES),
        "power": _sample_joules(problem, budget, weight_beats),
    }


def partial_out(table: TableDemand, budget: Budget) -> Loads:
    """Loads of one of the table's bags on the device that holds rows of it."""
    return {
        "link_out": float(table.partial_bytes),
        "dram": 2 * table.partial_bytes / budget.streamed_rate,
        "power": _partial_joules(table, budget),
    }


def partial_in(table: TableDemand, budget: Budget) -> Loads:
    """Loads of one of the table's bags on the device that computes the sample."""
    return {
        "link_in": float(table.partial_bytes),
        "dram": 2 * table.partial_bytes / budget.streamed_rate,
        "power": _partial_joules(table, budget),
    }


def ring_bytes_per_row(problem: Problem, row: RowSizes) -> float:
    """Bytes of staging rings for each row that is expected to be staged per sample."""
    return STAGED_BLOCKS * STAGING_FACTOR * problem.batch * row.beats * BEAT_BYTES


def tt_cycles(params: TtParams, option: TtOption, *, pinned: bool) -> float:
    """Cycles of one of a reconstructor's lanes per row whose prefix is kept, or is not.

    That a row takes a cycle per slice, and one at least, however many lanes there are, is in the
    loads ``fast`` and ``lookups``.
    """
    return params.row_cycles(option.shape, 1.0 if pinned else 0.0)


def waste_bytes(problem: Problem, memory: int) -> float:
    """Bytes of DRAM that the alignment of tables may take on a device of ``memory`` cores."""
    return float(len(problem.tables) * memory * BEAT_BYTES)


# --- energy ---


def _lookup_joules(budget: Budget, row: RowSizes, tier: str) -> float:
    """Joules of one lookup of a row in ``tier``; on SSD, beside those of its read."""
    spec = budget.spec
    size = row.beats * BEAT_BYTES
    joules = 8 * RECORD_BYTES * (spec.dram_pj_bit + spec.link_pj_bit)
    if tier == "onchip":
        joules += row.beats * spec.onchip_pj_beat
    elif tier != "tt":
        joules += 8 * size * spec.dram_pj_bit
    return joules * 1e-12


def tt_joules(budget: Budget, option: TtOption, *, pinned: bool) -> float:
    """Joules of the multiplications that rebuild a row."""
    macs = option.shape.row_macs + (0 if pinned else option.shape.prefix_macs)
    return macs * budget.spec.mac_pj * 1e-12


def _sample_joules(problem: Problem, budget: Budget, weight_beats: float) -> float:
    """Joules of computing a sample: multiplications, streamed bytes, link."""
    spec = budget.spec
    link = problem.header_bytes + RECORD_BYTES
    bits = 8 * (link + BEAT_BYTES * weight_beats)
    macs = problem.compute_shape.macs
    return (macs * spec.mac_pj + bits * spec.dram_pj_bit + 8 * link * spec.link_pj_bit) * 1e-12


def _partial_joules(table: TableDemand, budget: Budget) -> float:
    """Joules of one bag's way over one link: out of a device, or into one."""
    bits = 8 * table.partial_bytes
    return bits * (2 * budget.spec.dram_pj_bit + budget.spec.link_pj_bit) * 1e-12


def scaled(loads: Mapping[str, float], factor: float) -> Loads:
    """Every load times ``factor``."""
    return {name: value * factor for name, value in loads.items()}
