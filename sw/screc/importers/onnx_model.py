"""A DLRM found in an ONNX graph: by what its parts compute, not by how an exporter writes them.

The MLPs are chains of Gemm or MatMul and Add with Relu. What lies between, pooling and interaction,
is evaluated on drawn numbers, and every input of the top MLP is compared with what a ``dot`` or
``concat`` interaction has; their order is brought to the device's in the first top layer's weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from screc.errors import ConfigError
from screc.importers.onnx_graph import (
    FLOATS,
    INTEGERS,
    RELU_SUFFIX,
    Graph,
    Input,
    attributes,
    label,
)

SHAPING = ("Squeeze", "Unsqueeze", "Reshape", "Flatten")
"""Operators that may follow the logit, apart from Sigmoid."""

BETWEEN = (
    *SHAPING,
    *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Einsum", "Equal", "Expand", "Gather"),
    *("GatherElements", "GatherND", "Less", "MatMul", "Mod", "Mul", "Range", "ReduceMean"),
    *("ReduceProd", "ReduceSum", "Shape", "Size", "Slice", "Split", "Sub", "Tile", "Transpose"),
    "Where",
)
"""Operators that may lie between bottom MLP, tables and top MLP; what they compute is checked."""

SUPPORTED = (
    "supported are a bottom MLP and a top MLP of Gemm or MatMul and Add with Relu between, tables "
    "read by Gather and pooled by ReduceSum or ReduceMean over bags of one length, and a dot or "
    "concat interaction"
)

BAG_HINT = "; torch.nn.EmbeddingBag is exported so: export torch.nn.Embedding and .sum(dim=1)"

HINTS = {
    "Loop": BAG_HINT,
    "ConcatFromSequence": BAG_HINT,
    "ATen": "; export with operators of ONNX alone",
}

ROWS_TRIED = 4
"""Samples of drawn numbers on which an input of the top MLP is compared, at least."""

TOLERANCE = 1e-4
"""Relative difference up to which two such numbers are the same."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer in a graph: ``weight_name`` and ``columns`` find it in the file.

    ``weight`` float32 ``(n, k)``, ``bias`` float32 ``(n,)``; ``source`` and ``output``: tensors;
    ``transposed``: whether the constant is stored ``(k, n)``.
    """

    node: NodeProto
    source: str
    output: str
    weight_name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    transposed: bool


@dataclasses.dataclass(frozen=True)
class Bag:
    """A feature: table ``table`` (name of the constant) read by columns of an input."""

    table: str
    output: str
    input: str
    columns: tuple[int, ...]
    mode: str
    pooled: bool


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """A DLRM.

    ``columns[c]``: number in the device's concatenated tensor of the top MLP's input ``c``.
    ``concat``: that input. ``hidden``: output of every layer's Relu, by ``bottom{i}`` and
    ``top{i}``. ``products``: nodes that multiply the vectors.
    """

    graph: Graph
    dense: Input | None
    bottom: tuple[Linear, ...]
    top: tuple[Linear, ...]
    bags: tuple[Bag, ...]
    interaction: str
    concat: str
    columns: NDArray[np.int64]
    hidden: Mapping[str, str]
    products: tuple[NodeProto, ...]

    @property
    def tables(self) -> list[str]:
        """Names of the tables' constants, in the order of the features."""
        return list(dict.fromkeys(bag.table for bag in self.bags))


def find_model(graph: Graph) -> OnnxModel:
    """Find the DLRM.

    Raises
    ------
    ConfigError
        If the graph is another kind of model; names the node and what is supported.
    """
    top = _top(graph)
    concat = top[0].source
    outputs, relu, read = _boundaries(graph, concat)
    bottom = _chain(graph, relu) if relu is not None else []
    dense = None
    if bottom:
        dense = graph.inputs.get(bottom[0].source)
        if dense is None or dense.type not in FLOATS or len(dense.dims) != 2:
            raise _not_supported(graph, bottom[0].source, "in or before the bottom MLP")
    inputs = list(graph.inputs)
    # quantisers sort nodes as they like: the order of the inputs is the one that people know
    bags = tuple(
        sorted(
            (_bag(graph, node, concat) for node in outputs),
            key=lambda bag: (inputs.index(bag.input), bag.columns),
        )
    )
    if not bags:
        raise graph.error(f"no table is read by the top MLP; {SUPPORTED}")
    columns, interaction = _columns(graph, concat, relu, bottom, bags, read)
    hidden = {f"bottom{i}": after for i, after in enumerate(_afters(graph, bottom))}
    hidden |= {f"top{i}": after for i, after in enumerate(_afters(graph, top[:-1]))}
    stops = {bag.output for bag in bags} | ({relu} if relu else set())
    products = tuple(n for n in graph.needed(concat, stops) if n.op_type in ("MatMul", "Einsum"))
    return OnnxModel(
        graph=graph,
        dense=dense,
        bottom=tuple(bottom),
        top=tuple(top),
        bags=bags,
        interaction=interaction,
        concat=concat,
        columns=columns,
        hidden=hidden,
        products=products,
    )


