"""Control registers behind AXI4-Lite, as Vitis kernels of protocol ``ap_ctrl_chain`` have them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import LiteSignature
from screc_hw.device.params import ADDRESS_BITS, max_compute, max_memory
from screc_hw.protocol import (
    COMPUTE_COUNTER_STRIDE,
    GMEM_STRIDE,
    MEMORY_COUNTER_STRIDE,
    Register,
)

__all__ = [
    "Control",
    "compute_counters_layout",
    "memory_counters_layout",
    "register_map",
]

GROUP_WORDS = 16
"""Registers that one multiplexer stage of the read path joins: two LUT levels."""


def memory_counters_layout() -> data.StructLayout:
    """Counters of a memory core, in the order of their registers, 32 bits each."""
    return data.StructLayout({"range_errors": 32, "lookups": 32, "beats": 32, "stalls": 32})


def compute_counters_layout() -> data.StructLayout:
    """Counters of a compute core, in the order of their registers, 32 bits each."""
    return data.StructLayout({"busy": 32, "active": 32, "waiting": 32, "weight_beats": 32})


def register_map(*, memory: int, compute: int) -> list[dict[str, Any]]:
    """Return every register: ``name``, ``offset`` and ``size`` in bytes, ``access``, ``port``.

    ``access`` is ``rw`` or ``r``; ``port`` names the AXI master that a pointer is for, else None.
    """

    def entry(name: str, offset: int, size: int, access: str, port: str | None) -> dict[str, Any]:
        return {"name": name, "offset": offset, "size": size, "access": access, "port": port}

    found = [
        entry(register.name, int(register), 4, "rw", None)
        for register in (Register.CTRL, Register.GIER, Register.IER, Register.ISR)
    ]
    found += [
        entry("queue", int(Register.QUEUE), 8, "rw", "m_axi_host"),
        entry("result", int(Register.RESULT), 8, "rw", "m_axi_host"),
        entry("queue_bytes", int(Register.QUEUE_BYTES), 4, "rw", None),
    ]
    found += [
        entry(f"gmem{i}", Register.GMEM + GMEM_STRIDE * i, 8, "rw", f"m_axi_gmem{i}")
        for i in range(memory)
    ]
    found += [
        entry(register.name, int(register), size, "r", None)
        for register, size in (
            (Register.STATUS, 4),
            (Register.CYCLES, 8),
            (Register.BLOCKS, 4),
            (Register.LOAD_CRC, 4),
        )
    ]
    for i in range(memory):
        base = Register.MEMORY_COUNTERS + MEMORY_COUNTER_STRIDE * i
        for part, name in enumerate(memory_counters_layout().members):
            found.append(entry(f"memory{i}_{name}", base + 4 * part, 4, "r", None))
    for i in range(compute):
        base = Register.COMPUTE_COUNTERS + COMPUTE_COUNTER_STRIDE * i
        for part, name in enumerate(compute_counters_layout().members):
            found.append(entry(f"compute{i}_{name}", base + 4 * part, 4, "r", None))
    return found


class Control(wiring.Component):
    """AXI4-Lite slave with the ``ap_ctrl_chain`` registers, arguments and counters.

    A write of ``ap_start`` is pending until the device can take it: until the run before it is
    finished and, unless ``auto_restart`` is set, its ``ap_done`` is acknowledged by
    ``ap_continue``. Taking it latches the arguments, pulses ``start``, clears ``ap_start`` and sets
    ``ap_ready``, so the next run's arguments may be written while this one runs.

    ==== ============ ============================================================================
    bit  CTRL         meaning
    ==== ============ ============================================================================
    0    ap_start     read and write 1; 0 again when the start is taken, 1 with auto_restart
    1    ap_done      read; set when a run ends, cleared by ap_continue
    2    ap_idle      read; no run
    3    ap_ready     read, cleared by the read; set when a start is taken
    4    ap_continue  write 1; reads 0
    7    auto_restart read and write
    ==== ============ ============================================================================

    GIER bit 0 enables ``interrupt``; IER bit 0 (done) and bit 1 (ready) let their events set the
    same bit of ISR, where writing a 1 toggles. Registers that hold no argument ignore writes, and
    unknown addresses read 0; every response is OKAY.

    **Latency** a write acts 1 cycle after both its channels have arrived; a read answers 3 cycles
    after its address. **Throughput** one access at a time in each direction.

    Parameters
    ----------
    memory, compute
        Counts of cores, at most :func:`max_memory` and :func:`max_compute`.

    Members
    -------
    axil : In(LiteSignature())
    interrupt : Out(1)
    start : Out(1)
        Pulse: run the queue with the arguments below, which hold until the next start.
    finished : In(1)
        Pulse: the run has ended.
    queue, result : Out(64)
        Pointers of the request queue and the results, in bytes.
    queue_bytes : Out(32)
    gmem : Out(64).array(memory)
        Base pointers of the memory cores, in bytes.
    status, blocks, crc : In(32)
        Sticky status flags, blocks finished since the start, CRC-32 of the last LOAD.
    memory_counters : In(memory_counters_layout()).array(memory)
    compute_counters : In(compute_counters_layout()).array(compute)

    Raises
    ------
    ValueError
        If there are more cores than registers for them.
    """

    axil: Any
    interrupt: Signal
    start: Signal
    finished: Signal
    queue: Signal
    result: Signal
    queue_bytes: Signal
    gmem: list[Signal]
    status: Signal
    blocks: Signal
    crc: Signal
    memory_counters: list[data.View]
    compute_counters: list[data.View]

    def __init__(self, *, memory: int, compute: int) -> None:
        for name, count, limit in (
            ("memory", memory, max_memory()),
            ("compute", compute, max_compute()),
        ):
            if not 1 <= count <= limit:
                raise ValueError(
                    f"the registers have room for 1 to {limit} {name} cores, not {count}"
                )
        super().__init__(
            {
                "axil": In(LiteSignature(address_bits=ADDRESS_BITS)),
                "interrupt": Out(1),
                "start": Out(1),
                "finished": In(1),
                "queue": Out(64),
                "result": Out(64),
                "queue_bytes": Out(32),
                "gmem": Out(64).array(memory),
                "status": In(32),
                "blocks": In(32),
                "crc": In(32),
                "memory_counters": In(memory_counters_layout()).array(memory),
                "compute_counters": In(compute_counters_layout()).array(compute),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build write port, run control, arguments and read port."""
        m = Module()
        address, word, strobe, write = self._write_port(m)
        selected = {
            register: write & (address == register >> 2) & strobe[0]
            for register in (Register.CTRL, Register.GIER, Register.IER, Register.ISR)
        }
        take, ready_read = Signal(), Signal()
        readable = self._run_control(m, selected, word, take, ready_read)
        readable |= self._arguments(m, address, word, strobe, write, take)
        readable |= self._counters(m)
        self._read_port(m, readable, ready_read)
        return m

    def _write_port(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """Join address and data; return word address, data, byte strobes and the write pulse."""
        bus = self.axil
        address, word, strobe = Signal(ADDRESS_BITS - 2), Signal(32), Signal(4)
        has_address, has_data, write = Signal(), Signal(), Signal()
        m.d.comb += [
            bus.awready.eq(~has_address),
            bus.wready.eq(~has_data),
            write.eq(has_address & has_data & ~bus.bvalid),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr[2:]), has_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), has_data.eq(1)]
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), bus.bvalid.eq(1)]
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        return address, word, strobe, write

    def _run_control(
        self,
        m: Module,
        selected: dict[Register, Value],
        word: Signal,
        take: Signal,
        ready_read: Signal,
    ) -> dict[int, Value]:
        """Build start, done, ready and the interrupt; return the readable words."""
        pending, running, done = Signal(), Signal(), Signal()
        ready, auto, cycles = Signal(), Signal(), Signal(64)
        enable, events, flags, happened = Signal(), Signal(2), Signal(2), Signal(2)
        m.d.comb += [
            take.eq(pending & ~running & (~done | auto)),
            happened.eq(Cat(self.finished & running, take) & events),
        ]
        m.d.sync += [self.start.eq(take), self.interrupt.eq(enable & flags.any())]
        with m.If(selected[Register.CTRL]):
            m.d.sync += auto.eq(word[7])
        with m.If(selected[Register.CTRL] & word[0]):
            m.d.sync += pending.eq(1)
        with m.Elif(take):
            m.d.sync += pending.eq(auto)
        with m.If(take):
            m.d.sync += [running.eq(1), ready.eq(1), cycles.eq(0)]
        with m.Elif(ready_read):
            m.d.sync += ready.eq(0)
        with m.If(running):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(running & self.finished):
            m.d.sync += [running.eq(0), done.eq(1)]
        with m.Elif(selected[Register.CTRL] & word[4]):
            m.d.sync += done.eq(0)
        with m.If(selected[Register.GIER]):
            m.d.sync += enable.eq(word[0])
        with m.If(selected[Register.IER]):
            m.d.sync += events.eq(word[:2])
        with m.If(selected[Register.ISR]):
            m.d.sync += flags.eq((flags ^ word[:2]) | happened)
        with m.Else():
            m.d.sync += flags.eq(flags | happened)
        return {
            Register.CTRL: Cat(pending, done, ~running, ready, Const(0, 3), auto),
            Register.GIER: enable,
            Register.IER: events,
            Register.ISR: flags,
            Register.CYCLES: cycles[:32],
            Register.CYCLES + 4: cycles[32:],
        }

    def _arguments(
        self,
        m: Module,
        address: Signal,
        word: Signal,
        strobe: Signal,
        write: Signal,
        take: Signal,
    ) -> dict[int, Value]:
        """Build the argument registers and their latched copies; return the readable words."""
        pointers = [
            (int(Register.QUEUE), self.queue),
            (int(Register.RESULT), self.result),
            (int(Register.QUEUE_BYTES), self.queue_bytes),
        ]
        pointers += [
            (Register.GMEM + GMEM_STRIDE * i, pointer) for i, pointer in enumerate(self.gmem)
        ]
        readable: dict[int, Value] = {}
        for offset, latched in pointers:
            argument = Signal(len(latched), name=f"argument_{offset:03x}")
            for part in range(len(latched) // 32):
                readable[offset + 4 * part] = half = argument.word_select(part, 32)
                with m.If(write & (address == (offset >> 2) + part)):
                    for byte in range(4):
                        with m.If(strobe[byte]):
                            m.d.sync += half.word_select(byte, 8).eq(word.word_select(byte, 8))
            with m.If(take):
                m.d.sync += latched.eq(argument)
        return readable

    def _counters(self, m: Module) -> dict[int, Value]:
        """Return the readable words that others count."""
        readable: dict[int, Value] = {
            Register.STATUS: self.status,
            Register.BLOCKS: self.blocks,
            Register.LOAD_CRC: self.crc,
        }
        for base, stride, cores in (
            (Register.MEMORY_COUNTERS, MEMORY_COUNTER_STRIDE, self.memory_counters),
            (Register.COMPUTE_COUNTERS, COMPUTE_COUNTER_STRIDE, self.compute_counters),
        ):
            for i, counters in enumerate(cores):
                bits = Value.cast(counters)
                for part in range(len(bits) // 32):
                    readable[base + stride * i + 4 * part] = bits.word_select(part, 32)
        return readable

    def _read_port(self, m: Module, readable: dict[int, Value], ready_read: Signal) -> None:
        """Build the read multiplexer in two registered stages: within groups, then over groups."""
        bus = self.axil
        address = Signal(ADDRESS_BITS - 2)
        first, second = Signal(), Signal()
        m.d.comb += bus.arready.eq(~(first | second | bus.rvalid))
        m.d.sync += [first.eq(bus.arvalid & bus.arready), second.eq(first)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += address.eq(bus.araddr[2:])
        groups: dict[int, dict[int, Value]] = {}
        for offset, value in readable.items():
            group, index = divmod(offset >> 2, GROUP_WORDS)
            groups.setdefault(group, {})[index] = value
        outputs = {}
        for group, words in sorted(groups.items()):
            outputs[group] = out = Signal(32, name=f"group_{group}")
            m.d.sync += out.eq(Array(words.get(i, 0) for i in range(GROUP_WORDS))[address[:4]])
        with m.If(second):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0)]
            with m.Switch(address[4:]):
                for group, out in outputs.items():
                    with m.Case(group):
                        m.d.sync += bus.rdata.eq(out)
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        # ap_ready is cleared in the cycle that samples it
        m.d.comb += ready_read.eq(first & (address == Register.CTRL >> 2))
