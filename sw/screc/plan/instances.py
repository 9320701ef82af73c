"""Planning problems by name: the instances of ``screc bench plan``, from ``data/bench_plan.toml``.

Everything drawn is drawn from an instance's seed, so a name stands for the same problem everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from screc.config_validation import Record, nearest, validate
from screc.devices import DeviceConfig, resolve_device
from screc.errors import ConfigError
from screc.models import (
    CrossConfig,
    Format,
    ModelFile,
    TableConfig,
    parse_model,
    planning_shapes,
    preset_model,
)
from screc.plan.budget import Budget
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns
from screc.plan.problem import DeviceClass, Objective, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.tt import TtWish, reconstructors, with_tt
from screc_hw.params import DeviceParams

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FILE = "bench_plan.toml"

PIECES = 200
"""Pieces that a Zipf law is cut into at most, evenly by the logarithm of the rank."""

REUSE_PIECES = 8
"""Pieces that a bin of a reuse histogram is cut into."""


class _Source(Record):
    dense: int = Field(default=0, ge=0)
    """Dense inputs."""
    bottom: tuple[int, ...] = ()
    """Widths of the bottom MLP's layers."""
    top: tuple[int, ...] = (512, 256, 1)
    """Widths of the top MLP's layers."""
    interaction: Literal["dot", "concat", "cross"] = "dot"
    """How bags and the bottom output meet."""
    cross: CrossConfig | None = None
    """Sizes of ``cross`` interaction."""
    format: Format = "int8"
    """How a row is stored."""
    project: int | None = None
    """Width of a bag behind its linear map."""
    bags: Literal["full", "poisson"] = "full"
    """Whether bags may be empty."""


class PresetSource(Record):
    """Tables, bags and skews of a preset."""

    source: Literal["preset"]
    """Tag."""
    preset: str
    """Name of the preset."""


class TablesSource(_Source):
    """Tables as listed."""

    source: Literal["tables"]
    """Tag."""
    rows: tuple[PositiveInt, ...] = Field(min_length=1)
    """Rows of every table."""
    dim: PositiveInt | tuple[PositiveInt, ...]
    """Components of a row."""
    pooling: PositiveFloat | tuple[PositiveFloat, ...]
    """Mean bag length."""
    zipf: float | tuple[float, ...] = 1.05
    """Skew exponent."""
    companions: bool = False
    """Whether every id brings others that are always the same."""

    @model_validator(mode="after")
    def _lists_are_as_long(self) -> TablesSource:
        for name in ("dim", "pooling", "zipf"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.rows):
                raise ValueError(
                    f"{name} must be one value or {len(self.rows)}, as rows are, not {len(value)}"
                )
        return self


class _Drawn(_Source):
    tables: PositiveInt
    """Count of tables."""
    rows: PositiveInt
    """Rows of all tables together."""
    pooling_mean: PositiveFloat
    """Mean bag length of all tables, before it is clipped."""
    pooling_sigma: PositiveFloat
    """Standard deviation of its logarithm."""
    pooling_range: tuple[PositiveFloat, PositiveFloat]
    """Least and largest mean bag length."""


class LognormalSource(_Drawn):
    """Tables of lognormal sizes with Zipf laws."""

    source: Literal["lognormal"]
    """Tag."""
    rows_sigma: PositiveFloat
    """Standard deviation of the logarithm of a table's rows."""
    dim: PositiveInt
    """Components of a row."""
    zipf_range: tuple[float, float]
    """Least and largest skew exponent."""


class ReuseSource(_Drawn):
    """Tables whose rows are read as often as a histogram of a trace says."""

    source: Literal["reuse"]
    """Tag."""
    samples: PositiveInt
    """Samples of the trace."""
    dims: tuple[PositiveInt, ...] = Field(min_length=1)
    """Components of a row, one of these for each table."""
    reuse: tuple[PositiveInt, ...] = Field(min_length=1)
    """Most reads of a row in each bin; the least is one more than the bin before has."""
    accesses: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Share of all reads that goes to rows of each bin."""
    tilt_sigma: float = Field(ge=0)
    """Standard deviation of the tilt of a table's histogram."""

    @model_validator(mode="after")
    def _bins_match(self) -> ReuseSource:
        if len(self.accesses) != len(self.reuse):
            raise ValueError(
                f"accesses must be {len(self.reuse)} values, as reuse are, not {len(self.accesses)}"
            )
        if list(self.reuse) != sorted(set(self.reuse)):
            raise ValueError(f"reuse must rise, not {list(self.reuse)}")
        return self