# --- the MLPs ------------------------------------------------------------------------------------
def _top(graph: Graph) -> list[Linear]:
    """Layers of the top MLP, from the output backwards."""
    top = _chain(graph, logit(graph))
    if top[-1].weight.shape[0] != 1:
        raise graph.error(
            f"{label(top[-1].node)}: the top MLP must end in 1, the logit; "
            f"it ends in {top[-1].weight.shape[0]}"
        )
    return top


def logit(graph: Graph) -> str:
    """Tensor of the logit: what is before a Sigmoid and changes of shape at the end.

    Raises
    ------
    ConfigError
        If no linear layer makes it; names the node.
    """
    name = graph.output
    sigmoids = 0
    while linear(graph, name) is None:
        node = graph.producers.get(name)
        clipped = name.endswith(RELU_SUFFIX)  # the logit's codes end at 0; the device's do not
        if node is None or (node.op_type not in (*SHAPING, "Sigmoid") and not clipped):
            raise _not_supported(graph, name, "after the top MLP's last layer")
        sigmoids += node.op_type == "Sigmoid"
        name = node.input[0]
    if sigmoids > 1:
        raise graph.error(f"the output has {sigmoids} Sigmoids after the last layer; one or none")
    return name


def _chain(graph: Graph, name: str) -> list[Linear]:
    """Layers with a Relu between, that end in tensor ``name``, the first one first."""
    layers: list[Linear] = []
    while True:
        node = graph.producers.get(name)
        if node is not None and node.op_type == "Relu":
            name = node.input[0]
        elif layers:
            return layers[::-1]
        layer = linear(graph, name)
        if layer is None:
            if not layers:
                raise _not_supported(graph, name, "as a linear layer")
            return layers[::-1]
        layers.append(layer)
        name = layer.source


def _afters(graph: Graph, layers: Sequence[Linear]) -> list[str]:
    """Output of the Relu after each layer."""
    found = {node.input[0]: node.output[0] for node in graph.nodes if node.op_type == "Relu"}
    return [found[layer.output] for layer in layers]


def linear(graph: Graph, name: str) -> Linear | None:
    """Linear layer that makes a tensor; None where another operator does.

    Raises
    ------
    ConfigError
        If it is one of a kind that is not supported; names the node and the attribute.
    """
    node = graph.producers.get(name)
    if node is None:
        return None
    if node.op_type == "Gemm":
        return _gemm(graph, node)
    if node.op_type == "Add":
        for product, bias in ((0, 1), (1, 0)):
            constant = graph.float_constant(node.input[bias])
            found = graph.producers.get(node.input[product])
            if constant is not None and found is not None and found.op_type == "MatMul":
                return _matmul(graph, found, node, constant)
    return _matmul(graph, node, node, None) if node.op_type == "MatMul" else None


def _gemm(graph: Graph, node: NodeProto) -> Linear | None:
    weight = graph.float_constant(node.input[1])
    if weight is None:
        return None
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes(node)
    for key, valid in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
        if given[key] != valid:
            raise graph.error(f"{label(node)}: {key} must be {valid:g}, not {given[key]:g}")
    bias = np.zeros(1, np.float32)
    if len(node.input) > 2 and node.input[2]:
        constant = graph.float_constant(node.input[2])
        if constant is None:
            raise graph.error(f"{label(node)}: its bias must be a constant")
        bias = constant
    return _layer(graph, node, node, node.input[1], weight, bias, transposed=not given["transB"])


def _matmul(
    graph: Graph, node: NodeProto, last: NodeProto, bias: NDArray[np.float32] | None
) -> Linear | None:
    weight = graph.float_constant(node.input[1])
    if weight is None or weight.ndim != 2:
        return None
    known = np.zeros(1, np.float32) if bias is None else bias
    return _layer(graph, node, last, node.input[1], weight, known, transposed=True)


