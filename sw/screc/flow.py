"""The flow: which steps there are, what each needs, and which are already up to date.

A step is up to date when the hash of its inputs is the one recorded after its last run, and its
outputs exist. Inputs are the parts of the configuration that it reads, the outputs of the steps
before it as they are on disk, the log and weight files, and the tool's own sources. So a file that
a person edits (an emitted ``.sv``, say) is used by the next step as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from screc import files
from screc.config import Config, check_built, dump_config, model_file, model_shape
from screc.errors import CheckError, ToolchainError
from screc_hw.model import ModelShape

STATE_FILE = ".screc.json"

VERDICTS = ("simulation.json", "summary.json", "report.html")
"""Outputs that judge the others: those of an earlier run must not outlive what they judged."""


class Bar:
    """A running progress bar; see :meth:`Context.progress`."""

    def __init__(self, progress: Progress | None, task: Any) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: float = 1) -> None:
        """Count ``count`` units as done."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        """Say what is being done."""
        if self._progress is not None:
            self._progress.update(self._task, description=text)

    def update(self, *, completed: float | None = None, total: float | None = None) -> None:
        """Set the units done, or correct the total."""
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, total=total)


@dataclasses.dataclass
class Context:
    """What every step gets: the resolved configuration, the output folder, and a way to report.

    ``verbosity``: -1 quiet, 0 normal, 1 and up more. People's text goes to stderr. ``workers`` or
    ``scheduler``: of the Dask cluster that steps may use; no result depends on them.
    """

    config: Config
    shape: ModelShape
    out: Path
    verbosity: int = 0
    console: Console = dataclasses.field(default_factory=lambda: Console(stderr=True))
    workers: int | None = None
    scheduler: str | None = None

    @classmethod
    def create(cls, config: Config, out: Path, verbosity: int = 0) -> Context:
        """Resolve the model and return a context; nothing is written yet."""
        return cls(config=config, shape=model_shape(config), out=out, verbosity=verbosity)

    def log(self, text: str, *, level: int = 0) -> None:
        """Print a line for people, unless quieter than ``level``."""
        if self.verbosity >= level:
            self.console.print(text, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, description: str, total: float | None) -> Iterator[Bar]:
        """Show a progress bar of ``total`` units (None: unknown) while the block runs."""
        if self.verbosity < 0 or not self.console.is_terminal:
            yield Bar(None, None)
            return
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        ) as progress:
            yield Bar(progress, progress.add_task(description, total=total))


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the flow.

    ``result`` is the file whose JSON stands for the step on ``--json``; ``outputs`` must exist for
    the step to be up to date; ``inputs`` gives everything that its result depends on.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: Callable[[Context], list[Any]]
    result: str | None = None


def model_inputs(ctx: Context) -> list[Any]:
    """Return what the model's weights depend on."""
    weights = ctx.config.model.weights
    return [
        dataclasses.asdict(ctx.shape),
        ctx.config.model.seed,
        ctx.config.model.calibration,
        files.fingerprint(Path(weights)) if weights else None,
    ]


def _log_inputs(ctx: Context) -> list[Any]:
    from screc.logs import log_files

    found = [files.fingerprint(path) for path in log_files(ctx.config.log)]
    return [ctx.config.log.model_dump(mode="json"), ctx.config.model.seed, found]


def _trial_inputs(ctx: Context) -> list[Any]:
    """What trials of tables in TT form depend on, where any are asked for."""
    if not ctx.config.analyze.tt_ranks:
        return []
    return [ctx.config.analyze.model_dump(mode="json"), model_inputs(ctx)]


def _plan_without_times(ctx: Context) -> Any:
    plan = files.read_json(ctx.out / "plan.json")
    plan.pop("solve_seconds", None)
    return plan


def _rtl(ctx: Context) -> list[str]:
    return [files.sha256_file(path) for path in sorted((ctx.out / "rtl").glob("*.sv"))]


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            name="analyze",
            module="screc.analyze",
            needs=(),
            outputs=("stats.parquet",),
            inputs=lambda ctx: [
                _log_inputs(ctx),
                dataclasses.asdict(ctx.shape),
                ctx.config.analyze.exact_rows,
                _trial_inputs(ctx),
            ],
        ),
        Step(
            name="plan",
            module="screc.plan",
            needs=("analyze",),
            outputs=("plan.json",),
            inputs=lambda ctx: [
                ctx.config.plan.model_dump(mode="json"),
                [device.model_dump(mode="json") for device in ctx.config.device],
                model_file(ctx.config).model_dump(mode="json"),
                [files.fingerprint(p) for p in (ctx.out / "tt.parquet",) if p.exists()],
                files.fingerprint(ctx.out / "stats.parquet"),
            ],
            result="plan.json",
        ),
        Step(
            name="compile",
            module="screc.compile",
            needs=("plan",),
            outputs=("images/manifest.json",),
            inputs=lambda ctx: [
                model_inputs(ctx),
                _log_inputs(ctx),
                _plan_without_times(ctx),
                files.fingerprint(ctx.out / "stats.parquet"),
            ],
            result="images/manifest.json",
        ),
        Step(
            name="generate",
            module="screc.generate",
            needs=("plan",),
            outputs=("rtl/design.json",),
            inputs=lambda ctx: [_plan_without_times(ctx), dataclasses.asdict(ctx.shape)],
            result="rtl/design.json",
        ),
        Step(
            name="simulate",
            module="screc.simulate",
            needs=("compile", "generate"),
            outputs=("simulation.json",),
            inputs=lambda ctx: [
                ctx.config.simulate.model_dump(mode="json"),
                ctx.config.plan.batch,
                _log_inputs(ctx),
                _rtl(ctx),
                files.fingerprint(ctx.out / "rtl" / "design.json"),
                [
                    files.fingerprint(path)
                    for path in sorted((ctx.out / "images").rglob("*"))
                    if path.is_file()
                ],
            ],
            result="simulation.json",
        ),
        Step(
            name="report",
            module="screc.report",
            needs=("simulate",),
            outputs=("summary.json", "report.html"),
            inputs=lambda ctx: [
                ctx.config.model_dump(mode="json"),
                *(
                    files.fingerprint(ctx.out / name)
                    for name in (
                        "plan.json",
                        "simulation.json",
                        "stats.parquet",
                        "rtl/design.json",
                        "images/manifest.json",
                    )
                ),
            ],
            result="summary.json",
        ),
    )
}


