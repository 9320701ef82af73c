"""Plays runs of a TT reconstructor; what comes out is written down to be judged."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

from screc_hw.memory.layouts import tt_request_layout
from screc_hw.stream import config_layout
from tests.cosim.streams import StreamSink, StreamSource
from tests.cosim.tt_case import Given, Played

PERIOD_NS = 4
PATIENCE_CYCLES = 20_000
SETTLE_CYCLES = 40
"""Cycles after the end in which nothing more may come."""

COUNTERS = ("range_errors", "hits", "reconstructed")


async def play(dut: Any, given: Given) -> Played:
    """Reset, load, ask for rows until all have come, and some cycles more."""
    falling, timing = FallingEdge(dut.clk), given.timing
    dut.rst.value = 1
    config = StreamSource(dut, "config")
    seed = f"{timing.seed}"
    requests = StreamSource(dut, "requests", idle=timing.request_gap, seed=seed)
    rows = StreamSink(dut, "rows", back=timing.row_stall, seed=seed)
    await ClockCycles(dut.clk, 3)
    await falling
    dut.rst.value = 0
    layout = config_layout()
    words = [{"target": t, "address": a, "data": d} for t, a, d in given.config]
    await config.send(layout.const(word).as_value().value for word in words)
    await ClockCycles(dut.clk, 4)
    await falling
    faults = []
    for _ in range(PATIENCE_CYCLES if timing.wait else 0):
        if dut.idle.value == 1:
            break
        await falling
    layout = tt_request_layout()
    payloads = [layout.const({"local": r, "table": t}).as_value().value for r, t in given.requests]
    tasks = [cocotb.start_soon(rows.run()), cocotb.start_soon(requests.send(payloads))]
    cycles = since = taken = 0
    while len(rows.taken) < given.slices and since < PATIENCE_CYCLES:
        await falling
        cycles += 1
        since = 0 if len(rows.taken) > taken else since + 1
        taken = len(rows.taken)
        if dut.idle.value == 1 and taken < given.slices and tasks[1].done():
            faults.append(f"idle is 1 with {given.slices - taken} slices to come")
            break
    await ClockCycles(dut.clk, SETTLE_CYCLES)
    await falling
    if dut.idle.value != 1:
        faults.append("idle is not 1 at the end")
    counters = {name: int(getattr(dut, name).value) for name in COUNTERS}
    for task in tasks:
        task.cancel()
    return Played(rows.taken, counters, faults + rows.faults, cycles)


@cocotb.test()
async def reconstructs(dut: Any) -> None:
    dut.rst.value = 1
    Clock(dut.clk, PERIOD_NS, unit="ns", impl="gpi").start()
    runs = pickle.loads(Path(os.environ["TT_GIVEN"]).read_bytes())
    played = [await play(dut, given) for given in runs]
    Path(os.environ["TT_PLAYED"]).write_bytes(pickle.dumps(played))
