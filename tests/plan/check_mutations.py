"""Ways to break a valid plan, each with the rule that it breaks."""

from __future__ import annotations

import dataclasses
import math

from screc.plan.budget import GIB
from screc.plan.schema import Stripe, TablePlan
from tests.plan.check_support import (
    LOGIC,
    PARTS,
    SlowBytes,
    budgets_of,
    claim,
    pattern,
    ranks,
    with_figures,
)

MUTATIONS = {}
"""Rules that each function may break first; it takes a generator, a plan and its problem, and
returns the latter two, or None where it cannot."""


def breaks(*rules):
    """Register a mutation."""

    def register(function):
        MUTATIONS[function] = frozenset(rules)
        return function

    return register


# --- editing ---


def change(plan, device, **fields):
    """The plan with other fields of a device."""
    devices = list(plan.devices)
    devices[device] = devices[device].model_copy(update=fields)
    return plan.model_copy(update={"devices": tuple(devices)})


def change_shapes(plan, device, **fields):
    return change(plan, device, shapes=plan.devices[device].shapes.model_copy(update=fields))


def put(plan, place, *ranges):
    """The plan with ``ranges`` instead of the one at ``place``."""
    d, t, i = place
    tables = list(plan.devices[d].tables)
    old = tables[t].ranges
    tables[t] = tables[t].model_copy(update={"ranges": (*old[:i], *ranges, *old[i + 1 :])})
    return change(plan, d, tables=tuple(tables))


def places(plan, keep):
    """Places of the ranges that hold any rank and that ``keep`` keeps, with them."""
    return [
        ((d, t, i), r)
        for d, device in enumerate(plan.devices)
        for t, held in enumerate(device.tables)
        for i, r in enumerate(held.ranges)
        if next(ranks(r), None) is not None and keep(r)
    ]


def give(plan, device, table, *ranges):
    """The plan with more ranges on a device."""
    tables = {t.table: t for t in plan.devices[device].tables}
    have = tables[table].ranges if table in tables else ()
    tables[table] = TablePlan(table=table, ranges=(*have, *ranges))
    return change(plan, device, tables=tuple(tables.values()))


def pick(rng, plan, keep=lambda r: True):
    found = places(plan, keep)
    return rng.choice(found) if found else (None, None)


def edit(r, **fields):
    return r.model_copy(update=fields)


def change_table(problem, name, **fields):
    return dataclasses.replace(
        problem,
        tables=[
            dataclasses.replace(t, **fields) if t.shape.name == name else t for t in problem.tables
        ],
    )


def name_at(plan, place):
    return plan.devices[place[0]].tables[place[1]].table


def class_of(problem, device):
    return next(n for n, c in enumerate(problem.classes) if c.budget.kind == device.kind)


# --- ranges ---


@breaks("coverage")
def drop_a_range(rng, plan, problem):
    place, _ = pick(rng, plan)
    return put(plan, place), problem


@breaks("coverage")
def drop_a_table(rng, plan, problem):
    place, _ = pick(rng, plan)
    name = name_at(plan, place)
    for d, device in enumerate(plan.devices):
        plan = change(plan, d, tables=tuple(t for t in device.tables if t.table != name))
    return plan, problem


@breaks("coverage")
def lose_the_coldest_rank(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tt is None)
    if r is None:
        return None
    last = max(ranks(r))
    return put(plan, place, *([edit(r, last=last)] if last > r.first else [])), problem


@breaks("coverage")
def lose_the_hottest_rank(rng, plan, problem):
    """Where a stripe begins decides on its residues, so only whole ranges begin later."""
    place, r = pick(rng, plan, lambda r: r.tt is None and r.stripe is None)
    if r is None or r.last - r.first < 2:
        return None
    return put(plan, place, edit(r, first=r.first + 1)), problem


@breaks("coverage")
def reach_behind_the_table(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tier in ("dram", "ssd") and r.stripe is None)
    if r is None:
        return None
    (table,) = [t for t in problem.tables if t.shape.name == name_at(plan, place)]
    return put(plan, place, edit(r, last=table.shape.rows + 1)), problem


