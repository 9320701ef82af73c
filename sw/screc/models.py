"""Models: ``model.toml`` and the presets that ship with the tool, as sizes for everything else."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from screc.config_validation import Record, nearest, read_toml, validate
from screc.errors import ConfigError
from screc_hw.model import FeatureShape, LayerShape, ModelShape, TableShape
from screc_hw.numerics import MAX_BAG

MAX_ROWS = (1 << 32) - 1
"""Rows of a table: ranks and row counts are unsigned 32-bit fields."""

MAX_WIDTH = (1 << 16) - 1
"""Width of a layer: 16-bit fields of the layer program."""

DIM_STEP = 4
"""Embedding dimensions are multiples of this: components that a memory core handles at once."""

INT4R_DIM_STEP = 8
"""Likewise for ``int4r``, so that a row's scale and bias begin at whole words of 32 bits."""

Format = Literal["int8", "int4", "int8r", "int4r"]
Mode = Literal["sum", "mean"]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Pooling = Annotated[float, Field(gt=0, le=MAX_BAG)]
Name = Annotated[str, Field(min_length=1)]

FEATURE_KEYS = ("pooling", "zipf", "mode", "weighted")
"""Keys that a ``[[table]]`` may carry itself where there is no ``[[feature]]``."""


class CrossConfig(Record):
    """DCN-v2's low-rank cross layers."""

    layers: int = Field(ge=1)
    """Count of cross layers."""
    rank: int = Field(ge=1)
    """Rank of each layer's weight matrix."""


class TableConfig(Record):
    """``[[table]]``: an embedding table."""

    name: Name
    """Unique name."""
    rows: int = Field(ge=1, le=MAX_ROWS)
    """Count of rows."""
    dim: int = Field(ge=DIM_STEP, multiple_of=DIM_STEP)
    """Components of a row, a multiple of 4; of 8 for ``int4r``."""
    format: Format = "int8"
    """How a row is stored: one symmetric scale per table, or (``r``) a scale and bias per row."""
    project: int | None = Field(default=None, ge=DIM_STEP, multiple_of=DIM_STEP)
    """Dimension after a linear map behind the pooling, for tables of another dimension."""
    pooling: Pooling | None = None
    """See ``[[feature]]``; only where the model has no ``[[feature]]``."""
    zipf: float | None = Field(default=None, ge=0)
    """See ``[[feature]]``."""
    mode: Mode | None = None
    """See ``[[feature]]``."""
    weighted: bool | None = None
    """See ``[[feature]]``."""


class FeatureConfig(Record):
    """``[[feature]]``: a sparse input; several may read one table."""

    name: Name
    """Unique name."""
    table: str
    """Name of the table that it reads."""
    pooling: Pooling = 1.0
    """Mean bag length, for planning and synthetic logs where there is no log."""
    zipf: float = Field(default=1.05, ge=0)
    """Skew exponent of the ids, likewise; 0 is uniform."""
    mode: Mode = "sum"
    """How a bag is pooled."""
    weighted: bool = False
    """Whether every lookup carries a weight."""


class ModelFile(Record):
    """``model.toml``: a DLRM."""

    name: Name
    """Name of the model."""
    dense: int = Field(default=0, ge=0, le=MAX_WIDTH)
    """Dense inputs; 0: no bottom MLP."""
    bottom: tuple[Width, ...] = ()
    """Widths of the bottom MLP's layers, after the input; up to 4,160."""
    top: tuple[Width, ...] = (512, 256, 1)
    """Widths of the top MLP's layers, after the input, each up to 4,160; the last is 1."""
    interaction: Literal["dot", "concat", "cross"] = "dot"
    """How the bottom output and the bags meet."""
    mlp_format: Literal["int8", "int4"] = "int8"
    """How the MLPs' weights are stored, with a symmetric scale per output channel."""
    cross: CrossConfig | None = None
    """Sizes of ``cross`` interaction."""
    table: tuple[TableConfig, ...] = Field(min_length=1)
    """The embedding tables."""
    feature: tuple[FeatureConfig, ...] = ()
    """The sparse inputs; absent: one per table, of its name."""

    @property
    def features(self) -> tuple[FeatureConfig, ...]:
        """The sparse inputs, also where the file leaves them to the tables."""
        return self.feature or tuple(
            FeatureConfig(name=table.name, table=table.name, **_given(table))
            for table in self.table
        )