Source = PresetSource | TablesSource | LognormalSource | ReuseSource


class TtCores(Record):
    """``tt``: tables whose model was trained in TT form, so that it costs no accuracy."""

    rank: PositiveInt
    """Of the TT cores."""
    tables: tuple[str, ...] = Field(min_length=1)
    """Names; any of their rows may be in TT form or be kept as they are."""


class Instance(Record):
    """``[[instance]]``: a planning problem, and the objectives that it is solved for."""

    name: str
    """Unique name."""
    seed: int = Field(ge=0)
    """Of everything drawn."""
    batch: PositiveInt
    """Samples of a block."""
    objectives: tuple[Objective, ...] = ("throughput",)
    """The first is ``throughput``; the others are at ``rate_share`` of its rate."""
    rate_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the best rate that the other objectives require."""
    device: tuple[DeviceConfig, ...] = Field(min_length=1)
    """Classes of devices."""
    model: Annotated[Source, Field(discriminator="source")]
    """Where tables and rates come from."""
    tt: TtCores | None = None
    """TT cores that the model brings."""

    @model_validator(mode="after")
    def _throughput_is_first(self) -> Instance:
        if self.objectives[:1] != ("throughput",):
            raise ValueError(f'objectives must begin with "throughput", not {self.objectives}')
        return self

    @property
    def tt_rule(self) -> str:
        """Which tables may be in TT form: those that bring TT cores, as no loss was measured."""
        return f"brought, rank {self.tt.rank}" if self.tt else "none"

    @property
    def device_kind(self) -> str:
        """Kinds of the devices."""
        return "+".join(device.kind for device in self.device)

    @property
    def format(self) -> str:
        """Formats of the tables."""
        return "+".join(sorted({table.format for table in model_of(self).table}))


class _File(Record):
    instance: tuple[Instance, ...]


@functools.cache
def instances() -> tuple[Instance, ...]:
    """All instances, in the file's order."""
    entry = resources.files("screc") / "data" / FILE
    data = tomllib.loads(entry.read_text(encoding="utf-8"))
    return validate(_File, data, FILE).instance


def find_instance(name: str) -> Instance:
    """Return the instance ``name``.

    Raises
    ------
    ConfigError
        If there is none of that name; names the nearest.
    """
    known = {instance.name: instance for instance in instances()}
    if name not in known:
        raise ConfigError(
            f"no instance {name!r}; {nearest(name, list(known))}", path=FILE, field="instance.name"
        )
    return known[name]


def make_instance(name: str) -> Problem:
    """Return the problem ``name``, for throughput; see :func:`find_instance` for errors."""
    return problem_of(find_instance(name))


def problem_of(instance: Instance, pins: Pins | None = None) -> Problem:
    """Build an instance's problem, for throughput; cores may be pinned.

    Raises
    ------
    PlanError
        If no pattern of cores fits a device.
    """
    from screc.plan.step import onchip_beats  # it brings the solver, which takes half a second

    model = model_of(instance)
    shape, compute_shape = planning_shapes(model)
    tables = tables_of(instance)
    catalogue = Catalogue(shape, compute_shape, instance.batch)
    devices = sum(device.count for device in instance.device)
    chosen, most = pins or Pins(), onchip_beats(tables)
    lanes = DeviceParams.lanes(shape)
    rebuild = reconstructors(tables, slice_lanes=lanes, lanes=None, devices=devices)
    classes = []
    for device in instance.device:
        budget = Budget(resolve_device(device))
        patterns = enumerate_patterns(
            catalogue,
            budget,
            chosen,
            alone=devices == 1,
            onchip_beats=most,
            reconstructors=rebuild,
        )
        classes.append(DeviceClass(budget, device.count, patterns, chosen, most, tuple(rebuild)))
    return Problem(
        shape=shape,
        compute_shape=compute_shape,
        tables=tables,
        classes=classes,
        batch=instance.batch,
    )