@breaks("overlap")
def repeat_a_range(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tier in ("dram", "ssd"))
    return None if r is None else (put(plan, place, r, r), problem)


@breaks("overlap")
def take_the_next_rank_too(rng, plan, problem):
    def fits(r):
        step = r.last - r.first
        return r.tier == "dram" and (r.stripe is None or step % r.stripe.of in r.stripe.take)

    found = [
        (place, r)
        for place, r in places(plan, fits)
        if r.last
        < next(t.shape.rows for t in problem.tables if t.shape.name == name_at(plan, place))
    ]
    if not found:
        return None
    place, r = rng.choice(found)
    return put(plan, place, edit(r, last=r.last + 1)), problem


@breaks("overlap")
def hold_a_replicated_row_twice(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.replicated and r.tier == "dram")
    if r is None:
        return None
    return put(plan, place, r, edit(r, first=r.last - 1)), problem


@breaks("coverage")
def miss_a_copy(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.replicated)
    return None if r is None or len(plan.devices) < 2 else (put(plan, place), problem)


@breaks("coverage")
def swap_half_a_stripe(rng, plan, problem):
    """A range takes the residues of another one, which keeps them."""
    found = places(plan, lambda r: r.stripe is not None and r.tt is None)
    pairs = [
        (a, b)
        for a, r in found
        for b, s in found
        if a != b
        and name_at(plan, a) == name_at(plan, b)
        and (r.first, r.last, r.stripe.of) == (s.first, s.last, s.stripe.of)
    ]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    (r,), (s,) = ([r for place, r in found if place == each] for each in (a, b))
    return put(plan, a, edit(r, stripe=s.stripe)), problem


@breaks("core")
def name_a_core_that_is_not(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.core is not None)
    if r is None:
        return None
    return put(
        plan, place, edit(r, core=rng.choice((None, -1, plan.devices[place[0]].cores.memory)))
    ), problem


@breaks("core")
def take_a_residue_that_is_not(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: not r.replicated)
    if r is None:
        return None
    of = r.stripe.of if r.stripe else 1
    return put(plan, place, edit(r, stripe=Stripe(of=of, take=(of,)))), problem


@breaks("core")
def remove_memory_cores(rng, plan, problem):
    d = rng.randrange(len(plan.devices))
    device = plan.devices[d]
    used = [r.core for t in device.tables for r in t.ranges if r.core is not None]
    if not used:
        return None
    cores = device.cores.model_copy(update={"memory": max(used), "tt": 0})
    return change(plan, d, cores=cores), problem


# --- tiers ---


@breaks("tier")
def forbid_a_tier(rng, plan, problem):
    place, r = pick(rng, plan)
    fields = {"tt": {"tt": None}}.get(r.tier, {r.tier: False})
    return plan, change_table(problem, name_at(plan, place), **fields)


@breaks("tier")
def forbid_some_rows_on_chip(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tier == "onchip")
    if r is None:
        return None
    name = name_at(plan, place)
    (table,) = [t for t in problem.tables if t.shape.name == name]
    return plan, change_table(problem, name, onchip_rows=table.onchip_rows - 1)


@breaks("tier")
def move_a_rank_on_chip(rng, plan, problem):
    """One more than its table may have there."""
    place, r = pick(rng, plan, lambda r: r.tier == "dram" and r.stripe is None)
    if r is None or r.replicated:
        return None
    head = edit(r, tier="onchip", last=r.first + 1)
    tail = [edit(r, first=r.first + 1)] if r.last - r.first > 1 else []
    return put(plan, place, head, *tail), problem


@breaks("tier")
def take_the_ssd_away(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tier == "ssd")
    if r is None:
        return None
    number = class_of(problem, plan.devices[place[0]])
    return plan, with_figures(problem, number, ssd_kiops=None)


@breaks("tier")
def choose_another_tt_rank(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tt is not None)
    if r is None:
        return None
    return put(plan, place, edit(r, tt=r.tt.model_copy(update={"ranks": (2, 2)}))), problem


@breaks("tier")
def allow_fewer_tt_rows(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tt is not None)
    if r is None:
        return None
    name = name_at(plan, place)
    (table,) = [t for t in problem.tables if t.shape.name == name]
    last = r.last - plan.devices[place[0]].cores.memory
    option = dataclasses.replace(table.tt, last=last)
    return (plan, change_table(problem, name, tt=option)) if last > 0 else None


