"""Random requests, block sizes and memory timings on the emitted devices, for a bounded time."""

import random
import time

import pytest

from screc_hw.device.params import HostParams
from screc_sim.memory import Timing
from tests.cosim.device_case import CONCAT, DOT, compile_case
from tests.cosim.test_device import MANY, SMALL, check_exact

BUDGET_S = 240
"""Each soak starts no further run after this long, once it has made the fewest."""

RUNS = 20
FEWEST = 5


@pytest.mark.slow
@pytest.mark.cosim
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("shape", "sizes", "share"),
    # memory may be slower here than that device waits for
    [(DOT, {**SMALL, "host": HostParams()}, 1.0), (CONCAT, MANY, 0.3)],
    ids=["dot", "concat"],
)
def test_soak_is_bit_exact(tmp_path, shape, sizes, share):
    case = compile_case(tmp_path, shape, dram_share=share, staging_beats=1 << 14, **sizes)
    ends = time.monotonic() + BUDGET_S
    for seed in range(RUNS):
        if time.monotonic() > ends and seed >= FEWEST:
            break
        rng = random.Random(seed)
        timing = Timing(
            latency=rng.choice([1, 10, 60, 300]),
            jitter=rng.choice([0, 5, 100]),
            stall=rng.choice([0.0, 0.1, 0.6]),
            reorder=rng.random() < 0.5,
            seed=seed,
        )
        samples = rng.randint(1, 200)
        size = rng.randint(1, samples)
        print(f"run {seed}: {samples} samples in blocks of {size}, {timing}")
        check_exact(case.run("verilator", samples, size=size, seed=seed, timing=timing))
