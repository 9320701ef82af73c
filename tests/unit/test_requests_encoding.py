"""Requests, read back by a decoder of their own and gathered by hand."""

import dataclasses
import struct

import numpy as np
import pytest

from screc.compile.staging import StagingFullError
from screc.errors import ConfigError
from screc_hw.numerics import mean_reciprocal
from screc_sim.samples import Bags, SampleBatch
from tests.unit.compile_support import (
    MIXED,
    SHAPE,
    compile_small,
    gather,
    random_batch,
    split_blocks,
)


def encode(compiled, batch, **more):
    return compiled.encoder.encode(batch, block_id=7, result_offset=40, **more)


def golden_sums(compiled, batch):
    """Sums of integer rows by id, one bag at a time."""
    found = {}
    for f, bags in enumerate(batch.bags):
        table = compiled.model.tables[compiled.shape.features[f].table]
        for sample in range(len(batch)):
            ids = bags.ids[bags.offsets[sample] : bags.offsets[sample + 1]]
            if len(ids):
                found[sample, f] = table.values(ids).astype(int).sum(axis=0)
    return found


def tt_counts(compiled, batch):
    """Lookups of rows in TT form, and of those with a pinned prefix, by table."""
    rows, hits = ([0] * len(compiled.shape.tables) for _ in range(2))
    for feature, bags in zip(compiled.shape.features, batch.bags, strict=True):
        part = compiled.layout.tables[feature.table].tt
        for rank in compiled.remaps[feature.table].ranks(bags.ids).tolist() if part else []:
            if part.first <= rank < part.last:
                rows[feature.table] += 1
                hits[feature.table] += (rank - part.first) // part.shape.p[2] < part.pins
    return tuple(rows), tuple(hits)


@pytest.mark.parametrize("samples", [1, 8, 21])
@pytest.mark.parametrize(
    ("resident", "onchip", "tt", "replicated"),
    [
        (1.0, 0.0, 0.0, ()),
        (0.3, 0.0, 0.0, ()),
        (0.0, 0.0, 0.0, ()),
        (0.6, 0.5, 0.0, ()),
        (0.5, 1.0, 0.0, ()),
        (1.0, 0.0, 1.0, ()),
        (0.7, 0.3, 0.6, ()),
        (1.0, 0.0, 0.0, (0, 1, 2, 3, 4, 5, 6)),
        (0.7, 0.3, 0.6, (1, 3, 6)),
    ],
    ids=[
        "dram",
        "dram ssd",
        "ssd",
        "onchip dram ssd",
        "onchip ssd",
        "tt",
        "all",
        "copies",
        "all and copies",
    ],
)
@pytest.mark.parametrize("memory", [1, 2, 4])
def test_gathered_bags_are_the_golden_ones(
    tmp_path, memory, resident, onchip, tt, replicated, samples
):
    compiled = compile_small(
        tmp_path,
        shape=MIXED,
        memory=memory,
        resident=resident,
        onchip=onchip,
        tt=tt,
        replicated=replicated,
    )
    batch = random_batch(MIXED, samples, memory)
    block = encode(compiled, batch)
    sums, counts = gather(compiled, block)
    expected = golden_sums(compiled, batch)
    assert sums.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(sums[key], value), key
    lengths = np.array([bags.lengths for bags in batch.bags])
    assert {k: int(lengths[k[1], k[0]]) for k in expected} == counts
    assert block.lookups == lengths.sum() == sum(counts.values())
    assert (block.staged_rows > 0) == (resident < 1)
    assert (sum(block.tt_lookups) > 0) == (tt > 0)
    assert tt_counts(compiled, batch) == (block.tt_lookups, block.tt_hits)
    if memory > 1:
        assert all(len(section) > 0 for section in block.sections)


def test_header_section_table_bags_and_dense(tmp_path):
    compiled = compile_small(tmp_path, memory=2, rows=8)
    batch = random_batch(SHAPE, 11, 3)
    ((words, body),) = split_blocks(encode(compiled, batch, section_beats=[500, 600]).queue)
    assert words[1] >> 16 == 1
    assert words[3:9] == (7, 40, 11, 6, 3, 2)
    assert words[9:15] == (0, 0, 0, 0, 0, 0)
    assert [struct.unpack_from("<I", body, 8 * i)[0] for i in range(2)] == [500, 600]
    at = 64
    codes = compiled.model.quantise_dense(batch.dense)
    for sub in range(2):
        for row in range(8):
            for f, feature in enumerate(SHAPE.features):
                length, reciprocal = struct.unpack_from("<2H", body, at + 4 * (row * 6 + f))
                sample = 8 * sub + row
                expected = int(batch.bags[f].lengths[sample]) if sample < 11 else 0
                assert length == expected
                mean = feature.mode == "mean" and length
                assert reciprocal == (mean_reciprocal(length)[0] if mean else 0)
        at += 192  # 8 rows × 6 features × 4 bytes
        dense = np.frombuffer(body, np.int8, 24, at).reshape(3, 8)
        expected = np.zeros((8, 3), np.int8)
        expected[: min(8, 11 - 8 * sub)] = codes[8 * sub : 8 * sub + 8]
        assert np.array_equal(dense.T, expected)
        at += 64
    assert at == len(body)


