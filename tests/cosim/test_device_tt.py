"""Rows in tensor-train form beside exact ones, in one bag: a whole device against golden."""

import dataclasses

import numpy as np
import pytest

from screc.compile.blocks import load_block
from screc_hw.protocol import BEAT_BYTES, TT_TABLE_WORDS, Header, LoadTarget
from tests.cosim.device_case import CONCAT, DOT, compile_case
from tests.cosim.test_device import CALM, ROUGH, check_exact
from tests.support.samples import random_batch
from tests.support.tt import tt_part

pytestmark = pytest.mark.cosim

SIMULATORS = ["verilator", pytest.param("icarus", marks=pytest.mark.slow)]
ONE = {"rows": 4, "columns": 8}
TWO = {**ONE, "memory": 2, "onchip_beats": 64}


def every_tier(folder):
    """Rows on chip, in TT form, in DRAM and on SSD, over two memory cores; means too."""
    part = tt_part(40, 402, 8, rank=6, pins=3)
    return compile_case(folder, DOT, dram_share=0.7, tt={0: part}, **TWO)


def rebuilt(run):
    """Lookups of rows in TT form, by table."""
    return np.array([block.tt_lookups for block in run.workload.blocks]).sum(axis=0)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_every_tier_adds_up_in_one_bag(tmp_path, simulator):
    run = every_tier(tmp_path).run(simulator, 22, size=10, timing=ROUGH)
    check_exact(run)
    counts = rebuilt(run)
    assert counts[0] > 20
    assert counts[1] == 0
    assert sum(block.staged_rows for block in run.workload.blocks) > 0
    hits = sum(sum(block.tt_hits) for block in run.workload.blocks)
    assert 0 < hits < counts[0]


def test_wrong_tt_cores_are_caught(tmp_path):
    # the golden model gets another third core than the images hold
    case = every_tier(tmp_path)
    table = case.model.tables[0]
    rows = table.tt.rows
    third = rows.cores[2].copy()
    third[:, 0, 0] += np.where(third[:, 0, 0] > 0, -60, 60).astype(np.int8)
    other = dataclasses.replace(rows, cores=(*rows.cores[:2], third))
    changed = dataclasses.replace(table, tt=dataclasses.replace(table.tt, rows=other))
    case.model = dataclasses.replace(case.model, tables=(changed, *case.model.tables[1:]))
    run = case.run("verilator", 22, size=10)
    assert run.verdict.mismatches > 0


def test_rows_that_a_reconstructor_lacks_are_errors_of_its_memory_core(tmp_path):
    case = every_tier(tmp_path)
    queue = (tmp_path / "load.bin").read_bytes()
    at = find_block(queue, LoadTarget.TT_TABLES)
    words = np.frombuffer(queue, "<u8", TT_TABLE_WORDS, at + BEAT_BYTES).copy()
    words[0] = words[0] & ~np.uint64(0xFFFFFFFF) | np.uint64(100)  # of the 362 rows
    block = load_block(LoadTarget.TT_TABLES, words, **numbers(queue, at))
    (tmp_path / "load.bin").write_bytes(queue[:at] + block + queue[at + len(block) :])
    run = case.run("verilator", 22, size=10)
    part = case.encoder.layout.tables[0].tt
    order = case.model.tables[0].tt.order
    beyond = sum(
        int(np.count_nonzero((part.first + 100 <= ranks) & (ranks < part.last)))
        for feature, bags in zip(DOT.features, random_batch(DOT, 22, 11).bags, strict=True)
        if feature.table == 0 and (ranks := order.ranks(bags.ids)) is not None
    )
    counted = [core["range_errors"] for core in run.outcome["counters"]["memory"]]
    assert sum(counted) == beyond > 0
    assert all(counted)
    assert run.verdict.mismatches > 0


def find_block(queue, target):
    """Where the LOAD block of ``target`` begins."""
    at = 0
    while header(queue, at, Header.LOAD_TARGET) & 0xFF != target:
        at += header(queue, at, Header.BLOCK_BYTES)
    return at


def header(queue, at, word):
    return int.from_bytes(queue[at + 4 * word :][:4], "little")


def numbers(queue, at):
    return {
        "block_id": header(queue, at, Header.BLOCK_ID),
        "result_offset": header(queue, at, Header.RESULT_OFFSET),
    }


@pytest.mark.slow
@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_whole_tables_of_other_dimensions(tmp_path, simulator):
    parts = {
        0: tt_part(0, 120, 192, rank=9),
        1: tt_part(0, 300, 64, rank=1, pins=100),
        2: tt_part(0, 700, 16, rank=16, pins=2),
    }
    case = compile_case(tmp_path, CONCAT, tt=parts, tt_lanes=2, **ONE)
    run = case.run(simulator, 16, timing=CALM)
    check_exact(run)
    assert rebuilt(run).sum() == sum(block.lookups for block in run.workload.blocks)
    assert sum(block.row_beats for block in run.workload.blocks) == 0


@pytest.mark.slow
def test_lanes_and_memory_cores_do_not_change_a_bit(tmp_path):
    digests = set()
    for memory, lanes, pins in ((1, 1, 0), (2, 2, 5), (4, 1, 100)):
        folder = tmp_path / f"{memory}{lanes}{pins}"
        folder.mkdir()
        parts = {0: tt_part(16, 900, 8, pins=pins), 1: tt_part(8, 100, 8, pins=pins)}
        sizes = {**TWO, "memory": memory}
        run = compile_case(folder, DOT, tt=parts, tt_lanes=lanes, **sizes).run("verilator", 40)
        check_exact(run)
        digests.add(run.verdict.digest())
    assert len(digests) == 1
