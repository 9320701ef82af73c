"""Float weights of a model: read lazily from safetensors, or drawn from a seed.

Names and shapes are those of facebookresearch/dlrm's state dict: ``bot_l.{2i}.weight`` ``(n, k)``
and ``.bias`` ``(n,)``, ``top_l…`` likewise (odd numbers are the activations between), and
``emb_l.{i}.weight`` ``(rows, dim)``. A table of format ``int8r`` or ``int4r`` may also be stored as
its packed rows: uint8 ``(rows, row bytes)``, codes, fp16 scale, fp16 bias.

A model that was quantised before it came here also has scales, float32: ``{layer}.weight_scale``
``(n,)`` (0: the channel has none), ``emb_l.{i}.scale`` ``(1,)``, ``scale.{tensor}`` ``(1,)`` by the
names of :class:`~screc_sim.golden.float_twin.GivenScales`, and ``zero.dense`` ``(1,)``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from screc.errors import ConfigError
from screc_hw.model import LayerShape, ModelShape, TableShape
from screc_hw.numerics import INT8_MAX
from screc_sim.golden.float_twin import FloatLinear, GivenScales, Weights
from screc_sim.golden.rowwise import ROWWISE_UNIT, PackedRows, unpack_rows

__all__ = ["FloatLinear", "PackedTable", "SeededTable", "TensorTable", "Weights", "load_weights"]

COMPONENTS_AT_ONCE = 1 << 22
"""Components of a table read at a time by a pass over all of it."""

FLOAT_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""safetensors types of floats, and how numpy maps them (bfloat16 as its bit pattern)."""

PACKED_TYPE = "U8"
"""safetensors type of packed rows."""

CODE_TOLERANCE = 2.0**-8
"""How far a weight over its scale may be from a whole number: codes times a float32 are rounded."""

STORED_TYPES = FLOAT_TYPES | {PACKED_TYPE: "u1"}
"""safetensors types that are read, and how numpy maps them."""


def load_weights(path: Path | None, shape: ModelShape, seed: int = 0) -> Weights:
    """Read or draw the weights of a model.

    Parameters
    ----------
    path
        A safetensors file, or None for weights from ``seed``. Tables stay on disk and are read by
        row; whether their values are finite is checked by the pass of ``peak``.
    shape
        The model.
    seed
        Seed of drawn weights.

    Raises
    ------
    ConfigError
        If the file cannot be read as safetensors, a tensor is missing, unexpected, of another shape
        or type than the model needs, or holds a NaN or an infinity; names file and tensor.
    """
    return seeded_weights(shape, seed) if path is None else read_weights(path, shape)


