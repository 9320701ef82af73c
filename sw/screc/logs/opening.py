"""From ``[log]`` to a reader: which files, which columns are which features."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from screc.config import IdsFile, LabelColumn, LogConfig, LogTable
from screc.config_validation import nearest
from screc.errors import ConfigError
from screc.logs.criteo import CriteoReader
from screc.logs.csvfile import CsvReader
from screc.logs.ids import Dictionary, FileIds, IdMap, Modulo
from screc.logs.log import Log, Reader
from screc.logs.npz import NpzArrays, NpzReader
from screc.logs.parquet import ParquetReader
from screc.logs.synthetic import SyntheticReader
from screc.logs.values import Columns
from screc_hw.model import ModelShape

SYNTHETIC_SAMPLES = 20_000
"""Samples of a synthetic log that does not say how many."""


def log_files(log: LogConfig) -> list[Path]:
    """Files of a log in name order, its id file included; none for a synthetic log.

    Raises
    ------
    ConfigError
        If no file matches.
    """
    if log.path is None:
        return []
    return [*_matches(log.path), *([log.ids.file] if isinstance(log.ids, IdsFile) else [])]


def _matches(path: str) -> list[Path]:
    """Files that a name or a glob stands for: a name that exists is no glob."""
    names = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    files = [Path(name) for name in names]
    if not files:
        raise ConfigError("no such file, and no file matches it", path=path, field="log.path")
    for file in files:
        if not file.is_file():
            raise ConfigError("is no file; name a file or a glob", path=file, field="log.path")
    return files


def open_log(log: LogConfig, shape: ModelShape, *, seed: int) -> Log:
    """Open a log for a model.

    Parameters
    ----------
    log
        ``[log]``, with its path resolved.
    shape
        The model: how many dense inputs and which features.
    seed
        Seed of a synthetic log.

    Raises
    ------
    ConfigError
        If files are missing or columns are not declared for every feature. Faults in the data are
        raised where they are read.
    """
    return Log.create(
        _reader(log, shape, seed),
        profile=log.profile,
        holdout=log.holdout,
        where=log.path or "synthetic log",
        limit=log.samples,
    )


def _reader(log: LogConfig, shape: ModelShape, seed: int) -> Reader:
    if log.path is None:
        return SyntheticReader(shape, log.samples or SYNTHETIC_SAMPLES, seed)
    paths = _matches(log.path)
    ids = _id_map(log, shape)
    if log.kind == "criteo":
        _refuse(log, "criteo", ("table", "label", "dense"))
        return CriteoReader(
            paths, shape.dense, len(shape.features), ids, logarithm=log.log_dense is not False
        )
    if log.kind == "npz":
        arrays = _npz_arrays(log, shape)
        logarithm = not arrays.ids if log.log_dense is None else log.log_dense
        return NpzReader(paths, arrays, shape.dense, len(shape.features), ids, logarithm=logarithm)
    columns = _columns(log, shape)
    if log.kind == "csv":
        return CsvReader(paths, log.separator, columns, ids, logarithm=bool(log.log_dense))
    if log.kind == "parquet":
        return ParquetReader(paths, columns, ids, logarithm=bool(log.log_dense))
    raise ConfigError(f'"{log.kind}" is not read yet', field="log.format")


def _id_map(log: LogConfig, shape: ModelShape) -> IdMap:
    if isinstance(log.ids, IdsFile):
        return FileIds(log.ids.file, shape)
    return Dictionary(shape) if log.ids == "dictionary" else Modulo(shape)


def _columns(log: LogConfig, shape: ModelShape) -> Columns:
    declared = _declared(log, shape, lambda table: table.column, "column")
    if len(log.dense) != shape.dense:
        raise ConfigError(
            f"the model has {shape.dense} dense inputs, {len(log.dense)} columns are named",
            field="log.dense",
        )
    return Columns(
        ids=[(str(table.column), table.hex) for table in declared],
        dense=log.dense,
        label=_label(log),
    )


def _npz_arrays(log: LogConfig, shape: ModelShape) -> NpzArrays:
    if not log.table:
        _refuse(log, "npz without [[log.table]]", ("label", "dense"))
        return NpzArrays(ids=(), dense=(), label=None)
    declared = _declared(log, shape, lambda table: table.indices, "indices")
    return NpzArrays(
        ids=[(str(table.indices), table.offsets) for table in declared],
        dense=log.dense,
        label=_label(log),
    )


def _label(log: LogConfig) -> tuple[str, float | None] | None:
    if isinstance(log.label, LabelColumn):
        return log.label.column, log.label.at_least
    return None if log.label is None else (log.label, None)


def _refuse(log: LogConfig, kind: str, keys: Sequence[str]) -> None:
    for key in keys:
        if getattr(log, key):
            raise ConfigError(f"{kind} has fixed columns: leave {key} out", field=f"log.{key}")


def _declared(
    log: LogConfig, shape: ModelShape, source: Callable[[LogTable], str | None], key: str
) -> list[LogTable]:
    """``[[log.table]]`` entries in the order of the model's features."""
    features = [feature.name for feature in shape.features]
    found: dict[str, LogTable] = {}
    for i, table in enumerate(log.table):
        name = _feature_name(shape, table.table)
        if name is None:
            raise ConfigError(
                f"no feature {table.table!r}; {nearest(table.table, features)}",
                field=f"log.table.{i}.table",
            )
        if name in found:
            raise ConfigError(f"feature {name!r} is declared twice", field=f"log.table.{i}.table")
        if source(table) is None:
            raise ConfigError(
                f'format = "{log.kind}" needs {key} of feature {name!r}',
                field=f"log.table.{i}.{key}",
            )
        found[name] = table
    absent = [name for name in features if name not in found]
    if absent:
        raise ConfigError(
            f'format = "{log.kind}" needs a [[log.table]] with table and {key} per feature; there '
            f"is none for {', '.join(absent)}",
            field="log.table",
        )
    return [found[name] for name in features]


def _feature_name(shape: ModelShape, name: str) -> str | None:
    """Name of a feature, or of the one feature that reads a table of this name."""
    if any(feature.name == name for feature in shape.features):
        return name
    readers = [f.name for f in shape.features if shape.tables[f.table].name == name]
    return readers[0] if len(readers) == 1 else None
