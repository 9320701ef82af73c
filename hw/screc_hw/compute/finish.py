"""What every column passes: bias, ReLU, requantising, and its way to where it belongs."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
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
from screc_hw.compute.spread import copies
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
        m.submodules.entries = entries = LoadedMemory(
            LoadTarget.REQUANTISE, width=sum(REQUANTISE_FIELDS["s"]), depth=p.requantise_words
        )
        wiring.connect(m, wiring.flipped(self.config), entries.config)
        here: Any = Signal(tagged_layout(p), name="tag_here")
        biased: Any = Signal(values_layout(p), reset_less=True)
        tag, relu, valid = self._number(m, entries)
        m.d.comb += self.copy.ready.eq(~tag.valid)
        with m.If(tag.valid):
            m.d.sync += here.eq(tag)
        with m.Else():
            m.d.sync += [here.eq(self.copy.payload.tag), here.valid.eq(self.copy.valid)]
        with m.If(here.valid & (here.destination == Destination.OUTPUT)):
            m.d.sync += self.logits.eq(biased)
        for group, low in enumerate(range(0, p.rows, p.max_fanout)):
            rows = range(low, min(p.rows, low + p.max_fanout))
            self._scale(m, group, rows, entries, biased, tag.destination, relu, valid[group])
        stages: list[Any] = [here]
        stages += [Signal(tagged_layout(p), name=f"tag_{n}") for n in range(self.LATENCY - 1)]
        m.d.sync += [after.eq(before) for before, after in itertools.pairwise(stages)]
        m.d.comb += self.tag.eq(stages[-1])
        return m

    def _scale(
        self,
        m: Module,
        group: int,
        rows: range,
        entries: LoadedMemory,
        biased: Any,
        destination: Value,
        relu: Value,
        valid: Signal,
    ) -> None:
        """Add the bias and requantise some rows, which share registers of the factors."""
        p = self._params
        scale = Requantise(p.acc_bits, len(rows), wide=True)
        m.submodules[f"scale_{group}"] = scale
        fields = {
            name: entries.data[0][low : low + width]
            for name, (low, width) in REQUANTISE_FIELDS.items()
        }
        bias = fields["bias"][:BIAS_BITS].as_signed()
        towards = Mux(valid, destination, self.copy.payload.tag.destination)
        (multiplier,) = copies(m, f"multiplier_{group}", Mux(valid, fields["m"], self.copy_m))
        (shift,) = copies(m, f"shift_{group}", Mux(valid, fields["s"], self.copy_s))
        (rectify,) = copies(m, f"rectify_{group}", relu & valid)
        (wide,) = copies(m, f"wide_{group}", towards == Destination.OUTPUT)
        m.d.comb += [scale.m.eq(multiplier), scale.s.eq(shift), scale.wide.eq(wide)]
        added = Mux(valid, bias, 0)  # once for all rows, and first, so that rows are one LUT a bit
        for lane, row in enumerate(rows):
            value = Mux(valid, self.column[row], self.copy.payload.codes[row])
            m.d.sync += biased[row].eq(added + value)
            m.d.comb += [
                scale.acc[lane].eq(Mux(rectify & biased[row][-1], 0, biased[row])),
                self.codes[row].eq(scale.y[lane]),
            ]

    def _number(self, m: Module, entries: LoadedMemory) -> tuple[Any, Value, list[Any]]:
        """Give every column its entry and place; return its tag and ReLU when it is there.

        And that it is, once for every group of rows.
        """
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
        valid = copies(m, "column_here", tag.valid, -(-p.rows // p.max_fanout))
        return later, relu[-1], valid
