"""Emitted memory cores behind cocotbext-axi: the same vectors on both simulators."""

from __future__ import annotations

import functools
import random

import pytest

from screc_hw.memory.params import MemoryCoreParams
from screc_sim import runner
from tests.cosim.channel_case import (
    LaneBench,
    Placed,
    Scenario,
    check,
    decode,
    expected_lanes,
    play,
)
from tests.support.gather import BASE, BOUNDARY, Span, Table

pytestmark = pytest.mark.cosim

OTHER_BASE = BASE + (1 << 33) + 5 * 16
"""Of the second core: another channel's range, and no multiple of 4 KiB."""

SILENCE = (150, 2500)
"""Long enough for the guard to give the port up; the records of a short section come before."""

PARAMS = {
    # every tier and format
    "tiers": MemoryCoreParams(
        port_bits=256,
        lanes=8,
        outstanding=24,
        max_features=8,
        max_slices=8,
        rows=4,
        slots=4,
        rowwise=True,
        onchip_beats=64,
        tt_fraction=4,
        pool_beats=2,
    ),
    # two cores on one channel, rows of three beats, buffers as small as may be
    "shared": MemoryCoreParams(
        port_bits=128, lanes=16, outstanding=3, max_features=4, max_slices=3, rows=4, slots=2
    ),
    # 4-bit rows that fill a slice with every beat
    "wide": MemoryCoreParams(
        port_bits=512, lanes=128, outstanding=2, max_features=4, max_slices=1, rows=4, slots=2
    ),
}


def bag(sample, feature, ranks, *, staged=False):
    """Records of one bag; the last is marked."""
    return [(sample, feature, rank, staged, i == len(ranks) - 1) for i, rank in enumerate(ranks)]


def some_records(bench, rng, bags, samples, *, wrong=0.0):
    """Random bags of 1 to 5 rows of all tiers; a share ``wrong`` of the records is bad."""
    records = []
    for _ in range(bags):
        sample, feature = rng.randrange(samples), rng.randrange(len(bench.tables))
        if rng.random() < wrong:
            sample, feature = rng.choice([(samples, feature), (65535, 0), (sample, 4095)])
        table = bench.tables[min(feature, len(bench.tables) - 1)]
        spans = [span for span in (table.span(), table.onchip, table.tt) if span]
        count = rng.randint(1, 5)
        ended = rng.random() >= wrong
        for i in range(count):
            staged = rng.random() < 0.2 and bench.ring > 0
            rank = rng.randrange(bench.ring) if staged else rng.choice(rng.choice(spans).ranks())
            if rng.random() < wrong:
                rank = rng.choice([0, bench.ring, table.last, (1 << 32) - 1])
            records.append((sample, feature, rank, staged, ended and i == count - 1))
    return records


def all_formats(seed):
    """Tables of every format in every tier."""
    tables = [
        Table(dim, first=40, last=64, int4=int4, rowwise=rowwise, stripe_log2=stripe, **tiers)
        for dim, int4, rowwise, stripe, tiers in [
            (64, False, False, 0, {"onchip": Span(0, 12)}),
            (64, True, False, 1, {"onchip": Span(3, 9), "tt": Span(64, 90)}),
            (64, False, True, 0, {"onchip": Span(0, 4), "tt": Span(64, 90, 1, 1)}),
            (64, True, True, 2, {"tt": Span(100, 110)}),
            (8, False, False, 0, {"onchip": Span(0, 20, 1)}),
            (16, True, True, 0, {"onchip": Span(1, 9)}),
            (40, False, True, 0, {}),
        ]
    ]
    return LaneBench(PARAMS["tiers"], tables, ring=9, seed=seed)


