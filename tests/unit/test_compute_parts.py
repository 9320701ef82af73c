"""The turn of the bottom output, the interaction's units and the writer, each alone."""

import random

import numpy as np
import pytest

from screc_hw.compute.pairs import Pairs
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.compute.turn import Turn
from screc_hw.compute.writer import BankWriter
from screc_hw.protocol import Destination
from tests.support.compute import model_shape, scaled
from tests.support.pysim import driver, pauses, simulate


def params(**changed):
    values = {
        "rows": 4,
        "columns": 16,
        "lanes": 8,
        "slots": 2,
        "pair_units": 2,
        "vector_words": 18,
        "max_vectors": 6,
        "max_dense": 1,
        "max_k": 16,
        "max_n": 16,
        "max_dim": 24,
        "activation_words": 24,
        "weight_steps": 8,
        "requantise_words": 8,
        "program_length": 2,
    }
    return ComputeParams(**(values | changed))


# --- writer ---------------------------------------------------------------------------------------


def random_spot(rng, p):
    return {
        "bank": rng.randrange(CHAIN),
        "address": rng.randrange(p.bank_words),
        "enable": rng.randrange(1, 1 << p.rows),
        "codes": [rng.randint(-127, 127) for _ in range(p.rows)],
    }


def random_stripe(rng, p):
    return {
        "address": rng.randrange(p.bank_words),
        "row": rng.randrange(p.rows),
        "enable": rng.randrange(1, 1 << CHAIN),
        "codes": [rng.randint(-127, 127) for _ in range(CHAIN)],
    }


def writes_of(kind, item, p):
    """Return what an item writes: (bank, address, row, code), in order."""
    if kind == "bags":
        banks = [k for k in range(CHAIN) if item["enable"] >> k & 1]
        return [(k, item["address"], item["row"], item["codes"][k]) for k in banks]
    rows = [row for row in range(p.rows) if item["enable"] >> row & 1]
    return [(item["bank"], item["address"], row, item["codes"][row]) for row in rows]


@pytest.mark.parametrize("pattern", ["none", "random"])
def test_writer_takes_the_most_urgent_and_loses_nothing(pattern):
    p = params()
    dut = BankWriter(p)
    rng = random.Random(1)
    kinds = ("columns", "pairs", "dense", "bags")
    items = {
        kind: [(random_stripe if kind == "bags" else random_spot)(rng, p) for _ in range(60)]
        for kind in kinds
    }
    taken, written = [], []

    async def columns(ctx):
        pause = pauses("random", 2)
        for item in items["columns"]:
            while pause():
                await ctx.tick()
            ctx.set(dut.columns.payload, item)
            ctx.set(dut.columns.valid, 1)
            await ctx.tick()
            ctx.set(dut.columns.valid, 0)

    async def watch(ctx):
        streams = [getattr(dut, kind) for kind in kinds]
        while True:
            _, _, *values = await ctx.tick().sample(
                *(s.valid for s in streams), *(s.ready for s in streams[1:]), *dut.writes
            )
            valid, ready, writes = values[:4], [1, *values[4:7]], values[7:]
            moved = [n for n in range(4) if valid[n] and ready[n]]
            if any(valid):  # one in every cycle, the first of those that wait
                assert moved == [list(valid).index(1)]
            # a write leaves a register
            written.append(
                [
                    (bank, write.address, row, write.data[row])
                    for bank, write in enumerate(writes)
                    for row in range(p.rows)
                    if write.enable >> row & 1
                ]
            )
            taken.append(kinds[moved[0]] if moved else None)

    simulate(
        dut,
        columns,
        *(driver(getattr(dut, k), items[k], pattern, n) for n, k in enumerate(kinds[1:])),
        background=[watch],
    )
    left = {kind: iter(items[kind]) for kind in kinds}
    expected = [[] if k is None else writes_of(k, next(left[k]), p) for k in taken]
    assert [taken.count(kind) for kind in kinds] == [60] * 4
    assert [sorted(w) for w in written[1:]] == [sorted(w) for w in expected[:-1]]


