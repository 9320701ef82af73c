"""The core's rate and latency against ``MemoryCoreParams.cycles`` and ``fill``."""

import pytest

from screc_hw.memory.params import MemoryCoreParams
from tests.support.gather import Bench, Table, run

RATE_TOLERANCE = 0.03  # on the cycles between a short and a long section, fill cancelled
TOTAL_TOLERANCE = 0.10  # fill overlaps the first records' beats


def measure(*, dim, lanes, pooling, lookups, latency, port_bits=512, outstanding=64, int4=False):
    params = MemoryCoreParams(
        port_bits=port_bits,
        lanes=lanes,
        outstanding=outstanding,
        max_features=1,
        max_slices=dim // lanes,
        rows=8,
        slots=2,
    )
    bench = Bench(params, [Table(dim, last=64, int4=int4)])
    records = [
        (i // pooling, 0, i * 7 % 64, False, i % pooling == pooling - 1) for i in range(lookups)
    ]
    bench.section(records, samples=lookups // pooling)
    outcome = run(bench, latency=latency, settle=10)
    row_bytes = dim // 2 if int4 else dim
    cycles = params.cycles(
        lookups=lookups,
        slices=dim / lanes,
        row_beats=-(-row_bytes // params.beat_bytes),
        latency=latency,
    )
    return outcome, cycles, params.fill(latency=latency)


QUICK = [
    {"dim": 16, "lanes": 16, "pooling": 1, "latency": 50},
    {"dim": 64, "lanes": 64, "pooling": 20, "latency": 50},
    {"dim": 128, "lanes": 64, "pooling": 80, "latency": 50},
    {"dim": 128, "lanes": 64, "pooling": 20, "latency": 50, "int4": True},  # slices rule
    {"dim": 16, "lanes": 16, "pooling": 20, "latency": 50, "port_bits": 128},
    {"dim": 64, "lanes": 64, "pooling": 1, "latency": 100, "outstanding": 32},  # flight rules
]
OTHERS = [
    {"dim": 16, "lanes": 16, "pooling": 20, "latency": 50},
    {"dim": 64, "lanes": 64, "pooling": 1, "latency": 50},
    {"dim": 64, "lanes": 64, "pooling": 80, "latency": 50},
    {"dim": 128, "lanes": 64, "pooling": 1, "latency": 50},
    {"dim": 64, "lanes": 32, "pooling": 20, "latency": 50, "port_bits": 256},
    {"dim": 192, "lanes": 64, "pooling": 1, "latency": 100, "outstanding": 32},
]


@pytest.mark.parametrize(
    "shape",
    [*QUICK, *(pytest.param(shape, marks=pytest.mark.slow) for shape in OTHERS)],
    ids=lambda shape: "-".join(str(value) for value in shape.values()),
)
def test_rate_is_what_cycles_says(shape):
    short, short_cycles, _ = measure(lookups=160, **shape)
    long, long_cycles, fill = measure(lookups=480, **shape)
    rate = (long.cycles - short.cycles) / (long_cycles - short_cycles)
    assert rate == pytest.approx(1, abs=RATE_TOLERANCE)
    assert long.cycles / (long_cycles + fill) == pytest.approx(1, abs=TOTAL_TOLERANCE)
    assert long.slave.most_rows <= shape.get("outstanding", 64)


@pytest.mark.parametrize("pooling", [1, 20])
def test_port_is_busy_in_every_cycle_at_line_rate(pooling):
    outcome, _, _ = measure(dim=64, lanes=64, pooling=pooling, lookups=640, latency=50)
    middle = [cycle for cycle in outcome.slave.beats if 250 <= cycle < 650]
    assert len(middle) == 400


@pytest.mark.parametrize("latency", [1, 10, 50, 120])
def test_first_slice_comes_after_fill(latency):
    outcome, _, fill = measure(dim=64, lanes=64, pooling=1, lookups=16, latency=latency)
    assert outcome.first == fill
