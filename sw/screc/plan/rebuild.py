"""The same problem with other figures of its devices: what would be if there were more of one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from screc.plan.budget import RESOURCES, Budget
from screc.plan.catalogue import Catalogue, Pattern, enumerate_patterns
from screc.plan.problem import DeviceClass, Problem
from screc_hw.model import ModelShape

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
    classes[klass] = (
        with_patterns(changed, klass)
        if any(name in SHAPING for name in figures)
        else dataclasses.replace(new, patterns=_rated(changed, klass))
    )
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
        most = sum(
            min(table.most_onchip, table.shape.rows) * table.row_beats for table in problem.tables
        )
    patterns = enumerate_patterns(
        catalogue_of(problem),
        each.budget,
        each.pins,
        alone=not problem.exchange,
        onchip_beats=most,
        reconstructors=each.reconstructors,
    )
    return dataclasses.replace(each, patterns=patterns)


def _rated(problem: Problem, klass: int) -> tuple[Pattern, ...]:
    """The same cores with the class's figures."""
    catalogue, each = catalogue_of(problem), problem.classes[klass]
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
        for p in each.patterns
    )


def replaced(problem: Problem, classes: Sequence[DeviceClass]) -> Problem:
    """Return the problem with other classes."""
    return dataclasses.replace(problem, classes=tuple(classes))
