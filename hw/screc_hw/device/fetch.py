"""Linear read of the request queue: bursts ahead of the parser, and beats cut into words."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import BOUNDARY_BYTES, INCR, ReadSignature
from screc_hw.device.params import HostParams
from screc_hw.protocol import BEAT_BYTES
from screc_hw.stream import Queue

__all__ = ["QueueFetch", "WordCutter", "beat_layout"]

BEAT_LOG2 = (BEAT_BYTES - 1).bit_length()
BEAT_BITS = BEAT_BYTES * 8

BEATS_BITS = 32 - BEAT_LOG2
"""Beats of a queue, whose length in bytes is a 32-bit register."""


def beat_layout() -> data.StructLayout:
    """One beat of the queue; ``error``: the memory answered with an error."""
    return data.StructLayout({"data": BEAT_BITS, "error": 1})


class QueueFetch(wiring.Component):
    """Reads a run of beats, front to back, ahead of its consumer.

    Bursts are aligned to their full length, so none crosses a 4 KiB boundary. Space for a burst is
    reserved before it is asked for: ``rready`` is always 1.

    **Latency** 4 cycles and the memory's. **Throughput** 1 beat per cycle from bursts of 3 beats
    up. **Backpressure** none on the read channel; a full buffer asks for no further bursts.

    Parameters
    ----------
    params
        Burst length, a power of two, and bursts ahead.

    Members
    -------
    start : In(1)
        Pulse: read ``beats`` from ``address``, while ``quiet``.
    address : In(64)
        In bytes; whole beats count.
    beats : In(26)
    stop : In(1)
        Ask for nothing more. What is under way still comes out.
    axi : Out(ReadSignature(data_bits=512))
    o : Out(stream.Signature(beat_layout))
    quiet : Out(1)
        Everything asked for has arrived and left by ``o``, and nothing more will be asked for.

    Raises
    ------
    ValueError
        If bursts are no power of two up to 4 KiB, or none may be ahead.
    """

    start: Signal
    address: Signal
    beats: Signal
    stop: Signal
    axi: Any
    o: stream.Interface
    quiet: Signal

    def __init__(self, params: HostParams) -> None:
        burst, most = params.burst_beats, BOUNDARY_BYTES // BEAT_BYTES
        if not 1 <= burst <= most or burst & (burst - 1):
            raise ValueError(f"burst_beats must be a power of two up to {most}, not {burst!r}")
        if params.prefetch_bursts < 1:
            raise ValueError(f"prefetch_bursts must be at least 1, not {params.prefetch_bursts!r}")
        self._burst = burst
        self._depth = max(2, burst * params.prefetch_bursts)
        super().__init__(
            {
                "start": In(1),
                "address": In(64),
                "beats": In(BEATS_BITS),
                "stop": In(1),
                "axi": Out(ReadSignature(data_bits=BEAT_BITS)),
                "o": Out(stream.Signature(beat_layout())),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the walk over bursts, the buffer and its reservations."""
        m = Module()
        axi, burst = self.axi, self._burst
        m.submodules.buffer = buffer = Queue(beat_layout(), self._depth)
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        position = Signal(64 - BEAT_LOG2)
        left = Signal(BEATS_BITS)
        length = Signal(range(burst + 1))
        reserved = Signal(range(self._depth + 1))  # beats asked for that have not left by o
        room = Signal()
        issue = Signal()
        aligned = burst - position[: (burst - 1).bit_length()]
        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.sync += [position.eq(self.address[BEAT_LOG2:]), left.eq(self.beats)]
                with m.If(self.start):
                    m.next = "Measure"
            with m.State("Measure"):
                m.d.sync += length.eq(Mux(left < aligned, left, aligned))
                m.next = "Reserve"
                with m.If((left == 0) | self.stop):
                    m.next = "Idle"
            with m.State("Reserve"):
                with m.If(self.stop):
                    m.next = "Idle"
                with m.Elif(room & (~axi.arvalid | axi.arready)):
                    m.d.comb += issue.eq(1)
                    m.d.sync += [position.eq(position + length), left.eq(left - length)]
                    m.next = "Measure"
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(position << BEAT_LOG2),
                axi.arlen.eq(length - 1),
            ]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        m.d.sync += [
            reserved.eq(reserved + Mux(issue, length, 0) - (self.o.valid & self.o.ready)),
            # a burst too few rather than a long path: what leaves now counts next cycle
            room.eq(reserved <= self._depth - burst),
        ]
        m.d.comb += [
            axi.arsize.eq(BEAT_LOG2),
            axi.arburst.eq(INCR),
            axi.rready.eq(1),
            buffer.i.valid.eq(axi.rvalid),
            buffer.i.payload.data.eq(axi.rdata),
            buffer.i.payload.error.eq(axi.rresp[1]),
            self.quiet.eq(fsm.ongoing("Idle") & (reserved == 0)),
        ]
        return m


class WordCutter(wiring.Component):
    """Cuts beats into words whose size may change from word to word.

    **Latency** 1 cycle. **Throughput** 1 word per cycle, across beats as well. **Backpressure** a
    word stays until ``take``.

    Parameters
    ----------
    sizes
        Bits of each kind of word, powers of two from 8 to 512.

    Members
    -------
    i : In(stream.Signature(beat_layout))
    kind : In(index into ``sizes``)
    take : In(1)
        Go on to the next word; only while ``valid``.
    skip : In(1)
        With ``take``: the next word starts the next beat.
    valid : Out(1)
    word : Out(largest size)
        The lowest bits hold the word.
    error : Out(1)
        The word's beat was answered with an error.
    """

    i: stream.Interface
    kind: Signal
    take: Signal
    skip: Signal
    valid: Signal
    word: Signal
    error: Signal

    def __init__(self, *sizes: int) -> None:
        for size in sizes:
            if size & (size - 1) or not 8 <= size <= BEAT_BITS:
                raise ValueError(f"a word must be a power of two of 8..512 bits, not {size!r}")
        self._sizes = sizes
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout())),
                "kind": In(range(len(sizes))),
                "take": In(1),
                "skip": In(1),
                "valid": Out(1),
                "word": Out(max(sizes)),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the shifting beat and its position."""
        m = Module()
        unit = min(self._sizes)
        units = BEAT_BITS // unit
        beat = Signal(BEAT_BITS, reset_less=True)
        position = Signal(range(units))
        after = Signal(range(2 * units))
        ends, load = Signal(), Signal()
        shifted = Signal(BEAT_BITS)
        with m.Switch(self.kind):
            for kind, size in enumerate(self._sizes):
                with m.Case(kind):
                    m.d.comb += [shifted.eq(beat[size:]), after.eq(position + size // unit)]
        m.d.comb += [
            ends.eq(self.skip | (after >= units)),
            load.eq(~self.valid | (self.take & ends)),
            self.i.ready.eq(load),
            self.word.eq(beat),
        ]
        with m.If(load):
            m.d.sync += [
                self.valid.eq(self.i.valid),
                self.error.eq(self.i.payload.error),
                beat.eq(self.i.payload.data),
                position.eq(0),
            ]
        with m.Elif(self.take):
            m.d.sync += [beat.eq(shifted), position.eq(after)]
        return m