# --- from a file ---------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor of a safetensors file: its type by their name, and where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorTable:
    """Rows of a table in a safetensors file, memory-mapped: only fetched rows are read.

    Parameters
    ----------
    path
        The file.
    name
        Name of the tensor, for messages.
    stored
        The tensor as it is in the file: ``(rows, dim)`` of a type of :data:`FLOAT_TYPES`.
    """

    def __init__(self, path: Path, name: str, stored: NDArray[np.generic]) -> None:
        self._path = path
        self._name = name
        self._stored = stored

    @property
    def rows(self) -> int:
        """Count of rows."""
        return int(self._stored.shape[0])

    @property
    def dim(self) -> int:
        """Components of a row."""
        return int(self._stored.shape[1])

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows ``ids`` as float32 ``(len(ids), dim)``."""
        return to_float32(self._stored[ids])

    def peak(self) -> float:
        """Largest magnitude in the table, by one pass over the file, kept.

        Raises
        ------
        ConfigError
            If a value is NaN or infinite; names the tensor and the first such index.
        """
        return self._peak

    @cached_property
    def _peak(self) -> float:
        step = max(1, COMPONENTS_AT_ONCE // self.dim)
        peak = 0.0
        for start in range(0, self.rows, step):
            block = to_float32(self._stored[start : start + step])
            check_finite(self._path, self._name, block, start)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
        return peak


class PackedTable:
    """Packed rows of a table in a safetensors file, memory-mapped: codes, scale and bias are kept.

    Parameters
    ----------
    path, name
        File and tensor, for messages.
    stored
        uint8 ``(rows, row bytes)``: see :func:`~screc_sim.golden.rowwise.pack_rows`.
    format_
        ``int8r`` or ``int4r``.
    dim
        Components of a row.
    """

    def __init__(
        self, path: Path, name: str, stored: NDArray[np.uint8], format_: str, dim: int
    ) -> None:
        self._path = path
        self._name = name
        self._stored = stored
        self._format = format_
        self._dim = dim

    @property
    def rows(self) -> int:
        """Count of rows."""
        return int(self._stored.shape[0])

    @property
    def dim(self) -> int:
        """Components of a row."""
        return self._dim

    @property
    def format(self) -> str:
        """``int8r`` or ``int4r``."""
        return self._format

    def packed(self, ids: NDArray[np.int64]) -> PackedRows:
        """Return rows ``ids`` as they are stored."""
        return unpack_rows(self._stored[ids], self._format)

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return values of rows ``ids`` as float32 ``(len(ids), dim)``, rounded once."""
        rows = self.packed(ids)
        scale, bias = (part.astype(np.float32)[:, None] for part in (rows.scale, rows.bias))
        return rows.codes * scale + bias  # a code of 8 bits times 11 bits is exact

    def peak(self) -> float:
        """Largest magnitude in the table, exact, by one pass over the file, kept.

        Raises
        ------
        ConfigError
            If a scale or bias is NaN or infinite; names the tensor and the first such row.
        """
        return self._peak

    @cached_property
    def _peak(self) -> float:
        step = max(1, COMPONENTS_AT_ONCE // self.dim)
        peak = 0
        for start in range(0, self.rows, step):
            rows = unpack_rows(self._stored[start : start + step], self._format)
            for what, values in (("scale", rows.scale), ("bias", rows.bias)):
                wrong = np.flatnonzero(~np.isfinite(values))
                if len(wrong):
                    raise ConfigError(
                        f"tensor {self._name!r} has the {what} {values[wrong[0]]} in row "
                        f"{wrong[0] + start}: must be finite",
                        path=self._path,
                    )
            peak = max(peak, int(np.abs(rows.values()).max(initial=0)))
        return peak * ROWWISE_UNIT


def read_weights(path: Path, shape: ModelShape) -> Weights:
    """Open a safetensors file; see :func:`load_weights`."""
    entries = tensor_entries(path)
    wanted = _tensor_shapes(shape)
    packed = _packed_shapes(shape, entries)
    wanted |= packed
    for name, size in wanted.items():
        if name not in entries:
            raise ConfigError(
                f"tensor {name!r} of shape {size} is missing; the file has {_some(entries)}",
                path=path,
            )
        if entries[name].dtype == PACKED_TYPE and name not in packed:
            raise ConfigError(
                f"tensor {name!r} is {PACKED_TYPE}, packed rows: only a table of format int8r or "
                "int4r has such",
                path=path,
            )
        if entries[name].shape != size:
            raise ConfigError(
                f"tensor {name!r} must have shape {size}, not {entries[name].shape}", path=path
            )
        valid = STORED_TYPES if name in packed else FLOAT_TYPES
        if entries[name].dtype not in valid:
            raise ConfigError(
                f"tensor {name!r} must be one of {', '.join(valid)}, not {entries[name].dtype}",
                path=path,
            )
    scales = _scale_shapes(shape)
    for name in sorted(scales.keys() & entries.keys()):
        if (entries[name].dtype, entries[name].shape) != ("F32", scales[name]):
            raise ConfigError(
                f"tensor {name!r} must be F32 of shape {scales[name]}, "
                f"not {entries[name].dtype} {entries[name].shape}",
                path=path,
            )
    unexpected = sorted(entries.keys() - wanted.keys() - scales.keys())
    if unexpected:
        raise ConfigError(
            f"the model has no use for tensor {_some(unexpected)}; it needs exactly "
            f"bot_l of {len(shape.bottom)}, top_l of {len(shape.top)} layers and "
            f"{len(shape.tables)} emb_l",
            path=path,
        )

    def tensor(name: str) -> NDArray[np.float32]:
        values = to_float32(np.array(mapped_tensor(path, entries[name])))
        check_finite(path, name, values, 0)
        return values

    def layer(name: str) -> FloatLinear:
        weight, bias = tensor(f"{name}.weight"), tensor(f"{name}.bias")
        if f"{name}.weight_scale" not in entries:
            return FloatLinear(weight, bias)
        scale = tensor(f"{name}.weight_scale").astype(np.float64)
        _check_codes(path, name, weight, scale)
        return FloatLinear(weight, bias, scale)

    def layers(prefix: str, shapes: Sequence[LayerShape]) -> tuple[FloatLinear, ...]:
        return tuple(layer(f"{prefix}.{2 * i}") for i in range(len(shapes)))

    def table(i: int, table_shape: TableShape) -> TensorTable | PackedTable:
        name = table_tensor(i)
        stored = mapped_tensor(path, entries[name])
        if name in packed:
            return PackedTable(
                path, name, stored.view(np.uint8), table_shape.format, table_shape.dim
            )
        return TensorTable(path, name, stored)

    return Weights(
        bottom=layers("bot_l", shape.bottom_layers),
        top=layers("top_l", shape.top_layers),
        tables=tuple(table(i, table_shape) for i, table_shape in enumerate(shape.tables)),
        scales=_given_scales(path, shape, {n: tensor(n) for n in scales.keys() & entries.keys()}),
    )


def activations(shape: ModelShape) -> list[str]:
    """Tensors of a model that have a scale, by the names of :class:`GivenScales`."""
    hidden = [layer.name for layer in (*shape.bottom_layers[:-1], *shape.top_layers[:-1])]
    vectors = ["vectors"] if shape.interaction == "dot" else []
    return [*(["dense"] if shape.dense else []), *hidden, *vectors, "concat"]


def _scale_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the scales that a file may have."""
    found = {f"scale.{name}": (1,) for name in activations(shape)}
    found |= {table_scale(i): (1,) for i in range(len(shape.tables))}
    sizes: dict[str, tuple[int, ...]] = dict(found)
    if shape.dense:
        sizes["zero.dense"] = (1,)
    for prefix, layers in (("bot_l", shape.bottom_layers), ("top_l", shape.top_layers)):
        sizes |= {f"{prefix}.{2 * i}.weight_scale": (layer.n,) for i, layer in enumerate(layers)}
    return sizes


def _check_codes(
    path: Path, name: str, weight: NDArray[np.float32], scale: NDArray[np.float64]
) -> None:
    """Check that the weights of every channel with a scale are int8 codes times it."""
    if (scale < 0).any():
        n = int(np.flatnonzero(scale < 0)[0])
        raise ConfigError(
            f"tensor {name + '.weight_scale'!r} has {scale[n]:g} at ({n},): must not be negative",
            path=path,
        )
    codes = weight / np.where(scale > 0, scale, 1.0)[:, None]
    wrong = (scale > 0)[:, None] & (
        (np.abs(codes) > INT8_MAX + CODE_TOLERANCE)
        | (np.abs(codes - np.rint(codes)) > CODE_TOLERANCE)
    )
    if wrong.any():
        n, k = (int(i) for i in np.argwhere(wrong)[0])
        raise ConfigError(
            f"tensor {name + '.weight'!r} has {weight[n, k]:g} at ({n}, {k}), {codes[n, k]:g} "
            f"times its scale: must be a whole number of at most {INT8_MAX} in magnitude",
            path=path,
        )


def _given_scales(
    path: Path, shape: ModelShape, found: Mapping[str, NDArray[np.float32]]
) -> GivenScales:
    """Scales of activations and tables that a file has."""
    values = {name: float(value[0]) for name, value in found.items() if len(value) == 1}
    zero = values.pop("zero.dense", 0.0)
    if zero != int(zero) or abs(zero) > INT8_MAX:
        raise ConfigError(
            f"tensor 'zero.dense' must be a whole number of at most {INT8_MAX} in magnitude, "
            f"not {zero:g}",
            path=path,
        )
    names = {f"scale.{name}": name for name in activations(shape)}
    tables = {table_scale(i): i for i in range(len(shape.tables))}
    for name in sorted(values.keys() & (names.keys() | tables.keys())):
        if values[name] <= 0:
            raise ConfigError(f"tensor {name!r} must be positive, not {values[name]:g}", path=path)
    return GivenScales(
        tensors={names[name]: value for name, value in values.items() if name in names},
        dense_zero=int(zero),
        tables={tables[name]: value for name, value in values.items() if name in tables},
    )


def table_scale(index: int) -> str:
    """Name of the scale of a table."""
    return f"emb_l.{index}.scale"


def table_tensor(index: int) -> str:
    """Name of the tensor of a table."""
    return f"emb_l.{index}.weight"


def _packed_shapes(
    shape: ModelShape, entries: Mapping[str, TensorEntry]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the row-wise tables that the file holds as packed rows."""
    names = {table_tensor(i): table for i, table in enumerate(shape.tables) if table.rowwise}
    return {
        name: (table.rows, table.row_bytes)
        for name, table in names.items()
        if name in entries and entries[name].dtype == PACKED_TYPE
    }


def _tensor_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of a model, in facebookresearch/dlrm's order."""
    wanted: dict[str, tuple[int, ...]] = {
        table_tensor(i): (table.rows, table.dim) for i, table in enumerate(shape.tables)
    }
    for prefix, layers in (("bot_l", shape.bottom_layers), ("top_l", shape.top_layers)):
        for i, layer in enumerate(layers):
            wanted[f"{prefix}.{2 * i}.weight"] = (layer.n, layer.k)
            wanted[f"{prefix}.{2 * i}.bias"] = (layer.n,)
    return wanted


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Read a safetensors header: 8 bytes of length, then JSON; offsets count from its end.

    Raises
    ------
    ConfigError
        If the file is missing or no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header against the file
            names = set(file.keys())
    except FileNotFoundError as error:
        raise ConfigError("no such file", path=path, field="model.weights") from error
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"must be a safetensors file: {error}", path=path) from error
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {
        name: TensorEntry(
            header[name]["dtype"],
            tuple(header[name]["shape"]),
            8 + length + header[name]["data_offsets"][0],
        )
        for name in sorted(names)
    }