def _layer(
    graph: Graph,
    node: NodeProto,
    last: NodeProto,
    name: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    transposed: bool,
) -> Linear:
    matrix = weight.T if transposed else weight
    flat = bias.ravel()
    if flat.size not in (1, len(matrix)) or (bias.ndim > 1 and bias.shape[:-1] != (1,)):
        raise graph.error(f"{label(node)}: its bias must be ({len(matrix)},), not {bias.shape}")
    for part, values in (("weight", matrix), ("bias", flat)):
        if not np.isfinite(values).all():
            raise graph.error(f"{label(node)}: its {part} has values that are not finite")
    return Linear(
        node=node,
        source=node.input[0],
        output=last.output[0],
        weight_name=name,
        weight=np.ascontiguousarray(matrix),
        bias=np.broadcast_to(flat, (len(matrix),)).copy(),
        transposed=transposed,
    )


# --- between the MLPs ----------------------------------------------------------------------------
def _boundaries(graph: Graph, concat: str) -> tuple[list[NodeProto], str | None, set[str]]:
    """Go back from the top MLP's input: Gathers of tables, the bottom output, inputs met."""
    gathers: dict[str, NodeProto] = {}
    relus: set[str] = set()
    read: set[str] = set()
    seen, wanted = set(), [concat]
    while wanted:
        name = wanted.pop()
        if name in seen or name in graph.constants or not name:
            continue
        seen.add(name)
        node = graph.producers.get(name)
        if node is None:
            read.add(name)
        elif node.op_type == "Relu" and linear(graph, node.input[0]) is not None:
            relus.add(name)
        elif _reads_table(graph, node):
            gathers[name] = node
        elif node.op_type not in BETWEEN or linear(graph, name) is not None:
            raise _not_supported(graph, name, "between bottom MLP, tables and top MLP")
        else:
            wanted.extend(node.input)
    if len(relus) > 1:
        names = ", ".join(label(graph.producers[name]) for name in sorted(relus))
        raise graph.error(f"one bottom MLP is supported; here are {len(relus)}: {names}")
    order = {id(node): i for i, node in enumerate(graph.nodes)}
    return sorted(gathers.values(), key=lambda n: order[id(n)]), next(iter(relus), None), read


def _reads_table(graph: Graph, node: NodeProto) -> bool:
    """Whether a node fetches rows of a table."""
    if node.op_type != "Gather" or node.input[1] in graph.constants:
        return False
    values = graph.float_constant(node.input[0])
    return values is not None and values.ndim == 2 and attributes(node).get("axis", 0) == 0


def _bag(graph: Graph, node: NodeProto, concat: str) -> Bag:
    """Find what a Gather of a table reads, and how its rows are pooled."""
    name, columns, pooled = _ids(graph, node)
    readers = [n for n in graph.needed(concat) if node.output[0] in n.input]
    mode = "mean" if any(n.op_type == "ReduceMean" for n in readers) else "sum"
    return Bag(node.input[0], node.output[0], name, columns, mode, pooled)


def _ids(graph: Graph, node: NodeProto) -> tuple[str, tuple[int, ...], bool]:
    """Input and columns that a Gather's ids come from, found on numbers that say their place."""
    needed = graph.needed(node.input[1])
    names = {n for part in needed for n in part.input} | {node.input[1]}
    read = [graph.inputs[n] for n in sorted(names & graph.inputs.keys())]
    feeds, starts = {}, {}
    start = 0
    for value in read:
        dims = _fixed(graph, value)
        feeds[value.name] = np.arange(start, start + int(np.prod(dims)), dtype=np.int64).reshape(
            dims
        )
        starts[value.name] = start
        start += feeds[value.name].size
        if value.type not in INTEGERS:
            raise graph.error(f"{label(node)}: ids must come from an integer input")
    found = graph.evaluate(needed, feeds, node.input[1]) if needed else feeds[node.input[1]]
    pooled = found.ndim == 2
    table = found if pooled else found.reshape(len(found), -1) if found.ndim == 1 else None
    if table is not None and table.size:
        for value in read:
            width = feeds[value.name][0].size
            columns = table[0] - starts[value.name]
            expected = starts[value.name] + columns + width * np.arange(len(table))[:, None]
            if 0 <= columns.min() <= columns.max() < width and np.array_equal(table, expected):
                return value.name, tuple(int(c) for c in columns), pooled
    raise graph.error(
        f"{label(node)}: its ids must be columns of an integer input (samples, columns), "
        "the same for every sample"
    )


def _fixed(graph: Graph, value: Input) -> tuple[int, ...]:
    """Sizes of an input to try it with: samples may be open, further axes not."""
    if len(value.dims) not in (1, 2):
        raise graph.error(
            f"input {value.name!r} must be (samples,) or (samples, columns), not of "
            f"{len(value.dims)} axes"
        )
    if None in value.dims[1:]:
        raise graph.error(f"input {value.name!r} must have a fixed count of columns")
    samples = value.dims[0] or ROWS_TRIED
    return (samples, *(int(d or 1) for d in value.dims[1:]))


