"""A small model compiled for a device, its RTL, and runs of it: what the device tests share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import filelock
import numpy as np

from screc.compile.images import read_onchip, write_table_images
from screc.compile.layout import make_layout
from screc.compile.load import load_queue
from screc.compile.requests import RequestEncoder
from screc.plan.device import reconstructor
from screc.plan.schema import CoreCounts, CoreShapes, DevicePlan, TablePlan, TtPart, table_ranges
from screc.remap import TableRemap
from screc.simulate.verdict import Verdict, check
from screc.simulate.workload import Workload, build_workload
from screc.weights import load_weights
from screc_hw.device.params import HostParams
from screc_hw.device.top import KERNEL_NAME, Kernel
from screc_hw.emit import emit_systemverilog
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_sim import runner
from screc_sim.golden import model as golden_model
from screc_sim.golden.calibrate import calibrate
from screc_sim.golden.quant import GoldenResult, QuantModel
from screc_sim.memory import Timing
from screc_sim.vectors import OUTCOME_FILE, Job
from tests.cosim.support import CACHE, needs
from tests.support.samples import random_batch
from tests.support.tt import with_random_tt

DOT = ModelShape(
    name="dot",
    dense=5,
    bottom=(12, 8),
    top=(20, 1),
    interaction="dot",
    tables=(
        TableShape(name="a", rows=900, dim=8),
        TableShape(name="b", rows=130, dim=8, format="int4"),
    ),
    features=(
        FeatureShape(name="a1", table=0, pooling=1),
        FeatureShape(name="a2", table=0, pooling=5, mode="mean"),
        FeatureShape(name="b", table=1, pooling=3),
    ),
)

CONCAT = ModelShape(
    name="concat",
    dense=0,
    bottom=(),
    top=(9, 5, 1),
    interaction="concat",
    tables=(
        TableShape(name="wide", rows=120, dim=192),
        TableShape(name="beat", rows=300, dim=64),
        TableShape(name="narrow", rows=700, dim=16),
    ),
    features=(
        FeatureShape(name="w", table=0, pooling=2),
        FeatureShape(name="t", table=1, pooling=2, mode="mean"),
        FeatureShape(name="n", table=2, pooling=4),
    ),
)


MIXED = ModelShape(
    name="mixed",
    dense=3,
    bottom=(8, 16),
    top=(6, 1),
    interaction="concat",
    tables=(
        TableShape(name="bytes", rows=200, dim=64, format="int8r"),
        TableShape(name="nibbles", rows=500, dim=16, format="int4r"),
        TableShape(name="plain", rows=300, dim=32),
        TableShape(name="fine", rows=150, dim=128, format="int4"),
    ),
    features=(
        FeatureShape(name="b", table=0, pooling=3, mode="mean"),
        FeatureShape(name="n", table=1, pooling=4),
        FeatureShape(name="p", table=2, pooling=2),
        FeatureShape(name="n2", table=1, pooling=1, mode="mean"),
        FeatureShape(name="f", table=3, pooling=2),
    ),
)
"""Every format of rows, of a part of a beat up to two beats."""


@dataclasses.dataclass
class Run:
    """A finished job."""

    workload: Workload
    outcome: dict[str, Any]
    verdict: Verdict
    golden: GoldenResult


@dataclasses.dataclass
class Case:
    """A compiled model; ``folder`` holds its images."""

    shape: ModelShape
    params: DeviceParams
    model: QuantModel
    encoder: RequestEncoder
    folder: Path

    def run(
        self,
        simulator: str,
        samples: int,
        *,
        size: int | None = None,
        seed: int = 11,
        longest: int = 6,
        timing: Timing | None = None,
        change: Callable[[Path, Job], Job] | None = None,
    ) -> Run:
        """Run random samples in blocks of ``size``, with bags of up to ``longest`` ids.

        ``change`` may edit the job's files.
        """
        needs(simulator)
        batch = random_batch(self.shape, samples, seed, longest=longest)
        job = self.folder / f"job{len(list(self.folder.glob('job*')))}"
        job.mkdir()
        workload = build_workload(
            job,
            self.folder,
            self.params,
            self.encoder,
            batch,
            size or samples,
            timing=timing or Timing(latency=20),
        )
        if change is not None:
            changed = change(job, workload.job)
            changed.save(job)
            workload = dataclasses.replace(workload, job=changed)
        build = build_device(simulator, self.params)
        runner.run(build, job, "screc_sim.tb.device_tb", environment={"SCREC_JOB": str(job)})
        outcome = json.loads((job / OUTCOME_FILE).read_text())
        golden = golden_model.run(self.model, batch)
        return Run(workload, outcome, check(workload, job, outcome, golden), golden)


def build_device(simulator: str, params: DeviceParams) -> runner.Build:
    """Emit and build a device, once for equal parameters and sources."""
    sources = Path(str(emit_systemverilog.__code__.co_filename)).parent
    digest = hashlib.sha256(json.dumps(params.as_dict()).encode())
    for path in sorted(sources.rglob("*.py")):
        digest.update(path.read_bytes())
    folder = CACHE / "rtl" / digest.hexdigest()[:20]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        done = folder / "done"
        if not done.exists():
            emit_systemverilog(Kernel(params), name=KERNEL_NAME, folder=folder)
            done.touch()
    return runner.build(simulator, sorted(folder.glob("*.sv")), KERNEL_NAME, cache=CACHE)


def compile_case(
    folder: Path,
    shape: ModelShape,
    *,
    dram_share: float = 1.0,
    onchip_share: float = 0.0,
    staging_beats: int = 1024,
    host: HostParams | None = None,
    tt: dict[int, TtPart] | None = None,
    tt_lanes: int = 1,
    replicated: Mapping[int, tuple[int, int]] = MappingProxyType({}),
    **sizes: int,
) -> Case:
    """Compile ``shape`` with the hottest ``dram_share`` of every table on the device.

    Of those the hottest ``onchip_share`` is on chip; the others are in DRAM. Tables with ``tt``, by
    number, have random rows in TT form there, behind those on chip. Of tables ``replicated``, by
    number, every memory core holds a copy: of so many rows on chip, and of those in DRAM behind
    them up to so many resident ones; the others are on SSD.

    ``sizes`` are those of :meth:`DeviceParams.for_model`.
    """
    parts = dict(sorted((tt or {}).items()))
    made = reconstructor(
        [part.shape for part in parts.values()],
        [part.pins for part in parts.values()],
        slice_lanes=DeviceParams.lanes(shape),
        lanes=tt_lanes,
    )
    params = DeviceParams.for_model(shape, tt=made, **sizes)
    if host is not None:
        params = dataclasses.replace(params, host=host)
    weights = load_weights(None, shape, 5)
    model = calibrate(shape, weights, random_batch(shape, 64, 9))
    rng = np.random.default_rng(7)
    remaps = [
        TableRemap.build(table.rows, rng.permutation(table.rows)[: table.rows // 3])
        for table in shape.tables
    ]
    if made is not None:
        model = with_random_tt(model, parts, remaps, made.fraction)
    plan = DevicePlan(
        kind="smartssd",
        cores=CoreCounts(memory=params.memory, tt=params.memory * tt_lanes, compute=params.compute),
        shapes=CoreShapes(rows=params.core.rows, columns=params.core.columns),
        staging_bytes=staging_beats * params.gather.beat_bytes if dram_share < 1 else 0,
        utilisation={},
        tables=tuple(
            TablePlan(
                table=table.name,
                ranges=table_ranges(
                    table.rows,
                    replicated[i][1],
                    params.memory,
                    0,
                    onchip=replicated[i][0],
                    replicated=True,
                )
                if i in replicated
                else table_ranges(
                    table.rows,
                    int(table.rows * dram_share),
                    params.memory,
                    i % params.memory,
                    onchip=parts[i].first
                    if i in parts
                    else int(table.rows * dram_share * onchip_share)
                    // params.memory
                    * params.memory,
                    tt=parts.get(i),
                ),
            )
            for i, table in enumerate(shape.tables)
        ),
    )
    layout = make_layout(plan, shape, params)
    write_table_images(folder, layout, model.tables, remaps, lambda count: None)
    onchip = read_onchip(folder, layout)
    (folder / "load.bin").write_bytes(load_queue(model, params, layout, onchip).data)
    encoder = RequestEncoder(shape, params, layout, remaps, model, folder / "ssd.bin")
    return Case(shape, params, model, encoder, folder)
