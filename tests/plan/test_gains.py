"""What more of each resource buys, against a search of the problem with it."""

import dataclasses

import pytest

from screc.plan.catalogue import Pins
from screc.plan.gains import Gain, describe, what_more
from screc.plan.rebuild import rebuild
from screc.plan.solve import solve
from tests.plan.test_explain import problem


@pytest.fixture(scope="module")
def bound_by_ssd():
    asked = problem(
        [10_000_000, 3_000_000], dram_gib=0.2, ssd_kiops=20.0, pins=Pins(rows=16, columns=16)
    )
    return asked, solve(asked)


def by_name(gains):
    return {gain.resource: gain.gain for gain in gains}


def test_gains_are_those_of_whole_searches(bound_by_ssd):
    asked, plan = bound_by_ssd
    seen = []
    gains = what_more(asked, plan, progress=seen.append)
    assert [gain.gain for gain in gains] == sorted((g.gain for g in gains), reverse=True)
    assert len(seen) == len(gains) == 11
    found = by_name(gains)
    more = {
        "twice the SSD reads a second": rebuild(asked, 0, ssd_kiops=40.0),
        "1 GiB more DRAM": rebuild(asked, 0, dram_gib=1.2),
        "one more device": rebuild(asked, 0, count=2),
        "25 % more DSP": rebuild(asked, 0, dsp=1341 * 1.25),
    }
    for name, changed in more.items():
        true = plan.seconds / solve(changed).seconds - 1
        assert found[name] == pytest.approx(true, rel=0.05, abs=0.01), name
    assert found["twice the SSD reads a second"] > 0.9
    assert found["25 % more DSP"] == 0


def test_gains_at_a_rate_are_savings(bound_by_ssd):
    asked, plan = bound_by_ssd
    served = dataclasses.replace(asked, objective="devices", rate=0.5 / plan.seconds)
    found = by_name(what_more(served, plan))
    # half of the rate takes half a device; with twice the reads less, though not half of that,
    # since half the devices have half the DRAM too
    assert found["twice the SSD reads a second"] == pytest.approx(0.4, abs=0.1)
    assert min(found.values()) == 0


def test_gains_in_words():
    gains = [Gain("10 % more clock", "u50", 0.0712), Gain("25 % more DSP", "u50", 0.0)]
    assert describe(gains) == "10 % more clock (u50): +7.1%\n25 % more DSP (u50): nothing"
