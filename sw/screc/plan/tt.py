"""Rows in tensor-train form: which ranks, in what shape, and which prefixes are pinned.

A fixed rule and no choice of the solver's: of a table that asks for it, the ranks from the end of
those on chip up to a given one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from screc.errors import ConfigError
from screc.plan.budget import Budget
from screc.plan.device import reconstructor
from screc.plan.patterns import Pattern, TtPart, excess, make_pattern, nothing_fits
from screc.plan.problem import TableDemand, tt_loads
from screc.tt.shape import choose_shape
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams

COVERAGE = 0.9
"""Share of a table's lookups that its hottest rows, on chip and in TT form, answer unless said."""

PREFIXES = 512
"""Prefixes pinned in every reconstructor unless said."""

LANES = 1
"""Lanes of a reconstructor unless said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtWish:
    """Sizes of every reconstructor: ``lanes``, and ``prefixes`` pinned over all tables."""

    lanes: int = LANES
    prefixes: int = PREFIXES

    @classmethod
    def of(cls, lanes: int | None, prefixes: int | None) -> TtWish:
        """Sizes that are given, and usual ones for the others."""
        return cls(
            lanes=LANES if lanes is None else lanes,
            prefixes=PREFIXES if prefixes is None else prefixes,
        )


def with_tt(
    shape: ModelShape,
    tables: Sequence[TableDemand],
    patterns: Sequence[Pattern],
    budget: Budget,
    batch: int,
    wish: TtWish,
) -> list[Pattern]:
    """Give every pattern reconstructors for the ranks behind those that it keeps on chip.

    Raises
    ------
    ConfigError
        If a table cannot be had in TT form.
    PlanError
        If no pattern has room for them.
    """
    if not any(table.tt_rank for table in tables):
        return list(patterns)
    made = []
    for pattern in patterns:
        parts = _parts(tables, pattern, wish)
        params = _params(pattern.params, parts, wish)
        loads = tt_loads(tables, parts)
        found = make_pattern(shape, budget, batch, params, loads)
        made.append(dataclasses.replace(found, onchip=pattern.onchip, tt=parts))
    fitting = [pattern for pattern in made if not excess(pattern, budget)]
    if not fitting:
        raise nothing_fits(made, budget)
    return fitting


def _params(params: DeviceParams, parts: Sequence[TtPart | None], wish: TtWish) -> DeviceParams:
    built = [part for part in parts if part is not None]
    try:
        tt = reconstructor(
            [part.shape for part in built],
            [part.pins for part in built],
            slice_lanes=params.gather.lanes,
            lanes=wish.lanes,
        )
        return params.with_tt(tt)
    except ValueError as error:
        shapes = [part.shape for part in built]
        ranks = [max(shape.ranks) for shape in shapes]
        raise ConfigError(
            f"tables in TT form, of ranks {ranks} and dimensions "
            f"{[shape.dim for shape in shapes]}, do not fit a reconstructor: {error}; "
            "a smaller tt_rank does",
            field="plan.table",
        ) from error


def _parts(
    tables: Sequence[TableDemand], pattern: Pattern, wish: TtWish
) -> tuple[TtPart | None, ...]:
    """TT ranks of every table, with no prefix more pinned than ``wish`` has."""
    cores = pattern.params.memory
    onchip = pattern.onchip or (0,) * len(tables)
    parts: list[TtPart | None] = []
    for table, first in zip(tables, onchip, strict=True):
        # a range ends with a whole group of one rank per memory core, or with the table
        last = min(table.shape.rows, -(-table.tt_rows // cores) * cores)
        if table.tt_rank is None or first >= last:
            parts.append(None)
            continue
        try:
            shape = choose_shape(last - first, table.shape.dim, table.tt_rank)
        except ValueError as error:
            raise ConfigError(
                f"table {table.shape.name!r} in TT form: {error}", field="plan.table"
            ) from error
        parts.append(TtPart(first, last, shape))
    pins = _pins(tables, parts, wish.prefixes)
    return tuple(
        part and dataclasses.replace(part, pins=count)
        for part, count in zip(parts, pins, strict=True)
    )


def _pins(
    tables: Sequence[TableDemand], parts: Sequence[TtPart | None], prefixes: int
) -> list[int]:
    """Pinned prefixes of every table: those that most lookups go to."""
    rated: list[tuple[float, int]] = []
    for number, (table, part) in enumerate(zip(tables, parts, strict=True)):
        if part is None:
            continue
        rates, width = table.rates, part.shape.p[2]
        edges = np.arange(min(prefixes, part.shape.prefixes) + 1) * width + part.first
        tails = [rates.tail(rates.rates, min(int(edge), part.last)) for edge in edges]
        rated += [(before - after, number) for before, after in itertools.pairwise(tails)]
    pins = [0] * len(tables)
    # rates fall along the ranks, so the hottest prefixes of a table are its first
    for rate, number in sorted(rated, key=lambda entry: -entry[0])[:prefixes]:
        pins[number] += rate > 0
    return pins
