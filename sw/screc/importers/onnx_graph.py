"""An ONNX graph made plain: constants folded, quantisation taken off its edges and noted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from screc.errors import ConfigError

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"

PASSED = ("Identity", "Dropout")
"""Operators whose first output is their first input."""

RELU_SUFFIX = "/relu"
"""What the tensor behind a Relu is called that quantisation had replaced."""

CHECKED_BYTES = 1 << 31
"""ONNX's own checker takes models below this."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT64, TensorProto.INT32)


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a QDQ pair quantises: value = scale · (code - zero).

    ``scale`` float64 and ``zero`` int64: one of each, or one per index of ``axis``; ``type``: of
    the codes; ``node`` and ``zero_name``: the DequantizeLinear, and its zero point's initializer.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.int64]
    type: np.dtype[Any]
    axis: int
    node: str
    zero_name: str

    @property
    def single(self) -> bool:
        """Whether there is one scale for the whole tensor."""
        return self.scale.size == 1


@dataclasses.dataclass(frozen=True)
class Codes:
    """A constant that is stored as codes."""

    name: str
    values: NDArray[Any]
    quantisation: Quantisation


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of the graph; ``dims``: sizes, None where open."""

    name: str
    type: int
    dims: tuple[int | None, ...]


def label(node: NodeProto) -> str:
    """Name a node for people: by its name, or by what it computes."""
    return f"node {node.name or node.output[0]!r} ({node.op_type})".replace("''", "'")


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


class Graph:
    """A graph without constants' computations, Identity, Dropout and QDQ pairs.

    ``nodes`` in topological order; ``constants`` by name, dequantised ones too, whose stored form
    is in ``codes``; ``quantised``: QDQ pairs that were on the edges, by the name of their source.
    A pair that cuts off below 0 leaves a Relu behind.

    Raises
    ------
    ConfigError
        If the file is no ONNX model; names the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        model = _read(path)
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        graph = model.graph
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.codes: dict[str, Codes] = {}
        self.quantised: dict[str, Quantisation] = {}
        self.inputs = {i.name: i for i in _inputs(graph.input) if i.name not in self.constants}
        self.nodes: list[NodeProto] = []
        self.producers: dict[str, NodeProto] = {}
        self._aliases: dict[str, str] = {}
        for node in graph.node:
            self._take(node)
        outputs = [output.name for output in graph.output]
        if len(outputs) != 1:
            raise ConfigError(f"must have one output, the logit, not {outputs}", path=path)
        self.output = self._resolve(outputs[0])

    def error(self, message: str) -> ConfigError:
        """Return an error about the file."""
        return ConfigError(message, path=self.path)

    def float_constant(self, name: str) -> NDArray[np.float32] | None:
        """Return a constant as float32; None where the tensor is computed or holds no floats."""
        values = self.constants.get(name)
        if values is None or values.dtype.kind in "iub":
            return None
        return values.astype(np.float32, copy=False)

    def needed(self, output: str, stops: Iterable[str] = ()) -> list[NodeProto]:
        """Nodes that compute a tensor from ``stops``, inputs and constants, in order."""
        seen, wanted = set(stops), [output]
        found: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name in seen or name not in self.producers:
                continue
            seen.add(name)
            node = self.producers[name]
            found.add(node.output[0])
            wanted.extend(node.input)
        return [node for node in self.nodes if node.output[0] in found]

    def evaluate(
        self, nodes: Sequence[NodeProto], feeds: Mapping[str, NDArray[Any]], output: str
    ) -> NDArray[Any]:
        """Compute a tensor with ONNX's reference operators.

        Raises
        ------
        ConfigError
            If an operator fails or is unknown to the reference; says which nodes it was among.
        """
        read = {name for node in nodes for name in node.input} | {output}
        constants = [
            numpy_helper.from_array(np.array(self.constants[name], order="C"), name)
            for name in sorted(read & self.constants.keys() - feeds.keys())
        ]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), None)
            for name, v in feeds.items()
            if name in read
        ]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "part", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        given = {name: values for name, values in feeds.items() if name in read}
        try:
            (result,) = ReferenceEvaluator(model).run(None, given)
        except Exception as error:  # operators fail in many ways within ONNX's reference
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            first = label(nodes[0]) if nodes else repr(output)
            last = label(nodes[-1]) if nodes else repr(output)
            raise self.error(f"{first} to {last} cannot be evaluated: {reason}") from error
        return np.asarray(result)

    # --- reading nodes ---------------------------------------------------------------------------
    def _resolve(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _take(self, stored: NodeProto) -> None:
        """Add a node, or what remains of it."""
        node = NodeProto()
        node.CopyFrom(stored)
        del node.input[:]
        node.input.extend(self._resolve(name) for name in stored.input)
        constant = node.input and all(not i or i in self.constants for i in node.input)
        if node.op_type in PASSED:
            self._aliases[node.output[0]] = node.input[0]
        elif node.op_type == DEQUANTISE:
            self._dequantise(node)
        elif node.op_type == "Constant" or (constant and not _has_graph(node)):
            for name, values in self._folded(node):
                self.constants[name] = values
        else:
            self._add(node)

    def _add(self, node: NodeProto) -> None:
        self.nodes.append(node)
        self.producers |= {name: node for name in node.output if name}

    def _folded(self, node: NodeProto) -> list[tuple[str, NDArray[Any]]]:
        given = attributes(node)
        if node.op_type == "Constant" and "value" in given:
            return [(node.output[0], numpy_helper.to_array(given["value"]))]
        if node.op_type == QUANTISE:  # the reference has it from version 19 on only
            return [(node.output[0], self._quantise(node))]
        return [(name, self.evaluate([node], {}, name)) for name in node.output if name]

    def _quantise(self, node: NodeProto) -> NDArray[Any]:
        """Codes of a constant."""
        values = self.constants[node.input[0]]
        known = self._quantisation(node)
        bounds = np.iinfo(known.type)
        scale, zero = _along(values, known)
        codes = np.rint(values.astype(np.float32) / scale.astype(np.float32)) + zero
        return np.clip(codes, bounds.min, bounds.max).astype(known.type)

    def _dequantise(self, node: NodeProto) -> None:
        """Fold a constant; or take a QDQ pair off its edge, and note it."""
        codes = self.constants.get(node.input[0])
        quantisation = self._quantisation(node)
        if codes is not None:
            name = node.output[0]
            self.codes[name] = Codes(node.input[0], codes, quantisation)
            self.constants[name] = _values(codes, quantisation)
            return
        pair = self.producers.get(node.input[0])
        if pair is None or pair.op_type != QUANTISE or not self._same(pair, node):
            raise self.error(
                f"{label(node)}: must follow a QuantizeLinear of its scale and zero point (QDQ), "
                "or have constant codes"
            )
        if not quantisation.single:
            raise self.error(
                f"{label(node)}: an activation must have one scale, "
                f"not {quantisation.scale.size} along axis {quantisation.axis}"
            )
        source = pair.input[0]
        lowest = np.iinfo(quantisation.type).min if quantisation.type.kind in "iu" else 0
        producer = self.producers.get(source)
        linear = (
            producer is not None
            and producer.op_type in ("Gemm", "Add", "MatMul")
            and any(name in self.constants for name in producer.input)
        )
        if linear and int(quantisation.zero[0]) == lowest:
            # onnxruntime takes the Relu away where codes cannot be below that of 0
            output = source + RELU_SUFFIX
            if output not in self.producers:
                self._add(helper.make_node("Relu", [source], [output], name=pair.name))
            source = output
        self.quantised.setdefault(source, quantisation)
        self._aliases[node.output[0]] = source

    def _same(self, pair: NodeProto, node: NodeProto) -> bool:
        """Whether both nodes have the same scale and zero point, by name or value."""
        one, other = (
            [self.constants.get(n, np.uint8(0)) for n in (*each.input[1:], "")[:2]]
            for each in (pair, node)
        )
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    def _quantisation(self, node: NodeProto) -> Quantisation:
        scale = self.constants.get(node.input[1])
        zero_name = node.input[2] if len(node.input) > 2 else ""
        zero = self.constants.get(zero_name)
        if scale is None or (zero_name and zero is None):
            raise self.error(f"{label(node)}: scale and zero point must be constants")
        given = attributes(node)
        if given.get("block_size", 0) or scale.ndim > 1:
            raise self.error(f"{label(node)}: a scale per block is not supported; per channel is")
        if scale.dtype.kind != "f" or not (np.isfinite(scale) & (scale > 0)).all():
            raise self.error(f"{label(node)}: scales must be positive and finite floats")
        codes = self.constants.get(node.input[0])
        known = codes if zero is None and node.op_type == DEQUANTISE else zero
        type_ = np.dtype(np.uint8) if known is None else known.dtype
        flat = np.atleast_1d(scale).astype(np.float64)
        zeros = np.zeros(flat.size, np.int64) if zero is None else np.atleast_1d(zero)
        return Quantisation(
            scale=flat,
            zero=np.broadcast_to(zeros.astype(np.int64), flat.shape),
            type=type_,
            axis=int(given.get("axis", 1)),
            node=label(node),
            zero_name=zero_name,
        )


def _read(path: Path) -> ModelProto:
    """Read a model, with the data that lies beside it."""
    try:
        model = onnx.load(path)
        if model.ByteSize() < CHECKED_BYTES:
            onnx.checker.check_model(model)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(f"must be an ONNX model: {reason}", path=path) from error
    return model


def _inputs(values: Iterable[Any]) -> list[Input]:
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dims = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
            for d in tensor.shape.dim
        )
        found.append(Input(value.name, tensor.elem_type, dims))
    return found


def _has_graph(node: NodeProto) -> bool:
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attribute)


def _along(
    values: NDArray[Any], quantisation: Quantisation
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scale and zero point, shaped to meet the values."""
    shape = [1] * values.ndim
    if not quantisation.single:
        shape[quantisation.axis] = -1
    return quantisation.scale.reshape(shape), quantisation.zero.reshape(shape)


def _values(codes: NDArray[Any], quantisation: Quantisation) -> NDArray[np.float32]:
    """Real values of codes, each rounded once."""
    kind = np.float32 if codes.dtype.itemsize == 1 else np.float64  # differences stay exact
    scale, zero = _along(codes, quantisation)
    return ((codes.astype(kind) - zero.astype(kind)) * scale.astype(kind)).astype(np.float32)
