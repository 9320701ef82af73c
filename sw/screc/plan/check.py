"""Checks a plan from scratch: every rank somewhere, every capacity kept, every time recomputed.

Nothing of the solver is used: ranges as ``plan.json`` has them, integer rows, full rate curves.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES, make_layout
from screc.errors import CheckError
from screc.plan.budget import RESOURCES
from screc.plan.patterns import make_pattern
from screc.plan.problem import Problem, TableDemand, tt_loads
from screc.plan.rates import RateCurve
from screc.plan.schema import DevicePlan, Range, TablePlan, Tier, TtPart
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
    _check_tt(device, params)
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


def _check_tt(device: DevicePlan, params: DeviceParams) -> None:
    """The TT cores and pinned prefixes of all tables fit each reconstructor."""
    parts = [part for table in device.tables if (part := table.tt) is not None]
    if not parts:
        return
    tt = params.tt
    if tt is None:
        raise CheckError("the plan has rows in TT form, the device no reconstructor")
    words = [tt.core_words(part.shape) for part in parts]
    pinned = sum(part.pins * tt.entry_words(part.shape) for part in parts)
    for name, used, most in (
        ("tables", len(parts), tt.max_tables),
        ("words of the first TT cores", sum(w[0] for w in words), tt.core1_words),
        ("words of the second TT cores", sum(w[1] for w in words), tt.core2_words),
        ("words of the third TT cores", sum(w[2] for w in words), tt.core3_words),
        ("words of pinned prefixes", pinned, tt.pinned_words),
    ):
        if used > most:
            raise CheckError(f"the plan has {used} {name}, a reconstructor room for {most}")


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
    plans = {table.table: table for table in device.tables}
    parts = tuple(plans[table.shape.name].tt for table in problem.tables)
    pattern = dataclasses.replace(
        make_pattern(problem.shape, budget, batch, params, tt_loads(problem.tables, parts)),
        onchip=tuple(plans[table.shape.name].onchip_rows for table in problem.tables),
        tt=parts,
    )
    reads = beats = 0.0
    for table, first in zip(problem.tables, dram_rows, strict=True):
        rates = table.rates
        reads += rates.tail(rates.reads(batch, table.stride), first)
        beats += rates.tail(rates.distinct(batch), first) * table.row_beats
    times = dict(pattern.seconds)
    times["gather"] *= _imbalance(device, problem.tables)
    if "tt" in times:
        times["tt"] *= _tt_imbalance(device, params, problem.tables, parts)
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
        loads += _core_rows(plan, "dram", rates, cores) * table.row_beats
    return _skew(loads)


def _tt_imbalance(
    device: DevicePlan,
    params: DeviceParams,
    tables: Sequence[TableDemand],
    parts: Sequence[TtPart | None],
) -> float:
    """Busiest reconstructor's cycles ÷ the mean."""
    loads = np.zeros(device.cores.memory)
    plans = {plan.table: plan for plan in device.tables}
    for table, part in zip(tables, parts, strict=True):
        if part is None or params.tt is None:
            continue
        (load,) = tt_loads([table], [part])
        cycles = params.tt.row_cycles(load.shape, load.hit_rate)
        loads += _core_rows(plans[table.shape.name], "tt", table.rates, len(loads)) * cycles
    return _skew(loads)


def _core_rows(plan: TablePlan, tier: Tier, rates: RateCurve, cores: int) -> NDArray[np.float64]:
    """Lookups per sample of a table's ranges in ``tier``, by memory core."""
    found = np.zeros(cores)
    for r in plan.ranges:
        if r.tier != tier or r.core is None:
            continue
        of, take = (r.stripe.of, r.stripe.take) if r.stripe else (1, (0,))
        by_residue = rates.residue_loads(r.last, of) - rates.residue_loads(r.first, of)
        found[r.core] += sum(by_residue[(residue + r.first) % of] for residue in take)
    return found


def _skew(loads: NDArray[np.float64]) -> float:
    """Largest load ÷ the mean; 1 where there is none."""
    mean = float(loads.mean())
    return float(loads.max()) / mean if mean > 0 else 1.0
