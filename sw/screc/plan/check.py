"""Checks a plan from scratch: every rank somewhere, every capacity kept, every time recomputed.

Nothing of the solver is used, and no formula of ``screc.plan.costs``: ranges as ``plan.json`` has
them, whole rows, full rate curves, each memory core's own load. Shared are the figures of devices
and the formulas of the cores' own parameter classes, which their tests compare with the hardware.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from screc.errors import CheckError
from screc.plan.budget import RESOURCES, Budget
from screc.plan.catalogue import LATENCY_CYCLES, Catalogue, Pattern
from screc.plan.costs import STAGES
from screc.plan.device import TT_FRACTION
from screc.plan.problem import Problem, TableDemand
from screc.plan.rates import RateCurve
from screc.plan.schema import DevicePlan, Plan, Range, TtForm
from screc_hw.combiner.params import CombinerParams
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import streamed_beats
from screc_hw.device.params import HostParams, max_compute, max_memory
from screc_hw.memory.params import CREDIT_LOOP_CYCLES, MemoryCoreParams
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams
from screc_hw.resources import Resources
from screc_hw.tt.params import COLUMNS, TtParams
from screc_hw.tt.shape import GROUPS, TtShape

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE = 1e-9
"""Relative: what a recomputed time may be above one that the plan claims."""

BEAT, PAGE, RECORD = 64, 4096, 8
"""Bytes of a beat, of an SSD read, and of a lookup record, a result or a partial's header."""

MAX_PERIOD = 1 << 24
"""Ranks after which all stripes of a table must repeat."""

TIERS = ("onchip", "tt", "dram", "ssd")


class Rule(enum.StrEnum):
    """What a plan must keep, in about the order of the checks: the first one broken is named."""

    PROBLEM = "problem"
    """It is for this objective, batch and rate; devices list tables of the model, each once."""
    DEVICES = "devices"
    """Devices are of known classes, and not more than there are."""
    SAMPLES = "samples"
    """Shares of the samples sum to 1; a device without compute cores has none."""
    CORE = "core"
    """Cores can be built; memory cores of ranges exist; stripes are residues."""
    COVERAGE = "coverage"
    """Every rank is somewhere; replicated ones on every device."""
    OVERLAP = "overlap"
    """No rank is in two places."""
    TIER = "tier"
    """Every row is in a tier that its table and device allow; TT ranges are whole on a device."""
    SPLIT = "split"
    """No table is on several devices where that is not wanted."""
    LOSS = "loss"
    """Losses of tables in TT form sum to the limit at most."""
    TT = "tt"
    """TT cores and pinned prefixes fit the reconstructors."""
    LUT = "lut"
    FF = "ff"
    DSP = "dsp"
    BRAM36 = "bram36"
    URAM = "uram"
    SLR = "slr"
    """Every core lies in one SLR, and so does all that is neither memory nor compute core."""
    ONCHIP = "onchip"
    """Rows fit each memory core's on-chip beats."""
    DRAM = "dram"
    """Rows, staging ring and streamed weights fit the device memory."""
    SSD = "ssd"
    """Rows fit the SSD."""
    RING = "ring"
    """The staging ring holds what two blocks read."""
    CHANNEL = "channel"
    """Memory channels are busy no longer than the plan, or the required rate, says."""
    LINK = "link"
    """Likewise the host link."""
    POWER = "power"
    """Likewise what the power limit leaves for work."""
    TIME = "time"
    """Likewise everything else; value and energy are as the plan says, or less."""
    LATENCY = "latency"
    """A batch alone takes no longer than the limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """What a plan really costs.

    Parameters
    ----------
    objective
        What ``value`` is of.
    per_sample
        Seconds per sample that each part (``costs.STAGES``) of the busiest device is busy.
    busy
        The same of every device, in the plan's order.
    seconds
        Time per sample at full speed: that of the busiest part of all devices.
    energy
        Joules per sample at the required rate, else at full speed.
    latency
        Seconds of one batch on idle devices.
    devices
        Devices in use.
    ssd_reads
        Expected 4 KiB reads per sample, all devices together.
    utilisation
        Used ÷ usable of ``lut``, ``ff``, ``dsp``, ``bram36``, ``uram``, ``dram``, ``ssd`` of every
        device.
    """

    objective: str
    per_sample: Mapping[str, float]
    busy: tuple[Mapping[str, float], ...]
    seconds: float
    energy: float
    latency: float
    devices: int
    ssd_reads: float
    utilisation: tuple[Mapping[str, float], ...]

    @property
    def bottleneck(self) -> str:
        """The part that is busy longest."""
        return max(self.per_sample, key=lambda name: self.per_sample[name])

    @property
    def value(self) -> float:
        """Seconds per sample, joules per sample, or devices, by objective."""
        if self.objective == "energy":
            return self.energy
        return float(self.devices) if self.objective == "devices" else self.seconds


def check(plan: Plan, problem: Problem) -> Checked:
    """Recompute a plan, and compare with what it says of itself.

    Raises
    ------
    CheckError
        If a rule is broken: ``rule`` is its :class:`Rule`, the message says where and by how much.
    """
    checked, found = _recompute(plan, problem)
    _enforce([*_claims(plan, checked), *found])
    return checked


def measure(plan: Plan, problem: Problem) -> Checked:
    """Recompute a plan that has no figures yet: ``seconds``, ``value``, ``per_sample``, ...

    Raises
    ------
    CheckError
        As :func:`check`; times are compared with the problem's limits alone.
    """
    checked, found = _recompute(plan, problem)
    _enforce(found)
    return checked


def _recompute(plan: Plan, problem: Problem) -> tuple[Checked, list[_Finding]]:
    """Recompute a plan that keeps all rules but, maybe, limits of times, which are returned."""
    budgets, parts = _structure(plan, problem)
    holdings = _holdings(plan, problem, parts)
    sizes = _Sizes(problem.tables)
    devices = [
        _Device(problem, sizes, device, budget, held, exchange=len(plan.devices) > 1)
        for device, budget, held in zip(plan.devices, budgets, holdings, strict=True)
    ]
    _enforce(itertools.chain.from_iterable(device.capacities() for device in devices))
    partials = sum(device.partials for device in devices)
    uses = [device.use(partials) for device in devices]
    checked = _together(plan, problem, devices, uses)
    return checked, list(_limits(problem, checked))


_Finding = tuple[Rule, str]


class _Findings(list[_Finding]):
    """Broken rules, each with where and by how much."""

    def add(self, rule: Rule, message: str) -> None:
        self.append((rule, message))


_ORDER = {rule: number for number, rule in enumerate(Rule)}


def _enforce(found: Iterable[_Finding]) -> None:
    """Raise the first broken rule, if any."""
    rule, message = min(found, key=lambda each: _ORDER[each[0]], default=(None, ""))
    if rule is not None:
        raise CheckError(f"{rule}: {message}", rule=rule)


# --- structure: ranges, devices, shares ---


@dataclasses.dataclass(frozen=True)
class _Part:
    """A range of a table on a device; ``core`` None: any memory core, or every one."""

    device: int
    table: int
    tier: str
    first: int
    last: int
    of: int
    take: tuple[int, ...]
    core: int | None
    tt: TtForm | None
    replicated: bool


def _structure(plan: Plan, problem: Problem) -> tuple[list[Budget], list[list[_Part]]]:
    """Each device's figures, and the ranges of each table, if nothing is wrong with them."""
    found = _Findings()
    for name in ("objective", "batch", "rate"):
        have, want = getattr(plan, name), getattr(problem, name)
        if have != want:
            found.add(Rule.PROBLEM, f"the plan is for {name} {have}, not {want}")
    budgets = _budgets(plan, problem, found)
    _check_samples(plan, found)
    numbers = {table.shape.name: number for number, table in enumerate(problem.tables)}
    parts: list[list[_Part]] = [[] for _ in problem.tables]
    for index, device in enumerate(plan.devices):
        _check_cores(index, device, found)
        if len({held.table for held in device.tables}) < len(device.tables):
            found.add(Rule.PROBLEM, f"device {index} lists a table twice")
        for held in device.tables:
            number = numbers.get(held.table)
            if number is None:
                found.add(Rule.PROBLEM, f"device {index}: there is no table {held.table!r}")
                continue
            rows = problem.tables[number].shape.rows
            for r in held.ranges:
                wrong = _range_faults(r, rows, device.cores.memory)
                for rule, message in wrong:
                    where = f"device {index}, table {held.table!r}, {r.tier} [{r.first}, {r.last})"
                    found.add(rule, f"{where}: {message}")
                part = _part(index, number, r)
                if not wrong and _rows(part):
                    parts[number].append(part)
    _enforce(found)
    for number, table in enumerate(problem.tables):
        mine = parts[number]
        found += _tier_faults(problem, table, mine, budgets)
        found += _tt_faults(table, mine, [device.cores.memory for device in plan.devices])
        if not problem.split and len({p.device for p in mine if not p.replicated}) > 1:
            found.add(Rule.SPLIT, f"table {table.shape.name!r} is on several devices")
        found += _coverage_faults(table, mine, len(plan.devices))
    if problem.max_loss is not None:
        loss = sum(
            table.tt.loss
            for table, mine in zip(problem.tables, parts, strict=True)
            if table.tt is not None and any(part.tier == "tt" for part in mine)
        )
        if loss > problem.max_loss * (1 + TOLERANCE):
            found.add(Rule.LOSS, f"tables in TT form lose {loss:g}, more than {problem.max_loss:g}")
    _enforce(found)
    return [budget for budget in budgets if budget is not None], parts


