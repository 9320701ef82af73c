"""Small random models, and the numerics once more: slowly, in plain Python integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_sim.golden.quant import QuantLinear, QuantModel, QuantTable
from screc_sim.golden.rowwise import PackedRows
from screc_sim.samples import Bags, SampleBatch


class ArrayTable:
    """Rows of an array."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    @property
    def rows(self):
        return len(self.values)

    @property
    def dim(self):
        return self.values.shape[1]

    def fetch(self, ids):
        return self.values[ids]

    def peak(self):
        return float(np.abs(self.values).max(initial=0.0))


class PackedArray:
    """Row-wise rows that are packed already."""

    def __init__(self, codes, scale, bias, format):
        self.rows_ = PackedRows(
            np.asarray(codes, np.uint8), np.asarray(scale, np.float16), np.asarray(bias, np.float16)
        )
        self.format = format

    @property
    def rows(self):
        return len(self.rows_.codes)

    @property
    def dim(self):
        return self.rows_.codes.shape[1]

    def packed(self, ids):
        return PackedRows(self.rows_.codes[ids], self.rows_.scale[ids], self.rows_.bias[ids])

    def real(self, row):
        """Exact components of a row, as fractions."""
        scale, bias = Fraction(float(self.rows_.scale[row])), Fraction(float(self.rows_.bias[row]))
        return [int(code) * scale + bias for code in self.rows_.codes[row]]

    def fetch(self, ids):
        return np.array([[float(v) for v in self.real(i)] for i in ids], np.float32).reshape(
            len(ids), self.dim
        )

    def peak(self):
        return max(abs(float(v)) for row in range(self.rows) for v in self.real(row))


def small_shape(
    *,
    dense=3,
    interaction="dot",
    bottom=(6, 4),
    top=(5, 1),
    rows=(7, 4),
    dims=(4, 4),
    formats=("int8", "int4"),
    features=((0, "sum"), (1, "mean"), (0, "mean")),
):
    return ModelShape(
        name="small",
        dense=dense,
        bottom=bottom if dense else (),
        top=top,
        interaction=interaction,
        tables=tuple(
            TableShape(name=f"t{i}", rows=r, dim=d, format=f)
            for i, (r, d, f) in enumerate(zip(rows, dims, formats, strict=True))
        ),
        features=tuple(
            FeatureShape(name=f"f{i}", table=table, mode=mode)
            for i, (table, mode) in enumerate(features)
        ),
    )


SHAPES = {
    "dot": small_shape(),
    "concat": small_shape(interaction="concat", dims=(4, 8)),
    "dot without dense": small_shape(dense=0),
    "concat without dense": small_shape(dense=0, interaction="concat", dims=(8, 4)),
    "one layer": small_shape(bottom=(4,), top=(1,)),
    "row-wise": small_shape(interaction="concat", dims=(4, 8), formats=("int8r", "int4r")),
    "row-wise beside plain": small_shape(formats=("int8", "int8r")),
}


def random_linear(rng, layer, scale=1.0):
    """A layer of random integers over the whole range that the numerics allow."""
    top_bit = 15
    return QuantLinear(
        weight=rng.integers(-127, 128, (layer.n, layer.k)).astype(np.int8),
        bias=rng.integers(-3000, 3001, layer.n).astype(np.int32),
        m=rng.integers(1 << top_bit, 1 << (top_bit + 1), layer.n).astype(np.uint16),
        s=rng.integers(22, 27, layer.n).astype(np.uint8),
        relu=layer.relu,
        scale=np.full(layer.n, scale),
    )


def random_table(table, rng):
    """A table that holds its codes as they are, row-wise ones between -5 and 5."""
    limit = {"int8": 127, "int4": 7, "int8r": 255, "int4r": 15}[table.format]
    size = (table.rows, table.dim)
    if not table.rowwise:
        codes = rng.integers(-limit, limit, size, endpoint=True)
        return QuantTable(ArrayTable(codes), table.format, 1.0)
    codes = rng.integers(0, limit, size, endpoint=True)
    scale = rng.uniform(0, 4 / limit, table.rows)
    source = PackedArray(codes, scale, rng.uniform(-5, 1, table.rows), table.format)
    return QuantTable(source, table.format, 2.0**-24)


