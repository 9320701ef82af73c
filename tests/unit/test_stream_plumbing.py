import random

import pytest

from screc_hw.stream import DeepQueue, Queue, SkidBuffer
from tests.support.pysim import PATTERNS, collector, driver, simulate


@pytest.mark.parametrize("idle", PATTERNS)
@pytest.mark.parametrize("back", PATTERNS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: SkidBuffer(16),
        lambda: Queue(16, 2),
        lambda: Queue(16, 5),
        lambda: DeepQueue(16, 2),
        lambda: DeepQueue(16, 5),
    ],
)
def test_plumbing_keeps_order_and_loses_nothing(make, idle, back):
    rng = random.Random(1)
    items = [rng.randrange(1 << 16) for _ in range(100)]
    dut = make()
    seen = []
    simulate(
        dut,
        driver(dut.i, items, idle, 2),
        background=[collector(dut.o, seen, back, 3)],
        until=lambda: len(seen) >= len(items),
    )
    assert seen == items


@pytest.mark.parametrize(
    "make", [lambda: SkidBuffer(16), lambda: Queue(16, 4), lambda: DeepQueue(16, 4)]
)
def test_plumbing_moves_one_item_a_cycle(make):
    dut = make()
    seen = []
    spent = simulate(
        dut,
        driver(dut.i, range(200)),
        background=[collector(dut.o, seen)],
        until=lambda: len(seen) >= 200,
    )
    assert spent <= 204


def test_queue_refuses_depth_one():
    with pytest.raises(ValueError, match=r"^Queue depth must be at least 2, not 1$"):
        Queue(8, 1)
