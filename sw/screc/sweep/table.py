"""The sweep's file: one row for each point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from screc.errors import ConfigError
from screc.sweep.figures import UTILISATION
from screc.sweep.grid import Axis

COLUMNS: dict[str, type[pl.DataType]] = {
    "status": pl.String,
    "message": pl.String,
    "model": pl.String,
    "devices": pl.Int64,
    "memory": pl.Int64,
    "tt": pl.Int64,
    "compute": pl.Int64,
    "rows": pl.Int64,
    "columns": pl.Int64,
    "throughput": pl.Float64,
    "bound": pl.Float64,
    "gap": pl.Float64,
    "bottleneck": pl.String,
    "energy_per_sample": pl.Float64,
    "latency": pl.Float64,
    "clock_mhz": pl.Float64,
    **dict.fromkeys(UTILISATION, pl.Float64),
    "solve_seconds": pl.Float64,
    "predicted_cycles_per_sample": pl.Float64,
    "measured_cycles_per_sample": pl.Float64,
    "error_percent": pl.Float64,
    "bit_exact": pl.Boolean,
    "measured_throughput": pl.Float64,
    "point": pl.String,
}
"""Columns behind those of the grid's keys."""


def check_names(axes: Sequence[Axis]) -> None:
    """Refuse a key that would be the name of two columns."""
    for axis in axes:
        if axis.key in COLUMNS:
            raise ConfigError(
                f"{axis.key!r} is a column of the table; name a key below it",
                path="--set",
                field=axis.key,
            )


def write_table(
    rows: Sequence[dict[str, Any]], axes: Sequence[Axis], path: Path, folder: Path
) -> None:
    """Write ``rows`` to ``path``, whole or not at all, by way of ``folder`` beside it."""
    series = [_axis_series(axis, [row[axis.key] for row in rows]) for axis in axes]
    series += [
        pl.Series(name, [row.get(name) for row in rows], dtype=dtype)
        for name, dtype in COLUMNS.items()
    ]
    temporary = folder / "table.parquet"
    pl.DataFrame(series).write_parquet(temporary)
    temporary.replace(path)


def _axis_series(axis: Axis, values: Sequence[Any]) -> pl.Series:
    """Return a column of its values' type, or of text where they are of several."""
    kinds = {type(value) for value in axis.values}
    for accepted, dtype in (
        ({bool}, pl.Boolean),
        ({int}, pl.Int64),
        ({int, float}, pl.Float64),
        ({str}, pl.String),
    ):
        if kinds <= accepted:
            return pl.Series(axis.key, values, dtype=dtype)
    texts = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for value in values
    ]
    return pl.Series(axis.key, texts, dtype=pl.String)
