"""``CONFIG.toml``: what to build, from which log, for which device.

Values come from the presets, then the file, then ``--set``, the last one wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from screc.config_validation import PLAIN, TABLE, Record, nearest, read_toml, tagged, validate
from screc.devices import DeviceConfig
from screc.errors import ConfigError
from screc.models import MAX_ROWS as MAX_TABLE_ROWS
from screc.models import (
    ModelFile,
    planned_only,
    preset_model,
    preset_names,
    read_model,
    to_shape,
    unsupported,
)
from screc_hw.compute.params import COLUMNS, MAX_ROWS, MIN_ROWS
from screc_hw.device.params import max_compute, max_memory
from screc_hw.model import ModelShape
from screc_hw.protocol import MAX_SAMPLES
from screc_sim.golden.scales import Clip

Tier = Literal["onchip", "tt", "dram", "ssd"]
Format = Literal["criteo", "csv", "npz", "parquet", "libsvm", "synthetic"]

SUFFIX_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
    ".svm": "libsvm",
    ".libsvm": "libsvm",
}
"""Format of a log whose ``format`` is absent, by the end of its name; any other is Criteo's."""


MAX_SCALE = 1e6
"""Keeps scaled rows finite; how many a table may have is checked once the model is known."""


class ModelConfig(Record):
    """``[model]``: which model, and its weights."""

    preset: str | None = None
    """Name of a preset; or ``file``."""
    file: Path | None = None
    """A ``model.toml``; or ``preset``."""
    weights: Path | None = None
    """A safetensors file with facebookresearch/dlrm's names; absent: drawn from ``seed``."""
    seed: int = Field(default=0, ge=0)
    """Seed of drawn weights and of a synthetic log."""
    scale: float = Field(default=1.0, gt=0, le=MAX_SCALE)
    """Rows of every table, as a multiple of the model's, rounded to at least 1; it needs drawn
    weights."""
    calibration: Clip = "auto"
    """How scales are chosen; ``auto``: tensor by tensor, the rule that moves the logits least."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.preset is None) == (self.file is None):
            both = "not both" if self.preset is not None else "neither is given"
            raise ValueError(
                f'needs preset = "criteo-kaggle" or file = "model.toml", {both}; '
                f"presets: {', '.join(preset_names())}"
            )
        if self.scale != 1 and self.weights is not None:
            raise ValueError(
                f"scale = {self.scale} changes the tables' rows, but weights have their own: leave "
                "out one of them"
            )
        return self


class IdsFile(Record):
    """``ids = {file = ...}``: numbers that a trained model gave to the values of its log."""

    file: Path
    """Parquet file with the columns ``feature`` (name), ``value`` (text) and ``id``."""


class LabelColumn(Record):
    """``label = {column = ..., at_least = ...}``: the column that tells positive samples."""

    column: str
    """Name of the column."""
    at_least: float | None = None
    """A sample is positive from this value on; absent: the column is 0 or 1."""


class LogTable(Record):
    """``[[log.table]]``: where the ids of a feature are."""

    table: str
    """Name of the feature; or of a table that only one feature reads."""
    column: str | None = None
    """``csv``, ``parquet``: name of the column."""
    hex: bool | None = None
    """``csv``, ``parquet``: whether text is hexadecimal; absent: where it has a letter."""
    indices: str | None = None
    """``npz``: array of ids, jagged ``(lookups,)`` or fixed ``(samples, length)``."""
    offsets: str | None = None
    """``npz``: array ``(samples,)`` or ``(samples + 1,)``: where each bag starts in ``indices``."""
    first: int | None = Field(default=None, ge=0)
    """``libsvm``: first index of the bag's range; the id is the index less this."""
    last: int | None = Field(default=None, ge=0)
    """``libsvm``: last index of the bag's range, inclusive."""


