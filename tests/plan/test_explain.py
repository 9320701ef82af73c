"""Amounts that are named where there is no plan: enough together, and each of them needed."""

import dataclasses
import random

import numpy as np
import pytest

from screc.devices import DeviceConfig, resolve_device
from screc.errors import PlanError, PlanErrorKind
from screc.plan.budget import Budget
from screc.plan.catalogue import Pins
from screc.plan.explain import _Explainer, explain, with_needs
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.rebuild import rebuild, with_patterns
from screc.plan.solve import solve
from screc_hw.model import FeatureShape, ModelShape, TableShape

LOWERED = 0.98


def shape(tables, dim=64, wide=64):
    """A model; how many rows its tables have is the problem's."""
    return ModelShape(
        name="m",
        dense=4,
        bottom=(wide, dim),
        top=(wide, 1),
        interaction="dot",
        tables=tuple(
            TableShape(name=f"t{i}", rows=1000, dim=dim, format="int8") for i in range(tables)
        ),
        features=tuple(FeatureShape(name=f"f{i}", table=i, pooling=8.0) for i in range(tables)),
    )


def zipf(rows, lookups, exponent, pieces=24):
    """Rates of ranks that fall by a power law; many ranks are as hot as the first."""
    edges = np.unique(np.append(np.geomspace(64, rows, pieces).astype(np.int64), [0, rows]))
    middle = (edges[:-1] + edges[1:]) / 2
    rates = middle**-exponent
    return RateCurve(edges, rates * lookups / (rates @ np.diff(edges)))


def problem(rows, *, devices=1, pins=None, wide=64, exponent=0.9, lookups=8.0, demand=None, **more):
    """Tables of ``rows`` rows on SmartSSDs with a pattern or two; ``more`` figures and limits."""
    figures = {
        name: more.pop(name) for name in list(more) if name in DeviceConfig.model_fields
    }
    model = shape(len(rows), wide=wide)
    tables = [
        TableDemand(
            shape=dataclasses.replace(table, rows=n),
            rates=zipf(n, lookups, exponent),
            **{"onchip": False} | (demand or {}),
        )
        for table, n in zip(model.tables, rows, strict=True)
    ]
    budget = Budget(resolve_device(DeviceConfig(kind="smartssd", **figures)))
    pins = pins or Pins(memory=2, compute=1, rows=16, columns=16, slots=2, weights="onchip")
    klass = DeviceClass(budget, devices, (), pins=pins)
    made = Problem(
        shape=model, compute_shape=model, tables=tables, classes=(klass,), batch=256, **more
    )
    return dataclasses.replace(made, classes=(with_patterns(made, 0),))


def holds(asked, **changes):
    """Whether there is a plan, by the pooled model, placed and checked."""
    return _Explainer(asked, "highs").planned(dataclasses.replace(asked, **changes))


def assert_tight(asked):
    """The amounts suffice together; with any of them lowered there is no plan. Returns the error."""
    error = explain(asked)
    assert error.needs, error
    assert not holds(asked), error
    assert holds(with_needs(asked, error.needs)), error
    for lowered in error.needs:
        factor = 1 / LOWERED if lowered.field == "rate" else LOWERED
        others = [need for need in error.needs if need is not lowered]
        less = dataclasses.replace(lowered, need=lowered.need * factor)
        assert not holds(with_needs(asked, [*others, less])), (less, error)
    return error


def fields(error):
    return {need.field for need in error.needs}


# --- random problems without a plan ---


def rows_of(rng, low, high):
    return [int(10 ** rng.uniform(low, high)) for _ in range(rng.randint(1, 6))]


def no_room(rng):
    return problem(
        rows_of(rng, 7.4, 8.2), devices=rng.randint(1, 2), demand={"ssd": False}, dram_gib=1.0
    )


def small_ssd(rng):
    return problem(
        rows_of(rng, 7.4, 8.2),
        devices=rng.randint(1, 4),
        dram_gib=rng.uniform(0.3, 1.0),
        ssd_gib=rng.uniform(0.2, 1.0),
        ssd_kiops=400,
    )


def at_rate(rng, factor, **figures):
    """Asks for ``factor`` times the rate of the figures."""
    base = problem(
        rows_of(rng, 6.5, 7.6),
        devices=rng.choice((1, 1, 2, 4)),
        exponent=rng.uniform(0.5, 1.1),
        objective=rng.choice(("energy", "devices")),
        rate=1.0,
        **{"dram_gib": rng.uniform(0.05, 0.4), "ssd_kiops": 400.0, **figures},
    )
    plan = solve(dataclasses.replace(base, objective="throughput", rate=None))
    return dataclasses.replace(base, rate=factor / plan.seconds)


def slow_ssd(rng):
    return at_rate(rng, rng.uniform(1.3, 2.5), ssd_kiops=rng.uniform(5, 50))


def slow_p2p(rng):
    return at_rate(rng, rng.uniform(1.3, 2.5), ssd_kiops=4000.0, p2p_gbs=rng.uniform(0.05, 0.3))


