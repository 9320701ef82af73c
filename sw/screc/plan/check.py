"""Checks a plan from scratch: every rank somewhere, every capacity kept, every time recomputed.

Nothing of the solver is used: ranges as ``plan.json`` has them, integer rows, full rate curves.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from screc.compile.layout import PAGE_BYTES, make_layout
from screc.errors import CheckError
from screc.plan.budget import RESOURCES
from screc.plan.patterns import make_pattern
from screc.plan.problem import Problem, TableDemand
from screc.plan.schema import DevicePlan, Range
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a plan really costs.

    ``per_sample`` seconds of each resource; ``utilisation`` used ÷ usable; ``ssd_reads`` expected
    4 KiB reads per sample.
    """

    per_sample: Mapping[str, float]
    utilisation: Mapping[str, float]
    ssd_reads: float

    @property
    def bottleneck(self) -> str:
        """The resource that is busy longest."""
        return max(self.per_sample, key=lambda name: self.per_sample[name])

    @property
    def value(self) -> float:
        """Seconds per sample."""
        return self.per_sample[self.bottleneck]


def check(device: DevicePlan, params: DeviceParams, problem: Problem) -> Checked:
    """Recompute a device's plan.

    Raises
    ------
    CheckError
        If ranks are missing or doubled, or a capacity is exceeded; says where and by how much.
    """
    for table in problem.tables:
        ranges = next((t.ranges for t in device.tables if t.table == table.shape.name), ())
        _check_coverage(table.shape.name, table.shape.rows, ranges)
    utilisation = _check_capacities(device, params, problem)
    counts = {table.table: table.resident_rows for table in device.tables}
    rows = [counts[table.shape.name] for table in problem.tables]
    per_sample, reads = _times(device, params, problem, rows)
    return Checked(per_sample, utilisation, reads)


def _check_coverage(name: str, rows: int, ranges: Sequence[Range]) -> None:
    """Every rank of ``[0, rows)`` lies in exactly one range, by each residue of every stripe."""
    period = int(np.lcm.reduce([r.stripe.of if r.stripe else 1 for r in ranges] or [1]))
    corners = sorted({0, rows, *(edge for r in ranges for edge in (r.first, r.last))})
    if corners[0] < 0 or corners[-1] > rows:
        raise CheckError(
            f"table {name!r}: ranges must lie in [0, {rows}), not [{corners[0]}, {corners[-1]})"
        )
    for first, last in itertools.pairwise(corners):
        for rank in range(first, min(last, first + period)):
            holders = [r for r in ranges if r.first <= rank < r.last and _takes(r, rank)]
            if len(holders) != 1:
                raise CheckError(
                    f"table {name!r}: rank {rank} must be in exactly one range, "
                    f"not in {len(holders)}"
                )


def _takes(r: Range, rank: int) -> bool:
    return r.stripe is None or (rank - r.first) % r.stripe.of in r.stripe.take


def _check_capacities(
    device: DevicePlan, params: DeviceParams, problem: Problem
) -> dict[str, float]:
    """Used ÷ usable of logic, DRAM and SSD, by the memory layout that the plan leads to."""
    budget = problem.budget
    used: dict[str, float] = dict(params.resources().as_dict())
    limits = {name: budget.limits[name] for name in RESOURCES}
    usable = {name: budget.usable[name] for name in RESOURCES}
    layout = make_layout(device, problem.shape, params)
    used |= {
        "dram": sum(core.lookup_offset for core in layout.cores),
        "ssd": layout.ssd_bytes,
    }
    limits |= {"dram": budget.dram_bytes, "ssd": budget.ssd_bytes}
    usable |= {"dram": budget.dram_bytes, "ssd": budget.ssd_bytes}
    for name, limit in limits.items():
        if used[name] > limit:
            raise CheckError(f"{name}: the plan uses {used[name]:,.0f}, the limit is {limit:,.0f}")
    return {name: used[name] / usable[name] if usable[name] else 0.0 for name in limits}


def _times(
    device: DevicePlan, params: DeviceParams, problem: Problem, dram_rows: Sequence[int]
) -> tuple[dict[str, float], float]:
    """Seconds per sample of each resource, and page reads per sample."""
    budget, batch = problem.budget, problem.batch
    onchip = {table.table: table.onchip_rows for table in device.tables}
    pattern = dataclasses.replace(
        make_pattern(problem.shape, budget, batch, params),
        onchip=tuple(onchip[table.shape.name] for table in problem.tables),
    )
    reads = beats = 0.0
    for table, first in zip(problem.tables, dram_rows, strict=True):
        rates = table.rates
        reads += rates.tail(rates.reads(batch, table.stride), first)
        beats += rates.tail(rates.distinct(batch), first) * table.row_beats
    times = dict(pattern.seconds)
    times["gather"] *= _imbalance(device, problem.tables)
    written = PAGE_BYTES * reads + BEAT_BYTES * beats
    times["dram"] = problem.dram_seconds(pattern) + written / budget.streamed_rate
    if budget.has_ssd:
        times["ssd"] = reads / budget.ssd_iops
        times["p2p"] = PAGE_BYTES * reads / budget.p2p_rate
    return times, reads


def _imbalance(device: DevicePlan, tables: Sequence[TableDemand]) -> float:
    """Busiest memory core's row beats ÷ the mean: low rank bits do not split a skew evenly."""
    cores = device.cores.memory
    loads = np.zeros(cores)
    plans = {plan.table: plan for plan in device.tables}
    for table in tables:
        plan, rates = plans[table.shape.name], table.rates
        loads += rates.tail(rates.rates, plan.resident_rows) * table.row_beats / cores
        for r in plan.ranges:
            if r.tier != "dram" or r.core is None:
                continue
            of, take = (r.stripe.of, r.stripe.take) if r.stripe else (1, (0,))
            by_residue = rates.residue_loads(r.last, of) - rates.residue_loads(r.first, of)
            mine = sum(by_residue[(residue + r.first) % of] for residue in take)
            loads[r.core] += mine * table.row_beats
    mean = float(loads.mean())
    return float(loads.max()) / mean if mean > 0 else 1.0
