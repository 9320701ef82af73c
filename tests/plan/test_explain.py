"""Amounts that are named where there is no plan: enough together, and each of them needed."""

import dataclasses
import random

import numpy as np
import pytest

from screc.devices import DeviceConfig, resolve_device
from screc.errors import PlanError, PlanErrorKind
from screc.plan.budget import Budget
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns
from screc.plan.explain import _Explainer, explain, with_needs
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.rebuild import rebuild, with_patterns
from screc.plan.solve import solve
from screc_hw.device.params import max_memory
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
    figures = {name: more.pop(name) for name in list(more) if name in DeviceConfig.model_fields}
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
    """The amounts suffice together, and with any of them lowered there is no plan."""
    error = explain(asked, alternatives=False)
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
    rows, devices = rows_of(rng, 7.4, 8.2), rng.randint(1, 4)
    each = sum(rows) * 64 / 2**30 / devices
    return problem(
        rows,
        devices=devices,
        dram_gib=each * rng.uniform(0.1, 0.5),
        ssd_gib=each * rng.uniform(0.1, 0.4),
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
    return at_rate(rng, rng.uniform(1.2, 2.0), dram_gib=16.0, wide=512, lookups=2.0, ssd_kiops=None)


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
    made = at_rate(rng, rng.uniform(1.2, 2.0), ssd_kiops=rng.uniform(5, 50), ssd_gib=64.0)
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


# --- what an error says ---


def test_error_lists_amounts_options_and_other_remedies():
    asked = problem([40_000_000], dram_gib=1.0)
    error = explain(asked)
    (need,) = error.needs
    assert (error.kind, need.resource, need.field) == (PlanErrorKind.DRAM, "smartssd", "dram_gib")
    rows = 40_000_000 * 64 / 2**30
    assert rows < need.need < rows * 1.02
    text = str(error)
    assert f"dram_gib of smartssd: have 1, need {need.need:.5g}" in text
    assert f"--set device.0.dram_gib={need.need:.10g}" in text
    assert "u50, u55c" in text
    assert f"rows in int4 take {rows / 2:.3g} GiB less" in text
    assert "rows on its SSD: set device.0.ssd_kiops" in text
    assert "or 3 smartssd: --set device.0.count=3" in text


def test_alternatives_do_what_they_say():
    asked = problem(
        [4_000_000, 4_000_000],
        dram_gib=0.2,
        ssd_kiops=20.0,
        objective="energy",
        rate=100_000.0,
    )
    options = dict(
        word.split("=")
        for hint in explain(asked).hints
        if hint.startswith("or")
        for word in hint.split()
        if word.startswith(("plan.", "device."))
    )
    rate = float(options["plan.rate"])
    assert holds(asked, rate=rate)
    assert not holds(asked, rate=rate * 1.02)
    count = int(options["device.0.count"])
    assert holds(rebuild(asked, 0, count=count))
    assert not holds(rebuild(asked, 0, count=count - 1))


def test_error_without_a_tier_names_the_ssd():
    error = explain(problem([100_000], demand={"dram": False}), alternatives=False)
    assert error.kind is PlanErrorKind.SSD
    assert fields(error) == {"ssd_kiops"}
    assert error.needs[0].have is None


def test_solve_raises_what_explain_says_and_then_finds_a_plan():
    asked = problem([4_000_000], dram_gib=0.2, ssd_kiops=2.0, objective="energy", rate=20_000.0)
    with pytest.raises(PlanError) as caught:
        solve(asked)
    needs = caught.value.needs
    assert needs
    assert solve(with_needs(asked, needs)).seconds <= 1 / 20_000 * (1 + 1e-9)
    lowered = [dataclasses.replace(need, need=need.need * LOWERED) for need in needs]
    with pytest.raises(PlanError):
        solve(with_needs(asked, lowered))


def test_amounts_are_of_least_sum():
    """More DRAM or an SSD that reads faster: a search over both finds nothing cheaper."""
    have = {"dram_gib": 0.1, "ssd_kiops": 30.0}
    asked = problem([3_000_000, 3_000_000], objective="energy", rate=50_000.0, **have)
    error = explain(asked, alternatives=False)
    assert fields(error) <= set(have)
    cost = sum(need.need / have[need.field] - 1 for need in error.needs)
    assert cost > 0
    least = np.inf
    for dram in np.geomspace(0.1, 0.4, 8):
        for kiops in np.geomspace(30.0, 3000.0, 24):
            sum_of_both = dram / have["dram_gib"] - 1 + kiops / have["ssd_kiops"] - 1
            changed = rebuild(asked, 0, dram_gib=float(dram), ssd_kiops=float(kiops))
            if sum_of_both < least and _Explainer(changed, "highs").fits(changed):
                least = sum_of_both
                break
    assert cost <= least * 1.05


# --- problems with other figures ---


def test_rebuild_with_the_same_figures_is_the_same():
    asked = problem([1_000_000], demand={"onchip": True}, pins=Pins(rows=16, columns=16))
    for same in ({}, {"clock_mhz": 250.0}, {"dsp": 1341}, {"channels": 1}):
        assert rebuild(asked, 0, **same).classes == asked.classes


@pytest.mark.parametrize(
    "figures",
    [
        {"clock_mhz": 300.0},
        {"dram_gib": 7.5, "ssd_kiops": 50.0},
        {"pcie_gbs": 1.0, "stream_gbs": 5.0},
    ],
)
def test_rebuilt_patterns_are_those_of_the_catalogue(figures):
    asked = problem([1_000_000], demand={"onchip": True}, pins=Pins(rows=16, columns=16))
    quick = rebuild(asked, 0, **figures)
    full = dataclasses.replace(quick, classes=(with_patterns(quick, 0),))
    assert quick.classes == full.classes
    spec = resolve_device(DeviceConfig(kind="smartssd", **figures))
    fresh = enumerate_patterns(
        Catalogue(asked.shape, asked.compute_shape, asked.batch),
        Budget(spec),
        asked.classes[0].pins,
        alone=True,
        onchip_beats=1_000_000 + 32 * max_memory(),
    )
    assert quick.classes[0].patterns == fresh


def test_a_second_device_frees_each_from_having_all_cores():
    asked = problem([1_000_000], pins=Pins(rows=16, columns=16))
    assert all(p.memory and p.compute for p in asked.classes[0].patterns)
    two = rebuild(asked, 0, count=2)
    assert two.devices == 2
    assert any(not p.compute for p in two.classes[0].patterns)