def _budgets(plan: Plan, problem: Problem, found: _Findings) -> list[Budget | None]:
    """Each device's figures; of classes of one kind the first ones are taken first."""
    free: dict[str, list[Budget]] = {}
    for each in problem.classes:
        free.setdefault(each.budget.kind, []).extend([each.budget] * each.count)
    have = {kind: len(budgets) for kind, budgets in free.items()}
    if not plan.devices:
        found.add(Rule.DEVICES, "the plan has no device")
    budgets: list[Budget | None] = []
    for device in plan.devices:
        left = free.get(device.kind)
        budgets.append(left.pop(0) if left else None)
    for kind in {device.kind for device in plan.devices}:
        wanted = sum(device.kind == kind for device in plan.devices)
        if wanted > have.get(kind, 0):
            found.add(Rule.DEVICES, f"the plan has {wanted} {kind} of {have.get(kind, 0)}")
    return budgets


def _check_samples(plan: Plan, found: _Findings) -> None:
    for index, device in enumerate(plan.devices):
        if not 0 <= device.samples <= 1 + TOLERANCE:
            found.add(Rule.SAMPLES, f"device {index}: a share of {device.samples:g}")
        if device.samples > TOLERANCE and not device.cores.compute:
            found.add(
                Rule.SAMPLES,
                f"device {index} computes a share of {device.samples:g} without compute cores",
            )
    total = math.fsum(device.samples for device in plan.devices)
    if not math.isclose(total, 1, rel_tol=TOLERANCE):
        found.add(Rule.SAMPLES, f"shares must sum to 1, not {total:.12g}")


