"""Rows kept in on-chip memory: the hottest ones, exact."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import onchip_layout, tail_layout
from screc_hw.memory.params import WORD_BITS, MemoryCoreParams
from screc_hw.memory.tails import TailCatcher, coming_layout
from screc_hw.protocol import LoadTarget
from screc_hw.resources import URAM_DEPTH
from screc_hw.stream import DeepQueue, config_layout, index_bits

__all__ = ["OnchipRows"]


class OnchipRows(wiring.Component):
    """Reads rows out of a memory that LOAD fills, undefined until then.

    **Latency** 6 cycles to the first beat, 7 where the memory is deeper than a block of UltraRAM.
    **Throughput** 1 beat per cycle. **Backpressure**
    ``requests.ready`` depends on registers and ``requests``; reads start only when their beats have
    a place.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    requests : In(stream.Signature(onchip_layout(params)))
    beats : Out(stream.Signature(port_bits))
    tails : Out(stream.Signature(tail_layout()))
        Of row-wise rows, with ``params.rowwise``.
    beat : Out(1)
        Pulse per beat read.
    busy : Out(1)
    """

    config: stream.Interface
    requests: stream.Interface
    beats: stream.Interface
    tails: stream.Interface
    beat: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        tails = {"tails": Out(stream.Signature(tail_layout()))} if params.rowwise else {}
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "requests": In(stream.Signature(onchip_layout(params))),
                "beats": Out(stream.Signature(params.port_bits)),
                **tails,
                "beat": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the beat counter, the memory's columns and the FIFO behind them."""
        m = Module()
        p = self._params
        request = self.requests.payload
        reads = p.onchip_reads
        places = Signal(range(reads + 1), init=reads)
        index = Signal(index_bits(p.max_row_beats))
        issue, last = Signal(), Signal()
        address = Signal.like(request.address, reset_less=True)
        reading = Signal(3 + (p.onchip_beats > URAM_DEPTH))  # address, memory, its register, choice
        m.d.comb += [
            last.eq(index == request.last_beat),
            issue.eq(self.requests.valid & (places != 0)),
            self.requests.ready.eq(issue & last),
            self.beat.eq(reading[-1]),
            self.busy.eq(places != reads),
        ]
        returned = Signal()
        m.d.sync += [
            returned.eq(self.beats.valid & self.beats.ready),
            places.eq(places - issue + returned),
            reading.eq(Cat(issue, reading[:-1])),
            address.eq(request.address + index),
        ]
        with m.If(issue):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        m.submodules.fifo = fifo = DeepQueue(p.port_bits, reads, reserved=True)
        wiring.connect(m, fifo.o, wiring.flipped(self.beats))
        beats = self._columns(m, address)
        m.d.comb += [fifo.i.valid.eq(reading[-1]), fifo.i.payload.eq(beats)]
        if p.rowwise:
            m.submodules.coming = coming = DeepQueue(coming_layout(p), reads, reserved=True)
            m.submodules.catcher = catcher = TailCatcher(p, reads)
            wiring.connect(m, coming.o, catcher.rows)
            wiring.connect(m, catcher.tails, wiring.flipped(self.tails))
            m.d.comb += [
                coming.i.valid.eq(issue & (index == 0)),
                coming.i.payload.last_beat.eq(request.last_beat),
                coming.i.payload.tail.eq(request.tail),
                catcher.beats.valid.eq(reading[-1]),
                catcher.beats.payload.eq(beats),
            ]
        return m

    def _columns(self, m: Module, address: Signal) -> Value:
        """Build the memory, a column per LOAD word; return the beat that is read.

        It is that of ``address`` two cycles ago, three where there are several banks.
        """
        p = self._params
        words = p.port_bits // WORD_BITS
        words_log2 = words.bit_length() - 1
        valid, word = Signal(), Signal.like(self.config.payload, reset_less=True)
        inside = word.address[words_log2:] < p.onchip_beats
        m.d.sync += [
            valid.eq(self.config.valid & (self.config.payload.target == LoadTarget.GATHER_ROWS)),
            word.eq(self.config.payload),
        ]
        # a deep memory is banks of one block each, so that a register comes before their choice
        depth = max(2, min(p.onchip_beats, URAM_DEPTH))
        depth_log2 = (depth - 1).bit_length()
        banks = -(-p.onchip_beats // URAM_DEPTH)
        beat = word.address[words_log2:]
        read: Any = Signal(data.ArrayLayout(p.port_bits, banks), reset_less=True)
        for bank in range(banks):
            for column in range(words):
                store: Any = memory.Memory(
                    shape=WORD_BITS,
                    depth=depth,
                    init=[],
                    attrs={"ram_style": "ultra" if p.onchip_beats >= URAM_DEPTH else "block"},
                )
                m.submodules[f"column_{bank}_{column}"] = store
                sink, source = store.write_port(), store.read_port()
                mine = (word.address[:words_log2] == column) & (beat[depth_log2:] == bank)
                m.d.comb += [
                    sink.addr.eq(beat),
                    sink.data.eq(word.data),
                    sink.en.eq(valid & inside & mine),
                    source.addr.eq(address),
                ]
                m.d.sync += read[bank].word_select(column, WORD_BITS).eq(source.data)
        if banks == 1:
            return read[0]
        choice1, choice2 = (
            Signal(range(banks), name=f"choice{n}", reset_less=True) for n in (1, 2)
        )
        chosen = Signal(p.port_bits, reset_less=True)
        m.d.sync += [
            choice1.eq(address[depth_log2:]),
            choice2.eq(choice1),
            chosen.eq(read[choice2]),
        ]
        return chosen
