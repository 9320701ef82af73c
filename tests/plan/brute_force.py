"""Random tiny problems, and their optimum by looking at everything there is to decide.

Costs are those of ``docs/planner.md``, written out once more, per rank and with nothing of
``screc.plan.costs``. Enumerated are: where each table is cut between tiers (its intervals' borders
alone), whether it is replicated, and how many devices have which cores; the best share of the
samples for each of them is found where two of the lines cross that bound the time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from screc.plan.budget import GIB
from screc.plan.catalogue import Catalogue
from screc.plan.problem import DeviceClass, Problem, TableDemand, TtOption
from screc.plan.rates import RateCurve
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from tests.plan.support import budget_of, shape_of

TIERS = ("onchip", "tt", "dram", "ssd")
CORES = ("lookups", "port", "lane", "flight", "fast", "pool", "tt")
TIMES = (*CORES, "dram", "iops", "p2p", "link_in", "link_out", "power")
SIZES = ("onchip_bytes", "dram_bytes", "ssd_bytes", "ring", "staged")
# bytes of copies on each device; words of the three TT cores of a table that is in TT form
MORE = ("onchip_copy", "dram_copy", "words0", "words1", "words2", "loss", "tt_rows")
NAMES = (*TIMES, *SIZES, *MORE)
AT = {name: i for i, name in enumerate(NAMES)}

LATENCY, CREDIT, OUTSTANDING = 64, 9, 64
PIPE = 0.85


@dataclasses.dataclass
class Case:
    """A problem and the ranks where each table's intervals begin and end."""

    problem: Problem
    ranks: list[np.ndarray]


# --- random problems ---


def random_case(rng):
    """Up to 4 tables of up to 6 intervals on 2 devices of one class, or one device of each of 2."""
    mixed = rng.random() < 0.2
    tables = int(rng.integers(1, 3 if mixed else 5))
    most = {1: 3, 2: 2}[tables] if mixed else {1: 6, 2: 6, 3: 4, 4: 2}[tables]
    dims = [int(d) for d in rng.choice([16, 32, 128], tables)]
    formats = [str(f) for f in rng.choice(["int8", "int4", "int8r"], tables, p=[0.7, 0.2, 0.1])]
    rows = [int(n) for n in rng.integers(6, 90, tables)]
    pooling = [float(p) for p in rng.uniform(0.3, 6.0, tables)]
    shape = shape_of(rows, dim=dims, pooling=pooling, formats=formats)
    batch = int(rng.choice([8, 32]))
    copies = not mixed and rng.random() < 0.3
    demands, ranks = [], []
    for table, lookups in zip(shape.tables, pooling, strict=True):
        demand, cuts = _random_table(rng, table, lookups, most, copies=copies)
        demands.append(demand)
        ranks.append(cuts)
    # reconstructors for all tables that may have a TT form
    options = [d.tt for d in demands if d.tt is not None]
    tt = None
    if options:
        fits = options if rng.random() < 0.6 else options[:1]
        lanes = math.gcd(*dims, 64)
        tt = TtParams.for_tables(
            [o.shape for o in fits], [o.pins for o in fits], slice_lanes=lanes, fraction=3, chain=8
        )
    size = sum(d.shape.rows * d.stride for d in demands)
    catalogue = Catalogue(shape, shape, batch)
    classes = [
        _random_class(rng, catalogue, size, tt, count=1 if mixed else 2, number=i, copies=copies)
        for i in range(2 if mixed else 1)
    ]
    problem = Problem(
        shape=shape,
        compute_shape=shape,
        tables=demands,
        classes=classes,
        batch=batch,
        max_loss=float(rng.uniform(0, 1.5)) if rng.random() < 0.3 else None,
    )
    latencies = sorted({p.latency for c in classes for p in c.patterns if p.compute})
    if len(latencies) > 1 and rng.random() < 0.2:
        problem = dataclasses.replace(problem, max_latency=(latencies[0] + latencies[-1]) / 2)
    return Case(problem, ranks)


