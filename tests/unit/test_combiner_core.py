"""The combiner against a model that adds, divides and requantises whole bags at once."""

import dataclasses
import random

import pytest
from amaranth.sim import Simulator

from screc_hw.combiner.core import Combiner
from screc_hw.combiner.finish import Mean
from screc_hw.combiner.params import CombinerParams
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.numerics import mean_reciprocal, requantise
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget, pack
from screc_hw.requantise import Requantise
from tests.support.pysim import PATTERNS, pauses

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
        self.completed = 0
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
            while self.completed < len(self.batches):
                await ctx.tick()
                self.cycles += 1
                assert self.cycles < cycles, f"{self.completed} sub-batches after {cycles} cycles"
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
                    self.completed += 1
                    releases.append(self.cycles + rng.randint(*self.hold))
                if waiting is not None:
                    assert valid, "a word was withdrawn"
                    assert repr(word) == waiting, "a word changed before its transfer"
                waiting = repr(word) if valid and not take else None
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


@pytest.mark.parametrize("idle", PATTERNS)
@pytest.mark.parametrize("back", PATTERNS)
def test_words_equal_whole_bags(idle, back):
    bench(idle=idle, back=back, hold=(0, 30), seed=PATTERNS.index(idle) * 3 + PATTERNS.index(back))


@pytest.mark.parametrize(
    ("inputs", "cores", "slots"), [(1, 1, 1), (1, 1, 2), (3, 1, 4), (5, 4, 4), (4, 2, 8)]
)
def test_any_count_of_cores_and_slots(inputs, cores, slots):
    params = dataclasses.replace(SMALL, slots=slots)
    bench(params, inputs=inputs, cores=cores, count=2 * slots + 1, idle="random", hold=(0, 50))


@pytest.mark.parametrize("rows", [1, 8, 16])
@pytest.mark.parametrize("features", [1, 3])
def test_any_count_of_rows(rows, features):
    params = dataclasses.replace(SMALL, rows=rows, slots=2)
    bench(params, cores=1, count=3, features=features)


def test_one_of_everything():
    params = CombinerParams(lanes=4, rows=1, slots=1, max_features=1, max_slices=1, vector_words=1)
    bench(params, inputs=1, cores=1, count=5)


def test_empty_bags_everywhere():
    bench(lengths=(0,), count=10)


def test_no_features_at_all_completes_at_once():
    batches = [SubBatch(0, [[]] * SMALL.rows, []) for _ in range(9)]
    run = Bench(SMALL, 1, 2, make_features(SMALL, random.Random(0)), batches).run()
    assert run.completed == 9


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 255, 256, 257, 32768, 32769, 65534, 65535])
def test_bags_of_every_size_of_length(length):
    params = dataclasses.replace(SMALL, rows=1, slots=2)
    bench(params, cores=1, count=3, lengths=(length,))


def test_partials_of_one_bag_back_to_back():
    params = dataclasses.replace(SMALL, rows=1, slots=2, max_features=2)
    for slices in (1, 2, 3):
        rng = random.Random(slices)
        features = [Feature(40000, 20, False, slices, 0), Feature(50000, 19, True, 1, slices)]
        batches = []
        for _ in range(3):
            batch = SubBatch(2, [[13, 11]], [])
            batch.parts = make_parts(params, features, batch.lengths, 2, rng, most=10)
            for a in range(1, len(batch.parts)):  # neighbours of distance 1, 2 and 3
                b = min(len(batch.parts) - 1, a + rng.randrange(3))
                batch.parts[a], batch.parts[b] = batch.parts[b], batch.parts[a]
            batches.append(batch)
        Bench(params, 2, 1, features, batches).run()


def test_sub_batches_wait_for_a_returned_slot():
    params = dataclasses.replace(SMALL, slots=2)
    run = bench(params, cores=1, count=5, hold=(200, 200))
    assert run.cycles > 2 * 200
    assert run.most_ahead <= 2


def test_slot_completes_in_order_though_a_later_one_has_its_words_first():
    params = dataclasses.replace(SMALL, rows=1, slots=2, max_features=1, max_slices=1)
    features = [Feature(1 << 15, 15, False, 1, 0)]
    first, second = (SubBatch(1, [[1]], []) for _ in range(2))
    # input 1 has nothing in the first sub-batch; input 0 is late by its stalls
    first.parts = [Part(0, 0, 0, 1, [[1, 2, 3, 4]])]
    second.parts = [Part(1, 0, 0, 1, [[5, 6, 7, 8]])]
    run = Bench(params, 2, 1, features, [first, second])
    patient = run.memory_core(0)

    def late(index):
        async def process(ctx):
            if index == 0:
                await ctx.tick().repeat(100)
            await (patient if index == 0 else original(1))(ctx)

        return process

    original = run.memory_core
    run.memory_core = late
    assert run.run().completed == 2


