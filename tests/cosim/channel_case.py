"""Scenarios of a channel of memory cores, its builds, and the judgement of what came out."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections import deque
from pathlib import Path
from typing import Any

import filelock

from screc_hw.emit import emit_systemverilog
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import partial_layout
from screc_sim import runner
from tests.cosim.channel import Channel
from tests.cosim.support import CACHE, needs
from tests.support.gather import BASE, Bench

TOP = "channel"

Partial = tuple[Any, ...]


class LaneBench(Bench):
    """A bench that also knows the lane of every partial."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.lanes: list[str] = []
        super().__init__(*args, **options)

    def _partial(self, run: list[tuple[int, int, int, bool, bool]], sequence: int) -> None:
        feature = run[0][1]
        asked = {self._row(feature, rank, staged)[0] for _, _, rank, staged, _ in run}
        before = len(self.expected)
        super()._partial(run, sequence)
        lanes = [lane for lane in self.params.tiers if lane in asked]
        each = (len(self.expected) - before) // len(lanes)
        self.lanes += [lane for lane in lanes for _ in range(each)]


@dataclasses.dataclass
class Placed:
    """A bench and the start of its memory."""

    bench: LaneBench
    base: int = BASE


@dataclasses.dataclass
class Scenario:
    """What every core of a channel is given, and how its surroundings behave.

    Parameters
    ----------
    cores
        One each.
    latency
        Lowest and highest, cycles.
    reorder
        Whether beats of different IDs overtake each other.
    ar_stall, r_gap, back, section_idle
        Probability per cycle that no request is taken, no beat sent, no partial taken, no section
        offered.
    errors
        Beats, counted over the scenario, with an error response.
    silence
        Cycles in which no beat is sent.
    admit_every
        Cycles until one sub-batch more is admitted; None: all are.
    seed
        Of all random choices.
    """

    cores: list[Placed]
    latency: tuple[int, int] = (20, 20)
    reorder: bool = True
    ar_stall: float = 0.0
    r_gap: float = 0.0
    back: float = 0.0
    section_idle: float = 0.0
    errors: tuple[int, ...] = ()
    silence: tuple[int, int] = (0, 0)
    admit_every: int | None = None
    seed: int = 0


@dataclasses.dataclass
class Played:
    """What came out: raw partials and final counters per core, requests (ID, address, beats).

    ``most``: the most beats that each ID was owed; ``expired``, ``owing``: cycles of the guard's.
    """

    partials: list[list[int]]
    counters: list[dict[str, int]]
    requests: list[tuple[int, int, int]]
    most: dict[int, int]
    faults: list[str]
    cycles: int
    expired: int
    owing: int
    owing_at_end: int
    errors_cleared: bool = False


def build_channel(simulator: str, params: MemoryCoreParams, cores: int) -> runner.Build:
    """Emit and build a channel, once for equal parameters and sources."""
    digest = hashlib.sha256(f"{params!r} {cores}".encode())
    for path in sorted(Path(str(emit_systemverilog.__code__.co_filename)).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).with_name("channel.py").read_bytes())
    folder = CACHE / "rtl" / f"{TOP}-{digest.hexdigest()[:20]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        done = folder / "done"
        if not done.exists():
            emit_systemverilog(Channel(params, cores), name=TOP, folder=folder)
            done.touch()
    return runner.build(simulator, sorted(folder.glob("*.sv")), TOP, cache=CACHE)


def play(
    simulator: str,
    params: MemoryCoreParams,
    scenarios: dict[str, Scenario],
    folder: Path,
) -> dict[str, Played]:
    """Play scenarios, one after the other, in one run of the simulator."""
    needs(simulator)
    cores = len(next(iter(scenarios.values())).cores)
    build = build_channel(simulator, params, cores)
    given, played = folder / "scenarios.pickle", folder / "played.pickle"
    given.write_bytes(pickle.dumps(list(scenarios.values())))
    environment = {"CHANNEL_SCENARIOS": str(given), "CHANNEL_PLAYED": str(played)}
    runner.run(build, folder, "tests.cosim.channel_tb", environment=environment)
    return dict(zip(scenarios, pickle.loads(played.read_bytes()), strict=True))


def decode(params: MemoryCoreParams, raw: int) -> Partial:
    """Fields of a partial, as :class:`Bench` expects them."""
    layout = partial_layout(params)
    values = {name: raw >> field.offset & ((1 << field.width) - 1) for name, field in layout}
    half, full = 1 << params.acc_bits - 1, 1 << params.acc_bits
    lanes = [values["acc"] >> params.acc_bits * i & full - 1 for i in range(params.lanes)]
    acc = tuple(lane - full if lane >= half else lane for lane in lanes)
    return (*(values[name] for name in ("slot", "row", "feature", "slice", "last", "count")), acc)


def expected_lanes(bench: LaneBench) -> dict[str, list[Partial]]:
    """The ordered partials of every lane."""
    pairs = list(zip(bench.lanes, bench.expected, strict=True))
    return {tier: [p for lane, p in pairs if lane == tier] for tier in bench.params.tiers}


def digests(lanes: dict[str, list[Partial]]) -> dict[str, str]:
    """Hash of every lane's ordered partials."""
    return {lane: hashlib.sha256(repr(p).encode()).hexdigest() for lane, p in lanes.items()}


def split(bench: LaneBench, partials: list[Partial]) -> dict[str, list[Partial]]:
    """Tell the lanes of ``partials`` apart by what each must give next.

    Raises
    ------
    AssertionError
        If a partial is no lane's next, its slices do not follow each other, or some are missing.
    """
    waiting = {lane: deque(p) for lane, p in expected_lanes(bench).items()}
    lanes: dict[str, list[Partial]] = {lane: [] for lane in waiting}
    current: str | None = None
    for number, partial in enumerate(partials):
        heads = [lane for lane, queue in waiting.items() if queue and queue[0] == partial]
        if current is not None:
            assert current in heads, f"partial {number} is not the next slice of {current}'s"
            heads = [current]
        assert heads, f"partial {number}, {partial}, is no lane's next"
        waiting[heads[0]].popleft()
        lanes[heads[0]].append(partial)
        current = None if partial[4] else heads[0]
    left = {lane: len(queue) for lane, queue in waiting.items() if queue}
    assert not left, f"partials that did not come: {left}"
    return lanes


def check(scenario: Scenario, played: Played) -> list[dict[str, str]]:
    """Compare with the model; return the digests of every core's lanes."""
    assert played.faults == []
    assert played.errors_cleared
    assert played.owing_at_end == 0
    found = []
    for index, placed in enumerate(scenario.cores):
        bench, counters = placed.bench, played.counters[index]
        partials = [decode(bench.params, raw) for raw in played.partials[index]]
        lanes = split(bench, partials)
        found.append(digests(lanes))
        assert found[-1] == digests(expected_lanes(bench))
        assert counters["range_errors"] == bench.range_errors
        assert counters["lookups"] == bench.lookups
        assert counters["idle"] == 1
        assert counters["axi_error"] == int(bool(scenario.errors))
        assert played.most.get(2 * index, 0) <= bench.params.section_beats
        assert played.most.get(2 * index + 1, 0) <= bench.params.outstanding
        if bench.params.tiers == ("dram",):
            mine = sum(beats for ident, _, beats in played.requests if ident >> 1 == index)
            assert counters["beats"] == mine
    return found
