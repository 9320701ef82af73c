"""The work folder of a sweep: what is finished, by the hash of all that it depends on.

``analyses/KEY`` and ``plans/KEY`` are output folders of the flow; ``planned/KEY.json`` and
``measured/KEY.json`` are finished points. A finished point's file is whole or absent, so a sweep
may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from screc import files, flow
from screc.config import Config
from screc.errors import ConfigError
from screc.sweep.grid import Case

SUFFIX = ".work"
"""Appended to the name of the sweep's file."""

BULKY = ("images", "rtl", "tt", "constraints", "vitis")
"""What a measured point leaves that is large, and made again by ``screc run``."""

Record = dict[str, Any]
"""A finished point: ``status``, ``message`` and figures."""


def digest(*material: Any) -> str:
    """Hash what can be written as JSON."""
    text = json.dumps(material, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def analysis_key(case: Case, folder: Path) -> str:
    """Identify an analysis: points with the same one share it."""
    ctx = flow.Context(case.config, case.shape, folder)
    return flow.step_key(flow.STEPS["analyze"], ctx)[:32]


def plan_key(case: Case, folder: Path, analysis: str) -> str:
    """Identify a plan: all of the configuration that is not of the simulation alone."""
    ctx = flow.Context(case.config, case.shape, folder)
    settings = case.config.model_dump(mode="json", exclude={"simulate"})
    return digest(flow.source_hash(), analysis, settings, flow.model_inputs(ctx))


def measurement_key(config: Config, plan: str) -> str:
    """Identify an RTL run of a plan."""
    return digest(plan, config.simulate.model_dump(mode="json"))


class Work:
    """The work folder at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def analysis(self, key: str) -> Path:
        """Folder of an analysis."""
        return self.path / "analyses" / key

    def plan(self, key: str) -> Path:
        """Folder of a point's plan."""
        return self.path / "plans" / key

    def finished(self, kind: str, key: str) -> Record | None:
        """Read a finished point, None where there is none; ``kind``: planned or measured."""
        try:
            record = json.loads(self._record(kind, key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def finish(self, kind: str, key: str, record: Record) -> None:
        """Keep a finished point, whole or not at all."""
        files.write_json(self._record(kind, key), record)

    def drop_bulk(self, key: str) -> None:
        """Remove what a measured point leaves that is large."""
        for name in BULKY:
            shutil.rmtree(self.plan(key) / name, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other sweeps out of the folder, and remove what a killed one left half written.

        Raises
        ------
        ConfigError
            If another sweep uses it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigError("another sweep is running in it", path=self.path) from error
        try:
            for kind in ("planned", "measured"):
                for path in (self.path / kind).glob(".*.json.*"):
                    path.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _record(self, kind: str, key: str) -> Path:
        return self.path / kind / f"{key}.json"
