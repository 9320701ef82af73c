"""On-chip rows: a pattern's left-over memory is filled with the hottest rows that may live there.

A fixed rule and no choice of the solver's: rows by falling rate per byte, as far as the device's
URAM (or block RAM) beside the cores goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from screc.errors import PlanError, PlanErrorKind
from screc.plan.budget import Budget
from screc.plan.patterns import Pattern, excess, make_pattern
from screc.plan.problem import TableDemand
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams

URAM_BEATS = 4096
"""Depth of a URAM288: deeper memories are whole multiples of it."""

SMALL_BEATS = (2048, 1024, 512, 64)
"""Depths that are tried below it, in block RAM and LUT RAM."""


def with_onchip(
    shape: ModelShape,
    tables: Sequence[TableDemand],
    patterns: Sequence[Pattern],
    budget: Budget,
    batch: int,
) -> list[Pattern]:
    """Give every pattern the on-chip rows that it has room for.

    Raises
    ------
    PlanError
        If tables are pinned on chip and no pattern has room for them.
    """
    if not any(table.onchip for table in tables):
        return list(patterns)
    found, most = [], 0
    for pattern in patterns:
        memory, beat = pattern.params.memory, pattern.params.gather.beat_bytes
        depth = _room(
            pattern, budget, _beats(tables, [t.most_onchip for t in tables], memory, beat)
        )
        most = max(most, depth * memory * beat)
        rows = fill(tables, depth, memory, beat)
        if rows is None:
            continue
        made = pattern
        if any(rows):
            made = make_pattern(shape, budget, batch, _params(pattern.params, depth))
        found.append(dataclasses.replace(made, onchip=tuple(rows)))
    if found:
        return found
    pinned = [table for table in tables if table.pinned_onchip]
    need = sum(table.shape.rows * table.stride for table in pinned)
    raise PlanError(
        PlanErrorKind.URAM,
        f"tables that may live on chip alone take {need / 1024:,.0f} KiB; beside the cores "
        f"{budget.kind} has room for {most / 1024:,.0f}",
        [
            'tiers = ["onchip", "dram"]: the hottest rows alone are then on chip',
            "plan.cores: smaller rows or columns, or fewer cores",
        ],
    )


def fill(tables: Sequence[TableDemand], depth: int, memory: int, beat: int) -> list[int] | None:
    """On-chip rows of every table, hottest first, in ``depth`` beats of each memory core.

    Counts are multiples of ``memory``, or the whole table. None where a table that may live on chip
    alone does not fit.
    """
    rows = [table.shape.rows if table.pinned_onchip else 0 for table in tables]
    if _beats(tables, rows, memory, beat) > depth:
        return None
    pieces = sorted(
        (-rate / table.stride, number, int(last))
        for number, table in enumerate(tables)
        if table.onchip and not table.pinned_onchip
        for rate, last in zip(table.rates.rates, table.rates.edges[1:], strict=True)
        if rate > 0
    )
    for _, number, last in pieces:
        others = [0 if i == number else count for i, count in enumerate(rows)]
        left = depth - _beats(tables, others, memory, beat)
        table = tables[number].shape
        room = max(0, left * beat // tables[number].stride) * memory
        count = min(last, room, tables[number].most_onchip)
        whole = count if count == table.rows else count // memory * memory
        rows[number] = max(rows[number], whole)
    return rows


def _beats(tables: Sequence[TableDemand], rows: Sequence[int], memory: int, beat: int) -> int:
    """Beats that the rows of all on-chip tables take in each memory core, at most."""
    return sum(
        _up(_up(count, memory) * table.stride, beat)
        for table, count in zip(tables, rows, strict=True)
        if table.onchip
    )


def _up(count: int, unit: int) -> int:
    """``count / unit``, rounded up."""
    return -(-count // unit)


def _params(params: DeviceParams, depth: int) -> DeviceParams:
    return dataclasses.replace(
        params, gather=dataclasses.replace(params.gather, onchip_beats=depth)
    )


def _room(pattern: Pattern, budget: Budget, most: int) -> int:
    """Depth of on-chip memories that fit beside the cores: ``most``, or the largest one."""

    def fits(depth: int) -> bool:
        used = _params(pattern.params, depth).resources().as_dict()
        return not excess(dataclasses.replace(pattern, used=used), budget)

    if fits(most):
        return most
    low, high = 0, _up(most, URAM_BEATS)
    while low < high:  # the largest count of URAMs in depth that fits
        middle = _up(low + high, 2)
        low, high = (middle, high) if fits(middle * URAM_BEATS) else (low, middle - 1)
    if low:
        return low * URAM_BEATS
    return next((depth for depth in SMALL_BEATS if depth < most and fits(depth)), 0)
