"""Core patterns: combinations of core counts and shapes that fit a device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from screc.errors import ConfigError, PlanError, PlanErrorKind
from screc.plan.budget import RESOURCES, Budget
from screc.plan.schema import TtPart
from screc_hw.compute.program import streamed_beats
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams, TtLoad
from screc_hw.protocol import BEAT_BYTES

MEMORY = (1, 2, 4)
COMPUTE = (1, 2, 4)
ROWS = (8, 16, 32)
COLUMNS = (8, 16, 32)
"""Counts and sizes that the planner chooses from where the configuration pins none."""

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


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Cores that fit: their parameters, what they use, and how long a sample keeps each busy.

    ``used`` counts by resource; ``size`` is the mean share of the device's limits; ``seconds`` per
    sample by part of the device; ``latency`` seconds of one batch alone; ``onchip`` rows per table
    that are kept on chip and ``tt`` those in TT form, none where they are empty.
    """

    params: DeviceParams
    used: Mapping[str, float]
    size: float
    seconds: Mapping[str, float]
    latency: float
    onchip: tuple[int, ...] = ()
    tt: tuple[TtPart | None, ...] = ()

    def fast_rows(self, table: int) -> int:
        """Hottest ranks of a table, by its number, that are not read from DRAM."""
        onchip = self.onchip[table] if self.onchip else 0
        part = self.tt[table] if self.tt else None
        return onchip if part is None else part.last

    def weight_bytes(self, shape: ModelShape) -> int:
        """Bytes of DRAM that streamed weights take, a copy for every memory core that has some."""
        copies = min(self.params.memory, self.params.compute)
        return copies * BEAT_BYTES * streamed_beats(shape, self.params.core)

    @property
    def name(self) -> str:
        """Short name, such as ``m2_c1_16x16``, with ``s`` for streamed weights."""
        core = self.params.core
        stream = "s" if core.stream_words else ""
        return f"m{self.params.memory}_c{self.params.compute}_{core.rows}x{core.columns}{stream}"


def make_pattern(
    shape: ModelShape,
    budget: Budget,
    batch: int,
    params: DeviceParams,
    tt: Sequence[TtLoad] = (),
) -> Pattern:
    """Rate one combination of cores by the formulas of its parameters; ``tt`` is rebuilt."""
    used = params.resources().as_dict()
    prediction = params.predict(shape, batch, tt=tt)
    per_sample = 1 / (batch * budget.clock_hz)
    return Pattern(
        params=params,
        used=used,
        size=sum(used[name] / max(budget.limits[name], 1) for name in RESOURCES) / len(RESOURCES),
        seconds={name: cycles * per_sample for name, cycles in prediction.parts.items()},
        latency=prediction.total / budget.clock_hz,
    )


def _choices(pinned: int | None, free: Sequence[int]) -> Sequence[int]:
    return free if pinned is None else (pinned,)


def enumerate_patterns(shape: ModelShape, budget: Budget, batch: int, pins: Pins) -> list[Pattern]:
    """Return every pattern that fits under every limit, smallest first.

    Unless it is pinned where weights are, they are on chip where they fit, and streamed elsewhere.

    Raises
    ------
    ConfigError
        If the cores cannot run this model at all.
    PlanError
        If no pattern fits; names the scarce resource, needed and had.
    """
    candidates = []
    for memory, compute, rows, columns in itertools.product(
        _choices(pins.memory, MEMORY),
        _choices(pins.compute, COMPUTE),
        _choices(pins.rows, ROWS),
        _choices(pins.columns, COLUMNS),
    ):
        for stream in (False, True):
            if pins.weights not in (None, "stream" if stream else "onchip"):
                continue
            try:
                params = DeviceParams.for_model(
                    shape, memory=memory, compute=compute, rows=rows, columns=columns, stream=stream
                )
            except ValueError as error:
                raise ConfigError(str(error), field="model") from error
            candidates.append(make_pattern(shape, budget, batch, params))
            if not excess(candidates[-1], budget):
                break
    candidates.sort(key=lambda pattern: (pattern.size, pattern.name))
    fitting = [pattern for pattern in candidates if not excess(pattern, budget)]
    if not fitting:
        raise nothing_fits(candidates, budget)
    return fitting


def excess(pattern: Pattern, budget: Budget) -> list[str]:
    """Resources of which ``pattern`` needs more than the budget's limit."""
    return [name for name in RESOURCES if pattern.used[name] > budget.limits[name]]


def nothing_fits(candidates: Sequence[Pattern], budget: Budget) -> PlanError:
    """Say what the candidate that comes closest lacks most."""

    def overuse(pattern: Pattern) -> float:
        return max(pattern.used[name] / max(budget.limits[name], 1e-9) for name in RESOURCES)

    best = min(candidates, key=overuse)
    scarce = max(RESOURCES, key=lambda name: best.used[name] / max(budget.limits[name], 1e-9))
    core = best.params.core
    cores = f"{best.params.memory} memory and {best.params.compute} compute cores"
    smaller_tt = []
    if best.params.tt is not None:
        cores += " with TT reconstructors"
        smaller_tt = ["a smaller tt_rank or tt_rows of the tables in TT form"]
    return PlanError(
        _KINDS[scarce],
        f"{cores} of {core.rows} × {core.columns} need {best.used[scarce]:,.0f} {scarce}; "
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
