"""Rows in tensor-train form beside exact ones, in one bag: a whole device against golden."""

import dataclasses

import numpy as np
import pytest

from tests.cosim.device_case import CONCAT, DOT, compile_case
from tests.cosim.test_device import CALM, ROUGH, check_exact
from tests.support.tt import tt_part

pytestmark = pytest.mark.cosim

SIMULATORS = ["verilator", pytest.param("icarus", marks=pytest.mark.slow)]
ONE = {"rows": 4, "columns": 8}
TWO = {**ONE, "memory": 2, "onchip_beats": 64}


def rebuilt(run):
    return np.array([block.tt_lookups for block in run.workload.blocks]).sum(axis=0)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_every_tier_adds_up_in_one_bag(tmp_path, simulator):
    # on chip, in TT form, in DRAM and on SSD, over two memory cores; means too
    part = tt_part(40, 402, 8, rank=6, pins=3)
    case = compile_case(tmp_path, DOT, dram_share=0.7, tt={0: part}, **TWO)
    run = case.run(simulator, 22, size=10, timing=ROUGH)
    check_exact(run)
    counts = rebuilt(run)
    assert counts[0] > 20
    assert counts[1] == 0
    assert sum(block.staged_rows for block in run.workload.blocks) > 0
    hits = sum(sum(block.tt_hits) for block in run.workload.blocks)
    assert 0 < hits < counts[0]


@pytest.mark.parametrize("simulator", SIMULATORS)
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


def test_wrong_tt_cores_are_caught(tmp_path):
    # what the images hold is not what the golden model has: one number of the third core
    part = tt_part(0, 900, 8)
    case = compile_case(tmp_path, DOT, tt={0: part}, **ONE)
    tables = list(case.model.tables)
    rows = tables[0].tt.rows
    third = rows.cores[2].copy()
    third[:, 0, 0] += np.where(third[:, 0, 0] > 0, -60, 60).astype(np.int8)
    other = dataclasses.replace(rows, cores=(*rows.cores[:2], third))
    tables[0] = dataclasses.replace(tables[0], tt=dataclasses.replace(tables[0].tt, rows=other))
    case.model = dataclasses.replace(case.model, tables=tuple(tables))
    run = case.run("verilator", 22, size=10)
    assert run.verdict.mismatches > 0
