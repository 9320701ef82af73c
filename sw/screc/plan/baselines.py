"""Other ways to place tables, scored like the planner's own plan.

Each fixes its placement only: which rows of which table are where. The planner then gives it its
best core patterns and shares of samples, and the same checker recomputes its figures.

None of them knows rows on chip or in TT form, stripes, or tables on several devices: rows are in
DRAM or on SSD. A table that may be nowhere but on chip is put there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan.check import measure
from screc.plan.placements import Placement, by_both, by_lookups, by_size, greedy, torchrec
from screc.plan.problem import Problem
from screc.plan.recshard import TIME_LIMIT, recshard
from screc.plan.schema import Plan
from screc.plan.stamp import stamped

LEAST_GAIN = 1e-9
"""Relative: what a baseline must be better by, to be the plan."""

MORE_DEVICES = 2
"""For energy: counts of devices that are tried beside the fewest that do."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison; ``factor`` is its value ÷ the plan's.

    ``plan`` is that of the value, as the checker recomputed it; None where there is no value.
    """

    name: str
    value: float | None
    factor: float | None
    reason: str | None = None
    note: str | None = None
    seconds: float = 0.0
    plan: Plan | None = dataclasses.field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """What ``screc plan --compare --json`` says of it."""
        names = ("name", "value", "factor", "reason", "note", "seconds")
        return {name: getattr(self, name) for name in names}


BASELINES: Mapping[str, Callable[..., Placement]] = {
    "greedy_size": lambda problem: greedy(problem, by_size),
    "greedy_lookups": lambda problem: greedy(problem, by_lookups),
    "greedy_size_lookups": lambda problem: greedy(problem, by_both),
    "recshard": recshard,
    "torchrec": torchrec,
}
"""Placements by name."""

TIMED = frozenset({"recshard"})
"""Those that take the time they are given, as ``time_limit``."""


def without_tt(problem: Problem) -> Problem:
    """Return the problem without TT forms.

    Raises
    ------
    PlanError
        If a table may live in TT form only.
    """
    for table in problem.tables:
        if table.tt_only:
            raise PlanError(
                PlanErrorKind.TIER, f"table {table.shape.name!r} may live in TT form only"
            )
    tables = [dataclasses.replace(table, tt=None) for table in problem.tables]
    return dataclasses.replace(problem, tables=tables)


def without_stripes(problem: Problem) -> Problem:
    """Return the problem with every table on one device."""
    return dataclasses.replace(problem, split=False)


def without_onchip(problem: Problem) -> Problem:
    """Return the problem without rows on chip, but for tables that may live nowhere else."""
    tables = [
        dataclasses.replace(table, onchip=False) if table.dram or table.ssd else table
        for table in problem.tables
    ]
    return dataclasses.replace(problem, tables=tables)


ABLATIONS: Mapping[str, Callable[[Problem], Problem]] = {
    "without_tt": without_tt,
    "without_stripes": without_stripes,
    "without_onchip": without_onchip,
}
"""The planner itself with less to choose from."""


def compare(problem: Problem, plan: Plan, *, time_limit: float = TIME_LIMIT) -> list[Row]:
    """Score every baseline and every ablation on a problem that ``plan`` solves."""
    rows: list[Row] = []
    for name in names():
        rows.append(compare_one(problem, plan, name, time_limit=time_limit, known=rows))
    return rows


def names() -> list[str]:
    """Names of all baselines and ablations."""
    return [*BASELINES, *ABLATIONS]


def compare_one(
    problem: Problem,
    plan: Plan,
    name: str,
    *,
    time_limit: float = TIME_LIMIT,
    known: Sequence[Row] = (),
) -> Row:
    """Score one baseline or ablation; without a value where it has no plan, with the reason.

    Parameters
    ----------
    time_limit
        Seconds; the best plan that was found by then counts.
    known
        Rows so far: those of their plans that an ablation allows are plans of it too.
    """
    started = time.perf_counter()
    found: Plan | None = None
    reason = note = None
    try:
        if name in BASELINES:
            found, note = _score(problem, plan, name, started + time_limit)
        else:
            found, note = _ablated(problem, plan, name, time_limit, known)
    except (PlanError, CheckError) as error:
        reason = str(error).splitlines()[0]
    seconds = time.perf_counter() - started
    if found is None:
        return Row(name, None, None, reason=reason, seconds=seconds)
    value = found.value
    return Row(name, value, value / plan.value, note=note or None, seconds=seconds, plan=found)


def best_baseline(rows: Sequence[Row]) -> Row | None:
    """The best row that is no ablation; None where no baseline has a plan."""
    found = [row for row in rows if row.name in BASELINES and row.value is not None]
    return min(found, key=lambda row: row.value or math.inf, default=None)


def best_plan(problem: Problem, plan: Plan, rows: Sequence[Row]) -> tuple[Plan, str | None]:
    """The best of ``plan`` and the rows' plans, and the name of its row; None for ``plan`` itself.

    A row's plan is one of ``problem`` too. The checker says its figures; bound, intervals, merged
    tables and time to solve are those of ``plan``.
    """
    found, name = plan, None
    for row in rows:
        if row.plan is None or row.plan is plan:
            continue
        try:
            checked = measure(row.plan, problem)
        except CheckError:  # not of this problem: its tables are not merged
            continue
        if checked.value < found.value * (1 - LEAST_GAIN):
            found, name = stamped(row.plan, checked, plan.intervals), row.name
    if name is None:
        return plan, None
    bound = min(plan.bound, found.value)
    return found.model_copy(
        update={
            "bound": bound,
            "gap": (found.value - bound) / bound,
            "solve_seconds": plan.solve_seconds,
            "cartesian": plan.cartesian,
        }
    ), name


def beside(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Rows with their factors to another plan."""
    return [
        row if row.value is None else dataclasses.replace(row, factor=row.value / plan.value)
        for row in rows
    ]


