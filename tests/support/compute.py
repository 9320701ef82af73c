"""A compute core's environment: random integer models, an independent evaluation, stimuli."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import layer_program, pack_nibbles, shape_word, weight_words
from screc_hw.compute.tensors import CHAIN, padded_outputs, vector_bases
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.numerics import sigmoid_table
from screc_hw.protocol import (
    LAYER_FIELDS,
    LAYER_WORDS,
    REGION_FIELDS,
    REQUANTISE_FIELDS,
    LoadTarget,
    pack,
)

from .pysim import collector, driver, pauses, simulate
from .weights import WeightMemory

REGION = 5
"""Beat of the memory where streamed weights begin."""

WEIGHT_BASE = 0x12_3456_7000


def model_shape(
    *,
    dense: int,
    bottom: tuple[int, ...],
    dims: tuple[int, ...],
    top: tuple[int, ...],
    interaction: str = "dot",
    mlp_format: str = "int8",
) -> ModelShape:
    """Model with one table per feature."""
    return ModelShape(
        name="test",
        dense=dense,
        bottom=bottom,
        top=top,
        interaction=interaction,
        tables=tuple(TableShape(name=f"t{i}", rows=8, dim=d) for i, d in enumerate(dims)),
        features=tuple(FeatureShape(name=f"f{i}", table=i) for i in range(len(dims))),
        mlp_format=mlp_format,
    )


def core_params(model: ModelShape, *, rows: int, columns: int, lanes: int, **more: Any):
    """Parameters that just fit ``model``, with one interaction unit."""
    values = {"slots": 3, "pair_units": 1} | {
        name: more.pop(name) for name in ("slots", "pair_units", "stream_words") if name in more
    }
    params = ComputeParams.for_model(model, rows=rows, columns=columns, lanes=lanes, **values)
    return dataclasses.replace(params, **more)


@dataclasses.dataclass
class Layer:
    """Weights (n, k), and bias, m, s per output."""

    weight: NDArray[np.int64]
    bias: NDArray[np.int64]
    m: NDArray[np.int64]
    s: NDArray[np.int64]
    relu: bool


@dataclasses.dataclass
class IntegerModel:
    """A DLRM of random integers and its evaluation, one sample at a time, in plain arithmetic."""

    shape: ModelShape
    layers: list[Layer]
    copy: tuple[int, int]
    pair: tuple[int, int]

    @classmethod
    def random(cls, shape: ModelShape, seed: int, *, extreme: bool = False) -> IntegerModel:
        """Draw weights; ``extreme``: magnitudes at their limits and biases near 2**26."""
        rng = np.random.default_rng(seed)
        layers = []
        for layer in (*shape.bottom_layers, *shape.top_layers):
            size = (layer.n, layer.k)
            limit = {"int8": 127, "int4": 7}[shape.mlp_format]
            ends = rng.choice([-limit, limit], size)
            weight = ends if extreme else rng.integers(-limit, limit + 1, size)
            room = (1 << 26) - 1 - 127 * 127 * layer.k
            bias = (
                rng.choice([-1, 1], layer.n) * room
                if extreme
                else rng.integers(-20000, 20000, layer.n)
            )
            spread = float(room) if extreme else limit * 40.0 * layer.k**0.5
            target = 60.0 if layer.relu else 20000.0
            shift = 15 + np.log2(spread / target) + rng.uniform(-0.5, 1.0, layer.n)
            layers.append(
                Layer(
                    weight.astype(np.int64),
                    bias.astype(np.int64),
                    rng.integers(1 << 15, 1 << 16, layer.n),
                    np.clip(np.round(shift), 1, 47).astype(np.int64),
                    layer.relu,
                )
            )
        dim = shape.vector_dims[0]
        copy = (1 << 15, 15) if shape.interaction == "concat" else (40000, 16)
        return cls(shape, layers, copy, (50000, 15 + round(np.log2(5000 * dim**0.5 / 60))))

    @classmethod
    def uniform(
        cls, shape: ModelShape, *, weight: int, bias: int = 0, m: int = 1 << 15, s: int = 20
    ) -> IntegerModel:
        """Return a model whose layers, copies and pairs have the same numbers everywhere.

        Parameters
        ----------
        shape
            What it is.
        weight
            Every weight.
        bias
            Every bias; cut to what the width of an accumulator leaves for a layer's inputs.
        m, s
            Every requantisation, but the copy with ``concat``, which is the identity.
        """
        layers = []
        for layer in (*shape.bottom_layers, *shape.top_layers):
            room = (1 << 26) - 1 - 127 * abs(weight) * layer.k
            layers.append(
                Layer(
                    np.full((layer.n, layer.k), weight, np.int64),
                    np.full(layer.n, max(-room, min(room, bias)), np.int64),
                    np.full(layer.n, m, np.int64),
                    np.full(layer.n, s, np.int64),
                    layer.relu,
                )
            )
        copy = (1 << 15, 15) if shape.interaction == "concat" else (m, s)
        return cls(shape, layers, copy, (m, s))

    def result(self, dense: list[int], bags: list[list[int]]) -> tuple[int, int, int]:
        """Logit, probability and code of one sample."""
        bottom = len(self.shape.bottom_layers)
        vectors = [list(map(int, bag)) for bag in bags]
        if bottom:
            x = list(map(int, dense))
            for layer in self.layers[:bottom]:
                x = [scaled(max(a, 0), m, s) for a, m, s in sums(layer, x)]
            vectors.insert(0, x)
        if self.shape.interaction == "dot":
            x = [scaled(v, *self.copy) for v in vectors[0]] if bottom else []
            for i in range(len(vectors)):
                for j in range(i):
                    dot = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
                    x.append(scaled(dot, *self.pair))
        else:
            x = [scaled(v, *self.copy) for vector in vectors for v in vector]
        for layer in self.layers[bottom:-1]:
            x = [scaled(max(a, 0), m, s) for a, m, s in sums(layer, x)]
        ((logit, m, s),) = sums(self.layers[-1], x)
        assert abs(logit) < 1 << 26
        code = max(-32768, min(32767, (logit * m + (1 << (s - 1))) >> s))
        return logit, probability(code), code

    def weight_image(self, params: ComputeParams) -> NDArray[np.uint8]:
        """Bytes of streamed weights."""
        weights = [layer.weight.astype(np.int8) for layer in self.layers]
        return weight_words(weights, self.shape, params).view(np.uint8)

    def load(self, params: ComputeParams) -> list[dict[str, int]]:
        """Config words of everything."""
        words: list[dict[str, int]] = []

        def put(target: LoadTarget, values: Any) -> None:
            words.extend(
                {"target": int(target), "address": address, "data": int(value)}
                for address, value in enumerate(values)
            )

        mask = (1 << 64) - 1
        program = [
            (pack(LAYER_FIELDS, **operation) >> (64 * word)) & mask
            for operation in layer_program(self.shape, params)
            for word in range(LAYER_WORDS)
        ]
        put(LoadTarget.PROGRAM, program)
        weights = [layer.weight.astype(np.int8) for layer in self.layers]
        loaded = weight_words(weights, self.shape, params)
        if params.stream_words:
            beats = len(loaded) // CHAIN
            put(LoadTarget.WEIGHT_REGION, [pack(REGION_FIELDS, offset=REGION, beats=beats)])
        elif self.shape.mlp_format == "int4":
            put(LoadTarget.WEIGHTS4, pack_nibbles(loaded))
        else:
            put(LoadTarget.WEIGHTS, loaded)
        put(LoadTarget.COMPUTE_SHAPE, [shape_word(self.shape, params)])
        bottom = len(self.shape.bottom_layers)
        scalars = [(0, *self.copy), (0, *self.pair)]
        pad = sum(padded_outputs(self.shape)[:bottom]) - sum(
            layer.n for layer in self.shape.bottom_layers
        )
        entries = [
            *channels(self.layers[:bottom]),
            *([(0, 1 << 15, 47)] * pad),
            *scalars,
            *channels(self.layers[bottom:]),
        ]
        put(
            LoadTarget.REQUANTISE,
            [pack(REQUANTISE_FIELDS, bias=int(b), m=int(m), s=int(s)) for b, m, s in entries],
        )
        put(LoadTarget.SIGMOID, sigmoid_table())
        return words


def channels(layers: list[Layer]) -> list[tuple[int, int, int]]:
    return [entry for x in layers for entry in zip(x.bias, x.m, x.s, strict=True)]


def sums(layer: Layer, x: list[int]) -> list[tuple[int, int, int]]:
    total = layer.weight @ np.array(x, np.int64) + layer.bias
    return [(int(a), int(m), int(s)) for a, m, s in zip(total, layer.m, layer.s, strict=True)]


def scaled(value: int, m: int, s: int) -> int:
    return max(-127, min(127, (value * m + (1 << (s - 1))) >> s))


def probability(code: int) -> int:
    """Interpolate between the table's points, written out apart from ``numerics.sigmoid_code``."""
    table = sigmoid_table()
    size = min(abs(code), 32767)
    low, high = table[size // 128], table[size // 128 + 1]
    y = low + ((high - low) * (size % 128) + 64) // 128
    return min(65535, 65536 - y) if code < 0 else y


@dataclasses.dataclass
class Stimulus:
    """Samples of ``count`` sub-batches: dense (count, rows, dense), bags (count, rows, F, dim)."""

    dense: NDArray[np.int64]
    bags: list[list[list[NDArray[np.int64]]]]

    @classmethod
    def random(
        cls, shape: ModelShape, rows: int, count: int, seed: int, *, extreme: bool = False
    ) -> Stimulus:
        rng = np.random.default_rng(seed)

        def draw(*size: int) -> NDArray[np.int64]:
            return rng.choice([-127, 127], size) if extreme else rng.integers(-127, 128, size)

        dense = draw(count, rows, shape.dense)
        dims = [shape.feature_dim(f) for f in range(len(shape.features))]
        bags = [[[draw(d) for d in dims] for _ in range(rows)] for _ in range(count)]
        return cls(dense, bags)

    @classmethod
    def uniform(cls, shape: ModelShape, rows: int, count: int, value: int) -> Stimulus:
        """Every code ``value``."""
        dims = [shape.feature_dim(f) for f in range(len(shape.features))]
        bags = [[[np.full(d, value) for d in dims] for _ in range(rows)] for _ in range(count)]
        return cls(np.full((count, rows, shape.dense), value), bags)

    @classmethod
    def batch(cls, shape: ModelShape, rows: int, samples: int, seed: int) -> Stimulus:
        """Random samples in as many sub-batches as they need, the last filled up with zeros."""
        made = cls.random(shape, rows, -(-samples // rows), seed)
        for row in range(rows - -samples % rows, rows):
            made.dense[-1, row] = 0
            made.bags[-1][row] = [np.zeros_like(bag) for bag in made.bags[-1][row]]
        return made

    def expected(self, model: IntegerModel) -> list[tuple[int, int, int]]:
        """Result of every row in order."""
        return [
            model.result(list(self.dense[q, row]), self.bags[q][row])
            for q in range(len(self.bags))
            for row in range(self.dense.shape[1])
        ]


class Bench:
    """Runs a core on stimuli; the feeder keeps to the slots the core has released.

    ``memory``: arguments of the :class:`WeightMemory` that weights are streamed from.
    """

    def __init__(
        self,
        dut: Any,
        params: ComputeParams,
        *,
        pattern: str = "none",
        seed: int = 0,
        memory: dict[str, Any] | None = None,
    ):
        self.dut = dut
        self.params = params
        self.pattern = pattern
        self.seed = seed
        self.results: list[tuple[int, int, int]] = []
        self.released = 0
        self.first_start: int | None = None
        self.release_cycles: list[int] = []
        self.counters: dict[str, int] = {}
        self.weight_errors = 0
        self.between: Callable[[], None] = lambda: None
        self.memory: WeightMemory | None = None
        if params.stream_words:
            base = WEIGHT_BASE + REGION * 64
            self.memory = WeightMemory(dut.axi, base, np.zeros(0, np.uint8), **(memory or {}))

    def run(self, rounds: list[tuple[IntegerModel, Stimulus]], *, cycles: int = 20_000) -> int:
        """Load and run each round in turn; return the cycles until the last result."""
        total = sum(len(stimulus.bags) * self.params.rows for _, stimulus in rounds)
        decode = collector(
            self.dut.results,
            self.results,
            self.pattern,
            self.seed + 1,
            lambda r: (r.logit, r.probability, r.code),
        )

        async def main(ctx: Any) -> None:
            done = 0
            for number, (model, stimulus) in enumerate(rounds):
                if self.memory is not None:
                    ctx.set(self.dut.weight_base, WEIGHT_BASE)
                    self.memory.data = model.weight_image(self.params)
                    if number:
                        self.between()
                    ctx.set(self.dut.clear, 1)
                    await ctx.tick()
                    ctx.set(self.dut.clear, 0)
                for word in model.load(self.params):
                    ctx.set(self.dut.config.payload, word)
                    ctx.set(self.dut.config.valid, 1)
                    await ctx.tick()
                ctx.set(self.dut.config.valid, 0)
                await ctx.tick().repeat(3)
                assert ctx.get(self.dut.idle)
                self.current = (model, stimulus, number)
                done += len(stimulus.bags)
                while len(self.results) < done * self.params.rows or self.released < done:
                    await ctx.tick()
                await ctx.tick().repeat(5)
                assert ctx.get(self.dut.idle)
            names = ("weight_beats",) if self.memory is not None else ()
            for name in ("busy", "active", "waiting", *names):
                self.counters[name] = ctx.get(getattr(self.dut, name))

        async def dense(ctx: Any) -> None:
            for number in range(len(rounds)):
                stimulus = await self._round(ctx, number)
                words = [
                    sum((int(x) & 0xFF) << (8 * row) for row, x in enumerate(column))
                    for batch in stimulus.dense
                    for column in batch.T
                ]
                await driver(self.dut.dense, words, self.pattern, self.seed + 2)(ctx)

        async def bags(ctx: Any) -> None:
            taken = 0
            for number in range(len(rounds)):
                stimulus = await self._round(ctx, number)
                await self._bags(ctx, rounds[number][0].shape, stimulus, taken)
                taken += len(stimulus.bags)

        async def watch(ctx: Any) -> None:
            cycle = 0
            while True:
                _, _, release = await ctx.tick().sample(self.dut.release)
                cycle += 1
                if self.memory is not None:
                    self.weight_errors += ctx.get(self.dut.weight_error)
                if release:
                    self.released += 1
                    self.release_cycles.append(cycle)

        self.current: Any = None
        return simulate(
            self.dut,
            main,
            dense,
            bags,
            background=[decode, watch, *([self.memory.process] if self.memory else [])],
            until=lambda: len(self.results) >= total and self.released >= total // self.params.rows,
            cycles=cycles,
        )

    async def _round(self, ctx: Any, number: int) -> Stimulus:
        while self.current is None or self.current[2] != number:
            await ctx.tick()
        return self.current[1]

    async def _bags(self, ctx: Any, shape: ModelShape, stimulus: Stimulus, before: int) -> None:
        """Send words of the open slots in random order, completions in order."""
        rng = random.Random(self.seed)
        pause = pauses(self.pattern, self.seed + 3)
        lanes, slots = self.params.lanes, self.params.slots
        bases = vector_bases(shape, lanes)[1 if shape.dense else 0 :]
        open_words: dict[int, list[dict[str, Any]]] = {}
        opened = finished = 0
        count = len(stimulus.bags)
        while finished < count:
            while opened < count and before + opened < self.released + slots:
                open_words[opened] = [
                    {
                        "slot": (before + opened) % slots,
                        "row": row,
                        "word": bases[f] + word,
                        "data": [int(x) for x in bag[word * lanes : (word + 1) * lanes]],
                    }
                    for row, vectors in enumerate(stimulus.bags[opened])
                    for f, bag in enumerate(vectors)
                    for word in range(len(bag) // lanes)
                ]
                rng.shuffle(open_words[opened])
                opened += 1
            busy = [q for q, words in open_words.items() if words]
            if busy and not pause():
                q = busy[0] if self.pattern == "none" else rng.choice(busy)
                ctx.set(self.dut.words.payload, open_words[q].pop())
                ctx.set(self.dut.words.valid, 1)
                await ctx.tick().until(self.dut.words.ready)
                ctx.set(self.dut.words.valid, 0)
            else:
                await ctx.tick()
            if finished in open_words and not open_words[finished]:
                del open_words[finished]
                finished += 1
                ctx.set(self.dut.complete, 1)
                await ctx.tick()
                ctx.set(self.dut.complete, 0)
