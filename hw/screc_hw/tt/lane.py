"""A lane: the array of dot products between its sequencer and the rows that leave it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.dsp import DotChain
from screc_hw.numerics import MIDDLE_BITS
from screc_hw.stream import config_layout
from screc_hw.tt.layouts import job_layout, slice_layout
from screc_hw.tt.params import COLUMNS, CORE_BITS, TtParams
from screc_hw.tt.position import Position
from screc_hw.tt.rows import Rows
from screc_hw.tt.sequencer import Sequencer
from screc_hw.tt.shape import GROUPS
from screc_hw.tt.sums import Sums

__all__ = ["TtLane"]


class TtLane(wiring.Component):
    """Reconstructs rows, with its own copy of the cores.

    **Latency** about ``chain`` + 45 cycles and the steps of the row. **Throughput**
    ``TtParams.row_cycles``. **Backpressure** rows wait in the lane; ``jobs.ready`` comes from
    registers.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Words of the cores; others are ignored.
    jobs : In(stream.Signature(job_layout(params)))
    rows : Out(stream.Signature(slice_layout(params)))
        Rows in the order of the jobs.
    busy : Out(1)
        A job is under way, whose row may have left the array.
    """

    config: stream.Interface
    jobs: stream.Interface
    rows: stream.Interface
    busy: Signal

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "jobs": In(stream.Signature(job_layout(params))),
                "rows": Out(stream.Signature(slice_layout(params))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the positions along the chain and the sums at its end."""
        m = Module()
        p = self._params
        m.submodules.sequencer = sequencer = Sequencer(p)
        m.submodules.sums = sums = Sums(p)
        m.submodules.rows = rows = Rows(p)
        wiring.connect(m, wiring.flipped(self.jobs), sequencer.jobs)
        wiring.connect(m, sums.blocks, rows.blocks)
        wiring.connect(m, rows.o, wiring.flipped(self.rows))

        positions = [Position(p, k) for k in range(p.chain)]
        step: Any = sequencer.step
        for k, position in enumerate(positions):
            m.submodules[f"position_{k}"] = position
            m.d.comb += [
                position.config.valid.eq(self.config.valid),
                position.config.payload.eq(self.config.payload),
                position.write.eq(sums.write),
                position.step.eq(step),
            ]
            step = position.next
        chains = {}
        for group in range(GROUPS):
            for column in range(COLUMNS):
                chain = DotChain(p.chain, MIDDLE_BITS, CORE_BITS)
                m.submodules[f"dot_{group}_{column}"] = chains[group, column] = chain
                for k, position in enumerate(positions):
                    operands = position.operands
                    m.d.comb += [
                        chain.a[k].eq(operands.rows[group]),
                        chain.b[k].eq(operands.columns[group // 2][column]),
                    ]
                m.d.comb += sums.dots[group][column].eq(chain.p)

        latency = Position.LATENCY + chains[0, 0].latency
        tag: Any = sequencer.tag
        valid: Any = tag.valid
        flights = Signal(latency + Sums.LATENCY + 1)
        for stage in range(latency):
            later: Any = Signal(tag.shape(), name=f"tag_{stage}", reset_less=True)
            later_valid = Signal(name=f"valid_{stage}")
            m.d.sync += [later.eq(tag), later_valid.eq(valid)]
            tag, valid = later, later_valid
        m.d.sync += flights.eq((flights << 1) | sequencer.tag.valid)
        m.d.comb += [
            sums.tag.eq(tag),
            sums.tag.valid.eq(valid),
            sequencer.done.eq(sums.done),
            sequencer.taken.eq(rows.taken),
            sequencer.emitted.eq(rows.emitted),
        ]
        m.d.sync += self.busy.eq(sequencer.busy | flights.any())
        return m
