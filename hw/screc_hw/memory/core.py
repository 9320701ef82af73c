"""The memory-centric core: gather embedding rows, pool them, emit partial sums."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.memory.bags import BagCheck
from screc_hw.memory.fetch import ReadMaster
from screc_hw.memory.layouts import checked_layout, record_layout, request_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.pool import Pool
from screc_hw.memory.remap import Remap
from screc_hw.memory.sections import RecordUnpacker, SectionReader
from screc_hw.memory.slice import Slicer
from screc_hw.stream import SkidBuffer, config_layout, partial_layout, section_layout

COUNTER_BITS = 32


class AdmissionGate(wiring.Component):
    """Holds a lookup back until the combiner has a place for its sub-batch.

    **Latency** 0. **Throughput** 1 lookup per cycle. **Backpressure** combinational.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i, o : stream.Signature(checked_layout(params))
    admitted : In(sequence_bits)
        Running count of admitted sub-batches.
    waiting : Out(1)
        A lookup waits for its sub-batch.
    """

    i: stream.Interface
    o: stream.Interface
    admitted: Signal
    waiting: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(checked_layout(params))),
                "o": Out(stream.Signature(checked_layout(params))),
                "admitted": In(params.sequence_bits),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the comparison modulo 2**sequence_bits."""
        m = Module()
        ahead = Signal(signed(self._params.sequence_bits))
        admit = Signal()
        m.d.comb += [
            ahead.eq(self.admitted - self.i.payload.sequence),
            admit.eq(ahead > 0),
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(self.i.valid & admit),
            self.i.ready.eq(self.o.ready & admit),
            self.waiting.eq(self.i.valid & ~admit),
        ]
        return m


class MemoryCore(wiring.Component):
    """Gathers the rows of lookup sections from its own memory and sums them by bag.

    ::

        sections ─ SectionReader ─ bursts ─▶ ReadMaster ─ beats ─▶ RecordUnpacker ─ BagCheck ─┐
                                             ▲   │   axi                                      │
        partials ◀─ Pool ◀─ Slicer ◀─ rows ──┼───┘                                            │
                                             └──────────── Remap ◀─ AdmissionGate ◀───────────┘

    Partials leave in the order of the records. A wrong record is counted and never becomes a
    read: with a feature >= ``max_features`` or a sample >= the command's it is dropped; with a rank
    that is not of this core, a beat outside the staging ring or a disabled feature it counts in its
    bag and adds 0. A bag of nothing else has slices all the same, as many as its descriptor says
    (one, where that is out of range), so disabled features are loaded too. LOAD only while
    ``idle``.

    **Latency** ``params.fill`` cycles from a command to its first partial. **Throughput**
    ``params.cycles``: one beat or one slice per cycle, whichever are more; the lookup records share
    the port. **Backpressure** rows that have no place to go are not requested; ``axi.rready`` is
    always 1.

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
    partials : Out(stream.Signature(partial_layout(params)))
    range_errors, lookups, beats, stalls : Out(32)
        From reset, wrapping: wrong records; records; beats received, of records and rows; cycles in
        which the device held up the core (a sub-batch not admitted, or a partial not taken).
    axi_error : Out(1)
        An error response came, since ``clear``. Its data were taken as they came.
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
    range_errors: Signal
    lookups: Signal
    beats: Signal
    stalls: Signal
    axi_error: Signal
    clear: Signal
    idle: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
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
                "range_errors": Out(COUNTER_BITS),
                "lookups": Out(COUNTER_BITS),
                "beats": Out(COUNTER_BITS),
                "stalls": Out(COUNTER_BITS),
                "axi_error": Out(1),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts; skid buffers cut the long paths of ``ready``."""
        m = Module()
        p = self._params
        m.submodules.reader = reader = SectionReader(p)
        m.submodules.master = master = ReadMaster(p)
        m.submodules.unpacker = unpacker = RecordUnpacker(p)
        m.submodules.record_skid = record_skid = SkidBuffer(record_layout())
        m.submodules.check = check = BagCheck(p)
        m.submodules.checked_skid = checked_skid = SkidBuffer(checked_layout(p))
        m.submodules.gate = gate = AdmissionGate(p)
        m.submodules.remap = remap = Remap(p)
        m.submodules.request_skid = request_skid = SkidBuffer(request_layout(p))
        m.submodules.slicer = slicer = Slicer(p)
        m.submodules.pool = pool = Pool(p)
        m.submodules.partial_skid = partial_skid = SkidBuffer(partial_layout(p))

        wiring.connect(m, wiring.flipped(self.sections), reader.i)
        wiring.connect(m, reader.bursts, master.bursts)
        wiring.connect(m, reader.info, unpacker.info)
        wiring.connect(m, master.sections, unpacker.beats)
        wiring.connect(m, unpacker.o, record_skid.i)
        wiring.connect(m, record_skid.o, check.i)
        wiring.connect(m, check.o, checked_skid.i)
        wiring.connect(m, checked_skid.o, gate.i)
        wiring.connect(m, gate.o, remap.i)
        wiring.connect(m, wiring.flipped(self.config), remap.config)
        wiring.connect(m, remap.o, request_skid.i)
        wiring.connect(m, request_skid.o, master.requests)
        wiring.connect(m, master.axi, wiring.flipped(self.axi))
        wiring.connect(m, master.lookups, slicer.lookups)
        wiring.connect(m, master.rows, slicer.beats)
        wiring.connect(m, slicer.o, pool.i)
        wiring.connect(m, pool.o, partial_skid.i)
        wiring.connect(m, partial_skid.o, wiring.flipped(self.partials))
        m.d.comb += [
            reader.base.eq(self.base),
            remap.base.eq(self.base),
            gate.admitted.eq(self.admitted),
        ]

        held_up = gate.waiting | (self.partials.valid & ~self.partials.ready)
        m.d.sync += [
            self.range_errors.eq(self.range_errors + check.dropped + remap.out_of_range),
            self.lookups.eq(self.lookups + (unpacker.o.valid & unpacker.o.ready)),
            self.beats.eq(self.beats + master.beat),
            self.stalls.eq(self.stalls + held_up),
            self.axi_error.eq(master.error | (self.axi_error & ~self.clear)),
        ]
        # whatever moves on is seen at one of its two ends in every cycle
        busy = [
            reader.busy,
            unpacker.busy,
            record_skid.o.valid,
            check.busy,
            checked_skid.o.valid,
            remap.busy,
            master.busy,
            slicer.busy,
            pool.busy,
            partial_skid.o.valid,
        ]
        m.d.comb += self.idle.eq(~Cat(*busy).any())
        return m