def _columns(
    graph: Graph,
    concat: str,
    relu: str | None,
    bottom: Sequence[Linear],
    bags: Sequence[Bag],
    read: set[str],
) -> tuple[NDArray[np.int64], str]:
    """Find what every input of the top MLP is: the device's order of columns, and interaction."""
    rng = np.random.default_rng(0)
    dims = [graph.constants[bag.table].shape[1] for bag in bags]
    width = len(bottom[-1].bias) if bottom else 0
    stops = [bag.output for bag in bags] + ([relu] if relu else [])
    nodes = graph.needed(concat, stops)
    samples = _fixed(graph, next(iter(graph.inputs.values())))[0]
    results: list[NDArray[Any]] = []
    vectors: list[list[NDArray[Any]]] = []
    for _ in range(-(-ROWS_TRIED // samples)):
        feeds = {name: _zeros(graph, graph.inputs[name]) for name in sorted(read)}
        drawn = []
        if relu:
            feeds[relu] = rng.normal(size=(samples, width)).astype(np.float32)
            drawn.append(feeds[relu])
        for bag, dim in zip(bags, dims, strict=True):
            size = (samples, len(bag.columns), dim)
            rows = rng.normal(size=size).astype(np.float32)
            feeds[bag.output] = rows if bag.pooled else rows[:, 0]
            drawn.append(rows.mean(axis=1) if bag.mode == "mean" else rows.sum(axis=1))
        if concat in feeds:
            result = feeds[concat]
        else:
            result = graph.evaluate(nodes, feeds, concat)
        if result.shape[:1] != (samples,) or result.ndim != 2:
            raise graph.error(
                f"the top MLP's input {concat!r} must be ({samples}, columns) for {samples} "
                f"samples, not {result.shape}"
            )
        results.append(result)
        vectors.append(drawn)
    found = np.concatenate(results)
    joined = [np.concatenate(parts) for parts in zip(*vectors, strict=True)]
    for interaction, expected in _expected(joined, bool(relu)).items():
        if expected.shape == found.shape:
            columns = _matches(found, expected)
            if columns is not None:
                return columns, interaction
    sizes = f"{len(joined)} vectors of {sorted({v.shape[1] for v in joined})}"
    raise graph.error(
        f"the {found.shape[1]} inputs of {label(_reader(graph, concat))} are no dot (strict lower "
        f"triangle, behind the bottom output) or concat interaction of {sizes}: "
        f"{_between(nodes)}; {SUPPORTED}"
    )


def _zeros(graph: Graph, value: Input) -> NDArray[np.generic]:
    kind = np.int64 if value.type in INTEGERS else np.float32
    return np.zeros(_fixed(graph, value), kind)


def _expected(
    vectors: Sequence[NDArray[np.float32]], bottom: bool
) -> dict[str, NDArray[np.float32]]:
    """Concatenated tensors of the interactions, in the device's order."""
    found = {"concat": np.concatenate(vectors, axis=1)}
    if len({vector.shape[1] for vector in vectors}) == 1 and len(vectors) > 1:
        stacked = np.stack(vectors, axis=1)
        i, j = np.tril_indices(len(vectors), -1)
        pairs = (stacked @ stacked.transpose(0, 2, 1))[:, i, j]
        found["dot"] = np.concatenate([*vectors[: 1 if bottom else 0], pairs], axis=1)
    return found


def _matches(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Number in ``expected`` of every column of ``found``; None unless each is there once."""
    scale = TOLERANCE * float(np.abs(expected).max())
    columns = np.array(
        [np.abs(expected - column[:, None]).max(axis=0).argmin() for column in found.T], np.int64
    )
    if not np.array_equal(np.sort(columns), np.arange(expected.shape[1])):
        return None
    return columns if np.abs(expected[:, columns] - found).max() <= scale else None


def _reader(graph: Graph, name: str) -> NodeProto:
    return next(node for node in graph.nodes if name in node.input)


def _between(nodes: Sequence[NodeProto]) -> str:
    if not nodes:
        return "nothing lies between"
    return f"they come from {label(nodes[0])} to {label(nodes[-1])}"


def _not_supported(graph: Graph, name: str, where: str) -> ConfigError:
    """Return an error about what makes a tensor."""
    node = graph.producers.get(name)
    if node is None:
        what = "input" if name in graph.inputs else "constant"
        return graph.error(f"{what} {name!r} is not supported {where}; {SUPPORTED}")
    hint = HINTS.get(node.op_type, "")
    return graph.error(f"{label(node)} is not supported {where}{hint}; {SUPPORTED}")
