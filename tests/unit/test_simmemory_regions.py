import numpy as np
import pytest

from screc_sim.memory import DeviceMemory, Response, Timing


@pytest.fixture
def memory():
    memory = DeviceMemory()
    memory.add("low", 0x1000, np.arange(128, dtype=np.uint8))
    memory.add("out", 0x2000, np.zeros(128, np.uint8), writable=True)
    return memory


def test_reads_are_little_endian(memory):
    assert memory.read(0x1004, 4) == (0x07060504, Response.OKAY)


def test_data_ends_before_the_region_and_the_rest_is_zero():
    memory = DeviceMemory()
    memory.add("short", 0, np.full(3, 255, np.uint8), size=64)
    assert memory.read(0, 64) == (0xFFFFFF, Response.OKAY)
    assert memory.read(32, 32) == (0, Response.OKAY)


@pytest.mark.parametrize("address", [0xFFF, 0x1080, 0x107D, 0x9000, 0])
def test_reads_outside_are_recorded(memory, address):
    assert memory.read(address, 4) == (0, Response.DECERR)
    assert memory.errors == [f"read of 4 bytes at {address:#x} is in no region"]


def test_writes_take_the_strobe(memory):
    assert memory.write(0x2000, 0xFFFFFFFF, 0b0101, 4) is Response.OKAY
    assert memory.read(0x2000, 4)[0] == 0x00FF00FF


def test_the_device_cannot_write_a_read_only_region(memory):
    assert memory.write(0x1000, 1, 0b1111, 4) is Response.DECERR
    assert memory.errors == ["write of 4 bytes at 0x1000 is in 'low', read-only"]
    assert memory.read(0x1000, 1)[0] == 0


def test_an_injected_fault_answers_slverr_and_is_no_error(memory):
    memory.fail(0x1040)
    assert memory.read(0x1040, 64)[1] is Response.SLVERR
    assert memory.read(0x1000, 64)[1] is Response.OKAY
    memory.fail(0x2010, 4)
    assert memory.write(0x2000, 1, -1 & 0xFFFFFFFF, 32) is Response.SLVERR
    assert memory.errors == []
    assert memory.regions[1].data.sum() == 0


def test_a_shared_file_receives_writes_and_another_does_not(tmp_path):
    for name in ("shared", "private"):
        (tmp_path / name).write_bytes(bytes(64))
    memory = DeviceMemory()
    memory.add_file("shared", 0, tmp_path / "shared", writable=True, shared=True)
    memory.add_file("private", 64, tmp_path / "private", writable=True)
    for address in (0, 64):
        memory.write(address, 0x5A, 1, 64)
        assert memory.read(address, 1)[0] == 0x5A
    del memory
    assert (tmp_path / "shared").read_bytes()[0] == 0x5A
    assert (tmp_path / "private").read_bytes()[0] == 0


def test_an_empty_file_is_a_region_of_zeros(tmp_path):
    (tmp_path / "empty").touch()
    memory = DeviceMemory()
    memory.add_file("empty", 0, tmp_path / "empty", size=64)
    assert memory.read(0, 64) == (0, Response.OKAY)


def test_the_host_may_place_bytes_anywhere(memory):
    memory.place(0x1000, b"\x09\x08")
    assert memory.read(0x1000, 2)[0] == 0x0809
    with pytest.raises(ValueError, match="no region holds the 4 bytes at 0x107e"):
        memory.place(0x107E, bytes(4))


@pytest.mark.parametrize("base", [0x0FFF, 0x1000, 0x107F, 0x0F81])
def test_regions_must_not_overlap(memory, base):
    with pytest.raises(ValueError, match="overlaps 'low'"):
        memory.add("again", base, np.zeros(128, np.uint8))


def test_timing_is_checked():
    with pytest.raises(ValueError, match="latency must be at least 1"):
        Timing(latency=0)
    with pytest.raises(ValueError, match="stall must lie in"):
        Timing(stall=1.0)
