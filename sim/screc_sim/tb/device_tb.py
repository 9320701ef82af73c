"""The test bench of a whole device: runs the job in the folder that ``SCREC_JOB`` names.

It acts as the host: pointers into the registers, ``ap_start``, wait for the interrupt, read the
counters; see :mod:`screc_sim.vectors`. It judges nothing: the parent compares results.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock as ClockSource
from cocotb.triggers import ClockCycles, First, ReadOnly, RisingEdge, Timer, ValueChange

from screc_hw.protocol import (
    COMPUTE_COUNTER_STRIDE,
    GMEM_STRIDE,
    MEMORY_COUNTER_STRIDE,
    Register,
)
from screc_sim.bfm import AxiRead, AxiWrite, Clock, LiteMaster
from screc_sim.memory import DeviceMemory
from screc_sim.vectors import OUTCOME_FILE, PROGRESS_FILE, Job, RegionSpec, Start

JOB_VARIABLE = "SCREC_JOB"

RESET_CYCLES = 8
"""Clocks of reset; the device pipelines it over two."""

WATCH_CYCLES = 20_000
"""Cycles between two looks at the progress of a run."""

AP_START, AP_DONE, AP_CONTINUE = 1 << 0, 1 << 1, 1 << 4

SPANS = 5000
"""Operations of a compute core that are noted, at most: the first ones."""

UNITS = ("array", "pairs")
"""Of a compute core, in the order of ``compute.layouts.schedule_layout``."""

MEMORY_COUNTERS = ("range_errors", "lookups", "beats", "stalls")
COMPUTE_COUNTERS = ("busy", "active", "waiting", "weight_beats")


class Bench:
    """A device between its bus models."""

    def __init__(self, dut: Any, job: Job, folder: Path) -> None:
        self.dut = dut
        self.job = job
        self.folder = folder
        self.clock = Clock(dut.ap_clk, job.period_ps)
        self.memories = {port: self._memory(regions) for port, regions in job.ports.items()}
        for fault in job.faults:
            memory = self.memories[fault.port]
            if fault.delay:
                memory.delay(fault.address, fault.length, fault.delay)
            else:
                memory.fail(fault.address, fault.length)
        self.control = LiteMaster(dut, "s_axi_control", self.clock)
        self.reads = {
            port: AxiRead(dut, f"m_axi_{port}", self.clock, job.timing, memory)
            for port, memory in self.memories.items()
        }
        self.write = AxiWrite(dut, "m_axi_host", self.clock, job.timing, self.memories["host"])

    def _memory(self, regions: tuple[RegionSpec, ...]) -> DeviceMemory:
        memory = DeviceMemory()
        for region in regions:
            if region.file is None:
                zeros = np.zeros(region.size, np.uint8)
                memory.add(region.name, region.base, zeros, writable=region.writable)
            else:
                path = self.folder / region.file
                memory.add_file(
                    region.name,
                    region.base,
                    path,
                    size=region.size,
                    writable=region.writable,
                    shared=region.writable,
                )
        return memory

    def watch(self) -> list[list[list[int]]]:
        """Note the operations of every compute core: unit, slot, first cycle, and the one behind.

        Of a design without the signal ``schedule`` nothing.
        """
        found: list[list[list[int]]] = []
        for core in range(self.job.compute):
            found.append([])
            try:
                handle = getattr(self.dut.device, f"compute_{core}").schedule
            except AttributeError:
                continue
            cocotb.start_soon(self._operations(handle, found[-1]))
        return found

    async def _operations(self, handle: Any, spans: list[list[int]]) -> None:
        bits = len(handle) // len(UNITS)  # of a unit: begins, slot, works
        change = ValueChange(handle)
        running: list[list[int] | None] = [None] * len(UNITS)
        while len(spans) < SPANS:
            await change
            await ReadOnly()
            if not handle.value.is_resolvable:
                continue
            word, cycle = int(handle.value), self.clock.now() // self.clock.period
            for unit, now in enumerate(running):
                fields = word >> unit * bits & (1 << bits) - 1
                begins, works = fields & 1, fields >> (bits - 1)
                if now is not None and (begins or not works):
                    # the last step may be issued in the cycle in which the next one is taken
                    now[3] = cycle + works
                    running[unit] = None
                if begins:
                    span = [unit, fields >> 1 & (1 << (bits - 2)) - 1, cycle + 1, cycle + 1]
                    running[unit] = span
                    spans.append(span)

    @property
    def models(self) -> list[AxiRead | AxiWrite]:
        """All memory models."""
        return [*self.reads.values(), self.write]

    async def reset(self) -> None:
        """Start the clock and reset the device, all of its inputs driven."""
        self.dut.ap_rst_n.value = 0
        source = ClockSource(self.dut.ap_clk, self.job.period_ps, unit="ps", impl="gpi")
        source.start()
        await ClockCycles(self.dut.ap_clk, RESET_CYCLES)
        await self.clock.falling
        self.dut.ap_rst_n.value = 1
        await ClockCycles(self.dut.ap_clk, RESET_CYCLES)
        for model in self.models:
            model.start()

    async def configure(self) -> None:
        """Write the registers that hold for all runs."""
        await self.control.write(Register.GIER, 1)
        await self.control.write(Register.IER, 1)
        await self.control.write64(Register.RESULT, self.job.result)
        for core, base in enumerate(self.job.bases):
            await self.control.write64(Register.GMEM + GMEM_STRIDE * core, base)

    async def run(self, start: Start) -> dict[str, Any]:
        """Run one queue; return what the registers say about it."""
        for place in start.place:
            with (self.folder / place.file).open("rb") as stream:
                stream.seek(place.offset)
                self.memories[place.port].place(place.address, stream.read(place.size))
        if start.wait:
            await ClockCycles(self.dut.ap_clk, start.wait)
            await self.clock.falling
        control = self.control
        await control.write64(Register.QUEUE, start.queue)
        await control.write(Register.QUEUE_BYTES, start.size)
        await control.write(Register.CTRL, AP_START)
        finished = await self._wait()
        outcome = {
            "finished": finished,
            "status": await control.read(Register.STATUS),
            "cycles": await control.read64(Register.CYCLES),
            "blocks": await control.read(Register.BLOCKS),
            "load_crc": await control.read(Register.LOAD_CRC),
        }
        if finished:
            await control.write(Register.ISR, await control.read(Register.ISR))
            outcome["done"] = bool(await control.read(Register.CTRL) & AP_DONE)
            await control.write(Register.CTRL, AP_CONTINUE)
        return outcome

    async def _wait(self) -> bool:
        """Wait for the interrupt; False once nothing has moved for the job's ``hang_cycles``."""
        quiet, seen = 0, -1
        interrupt = RisingEdge(self.dut.interrupt)
        while self.dut.interrupt.value != 1:
            await First(interrupt, Timer(WATCH_CYCLES * self.clock.period, "step"))
            moved = sum(model.beats for model in self.models)
            quiet = 0 if moved != seen else quiet + WATCH_CYCLES
            seen = moved
            self._report()
            if quiet >= self.job.hang_cycles:
                return False
        return True

    def _report(self) -> None:
        """Tell the parent how far the run is: cycles and beats written."""
        cycles = self.clock.now() // self.clock.period
        (self.folder / PROGRESS_FILE).write_text(f"{cycles} {self.write.beats}\n")

    async def counters(self) -> dict[str, Any]:
        """Read the counters of all cores."""

        async def group(base: int, names: tuple[str, ...]) -> dict[str, int]:
            return {name: await self.control.read(base + 4 * i) for i, name in enumerate(names)}

        return {
            "memory": [
                await group(Register.MEMORY_COUNTERS + MEMORY_COUNTER_STRIDE * i, MEMORY_COUNTERS)
                for i in range(self.job.memory)
            ],
            "compute": [
                await group(
                    Register.COMPUTE_COUNTERS + COMPUTE_COUNTER_STRIDE * i, COMPUTE_COUNTERS
                )
                for i in range(self.job.compute)
            ],
        }

    def errors(self) -> dict[str, list[str]]:
        """Return what the bus models found: broken AXI rules, and accesses outside of memory."""
        return {
            "protocol_errors": [fault for model in self.models for fault in model.port.faults],
            "access_errors": [
                f"{port}: {error}"
                for port, memory in self.memories.items()
                for error in memory.errors
            ],
        }


@cocotb.test()
async def runs_the_job(dut: Any) -> None:
    """Run every start of the job and write ``result.json``."""
    folder = Path(os.environ[JOB_VARIABLE])
    job = Job.load(folder)
    began = time.perf_counter()
    bench = Bench(dut, job, folder)
    await bench.reset()
    await bench.configure()
    operations = bench.watch()
    starts = []
    for start in job.starts:
        starts.append(await bench.run(start))
        if not starts[-1]["finished"]:
            break
    outcome = {
        "starts": starts,
        "counters": await bench.counters(),
        "operations": operations,
        "beats": {port: model.beats for port, model in bench.reads.items()}
        | {"host_write": bench.write.beats},
        **bench.errors(),
        "simulated_cycles": bench.clock.now() // bench.clock.period,
        "seconds": time.perf_counter() - began,
    }
    (folder / OUTCOME_FILE).write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
