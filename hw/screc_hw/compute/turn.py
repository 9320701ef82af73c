"""The bottom output on its way to the interaction: columns become vectors and are copied."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import codes_layout, place_layout, tagged_layout
from screc_hw.compute.pairs import vector_write_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.protocol import Destination
from screc_hw.stream import DeepQueue, index_bits

__all__ = ["Turn"]


class Turn(wiring.Component):
    """Writes the columns of an operation as components of vector 0 of every sample.

    Then each is sent to be requantised once more, for the concatenated tensor.

    **Throughput** a column in ``rows / pair_units + 1`` cycles. **Backpressure** none of
    ``columns``: there is a place for all of an operation's.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    start : In(1)
    place : In(place_layout(params))
        Of the operation that starts.
    free : Out(1)
        An operation can start.
    columns : In(stream.Signature(codes, always_ready=True))
    final : In(1)
        With a column: the operation's last.
    vectors : Out(vector_write_layout(params))
    copy : Out(stream.Signature(StructLayout({"codes": codes, "tag": tagged})))
    """

    start: Signal
    place: View[data.StructLayout]
    free: Signal
    columns: stream.Interface
    final: Signal
    vectors: View[data.StructLayout]
    copy: stream.Interface

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        copy = data.StructLayout({"codes": codes_layout(params), "tag": tagged_layout(params)})
        super().__init__(
            {
                "start": In(1),
                "place": In(place_layout(params)),
                "free": Out(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "columns": In(
                    stream.Signature(data.ArrayLayout(signed(8), params.rows), always_ready=True)
                ),
                "final": In(1),
                "vectors": Out(vector_write_layout(params)),
                "copy": Out(stream.Signature(copy)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Queue the columns and walk the samples of each."""
        m = Module()
        p = self._params
        width = 8 * p.rows
        m.submodules.queue = queue = DeepQueue(width + 1, max(2, p.max_dim), reserved=True)
        m.d.comb += [
            queue.i.valid.eq(self.columns.valid),
            queue.i.payload.eq((self.final << width) | self.columns.payload.as_value()),
        ]
        codes: Any = Signal(data.ArrayLayout(signed(8), p.rows), name="codes")
        final = Signal()
        m.d.comb += [codes.eq(queue.o.payload[:width]), final.eq(queue.o.payload[width])]

        number = Signal(range(max(2, p.max_dim)))
        group = Signal(range(p.unit_rows + 1))
        base, address = Signal(index_bits(p.unit_words)), Signal(index_bits(p.unit_words))
        place: Any = Signal(place_layout(p), name="held")
        writing = Signal()
        m.d.comb += writing.eq(queue.o.valid & (group != p.unit_rows))
        vectors: Any = self.vectors
        m.d.comb += [
            vectors.units.eq(Mux(writing, -1, 0)),
            vectors.address.eq(address),
            vectors.enable.eq(1 << number[: (CHAIN - 1).bit_length()]),
        ]
        with m.Switch(group):
            for g in range(p.unit_rows):
                with m.Case(g):
                    m.d.comb += [
                        vectors.codes[u][k].eq(codes[g * p.pair_units + u])
                        for u in range(p.pair_units)
                        for k in range(CHAIN)
                    ]
        copy: Any = self.copy.payload
        m.d.comb += [
            self.copy.valid.eq(queue.o.valid & ~writing),
            queue.o.ready.eq(self.copy.valid & self.copy.ready),
            *(copy.codes[row].eq(codes[row]) for row in range(p.rows)),
            copy.tag.valid.eq(1),
            copy.tag.destination.eq(Destination.ACTIVATION),
            copy.tag.bank.eq(number),
            copy.tag.address.eq(place.address + (number >> (CHAIN - 1).bit_length())),
            copy.tag.slot.eq(place.slot),
            copy.tag.last.eq(place.last),
            copy.tag.final.eq(final),
        ]
        row_step = p.vector_chunks
        with m.If(writing):
            m.d.sync += [group.eq(group + 1), address.eq(address + row_step)]
        with m.If(queue.o.ready):
            following = Signal.like(number)
            m.d.comb += following.eq(number + 1)
            m.d.sync += [
                group.eq(0),
                number.eq(Mux(final, 0, following)),
                address.eq(base + (following >> (CHAIN - 1).bit_length())),
            ]
            with m.If(final):
                m.d.sync += self.free.eq(1)
        slot_base = Signal.like(base)
        with m.Switch(self.place.slot):
            for slot in range(p.slots):
                with m.Case(slot):
                    m.d.comb += slot_base.eq(slot * p.unit_rows * p.vector_chunks)
        with m.If(self.start):
            m.d.sync += [
                self.free.eq(0),
                place.eq(self.place),
                base.eq(slot_base),
                address.eq(slot_base),
            ]
        return m
