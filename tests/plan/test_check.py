"""The checker accepts what is right and finds what is wrong with a plan, whoever made it."""

import dataclasses
import itertools
import random
import time

import numpy as np
import pytest

from screc.errors import CheckError, ConfigError
from screc.plan.budget import GIB, Budget
from screc.plan.check import Rule, check, measure
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.schema import (
    CoreCounts,
    CoreShapes,
    DevicePlan,
    Range,
    Stripe,
    TablePlan,
    read_plan,
)
from screc_hw.model import FeatureShape, ModelShape, TableShape
from tests.plan.check_mutations import MUTATIONS
from tests.plan.check_support import (
    PARTS,
    claim,
    model,
    random_case,
    slow_violations,
    spec,
    with_figures,
)

CASES = 1000
SEED = 20

ORDER = {rule.value: number for number, rule in enumerate(Rule)}


@pytest.fixture(scope="module")
def cases():
    rng = random.Random(SEED)
    return [random_case(rng) for _ in range(CASES)]


def test_a_thousand_valid_plans_are_accepted(cases):
    bottlenecks = set()
    for plan, problem in cases:
        checked = check(plan, problem)
        for name in ("value", "seconds", "energy", "latency", "ssd_reads"):
            assert getattr(checked, name) == pytest.approx(getattr(plan, name), rel=1e-9)
        for name in PARTS:
            assert checked.per_sample[name] == pytest.approx(plan.per_sample[name], rel=1e-9)
        assert checked.bottleneck == plan.bottleneck
        assert checked.devices == len(plan.devices)
        assert max(max(used.values()) for used in checked.utilisation) <= 1
        bottlenecks.add(checked.bottleneck)
    assert len(bottlenecks) >= 5


def test_a_thousand_broken_plans_are_refused_by_the_right_rule(cases):
    rng = random.Random(SEED + 1)
    broken = {}
    turns = itertools.cycle(MUTATIONS)
    while sum(broken.values()) < CASES:
        function = next(turns)
        for plan, problem in rng.sample(cases, len(cases)):
            made = function(rng, plan, problem)
            violated = slow_violations(*made) if made else set()
            if made and not violated:
                check(*made)  # what breaks nothing is accepted
            if violated:
                break
        else:
            pytest.fail(f"{function.__name__} finds nothing to break")
        with pytest.raises(CheckError) as caught:
            check(*made)
        first = min(violated, key=lambda rule: ORDER[rule])
        assert caught.value.rule == first, (function.__name__, violated, str(caught.value))
        assert first in MUTATIONS[function], (function.__name__, violated)
        key = (function.__name__, first)
        broken[key] = broken.get(key, 0) + 1
    named = {rule for _, rule in broken}
    assert {rule.value for rule in Rule} - named <= {"uram"}
    assert {name for name, _ in broken} == {function.__name__ for function in MUTATIONS}


# --- one by one ---


def tiny(*, kind="smartssd", count=1, rows=64, rate=0.01, onchip=0, **fields):
    """A table in DRAM of one device of 2 memory cores, and its problem."""
    shape = model(0)
    table = dataclasses.replace(shape.tables[0], rows=rows)
    curve = RateCurve(np.array([0, rows]), np.array([rate]))
    problem = Problem(
        shape=shape,
        compute_shape=shape,
        tables=[TableDemand(shape=table, rates=curve)],
        classes=[DeviceClass(Budget(spec(kind)), count, ())],
        batch=16,
        **fields,
    )
    ranges = [
        Range(tier=tier, first=first, last=last, core=core, stripe=Stripe(of=2, take=(core,)))
        for tier, first, last in (("onchip", 0, onchip), ("dram", onchip, rows))
        for core in (0, 1)
        if first < last
    ]
    device = DevicePlan(
        kind=kind,
        cores=CoreCounts(memory=2, compute=1),
        shapes=CoreShapes(rows=8, columns=8, onchip_beats=onchip),
        staging_bytes=0,
        utilisation={},
        tables=(TablePlan(table="t0", ranges=tuple(ranges)),),
    )
    return plan_of(problem, device), problem


