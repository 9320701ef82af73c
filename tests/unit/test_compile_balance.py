"""Lookups of rows that every memory core holds: levelled over the block, bags mostly whole."""

import dataclasses
import heapq
import struct

import numpy as np
import pytest

from screc.compile.balance import deal, level
from screc_hw.combiner.params import CombinerParams
from screc_hw.model import FeatureShape, TableShape
from screc_sim.samples import Bags, SampleBatch
from tests.support.samples import random_batch
from tests.unit.compile_support import SHAPE, bits, compile_small, split_blocks


def greedy(loads, count, cost):
    """Give one row after the other to the least loaded core, the first of equal ones."""
    heap = [(int(load), core) for core, load in enumerate(loads)]
    heapq.heapify(heap)
    rows = [0] * len(loads)
    for _ in range(count):
        load, core = heapq.heappop(heap)
        rows[core] += 1
        heapq.heappush(heap, (load + cost, core))
    return rows


def test_rows_go_to_the_least_loaded_core():
    rng = np.random.default_rng(3)
    for _ in range(300):
        cores, count, cost = (int(rng.integers(1, high)) for high in (9, 60, 7))
        loads = rng.integers(0, 40, cores)
        assert level(loads, count, cost).tolist() == greedy(loads, count, cost)
    assert level(np.array([5, 5]), 0, 1).tolist() == [0, 0]
    assert level(np.array([0, 10**12]), 7, 3).tolist() == [7, 0]


def test_rows_are_dealt_evenly_over_time_and_in_runs():
    rng = np.random.default_rng(4)
    for _ in range(300):
        counts = rng.integers(0, 30, rng.integers(1, 9))
        windows = np.sort(rng.integers(0, 6, counts.sum()))
        cores = deal(counts, windows)
        assert np.bincount(cores, minlength=len(counts)).tolist() == counts.tolist()
        for window in range(6):
            mine = cores[windows == window]
            assert np.all(np.diff(mine) >= 0)
            share = counts * len(mine) / max(len(cores), 1)
            assert np.all(np.abs(np.bincount(mine, minlength=len(counts)) - share) < 2)


def sections(compiled, block):
    """Records of every core, by the counts in the section table."""
    ((_, body),) = split_blocks(block.queue)
    counts = [struct.unpack_from("<2I", body, 8 * i)[1] for i in range(len(block.sections))]
    return [
        struct.unpack(f"<{count}Q", section[: 8 * count])
        for count, section in zip(counts, block.sections, strict=True)
    ]


def one_table(rows, pooling=1.0, dim=16):
    return dataclasses.replace(
        SHAPE,
        tables=(TableShape(name="t", rows=rows, dim=dim),),
        features=(FeatureShape(name="f", table=0, pooling=pooling),),
    )


def encode(compiled, batch):
    return compiled.encoder.encode(batch, block_id=0, result_offset=0)


@pytest.mark.parametrize("samples", [1, 3, 4, 37])
@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("onchip", [0.0, 1.0])
def test_a_table_of_one_row_loads_all_cores_alike(tmp_path, samples, length, onchip):
    shape = one_table(1)
    ids = Bags(np.zeros(samples * length, np.int64), np.arange(samples + 1) * length)
    batch = SampleBatch(np.zeros((samples, 3), np.float32), (ids,))
    counts = {}
    for copies in ((), (0,)):
        (tmp_path / str(copies)).mkdir()
        compiled = compile_small(
            tmp_path / str(copies), shape=shape, memory=4, onchip=onchip, replicated=copies
        )
        counts[copies] = [len(part) for part in sections(compiled, encode(compiled, batch))]
    assert sorted(counts[()]) == [0, 0, 0, samples * length]
    assert sum(counts[0,]) == samples * length
    assert max(counts[0,]) - min(counts[0,]) <= 1
    again = [len(part) for part in sections(compiled, encode(compiled, batch))]
    assert again == counts[0,]


def test_copies_make_up_for_a_skewed_stripe(tmp_path):
    """All lookups of the striped table read one core; those of the copies read the others."""
    compiled = compile_small(tmp_path, memory=4, replicated=(1, 2))
    samples = 24
    once = np.arange(samples + 1)
    hot = compiled.remaps[0].ids(np.zeros(samples, np.int64))  # rank 0
    rng = np.random.default_rng(8)
    none = Bags(np.zeros(0, np.int64), np.zeros(samples + 1, np.int64))
    bags = (
        Bags(hot, once),
        Bags(rng.integers(0, 101, 2 * samples), 2 * once),
        none,
        Bags(rng.integers(0, 64, samples), once),
        none,
        none,
    )
    block = encode(compiled, SampleBatch(np.zeros((samples, 3), np.float32), bags))
    parts = sections(compiled, block)
    assert [len(part) for part in parts] == [24, 24, 24, 24]
    assert {bits(r, 32, 12) for r in parts[0]} == {0}
    # no core gets all of its share at the end: of 3 sub-batches each has a third
    for part in parts[1:]:
        assert np.bincount([bits(r, 44, 16) // 8 for r in part]).tolist() == [8, 8, 8]


def test_row_beats_are_levelled_not_lookups(tmp_path):
    compiled = compile_small(tmp_path, memory=4, replicated=(0, 3))
    batch = random_batch(SHAPE, 40, 2)
    beats = [compiled.layout.tables[f.table].row_beats for f in SHAPE.features]
    assert max(beats) == 3
    loads = [
        sum(beats[bits(record, 32, 12)] for record in part)
        for part in sections(compiled, encode(compiled, batch))
    ]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize("length", [2, 4, 20])
def test_few_bags_are_cut(tmp_path, length):
    """Partials of bags are as predicted; those of a striped table are up to four times as many."""
    shape = one_table(100, length)
    rng = np.random.default_rng(5)
    samples = 160
    bags = Bags(rng.integers(0, 100, samples * length), np.arange(samples + 1) * length)
    compiled = compile_small(tmp_path, shape=shape, memory=4, rows=16, replicated=(0,))
    block = encode(compiled, SampleBatch(np.zeros((samples, 3), np.float32), (bags,)))
    partials = sum(bits(r, 61, 1) for part in sections(compiled, block) for r in part)
    expected = CombinerParams.expected_partials(shape, inputs=4, replicated=[0])
    # at most 3 cuts in each of 10 sub-batches
    assert 0 <= partials - expected * samples <= 30
    striped = CombinerParams.expected_partials(shape, inputs=4)
    assert striped > 1.4 * partials / samples
