"""Rows of every format in every tier at once: where they are does not change the results."""

import pytest

from screc_sim.memory import Timing
from tests.cosim.device_case import MIXED, compile_case
from tests.cosim.test_device import CALM, ROUGH, check_exact
from tests.support.samples import random_batch

pytestmark = pytest.mark.cosim

ONE = {"rows": 4, "columns": 8}
TIERS = {**ONE, "memory": 2, "onchip_beats": 512}
POOLS = {**TIERS, "pool_beats": 2}


@pytest.mark.parametrize("simulator", ["verilator", pytest.param("icarus", marks=pytest.mark.slow)])
def test_on_chip_dram_and_ssd_rows_add_up(tmp_path, simulator):
    case = compile_case(tmp_path, MIXED, dram_share=0.7, onchip_share=0.5, **TIERS)
    run = case.run(simulator, 22, size=10, timing=ROUGH)
    check_exact(run)
    assert sum(block.staged_rows for block in run.workload.blocks) > 0
    # the cores count every row's beats and the records'; those of rows on chip are not read
    lengths = [len(bags.ids) for bags in random_batch(MIXED, 22, 11).bags]
    tables = [MIXED.tables[feature.table] for feature in MIXED.features]
    rows = sum(n * table.row_beats(64) for n, table in zip(lengths, tables, strict=True))
    records = sum(len(part) // 64 for block in run.workload.blocks for part in block.sections)
    counted = sum(core["beats"] for core in run.outcome["counters"]["memory"])
    assert counted == rows + records
    assert 0.2 * rows < sum(block.row_beats for block in run.workload.blocks) < 0.8 * rows


@pytest.mark.slow
def test_tiers_and_pools_do_not_change_a_bit(tmp_path):
    digests = set()
    for name, sizes, resident, onchip in (
        ("dram", ONE, 1.0, 0.0),
        ("onchip", TIERS, 1.0, 1.0),
        ("pools", POOLS, 0.8, 0.4),
    ):
        (tmp_path / name).mkdir()
        case = compile_case(
            tmp_path / name, MIXED, dram_share=resident, onchip_share=onchip, **sizes
        )
        for timing in (CALM, Timing(latency=100, jitter=200, stall=0.2, reorder=True, seed=3)):
            run = case.run("verilator", 60, size=25, timing=timing)
            check_exact(run)
            digests.add(run.verdict.digest())
    assert len(digests) == 1
