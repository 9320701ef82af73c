"""Runs the copier on the bus models; its case comes as JSON in the environment."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock as ClockSource
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, with_timeout

from screc_sim.bfm import AxiRead, AxiWrite, Clock
from screc_sim.memory import DeviceMemory, Timing
from tests.cosim.copier import BURST, BYTES, PREFIX

PERIOD_NS = 4


@cocotb.test()
async def copies(dut: Any) -> None:
    case = json.loads(os.environ["COPIER_CASE"])
    memory = DeviceMemory()
    rng = np.random.default_rng(case["seed"])
    size = case["size"]
    source = rng.integers(0, 256, size, np.uint8)
    memory.add("source", case["source"], source)
    memory.add("extra", case["extra"], rng.integers(0, 256, size, np.uint8))
    target = np.zeros(size, np.uint8)
    memory.add("destination", case["destination"], target, writable=True)
    for address in case.get("faults", []):
        memory.fail(address)
    for name in ("source", "extra", "destination", "bursts"):
        getattr(dut, name).value = case[name]
    dut.start.value = 0
    dut.rst.value = 1
    clock = Clock(dut.clk, PERIOD_NS * 1000)
    timing = Timing(**case["timing"])
    read = AxiRead(dut, PREFIX, clock, timing, memory)
    write = AxiWrite(dut, PREFIX, clock, timing, memory)
    ClockSource(dut.clk, PERIOD_NS, unit="ns", impl="gpi").start()
    await ClockCycles(dut.clk, 4)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    read.start()
    write.start()
    await FallingEdge(dut.clk)
    dut.start.value = 1
    begin, wall = clock.now(), time.perf_counter()
    await with_timeout(RisingEdge(dut.done), 4_000_000, "ns")
    await FallingEdge(dut.clk)
    expected = 0
    for beat in range(case["bursts"] * BURST):
        value, _ = memory.read(case["extra"] + beat * BYTES, 8) if beat * BYTES < size else (0, 0)
        expected = ((expected << 1 | expected >> 63) + value) % (1 << 64)
    result = {
        "expected_sum": expected,
        "cycles": (clock.now() - begin) // clock.period,
        "seconds": time.perf_counter() - wall,
        "beats": [read.beats, write.beats],
        "sum": int(dut.sum.value),
        "device_errors": int(dut.errors.value),
        "faults": read.port.faults + write.port.faults,
        "memory_errors": memory.errors,
        "copied": bool(np.array_equal(target, source)),
    }
    Path(os.environ["COPIER_RESULT"]).write_text(json.dumps(result))