def test_too_many_lookups_leave_other_bags_alone():
    params = dataclasses.replace(SMALL, rows=1, slots=2, max_features=3, max_slices=1)
    features = [Feature(1 << 15, 15, False, 1, f) for f in range(3)]
    wanted = SubBatch(3, [[2, 5, 0]], [])
    wanted.parts = [
        Part(0, 0, 0, 1, [[1, 1, 1, 1]]),
        Part(0, 0, 0, 1, [[2, 2, 2, 2]]),
        Part(0, 0, 1, 3, [[7, 7, 7, 7]]),
        Part(0, 0, 1, 2, [[8, 8, 8, 8]]),
    ]
    given = SubBatch(3, wanted.lengths, list(wanted.parts))
    for at in (4, 3, 2):  # also to an empty bag
        given.parts.insert(at, Part(0, 0, 0, 65535, [[9, 9, 9, 9]]))
        given.parts.insert(at, Part(0, 0, 2, 1, [[9, 9, 9, 9]]))
    run = Bench(params, 1, 1, features, [given])
    run.batches = [given]
    check = expected_words(params, features, wanted)
    given_words = {}

    async def compute(ctx):
        stream = run.dut.words[0]
        ctx.set(stream.ready, 1)
        while True:
            _, _, valid, word, complete = await ctx.tick().sample(
                stream.valid, stream.payload, run.dut.complete[0]
            )
            run.completed += complete
            if valid:
                assert (word.row, word.word) not in given_words
                given_words[word.row, word.word] = list(word.data)

    run.compute_core = lambda core: compute
    run.run()
    assert given_words == check
    assert run.settled_idle == 1


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


@pytest.mark.parametrize(
    ("dims", "inputs", "split"),
    [((4, 4, 4, 4), 1, 1), ((4, 4, 4, 4), 4, 1), ((12, 12), 2, 1), ((4, 8), 2, 2), ((4, 4), 4, 4)],
)
def test_cycles_equal_the_formula(dims, inputs, split):
    """Steady state, in-order partials, never idle: one slice (or header) per cycle."""
    params = CombinerParams(
        lanes=4, rows=8, slots=4, max_features=len(dims), max_slices=3, vector_words=sum(dims) // 4
    )
    features, base = [], 0
    for dim in dims:
        features.append(Feature(1 << 15, 15, False, dim // 4, base))
        base += dim // 4
    count = 12
    batches = []
    for _ in range(count):
        batch = SubBatch(len(dims), [[split] * len(dims) for _ in range(params.rows)], [])
        turn = 0
        for row in range(params.rows):
            for f, feature in enumerate(features):
                for _ in range(split):
                    batch.parts.append(
                        Part(turn % inputs, row, f, 1, [[1, 2, 3, 4]] * feature.slices)
                    )
                    turn += 1
        batches.append(batch)
    run = Bench(params, inputs, 1, features, batches).run()
    expected = params.cycles(model(dims, 4), partials_per_bag=split) * count
    measured = run.last_word - run.first_part
    assert expected <= measured + params.rows * len(dims)
    assert measured <= expected + 40


@pytest.mark.parametrize(
    ("pooling", "inputs", "parts"), [(1, 4, 1), (2, 4, 1.75), (99, 4, 4), (0.5, 4, 1), (80, 1, 1)]
)
def test_partials_per_bag_grow_with_the_cores_it_meets(pooling, inputs, parts):
    shape = model((4, 8), 4)
    shape = dataclasses.replace(
        shape, features=tuple(dataclasses.replace(f, pooling=pooling) for f in shape.features)
    )
    found = CombinerParams.expected_partials(shape, inputs=inputs)
    assert found == pytest.approx(parts, abs=1e-6)
    doubled = CombinerParams.expected_partials(shape, inputs=inputs, lookups=4 * pooling)
    again = dataclasses.replace(
        shape, features=tuple(dataclasses.replace(f, pooling=2 * pooling) for f in shape.features)
    )
    assert doubled == pytest.approx(CombinerParams.expected_partials(again, inputs=inputs))


def test_latencies_are_those_of_the_pipelines():
    for params in (SMALL, dataclasses.replace(SMALL, rowwise=True)):
        assert Requantise(params.acc_bits, 1).latency == params.requantise_latency
        assert Mean(params).latency == params.mean_latency
    assert dataclasses.replace(SMALL, mean=False).mean_latency == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: dataclasses.replace(SMALL, rows=3), "rows must be a power of two, not 3"),
        (lambda: dataclasses.replace(SMALL, slots=0), "slots must be a power of two, not 0"),
        (lambda: dataclasses.replace(SMALL, lanes=0), "lanes must be at least 1, not 0"),
        (
            lambda: dataclasses.replace(SMALL, max_bag=65536),
            r"max_bag must be in 1\.\.65535, not 65536",
        ),
        (lambda: Combiner(SMALL, 0, 1), "inputs must be at least 1, not 0"),
        (lambda: Combiner(SMALL, 1, 8), "cores must be a power of two up to 4 slots, not 8"),
        (lambda: Combiner(SMALL, 1, 3), "cores must be a power of two up to 4 slots, not 3"),
    ],
)
def test_impossible_sizes_are_refused(make, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        make()
