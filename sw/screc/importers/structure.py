"""What a DLRM's tensors say of its sizes: names and shapes of facebookresearch/dlrm."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from screc.errors import ConfigError
from screc.importers.checkpoint import Tensor
from screc.importers.packed import FORMATS, row_dim

_LAYER = re.compile(r"(bot_l|top_l)\.(\d+)\.(weight|bias)")
_TABLE = re.compile(r"emb_l\.(\d+)\.weight")
_WRAPPER = "module."
"""What PyTorch's data-parallel wrappers put before every name."""

FLOAT = "float"
"""Format of a table of plain floats."""


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the caller knows; None: find out.

    ``dim`` and ``format`` (one of FORMATS) of packed rows, and the interaction.
    """

    dim: int | None = None
    format: str | None = None
    interaction: str | None = None


@dataclasses.dataclass(frozen=True)
class ImportedTable:
    """A table: its tensor, and how its rows are to be read; ``format`` as FLOAT or of FORMATS."""

    tensor: Tensor
    format: str
    dim: int

    @property
    def rows(self) -> int:
        """Count of rows."""
        return self.tensor.shape[0]


@dataclasses.dataclass(frozen=True)
class Structure:
    """Sizes of a model, and its tensors: ``layers`` by the names of facebookresearch/dlrm."""

    dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    interaction: str
    layers: Mapping[str, Tensor]
    tables: tuple[ImportedTable, ...]


def find_structure(path: Path, tensors: Mapping[str, Tensor], hints: Hints) -> Structure:
    """Find a model's sizes.

    Raises
    ------
    ConfigError
        If tensors are missing, unknown or of shapes that do not fit each other, or more than one
        model has them; names the tensor, and what tells the models apart.
    """
    if tensors and all(name.startswith(_WRAPPER) for name in tensors):
        tensors = {name.removeprefix(_WRAPPER): tensor for name, tensor in tensors.items()}
    for name in tensors:
        if not _LAYER.fullmatch(name) and not _TABLE.fullmatch(name):
            raise ConfigError(
                f"tensor {name!r} is none of facebookresearch/dlrm's emb_l.i.weight, bot_l.i and "
                "top_l.i with .weight and .bias",
                path=path,
            )
    bottom = _mlp(path, tensors, "bot_l")
    top = _mlp(path, tensors, "top_l")
    if not top or top[-1][0] != 1:
        ends = f"ends in {top[-1][0]}" if top else "is missing"
        raise ConfigError(f"the top MLP (top_l) must end in 1, the logit; it {ends}", path=path)
    stored = _tables(path, tensors)
    bottom_width = bottom[-1][0] if bottom else None
    interaction, tables = _choose(path, stored, bottom_width, top[0][1], hints)
    return Structure(
        dense=bottom[0][1] if bottom else 0,
        bottom=tuple(n for n, _ in bottom),
        top=tuple(n for n, _ in top),
        interaction=interaction,
        layers={name: tensor for name, tensor in tensors.items() if _LAYER.fullmatch(name)},
        tables=tables,
    )


def _mlp(path: Path, tensors: Mapping[str, Tensor], prefix: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of every layer; layers have even numbers, activations the odd ones."""
    matches = [match for name in tensors if (match := _LAYER.fullmatch(name))]
    numbers = sorted({int(match[2]) for match in matches if match[1] == prefix})
    if numbers != list(range(0, 2 * len(numbers), 2)):
        raise ConfigError(
            f"layers of {prefix} must have the numbers 0, 2, 4, ..., not {numbers}", path=path
        )
    sizes: list[tuple[int, int]] = []
    for number in numbers:
        shapes = {}
        for part, axes in (("weight", 2), ("bias", 1)):
            name = f"{prefix}.{number}.{part}"
            if name not in tensors:
                raise ConfigError(f"tensor {name!r} is missing", path=path)
            shapes[part] = tensors[name].shape
            if not tensors[name].is_float or len(shapes[part]) != axes:
                raise ConfigError(
                    f"tensor {name!r} must be of floats with {axes} axes, "
                    f"not {tensors[name].type} {shapes[part]}",
                    path=path,
                )
        n, k = shapes["weight"]
        if shapes["bias"] != (n,) or (sizes and sizes[-1][0] != k):
            inputs = sizes[-1][0] if sizes else k
            raise ConfigError(
                f"layer {prefix}.{number} must have a weight (n, {inputs}) and a bias (n,), "
                f"not {shapes['weight']} and {shapes['bias']}",
                path=path,
            )
        sizes.append((n, k))
    return sizes