@breaks("tier")
def part_a_tt_table(rng, plan, problem):
    """A stripe of it goes to another device."""
    place, r = pick(rng, plan, lambda r: r.tt is not None and r.stripe is not None)
    others = [
        d
        for d, device in enumerate(plan.devices)
        if place and d != place[0] and device.cores.memory
    ]
    if not others:
        return None
    d = rng.choice(others)
    held = plan.devices[place[0]].tables[place[1]]
    if len([x for x in held.ranges if x.tt is not None and next(ranks(x), None) is not None]) < 2:
        return None
    return give(put(plan, place), d, held.table, edit(r, core=0)), problem


@breaks("tier")
def want_only_tt_rows(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tier in ("dram", "ssd"))
    if r is None:
        return None
    name = name_at(plan, place)
    (table,) = [t for t in problem.tables if t.shape.name == name]
    if table.tt is None or min(ranks(r)) >= table.tt.last:
        return None
    return plan, change_table(problem, name, tt_only=True)


@breaks("tier")
def forbid_copies(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.replicated)
    if r is None:
        return None
    return plan, change_table(problem, name_at(plan, place), replicate=False)


@breaks("tier")
def want_copies(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: not r.replicated)
    if r is None or problem.devices < 2:
        return None
    return plan, change_table(problem, name_at(plan, place), replicate=True)


@breaks("split")
def forbid_splits(rng, plan, problem):
    return plan, dataclasses.replace(problem, split=False)


@breaks("loss")
def allow_less_loss(rng, plan, problem):
    return plan, dataclasses.replace(problem, max_loss=problem.max_loss * 0.999)


# --- devices ---


@breaks("problem")
def ask_for_something_else(rng, plan, problem):
    other = {
        "batch": problem.batch + 1,
        "objective": "energy" if problem.objective == "devices" else "devices",
        "rate": 1.0,
    }
    name = rng.choice(list(other))
    return plan, dataclasses.replace(problem, **{name: other[name]})


@breaks("problem")
def hold_an_unknown_table(rng, plan, problem):
    place, _ = pick(rng, plan)
    d, t, _ = place
    tables = list(plan.devices[d].tables)
    tables[t] = tables[t].model_copy(update={"table": "none"})
    return change(plan, d, tables=tuple(tables)), problem


@breaks("problem")
def list_a_table_twice(rng, plan, problem):
    place, _ = pick(rng, plan)
    held = plan.devices[place[0]].tables[place[1]]
    again = held.model_copy(update={"ranges": ()})
    return change(plan, place[0], tables=(*plan.devices[place[0]].tables, again)), problem


@breaks("devices")
def have_fewer_devices(rng, plan, problem):
    classes = list(problem.classes)
    n = class_of(problem, rng.choice(plan.devices))
    used = sum(d.kind == classes[n].budget.kind for d in plan.devices)
    classes[n] = dataclasses.replace(classes[n], count=used - 1)
    return plan, dataclasses.replace(problem, classes=classes)


@breaks("devices")
def use_another_kind(rng, plan, problem):
    return change(plan, rng.randrange(len(plan.devices)), kind="u250"), problem


@breaks("samples")
def compute_too_little(rng, plan, problem):
    d = rng.choice([d for d, device in enumerate(plan.devices) if device.samples])
    return change(plan, d, samples=plan.devices[d].samples * (1 - 1e-6)), problem


@breaks("samples")
def compute_without_cores(rng, plan, problem):
    donors = [d for d, device in enumerate(plan.devices) if device.samples]
    idle = [d for d, device in enumerate(plan.devices) if not device.cores.compute]
    if not idle:
        return None
    a, b = rng.choice(donors), rng.choice(idle)
    share = plan.devices[a].samples
    plan = change(plan, a, samples=share / 2)
    return change(plan, b, samples=share - share / 2), problem


# --- capacities ---


