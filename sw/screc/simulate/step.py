"""The step: encode samples of the hold-out part, run the RTL on them, compare, write the figures.

The SystemVerilog in the output folder is run as it is on disk, edits included.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from screc import files
from screc.compile.layout import Layout
from screc.compile.requests import EncodedBlock, RequestEncoder, read_remaps
from screc.errors import CheckError, ConfigError, ToolchainError
from screc.flow import Context
from screc.logs import open_log
from screc.simulate.timeline import timeline
from screc.simulate.verdict import Verdict, check
from screc.simulate.workload import Workload, build_workload
from screc.weights import Weights, load_weights
from screc_hw.params import DeviceParams, TtLoad
from screc_sim import runner, vectors
from screc_sim.golden import float_twin
from screc_sim.golden import model as golden_model
from screc_sim.golden.metrics import auc, fidelity
from screc_sim.golden.quant import GoldenResult, QuantModel
from screc_sim.memory import Timing
from screc_sim.samples import SampleBatch

TEST_BENCH = "screc_sim.tb.device_tb"


def run_job(
    ctx: Context, folder: Path, sources: list[Path], top: str, total_cycles: float
) -> tuple[dict[str, Any], runner.Build]:
    """Build the RTL and run the job in ``folder``; return ``result.json`` and the build.

    Raises
    ------
    ToolchainError
        If a simulator is missing.
    CheckError
        If the RTL does not build, or the test bench itself failed.
    """
    simulator = ctx.config.simulate.simulator
    try:
        with ctx.progress(f"build for {simulator}", None):
            build = runner.build(simulator, sources, top)
        with ctx.progress("simulate (cycles)", total_cycles) as bar:

            def poll() -> None:
                progress = folder / vectors.PROGRESS_FILE
                text = progress.read_text() if progress.exists() else ""
                if text.endswith("\n"):
                    bar.update(completed=int(text.split()[0]))

            runner.run(build, folder, TEST_BENCH, environment={"SCREC_JOB": str(folder)}, poll=poll)
    except runner.SimulatorMissingError as error:
        raise ToolchainError(error.tool, error.get) from error
    except runner.SimulationError as error:
        raise CheckError(str(error)) from error
    outcome: dict[str, Any] = json.loads((folder / vectors.OUTCOME_FILE).read_text())
    return outcome, build


def run(ctx: Context) -> None:
    """Simulate samples of the hold-out part and write ``simulation.json``.

    Raises
    ------
    ConfigError
        If the weights or images cannot be read, or a sample is not as the model needs it.
    CheckError
        If any result word, status, bus rule or address is wrong; the file says what.
    ToolchainError
        If the simulator is missing.
    """
    images = ctx.out / "images"
    design = files.read_json(ctx.out / "rtl" / "design.json")
    params = DeviceParams.from_dict(design["params"])
    weights = load_weights(ctx.config.model.weights, ctx.shape, ctx.config.model.seed)
    model = _load_model(ctx, weights)
    batch = _samples(ctx)
    encoder = RequestEncoder.open(images, ctx.shape, params, model)
    timing = Timing()
    with tempfile.TemporaryDirectory(prefix="screc-") as name:
        folder = Path(name)
        workload = build_workload(
            folder, images, params, encoder, batch, ctx.config.plan.batch, timing=timing
        )
        golden = _golden(model, batch)
        predicted = _predict(ctx, params, workload, encoder.layout, timing)
        sources = sorted((ctx.out / "rtl").glob("*.sv"))
        outcome, build = run_job(
            ctx, folder, sources, design["name"], predicted["total"] + workload.load_cycles
        )
        verdict = check(workload, folder, outcome, golden)
    simulation = {
        "simulator": build.simulator,
        "simulator_version": runner.simulator_version(build.simulator),
        "samples": len(batch),
        "batch": ctx.config.plan.batch,
        "blocks": len(workload.blocks),
        "starts": len(workload.groups),
        "bit_exact": verdict.bit_exact,
        "mismatches": verdict.mismatches,
        "first_mismatches": [dataclasses.asdict(one) for one in verdict.first],
        "errors": list(verdict.errors),
        "result_sha256": verdict.digest(),
        **_cycles(workload, outcome, verdict),
        "memory_latency": timing.latency,
        "predicted": predicted,
        **_lookups(ctx, params, workload, encoder.layout, batch),
        "accuracy": _accuracy(ctx, weights, model, golden, batch),
        "counters": outcome["counters"],
        "beats": outcome["beats"],
        "timeline": timeline(ctx.shape, params.core, outcome["operations"]),
        "build_seconds": round(build.seconds, 2),
        "simulation_seconds": round(outcome["seconds"], 2),
        "simulated_cycles": outcome["simulated_cycles"],
    }
    files.write_json(ctx.out / "simulation.json", simulation)
    if not verdict.bit_exact:
        raise CheckError(_failure(ctx, verdict))


def _golden(model: QuantModel, batch: SampleBatch) -> GoldenResult:
    try:
        return golden_model.run(model, batch)
    except ValueError as error:
        raise ConfigError(str(error), field="log") from error


def _load_model(ctx: Context, weights: Weights) -> QuantModel:
    path = ctx.out / "images" / "quant.npz"
    try:
        orders = read_remaps(ctx.out / "images", ctx.shape)
        return QuantModel.load(path, ctx.shape, weights.tables, orders)
    except ValueError as error:  # it names the file
        raise ConfigError(f"{error}; `screc compile --force` makes it anew") from error


def _samples(ctx: Context) -> SampleBatch:
    """Return the first samples of the hold-out part."""
    log = open_log(ctx.config.log, ctx.shape, seed=ctx.config.model.seed)
    return log.holdout().take(ctx.config.simulate.samples)


def _predict(
    ctx: Context, params: DeviceParams, workload: Workload, layout: Layout, timing: Timing
) -> dict[str, Any]:
    """Predict the cycles of all starts; blocks of one start follow each other without a gap."""
    rows = params.core.rows
    total, parts, first = 0.0, dict[str, float](), 0
    for count in workload.groups:
        blocks = workload.blocks[first : first + count]
        padded = sum(-(-block.samples // rows) * rows for block in blocks)
        lookups = sum(block.lookups for block in blocks) / padded
        one = params.predict(
            ctx.shape,
            padded,
            lookups=lookups,
            latency=timing.latency,
            tt=_tt_loads(blocks, layout, padded),
            # a row from SSD goes to any core, so bags with such are not of one core
            replicated=[i for i, t in enumerate(layout.tables) if t.replicated and not t.ssd_rows],
        )
        total += one.total
        for name, cycles in one.parts.items():
            parts[name] = parts.get(name, 0.0) + cycles
        first += count
    return {"total": total, "parts": parts, "bottleneck": max(parts, key=lambda n: parts[n])}


def _tt_loads(blocks: Sequence[EncodedBlock], layout: Layout, samples: int) -> list[TtLoad]:
    """Rows that ``blocks`` of ``samples`` in all have rebuilt, by table."""
    loads = []
    for i, place in enumerate(layout.tables):
        if place.tt is None:
            continue
        rows = sum(block.tt_lookups[i] for block in blocks)
        hits = sum(block.tt_hits[i] for block in blocks)
        loads.append(
            TtLoad(shape=place.tt.shape, rows=rows / samples, hit_rate=hits / max(rows, 1))
        )
    return loads


def _cycles(workload: Workload, outcome: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    samples = sum(block.samples for block in workload.blocks)
    runs = [start["cycles"] for start in outcome["starts"][1:]]
    return {
        "cycles": sum(runs),
        "cycles_per_sample": sum(runs) / samples,
        "load_cycles": outcome["starts"][0]["cycles"],
        "start_cycles": runs,
        "block_cycles": [result.cycles for result in verdict.results],
    }


def _lookups(
    ctx: Context, params: DeviceParams, workload: Workload, layout: Layout, batch: SampleBatch
) -> dict[str, Any]:
    """Count what was looked up and transferred, and how fast it was encoded."""
    blocks = workload.blocks
    tables = [ctx.shape.tables[feature.table] for feature in ctx.shape.features]
    counts = [len(bags.ids) for bags in batch.bags]
    lookups = sum(block.lookups for block in blocks)
    seconds = sum(block.seconds for block in blocks)
    rebuilt = [sum(column) for column in zip(*(block.tt_lookups for block in blocks), strict=True)]
    return {
        "lookups": lookups,
        "row_beats": sum(block.row_beats for block in blocks),
        "row_slices": sum(
            n * t.dim // params.gather.lanes for n, t in zip(counts, tables, strict=True)
        ),
        "tt_lookups": sum(rebuilt),
        "tt_hits": sum(sum(block.tt_hits) for block in blocks),
        "tt_macs": sum(
            rows * place.tt.shape.row_macs
            for rows, place in zip(rebuilt, layout.tables, strict=True)
            if place.tt is not None
        ),
        "staged_lookups": sum(block.staged_lookups for block in blocks),
        "staged_rows": sum(block.staged_rows for block in blocks),
        "staged_pages": sum(block.staged_pages for block in blocks),
        "queue_bytes": sum(len(block.queue) for block in blocks),
        "section_bytes": sum(len(data) for block in blocks for data in block.sections),
        "host_lookups_per_s": lookups / seconds if seconds else 0.0,
    }


def _accuracy(
    ctx: Context, weights: Weights, model: QuantModel, golden: GoldenResult, batch: SampleBatch
) -> dict[str, Any]:
    """Compare with the float model on the simulated samples; AUC where both labels occur."""
    logits = float_twin.run(ctx.shape, weights, batch)
    found = fidelity(model, golden, logits)
    accuracy: dict[str, Any] = {
        **dataclasses.asdict(found),
        "auc_float": None,
        "auc_device": None,
    }
    if batch.labels is not None and 0 < np.count_nonzero(batch.labels == 1) < len(batch):
        accuracy["auc_float"] = auc(batch.labels, logits)
        accuracy["auc_device"] = auc(batch.labels, golden.logit)
    return accuracy


def _failure(ctx: Context, verdict: Verdict) -> str:
    where = ctx.out / "simulation.json"
    head = f"{verdict.mismatches} of {verdict.samples} samples differ from the golden model"
    lines = [f"{head}; see {where}"]
    lines += [
        f"  sample {one.sample}: {one.field} is {one.got}, the golden model says {one.expected}"
        for one in verdict.first[:5]
    ]
    lines += [f"  {error}" for error in verdict.errors[:5]]
    return "\n".join(lines)
