"""A combiner between made-up memory and compute cores, and its results by Python integers."""

from __future__ import annotations

import dataclasses
import random

from amaranth.sim import Simulator

from screc_hw.combiner.core import Combiner
from screc_hw.combiner.params import CombinerParams
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.numerics import mean_reciprocal, requantise
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget, pack
from tests.support.pysim import bits_of, pauses

SMALL = CombinerParams(
    lanes=4, rows=2, slots=4, max_features=3, max_slices=3, vector_words=9, mean=True
)


@dataclasses.dataclass
class Feature:
    m: int
    s: int
    mean: bool
    slices: int
    base: int

    def word(self):
        return pack(
            COMBINER_FIELDS,
            m=self.m,
            s=self.s,
            mean=int(self.mean),
            slices=self.slices,
            vector_base=self.base,
        )


@dataclasses.dataclass
class Part:
    """One partial: the input it comes by, and its slices' sums."""

    source: int
    row: int
    feature: int
    count: int
    slices: list[list[int]]


@dataclasses.dataclass
class SubBatch:
    features: int
    lengths: list[list[int]]
    parts: list[Part]


def make_features(params, rng):
    features, base = [], 0
    for _ in range(params.max_features):
        slices = rng.randint(1, params.max_slices)
        features.append(
            Feature(
                m=rng.randrange(1 << 15, 1 << 16),
                s=rng.randrange(14, 26),
                mean=params.mean and rng.random() < 0.5,
                slices=slices,
                base=base,
            )
        )
        base += slices
    assert base <= params.vector_words
    return features


def make_parts(params, features, lengths, inputs, rng, most=4):
    parts = []
    for row, bags in enumerate(lengths):
        for feature, length in enumerate(bags):
            cuts = (
                sorted(rng.sample(range(1, length), min(rng.randrange(most), length - 1)))
                if length
                else []
            )
            for start, stop in zip([0, *cuts], [*cuts, length], strict=True):
                if stop == start:
                    continue
                top = 127 * (stop - start)
                values = [
                    [rng.choice((rng.randint(-top, top), top, -top)) for _ in range(params.lanes)]
                    for _ in range(features[feature].slices)
                ]
                parts.append(Part(rng.randrange(inputs), row, feature, stop - start, values))
    return parts


def make_batch(params, features, inputs, rng, count, lengths):
    batch = SubBatch(
        count, [[rng.choice(lengths) for _ in range(count)] for _ in range(params.rows)], []
    )
    batch.parts = make_parts(params, features, batch.lengths, inputs, rng)
    rng.shuffle(batch.parts)
    return batch


def expected_words(params, features, batch):
    """Every word of a sub-batch as {(row, word): lanes}."""
    words = {}
    for row, bags in enumerate(batch.lengths):
        for f, length in enumerate(bags):
            feature = features[f]
            for piece in range(feature.slices):
                total = [0] * params.lanes
                for part in batch.parts:
                    if (part.row, part.feature) == (row, f):
                        total = [a + b for a, b in zip(total, part.slices[piece], strict=True)]
                if feature.mean and length:
                    r, shift = mean_reciprocal(length)
                    total = [(t * r + (1 << (shift - 1))) >> shift for t in total]
                words[row, feature.base + piece] = [
                    requantise(t, feature.m, feature.s) for t in total
                ]
    return words


