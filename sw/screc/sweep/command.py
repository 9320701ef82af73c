"""``screc sweep`` as a whole: points, analyses, plans, RTL runs, then the table and the picture."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from screc import flow
from screc.errors import ConfigError
from screc.sweep import work
from screc.sweep.evaluate import Kind, Task, failed
from screc.sweep.grid import Axis, Case, Point, describe, labels, make_points, parse_axes
from screc.sweep.pareto import Front, Row, pareto_front
from screc.sweep.picture import write_picture
from screc.sweep.table import check_names, write_table
from screc.sweep.work import Record, Work
from screc.sweep.workers import Workers

REFRESH_S = 10.0
"""How often the file is written while points are being done, in seconds, at most."""

MIN_WIDTH = 110
"""Columns of text that the tables take at least."""

RTL = ("all", "best", "pareto")
"""Which points are simulated; or how many of the best."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says beside configuration, grid and file.

    ``rtl``: one of :data:`RTL`, a count, or None for no simulation.
    """

    workers: int = 1
    scheduler: str | None = None
    rtl: str | None = None
    picture: str = "svg"
    quiet: bool = False


@dataclasses.dataclass
class Outcome:
    """What a sweep found: a row for each point, and how many plans and RTL runs were done now."""

    axes: list[Axis]
    rows: list[Row]
    file: Path
    picture: Path
    planned: int = 0
    simulated: int = 0

    @property
    def names(self) -> dict[str, str]:
        """Short names of the settings that vary."""
        return labels(self.axes)

    @property
    def front(self) -> Front:
        """The points that no other beats."""
        return pareto_front(self.rows)

    @property
    def measured(self) -> list[Row]:
        """Rows whose RTL was run."""
        return [row for row in self.rows if row.get("measured_cycles_per_sample") is not None]

    @property
    def mismatches(self) -> list[Row]:
        """Rows whose RTL was run and is not bit exact."""
        return [row for row in self.measured if not row["bit_exact"]]

    def winners(self) -> dict[str, Any] | None:
        """Best simulated point by plan, predicted and measured cycles; None where none was run.

        ``same``: no simulated point took fewer cycles than the one predicted to take the fewest.
        """
        rows = [row for row in self.measured if row.get("throughput") is not None]
        if not rows:
            return None
        predicted = min(rows, key=lambda row: row["predicted_cycles_per_sample"])
        measured = min(rows, key=lambda row: row["measured_cycles_per_sample"])
        key = "measured_cycles_per_sample"
        return {
            "planned": max(rows, key=lambda row: row["throughput"]),
            "predicted": predicted,
            "measured": measured,
            "same": predicted[key] == measured[key],
        }


def parse_rtl(text: str | None) -> str | None:
    """Check the value of ``--rtl``."""
    if text is None or text in RTL or (text.isdigit() and int(text) > 0):
        return text
    raise ConfigError(
        f"must be {', '.join(RTL)} or how many of the best, such as 6, not {text!r}", path="--rtl"
    )


def sweep(path: Path, grid: Sequence[str], file: Path, options: Options) -> Outcome:
    """Evaluate every point of a grid and write ``file`` and its picture.

    Parameters
    ----------
    path
        The ``CONFIG.toml``.
    grid
        ``KEY=V1,V2,...`` each.
    file
        The Parquet file. What is finished is kept in the folder ``FILE.work`` beside it, and a
        sweep that was killed goes on from there.
    options
        See :class:`Options`.

    Raises
    ------
    ConfigError
        If the grid is wrong, or the configuration or the log at every point of it.
    ToolchainError
        If points are to be simulated and the simulator is missing; nothing has been run then.
    """
    if file.suffix != ".parquet":
        raise ConfigError(f"must end in .parquet, not {file.suffix!r}", path="--output")
    rtl = parse_rtl(options.rtl)
    axes = parse_axes(grid)
    check_names(axes)
    points = make_points(path, axes)
    if rtl is not None:
        cases = [point.case for point in points if isinstance(point.case, Case)]
        for name in sorted({case.config.simulate.simulator for case in cases}):
            flow.check_simulator(name)
    place = Work(file.with_name(file.name + work.SUFFIX).absolute())
    with place.lock(), Workers(options.workers, options.scheduler) as workers:
        run = _Sweep(axes, points, file, place, workers, _console(options.quiet))
        run.analyse()
        try:
            run.plan()
            if rtl is not None:
                run.simulate(rtl)
        finally:
            run.write_table()  # also when interrupted: what is finished
        return run.outcome(options.picture)


def _console(quiet: bool) -> Console:
    # narrower, it would cut what tables are for
    return Console(stderr=True, quiet=quiet, width=max(Console(stderr=True).width, MIN_WIDTH))


class _Sweep:
    """A sweep while it runs; ``records`` hold what is known of each point, by its place."""

    def __init__(
        self,
        axes: list[Axis],
        points: list[Point],
        file: Path,
        place: Work,
        workers: Workers,
        console: Console,
    ) -> None:
        self.axes, self.points, self.file = axes, points, file
        self.place, self.workers, self.console = place, workers, console
        self.records: list[Record | None] = [None] * len(points)
        self.cases: dict[int, Case] = {}
        self.analyses: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.planned = self.simulated = 0
        self._written = time.monotonic()
        for i, point in enumerate(points):
            if isinstance(point.case, ConfigError):
                self.records[i] = failed(point.case)
            else:
                self._identify(i, point.case)

    def _identify(self, i: int, case: Case) -> None:
        try:
            analysis = work.analysis_key(case, self.place.path)
            key = work.plan_key(case, self.place.path, analysis)
        except (ConfigError, OSError) as error:  # log or weights are not there
            self.records[i] = failed(error)
            return
        self.cases[i], self.analyses[i], self.keys[i] = case, analysis, key
        self.records[i] = self.place.finished("planned", key)

    def analyse(self) -> None:
        """Do every analysis that a point needs and does not have, once.

        Raises
        ------
        ConfigError
            The first fault, if no point comes as far as to be planned.
        """
        tasks: dict[str, Task] = {}
        for i in self._open():
            key = self.analyses[i]
            tasks.setdefault(key, self._task("analyse", key, i))
        faults = {}
        for task, record in self._work("analysing", list(tasks.values()), len(tasks)):
            if record["status"] != "ok":
                faults[task.key] = record
        for i in [i for i in self._open() if self.analyses[i] in faults]:
            self.records[i] = faults[self.analyses[i]]
            del self.keys[i]
        first = self.records[0]
        if first is not None and not self.keys:
            raise ConfigError(str(first["message"]))

    def plan(self) -> None:
        """Plan every point that is not planned yet; equal ones once."""
        open_points = self._open()
        places: dict[str, list[int]] = {}
        for i in open_points:
            places.setdefault(self.keys[i], []).append(i)
        tasks = [self._task("plan", key, same[0]) for key, same in places.items()]
        before = len(self.points) - len(open_points)
        for task, record in self._work("planning", tasks, len(self.points), before):
            self.planned += 1
            for i in places[task.key]:
                self.records[i] = record
            self._refresh()

    def simulate(self, rtl: str) -> None:
        """Simulate chosen points that are not simulated yet; equal ones once."""
        places: dict[str, list[int]] = {}
        for i in self._chosen(rtl):
            key = work.measurement_key(self.cases[i].config, self.keys[i])
            places.setdefault(key, []).append(i)
        open_keys = []
        for key in places:
            record = self.place.finished("measured", key)
            if record is None:
                open_keys.append(key)
            else:
                self._merge(places[key], record)
        tasks = [self._task("measure", key, places[key][0]) for key in open_keys]
        before = len(places) - len(tasks)
        for task, record in self._work("simulating", tasks, len(places), before):
            self.simulated += 1
            self._merge(places[task.key], record)
            self._refresh()

    def _chosen(self, rtl: str) -> list[int]:
        rows = self._rows()
        places = {id(row): i for i, row in enumerate(rows)}
        if rtl == "pareto":
            return [places[id(point.row)] for point in pareto_front(rows).points]
        ok = [row for row in rows if row["status"] == "ok"]
        ok.sort(key=lambda row: -row["throughput"])
        count = {"all": len(ok), "best": 1}.get(rtl)
        return sorted(places[id(row)] for row in ok[: int(rtl) if count is None else count])

    def _merge(self, places: Sequence[int], record: Record) -> None:
        for i in places:
            self.records[i] = {**(self.records[i] or {}), **record}

    def _open(self) -> list[int]:
        """Places of the points of which nothing is known yet."""
        return [i for i, record in enumerate(self.records) if record is None]

    def _task(self, kind: Kind, key: str, i: int) -> Task:
        analysis, plan = self.analyses[i], self.keys[i]
        return Task(kind, key, self.cases[i], self.place.path, analysis=analysis, plan=plan)

    def _work(
        self, what: str, tasks: Sequence[Task], total: int, done: int = 0
    ) -> Iterator[tuple[Task, Record]]:
        """Do ``tasks`` under a bar of ``total`` units, of which ``done`` were there before."""
        if not tasks:
            return
        with _bar(self.console, what, total, done) as advance:
            for pair in self.workers.run(tasks):
                yield pair
                advance()

    def _rows(self) -> list[Row]:
        return [
            {**point.settings, **record, "point": self.keys.get(i)}
            for i, (point, record) in enumerate(zip(self.points, self.records, strict=True))
            if record is not None
        ]

    def _refresh(self) -> None:
        if time.monotonic() - self._written >= REFRESH_S:
            self.write_table()

    def write_table(self) -> None:
        """Write the rows of all points that are known."""
        write_table(self._rows(), self.axes, self.file, self.place.path)
        self._written = time.monotonic()

    def outcome(self, picture: str) -> Outcome:
        """Write the picture, tell people what was found, and return it."""
        found = Outcome(
            self.axes,
            self._rows(),
            self.file,
            self.file.with_suffix(f".{picture}"),
            self.planned,
            self.simulated,
        )
        write_picture(found.rows, found.front, found.names, found.picture, self.place.path)
        _tell(found, self.console)
        return found


@contextlib.contextmanager
def _bar(console: Console, what: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal while the block runs; yield what counts a unit."""
    if console.quiet or not console.is_terminal:
        yield lambda: None
        return
    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task(what, total=total, completed=done)
        yield lambda: progress.advance(bar)


