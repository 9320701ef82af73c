"""Ranks of a device's share of a table, dealt out to its memory cores."""

import dataclasses

import numpy as np
import pytest

from screc.plan.place import stripe_over_cores
from screc.plan.rates import RateCurve
from screc.plan.schema import Range, Stripe
from screc.plan.solve import solve
from tests.plan.configured import configured

KEYS = [(1, (0,)), (4, (1, 2)), (16, (0, 2, 3, 9)), (16, tuple(range(16)))]


def ranks(r):
    """Ranks of a range, ascending."""
    stripe = r.stripe or Stripe(of=1, take=(0,))
    return [i for i in range(r.first, r.last) if (i - r.first) % stripe.of in stripe.take]


@pytest.mark.parametrize("shift", [0, 1, 5])
@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize(("of", "take"), KEYS)
def test_the_next_core_takes_the_next_rank(of, take, cores, shift):
    whole = Range(tier="dram", first=3, last=250, stripe=Stripe(of=of, take=take))
    owner = {rank: r.core for r in stripe_over_cores(whole, cores, shift) for rank in ranks(r)}
    assert sorted(owner) == ranks(whole)
    turns = [owner[rank] for rank in ranks(whole)]
    assert turns == [(i - shift) % cores for i in range(len(turns))]


def test_cores_of_several_devices_are_loaded_alike(tmp_path):
    """The hottest ranks of a device's share must not all go to its first core."""
    made = configured(tmp_path, "device.0.count=2", "plan.cores.memory=4")
    weight = np.arange(1, 1001) ** -0.5
    curve = RateCurve.from_counts(weight / weight.sum() * 1e4, 1, 1000, 0.0)
    a = dataclasses.replace(made.tables[0], rates=curve, replicate=False)
    plan = solve(dataclasses.replace(made, tables=[a, made.tables[1]]))
    assert len(plan.devices) == 2
    each = np.repeat(curve.rates, curve.widths)
    loads = [
        sum(each[ranks(r)].sum() for r in table.ranges if r.core == core)
        for device in plan.devices
        for table in device.tables
        if table.table == "a"
        for core in range(4)
    ]
    assert sum(loads) == pytest.approx(1e4)
    assert max(loads) < 1.15 * np.mean(loads)