def _random_table(rng, table, lookups, most, *, copies):
    """A demand with rates in a few steps, and its intervals' borders."""
    rows = table.rows
    pieces = int(rng.integers(1, min(rows, 12) + 1))
    edges = np.unique([0, rows, *rng.integers(1, rows, pieces)])
    rates = np.sort(rng.uniform(0, 1, len(edges) - 1) ** rng.uniform(1, 6))[::-1] + 1e-3
    curve = RateCurve(edges.astype(np.int64), rates * lookups / (rates @ np.diff(edges)))
    few = min(len(edges) - 2, int(rng.integers(0, most)))
    cuts = np.unique([0, rows, *rng.choice(edges[1:-1], few, replace=False)])
    more = {}
    kind = rng.random()
    if kind < 0.12:
        more = {"ssd": False}
    elif kind < 0.2:
        more = {"onchip": False}
    elif kind < 0.26:
        more = {"dram": False}
    elif kind < 0.3:
        more = {"dram": False, "ssd": False}
    elif kind < 0.45:
        more = {"onchip_rows": int(rng.choice(cuts))}
    more["replicate"] = rng.choice([True, False, None]) if copies else False
    may_tt = not table.rowwise and table.dim >= 16 and not more.get("replicate")
    if may_tt and rng.random() < 0.4 and len(cuts) > 1:
        last = int(rng.choice(cuts[1:]))
        shape = TtShape(
            rows=last,
            p=(2, 3, -(-last // 6)),
            q={16: (2, 2, 4), 32: (2, 4, 4), 128: (4, 4, 8)}[table.dim],
            ranks=(4, 4),
        )
        pins = int(rng.integers(0, 4))
        more["tt"] = TtOption(last=last, shape=shape, pins=pins, loss=float(rng.uniform(0, 1)))
        more["tt_only"] = bool(rng.random() < 0.2)
        pinned = min(pins * shape.p[2], last)
        curve = curve.cut(pinned)
        cuts = np.union1d(cuts, [pinned])
    bags = float(rng.uniform(0.1, 1))
    return TableDemand(shape=table, rates=curve, bags=bags, **more), cuts.astype(np.int64)


def _random_class(rng, catalogue, size, tt, *, count, number, copies):
    """Devices of which anything may be scarce, with two or three patterns."""

    def log(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    slack = 2 * 2 * 32 * 2 * 64  # the rings' own bytes, of two-beat rows
    figures = {
        "clock_mhz": log(100, 300),
        "pcie_gbs": log(0.05, 4),
        "p2p_gbs": log(0.1, 4),
        "ssd_kiops": log(20, 2000),
        "dram_gib": (size * rng.uniform(0.2, 1.2) / 2 + slack * rng.uniform(0, 2)) / GIB,
        "ssd_gib": size * log(0.2, 20) / GIB,
        "stream_gbs": log(1, 17),
        "static_watts": log(0.01, 20),
        "channels": int(rng.choice([1, 2])),
    }
    figures["watts"] = figures["static_watts"] + log(0.1, 20)
    slow = log(0.3, 8)
    figures |= {
        f"random_{n}_gbs": slow * f for n, f in ((64, 1), (128, 1.2), (256, 1.4), (512, 1.4))
    }
    budget = budget_of("smartssd" if rng.random() < 0.8 or not number else "u50", **figures)
    depth = int(rng.choice([0, max(1, size * rng.uniform(0.05, 0.6) // 64)]))
    patterns = []
    # what copies leave of one pattern of several is no sum: of one it is
    wanted = 1 if copies else int(rng.integers(1, 4))
    while len(patterns) < wanted:
        memory = int(rng.choice([0, 1, 2], p=[0.15, 0.55, 0.3]))
        compute = int(rng.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))
        if not patterns:
            memory, compute = max(memory, 1), max(compute, 1)
        if not (memory or compute):
            continue
        on = memory and rng.random() < 0.8
        tail = tt if memory and rng.random() < 0.8 else None
        made = catalogue.make(
            budget,
            memory=memory,
            compute=compute,
            rows=int(rng.choice([2, 8])),
            columns=8,
            stream=bool(compute and rng.random() < 0.3),
            onchip_beats=depth if on else 0,
            pool_beats=int(rng.choice([1, 2])) if (on and depth) or tail else 1,
            tt=tail,
        )
        patterns.append(made)
    return DeviceClass(budget, count, tuple(patterns))


# --- costs, from docs/planner.md ---


def lanes_of(shape):
    """Components that a memory core pools per cycle."""
    common = math.gcd(*(t.dim for t in shape.tables))
    nibbles = all(t.format.startswith("int4") for t in shape.tables)
    return 128 if nibbles and common % 128 == 0 else math.gcd(common, 64)


def row_sizes(shape, table):
    """Beats, lane cycles, slices and stride of a row.

    A lane takes a slice per cycle, and a beat that holds no codes in a cycle of its own.
    """
    codes = table.dim // 2 if table.format.startswith("int4") else table.dim
    size = codes + (4 if table.format.endswith("r") else 0)
    beats = -(-size // 64)
    stride = 64 * beats if size > 64 else 1 << (size - 1).bit_length()
    slices = table.dim // lanes_of(shape)
    return beats, slices + beats - -(-codes // 64), slices, stride


class Costs:
    """Loads of a class: capacities of its patterns, of rows in each tier, of samples."""

    def __init__(self, problem, k):
        self.problem, self.k = problem, k
        self.klass = problem.classes[k]
        self.spec = self.klass.budget.spec
        self.stream = self.spec.stream_gbs * 1e9
        self.has_ssd = self.spec.ssd_gib is not None and self.spec.ssd_kiops is not None
        self.header = 4 * len(problem.shape.features) + problem.shape.dense

    def capacity(self, pattern):
        """What a device does per second, or holds."""
        spec, m = self.spec, pattern.memory
        clock = m * spec.clock_mhz * 1e6
        beats = pattern.gather.onchip_beats if m else 0
        link = spec.pcie_gbs * 1e9 * PIPE
        found = dict.fromkeys(("lookups", "port", "lane", "flight"), clock)
        found["fast"] = clock if beats or pattern.tt else 0.0
        found["pool"] = clock * (pattern.gather.pool_beats if m else 0)
        found["tt"] = clock if pattern.tt else 0.0
        found["dram"] = min(spec.channels, m)
        found["iops"] = spec.ssd_kiops * 1e3 if m and self.has_ssd else 0.0
        found["p2p"] = spec.p2p_gbs * 1e9 if m and self.has_ssd else 0.0
        found |= {"link_in": link, "link_out": link, "power": spec.watts - spec.static_watts}
        found["samples"] = pattern.capacity["samples"]
        held = int(spec.dram_gib * GIB) if m else pattern.weight_bytes
        found["dram_bytes"] = held - pattern.weight_bytes - 64 * m * len(self.problem.tables)
        found["ssd_bytes"] = int(spec.ssd_gib * GIB) if m and self.has_ssd else 0
        found["onchip_bytes"] = beats * 64 * m
        return found

    def sample(self, pattern):
        """Loads of one sample, and its joules."""
        w = pattern.sample_beats
        streamed = self.header + 8 + 64 * w
        loads = {
            "port": w,
            "dram": streamed / self.stream,
            "link_in": self.header,
            "link_out": 8,
        }
        joules = streamed * 8 * self.spec.dram_pj_bit
        joules += (self.header + 8) * 8 * self.spec.link_pj_bit
        joules += self.problem.compute_shape.macs * self.spec.mac_pj
        return loads | {"power": joules * 1e-12}, joules * 1e-12

    def rows(self, number, first, last, tier):
        """Loads and joules of ranks ``[first, last)`` of a table in a tier."""
        problem, spec = self.problem, self.spec
        demand = problem.tables[number]
        table = demand.shape
        beats, cycles, slices, stride = row_sizes(problem.shape, table)
        rates = np.repeat(demand.rates.rates, np.diff(demand.rates.edges))[first:last]
        lam = rates.sum()
        size = 64 * beats
        out = np.zeros(len(NAMES))

        def add(**loads):
            for name, value in loads.items():
                out[AT[name]] += value

        add(
            lookups=lam,
            pool=lam * slices,
            link_in=8 * lam,
            port=lam / 8,
            dram=8 * lam / self.stream,
        )
        joules = 8 * lam * 8 * (spec.dram_pj_bit + spec.link_pj_bit)
        if tier == "onchip":
            add(fast=lam * max(cycles, beats), onchip_bytes=len(rates) * stride)
            joules += lam * beats * spec.onchip_pj_beat
        elif tier == "tt":
            option = demand.tt
            pinned = first < option.pins * option.shape.p[2]
            add(fast=lam * slices, tt_rows=len(rates))
            add(tt=min(p.tt.cycles(option.shape, lam, float(pinned)) for p in self.with_tt()))
            q, r = option.shape.q, option.shape.ranks
            macs = q[0] * q[1] * q[2] * r[1] + (0 if pinned else q[0] * q[1] * r[0] * r[1])
            joules += lam * macs * spec.mac_pj
        else:
            random = self._random(size)
            flight = LATENCY + CREDIT + beats - OUTSTANDING % beats
            add(
                port=lam * beats,
                lane=lam * cycles,
                flight=lam * flight / max(1, OUTSTANDING // beats),
                dram=lam * size / random,
            )
            joules += lam * size * 8 * spec.dram_pj_bit
        if tier == "dram":
            add(dram_bytes=len(rates) * stride)
        if tier == "ssd":
            B = problem.batch
            page = max(1.0, 4096 / stride)
            distinct = ((1 - np.exp(-B * rates)) / B).sum()
            reads = ((1 - np.exp(-B * rates * page)) / (B * page)).sum()
            add(iops=reads, p2p=4096 * reads, dram=(4096 * reads + size * distinct) / self.stream)
            add(ssd_bytes=len(rates) * stride, ring=2 * 2 * distinct * B * size, staged=1)
            joules += reads * (spec.ssd_uj_read * 1e6 + 4096 * 8 * spec.dram_pj_bit)
            joules += size * distinct * 8 * spec.dram_pj_bit
        add(power=joules * 1e-12)
        return out, joules * 1e-12

    def _random(self, size):
        spec = self.spec
        known = {n: getattr(spec, f"random_{n}_gbs") for n in (64, 128, 256, 512)}
        return float(np.interp(size, list(known), list(known.values()))) * 1e9

    def with_tt(self):
        return [p for p in self.klass.patterns if p.tt is not None]

    def partial(self, number):
        """Bytes of a bag's partial, and joules of one link."""
        table = self.problem.tables[number].shape
        size = table.dim * (8 if table.format.endswith("r") else 4) + 8
        spec = self.spec
        return size, size * 8 * (2 * spec.dram_pj_bit + spec.link_pj_bit) * 1e-12


# --- what may be decided for a table ---


@dataclasses.dataclass
class Options:
    """Of each option: ``loads`` (options, classes, NAMES), ``joules``, incoming partials' ``bytes``
    and their ``in_joules`` by class (options, classes)."""

    loads: np.ndarray
    joules: np.ndarray
    size: np.ndarray
    in_joules: np.ndarray

    def times(self, other):
        """All pairs of an option of each."""
        return Options(
            *(
                (a[:, None] + b[None]).reshape(-1, *a.shape[1:])
                for a, b in (
                    (self.loads, other.loads),
                    (self.joules, other.joules),
                    (self.size, other.size),
                    (self.in_joules, other.in_joules),
                )
            )
        )


def options(case, costs, number, *, exchange, split):
    """All that may be decided for a table."""
    problem = case.problem
    demand, cuts = problem.tables[number], case.ranks[number].tolist()
    intervals = list(itertools.pairwise(cuts))
    places = [
        [(k, s) for k, c in enumerate(costs) for s in TIERS if _may(demand, c, first, s)]
        for first, _ in intervals
    ]
    total = demand.rates.lookups
    found = []
    shape = (len(costs), len(NAMES))
    if demand.replicate is not True or not exchange:
        parts = {
            (j, k, s): costs[k].rows(number, *intervals[j], s)
            for j, each in enumerate(places)
            for k, s in each
        }
        for chosen in itertools.product(*places):
            tiers = [TIERS.index(s) for _, s in chosen]
            if (len(costs) == 1 or not exchange or not split) and tiers != sorted(tiers):
                continue  # of one class, a hotter interval is not in a slower tier
            if not split and len({k for k, _ in chosen}) > 1:
                continue
            loads, joules = np.zeros(shape), 0.0
            size, in_joules = 0.0, np.zeros(len(costs))
            for j, (k, s) in enumerate(chosen):
                vector, energy = parts[j, k, s]
                loads[k] += vector
                joules += energy
                if exchange:
                    bytes_, each = costs[k].partial(number)
                    first, last = intervals[j]
                    rates = np.repeat(demand.rates.rates, np.diff(demand.rates.edges))
                    bags = demand.bags * rates[first:last].sum() / total
                    loads[k, AT["link_out"]] += bags * bytes_
                    loads[k, AT["dram"]] += 2 * bags * bytes_ / costs[k].stream
                    joules += bags * each
                    loads[k, AT["power"]] += bags * each
            for k, c in enumerate(costs):
                if loads[k, AT["tt_rows"]]:
                    built = [p.tt.core_words(demand.tt.shape) for p in c.with_tt()]
                    for n in range(3):
                        loads[k, AT[f"words{n}"]] = min(words[n] for words in built)
                    loads[k, AT["loss"]] = demand.tt.loss
            if exchange:
                size = demand.bags * costs[0].partial(number)[0]
                in_joules = np.array([demand.bags * c.partial(number)[1] for c in costs])
            found.append((loads, joules, size, in_joules))
    chosen = demand.replicate is None and demand.tt is None and (demand.dram or demand.onchip)
    if (demand.replicate or chosen) and exchange and len(costs) == 1:
        for s in ("onchip", "dram"):
            if not all((0, s) in each for each in places):
                continue
            loads, joules = costs[0].rows(number, 0, demand.shape.rows, s)
            loads[AT[f"{s}_copy"]] = loads[AT[f"{s}_bytes"]]
            loads[AT[f"{s}_bytes"]] = 0
            found.append((loads[None], joules, 0.0, np.zeros(1)))
    if not found:
        return None
    return Options(*(np.array(each) for each in zip(*found, strict=True)))


def _may(demand, costs, first, tier):
    patterns = costs.klass.patterns
    if tier == "onchip":
        within = demand.onchip_rows is None or first < demand.onchip_rows
        room = any(p.memory and p.gather.onchip_beats for p in patterns)
        return demand.onchip and within and room
    if tier == "tt":
        return demand.tt is not None and first < demand.tt.last and bool(costs.with_tt())
    forced = demand.tt is not None and demand.tt_only and first < demand.tt.last
    if tier == "ssd":
        return demand.ssd and costs.has_ssd and not forced
    return demand.dram and not forced


# --- the optimum ---


def device_sets(problem):
    """Counts of every pattern, of all devices in use."""
    each = []
    for k, klass in enumerate(problem.classes):
        keys = range(len(klass.patterns))
        each.append(
            [
                tuple((k, p) for p in found)
                for n in range(klass.count + 1)
                for found in itertools.combinations_with_replacement(keys, n)
            ]
        )
    for chosen in itertools.product(*each):
        used = [key for found in chosen for key in found]
        if used:
            yield {key: used.count(key) for key in used}


def optimum(case, objective="throughput", rate=None, *, split=True):
    """Least seconds, joules or devices; inf where there is nothing to choose.

    Without ``split`` each table is in one class.
    """
    problem = case.problem
    costs = [Costs(problem, k) for k in range(len(problem.classes))]
    several, alone = (_every(case, costs, exchange=e, split=split) for e in (True, False))
    best = math.inf
    for counts in device_sets(problem):
        every = several if sum(counts.values()) > 1 else alone
        if every is None:
            continue
        fits = _fits(problem, costs, every, counts)
        if not fits.any():
            continue
        kept = Options(
            every.loads[fits], every.joules[fits], every.size[fits], every.in_joules[fits]
        )
        best = min(best, _best_shares(problem, costs, kept, counts, objective, rate))
    return best


def _every(case, costs, *, exchange, split):
    """All that may be decided for all tables."""
    every = None
    for number in range(len(case.problem.tables)):
        mine = options(case, costs, number, exchange=exchange, split=split)
        if mine is None:
            return None
        every = mine if every is None else every.times(mine)
    return every


def _fits(problem, costs, every, counts):
    """Of which options everything fits the devices."""
    good = np.ones(len(every.size), bool)
    # rings of all devices of a class, in use or not; of one device where it is alone
    for k, cost in enumerate(costs):
        rings = cost.klass.count if sum(counts.values()) > 1 else 1
        at = {name: every.loads[:, k, i] for name, i in AT.items()}
        mine = {p: n for (kk, p), n in counts.items() if kk == k}
        patterns = cost.klass.patterns
        held = dict.fromkeys(("onchip_bytes", "dram_bytes", "ssd_bytes"), 0.0)
        devices = 0
        for p, n in mine.items():
            capacity = cost.capacity(patterns[p])
            for name in held:
                held[name] += n * capacity[name]
            devices += n
            for name in ("onchip", "dram"):
                good &= at[f"{name}_copy"] <= capacity[f"{name}_bytes"] * (1 + 1e-12)
        slack = (
            rings * 2 * 32 * 64 * max(row_sizes(problem.shape, t.shape)[0] for t in problem.tables)
        )
        ring = at["ring"] + slack * (at["staged"] > 0)
        used = {
            "onchip_bytes": at["onchip_bytes"] + devices * at["onchip_copy"],
            "dram_bytes": at["dram_bytes"] + devices * at["dram_copy"] + ring,
            "ssd_bytes": at["ssd_bytes"],
        }
        for name, need in used.items():
            good &= need <= held[name] * (1 + 1e-12) + 1e-9
        for n, name in enumerate(("core1_words", "core2_words", "core3_words")):
            words = sum(
                c * getattr(patterns[p].tt, name) for p, c in mine.items() if patterns[p].tt
            )
            good &= at[f"words{n}"] <= words
    if problem.max_loss is not None:
        good &= every.loads[:, :, AT["loss"]].sum(1) <= problem.max_loss * (1 + 1e-12)
    return good


def _best_shares(problem, costs, every, counts, objective, rate):
    """Best share of samples of each of one or two patterns; of all options the least value."""
    keys = sorted(counts)
    sides = []  # per key: loads of a sample by class and resource, joules
    own = []  # per key: seconds of a sample at a port of the device's own
    for k, p in keys:
        loads = np.zeros((len(every.size), len(costs), len(TIMES)))
        pattern = costs[k].klass.patterns[p]
        mine, joules = costs[k].sample(pattern)
        for name, value in mine.items():
            loads[:, k, AT[name]] += value
        loads[:, k, AT["link_in"]] += every.size
        loads[:, k, AT["dram"]] += 2 * every.size / costs[k].stream
        loads[:, k, AT["power"]] += every.in_joules[:, k]
        own.append(np.zeros(len(every.size)))
        if not pattern.memory:
            beats, seconds = loads[:, k, AT["port"]], loads[:, k, AT["dram"]].copy()
            own[-1] = np.maximum(beats / (costs[k].spec.clock_mhz * 1e6), seconds) / counts[k, p]
            loads[:, k, [AT["port"], AT["dram"]]] = 0
        sides.append((loads, joules + every.in_joules[:, k]))
    capacity = np.zeros((len(costs), len(TIMES)))
    samples = []
    for (k, p), n in counts.items():
        pattern = costs[k].klass.patterns[p]
        offered = costs[k].capacity(pattern)
        capacity[k] += [n * offered[name] for name in TIMES]
    for key in keys:
        k, p = key
        pattern = costs[k].klass.patterns[p]
        slow = problem.max_latency is not None and pattern.latency > problem.max_latency
        samples.append(0.0 if slow else counts[key] * costs[k].capacity(pattern)["samples"])
    fixed = every.loads[:, :, : len(TIMES)]
    # T >= base + slope × q, with q the share of the first key and 1 - q that of the second
    last = sides[-1][0]
    base = (fixed + last).reshape(len(every.size), -1)
    slope = (sides[0][0] - last).reshape(base.shape) if len(keys) == 2 else np.zeros_like(base)
    if len(keys) > 2:
        raise AssertionError("two devices have two patterns at most")
    room = capacity.reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        lines = [
            (
                np.where(base[:, i] > 0, base[:, i] / room[i], 0.0),
                np.where(slope[:, i] != 0, slope[:, i] / room[i], 0.0),
            )
            for i in range(len(room))
        ]
    unable = np.zeros(len(every.size), bool)
    low, high = 0.0, 1.0
    for i in np.flatnonzero(room == 0):
        # nothing may be asked of it: at either end alone, where anything is
        left, right = base[:, i] > 0, base[:, i] + slope[:, i] > 0
        unable |= left & right
        if (left & ~right).any() or (right & ~left).any():
            raise AssertionError("a class without memory holds rows for some shares alone")
        lines[i] = (np.zeros_like(base[:, i]),) * 2
    if len(keys) == 1:
        if not samples[0]:
            return math.inf
        lines.append((np.full(len(every.size), 1 / samples[0]), np.zeros(len(every.size))))
        lines.append((own[0], np.zeros(len(every.size))))
        low = high = 0.0
    else:
        first, second = samples
        one, zero = np.ones(len(every.size)), np.zeros(len(every.size))
        if not first and not second:
            return math.inf
        low, high = (0.0 if second else 1.0), (1.0 if first else 0.0)
        if first:
            lines.append((zero, one / first))
        if second:
            lines.append((one / second, -one / second))
        lines.append((zero, own[0]))
        lines.append((own[1], -own[1]))
    if objective == "throughput":
        value = _least_peak(lines, low, high)
        return float(np.where(unable, math.inf, value).min())
    return _at_rate(problem, costs, every, sides, lines, unable, low, high, objective, rate, counts)


def _least_peak(lines, low, high):
    """Over ``[low, high]``, where the largest of the lines is least: an end or a crossing."""
    still = np.maximum.reduce([a for a, b in lines if not b.any()])
    steep = [(a, b) for a, b in lines if b.any()]
    spots = [np.full_like(still, low), np.full_like(still, high)]
    for (a, b), (c, d) in itertools.combinations([*steep, (still, np.zeros_like(still))], 2):
        with np.errstate(divide="ignore", invalid="ignore"):
            spot = (c - a) / (b - d)
        spots.append(np.clip(np.nan_to_num(spot, nan=low, posinf=low, neginf=low), low, high))
    peaks = [np.maximum.reduce([still, *(a + b * spot for a, b in steep)]) for spot in spots]
    return np.minimum.reduce(peaks)


def _at_rate(problem, costs, every, sides, lines, unable, low, high, objective, rate, counts):
    """Least joules, or the count of these devices, where the rate can be had."""
    seconds = 1 / rate
    least, most = np.full(len(every.size), low), np.full(len(every.size), high)
    good = ~unable
    for a, b in lines:
        with np.errstate(divide="ignore", invalid="ignore"):
            spot = (seconds - a) / b
        most = np.where(b > 0, np.minimum(most, spot), most)
        least = np.where(b < 0, np.maximum(least, spot), least)
        good &= (b != 0) | (a <= seconds * (1 + 1e-12))
    good &= least <= most + 1e-12
    if not good.any():
        return math.inf
    if objective == "devices":
        return float(sum(counts.values()))
    watts = sum(n * costs[k].spec.static_watts for (k, _), n in counts.items())
    first, last = sides[0][1], sides[-1][1]
    ends = [every.joules + q * first + (1 - q) * last for q in (least, most)]
    value = np.minimum(*ends) + watts * seconds
    return float(value[good].min())
