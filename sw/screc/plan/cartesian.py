"""Cartesian tables: two small tables merged into one, so that one access reads both rows.

Row ``a × |B| + b`` of the merged table ``A*B`` is row ``a`` of ``A`` and row ``b`` of ``B`` side by
side. Which tables are merged is MicroRec's rule: of the ``n`` smallest ones the smallest with the
largest, and so on inwards; the best ``n`` is searched for.

References
----------
Jiang et al.: MicroRec: Efficient Recommendation Inference by Hardware and Data Structure Solutions,
MLSys 2021.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind
from screc.plan.catalogue import LATENCY_CYCLES
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.rebuild import with_patterns
from screc.plan.schema import Plan
from screc.plan.solve import Progress, relaxed_value, solve
from screc.plan.tt import reconstructors
from screc_hw.memory.params import MAX_ROW_BEATS
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES

DRAM_SHARE = 0.01
"""Of all devices' DRAM: no merged table is larger."""

PIECES = 300
"""Pieces of a merged table's curve at most."""

FACTOR_PIECES = 500
"""Pieces of a table's curve at most before it is multiplied with another."""

TRIALS = 6
"""Sets of pairs that are tried at most."""

IDLE_TRIALS = 2
"""Trials in a row that gain nothing more, after one that did, which end the search.

Not before: slices get wider only when all tables of the least dimension are merged, and the
smallest tables may be on chip.
"""

GAIN = 1e-3
"""Relative gain below which tables stay as they are."""

TOLERANCE = 1e-6
"""Relative: how far rates of a log may be from one lookup per sample."""

Pair = tuple[str, str]
Left = Callable[[], float | None]


# --- search ---


def solve_with_cartesian(
    problem: Problem,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    progress: Progress = lambda text: None,
) -> Plan:
    """Find a plan as :func:`screc.plan.solve.solve` does, with tables merged where that is better.

    Pairs are in the plan's ``cartesian``. It is a plan of ``merged(problem, plan.cartesian)``: so
    are its bound and its gap, and so it is checked. Its value is never worse than without.

    Raises
    ------
    PlanError
        If there is no plan either way: why there is none of the tables as they are.
    """
    started = time.perf_counter()

    def left() -> float | None:  # the solver itself says so when none is
        return None if time_limit is None else time_limit - (time.perf_counter() - started)

    plan: Plan | None = None
    refused: PlanError | None = None
    try:
        plan = solve(problem, solver=solver, time_limit=left(), progress=progress)
    except PlanError as error:
        if problem.objective == "throughput" or error.kind is PlanErrorKind.SOLVER:
            raise
        refused = error  # with fewer accesses the rate may be reached
    try:
        pairs, best = _search(problem, solver, left, progress)
        if best is not None:
            progress(f"{len(pairs)} merged tables")
            found = solve(best, solver=solver, time_limit=left())
            if plan is None or found.value < plan.value * (1 - GAIN):
                plan = found.model_copy(update={"cartesian": pairs})
    except (PlanError, CheckError):
        pass  # no time is left, or nothing was placed: the plan without is there
    if plan is None:
        assert refused is not None  # or there would be a plan
        raise refused
    return plan.model_copy(update={"solve_seconds": time.perf_counter() - started})


def _search(
    problem: Problem, solver: str, left: Left, progress: Progress
) -> tuple[tuple[Pair, ...], Problem | None]:
    """Pairs of the best relaxed value, and the problem with them merged; None where none gains."""
    pairs: tuple[Pair, ...] = ()
    best: Problem | None = None
    choices = spread(problem, choices_of(problem))
    if not choices:
        return pairs, best
    least = relaxed_value(problem, solver=solver, time_limit=left())
    if problem.objective == "throughput" and least * (1 - GAIN) < computing_seconds(problem):
        return pairs, best
    idle = 0
    for choice in choices:
        progress(f"{len(choice)} merged tables, relaxed")
        try:
            tried = merged(problem, choice)
        except (ConfigError, PlanError):  # no core takes rows of that size
            break
        value = relaxed_value(tried, solver=solver, time_limit=left())
        if value < least * (1 - GAIN):
            least, pairs, best, idle = value, choice, tried, 0
            continue
        idle += 1
        if best is not None and idle == IDLE_TRIALS:
            break
    return pairs, best


