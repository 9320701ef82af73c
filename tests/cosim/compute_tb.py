"""Plays runs of a compute core for a test that is connected to it."""

from __future__ import annotations

import os
import random
from multiprocessing.connection import Client
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

from tests.cosim.compute_case import Given, Played, Round, Timing

PERIOD_NS = 4
RESET_CYCLES = 3
SETTLE_CYCLES = 60
"""Cycles after a round in which nothing more may come."""

COUNTERS = ("busy", "active", "waiting")


class Source:
    """Offers payloads at a stream; :meth:`step` in every cycle, before the rising edge.

    ``ready`` comes from a register, so what is offered now is taken at the coming edge if it is 1.
    """

    def __init__(self, dut: Any, name: str, idle: float, seed: str) -> None:
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload")
        self._random, self._idle = random.Random(f"{seed} {name}"), idle
        self._driven = False
        self.offered: int | None = None
        self._valid.value = 0

    def wants(self) -> bool:
        """Whether the next payload may be offered now."""
        return self.offered is None and self._random.random() >= self._idle

    def offer(self, payload: int) -> None:
        """Offer ``payload`` from now on."""
        self.offered = payload
        self._payload.value = payload

    def step(self) -> bool:
        """Drive ``valid``; return whether the payload is taken."""
        valid = self.offered is not None
        if valid != self._driven:
            self._valid.value = int(valid)
            self._driven = valid
        if not valid or self._ready.value != 1:
            return False
        self.offered = None
        return True


class Sink:
    """Takes results and checks that they hold until they are taken."""

    def __init__(self, dut: Any, back: float, seed: str) -> None:
        self._valid, self._ready = dut.results__valid, dut.results__ready
        self._payload = dut.results__payload
        self._random, self._back = random.Random(f"{seed} results"), back
        self._driven = -1
        self._held: int | None = None
        self.taken: list[int] = []
        self.faults: list[str] = []

    def step(self) -> bool:
        """Choose ``ready``; return whether a result is taken."""
        ready = int(self._random.random() >= self._back)
        if ready != self._driven:
            self._ready.value = self._driven = ready
        if self._valid.value != 1:
            if self._held is not None:
                self.faults.append("results.valid was withdrawn before the transfer")
                self._held = None
            return False
        value = self._payload.value
        if not value.is_resolvable:
            self.faults.append(f"results.payload is {value}")
            return False
        payload = int(value)
        if self._held is not None and payload != self._held:
            self.faults.append("results.payload changed before the transfer")
        self._held = None if ready else payload
        if ready:
            self.taken.append(payload)
        return bool(ready)


class Play:
    """One run."""

    def __init__(self, dut: Any, given: Given) -> None:
        timing: Timing = given.timing
        seed = str(timing.seed)
        self.dut, self.given = dut, given
        self.falling = FallingEdge(dut.clk)
        self.random = random.Random(f"{seed} order")
        self.in_order = timing.words_idle == 0
        self.dense = Source(dut, "dense", timing.dense_idle, seed)
        self.words = Source(dut, "words", timing.words_idle, seed)
        self.sink = Sink(dut, timing.back, seed)
        self.released = self.before = self.cycle = 0
        self.faults: list[str] = []

    async def run(self) -> Played:
        """Reset, then load and play round after round."""
        dut = self.dut
        dut.config__valid.value = dut.complete.value = dut.results__ready.value = 0
        dut.rst.value = 1
        await ClockCycles(dut.clk, RESET_CYCLES)
        await self.falling
        dut.rst.value = 0
        cycles = []
        for played in self.given.rounds:
            await self.load(played.config)
            if not self.over and dut.idle.value != 1:
                self.faults.append("idle is not 1 after LOAD")
            start = self.cycle
            await self.play(played)
            cycles.append(self.cycle - start)
            if self.over or self.faults or self.sink.faults:
                break
            await self.settle()
        counters = {}
        for name in COUNTERS:
            value = getattr(dut, name).value
            if value.is_resolvable:
                counters[name] = int(value)
            else:
                self.faults.append(f"{name} is {value}")
        return Played(self.sink.taken, cycles, counters, self.faults + self.sink.faults)

    @property
    def over(self) -> bool:
        """Whether the run is to be left here."""
        return self.given.stop is not None and self.cycle >= self.given.stop

    async def load(self, config: list[int]) -> None:
        """Send LOAD words."""
        payload, falling = self.dut.config__payload, self.falling
        self.dut.config__valid.value = 1
        for word in config:
            if self.over:
                break
            payload.value = word
            await falling
            self.cycle += 1
        self.dut.config__valid.value = 0
        for _ in range(4):
            await falling

    async def play(self, given: Round) -> None:
        """Offer inputs and take results until all have come and all slots are released."""
        slots, count = self.given.slots, len(given.words)
        dense = iter(given.dense)
        open_words: dict[int, list[int]] = {}  # of the sub-batches whose words may come
        opened = finished = since = 0
        coming: int | None = next(dense, None)
        last_of: int | None = None  # sub-batch of the word that is offered
        results = len(self.sink.taken) + given.results
        complete, release = self.dut.complete, self.dut.release
        completing = False
        while len(self.sink.taken) < results or self.released < self.before + count:
            if self.over or self.sink.faults:
                return
            if since > self.given.patience:
                come = len(self.sink.taken) - results + given.results
                self.faults.append(
                    f"nothing moves any more after {come} results and"
                    f" {self.released - self.before} releases"
                )
                return
            since += 1
            while opened < count and self.before + opened < self.released + slots:
                slot = (self.before + opened) % slots
                words = [word | slot << self.given.slot_low for word in given.words[opened]]
                self.random.shuffle(words)
                open_words[opened] = words
                opened += 1
            if coming is not None and self.dense.wants():
                self.dense.offer(coming)
                coming = next(dense, None)
            if self.words.wants():
                ready = [q for q, words in open_words.items() if words]
                if ready:
                    last_of = ready[0] if self.in_order else self.random.choice(ready)
                    self.words.offer(open_words[last_of].pop())
            moved = self.dense.step()
            if self.words.step():
                moved, last_of = True, None
            # with the last word's transfer, or later
            done = finished in open_words and not open_words[finished] and last_of != finished
            done = done and (self.in_order or self.random.random() < 0.5)
            if done:
                del open_words[finished]
                finished += 1
                moved = True
            if done != completing:
                complete.value = int(done)
                completing = done
            moved |= self.sink.step()
            await self.falling
            self.cycle += 1
            if release.value == 1:
                self.released += 1
                moved = True
            if moved:
                since = 0
        complete.value = 0
        self.before += count

    async def settle(self) -> None:
        """Wait; the core is idle and nothing comes."""
        count, released = len(self.sink.taken), self.released
        for _ in range(SETTLE_CYCLES):
            self.dense.step()
            self.words.step()
            self.sink.step()
            await self.falling
            self.cycle += 1
            released += int(self.dut.release.value == 1)
        if len(self.sink.taken) > count:
            self.faults.append(f"{len(self.sink.taken) - count} results too many")
        if released > self.released:
            self.faults.append(f"{released - self.released} releases too many")
        if self.dut.idle.value != 1:
            self.faults.append("idle is not 1 at the end")


@cocotb.test()
async def plays(dut: Any) -> None:
    dut.rst.value = 1
    Clock(dut.clk, PERIOD_NS, unit="ns", impl="gpi").start()
    with Client(os.environ["COMPUTE_ADDRESS"]) as connection:
        while True:
            try:
                given = connection.recv()
            except EOFError:
                return
            if given is None:
                return
            connection.send(await Play(dut, given).run())
