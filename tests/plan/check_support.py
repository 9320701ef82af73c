"""Random valid plans, and a slow second checker: plain loops over ranks, for tiny tables."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np

from screc.devices import DeviceConfig, resolve_device
from screc.plan.budget import GIB, Budget
from screc.plan.catalogue import Catalogue
from screc.plan.problem import DeviceClass, Problem, TableDemand, TtOption
from screc.plan.rates import RateCurve
from screc.plan.schema import (
    CoreCounts,
    CoreShapes,
    DevicePlan,
    Plan,
    Range,
    Stripe,
    TablePlan,
    TtForm,
)
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.resources import Resources
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

MODELS = (  # dimension and row formats of its tables
    (16, ("int8",)),
    (64, ("int8", "int4")),
    (32, ("int8r", "int4r", "int8")),
    (128, ("int8", "int8", "int4", "int8")),
)
LOGIC = ("lut", "ff", "dsp", "bram36", "uram")
PARTS = ("gather", "tt", "dram", "ssd", "p2p", "link", "compute", "power")


# --- random problems and plans ---


@functools.cache
def model(number):
    """Shape of a model; rows of its tables are the problem's."""
    dim, formats = MODELS[number]
    return ModelShape(
        name=f"model{number}",
        dense=4,
        bottom=(8, dim),
        top=(8, 1),
        interaction="dot",
        tables=tuple(
            TableShape(name=f"t{i}", rows=400, dim=dim, format=f) for i, f in enumerate(formats)
        ),
        features=tuple(
            FeatureShape(name=f"f{i}", table=i, pooling=1.5) for i in range(len(formats))
        ),
    )


@functools.cache
def catalogue(number, batch):
    return Catalogue(model(number), model(number), batch)


@functools.cache
def spec(kind):
    return resolve_device(DeviceConfig(kind=kind, ssd_kiops=400 if kind == "smartssd" else None))


def falling(rng, rows):
    """Rates of every rank, in runs of equal ones."""
    rate, rates = 10 ** rng.uniform(-2, 1.2), []
    while len(rates) < rows:
        rates += [rate] * rng.choice((1, 1, 2, 5, 20))
        rate *= rng.uniform(0.3, 0.95)
        if rng.random() < 0.02:
            rate = 0.0
    return rates[:rows]


def curve(rates):
    edges = [0, *(i for i in range(1, len(rates)) if rates[i] != rates[i - 1]), len(rates)]
    return RateCurve(np.array(edges, np.int64), np.array([rates[e] for e in edges[:-1]]))