def _check_cores(index: int, device: DevicePlan, found: _Findings) -> None:
    cores = device.cores
    for name, count, most in (
        ("memory", cores.memory, max_memory()),
        ("compute", cores.compute, max_compute()),
    ):
        if not 0 <= count <= most:
            found.add(Rule.CORE, f"device {index}: {name} cores in 0..{most}, not {count}")
    if not (cores.memory or cores.compute):
        found.add(Rule.CORE, f"device {index} has no core")
    if cores.tt < 0 or (cores.tt and (cores.memory < 1 or cores.tt % cores.memory)):
        found.add(
            Rule.CORE,
            f"device {index}: {cores.tt} TT lanes must be as many for each of "
            f"{cores.memory} memory cores",
        )


def _part(device: int, table: int, r: Range) -> _Part:
    return _Part(
        device=device,
        table=table,
        tier=r.tier,
        first=r.first,
        last=r.last,
        of=r.stripe.of if r.stripe else 1,
        take=r.stripe.take if r.stripe else (0,),
        core=r.core,
        tt=r.tt,
        replicated=r.replicated,
    )


def _range_faults(r: Range, rows: int, memory: int) -> _Findings:
    """What is wrong with a range by itself."""
    found = _Findings()
    if not 0 <= r.first < r.last:
        found.add(Rule.COVERAGE, "a range begins at 0 and before its end")
    if r.last > rows:
        found.add(Rule.COVERAGE, f"the table has {rows} rows")
    if r.stripe is not None:
        of, take = r.stripe.of, r.stripe.take
        if of < 1 or not take or len(set(take)) < len(take) or not 0 <= min(take) <= max(take) < of:
            found.add(Rule.CORE, f"no stripe takes {take} of {of}")
        elif of > MAX_PERIOD:
            found.add(Rule.CORE, f"stripes of {of} ranks, more than {MAX_PERIOD}")
    if memory < 1:
        found.add(Rule.CORE, "the device has no memory core")
    if r.replicated:
        if r.tier not in ("onchip", "dram"):
            found.add(Rule.TIER, "only rows on chip or in DRAM are replicated")
        if r.core is None and r.stripe is not None:
            found.add(Rule.CORE, "is every memory core's, so has no stripe")
        if r.core is not None and not 0 <= r.core < memory:
            found.add(Rule.CORE, f"there is no memory core {r.core} of {memory}")
    elif r.tier == "ssd":
        if r.core is not None:
            found.add(Rule.CORE, f"any core reads rows on SSD, not core {r.core}")
    elif r.core is None or not 0 <= r.core < memory:
        found.add(Rule.CORE, f"there is no memory core {r.core} of {memory}")
    return found


def _tier_faults(
    problem: Problem, table: TableDemand, parts: Sequence[_Part], budgets: Sequence[Budget | None]
) -> _Findings:
    """Tiers that the table, or the device, does not allow."""
    name = f"table {table.shape.name!r}"
    found = _Findings()
    for tier, allowed in (
        ("onchip", table.onchip),
        ("tt", table.tt is not None),
        ("dram", table.dram),
        ("ssd", table.ssd),
    ):
        if not allowed and any(part.tier == tier for part in parts):
            found.add(Rule.TIER, f"{name} may not be in tier {tier}")
    for part in parts:
        budget = budgets[part.device]
        if part.tier == "ssd" and budget is not None and not budget.has_ssd:
            found.add(Rule.TIER, f"{name}: device {part.device} has no SSD to use")
    if any(part.replicated for part in parts):
        if table.replicate is False:
            found.add(Rule.TIER, f"{name} may not be replicated")
        if len(problem.classes) > 1:
            found.add(Rule.TIER, f"{name} is replicated over unequal devices")
    several = len(budgets) > 1
    if table.replicate and several and not all(part.replicated for part in parts):
        found.add(Rule.TIER, f"{name} must be replicated")
    limit = table.onchip_rows
    if limit is not None:
        copies = [0] * len(budgets)
        rows = 0
        for part in parts:
            if part.tier == "onchip" and part.replicated:
                copies[part.device] += _rows(part)
            elif part.tier == "onchip":
                rows += _rows(part)
        rows += max(copies)
        if rows > limit:
            found.add(Rule.TIER, f"{name} has {rows} rows on chip, more than {limit}")
    return found


