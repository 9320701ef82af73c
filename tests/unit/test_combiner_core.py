"""The combiner against a model that adds, divides and requantises whole bags at once."""

import dataclasses
import random

import pytest

from screc_hw.combiner.core import Combiner
from screc_hw.combiner.finish import Mean
from screc_hw.combiner.params import CombinerParams
from screc_hw.requantise import Requantise
from tests.support.combiner import (
    SMALL,
    Bench,
    Feature,
    Part,
    SubBatch,
    bench,
    expected_words,
    make_features,
    make_parts,
    model,
)
from tests.support.pysim import PATTERNS


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
    assert len(run.completions) == 9


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
    assert len(run.run().completions) == 2


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
            run.completions += [0] * complete
            if valid:
                assert (word.row, word.word) not in given_words
                given_words[word.row, word.word] = list(word.data)

    run.compute_core = lambda core: compute
    run.run()
    assert given_words == check
    assert run.settled_idle == 1


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


def test_bags_of_replicated_tables_are_of_one_core():
    shape = model((4, 8), 4)
    shape = dataclasses.replace(
        shape, features=tuple(dataclasses.replace(f, pooling=2) for f in shape.features)
    )
    first, second = (table.dim for table in shape.tables)
    found = CombinerParams.expected_partials(shape, inputs=4, replicated=[1])
    assert found == pytest.approx((1.75 * first + second) / (first + second))
    assert CombinerParams.expected_partials(shape, inputs=4, replicated=[0, 1]) == 1


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