def tt_option(rng, rows, dim):
    last = rng.randint(2, rows)
    p = (2, 3, -(-last // 6))
    q = {16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8)}[dim]
    shape = TtShape(rows=last, p=p, q=q, ranks=rng.choice(((4, 4), (8, 4))))
    return TtOption(last=last, shape=shape, pins=rng.randint(0, 6), loss=rng.uniform(0.1, 1))


def random_case(rng):
    """A plan and its problem: every capacity just large enough, every claim just true."""
    number = rng.randrange(len(MODELS))
    shape = model(number)
    objective = rng.choice(("throughput", "energy", "devices"))
    kinds = ["smartssd"] if rng.random() < 0.75 else ["smartssd", "u50"]
    devices = [_random_device(rng, rng.choice(kinds)) for _ in range(rng.randint(1, 4))]
    devices.sort(key=lambda d: kinds.index(d["kind"]))
    if not any(d["compute"] for d in devices):
        devices[0] |= {"compute": 1}
    if not any(d["memory"] for d in devices):
        devices[-1] |= {"memory": 2}
    budgets = {kind: Budget(spec(kind)) for kind in kinds}
    demands = []
    copied = len(kinds) == 1 and all(d["memory"] for d in devices)
    for table in shape.tables:
        rows = int(4 ** rng.uniform(0, 3.4)) if rng.random() < 0.9 else rng.randint(100, 400)
        rates = falling(rng, rows)
        with_tt = not table.rowwise and rows > 3 and rng.random() < 0.4
        demand = TableDemand(
            shape=dataclasses.replace(table, rows=rows),
            rates=curve(rates),
            bags=rng.uniform(0.2, 1.0),
            tt=tt_option(rng, rows, table.dim) if with_tt else None,
        )
        demands.append(demand)
    extra = rng.choice((0, 0, 1))
    classes = [
        DeviceClass(budgets[kind], sum(d["kind"] == kind for d in devices) + extra, ())
        for kind in kinds
    ]
    problem = Problem(
        shape=shape,
        compute_shape=shape,
        tables=demands,
        classes=classes,
        batch=rng.choice((5, 16)),
        objective=objective,
    )
    held = [defaultdict(list) for _ in devices]
    for table in demands:
        _place(rng, table, devices, held, copied=copied)
    computing = [d for d in devices if d["compute"]]
    weights = [rng.choice((0.0, 0.3, 1.0)) if d["compute"] else 0.0 for d in devices]
    if not sum(weights):
        weights[devices.index(computing[0])] = 1.0
    plan = Plan(
        objective=objective,
        batch=problem.batch,
        bound=0.0,
        value=0.0,
        gap=0.0,
        seconds=0.0,
        energy=0.0,
        latency=0.0,
        solve_seconds=0.0,
        intervals=1,
        bottleneck="dram",
        per_sample={},
        ssd_reads=0.0,
        devices=tuple(
            _device_plan(problem, d, tables, weight / sum(weights))
            for d, tables, weight in zip(devices, held, weights, strict=True)
        ),
    )
    return tighten(rng, plan, problem)


def _random_device(rng, kind):
    memory, compute = rng.choice((0, 1, 1, 2, 3, 4)), rng.choice((0, 1, 1, 2))
    if not (memory or compute):
        memory = 1
    return {
        "kind": kind,
        "memory": memory,
        "compute": compute,
        "rows": rng.choice((4, 8)),
        "columns": rng.choice((8, 16)),
        "slots": rng.choice((2, 4)),
        "stream": rng.random() < 0.3,
        "pool_beats": rng.choice((1, 2)),
        "outstanding": rng.choice((16, 64)),
        "lanes": rng.choice((1, 2)),
        "chain": rng.choice((4, 8)),
    }


def _place(rng, table, devices, held, *, copied):
    """Give every rank of a table to a device and a core, or all devices a copy."""
    name, rows = table.shape.name, table.shape.rows
    memories = [n for n, d in enumerate(devices) if d["memory"]]
    if copied and rng.random() < 0.25:
        cut = rng.randint(0, rows)
        for tables in held:
            for tier, first, last in (("onchip", 0, cut), ("dram", cut, rows)):
                if first < last:
                    tables[name].append(Range(tier=tier, first=first, last=last, replicated=True))
        return
    cuts = sorted(rng.choice((0, rows, rng.randint(0, rows))) for _ in range(3))
    tiers = ["onchip", "dram", "dram", "ssd"]
    if table.tt is not None and cuts[0] < table.tt.last:
        cuts[1] = table.tt.last
        cuts[2] = max(cuts[1:])
        tiers[1] = "tt"
    ssds = [n for n in memories if devices[n]["kind"] == "smartssd"]
    if not ssds:
        cuts[2] = rows
    for tier, first, last in zip(tiers, (0, *cuts), (*cuts, rows), strict=True):
        if first == last:
            continue
        form = None
        if tier == "ssd":
            slots = [(n, None) for n in rng.sample(ssds, rng.randint(1, len(ssds)))]
        else:
            chosen = rng.sample(memories, rng.randint(1, len(memories)))
            chosen = chosen[:1] if tier == "tt" else chosen
            slots = [(n, core) for n in chosen for core in range(devices[n]["memory"])]
            if rng.random() < 0.3:
                slots = slots[:1]
        if tier == "tt":
            option = table.tt
            form = TtForm(
                p=option.shape.p, q=option.shape.q, ranks=option.shape.ranks, pins=option.pins
            )
        of = rng.choice((len(slots), len(slots), 2 * len(slots), 16))
        takes = defaultdict(list)
        for residue in range(of):
            takes[rng.choice(slots) if of > len(slots) else slots[residue]].append(residue)
        for (n, core), take in takes.items():
            stripe = Stripe(of=of, take=tuple(take)) if of > 1 else None
            held[n][name].append(
                Range(tier=tier, first=first, last=last, stripe=stripe, core=core, tt=form)
            )


def _device_plan(problem, d, tables, samples):
    """A device with as many on-chip beats, prefixes and ring bytes as its rows need."""
    plans = tuple(TablePlan(table=name, ranges=tuple(ranges)) for name, ranges in tables.items())
    forms = {p.table: r.tt for p in plans for r in p.ranges if r.tt is not None}
    lanes = d["lanes"] if forms else 0
    device = DevicePlan(
        kind=d["kind"],
        cores=CoreCounts(memory=d["memory"], tt=lanes * d["memory"], compute=d["compute"]),
        shapes=CoreShapes(
            rows=d["rows"],
            columns=d["columns"],
            slots=d["slots"],
            outstanding=d["outstanding"],
            tt_multipliers=lanes * d["memory"] * 16 * d["chain"],
            prefixes=sum(form.pins for form in forms.values()),
        ),
        weights="stream" if d["stream"] and d["compute"] else "onchip",
        staging_bytes=0,
        samples=samples,
        utilisation={},
        tables=plans,
    )
    use = SlowBytes(problem, device)
    beats = max(use.onchip, default=0) // 64
    pool = d["pool_beats"] if beats or forms else 1
    return device.model_copy(
        update={
            "staging_bytes": 64 * math.ceil(use.ring / 64),
            "shapes": device.shapes.model_copy(update={"onchip_beats": beats, "pool_beats": pool}),
        }
    )


def with_figures(problem, number, **figures):
    """The problem with other figures of one class of devices."""
    classes = list(problem.classes)
    budget = Budget(dataclasses.replace(classes[number].budget.spec, **figures))
    classes[number] = dataclasses.replace(classes[number], budget=budget)
    return dataclasses.replace(problem, classes=classes)


def tighten(rng, plan, problem):
    """Lower every limit to what the plan needs, and let it claim what is true."""
    for number, each in enumerate(problem.classes):
        mine = [d for d in plan.devices if d.kind == each.budget.kind]
        if not mine:
            continue
        logic = [pattern(problem, d, each.budget).used for d in mine]
        sizes = [SlowBytes(problem, d) for d in mine]
        figures = {name: math.ceil(max(used[name] for used in logic)) for name in LOGIC}
        figures |= {f"{name}_fill": 1.0 for name in ("lut", "ff", "dsp", "bram", "uram")}
        figures["dram_gib"] = (
            max(
                use.dram + pattern(problem, d, each.budget).weight_bytes
                for use, d in zip(sizes, mine, strict=True)
            )
            / GIB
        )
        tight = Budget(dataclasses.replace(each.budget.spec, **figures))
        while not all(slow_dealt(pattern(problem, d, tight), tight) for d in mine):
            figures |= {name: math.ceil(figures[name] * 1.1) for name in LOGIC}
            tight = Budget(dataclasses.replace(each.budget.spec, **figures))
        if each.budget.has_ssd:
            figures["ssd_gib"] = max(use.ssd for use in sizes) / GIB
        problem = with_figures(problem, number, **figures)
    counts = Counter(d.kind for d in plan.devices)
    plan = claim(plan, problem)
    if plan.objective != "throughput" or rng.random() < 0.3:
        rate = (1.0 if rng.random() < 0.5 else 0.5) / plan.seconds
        problem = dataclasses.replace(problem, rate=rate)
        plan = claim(plan.model_copy(update={"rate": rate}), problem)
    lossy = {t.table for d in plan.devices for t in d.tables for r in t.ranges if r.tt is not None}
    problem = dataclasses.replace(
        problem,
        max_latency=plan.latency if rng.random() < 0.5 else None,
        max_loss=sum(t.tt.loss for t in problem.tables if t.shape.name in lossy),
        tables=[_exact_limits(t, plan) for t in problem.tables],
        classes=[
            dataclasses.replace(each, count=counts[each.budget.kind])
            if problem.devices == len(plan.devices)
            else each
            for each in problem.classes
        ],
    )
    return plan, problem


def _exact_limits(table, plan):
    """The demand with as many rows on chip, and ranks in TT form, as there are."""
    ranges = [
        r for d in plan.devices for t in d.tables if t.table == table.shape.name for r in t.ranges
    ]
    chip = {rank for r in ranges if r.tier == "onchip" for rank in ranks(r)}
    slow = [rank for r in ranges if r.tier in ("dram", "ssd") for rank in ranks(r)]
    return dataclasses.replace(
        table,
        onchip=bool(chip),
        onchip_rows=len(chip) if chip else None,
        tt_only=table.tt is not None and min(slow, default=table.shape.rows) >= table.tt.last,
        replicate=True if ranges and not any(loose(r) for r in ranges) else None,
    )


def claim(plan, problem):
    """The plan with the slow checker's times."""
    figures = slow_figures(plan, problem)
    value = {
        "throughput": figures["seconds"],
        "energy": figures["energy"],
        "devices": float(len(plan.devices)),
    }[plan.objective]
    return plan.model_copy(update={**figures, "value": value, "bound": value})


# --- the slow checker ---


def ranks(r):
    """Ranks of a range, one by one."""
    for rank in range(r.first, r.last):
        if r.stripe is None or (rank - r.first) % r.stripe.of in r.stripe.take:
            yield rank


def loose(r):
    """Whether a range holds any rank, of which there is no copy elsewhere."""
    return not r.replicated and next(ranks(r), None) is not None


def demand_of(problem, name):
    return next(t for t in problem.tables if t.shape.name == name)


def budgets_of(plan, problem):
    """Budget of each device, by its kind alone."""
    return [
        next((c.budget for c in problem.classes if c.budget.kind == d.kind), None)
        for d in plan.devices
    ]


@functools.lru_cache(maxsize=20_000)
def _rates_list(edges, rates):
    return [rate for rate, a, b in zip(rates, edges, edges[1:], strict=False) for _ in range(a, b)]


def rates_list(table):
    return _rates_list(tuple(table.rates.edges.tolist()), tuple(table.rates.rates.tolist()))


def row_of(table):
    """Stride and beats of a row, from its bytes."""
    shape = table.shape
    size = shape.dim * (4 if shape.format.startswith("int4") else 8) // 8
    size += 4 if shape.format.endswith("r") else 0
    stride = 1
    while stride < min(size, 64):
        stride *= 2
    if size >= 64:
        stride = -(-size // 64) * 64
    return stride, -(-size // 64)


class SlowBytes:
    """Bytes on a device: ``onchip`` by core, ``dram`` without weights, ``ssd``, ``ring``."""

    def __init__(self, problem, device):
        cores = device.cores.memory
        rows = defaultdict(lambda: [0] * cores)
        pages, expected, longest = 0, 0.0, 0
        for held in device.tables:
            table = demand_of(problem, held.table)
            rates, (stride, beats), on_ssd = rates_list(table), row_of(table), 0
            for r in held.ranges:
                for rank in ranks(r):
                    if r.tier == "ssd":
                        on_ssd += 1
                        expected += beats * -math.expm1(-problem.batch * rates[rank])
                        longest = max(longest, beats)
                    elif r.tier != "tt":
                        for core in range(cores) if r.replicated else [r.core]:
                            rows[r.tier, held.table][core] += stride
            pages += -(-on_ssd * stride // 4096)
        self.onchip = [
            sum(-(-size[c] // 64) * 64 for (tier, _), size in rows.items() if tier == "onchip")
            for c in range(cores)
        ]
        self.dram = device.staging_bytes + sum(
            -(-size // 64) * 64
            for (tier, _), sizes in rows.items()
            if tier == "dram"
            for size in sizes
        )
        self.ssd = 4096 * pages
        self.ring = 64 * 2 * (2 * expected + 32 * longest) if longest else 0.0


def tt_forms(device):
    """TT shape and pins by table."""
    return {
        held.table: (
            TtShape(rows=r.last - r.first, p=r.tt.p, q=r.tt.q, ranks=r.tt.ranks),
            r.tt.pins,
        )
        for held in device.tables
        for r in held.ranges
        if r.tt is not None
    }


@functools.lru_cache(maxsize=5000)
def _pattern(number, batch, budget, memory, compute, shapes, stream, lanes, forms):
    tt = None
    if lanes:
        tt = TtParams.for_tables(
            [shape for shape, _ in forms],
            [pins for _, pins in forms],
            slice_lanes=catalogue(number, batch).lanes,
            fraction=3,
            lanes=lanes // memory,
            chain=shapes.tt_multipliers // (16 * lanes),
        )
    return catalogue(number, batch).make(
        budget,
        memory=memory,
        compute=compute,
        rows=shapes.rows,
        columns=shapes.columns,
        slots=shapes.slots,
        stream=stream,
        pool_beats=shapes.pool_beats,
        onchip_beats=shapes.onchip_beats,
        tt=tt,
        outstanding=shapes.outstanding,
    )


def pattern(problem, device, budget):
    """The catalogue's figures of a device's cores."""
    number = int(problem.shape.name.removeprefix("model"))
    forms = tuple(tt_forms(device).values())
    return _pattern(
        number,
        problem.batch,
        _Hashed(budget),
        device.cores.memory,
        device.cores.compute,
        device.shapes,
        device.weights == "stream",
        device.cores.tt,
        forms,
    )


class _Hashed:
    """A budget, as a key: devices of one object are alike."""

    def __init__(self, budget):
        self._budget = budget
        self._key = (
            budget.spec.kind,
            tuple(value for value in vars(budget.spec).values() if not isinstance(value, dict)),
        )

    def __getattr__(self, name):
        return getattr(self._budget, name)

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return self._key == other._key


def slow_dealt(made, budget):
    """Whether any assignment of cores to SLRs keeps the limits of all of them."""
    spec = budget.spec
    fills = (spec.lut_fill, spec.ff_fill, spec.dsp_fill, spec.bram_fill, spec.uram_fill)
    shares = [getattr(spec, f"slr_{name}") for name in LOGIC]
    limits = [
        [
            int(int(getattr(spec, name) * Fraction(share[slr], sum(share))) * fill)
            for name, share, fill in zip(LOGIC, shares, fills, strict=True)
        ]
        for slr in range(spec.slrs)
    ]
    own = [made.core.resources()] * made.compute if made.compute else []
    for _ in range(made.memory):
        own.append(made.gather.resources() + (made.tt.resources() if made.tt else Resources()))
    cores = np.array([[getattr(core, name) for name in LOGIC] for core in own])
    cores = np.vstack([cores, [made.used[name] for name in LOGIC] - cores.sum(axis=0)])
    return any(
        (
            np.stack([cores[np.array(slrs) == n].sum(axis=0) for n in range(spec.slrs)]) <= limits
        ).all()
        for slrs in itertools.product(range(spec.slrs), repeat=len(cores))
    )


def slow_faults(plan, problem):
    """Every rule of structure and capacity that a plan breaks."""
    found = set()
    if (plan.objective, plan.batch, plan.rate) != (problem.objective, problem.batch, problem.rate):
        found.add("problem")
    names = {t.shape.name for t in problem.tables}
    if any(t.table not in names for d in plan.devices for t in d.tables):
        found.add("problem")
    if any(
        count > 1 for d in plan.devices for count in Counter(t.table for t in d.tables).values()
    ):
        found.add("problem")
    counts = Counter(d.kind for d in plan.devices)
    for kind, count in counts.items():
        if count > sum(c.count for c in problem.classes if c.budget.kind == kind):
            found.add("devices")
    if abs(sum(d.samples for d in plan.devices) - 1) > 1e-9:
        found.add("samples")
    if any(d.samples and not d.cores.compute for d in plan.devices):
        found.add("samples")
    for d in plan.devices:
        for t in d.tables:
            for r in t.ranges:
                if r.stripe and not all(0 <= x < r.stripe.of for x in r.stripe.take):
                    found.add("core")
                if r.tier != "ssd" and not r.replicated and r.core not in range(d.cores.memory):
                    found.add("core")
    if found:
        return found
    for table in problem.tables:
        found |= _table_faults(plan, problem, table)
    lossy = {t.table for d in plan.devices for t in d.tables for r in t.ranges if r.tt is not None}
    if problem.max_loss is not None:
        loss = sum(t.tt.loss for t in problem.tables if t.shape.name in lossy and t.tt)
        if loss > problem.max_loss * (1 + 1e-9):
            found.add("loss")
    if found:
        return found
    for d, budget in zip(plan.devices, budgets_of(plan, problem), strict=True):
        forms = tt_forms(d).values()
        if (forms and not d.cores.tt) or sum(pins for _, pins in forms) > d.shapes.prefixes:
            return {"tt"}
        made = pattern(problem, d, budget)
        found |= {name for name in LOGIC if made.used[name] > budget.limits[name]}
        if not slow_dealt(made, budget):
            found.add("slr")
        use = SlowBytes(problem, d)
        if max(use.onchip, default=0) > 64 * d.shapes.onchip_beats:
            found.add("onchip")
        if use.dram + made.weight_bytes > budget.dram_bytes:
            found.add("dram")
        if use.ssd > budget.ssd_bytes:
            found.add("ssd")
        if d.staging_bytes < use.ring * (1 - 1e-9):
            found.add("ring")
    return found


def _table_faults(plan, problem, table):
    found, rows = set(), table.shape.rows
    held = [
        (n, r)
        for n, d in enumerate(plan.devices)
        for t in d.tables
        if t.table == table.shape.name
        for r in t.ranges
    ]
    places = [[] for _ in range(rows)]
    for n, r in held:
        for rank in ranks(r):
            if rank >= rows:
                return {"coverage"}
            places[rank].append((n, r))
    for place in places:
        for device in range(len(plan.devices)):
            count = sum(not r.replicated or n == device for n, r in place)
            found |= {"coverage"} if count < 1 else {"overlap"} if count > 1 else set()
    allowed = {
        "onchip": table.onchip,
        "tt": table.tt is not None,
        "dram": table.dram,
        "ssd": table.ssd,
    }
    budgets = budgets_of(plan, problem)
    for n, r in held:
        wrong_ssd = r.tier == "ssd" and not budgets[n].has_ssd
        wrong_copy = r.replicated and (
            table.replicate is False or r.tier == "ssd" or len(problem.classes) > 1
        )
        if not allowed[r.tier] or wrong_ssd or wrong_copy:
            found.add("tier")
    for device in range(len(plan.devices)):
        seen = [r for n, r in held if r.tier == "onchip" and (not r.replicated or n == device)]
        chip = {rank for r in seen for rank in ranks(r)}
        if table.onchip_rows is not None and len(chip) > table.onchip_rows:
            found.add("tier")
    if table.replicate and len(plan.devices) > 1 and not all(r.replicated for _, r in held):
        found.add("tier")
    if table.tt is not None:
        built = [(n, r) for n, r in held if r.tier == "tt"]
        low = [rank for _, r in held if r.tier in ("dram", "ssd") for rank in ranks(r)]
        if table.tt_only and min(low, default=rows) < table.tt.last:
            found.add("tier")
        if built:
            (home, form), kept = built[0], {rank for _, r in built for rank in ranks(r)}
            cores, last = plan.devices[home].cores.memory, table.tt.last
            while last % cores:
                last += 1
            a, b, c = (x * y for x, y in zip(form.tt.p, form.tt.q, strict=True))
            full = (min(a, b * c), min(a * b, c))
            if (
                any(n != home or r.tt != form.tt for n, r in built)
                or kept != set(range(form.first, form.last))
                or any(form.tt.ranks[i] < min(table.tt.shape.ranks[i], full[i]) for i in (0, 1))
                or max(kept) >= last
            ):
                found.add("tier")
    if not problem.split and len({n for n, r in held if loose(r)}) > 1:
        found.add("split")
    return found


def slow_device(plan, problem, device, budget, sent):
    """Seconds by part, and joules beside static ones, of a device; ``sent``: all partials."""
    made = pattern(problem, device, budget)
    f, m, q, batch = budget.clock_hz, device.cores.memory, device.samples, problem.batch
    spec = budget.spec
    stream = spec.stream_gbs * 1e9
    ports = max(m, 1)
    load = {
        name: [0.0] * ports
        for name in ("lookups", "port", "lane", "flight", "fast", "pool", "tt", "dram")
    }
    lookups = reads = joules = 0.0
    pj_dram, pj_link = spec.dram_pj_bit * 8, spec.link_pj_bit * 8  # per byte
    partial = 0.0
    for held in device.tables:
        table = demand_of(problem, held.table)
        stride, b = row_of(table)
        rates = rates_list(table)
        s = table.shape.dim // made.gather.lanes
        c = made.gather.row_cycles(table.shape)
        o = device.shapes.outstanding
        flight = (64 + 9 + b - o % b) / max(1, o // b)
        random_rate = spec.random_gbs(64 * b) * 1e9
        k = max(1, 4096 / stride)
        if len(plan.devices) > 1:
            partial += slow_bags(table, held)
        for r in held.ranges:
            if r.tt is not None:
                shape = TtShape(rows=r.last - r.first, p=r.tt.p, q=r.tt.q, ranks=r.tt.ranks)
                hit = max(made.tt.row_cycles(shape, 1.0) / made.tt.lanes, s, 1)
                miss = max(made.tt.row_cycles(shape, 0.0) / made.tt.lanes, s, 1)
            for rank in ranks(r):
                rate = rates[rank]
                lam = rate * q if r.replicated else rate
                add = {"lookups": lam, "pool": lam * s, "port": lam / 8, "dram": lam * 8 / stream}
                moved = 8 * lam
                if r.tier in ("dram", "ssd"):
                    add["port"] += lam * b
                    add["lane"] = lam * c
                    add["flight"] = lam * flight
                    add["dram"] += lam * 64 * b / random_rate
                    moved += lam * 64 * b
                elif r.tier == "onchip":
                    add["fast"] = lam * max(c, b)
                    joules += lam * b * spec.onchip_pj_beat
                else:
                    pinned = rank < r.first + r.tt.pins * r.tt.p[2]
                    add["fast"] = lam * s
                    add["tt"] = lam * (hit if pinned else miss)
                    macs = shape.row_macs + (0 if pinned else shape.prefix_macs)
                    joules += lam * macs * spec.mac_pj
                if r.tier == "ssd":
                    read = -math.expm1(-batch * rate * k) / (batch * k)
                    staged = 4096 * read + 64 * b * -math.expm1(-batch * rate) / batch
                    add["dram"] += staged / stream
                    moved += staged
                    reads += read
                lookups += lam
                joules += moved * pj_dram
                cores = range(m) if r.core is None else [r.core]
                for name, value in add.items():
                    for core in cores:
                        load[name][core] += value / len(cores)
    if device.weights == "stream" and device.cores.compute:
        for core in range(device.cores.compute):
            beats = q * made.sample_beats / device.cores.compute
            load["port"][core % ports] += beats
            load["dram"][core % ports] += 64 * beats / stream
            joules += 64 * beats * pj_dram
    header = 4 * len(problem.shape.features) + problem.shape.dense
    common = q * (header + 8) + 2 * partial + 2 * q * sent
    joules += common * pj_dram
    if ports > spec.channels:
        dram = (sum(load["dram"]) + common / stream) / spec.channels
    else:
        dram = max(load["dram"]) + common / stream / ports
    link_in, link_out = 8 * lookups + q * header + q * sent, 8 * q + partial
    joules += (link_in + link_out) * pj_link + q * problem.compute_shape.macs * spec.mac_pj
    memory = [
        max(load[name]) / f / (device.shapes.pool_beats if name == "pool" else 1)
        for name in ("lookups", "port", "lane", "flight", "fast", "pool")
    ]
    busy = {
        "gather": max(memory),
        "tt": max(load["tt"]) / f,
        "dram": dram,
        "ssd": reads / (spec.ssd_kiops * 1e3) if reads else 0.0,
        "p2p": 4096 * reads / (spec.p2p_gbs * 1e9) if reads else 0.0,
        "link": max(link_in, link_out) / (spec.pcie_gbs * 0.85e9),
        "compute": q / made.capacity["samples"] if q else 0.0,
    }
    work = joules * 1e-12 + reads * spec.ssd_uj_read * 1e-6
    busy["power"] = work / (spec.watts - spec.static_watts)
    return busy, work, reads, made.latency if q else 0.0


def slow_bags(table, held):
    """Bytes per sample of a table's partials from a device: bags that meet one of its rows."""
    rates = rates_list(table)
    here = sum(rates[rank] for r in held.ranges if loose(r) for rank in ranks(r))
    if not here:
        return 0.0
    everywhere = sum(rates)
    length = max(everywhere / table.bags, 1.0) if table.bags else 1.0
    missed = (1 - min(here / everywhere, 1.0)) ** length
    size = 8 + table.shape.dim * (8 if table.shape.rowwise else 4)
    return table.bags * (1 - missed) * size


def slow_partials(plan, problem):
    """Bytes per sample that all devices send as partials."""
    if len(plan.devices) == 1:
        return 0.0
    return sum(
        slow_bags(demand_of(problem, held.table), held)
        for device in plan.devices
        for held in device.tables
    )


def slow_figures(plan, problem):
    """What a plan may claim, as fields of :class:`Plan`."""
    sent = slow_partials(plan, problem)
    budgets = budgets_of(plan, problem)
    found = [
        slow_device(plan, problem, d, budget, sent)
        for d, budget in zip(plan.devices, budgets, strict=True)
    ]
    slowest = [max(busy.values()) for busy, *_ in found]
    seconds = max(slowest)
    busiest = next(n for n, each in enumerate(slowest) if each >= seconds * (1 - 1e-9))
    period = 1 / plan.rate if plan.rate else seconds
    memory = max(max(busy[name] for name in ("gather", "tt", "dram")) for busy, *_ in found)
    waits = max(busy["ssd"] for busy, *_ in found) + memory
    if len(plan.devices) > 1:
        waits += max(busy["link"] for busy, *_ in found)
    per_sample = found[busiest][0]
    return {
        "seconds": seconds,
        "per_sample": per_sample,
        "bottleneck": max(per_sample, key=per_sample.get),
        "energy": sum(
            budget.spec.static_watts * period + joules
            for budget, (_, joules, _, _) in zip(budgets, found, strict=True)
        ),
        "latency": problem.batch * waits + max(latency for *_, latency in found),
        "ssd_reads": sum(reads for _, _, reads, _ in found),
    }


def slow_violations(plan, problem):
    """Every rule that a plan breaks; times only where structure and capacities are kept."""
    found = slow_faults(plan, problem)
    if found:
        return found
    true = slow_figures(plan, problem)
    rules = {"dram": "channel", "link": "link", "power": "power"}
    for name in PARTS:
        if true["per_sample"][name] > plan.per_sample[name] * (1 + 1e-9):
            found.add(rules.get(name, "time"))
    if problem.rate:
        sent = slow_partials(plan, problem)
        for d, budget in zip(plan.devices, budgets_of(plan, problem), strict=True):
            for name, seconds in slow_device(plan, problem, d, budget, sent)[0].items():
                if seconds * problem.rate > 1 + 1e-9:
                    found.add(rules.get(name, "time"))
    true["value"] = {
        "throughput": true["seconds"],
        "energy": true["energy"],
        "devices": len(plan.devices),
    }[plan.objective]
    for name in ("seconds", "value", "energy", "latency"):
        if true[name] > getattr(plan, name) * (1 + 1e-9):
            found.add("time")
    if problem.max_latency and true["latency"] > problem.max_latency * (1 + 1e-9):
        found.add("latency")
    return found
