import numpy as np

from screc_hw.protocol import STATUS_MAGIC, StatusBit
from screc_sim.golden.quant import GoldenResult
from screc_sim.memory import Timing
from screc_sim.vectors import (
    BlockResult,
    Fault,
    Job,
    Mismatch,
    Placement,
    RegionSpec,
    Start,
    check_status,
    compare_records,
    expected_records,
    read_block,
)


def golden():
    return GoldenResult(
        logit=np.array([-5, 2**31 - 1], np.int32),
        code=np.array([-32768, 7], np.int16),
        probability=np.array([65535, 1], np.uint16),
    )


def test_expected_records_hold_signed_fields():
    records = expected_records(golden())
    assert [hex(int(word)) for word in records] == ["0x8000fffffffffffb", "0x700017fffffff"]


def test_equal_records_match():
    records = expected_records(golden())
    assert compare_records(records.copy(), records) == (0, [])


def test_a_difference_names_sample_field_and_both_values():
    expected = expected_records(golden())
    got = expected.copy()
    got[0] ^= np.uint64(1)
    got[1] ^= np.uint64(1 << 33)
    assert compare_records(got, expected) == (
        2,
        [Mismatch(0, "logit", -6, -5), Mismatch(1, "probability", 3, 1)],
    )


def test_missing_records_count():
    expected = expected_records(golden())
    assert compare_records(expected[:1], expected) == (1, [])


def test_the_list_of_differences_is_bounded():
    expected = np.zeros(100, np.uint64)
    count, first = compare_records(np.ones(100, np.uint64), expected, limit=3)
    assert (count, len(first)) == (100, 3)


def test_a_block_is_read_at_its_offset(tmp_path):
    raw = np.zeros(64, "<u4")
    raw[16:20] = [STATUS_MAGIC, 3, 0, 2]
    raw[32:36] = [1, 0, 2, 0]
    (tmp_path / "result.bin").write_bytes(raw.tobytes())
    block = read_block(tmp_path / "result.bin", 1, 2)
    assert check_status(block, 3, 2) == []
    assert block.records.tolist() == [1, 2]


def test_a_wrong_status_is_told_word_by_word():
    block = BlockResult((STATUS_MAGIC, 1, int(StatusBit.CRC), 0) + (0,) * 12, np.zeros(0, "u8"))
    assert check_status(block, 1, 0) == ["block 1: status word STATUS is 0x8, not 0x0"]


def test_a_job_survives_the_disk(tmp_path):
    region = RegionSpec(name="rows", base=64, size=128, file="a.bin", writable=True)
    job = Job(
        ports={"host": (region,), "gmem0": ()},
        memory=1,
        compute=2,
        bases=(1 << 40,),
        result=64,
        starts=(
            Start(
                queue=0,
                size=64,
                place=(Placement(port="gmem0", address=1, file="b", offset=2, size=3),),
            ),
        ),
        timing=Timing(latency=3, stall=0.5, reorder=True),
        faults=(Fault(port="host", address=5),),
    )
    job.save(tmp_path)
    assert Job.load(tmp_path) == job