class Bench:
    """Plays reader, memory cores and compute cores around a combiner."""

    def __init__(
        self,
        params,
        inputs,
        cores,
        features,
        batches,
        *,
        seed=0,
        idle="none",
        back="none",
        hold=(0, 0),
    ):
        self.params, self.inputs, self.cores = params, inputs, cores
        self.features, self.batches = features, batches
        self.seed, self.idle, self.back, self.hold = seed, idle, back, hold
        self.dut = Combiner(params, inputs, cores)
        self.local = params.slots // cores
        self.words = [{} for _ in range(cores)]
        self.completions = []  # the cycle of each
        self.cycles = 0
        self.first_part = None
        self.last_word = None
        self.most_ahead = 0
        self.settled_idle = None

    def run(self, cycles=30_000):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        for index in range(self.inputs):
            sim.add_testbench(self.memory_core(index), background=True)
        for core in range(self.cores):
            sim.add_testbench(self.compute_core(core), background=True)
        sim.add_testbench(self.reader, background=True)

        async def watch(ctx):
            await ctx.tick()
            while len(self.completions) < len(self.batches):
                await ctx.tick()
                self.cycles += 1
                assert self.cycles < cycles, (
                    f"{len(self.completions)} sub-batches after {cycles} cycles"
                )
            await ctx.tick().repeat(60)
            self.settled_idle = ctx.get(self.dut.idle)
            assert ctx.get(self.dut.admitted) == len(self.batches) % (1 << 16)

        sim.add_testbench(watch)
        sim.run()
        return self

    async def reader(self, ctx):
        dut, pause = self.dut, pauses(self.idle, self.seed)
        for address, feature in enumerate(self.features):
            ctx.set(
                dut.config.payload,
                {
                    "target": LoadTarget.COMBINER_FEATURES,
                    "address": address,
                    "data": feature.word(),
                },
            )
            ctx.set(dut.config.valid, 1)
            await ctx.tick()
        # words for others must not change the descriptors
        ctx.set(dut.config.payload, {"target": LoadTarget.PROGRAM, "address": 0, "data": 0})
        await ctx.tick()
        ctx.set(
            dut.config.payload,
            {"target": LoadTarget.COMBINER_FEATURES, "address": 1 << 20, "data": 0},
        )
        await ctx.tick()
        ctx.set(dut.config.valid, 0)
        for batch in self.batches:
            ctx.set(dut.features, batch.features)
            ctx.set(dut.begin.valid, 1)
            await ctx.tick().until(dut.begin.ready)
            ctx.set(dut.begin.valid, 0)
            ctx.set(dut.features, 0xFFF)  # sampled with begin, so now of no account
            for bags in batch.lengths:
                for length in bags:
                    while pause():
                        await ctx.tick()
                    reciprocal = mean_reciprocal(length)[0] if length else 0
                    ctx.set(dut.bags.payload, {"length": length, "reciprocal": reciprocal})
                    ctx.set(dut.bags.valid, 1)
                    await ctx.tick().until(dut.bags.ready)
                    ctx.set(dut.bags.valid, 0)

    def memory_core(self, index):
        async def process(ctx):
            stream, pause = self.dut.partials[index], pauses(self.idle, self.seed + 1 + index)
            for sequence, batch in enumerate(self.batches):
                for part in batch.parts:
                    if part.source != index:
                        continue
                    while (
                        ahead := (ctx.get(self.dut.admitted) - sequence) & 0xFFFF
                    ) == 0 or ahead >> 15:
                        await ctx.tick()
                    self.most_ahead = max(self.most_ahead, ahead)
                    for piece, acc in enumerate(part.slices):
                        while pause():
                            await ctx.tick()
                        ctx.set(
                            stream.payload,
                            {
                                "slot": sequence % self.params.slots,
                                "row": part.row,
                                "feature": part.feature,
                                "slice": piece,
                                "last": piece == len(part.slices) - 1,
                                "count": part.count,
                                "acc": acc,
                            },
                        )
                        ctx.set(stream.valid, 1)
                        if self.first_part is None:
                            self.first_part = self.cycles
                        await ctx.tick().until(stream.ready)
                        ctx.set(stream.valid, 0)

        return process

    def compute_core(self, core):
        async def process(ctx):
            dut, stream = self.dut, self.dut.words[core]
            pause, rng = pauses(self.back, self.seed + 50 + core), random.Random(self.seed)
            done, releases, waiting = 0, [], None
            while True:
                take = not pause()
                ctx.set(stream.ready, take)
                ctx.set(dut.release[core], bool(releases) and releases[0] <= self.cycles)
                if releases and releases[0] <= self.cycles:
                    releases.pop(0)
                _, _, valid, word, complete = await ctx.tick().sample(
                    stream.valid, stream.payload, dut.complete[core]
                )
                if complete:
                    sequence = done * self.cores + core
                    batch = self.batches[sequence]
                    got = {
                        k[1:]: v for k, v in self.words[core].items() if k[0] == done % self.local
                    }
                    assert got == expected_words(self.params, self.features, batch), (
                        f"sub-batch {sequence}"
                    )
                    for key in [k for k in self.words[core] if k[0] == done % self.local]:
                        del self.words[core][key]
                    done += 1
                    self.completions.append(self.cycles)
                    releases.append(self.cycles + rng.randint(*self.hold))
                if waiting is not None:
                    assert valid, "a word was withdrawn"
                    assert bits_of(word) == waiting, "a word changed before its transfer"
                waiting = bits_of(word) if valid and not take else None
                if valid and take:
                    self.last_word = self.cycles
                    key = (word.slot, word.row, word.word)
                    assert key not in self.words[core], f"word {key} came twice"
                    self.words[core][key] = list(word.data)

        return process


def bench(
    params=SMALL,
    *,
    inputs=2,
    cores=2,
    count=6,
    seed=1,
    lengths=(0, 1, 2, 3, 7),
    features=None,
    **kwargs,
):
    rng = random.Random(seed)
    descriptors = make_features(params, rng)
    batches = [
        make_batch(
            params,
            descriptors,
            inputs,
            rng,
            features or rng.randint(1, params.max_features),
            lengths,
        )
        for _ in range(count)
    ]
    run = Bench(params, inputs, cores, descriptors, batches, seed=seed, **kwargs).run()
    assert run.settled_idle == 1
    assert not any(run.words), "words beyond the last sub-batch"
    return run


def model(dims, lanes, mode="sum"):
    tables = tuple(TableShape(name=f"t{i}", rows=10, dim=d) for i, d in enumerate(dims))
    features = tuple(FeatureShape(name=f"f{i}", table=i, mode=mode) for i in range(len(dims)))
    return ModelShape(
        name="m",
        dense=0,
        bottom=(),
        top=(1,),
        interaction="concat",
        tables=tables,
        features=features,
    )