def test_result_beats_hold_padded_rows_and_the_status(tmp_path):
    compiled = compile_small(tmp_path, rows=16)
    assert encode(compiled, random_batch(SHAPE, 17, 1)).result_beats == 1 + 32 * 8 // 64


def test_a_row_is_staged_once_per_block(tmp_path):
    compiled = compile_small(tmp_path, resident=0.0)
    same = Bags(np.full(30, 5), np.arange(0, 31, 3))
    empty = Bags(np.zeros(0, np.int64), np.zeros(11, np.int64))
    bags = (same, empty, same, empty, empty, empty)  # two features of one table
    block = encode(compiled, SampleBatch(np.zeros((10, 3), np.float32), bags))
    assert block.staged_lookups == 60
    assert block.staged_rows == block.staged_pages == 1
    assert sum(len(write.data) for write in block.staged) == 64


def test_staging_ring_wraps_and_is_given_back(tmp_path):
    compiled = compile_small(tmp_path, resident=0.0, staging_beats=190)
    for seed in range(12):
        batch = random_batch(SHAPE, 6, seed)
        block = encode(compiled, batch)
        sums, _ = gather(compiled, block)
        assert all(np.array_equal(sums[k], v) for k, v in golden_sums(compiled, batch).items())
        compiled.encoder.retire()


def test_blocks_in_flight_do_not_overlap(tmp_path):
    compiled = compile_small(tmp_path, memory=2, resident=0.0, staging_beats=400)
    flight, used = [], [[], []]
    for seed in range(40):
        while True:
            try:
                block = encode(compiled, random_batch(SHAPE, 4, seed))
                break
            except StagingFullError:
                assert flight
                compiled.encoder.retire()
                flight.pop(0)
        flight.append(block)
        used = [set(), set()]
        for one in flight:
            for write in one.staged:
                beats = set(range(write.beat, write.beat + len(write.data) // 64))
                assert not beats & used[write.core]
                used[write.core] |= beats
    assert len(flight) > 1


def test_a_block_that_never_fits_the_ring_says_so(tmp_path):
    compiled = compile_small(tmp_path, resident=0.0, staging_beats=20)
    with pytest.raises(StagingFullError, match=r"of 20 are free; use a smaller plan\.batch"):
        encode(compiled, random_batch(SHAPE, 64, 1))
    tiny = random_batch(SHAPE, 1, 1, longest=1)
    assert encode(compiled, tiny).staged_rows > 0  # the failed block left nothing behind


def test_a_bag_may_hold_65535_ids_and_no_more(tmp_path):
    compiled = compile_small(tmp_path)

    def batch(length):
        empty = Bags(np.zeros(0, np.int64), np.zeros(2, np.int64))
        long = Bags(np.arange(length) % 300, np.array([0, length]))
        return SampleBatch(np.zeros((1, 3), np.float32), (long, *[empty] * 5))

    assert encode(compiled, batch(65535)).lookups == 65535
    with pytest.raises(ConfigError, match="0 to 65535 lookups, not 65536"):
        encode(compiled, batch(65536))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: SampleBatch(b.dense[:0], tuple(x.slice(0, 0) for x in b.bags)), "1 to 65535"),
        (lambda b: SampleBatch(b.dense[:, :2], b.bags), r"dense features must have shape \(4, 3\)"),
        (lambda b: SampleBatch(b.dense, b.bags[:5]), "6 features, not 5"),
        (
            lambda b: SampleBatch(
                b.dense, (*b.bags[:5], Bags(np.array([50]), np.array([0, 1, 1, 1, 1])))
            ),
            "feature 'o' must be below 50, not 50",
        ),
    ],
    ids=["no samples", "dense", "features", "id"],
)
def test_a_wrong_batch_is_refused(tmp_path, change, message):
    compiled = compile_small(tmp_path)
    with pytest.raises(ConfigError, match=message):
        encode(compiled, change(random_batch(SHAPE, 4, 1)))


def test_a_model_without_dense_features_has_no_dense_words(tmp_path):
    shape = dataclasses.replace(SHAPE, dense=0, bottom=())
    compiled = compile_small(tmp_path, shape=shape)
    batch = random_batch(shape, 9, 2)
    ((words, body),) = split_blocks(encode(compiled, batch).queue)
    assert words[7] == 0
    assert len(body) == 64 + 2 * 192
    assert (
        gather(compiled, encode(compiled, batch))[0].keys() == golden_sums(compiled, batch).keys()
    )
