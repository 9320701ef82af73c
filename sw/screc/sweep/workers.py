"""Who does the tasks: this process, local worker processes, or a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from screc.errors import ConfigError
from screc.flow import source_hash
from screc.sweep.evaluate import Task, failed, perform
from screc.sweep.work import Record

CONNECT_S = 30
"""How long a cluster's scheduler may take to answer, in seconds."""


def available_cores() -> int:
    """Cores of this machine that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Does tasks in parallel; use it as a context manager.

    Parameters
    ----------
    count
        Worker processes on this machine; 1: this process, without Dask.
    scheduler
        Address of a Dask scheduler; ``count`` does not matter then.
    """

    def __init__(self, count: int, scheduler: str | None = None) -> None:
        self._count = count
        self._scheduler = scheduler
        self._client: Any = None
        self._size = 0
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._client = None
        self._exits.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Record]]:
        """Do ``tasks`` and yield each with its record, as they end.

        Raises
        ------
        ConfigError
            If the cluster cannot be reached or cannot do them.
        """
        if self._scheduler is None and (self._count == 1 or len(tasks) <= 1):
            for task in tasks:
                yield task, perform(task)
            return
        if self._client is None:
            self._client = self._connect(tasks)
        if self._scheduler is None:
            self._grow(min(self._count, len(tasks)))
        yield from self._distribute(tasks)

    def _grow(self, size: int) -> None:
        """Have at least ``size`` local processes."""
        if size <= self._size:
            return
        self._client.cluster.scale(size)
        self._client.wait_for_workers(size)
        self._size = size

    def _distribute(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Record]]:
        from distributed import as_completed

        futures = {}
        for task in tasks:
            future = self._client.submit(perform, task, key=f"{task.kind}-{task.key}", pure=False)
            futures[future] = task
        try:
            for future in as_completed(list(futures)):
                task = futures.pop(future)
                if future.status == "finished":
                    yield task, future.result()
                else:  # its worker died, such as for lack of memory
                    yield task, failed(future.exception())
        finally:
            if futures:
                self._client.cancel(list(futures))

    def _connect(self, tasks: Sequence[Task]) -> Any:
        from distributed import Client, LocalCluster

        if self._scheduler is None:
            cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=0,  # a worker must not be ended for what others take
                dashboard_address=":0",  # any free one: several sweeps may run
                silence_logs=logging.CRITICAL,
            )
            self._exits.enter_context(cluster)
            client = self._exits.enter_context(Client(cluster))
            client.register_plugin(_own_session())
            return client
        try:
            client = Client(self._scheduler, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {self._scheduler!r}: {error}", path="--scheduler"
            ) from error
        self._exits.enter_context(client)
        _check_cluster(client, tasks[0])
        return client


def _own_session() -> Any:
    """Give every worker, also one that is started anew, a session of its own.

    A terminal sends Ctrl-C to all processes of one, and libraries catch it where it is ignored.
    """
    from distributed import WorkerPlugin

    class OwnSession(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            os.setsid()

    return OwnSession()


def _check_cluster(client: Any, task: Task) -> None:
    """Refuse a cluster whose workers would do something else, or somewhere else."""
    found = client.run(_look, str(task.folder))
    if not found:
        raise ConfigError("the Dask cluster has no workers", path="--scheduler")
    for worker, (sources, reachable) in found.items():
        if sources != source_hash():
            raise ConfigError(f"worker {worker} has another version of screc", path="--scheduler")
        if not reachable:
            raise ConfigError(
                f"worker {worker} does not reach {task.folder}: it must be on a shared file system",
                path="--scheduler",
            )


def _look(folder: str) -> tuple[str, bool]:
    """What a worker has: its sources' hash, and whether it reaches the folder."""
    return source_hash(), os.access(folder, os.W_OK)
