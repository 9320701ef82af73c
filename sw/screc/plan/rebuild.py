"""The same problem with other figures of its devices: what would be if there were more of one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from screc.plan.budget import RESOURCES, Budget
from screc.plan.catalogue import Catalogue, Pattern, Pins, enumerate_patterns
from screc.plan.problem import DeviceClass, Problem
from screc_hw.device.params import max_memory
from screc_hw.model import ModelShape
from screc_hw.tt.params import TtParams

WHOLE_FIGURES = (*RESOURCES, "channels", "slrs")
"""Figures that are counts."""

SHAPING = (*RESOURCES, "channels")
"""Figures that decide which patterns there are; with others the same ones are faster or larger."""


@functools.lru_cache(maxsize=4)
def _catalogue(shape: ModelShape, compute_shape: ModelShape, batch: int) -> Catalogue:
    return Catalogue(shape, compute_shape, batch)


def catalogue_of(problem: Problem) -> Catalogue:
    """The catalogue of the problem's model; parts that were rated once are kept."""
    return _catalogue(problem.shape, problem.compute_shape, problem.batch)


def rebuild(
    problem: Problem, klass: int, *, count: int | None = None, **figures: float | None
) -> Problem:
    """Return ``problem`` with other figures, or another count, of one class of devices.

    Parameters
    ----------
    klass
        Number of the class.
    count
        Devices of it; None: as many as there are.
    **figures
        By their names in ``[[device]]``.

    Raises
    ------
    PlanError
        If no pattern of cores fits the device then.
    """
    old = problem.classes[klass]
    if any(name in figures for name in WHOLE_FIGURES):
        figures = {n: int(v) if n in WHOLE_FIGURES and v else v for n, v in figures.items()}
    budget = Budget(dataclasses.replace(old.budget.spec, **figures))  # type: ignore[arg-type]
    new = dataclasses.replace(old, budget=budget, count=old.count if count is None else count)
    classes = list(problem.classes)
    classes[klass] = new
    changed = dataclasses.replace(problem, classes=tuple(classes))
    if changed.exchange != problem.exchange:  # a device that is alone must have all kinds of cores
        every = range(len(classes))
        return dataclasses.replace(changed, classes=tuple(with_patterns(changed, k) for k in every))
    if any(name in SHAPING for name in figures):
        classes[klass] = with_patterns(changed, klass)
    else:
        classes[klass] = dataclasses.replace(new, patterns=_rated(changed, new, new.patterns))
    return dataclasses.replace(problem, classes=tuple(classes))


def with_patterns(problem: Problem, klass: int) -> DeviceClass:
    """The class with its patterns enumerated again.

    Raises
    ------
    PlanError
        If none fits.
    """
    each = problem.classes[klass]
    most = each.onchip_beats
    if most is None:
        rows = (min(table.most_onchip, table.shape.rows) for table in problem.tables)
        most = sum(n * t.row_beats for n, t in zip(rows, problem.tables, strict=True))
        if most:  # uneven stripes, see ``screc.plan.solve``
            most += 4 * max(8, len(problem.tables)) * max_memory()
    shaping = tuple(getattr(each.budget.spec, name) for name in SHAPING)
    found = _enumerated(
        problem.shape,
        problem.compute_shape,
        problem.batch,
        _Shaping(
            each.budget,
            (
                *shaping,
                *(
                    tuple(limits.values())
                    for limits in (each.budget.limits, *each.budget.slr_limits)
                ),
            ),
        ),
        each.pins,
        not problem.exchange,
        most,
        each.reconstructors,
    )
    return dataclasses.replace(each, patterns=_rated(problem, each, found))


@dataclasses.dataclass(frozen=True)
class _Shaping:
    """A budget, of which what decides the patterns that there are is compared alone.

    All else scales every pattern's figures alike, so that none comes to dominate another one.
    """

    budget: Budget = dataclasses.field(compare=False)
    figures: tuple[object, ...]


@functools.lru_cache(maxsize=256)
def _enumerated(
    shape: ModelShape,
    compute_shape: ModelShape,
    batch: int,
    shaping: _Shaping,
    pins: Pins,
    alone: bool,
    onchip_beats: int,
    reconstructors: tuple[TtParams | None, ...],
) -> tuple[Pattern, ...]:
    return enumerate_patterns(
        _catalogue(shape, compute_shape, batch),
        shaping.budget,
        pins,
        alone=alone,
        onchip_beats=onchip_beats,
        reconstructors=reconstructors,
    )


def _rated(problem: Problem, each: DeviceClass, patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    """The same cores with the class's figures."""
    catalogue = catalogue_of(problem)
    return tuple(
        catalogue.make(
            each.budget,
            memory=p.memory,
            compute=p.compute,
            rows=p.core.rows if p.core else p.gather.rows if p.gather else 8,
            columns=p.core.columns if p.core else 8,
            slots=p.core.slots if p.core else p.gather.slots if p.gather else 4,
            stream=bool(p.core and p.core.stream_words),
            pool_beats=p.gather.pool_beats if p.gather else 1,
            tt=p.tt,
            onchip_beats=p.gather.onchip_beats if p.gather else 0,
        )
        for p in patterns
    )