def computing_seconds(problem: Problem) -> float:
    """Time per sample that the compute cores' own work takes, with the most of them that fit."""
    rate = 0.0
    for each in problem.classes:
        cycles = [
            pattern.core.cycles(problem.compute_shape, pattern.core.rows, latency=LATENCY_CYCLES)
            * math.ceil(math.ceil(problem.batch / pattern.core.rows) / pattern.compute)
            for pattern in each.patterns
            if pattern.core is not None
        ]
        if cycles:
            rate += each.count * problem.batch * each.budget.clock_hz / min(cycles)
    return 1 / rate


def spread(problem: Problem, choices: Sequence[tuple[Pair, ...]]) -> list[tuple[Pair, ...]]:
    """At most :data:`TRIALS` of the choices, in their order, the last one among them.

    And the first one that has the widest slices, where these are wider than without.
    """
    many = len(choices)
    if many <= TRIALS:
        return list(choices)
    lanes = [_lanes(problem, pairs) for pairs in choices]
    widest = lanes.index(max(lanes))
    places = _evenly(many, TRIALS)
    if lanes[widest] > DeviceParams.lanes(problem.shape) and widest not in places:
        places = sorted([*_evenly(many, TRIALS - 1), widest])
    return [choices[place] for place in places]


def _evenly(many: int, count: int) -> list[int]:
    """``count`` of ``many`` places, the last one among them."""
    return [round(many * (i + 1) / count) - 1 for i in range(count)]


def _lanes(problem: Problem, pairs: Sequence[Pair]) -> int:
    tables = {table.name: table for table in problem.shape.tables}
    shapes = [merged_shape(tables.pop(a), tables.pop(b)) for a, b in pairs]
    shape = dataclasses.replace(problem.shape, tables=(*tables.values(), *shapes))
    return DeviceParams.lanes(shape)


# --- what may be merged ---


