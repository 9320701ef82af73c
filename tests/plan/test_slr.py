"""Cores are dealt to SLRs: against every assignment, and figures that are enough and needed."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from screc.errors import CheckError, PlanError, PlanErrorKind
from screc.plan.budget import RESOURCES, Budget
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns, excess, fits, lacks
from screc.plan.check import Rule, check
from screc.plan.explain import WEIGHTS, _Explainer, explain, with_needs
from screc.plan.slr import Dealer, Parts, can_deal, figures_needed
from screc.plan.solve import solve
from screc_hw.resources import Resources
from tests.plan.support import budget_of, problem_of, shape_of

SHAPE = shape_of([4000, 500], top=(16, 1))


def some_logic(rng, most):
    """Logic of a part, of some resources none."""
    return Resources(
        **{name: rng.choice((0, rng.randint(1, most))) for name in ("lut", "ff", "dsp", "uram")},
        bram36=rng.randint(0, 2 * most) / 2,
    )


def vector(logic):
    return [getattr(logic, name) for name in RESOURCES]


def brute(parts, memory, compute, limits):
    """Whether any assignment of cores to SLRs keeps all limits."""
    cores = [vector(parts.rest)]
    cores += [vector(parts.memory)] * memory + [vector(parts.compute)] * compute
    return any(
        all(
            sum(core[r] for core, at in zip(cores, places, strict=True) if at == slr) <= have[r]
            for slr, have in enumerate(limits)
            for r in range(len(RESOURCES))
        )
        for places in itertools.product(range(len(limits)), repeat=len(cores))
    )


def test_dealing_is_that_of_every_assignment():
    rng = random.Random(3)
    seen = {True: 0, False: 0, "totals would do": 0}
    while min(seen.values()) < 60:
        slrs, memory, compute = rng.randint(2, 3), rng.randint(0, 4), rng.randint(0, 3)
        parts = Parts(some_logic(rng, 9), some_logic(rng, 9), some_logic(rng, 5))
        limits = np.array([[rng.randint(4, 18) for _ in RESOURCES] for _ in range(slrs)], float)
        dealer = Dealer(compute, parts.compute, parts.rest, limits)
        wanted = brute(parts, memory, compute, limits)
        assert (dealer.most(parts.memory) >= memory) == wanted
        seen[wanted] += 1
        used = np.array(vector(parts.rest)) + memory * np.array(vector(parts.memory))
        used += compute * np.array(vector(parts.compute))
        seen["totals would do"] += bool((used <= limits.sum(axis=0)).all() and not wanted)


def test_what_takes_nothing_fits_in_any_count():
    free = Resources()
    assert Dealer(3, free, free, np.zeros((4, 5))).most(free) >= 1000
    assert Dealer(1, free, Resources(uram=1), np.zeros((4, 5))).most(free) < 0


@pytest.mark.parametrize("kind", ["smartssd", "u50", "u200"])
def test_figures_are_enough_and_needed(kind):
    rng = random.Random(4)
    short = 0
    while short < 12:
        have = {name: rng.randint(10, 80) for name in RESOURCES}
        budget = budget_of(kind, **have)
        parts = Parts(some_logic(rng, 12), some_logic(rng, 20), some_logic(rng, 9))
        memory, compute = rng.randint(1, 4), rng.randint(1, 3)
        used = memory * parts.memory + compute * parts.compute + parts.rest
        figures = figures_needed(parts, memory, compute, budget, used.as_dict())
        assert bool(figures) != can_deal(parts, memory, compute, budget)

        def fit(budget=budget, parts=parts, memory=memory, compute=compute, **figures):
            raised = Budget(dataclasses.replace(budget.spec, **figures))
            limits = [list(each.values()) for each in raised.slr_limits]
            return brute(parts, memory, compute, limits)

        whole = {name: int(figure) for name, figure in figures.items()}
        assert all(whole[name] > have[name] for name in whole)
        assert fit(**whole)
        for name in whole:
            assert not fit(**whole | {name: whole[name] - 1})
        short += bool(whole)


PINNED = Pins(memory=1, compute=1, rows=64, columns=32, slots=2, weights="onchip", pool_beats=1)


def test_cores_that_fit_the_totals_and_no_slrs_are_refused_with_what_would_do():
    chosen, budget = Catalogue(SHAPE, SHAPE, 64), budget_of("u50", dsp=1700)
    made = chosen.make(budget, memory=1, compute=1, rows=64, columns=32, slots=2)
    assert not excess(made, budget)
    assert not fits(made, budget)
    with pytest.raises(PlanError) as caught:
        enumerate_patterns(chosen, budget, PINNED, alone=True, onchip_beats=0)
    error = caught.value
    assert error.kind is PlanErrorKind.DSP
    each, rest = made.parts.compute.dsp, made.parts.rest.dsp
    memory = made.parts.memory.dsp
    amounts = [f"{n:,} for {what}" for n, what in ((memory, "memory core"),) if n]
    amounts += [f"{each:,} for compute core", f"{rest:,} for all else"]
    assert (
        "1 memory and 1 compute cores of 64 × 32 need dsp in one SLR each "
        f"({', '.join(amounts)}); u50 allows 658 + 700 in its 2 SLRs (80% of 1,700)"
    ) in str(error)
    (need,) = error.needs
    assert (need.resource, need.field, need.have) == ("u50", "dsp", 1700)
    assert any(f"--set device.0.dsp={need.need:.0f}" in hint for hint in error.hints)
    enough = budget_of("u50", dsp=int(need.need))
    (found,) = enumerate_patterns(chosen, enough, PINNED, alone=True, onchip_beats=0)
    assert fits(found, enough)
    with pytest.raises(PlanError):
        enumerate_patterns(
            chosen, budget_of("u50", dsp=int(need.need) - 1), PINNED, alone=True, onchip_beats=0
        )


def test_the_nearest_pattern_is_that_of_least_raises():
    chosen, budget = Catalogue(SHAPE, SHAPE, 64), budget_of("u50", dsp=600, lut=90_000)
    pins = dataclasses.replace(PINNED, memory=None, compute=None, columns=None)
    with pytest.raises(PlanError) as caught:
        enumerate_patterns(chosen, budget, pins, alone=True, onchip_beats=0)
    named = sum(need.need / need.have - 1 for need in caught.value.needs)
    sums = []
    for memory, compute, columns in itertools.product((1, 2, 4, 8), (1, 2, 4), (8, 16, 32, 64)):
        made = chosen.make(
            budget, memory=memory, compute=compute, rows=64, columns=columns, slots=2
        )
        figures = lacks(made, budget)
        sums.append(sum(figure / budget.usable[name] - 1 for name, figure in figures.items()))
    assert named == pytest.approx(min(sums))


@pytest.mark.parametrize("onchip", [0, 400_000])
def test_patterns_are_all_that_no_other_one_beats(onchip):
    """Every size of cores is rated, at every depth of rows on chip that is tried at all."""
    budget = budget_of("u50", lut=200_000, ff=500_000, dsp=600, bram36=260, uram=60)
    chosen, pins = Catalogue(SHAPE, SHAPE, 64), Pins(rows=16, slots=2, weights="onchip")
    found = enumerate_patterns(chosen, budget, pins, alone=False, onchip_beats=onchip)
    table = np.array([merits(p) for p in found])
    assert all(fits(p, budget) for p in found)
    depths = (0, 64, 2048, *range(4096, 9 * 4096, 4096)) if onchip else (0,)
    only_totals = seen = 0
    for memory, compute, columns, pool in itertools.product(
        (0, 1, 2, 4, 8), (0, 1, 2, 4), (8, 16, 32, 64), (1, 2)
    ):
        for depth in depths if memory else (0,):
            if not (memory or compute) or (pool == 2 and not depth):
                continue
            made = chosen.make(
                budget,
                memory=memory,
                compute=compute,
                rows=16,
                columns=columns,
                slots=2,
                onchip_beats=depth,
                pool_beats=pool,
            )
            if not fits(made, budget):
                only_totals += not excess(made, budget)
                continue
            seen += 1
            least = np.array(merits(made))
            assert (table >= least - 1e-12 * abs(least)).all(axis=1).any(), made.name
    assert seen > (50 if onchip else 30)
    assert only_totals > (10 if onchip else 0)


def test_a_plan_without_a_place_for_its_cores_is_explained_and_refused(monkeypatch):
    monkeypatch.setitem(WEIGHTS, "rate", 100.0)  # logic is to be named
    monkeypatch.setitem(WEIGHTS, "clock_mhz", 100.0)
    pins = Pins(memory=4, compute=1, rows=64, slots=2, weights="onchip", onchip=False)
    problem = problem_of(
        [100_000] * 4,
        pins=pins,
        batch=128,
        top=(1024, 1024, 512, 1),
        device={"kind": "u50", "dsp": 1700, "channels": 4},
        demands={name: {"onchip": False} for name in "abcd"},
    )
    (only,) = problem.classes
    best = max(pattern.capacity["samples"] for pattern in only.patterns)
    asked = dataclasses.replace(
        problem, classes=(dataclasses.replace(only, pins=pins, onchip_beats=0),), rate=1.2 * best
    )
    error = explain(asked, alternatives=False)
    (need,) = error.needs
    assert (need.field, need.have) == ("dsp", 1700)
    enough = with_needs(asked, error.needs)
    plan = solve(enough)
    check(plan, enough)
    less = with_needs(asked, [dataclasses.replace(need, need=need.need * 0.98)])
    assert not _Explainer(less, "highs").fits(less)
    with pytest.raises(CheckError, match="do not fit the 2 SLRs of u50") as caught:
        check(plan, asked)  # whose totals have room for them
    assert caught.value.rule == Rule.SLR


def merits(pattern):
    """What more of is better."""
    return [
        *pattern.capacity.values(),
        -pattern.sample_beats,
        -pattern.weight_bytes,
        -pattern.latency if pattern.compute else 0.0,
    ]
