"""Which scales of a QDQ-quantised ONNX model are the device's too, and why others are not.

The device's codes are symmetric, within ±127, with one scale for all vectors of the interaction. A
scale that fits is taken over. The zero point of the dense features goes into the first biases; the
device cannot make any other tensor with one, so such a tensor is calibrated anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.importers.onnx_graph import RELU_SUFFIX, Codes, Graph, Quantisation
from screc.importers.onnx_model import Linear, OnnxModel
from screc_hw.numerics import INT8_MAX
from screc_sim.golden.float_twin import FloatLinear, GivenScales

TAKEN, FOLDED, RECALIBRATED, LEFT = "taken over", "folded", "recalibrated", "left out"
"""What became of a tensor's scale; LEFT: the device does not round the tensor."""

BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
"""Types of codes that may fit."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What became of the quantisation of a tensor, and why.

    ``became``: TAKEN, FOLDED, RECALIBRATED or LEFT. ``source``: the tensor in the file. ``scale``
    and ``zero`` as in the file, where it has one of each.
    """

    tensor: str
    source: str
    became: str
    why: str
    scale: float | None = None
    zero: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``import.json``."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Scales:
    """Layers and scales as the device takes them, and a note per quantised tensor."""

    bottom: tuple[FloatLinear, ...]
    top: tuple[FloatLinear, ...]
    given: GivenScales
    entries: tuple[Entry, ...]


def find_scales(model: OnnxModel) -> Scales:
    """Sort the model's scales.

    Raises
    ------
    ConfigError
        If a layer's weights have a zero point other than 0; names the initializer and the value.
    """
    graph = model.graph
    entries: list[Entry] = []
    tensors: dict[str, float] = {}
    dense_zero = 0
    bottom = tuple(_layer(graph, f"bottom{i}", one, entries) for i, one in enumerate(model.bottom))
    top = [_layer(graph, f"top{i}", one, entries) for i, one in enumerate(model.top)]
    order = np.argsort(model.columns)
    top[0] = dataclasses.replace(top[0], weight=np.ascontiguousarray(top[0].weight[:, order]))
    if model.dense is not None and model.dense.name in graph.quantised:
        found = graph.quantised[model.dense.name]
        folded = _folded(found)
        if folded is not None:
            tensors["dense"], dense_zero = float(found.scale[0]), folded
        entries.append(_dense_entry(model.dense.name, found, folded))
    for name, source in model.hidden.items():
        if name != f"bottom{len(bottom) - 1}":  # a vector of the interaction
            _activation(graph, name, [source], tensors, entries)
    _interaction(model, tensors, entries)
    tables: dict[int, float] = {}
    for i, name in enumerate(model.tables):
        if name in graph.codes:
            entry, scale = _table(f"emb_{i}", graph.codes[name])
            entries.append(entry)
            if scale is not None:
                tables[i] = scale
    named = {name for entry in entries for name in entry.source.split(", ")}
    for source, found in graph.quantised.items():
        if _name(source) not in named:
            why = "the device does not round here, only behind it"
            one, zero = float(found.scale[0]), int(found.zero[0])
            entries.append(Entry("", _name(source), LEFT, why, one, zero))
    given = GivenScales(tensors, dense_zero, tables)
    return Scales(bottom, tuple(top), given, tuple(entries))


def _name(source: str) -> str:
    """Name of a tensor in the file."""
    return source.removesuffix(RELU_SUFFIX)


def _layer(graph: Graph, name: str, layer: Linear, entries: list[Entry]) -> FloatLinear:
    """A layer with the scales of its channels, where its weights are codes."""
    codes = graph.codes.get(layer.weight_name)
    if codes is None:
        return FloatLinear(layer.weight, layer.bias)
    found = codes.quantisation
    if found.zero.any():
        at = int(np.flatnonzero(found.zero)[0])
        channel = "" if found.single else f" in channel {at}"
        raise graph.error(
            f"initializer {codes.name!r}: the zero point of weights must be 0, not "
            f"{found.zero[at]}{channel} ({found.zero_name!r}); quantise weights symmetrically"
        )
    one = float(found.scale[0]) if found.single else None
    if codes.values.dtype not in BYTES:
        why = f"{codes.values.dtype} codes are not int8"
        entries.append(Entry(f"{name}.weight", codes.name, RECALIBRATED, why, one, 0))
        return FloatLinear(layer.weight, layer.bias)
    if not found.single and found.axis % 2 != int(layer.transposed):
        why = "scales lie along the inputs; the device has one per output channel"
        entries.append(Entry(f"{name}.weight", codes.name, RECALIBRATED, why, None, 0))
        return FloatLinear(layer.weight, layer.bias)
    matrix = codes.values.T if layer.transposed else codes.values
    fits = np.abs(matrix.astype(np.int16)).max(axis=1, initial=0) <= INT8_MAX
    scale = np.where(fits, np.broadcast_to(found.scale, fits.shape), 0.0)
    kept = int(fits.sum())
    why = f"codes of {kept} of {len(fits)} channels kept"
    if kept < len(fits):
        why += f"; the others have codes beyond ±{INT8_MAX}"
    became = TAKEN if kept else RECALIBRATED
    entries.append(Entry(f"{name}.weight", codes.name, became, why, one, 0))
    return FloatLinear(layer.weight, layer.bias, scale)


