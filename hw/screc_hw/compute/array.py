"""The INT8 array: packed dot products over 8 inputs, accumulated and drained."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import (
    bank_write_layout,
    fill_layout,
    step_layout,
    tag_layout,
    values_layout,
)
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.position import Position
from screc_hw.compute.spread import copies
from screc_hw.compute.tensors import CHAIN
from screc_hw.dsp import FIELD_BITS, PackedDotChain
from screc_hw.stream import config_layout

__all__ = ["Accumulate", "Array"]


class Accumulate(wiring.Component):
    """Adds the sums of 8 products over a layer's inputs, and drains an output per cycle.

    What is finished moves to registers of its own, so the next sums begin at once; groups of
    outputs must be at least as many cycles apart as the one before has outputs. Begin and end of a
    sum reach the accumulators from registers that ``max_fanout`` multipliers share.

    **Latency** 2 cycles from the last sums to the group's first ``column``. **Throughput** 1 step
    and 1 column per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    sums : In(ArrayLayout(ArrayLayout(signed(18), rows), outs))
    early : In(tag_layout(params))
        Of the step whose sums come two cycles later.
    ahead : Out(1)
        ``column`` holds a column in two cycles.
    column : Out(values_layout(params))
    """

    LATENCY = 2

    sums: View[data.ArrayLayout]
    early: View[data.StructLayout]
    ahead: Signal
    column: View[data.ArrayLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        row = data.ArrayLayout(signed(FIELD_BITS), params.rows)
        super().__init__(
            {
                "sums": In(data.ArrayLayout(row, params.outs)),
                "early": In(tag_layout(params)),
                "ahead": Out(1),
                "column": Out(values_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the accumulators, and shift registers of finished columns."""
        m = Module()
        p = self._params
        held: list[Any] = [
            Signal(values_layout(p), name=f"held_{out}", reset_less=True) for out in range(p.outs)
        ]
        left = Signal(p.outs)  # finished columns that have not left, one bit each, two cycles ahead
        ending = Signal()
        count = Signal.like(self.early.outs, reset_less=True)
        m.d.sync += [ending.eq(self.early.valid & self.early.end), count.eq(self.early.outs)]
        with m.If(ending):
            m.d.sync += left.eq(Cat(1, *((count >= out) for out in range(1, p.outs))))
        with m.Else():
            m.d.sync += left.eq(left >> 1)
        m.d.comb += [self.ahead.eq(left[0]), self.column.eq(held[0])]
        group = p.max_fanout // CHAIN
        groups = -(-p.rows // group)
        for out in range(p.outs):
            totals: Any = Signal(values_layout(p), name=f"total_{out}", reset_less=True)
            following = held[out + 1] if out + 1 < p.outs else totals
            # a register for the output, then one for every group of its accumulators
            begins, ends = (
                copies(m, f"{name}_{out}", copies(m, f"{name}_of_{out}", value)[0], groups)
                for name, value in (("begin", self.early.begin), ("end", ending))
            )
            for row in range(p.rows):
                m.d.sync += [
                    totals[row].eq(self.sums[out][row] + Mux(begins[row // group], 0, totals[row])),
                    held[out][row].eq(Mux(ends[row // group], totals[row], following[row])),
                ]
        return m


class Array(wiring.Component):
    """Positions along the chain, ``rows / 2 × outs`` dot products, their accumulators.

    **Latency** :attr:`latency` cycles from a group's last step to its first column. **Throughput**
    1 step per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    fill : In(fill_layout(params))
        Where weights are streamed.
    writes : CHAIN × In(bank_write_layout(params))
    step : In(step_layout(params))
    tag : In(tag_layout(params))
    ahead : Out(1)
        ``column`` holds a column in two cycles.
    column : Out(values_layout(params))
    """

    config: stream.Interface
    fill: View[data.StructLayout]
    writes: list[Any]
    step: View[data.StructLayout]
    tag: View[data.StructLayout]
    ahead: Signal
    column: View[data.ArrayLayout]

    latency = Position.LATENCY + CHAIN + 3 + Accumulate.LATENCY

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        fill = {"fill": In(fill_layout(params))} if params.stream_words else {}
        super().__init__(
            {
                **fill,
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "writes": In(bank_write_layout(params)).array(CHAIN),
                "step": In(step_layout(params)),
                "tag": In(tag_layout(params)),
                "ahead": Out(1),
                "column": Out(values_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect them; the tag waits for the sums."""
        m = Module()
        p = self._params
        positions = [Position(p, k) for k in range(CHAIN)]
        step: Any = self.step
        group = p.max_fanout // 2  # pairs of samples that share a register of weights
        inputs, weights = [], []
        for k, position in enumerate(positions):
            m.submodules[f"position_{k}"] = position
            m.d.comb += [
                position.config.valid.eq(self.config.valid),
                position.config.payload.eq(self.config.payload),
                position.write.eq(self.writes[k]),
                position.step.eq(step),
            ]
            if p.stream_words:
                m.d.comb += position.fill.eq(self.fill)
            step = position.next
            operands: Any = position.operands
            inputs += copies(m, f"inputs_{k}", operands.inputs)
            weights.append(copies(m, f"weights_{k}", operands.weights, -(-p.pairs // group)))

        m.submodules.accumulate = accumulate = Accumulate(p)
        latency = 0
        for out in range(p.outs):
            for pair in range(p.pairs):
                chain = m.submodules[f"dot_{out}_{pair}"] = PackedDotChain(CHAIN)
                latency = chain.latency
                for k in range(CHAIN):
                    m.d.comb += [
                        chain.low[k].eq(inputs[k][2 * pair]),
                        chain.high[k].eq(inputs[k][2 * pair + 1]),
                        chain.b[k].eq(weights[k][pair // group][out]),
                    ]
                m.d.comb += [
                    accumulate.sums[out][2 * pair].eq(chain.low_sum),
                    accumulate.sums[out][2 * pair + 1].eq(chain.high_sum),
                ]
        tags: list[Any] = [self.tag]
        for stage in range(Position.LATENCY + 1 + latency - 2):
            later: Any = Signal(tag_layout(p), name=f"tag_{stage}")
            m.d.sync += later.eq(tags[-1])
            tags.append(later)
        m.d.comb += [
            accumulate.early.eq(tags[-1]),
            self.ahead.eq(accumulate.ahead),
            self.column.eq(accumulate.column),
        ]
        return m
