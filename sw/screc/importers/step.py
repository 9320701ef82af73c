"""The command: read a checkpoint, find the model, write model and weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tomli_w
from numpy.typing import NDArray

from screc import files
from screc.errors import ConfigError
from screc.importers.checkpoint import Tensor, read_checkpoint
from screc.importers.packed import Rounding, converted_rows
from screc.importers.structure import FLOAT, Hints, ImportedTable, Structure, find_structure
from screc.models import parse_model, to_shape
from screc.weights import PACKED_TYPE, check_finite, table_tensor, to_float32
from screc_hw.model import ModelShape

MODEL_FILE, WEIGHTS_FILE, REPORT_FILE = "model.toml", "weights.safetensors", "import.json"

CHUNK_BYTES = 16 << 20
"""Bytes of a float tensor written at a time."""

ONNX_SUFFIX = ".onnx"

HEADER_STEP = 8
"""safetensors: the header ends at a multiple of this."""


@dataclasses.dataclass(frozen=True)
class _Written:
    """A tensor to write: its size is known before its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    parts: Iterable[NDArray[Any]]


def import_checkpoint(checkpoint: Path, folder: Path, hints: Hints | None = None) -> dict[str, Any]:
    """Write ``model.toml``, ``weights.safetensors`` and ``import.json`` of a trained model.

    Float tables stay floats. Packed rows keep codes, scales and biases, but those with an fp32 tail
    are rounded to fp16: ``error_bound`` of such a table is the largest error of a component.

    Parameters
    ----------
    checkpoint
        A safetensors file, or a PyTorch state dict of facebookresearch/dlrm's names; or an ONNX
        model, whose name ends in ``.onnx``.
    folder
        Where to write; made where it does not exist.
    hints
        What decides between models that the shapes of a checkpoint allow alike.

    Returns
    -------
    dict
        What ``import.json`` holds.

    Raises
    ------
    ConfigError
        If the checkpoint is no such model; names file and tensor or node.
    ToolchainError
        If PyTorch is needed and not installed.
    """
    if checkpoint.suffix.lower() == ONNX_SUFFIX:
        return _import_onnx(checkpoint, folder, hints or Hints())
    found = find_structure(checkpoint, read_checkpoint(checkpoint), hints or Hints())
    model = _model(checkpoint.stem, found)
    shape = to_shape(parse_model(model, folder / MODEL_FILE))
    roundings = [Rounding() for _ in found.tables]
    tensors = [
        *(_float(checkpoint, name, tensor) for name, tensor in found.layers.items()),
        *(
            _table(checkpoint, i, table, rounding)
            for i, (table, rounding) in enumerate(zip(found.tables, roundings, strict=True))
        ),
    ]
    _write(folder, model, tensors)
    stored = [one.tensor.type if one.format == FLOAT else one.format for one in found.tables]
    bounds = [rounding.bound for rounding in roundings]
    return _report(checkpoint, folder, model, shape, stored, bounds, {})


def _import_onnx(path: Path, folder: Path, hints: Hints) -> dict[str, Any]:
    from screc.importers.onnx_step import read_onnx  # takes a while to import

    for option, value in dataclasses.asdict(hints).items():
        if value is not None:
            raise ConfigError(f"--{option} {value} is for checkpoints; a graph says it", path=path)
    model, found, further = read_onnx(path)
    shape = to_shape(parse_model(model, folder / MODEL_FILE))
    _write(folder, model, [_float(path, tensor.name, tensor) for tensor in found])
    stored = further.pop("stored")
    return _report(path, folder, model, shape, stored, [0.0] * len(stored), further)


def _write(folder: Path, model: dict[str, Any], tensors: list[_Written]) -> None:
    """Write weights, then the model that they are of."""
    with files.atomic_file(folder / WEIGHTS_FILE) as path, path.open("wb") as stream:
        _write_safetensors(stream, tensors)
    files.write_text(folder / MODEL_FILE, tomli_w.dumps(model))


def _report(
    checkpoint: Path,
    folder: Path,
    model: dict[str, Any],
    shape: ModelShape,
    stored: Sequence[str],
    bounds: Sequence[float],
    further: dict[str, Any],
) -> dict[str, Any]:
    """Write what was imported: ``stored``: how the file has each table; ``bounds``: errors."""
    report = {
        "checkpoint": str(checkpoint),
        "model": str(folder / MODEL_FILE),
        "weights": str(folder / WEIGHTS_FILE),
        **{key: model[key] for key in ("name", "dense", "bottom", "top", "interaction")},
        "tables": [
            {
                "name": size.name,
                "rows": size.rows,
                "dim": size.dim,
                "stored": type_,
                "format": size.format,
                "error_bound": bound,
            }
            for size, type_, bound in zip(shape.tables, stored, bounds, strict=True)
        ],
        **further,
    }
    files.write_json(folder / REPORT_FILE, report)
    return report


def _model(name: str, found: Structure) -> dict[str, Any]:
    """``model.toml`` as data."""
    formats = {FLOAT: "int8", "byte": "int8r"}
    return {
        "name": name,
        "dense": found.dense,
        "bottom": list(found.bottom),
        "top": list(found.top),
        "interaction": found.interaction,
        "table": [
            {
                "name": f"emb_{i}",
                "rows": table.rows,
                "dim": table.dim,
                "format": formats.get(table.format, table.format),
            }
            for i, table in enumerate(found.tables)
        ],
    }


def _float(path: Path, name: str, tensor: Tensor) -> _Written:
    """A tensor of floats as it is."""

    def parts() -> Iterator[NDArray[Any]]:
        rows = tensor.values.reshape(len(tensor.values), -1)
        step = max(1, CHUNK_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = to_float32(part)
            where = values if len(tensor.shape) > 1 else values[:, 0]
            check_finite(path, tensor.name, where, start)
            yield part

    return _Written(name, tensor.type, tensor.shape, tensor.values.nbytes, parts())


def _table(path: Path, index: int, table: ImportedTable, rounding: Rounding) -> _Written:
    """A table: floats as they are, packed rows as this tool stores them."""
    name, tensor = table_tensor(index), table.tensor
    if table.format == FLOAT:
        return _float(path, name, tensor)
    rows, width = tensor.shape
    if table.format == "byte":
        width -= 4
    parts = converted_rows(path, tensor, table.format, rounding)
    return _Written(name, PACKED_TYPE, (rows, width), rows * width, parts)


def _write_safetensors(stream: BinaryIO, tensors: list[_Written]) -> None:
    """Write tensors part by part: none is held whole."""
    header, at = {}, 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.type,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.size],
        }
        at += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_STEP)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for part in tensor.parts:
            stream.write(np.ascontiguousarray(part).data)