def _tt_faults(table: TableDemand, parts: Sequence[_Part], memories: Sequence[int]) -> _Findings:
    """Ranks in TT form that should not be, or not so; ``memories`` are cores by device."""
    option, name = table.tt, f"table {table.shape.name!r}"
    found = _Findings()
    if option is None:
        return found
    slow = (part.first + min(part.take) for part in parts if part.tier in ("dram", "ssd"))
    exact = min(slow, default=option.last)
    if table.tt_only and exact < option.last:
        found.add(
            Rule.TIER, f"{name}: ranks below {option.last} are on chip or in TT form, not {exact}"
        )
    built = [part for part in parts if part.tier == "tt"]
    if not built:
        return found
    if len({(part.device, part.first, part.last, part.tt) for part in built}) > 1:
        found.add(Rule.TIER, f"{name} has more than one set of TT cores")
    elif sum(_rows(part) for part in built) != built[0].last - built[0].first:
        found.add(Rule.TIER, f"{name} has a part of the rows of its TT cores")
    for part in built:
        memory = memories[part.device]
        most = -(-option.last // memory) * memory  # whole groups of a rank per memory core
        if part.last > most:
            found.add(Rule.TIER, f"{name}: TT form is for ranks below {most}, not {part.last}")
        if part.tt is not None and not _is_as_good(part.tt, option.shape):
            found.add(
                Rule.TIER,
                f"{name}: TT cores have dimension {option.shape.dim} and ranks {option.shape.ranks}"
                f" at least, not {part.tt.q} and {part.tt.ranks}",
            )
    return found


def _is_as_good(form: TtForm, like: TtShape) -> bool:
    """Whether TT cores have the other ones' ranks, or all that cores of their sizes can have."""
    left, middle, right = (p * q for p, q in zip(form.p, form.q, strict=True))
    full = min(left, middle * right), min(right, left * middle)
    ranks = zip(form.ranks, like.ranks, full, strict=True)
    return math.prod(form.q) == like.dim and all(r >= min(want, most) for r, want, most in ranks)


def _rows(part: _Part) -> int:
    """Count the ranks of a range."""
    length = part.last - part.first
    whole, rest = divmod(length, part.of)
    return whole * len(part.take) + sum(residue < rest for residue in part.take)


def _coverage_faults(
    table: TableDemand, parts: Sequence[_Part], devices: int
) -> Iterable[_Finding]:
    """Every device finds each rank once: among its replicated ranges, or those of all devices."""
    name, rows = table.shape.name, table.shape.rows
    shared = [part for part in parts if not part.replicated]
    copies: list[list[_Part]] = [[] for _ in range(devices)]
    for part in parts:
        if part.replicated:
            copies[part.device].append(part)
    seen = set()
    for device, mine in enumerate(copies):
        key = tuple(sorted((part.first, part.last) for part in mine))
        if key not in seen:
            seen.add(key)
            where = f"table {name!r}" + (f" as device {device} sees it" if any(copies) else "")
            yield from _once(where, rows, [*shared, *mine])


def _once(where: str, rows: int, parts: Sequence[_Part]) -> Iterable[_Finding]:
    """Find ranks of ``[0, rows)`` that are nowhere, or in several ranges."""
    corners = sorted({0, rows, *(part.first for part in parts), *(part.last for part in parts)})
    for first, last in itertools.pairwise(corners):
        here = [part for part in parts if part.first <= first and last <= part.last]
        period = math.lcm(*(part.of for part in here))
        size = min(last - first, period)
        if size > MAX_PERIOD:
            yield Rule.CORE, f"{where}: its stripes repeat after {period} ranks only"
            continue
        holders = np.zeros(size, np.int64)
        for part in here:
            for residue in part.take:
                holders[(residue + part.first - first) % part.of :: part.of] += 1
        if not holders.all():
            rank = first + int(holders.argmin())
            yield Rule.COVERAGE, f"{where}: rank {rank} is nowhere"
        if holders.max() > 1:
            rank = first + int(holders.argmax())
            yield Rule.OVERLAP, f"{where}: rank {rank} is in {holders.max()} places"


# --- what a range holds: rows, lookups, reads ---


@dataclasses.dataclass(frozen=True)
class _Held:
    """Ranges of a device, each ``(ranges,)``.

    ``core`` is -1 for any or every core; ``rows`` of one copy; per sample ``lookups`` of this
    device, ``pinned`` ones of them, ``distinct`` rows to stage and ``reads`` if on SSD.
    """

    parts: Sequence[_Part]
    table: Ints
    tier: Ints
    core: Ints
    replicated: NDArray[np.bool_]
    rows: Ints
    lookups: Floats
    pinned: Floats
    distinct: Floats
    reads: Floats


def _holdings(plan: Plan, problem: Problem, parts: Sequence[Sequence[_Part]]) -> list[_Held]:
    """Sum the rate curves over every range."""
    shares = [device.samples for device in plan.devices]
    found: list[list[tuple[_Part, Sequence[float]]]] = [[] for _ in plan.devices]
    for table, mine in zip(problem.tables, parts, strict=True):
        for part, sums in zip(mine, _sums(table, mine, problem.batch), strict=True):
            if part.replicated:
                sums = [sums[0], *(shares[part.device] * each for each in sums[1:])]
            found[part.device].append((part, sums))
    return [_held(each) for each in found]


def _held(found: Sequence[tuple[_Part, Sequence[float]]]) -> _Held:
    parts = [part for part, _ in found]
    sums = np.array([each for _, each in found], np.float64).reshape(-1, 5).T
    return _Held(
        parts=parts,
        table=np.array([part.table for part in parts], np.int64),
        tier=np.array([TIERS.index(part.tier) for part in parts], np.int64),
        core=np.array([-1 if part.core is None else part.core for part in parts], np.int64),
        replicated=np.array([part.replicated for part in parts], np.bool_),
        rows=sums[0].astype(np.int64),
        lookups=sums[1],
        pinned=sums[2],
        distinct=sums[3],
        reads=sums[4],
    )


def _sums(table: TableDemand, parts: Sequence[_Part], batch: int) -> list[list[float]]:
    """Rows, lookups, lookups with a pinned prefix, distinct rows and reads of every range."""
    rate = table.rates.rates
    stride = table.shape.stride_bytes(BEAT)
    page = max(1.0, PAGE / stride)
    per_rank = np.stack(
        [
            np.ones_like(rate),
            rate,
            -np.expm1(-batch * rate) / batch,
            -np.expm1(-batch * rate * page) / (batch * page),
        ]
    )
    sums = [[0.0] * 5 for _ in parts]
    alike: dict[tuple[int, int, int], list[int]] = {}
    for number, part in enumerate(parts):
        alike.setdefault((part.first, part.last, part.of), []).append(number)
    for (first, last, of), numbers in alike.items():
        takes = [parts[number].take for number in numbers]
        whole = _by_residue(table.rates, per_rank, first, last, of, takes)
        for number, (rows, lookups, distinct, reads) in zip(numbers, whole.T.tolist(), strict=True):
            staged = parts[number].tier == "ssd"
            sums[number] = [rows, lookups, 0.0, distinct * staged, reads * staged]
        form = parts[numbers[0]].tt
        if form is not None and form.pins:
            pinned = min(last, first + form.pins * form.p[2])
            hot = _by_residue(table.rates, per_rank[1:2], first, pinned, of, takes)
            for number, lookups in zip(numbers, hot[0].tolist(), strict=True):
                sums[number][2] = lookups
    return sums


def _by_residue(
    curve: RateCurve,
    per_rank: Floats,
    first: int,
    last: int,
    of: int,
    takes: Sequence[tuple[int, ...]],
) -> Floats:
    """Sum values per rank, ``(values, pieces)``, over residues of a range: ``(values, takes)``."""
    low = int(np.searchsorted(curve.edges, first, "right")) - 1
    high = int(np.searchsorted(curve.edges, last, "left"))
    corners = np.concatenate([[first], curve.edges[low + 1 : high], [last]]) - first
    residues = np.fromiter(itertools.chain.from_iterable(takes), np.int64)
    # x of [0, corner) with x mod of = residue: ceil((corner - residue) / of)
    counts = np.diff((corners[:, None] - residues + of - 1) // of, axis=0)
    starts = np.cumsum([0, *(len(take) for take in takes[:-1])])
    return np.add.reduceat(per_rank[:, low:high] @ counts, starts, axis=1)


# --- devices ---


@functools.lru_cache(maxsize=8)
def _catalogue(shape: ModelShape, compute_shape: ModelShape, batch: int) -> Catalogue:
    return Catalogue(shape, compute_shape, batch)


@functools.lru_cache(maxsize=256)
def _core_resources(params: MemoryCoreParams | TtParams | ComputeParams) -> Resources:
    return params.resources()


@functools.lru_cache(maxsize=256)
def _combiner_resources(params: CombinerParams, inputs: int, cores: int) -> Resources:
    return params.resources(inputs=inputs, cores=cores)


class _Sizes:
    """Rows of every table: ``strides`` in bytes, ``beats``, ``dims``, each ``(tables,)``."""

    def __init__(self, tables: Sequence[TableDemand]) -> None:
        self._shapes = [table.shape for table in tables]
        self.strides = np.array([shape.stride_bytes(BEAT) for shape in self._shapes], np.int64)
        self.beats = np.array([shape.row_beats(BEAT) for shape in self._shapes], np.int64)
        self.dims = np.array([shape.dim for shape in self._shapes], np.int64)
        self._cycles: dict[MemoryCoreParams, Ints] = {}

    def cycles(self, params: MemoryCoreParams) -> Ints:
        """Cycles of a row in its lane."""
        if params not in self._cycles:
            cycles = [params.row_cycles(shape) for shape in self._shapes]
            self._cycles[params] = np.array(cycles, np.int64)
        return self._cycles[params]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Use:
    """What a device does per sample: seconds by part, and what takes energy."""

    busy: dict[str, float]
    dram_bytes: float
    onchip_beats: float
    macs: float
    reads: float
    link_bytes: float

    @property
    def memory(self) -> float:
        """Seconds of its memory cores, reconstructors and channels."""
        return max(self.busy[name] for name in ("gather", "tt", "dram"))


class _Device:
    """A device of the plan: its cores, and the rows it holds."""

    def __init__(
        self,
        problem: Problem,
        sizes: _Sizes,
        device: DevicePlan,
        budget: Budget,
        held: _Held,
        *,
        exchange: bool,
    ) -> None:
        self.problem = problem
        self.exchange = exchange
        """Whether there are other devices, to send partials to."""
        self.sizes = sizes
        self.plan = device
        self.budget = budget
        self.held = held
        self.ports = max(device.cores.memory, 1)
        """Memory ports: without memory cores one, for weights."""
        self.pattern = self._pattern()
        self.strides = sizes.strides[held.table]
        self.beats = sizes.beats[held.table]
        self.onchip, self.tt, self.dram, self.ssd = (held.tier == n for n in range(len(TIERS)))

    def _pattern(self) -> Pattern:
        device, problem = self.plan, self.problem
        cores, shapes = device.cores, device.shapes
        try:
            tt = self._reconstructor()
        except ValueError as error:
            raise CheckError(f"{Rule.TT}: {device.kind}: {error}", rule=Rule.TT) from error
        catalogue = _catalogue(problem.shape, problem.compute_shape, problem.batch)
        try:
            return catalogue.make(
                self.budget,
                memory=cores.memory,
                compute=cores.compute,
                rows=shapes.rows,
                columns=shapes.columns,
                slots=shapes.slots,
                stream=device.weights == "stream",
                pool_beats=shapes.pool_beats,
                onchip_beats=shapes.onchip_beats,
                tt=tt,
                outstanding=shapes.outstanding,
            )
        except ValueError as error:
            raise CheckError(f"{Rule.CORE}: {device.kind}: {error}", rule=Rule.CORE) from error

    def _forms(self) -> dict[int, tuple[TtShape, int]]:
        """TT shape and pinned prefixes by table.

        Raises
        ------
        ValueError
            If there can be no such cores.
        """
        found = {}
        for part in self.held.parts:
            if part.tt is not None and part.table not in found:
                form = part.tt
                shape = TtShape(rows=part.last - part.first, p=form.p, q=form.q, ranks=form.ranks)
                found[part.table] = (shape, form.pins)
        return found

    def _reconstructor(self) -> TtParams | None:
        """Reconstructors that hold the cores of all tables in TT form here, and no more."""
        cores, shapes = self.plan.cores, self.plan.shapes
        forms = list(self._forms().values())
        if not cores.tt:
            if forms:
                raise ValueError(f"{len(forms)} tables are in TT form, and there is no TT lane")
            return None
        for shape, pins in forms:
            if not 0 <= pins <= shape.prefixes:
                raise ValueError(f"{pins} of {shape.prefixes} prefixes cannot be pinned")
        pinned = sum(pins for _, pins in forms)
        if pinned > shapes.prefixes:
            raise ValueError(f"{pinned} prefixes are pinned, there is room for {shapes.prefixes}")
        chain, rest = divmod(shapes.tt_multipliers, cores.tt * GROUPS * COLUMNS)
        if rest:
            raise ValueError(
                f"{shapes.tt_multipliers} multipliers must be whole rows of {GROUPS * COLUMNS} "
                f"for each of {cores.tt} lanes"
            )
        lanes = DeviceParams.lanes(self.problem.shape)
        smallest = TtShape(rows=1, p=(1, 1, 1), q=(1, lanes // 4, 4), ranks=(1, 1))
        params = TtParams.for_tables(
            [shape for shape, _ in forms] or [smallest],
            [pins for _, pins in forms] or [0],
            slice_lanes=lanes,
            fraction=TT_FRACTION,
            lanes=cores.tt // cores.memory,
            chain=chain,
        )
        for shape, _ in forms:
            params.check(shape)
        return params

    # --- capacities ---

    def capacities(self) -> Iterable[_Finding]:
        """What does not fit."""
        for name in RESOURCES:
            used, limit = self.logic[name], self.budget.limits[name]
            if used > limit:
                yield Rule(name), f"{self.plan.kind} allows {limit:,.0f}, {used:,.0f} are used"
        slrs = [list(each.values()) for each in self.budget.slr_limits]
        if len(slrs) > 1 and not _has_place(self._pieces(), slrs):
            yield Rule.SLR, f"its cores do not fit the {len(slrs)} SLRs of {self.plan.kind}"
        for rule, size, most in (
            (Rule.ONCHIP, self.onchip_bytes(), self.plan.shapes.onchip_beats * BEAT),
            (Rule.DRAM, self.dram_bytes(), self.budget.dram_bytes),
            (Rule.SSD, self.ssd_bytes(), self.budget.ssd_bytes),
        ):
            if size > most:
                yield rule, f"{self.plan.kind} has {most:,} bytes, {size:,} are used"
        need, have = self.ring_bytes(), self.plan.staging_bytes
        if have < need * (1 - TOLERANCE) or have < 0:
            yield Rule.RING, f"the staging ring must have {need:,.0f} bytes, not {have:,}"

    @functools.cached_property
    def logic(self) -> Mapping[str, float]:
        """Logic of all cores and the host side."""
        pattern = self.pattern
        memory, compute = pattern.memory, pattern.compute
        used = HostParams().resources(memory=memory, compute=compute)
        if pattern.gather is not None:
            used += memory * _core_resources(pattern.gather)
        if pattern.tt is not None:
            used += memory * _core_resources(pattern.tt)
        if pattern.core is not None and pattern.combiner is not None:
            used += compute * _core_resources(pattern.core)
            used += _combiner_resources(pattern.combiner, self.ports, compute)
        return used.as_dict()

    def _pieces(self) -> list[tuple[float, ...]]:
        """Logic, by resource, of what must lie in one SLR each; cores that are alike are together.

        A memory core and its reconstructor are one; so are the combiner and the host side.
        """
        pattern = self.pattern
        memory, compute = pattern.memory, pattern.compute
        rest = HostParams().resources(memory=memory, compute=compute)
        pieces: list[Resources] = []
        if pattern.core is not None and pattern.combiner is not None:
            rest += _combiner_resources(pattern.combiner, self.ports, compute)
            pieces += [_core_resources(pattern.core)] * compute
        if pattern.gather is not None:
            core = _core_resources(pattern.gather)
            if pattern.tt is not None:
                core += _core_resources(pattern.tt)
            pieces += [core] * memory
        return [tuple(each.as_dict()[name] for name in RESOURCES) for each in [rest, *pieces]]

    def _core_bytes(self, which: NDArray[np.bool_]) -> Ints:
        """Bytes of rows in every memory core: a table's begin at a whole beat."""
        memory = self.plan.cores.memory
        rows = np.zeros((memory, len(self.problem.tables)), np.int64)
        held = self.held
        own = which & (held.core >= 0)
        np.add.at(rows, (held.core[own], held.table[own]), held.rows[own])
        copies = which & held.replicated & (held.core < 0)
        rows += np.bincount(
            held.table[copies], weights=held.rows[copies], minlength=rows.shape[1]
        ).astype(np.int64)
        beats: Ints = -(-(rows * self.sizes.strides) // BEAT)
        return beats.sum(axis=1) * BEAT

    def onchip_bytes(self) -> int:
        """Bytes of on-chip rows in the fullest memory core."""
        return int(self._core_bytes(self.onchip).max(initial=0))

    def dram_bytes(self) -> int:
        """Bytes of device memory: rows, staging ring, copies of streamed weights."""
        return int(self._core_bytes(self.dram).sum()) + self.plan.staging_bytes + self._weights()

    def _weights(self) -> int:
        core = self.pattern.core
        if core is None or not core.stream_words:
            return 0
        copy = BEAT * streamed_beats(self.problem.compute_shape, core)
        return copy * min(self.ports, self.pattern.compute)

    def ssd_bytes(self) -> int:
        """Bytes of SSD: each table's rows begin at a page."""
        held = self.held
        sizes = np.bincount(
            held.table[self.ssd],
            weights=(held.rows * self.strides)[self.ssd],
            minlength=len(self.problem.tables),
        )
        return int((np.ceil(sizes / PAGE) * PAGE).sum())

    def ring_bytes(self) -> float:
        """Bytes that the staging ring must have at least: two blocks, each twice what is expected.

        And 32 of the longest rows.
        """
        if not self.ssd.any():
            return 0.0
        block = self.problem.batch * float(self.held.distinct @ self.beats)
        return 2 * (2 * block + 32 * int(self.beats[self.ssd].max())) * BEAT

    def utilisation(self) -> dict[str, float]:
        """Used ÷ usable."""
        budget = self.budget
        used = {
            **{name: self.logic[name] for name in RESOURCES},
            "dram": self.dram_bytes(),
            "ssd": self.ssd_bytes(),
        }
        usable = {**budget.usable, "dram": budget.dram_bytes, "ssd": budget.ssd_bytes}
        return {name: used[name] / usable[name] if usable[name] else 0.0 for name in used}

    # --- times ---

    @functools.cached_property
    def partials(self) -> float:
        """Bytes per sample of exact accumulators that leave the device."""
        if not self.exchange:
            return 0.0
        held, tables = self.held, self.problem.tables
        own = ~held.replicated
        lookups = np.bincount(held.table[own], held.lookups[own], len(tables))
        total = 0.0
        for number in np.flatnonzero(lookups).tolist():
            table = tables[number]
            width = 8 if table.shape.rowwise else 4
            # of a bag's lookups each is here with that probability
            share = min(1.0, lookups[number] / table.rates.lookups)
            length = table.rates.lookups / table.bags if table.bags else 1.0
            met = 1 - (1 - share) ** max(length, 1.0)
            total += table.bags * met * (RECORD + width * table.shape.dim)
        return total

    def use(self, partials: float) -> _Use:
        """What the device does per sample, where all devices together send ``partials`` bytes."""
        held, budget, share = self.held, self.budget, self.plan.samples
        exact = self.dram | self.ssd
        lookups = held.lookups
        lengths = self.beats * BEAT
        rates = {n: budget.random_rate(n) for n in set(lengths[exact].tolist())}
        random = np.array([rates.get(n, math.inf) for n in lengths.tolist()])
        tt_cycles, tt_macs = self._rebuilt()

        stream, wide = budget.streamed_rate, self._weight_beats()
        header = 4 * len(self.problem.shape.features) + self.problem.shape.dense
        received = share * partials
        # request blocks, results and partials are no core's own: evenly over the channels
        common = share * (header + RECORD) + 2 * (self.partials + received)
        staged = PAGE * held.reads + BEAT * self.beats * held.distinct
        channel = self._per_core(
            (RECORD * lookups + staged) / stream + exact * lookups * lengths / random
        )
        channel += BEAT * wide / stream
        channels = min(budget.channels, self.ports)
        if self.ports <= budget.channels:
            dram = float(channel.max()) + common / stream / channels
        else:
            dram = (float(channel.sum()) + common / stream) / channels

        link_in = RECORD * float(lookups.sum()) + share * header + received
        link_out = share * RECORD + self.partials
        reads = float(held.reads.sum())
        busy = {
            "gather": self._gather(wide),
            "tt": float(self._per_core(tt_cycles).max()) / budget.clock_hz,
            "dram": dram,
            "ssd": reads / budget.ssd_iops if reads else 0.0,
            "p2p": PAGE * reads / budget.p2p_rate if reads else 0.0,
            "link": max(link_in, link_out) / budget.link_rate,
            "compute": share * self.batch_cycles / self.problem.batch / budget.clock_hz,
        }
        use = _Use(
            busy=busy,
            dram_bytes=float((RECORD * lookups + staged + exact * lookups * lengths).sum())
            + common
            + BEAT * float(wide.sum()),
            onchip_beats=float((lookups * self.beats)[self.onchip].sum()),
            macs=float(tt_macs.sum()) + share * self.problem.compute_shape.macs,
            reads=reads,
            link_bytes=link_in + link_out,
        )
        watts = budget.spec.watts - budget.spec.static_watts
        busy["power"] = _joules(budget, use, 0.0) / watts if watts > 0 else math.inf
        return dataclasses.replace(use, busy={name: busy[name] for name in STAGES})

    def _per_core(self, loads: Floats) -> Floats:
        """Sum over ranges by memory core; those of any or every core are spread evenly."""
        own = self.held.core >= 0
        sums = np.bincount(self.held.core[own], weights=loads[own], minlength=self.ports)
        return np.asarray(sums + float(loads[~own].sum()) / self.ports, np.float64)

    def _weight_beats(self) -> Floats:
        """Beats of streamed weights per sample at every port: compute core c reads at c mod m."""
        beats = np.zeros(self.ports)
        core = self.pattern.core
        if core is not None and core.stream_words:
            each = core.streamed_beats(self.problem.compute_shape, self._turns(core))
            for number in range(self.pattern.compute):
                beats[number % self.ports] += self.plan.samples * each / self.problem.batch
        return beats

    def _gather(self, weight_beats: Floats) -> float:
        """Seconds per sample of the busiest memory core, its reconstructor apart."""
        held, lookups = self.held, self.held.lookups
        clock = self.budget.clock_hz
        if self.pattern.gather is None:
            return float(weight_beats.max()) / clock
        params = self.pattern.gather
        cycles = self.sizes.cycles(params)[held.table]
        slices = self.sizes.dims[held.table] // params.lanes
        exact = self.dram | self.ssd
        o, b = params.outstanding, self.beats
        flight = (LATENCY_CYCLES + CREDIT_LOOP_CYCLES + b - o % b) / np.maximum(1, o // b)
        loads = {
            "lookups": self._per_core(lookups),
            "port": self._per_core(lookups * (exact * b + RECORD / BEAT)) + weight_beats,
            "lane": self._per_core(exact * lookups * cycles),
            "flight": self._per_core(exact * lookups * flight),
            "fast": self._per_core(
                lookups * (self.onchip * np.maximum(cycles, b) + self.tt * slices)
            ),
            "pool": self._per_core(lookups * slices) / params.pool_beats,
        }
        return max(float(load.max()) for load in loads.values()) / clock

    def _rebuilt(self) -> tuple[Floats, Floats]:
        """Cycles of reconstructors, and multiplications, per sample by range."""
        held = self.held
        cycles, macs = np.zeros(len(held.parts)), np.zeros(len(held.parts))
        params = self.pattern.tt
        if params is None:
            return cycles, macs
        for number, (shape, _) in self._forms().items():
            mine = self.tt & (held.table == number)
            least = max(shape.dim // params.slice_lanes, 1)
            hit, miss = (
                max(params.row_cycles(shape, rate) / params.lanes, least) for rate in (1.0, 0.0)
            )
            pinned, others = held.pinned[mine], (held.lookups - held.pinned)[mine]
            cycles[mine] = pinned * hit + others * miss
            macs[mine] = pinned * shape.row_macs + others * shape.macs
        return cycles, macs

    def _turns(self, core: ComputeParams) -> int:
        """Sub-batches of a batch that each compute core runs."""
        return -(-self._sub_batches(core) // self.pattern.compute)

    def _sub_batches(self, core: ComputeParams) -> int:
        return -(-self.problem.batch // core.rows)

    @functools.cached_property
    def batch_cycles(self) -> float:
        """Cycles of the slowest of compute cores, combiner and host side on one batch."""
        core, combiner = self.pattern.core, self.pattern.combiner
        if core is None or combiner is None:
            return 0.0
        shape, compute_shape = self.problem.shape, self.problem.compute_shape
        count = self._sub_batches(core)
        partials = combiner.expected_partials(shape, inputs=self.ports)
        return max(
            core.cycles(compute_shape, core.rows, latency=LATENCY_CYCLES) * self._turns(core),
            combiner.cycles(shape, partials_per_bag=partials) * count,
            HostParams().cycles(shape, rows=core.rows) * count,
        )

    def batch_seconds(self) -> float:
        """Seconds of one batch whose rows are there; 0 where none is computed."""
        core = self.pattern.core
        if core is None or not self.plan.samples:
            return 0.0
        alone = core.alone_cycles(self.problem.compute_shape, latency=LATENCY_CYCLES)
        return (self.batch_cycles + alone) / self.budget.clock_hz


def _has_place(pieces: Sequence[Sequence[float]], slrs: Sequence[Sequence[float]]) -> bool:
    """Whether each piece can lie in one of the SLRs, which have ``slrs`` of each resource left."""
    failed: set[tuple[int, tuple[tuple[float, ...], ...]]] = set()

    def place(number: int, left: tuple[tuple[float, ...], ...]) -> bool:
        if number == len(pieces):
            return True
        state = number, tuple(sorted(left))
        if state in failed:
            return False
        for chosen, room in enumerate(left):
            rest = tuple(have - need for have, need in zip(room, pieces[number], strict=True))
            if min(rest) >= 0 and place(number + 1, (*left[:chosen], rest, *left[chosen + 1 :])):
                return True
        failed.add(state)
        return False

    return place(0, tuple(tuple(each) for each in slrs))


# --- the whole plan ---


def _together(
    plan: Plan, problem: Problem, devices: Sequence[_Device], uses: Sequence[_Use]
) -> Checked:
    slowest = [max(use.busy.values()) for use in uses]
    seconds = max(slowest)
    # of devices that are busy as long but for rounding, always the same one
    busiest = next(n for n, each in enumerate(slowest) if each >= seconds * (1 - TOLERANCE))
    period = seconds if plan.rate is None else 1 / plan.rate
    energy = sum(
        _joules(device.budget, use, period) for device, use in zip(devices, uses, strict=True)
    )
    link = max(use.busy["link"] for use in uses) if len(plan.devices) > 1 else 0.0
    waits = max(use.busy["ssd"] for use in uses) + max(use.memory for use in uses) + link
    return Checked(
        objective=plan.objective,
        per_sample=uses[busiest].busy,
        busy=tuple(use.busy for use in uses),
        seconds=seconds,
        energy=energy,
        latency=problem.batch * waits + max(device.batch_seconds() for device in devices),
        devices=len(devices),
        ssd_reads=sum(use.reads for use in uses),
        utilisation=tuple(device.utilisation() for device in devices),
    )


def _joules(budget: Budget, use: _Use, period: float) -> float:
    """Joules per sample of a device that is in use for ``period`` seconds per sample."""
    spec = budget.spec
    return (
        spec.static_watts * period
        + 8 * use.dram_bytes * spec.dram_pj_bit * 1e-12
        + use.onchip_beats * spec.onchip_pj_beat * 1e-12
        + use.macs * spec.mac_pj * 1e-12
        + use.reads * spec.ssd_uj_read * 1e-6
        + 8 * use.link_bytes * spec.link_pj_bit * 1e-12
    )


_STAGE_RULES = {"dram": Rule.CHANNEL, "link": Rule.LINK, "power": Rule.POWER}


def _claims(plan: Plan, checked: Checked) -> Iterable[_Finding]:
    """Figures that are worse than the plan says."""
    for name, seconds in checked.per_sample.items():
        claimed = plan.per_sample.get(name, 0.0)
        if seconds > claimed * (1 + TOLERANCE):
            rule = _STAGE_RULES.get(name, Rule.TIME)
            yield rule, f"{name} takes {seconds:.6g} s per sample, the plan says {claimed:.6g}"
    for name in ("seconds", "value", "energy", "latency"):
        claimed, true = getattr(plan, name), getattr(checked, name)
        if true > claimed * (1 + TOLERANCE):
            yield Rule.TIME, f"{name} is {true:.6g}, the plan says {claimed:.6g}"


def _limits(problem: Problem, checked: Checked) -> Iterable[_Finding]:
    """Times that are longer than the problem allows."""
    if problem.rate is not None:
        most = 1 / problem.rate
        for index, busy in enumerate(checked.busy):
            for name, seconds in busy.items():
                if seconds > most * (1 + TOLERANCE):
                    rule = _STAGE_RULES.get(name, Rule.TIME)
                    where = f"{name} of device {index}"
                    yield rule, f"{where} takes {seconds:.6g} s per sample, more than {most:.6g}"
    limit = problem.max_latency
    if limit is not None and checked.latency > limit * (1 + TOLERANCE):
        yield Rule.LATENCY, f"a batch takes {checked.latency:.6g} s, more than {limit:.6g}"