def random_model(shape, rng):
    """A quantised model whose tables hold their codes as they are."""
    tables = tuple(random_table(t, rng) for t in shape.tables)
    count = len(shape.features)
    rowwise = np.array([tables[f.table].rowwise for f in shape.features])
    return QuantModel(
        shape=shape,
        dense_scale=0.05,
        bottom=tuple(random_linear(rng, layer) for layer in shape.bottom_layers),
        tables=tables,
        bag_m=rng.integers(1 << 15, 1 << 16, count).astype(np.uint16),
        bag_s=(rng.integers(14, 19, count) + 20 * rowwise).astype(np.uint8),
        vector_scale=1.0,
        copy_ms=(int(rng.integers(1 << 15, 1 << 16)), 16),
        pair_ms=(int(rng.integers(1 << 15, 1 << 16)), 22),
        concat_scale=1.0,
        top=tuple(random_linear(rng, layer) for layer in shape.top_layers),
    )


def random_batch(shape, rng, samples, *, shortest=0, longest=5, dense_std=5.0):
    """Samples whose dense values leave the int8 range; by default half of the bags are empty."""
    bags = []
    for feature in shape.features:
        lengths = rng.integers(shortest, longest + 1, samples)
        if not shortest:
            lengths *= rng.integers(0, 2, samples)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bags.append(Bags(rng.integers(0, shape.tables[feature.table].rows, offsets[-1]), offsets))
    dense = rng.normal(0, dense_std, (samples, shape.dense)).astype(np.float32)
    return SampleBatch(dense, tuple(bags))


def _requantise(acc, m, s, low=-127, high=127):
    return min(max((acc * m + 2 ** (s - 1)) // 2**s, low), high)


def _layer(layer, x):
    out = []
    for n in range(len(layer.bias)):
        acc = int(layer.bias[n])
        for k, value in enumerate(x):
            acc += value * int(layer.weight[n, k])
        if layer.relu and acc < 0:
            acc = 0
        out.append(acc)
    return out


def _hidden(layer, x):
    return [
        _requantise(a, int(m), int(s))
        for a, m, s in zip(_layer(layer, x), layer.m, layer.s, strict=True)
    ]


def integer_row(table, row):
    """Components of a row of :func:`random_table` in units of the table."""
    if not isinstance(table.source, PackedArray):
        return [int(value) for value in table.source.values[row]]
    exact = [value * 2**24 for value in table.source.real(row)]
    assert all(value.denominator == 1 for value in exact)
    return [int(value) for value in exact]


def slow_sample(model, batch, sample):
    """(logit, code) of one sample, in Python integers, one product at a time."""
    shape = model.shape
    x = []
    for value in batch.dense[sample]:
        quotient = float(np.float32(value) / np.float32(model.dense_scale))
        x.append(max(-127, min(127, math.floor(quotient + 0.5))))
    for layer in model.bottom:
        x = _hidden(layer, x)
    vectors = [x] if shape.dense else []
    for f, feature in enumerate(shape.features):
        table, bags = model.tables[feature.table], batch.bags[f]
        ids = bags.ids[bags.offsets[sample] : bags.offsets[sample + 1]]
        pooled = [0] * table.source.dim
        for i in ids:
            for c, value in enumerate(integer_row(table, i)):
                pooled[c] += value
        if feature.mode == "mean" and len(ids):
            length = len(ids)
            shift = 15
            while 2 ** (shift - 15) < length:
                shift += 1
            r = math.floor(2**shift / length + 0.5)
            pooled = [(p * r + 2 ** (shift - 1)) // 2**shift for p in pooled]
        m, s = int(model.bag_m[f]), int(model.bag_s[f])
        vectors.append([_requantise(p, m, s) for p in pooled])
    copied = vectors[:1] if shape.interaction == "dot" and shape.dense else vectors
    if shape.interaction == "dot" and not shape.dense:
        copied = []
    x = [_requantise(v, *model.copy_ms) for vector in copied for v in vector]
    if shape.interaction == "dot":
        for i in range(len(vectors)):
            for j in range(i):
                product = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
                x.append(_requantise(product, *model.pair_ms))
    for layer in model.top[:-1]:
        x = _hidden(layer, x)
    last = model.top[-1]
    (logit,) = _layer(last, x)
    return logit, _requantise(logit, int(last.m[0]), int(last.s[0]), -32768, 32767)