# --- turn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["none", "random"])
@pytest.mark.parametrize("changed", [{}, {"rows": 8, "pair_units": 8}, {"pair_units": 1}], ids=str)
def test_columns_become_vectors_and_copies(changed, pattern):
    """Columns as fast as the array gives them, into both slots in turn."""
    p = params(**changed)
    dut = Turn(p)
    rng = random.Random(3)
    outputs = [1, 7, 8, 9, 24]
    runs = [
        [[rng.randint(-127, 127) for _ in range(p.rows)] for _ in range(count)] for count in outputs
    ]
    places = [
        {"address": rng.randrange(20), "slot": n % p.slots, "last": n % 3 == 0}
        for n in range(len(runs))
    ]
    memory, copies = {}, []

    async def feed(ctx):
        for place, columns in zip(places, runs, strict=True):
            await ctx.tick().until(dut.free)
            ctx.set(dut.place, place)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for n, column in enumerate(columns):
                for row in range(p.rows):
                    ctx.set(dut.columns.payload[row], column[row])
                ctx.set(dut.columns.valid, 1)
                ctx.set(dut.final, n == len(columns) - 1)
                await ctx.tick()
                ctx.set(dut.columns.valid, 0)
                if pattern == "random" and rng.random() < 0.5:
                    await ctx.tick().repeat(rng.randint(1, 4))
        await ctx.tick().until(dut.free)

    async def vectors(ctx):
        async for _, _, write in ctx.tick().sample(dut.vectors):
            for unit in range(p.pair_units):
                for k in range(CHAIN):
                    if write.units >> unit & 1 and write.enable >> k & 1:
                        key = (unit, write.address, k)
                        memory.setdefault(key, []).append(write.codes[unit][k])

    async def collect(ctx):
        pause = pauses(pattern, 4)
        while True:
            ctx.set(dut.copy.ready, not pause())
            _, _, valid, ready, payload = await ctx.tick().sample(
                dut.copy.valid, dut.copy.ready, dut.copy.payload
            )
            if valid and ready:
                tag = payload.tag
                assert (tag.valid, tag.destination) == (1, Destination.ACTIVATION)
                copies.append(
                    (
                        [payload.codes[row] for row in range(p.rows)],
                        CHAIN * tag.address + tag.bank,
                        tag.slot,
                        tag.last,
                        tag.final,
                    )
                )

    simulate(dut, feed, background=[vectors, collect])
    wanted_copies, wanted = [], {}
    for place, columns in zip(places, runs, strict=True):
        for n, column in enumerate(columns):
            at = CHAIN * place["address"] + n
            final = n == len(columns) - 1
            wanted_copies.append((column, at, place["slot"], int(place["last"]), int(final)))
            for row, code in enumerate(column):
                sample = place["slot"] * p.unit_rows + row // p.pair_units
                key = (row % p.pair_units, sample * p.vector_chunks + n // CHAIN, n % CHAIN)
                wanted.setdefault(key, []).append(code)
    assert copies == wanted_copies
    assert memory == wanted


# --- interaction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["none", "random"])
@pytest.mark.parametrize("units", [1, 2, 4])
def test_pairs_are_the_strict_triangle_of_every_sample(units, pattern):
    """Vectors of one word and of several, whole and not, two to six of them, in both slots."""
    p = params(pair_units=units)
    dut = Pairs(p)
    rng = np.random.default_rng(units)
    runs = [(2, 8), (3, 12), (6, 24), (2, 1), (4, 17), (5, 9)]
    vectors = [rng.integers(-127, 128, (p.rows, count, dim)) for count, dim in runs]
    vectors[1][:] = rng.choice([-127, 127], vectors[1].shape)
    m, s = 40000, 26
    firsts = [int(rng.integers(0, 60)) for _ in runs]
    memory = [{} for _ in runs]
    done, got = [], []

    async def feed(ctx):
        for number, ((count, dim), sample) in enumerate(zip(runs, vectors, strict=True)):
            links = -(-dim // CHAIN)
            # the rest of the last word, that no vector has, is not 0
            padded = np.full((p.rows, count, CHAIN * links), 99)
            padded[:, :, :dim] = sample
            slot = number % p.slots
            for row in range(p.rows):
                base = (slot * p.unit_rows + row // units) * p.vector_chunks
                for word, codes in enumerate(padded[row].reshape(-1, CHAIN)):
                    ctx.set(dut.write.units, 1 << row % units)
                    ctx.set(dut.write.address, base + word)
                    ctx.set(dut.write.enable, 0xFF)
                    for k in range(CHAIN):
                        ctx.set(dut.write.codes[row % units][k], int(codes[k]))
                    await ctx.tick()
            ctx.set(dut.write.units, 0)
            await ctx.tick().until(dut.free)
            ctx.set(dut.m, m)
            ctx.set(dut.s, s)
            ctx.set(
                dut.operation,
                {
                    "slot": slot,
                    "vectors": count - 1,
                    "links": links - 1,
                    "tail": (dim - 1) % CHAIN,
                    "place": {"last": number % 2},
                    "first": firsts[number],
                },
            )
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # the next vectors are written meanwhile, into the other slot

    async def collect(ctx):
        pause = pauses(pattern, 5)
        while True:
            ctx.set(dut.o.ready, not pause())
            _, _, valid, ready, spot, end = await ctx.tick().sample(
                dut.o.valid, dut.o.ready, dut.o.payload, dut.done
            )
            if valid and ready:
                got.append(None)
                for row in range(p.rows):
                    if spot.enable >> row & 1:
                        key = (row, CHAIN * spot.address + spot.bank)
                        assert key not in memory[len(done)]
                        memory[len(done)][key] = spot.codes[row]
            if end.valid:
                done.append((end.slot, end.last))

    simulate(dut, feed, background=[collect], until=lambda: len(done) == len(runs))
    assert done == [(n % p.slots, n % 2) for n in range(len(runs))]
    for number, (count, _) in enumerate(runs):
        expected = {}
        for row in range(p.rows):
            place = firsts[number]
            for i in range(count):
                for j in range(i):
                    dot = int(vectors[number][row, i] @ vectors[number][row, j])
                    expected[row, place] = scaled(dot, m, s)
                    place += 1
        assert memory[number] == expected
    assert len(got) == sum(n * (n - 1) // 2 for n, _ in runs) * p.unit_rows


def test_steps_of_an_operation_are_those_of_the_formula():
    """From the first step to the last: a word per cycle, pairs and held vectors alike."""
    model = model_shape(dense=1, bottom=(24,), dims=(24,) * 5, top=(1,))
    p = params()
    dut = Pairs(p)
    active = []

    async def feed(ctx):
        ctx.set(dut.m, 1 << 15)
        ctx.set(dut.s, 15)
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.operation, {"vectors": 5, "links": 2, "tail": 7, "first": 0})
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        cycles = 0
        while not ctx.get(dut.free):
            await ctx.tick()
            cycles += 1
        active.append(cycles)

    simulate(dut, feed)
    steps = p.pair_cycles(model)
    assert steps == (15 + 5) * 3 * p.unit_rows
    assert 0 < active[0] - steps < 40