class LogConfig(Record):
    """``[log]``: the access log."""

    path: str | None = None
    """File or glob (``day_*.tsv.gz``, in name order); absent: synthetic."""
    format: Format | None = None
    """How the files are laid out; absent: from the name, or synthetic without a path."""
    ids: Annotated[
        Annotated[Literal["modulo", "dictionary"], Tag(PLAIN)] | Annotated[IdsFile, Tag(TABLE)],
        Discriminator(tagged),
    ] = "modulo"
    """Value to row: modulo rows, numbered by first appearance, or a file of a trained model."""
    profile: float = Field(default=0.5, gt=0, lt=1)
    """Share of the samples, from the start, that hot rows are chosen on."""
    holdout: float = Field(default=0.5, gt=0, lt=1)
    """Share of the samples, from the end, that accesses are counted on."""
    samples: int | None = Field(default=None, ge=2)
    """How many to draw (synthetic; absent: 20,000), or to read at most."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """``csv``: what separates columns."""
    label: (
        Annotated[
            Annotated[str, Tag(PLAIN)] | Annotated[LabelColumn, Tag(TABLE)], Discriminator(tagged)
        ]
        | None
    ) = None
    """Column (``csv``, ``parquet``) or array (``npz``) of labels; absent: none."""
    dense: tuple[str, ...] = ()
    """Columns or arrays of dense features, in order."""
    log_dense: bool | None = None
    """Whether dense ``x`` becomes ``log(1 + max(x, 0))``; absent: for Criteo's data alone."""
    table: tuple[LogTable, ...] = ()
    """Where each feature's ids are (``csv``, ``npz``, ``parquet``, ``libsvm``)."""

    @model_validator(mode="after")
    def _consistent(self) -> LogConfig:
        if self.profile + self.holdout > 1:
            raise ValueError(
                f"profile + holdout must be at most 1, not {self.profile} + {self.holdout}: the "
                "hold-out part is the later one"
            )
        if self.kind == "synthetic" and self.path is not None:
            raise ValueError(
                f'a synthetic log has no path, not {self.path!r}; or format = "criteo"'
            )
        if self.kind != "synthetic" and self.path is None:
            raise ValueError(f'format = "{self.kind}" needs a path')
        return self

    @property
    def kind(self) -> Format:
        """The format, also where it is absent."""
        if self.format is not None:
            return self.format
        if self.path is None:
            return "synthetic"
        name = self.path.removesuffix(".gz")
        return SUFFIX_FORMATS.get(Path(name).suffix, "criteo")