def summarise(found: Outcome) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    statuses = [row["status"] for row in found.rows]
    front = found.front
    return {
        "file": str(found.file),
        "picture": str(found.picture),
        "points": len(found.rows),
        **{name: statuses.count(name) for name in ("ok", "infeasible", "error")},
        "planned": found.planned,
        "simulated": found.simulated,
        "measured": found.measured,
        "winners": found.winners(),
        "pareto_cost": front.cost,
        "pareto": [point.row for point in front.points],
    }


def _tell(found: Outcome, console: Console) -> None:
    """Print the points that no other beats, and measured beside predicted cycles."""
    from screc.sweep.console import measured_table, pareto_table

    statuses = [row["status"] for row in found.rows]
    console.print(
        f"{len(statuses)} points: "
        + ", ".join(f"{statuses.count(name)} {name}" for name in ("ok", "infeasible", "error"))
        + f"; {found.planned} planned and {found.simulated} simulated now",
        highlight=False,
    )
    for status in ("infeasible", "error"):
        row = next((row for row in found.rows if row["status"] == status), None)
        if row is not None:
            first = str(row["message"]).partition("\n")[0]
            text = f"first {status}: {describe(row, found.names)}: {first}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    if found.front.points:
        console.print(pareto_table(found.front, found.names))
    winners = found.winners()
    if winners is not None:
        console.print(measured_table(found.measured, found.names))
        for kind, figure, unit in (
            ("planned", "throughput", "samples/s, by the planner"),
            ("predicted", "predicted_cycles_per_sample", "cycles per sample, predicted"),
            ("measured", "measured_cycles_per_sample", "cycles per sample, measured"),
        ):
            row = winners[kind]
            text = f"winner: {describe(row, found.names)}: {row[figure]:,.1f} {unit}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{found.file}, {found.picture}", highlight=False, soft_wrap=True)