def mapped_tensor(path: Path, entry: TensorEntry) -> NDArray[np.generic]:
    """Map a tensor of a type of :data:`STORED_TYPES`; bfloat16 is its bit pattern."""
    return np.memmap(path, STORED_TYPES[entry.dtype], "r", entry.offset, entry.shape)


def to_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Floats of a tensor as it is stored."""
    if stored.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def check_finite(path: Path, name: str, values: NDArray[np.float32], first: int) -> None:
    """Check a tensor, or a block of its rows that starts at row ``first``."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = (index[0] + first, *index[1:])
        raise ConfigError(
            f"tensor {name!r} has {values[index]} at {where}: must be finite", path=path
        )


def _some(names: Sequence[str] | Mapping[str, object]) -> str:
    """Name a few of many."""
    listed = ", ".join(repr(name) for name in list(names)[:3])
    return listed + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- from a seed ---------------------------------------------------------------------------------
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31

COMPONENTS_PER_WORD = 4
"""Components drawn from one 64-bit number, 16 bits each."""


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finish splitmix64 in place: a bijection that spreads every input bit.

    References
    ----------
    Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    shifted = np.empty_like(words)
    for shift, factor in _MIX:
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        np.multiply(words, np.uint64(factor), out=words)
    np.right_shift(words, np.uint64(_LAST_SHIFT), out=shifted)
    return np.bitwise_xor(words, shifted, out=words)


