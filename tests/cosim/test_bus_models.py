"""The bus models against a small AXI master, on both simulators."""

import json

import pytest

from screc_hw.emit import emit_systemverilog
from screc_sim import runner
from tests.cosim.copier import BURST, BYTES, Copier
from tests.cosim.support import CACHE, needs

pytestmark = pytest.mark.cosim

BURSTS = 20


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return emit_systemverilog(Copier(), name="copier", folder=tmp_path_factory.mktemp("copier"))


@pytest.fixture(params=runner.SIMULATORS)
def copy(request, sources, tmp_path):
    """Return a function that runs the copier with a timing and gives its result."""
    needs(request.param)
    build = runner.build(request.param, sources, "copier", cache=CACHE)

    def run(faults=(), bursts=BURSTS, **changes):
        case = {
            "seed": 7,
            "bursts": bursts,
            "size": bursts * BURST * BYTES,
            "source": 0x1_0000_0000,
            "extra": 0x2_0000_0000,
            "destination": 0xFFFF_FFFF_0000_0000,
            "timing": changes.pop("timing", {}),
            "faults": list(faults),
            **changes,
        }
        result = tmp_path / "result.json"
        environment = {"COPIER_CASE": json.dumps(case), "COPIER_RESULT": str(result)}
        runner.run(build, tmp_path / "run", "tests.cosim.copier_tb", environment=environment)
        return json.loads(result.read_text())

    return run


def check_copied(result, bursts=BURSTS):
    assert result["copied"]
    assert result["sum"] == result["expected_sum"]
    assert result["beats"] == [2 * bursts * BURST, bursts * BURST]
    assert result["faults"] == result["memory_errors"] == []
    assert result["device_errors"] == 0


TIMINGS = [
    {"latency": 1},
    {"latency": 3, "stall": 0.5, "seed": 2},
    {"latency": 9, "jitter": 40, "stall": 0.2, "reorder": True, "seed": 3},
]
PLAINER = [{"latency": 40}, {"latency": 20, "jitter": 30, "seed": 1}]


@pytest.mark.parametrize(
    "timing",
    [*TIMINGS, *(pytest.param(timing, marks=pytest.mark.slow) for timing in PLAINER)],
    ids=lambda timing: "-".join(f"{k}{v}" for k, v in timing.items()),
)
def test_data_arrives_whole_and_in_order(copy, timing):
    check_copied(copy(timing=timing))


def test_one_beat_per_cycle(copy):
    latency = 30
    result = copy(timing={"latency": latency}, bursts=60)
    check_copied(result, bursts=60)
    # reads are the bottleneck: 2 × 60 × 8 beats, then the last burst is written and answered
    assert result["cycles"] <= 2 * 60 * BURST + 2 * latency + 2 * BURST + 20


def test_both_simulators_and_seeds_are_repeatable(copy):
    timing = {"latency": 9, "jitter": 40, "stall": 0.3, "reorder": True, "seed": 5}
    runs = [copy(timing=timing)["cycles"] for _ in range(2)]
    assert runs[0] == runs[1] == 475  # measured; the same in both


def test_a_fault_reaches_the_device(copy):
    result = copy(faults=[0x1_0000_0000 + 5 * BYTES, 0xFFFF_FFFF_0000_0000])
    # one read beat, and the write burst of 8 beats that holds the address
    assert result["device_errors"] == 2
    assert result["memory_errors"] == []


def test_addresses_outside_of_memory_are_recorded(copy):
    result = copy(extra=0x2_0000_0000, size=BURSTS * BURST * BYTES - BYTES)
    assert len(result["memory_errors"]) == 3
    assert "read of 64 bytes" in result["memory_errors"][0]
    assert result["device_errors"] == 3


def test_a_burst_across_4_kib_is_a_fault(copy):
    result = copy(source=0x1_0000_0040)
    assert len(result["faults"]) == BURSTS * BURST * BYTES // 4096
    assert "cross a boundary of 4096 bytes" in result["faults"][0]