class AnalyzeConfig(Record):
    """``[analyze]``: how accesses are counted, and what is measured beside them."""

    exact_rows: int = Field(default=20_000_000, ge=1)
    """Distinct rows of a table that are counted and ranked; of one with more, a sketch finds the
    hottest so many, and a sample tells of the rest."""
    tt_ranks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Ranks at which whole tables are tried in tensor-train form; it takes time."""
    tt_tables: tuple[str, ...] = ()
    """Tables that are tried; absent: all of at least 10,000 rows with one scale."""
    tt_samples: int = Field(default=16384, ge=1)
    """Samples of the hold-out part that the AUC is measured on, at most."""

    @model_validator(mode="after")
    def _check_ranks(self) -> AnalyzeConfig:
        if self.tt_tables and not self.tt_ranks:
            raise ValueError(
                "tt_tables names tables to try, but tt_ranks has no rank to try them at"
            )
        return self


class PlanTable(Record):
    """``[[plan.table]]``: wishes for one table."""

    name: str
    """Name of the table."""
    tiers: tuple[Tier, ...] | None = None
    """Tiers that its rows may be in; absent: ``onchip``, ``dram`` and ``ssd``."""
    pin: Tier | None = None
    """The tier that all its rows are in."""
    onchip_rows: int | None = Field(default=None, ge=0)
    """Most rows on chip; absent: as many as fit."""
    tt_rank: int | None = Field(default=None, ge=1)
    """Rank of its tensor-train cores, for ``tt``."""
    tt_rows: int | None = Field(default=None, ge=1)
    """Hottest rows that are in tensor-train form where not on chip; absent: all, or with ``dram``
    or ``ssd`` among the tiers those that get 90 % of the accesses."""
    replicate: bool = False
    """Whether every memory core holds a copy of its rows, on chip or in DRAM."""

    @model_validator(mode="after")
    def _possible(self) -> PlanTable:
        if self.tiers == ():
            raise ValueError("tiers names none; leave it out for onchip, dram and ssd")
        tiers = {self.pin} if self.pin else set(self.tiers or ("dram",))
        if self.replicate and not tiers & {"onchip", "dram"}:
            raise ValueError(
                f"replicate needs onchip or dram among its tiers, not {', '.join(sorted(tiers))} "
                "alone"
            )
        return self


def _is_power_of_two(value: int) -> bool:
    return value > 0 and not value & (value - 1)


class CoresConfig(Record):
    """``[plan.cores]``: cores that are given; the planner chooses the absent ones."""

    memory: int | None = None
    """Memory cores, a power of two."""
    compute: int | None = None
    """Compute cores, a power of two."""
    rows: int | None = None
    """Samples that a compute core takes at a time, a power of two from 2 to 64."""
    columns: int | None = None
    """Multipliers of a compute core per sample: 8, 16, 32 or 64."""
    weights: Literal["onchip", "stream"] | None = None
    """Where compute cores have the MLPs' weights: all on chip, or read from memory as they are
    needed; absent: on chip where they fit."""
    tt_lanes: int | None = Field(default=None, ge=1, le=16)
    """Tensor-train lanes of each memory core, where tables are in that form; absent: as is
    best."""
    prefixes: int | None = Field(default=None, ge=0, le=1 << 16)
    """First products that those lanes keep, of all tables together; absent: 512."""

    @field_validator("memory", "compute", "rows")
    @classmethod
    def _power_of_two(cls, value: int | None, info: ValidationInfo) -> int | None:
        bounds = {"memory": (1, max_memory()), "compute": (1, max_compute())}
        low, high = bounds.get(str(info.field_name), (MIN_ROWS, MAX_ROWS))
        if value is not None and not (_is_power_of_two(value) and value in range(low, high + 1)):
            raise ValueError(f"must be a power of two from {low} to {high}, not {value}")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_built(cls, value: int | None) -> int | None:
        if value is not None and value not in COLUMNS:
            raise ValueError(f"must be one of {', '.join(map(str, COLUMNS))}, not {value}")
        return value


class PlanConfig(Record):
    """``[plan]``: what the planner optimises."""

    objective: Literal["throughput", "energy", "devices"] = "throughput"
    """Least time per sample; or, at ``rate``, least energy per sample or fewest devices."""
    batch: int = Field(default=128, ge=1, le=MAX_SAMPLES)
    """Samples of a request block."""
    rate: float | None = Field(default=None, gt=0)
    """Samples per second that must be served."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Longest time from a batch's request to its results, unloaded, in ms."""
    gap: float = Field(default=0.01, ge=0, lt=1)
    """Relative distance to the proven bound at which the solver may stop."""
    time_limit_s: float = Field(default=60.0, gt=0)
    """Longest time that the solver may take, in seconds."""
    solver: str = Field(default="highs", min_length=1)
    """The MIP solver: ``highs``, or another one that Pyomo knows and that is installed."""
    intervals: int = Field(default=50, ge=1, le=1000)
    """Intervals of a table's coverage curve."""
    split: bool = True
    """Whether a table may be split over devices."""
    cartesian: bool = False
    """Whether pairs of small tables may be merged into one, their Cartesian product, whose row is
    read in one access. Planned; not built yet."""
    max_auc_loss: float | None = Field(default=None, ge=0)
    """AUC that approximated rows may cost."""
    max_row_error: float | None = Field(default=None, ge=0)
    """Relative error that an approximated row may have."""
    cores: CoresConfig = CoresConfig()
    """Cores that are given."""
    table: tuple[PlanTable, ...] = ()
    """Wishes for single tables."""

    @model_validator(mode="after")
    def _has_rate(self) -> PlanConfig:
        if self.objective != "throughput" and self.rate is None:
            raise ValueError(f'objective = "{self.objective}" needs rate, in samples per second')
        return self

    @field_validator("table")
    @classmethod
    def _once_each(cls, table: tuple[PlanTable, ...]) -> tuple[PlanTable, ...]:
        names = [each.name for each in table]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each table once, not twice: {', '.join(map(repr, twice))}")
        return table


