"""Whole tables on devices: local search, tiers of each device, and what they give together."""

import itertools

import numpy as np
import pytest

from screc.errors import PlanError
from screc.plan.catalogue import Pins
from screc.plan.check import check, measure
from screc.plan.costs import BYTES, TIMES
from screc.plan.exchange import Balance, exchanged, greedy
from screc.plan.place import place
from screc.plan.retier import NAMES, Retier, Room
from screc.plan.solve import solve
from screc.plan.units import Unit, UnitCosts
from tests.plan.support import problem_of
from tests.plan.test_place import decided, devices_of

PINS = Pins(memory=1, compute=1, rows=8, columns=8, slots=2, weights="onchip", pool_beats=1)


# --- local search ---


def balance_of(generator, items, devices):
    """A random search over one time and one memory."""
    loads = generator.uniform(0.01, 0.3, (items, 2))
    room = np.full((devices, 2), loads.sum(0) / devices)
    return Balance(
        loads=loads,
        room=room,
        used=np.zeros((devices, 2)),
        timed=np.array([True, False]),
        level=np.ones(devices),
        centre=np.ones((devices, 2)),
        prices=np.tile([0.8, 0.4], (devices, 1)),
        curved=np.array([0.0, 0.5]),
    )


def worst(balance, owner):
    """The largest level, device by device."""
    found = []
    for device in range(len(balance.room)):
        load = balance.loads[owner == device].sum(0)
        time, memory = load / balance.room[device]
        priced = 1 + 0.8 * (time - 1) + 0.4 * (memory - 1) + 0.5 * (memory - 1) ** 2
        found.append(max(priced, time))
    return max(found)


@pytest.mark.parametrize("seed", range(20))
def test_local_search_leaves_no_step_that_helps(seed):
    generator = np.random.default_rng(seed)
    balance = balance_of(generator, 12, 3)
    first = greedy(balance, np.argsort(-balance.loads.sum(1)))
    owner = exchanged(balance, first)
    before, after = worst(balance, first), worst(balance, owner)
    assert after <= before + 1e-12
    for item, device in itertools.product(range(12), range(3)):
        moved = owner.copy()
        moved[item] = device
        assert worst(balance, moved) >= after * (1 - 1e-6)
    for one, other in itertools.combinations(range(12), 2):
        swapped = owner.copy()
        swapped[[one, other]] = owner[[other, one]]
        assert worst(balance, swapped) >= after * (1 - 1e-6)


def test_local_search_is_near_the_best_of_all():
    generator = np.random.default_rng(3)
    balance = balance_of(generator, 9, 2)
    owner = exchanged(balance, greedy(balance, np.arange(9)))
    best = min(worst(balance, np.array(o)) for o in itertools.product(range(2), repeat=9))
    assert worst(balance, owner) <= 1.05 * best


# --- tiers of a device ---


def room_of(problem, *, dram, seconds=1e-3):
    """All of a device, with so many bytes of DRAM."""
    pattern = problem.classes[0].patterns[0]
    capacity = [pattern.capacity[n] * (seconds if n in TIMES else 1.0) for n in NAMES]
    capacity[NAMES.index("dram_bytes")] = dram
    return Room(np.maximum(capacity, 1e-300), np.zeros(len(NAMES)))


def level_of(problem, segments, room):
    """Largest relative load of these tiers, table by table, or None if they do not fit."""
    rated = UnitCosts(problem)
    sums = np.zeros(len(NAMES))
    for t, own in segments.items():
        loads = rated.loads(0, None, Unit(t, tuple(own)))
        sums += [loads.get(name, 0.0) for name in NAMES]
    relative = sums / room.capacity
    timed = np.array([name in TIMES for name in NAMES])
    return None if (relative[~timed] > 1 + 1e-9).any() else relative[timed].max()


@pytest.mark.parametrize("share", [0.25, 0.6, 0.9])
def test_no_split_by_hand_is_faster_than_the_chosen_tiers(share):
    rows, stride = (300, 200), 64
    problem = problem_of(list(rows), pooling=[20.0, 5.0], pins=PINS, onchip_beats=0)
    room = room_of(problem, dram=share * sum(rows) * stride * 1.2)
    chosen = Retier(problem, frozenset())(np.ones(2), room)
    ours = level_of(problem, chosen.tiers, room)
    assert ours == pytest.approx(chosen.level, rel=0.01)
    tried = 0
    for a, b in itertools.product(range(0, 301, 10), range(0, 201, 10)):
        cut = {0: a, 1: b}
        segments = {
            t: [s for s in (("dram", 0, cut[t]), ("ssd", cut[t], n)) if s[1] < s[2]]
            for t, n in enumerate(rows)
        }
        level = level_of(problem, segments, room)
        if level is not None:
            tried += 1
            assert ours <= level * (1 + 2e-3)
    assert tried > 50


