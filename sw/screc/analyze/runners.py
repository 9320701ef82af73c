"""Where spans are counted: in this process, or on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from screc.analyze.leaves import Leaf, Notes, Window, leaves
from screc.analyze.sources import IdSource, Span
from screc.errors import ConfigError
from screc.stats import IdCounter
from screc_hw.model import ModelShape

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""

Counted = tuple[Span, Iterable[Leaf], Notes]
"""A span, its leaves, and notes that are whole once the leaves have been taken."""


class Runner(Protocol):
    """Counts spans; gives them back in their order."""

    pieces: int
    """Spans that it counts at a time."""

    def __call__(
        self,
        source: IdSource,
        shape: ModelShape,
        spans: Sequence[Span],
        windows: Sequence[Window] = (),
    ) -> Iterator[Counted]:
        """Count spans of a log; see :func:`screc.analyze.leaves.leaves`."""


class Here:
    """Counts in this process."""

    pieces = 1

    def __call__(
        self,
        source: IdSource,
        shape: ModelShape,
        spans: Sequence[Span],
        windows: Sequence[Window] = (),
    ) -> Iterator[Counted]:
        """Count one span after the other."""
        for span in spans:
            notes = Notes()
            yield span, leaves(source, shape, span, notes, windows), notes


class Cluster:
    """Counts on the workers of a Dask cluster, which read the log's files themselves.

    Parameters
    ----------
    client
        A ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.pieces = max(1, sum(client.nthreads().values()))

    def __call__(
        self,
        source: IdSource,
        shape: ModelShape,
        spans: Sequence[Span],
        windows: Sequence[Window] = (),
    ) -> Iterator[Counted]:
        """Count spans, as many at a time as there are threads and the next ones ready."""
        shared = self._client.scatter((source, shape, windows), broadcast=True, hash=False)
        left = deque(spans)
        running: deque[tuple[Span, Any]] = deque()
        while left or running:
            # the next ones wait at the workers; all of them would fill this process's memory
            while left and len(running) < 2 * self.pieces:
                span = left.popleft()
                running.append((span, self._client.submit(_collect, shared, span, pure=False)))
            span, future = running.popleft()
            found, notes = future.result()
            yield span, found, notes


def _collect(
    shared: tuple[IdSource, ModelShape, Sequence[Window]], span: Span
) -> tuple[list[Leaf], Notes]:
    source, shape, windows = shared
    notes = Notes()
    counters: dict[int, IdCounter] = {}
    for leaf in leaves(source, shape, span, notes, windows):
        # one leaf per table is sent: memory follows the distinct ids, however long the span
        counters.setdefault(leaf.table, IdCounter()).add(leaf.ids, leaf.counts)
    found = [Leaf(table, span.part, *counter.result()) for table, counter in counters.items()]
    return found, notes


@contextlib.contextmanager
def open_runner(workers: int | None, scheduler: str | None) -> Iterator[Runner]:
    """Open what spans are counted on.

    Parameters
    ----------
    workers
        Processes of a cluster that is started on this machine and ended again, or None.
    scheduler
        Address of a running cluster's scheduler, or None. Its workers must find the log by the
        same path.

    Raises
    ------
    ConfigError
        If both are given, or no scheduler answers.
    """
    if workers is None and scheduler is None:
        yield Here()
        return
    if workers is not None and scheduler is not None:
        raise ConfigError(
            "a scheduler has its own workers: leave one of the two out", field="--workers"
        )
    from distributed import Client, LocalCluster  # takes a while

    with contextlib.ExitStack() as stack:
        if workers is not None:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=":0",  # any free port
                )
            )
            client = stack.enter_context(Client(cluster))
        else:
            try:
                client = stack.enter_context(Client(scheduler, timeout=CONNECT_SECONDS))
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"no Dask scheduler answers at {scheduler!r}: {error}",
                    field="--scheduler",
                ) from error
        yield Cluster(client)
