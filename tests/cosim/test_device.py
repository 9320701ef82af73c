"""The whole device as emitted, on both simulators: bit-exact, whatever the memory's timing."""

import dataclasses
import struct

import pytest

from screc_hw.device.params import HostParams
from screc_hw.protocol import BEAT_BYTES, Header, Status, StatusBit
from screc_sim.memory import Timing
from screc_sim.vectors import Fault, read_block
from tests.cosim.device_case import CONCAT, DOT, compile_case

pytestmark = pytest.mark.cosim

# one device for most tests, so a port that stops is given up soon
SMALL = {"rows": 8, "columns": 8, "host": HostParams(read_timeout_cycles=400)}
MANY = {"rows": 4, "columns": 8, "memory": 2, "compute": 2}

CALM = Timing(latency=20)
ROUGH = Timing(latency=7, jitter=25, stall=0.3, reorder=True, seed=1)

SIMULATORS = pytest.mark.parametrize("simulator", ["verilator", "icarus"])


def check_exact(run):
    assert run.verdict.errors == ()
    assert run.verdict.first == ()
    assert run.verdict.mismatches == 0
    assert run.verdict.bit_exact
    assert run.verdict.samples == len(run.golden.logit)


@pytest.mark.parametrize(
    ("simulator", "timing"),
    [
        pytest.param("verilator", CALM, id="calm-verilator"),
        pytest.param("verilator", ROUGH, id="rough-verilator"),
        pytest.param("icarus", ROUGH, id="rough-icarus"),
        pytest.param("icarus", CALM, id="calm-icarus", marks=pytest.mark.slow),
    ],
)
def test_dot_is_bit_exact(tmp_path, simulator, timing):
    case = compile_case(tmp_path, DOT, **SMALL)
    check_exact(case.run(simulator, 27, size=10, timing=timing))


@pytest.mark.parametrize(
    ("simulator", "timing"),
    [
        pytest.param("verilator", CALM, id="calm-verilator", marks=pytest.mark.slow),
        pytest.param("verilator", ROUGH, id="rough-verilator"),
        pytest.param("icarus", ROUGH, id="rough-icarus"),
        pytest.param("icarus", CALM, id="calm-icarus", marks=pytest.mark.slow),
    ],
)
def test_many_cores_and_rows_from_ssd_are_bit_exact(tmp_path, simulator, timing):
    case = compile_case(tmp_path, CONCAT, dram_share=0.3, **MANY)
    run = case.run(simulator, 21, size=10, timing=timing)
    check_exact(run)
    assert sum(block.staged_rows for block in run.workload.blocks) > 0
    counters = run.outcome["counters"]
    assert all(core["lookups"] > 0 for core in counters["memory"])
    assert all(core["busy"] > 0 for core in counters["compute"])
    lookups = sum(block.lookups for block in run.workload.blocks)
    assert sum(core["lookups"] for core in counters["memory"]) == lookups


def test_a_small_staging_ring_takes_several_starts(tmp_path):
    case = compile_case(tmp_path, CONCAT, dram_share=0.3, staging_beats=220, **MANY)
    run = case.run("verilator", 24, size=4)
    assert len(run.workload.groups) > 1
    check_exact(run)


@pytest.mark.parametrize("samples", [1, 8, 9])
def test_blocks_of_any_size(tmp_path, samples):
    case = compile_case(tmp_path, DOT, **SMALL)
    check_exact(case.run("verilator", samples))


def test_two_devices_give_the_same_bits(tmp_path):
    runs = []
    for name, simulator, sizes, share in (
        ("one", "verilator", SMALL, 1.0),
        ("two", "icarus", MANY, 0.4),
    ):
        (tmp_path / name).mkdir()
        case = compile_case(tmp_path / name, DOT, dram_share=share, **sizes)
        runs.append(case.run(simulator, 20, size=20))
    assert runs[0].verdict.digest() == runs[1].verdict.digest()


# each in the simulator that the tests above build this device for
@pytest.mark.parametrize(
    ("shape", "simulator"),
    [pytest.param(DOT, "icarus", id="dot"), pytest.param(CONCAT, "verilator", id="concat")],
)
@pytest.mark.parametrize("latency", [20, pytest.param(64, marks=pytest.mark.slow), 200])
def test_a_single_sub_batch_takes_the_predicted_cycles(tmp_path, shape, simulator, latency):
    case = compile_case(tmp_path, shape, **MANY)
    samples = case.params.core.rows
    run = case.run(simulator, samples, timing=Timing(latency=latency))
    lookups = sum(block.lookups for block in run.workload.blocks) / samples
    predicted = case.params.predict(shape, samples, lookups=lookups, latency=latency)
    measured = run.outcome["starts"][-1]["cycles"]
    assert predicted.total == pytest.approx(measured, rel=0.15)


