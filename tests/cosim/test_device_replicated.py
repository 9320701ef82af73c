"""Tables that every memory core holds a copy of, beside a striped one, through the whole device."""

import dataclasses

import numpy as np
import pytest

from screc_hw.protocol import LOOKUP_FIELDS
from screc_sim.memory import Timing
from tests.cosim.device_case import MIXED, compile_case
from tests.cosim.test_device import ROUGH, check_exact
from tests.cosim.test_device_tiers import TIERS

pytestmark = pytest.mark.cosim

ROWS = (100, 1, 3, 700)
SHAPE = dataclasses.replace(
    MIXED,
    tables=tuple(dataclasses.replace(t, rows=n) for t, n in zip(MIXED.tables, ROWS, strict=True)),
)
"""As MIXED, so that its devices do for it; the last table is striped."""

COPIES = {0: (31, 93), 1: (1, 1), 2: (1, 3)}
"""Of the tables of 100, 1 and 3 rows: rows on chip, and on the device at all."""

IN_DRAM = COPIES | {1: (0, 1)}
SIZES = {2: TIERS, 4: TIERS | {"memory": 4}}


@pytest.mark.parametrize(
    ("memory", "simulator", "copies"),
    [
        (2, "verilator", COPIES),
        (2, "icarus", IN_DRAM),
        # a device of its own, which takes minutes to write and build
        pytest.param(4, "verilator", COPIES, marks=pytest.mark.slow),
        pytest.param(4, "icarus", IN_DRAM, marks=pytest.mark.slow),
    ],
)
def test_copies_are_bit_exact_and_level_the_cores(tmp_path, memory, simulator, copies):
    case = compile_case(
        tmp_path, SHAPE, dram_share=0.9, onchip_share=0.3, replicated=copies, **SIZES[memory]
    )
    run = case.run(simulator, 10, size=5, timing=ROUGH)
    check_exact(run)
    blocks = run.workload.blocks
    assert sum(block.staged_rows for block in blocks) > 0
    lookups = [core["lookups"] for core in run.outcome["counters"]["memory"]]
    assert sum(lookups) == sum(block.lookups for block in blocks)
    # rows are of one or two beats, and a block's of a core differ by a row from another core's;
    # by so many beats of lookup records too
    records = [sum(len(block.sections[i]) // 64 for block in blocks) for i in range(memory)]
    beats = [core["beats"] for core in run.outcome["counters"]["memory"]]
    assert np.ptp(np.subtract(beats, records)) <= 2 * len(blocks)


def test_copies_do_not_change_a_bit(tmp_path):
    digests = set()
    for name, copies in (("striped", {}), ("copies", COPIES)):
        (tmp_path / name).mkdir()
        case = compile_case(tmp_path / name, SHAPE, dram_share=0.9, replicated=copies, **TIERS)
        run = case.run("verilator", 20)
        check_exact(run)
        digests.add(run.verdict.digest())
    assert len(digests) == 1


def test_ranks_out_of_range_of_a_copy_are_never_read(tmp_path):
    case = compile_case(tmp_path, SHAPE, dram_share=0.9, replicated=COPIES, **TIERS)
    # the first rank that is not on the device, by feature
    ends = np.array([COPIES[f.table][1] for f in SHAPE.features if f.table in COPIES])
    changed = []

    def change(folder, job):
        path = folder / "sections1.bin"
        records = np.frombuffer(path.read_bytes(), "<u8").copy()
        feature, staged = (
            records >> low & ((1 << bits) - 1)
            for low, bits in (LOOKUP_FIELDS[name] for name in ("feature", "staged"))
        )
        mine = np.flatnonzero((feature < len(ends)) & (staged == 0) & (records != 0))
        records[mine] = records[mine] >> 32 << 32 | ends[feature[mine].astype(int)].astype("<u8")
        path.write_bytes(records.tobytes())
        changed.append(len(mine))
        return job

    run = case.run("verilator", 16, change=change)
    assert changed[0] > 20
    assert run.outcome["counters"]["memory"][1]["range_errors"] == changed[0]
    assert run.outcome["access_errors"] == run.outcome["protocol_errors"] == []
    assert run.verdict.errors == (f"memory core 1 counted {changed[0]} lookups out of range",)


@pytest.mark.parametrize("memory", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("latency", [20, 100])
def test_cycles_are_as_predicted(tmp_path, memory, latency):
    # bags so long that memory cores are the limit: a striped table of 3 rows would load one of them
    length = 16 * memory
    features = tuple(dataclasses.replace(f, pooling=length) for f in SHAPE.features)
    shape = dataclasses.replace(SHAPE, features=features)
    copies = {0: (0, 100), 1: (0, 1), 2: (0, 3)}
    case = compile_case(tmp_path, shape, replicated=copies, **SIZES[memory])
    samples = 64
    run = case.run("verilator", samples, longest=2 * length, timing=Timing(latency=latency))
    check_exact(run)
    lookups = sum(block.lookups for block in run.workload.blocks) / samples
    predicted = case.params.predict(
        shape, samples, lookups=lookups, latency=latency, replicated=copies
    )
    assert predicted.bottleneck == "gather"
    measured = run.outcome["starts"][-1]["cycles"]
    assert predicted.total == pytest.approx(measured, rel=0.1)