def plan_of(problem, *devices):
    (plan, _) = random_case(random.Random(0))
    plan = plan.model_copy(
        update={
            "objective": problem.objective,
            "batch": problem.batch,
            "rate": problem.rate,
            "devices": devices,
        }
    )
    return claim(plan, problem)


def test_a_plan_without_figures_is_measured():
    plan, problem = tiny()
    bare = plan.model_copy(update={"seconds": 0.0, "value": 0.0, "per_sample": {}, "energy": 0.0})
    assert measure(bare, problem) == check(plan, problem)
    with pytest.raises(CheckError, match=r"dram takes .* the plan says 0"):
        check(bare, problem)


def test_a_required_rate_binds_a_plan_without_figures():
    plan, problem = tiny()
    rate = 1.01 / plan.seconds
    with pytest.raises(CheckError) as caught:
        measure(plan.model_copy(update={"rate": rate}), dataclasses.replace(problem, rate=rate))
    assert caught.value.rule == {"dram": "channel", "link": "link", "power": "power"}.get(
        plan.bottleneck, "time"
    )


def test_deep_memories_on_chip_take_ultra_ram():
    plan, problem = tiny(onchip=64)
    device = plan.devices[0]
    deep = device.model_copy(
        update={"shapes": device.shapes.model_copy(update={"onchip_beats": 4096})}
    )
    plan = plan_of(problem, deep)
    used = check(plan, problem).utilisation[0]["uram"] * 104
    assert used > 0
    check(plan, with_figures(problem, 0, uram=round(used), uram_fill=1.0))
    with pytest.raises(CheckError) as caught:
        check(plan, with_figures(problem, 0, uram=round(used) - 1, uram_fill=1.0))
    assert caught.value.rule == Rule.URAM


def test_one_very_hot_row_makes_its_core_the_slowest():
    plan, problem = tiny(rate=0.5)
    even = check(plan, problem).per_sample["gather"]
    curve = RateCurve(np.array([0, 1, 64]), np.array([16.0, 16.0 / 63]))
    skewed = dataclasses.replace(
        problem, tables=[dataclasses.replace(problem.tables[0], rates=curve)]
    )
    checked = measure(plan, skewed)
    # rank 0 and 31 of the others are on core 0
    assert checked.per_sample["gather"] == pytest.approx(even / 16 * (16 + 31 * 16 / 63), rel=1e-9)
    copied = Range(tier="dram", first=0, last=64, replicated=True)
    held = TablePlan(table="t0", ranges=(copied,))
    level = plan_of(skewed, plan.devices[0].model_copy(update={"tables": (held,)}))
    assert check(level, skewed).per_sample["gather"] == pytest.approx(even, rel=1e-9)


def test_cores_on_one_channel_share_it():
    plan, problem = tiny(kind="u50", rate=0.5)
    apart = check(plan, problem).per_sample["dram"]
    shared = with_figures(problem, 0, channels=1)
    with pytest.raises(CheckError, match="channel: dram takes"):
        check(plan, shared)
    assert measure(plan, shared).per_sample["dram"] == pytest.approx(2 * apart, rel=1e-9)


def test_classes_of_one_kind_are_taken_in_turn():
    """The first device has its own figures, and the second one the other class's."""
    plan, problem = tiny(count=1)
    first = plan.devices[0]
    idle = first.model_copy(update={"samples": 0.0, "tables": ()})
    small = Budget(dataclasses.replace(spec("smartssd"), dram_gib=64 / GIB))
    both = dataclasses.replace(problem, classes=[*problem.classes, DeviceClass(small, 1, ())])
    measure(plan_of(both, first, idle), both)
    with pytest.raises(CheckError, match="dram: smartssd has 64 bytes, 1,024 are used"):
        measure(plan_of(both, idle, first), both)


