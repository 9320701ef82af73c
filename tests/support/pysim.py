"""Stream helpers for Amaranth's simulator: drive and collect with seeded idle and back-pressure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from amaranth.lib import data
from amaranth.sim import Simulator

PATTERNS = ("none", "cycle", "random")
"""Idle or back-pressure: never, every other cycle, or at random."""


def pauses(pattern: str, seed: int) -> Callable[[], bool]:
    """Return a function that says, cycle by cycle, whether to pause."""
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {PATTERNS}, not {pattern!r}")
    rng = random.Random(seed)
    state = {"on": False}

    def pause() -> bool:
        if pattern == "none":
            return False
        if pattern == "cycle":
            state["on"] = not state["on"]
            return state["on"]
        return rng.random() < 0.5

    return pause


def bits_of(value: Any) -> Any:
    """Return a sampled payload as it may be compared, without its fields being read one by one."""
    return value.as_bits() if isinstance(value, data.Const) else value


def driver(stream: Any, items: Iterable[Any], pattern: str = "none", seed: int = 0) -> Any:
    """Return a test bench process that sends ``items`` (payload values or dicts) in order."""

    async def process(ctx: Any) -> None:
        pause = pauses(pattern, seed)
        for item in items:
            while pause():
                await ctx.tick()
            ctx.set(stream.payload, item)
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    return process


def collector(
    stream: Any,
    sink: list[Any],
    pattern: str = "none",
    seed: int = 1,
    decode: Callable[[Any], Any] = lambda payload: payload,
) -> Any:
    """Return a background process that appends every transfer and checks stream rule 2."""

    async def process(ctx: Any) -> None:
        pause = pauses(pattern, seed)
        waiting = None
        while True:
            take = not pause()
            ctx.set(stream.ready, int(take))
            # a combinational output settles before the edge that samples it
            _, _, valid, raw = await ctx.tick().sample(stream.valid, stream.payload)
            bits = bits_of(raw)
            if waiting is not None:
                assert valid, "valid was withdrawn before the transfer"
                assert bits == waiting, "payload changed before the transfer"
            waiting = bits if valid and not take else None
            if valid and take:
                sink.append(decode(raw))

    return process


def simulate(
    dut: Any,
    *processes: Any,
    background: Iterable[Any] = (),
    until: Callable[[], bool] | None = None,
    cycles: int = 20_000,
    settle: int = 20,
) -> int:
    """Run ``processes``; then until ``until()`` holds, and ``settle`` cycles more.

    Returns the cycles until the condition held. The extra cycles show that nothing more comes out.

    Raises
    ------
    AssertionError
        If the condition does not hold within ``cycles``.
    """
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for process in background:
        sim.add_testbench(process, background=True)
    for process in processes:
        sim.add_testbench(process)
    spent = {"cycles": 0}

    async def watch(ctx: Any) -> None:
        if until is not None:
            while not until():
                await ctx.tick()
                spent["cycles"] += 1
                assert spent["cycles"] < cycles, f"not finished after {cycles} cycles"
        await ctx.tick().repeat(settle)

    sim.add_testbench(watch)
    sim.run()
    return spent["cycles"]
