"""Core patterns: which combinations of cores fit one device, and what each of them can do."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from screc.errors import ConfigError, Need, PlanError, PlanErrorKind
from screc.plan.budget import RESOURCES, Budget
from screc.plan.slr import Dealer, Parts, can_deal, figures_needed, limits_of
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

UNEVEN_BEATS = 4
"""Beats of each memory core's rows on chip that a table may take beyond its even share: its stripes
are whole beats, and hold unlike counts of rows."""

FEW_TABLES = 8
"""Tables that room for uneven stripes is left for at least."""

RATES = ("lookups", "port", "lane", "flight", "fast", "pool", "tt")
"""Loads that the memory cores of a device share: per second, its clock × their count; ``pool`` and
``tt`` × the pools and lanes of each."""

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
    parts
        The same by what must lie in one SLR.
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
    parts: Parts
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
    """Compute cores of one size: cycles per sub-batch, and what does not depend on the others.

    ``pass_beats`` of weights are streamed for each ``slots`` sub-batches, ``weight_beats`` stored.
    """

    params: ComputeParams
    resources: Resources
    cycles: float
    alone: float
    pass_beats: float
    weight_beats: int


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
        self.gather_used = functools.cache(self._gather_used)
        self.deeper = functools.cache(_deeper)
        self._combiner_resources = functools.cache(_combiner_resources)
        self._tt_resources = functools.cache(TtParams.resources)
        self._combine = functools.cache(self._combine_cycles)
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
        rest = HostParams().resources(memory=memory, compute=compute)
        if combiner is not None:
            rest += self._combiner_resources(combiner, max(memory, 1), compute)
        parts = Parts(
            self.memory_logic(gather, tt) if gather is not None else Resources(),
            core.resources if core is not None else Resources(),
            rest,
        )
        used = rest + memory * parts.memory + compute * parts.compute
        pattern = Pattern(
            memory=memory,
            compute=compute,
            gather=gather,
            core=core.params if core else None,
            combiner=combiner,
            tt=tt,
            used=used.as_dict(),
            parts=parts,
            capacity={},
            sample_beats=0.0,
            weight_bytes=0,
            latency=0.0,
        )
        return self._rate(pattern, budget, core)

    def memory_logic(self, gather: MemoryCoreParams, tt: TtParams | None) -> Resources:
        """Logic of a memory core with its reconstructor."""
        logic = self._gather_resources(gather)
        return logic if tt is None else logic + self._tt_resources(tt)

    def _gather_used(self, params: MemoryCoreParams) -> dict[str, float]:
        """Logic of a memory core, by resource."""
        return dict(self._gather_resources(params).as_dict())

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
            pass_beats=params.streamed_beats(self.compute_shape, 1),
            weight_beats=streamed_beats(self.compute_shape, params),
        )

    def _combine_cycles(self, params: CombinerParams, inputs: int) -> float:
        partials = params.expected_partials(self.shape, inputs=inputs)
        return params.cycles(self.shape, partials_per_bag=partials)

    def _rate(self, pattern: Pattern, budget: Budget, core: _Compute | None) -> Pattern:
        """Fill in what a device with these cores can do."""
        clock, memory = budget.clock_hz, pattern.memory
        channels = min(budget.channels, memory)
        capacity: dict[str, float] = dict.fromkeys(RATES, memory * clock)
        if pattern.gather is not None:
            capacity["pool"] *= pattern.gather.pool_beats
        capacity["tt"] *= 0 if pattern.tt is None else pattern.tt.lanes
        if pattern.gather is None or not (pattern.gather.onchip_beats or pattern.tt):
            capacity["fast"] = 0.0
        onchip = pattern.gather.onchip_beats if pattern.gather else 0
        capacity |= {
            "dram": float(channels),
            "iops": budget.ssd_iops if memory else 0.0,
            "p2p": budget.p2p_rate if memory else 0.0,
            "link_in": budget.link_rate,
            "link_out": budget.link_rate,
            "power": budget.work_watts,
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
        slowest = max(
            core.cycles * each,
            self._combine(pattern.combiner, max(memory, 1)) * batches,
            HostParams().cycles(self.shape, rows=rows) * batches,
        )
        capacity["samples"] = self.batch * clock / slowest
        beats = cores * core.pass_beats * -(-each // core.params.slots)
        copies = min(max(memory, 1), cores)
        weights = copies * BEAT_BYTES * core.weight_beats
        if not memory:  # requests, and weights, come through the host's port
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


def _deeper(params: MemoryCoreParams, onchip_beats: int) -> MemoryCoreParams:
    return dataclasses.replace(params, onchip_beats=onchip_beats)


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


def fits(pattern: Pattern, budget: Budget) -> bool:
    """Whether ``pattern`` keeps the budget's limits, in every SLR."""
    if excess(pattern, budget):
        return False
    if len(budget.slr_limits) == 1:
        return True
    return can_deal(pattern.parts, pattern.memory, pattern.compute, budget)


