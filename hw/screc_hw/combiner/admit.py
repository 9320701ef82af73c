"""Admission of sub-batches: slots, bag headers, and the zeros of empty bags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import bag_address, header_layout, part_layout, zero_layout
from screc_hw.combiner.params import CombinerParams
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget
from screc_hw.stream import Queue, SkidBuffer, bag_header_layout, config_layout, index_bits

__all__ = ["Admit", "ZeroFill"]

ZERO_QUEUE = 8
"""Empty bags that may wait for their zeros; four of them for headers still under way."""


class Admit(wiring.Component):
    """Admits sub-batches into free slots and takes their bag headers.

    Slots are used round-robin; slot ``q mod cores`` and its credit belong to one compute core.

    **Latency** 2 cycles per sub-batch, plus its headers. **Throughput** 1 header per cycle; an
    empty bag of n slices takes n cycles. **Backpressure** ``begin`` waits for a slot, ``bags`` for
    the zeros of earlier empty bags; both ``ready`` are registers.

    Parameters
    ----------
    params
        Sizes.
    cores
        Compute cores, a power of two that divides ``params.slots``.

    Members
    -------
    config : In(stream.Signature(config_layout), valid-only)
    features : In(12)
        Features of the sub-batch, held while ``begin`` is valid.
    begin : In(stream, empty payload)
    bags : In(stream.Signature(bag_header_layout))
    release : cores × In(1)
        A pulse returns a core's oldest slot.
    headers : Out(stream.Signature(header_layout), valid-only)
    zeros : Out(stream.Signature(zero_layout))
    started : Out(1)
        Pulse: ``slot`` now waits for ``count`` bags.
    slot : Out(index of a slot)
    count : Out(range(rows × max_features + 1))
    admitted : Out(16)
        Sub-batches whose headers are all in, from reset, modulo 2**16.
    idle : Out(1)
        Between two sub-batches.
    """

    config: stream.Interface
    features: Signal
    begin: stream.Interface
    bags: stream.Interface
    release: list[Signal]
    headers: stream.Interface
    zeros: stream.Interface
    started: Signal
    slot: Signal
    count: Signal
    admitted: Signal
    idle: Signal

    def __init__(self, params: CombinerParams, cores: int) -> None:
        self._params = params
        self._cores = cores
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "features": In(12),
                "begin": In(stream.Signature(0)),
                "bags": In(stream.Signature(bag_header_layout())),
                "release": In(1).array(cores),
                "headers": Out(stream.Signature(header_layout(params), always_ready=True)),
                "zeros": Out(stream.Signature(zero_layout(params))),
                "started": Out(1),
                "slot": Out(index_bits(params.slots)),
                "count": Out(range(params.rows * params.max_features + 1)),
                "admitted": Out(16),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build credits, the walk over a sub-batch's bags, and the queue of empty bags."""
        m = Module()
        params = self._params
        m.submodules.zeros = zeros = Queue(zero_layout(params), ZERO_QUEUE)
        m.submodules.next_zeros = next_zeros = SkidBuffer(zero_layout(params))
        wiring.connect(m, zeros.o, next_zeros.i)
        wiring.connect(m, wiring.flipped(self.zeros), next_zeros.o)
        take, final = Signal(), Signal()
        begin_ready, bags_ready, some = Signal(), Signal(), Signal()
        m.d.comb += [
            self.begin.ready.eq(begin_ready),
            self.bags.ready.eq(bags_ready),
            self.started.eq(begin_ready),
            take.eq(self.bags.valid & bags_ready),
            self.count.eq(self.features << (params.rows - 1).bit_length()),
        ]
        row, feature = self._walk(m, take, final)
        credit = self._credit(m)
        room = zeros.level <= ZERO_QUEUE - 4
        # ``begin`` waits a cycle, which tells whether there are any features
        m.d.sync += [begin_ready.eq(0), bags_ready.eq(0), some.eq(self.features != 0)]
        with m.FSM() as fsm:
            with m.State("Begin"):
                m.d.sync += begin_ready.eq(credit & self.begin.valid & ~begin_ready)
                with m.If(begin_ready):
                    m.d.sync += bags_ready.eq(room & some)
                    m.next = "Admit"
                    with m.If(some):
                        m.next = "Bags"
            with m.State("Bags"):
                m.d.sync += bags_ready.eq(room & ~(take & final))
                with m.If(take & final):
                    m.next = "Admit"
            with m.State("Admit"):
                m.d.sync += [
                    begin_ready.eq(credit & self.begin.valid),
                    self.admitted.eq(self.admitted + 1),
                    self.slot.eq(self.slot + 1 if params.slots > 1 else 0),
                ]
                m.next = "Begin"
        header = self.headers.payload
        m.d.sync += [
            self.headers.valid.eq(take),
            header.slot.eq(self.slot),
            header.address.eq(bag_address(params, row, feature)),
            header.length.eq(self.bags.payload.length),
        ]
        if params.mean:
            m.d.sync += header.reciprocal.eq(self.bags.payload.reciprocal)
        self._find_empty(m, take, row, feature, zeros.i)
        m.d.comb += self.idle.eq(fsm.ongoing("Begin"))
        return m

    def _walk(self, m: Module, take: Signal, final: Signal) -> tuple[Signal, Signal]:
        """Walk over a sub-batch's bags as ``take`` says; ``final`` is 1 at the last one.

        Whether a feature or row is the last is known ahead, in registers.
        """
        params = self._params
        row, feature = Signal(range(params.rows)), Signal(range(params.max_features))
        left, most = Signal(len(self.features)), Signal(len(self.features))  # features, less one
        last_feature, last_row = Signal(), Signal()
        m.d.comb += final.eq(last_feature & last_row)
        with m.If(self.started):
            m.d.sync += [
                row.eq(0),
                feature.eq(0),
                most.eq(self.features - 1),
                left.eq(self.features - 1),
                last_feature.eq(self.features == 1),
                last_row.eq(params.rows == 1),
            ]
        with m.Elif(take):
            m.d.sync += [
                feature.eq(feature + 1),
                left.eq(left - 1),
                last_feature.eq(left == 1),
            ]
            with m.If(last_feature):
                m.d.sync += [
                    feature.eq(0),
                    left.eq(most),
                    last_feature.eq(most == 0),
                    row.eq(row + 1),
                    last_row.eq(row == (params.rows - 2) % params.rows),
                ]
        return row, feature

    def _credit(self, m: Module) -> Value:
        """Count each core's free slots; return whether the core that is next had one."""
        size = self._params.slots // self._cores
        core = Signal(range(self._cores))
        with m.If(self.started):
            m.d.sync += core.eq(core + 1)
        available = Array(Signal(init=1, name=f"available_{c}") for c in range(self._cores))
        for c in range(self._cores):
            free = Signal(range(size + 1), init=size, name=f"free_{c}")
            taken = self.started & (core == c)
            m.d.sync += [
                free.eq(free - taken + self.release[c]),
                available[c].eq((free > 1) | ((free == 1) & ~taken)),
            ]
        return available[core]

    def _find_empty(
        self, m: Module, take: Signal, row: Signal, feature: Signal, empty: stream.Interface
    ) -> None:
        """Look up the slices of each bag taken; pass the empty ones on, two cycles later."""
        params = self._params
        low, width = COMBINER_FIELDS["slices"]
        slices: memory.Memory[Any, Any]
        m.submodules.slices = slices = memory.Memory(
            shape=width, depth=params.max_features, init=[]
        )
        sink, source = slices.write_port(), slices.read_port()
        config = self.config.payload
        m.d.comb += [
            sink.addr.eq(config.address),
            sink.data.eq(config.data[low : low + width]),
            sink.en.eq(
                self.config.valid
                & (config.target == LoadTarget.COMBINER_FEATURES)
                & (config.address < params.max_features)
            ),
            source.addr.eq(feature),
        ]
        bag = {"slot": self.slot, "row": row, "feature": feature}
        found = [Signal(name=f"found_{n}") for n in (1, 2)]
        m.d.sync += [
            found[0].eq(take & (self.bags.payload.length == 0)),
            found[1].eq(found[0]),
            empty.payload.slices.eq(source.data),
        ]
        for name, value in bag.items():
            held = Signal.like(value, name=f"found_{name}")
            m.d.sync += [held.eq(value), empty.payload[name].eq(held)]
        m.d.comb += empty.valid.eq(found[1])


