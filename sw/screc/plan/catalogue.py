"""Core patterns: which combinations of cores fit one device, and what each of them can do."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from screc.errors import ConfigError, PlanError, PlanErrorKind
from screc.plan.budget import RESOURCES, Budget
from screc_hw.combiner.params import CombinerParams
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import streamed_beats
from screc_hw.device.params import HostParams, max_memory
from screc_hw.memory.params import CREDIT_LOOP_CYCLES, MemoryCoreParams
from screc_hw.model import ModelShape
from screc_hw.params import STREAM_WORDS, DeviceParams
from screc_hw.protocol import BEAT_BYTES
from screc_hw.resources import Resources
from screc_hw.tt.params import TtParams

MEMORY = (1, 2, 4, 8)
COMPUTE = (1, 2, 4)
ROWS = (2, 4, 8, 16, 32, 64)
COLUMNS = (8, 16, 32, 64)
SLOTS = (2, 4)
"""Counts and sizes that the planner chooses from where the configuration pins none."""

LATENCY_CYCLES = 64
"""Cycles of a memory's answer, as the cores' formulas take them where none is measured."""

OUTSTANDING = 64
"""Row beats in flight per memory core."""

URAM_BEATS = 4096
"""Depth of a URAM288: deeper memories are whole multiples of it."""

SMALL_BEATS = (2048, 1024, 512, 64)
"""Depths of on-chip rows that are tried below it, in block RAM and LUT RAM."""

RATES = ("lookups", "port", "lane", "flight", "fast", "pool", "tt")
"""Loads that the memory cores of a device share: per second, its clock × their count."""

_KINDS = {
    "dsp": PlanErrorKind.DSP,
    "lut": PlanErrorKind.LUT,
    "ff": PlanErrorKind.FF,
    "bram36": PlanErrorKind.BRAM,
    "uram": PlanErrorKind.URAM,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pins:
    """Counts and sizes that the configuration fixes and has checked; None is free."""

    memory: int | None = None
    compute: int | None = None
    rows: int | None = None
    columns: int | None = None
    weights: Literal["onchip", "stream"] | None = None
    pool_beats: int | None = None
    slots: int | None = None
    onchip: bool = True
    """Whether rows may be kept on chip at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """Cores that fit one device, and what they can do.

    Parameters
    ----------
    memory, compute
        Counts of cores; either may be 0 where there are other devices.
    gather, core, combiner
        Their parameters; ``core`` and ``combiner`` are None without compute cores.
    tt
        Of the reconstructor of each memory core, or None.
    used
        Logic, by resource.
    capacity
        By resource of ``docs/planner.md``: what the device does in a second, or holds.
    sample_beats
        Beats of streamed weights that are read per sample computed.
    weight_bytes
        Bytes of DRAM that streamed weights take.
    latency
        Seconds of one batch whose rows are there; 0 without compute cores.
    """

    memory: int
    compute: int
    gather: MemoryCoreParams | None
    core: ComputeParams | None
    combiner: CombinerParams | None
    tt: TtParams | None
    used: Mapping[str, float]
    capacity: Mapping[str, float]
    sample_beats: float
    weight_bytes: int
    latency: float

    @property
    def name(self) -> str:
        """Short name, such as ``m2_c1_16x16``; ``s`` for streamed weights, ``p2`` for two pools."""
        if self.core is None:
            cores = f"m{self.memory}_c0"
        else:
            stream = "s" if self.core.stream_words else ""
            cores = (
                f"m{self.memory}_c{self.compute}_{self.core.rows}x{self.core.columns}"
                f"x{self.core.slots}{stream}"
            )
        pool = "_p2" if self.gather is not None and self.gather.pool_beats == 2 else ""
        chip = f"_o{self.gather.onchip_beats}" if self.gather and self.gather.onchip_beats else ""
        tt = f"_t{self.tt.lanes}" if self.tt is not None else ""
        return cores + pool + chip + tt

    def params(self) -> DeviceParams:
        """Parameters of the whole device.

        Raises
        ------
        ValueError
            If the device lacks a kind of cores: such ones are planned, and not built yet.
        """
        if self.gather is None or self.core is None or self.combiner is None:
            raise ValueError("a device without memory or compute cores is not built yet")
        return DeviceParams(
            memory=self.memory,
            compute=self.compute,
            gather=self.gather,
            combiner=self.combiner,
            core=self.core,
            host=HostParams(),
            tt=self.tt,
        )


@dataclasses.dataclass(frozen=True)
class _Compute:
    """Compute cores of one size: cycles per sub-batch, and what does not depend on the others."""

    params: ComputeParams
    resources: Resources
    cycles: float
    alone: float


