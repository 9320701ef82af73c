"""Stream payloads between the cores, and plumbing that any stream can be spliced with.

Rules of every stream of this project (Amaranth's ``lib.stream``, numbered for reference):

1. A transfer happens in a cycle where ``valid`` and ``ready`` are both 1.
2. Once ``valid`` is 1, ``valid`` and ``payload`` hold until the transfer.
3. ``valid`` never depends combinationally on ``ready`` of the same stream.
4. ``ready`` never depends combinationally on ``ready`` of another stream across a core's boundary:
   every core ends in a :class:`SkidBuffer` or a register: no chain grows with the core count.
5. A stream marked *valid-only* has a consumer that is always ready.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, ShapeCastable, ShapeLike, Signal, signed, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.params import CombinerParams
from screc_hw.compute.params import ComputeParams
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import LOOKUP_FIELDS

__all__ = [
    "DeepQueue",
    "Queue",
    "SkidBuffer",
    "bag_header_layout",
    "block_layout",
    "config_layout",
    "feature_write_layout",
    "partial_layout",
    "result_layout",
    "section_layout",
]


def index_bits(count: int) -> int:
    """Bits that index ``count`` things, at least 1."""
    return max(1, (count - 1).bit_length())


def section_layout() -> data.StructLayout:
    """Command to a memory core: gather one lookup section.

    ``offset`` beats of the core's port from its base pointer, ``lookups`` records, ``samples`` in
    the block, ``sequence`` running number of the block's first sub-batch.
    """
    return data.StructLayout({"offset": 32, "lookups": 32, "samples": 16, "sequence": 16})


def partial_layout(params: MemoryCoreParams | CombinerParams) -> data.StructLayout:
    """One slice of a bag's partial sum; the slices of a partial follow each other, 0 first.

    ``count`` lookups of the bag are in this partial (out-of-range ones included), the same on every
    slice; ``last`` marks its last slice.
    """
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "row": index_bits(params.rows),
            "feature": index_bits(params.max_features),
            "slice": index_bits(params.max_slices),
            "last": 1,
            "count": 16,
            "acc": data.ArrayLayout(signed(params.acc_bits), params.lanes),
        }
    )


def bag_header_layout() -> data.StructLayout:
    """Length and mean reciprocal of one bag, in (row, feature) order within a sub-batch."""
    return data.StructLayout({"length": 16, "reciprocal": 16})


def feature_write_layout(params: CombinerParams | ComputeParams) -> data.StructLayout:
    """One word of a finished bag for a compute core.

    ``slot`` counts within that compute core; ``word`` within the slot; ``row`` picks the bank.
    """
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "row": index_bits(params.rows),
            "word": index_bits(params.vector_words),
            "data": data.ArrayLayout(signed(8), params.lanes),
        }
    )


def config_layout() -> data.StructLayout:
    """One 64-bit word of a LOAD block (valid-only stream): see ``protocol.LoadTarget``."""
    return data.StructLayout({"target": 4, "address": 32, "data": 64})


def block_layout() -> data.StructLayout:
    """Command of the request reader to the result writer, two per block.

    The first (``last`` 0) leaves when the header is accepted or refused, ahead of anything else of
    the block; the second (``last`` 1) when every word of the block has left the reader, and says
    how it ended. Fields but ``last``, ``status`` and ``crc`` are the same in both.

    ``opcode`` as ``protocol.Opcode``; ``id``, ``offset``, ``samples`` as in the header; ``records``
    results to expect (RUN: rows × sub-batches; LOAD or refused: 0); ``arrival`` the reader's
    ``clock`` when the header came; ``status`` (``protocol.StatusBit``) and ``crc`` (LOAD: of the
    words received) hold in the second. ``write`` 0: the header's offset cannot be trusted, so no
    status beat is written and the status goes to the status register alone.
    """
    return data.StructLayout(
        {
            "last": 1,
            "write": 1,
            "opcode": 8,
            "id": 32,
            "offset": 32,
            "samples": 16,
            "records": 17,
            "arrival": 32,
            "status": 8,
            "crc": 32,
        }
    )


def result_layout() -> data.StructLayout:
    """One sample's result, as in ``protocol.RESULT_FIELDS``."""
    return data.StructLayout({"logit": signed(32), "probability": unsigned(16), "code": signed(16)})