@functools.cache
def model_of(instance: Instance) -> ModelFile:
    """Return the instance's model: drawn tables have their rows and mean bag lengths."""
    source = instance.model
    if isinstance(source, PresetSource):
        return preset_model(source.preset)
    curves = _curves(instance)
    dims = _dims(instance)
    model = ModelFile(
        name=instance.name,
        dense=source.dense,
        bottom=source.bottom,
        top=source.top,
        interaction=source.interaction,
        cross=source.cross,
        table=tuple(
            TableConfig(
                name=f"T{i + 1}",
                rows=curve.rows,
                dim=dim,
                format=source.format,
                project=source.project,
                pooling=curve.lookups,
            )
            for i, (curve, dim) in enumerate(zip(curves, dims, strict=True))
        ),
    )
    return parse_model(model.model_dump(exclude_none=True), Path(FILE))


@functools.cache
def tables_of(instance: Instance) -> tuple[TableDemand, ...]:
    """Return what the instance's tables need; rows may live on chip, in DRAM and on SSD.

    And in TT form, where their model brings TT cores.

    Raises
    ------
    ConfigError
        If a table that is to bring some is not there, or cannot be in TT form.
    """
    shape, _ = planning_shapes(model_of(instance))
    poisson = not isinstance(instance.model, PresetSource) and instance.model.bags == "poisson"
    tables = [
        TableDemand(
            shape=table,
            rates=rates,
            bags=-math.expm1(-rates.lookups) if poisson else 1.0,
        )
        for table, rates in zip(shape.tables, _curves(instance), strict=True)
    ]
    if instance.tt is None:
        return tuple(tables)
    numbers = {table.shape.name: number for number, table in enumerate(tables)}
    wishes = {}
    for name in instance.tt.tables:
        if name not in numbers:
            raise ConfigError(
                f"no table {name!r}; {nearest(name, list(numbers))}", path=FILE, field="tt.tables"
            )
        wishes[numbers[name]] = TtWish(instance.tt.rank, tables[numbers[name]].shape.rows)
    return tuple(with_tt(tables, wishes, None))


@functools.cache
def _curves(instance: Instance) -> tuple[RateCurve, ...]:
    source = instance.model
    if isinstance(source, PresetSource):
        model = preset_model(source.preset)
        return tuple(
            zipf_curve(table.rows, feature.pooling, feature.zipf)
            for table, feature in zip(model.table, model.features, strict=True)
        )
    rng = np.random.default_rng(instance.seed)
    if isinstance(source, TablesSource):
        many = len(source.rows)
        return tuple(
            zipf_curve(rows, pooling, zipf, group=pooling if source.companions else 1)
            for rows, pooling, zipf in zip(
                source.rows, _each(source.pooling, many), _each(source.zipf, many), strict=True
            )
        )
    pooling = _draw_pooling(rng, source)
    if isinstance(source, LognormalSource):
        sizes = np.exp(rng.normal(0.0, source.rows_sigma, source.tables))
        rows = _whole(sizes, source.rows)
        skews = rng.uniform(*source.zipf_range, source.tables)
        return tuple(zipf_curve(int(n), p, s) for n, p, s in zip(rows, pooling, skews, strict=True))
    tilts = rng.normal(0.0, source.tilt_sigma, source.tables)
    return _reuse_curves(source, pooling, tilts)


def _dims(instance: Instance) -> Sequence[int]:
    source = instance.model
    if isinstance(source, TablesSource):
        return [int(dim) for dim in _each(source.dim, len(source.rows))]
    if isinstance(source, LognormalSource):
        return [source.dim] * source.tables
    assert isinstance(source, ReuseSource)
    # a stream of its own, so that another choice of dimensions leaves the curves as they are
    rng = np.random.default_rng([instance.seed, 1])
    return [int(dim) for dim in rng.choice(source.dims, source.tables)]