def _keeps(plan: Plan, problem: Problem) -> bool:
    """Whether a plan is one of another problem, too."""
    try:
        measure(plan, problem)
    except CheckError:
        return False
    return True


def _ablated(
    problem: Problem, plan: Plan, name: str, time_limit: float, known: Sequence[Row]
) -> tuple[Plan, str]:
    """Plan of an ablation; ``plan`` itself where it does without what is taken away.

    Raises
    ------
    PlanError
        If none was found in time and none of the known plans is one.
    """
    started = time.perf_counter()
    less = ABLATIONS[name](problem)
    if _keeps(plan, less):
        return plan, ""
    allowed = [row for row in known if row.plan is not None and _keeps(row.plan, less)]
    best = min(allowed, key=lambda row: row.value or math.inf, default=None)
    try:
        found = _solve(less, time_limit - (time.perf_counter() - started))
    except PlanError as error:
        if best is None or best.plan is None:
            raise
        return best.plan, f"as {best.name}: {str(error).splitlines()[0]}"
    if best is not None and best.plan is not None and best.plan.value < found.value:
        return best.plan, f"as {best.name}: the planner found {found.value:.6g}"
    stopped = time.perf_counter() - started >= time_limit
    return found, f"the best in {time_limit:g} s" if stopped else ""


def _score(problem: Problem, plan: Plan, name: str, end: float) -> tuple[Plan, str]:
    """Plan of a baseline; for ``energy`` and ``devices`` with as many devices as suit it best.

    For ``devices`` from the proven fewest on; for ``energy`` from one fewer than ``plan`` uses. No
    further count is tried after ``end``. What takes time is tried with all devices first, in half
    of it, as these are the likeliest to do.

    Raises
    ------
    PlanError
        If it has no plan with any count of devices: that of all devices.
    """
    several = problem.objective != "throughput" and problem.devices > 1
    least = len(plan.devices) - 1
    if problem.objective == "devices":
        least = math.ceil(plan.bound - 1e-6)
    choices = list(_with_fewer_devices(problem, least)) if several else [problem]
    all_first = name in TIMED and len(choices) > 1
    if all_first:
        choices = [choices[-1], *choices[:-1]]
    best: tuple[Plan, str] | None = None
    fewest = problem.devices
    failure: PlanError | None = None
    for number, fewer in enumerate(choices):
        if best is not None and fewer.devices > fewest + MORE_DEVICES:
            break
        left = end - time.perf_counter()
        if number and left <= 0:
            break
        try:
            if name in TIMED:
                share = left / min(2, len(choices) - number)
                placement = BASELINES[name](fewer, time_limit=share)
            else:
                placement = BASELINES[name](fewer)
            found = _solve_placed(fewer, placement)
        except PlanError as error:
            failure = error
            continue
        fewest = min(fewest, fewer.devices)
        if best is None or found.value < best[0].value:
            best = (found, placement.note)
        if problem.objective == "devices" and (number or not all_first):
            break
    if best is None:
        assert failure is not None  # one count is tried at least
        raise failure
    return best


def _with_fewer_devices(problem: Problem, least: int) -> Iterator[Problem]:
    """Yield the problem with every count of devices from ``least`` on, all of them last."""
    counts = itertools.product(*(range(each.count + 1) for each in problem.classes))
    enough = [c for c in counts if sum(c) >= max(least, 1)]
    for chosen in sorted(enough, key=lambda c: (sum(c), c)):
        classes = [
            dataclasses.replace(each, count=count)
            for each, count in zip(problem.classes, chosen, strict=True)
            if count
        ]
        yield dataclasses.replace(problem, classes=classes)


def _solve(problem: Problem, time_limit: float) -> Plan:
    from screc.plan.solve import unproven  # the solver takes half a second to import

    return unproven(problem, time_limit=time_limit)


def _solve_placed(problem: Problem, placement: Placement) -> Plan:
    from screc.plan.placed import solve_placed

    return solve_placed(problem, placement.devices)
