"""The planner's MIP: one function per family of constraints, each under a name of its own.

Units: seconds are nanoseconds per sample here and bytes KiB, so that coefficients stay near 1.
Index ``t`` is a table, ``i`` an interval of its ranks (hottest first), ``p`` a pattern of cores.

================== ===============================================================================
``share[t, i]``    share of the interval's rows in DRAM; the rest is on SSD
``pattern[p]``     1 for the pattern that is built
``staging``        1 if any row is on SSD
``ring``           KiB of the staging rings
``time``           nanoseconds per sample: no resource is busy longer
================== ===============================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from screc.compile.layout import PAGE_BYTES
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR, Problem
from screc_hw.protocol import BEAT_BYTES

NANO = 1e9
KIB = 1024


@dataclasses.dataclass(frozen=True)
class Intervals:
    """One table's intervals: what each costs per sample when it is on SSD.

    ``edges`` int64 ``(n + 1,)``; ``distinct`` rows and ``reads`` (pages) float64 ``(n,)``.
    """

    edges: NDArray[np.int64]
    distinct: NDArray[np.float64]
    reads: NDArray[np.float64]


def make_intervals(problem: Problem, cuts: Sequence[int]) -> list[Intervals]:
    """Cut every table into intervals, fine around the ranks ``cuts`` (one per table)."""
    found = []
    for table, cut in zip(problem.tables, cuts, strict=True):
        rates = table.rates
        keep = [cut, table.tt_rows] if table.tt_rows else [cut]
        edges = rates.coarse(problem.intervals, keep)
        distinct = rates.between(rates.distinct(problem.batch), edges)
        reads = rates.between(rates.reads(problem.batch, table.stride), edges)
        found.append(Intervals(edges, distinct, reads))
    return found


def build_model(problem: Problem, intervals: Sequence[Intervals]) -> pyo.ConcreteModel:
    """Build the whole model with the throughput objective."""
    m = pyo.ConcreteModel("screc")
    add_variables(m, problem, intervals)
    add_costs(m, problem, intervals)
    for add in FAMILIES:
        add(m, problem)
    m.throughput = pyo.Objective(expr=m.time)
    return m


def add_variables(m: pyo.ConcreteModel, problem: Problem, intervals: Sequence[Intervals]) -> None:
    """Declare sets and variables; tables that may live in one tier only are fixed there."""
    m.P = pyo.RangeSet(0, len(problem.patterns) - 1)
    m.I = pyo.Set(
        initialize=[(t, i) for t, part in enumerate(intervals) for i in range(len(part.reads))],
        dimen=2,
    )
    m.pattern = pyo.Var(m.P, domain=pyo.Binary)
    m.share = pyo.Var(m.I, bounds=(0, 1))
    m.staging = pyo.Var(domain=pyo.Binary)
    m.ring = pyo.Var(domain=pyo.NonNegativeReals)
    m.time = pyo.Var(domain=pyo.NonNegativeReals)
    for t, i in m.I:
        table = problem.tables[t]
        if not (table.ssd and problem.budget.has_ssd):
            m.share[t, i].fix(1)
        elif intervals[t].edges[i + 1] <= table.tt_rows:
            m.share[t, i].fix(1)  # and takes no DRAM, see add_costs
        elif not table.dram:
            m.share[t, i].fix(0)


def add_costs(m: pyo.ConcreteModel, problem: Problem, intervals: Sequence[Intervals]) -> None:
    """Name the sums that several constraints use."""
    stored = [
        np.diff(np.maximum(part.edges, table.tt_rows))
        for table, part in zip(problem.tables, intervals, strict=True)
    ]
    rows = {(t, i): int(stored[t][i]) for t, i in m.I}
    size = {(t, i): rows[t, i] * problem.tables[t].stride / KIB for t, i in m.I}
    m.dram_rows = pyo.Expression(expr=sum(size[k] * m.share[k] for k in m.I))
    m.ssd_rows = pyo.Expression(expr=sum(size[k] * (1 - m.share[k]) for k in m.I))
    m.ssd_reads = pyo.Expression(
        expr=sum(intervals[t].reads[i] * (1 - m.share[t, i]) for t, i in m.I)
    )
    m.staged_beats = pyo.Expression(
        expr=sum(
            intervals[t].distinct[i] * problem.tables[t].row_beats * (1 - m.share[t, i])
            for t, i in m.I
        )
    )


def add_pattern_choice(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Sum of pattern = 1: one combination of cores is built."""
    m.pattern_choice = pyo.Constraint(expr=sum(m.pattern[p] for p in m.P) == 1)