class SeededTable:
    """Rows drawn from a seed, uniform in [-1, 1): a table of any size that takes no space.

    A component depends on seed, table, row and column alone (a counter-based generator), so any set
    of rows costs its own length.

    Parameters
    ----------
    seed, table
        What tells this table from others.
    rows, dim
        Its size.
    """

    def __init__(self, seed: int, table: int, rows: int, dim: int) -> None:
        self._rows = rows
        self._dim = dim
        key = np.random.SeedSequence((seed, table)).generate_state(1, np.uint64)
        self._key = key[0]

    @property
    def rows(self) -> int:
        """Count of rows."""
        return self._rows

    @property
    def dim(self) -> int:
        """Components of a row."""
        return self._dim

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows ``ids`` as float32 ``(len(ids), dim)``."""
        words = -(-self._dim // COMPONENTS_PER_WORD)
        counter: NDArray[np.uint64] = np.add.outer(
            ids.astype(np.uint64) * np.uint64(words), np.arange(words, dtype=np.uint64)
        )
        counter *= np.uint64(_GOLDEN_GAMMA)
        counter += self._key
        lanes = _mix(counter).astype("<u8", copy=False).view("<i2")
        return lanes[:, : self._dim].astype(np.float32) * np.float32(2.0**-15)

    def peak(self) -> float:
        """Bound of the magnitudes, 1: known without a pass."""
        return 1.0


DENSE_POWER = 9.0
"""Mean square of a dense feature that drawn weights expect."""

ROW_POWER = 1 / 3
"""Mean square of a component of :class:`SeededTable`."""

BOTTOM_SHARE = 0.25
"""Mean square of the bottom output as a share of the bags': its peaks, several times its rms after
ReLU, are then about theirs, as befits vectors that share one scale."""

LOGIT_POWER = 4.0
"""Mean square that drawn weights give the logit."""


def seeded_weights(shape: ModelShape, seed: int) -> Weights:
    """Draw weights: He's normal, scaled by the expected mean square of every tensor.

    Tables are uniform in [-1, 1); the first top layer allows for the bags' lengths, so the logits
    spread alike for one-hot and for long bags.
    """
    rng = np.random.default_rng(seed)
    bags = [
        ROW_POWER * (f.pooling if f.mode == "sum" else 1 / max(f.pooling, 1.0))
        for f in shape.features
    ]
    vectors = ([BOTTOM_SHARE * sum(bags) / len(bags)] if shape.dense else []) + bags
    inputs = sum(power * dim for power, dim in zip(vectors, shape.vector_dims, strict=True))
    if shape.interaction == "dot":
        dim = shape.vector_dims[0]
        squares = sum(power**2 for power in vectors)
        inputs = (vectors[0] * dim if shape.dense else 0) + dim * (sum(vectors) ** 2 - squares) / 2
    bottom = _draw(rng, shape.bottom_layers, shape.dense * DENSE_POWER, vectors[0])
    top = _draw(rng, shape.top_layers, inputs, 1.0)
    return Weights(
        bottom=bottom,
        top=top,
        tables=tuple(
            SeededTable(seed, i, table.rows, table.dim) for i, table in enumerate(shape.tables)
        ),
    )


def _draw(
    rng: np.random.Generator, layers: Sequence[LayerShape], power: float, output: float
) -> tuple[FloatLinear, ...]:
    """Draw an MLP.

    ``power`` is the sum of its inputs' mean squares; hidden outputs get the mean square ``output``
    (ReLU halves that of what it reads), the logit LOGIT_POWER.
    """
    drawn = []
    for layer in layers:
        before_relu = 2 * output if layer.relu else LOGIT_POWER
        weight = rng.normal(0.0, math.sqrt(before_relu / power), (layer.n, layer.k))
        bias = rng.normal(0.0, 0.1 * math.sqrt(before_relu), layer.n)
        drawn.append(FloatLinear(weight.astype(np.float32), bias.astype(np.float32)))
        power = layer.n * output
    return tuple(drawn)