class SimulateConfig(Record):
    """``[simulate]``: how the RTL is run."""

    simulator: Literal["verilator", "icarus"] = "verilator"
    """Which simulator."""
    samples: int = Field(default=256, ge=1)
    """Samples that run through the RTL."""


class Config(Record):
    """A whole ``CONFIG.toml``, with paths resolved against its folder."""

    model: ModelConfig
    """``[model]``"""
    log: LogConfig = LogConfig()
    """``[log]``"""
    device: tuple[DeviceConfig, ...] = Field(default=(DeviceConfig(kind="smartssd"),), min_length=1)
    """``[[device]]``, one entry per kind."""
    analyze: AnalyzeConfig = AnalyzeConfig()
    """``[analyze]``"""
    plan: PlanConfig = PlanConfig()
    """``[plan]``"""
    simulate: SimulateConfig = SimulateConfig()
    """``[simulate]``"""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path
        The ``CONFIG.toml``; relative paths in it and in ``overrides`` start at its folder.
    overrides
        ``key=value`` each: keys joined by dots, array elements by number, TOML values (what is no
        TOML value is a string).

    Raises
    ------
    ConfigError
        For the first fault; names file (or ``--set``), field, value and what would be valid.
    """
    data = read_toml(path)
    for override in overrides:
        apply_override(data, override)
    return _resolve(validate(Config, data, path), path.parent)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Put one ``a.b.0.c=value`` into ``data``, in place.

    An array may grow by one element. Naming ``model.preset`` drops ``model.file`` and the reverse.
    """
    key, equals, text = override.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not equals or not all(keys):
        raise ConfigError(
            f"must be KEY=VALUE, such as device.0.kind=u50, not {override!r}", path="--set"
        )
    holder: Any = data
    for i, name in enumerate(keys[:-1]):
        holder = _step(holder, keys, i, name, [] if keys[i + 1].isdigit() else {})
    _put(holder, keys, parse_value(text))
    if keys in (["model", "preset"], ["model", "file"]):
        holder.pop("file" if keys[1] == "preset" else "preset", None)


def _step(holder: Any, keys: list[str], depth: int, name: str, absent: Any) -> Any:
    """Go into ``holder`` by one key, adding ``absent`` where there is nothing yet."""
    if isinstance(holder, dict):
        return holder.setdefault(name, absent)
    if isinstance(holder, list):
        index = _index(holder, keys, depth)
        if index == len(holder):
            holder.append(absent)
        return holder[index]
    raise _not_a_table(keys, depth, holder)


def _put(holder: Any, keys: list[str], value: Any) -> None:
    if isinstance(holder, dict):
        holder[keys[-1]] = value
    elif isinstance(holder, list):
        index = _index(holder, keys, len(keys) - 1)
        holder[index : index + 1] = [value]
    else:
        raise _not_a_table(keys, len(keys) - 1, holder)


def _index(holder: list[Any], keys: list[str], depth: int) -> int:
    """Element that ``keys[depth]`` names; one past the end is a new one."""
    name = keys[depth]
    if not name.isdigit() or int(name) > len(holder):
        raise ConfigError(
            f"{'.'.join(keys[:depth])} is an array of {len(holder)}: the next key must be a number "
            f"in 0..{len(holder)}, not {name!r}",
            path="--set",
            field=".".join(keys),
        )
    return int(name)


