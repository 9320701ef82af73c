"""Ranks of a table that go to one device together, and what they load it with."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from screc.plan import costs
from screc.plan.catalogue import Pattern
from screc.plan.costs import RowSizes
from screc.plan.pool import Tier
from screc.plan.problem import STAGED_BLOCKS, STAGING_FACTOR, Problem
from screc_hw.protocol import BEAT_BYTES
from screc_hw.tt.params import TtParams

STRIPES = 16
"""Parts that a table on several devices is cut into at a time."""

Segment = tuple[Tier, int, int]
"""Ranks ``[first, last)`` of a table in a tier."""

Sums = dict[Tier, tuple[float, float, float, float]]
"""Rows, and per sample lookups, distinct rows and page reads, by tier."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Ranks of a table that go to one device together.

    Those of ``segments`` that are ``residue`` modulo ``of``, counted from 0.
    """

    table: int
    segments: tuple[Segment, ...]
    of: int = 1
    residue: int = 0

    def parts(self) -> list[Unit]:
        """Cut it by further residues."""
        of = self.of * STRIPES
        return [
            dataclasses.replace(self, of=of, residue=self.residue + self.of * i)
            for i in range(STRIPES)
        ]


class UnitCosts:
    """Loads of units and of samples, each worked out once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rows = [RowSizes.of(problem, table) for table in problem.tables]
        self.per_rank = [
            (t.rates.distinct(problem.batch), t.rates.reads(problem.batch, t.stride))
            for t in problem.tables
        ]
        self.sums = functools.cache(self._sums)
        self.loads = functools.cache(self._loads)

    def _sums(self, unit: Unit) -> Sums:
        """Rows, and per sample lookups, distinct rows and page reads of a unit, by tier."""
        rates = self.problem.tables[unit.table].rates
        distinct, reads = self.per_rank[unit.table]
        found: Sums = {}
        for tier, first, last in unit.segments:
            sums = [
                rates.residue_sum(values, first, last, unit.of, unit.residue)
                for values in (np.ones_like(rates.rates), rates.rates, distinct, reads)
            ]
            before = found.get(tier, (0.0, 0.0, 0.0, 0.0))
            a, b, c, d = (x + y for x, y in zip(before, sums, strict=True))
            found[tier] = (a, b, c, d)
        return found

    def _loads(self, klass: int, tt: TtParams | None, unit: Unit) -> costs.Loads:
        """Loads and bytes of a unit on a device of a class, its partials included."""
        problem = self.problem
        table, budget = problem.tables[unit.table], problem.classes[klass].budget
        row = self.rows[unit.table]
        found: costs.Loads = defaultdict(float)
        for tier, (rows, lookups, distinct, reads) in self.sums(unit).items():
            pieces = [(costs.lookup_loads(budget, row, tier), lookups)]
            if tier == "ssd":
                pieces.append((costs.read_loads(budget), reads))
                pieces.append((costs.staged_loads(budget, row), distinct))
                found["dram_bytes"] += distinct * costs.ring_bytes_per_row(problem, row)
            if tier == "tt" and table.tt is not None and tt is not None:
                found["tt"] += lookups * costs.tt_cycles(tt, table.tt, pinned=True)
                found["power"] += lookups * costs.tt_joules(budget, table.tt, pinned=True)
            for loads, factor in pieces:
                for name, value in loads.items():
                    found[name] += value * factor
            if tier != "tt":
                found[f"{tier}_bytes"] += rows * row.stride
        if problem.exchange:
            for name, value in costs.partial_out(table, budget).items():
                found[name] += value * self.bags(unit)
        return found

    def bags(self, unit: Unit) -> float:
        """Bags per sample that a unit's device sends: of a table's parts, each counts its share."""
        table = self.problem.tables[unit.table]
        whole = dataclasses.replace(unit, of=1, residue=0)
        lookups = sum(sums[1] for sums in self.sums(whole).values())
        met = table.bags_met(lookups / max(table.rates.lookups, 1e-300))
        return met / unit.of

    def sample_side(self, klass: int, pattern: Pattern, whole: Mapping[int, Tier]) -> costs.Loads:
        """Loads of all samples on one device, were it to compute them all.

        ``whole`` are the tiers of the tables, by number, that every device holds.
        """
        problem = self.problem
        budget = problem.classes[klass].budget
        found: costs.Loads = defaultdict(float)
        loads = [(costs.sample_loads(problem, budget, pattern.sample_beats), 1.0)]
        for number, table in enumerate(problem.tables):
            tier = whole.get(number)
            if tier is not None:
                row = self.rows[number]
                loads.append((costs.lookup_loads(budget, row, tier), table.rates.lookups))
            elif problem.exchange:
                loads.append((costs.partial_in(table, budget), table.bags))
        for each, factor in loads:
            for name, value in each.items():
                found[name] += value * factor
        return found

    def staging_bytes(self, units: Iterable[Unit]) -> int:
        """Bytes of all rings of a device with these units, whole beats; 0 without rows on SSD."""
        beats, staged = 0.0, False
        for unit in units:
            for tier, (_, _, distinct, _) in self.sums(unit).items():
                if tier == "ssd":
                    staged = True
                    beats += distinct * self.problem.batch * self.rows[unit.table].beats
        if not staged:
            return 0
        expected = int(np.ceil(STAGED_BLOCKS * STAGING_FACTOR * beats))
        return expected * BEAT_BYTES + self.problem.staging_slack
