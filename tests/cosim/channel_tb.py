"""Plays scenarios on a channel of memory cores: cocotbext-axi behind the port, streams before it.

What comes out is written down for the process that started the simulator to judge.
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
from collections import deque
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from cocotbext.axi import AxiReadBus, AxiResp, AxiSlaveRead

from screc_hw.axi import BOUNDARY_BYTES, INCR
from screc_hw.memory.layouts import tt_request_layout
from screc_hw.stream import config_layout, section_layout
from tests.cosim.channel import PORT
from tests.cosim.channel_case import Played, Scenario
from tests.cosim.streams import StreamSink, StreamSource
from tests.support.gather import tt_row

PERIOD_NS = 4
PATIENCE_CYCLES = 3000
"""Cycles without a partial after which a scenario is given up; longer than any silence."""

SETTLE_CYCLES = 40
"""Cycles after the end in which nothing more may come."""

COUNTERS = ("range_errors", "lookups", "beats", "stalls", "axi_error", "idle")


def chances(probability: float, seed: str) -> Any:
    """Pauses for cocotbext-axi."""
    rng = random.Random(seed)
    return (rng.random() < probability for _ in itertools.count())


class ChannelMemory(AxiSlaveRead):
    """Memory with a random latency per burst, IDs in any order; checks what it is asked.

    ``requests`` are (ID, address, beats); ``most`` the most beats that an ID was owed; ``faults``
    broken rules.
    """

    def __init__(self, dut: Any) -> None:
        self.scenario: Scenario | None = None
        self.requests: list[tuple[int, int, int]] = []
        self.faults: list[str] = []
        self.beats = 0
        self.most: dict[int, int] = {}
        self._queues: dict[int, deque[tuple[int, int, int, bool]]] = {}
        self._order: deque[int] = deque()
        self._rng = random.Random(0)
        self._dut, self._cycle = dut, 0
        super().__init__(AxiReadBus.from_prefix(dut, f"{PORT}_"), dut.clk)
        self.log.setLevel("WARNING")
        cocotb.start_soon(self._answer())
        cocotb.start_soon(self._watch())

    def begin(self, scenario: Scenario) -> None:
        """Start anew, with the timing of ``scenario``."""
        assert not any(self._queues.values()), "beats of the scenario before are owed"
        self.scenario, self._cycle, self.beats = scenario, 0, 0
        self.requests, self.faults, self.most = [], [], {}
        self._rng = random.Random(scenario.seed)
        seed = f"{scenario.seed}"
        self.ar_channel.set_pause_generator(chances(scenario.ar_stall, seed + " ar"))
        self.r_channel.set_pause_generator(chances(scenario.r_gap, seed + " r"))

    @property
    def owed(self) -> bool:
        """Whether beats are still to come."""
        return any(self._queues.values()) or not self.r_channel.idle()

    async def _process_read(self) -> None:
        while True:
            request = await self.ar_channel.recv()
            assert self.scenario is not None
            ident, address, beats = int(request.arid), int(request.araddr), int(request.arlen) + 1
            self._check(ident, address, beats, 1 << int(request.arsize), int(request.arburst))
            self.requests.append((ident, address, beats))
            due = self._cycle + self._rng.randint(*self.scenario.latency)
            queue = self._queues.setdefault(ident, deque())
            for beat in range(beats):
                queue.append((due, address + beat * self.byte_lanes, beat, beat == beats - 1))
                self._order.append(ident)
            self.most[ident] = max(self.most.get(ident, 0), len(queue))

    def _check(self, ident: int, address: int, beats: int, size: int, burst: int) -> None:
        assert self.scenario is not None
        what = f"{beats} beats at {address:#x} with ID {ident}"
        core = self.scenario.cores[ident >> 1]
        last = address + beats * self.byte_lanes
        if size != self.byte_lanes or burst != INCR:
            self.faults.append(f"{what}: size {size}, burst {burst}")
        if address % self.byte_lanes:
            self.faults.append(f"{what} are not aligned")
        if address // BOUNDARY_BYTES != (last - 1) // BOUNDARY_BYTES:
            self.faults.append(f"{what} cross a boundary of {BOUNDARY_BYTES} bytes")
        allowed = core.bench.row_ranges if ident & 1 else core.bench.section_ranges
        start, end = address - core.base, last - core.base
        if not any(low <= start and end <= high for low, high in allowed):
            self.faults.append(f"{what} are outside of their data")

    async def _watch(self) -> None:
        """Count cycles; see that a request holds until it is taken."""
        falling = FallingEdge(self._dut.clk)
        bus = self.bus.ar
        names = ("araddr", "arid", "arlen", "arsize", "arburst")
        handles = [getattr(bus, name) for name in names]
        held: list[int] | None = None
        while True:
            await falling
            self._cycle += 1
            if bus.arvalid.value != 1:
                if held is not None:
                    self.faults.append("arvalid was withdrawn before arready")
                held = None
                continue
            request = [int(handle.value) for handle in handles]
            if held is not None and request != held:
                self.faults.append(f"a request changed from {held} to {request} while it waited")
            held = None if bus.arready.value == 1 else request

    async def _answer(self) -> None:
        rising = RisingEdge(self._dut.clk)
        while True:
            await rising
            if self.scenario is None or self._cycle in range(*self.scenario.silence):
                continue
            heads = [ident for ident, queue in self._queues.items() if queue]
            due = [ident for ident in heads if self._queues[ident][0][0] <= self._cycle]
            if not self.scenario.reorder:
                due = [ident for ident in due if ident == self._order[0]]
            if not due:
                continue
            ident = self._rng.choice(due)
            _, address, _, last = self._queues[ident].popleft()
            self._order.remove(ident)
            beat = self.r_channel._transaction_obj()
            beat.rid, beat.rlast = ident, int(last)
            beat.rdata = int.from_bytes(self._read_bytes(ident >> 1, address), "little")
            failed = self.beats in self.scenario.errors
            beat.rresp = AxiResp.SLVERR if failed else AxiResp.OKAY
            self.beats += 1
            await self.r_channel.send(beat)

    def _read_bytes(self, core: int, address: int) -> bytes:
        assert self.scenario is not None
        placed = self.scenario.cores[core]
        start = address - placed.base
        return bytes(placed.bench.image[start : start + self.byte_lanes])


class CoreDriver:
    """The streams of one core, in one scenario."""

    def __init__(self, dut: Any, index: int, scenario: Scenario) -> None:
        self.dut, self.index, self.scenario = dut, index, scenario
        self.bench = scenario.cores[index].bench
        seed = f"{scenario.seed} {index}"
        self.sections = StreamSource(
            dut, f"sections__{index}", idle=scenario.section_idle, seed=seed
        )
        self.config = StreamSource(dut, f"config__{index}")
        self.partials = StreamSink(dut, f"partials__{index}", back=scenario.back, seed=seed)
        self.sinks = [self.partials]
        self.tasks: list[Any] = []
        self.drive("base", scenario.cores[index].base)
        self.drive("clear", 0)
        self.drive("admitted", self.first)
        if "tt" in self.bench.params.tiers:
            self.requests = StreamSink(dut, f"tt_requests__{index}", back=scenario.back, seed=seed)
            self.rows = StreamSource(dut, f"tt_rows__{index}", idle=scenario.r_gap, seed=seed)
            self.sinks.append(self.requests)

    @property
    def first(self) -> int:
        """Sequence of the first section."""
        return self.bench.commands[0]["sequence"] if self.bench.commands else 0

    def drive(self, name: str, value: int) -> None:
        getattr(self.dut, f"{name}__{self.index}").value = value

    def value(self, name: str) -> int:
        return int(getattr(self.dut, f"{name}__{self.index}").value)

    async def load(self) -> None:
        layout = config_layout()
        words = [
            {"target": target, "address": address, "data": data}
            for target, address, data in self.bench.config
        ]
        await self.config.send(layout.const(word).as_value().value for word in words)

    def start(self) -> None:
        self.tasks = [cocotb.start_soon(sink.run()) for sink in self.sinks]
        layout = section_layout()
        commands = [layout.const(command).as_value().value for command in self.bench.commands]
        self.tasks.append(cocotb.start_soon(self.sections.send(commands)))
        self.tasks.append(cocotb.start_soon(self._admit()))
        if "tt" in self.bench.params.tiers:
            self.tasks.append(cocotb.start_soon(self.rows.run()))
            self.tasks.append(cocotb.start_soon(self._reconstruct()))

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def _admit(self) -> None:
        every = self.scenario.admit_every
        if not every:
            self.drive("admitted", self.first + 0x4000 & 0xFFFF)
            return
        for count in itertools.count():
            self.drive("admitted", self.first + count & 0xFFFF)
            await ClockCycles(self.dut.clk, every)

    async def _reconstruct(self) -> None:
        """Answer what is asked of the TT cores, in order."""
        params, layout = self.bench.params, tt_request_layout()
        bits, falling = params.code_bits, FallingEdge(self.dut.clk)
        answered = 0
        while True:
            for payload in self.requests.taken[answered:]:
                request = layout.from_bits(payload)
                dim = self.bench.tables[request.table - 7].dim
                row = tt_row(params, request.table, request.local, dim)
                for low in range(0, dim, params.lanes):
                    codes = row[low : low + params.lanes]
                    word = sum((code % (1 << bits)) << bits * i for i, code in enumerate(codes))
                    self.rows.waiting.append(word)
            answered = len(self.requests.taken)
            await falling

    @property
    def finished(self) -> bool:
        return (
            len(self.partials.taken) >= len(self.bench.expected)
            and self.value("lookups") == self.bench.lookups
            and self.value("idle") == 1
        )


async def play(dut: Any, memory: ChannelMemory, scenario: Scenario) -> Played:
    """Reset, load, run until all is idle, and some cycles more."""
    falling = FallingEdge(dut.clk)
    dut.rst.value = 1
    drivers = [CoreDriver(dut, index, scenario) for index in range(len(scenario.cores))]
    await ClockCycles(dut.clk, 3)
    await falling
    dut.rst.value = 0
    loads = [cocotb.start_soon(driver.load()) for driver in drivers]
    for load in loads:
        await load
    memory.begin(scenario)
    for driver in drivers:
        driver.start()
    cycles = expired = owing = still = taken = 0
    while not all(driver.finished for driver in drivers) or memory.owed:
        await falling
        cycles += 1
        expired += int(dut.expired.value)
        owing += int(dut.owing.value)
        now = sum(len(driver.partials.taken) for driver in drivers)
        still = 0 if now != taken else still + 1
        taken = now
        if still > PATIENCE_CYCLES:
            break
    await ClockCycles(dut.clk, SETTLE_CYCLES)
    await falling
    faults = [*memory.faults, *(f for driver in drivers for s in driver.sinks for f in s.faults)]
    played = Played(
        partials=[driver.partials.taken for driver in drivers],
        counters=[{name: driver.value(name) for name in COUNTERS} for driver in drivers],
        requests=memory.requests,
        most=memory.most,
        faults=faults + (["nothing came any more"] if still > PATIENCE_CYCLES else []),
        cycles=cycles,
        expired=expired,
        owing=owing,
        owing_at_end=int(dut.owing.value),
    )
    for driver in drivers:
        driver.drive("clear", 1)
    await falling
    for driver in drivers:
        driver.drive("clear", 0)
    await falling
    await falling
    played.errors_cleared = not any(driver.value("axi_error") for driver in drivers)
    for driver in drivers:
        driver.stop()
    return played


@cocotb.test()
async def plays(dut: Any) -> None:
    scenarios: list[Scenario] = pickle.loads(Path(os.environ["CHANNEL_SCENARIOS"]).read_bytes())
    Clock(dut.clk, PERIOD_NS, unit="ns").start()
    dut.rst.value = 1
    # nothing may be X when the bus models start to look
    for index in range(len(scenarios[0].cores)):
        CoreDriver(dut, index, scenarios[0])
    await ClockCycles(dut.clk, 4)
    memory = ChannelMemory(dut)
    played = []
    for scenario in scenarios:
        played.append(await play(dut, memory, scenario))
        Path(os.environ["CHANNEL_PLAYED"]).write_bytes(pickle.dumps(played))