def _tables(path: Path, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Tables in the order of their numbers."""
    numbers = sorted(int(match[1]) for name in tensors if (match := _TABLE.fullmatch(name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise ConfigError(
            f"tables (emb_l.i.weight) must have the numbers 0, 1, 2, ..., not {numbers}", path=path
        )
    tables = [tensors[f"emb_l.{i}.weight"] for i in numbers]
    for table in tables:
        if len(table.shape) != 2 or 0 in table.shape:
            raise ConfigError(
                f"tensor {table.name!r} must have shape (rows, columns), not {table.shape}",
                path=path,
            )
    return tables


Readings = Mapping[int, tuple[str, int]]
"""(format, dimension) of the packed tables by their rows' width."""


def _choose(
    path: Path, stored: Sequence[Tensor], bottom: int | None, inputs: int, hints: Hints
) -> tuple[str, tuple[ImportedTable, ...]]:
    """Find the one interaction and reading of packed rows that gives the top MLP its ``inputs``.

    Rows of one width are all packed alike.
    """
    widths = sorted({tensor.shape[1] for tensor in stored if not tensor.is_float})
    choices = [_candidates(path, stored, width, hints) for width in widths]
    found: list[tuple[str, Readings]] = []
    for readings in itertools.product(*choices):
        by_width: Readings = dict(zip(widths, readings, strict=True))
        dims = [t.dim for t in _read(stored, by_width)]
        found += [
            (interaction, by_width)
            for interaction in _interactions(dims, bottom, inputs)
            if hints.interaction in (None, interaction)
        ]
    if len(found) == 1:
        interaction, chosen = found[0]
        return interaction, tuple(_read(stored, chosen))
    sizes = f"{len(stored)} tables" + (f" and a bottom MLP of {bottom}" if bottom else "")
    given = [
        f"--{name} {value}"
        for name, value in dataclasses.asdict(hints).items()
        if value is not None
    ]
    if not found:
        known = f" with {' '.join(given)}" if given else ""
        shown = "; ".join(
            f"rows of {width} bytes are " + " or ".join(f"{f} of {d}" for f, d in readings)
            for width, readings in zip(widths, choices, strict=True)
        )
        floats = sorted({tensor.shape[1] for tensor in stored if tensor.is_float})
        shown = "; ".join(
            part for part in (shown, f"float rows of {floats}" * bool(floats)) if part
        )
        raise ConfigError(
            f"no dot or concat interaction of {sizes} gives the top MLP its {inputs} inputs"
            f"{known} ({shown})",
            path=path,
        )
    models = " or ".join(_describe(interaction, by_width) for interaction, by_width in found[:4])
    raise ConfigError(
        f"{sizes} and a top MLP of {inputs} inputs may be {models}: say which with --dim, --format "
        "or --interaction",
        path=path,
    )


def _candidates(
    path: Path, stored: Sequence[Tensor], width: int, hints: Hints
) -> list[tuple[str, int]]:
    """Readings of packed rows of ``width`` bytes."""
    formats = FORMATS if hints.format is None else (hints.format,)
    found = [(f, dim) for f in formats if (dim := row_dim(f, width)) is not None]
    chosen = [(f, dim) for f, dim in found if hints.dim in (None, dim)]
    if chosen:
        return chosen
    name = next(t.name for t in stored if not t.is_float and t.shape[1] == width)
    dims = ", ".join(f"{f} of {dim}" for f, dim in found) or "none"
    raise ConfigError(
        f"tensor {name!r}: rows of {width} bytes are no packed rows"
        + (f" of --dim {hints.dim}" if hints.dim is not None else "")
        + (f" of --format {hints.format}" if hints.format is not None else "")
        + f"; possible: {dims}",
        path=path,
    )


def _read(stored: Sequence[Tensor], by_width: Readings) -> Iterator[ImportedTable]:
    """Tables, where packed rows are read by their width."""
    for tensor in stored:
        if tensor.is_float:
            yield ImportedTable(tensor, FLOAT, tensor.shape[1])
        else:
            yield ImportedTable(tensor, *by_width[tensor.shape[1]])


def _interactions(dims: Sequence[int], bottom: int | None, inputs: int) -> Iterator[str]:
    """Interactions whose concatenated tensor has ``inputs`` components."""
    first = [] if bottom is None else [bottom]
    vectors = len(dims) + len(first)
    if len({*dims, *first}) == 1 and sum(first) + vectors * (vectors - 1) // 2 == inputs:
        yield "dot"
    if sum(first) + sum(dims) == inputs:
        yield "concat"


def _describe(interaction: str, by_width: Readings) -> str:
    rows = ", ".join(f"{f} rows of {dim}" for f, dim in by_width.values())
    return f"{interaction} with {rows}" if rows else interaction
