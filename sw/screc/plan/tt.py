"""Rows in tensor-train form: in what shape, which prefixes are pinned, which reconstructors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from screc.errors import ConfigError
from screc.plan.device import reconstructor
from screc.plan.problem import TableDemand, TtOption
from screc.tt.shape import choose_shape
from screc_hw.tt.params import TtParams

COVERAGE = 0.9
"""Share of a table's lookups that its hottest rows, on chip and in TT form, answer unless said."""

PREFIXES = 512
"""Prefixes pinned in every reconstructor unless said."""

LANES = (1, 2, 4)
"""Lanes of a reconstructor to choose from unless said."""


@dataclasses.dataclass(frozen=True)
class TtWish:
    """TT form of one table: ``rank`` of its cores, hottest ``rows``, and what that costs."""

    rank: int
    rows: int
    loss: float = 0.0


def with_tt(
    tables: Sequence[TableDemand], wishes: Mapping[int, TtWish], prefixes: int | None
) -> list[TableDemand]:
    """Give tables their TT form; ``wishes`` by the table's number.

    Raises
    ------
    ConfigError
        If a table cannot be had in TT form.
    """
    options: dict[int, TtOption] = {}
    for number, wish in wishes.items():
        shape = tables[number].shape
        try:
            cores = choose_shape(wish.rows, shape.dim, wish.rank)
        except ValueError as error:
            raise ConfigError(
                f"table {shape.name!r} in TT form: {error}", field="plan.table"
            ) from error
        options[number] = TtOption(last=wish.rows, shape=cores, loss=wish.loss)
    pins = _pins(tables, options, PREFIXES if prefixes is None else prefixes)
    return [
        dataclasses.replace(
            table,
            rates=table.rates.cut(options[number].last),
            tt=dataclasses.replace(options[number], pins=pins[number]),
        )
        if number in options
        else table
        for number, table in enumerate(tables)
    ]


def _pins(
    tables: Sequence[TableDemand], options: Mapping[int, TtOption], prefixes: int
) -> dict[int, int]:
    """Pinned prefixes of every table: those that most lookups go to."""
    rated: list[tuple[float, int]] = []
    for number, option in options.items():
        rates, width = tables[number].rates, option.shape.p[2]
        edges = np.arange(min(prefixes, option.shape.prefixes) + 1) * width
        tails = [rates.tail(rates.rates, min(int(edge), option.last)) for edge in edges]
        rated += [(before - after, number) for before, after in itertools.pairwise(tails)]
    pins = dict.fromkeys(options, 0)
    # rates fall along the ranks, so the hottest prefixes of a table are its first
    for rate, number in sorted(rated, key=lambda entry: -entry[0])[:prefixes]:
        pins[number] += rate > 0
    return pins


def reconstructors(
    tables: Sequence[TableDemand], *, slice_lanes: int, lanes: int | None, devices: int
) -> list[TtParams | None]:
    """Reconstructors to choose from: of several lanes, for all tables in TT form and for fewer.

    None is among them where no table must be in TT form.

    Raises
    ------
    ConfigError
        If the tables do not fit a reconstructor.
    """
    own = [table for table in tables if table.tt is not None]
    if not own:
        return [None]
    forced = [table for table in own if table.tt_only]
    own.sort(key=lambda table: (not table.tt_only, -table.rates.lookups))
    counts = {len(own)}
    if len(forced) < len(own) or devices > 1:
        least = max(1, len(forced) if devices == 1 else -(-len(forced) // devices))
        counts |= {count for count in (least, 2 * least, 4 * least) if count < len(own)}
    found: list[TtParams | None] = [] if forced and devices == 1 else [None]
    for count, each in itertools.product(sorted(counts), LANES if lanes is None else (lanes,)):
        chosen = [table.tt for table in own[:count] if table.tt is not None]
        shapes = [option.shape for option in chosen]
        try:
            found.append(
                reconstructor(shapes, [o.pins for o in chosen], slice_lanes=slice_lanes, lanes=each)
            )
        except ValueError as error:
            raise ConfigError(
                f"tables in TT form, of ranks {[max(s.ranks) for s in shapes]} and dimensions "
                f"{[s.dim for s in shapes]}, do not fit a reconstructor: {error}; "
                "a smaller tt_rank does",
                field="plan.table",
            ) from error
    return found
