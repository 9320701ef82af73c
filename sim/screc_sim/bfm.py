"""Bus models for the device's ports: AXI4 memory and an AXI4-Lite master, for cocotb.

Everything here samples and drives at the *falling* edge of the clock. Outputs of the device leave
registers (AXI4 allows no combinational path between its inputs and outputs, A3.2.1), so at the
falling edge they are what the next rising edge sees, in every simulator and whatever its order
of events; what is driven then has half a cycle to settle. It also means that a model knows at once
whether its beat is taken at the coming edge. A channel where nothing happens costs no Python: its
task waits for ``valid`` to rise, or sleeps until the answer is due.

Names are those of Vitis kernels: ``<prefix>_ARADDR``, ``<prefix>_RDATA`` and so on.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from typing import Any

import cocotb
from cocotb.handle import SimHandleBase
from cocotb.simtime import get_sim_time
from cocotb.triggers import Event, FallingEdge, RisingEdge, Timer

from screc_hw.axi import BOUNDARY_BYTES, INCR
from screc_sim.memory import DeviceMemory, Response, Timing


@dataclasses.dataclass(slots=True)
class Burst:
    """An accepted address: ``beats`` beats at ``address``; answered from simulator time ``due``."""

    address: int
    ident: int
    beats: int
    due: int


class Line:
    """A port of one or more bits that remembers what was driven, so equal writes cost nothing."""

    __slots__ = ("_driven", "_handle")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._driven: int | None = None

    def drive(self, value: int) -> None:
        """Drive ``value``, if it is not driven already."""
        if value != self._driven:
            self._driven = value
            self._handle.value = value


class Clock:
    """The device's clock as the models see it: its falling edge, and time in simulator steps."""

    def __init__(self, handle: Any, period_steps: int) -> None:
        self.period = period_steps
        self.falling = FallingEdge(handle)

    @staticmethod
    def now() -> int:
        """Time in simulator steps."""
        return get_sim_time("step")

    async def until(self, time: int) -> None:
        """Sleep until the falling edge at ``time``, which lies ahead."""
        # a timer that ends with the edge might fire before it, and the next wait would see it again
        await Timer(time - self.now() - self.period // 2, "step")
        await self.falling


class Port:
    """What the models of one AXI port share: handles, clock, randomness and found faults.

    Attributes
    ----------
    faults
        Violations of AXI rules by the device, with the time in cycles.
    """

    def __init__(self, dut: SimHandleBase, prefix: str, clock: Clock, timing: Timing) -> None:
        self.name = prefix
        self.clock = clock
        self.timing = timing
        self.faults: list[str] = []
        self._dut = dut

    def handle(self, signal: str) -> Any:
        """Return the simulator's handle of ``<prefix>_<signal>``."""
        return getattr(self._dut, f"{self.name}_{signal}")

    def line(self, signal: str, value: int = 0) -> Line:
        """Return a driven port, at ``value``."""
        line = Line(self.handle(signal))
        line.drive(value)
        return line

    def fault(self, text: str) -> None:
        """Record that the device broke a rule."""
        self.faults.append(f"{self.name}, cycle {self.clock.now() // self.clock.period}: {text}")


class AddressChannel:
    """Accepts AR or AW requests, checks them, and hands them on.

    Parameters
    ----------
    port
        The port.
    kind
        ``"AR"`` or ``"AW"``.
    beat_bytes
        Width of the data channel.
    accept
        Called with every accepted :class:`Burst`.
    """

    def __init__(self, port: Port, kind: str, beat_bytes: int, accept: Any) -> None:
        self._port = port
        self._kind = kind
        self._beat_bytes = beat_bytes
        self._accept = accept
        self._ready = port.line(f"{kind}READY", 1)
        self._random = random.Random(f"{port.timing.seed} {port.name} {kind}")

    async def run(self) -> None:
        """Serve the channel for ever."""
        port, kind, timing = self._port, self._kind, self._port.timing
        valid = port.handle(f"{kind}VALID")
        fields = [port.handle(f"{kind}{name}") for name in ("ADDR", "ID", "LEN", "SIZE", "BURST")]
        falling, rises = port.clock.falling, RisingEdge(valid)
        waiting: list[int] | None = None
        while True:
            if valid.value != 1:
                if waiting is not None:
                    port.fault(f"{kind}VALID was withdrawn before {kind}READY")
                    waiting = None
                await rises
                await falling
                continue
            request = [int(field.value) for field in fields]
            if waiting is not None and waiting != request:
                port.fault(f"{kind} changed from {waiting} to {request} before {kind}READY")
            if timing.stall and self._random.random() < timing.stall:
                self._ready.drive(0)
                waiting = request
            else:
                self._ready.drive(1)
                waiting = None
                self._take(request)
            await falling

    def _take(self, request: list[int]) -> None:
        address, ident, length, size, kind = request
        beats = length + 1
        if 1 << size != self._beat_bytes or kind != INCR:
            self._port.fault(
                f"{self._kind}SIZE {size} {self._kind}BURST {kind}: bursts are INCR, "
                f"{self._beat_bytes} bytes a beat"
            )
        if address % self._beat_bytes:
            self._port.fault(f"{self._kind}ADDR {address:#x} is not aligned to a beat")
        last = address + beats * self._beat_bytes - 1
        if address // BOUNDARY_BYTES != last // BOUNDARY_BYTES:
            self._port.fault(
                f"{beats} beats at {address:#x} cross a boundary of {BOUNDARY_BYTES} bytes"
            )
        timing, clock = self._port.timing, self._port.clock
        delay = timing.latency + (self._random.randint(0, timing.jitter) if timing.jitter else 0)
        self._accept(Burst(address, ident, beats, clock.now() + delay * clock.period))


class Answers:
    """Accepted bursts that wait for their answer; one ID's stay in order."""

    def __init__(self, timing: Timing, name: str) -> None:
        self._reorder = timing.reorder
        self._random = random.Random(f"{timing.seed} {name} order")
        self._queues: dict[int, deque[Burst]] = {}
        self._count = 0
        self._added = Event()

    def add(self, burst: Burst) -> None:
        """Queue a burst."""
        key = burst.ident if self._reorder else 0
        self._queues.setdefault(key, deque()).append(burst)
        self._count += 1
        self._added.set()

    def __bool__(self) -> bool:
        return self._count > 0

    async def wait(self) -> None:
        """Return once a burst is queued."""
        self._added.clear()
        if not self._count:
            await self._added.wait()

    def pop(self, now: int) -> Burst:
        """Take the next burst: a random ID's of those due, else the one due first."""
        heads = [queue for queue in self._queues.values() if queue]
        if len(heads) > 1:
            due = [queue for queue in heads if queue[0].due <= now]
            queue = self._random.choice(due) if due else min(heads, key=lambda q: q[0].due)
        else:
            queue = heads[0]
        self._count -= 1
        return queue.popleft()


class AxiRead:
    """AXI4 memory, read side: many requests outstanding, one beat per cycle.

    Parameters
    ----------
    dut, prefix
        Where the ports are.
    clock, timing
        When to answer.
    memory
        What to answer.

    Attributes
    ----------
    beats
        Data beats transferred.
    """

    def __init__(
        self, dut: SimHandleBase, prefix: str, clock: Clock, timing: Timing, memory: DeviceMemory
    ) -> None:
        self.port = Port(dut, prefix, clock, timing)
        self.beats = 0
        self._memory = memory
        self._data = self.port.handle("RDATA")
        self._beat_bytes = len(self._data) // 8
        self._answers = Answers(timing, prefix)
        self._requests = AddressChannel(self.port, "AR", self._beat_bytes, self._accept)
        self._random = random.Random(f"{timing.seed} {prefix} R")
        self._valid = self.port.line("RVALID")
        self._id = self.port.line("RID")
        self._response = self.port.line("RRESP")
        self._last = self.port.line("RLAST")
        self._data.value = 0

    def start(self) -> None:
        """Serve the port from now on."""
        cocotb.start_soon(self._requests.run())
        cocotb.start_soon(self._serve())

    def _accept(self, burst: Burst) -> None:
        """Queue a burst, later where the memory says so."""
        late = self._memory.lateness(burst.address, burst.beats * self._beat_bytes)
        due = burst.due + late * self.port.clock.period
        self._answers.add(dataclasses.replace(burst, due=due))

    async def _serve(self) -> None:
        clock = self.port.clock
        while True:
            if not self._answers:
                self._valid.drive(0)
                await self._answers.wait()
            burst = self._answers.pop(clock.now())
            if burst.due > clock.now():
                self._valid.drive(0)
                await clock.until(burst.due)
            await self._send(burst)

    async def _send(self, burst: Burst) -> None:
        """Offer the beats of ``burst``, from a falling edge to the one after the last transfer."""
        ready = self.port.handle("RREADY")
        falling, stall = self.port.clock.falling, self.port.timing.stall
        address = burst.address
        self._id.drive(burst.ident)
        for beat in range(burst.beats):
            if stall:
                while self._random.random() < stall:
                    self._valid.drive(0)
                    await falling
            data, response = self._memory.read(address, self._beat_bytes)
            address += self._beat_bytes
            self._data.value = data
            self._response.drive(response)
            self._last.drive(int(beat == burst.beats - 1))
            self._valid.drive(1)
            while ready.value != 1:
                await falling
            await falling
            self.beats += 1


class AxiWrite:
    """AXI4 memory, write side; data may arrive before its address.

    Parameters
    ----------
    dut, prefix, clock, timing, memory
        As of :class:`AxiRead`.

    Attributes
    ----------
    beats
        Data beats transferred.
    """

    def __init__(
        self, dut: SimHandleBase, prefix: str, clock: Clock, timing: Timing, memory: DeviceMemory
    ) -> None:
        self.port = Port(dut, prefix, clock, timing)
        self.beats = 0
        self._memory = memory
        self._beat_bytes = len(self.port.handle("WDATA")) // 8
        self._requests = AddressChannel(self.port, "AW", self._beat_bytes, self._accept)
        self._answers = Answers(timing, prefix)
        self._addresses: deque[Burst] = deque()
        self._received: deque[tuple[int, int, int]] = deque()
        self._responses: dict[int, deque[Response]] = {}
        self._random = random.Random(f"{timing.seed} {prefix} W")
        self._ready = self.port.line("WREADY", 1)
        self._valid = self.port.line("BVALID")
        self._id = self.port.line("BID")
        self._response = self.port.line("BRESP")

    def start(self) -> None:
        """Serve the port from now on."""
        cocotb.start_soon(self._requests.run())
        cocotb.start_soon(self._receive())
        cocotb.start_soon(self._reply())

    def _accept(self, burst: Burst) -> None:
        self._addresses.append(burst)
        self._write()

    async def _receive(self) -> None:
        port, stall = self.port, self.port.timing.stall
        valid = port.handle("WVALID")
        fields = [port.handle(name) for name in ("WDATA", "WSTRB", "WLAST")]
        falling, rises = port.clock.falling, RisingEdge(valid)
        waiting: list[int] | None = None
        while True:
            if valid.value != 1:
                if waiting is not None:
                    port.fault("WVALID was withdrawn before WREADY")
                    waiting = None
                await rises
                await falling
                continue
            data, strobe, last = beat = [int(field.value) for field in fields]
            if waiting is not None and waiting != beat:
                port.fault("W changed before WREADY")
            if stall and self._random.random() < stall:
                self._ready.drive(0)
                waiting = beat
            else:
                self._ready.drive(1)
                waiting = None
                self.beats += 1
                self._received.append((data, strobe, last))
                self._write()
            await falling

    def _write(self) -> None:
        """Write every burst whose address and beats are here, and queue its response."""
        clock, timing = self.port.clock, self.port.timing
        while self._addresses and len(self._received) >= self._addresses[0].beats:
            burst = self._addresses.popleft()
            worst = Response.OKAY
            for beat in range(burst.beats):
                data, strobe, last = self._received.popleft()
                if last != (beat == burst.beats - 1):
                    self.port.fault(f"WLAST {last} on beat {beat} of {burst.beats}")
                address = burst.address + beat * self._beat_bytes
                response = self._memory.write(address, data, strobe, self._beat_bytes)
                worst = max(worst, response)
            self._responses.setdefault(burst.ident, deque()).append(worst)
            # a response follows the last data beat, whenever the address came
            due = max(burst.due, clock.now() + timing.latency * clock.period)
            self._answers.add(dataclasses.replace(burst, due=due))

    async def _reply(self) -> None:
        clock, falling = self.port.clock, self.port.clock.falling
        ready = self.port.handle("BREADY")
        while True:
            if not self._answers:
                self._valid.drive(0)
                await self._answers.wait()
            burst = self._answers.pop(clock.now())
            if burst.due > clock.now():
                self._valid.drive(0)
                await clock.until(burst.due)
            self._id.drive(burst.ident)
            self._response.drive(self._responses[burst.ident].popleft())
            self._valid.drive(1)
            while ready.value != 1:
                await falling
            await falling


class LiteMaster:
    """AXI4-Lite master: one 32-bit access at a time.

    Parameters
    ----------
    dut, prefix, clock
        Where the ports are; they are driven idle from construction on.
    """

    def __init__(self, dut: SimHandleBase, prefix: str, clock: Clock) -> None:
        port = Port(dut, prefix, clock, Timing())
        self._falling = clock.falling
        self._port = port
        self._driven = {
            name: port.line(name)
            for name in (
                *("AWVALID", "AWADDR", "WVALID", "WDATA", "WSTRB"),
                *("BREADY", "ARVALID", "ARADDR", "RREADY"),
            )
        }

    async def write(self, address: int, value: int) -> None:
        """Write a 32-bit register.

        Raises
        ------
        RuntimeError
            If the response is not OKAY.
        """
        line = self._driven
        await self._falling
        line["AWADDR"].drive(address)
        line["WDATA"].drive(value)
        line["WSTRB"].drive(0b1111)
        pending = {"AW", "W"}
        for channel in pending:
            line[f"{channel}VALID"].drive(1)
        while pending:
            taken = {c for c in pending if self._port.handle(f"{c}READY").value == 1}
            await self._falling
            for channel in taken:
                line[f"{channel}VALID"].drive(0)
            pending -= taken
        await self._response("B", address)

    async def write64(self, address: int, value: int) -> None:
        """Write a 64-bit register, low word first."""
        await self.write(address, value & 0xFFFFFFFF)
        await self.write(address + 4, value >> 32)

    async def read(self, address: int) -> int:
        """Read a 32-bit register.

        Raises
        ------
        RuntimeError
            If the response is not OKAY.
        """
        line = self._driven
        await self._falling
        line["ARADDR"].drive(address)
        line["ARVALID"].drive(1)
        while self._port.handle("ARREADY").value != 1:
            await self._falling
        await self._falling
        line["ARVALID"].drive(0)
        return await self._response("R", address)

    async def read64(self, address: int) -> int:
        """Read a 64-bit register, low word first."""
        low = await self.read(address)
        return low | await self.read(address + 4) << 32

    async def _response(self, channel: str, address: int) -> int:
        """Take the answer on ``channel``; return its data, 0 for a write."""
        ready, valid = self._driven[f"{channel}READY"], self._port.handle(f"{channel}VALID")
        ready.drive(1)
        while valid.value != 1:
            await self._falling
        response = int(self._port.handle(f"{channel}RESP").value)
        data = int(self._port.handle("RDATA").value) if channel == "R" else 0
        await self._falling
        ready.drive(0)
        if response != Response.OKAY:
            raise RuntimeError(f"register {address:#x} answered {response}, not OKAY")
        return data