def traffic(kind, seed, *, bags=40, wrong=0.0):
    """Random sections for every core of a kind of channel."""
    rng = random.Random(f"{kind} {seed}")
    params = PARAMS[kind]
    if kind == "tiers":
        benches = [all_formats(seed)]
    elif kind == "shared":
        benches = [
            LaneBench(params, tables, ring=5, seed=seed + i)
            for i, tables in enumerate(
                [
                    [Table(48), Table(16), Table(16, int4=True)],
                    [Table(32, stripe_log2=1), Table(48, int4=True), Table(48, first=9, last=30)],
                ]
            )
        ]
    else:
        benches = [LaneBench(params, [Table(128), Table(128, int4=True)], ring=4, seed=seed)]
    for bench in benches:
        sequence = rng.choice([0, 65534])
        for _ in range(2):
            samples = rng.randint(3, 14)
            records = some_records(bench, rng, bags // 2, samples, wrong=wrong)
            bench.section(records, samples=samples, sequence=sequence)
            sequence += -(-samples // params.rows)
    return [Placed(bench, base) for bench, base in zip(benches, (BASE, OTHER_BASE), strict=False)]


def straddling():
    """Rows of three beats with a 4 KiB boundary before, within and behind them."""
    base = 2 * BOUNDARY - 32
    bench = LaneBench(PARAMS["shared"], [Table(48, last=180, base=base)])
    bench.section(
        [record for i in range(12) for record in bag(i % 4, 0, [0, 171, i, 172, 170])], samples=4
    )
    return bench


def nothing(kind, base):
    """A core that is asked for nothing."""
    return Placed(LaneBench(PARAMS[kind], [Table(16)]), base)


def short(kind):
    """Two sections' worth of bags whose records all come before anything else does."""
    bench = LaneBench(PARAMS[kind], [Table(48)])
    bench.section([r for i in range(10) for r in bag(i, 0, [i, 3, i + 1])], samples=10)
    return bench


@functools.cache
def scenarios(kind):
    """Scenarios by name; the traffic of a channel is the same on every simulator."""
    slow = {"latency": (10, 400), "ar_stall": 0.3, "r_gap": 0.3, "seed": 3}
    if kind == "tiers":
        return {
            "fast": Scenario(traffic(kind, 1, bags=60), latency=(1, 3)),
            "random latency": Scenario(traffic(kind, 2, wrong=0.15), **slow),
            "back-pressure": Scenario(
                traffic(kind, 3), latency=(5, 60), back=0.7, section_idle=0.8, admit_every=90
            ),
            "errors": Scenario(traffic(kind, 4), latency=(1, 40), errors=(7, 60, 61), r_gap=0.1),
        }
    if kind == "wide":
        # few bags: Icarus takes 0.2 s for a row of 128 lanes
        rough = {"latency": (1, 40), "ar_stall": 0.2, "r_gap": 0.2, "back": 0.3}
        return {"rough": Scenario(traffic(kind, 1, bags=14, wrong=0.1), **rough)}
    cores = traffic(kind, 5, wrong=0.1)
    return {
        "together": Scenario(cores, latency=(10, 60), ar_stall=0.2, r_gap=0.2, back=0.2, seed=8),
        "first alone": Scenario([cores[0], nothing(kind, OTHER_BASE)], latency=(1, 1)),
        "second alone": Scenario([nothing(kind, BASE), cores[1]], latency=(3, 30), reorder=False),
        "straddling": Scenario(
            [Placed(straddling()), nothing(kind, OTHER_BASE)], latency=(5, 25), r_gap=0.2
        ),
        "random latency": Scenario(traffic(kind, 6, bags=12), **slow),
        "silence": Scenario(
            [Placed(short(kind)), nothing(kind, OTHER_BASE)], latency=(20, 30), silence=SILENCE
        ),
    }


NAMES = {
    "tiers": ["fast", "random latency", "back-pressure", "errors"],
    "wide": ["rough"],
    "shared": ["together", "first alone", "second alone", "straddling", "random latency"],
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Return a function that plays a kind's scenarios, once per simulator."""

    @functools.cache
    def run(simulator, kind):
        folder = tmp_path_factory.mktemp(f"{kind}-{simulator}")
        return play(simulator, PARAMS[kind], scenarios(kind), folder)

    return run


BUILDS = [
    pytest.param(kind, simulator, marks=[pytest.mark.slow] if slow else [])
    for kind in PARAMS
    for simulator in runner.SIMULATORS
    # its build takes long, and the native bench has a 128-lane engine in Verilator too
    for slow in [kind == "wide" and simulator == "verilator"]
]


@pytest.mark.parametrize(("kind", "simulator"), BUILDS)
def test_partials_are_the_model_s_in_the_order_of_their_lanes(played, kind, simulator):
    outcomes = played(simulator, kind)
    for name in NAMES[kind]:
        print(name)
        check(scenarios(kind)[name], outcomes[name])


@pytest.mark.parametrize("kind", ["tiers", "shared", pytest.param("wide", marks=pytest.mark.slow)])
def test_both_simulators_give_the_same_partials_in_the_same_cycles(played, kind):
    first, second = (played(simulator, kind) for simulator in runner.SIMULATORS)
    for name in scenarios(kind):
        assert first[name].partials == second[name].partials
        assert first[name].requests == second[name].requests
        assert first[name].cycles == second[name].cycles
        if name in NAMES[kind]:
            scenario = scenarios(kind)[name]
            assert check(scenario, first[name]) == check(scenario, second[name])


@pytest.mark.parametrize("simulator", runner.SIMULATORS)
def test_the_smallest_fifo_is_filled_and_no_more(played, simulator):
    outcome = played(simulator, "shared")["together"]
    assert outcome.most[1] == outcome.most[3] == PARAMS["shared"].outstanding


@pytest.mark.parametrize("simulator", runner.SIMULATORS)
def test_rows_of_three_beats_that_straddle_4_kib_are_cut_there(played, simulator):
    outcome = played(simulator, "shared")["straddling"]
    rows = [(address, beats) for ident, address, beats in outcome.requests if ident == 1]
    first = BASE + 2 * BOUNDARY
    # row 0 has two beats before a boundary; row 171 one, and 170 and 172 lie beside it
    assert (first - 32, 2) in rows
    assert (first, 1) in rows
    second = first + 2 * BOUNDARY
    assert (second - 16, 1) in rows
    assert (second, 2) in rows
    assert (second - 64, 3) in rows
    assert (second + 32, 3) in rows
    assert outcome.faults == []


@pytest.mark.parametrize("simulator", runner.SIMULATORS)
def test_two_cores_on_a_channel_give_what_each_gives_alone(played, simulator):
    runs = played(simulator, "shared")
    together = runs["together"]
    assert together.partials[0] == runs["first alone"].partials[0] != []
    assert together.partials[1] == runs["second alone"].partials[1] != []
    assert {ident for ident, _, _ in together.requests} == {0, 1, 2, 3}


@pytest.mark.parametrize("simulator", runner.SIMULATORS)
def test_a_port_that_falls_silent_ends_its_bags_with_an_error(played, simulator):
    outcome = played(simulator, "shared")["silence"]
    (bench, _) = (placed.bench for placed in scenarios("shared")["silence"].cores)
    assert outcome.faults == []
    assert outcome.expired == 1
    assert 0 < outcome.owing <= SILENCE[1]
    assert outcome.owing_at_end == 0
    assert [counters["axi_error"] for counters in outcome.counters] == [1, 0]
    assert outcome.errors_cleared
    got = [decode(bench.params, raw) for raw in outcome.partials[0]]
    # every bag is there, with its count; only sums lack rows
    expected = expected_lanes(bench)["dram"]
    assert [partial[:-1] for partial in got] == [partial[:-1] for partial in expected]
    assert got != expected
    assert outcome.counters[0]["idle"] == 1


def rough(kind, seed):
    """Random traffic with random timing."""
    rng = random.Random(f"{seed} {kind}")
    low = rng.choice([1, 10, 100])
    print(f"seed {seed}")
    return Scenario(
        traffic(kind, seed, bags=rng.choice([6, 20]), wrong=rng.choice([0, 0.2])),
        latency=(low, rng.choice([low, low + 20, 400])),
        reorder=rng.random() < 0.8,
        ar_stall=rng.choice([0, 0.1, 0.8]),
        r_gap=rng.choice([0, 0.1, 0.8]),
        back=rng.choice([0, 0.1, 0.9]),
        section_idle=rng.choice([0, 0.95]),
        errors=(rng.randrange(6),) if kind == "tiers" and rng.random() < 0.3 else (),
        admit_every=rng.choice([None, 100]),
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", PARAMS)
def test_more_traffic(tmp_path, kind):
    some = {str(seed): rough(kind, seed) for seed in range(100, 104 if kind == "wide" else 120)}
    runs = []
    for simulator in runner.SIMULATORS:
        (tmp_path / simulator).mkdir()
        runs.append(play(simulator, PARAMS[kind], some, tmp_path / simulator))
    for name, scenario in some.items():
        assert check(scenario, runs[0][name]) == check(scenario, runs[1][name])