def _given(table: TableConfig) -> dict[str, Any]:
    """Feature keys that a table carries itself."""
    return {key: getattr(table, key) for key in FEATURE_KEYS if getattr(table, key) is not None}


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    folder = resources.files("screc") / "presets"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def preset_model(name: str) -> ModelFile:
    """Read a preset.

    Raises
    ------
    ConfigError
        If there is none of that name; names the nearest.
    """
    if name not in preset_names():
        raise ConfigError(
            f"no preset {name!r}; {nearest(name, preset_names())}", field="model.preset"
        )
    entry = resources.files("screc") / "presets" / f"{name}.toml"
    data = tomllib.loads(entry.read_text(encoding="utf-8"))
    return parse_model(data, Path(f"{name}.toml"))


def preset_shape(name: str) -> ModelShape:
    """Sizes of a preset; see :func:`preset_model`."""
    return to_shape(preset_model(name))


def read_model(path: Path) -> ModelFile:
    """Read and check a ``model.toml``.

    Raises
    ------
    ConfigError
        For the first fault; names file, field, value and what would be valid.
    """
    return parse_model(read_toml(path), path)


def to_shape(model: ModelFile) -> ModelShape:
    """Sizes of a checked model, maps after pooling and cross layers left out."""
    places = {table.name: i for i, table in enumerate(model.table)}
    return ModelShape(
        name=model.name,
        dense=model.dense,
        bottom=model.bottom,
        top=model.top,
        interaction=model.interaction,
        tables=tuple(
            TableShape(name=table.name, rows=table.rows, dim=table.dim, format=table.format)
            for table in model.table
        ),
        features=tuple(
            FeatureShape(
                name=feature.name,
                table=places[feature.table],
                pooling=feature.pooling,
                zipf=feature.zipf,
                mode=feature.mode,
                weighted=feature.weighted,
            )
            for feature in model.features
        ),
        mlp_format=model.mlp_format,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanShape(ModelShape):
    """A model as the planner costs its compute: ``extra`` layers beside those of its MLPs.

    Their order does not matter to a cost, and they need not fit each other.
    """

    extra: tuple[LayerShape, ...] = ()

    @cached_property
    def top_layers(self) -> tuple[LayerShape, ...]:
        """The first layer of the top MLP, the extra ones, the others."""
        first, *others = super().top_layers
        return (first, *self.extra, *others)


def planning_shapes(model: ModelFile) -> tuple[ModelShape, ModelShape]:
    """Sizes of a checked model for planning: as memory cores see it, and as compute cores do.

    They differ where a model has what is planned and not built yet: a ``project`` is a layer of
    ``dim`` inputs and ``project`` outputs per bag, in front of the interaction; a low-rank
    ``cross`` layer of DCN-v2 is two layers, of the concatenated width, ``rank`` and that width.

    References
    ----------
    Wang et al.: DCN V2, WWW 2021, equation 2 (low rank: W = U Vᵀ).
    """
    shape = to_shape(model)
    project = {table.name: table.project for table in model.table if table.project is not None}
    widths: dict[int, int] = {}
    for feature in shape.features:
        table = shape.tables[feature.table]
        out = project.get(table.name)
        if out is not None:
            widths[table.dim] = widths.get(table.dim, 0) + out
    compute = dataclasses.replace(
        shape,
        interaction="dot" if shape.interaction == "dot" else "concat",
        tables=tuple(
            dataclasses.replace(table, dim=project.get(table.name) or table.dim)
            for table in shape.tables
        ),
    )
    extra = [
        LayerShape(name=f"project{dim}", k=dim, n=out, relu=False, format=model.mlp_format)
        for dim, out in widths.items()
    ]
    if model.cross is not None:
        width, rank = compute.top_inputs, model.cross.rank
        for i in range(model.cross.layers):
            extra += [
                LayerShape(name=f"cross{i}{part}", k=k, n=n, relu=False, format=model.mlp_format)
                for part, k, n in (("v", width, rank), ("u", rank, width))
            ]
    if not extra:
        return shape, compute
    fields = {field.name: getattr(compute, field.name) for field in dataclasses.fields(compute)}
    return shape, PlanShape(**fields, extra=tuple(extra))


def parse_model(data: dict[str, Any], path: Path) -> ModelFile:
    """Check what a ``model.toml`` holds; ``path`` is for the errors of :func:`read_model`."""
    model = validate(ModelFile, data, path)
    _check_names(model, path)
    _check_dims(model, path)
    _check_features(model, path)
    _check_layers(model, path)
    _check_interaction(model, path)
    return model


def _check_names(model: ModelFile, path: Path) -> None:
    for kind, names in (
        ("table", [table.name for table in model.table]),
        ("feature", [feature.name for feature in model.feature]),
    ):
        twin = _first_twin(names)
        if twin is not None:
            raise ConfigError(
                f"every {kind} needs a name of its own; {names[twin]!r} is the name of "
                f"{kind}.{names.index(names[twin])} already",
                path=path,
                field=f"{kind}.{twin}.name",
            )


def _first_twin(names: list[str]) -> int | None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            return i
        seen.add(name)
    return None


def _check_dims(model: ModelFile, path: Path) -> None:
    for i, table in enumerate(model.table):
        if table.format == "int4r" and table.dim % INT4R_DIM_STEP:
            raise ConfigError(
                f'format = "int4r" needs a multiple of {INT4R_DIM_STEP}, not {table.dim}',
                path=path,
                field=f"table.{i}.dim",
            )


def _check_features(model: ModelFile, path: Path) -> None:
    names = [table.name for table in model.table]
    for i, feature in enumerate(model.feature):
        if feature.table not in names:
            raise ConfigError(
                f"no table {feature.table!r}; {nearest(feature.table, names)}",
                path=path,
                field=f"feature.{i}.table",
            )
    if not model.feature:
        return
    read = {feature.table for feature in model.feature}
    for i, table in enumerate(model.table):
        if table.name not in read:
            raise ConfigError(
                f"no [[feature]] reads table {table.name!r}: add one, or leave the table out",
                path=path,
                field=f"table.{i}",
            )
        for key in _given(table):
            raise ConfigError(
                f"{key} belongs in the [[feature]] that reads table {table.name!r}, as this model "
                "has [[feature]] entries",
                path=path,
                field=f"table.{i}.{key}",
            )


def _check_layers(model: ModelFile, path: Path) -> None:
    if model.dense and not model.bottom:
        raise ConfigError(
            f"dense = {model.dense} needs at least 1 bottom layer; dense = 0 has none",
            path=path,
            field="bottom",
        )
    if model.bottom and not model.dense:
        raise ConfigError(
            f"dense = 0 has no bottom MLP: bottom must be [], not {list(model.bottom)}",
            path=path,
            field="bottom",
        )
    if not model.top or model.top[-1] != 1:
        raise ConfigError(
            f"the top MLP must end in 1, the logit, not {list(model.top)}", path=path, field="top"
        )


def _check_interaction(model: ModelFile, path: Path) -> None:
    if (model.interaction == "cross") != (model.cross is not None):
        raise ConfigError(
            'interaction = "cross" needs cross = {layers = 3, rank = 512}, and nothing else does',
            path=path,
            field="cross",
        )
    if model.interaction != "dot":
        return
    dims = [table.project or table.dim for table in model.table]
    for i, dim in enumerate(dims):
        if dim != dims[0]:
            raise ConfigError(
                f'interaction = "dot" needs one dimension for all tables: {dim}, but '
                f"table.0.dim = {dims[0]}",
                path=path,
                field=f"table.{i}.dim",
            )
    if model.dense and model.bottom[-1] != dims[0]:
        raise ConfigError(
            f'interaction = "dot" needs the bottom MLP to end in the embedding dimension '
            f"{dims[0]}, not {model.bottom[-1]}",
            path=path,
            field="bottom",
        )
    if not model.dense and len(model.features) == 1:
        raise ConfigError(
            'interaction = "dot" of a single vector has no pairs, so the top MLP has no input: '
            'add a feature or dense inputs, or use interaction = "concat"',
            path=path,
            field="interaction",
        )


def unsupported(model: ModelFile) -> Iterable[tuple[str, str]]:
    """What the file formats hold but nothing can do yet: pairs of field and reason."""
    for i, feature in enumerate(model.features):
        if feature.weighted:
            kind = "feature" if model.feature else "table"
            yield f"{kind}.{i}.weighted", "weights per lookup are not built yet; use false"


def planned_only(model: ModelFile) -> Iterable[tuple[str, str]]:
    """What can be planned but has no hardware yet: pairs of field and reason."""
    if model.interaction == "cross":
        yield "interaction", '"cross" is planned, not built yet; use "dot" or "concat"'
    for i, table in enumerate(model.table):
        if table.project is not None:
            yield f"table.{i}.project", "a map after pooling is planned, not built yet"
