"""From shares of all devices to ranges of ranks on each."""

import itertools

import numpy as np
import pytest

from screc.errors import PlanError
from screc.plan.catalogue import Pins
from screc.plan.check import measure
from screc.plan.decision import Decision
from screc.plan.place import place
from screc.plan.schema import Stripe
from screc.plan.units import STRIPES, Unit, UnitCosts
from tests.plan.support import problem_of

PINS = Pins(memory=2, compute=1, rows=8, columns=8, slots=2, weights="onchip", pool_beats=1)


def devices_of(count, rows=(600, 500, 400), *, pins=PINS, **more):
    more.setdefault("demands", {name: {"replicate": False} for name in "abcdefgh"[: len(rows)]})
    return problem_of(list(rows), count=count, pins=pins, **more)


def decided(problem, rows, *, count=None, whole=None):
    """All devices of the first pattern; ``rows[t]`` are ``(tier, first, last)``."""
    count = problem.classes[0].count if count is None else count
    shares = [[0.0] * len(problem.classes[0].patterns)]
    shares[0][0] = 1.0
    return Decision(
        patterns=[[0] * count],
        samples=shares,
        whole=whole or {},
        rows={t: [(0, *part) for part in parts] for t, parts in enumerate(rows)},
    )


def ranks_of(r):
    """Ranks of a range, one by one."""
    return [
        rank
        for rank in range(r.first, r.last)
        if r.stripe is None or (rank - r.first) % r.stripe.of in r.stripe.take
    ]


def holders(plan, name):
    """Devices by rank, and tiers by rank."""
    found = {}
    for number, device in enumerate(plan.devices):
        for table in device.tables:
            if table.table == name:
                for r in table.ranges:
                    for rank in ranks_of(r):
                        assert rank not in found or r.replicated
                        found[rank] = (number, r.tier)
    return found


def split_rows(problem):
    return [
        [("dram", 0, t.shape.rows // 3), ("ssd", t.shape.rows // 3, t.shape.rows)]
        for t in problem.tables
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_rank_is_on_one_device_in_its_tier(count):
    problem = devices_of(count)
    plan = place(problem, decided(problem, split_rows(problem)), 1e-5)
    measure(plan, problem)  # the checker finds every rank once, and everything fits
    assert len(plan.devices) == count
    for table in problem.tables:
        found = holders(plan, table.shape.name)
        assert sorted(found) == list(range(table.shape.rows))
        hot = [rank for rank, (_, tier) in found.items() if tier == "dram"]
        # on one device whole groups of a rank per memory core
        assert table.shape.rows // 3 - 2 < len(hot) <= table.shape.rows // 3
        assert sorted(hot) == list(range(len(hot)))
    assert sum(device.samples for device in plan.devices) == pytest.approx(1)


def test_loads_of_equal_devices_are_near_each_other():
    problem = devices_of(4, (900, 800, 700, 600), pooling=[6.0, 4.0, 2.0, 1.0])
    plan = place(
        problem, decided(problem, [[("dram", 0, t.shape.rows)] for t in problem.tables]), 1e-6
    )
    lookups = np.zeros(4)
    for t in problem.tables:
        rates = np.repeat(t.rates.rates, t.rates.widths)
        for rank, (device, _) in holders(plan, t.shape.name).items():
            lookups[device] += rates[rank]
    assert lookups.sum() == pytest.approx(problem.lookups)
    assert lookups.max() < 2 * lookups.mean()


def test_without_split_a_table_is_on_one_device():
    problem = devices_of(2, split=False)
    plan = place(problem, decided(problem, split_rows(problem)), 1e-5)
    measure(plan, problem)
    for table in problem.tables:
        assert len({device for device, _ in holders(plan, table.shape.name).values()}) == 1


def test_replicated_tables_are_on_every_device():
    problem = devices_of(3, demands={"b": {"replicate": True}, "a": {}, "c": {}})
    rows = split_rows(problem)
    rows[1] = []
    plan = place(problem, decided(problem, rows, whole={1: "dram"}), 1e-5)
    measure(plan, problem)
    for device in plan.devices:
        (mine,) = (t for t in device.tables if t.table == "b")
        assert all(r.replicated for r in mine.ranges)
        assert sorted(rank for r in mine.ranges for rank in ranks_of(r)) == list(range(500))


def test_rows_that_fit_no_device_are_refused():
    problem = devices_of(2, (1000, 1000), dram_bytes=20_000)
    twice = [[("dram", 0, 1000), ("dram", 0, 1000)], [("dram", 0, 1000), ("dram", 0, 1000)]]
    with pytest.raises(PlanError, match="do not fit"):
        place(problem, decided(problem, twice), 1e-5)
    with pytest.raises(PlanError, match="no device"):
        place(problem, decided(problem, split_rows(problem), count=0), 1e-5)


def test_parts_of_a_unit_are_all_of_it():
    problem = devices_of(2)
    costs = UnitCosts(problem)
    unit = Unit(0, (("dram", 0, 250), ("ssd", 250, 600)))
    once = unit.parts()
    twice = [small for part in once for small in part.parts()]
    assert len(once) == STRIPES
    assert len({(u.of, u.residue) for u in twice}) == STRIPES**2
    for parts in (once, twice):
        for tier, sums in costs.sums(unit).items():
            got = np.sum([costs.sums(u).get(tier, (0.0,) * 4) for u in parts], axis=0)
            assert got == pytest.approx(sums)
    rates = np.repeat(problem.tables[0].rates.rates, problem.tables[0].rates.widths)
    for u in twice[:40]:
        rows, lookups, _, _ = costs.sums(u).get("ssd", (0.0,) * 4)
        mine = [rates[r] for r in range(250, 600) if r % u.of == u.residue]
        assert rows == len(mine)
        assert lookups == pytest.approx(sum(mine))


def test_stripes_count_from_the_ranges_first_rank():
    problem = devices_of(2)
    rows = [[("dram", 0, 201), ("ssd", 201, 600)], *split_rows(problem)[1:]]
    plan = place(problem, decided(problem, rows), 1e-5)
    for device, other in itertools.combinations(plan.devices, 2):
        for table in device.tables:
            for r in table.ranges:
                assert r.stripe is None or isinstance(r.stripe, Stripe)
                if r.stripe is not None:
                    assert max(r.stripe.take) < r.stripe.of
                    assert ranks_of(r), "an empty range"
        del other
    assert sorted(holders(plan, "a")) == list(range(600))