# --- what goes wrong -----------------------------------------------------------------------------
def edit_block(words, *, block):
    """Return a change of the job: header words of RUN block ``block``, checksum kept as it was."""

    def change(folder, job):
        path = folder / "queue.bin"
        queue = bytearray(path.read_bytes())
        at = job.starts[1].queue - job.starts[0].queue
        for _ in range(block):
            at += struct.unpack_from("<I", queue, at + 4 * Header.BLOCK_BYTES)[0]
        for word, value in words.items():
            struct.pack_into("<I", queue, at + 4 * word, value)
        path.write_bytes(queue)
        return job

    return change


@SIMULATORS
def test_a_wrong_checksum_ends_the_queue_with_its_status(tmp_path, simulator):
    case = compile_case(tmp_path, DOT, **SMALL)
    run = case.run(simulator, 24, size=8, change=edit_block({Header.CHECKSUM: 0}, block=1))
    last = run.outcome["starts"][-1]
    assert last["finished"]
    assert last["done"]
    assert last["status"] == StatusBit.CHECKSUM
    # the block before it is right, nothing is written for itself and the one behind
    job = tmp_path / "job0"
    first, second, third = (
        read_block(job / "result.bin", offset, 8) for offset in run.workload.offsets
    )
    assert first.status == 0
    assert second.words[Status.MAGIC] == third.words[Status.MAGIC] == 0
    assert all(one.sample >= 8 for one in run.verdict.first)
    assert not run.verdict.bit_exact


def test_ranks_out_of_range_are_counted_and_never_read(tmp_path):
    case = compile_case(tmp_path, DOT, **SMALL)

    def change(folder, job):
        path = folder / "sections0.bin"
        records = bytearray(path.read_bytes())
        for at in (0, 8, 16):
            struct.pack_into("<I", records, at, 0xFFFF_FFF0)
        path.write_bytes(records)
        return job

    run = case.run("verilator", 16, size=8, change=change)
    assert run.outcome["counters"]["memory"][0]["range_errors"] == 3
    assert run.outcome["access_errors"] == run.outcome["protocol_errors"] == []
    assert run.outcome["starts"][-1]["status"] == 0
    assert run.verdict.errors == ("memory core 0 counted 3 lookups out of range",)
    # samples whose records are whole are right
    assert all(one.sample < 3 for one in run.verdict.first)


@pytest.mark.parametrize(
    ("simulator", "port"),
    # where lookups are lost, a slot's words may never have been written: X in Icarus
    [("verilator", "host"), ("icarus", "host"), ("verilator", "gmem0")],
)
def test_a_read_error_ends_in_a_status_and_not_in_a_hang(tmp_path, simulator, port):
    case = compile_case(tmp_path, DOT, **SMALL)

    def change(folder, job):
        queue = job.starts[1].queue + 3 * BEAT_BYTES
        address = (
            queue if port == "host" else job.bases[0] + case.encoder.layout.cores[0].lookup_offset
        )
        return type(job)(**{**vars(job), "faults": (Fault(port=port, address=address),)})

    run = case.run(simulator, 16, size=8, change=change)
    last = run.outcome["starts"][-1]
    assert last["finished"]
    assert last["status"] & StatusBit.AXI_READ
    assert not run.verdict.bit_exact


@pytest.mark.parametrize("what", ["rows", "records"])
@pytest.mark.parametrize("recovers", [True, False])
def test_a_memory_port_that_stops_ends_its_block_not_the_device(tmp_path, what, recovers):
    delay = 3_000 if recovers else 10_000_000
    case = compile_case(tmp_path, DOT, **SMALL)
    records = case.encoder.layout.cores[0].lookup_offset

    def change(folder, job):
        first, length = (records, 1) if what == "records" else (0, records)
        fault = Fault(port="gmem0", address=job.bases[0] + first, length=length, delay=delay)
        load, run = job.starts
        again = dataclasses.replace(run, wait=delay if recovers else 100)
        return dataclasses.replace(job, faults=(fault,), starts=(load, run, again))

    run = case.run("verilator", 16, size=16, change=change)
    first, second = run.outcome["starts"][1:]
    failed = StatusBit.AXI_READ | StatusBit.TIMEOUT | StatusBit.RESET_NEEDED
    assert first["finished"]
    assert first["status"] == failed
    assert first["cycles"] < 400 + 3_000
    if recovers:
        assert second["status"] == 0
        assert run.verdict.mismatches == 0
        assert run.verdict.samples == 16
    else:
        assert second["finished"]
        assert second["status"] == failed
        assert second["cycles"] < 3_000


def test_a_write_error_is_in_the_status(tmp_path):
    case = compile_case(tmp_path, DOT, **SMALL)

    def change(folder, job):
        address = job.result + (case_offset(job) + 1) * BEAT_BYTES
        return type(job)(**{**vars(job), "faults": (Fault(port="host", address=address),)})

    def case_offset(job):
        return 8  # one beat per LOAD block of a device with one memory core

    run = case.run("verilator", 16, size=8, change=change)
    assert run.workload.offsets[0] == 8
    assert run.outcome["starts"][-1]["status"] == StatusBit.AXI_WRITE
    assert run.verdict.results[0].status == StatusBit.AXI_WRITE
    assert run.verdict.results[1].status == 0