def slow_memory(rng):
    return at_rate(
        rng,
        rng.uniform(1.3, 2.5),
        dram_gib=16.0,
        **dict.fromkeys(
            ("random_64_gbs", "random_128_gbs", "random_256_gbs", "random_512_gbs"),
            rng.uniform(0.2, 1.0),
        ),
    )


def slow_link(rng):
    return at_rate(rng, rng.uniform(1.3, 2.5), dram_gib=16.0, pcie_gbs=rng.uniform(0.02, 0.1))


def slow_compute(rng):
    return at_rate(
        rng, rng.uniform(1.2, 2.0), dram_gib=16.0, wide=512, lookups=2.0, ssd_kiops=None
    )


def slow_batch(rng):
    return problem(
        rows_of(rng, 5.5, 6.8),
        devices=rng.choice((1, 2)),
        max_latency=10 ** rng.uniform(-6, -4.5),
        ssd_kiops=400,
    )


def pinned_to_ssd(rng):
    return problem(
        rows_of(rng, 6.0, 7.5),
        devices=rng.choice((1, 2)),
        demand={"dram": False},
        objective="energy",
        rate=10 ** rng.uniform(2, 3.5),
    )


def pinned_on_chip(rng):
    return problem(
        [rng.randint(60_000, 200_000)],
        demand={"onchip": True, "dram": False, "ssd": False},
        pins=Pins(memory=1, compute=1, rows=16, columns=16, slots=2, weights="onchip"),
    )


def few_dsp(rng):
    free = Pins(memory=1, compute=1, slots=2, weights="onchip")
    return at_rate(
        rng,
        rng.uniform(1.2, 2.0),
        dram_gib=16.0,
        pins=free,
        wide=rng.choice((128, 256)),
        lookups=1.0,
        dsp=rng.randint(200, 600),
        demand={"onchip": rng.random() < 0.3},
    )


def mixed_tiers(rng):
    """Tables with tiers of their own, an SSD that is slow, and a rate."""
    made = at_rate(rng, rng.uniform(1.2, 2.0), ssd_kiops=rng.uniform(5, 50), ssd_gib=4.0)
    tables = [
        dataclasses.replace(t, dram=tier != "ssd", ssd=tier != "dram", onchip=tier == "any")
        for t in made.tables
        for tier in [rng.choice(("dram", "ssd", "any"))]
    ]
    larger = dataclasses.replace(made, tables=tables)
    chip = dataclasses.replace(larger.classes[0], onchip_beats=None)
    larger = dataclasses.replace(larger, classes=(chip,))
    return dataclasses.replace(larger, classes=(with_patterns(larger, 0),))


def two_classes(rng):
    """SmartSSDs beside a U50, without SSD."""
    made = problem(rows_of(rng, 7.6, 8.3), devices=2, demand={"ssd": False}, dram_gib=1.0)
    budget = Budget(resolve_device(DeviceConfig(kind="u50", dram_gib=0.5)))
    other = dataclasses.replace(made.classes[0], budget=budget, count=1)
    both = dataclasses.replace(made, classes=(made.classes[0], other))
    return dataclasses.replace(both, classes=(made.classes[0], with_patterns(both, 1)))


CAUSES = (
    no_room,
    small_ssd,
    slow_ssd,
    slow_p2p,
    slow_memory,
    slow_link,
    slow_compute,
    slow_batch,
    pinned_to_ssd,
    pinned_on_chip,
    few_dsp,
    mixed_tiers,
    two_classes,
)


def assert_logic_is_tight(rng):
    """Of cores that do not fit, the figures that are named are enough and needed."""
    rows = [1000] * rng.randint(1, 6)
    pins = Pins(
        memory=rng.choice((1, 2, 4)),
        compute=rng.choice((1, 2)),
        rows=rng.choice((16, 32, 64)),
        columns=rng.choice((16, 32, 64)),
    )
    small = {"lut": rng.randint(20_000, 60_000), "dsp": rng.randint(50, 300)}
    if rng.random() < 0.5:
        small["bram36"] = rng.randint(10, 60)
    with pytest.raises(PlanError) as caught:
        problem(rows, pins=pins, **small)
    needs = {need.field: int(need.need) for need in caught.value.needs}

    def made(**figures):
        return problem(rows, pins=pins, **small | figures)

    assert made(**needs)
    for name, value in needs.items():
        with pytest.raises(PlanError):
            made(**needs | {name: int(value * LOWERED)})


def check_case(number):
    rng = random.Random(number)
    if number % (len(CAUSES) + 1) == len(CAUSES):
        return assert_logic_is_tight(rng)
    return assert_tight(CAUSES[number % (len(CAUSES) + 1)](rng))


@pytest.mark.parametrize("number", range(14))
def test_named_amounts_are_enough_and_needed(number):
    check_case(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14, 200))
def test_named_amounts_are_enough_and_needed_at_length(number):
    check_case(number)