class Catalogue:
    """Builds patterns for a model; parts that patterns share are rated once.

    Parameters
    ----------
    shape, compute_shape
        The model, see :class:`screc.plan.problem.Problem`.
    batch
        Samples of a block.
    """

    def __init__(self, shape: ModelShape, compute_shape: ModelShape, batch: int) -> None:
        self.shape = shape
        self.compute_shape = compute_shape
        self.batch = batch
        try:
            self.lanes = DeviceParams.lanes(shape)
        except ValueError as error:
            raise ConfigError(str(error), field="model") from error
        self._core = functools.cache(self._make_core)
        self._gather_resources = functools.cache(MemoryCoreParams.resources)
        self._combiner_resources = functools.cache(_combiner_resources)
        self._tt_resources = functools.cache(TtParams.resources)
        dims = [table.dim for table in shape.tables]
        self._slices = max(dims) // self.lanes
        self._rowwise = any(table.rowwise for table in shape.tables)

    def make(
        self,
        budget: Budget,
        *,
        memory: int,
        compute: int,
        rows: int = 8,
        columns: int = 8,
        slots: int = 4,
        stream: bool = False,
        pool_beats: int = 1,
        onchip_beats: int = 0,
        tt: TtParams | None = None,
        outstanding: int = OUTSTANDING,
    ) -> Pattern:
        """Rate one combination of cores, whether it fits or not.

        Raises
        ------
        ValueError
            If the cores cannot run this model at all.
        """
        fraction = None if tt is None else tt.fraction
        gather = None
        if memory:
            gather = MemoryCoreParams(
                lanes=self.lanes,
                outstanding=max(outstanding, 2),
                max_features=len(self.shape.features),
                max_slices=self._slices,
                rows=rows,
                slots=slots * max(compute, 1),
                rowwise=self._rowwise,
                onchip_beats=onchip_beats,
                tt_fraction=fraction,
                pool_beats=pool_beats,
            )
        core = self._core(rows, columns, slots, stream) if compute else None
        combiner = None
        if core is not None:
            combiner = CombinerParams(
                lanes=self.lanes,
                rows=rows,
                slots=slots * compute,
                max_features=len(self.shape.features),
                max_slices=self._slices,
                vector_words=core.params.vector_words,
                mean=any(f.mode == "mean" for f in self.shape.features),
                rowwise=self._rowwise,
                tt_fraction=fraction,
            )
        used = HostParams().resources(memory=memory, compute=compute)
        if gather is not None:
            used += memory * self._gather_resources(gather)
            if tt is not None:
                used += memory * self._tt_resources(tt)
        if core is not None and combiner is not None:
            used += self._combiner_resources(combiner, max(memory, 1), compute)
            used += compute * core.resources
        pattern = Pattern(
            memory=memory,
            compute=compute,
            gather=gather,
            core=core.params if core else None,
            combiner=combiner,
            tt=tt,
            used=used.as_dict(),
            capacity={},
            sample_beats=0.0,
            weight_bytes=0,
            latency=0.0,
        )
        return self._rate(pattern, budget, core)

    def _make_core(self, rows: int, columns: int, slots: int, stream: bool) -> _Compute:
        params = ComputeParams.for_model(
            self.compute_shape,
            rows=rows,
            columns=columns,
            lanes=DeviceParams.lanes(self.compute_shape),
            slots=slots,
            stream_words=STREAM_WORDS if stream else 0,
        )
        return _Compute(
            params=params,
            resources=params.resources(),
            cycles=params.cycles(self.compute_shape, rows, latency=LATENCY_CYCLES),
            alone=params.alone_cycles(self.compute_shape, latency=LATENCY_CYCLES),
        )

    def _rate(self, pattern: Pattern, budget: Budget, core: _Compute | None) -> Pattern:
        """Fill in what a device with these cores can do."""
        clock, memory = budget.clock_hz, pattern.memory
        channels = min(budget.channels, memory)
        capacity: dict[str, float] = dict.fromkeys(RATES, memory * clock)
        if pattern.gather is not None:
            capacity["pool"] *= pattern.gather.pool_beats
        if pattern.tt is None:
            capacity["tt"] = 0.0
        if pattern.gather is None or not (pattern.gather.onchip_beats or pattern.tt):
            capacity["fast"] = 0.0
        onchip = pattern.gather.onchip_beats if pattern.gather else 0
        capacity |= {
            "dram": float(channels),
            "iops": budget.ssd_iops if memory else 0.0,
            "p2p": budget.p2p_rate if memory else 0.0,
            "link_in": budget.link_rate,
            "link_out": budget.link_rate,
            "samples": 0.0,
            "dram_bytes": float(budget.dram_bytes) if memory else 0.0,
            "ssd_bytes": float(budget.ssd_bytes) if memory else 0.0,
            "onchip_bytes": float(memory * onchip * BEAT_BYTES),
        }
        if core is None or pattern.combiner is None:
            return dataclasses.replace(pattern, capacity=capacity)
        rows, cores = core.params.rows, pattern.compute
        batches = -(-self.batch // rows)
        each = -(-batches // cores)
        partials = pattern.combiner.expected_partials(self.shape, inputs=max(memory, 1))
        slowest = max(
            core.cycles * each,
            pattern.combiner.cycles(self.shape, partials_per_bag=partials) * batches,
            HostParams().cycles(self.shape, rows=rows) * batches,
        )
        capacity["samples"] = self.batch * clock / slowest
        beats = cores * core.params.streamed_beats(self.compute_shape, each)
        copies = min(max(memory, 1), cores)
        weights = copies * BEAT_BYTES * streamed_beats(self.compute_shape, core.params)
        if not memory and weights:
            capacity["port"] = clock
            capacity["dram"] = 1.0
            capacity["dram_bytes"] = float(budget.dram_bytes)
        return dataclasses.replace(
            pattern,
            capacity=capacity,
            sample_beats=beats / self.batch,
            weight_bytes=weights,
            latency=(slowest + core.alone) / clock,
        )


def _combiner_resources(params: CombinerParams, inputs: int, cores: int) -> Resources:
    return params.resources(inputs=inputs, cores=cores)


def flight_cycles(row_beats: int, outstanding: int = OUTSTANDING) -> float:
    """Cycles per row that a memory's latency allows, as ``MemoryCoreParams.cycles`` has it."""
    bursts = max(1.0, outstanding // max(row_beats, 1))
    spare = outstanding % row_beats
    return (LATENCY_CYCLES + CREDIT_LOOP_CYCLES + row_beats - spare) / bursts


def excess(pattern: Pattern, budget: Budget) -> list[str]:
    """Resources of which ``pattern`` needs more than the budget's limit."""
    return [name for name in RESOURCES if pattern.used[name] > budget.limits[name]]


def candidates(
    catalogue: Catalogue,
    budget: Budget,
    pins: Pins,
    *,
    alone: bool,
    reconstructors: Sequence[TtParams | None] = (None,),
) -> Iterable[Callable[[int], Pattern]]:
    """Yield every combination of cores as a function of the depth of on-chip rows.

    ``alone``: devices must have memory and compute cores both.
    """
    zero = () if alone else (0,)
    most = min(budget.channels * 4, max_memory())
    memory = [pins.memory] if pins.memory is not None else [*zero, *MEMORY]
    compute = [pins.compute] if pins.compute is not None else [*zero, *COMPUTE]
    sizes = list(
        itertools.product(
            [pins.rows] if pins.rows is not None else ROWS,
            [pins.columns] if pins.columns is not None else COLUMNS,
            [pins.slots] if pins.slots is not None else SLOTS,
            [pins.weights == "stream"] if pins.weights else (False, True),
        )
    )
    for m, c, tt in itertools.product(memory, compute, reconstructors):
        if m > most or not (m or c) or (tt is not None and not m):
            continue
        for rows, columns, slots, stream in sizes if c else [(8, 8, 4, False)]:
            for pool in [pins.pool_beats] if pins.pool_beats is not None else (1, 2):

                def build(
                    depth: int,
                    m: int = m,
                    c: int = c,
                    tt: TtParams | None = tt,
                    rows: int = rows,
                    columns: int = columns,
                    slots: int = slots,
                    stream: bool = stream,
                    pool: int = pool,
                ) -> Pattern:
                    return catalogue.make(
                        budget,
                        memory=m,
                        compute=c,
                        rows=rows,
                        columns=columns,
                        slots=slots,
                        stream=stream,
                        pool_beats=pool if depth or tt is not None else 1,
                        onchip_beats=depth if m else 0,
                        tt=tt,
                    )

                yield build


def deepest(build: Callable[[int], Pattern], budget: Budget, most: int) -> Pattern | None:
    """The pattern with the most room for rows on chip, up to ``most`` beats per core, that fits.

    None where it does not fit without any.
    """
    bare = build(0)
    if excess(bare, budget):
        return None
    if not most or not bare.memory:
        return bare
    full = build(most)
    if not excess(full, budget):
        return full
    low, high = 0, -(-most // URAM_BEATS)
    while low < high:  # the largest count of URAMs in depth that fits
        middle = -(-(low + high) // 2)
        fits = not excess(build(middle * URAM_BEATS), budget)
        low, high = (middle, high) if fits else (low, middle - 1)
    depths = [low * URAM_BEATS] if low else [d for d in SMALL_BEATS if d < most]
    return next((p for d in depths if not excess(p := build(d), budget)), bare)


def dominates(a: Pattern, b: Pattern, *, used: bool = False) -> bool:
    """Whether ``a`` is at least as good as ``b`` in everything that a plan asks of it.

    With ``used`` it must also take no more logic.
    """
    return (
        all(a.capacity[name] >= b.capacity[name] for name in b.capacity)
        and (not used or all(a.used[name] <= b.used[name] for name in RESOURCES))
        and a.sample_beats <= b.sample_beats
        and a.weight_bytes <= b.weight_bytes
        and (a.latency <= b.latency or not b.compute)
        and (a.tt is None) <= (b.tt is None)
    )


def frontier(patterns: Iterable[Pattern], *, used: bool = False) -> tuple[Pattern, ...]:
    """Patterns that no other one dominates, each once; smaller ones win ties."""
    ordered = sorted(patterns, key=lambda p: (sum(p.used.values()), p.name))
    kept: list[Pattern] = []
    for pattern in ordered:
        if any(dominates(other, pattern, used=used) for other in kept):
            continue
        kept = [other for other in kept if not dominates(pattern, other, used=used)]
        kept.append(pattern)
    return tuple(kept)


def enumerate_patterns(
    catalogue: Catalogue,
    budget: Budget,
    pins: Pins,
    *,
    alone: bool,
    onchip_beats: int,
    reconstructors: Sequence[TtParams | None] = (None,),
) -> tuple[Pattern, ...]:
    """Return the patterns that fit under every limit and are not dominated.

    Parameters
    ----------
    alone
        Whether each device must have memory and compute cores both.
    onchip_beats
        Most beats of rows that all memory cores of a device together may keep on chip.
    reconstructors
        Reconstructors to choose from.

    Raises
    ------
    ConfigError
        If the cores cannot run this model at all.
    PlanError
        If no pattern fits; names the scarce resource, needed and had.
    """
    builds: dict[str, Callable[[int], Pattern]] = {}
    fitting: list[Pattern] = []
    refused: list[Pattern] = []
    wrong: ValueError | None = None
    for build in candidates(catalogue, budget, pins, alone=alone, reconstructors=reconstructors):
        try:
            # with a little memory for rows, so that all that this takes is there
            bare = build(SMALL_BEATS[-1] if pins.onchip and onchip_beats else 0)
        except ValueError as error:
            wrong = error
            continue
        if excess(bare, budget):
            refused.append(bare)
        else:
            fitting.append(bare)
            builds[bare.name] = build
    if not fitting and not refused and wrong is not None:
        raise ConfigError(str(wrong), field="model") from wrong
    if not any(p.compute for p in fitting):
        raise nothing_fits([p for p in refused if p.compute] or refused, budget)
    deep = []
    for bare in frontier(fitting, used=True):
        most = -(-onchip_beats // max(bare.memory, 1)) if pins.onchip else 0
        found = deepest(builds[bare.name], budget, most)
        deep += [found, builds[bare.name](0)] if found is not None and most else [bare]
    return frontier(deep)


def nothing_fits(patterns: Sequence[Pattern], budget: Budget) -> PlanError:
    """Say what the pattern that comes closest lacks most."""

    def overuse(pattern: Pattern) -> float:
        return max(pattern.used[name] / max(budget.limits[name], 1e-9) for name in RESOURCES)

    best = min(patterns, key=overuse)
    scarce = max(RESOURCES, key=lambda name: best.used[name] / max(budget.limits[name], 1e-9))
    cores = f"{best.memory} memory and {best.compute} compute cores"
    smaller_tt = []
    if best.tt is not None:
        cores += " with TT reconstructors"
        smaller_tt = ["a smaller tt_rank or tt_rows of the tables in TT form"]
    size = f" of {best.core.rows} × {best.core.columns}" if best.core else ""
    return PlanError(
        _KINDS[scarce],
        f"{cores}{size} need {best.used[scarce]:,.0f} {scarce}; "
        f"{budget.kind} allows {budget.limits[scarce]:,.0f} "
        f"({budget.limits[scarce] / max(budget.usable[scarce], 1):.0%} of "
        f"{budget.usable[scarce]:,.0f})",
        [
            *smaller_tt,
            "plan.cores: smaller rows or columns, or fewer cores, or leave them to the planner",
            "a model with narrower layers: its weights and activations are kept on chip",
            "a device with more of it: `screc devices` lists them",
        ],
    )
