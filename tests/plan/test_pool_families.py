"""The constraints of each family of the planner's model, written out for a small instance.

A change of any constraint shows here. After one that is meant, write the files again:
``SCREC_REFREEZE=1 pytest tests/plan/test_pool_families.py``.
"""

import dataclasses
import itertools
import os
from pathlib import Path

import pyomo.environ as pyo
import pytest

from screc.plan import pool
from screc.plan.groups import Interval, make_groups
from screc.plan.pool import Pooled
from screc.plan.problem import DeviceClass, TtOption
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from tests.plan.support import budget_of, problem_of

FOLDER = Path(__file__).parent / "lp"
FAMILIES = {function.__name__.removeprefix("add_"): function for function in pool.FAMILIES}

TT = TtShape(rows=4, p=(1, 2, 2), q=(2, 2, 4), ranks=(4, 4))


def frozen_pooled():
    """Two tables, two devices, two patterns, with figures that no core's cost formula changes."""
    problem = problem_of(
        [6, 4],
        count=2,
        pooling=[2.0, 1.0],
        batch=8,
        max_latency=1e-3,
        max_loss=0.5,
        demands={
            "a": {"tt": TtOption(last=4, shape=TT, pins=1, loss=0.3), "replicate": False},
            "b": {"replicate": True, "bags": 0.5},
        },
    )
    figures = {"ssd_kiops": 400, "p2p_gbs": 3, "ssd_gib": 1, "dram_gib": 1e-5, "pcie_gbs": 4}
    rates = {f"random_{n}_gbs": rate for n, rate in ((64, 8), (128, 16), (256, 16), (512, 16))}
    budget = budget_of(**figures, **rates, stream_gbs=16, static_watts=16)
    times = dict.fromkeys(pool.costs.TIMES, 2.5e8)
    sizes = {"dram_bytes": 1e4, "ssd_bytes": 1e6, "onchip_bytes": 256.0}
    some = problem.classes[0].patterns[0]
    both = dataclasses.replace(
        some,
        memory=2,
        compute=1,
        tt=TtParams.for_tables([TT], [1], slice_lanes=16, fraction=3, chain=8),
        capacity=times | sizes | {"dram": 1.0, "samples": 1e6},
        sample_beats=0.25,
        weight_bytes=640,
        latency=1e-5,
    )
    bare = dataclasses.replace(
        both,
        memory=0,
        tt=None,
        capacity=dict.fromkeys(times | sizes, 0.0)
        | {"port": 2.5e8, "dram": 1.0, "dram_bytes": 1e4, "samples": 4e6}
        | {"link_in": 2.5e8, "link_out": 2.5e8},
        latency=2e-3,
    )
    problem = dataclasses.replace(problem, classes=(DeviceClass(budget, 2, (both, bare)),))
    groups = make_groups(problem)
    assert [group.tables for group in groups] == [(0,), (1,)]
    cuts = [[0, 2, 3, len(groups[0].rate)], [0, 1, len(groups[1].rate)]]
    intervals: list[list[Interval]] = [
        [group.interval(a, b) for a, b in itertools.pairwise(edges)]
        for group, edges in zip(groups, cuts, strict=True)
    ]
    return Pooled(problem, groups, intervals)


def constraints_of(name):
    """A model with the constraints of one family alone; ``over`` is the least there may be."""
    pooled = frozen_pooled()
    m = pyo.ConcreteModel("screc")
    pool.add_variables(m, pooled, integral=True)
    pool.add_terms(m, pooled)
    for family, add in FAMILIES.items():
        before = {c.name for c in m.component_objects(pyo.Constraint)}
        add(m, pooled)
        if family != name:
            for constraint in list(m.component_objects(pyo.Constraint)):
                if constraint.name not in before:
                    constraint.deactivate()
    m.T = 1e-6
    m.goal = pyo.Objective(expr=m.over)
    return m


@pytest.mark.parametrize("name", FAMILIES)
def test_the_constraints_are_the_frozen_ones(tmp_path, name):
    model = constraints_of(name)
    active = list(model.component_data_objects(pyo.Constraint, active=True))
    assert active, "the instance has no constraint of this family"
    path = tmp_path / "model.lp"
    model.write(str(path), io_options={"symbolic_solver_labels": True})
    text = path.read_text(encoding="utf-8")
    frozen = FOLDER / f"{name}.lp"
    if os.environ.get("SCREC_REFREEZE"):
        frozen.write_text(text, encoding="utf-8")
    assert rounded(text) == rounded(frozen.read_text(encoding="utf-8"))


def test_each_file_is_of_a_family_and_each_family_is_built():
    assert {path.stem for path in FOLDER.glob("*.lp")} == set(FAMILIES)
    functions = {name for name in vars(pool) if name.startswith("add_")}
    functions -= {"add_variables", "add_terms"}
    assert functions == {f"add_{name}" for name in FAMILIES}
    assert len(FAMILIES) == len(pool.FAMILIES)


def test_every_family_says_what_it_demands():
    for name, function in FAMILIES.items():
        assert len(function.__doc__ or "") > 30, name


def rounded(text):
    """Words, numbers to 9 digits: the last ones depend on the machine's mathematics library."""
    words = []
    for line in text.splitlines():
        for word in line.split():
            try:
                words.append(f"{float(word):.9g}")
            except ValueError:
                words.append(word)
    return words
