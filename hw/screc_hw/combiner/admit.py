"""Admission of sub-batches: slots, bag headers, and the zeros of empty bags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import bag_address, header_layout, part_layout, zero_layout
from screc_hw.combiner.params import CombinerParams
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget
from screc_hw.stream import Queue, bag_header_layout, config_layout, index_bits

__all__ = ["Admit", "ZeroFill"]

ZERO_QUEUE = 8
"""Empty bags that may wait for their zeros; four of them for headers still under way."""


class Admit(wiring.Component):
    """Admits sub-batches into free slots and takes their bag headers.

    Slots are used round-robin; slot ``q mod cores`` and its credit belong to one compute core.

    **Latency** 1 cycle per sub-batch, plus its headers. **Throughput** 1 header per cycle; an empty
    bag of n slices takes n cycles. **Backpressure** ``begin`` waits for a slot, ``bags`` for the
    zeros of earlier empty bags.

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
        Features of the sub-batch, sampled when ``begin`` is taken.
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
        row = Signal(range(params.rows))
        feature = Signal(range(params.max_features))
        final = Signal.like(self.features)  # index of the last feature
        m.submodules.zeros = zeros = Queue(zero_layout(params), ZERO_QUEUE)
        room = Signal()
        m.d.sync += room.eq(zeros.level <= ZERO_QUEUE - 4)
        wiring.connect(m, wiring.flipped(self.zeros), zeros.o)
        take = Signal()
        credit = self._credit(m)
        with m.FSM() as fsm:
            with m.State("Begin"):
                m.d.comb += [
                    self.begin.ready.eq(credit),
                    self.started.eq(self.begin.valid & self.begin.ready),
                    self.count.eq(self.features << (params.rows - 1).bit_length()),
                ]
                with m.If(self.started):
                    m.d.sync += [final.eq(self.features - 1), row.eq(0), feature.eq(0)]
                    m.next = "Bags"
                    with m.If(self.features == 0):
                        m.next = "Admit"
            with m.State("Bags"):
                m.d.comb += [self.bags.ready.eq(room), take.eq(self.bags.valid & room)]
                with m.If(take):
                    m.d.sync += feature.eq(feature + 1)
                    with m.If(feature == final):
                        m.d.sync += [feature.eq(0), row.eq(row + 1)]
                        with m.If(row == params.rows - 1):
                            m.next = "Admit"
            with m.State("Admit"):
                m.d.sync += [
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

    def _credit(self, m: Module) -> Value:
        """Count each core's free slots; return whether the core that is next has one."""
        size = self._params.slots // self._cores
        core = self.slot[: (self._cores - 1).bit_length()]
        available = Array(Signal(init=1, name=f"available_{c}") for c in range(self._cores))
        for c in range(self._cores):
            free = Signal(range(size + 1), init=size, name=f"free_{c}")
            m.d.sync += [
                free.eq(free - (self.started & (core == c)) + self.release[c]),
                # a cycle late, as the next sub-batch may begin two cycles after this one
                available[c].eq(free != 0),
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

    **Latency** 0 cycles. **Throughput** 1 slice per cycle. **Backpressure** ``bags.ready`` is 1 in
    the cycle that takes a bag's last slice.

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
        """Build the count of slices."""
        m = Module()
        bag, part = self.bags.payload, self.parts.payload
        slice_ = Signal.like(bag.slices)
        m.d.comb += [
            self.parts.valid.eq(self.bags.valid),
            self.bags.ready.eq(self.parts.ready & part.last),
            part.slot.eq(bag.slot),
            part.row.eq(bag.row),
            part.feature.eq(bag.feature),
            part.slice.eq(slice_),
            part.last.eq(slice_ + 1 >= bag.slices),
            part.empty.eq(1),
        ]
        with m.If(self.parts.valid & self.parts.ready):
            m.d.sync += slice_.eq(Mux(part.last, 0, slice_ + 1))
        return m