def add_core_times(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Time >= the chosen pattern's time of every part of the device."""
    # dict for an order that does not change; see DeviceParams.predict for the parts
    parts = list(dict.fromkeys(part for pattern in problem.patterns for part in pattern.seconds))
    m.core_time = pyo.Constraint(
        parts,
        rule=lambda m, part: (
            m.time
            >= sum(NANO * problem.patterns[p].seconds.get(part, 0) * m.pattern[p] for p in m.P)
        ),
    )


def add_dram_time(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Time >= row reads and streams, and what comes from SSD: pages written, rows staged.

    Writes are taken at one channel's rate, however many the device has.
    """
    written = PAGE_BYTES * m.ssd_reads + BEAT_BYTES * m.staged_beats
    m.dram_time = pyo.Constraint(
        expr=m.time
        >= sum(NANO * problem.dram_seconds(problem.patterns[p]) * m.pattern[p] for p in m.P)
        + NANO / problem.budget.streamed_rate * written
    )


def add_ssd_times(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Time >= page reads / IOPS, and >= their bytes / the peer-to-peer link's rate."""
    budget = problem.budget
    if not budget.has_ssd:
        return  # without an SSD every share is fixed to DRAM
    m.ssd_time = pyo.Constraint(expr=m.time >= NANO / budget.ssd_iops * m.ssd_reads)
    m.p2p_time = pyo.Constraint(expr=m.time >= NANO * PAGE_BYTES / budget.p2p_rate * m.ssd_reads)


def add_dram_capacity(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Rows, streamed weights, a beat for each table's alignment on each core, rings fit DRAM."""
    waste = len(problem.tables) * BEAT_BYTES / KIB
    fixed = [
        waste * p.params.memory + p.weight_bytes(problem.shape) / KIB for p in problem.patterns
    ]
    m.dram_capacity = pyo.Constraint(
        expr=m.dram_rows
        + m.ring
        + problem.rounding / KIB * m.staging
        + sum(fixed[p] * m.pattern[p] for p in m.P)
        <= problem.budget.dram_bytes / KIB
    )


def add_ssd_capacity(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Rows on SSD, and the page that each table's alignment may waste, fit it."""
    if not problem.budget.has_ssd:
        return  # without an SSD every share is fixed to DRAM
    waste = len(problem.tables) * PAGE_BYTES / KIB
    m.ssd_capacity = pyo.Constraint(
        expr=m.ssd_rows + waste * m.staging <= problem.budget.ssd_bytes / KIB
    )


def add_staging_ring(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Ring >= blocks × (factor × expected beats of a block) + slack, once any row is on SSD."""
    beats = STAGED_BLOCKS * STAGING_FACTOR * problem.batch * m.staged_beats
    m.staging_ring = pyo.Constraint(
        expr=m.ring >= BEAT_BYTES / KIB * beats + problem.staging_slack / KIB * m.staging
    )


def add_staging_switch(m: pyo.ConcreteModel, problem: Problem) -> None:
    """1 - share <= staging on every table's coldest interval."""
    coldest = {t: i for t, i in m.I}  # noqa: C416 - a Set is a mapping of its own kind to dict()
    m.staging_switch = pyo.Constraint(
        list(coldest), rule=lambda m, t: 1 - m.share[t, coldest[t]] <= m.staging
    )


def add_hot_first(m: pyo.ConcreteModel, problem: Problem) -> None:
    """share[t, i] >= share[t, i + 1]: the rows of a table in DRAM are its hottest."""
    m.hot_first = pyo.Constraint(
        [(t, i) for t, i in m.I if (t, i + 1) in m.I],
        rule=lambda m, t, i: m.share[t, i] >= m.share[t, i + 1],
    )


def add_rate(m: pyo.ConcreteModel, problem: Problem) -> None:
    """Time <= 1 / the required rate."""
    if problem.max_seconds is not None:
        m.rate = pyo.Constraint(expr=m.time <= NANO * problem.max_seconds)


def add_latency(m: pyo.ConcreteModel, problem: Problem) -> None:
    """One batch alone, its SSD reads and its cycles one after the other, within the latency."""
    if problem.max_latency is None:
        return
    budget = problem.budget
    staged = problem.batch * NANO / budget.ssd_iops * m.ssd_reads if budget.has_ssd else 0
    m.latency = pyo.Constraint(
        expr=sum(NANO * problem.patterns[p].latency * m.pattern[p] for p in m.P) + staged
        <= NANO * problem.max_latency
    )


FAMILIES: tuple[Callable[[pyo.ConcreteModel, Problem], None], ...] = (
    add_pattern_choice,
    add_core_times,
    add_dram_time,
    add_ssd_times,
    add_dram_capacity,
    add_ssd_capacity,
    add_staging_ring,
    add_staging_switch,
    add_hot_first,
    add_rate,
    add_latency,
)
"""Every family of constraints; :func:`build_model` adds them in this order."""


def prefer_small(m: pyo.ConcreteModel, problem: Problem, best: float) -> None:
    """Replace the objective: among plans as fast as ``best`` (ns), few resources and SSD reads."""
    lookups = sum(table.rates.lookups for table in problem.tables)
    m.throughput.deactivate()
    m.time.setub(best * (1 + 1e-9))
    m.smallest = pyo.Objective(
        expr=sum(problem.patterns[p].size * m.pattern[p] for p in m.P)
        + m.ssd_reads / max(lookups, 1e-9)
        + m.staging
    )
