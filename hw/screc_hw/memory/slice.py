"""From row beats to slices of signed components."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import row_layout, slice_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import index_bits


class Slicer(wiring.Component):
    """Cuts each lookup's beats into slices of ``lanes`` signed components.

    int8: a byte each; int4: two's complement nibbles, low first. A lookup marked ``zero`` takes no
    beats and gives slices of 0. Beats that a lookup has left after its last slice are dropped, so
    that no descriptor can mix up rows.

    **Latency** 2 cycles. **Throughput** 1 slice per cycle, whatever the lookups' sizes.
    **Backpressure** ``o.ready`` reaches ``lookups.ready`` and ``beats.ready`` through three gates.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    lookups : In(stream.Signature(row_layout(params)))
    beats : In(stream.Signature(port_bits))
    o : Out(stream.Signature(slice_layout(params)))
    busy : Out(1)
    """

    lookups: stream.Interface
    beats: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "lookups": In(stream.Signature(row_layout(params))),
                "beats": In(stream.Signature(params.port_bits)),
                "o": Out(stream.Signature(slice_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the position counters, the slice's multiplexer and the nibbles' expansion."""
        m = Module()
        p = self._params
        row = self.lookups.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # where the next slice of the current lookup lies
        start = Signal(init=1)
        resumed = Signal(index_bits(p.positions))
        index = Signal(index_bits(p.max_slices))
        beat = Signal(index_bits(p.max_row_beats))
        drain = Signal()
        position = Signal.like(resumed)
        following = Signal(len(position) + 1)
        m.d.comb += [
            position.eq(Mux(start, row.position, resumed)),
            following.eq(position + Mux(row.int4, 1, 2)),
        ]
        fire, end, last_beat, pop = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            fire.eq(advance & self.lookups.valid & (row.zero | self.beats.valid) & ~drain),
            end.eq(index == row.slices - 1),
            last_beat.eq(row.zero | (beat == row.beats - 1)),
            pop.eq(
                Mux(
                    drain, self.beats.valid, fire & ~row.zero & (end | (following[-1] & ~last_beat))
                )
            ),
            self.beats.ready.eq(pop),
            self.lookups.ready.eq(last_beat & Mux(drain, pop, fire & end)),
        ]
        with m.If(fire):
            m.d.sync += [start.eq(end), resumed.eq(following), index.eq(Mux(end, 0, index + 1))]
            m.d.sync += drain.eq(end & ~last_beat)
        with m.If(self.lookups.ready):
            m.d.sync += [beat.eq(0), drain.eq(0)]
        with m.Elif(pop):
            m.d.sync += beat.eq(beat + 1)

        # the word that holds the slice
        selected: Any = Signal(slice_layout(p))
        selected_valid = Signal()
        selected_zero, selected_int4, selected_high = Signal(), Signal(), Signal()
        m.d.comb += self.busy.eq(drain | ~start | selected_valid | self.o.valid)
        word_bits = p.lanes * 8
        words = [
            self.beats.payload.word_select(i, word_bits) for i in range(p.port_bits // word_bits)
        ]
        word = Array(words)[position[1:]] if len(words) > 1 else words[0]
        with m.If(advance):
            m.d.sync += [
                selected_valid.eq(fire),
                selected_zero.eq(row.zero),
                selected_int4.eq(row.int4),
                selected_high.eq(position[0]),
                selected.bag.eq(row.bag),
                selected.slice.eq(index),
                selected.end.eq(end),
                selected.last.eq(row.last),
                selected.data.eq(word),
                self.o.valid.eq(selected_valid),
                self.o.payload.eq(selected),
            ]
            for lane, code in enumerate(self._codes(selected.data, selected_int4, selected_high)):
                m.d.sync += self.o.payload.data[lane].eq(Mux(selected_zero, 0, code))
        return m

    def _codes(self, word: data.View, int4: Signal, high: Signal) -> list[Value]:
        """Signed components of a slice within its word."""
        raw = word.as_value()
        half = Mux(high, raw[len(raw) // 2 :], raw[: len(raw) // 2])
        codes = []
        for lane in range(self._params.lanes):
            byte = raw.word_select(lane, 8).as_signed()
            nibble = half.word_select(lane, 4).as_signed()
            codes.append(Mux(int4, nibble, byte))
        return codes
