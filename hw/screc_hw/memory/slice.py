"""From row beats to pieces of slices."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import piece_layout, row_layout, tail_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import index_bits

__all__ = ["Slicer"]


class Slicer(wiring.Component):
    """Cuts each lookup's beats into pieces of ``lanes`` components, codes still.

    A byte each, or with ``int4`` a nibble each, low first; two's complement, or unsigned in
    row-wise rows. A lookup marked ``zero`` takes no beats and gives slices of 0. Beats that a
    lookup has left after its last slice are dropped, so that no descriptor can mix up rows.

    Where a slice of bytes is two beats (``params.halves``), each beat gives a piece with the other
    half of its lanes 0.

    **Latency** 2 cycles. **Throughput** 1 piece per cycle, whatever the lookups' sizes; a dropped
    beat takes a cycle. **Backpressure** ``o.ready`` reaches the inputs' ``ready`` through four
    gates.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    lookups : In(stream.Signature(row_layout(params)))
    beats : In(stream.Signature(port_bits))
    tails : In(stream.Signature(tail_layout()))
        One per row-wise row, with ``params.rowwise``.
    o : Out(stream.Signature(piece_layout(params)))
    busy : Out(1)
    """

    lookups: stream.Interface
    beats: stream.Interface
    tails: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        tails = {"tails": In(stream.Signature(tail_layout()))} if params.rowwise else {}
        super().__init__(
            {
                "lookups": In(stream.Signature(row_layout(params))),
                "beats": In(stream.Signature(params.port_bits)),
                **tails,
                "o": Out(stream.Signature(piece_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the position counters and the two stages of the datapath."""
        m = Module()
        p = self._params
        row = self.lookups.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # where the next piece of the current lookup lies
        start = Signal(init=1)
        resumed = Signal(index_bits(p.positions))
        index = Signal(index_bits(p.max_slices))
        beat = Signal(index_bits(p.max_row_beats))
        half = Signal()
        drain = Signal()
        position = Signal.like(resumed)
        wraps = Signal()  # the next piece lies in the next beat
        following = Signal(p.positions.bit_length())
        step = 1 if p.halves == 2 else Mux(row.int4, 1, 2)
        m.d.comb += [
            position.eq(Mux(start, row.position, resumed) if p.positions > 1 else 0),
            following.eq(position + step),
            wraps.eq(following[-1]),
        ]
        fire, complete, end, last_beat, pop = (Signal() for _ in range(5))
        scaled = (~row.rowwise | self.tails.valid) if p.rowwise else Const(1)
        m.d.comb += [
            fire.eq(
                advance & self.lookups.valid & ~drain & (row.zero | (self.beats.valid & scaled))
            ),
            # a slice of nibbles, or of zeros, is one piece
            complete.eq(1 if p.halves == 1 else row.int4 | row.zero | half),
            end.eq(complete & (index == row.last_slice)),
            last_beat.eq(row.zero | (beat == row.last_beat)),
            pop.eq(Mux(drain, self.beats.valid, fire & ~row.zero & (end | (wraps & ~last_beat)))),
            self.beats.ready.eq(pop),
            self.lookups.ready.eq(last_beat & Mux(drain, self.beats.valid, fire & end)),
        ]
        with m.If(fire):
            m.d.sync += [start.eq(end), resumed.eq(following), half.eq(~complete)]
            m.d.sync += drain.eq(end & ~last_beat)
            with m.If(complete):
                m.d.sync += index.eq(Mux(end, 0, index + 1))
        with m.If(self.lookups.ready):
            m.d.sync += [beat.eq(0), drain.eq(0)]
        with m.Elif(pop):
            m.d.sync += beat.eq(beat + 1)

        if p.rowwise:
            m.d.comb += self.tails.ready.eq(self.lookups.ready & row.rowwise & ~row.zero)

        # 1: the word that holds the piece
        piece1: Any = Signal(piece_layout(p), name="piece", reset_less=True)
        word1 = Signal(min(p.lanes * 8, p.port_bits), reset_less=True)
        valid1, int4, high, zero = (Signal(name=n) for n in ("valid", "int4", "high", "zero"))
        words = [
            self.beats.payload.word_select(i, len(word1)) for i in range(p.port_bits // len(word1))
        ]
        with m.If(advance):
            m.d.sync += [
                valid1.eq(fire),
                word1.eq(Array(words)[position[1:]] if len(words) > 1 else words[0]),
                int4.eq(row.int4),
                high.eq(half if p.halves == 2 else position[0]),
                zero.eq(row.zero),
                piece1.bag.eq(row.bag),
                piece1.slice.eq(index),
                piece1.begin.eq(~half),
                piece1.complete.eq(complete),
                piece1.end.eq(end),
                piece1.last.eq(row.last),
            ]
            if p.rowwise:
                both = row.int4 if p.halves == 2 else Const(1)
                m.d.sync += [
                    piece1.rowwise.eq(row.rowwise & ~row.zero),
                    piece1.tail.eq(self.tails.payload),
                    piece1.active.eq(Mux(row.zero, 0, Cat(both | ~half, both | half)[: p.halves])),
                ]

        # 2: its codes
        piece2: Any = Signal.like(piece1, reset_less=True)
        m.d.comb += self.o.payload.eq(piece2)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid1), piece2.eq(piece1)]
            signed = ~piece1.rowwise if p.rowwise else Const(1)
            for lane, code in enumerate(self._codes(word1, int4, high, signed)):
                m.d.sync += piece2.data[lane].eq(Mux(zero, 0, code))
        m.d.comb += self.busy.eq(drain | ~start | half | valid1 | self.o.valid)
        return m

    def _codes(self, word: Value, int4: Value, high: Value, signed: Value) -> list[Value]:
        """Components of a piece, ``signed`` or not, on the grid of reconstructed rows.

        ``high``: the piece lies in the upper half of ``word`` (nibbles), or is for the upper half
        of the lanes (bytes of half a slice).
        """
        p = self._params
        codes = []
        for lane in range(p.lanes):
            if p.halves == 2:
                byte = word.word_select(lane % (p.lanes // 2), 8)
                mine = high if lane >= p.lanes // 2 else ~high
                nibble = word.word_select(lane, 4)
                raw = Mux(int4, nibble, Mux(mine, byte, 0))
            else:
                byte = word.word_select(lane, 8)
                nibble = Mux(high, word.word_select(p.lanes + lane, 4), word.word_select(lane, 4))
                raw = Mux(int4, nibble, byte)
            sign = signed & Mux(int4, nibble[3], raw[7])
            code = Cat(raw[:4], Mux(int4, sign.replicate(4), raw[4:8]), sign).as_signed()
            if p.tt_fraction:
                code = Mux(signed, code << p.tt_fraction, code)
            codes.append(code)
        return codes