@pytest.mark.parametrize(
    ("ranges", "rule", "message"),
    [
        ([("dram", 0, 5), ("ssd", 6, 10)], "coverage", "rank 5 is nowhere"),
        ([("dram", 0, 6), ("dram", 5, 10)], "overlap", "rank 5 is in 2 places"),
        ([("dram", 0, 11)], "coverage", "the table has 10 rows"),
        ([("dram", 1, 10)], "coverage", "rank 0 is nowhere"),
        ([("dram", -1, 10)], "coverage", "begins at 0"),
        ([("dram", 0, 10), ("dram", 4, 4)], "coverage", "before its end"),
        ([("dram", 0, 10, 2, 0)], "coverage", "rank 1 is nowhere"),
        ([("dram", 0, 10, 2, 0), ("dram", 0, 10, 2, 0)], "coverage", "rank 1 is nowhere"),
        ([("dram", 0, 10, 2, 0), ("dram", 0, 9, 2, 1)], "coverage", "rank 9 is nowhere"),
        ([("dram", 0, 10, 3, 0, 1), ("dram", 0, 10, 3, 1, 2)], "overlap", "rank 1 is in 2"),
        ([("dram", 0, 4, 2, 0), ("dram", 0, 4, 2, 1), ("dram", 4, 10)], None, None),
        ([("dram", 0, 10, 3, 0, 2), ("dram", 1, 10, 3, 0)], None, None),
        ([("dram", 0, 10, 2)], "core", "no stripe takes"),
        ([("dram", 0, 10, 0, 0)], "core", "no stripe takes"),
        ([("dram", 0, 10, 2, 0, 0, 1)], "core", "no stripe takes"),
        ([("dram", 0, 10, 1 << 25, 0)], "core", "33554432 ranks, more than"),
        ([], "coverage", "rank 0 is nowhere"),
    ],
)
def test_ranks_not_covered_once_are_found(ranges, rule, message):
    plan, problem = tiny(rows=10)
    made = tuple(
        Range(
            tier=tier,
            first=first,
            last=last,
            stripe=Stripe(of=stripe[0], take=tuple(stripe[1:])) if stripe else None,
            core=0 if tier == "dram" else None,
        )
        for tier, first, last, *stripe in ranges
    )
    device = plan.devices[0].model_copy(
        update={"staging_bytes": 1 << 16, "tables": (TablePlan(table="t0", ranges=made),)}
    )
    plan = plan.model_copy(update={"devices": (device,)})
    if rule is None:
        measure(plan, problem)
        return
    with pytest.raises(CheckError, match=message) as caught:
        measure(plan, problem)
    assert caught.value.rule == rule


def test_stripes_that_hardly_repeat_are_counted_rank_by_rank_only_so_far():
    rows, primes = 1 << 26, (4093, 4091, 4079)
    plan, problem = tiny()
    (table,) = problem.tables
    table = dataclasses.replace(table, shape=dataclasses.replace(table.shape, rows=rows))
    problem = dataclasses.replace(problem, tables=[table])
    made = tuple(
        Range(tier="dram", first=0, last=rows, core=0, stripe=Stripe(of=p, take=(0,)))
        for p in primes
    )
    device = plan.devices[0].model_copy(update={"tables": (TablePlan(table="t0", ranges=made),)})
    with pytest.raises(CheckError, match="repeat after 68300664577 ranks only"):
        measure(plan.model_copy(update={"devices": (device,)}), problem)


def test_wrong_cores_are_named():
    plan, problem = tiny()
    device = plan.devices[0]

    def refuse(rule, message, **fields):
        changed = device.model_copy(update=fields)
        with pytest.raises(CheckError, match=message) as caught:
            measure(plan.model_copy(update={"devices": (changed,)}), problem)
        assert caught.value.rule == rule

    shapes, cores = device.shapes, device.cores
    refuse("core", "rows must be a power of two", shapes=shapes.model_copy(update={"rows": 3}))
    refuse("core", "memory cores in 0..", cores=cores.model_copy(update={"memory": 99}))
    refuse("core", "3 TT lanes must be as many", cores=cores.model_copy(update={"tt": 3}))
    refuse("tt", "0 multipliers|chain must be", cores=cores.model_copy(update={"tt": 2}))
    refuse("ring", "must have 0 bytes, not -64", staging_bytes=-64)
    with pytest.raises(CheckError, match="devices: the plan has no device"):
        measure(plan.model_copy(update={"devices": ()}), problem)