def choices_of(problem: Problem) -> list[tuple[Pair, ...]]:
    """Sets of pairs by MicroRec's rule, of more and more of the smallest tables.

    They end where a pair would take more than its share of the DRAM: pairs only grow.
    """
    tables = problem.tables
    order = sorted(candidates(problem), key=lambda i: (tables[i].shape.rows * tables[i].stride, i))
    room = DRAM_SHARE * sum(each.count * each.budget.dram_bytes for each in problem.classes)
    found: list[tuple[Pair, ...]] = []
    for many in range(2, len(order) + 1, 2):
        alike: dict[object, list[int]] = defaultdict(list)
        for number in order[:many]:
            alike[_kind(tables[number])].append(number)
        pairs = [
            (min(a, b), max(a, b))
            for group in alike.values()
            for a, b in zip(group[: len(group) // 2], reversed(group), strict=False)
        ]
        shapes = [merged_shape(tables[a].shape, tables[b].shape) for a, b in pairs]
        if any(
            shape.rows * shape.stride_bytes(BEAT_BYTES) > room
            or shape.row_beats(BEAT_BYTES) > MAX_ROW_BEATS
            for shape in shapes
        ):
            break
        names = tuple((tables[a].shape.name, tables[b].shape.name) for a, b in sorted(pairs))
        if names and names not in found:
            found.append(names)
    return found


def candidates(problem: Problem) -> list[int]:
    """Tables that may be merged, by number.

    One feature alone reads them, exactly one row per sample; rows have no scale of their own and
    are in no TT form; nothing but their tiers is asked for.
    """
    readers: dict[int, list[FeatureShape]] = defaultdict(list)
    for feature in problem.shape.features:
        readers[feature.table].append(feature)
    found = []
    for number, table in enumerate(problem.tables):
        mine = readers[number]
        if len(mine) != 1 or mine[0].weighted:
            continue
        once = (mine[0].pooling, table.bags, table.rates.lookups)
        if any(not math.isclose(each, 1, rel_tol=TOLERANCE) for each in once):
            continue
        plain = table.tt is None and not table.tt_only and table.onchip_rows is None
        if plain and not table.shape.rowwise:
            found.append(number)
    return found


def _kind(table: TableDemand) -> object:
    """What two tables must agree in."""
    return table.shape.format, table.onchip, table.dram, table.ssd, table.replicate


# --- merging ---


def merged(problem: Problem, pairs: Sequence[Pair]) -> Problem:
    """Return the problem with pairs of tables, by name, merged; cores are chosen from anew.

    A merged table ``A*B`` takes the place of ``A``. Compute cores have the same work as before.

    Raises
    ------
    ConfigError
        If cores cannot have rows of that size.
    PlanError
        If no pattern of cores fits a device.
    """
    if not pairs:
        return problem
    numbers = {table.shape.name: number for number, table in enumerate(problem.tables)}
    second = {numbers[a]: numbers[b] for a, b in pairs}
    gone = set(second.values())
    tables = [
        _merged_demand(table, problem.tables[second[i]]) if i in second else table
        for i, table in enumerate(problem.tables)
        if i not in gone
    ]
    shape = _merged_model(problem.shape, second, tuple(table.shape for table in tables))
    changed = dataclasses.replace(problem, shape=shape, tables=tables)
    classes = [_merged_class(problem, changed, each) for each in problem.classes]
    changed = dataclasses.replace(changed, classes=tuple(classes))
    patterned = tuple(with_patterns(changed, k) for k in range(len(classes)))
    return dataclasses.replace(changed, classes=patterned)


def merged_shape(a: TableShape, b: TableShape) -> TableShape:
    """Shape of the Cartesian product of two tables of one format."""
    return TableShape(
        name=f"{a.name}*{b.name}", rows=a.rows * b.rows, dim=a.dim + b.dim, format=a.format
    )


def _merged_demand(a: TableDemand, b: TableDemand) -> TableDemand:
    return dataclasses.replace(
        a, shape=merged_shape(a.shape, b.shape), rates=product(a.rates, b.rates), bags=1.0
    )


def _merged_model(
    shape: ModelShape, second: dict[int, int], tables: tuple[TableShape, ...]
) -> ModelShape:
    """The model as memory cores see it; of one row per sample a mean is a sum."""
    gone = set(second.values())
    kept = [number for number in range(len(shape.tables)) if number not in gone]
    place = {number: i for i, number in enumerate(kept)}
    reader = {feature.table: feature for feature in shape.features}
    features = []
    for feature in shape.features:
        if feature.table in gone:
            continue
        if feature.table in second:
            other = reader[second[feature.table]]
            feature = dataclasses.replace(feature, name=f"{feature.name}*{other.name}", mode="sum")
        features.append(dataclasses.replace(feature, table=place[feature.table]))
    return dataclasses.replace(shape, tables=tables, features=tuple(features))


def _merged_class(before: Problem, after: Problem, each: DeviceClass) -> DeviceClass:
    """The class with what its patterns are enumerated with; not enumerated yet."""
    from screc.plan.step import onchip_beats  # which imports this module

    tt = each.reconstructors
    lanes = DeviceParams.lanes(after.shape)
    lane_counts = {params.lanes for params in tt if params is not None}
    if lane_counts and lanes != DeviceParams.lanes(before.shape):
        tt = tuple(
            reconstructors(
                after.tables,
                slice_lanes=lanes,
                lanes=min(lane_counts) if len(lane_counts) == 1 else None,
                devices=after.devices,
            )
        )
    return dataclasses.replace(
        each,
        onchip_beats=each.onchip_beats and onchip_beats(after.tables),
        reconstructors=tt,
    )


def product(a: RateCurve, b: RateCurve) -> RateCurve:
    """Rates of pairs of rows, hottest first, if one of each is read per sample.

    The two are taken as independent. The coldest pieces are put together, see :func:`coarser`.
    """
    a, b = coarser(a, FACTOR_PIECES), coarser(b, FACTOR_PIECES)
    rates = np.outer(a.rates, b.rates).ravel() / (a.lookups * b.lookups)
    widths = np.outer(a.widths, b.widths).ravel()
    order = np.argsort(-rates, kind="stable")
    edges = np.concatenate([[0], np.cumsum(widths[order])])
    return coarser(RateCurve(edges, rates[order]), PIECES)


def coarser(curve: RateCurve, pieces: int) -> RateCurve:
    """The same rows and lookups in fewer pieces, each of its mean rate.

    Half of the pieces are the hottest ones as they are, the others evenly spaced by the logarithm
    of the rate; rows that are never read stay apart.
    """
    if len(curve.rates) <= pieces:
        return curve
    hot = pieces // 2
    read = int(np.count_nonzero(curve.rates))  # rates fall: those are the first
    cuts = np.arange(hot + 1)
    if read > hot:
        logs = np.log(curve.rates[hot:read])
        levels = np.linspace(logs[0], logs[-1], pieces - hot)[1:-1]
        cuts = np.concatenate([cuts, hot + np.searchsorted(-logs, -levels)])
    cuts = np.unique(np.concatenate([cuts, [read, len(curve.rates)]]))
    edges = curve.edges[cuts]
    lookups = np.add.reduceat(curve.rates * curve.widths, cuts[:-1])
    return RateCurve(edges, np.minimum.accumulate(lookups / np.diff(edges)))