@functools.cache
def source_hash() -> str:
    """Hash of the tool's own sources, so that a new version redoes every step."""
    digest = hashlib.sha256()
    for name in ("screc_hw", "screc_sim", "screc"):
        root = Path(str(importlib.import_module(name).__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def step_key(step: Step, ctx: Context) -> str:
    """Hash of all that a step's result depends on."""
    material = json.dumps([step.name, source_hash(), step.inputs(ctx)], sort_keys=True, default=str)
    return hashlib.sha256(material.encode()).hexdigest()


def order(target: str) -> list[Step]:
    """Steps up to and including ``target``, each after what it needs."""
    found: list[Step] = []

    def visit(name: str) -> None:
        step = STEPS[name]
        for need in step.needs:
            visit(need)
        if step not in found:
            found.append(step)

    visit(target)
    return found


def _read_state(out: Path) -> dict[str, str]:
    try:
        state = json.loads((out / STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}  # no record, or an unreadable one: every step runs again
    return {str(k): str(v) for k, v in state.items()} if isinstance(state, dict) else {}


def run(ctx: Context, target: str, *, force: Collection[str] = ()) -> None:
    """Run ``target`` and the steps before it that are not up to date.

    Parameters
    ----------
    ctx
        Configuration and output folder.
    target
        Name of a step in :data:`STEPS`.
    force
        Steps to redo even when they are up to date.

    Raises
    ------
    CheckError
        If a check of a step failed; a report on what it left has been made where that was asked.
    ToolchainError
        If the simulator is missing and needed; nothing has been run then.
    """
    steps = order(target)
    if any(STEPS[name] in steps for name in ("compile", "generate")):
        check_built(ctx.config)
    if STEPS["simulate"] in steps:
        check_simulator(ctx.config.simulate.simulator)
    failed: CheckError | None = None
    ctx.out.mkdir(parents=True, exist_ok=True)
    for step in steps:
        key = step_key(step, ctx)
        state = _read_state(ctx.out)
        present = all((ctx.out / name).exists() for name in step.outputs)
        if present and state.get(step.name) == key and step.name not in force:
            ctx.log(f"[dim]{step.name:9} up to date[/dim]")
            continue
        if state.pop(step.name, None) is not None:
            files.write_json(ctx.out / STATE_FILE, state)  # an interrupted step is not up to date
        if step.name != "report":
            for name in VERDICTS:
                (ctx.out / name).unlink(missing_ok=True)
        started = time.perf_counter()
        ctx.log(f"[bold]{step.name:9}[/bold] ...", level=1)
        try:
            importlib.import_module(step.module).run(ctx)
        except CheckError as error:
            # where its outputs are written and say what failed, a report on them is wanted
            if step.name == target or not all((ctx.out / name).exists() for name in step.outputs):
                raise
            failed = error
            continue
        ctx.log(f"[bold]{step.name:9}[/bold] {time.perf_counter() - started:6.1f} s")
        files.write_json(ctx.out / STATE_FILE, {**state, step.name: key})
        files.write_text(ctx.out / "config.toml", dump_config(ctx.config))
    if failed is not None:
        raise failed


def check_simulator(simulator: str) -> None:
    """Raise :class:`ToolchainError` before minutes of work whose last step cannot run."""
    from screc_sim import runner

    try:
        runner.simulator_version(simulator)
    except runner.SimulatorMissingError as error:
        raise ToolchainError(error.tool, error.get) from error


def result(ctx: Context, target: str) -> dict[str, Any]:
    """Read the JSON object that stands for ``target`` on ``--json``."""
    step = STEPS[target]
    if step.result is None:
        from screc.analyze import describe

        return describe(ctx.out)
    value: dict[str, Any] = files.read_json(ctx.out / step.result)
    return value