def large(rng, tables, devices, memory):
    """Many tables in DRAM and on SSD, striped over devices and cores."""
    shape = ModelShape(
        name="large",
        dense=4,
        bottom=(8, 16),
        top=(8, 1),
        interaction="concat",
        tables=tuple(
            TableShape(name=f"t{i}", rows=int(10 ** rng.uniform(2, 8)), dim=16)
            for i in range(tables)
        ),
        features=tuple(FeatureShape(name=f"f{i}", table=i) for i in range(tables)),
    )
    small = dataclasses.replace(shape, tables=shape.tables[:9], features=shape.features[:9])
    demands = []
    for table in shape.tables:
        edges = np.unique(np.geomspace(1, table.rows, 200).astype(np.int64))
        edges = np.concatenate([[0], edges])
        rates = (edges[1:].astype(float)) ** -1.05
        demands.append(TableDemand(shape=table, rates=RateCurve(edges, rates * 0.1)))
    problem = Problem(
        shape=shape,
        compute_shape=small,
        tables=demands,
        classes=[
            DeviceClass(Budget(dataclasses.replace(spec("smartssd"), dram_gib=1e3)), devices, ())
        ],
        batch=128,
    )
    held = [[] for _ in range(devices)]
    for table in shape.tables:
        cut = table.rows // 3
        chosen = rng.sample(range(devices), rng.choice((1, 1, 1, 3, devices)))
        for n, d in enumerate(chosen):
            of = len(chosen) * memory
            ranges = [
                Range(
                    tier="dram",
                    first=0,
                    last=cut,
                    core=core,
                    stripe=Stripe(of=of, take=(n * memory + core,)),
                )
                for core in range(memory)
            ]
            stripe = Stripe(of=len(chosen), take=(n,))
            ranges.append(Range(tier="ssd", first=cut, last=table.rows, stripe=stripe))
            held[d].append(TablePlan(table=table.name, ranges=tuple(ranges)))
    (plan, _) = random_case(random.Random(0))
    return plan.model_copy(
        update={
            "objective": "throughput",
            "batch": 128,
            "rate": None,
            "devices": tuple(
                DevicePlan(
                    kind="smartssd",
                    cores=CoreCounts(memory=memory, compute=1),
                    shapes=CoreShapes(rows=8, columns=8),
                    staging_bytes=1 << 32,
                    samples=1 / devices,
                    utilisation={},
                    tables=tuple(tables_),
                )
                for tables_ in held
            ),
        }
    ), problem


def roomy(problem):
    """The problem with logic and memory for any cores."""
    logic = dict.fromkeys(("lut", "ff", "dsp", "bram36", "uram"), 10**8)
    return with_figures(problem, 0, dram_gib=1e5, ssd_gib=1e6, **logic)


def test_lookups_of_many_striped_tables_are_neither_lost_nor_doubled():
    plan, problem = large(random.Random(5), 60, 4, 4)
    problem = roomy(problem)
    checked = measure(plan, problem)
    reads = 0.0
    for table in problem.tables:
        cut, rates = table.shape.rows // 3, table.rates
        per_page = 4096 / 16
        for a, b, rate in zip(rates.edges, rates.edges[1:], rates.rates, strict=False):
            inside = max(0, b - max(a, cut))
            reads += inside * -np.expm1(-128 * rate * per_page) / (128 * per_page)
    assert checked.ssd_reads == pytest.approx(reads, rel=1e-9)


@pytest.mark.slow
def test_856_tables_on_16_devices_are_checked_in_seconds():
    plan, problem = large(random.Random(5), 856, 16, 8)
    started = time.perf_counter()
    measure(plan, roomy(problem))
    assert time.perf_counter() - started < 10  # about 2 on two idle cores


# --- plan.json ---


def test_plan_json_is_read_back(tmp_path):
    plan, problem = random_case(random.Random(3))
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    again = read_plan(path)
    assert again == plan
    assert check(again, problem) == check(plan, problem)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tier": "dram"', '"tier": "disk"', r"plan\.json: devices\.0\.tables\.0\.ranges\.0\.tier"),
        ('"batch"', '"bach"', r"plan\.json: batch: Field required"),
        ('"version": 2', '"version": 9', "version: must be 2, not 9"),
        ("{", "", "must be JSON"),
    ],
)
def test_a_damaged_plan_json_is_named(tmp_path, old, new, message):
    plan, _ = tiny()
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_plan(path)
