"""An ONNX model as what the import writes: model, tensors and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.importers.checkpoint import Tensor
from screc.importers.onnx_graph import Graph
from screc.importers.onnx_model import OnnxModel, find_model, logit
from screc.importers.onnx_scales import Scales, find_scales
from screc.models import parse_model, to_shape
from screc.tt.decompose import ArrayRows
from screc.weights import check_finite, table_scale, table_tensor
from screc_hw.model import ModelShape
from screc_sim.golden import float_twin
from screc_sim.golden.float_twin import Weights
from screc_sim.samples import Bags, SampleBatch

CHECKED_SAMPLES = 8
"""Drawn samples on which the import is compared with the graph."""

CHECK_TOLERANCE = 1e-3
"""Largest difference of their logits, as a share of the largest logit."""


def read_onnx(path: Path) -> tuple[dict[str, Any], list[Tensor], dict[str, Any]]:
    """Read an ONNX model.

    Parameters
    ----------
    path
        The file; tables are held in memory.

    Returns
    -------
    tuple
        ``model.toml`` as data, the tensors to write, and what the report says further.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no DLRM that the device can be; names node or tensor.
    """
    found = find_model(Graph(path))
    scales = find_scales(found)
    model = _model(path.stem, found)
    shape = to_shape(parse_model(model, path))
    _check(found, shape, scales)
    report: dict[str, Any] = {
        "stored": [_stored(found, table) for table in found.tables],
        "features": [
            {
                "name": feature.name,
                "table": shape.tables[feature.table].name,
                "input": bag.input,
                "columns": list(bag.columns),
                "mode": bag.mode,
            }
            for feature, bag in zip(shape.features, found.bags, strict=True)
        ],
    }
    if found.graph.quantised or found.graph.codes:
        report["quantisation"] = [entry.as_dict() for entry in scales.entries]
    return model, _tensors(found, scales), report


def _stored(found: OnnxModel, table: str) -> str:
    """Type that the file has a table in."""
    codes = found.graph.codes.get(table)
    values = found.graph.constants[table] if codes is None else codes.values
    return str(values.dtype)


def _model(name: str, found: OnnxModel) -> dict[str, Any]:
    tables, graph = found.tables, found.graph
    readers = [tables.index(bag.table) for bag in found.bags]
    return {
        "name": name,
        "dense": found.bottom[0].weight.shape[1] if found.bottom else 0,
        "bottom": [len(layer.bias) for layer in found.bottom],
        "top": [len(layer.bias) for layer in found.top],
        "interaction": found.interaction,
        "table": [
            {
                "name": f"emb_{i}",
                "rows": graph.constants[table].shape[0],
                "dim": graph.constants[table].shape[1],
                "format": "int8",
            }
            for i, table in enumerate(tables)
        ],
        "feature": [
            {
                "name": _feature(readers, f),
                "table": f"emb_{table}",
                "pooling": float(len(bag.columns)),
                "mode": bag.mode,
            }
            for f, (bag, table) in enumerate(zip(found.bags, readers, strict=True))
        ],
    }


def _feature(readers: Sequence[int], number: int) -> str:
    """Name of a feature: its table's, with a number where several read it."""
    table = readers[number]
    name = f"emb_{table}"
    return name if readers.count(table) == 1 else f"{name}_{readers[:number].count(table)}"


def _tensors(found: OnnxModel, scales: Scales) -> list[Tensor]:
    arrays: dict[str, NDArray[np.float32]] = {}
    for prefix, layers in (("bot_l", scales.bottom), ("top_l", scales.top)):
        for i, layer in enumerate(layers):
            name = f"{prefix}.{2 * i}"
            arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
            if layer.scale is not None:
                arrays[f"{name}.weight_scale"] = layer.scale.astype(np.float32)
    given = scales.given
    for i, table in enumerate(found.tables):
        arrays[table_tensor(i)] = _rows(found, table)
        if i in given.tables:
            arrays[table_scale(i)] = np.array([given.tables[i]], np.float32)
    for name, value in given.tensors.items():
        arrays[f"scale.{name}"] = np.array([value], np.float32)
    if "dense" in given.tensors:
        arrays["zero.dense"] = np.array([given.dense_zero], np.float32)
    return [Tensor(name, "F32", values) for name, values in arrays.items()]


def _rows(found: OnnxModel, table: str) -> NDArray[np.float32]:
    return found.graph.constants[table].astype(np.float32, copy=False)


def _check(found: OnnxModel, shape: ModelShape, scales: Scales) -> None:
    """Compare the float twin of what is written with the graph, on drawn samples.

    Raises
    ------
    ConfigError
        If a table has a value that is not finite; or they differ: names the largest difference.
    """
    tables = {name: _rows(found, name) for name in found.tables}
    for name, values in tables.items():
        check_finite(found.graph.path, name, values, 0)
    sources = tuple(ArrayRows(values) for values in tables.values())
    feeds, batch = _drawn(found, shape)
    logits = logit(found.graph)
    nodes = found.graph.needed(logits)
    expected = found.graph.evaluate(nodes, feeds | tables, logits).ravel()
    got = float_twin.run(shape, Weights(scales.bottom, scales.top, sources), batch)
    worst = float(np.abs(got - expected).max()) if got.shape == expected.shape else np.inf
    if not worst <= CHECK_TOLERANCE * max(float(np.abs(expected).max()), CHECK_TOLERANCE):
        raise found.graph.error(
            f"the graph computes something else than the DLRM that it looks like: logits differ by "
            f"{worst:.3g} on {len(batch)} drawn samples"
        )


def _drawn(found: OnnxModel, shape: ModelShape) -> tuple[dict[str, NDArray[Any]], SampleBatch]:
    """Samples as the graph's inputs, and as a batch."""
    rng = np.random.default_rng(1)
    inputs = found.graph.inputs
    samples = next(iter(inputs.values())).dims[0] or CHECKED_SAMPLES
    feeds: dict[str, NDArray[Any]] = {
        name: np.zeros((samples, *(d or 1 for d in value.dims[1:])), np.int64)
        for name, value in inputs.items()
    }
    for bag, rows in _columns(found).items():
        feeds[bag[0]].reshape(samples, -1)[:, bag[1]] = rng.integers(0, rows, samples)
    dense = rng.normal(size=(samples, shape.dense)).astype(np.float32)
    if found.dense is not None:
        feeds[found.dense.name] = dense
    bags = tuple(
        Bags(
            feeds[bag.input].reshape(samples, -1)[:, list(bag.columns)].ravel(),
            np.arange(samples + 1, dtype=np.int64) * len(bag.columns),
        )
        for bag in found.bags
    )
    return feeds, SampleBatch(dense, bags)


def _columns(found: OnnxModel) -> dict[tuple[str, int], int]:
    """Rows that every column of ids may name: those of the smallest table that it is for."""
    rows: dict[tuple[str, int], int] = {}
    for bag in found.bags:
        for column in bag.columns:
            own = len(found.graph.constants[bag.table])
            rows[bag.input, column] = min(own, rows.get((bag.input, column), own))
    return rows