def _tightest(rng, plan, problem, amount):
    """Device that needs most of its class, its class's number, and how much."""
    d = rng.randrange(len(plan.devices))
    number = class_of(problem, plan.devices[d])
    mine = [n for n, device in enumerate(plan.devices) if class_of(problem, device) == number]
    needs = {n: amount(plan.devices[n]) for n in mine}
    worst = max(mine, key=lambda n: needs[n])
    return worst, number, needs[worst]


@breaks("dram")
def have_less_dram(rng, plan, problem):
    budgets = budgets_of(plan, problem)

    def amount(device):
        budget = budgets[plan.devices.index(device)]
        weights = pattern(problem, device, budget).weight_bytes
        return SlowBytes(problem, device).dram + weights

    _, number, most = _tightest(rng, plan, problem, amount)
    return (plan, with_figures(problem, number, dram_gib=(most - 1) / GIB)) if most else None


@breaks("dram")
def enlarge_the_ring(rng, plan, problem):
    d = rng.randrange(len(plan.devices))
    device = plan.devices[d]
    room = budgets_of(plan, problem)[d].dram_bytes
    return change(plan, d, staging_bytes=device.staging_bytes + room + 1), problem


@breaks("dram", "ssd", "onchip", "ring", "channel", "link", "power", "time")
def move_rows_to_a_full_device(rng, plan, problem):
    """Rows go where there is no room for them."""
    place, r = pick(rng, plan, lambda r: r.tier != "tt" and not r.replicated)
    others = [
        d
        for d, device in enumerate(plan.devices)
        if place and d != place[0] and device.cores.memory
    ]
    if not others:
        return None
    d = rng.choice(others)
    if r.tier == "ssd" and budgets_of(plan, problem)[d].has_ssd is False:
        return None
    moved = edit(r, core=None if r.core is None else 0)
    return give(put(plan, place), d, name_at(plan, place), moved), problem


@breaks("ssd")
def have_less_ssd(rng, plan, problem):
    _, number, most = _tightest(rng, plan, problem, lambda d: SlowBytes(problem, d).ssd)
    if not most or not problem.classes[number].budget.has_ssd:
        return None
    return plan, with_figures(problem, number, ssd_gib=(most - 1) / GIB)


@breaks("onchip")
def have_fewer_beats_on_chip(rng, plan, problem):
    found = [d for d, device in enumerate(plan.devices) if device.shapes.onchip_beats > 1]
    if not found:
        return None
    d = rng.choice(found)
    return change_shapes(plan, d, onchip_beats=plan.devices[d].shapes.onchip_beats - 1), problem


@breaks("ring")
def cut_the_ring(rng, plan, problem):
    found = [d for d, device in enumerate(plan.devices) if device.staging_bytes]
    if not found:
        return None
    d = rng.choice(found)
    need = SlowBytes(problem, plan.devices[d]).ring
    return change(plan, d, staging_bytes=math.floor(need * (1 - 1e-6)) - 1), problem


@breaks(*LOGIC)
def have_less_logic(rng, plan, problem):
    name = rng.choice(LOGIC)
    budgets = budgets_of(plan, problem)
    _, number, most = _tightest(
        rng,
        plan,
        problem,
        lambda d: pattern(problem, d, budgets[plan.devices.index(d)]).used[name],
    )
    return (plan, with_figures(problem, number, **{name: math.ceil(most) - 1})) if most else None


@breaks("slr")
def leave_no_gaps_in_slrs(rng, plan, problem):
    """As much logic as all cores together need, of which no SLR may waste any."""
    found = [d for d, each in enumerate(budgets_of(plan, problem)) if each.spec.slrs > 1]
    if not found:
        return None
    name, device = rng.choice(LOGIC), plan.devices[rng.choice(found)]
    number = class_of(problem, device)
    budget = problem.classes[number].budget
    most = max(
        pattern(problem, each, budget).used[name]
        for each in plan.devices
        if each.kind == device.kind
    )
    return plan, with_figures(problem, number, **{name: math.ceil(most)})


@breaks(*LOGIC, "slr", "dram", "channel", "time")
def build_more_columns(rng, plan, problem):
    found = [d for d, device in enumerate(plan.devices) if device.cores.compute]
    d = rng.choice(found)
    return change_shapes(plan, d, columns=4 * plan.devices[d].shapes.columns), problem