def lookup_layout() -> data.StructLayout:
    """One lookup record, as in ``protocol.LOOKUP_FIELDS``."""
    return data.StructLayout({name: width for name, (_, width) in LOOKUP_FIELDS.items()})


class SkidBuffer(wiring.Component):
    """Registers both directions of a stream.

    **Latency** 1 cycle. **Throughput** 1 transfer per cycle. **Backpressure** ``i.ready`` is a
    register: no combinational path through.

    Parameters
    ----------
    shape
        Payload shape.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike | ShapeCastable) -> None:
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        """Build the two-entry buffer."""
        m = Module()
        payload = Signal.like(self.o.payload, reset_less=True)
        spare = Signal.like(self.i.payload, reset_less=True)
        spare_valid = Signal()
        m.d.comb += [self.i.ready.eq(~spare_valid), self.o.payload.eq(payload)]
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(spare_valid | self.i.valid),
                payload.eq(Mux(spare_valid, spare, self.i.payload)),
                spare_valid.eq(0),
            ]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        return m


class Queue(wiring.Component):
    """A FIFO of ``depth`` entries between two streams, output registered.

    **Latency** 2 cycles. **Throughput** 1 transfer per cycle. **Backpressure** ``i.ready`` is 0
    only when full and depends on registers alone.

    Parameters
    ----------
    shape
        Payload shape.
    depth
        Entries, at least 2.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1))
        Entries held.
    """

    i: stream.Interface
    o: stream.Interface
    level: Signal

    def __init__(self, shape: ShapeLike | ShapeCastable, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"Queue depth must be at least 2, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wrap the library's block-RAM FIFO."""
        m = Module()
        width = Shape.cast(self._shape).width
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=width, depth=self._depth)
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
            self.level.eq(queue.level),  # type: ignore[attr-defined]
        ]
        return m


class DeepQueue(wiring.Component):
    """A FIFO for long paths around it.

    What its memory gives goes straight to a register, ``o`` comes from registers through a gate and
    ``o.ready`` ends in one flip-flop.

    **Latency** 3 cycles. **Throughput** 1 transfer per cycle. **Backpressure** ``i.ready`` is a
    register, 0 while fewer than three places are left; constant 1 where places are ``reserved``.

    Parameters
    ----------
    shape
        Payload shape.
    depth
        Entries that fit for certain, at least 2.
    reserved
        Whoever writes has seen to it that no more than ``depth`` entries are held.

    Members
    -------
    i : In(stream.Signature(shape, always_ready=reserved))
    o : Out(stream.Signature(shape))
    busy : Out(1)
        An entry is held.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal

    def __init__(
        self, shape: ShapeLike | ShapeCastable, depth: int, *, reserved: bool = False
    ) -> None:
        if depth < 2:
            raise ValueError(f"DeepQueue depth must be at least 2, not {depth!r}")
        self._shape = shape
        self._depth = depth
        self._reserved = reserved
        super().__init__(
            {
                "i": In(stream.Signature(shape, always_ready=reserved)),
                "o": Out(stream.Signature(shape)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Put two registers behind the library's block-RAM FIFO."""
        m = Module()
        width = Shape.cast(self._shape).width
        # its memory has one entry less, a power of two, so that its pointers wrap by themselves
        entries = (1 << (self._depth - 1).bit_length()) + 1
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=width, depth=entries)
        level: Signal = queue.level  # type: ignore[attr-defined]
        if not self._reserved:
            # a cycle old: one entry more may be there, and one is being written
            m.d.sync += self.i.ready.eq(level + 2 < entries)

        # what the memory gave, and what was there before it and has not been taken
        last, held = (Signal(width, name=n, reset_less=True) for n in ("last", "held"))
        last_valid, held_valid = Signal(), Signal()
        load = Signal()
        m.d.comb += [
            load.eq(~(last_valid & held_valid)),
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid & self.i.ready),
            queue.r_en.eq(load),
            self.o.valid.eq(last_valid | held_valid),
            self.o.payload.eq(Mux(held_valid, held, last)),
            self.busy.eq((level != 0) | self.o.valid),
        ]
        with m.If(load):
            m.d.sync += [last.eq(queue.r_data), last_valid.eq(queue.r_rdy)]
        with m.If(~held_valid):
            m.d.sync += held.eq(last)
        m.d.sync += held_valid.eq(self.o.valid & ~self.o.ready)
        return m
