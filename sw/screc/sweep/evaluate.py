"""One task of a sweep: analyse a log, plan a point, or measure it. It ends in a record."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from screc import files, flow
from screc.errors import CheckError, ConfigError, PlanError, PlanErrorKind, ScrecError
from screc.sweep.figures import measured_figures, planned_figures
from screc.sweep.grid import Case
from screc.sweep.work import Record, Work

Kind = Literal["analyse", "plan", "measure"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker is sent; ``folder`` is the work folder, which every worker must reach."""

    kind: Kind
    key: str
    """Of the analysis, the plan or the measurement."""
    case: Case
    folder: Path
    analysis: str = ""
    plan: str = ""


def perform(task: Task) -> Record:
    """Do a task and keep its record where it will not change by trying again."""
    work = Work(task.folder)
    if task.kind == "analyse":
        return _attempt(lambda: _analyse(task, work))[0]
    kind, function = ("planned", _plan) if task.kind == "plan" else ("measured", _measure)
    record, final = _attempt(lambda: function(task, work))
    if final:
        work.finish(kind, task.key, record)
    return record


def failed(error: Exception) -> Record:
    """Return the record of a point that ``error`` ended."""
    text = str(error) if isinstance(error, ScrecError) else f"{type(error).__name__}: {error}"
    infeasible = isinstance(error, PlanError) and error.kind is not PlanErrorKind.SOLVER
    return {"status": "infeasible" if infeasible else "error", "message": text}


def _attempt(function: Callable[[], dict[str, Any]]) -> tuple[Record, bool]:
    """Return the record of what ``function`` finds or fails with, and whether that is final.

    Faults of the machine, such as a full disk, a missing tool or a solver out of time, are not:
    they are tried again when the sweep is.
    """
    try:
        return {"status": "ok", "message": None, **function()}, True
    except (ConfigError, PlanError, CheckError) as error:
        record = failed(error)
        solver = isinstance(error, PlanError) and error.kind is PlanErrorKind.SOLVER
        return record, not solver
    except Exception as error:
        return failed(error), False


def _context(task: Task, folder: Path) -> flow.Context:
    return flow.Context(task.case.config, task.case.shape, folder, verbosity=-1)


def _analyse(task: Task, work: Work) -> dict[str, Any]:
    flow.run(_context(task, work.analysis(task.key)), "analyze")
    return {}


def _plan(task: Task, work: Work) -> dict[str, Any]:
    folder = work.plan(task.key)
    _link(work.analysis(task.analysis), folder)
    flow.run(_context(task, folder), "plan")
    plan = files.read_json(folder / "plan.json")
    return planned_figures(task.case.config, task.case.shape.name, plan)


def _measure(task: Task, work: Work) -> dict[str, Any]:
    folder = work.plan(task.plan)
    failure: CheckError | None = None
    try:
        flow.run(_context(task, folder), "simulate")
    except CheckError as error:
        if not (folder / "simulation.json").exists():
            raise
        failure = error  # it ran, and its words differ: its figures are told all the same
    simulation = files.read_json(folder / "simulation.json")
    work.drop_bulk(task.plan)
    figures = measured_figures(task.case.config, simulation)
    return figures if failure is None else {**figures, **failed(failure)}


def _link(source: Path, folder: Path) -> None:
    """Give ``folder`` the analysis in ``source``, unless it has one; no copy where links can be.

    Both are written whole or not at all, and never changed in place. The flow's record of what is
    up to date comes last: without it the analysis would be done again.
    """
    if (folder / flow.STATE_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in source.iterdir() if not path.name.startswith(".")]
    for name in [*sorted(names), flow.STATE_FILE]:
        target = folder / name
        target.unlink(missing_ok=True)
        try:
            os.link(source / name, target)
        except OSError:
            with files.atomic_file(target) as temporary:
                shutil.copyfile(source / name, temporary)
