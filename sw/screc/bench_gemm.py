"""The ``gemm`` benchmark: cycles of whole models in the compute core's RTL."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from screc.bench_native import Progress, measure_points, with_progress
from screc.models import preset_shape
from screc_hw.compute.params import ComputeParams
from screc_hw.model import ModelShape
from screc_sim.native.gemm import GemmCase, Outcome, build, run

COLUMNS = (
    *("model", "rows", "columns", "multipliers", "batch", "macs", "cycles", "mac_utilisation"),
    *("prediction_error", "latency_cycles", "latency_prediction_error"),
)
"""What a person sees of a result."""

SEED = 0

ARRAYS = ((16, 16), (16, 32), (32, 32))
"""Rows and columns."""

PAIR_UNITS = {(16, 16): 1, (16, 32): 2, (32, 32): 4}
"""The fewest that keep up with the array for every model."""

MODELS = (
    ("criteo-terabyte", "criteo-kaggle"),  # dot
    ("rm3", "rm1", "rm2"),  # concat
)
"""Presets; those of a group run on the same build."""

SLOTS = 4

BATCH = 128

BATCHES = 4
"""Consecutive batches that are measured, at least ..."""

CYCLES = 400_000
"""... and as many as take about this long: the order of sub-batches has a period."""

WARM_UP = 2 * SLOTS
"""Sub-batches before them. As many as there are slots follow, so that the core stays full."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One model on one core; points of equal ``params`` share a build."""

    params: ComputeParams
    model: ModelShape

    def __str__(self) -> str:
        return f"{self.model.name} on {self.params.rows} × {self.params.columns}"


def core_for(
    models: Iterable[ModelShape], *, rows: int, columns: int, pair_units: int, slots: int = SLOTS
) -> ComputeParams:
    """Return a core that holds any one of some models of equal interaction."""
    models = list(models)
    lanes = min(64, min(dim for model in models for dim in model.vector_dims))
    each = [
        ComputeParams.for_model(
            model, rows=rows, columns=columns, lanes=lanes, slots=slots, pair_units=pair_units
        )
        for model in models
    ]
    largest = {
        field.name: max(getattr(params, field.name) for params in each)
        for field in dataclasses.fields(ComputeParams)
    }
    return dataclasses.replace(each[0], **largest)


def points() -> list[Point]:
    """Return all points of the benchmark."""
    found = []
    for rows, columns in ARRAYS:
        for names in MODELS:
            models = [preset_shape(name) for name in names]
            units = PAIR_UNITS[rows, columns] if models[0].interaction == "dot" else 1
            params = core_for(models, rows=rows, columns=columns, pair_units=units)
            found += [Point(params=params, model=model) for model in models]
    return found