@breaks(*LOGIC, "slr", "dram", "channel", "time")
def build_more_cores(rng, plan, problem):
    d = rng.randrange(len(plan.devices))
    cores = plan.devices[d].cores
    cores = cores.model_copy(update={"compute": 2 * cores.compute or 1})
    return change(plan, d, cores=cores), problem


@breaks("tt")
def keep_fewer_prefixes(rng, plan, problem):
    found = [d for d, device in enumerate(plan.devices) if device.shapes.prefixes]
    if not found:
        return None
    d = rng.choice(found)
    return change_shapes(plan, d, prefixes=plan.devices[d].shapes.prefixes - 1), problem


@breaks("tt")
def have_no_reconstructor(rng, plan, problem):
    place, r = pick(rng, plan, lambda r: r.tt is not None)
    if r is None:
        return None
    cores = plan.devices[place[0]].cores.model_copy(update={"tt": 0})
    return change(plan, place[0], cores=cores), problem


# --- times ---


@breaks("channel", "link", "power", "time")
def claim_a_part_is_faster(rng, plan, problem):
    name = rng.choice([name for name in PARTS if plan.per_sample[name]])
    times = {**plan.per_sample, name: plan.per_sample[name] * (1 - 1e-6)}
    return plan.model_copy(update={"per_sample": times}), problem


@breaks("time")
def claim_a_figure_is_better(rng, plan, problem):
    name = rng.choice(("seconds", "value", "energy", "latency"))
    return plan.model_copy(update={name: getattr(plan, name) * (1 - 1e-6)}), problem


@breaks("channel")
def have_slower_channels(rng, plan, problem):
    for number, each in enumerate(problem.classes):
        spec = each.budget.spec
        names = ["stream_gbs", *(f"random_{n}_gbs" for n in (64, 128, 256, 512))]
        figures = {name: getattr(spec, name) * 0.99 for name in names}
        problem = with_figures(problem, number, **figures)
    return plan, problem


@breaks("link")
def have_slower_links(rng, plan, problem):
    for number, each in enumerate(problem.classes):
        problem = with_figures(problem, number, pcie_gbs=each.budget.spec.pcie_gbs * 0.99)
    return plan, problem


@breaks("power")
def have_less_power(rng, plan, problem):
    for number, each in enumerate(problem.classes):
        spec = each.budget.spec
        watts = spec.static_watts + (spec.watts - spec.static_watts) * 0.99
        problem = with_figures(problem, number, watts=watts)
    return plan, problem


@breaks("time")
def have_a_slower_clock(rng, plan, problem):
    for number, each in enumerate(problem.classes):
        problem = with_figures(problem, number, clock_mhz=each.budget.spec.clock_mhz * 0.99)
    return plan, problem


@breaks("time")
def have_slower_reads(rng, plan, problem):
    for number, each in enumerate(problem.classes):
        if each.budget.has_ssd:
            kiops = each.budget.spec.ssd_kiops * 0.99
            problem = with_figures(problem, number, ssd_kiops=kiops)
    return plan, problem


@breaks("time", "link", "channel", "power")
def want_a_higher_rate(rng, plan, problem):
    """The plan claims the rate, and everything else as it then is."""
    rate = 1.001 / plan.seconds
    problem = dataclasses.replace(problem, rate=rate, max_latency=None)
    return claim(plan.model_copy(update={"rate": rate}), problem), problem


@breaks("time", "channel", "link", "power")
def move_all_lookups_to_one_core(rng, plan, problem):
    """Bytes fit, but what a core or a device does is more."""
    d = rng.randrange(len(plan.devices))
    tables = tuple(
        t.model_copy(update={"ranges": tuple(edit(r, core=0) if r.core else r for r in t.ranges)})
        for t in plan.devices[d].tables
    )
    beats = max(SlowBytes(problem, plan.devices[d]).onchip, default=0) // 64
    if beats:
        return None
    return change(plan, d, tables=tables), problem


@breaks("latency")
def want_a_lower_latency(rng, plan, problem):
    return plan, dataclasses.replace(problem, max_latency=plan.latency * (1 - 1e-6))