def _each(value: float | tuple[float, ...], many: int) -> Sequence[float]:
    return value if isinstance(value, tuple) else [value] * many


def _draw_pooling(rng: np.random.Generator, source: _Drawn) -> Floats:
    """Mean bag lengths, lognormal, clipped, ``(tables,)``."""
    centre = math.log(source.pooling_mean) - source.pooling_sigma**2 / 2
    drawn = np.exp(rng.normal(centre, source.pooling_sigma, source.tables))
    return np.clip(drawn, *source.pooling_range)


def _whole(sizes: Floats, total: int) -> Ints:
    """Whole numbers of 1 and more, in proportion to ``sizes``, of the sum ``total``."""
    scaled = np.maximum(1, np.floor(sizes * (total / sizes.sum()))).astype(np.int64)
    scaled[np.argmax(scaled)] += total - int(scaled.sum())
    return scaled


def zipf_curve(
    rows: int, lookups: float, exponent: float, *, pieces: int = PIECES, group: float = 1
) -> RateCurve:
    """Zipf's law over ``rows`` ranks: rank r is read in proportion to r ** -exponent.

    In at most ``pieces`` pieces of constant rate, ranks 1, 2, 3 ... alone at first. ``group``
    ranks each are read equally often, and groups by the law.
    """
    size = max(1, round(group))
    groups = -(-rows // size)
    edges = np.unique(np.round(np.geomspace(1, groups + 1, pieces + 1)).astype(np.int64)) - 1
    ends = edges.astype(np.float64) + 0.5
    if exponent == 1:
        mass = np.diff(np.log(ends))
    else:
        mass = np.diff(ends ** (1 - exponent)) / (1 - exponent)
    alone = np.diff(edges) == 1
    mass[alone] = (edges[:-1][alone] + 1.0) ** -exponent
    rates = mass / np.diff(edges)
    ranks = np.minimum(edges * size, rows)
    return _scaled(ranks, rates, lookups)


def _reuse_curves(source: ReuseSource, pooling: Floats, tilts: Floats) -> tuple[RateCurve, ...]:
    """Curves of tables whose rows are read as often as the histogram says, tilted by table."""
    least = (1, *(most + 1 for most in source.reuse[:-1]))
    reads, shares, bins = [], [], []
    for number, (low, high, share) in enumerate(
        zip(least, source.reuse, source.accesses, strict=True)
    ):
        corners = np.geomspace(low, high, min(REUSE_PIECES, high - low + 1) + 1)
        middles = np.sqrt(corners[1:] * corners[:-1])
        reads.append(middles)
        shares.append(np.full(len(middles), share / len(middles)))
        bins.append(np.full(len(middles), number))
    read, place = np.concatenate(reads), np.concatenate(bins)
    tilted = np.concatenate(shares) * np.exp(tilts[:, None] * (place - place.mean()))
    tilted /= tilted.sum(axis=1, keepdims=True)
    counts = pooling[:, None] * source.samples * tilted / read
    counts *= source.rows / counts.sum()
    # whole rows of each table, then hottest first
    ends = np.round(np.cumsum(counts[:, ::-1], axis=1)).astype(np.int64)
    ends[:, -1] = np.maximum(1, _whole(counts.sum(axis=1), source.rows))
    ends[:, :-1] = np.minimum(ends[:, :-1], ends[:, -1:])
    curves = []
    for last, lookups in zip(ends, pooling, strict=True):
        widths = np.diff(last, prepend=0)
        kept = widths > 0
        edges = np.concatenate([[0], last[kept]])
        curves.append(_scaled(edges, read[::-1][kept], float(lookups)))
    return tuple(curves)


def _scaled(edges: Ints, rates: Floats, lookups: float) -> RateCurve:
    """Return a curve in proportion to ``rates``, of ``lookups`` in all."""
    falling = np.minimum.accumulate(rates)
    return RateCurve(edges, falling * (lookups / float(falling @ np.diff(edges))))


def at_rate(problem: Problem, objective: Objective, rate: float) -> Problem:
    """Return the problem with another objective, at ``rate`` samples a second."""
    return dataclasses.replace(problem, objective=objective, rate=rate)