class ZeroFill(wiring.Component):
    """Turns an empty bag into parts that finish it with zeros.

    **Latency** 1 cycle. **Throughput** 1 slice per cycle. **Backpressure** ``bags.ready`` is 1
    while no bag is held, and in the cycle that takes a bag's last slice.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    bags : In(stream.Signature(zero_layout))
    parts : Out(stream.Signature(part_layout))
    """

    bags: stream.Interface
    parts: stream.Interface

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        super().__init__(
            {
                "bags": In(stream.Signature(zero_layout(params))),
                "parts": Out(stream.Signature(part_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the bag held and the count of its slices."""
        m = Module()
        bag, part = self.bags.payload, self.parts.payload
        left = Signal.like(bag.slices)  # slices behind this one
        names = ("slot", "row", "feature")
        held = {name: Signal.like(bag[name], name=name) for name in names}
        m.d.comb += [
            self.bags.ready.eq(~self.parts.valid | (self.parts.ready & part.last)),
            *(part[name].eq(held[name]) for name in names),
            part.empty.eq(1),
        ]
        with m.If(self.bags.ready):
            m.d.sync += [
                self.parts.valid.eq(self.bags.valid),
                part.slice.eq(0),
                part.last.eq(bag.slices <= 1),
                left.eq(bag.slices - 1),
                *(held[name].eq(bag[name]) for name in names),
            ]
        with m.Elif(self.parts.ready):
            m.d.sync += [
                part.slice.eq(part.slice + 1),
                part.last.eq(left == 1),
                left.eq(left - 1),
            ]
        return m
