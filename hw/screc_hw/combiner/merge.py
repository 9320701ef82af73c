"""Packet arbiters: several streams into one, whole packets at a time."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.stream import SkidBuffer

__all__ = ["Merge", "merge_tree"]

SKID_LEVELS = 3
"""Mergers whose gates a ``ready`` may pass one after the other, before the last one."""


class Merge(wiring.Component):
    """Two streams of packets into one, fair, a packet at a time.

    A packet ends with the transfer whose payload has ``last`` set. With both inputs busy the
    packets alternate.

    **Latency** 1 cycle. **Throughput** 1 transfer per cycle. **Backpressure** an input's ``ready``
    follows ``o.ready`` by one gate.

    Parameters
    ----------
    layout
        Payload, with a 1-bit member ``last``.

    Members
    -------
    a, b : In(stream.Signature(layout))
    o : Out(stream.Signature(layout))
    """

    a: stream.Interface
    b: stream.Interface
    o: stream.Interface

    def __init__(self, layout: data.StructLayout) -> None:
        signature = stream.Signature(layout)
        super().__init__({"a": In(signature), "b": In(signature), "o": Out(signature)})

    def elaborate(self, platform: object) -> Module:
        """Build the choice and the output register."""
        m = Module()
        locked = Signal()
        owner = Signal()  # 1: b has, or had, the last packet
        choice = Signal()
        valid = Signal()
        payload = Signal.like(self.o.payload, reset_less=True)
        advance = ~self.o.valid | self.o.ready
        m.d.comb += [
            choice.eq(Mux(locked, owner, Mux(owner, ~self.a.valid, self.b.valid))),
            valid.eq(Mux(choice, self.b.valid, self.a.valid)),
            self.a.ready.eq(advance & ~choice),
            self.b.ready.eq(advance & choice),
            self.o.payload.eq(payload),
        ]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
            with m.If(valid):
                last = Mux(choice, self.b.payload.last, self.a.payload.last)
                m.d.sync += [
                    payload.eq(Mux(choice, self.b.payload, self.a.payload)),
                    owner.eq(choice),
                    locked.eq(~last),
                ]
        return m


def merge_tree(
    m: Module, layout: data.StructLayout, streams: Sequence[stream.Interface]
) -> tuple[stream.Interface, Value]:
    """Merge ``streams`` by a balanced tree of :class:`Merge`, added to ``m``.

    **Latency** ``ceil(log2(len(streams)))`` cycles; ``ready`` passes as many gates. Beyond eight
    streams a :class:`SkidBuffer` (a cycle more) ends every three levels.

    Returns
    -------
    output
        The merged stream.
    busy
        1 while the tree holds a transfer.
    """
    level = 0
    held: list[Value] = []
    while len(streams) > 1:
        merged = []
        for index in range(0, len(streams) - 1, 2):
            merge = Merge(layout)
            m.submodules[f"merge_{level}_{index // 2}"] = merge
            wiring.connect(m, streams[index], merge.a)
            wiring.connect(m, streams[index + 1], merge.b)
            merged.append(merge.o)
            held.append(merge.o.valid)
        streams = [*merged, *streams[len(streams) & ~1 :]]
        level += 1
        if level % SKID_LEVELS == 0 and len(streams) > 1:
            for index, tail in enumerate(streams):
                m.submodules[f"skid_{level}_{index}"] = skid = SkidBuffer(layout)
                wiring.connect(m, tail, skid.i)
                held.append(skid.o.valid)
                streams[index] = skid.o
    return streams[0], Cat(held).any()
