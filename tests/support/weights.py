"""Memory that a compute core streams its weights from, in Amaranth's simulator."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.protocol import BEAT_BYTES


class WeightMemory:
    """AXI read slave with one region of data; every read outside it fails the test.

    ``latency`` cycles from an address to its first beat; with a ``seed`` at random up to it, with
    pauses of addresses and beats. ``error_at``: number of the beat that gets an error response.
    """

    def __init__(
        self,
        axi: Any,
        base: int,
        data: NDArray[np.uint8],
        *,
        latency: int = 20,
        seed: int | None = None,
        error_at: int | None = None,
    ):
        self.axi, self.base = axi, base
        self.data = data
        self.latency = latency
        self.rng = None if seed is None else random.Random(seed)
        self.error_at = error_at
        self.bursts: list[tuple[int, int]] = []  # address within the data, beats
        self.outstanding = self.most = 0

    @property
    def beats(self) -> int:
        """Beats asked for."""
        return sum(beats for _, beats in self.bursts)

    def _take(self, address: int, beats: int) -> int:
        start = address - self.base
        assert address % BEAT_BYTES == 0
        assert address // 4096 == (address + beats * BEAT_BYTES - 1) // 4096, "crosses 4 KiB"
        inside = start >= 0 and start + beats * BEAT_BYTES <= len(self.data)
        assert inside, f"read of {beats} beats at {address:#x} is outside the region"
        self.bursts.append((start, beats))
        return start

    async def process(self, ctx: Any) -> None:
        axi = self.axi
        waiting: deque[tuple[int, int, bool]] = deque()  # cycle, value, last
        cycle = sent = 0
        while True:
            ready = self.rng is None or self.rng.random() < 0.7
            due = bool(waiting) and waiting[0][0] <= cycle
            valid = due and (self.rng is None or self.rng.random() < 0.8)
            ctx.set(axi.arready, int(ready))
            ctx.set(axi.rvalid, int(valid))
            if valid:
                _, value, last = waiting.popleft()
                ctx.set(axi.rdata, value)
                ctx.set(axi.rlast, int(last))
                ctx.set(axi.rresp, 2 if sent == self.error_at else 0)
                sent += 1
                self.outstanding -= 1
            _, _, asks, address, length, size, burst, takes = await ctx.tick().sample(
                axi.arvalid, axi.araddr, axi.arlen, axi.arsize, axi.arburst, axi.rready
            )
            cycle += 1
            assert takes
            if asks and ready:
                assert (size, burst) == (6, 1)
                start = self._take(address, length + 1)
                wait = self.latency if self.rng is None else self.rng.randint(1, self.latency)
                for i in range(length + 1):
                    at = start + i * BEAT_BYTES
                    value = int.from_bytes(self.data[at : at + BEAT_BYTES].tobytes(), "little")
                    waiting.append((cycle + wait - 1 + i, value, i == length))
                self.outstanding += length + 1
                self.most = max(self.most, self.outstanding)
