"""The memory-centric core: gather embedding rows, pool them, emit partial sums."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.axi.arbiter import ReadArbiter
from screc_hw.memory.engine import COUNTER_BITS, GatherEngine
from screc_hw.memory.layouts import tt_request_layout, tt_row_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.records import RecordFetch
from screc_hw.memory.sections import RecordUnpacker, SectionReader
from screc_hw.stream import config_layout, partial_layout, section_layout

__all__ = ["COUNTER_BITS", "MemoryCore"]


class MemoryCore(wiring.Component):
    """Gathers the rows of lookup sections from its own memory and sums them by bag.

    A :class:`GatherEngine` with a reader of lookup sections in front of it, both on one port; the
    parts are in docs/memory.md. LOAD only while ``idle``.

    **Latency** ``params.fill`` cycles from a command to its first partial. **Throughput** as the
    engine's, but the lookup records share the port; see ``params.cycles``. **Backpressure** what
    has no place to go is not requested; ``axi.rready`` is always 1.

    Parameters
    ----------
    params
        Compile-time maxima.

    Members
    -------
    sections : In(stream.Signature(section_layout()))
    config : In(stream.Signature(config_layout(), always_ready=True))
        LOAD words; those of other targets are ignored.
    admitted : In(16)
        The combiner's running count of admitted sub-batches.
    base : In(address_bits)
        Start of this core's memory, beat-aligned, constant while not ``idle``.
    axi : Out(ReadSignature)
        Records with ID 0, rows with ID 1.
    partials : Out(stream.Signature(partial_layout(params)))
    tt_requests, tt_rows
        As the engine's, with ``tt_fraction``.
    range_errors, lookups, beats, stalls : Out(32)
        From reset, wrapping: wrong records; records; beats received or read on chip, of records and
        rows; cycles in which the device held up the core (a sub-batch not admitted, or a partial
        not taken).
    axi_error : Out(1)
        An error response came, since ``clear``. Its data were taken as they came.
    lost : Out(1)
        As ``axi_error``, but of lookup records alone: not every lookup reached its bag.
    clear : In(1)
    idle : Out(1)
        Every section taken has been answered with its partials.
    """

    sections: stream.Interface
    config: stream.Interface
    admitted: Signal
    base: Signal
    axi: Any
    partials: stream.Interface
    tt_requests: stream.Interface
    tt_rows: stream.Interface
    range_errors: Signal
    lookups: Signal
    beats: Signal
    stalls: Signal
    axi_error: Signal
    lost: Signal
    clear: Signal
    idle: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        tt = {
            "tt_requests": Out(stream.Signature(tt_request_layout())),
            "tt_rows": In(stream.Signature(tt_row_layout(params))),
        }
        super().__init__(
            {
                "sections": In(stream.Signature(section_layout())),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "admitted": In(params.sequence_bits),
                "base": In(params.address_bits),
                "axi": Out(
                    ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
                ),
                "partials": Out(stream.Signature(partial_layout(params))),
                **(tt if "tt" in params.tiers else {}),
                "range_errors": Out(COUNTER_BITS),
                "lookups": Out(COUNTER_BITS),
                "beats": Out(COUNTER_BITS),
                "stalls": Out(COUNTER_BITS),
                "axi_error": Out(1),
                "lost": Out(1),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the reader of sections, the engine, and their way to the port."""
        m = Module()
        p = self._params
        m.submodules.reader = reader = SectionReader(p)
        m.submodules.records = records = RecordFetch(p)
        m.submodules.unpacker = unpacker = RecordUnpacker(p)
        m.submodules.engine = engine = GatherEngine(p)
        m.submodules.arbiter = arbiter = ReadArbiter(
            2, data_bits=p.port_bits, address_bits=p.address_bits, id_bits=1
        )
        wiring.connect(m, wiring.flipped(self.sections), reader.i)
        wiring.connect(m, reader.bursts, records.bursts)
        wiring.connect(m, reader.info, unpacker.info)
        wiring.connect(m, records.beats, unpacker.beats)
        wiring.connect(m, unpacker.o, engine.lookups)
        wiring.connect(m, wiring.flipped(self.config), engine.config)
        wiring.connect(m, records.axi, arbiter.i[0])
        wiring.connect(m, engine.axi, arbiter.i[1])
        # neither master uses IDs of its own, so the arbiter's bit is enough
        for name in self.axi.signature.members:
            outer, inner = getattr(self.axi, name), getattr(arbiter.o, name)
            if name == "arid":
                m.d.comb += outer.eq(inner[1])
            elif name == "rid":
                m.d.comb += inner.eq(Cat(Const(0, 1), outer))
            elif self.axi.signature.members[name].flow is Out:
                m.d.comb += outer.eq(inner)
            else:
                m.d.comb += inner.eq(outer)
        wiring.connect(m, engine.partials, wiring.flipped(self.partials))
        if "tt" in p.tiers:
            wiring.connect(m, engine.tt_requests, wiring.flipped(self.tt_requests))
            wiring.connect(m, wiring.flipped(self.tt_rows), engine.tt_rows)
        m.d.comb += [
            reader.base.eq(self.base),
            engine.base.eq(self.base),
            engine.admitted.eq(self.admitted),
            self.range_errors.eq(engine.range_errors),
            self.stalls.eq(engine.stalls),
        ]
        taken, record_beat = Signal(), Signal()
        record_beats = Signal(COUNTER_BITS)
        m.d.sync += [
            taken.eq(unpacker.o.valid & unpacker.o.ready),
            self.lookups.eq(self.lookups + taken),
            record_beat.eq(records.beat),
            record_beats.eq(record_beats + record_beat),
            self.beats.eq(record_beats + engine.beats),
            self.lost.eq(records.error | (self.lost & ~self.clear)),
            self.axi_error.eq(records.error | engine.error | (self.axi_error & ~self.clear)),
        ]
        # as in the engine: a cycle old, but for what has only just come
        working = Signal()
        m.d.sync += working.eq(
            Cat(reader.busy, records.busy, unpacker.busy, record_beat, ~engine.idle).any()
        )
        m.d.comb += self.idle.eq(~(working | reader.busy | self.sections.valid))
        return m
