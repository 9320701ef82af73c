"""The compile step: from weights, statistics and plan to the folder ``images``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from screc import files
from screc.compile.images import read_onchip, write_table_images, write_weights
from screc.compile.layout import LAYOUT_VERSION, make_layout
from screc.compile.load import load_queue, weights
from screc.compile.tt import add_tt
from screc.errors import ConfigError
from screc.flow import Context
from screc.logs import open_log
from screc.plan.device import device_params
from screc.plan.schema import read_plan
from screc.remap import TableRemap
from screc.stats import TableStats, read_stats
from screc.weights import load_weights
from screc_sim.golden.calibrate import (
    Calibration,
    CalibrationError,
    ScaleChoice,
    calibrate_reported,
)

CALIBRATION_SAMPLES = 4096
"""Samples of the profile part that set the scales."""


def write_images(ctx: Context) -> None:
    """Write everything that the device's memories hold, and ``manifest.json``.

    Raises
    ------
    ConfigError
        If weights, log or plan do not fit the model, or it cannot be quantised.
    """
    plan = read_plan(ctx.out / "plan.json")
    params = device_params(plan, ctx.shape)
    layout = make_layout(plan.devices[0], ctx.shape, params)
    calibration = quantise(ctx)
    model = calibration.model
    stats = read_stats(ctx.out / "stats.parquet")
    with files.atomic_folder(ctx.out / "images") as folder:
        remaps = write_remaps(stats, folder / "remap")
        if params.tt is not None:
            model = add_tt(ctx, model, layout, params.tt.fraction, stats, remaps)
        model.save(folder / "quant.npz")
        layout.save(folder / "layout.json")
        rows = sum(table.rows - (table.tt.shape.rows if table.tt else 0) for table in layout.tables)
        with ctx.progress("writing rows", rows) as bar:
            write_table_images(folder, layout, model.tables, remaps, bar.advance)
        if params.core.stream_words:
            write_weights(folder, layout, weights(model, params))
        queue = load_queue(model, params, layout, read_onchip(folder, layout))
        (folder / "load.bin").write_bytes(queue.data)
        _write_manifest(ctx, folder, queue.blocks, calibration.choices)


def quantise(ctx: Context) -> Calibration:
    """Quantise the model on samples of the profile part of the log, as ``[model]`` asks.

    Raises
    ------
    ConfigError
        If the device's integers cannot express it, or a sample is not as the model needs it.
    """
    weights = load_weights(ctx.config.model.weights, ctx.shape, ctx.config.model.seed)
    log = open_log(ctx.config.log, ctx.shape, seed=ctx.config.model.seed)
    sample = log.profile().take(CALIBRATION_SAMPLES)
    try:
        return calibrate_reported(ctx.shape, weights, sample, clip=ctx.config.model.calibration)
    except CalibrationError as error:
        raise ConfigError(str(error), field="model.weights") from error
    except ValueError as error:
        raise ConfigError(str(error), field="log") from error


def write_remaps(stats: Sequence[TableStats], folder: Path) -> list[TableRemap]:
    """Write the row order of every table, ``<table number>.bin``, and return them."""
    folder.mkdir()
    remaps = []
    for i, table in enumerate(stats):
        remap = TableRemap.build(table.rows, table.hot_ids)
        remap.save(folder / f"{i}.bin")
        remaps.append(remap)
    return remaps


def _write_manifest(
    ctx: Context, folder: Path, load_blocks: int, choices: Sequence[ScaleChoice]
) -> None:
    """Write the size and hash of every file, and how scales were chosen."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {}
    with ctx.progress("hashing", len(paths)) as bar:
        for path in paths:
            entries[str(path.relative_to(folder))] = {
                "bytes": path.stat().st_size,
                "sha256": files.sha256_file(path),
            }
            bar.advance()
    manifest = {
        "layout_version": LAYOUT_VERSION,
        "load_blocks": load_blocks,
        "calibration": [_rounded(dataclasses.asdict(choice)) for choice in choices],
        "files": entries,
    }
    files.write_json(folder / "manifest.json", manifest)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Round floats to four digits: further ones depend on the order in which BLAS adds."""
    return {
        key: _rounded(value)
        if isinstance(value, dict)
        else float(f"{value:.4g}")
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }
