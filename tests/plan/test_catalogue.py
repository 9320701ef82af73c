"""Core patterns: what fits, what each can do, and that none is missing or for nothing."""

import itertools

import numpy as np
import pytest

from screc.errors import ConfigError, PlanError, PlanErrorKind
from screc.plan.budget import GIB, RESOURCES
from screc.plan.catalogue import (
    COMPUTE,
    MEMORY,
    OUTSTANDING,
    Catalogue,
    Pins,
    deepest,
    enumerate_patterns,
    excess,
    fits,
    flight_cycles,
    frontier,
)
from screc.plan.catalogue import _Cores as Cores
from tests.plan.support import SMALL_PINS, budget_of, shape_of

SHAPE = shape_of([4000, 500], top=(16, 1))
SIDE = {"rows": 8, "columns": 8, "slots": 2, "weights": "onchip"}


def catalogue(shape=SHAPE, batch=64):
    return Catalogue(shape, shape, batch)


def merits(pattern):
    """What more of is better."""
    return [
        *pattern.capacity.values(),
        -pattern.sample_beats,
        -pattern.weight_bytes,
        -pattern.latency if pattern.compute else 0.0,
        pattern.tt is not None,
    ]


@pytest.mark.parametrize("memory", [0, 1, 3])
@pytest.mark.parametrize("depth", [0, 64])
@pytest.mark.parametrize("channels", [1, 2])
def test_capacities_are_those_of_the_document(memory, depth, channels):
    budget = budget_of(clock_mhz=200, channels=channels, pcie_gbs=3, p2p_gbs=2, ssd_kiops=300)
    pool_beats = 2 if memory and depth else 1
    made = catalogue().make(
        budget,
        memory=memory,
        compute=1,
        onchip_beats=depth if memory else 0,
        pool_beats=pool_beats,
    )
    clock = memory * 200e6
    wanted = {
        "lookups": clock,
        "port": clock or 200e6,  # one of its own, without memory cores
        "lane": clock,
        "flight": clock,
        "fast": clock if depth else 0.0,
        "pool": clock * pool_beats,
        "tt": 0.0,
        "dram": min(channels, max(memory, 1)),
        "iops": 300e3 if memory else 0.0,
        "p2p": 2e9 if memory else 0.0,
        "link_in": 3e9 * 0.85,
        "link_out": 3e9 * 0.85,
        "onchip_bytes": memory * depth * 64,
        "ssd_bytes": budget.ssd_bytes if memory else 0,
    }
    for name, value in wanted.items():
        assert made.capacity[name] == pytest.approx(value), name
    assert made.capacity["samples"] > 0
    assert made.latency > 0


def test_a_memory_only_device_computes_nothing():
    made = catalogue().make(budget_of(), memory=2, compute=0)
    assert made.capacity["samples"] == 0
    assert made.capacity["dram_bytes"] == int(4 * GIB)
    assert made.name == "m2_c0"
    with pytest.raises(ValueError, match="not built yet"):
        made.params()


def test_more_compute_cores_are_faster_and_larger():
    made = [catalogue().make(budget_of(), memory=1, compute=c) for c in COMPUTE]
    rates = [each.capacity["samples"] for each in made]
    assert rates == sorted(rates)
    for name in ("lut", "dsp"):
        used = [each.used[name] for each in made]
        assert used == sorted(used)
        assert used[0] < used[-1]


def test_flight_cycles_are_those_of_the_document():
    for beats in (1, 2, 3, 5, 64, 100):
        spare = OUTSTANDING % beats
        wanted = (64 + 9 + beats - spare) / max(1, OUTSTANDING // beats)
        assert flight_cycles(beats) == pytest.approx(wanted)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("onchip", [0, 5000])
def test_patterns_are_all_that_no_other_one_beats(alone, onchip):
    budget = budget_of(bram36=90, uram=6)
    chosen = catalogue()
    found = enumerate_patterns(chosen, budget, Pins(**SIDE), alone=alone, onchip_beats=onchip)
    assert len({p.name for p in found}) == len(found)
    table = np.array([merits(p) for p in found])
    for i, row in enumerate(table):
        better = (table >= row).all(axis=1)
        better[i] = False
        assert not better.any(), found[i].name
    for p in found:
        assert not excess(p, budget)
        assert p.memory or p.compute
        assert not alone or (p.memory and p.compute)
    # every combination of cores that fits is beaten by one that was found, or is it
    counts = itertools.product(
        MEMORY if alone else (0, *MEMORY), COMPUTE if alone else (0, *COMPUTE), (1, 2)
    )
    seen = 0
    for memory, compute, pool_beats in counts:
        if not (memory or compute) or memory > 4 * budget.channels:
            continue
        for depth in (0, 64) if memory and onchip else (0,):
            if pool_beats == 2 and not depth:
                continue
            made = chosen.make(
                budget,
                memory=memory,
                compute=compute,
                slots=2,
                onchip_beats=depth,
                pool_beats=pool_beats,
            )
            if not excess(made, budget):
                seen += 1
                least = np.array(merits(made))
                assert (table >= least - 1e-12 * abs(least)).all(axis=1).any(), made.name
    assert seen > 3


def test_the_frontier_is_that_of_all_pairs():
    budget = budget_of()
    chosen = catalogue()
    patterns = [
        chosen.make(budget, memory=m, compute=c, rows=rows, columns=columns, slots=slots)
        for m, c, rows, columns, slots in itertools.product((1, 2), (1, 2), (2, 8), (8, 16), (2, 4))
    ]
    for used in (False, True):
        kept = frontier(patterns, used=used)
        rows = [
            merits(p) + ([-p.used[name] for name in RESOURCES] if used else []) for p in patterns
        ]
        for i, row in enumerate(rows):
            beaten = [
                j
                for j, other in enumerate(rows)
                if j != i and all(a >= b for a, b in zip(other, row, strict=True))
            ]
            if i in kept:
                # of equals one is kept
                assert all(rows[j] == row and j not in kept for j in beaten)
            else:
                assert beaten
    assert frontier([]) == []


@pytest.mark.parametrize("kind", ["smartssd", "u50", "u250"])
@pytest.mark.parametrize("uram", [0, 4, 40, 150])
@pytest.mark.parametrize("bram36", [60, 300])
def test_the_deepest_memory_is_the_deepest_that_fits(kind, uram, bram36):
    budget = budget_of(kind, uram=uram, bram36=bram36)
    chosen, cores = catalogue(), Cores(4 if kind == "u250" else 2, 1)
    if not fits(cores.at(chosen, budget, 0), budget):
        assert deepest(cores, chosen, budget, 1 << 20) is None
        return
    found = deepest(cores, chosen, budget, 1 << 20)
    depth = found.gather.onchip_beats
    assert fits(found, budget)
    steps = [d for d in (64, 512, 1024, 2048) if d > depth]
    steps += [d for d in range(4096, depth + 3 * 4096, 4096) if d > depth]
    for more in steps:
        assert not fits(cores.at(chosen, budget, more), budget), more
    # no more than there are rows for
    assert deepest(cores, chosen, budget, 64).gather.onchip_beats in (0, 64)
    assert deepest(cores, chosen, budget, 0).gather.onchip_beats == 0


@pytest.mark.parametrize(
    ("pins", "fields"),
    [
        ({"memory": 2}, {"memory": 2}),
        ({"compute": 2}, {"compute": 2}),
        ({"memory": 0}, {"memory": 0}),
    ],
)
def test_pins_hold(pins, fields):
    found = enumerate_patterns(
        catalogue(), budget_of(), Pins(**SIDE | pins), alone=False, onchip_beats=0
    )
    assert found
    for pattern in found:
        for name, value in fields.items():
            assert getattr(pattern, name) == value


def test_on_chip_rows_may_be_forbidden():
    found = enumerate_patterns(
        catalogue(), budget_of(), Pins(**SIDE, onchip=False), alone=True, onchip_beats=10_000
    )
    assert all(not p.gather.onchip_beats for p in found)


@pytest.mark.parametrize(
    ("pins", "device", "kind", "message"),
    [
        (Pins(rows=64, columns=64), {}, "dsp", r"need [\d,]+ dsp; smartssd allows 1,072"),
        (SMALL_PINS, {"lut": 5000}, "lut", "lut; smartssd allows 3,500"),
        (SMALL_PINS, {"ff": 5000}, "ff", "ff; smartssd allows 2,500"),
        (SMALL_PINS, {"bram36": 1}, "bram36", "bram36; smartssd allows 0"),
    ],
    ids=["dsp", "lut", "ff", "bram36"],
)
def test_what_fits_no_device_names_the_scarce_resource(pins, device, kind, message):
    with pytest.raises(PlanError, match=message) as caught:
        enumerate_patterns(catalogue(), budget_of(**device), pins, alone=True, onchip_beats=0)
    assert caught.value.kind is PlanErrorKind(kind)
    assert caught.value.hints


def test_a_model_that_cannot_be_pooled_is_refused():
    shape = shape_of([10], dim=[6])
    with pytest.raises(ConfigError, match="multiples of 4"):
        Catalogue(shape, shape, 16)