def test_a_level_that_is_given_is_kept_with_the_least_energy():
    problem = problem_of([300, 200], pooling=[20.0, 5.0], pins=PINS)
    room = room_of(problem, dram=20_000)
    retier = Retier(problem, frozenset())
    fastest = retier(np.ones(2), room)
    relaxed = retier(np.ones(2), room, level=3 * fastest.level)
    assert level_of(problem, relaxed.tiers, room) <= 3 * fastest.level * 1.01


def test_intervals_are_refined_around_the_splits(monkeypatch):
    monkeypatch.setattr("screc.plan.retier.PARTS", 12)
    problem = problem_of([3000, 2000], pooling=[20.0, 5.0], pins=PINS)
    room = room_of(problem, dram=50_000)
    retier = Retier(problem, frozenset())
    first = found = retier(np.ones(2), room)
    assert first.coarse
    while retier.refine([found]):
        found = retier(np.ones(2), room, level=found.level * (1 + 1e-6))
    assert not found.coarse
    assert found.level <= first.level * (1 + 1e-5)
    divided = level_of(problem, found.tiers, room)
    assert divided <= found.level * (1 + 1e-3)


def test_rows_that_do_not_fit_are_refused():
    problem = problem_of([300], pins=PINS, demands={"a": {"ssd": False}})
    with pytest.raises(PlanError, match="do not fit"):
        Retier(problem, frozenset())(np.ones(1), room_of(problem, dram=1000))


def test_prices_say_how_the_level_changes():
    problem = problem_of([3000, 2000], pooling=[20.0, 5.0], pins=PINS)
    retier = Retier(problem, frozenset())
    memory = NAMES.index("dram_bytes")
    room = room_of(problem, dram=50_000)
    there = retier(np.ones(2), room)
    more = np.zeros(len(NAMES))
    more[memory] = 0.01 * room.capacity[memory]
    after = retier(np.ones(2), Room(room.capacity, room.used + more))
    assert there.prices[memory] > 0
    assert after.level - there.level == pytest.approx(0.01 * there.prices[memory], rel=0.2)
    timed = np.array([name in TIMES for name in NAMES])
    assert there.prices[timed].sum() == pytest.approx(1)
    assert set(NAMES) == {*TIMES, *BYTES}


# --- together ---


def in_dram(problem):
    return decided(problem, [[("dram", 0, t.shape.rows)] for t in problem.tables])


EIGHT = (900, 500, 400, 300, 200, 150, 100, 50)


def test_tables_stay_whole_unless_no_device_carries_them(monkeypatch):
    monkeypatch.setattr("screc.plan.whole.CUT_WORK", 0)
    problem = devices_of(3, EIGHT, pooling=[1.0] * 8)
    plan = place(problem, in_dram(problem), 1e-5, whole=True)
    held = [table.table for device in plan.devices for table in device.tables]
    assert sorted(held) == sorted(set(held))
    giant = devices_of(3, (900, 50, 40), pooling=[60.0, 1.0, 1.0])
    cut = place(giant, in_dram(giant), 1e-7, whole=True)
    holders = [d for d in cut.devices if any(t.table == "a" for t in d.tables)]
    assert len(holders) in (2, 3)
    measure(cut, giant)  # raises unless every rank is somewhere, once


def test_more_parts_are_taken_where_that_is_faster(monkeypatch):
    problem = devices_of(3, (900, 800), pooling=[40.0, 40.0])
    seconds = {}
    for work in (0, 2_000):
        monkeypatch.setattr("screc.plan.whole.CUT_WORK", work)
        plan = place(problem, in_dram(problem), 1e-7, whole=True)
        seconds[work] = measure(plan, problem).seconds
    assert seconds[2_000] < 0.95 * seconds[0]


def test_a_giant_table_that_may_not_be_cut_stays_whole():
    problem = devices_of(3, (900, 50, 40), pooling=[60.0, 1.0, 1.0], split=False)
    plan = place(problem, in_dram(problem), 1e-5, whole=True)
    measure(plan, problem)
    held = [table.table for device in plan.devices for table in device.tables]
    assert sorted(held) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(4))
def test_plans_of_many_tables_are_near_their_bound(seed):
    generator = np.random.default_rng(seed)
    rows = [int(n) for n in generator.integers(2_000, 60_000, 8)]
    pooling = [float(p) for p in generator.uniform(1, 12, 8)]
    problem = problem_of(
        rows,
        pooling=pooling,
        count=3,
        pins=PINS,
        dram_bytes=int(sum(rows) * 64 * 0.25),
        demands={name: {"replicate": False} for name in "abcdefgh"},
    )
    plan = solve(problem)
    check(plan, problem)
    assert plan.gap <= 0.03
