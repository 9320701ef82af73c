"""DLRMs as ONNX graphs, written as PyTorch's exporters and others write them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

RNG = np.random.default_rng(21)


def floats(*shape):
    return RNG.normal(0, 0.3, shape).astype(np.float32)


class Builder:
    """Collects nodes; methods return the name of the tensor that they make."""

    def __init__(self):
        self.nodes, self.constants, self.inputs, self.count = [], {}, [], 0

    def constant(self, values, name=None):
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values)
        return name

    def node(self, kind, *inputs, name=None, output=None, **attributes):
        self.count += 1
        output = output or f"t{self.count}"
        name = name or f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def input(self, name, type_, *dims):
        self.inputs.append(helper.make_tensor_value_info(name, type_, dims))
        return name

    def linear(self, x, n, k, style="gemm", name="linear"):
        """A linear layer: ``gemm`` (n, k), ``gemm_k`` (k, n), ``matmul``, ``matmul_swapped``."""
        weight, bias = floats(n, k), floats(n)
        if style.startswith("gemm"):
            stored = weight if style == "gemm" else weight.T.copy()
            self.constant(stored, f"{name}.weight")
            self.constant(bias, f"{name}.bias")
            inputs = (x, f"{name}.weight", f"{name}.bias")
            return self.node("Gemm", *inputs, name=name, transB=int(style == "gemm"))
        self.constant(weight.T.copy(), f"{name}.weight")
        product = self.node("MatMul", x, f"{name}.weight", name=name)
        bias = self.constant(bias, f"{name}.bias")
        pair = (bias, product) if style == "matmul_swapped" else (product, bias)
        return self.node("Add", *pair, name=f"{name}.add")

    def model(self, output, opset=21):
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "m"])]
        constants = [numpy_helper.from_array(v, name) for name, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "dlrm", self.inputs, outputs, constants)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def save(self, output, path):
        save(self.model(output), path)
        return path


def triangle(count, order="lower"):
    """Pairs (i, j): the strict lower triangle by rows, or the strict upper one."""
    if order == "lower":
        return [(i, j) for i in range(count) for j in range(i)]
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def pairs_of(b, vectors, dim, style):
    """Pair products of vectors ``(n, dim)``."""
    count = len(vectors)
    if style == "stack":
        rows = [b.node("Unsqueeze", v, b.constant([1])) for v in vectors]
        stacked = b.node("Concat", *rows, axis=1)
    else:
        joined = b.node("Concat", *vectors, axis=1)
        stacked = b.node("Reshape", joined, b.constant([-1, count, dim]), name="stacked")
    if style == "einsum":
        gram = b.node("Einsum", stacked, stacked, equation="nid,njd->nij")
    else:
        turned = b.node("Transpose", stacked, perm=[0, 2, 1])
        gram = b.node("MatMul", stacked, turned, name="gram")
    if style == "flat":  # torch's older exporter: Flatten and Gather
        flat = b.node("Flatten", gram, axis=1)
        places = [i * count + j for i, j in triangle(count)]
        return b.node("Gather", flat, b.constant(places), axis=1)
    order = "upper" if style == "upper" else "lower"
    front = b.node("Transpose", gram, perm=[1, 2, 0])
    found = b.node("GatherND", front, b.constant(np.array(triangle(count, order))))
    return b.node("Transpose", found, perm=[1, 0], name="pairs")


def dlrm(
    *,
    dense=5,
    dim=8,
    lengths=(1, 3, 2),
    means=(1,),
    tables=None,
    linear="gemm",
    interaction="gathernd",
    ids="one",
    samples="n",
    sigmoid=True,
    bottom_last=False,
    between=None,
):
    """A DLRM; ``tables``: which table each feature reads; ``between``: changes the interaction.

    Returns
    -------
    (Builder, output)
    """
    b = Builder()
    tables = tables or range(len(lengths))
    for i in sorted(set(tables)):
        b.constant(floats(20 + i, dim), f"emb.{i}")
    if dense:
        b.input("dense", TensorProto.FLOAT, samples, dense)
    if ids == "one":
        b.input("ids", TensorProto.INT64, samples, sum(lengths))
    vectors, at = [], 0
    for f, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        if ids == "one" and length == 1:
            read = b.node("Gather", "ids", b.constant(np.int64(at)), axis=1)
        elif ids == "one":
            ends = [b.constant([v]) for v in (at, at + length, 1)]
            read = b.node("Slice", "ids", *ends)
        else:
            dims = (samples,) if length == 1 else (samples, length)
            read = b.input(f"ids_{f}", TensorProto.INT32 if f else TensorProto.INT64, *dims)
        rows = b.node("Gather", f"emb.{table}", read, name=f"read_{f}")
        if length > 1:
            kind = "ReduceMean" if f in means else "ReduceSum"
            rows = b.node(kind, rows, b.constant([1]), keepdims=0, name=f"pool_{f}")
        vectors.append(rows)
        at += length
    first = []
    if dense:
        x = b.node("Relu", b.linear("dense", 12, dense, linear, "bottom0"))
        first = [b.node("Relu", b.linear(x, dim, 12, linear, "bottom1"), name="bottom_out")]
    vectors = vectors + first if bottom_last else first + vectors
    if interaction == "concat":
        parts, width = vectors, dim * len(vectors)
    else:
        pairs = pairs_of(b, vectors, dim, interaction)
        parts = [pairs, *first] if bottom_last else [*first, pairs]
        width = dim * len(first) + len(vectors) * (len(vectors) - 1) // 2
    x = b.node("Concat", *parts, axis=1, name="joined") if len(parts) > 1 else parts[0]
    if between is not None:
        x, width = between(b, x, width)
    x = b.node("Relu", b.linear(x, 16, width, linear, "top0"))
    output = b.linear(x, 1, 16, linear, "top1")
    if sigmoid:
        output = b.node("Sigmoid", output, name="probability")
    return b, output


# --- quantisation --------------------------------------------------------------------------------
def quantise_edge(b, tensor, scale, zero=0, type_=np.int8):
    """Put a QDQ pair behind a tensor: everything that read it reads the pair."""
    names = (b.constant(np.float32(scale)), b.constant(np.array(zero, type_)))
    readers = [n for n in b.nodes if tensor in n.input]
    at = min(b.nodes.index(n) for n in readers)
    codes, values = f"{tensor}.q", f"{tensor}.dq"
    b.nodes[at:at] = [
        helper.make_node("QuantizeLinear", [tensor, *names], [codes], name=f"{tensor}_Q"),
        helper.make_node("DequantizeLinear", [codes, *names], [values], name=f"{tensor}_DQ"),
    ]
    for reader in readers:
        reader.input[:] = [values if name == tensor else name for name in reader.input]


def quantise_constant(b, name, scale, zero=0, type_=np.int8, axis=None, low=-127):
    """Store a constant as codes behind a DequantizeLinear; returns the codes."""
    scale, zeros = np.asarray(scale, np.float32), np.asarray(zero)
    shape = [1] * b.constants[name].ndim
    if scale.ndim:
        shape[axis] = -1
    steps = scale.reshape(shape) if scale.ndim else scale
    at = zeros.reshape(shape) if zeros.ndim else zeros
    info = np.iinfo(type_)
    least = max(low, info.min) if info.min < 0 else 0
    codes = np.clip(np.rint(b.constants.pop(name) / steps) + at, least, min(info.max, 1 << 30))
    b.constants[f"{name}.codes"] = codes.astype(type_)
    b.constants[f"{name}.scale"] = scale
    b.constants[f"{name}.zero"] = np.broadcast_to(zeros, scale.shape).astype(type_)
    inputs = [f"{name}.codes", f"{name}.scale", f"{name}.zero"]
    given = {} if axis is None else {"axis": axis}
    b.nodes.insert(0, helper.make_node("DequantizeLinear", inputs, [name], f"{name}_DQ", **given))
    return codes.astype(type_)
