"""A block that fails early: its late partials must not meet the next start's."""

import dataclasses

import numpy as np
import pytest

from screc_hw.protocol import BEAT_BYTES, StatusBit
from screc_sim.memory import Timing
from screc_sim.vectors import (
    Fault,
    Start,
    check_status,
    compare_records,
    expected_records,
    read_block,
)
from tests.cosim.device_case import DOT, compile_case

pytestmark = pytest.mark.cosim

SAMPLES = 96
SLOW = Timing(latency=600)
"""Far slower than the results of a block whose bags are empty."""

HEADER_BEATS = 2
"""A RUN block's header and section table."""


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1, 2])
def test_partials_of_a_failed_block_do_not_meet_the_next_start(tmp_path, memory):
    case = compile_case(tmp_path, DOT, rows=8, columns=8, memory=memory, outstanding=16)

    def change(folder, job):
        """Fail the bags of the block; then start a copy of it, where no read fails."""
        load, bad = job.starts
        path = folder / "queue.bin"
        queue = path.read_bytes()
        path.write_bytes(queue + queue[-bad.size :])
        ports = dict(job.ports)
        ports["host"] = tuple(
            dataclasses.replace(region, size=region.size + bad.size)
            if region.name == "queue"
            else region
            for region in ports["host"]
        )
        fault = Fault(port="host", address=bad.queue + HEADER_BEATS * BEAT_BYTES)
        again = Start(queue=bad.queue + bad.size, size=bad.size)
        return dataclasses.replace(job, ports=ports, faults=(fault,), starts=(load, bad, again))

    run = case.run("verilator", SAMPLES, timing=SLOW, change=change)
    _, bad, again = run.outcome["starts"]
    assert bad["finished"]
    assert bad["status"] == StatusBit.AXI_READ
    lookups = sum(len(section) for section in run.workload.blocks[0].sections) // 8
    assert lookups > 8 * 16 * memory, "rows enough to come late"
    assert again["finished"]
    assert again["status"] == 0
    (block,), (offset,) = run.workload.blocks, run.workload.offsets
    got = read_block(tmp_path / "job0" / "result.bin", offset, SAMPLES)
    assert check_status(got, block.block_id, SAMPLES) == []
    assert compare_records(got.records, expected_records(run.golden)) == (0, [])
    assert np.unique(got.records).size > SAMPLES // 2
