"""From a section command to its lookup records, one per cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import burst_layout, count_bits, record_layout, section_info_layout
from screc_hw.memory.params import RECORD_BYTES, SECTION_BURST_BEATS, MemoryCoreParams
from screc_hw.stream import lookup_layout, section_layout


class SectionReader(wiring.Component):
    """Cuts section commands into bursts.

    Bursts end where a multiple of their longest length ends, so none crosses 4 KiB. A command
    without lookups vanishes.

    **Latency** 2 cycles. **Throughput** one burst in two cycles. **Backpressure** ``i.ready`` is a
    register; a command is taken when all bursts of the one before have left.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(section_layout()))
    base : In(address_bits)
        Start of the core's memory, beat-aligned.
    bursts : Out(stream.Signature(burst_layout(params, SECTION_BURST_BEATS)))
    info : Out(stream.Signature(section_info_layout()))
        One per section, before its first burst.
    busy : Out(1)
    """

    i: stream.Interface
    base: Signal
    bursts: stream.Interface
    info: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(section_layout())),
                "base": In(params.address_bits),
                "bursts": Out(stream.Signature(burst_layout(params, SECTION_BURST_BEATS))),
                "info": Out(stream.Signature(section_info_layout())),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the address counter."""
        m = Module()
        p = self._params
        per_beat_log2 = p.records_per_beat.bit_length() - 1
        burst_log2 = SECTION_BURST_BEATS.bit_length() - 1

        idle = Signal(init=1)
        left = Signal(32)  # beats
        beat = Signal(p.address_bits - p.beat_log2)
        room = Signal(count_bits(SECTION_BURST_BEATS))
        beats = Signal(count_bits(SECTION_BURST_BEATS))
        m.d.comb += [
            self.i.ready.eq(idle),
            self.busy.eq(~idle | self.info.valid | self.bursts.valid),
            room.eq(SECTION_BURST_BEATS - beat[:burst_log2]),
            beats.eq(Mux(left < room, left, room)),
        ]
        with m.If(self.info.ready):
            m.d.sync += self.info.valid.eq(0)
        with m.If(self.bursts.ready):
            m.d.sync += self.bursts.valid.eq(0)

        with m.If(idle):
            command = self.i.payload
            m.d.sync += [
                beat.eq(self.base[p.beat_log2 :] + command.offset),
                left.eq((command.lookups + (p.records_per_beat - 1)) >> per_beat_log2),
                self.info.payload.lookups.eq(command.lookups),
                self.info.payload.samples.eq(command.samples),
                self.info.payload.sequence.eq(command.sequence),
            ]
            with m.If(self.i.valid & (command.lookups != 0)):
                m.d.sync += [idle.eq(0), self.info.valid.eq(1)]
        with m.Elif(left == 0):
            m.d.sync += idle.eq(~(self.info.valid | self.bursts.valid))
        with m.Elif(~self.bursts.valid):
            m.d.sync += [
                self.bursts.valid.eq(1),
                self.bursts.payload.beats.eq(beats),
                self.bursts.payload.address.eq(beat << p.beat_log2),
                beat.eq(beat + beats),
                left.eq(left - beats),
            ]
        return m


class RecordUnpacker(wiring.Component):
    """Splits beats into lookup records; the padding of a section's last beat is dropped.

    **Latency** 1 cycle after the beat. **Throughput** 1 record per cycle, but for a cycle or two
    between sections. **Backpressure** ``o.ready`` reaches ``beats.ready`` through one gate.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    info : In(stream.Signature(section_info_layout()))
    beats : In(stream.Signature(port_bits))
    o : Out(stream.Signature(record_layout()))
    busy : Out(1)
    """

    info: stream.Interface
    beats: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "info": In(stream.Signature(section_info_layout())),
                "beats": In(stream.Signature(params.port_bits)),
                "o": Out(stream.Signature(record_layout())),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the shift register and its counters."""
        m = Module()
        p = self._params
        per_beat = p.records_per_beat

        # the section whose beats are loaded
        active = Signal()
        section: Any = Signal(section_info_layout())  # lookups: those not loaded yet
        # the beat whose records leave
        word = Signal(p.port_bits, reset_less=True)
        left = Signal(range(per_beat + 1))
        final_beat = Signal()
        samples = Signal.like(section.samples)
        sequence = Signal.like(section.sequence)

        load = Signal()
        ends = Signal()
        m.d.comb += [
            ends.eq(section.lookups <= per_beat),
            load.eq(active & self.beats.valid & ((left == 0) | ((left == 1) & self.o.ready))),
            self.beats.ready.eq(load),
            self.info.ready.eq(~active),
            self.busy.eq(active | (left != 0)),
            self.o.valid.eq(left != 0),
            self.o.payload.lookup.eq(lookup_layout()(word[: RECORD_BYTES * 8])),
            self.o.payload.final.eq(final_beat & (left == 1)),
            self.o.payload.samples.eq(samples),
            self.o.payload.sequence.eq(sequence),
        ]
        with m.If(load):
            m.d.sync += [
                word.eq(self.beats.payload),
                left.eq(Mux(ends, section.lookups, Const(per_beat))),
                final_beat.eq(ends),
                samples.eq(section.samples),
                sequence.eq(section.sequence),
                section.lookups.eq(section.lookups - per_beat),
                active.eq(~ends),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [word.eq(word >> (RECORD_BYTES * 8)), left.eq(left - 1)]
        with m.If(~active):
            m.d.sync += [section.eq(self.info.payload), active.eq(self.info.valid)]
        return m
