"""What one more of each resource would buy: the plan's objective, solved again with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from screc.devices import DeviceSpec
from screc.errors import PlanError
from screc.plan.problem import Problem
from screc.plan.rebuild import rebuild
from screc.plan.schema import Plan
from screc.plan.solve import LONGEST, RELAXED_ROUNDS, _alone, _Model, _Search
from screc.plan.solver import Solver

CLOSE = 1e-3
"""Relative width at which a bisection ends: a smaller gain is nothing."""


@dataclasses.dataclass(frozen=True)
class Gain:
    """What more of a resource buys.

    ``gain`` is the relative change for the better: samples per second of ``throughput``, else how
    much less energy, or how many fewer devices, at the rate. ``device`` is the kind that has more.
    """

    resource: str
    device: str
    gain: float

    def __str__(self) -> str:
        size = f"{self.gain:+.1%}" if self.gain >= CLOSE else "nothing"
        return f"{self.resource} ({self.device}): {size}"


def what_more(
    problem: Problem,
    plan: Plan,
    *,
    solver: str = "highs",
    progress: Callable[[str], None] = lambda text: None,
) -> list[Gain]:
    """Solve the pooled model again with one more of each resource, the most useful first.

    Counts of devices and choices may be fractions in it; the plan's time is where it begins.

    Raises
    ------
    PlanError
        If the solver ends without an answer.
    """
    searches = [
        _Search(each, Solver(solver), lambda text: None) for each in (problem, *_alone(problem))
    ]
    guess = plan.seconds or 1e-5
    for search in searches:
        _refined(search, guess)
    before = _best(searches, problem, solver, guess)
    gains: list[Gain] = []
    for k, each in enumerate(problem.classes):
        for name, figures, count in _more(each.budget.spec, each.count):
            progress(f"{name} of {each.budget.kind}")
            try:
                changed = rebuild(problem, k, count=count, **figures)
                after = _best(searches, changed, solver, before)
            except PlanError:
                after = before
            better = before / after - 1 if problem.objective == "throughput" else 1 - after / before
            gains.append(Gain(name, each.budget.kind, better if better >= CLOSE else 0.0))
    return sorted(gains, key=lambda gain: -gain.gain)


def describe(gains: Sequence[Gain]) -> str:
    """One line for each."""
    return "\n".join(str(gain) for gain in gains)


def _more(spec: DeviceSpec, count: int) -> list[tuple[str, dict[str, float | None], int | None]]:
    """Name, figures and count of devices of each change."""
    channels = spec.channels + 1
    found: list[tuple[str, dict[str, float | None], int | None]] = [
        ("one more memory channel", {"channels": channels}, None),
        ("25 % more BRAM and URAM", {"bram36": spec.bram36 * 1.25, "uram": spec.uram * 1.25}, None),
        ("25 % more DSP", {"dsp": spec.dsp * 1.25}, None),
        ("25 % more LUT and FF", {"lut": spec.lut * 1.25, "ff": spec.ff * 1.25}, None),
        ("twice the PCIe bandwidth", {"pcie_gbs": spec.pcie_gbs * 2}, None),
        ("1 GiB more DRAM", {"dram_gib": spec.dram_gib + 1}, None),
        ("a power limit that is 10 % higher", {"watts": spec.watts * 1.1}, None),
        ("10 % more clock", {"clock_mhz": spec.clock_mhz * 1.1}, None),
        ("one more device", {}, count + 1),
    ]
    if spec.has_ssd and spec.ssd_kiops and spec.p2p_gbs:
        found += [
            ("twice the SSD reads a second", {"ssd_kiops": spec.ssd_kiops * 2}, None),
            ("twice the SSD-to-FPGA bandwidth", {"p2p_gbs": spec.p2p_gbs * 2}, None),
        ]
    return found


def _refined(search: _Search, guess: float) -> None:
    """Cut the intervals around the splits of a solution, if there is one."""
    for _ in range(RELAXED_ROUNDS):
        model = search._model(integral=False)
        if math.isinf(_value(search, model, guess)) or search._refine(model):
            return


def _best(searches: Sequence[_Search], problem: Problem, solver: str, guess: float) -> float:
    """Least value of the relaxed model, of all devices or of one alone."""
    values = []
    for old, each in zip(searches, (problem, *_alone(problem)), strict=False):
        search = _Search(each, Solver(solver), lambda text: None)
        if len(search.groups) == len(old.groups):
            search.cuts = list(old.cuts)
        values.append(_value(search, search._model(integral=False), guess))
    return min(values)


def _value(search: _Search, model: _Model, guess: float) -> float:
    """Least time, energy or count of devices; inf without a solution."""
    problem = search.problem
    if problem.rate is not None and problem.objective != "throughput":
        model.aim(1 / problem.rate, problem.objective)
        outcome = search.solver.solve(model.m, gap=1e-6)
        return outcome.value if outcome.feasible else math.inf
    low, high = 0.0, guess
    while not search._found(model, high):
        low, high = high, high * 2
        if high > LONGEST:
            return math.inf
    probe = high / (1 + 2 * CLOSE)
    while not low:
        if search._found(model, probe):
            high, probe = probe, probe / min((high / probe) ** 2, 2.0)
        else:
            low = probe
    while high > low * (1 + CLOSE / 2):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if search._found(model, middle) else (middle, high)
    search._found(model, high)
    return high