def _not_a_table(keys: list[str], depth: int, value: Any) -> ConfigError:
    return ConfigError(
        f"{'.'.join(keys[:depth])} is {value!r}, which has no keys",
        path="--set",
        field=".".join(keys),
    )


def parse_value(text: str) -> Any:
    """Read a value of ``--set``: as TOML, or the text itself."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # a text with line breaks could smuggle in more keys than one
    return found["value"] if len(found) == 1 else text


def _resolve(config: Config, folder: Path) -> Config:
    """Make every path absolute, starting at ``folder``."""
    start = folder.absolute()

    def moved(record: Any, *names: str) -> Any:
        paths = {name: getattr(record, name) for name in names}
        found = {name: start / path for name, path in paths.items() if path is not None}
        return record.model_copy(update=found)

    model = moved(config.model, "file", "weights")
    log = config.log
    if log.path is not None:
        log = log.model_copy(update={"path": str(start / log.path)})
    if isinstance(log.ids, IdsFile):
        log = log.model_copy(update={"ids": moved(log.ids, "file")})
    return config.model_copy(update={"model": model, "log": log})


def dump_config(config: Config) -> str:
    """Write the resolved configuration as TOML: reading it back gives the same."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def model_file(config: Config) -> ModelFile:
    """Read the model that ``[model]`` names, ``scale`` applied; errors as :func:`load_config`."""
    if config.model.preset is not None:
        model = preset_model(config.model.preset)
    else:
        assert config.model.file is not None  # ModelConfig's validator: one of the two
        model = read_model(config.model.file)
    return _scaled(model, config.model.scale)


def model_shape(config: Config) -> ModelShape:
    """Sizes of the model of a configuration.

    Raises
    ------
    ConfigError
        If the model is wrong, or asks for what the tool cannot do yet.
    """
    model = model_file(config)
    check_supported(config, model)
    shape = to_shape(model)
    _check_plan_tables(config, shape)
    return shape


def _scaled(model: ModelFile, scale: float) -> ModelFile:
    """Return ``model`` with ``scale`` times the rows in every table."""
    tables = []
    for table in model.table:
        rows = max(1, round(table.rows * scale))
        if rows > MAX_TABLE_ROWS:
            raise ConfigError(
                f"{scale} makes {rows:,} rows of table {table.name!r}; at most {MAX_TABLE_ROWS:,}",
                field="model.scale",
            )
        tables.append(table.model_copy(update={"rows": rows}))
    return model.model_copy(update={"table": tuple(tables)})


def check_supported(config: Config, model: ModelFile) -> None:
    """Refuse what the formats hold but no part of the tool can do yet.

    Raises
    ------
    ConfigError
        Names the field, and what to use instead.
    """
    where = config.model.file or config.model.preset
    for field, reason in unsupported(model):
        raise ConfigError(reason, path=where, field=field)
    if config.log.kind == "libsvm":
        raise ConfigError(
            '"libsvm" is not read yet; use "csv", "npz" or "parquet"', field="log.format"
        )


def check_built(config: Config) -> None:
    """Refuse what can be planned, but has no hardware yet; errors as :func:`check_supported`."""
    where = config.model.file or config.model.preset
    for field, reason in planned_only(model_file(config)):
        raise ConfigError(reason, path=where, field=field)
    count = sum(device.count for device in config.device)
    if count > 1:
        raise ConfigError(
            f"{count} devices can be planned for (`screc plan`); hardware and images are made for "
            "one so far: one [[device]] with count = 1",
            field="device",
        )


def _check_plan_tables(config: Config, shape: ModelShape) -> None:
    names = [table.name for table in shape.tables]
    for i, wish in enumerate(config.plan.table):
        if wish.name not in names:
            raise ConfigError(
                f"no table {wish.name!r}; {nearest(wish.name, names)}", field=f"plan.table.{i}.name"
            )