def measure(point: Point, *, cache: Path | None = None) -> dict[str, Any]:
    """Measure a point; every result is compared with the golden model's operations.

    Returns
    -------
    dict
        ``results``: for batches of :data:`BATCH` samples and of the array's rows, see
        :func:`bench_gemm`. The core knows sub-batches alone, so both are of one run.

    Raises
    ------
    AssertionError
        If a result is wrong.
    screc_sim.runner.SimulationError
        If a stream breaks its rules or the core does not come to an end.
    """
    params, model = point.params, point.model
    design = build(params, cache=cache)
    case = GemmCase(params, model, seed=SEED)
    parts = -(-BATCH // params.rows)
    batches = max(BATCHES, round(CYCLES / params.cycles(model, BATCH)))
    stimulus = case.stimulus(WARM_UP + batches * parts + params.slots)
    steady = run(design, case, stimulus)
    case.check(steady, stimulus)
    single = case.stimulus(1)
    alone = run(design, case, single)
    case.check(alone, single)
    window = steady.ends[[WARM_UP - 1, WARM_UP - 1 + batches * parts]]
    interval = float(window[1] - window[0]) / (batches * parts)  # of a sub-batch
    return {
        "results": [
            _result(point, steady, alone, interval, batch) for batch in (BATCH, params.rows)
        ]
    }


def _result(
    point: Point, steady: Outcome, alone: Outcome, interval: float, batch: int
) -> dict[str, Any]:
    params, model = point.params, point.model
    parts = -(-batch // params.rows)
    cycles = interval * parts
    predicted, latency = params.cycles(model, batch), int(alone.ends[0]) + 1
    predicted_latency = params.alone_cycles(model)
    return {
        "model": model.name,
        "rows": params.rows,
        "columns": params.columns,
        "slots": params.slots,
        "pair_units": params.pair_units if params.dot else 0,
        "multipliers": params.multipliers,
        "batch": batch,
        "macs": model.macs * batch,
        "cycles": cycles,
        "mac_utilisation": model.macs * batch / (params.multipliers * cycles),
        "predicted_cycles": predicted,
        "prediction_error": predicted / cycles - 1,
        "batch_1_latency_cycles": int(alone.starts[0]) + 1,
        "latency_cycles": latency,
        "predicted_latency_cycles": predicted_latency,
        "latency_prediction_error": predicted_latency / latency - 1,
        "layers": _layers(point, steady, batch, parts),
        "kind": "measured in RTL (verilator)",
    }


def _layers(point: Point, outcome: Outcome, batch: int, parts: int) -> list[dict[str, Any]]:
    """Cycles of every layer in its unit, per batch."""
    params, model = point.params, point.model
    found = []

    def add(name: str, k: int, n: int, cycles: float, multipliers: int) -> None:
        share = k * n * batch / (multipliers * cycles)
        found.append({"name": name, "k": k, "n": n, "cycles": cycles, "mac_utilisation": share})

    per_run = outcome.layer_cycles / outcome.sub_batches * parts
    layers = (*model.bottom_layers, *model.top_layers)
    for number, (layer, cycles) in enumerate(zip(layers, per_run.tolist(), strict=True)):
        if number == len(model.bottom_layers) and model.pairs:
            taken = outcome.pair_cycles / outcome.sub_batches * parts
            dim = model.vector_dims[0]
            add("interaction", dim, model.pairs, taken, params.pair_multipliers)
        add(layer.name, layer.k, layer.n, cycles, params.rows * params.columns)
    return found


def bench_gemm(
    chosen: Sequence[Point],
    *,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Measure points, and check every result of them.

    Parameters
    ----------
    chosen
        What to measure.
    cache
        Folder of kept builds; None: the user's.
    workers
        Builds and runs at a time.
    progress
        Told what is being done.

    Returns
    -------
    list of dict
        Two per point, one for each ``batch``: ``model``; ``rows``, ``columns``, ``slots``,
        ``pair_units`` and ``multipliers`` of the core, requantisers apart; ``macs``, useful
        multiply-accumulates of a batch; ``cycles`` from batch to batch in the steady state;
        ``mac_utilisation``, the share of what all multipliers could do in them;
        ``predicted_cycles`` by ``ComputeParams`` and their relative ``prediction_error``;
        ``batch_1_latency_cycles`` from the first input of a sub-batch alone to the result of its
        first sample; ``latency_cycles`` to its last result, of all rows,
        ``predicted_latency_cycles`` and ``latency_prediction_error``. ``layers``: of every layer
        and of the interaction ``name``, ``k``, ``n``, ``cycles`` per batch in the array or the
        interaction's units, and ``mac_utilisation`` of those in that time. ``kind``.

    Raises
    ------
    CheckError
        If a result is wrong, or a rule is broken.
    ToolchainError
        If a tool is missing.
    """
    measured = measure_points(
        chosen, build=build, measure=measure, cache=cache, workers=workers, progress=progress
    )
    return [result for one in measured for result in one["results"]]


def bench() -> list[dict[str, Any]]:
    """Run :func:`bench_gemm` as ``screc bench gemm`` does, with progress on stderr."""
    return with_progress(lambda progress: bench_gemm(points(), progress=progress))
