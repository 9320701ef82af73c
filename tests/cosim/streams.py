"""Amaranth streams in cocotb: a source and a sink with seeded pauses.

Both sample and drive at the falling edge, as the models of ``screc_sim.bfm`` do: what is sampled
leaves registers, and a transfer is known half a cycle before the edge that makes it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Any

from cocotb.triggers import FallingEdge


class StreamSource:
    """Sends integers; pauses with probability ``idle`` per cycle before each."""

    def __init__(self, dut: Any, name: str, *, idle: float = 0.0, seed: str = "") -> None:
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready", None)
        self._payload = getattr(dut, f"{name}__payload")
        self._falling = FallingEdge(dut.clk)
        self._random, self._idle = random.Random(f"{seed} {name}"), idle
        self._valid.value = 0
        self.waiting: deque[int] = deque()

    async def send(self, payloads: Iterable[int]) -> None:
        """Send ``payloads``; return after the last transfer."""
        for payload in payloads:
            while self._random.random() < self._idle:
                await self._falling
            self._payload.value = payload
            self._valid.value = 1
            taken = self._ready is None
            while not taken:
                # a falling edge later the inputs of this one have settled
                taken = self._ready.value == 1
                await self._falling
            if self._ready is None:
                await self._falling
            self._valid.value = 0

    async def run(self) -> None:
        """Send what ``waiting`` holds, for ever."""
        while True:
            while not self.waiting:
                await self._falling
            await self.send([self.waiting.popleft()])


class StreamSink:
    """Appends what it takes to ``taken``; not ready with probability ``back`` per cycle.

    ``faults`` holds breaches of the rule that ``valid`` and ``payload`` hold until the transfer.
    """

    def __init__(self, dut: Any, name: str, *, back: float = 0.0, seed: str = "") -> None:
        self._name = name
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload")
        self._falling = FallingEdge(dut.clk)
        self._random, self._back = random.Random(f"{seed} {name}"), back
        self._ready.value = 0
        self.taken: list[int] = []
        self.faults: list[str] = []

    async def run(self) -> None:
        """Take for ever."""
        held: int | None = None
        driven = -1
        while True:
            ready = int(self._random.random() >= self._back)
            if ready != driven:
                self._ready.value = driven = ready
            if self._valid.value == 1:
                value = self._payload.value
                if not value.is_resolvable:
                    self.faults.append(f"{self._name}: payload is {value}")
                    return
                payload = int(value)
                if held is not None and payload != held:
                    self.faults.append(f"{self._name}: payload changed before the transfer")
                held = None if ready else payload
                if ready:
                    self.taken.append(payload)
            elif held is not None:
                self.faults.append(f"{self._name}: valid was withdrawn before the transfer")
                held = None
            await self._falling
