"""Points of a benchmark that builds hardware: build, then measure, some of them at a time."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from screc.errors import CheckError, ToolchainError
from screc_sim.runner import SimulationError, SimulatorMissingError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of them are, and of how many."""


class _Point(Protocol):
    @property
    def params(self) -> Any: ...


P = TypeVar("P", bound=_Point)


def data_folders() -> Iterator[Path]:
    """Folders in which real data may lie: beside the checkout, beside the working directory."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        yield root.parent / "shared" / "data"


def find_data(name: Path) -> Path | None:
    """Return a file of real data, None if it is not there."""
    return next((folder / name for folder in data_folders() if (folder / name).is_file()), None)


def measure_points(
    chosen: Sequence[P],
    *,
    build: Callable[..., Any],
    measure: Callable[..., dict[str, Any]],
    cache: Path | None,
    workers: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Build the designs of all points, each once, then measure the points.

    Parameters
    ----------
    chosen
        The points; those of equal ``params`` share a build.
    build, measure
        Called with ``params``, with a point, and with ``cache``.
    cache
        Folder of kept builds; None: the user's.
    workers
        Builds and runs at a time.
    progress
        Told of ``build`` and ``measure``.

    Returns
    -------
    list of dict
        Results in the order of the points.

    Raises
    ------
    CheckError
        If a result is wrong, or a rule is broken.
    ToolchainError
        If a tool is missing.
    """
    context = multiprocessing.get_context("spawn")  # threads may be running in this process
    designs = list(dict.fromkeys(point.params for point in chosen))
    results: dict[int, dict[str, Any]] = {}
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            builds = [pool.submit(build, params, cache=cache) for params in designs]
            for done, built in enumerate(concurrent.futures.as_completed(builds), 1):
                built.result()
                progress("build", done, len(builds))
            runs = {pool.submit(measure, point, cache=cache): i for i, point in enumerate(chosen)}
            for done, future in enumerate(concurrent.futures.as_completed(runs), 1):
                point = chosen[runs[future]]
                try:
                    results[runs[future]] = future.result()
                except (AssertionError, SimulationError) as error:
                    raise CheckError(f"{point}: {error}") from error
                progress("measure", done, len(runs))
        except SimulatorMissingError as error:
            raise ToolchainError(error.tool, error.get) from error
        except SimulationError as error:
            raise CheckError(str(error)) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return [results[i] for i in range(len(chosen))]


def with_progress(run: Callable[[Progress], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Call ``run`` with bars of progress on stderr."""
    from rich import progress as bar
    from rich.console import Console

    with bar.Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        return run(show)
