"""Walks the steps of one LINEAR after the other, without a gap between them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import columns_layout, linear_layout, step_layout, tag_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.stream import index_bits

__all__ = ["Issue"]


class Issue(wiring.Component):
    """Turns operations into steps: all inputs of a group of outputs, group after group.

    A group lasts as many cycles as it has outputs at least, for its columns leave one by one. An
    operation of few inputs may have to wait for those of the one before.

    **Latency** 1 cycle. **Throughput** 1 step per cycle. **Backpressure** ``i.ready`` comes from
    registers; the next operation is taken in the last cycle of the one before.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    i : In(stream.Signature(linear_layout(params)))
    columns : Out(stream.Signature(columns_layout(params)))
        Told with an operation's first step; an operation begins when it is taken.
    step : Out(step_layout(params))
    tag : Out(tag_layout(params))
    busy : Out(1)
        A step is issued.
    """

    i: stream.Interface
    columns: stream.Interface
    step: View[data.StructLayout]
    tag: View[data.StructLayout]
    busy: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(linear_layout(params))),
                "columns": Out(stream.Signature(columns_layout(params))),
                "step": Out(step_layout(params)),
                "tag": Out(tag_layout(params)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters of inputs, of outputs, and of cycles that a group must last."""
        m = Module()
        p = self._params
        op: Any = self.i.payload
        active, start = Signal(), Signal()
        link, links = (Signal.like(op.links, name=n, reset_less=True) for n in ("link", "links"))
        tail = Signal.like(op.tail, name="tail", reset_less=True)
        # outputs of the groups to come, this one's included, less one
        left = Signal.like(op.n, reset_less=True)
        spare = Signal(index_bits(p.outs), reset_less=True)  # cycles that the group must last yet
        home = Signal.like(op.source, name="home", reset_less=True)
        step: Any = Signal(step_layout(p), name="steps", reset_less=True)
        begin = Signal(reset_less=True)
        final = Signal()  # of the last group
        outs = Signal(index_bits(p.outs))
        end = Signal()  # of the group
        # cycles that columns before still leave in: no sum may be complete in them
        owed, drain = Signal(index_bits(p.outs)), Signal(index_bits(p.outs))
        waiting = Signal()  # the sum is complete, the group waits for its columns
        m.d.comb += [
            final.eq(left < p.outs),
            outs.eq(Mux(final, left, p.outs - 1)),
            end.eq((link == 0) & (spare == 0)),
            start.eq(self.i.valid & self.i.ready),
            drain.eq(Mux(active & ~waiting, outs, owed)),
            self.i.ready.eq((~active | (end & final)) & (op.links >= drain) & self.columns.ready),
            self.columns.valid.eq(start),
            self.columns.payload.n.eq(op.n),
            self.columns.payload.place.eq(op.place),
            self.step.eq(step),
            self.step.last.eq(Mux(link == 0, tail, -1)),
            self.tag.valid.eq(active & ~waiting),
            self.tag.begin.eq(begin),
            self.tag.end.eq(link == 0),
            self.tag.outs.eq(outs),
            self.busy.eq(active),
        ]
        with m.If(active & ~waiting & (link == 0) & (outs != 0)):
            m.d.sync += owed.eq(outs - 1)
        with m.Elif(owed != 0):
            m.d.sync += owed.eq(owed - 1)
        with m.If(active):
            m.d.sync += [begin.eq(0), waiting.eq((link == 0) & ~end)]
            with m.If(spare != 0):
                m.d.sync += spare.eq(spare - 1)
            with m.If(link != 0):
                m.d.sync += [link.eq(link - 1), step.activation.eq(step.activation + 1)]
            with m.If(~waiting):
                m.d.sync += step.weight.eq(step.weight + 1)
            with m.If(end):
                m.d.sync += [
                    begin.eq(1),
                    link.eq(links),
                    step.activation.eq(home),
                    left.eq(left - p.outs),
                    # at least as many cycles as the *next* group has outputs
                    spare.eq(Mux(left < 2 * p.outs, (left - p.outs)[: len(spare)], p.outs - 1)),
                    active.eq(~final),
                ]
        with m.If(start):
            m.d.sync += [
                active.eq(1),
                begin.eq(1),
                link.eq(op.links),
                links.eq(op.links),
                tail.eq(op.tail),
                left.eq(op.n),
                spare.eq(Mux(op.n < p.outs, op.n[: len(spare)], p.outs - 1)),
                home.eq(op.source),
                step.activation.eq(op.source),
                step.weight.eq(op.weight),
            ]
        return m