def _symmetric(found: Quantisation) -> bool:
    """Whether codes less the zero point are those of int8."""
    middle = {BYTES[0]: 0, BYTES[1]: 128}.get(found.type)
    return middle is not None and int(found.zero[0]) == middle


def _misfit(found: Quantisation) -> str:
    if found.type not in BYTES:
        return f"{found.type} codes are not of 8 bits"
    return f"its zero point {int(found.zero[0])} ({found.type}) makes its codes asymmetric"


def _folded(found: Quantisation) -> int | None:
    """Code of a dense feature of 0; None where codes are not of 8 bits.

    Codes have 256 values and the device's 255, so one is lost: that at the end away from 0.
    """
    if found.type not in BYTES:
        return None
    zero = int(found.zero[0]) - (128 if found.type == BYTES[1] else 0)
    return max(zero, -INT8_MAX)


def _dense_entry(source: str, found: Quantisation, folded: int | None) -> Entry:
    scale, zero = float(found.scale[0]), int(found.zero[0])
    if folded is None:
        return Entry("dense", source, RECALIBRATED, _misfit(found), scale, zero)
    if folded == 0:
        return Entry("dense", source, TAKEN, "symmetric", scale, zero)
    why = f"a feature of 0 has the code {folded}; the first biases take off what it adds"
    return Entry("dense", source, FOLDED, why, scale, zero)


def _activation(
    graph: Graph,
    name: str,
    sources: list[str],
    tensors: dict[str, float],
    entries: list[Entry],
    why: str = "symmetric",
) -> None:
    """Take over the scale that all ``sources`` share, or note why not."""
    found = [graph.quantised[source] for source in sources if source in graph.quantised]
    if not found:
        return
    scales = sorted({float(q.scale[0]) for q in found})
    source = ", ".join(dict.fromkeys(map(_name, sources)))
    one = scales[0] if len(scales) == 1 else None
    zero = int(found[0].zero[0])
    wrong = next((q for q in found if not _symmetric(q)), None)
    if wrong is not None:
        entries.append(Entry(name, source, RECALIBRATED, _misfit(wrong), one, zero))
    elif one is None or len(found) < len(sources):
        why = f"its parts have different scales: {', '.join(f'{s:.4g}' for s in scales)}"
        if one is not None:
            why = "not all of its parts are quantised"
        entries.append(Entry(name, source, RECALIBRATED, why, one, zero))
    else:
        tensors[name] = one
        entries.append(Entry(name, source, TAKEN, why, one, zero))


def _interaction(model: OnnxModel, tensors: dict[str, float], entries: list[Entry]) -> None:
    """Scales of the interaction's vectors and of the concatenated tensor."""
    graph = model.graph
    _activation(graph, "concat", [model.concat], tensors, entries)
    if model.interaction == "concat":
        return
    factors = [name for node in model.products for name in node.input]
    why = "symmetric; the vectors are brought to it from their sums in one step"
    _activation(graph, "vectors", factors, tensors, entries, why)


def _table(name: str, codes: Codes) -> tuple[Entry, float | None]:
    """What becomes of a quantised table, and its scale where that is kept."""
    found = codes.quantisation
    one = float(found.scale[0]) if found.single else None
    zero = int(found.zero[0])
    if not found.single:
        why = "a scale per row or column; the device has one per table, or one per row with a bias"
    elif codes.values.dtype != BYTES[0]:
        why = f"{codes.values.dtype} codes are not int8"
    elif zero:
        why = f"its zero point {zero} makes its codes asymmetric"
    elif _lowest(codes.values) < -INT8_MAX:
        why = f"it has codes below -{INT8_MAX}"
    else:
        return Entry(name, codes.name, TAKEN, "codes kept", one, zero), one
    return Entry(name, codes.name, RECALIBRATED, why, one, zero), None


def _lowest(values: NDArray[Any]) -> int:
    return int(values.min(initial=0))
