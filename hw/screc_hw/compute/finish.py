"""What every column passes: bias, ReLU, requantising, and its way to where it belongs."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import (
    codes_layout,
    columns_layout,
    tagged_layout,
    values_layout,
)
from screc_hw.compute.memories import LoadedMemory
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.numerics import BIAS_BITS
from screc_hw.protocol import REQUANTISE_FIELDS, Destination, LoadTarget
from screc_hw.requantise import Requantise
from screc_hw.stream import DeepQueue, config_layout

__all__ = ["Finish"]

COLUMNS_HELD = 4
"""Operations whose columns may be under way: in the array, and one that begins."""


class Finish(wiring.Component):
    """Bias, ReLU and requantising of columns; columns of copies fill the gaps.

    **Latency** :attr:`LATENCY` cycles from a column to its codes. **Throughput** 1 column per
    cycle. **Backpressure** ``copy.ready`` is 0 while a column comes.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    columns : In(stream.Signature(columns_layout(params)))
        What the columns to come are.
    ahead : In(1)
        ``column`` holds a column in two cycles.
    column : In(values_layout(params))
    copy : In(stream.Signature(StructLayout({"codes": codes, "tag": tagged})))
        Codes to requantise with ``copy_m`` and ``copy_s``.
    copy_m, copy_s : In(16), In(6)
    codes : Out(codes_layout(params))
    tag : Out(tagged_layout(params))
        Of ``codes``.
    logits : Out(values_layout(params))
        Accumulators plus bias of the last column that went to OUTPUT.
    """

    LATENCY = 1 + Requantise.latency_of(27)

    config: stream.Interface
    columns: stream.Interface
    ahead: Signal
    column: View[data.ArrayLayout]
    copy: stream.Interface
    copy_m: Signal
    copy_s: Signal
    codes: View[data.ArrayLayout]
    tag: View[data.StructLayout]
    logits: View[data.ArrayLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        copy = data.StructLayout({"codes": codes_layout(params), "tag": tagged_layout(params)})
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "columns": In(stream.Signature(columns_layout(params))),
                "ahead": In(1),
                "column": In(values_layout(params)),
                "copy": In(stream.Signature(copy)),
                "copy_m": In(16),
                "copy_s": In(6),
                "codes": Out(codes_layout(params)),
                "tag": Out(tagged_layout(params)),
                "logits": Out(values_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Number the columns, look up their entries, and build the pipeline."""
        m = Module()
        p = self._params
        m.submodules.scale = scale = Requantise(p.acc_bits, p.rows, wide=True)
        m.submodules.entries = entries = LoadedMemory(
            LoadTarget.REQUANTISE, width=sum(REQUANTISE_FIELDS["s"]), depth=p.requantise_words
        )
        wiring.connect(m, wiring.flipped(self.config), entries.config)
        tag, relu = self._number(m, entries)

        fields = {
            name: entries.data[0][low : low + width]
            for name, (low, width) in REQUANTISE_FIELDS.items()
        }
        bias = fields["bias"][:BIAS_BITS].as_signed()
        biased: Any = Signal(values_layout(p), reset_less=True)
        multiplier, shift = Signal.like(scale.m), Signal.like(scale.s)
        here: Any = Signal(tagged_layout(p), name="tag_here")
        rectify = Signal(reset_less=True)
        m.d.comb += self.copy.ready.eq(~tag.valid)
        with m.If(tag.valid):
            m.d.sync += [
                here.eq(tag),
                multiplier.eq(fields["m"]),
                shift.eq(fields["s"]),
                rectify.eq(relu),
                *(biased[row].eq(self.column[row] + bias) for row in range(p.rows)),
            ]
        with m.Else():
            m.d.sync += [
                here.eq(self.copy.payload.tag),
                here.valid.eq(self.copy.valid),
                multiplier.eq(self.copy_m),
                shift.eq(self.copy_s),
                rectify.eq(0),
                *(biased[row].eq(self.copy.payload.codes[row]) for row in range(p.rows)),
            ]
        wide = Signal()
        m.d.comb += [
            wide.eq(here.destination == Destination.OUTPUT),
            scale.m.eq(multiplier),
            scale.s.eq(shift),
            scale.wide.eq(wide),
            *(
                scale.acc[row].eq(Mux(rectify & biased[row][-1], 0, biased[row]))
                for row in range(p.rows)
            ),
            self.codes.eq(scale.y),
        ]
        with m.If(here.valid & wide):
            m.d.sync += self.logits.eq(biased)
        stages: list[Any] = [here]
        stages += [Signal(tagged_layout(p), name=f"tag_{n}") for n in range(scale.latency)]
        m.d.sync += [after.eq(before) for before, after in itertools.pairwise(stages)]
        m.d.comb += self.tag.eq(stages[-1])
        return m

    def _number(self, m: Module, entries: LoadedMemory) -> tuple[Any, Signal]:
        """Give every column its entry and place; return its tag and ReLU when it is there."""
        p = self._params
        m.submodules.queue = queue = DeepQueue(columns_layout(p), COLUMNS_HELD)
        wiring.connect(m, wiring.flipped(self.columns), queue.i)
        coming: Any = queue.o.payload
        now: Any = Signal(columns_layout(p), name="now", reset_less=True)
        active, final = Signal(), Signal()
        number = Signal(range(CHAIN), reset_less=True)  # bank
        m.d.comb += [
            final.eq(now.n == 0),
            queue.o.ready.eq(~active | (self.ahead & final)),
            entries.address[0].eq(now.place.entry),
        ]
        with m.If(self.ahead):
            m.d.sync += [
                now.n.eq(now.n - 1),
                now.place.entry.eq(now.place.entry + 1),
                number.eq(number + 1),
                now.place.address.eq(now.place.address + (number == CHAIN - 1)),
            ]
        with m.If(queue.o.ready):
            m.d.sync += [active.eq(queue.o.valid), now.eq(coming), number.eq(0)]
        tag: Any = Signal(tagged_layout(p), name="tag_0_ahead")
        later: Any = Signal(tagged_layout(p), name="tag_1_ahead")
        relu = Signal(2, reset_less=True)
        m.d.sync += [
            tag.valid.eq(self.ahead),
            tag.destination.eq(now.place.destination),
            tag.bank.eq(number),
            tag.address.eq(now.place.address),
            tag.slot.eq(now.place.slot),
            tag.last.eq(now.place.last),
            tag.final.eq(final),
            later.eq(tag),
            relu.eq((relu << 1) | now.place.relu),
        ]
        return later, relu[-1]