def lacks(pattern: Pattern, budget: Budget) -> dict[str, float]:
    """Figures, by resource, that raised together would let ``pattern`` fit; none if it does."""
    return figures_needed(pattern.parts, pattern.memory, pattern.compute, budget, pattern.used)


@dataclasses.dataclass(frozen=True)
class _Cores:
    """What :meth:`Catalogue.make` needs to know, the depth of on-chip rows apart."""

    memory: int
    compute: int
    rows: int = 8
    columns: int = 8
    slots: int = 4
    stream: bool = False
    pool_beats: int = 1
    tt: TtParams | None = None

    def at(self, catalogue: Catalogue, budget: Budget, depth: int) -> Pattern:
        """Rate it with ``depth`` beats of rows on chip in each memory core."""
        pool = self.pool_beats if depth or self.tt is not None else 1
        chosen = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        depth = depth if self.memory else 0
        return catalogue.make(budget, **chosen | {"pool_beats": pool, "onchip_beats": depth})


def deepest(
    cores: _Cores,
    catalogue: Catalogue,
    budget: Budget,
    most: int,
    bare: Pattern | None = None,
) -> Pattern | None:
    """The pattern with the most room for rows on chip, up to ``most`` beats per core, that fits.

    None where it does not fit without any; ``bare`` is the pattern without, where it is known to.
    """
    if bare is None:
        bare = cores.at(catalogue, budget, 0)
        if not fits(bare, budget):
            return None
    if not most or bare.gather is None:
        return bare
    # the memory cores are the same, with a little more memory
    small = dataclasses.replace(
        bare.gather, onchip_beats=SMALL_BEATS[-1], pool_beats=cores.pool_beats
    )
    spare = {
        name: (budget.limits[name] - bare.used[name]) / bare.memory
        + catalogue.gather_used(bare.gather)[name]
        for name in RESOURCES
    }

    dealer = None
    if len(budget.slr_limits) > 1:
        limits, parts = limits_of(budget), bare.parts
        dealer = Dealer(bare.compute, parts.compute, parts.rest, limits)

    def fits_at(depth: int) -> bool:
        gather = catalogue.deeper(small, depth)
        used = catalogue.gather_used(gather)
        if any(used[name] > spare[name] for name in RESOURCES):
            return False
        return (
            dealer is None or dealer.most(catalogue.memory_logic(gather, cores.tt)) >= bare.memory
        )

    if fits_at(most):
        return cores.at(catalogue, budget, most)
    low, high = 0, -(-most // URAM_BEATS)
    while low < high:  # the largest count of URAMs in depth that fits
        middle = -(-(low + high) // 2)
        low, high = (middle, high) if fits_at(middle * URAM_BEATS) else (low, middle - 1)
    depths = [low * URAM_BEATS] if low else [d for d in SMALL_BEATS if d < most]
    return next((cores.at(catalogue, budget, d) for d in depths if fits_at(d)), bare)


def frontier(patterns: Sequence[Pattern], *, used: bool = False, slrs: int = 1) -> list[int]:
    """Indices of the patterns that no other one dominates; smaller ones win ties.

    One dominates another if it is at least as good in everything that a plan asks of it and, with
    ``used``, takes no more logic: with several ``slrs`` no more and no larger cores, since it must
    fit wherever the other one does.
    """
    if not patterns:
        return []
    merits = np.array(
        [
            [
                *p.capacity.values(),
                -p.sample_beats,
                -p.weight_bytes,
                -p.latency if p.compute else 0.0,
                *_tt_words(p.tt),
                # more sub-batches under way even out bags of unlike length, which no mean shows
                p.core.slots if p.core else 0,
                *(_logic(p, slrs) if used else ()),
            ]
            for p in patterns
        ]
    )
    size = [sum(p.used.values()) for p in patterns]
    order = sorted(range(len(patterns)), key=lambda i: (size[i], patterns[i].name))
    kept = np.empty(0, np.int64)
    for i in order:
        others = merits[kept]
        if not (others >= merits[i]).all(axis=1).any():
            kept = np.append(kept[~(merits[i] >= others).all(axis=1)], i)
    return [int(i) for i in kept]


def _logic(pattern: Pattern, slrs: int) -> list[float]:
    """What of a pattern's logic less is better."""
    if slrs == 1:
        return [-pattern.used[name] for name in RESOURCES]
    parts = pattern.parts
    return [
        -pattern.memory,
        -pattern.compute,
        *(
            -float(getattr(part, name))
            for part in (parts.memory, parts.compute, parts.rest)
            for name in RESOURCES
        ),
    ]


def _tt_words(tt: TtParams | None) -> tuple[int, ...]:
    """Words that a reconstructor holds, by memory: one of more tables is another pattern."""
    if tt is None:
        return (0, 0, 0, 0)
    return tt.core1_words, tt.core2_words, tt.core3_words, tt.pinned_words


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
        Most beats of rows that all memory cores of a device together may keep on chip; they get
        :func:`uneven_beats` more each.
    reconstructors
        Reconstructors to choose from.

    Raises
    ------
    ConfigError
        If the cores cannot run this model at all.
    PlanError
        If no pattern fits; names the scarce resource, needed and had.
    """
    zero = () if alone else (0,)
    most = min(budget.channels * 4, max_memory())
    memory = [pins.memory] if pins.memory is not None else [*zero, *MEMORY]
    compute = [pins.compute] if pins.compute is not None else [*zero, *COMPUTE]
    pools = [pins.pool_beats] if pins.pool_beats is not None else [1, 2]
    depth = SMALL_BEATS[-1] if pins.onchip and onchip_beats else 0
    sides = _compute_sides(catalogue, budget, pins, compute)
    fitting: list[Pattern] = []
    chosen: list[_Cores] = []
    refused: list[Pattern] = []
    for m, side, tt, pool in itertools.product(memory, sides, reconstructors, pools):
        if m > most or not (m or side.compute) or (tt is not None and not m):
            continue
        if pool == 2 and not (m and (depth or tt is not None)):
            continue
        cores = dataclasses.replace(side, memory=m, tt=tt, pool_beats=pool)
        # with a little memory for rows, so that all that this takes is there
        bare = cores.at(catalogue, budget, depth)
        if depth and pool == pools[0] and not fits(bare, budget):
            bare = cores.at(catalogue, budget, 0)
        if not fits(bare, budget):
            refused.append(bare)
        else:
            fitting.append(bare)
            chosen.append(cores)
    if not any(p.compute for p in fitting):
        raise nothing_fits([p for p in refused if p.compute] or refused, budget)
    deep: list[Pattern] = []
    for i in frontier(fitting, used=True, slrs=len(budget.slr_limits)):
        cores = chosen[i]
        room = -(-onchip_beats // max(cores.memory, 1)) if pins.onchip else 0
        room += uneven_beats(len(catalogue.shape.tables)) if room else 0
        if not room:
            deep.append(fitting[i])
            continue
        bare = cores.at(catalogue, budget, 0)
        found = deepest(cores, catalogue, budget, room, bare)
        assert found is not None
        deep += [found, bare]
    return tuple(deep[i] for i in frontier(deep))


def uneven_beats(tables: int) -> int:
    """Beats of each memory core that uneven stripes of so many tables' rows on chip may take."""
    return UNEVEN_BEATS * max(FEW_TABLES, tables)


def _compute_sides(
    catalogue: Catalogue, budget: Budget, pins: Pins, compute: Sequence[int]
) -> list[_Cores]:
    """Compute cores to choose from, those left out that others beat, with one memory core each."""
    sides, rated = [], []
    wrong: ValueError | None = None
    for c, rows, columns, slots, stream in itertools.product(
        compute,
        [pins.rows] if pins.rows is not None else ROWS,
        [pins.columns] if pins.columns is not None else COLUMNS,
        [pins.slots] if pins.slots is not None else SLOTS,
        [pins.weights == "stream"] if pins.weights else (False, True),
    ):
        if not c:
            continue
        side = _Cores(1, c, rows, columns, slots, stream)
        try:
            rated.append(side.at(catalogue, budget, 0))
        except ValueError as error:
            wrong = error
            continue
        sides.append(side)
    if not sides and wrong is not None:
        raise ConfigError(str(wrong), field="model") from wrong
    return [
        *([_Cores(1, 0)] if 0 in compute else []),
        *(sides[i] for i in frontier(rated, used=True, slrs=len(budget.slr_limits))),
    ]


def nothing_fits(patterns: Sequence[Pattern], budget: Budget) -> PlanError:
    """Say what the nearest pattern lacks: the least sum of relative raises of all that is short."""

    def over(pattern: Pattern) -> dict[str, float]:
        """Raises that the totals need at least."""
        return {
            name: pattern.used[name] / max(budget.limits[name], 1.0) - 1
            for name in excess(pattern, budget)
        }

    if len(budget.slr_limits) == 1:
        best = min(patterns, key=lambda pattern: sum(over(pattern).values()))
    else:
        best = _nearest(patterns, budget, over)
    figures = lacks(best, budget)
    short = {name: figure / max(budget.usable[name], 1.0) - 1 for name, figure in figures.items()}
    scarce = max(short, key=lambda name: short[name])
    needs = [Need(budget.kind, name, budget.usable[name], figures[name]) for name in short]
    cores = f"{best.memory} memory and {best.compute} compute cores"
    smaller_tt = []
    if best.tt is not None:
        cores += " with TT reconstructors"
        smaller_tt = ["a smaller tt_rank or tt_rows of the tables in TT form"]
    size = f" of {best.core.rows} × {best.core.columns}" if best.core else ""
    amounts = "; ".join(
        _amount(best, budget, name) for name in sorted(short, key=lambda name: -short[name])
    )
    options = " ".join(f"--set device.0.{need.field}={need.need:.0f}" for need in needs)
    return PlanError(
        _KINDS[scarce],
        f"{cores}{size} need {amounts}",
        [
            *smaller_tt,
            "plan.cores: smaller rows or columns, or fewer cores, or leave them to the planner",
            "a model with narrower layers: its weights and activations are kept on chip",
            "a device with more of it: `screc devices` lists them; such a one would be " + options,
        ],
        needs,
    )


def _nearest(
    patterns: Sequence[Pattern], budget: Budget, over: Callable[[Pattern], dict[str, float]]
) -> Pattern:
    """The pattern whose raises sum to least where they are for cores dealt to SLRs."""
    order = sorted(
        ((sum(over(pattern).values()), i) for i, pattern in enumerate(patterns)),
    )
    best, least = patterns[order[0][1]], math.inf
    for bound, i in order:
        if bound > least:
            break
        figures = lacks(patterns[i], budget)
        raises = sum(figures[name] / max(budget.usable[name], 1.0) - 1 for name in figures)
        if raises < least:
            best, least = patterns[i], raises
    return best


def _amount(pattern: Pattern, budget: Budget, name: str) -> str:
    """How much of a resource a pattern needs, and what a device allows."""
    limit, usable = budget.limits[name], budget.usable[name]
    share = f"({limit / max(usable, 1):.0%} of {usable:,.0f})"
    if pattern.used[name] > limit or len(budget.slr_limits) == 1:
        return f"{pattern.used[name]:,.0f} {name}; {budget.kind} allows {limit:,.0f} {share}"
    parts = pattern.parts
    each = {
        "memory core": getattr(parts.memory, name) if pattern.memory else 0,
        "compute core": getattr(parts.compute, name) if pattern.compute else 0,
        "all else": getattr(parts.rest, name),
    }
    needs = ", ".join(f"{need:,.0f} for {what}" for what, need in each.items() if need)
    have = " + ".join(f"{slr[name]:,.0f}" for slr in budget.slr_limits)
    return (
        f"{name} in one SLR each ({needs}); {budget.kind} allows {have} in its "
        f"{len(budget.slr_limits)} SLRs {share}"
    )
