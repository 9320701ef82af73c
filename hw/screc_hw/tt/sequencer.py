"""Decides in every cycle what the array works on: the multipliers go where the work is."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.stream import DeepQueue
from screc_hw.tt.layouts import (
    first_layout,
    job_layout,
    second_layout,
    step_layout,
    tag_layout,
)
from screc_hw.tt.params import COLUMNS, TtParams
from screc_hw.tt.rows import ROWS_HELD

__all__ = ["Sequencer"]

JOBS_HELD = 32
"""Rows that wait in a lane: how far first products are looked for ahead of second ones."""


class Sequencer(wiring.Component):
    """Queues the first and second products of jobs and runs them on the array, one step per cycle.

    First products go first, as far as the ring of unfinished ones has places, so that second
    products find theirs finished; those run in the order of the jobs. There is always one to run
    while the ring is full, for what fills it is either being computed or waited for.

    **Latency** 4 cycles to a job's first step. **Throughput** 1 step per cycle. **Backpressure**
    ``jobs.ready`` comes from registers.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    jobs : In(stream.Signature(job_layout(params)))
    done : In(1)
        A first product that a second waits for is in the store.
    taken, emitted : In(1)
        A block or row has left its reserved place.
    step : Out(step_layout(params))
    tag : Out(tag_layout(params))
        Of the same step; ``tag.valid`` 0: none.
    busy : Out(1)
        A job is queued or running.
    """

    jobs: stream.Interface
    done: Signal
    taken: Signal
    emitted: Signal
    step: View[data.StructLayout]
    tag: View[data.StructLayout]
    busy: Signal

    def __init__(self, params: TtParams) -> None:
        self._params = params
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout(params))),
                "done": In(1),
                "taken": In(1),
                "emitted": In(1),
                "step": Out(step_layout(params)),
                "tag": Out(tag_layout(params)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the queues, the choice, and the counters of a running product."""
        m = Module()
        p = self._params
        m.submodules.firsts = firsts = DeepQueue(first_layout(p), p.slots)
        m.submodules.seconds = seconds = DeepQueue(second_layout(p), JOBS_HELD)
        ended = self._admit(m, firsts, seconds)
        active, second, last = Signal(), Signal(), Signal()
        waited = Signal(reset_less=True)
        start1, start2 = self._choose(m, firsts, seconds, ~active | last)
        with m.If(start1 | start2):
            m.d.sync += [active.eq(1), second.eq(start2)]
        with m.Elif(last):
            m.d.sync += active.eq(0)
        m.d.comb += [
            ended.eq(last & second & waited),
            self.busy.eq(active | firsts.busy | seconds.busy),
        ]
        self._run(
            m, firsts.o.payload, seconds.o.payload, start1, start2, (active, second, last, waited)
        )
        return m

    def _admit(self, m: Module, firsts: DeepQueue, seconds: DeepQueue) -> Signal:
        """Take jobs while their products have places; a miss gets the ring's next entry.

        Return the signal that gives such an entry back.
        """
        p = self._params
        free = Signal(range(p.slots + 1), init=p.slots)
        entry = Signal(range(max(2, p.ring_words)))
        room = Signal(init=1)
        ended = Signal()
        job = self.jobs.payload
        taken, takes = Signal(), Signal()
        left = Signal.like(free)
        m.d.comb += [
            self.jobs.ready.eq(firsts.i.ready & seconds.i.ready & room),
            taken.eq(self.jobs.valid & self.jobs.ready),
            takes.eq(taken & ~job.hit & ~job.pin),
            left.eq(free - takes + ended),
            firsts.i.valid.eq(taken & (job.pin | ~job.hit)),
            firsts.i.payload.eq(job.first),
            firsts.i.payload.entry.eq(Mux(job.pin, job.second.entry, entry)),
            firsts.i.payload.waited.eq(~job.pin),
            seconds.i.valid.eq(taken & ~job.pin),
            seconds.i.payload.eq(job.second),
            seconds.i.payload.entry.eq(Mux(job.hit, job.second.entry, entry)),
            seconds.i.payload.waits.eq(~job.hit),
        ]
        m.d.sync += [free.eq(left), room.eq(left != 0)]
        with m.If(takes):
            end = (p.slots - 1) * p.max_entry
            m.d.sync += entry.eq(Mux(entry == end, 0, entry + p.max_entry))
        return ended

    def _choose(
        self, m: Module, firsts: DeepQueue, seconds: DeepQueue, free: Any
    ) -> tuple[Signal, Signal]:
        """Choose what runs next where the array is ``free``."""
        p = self._params
        second = seconds.o.payload
        finished = Signal(range(p.slots + 1))
        blocks = Signal(range(p.block_depth + 1), init=p.block_depth)
        rows = Signal(range(ROWS_HELD + 1), init=ROWS_HELD)
        room = Signal(init=1)
        blocks_left, rows_left = Signal.like(blocks), Signal.like(rows)
        start1, start2, ready2 = Signal(), Signal(), Signal()
        m.d.comb += [
            ready2.eq(seconds.o.valid & room & (~second.waits | (finished != 0))),
            start1.eq(free & firsts.o.valid),
            start2.eq(free & ~firsts.o.valid & ready2),
            firsts.o.ready.eq(free),
            seconds.o.ready.eq(start2),
            blocks_left.eq(blocks - Mux(start2, second.row_blocks, 0) + self.taken),
            rows_left.eq(rows - start2 + self.emitted),
        ]
        m.d.sync += [
            finished.eq(finished + self.done - (start2 & second.waits)),
            blocks.eq(blocks_left),
            rows.eq(rows_left),
            room.eq((blocks_left >= p.max_blocks) & (rows_left != 0)),
        ]
        return start1, start2

    def _run(
        self,
        m: Module,
        first: Any,
        second: Any,
        start1: Signal,
        start2: Signal,
        state: tuple[Signal, Signal, Signal, Signal],
    ) -> None:
        """Count the steps of the product that runs."""
        p = self._params
        active, is_second, last, waited = state
        at: Any = Signal(self.step.at.shape(), name="at", reset_less=True)
        steps = Signal(p.steps_bits, reset_less=True)
        end = Signal(reset_less=True)  # no step is left
        link, links = (
            Signal.like(second.links, name=n, reset_less=True) for n in ("link", "links")
        )
        link_end, begin = Signal(), Signal(reset_less=True)
        home1 = Signal.like(at.core1, name="home1", reset_less=True)
        # first products
        pairs, odd = (Signal(name=n, reset_less=True) for n in ("pairs", "odd"))
        shift = Signal.like(first.shift, reset_less=True)
        part = Signal.like(self.tag.part, reset_less=True)
        entry = Signal.like(at.store, name="entry", reset_less=True)
        # second products
        home3 = Signal.like(at.core3, name="home3", reset_less=True)
        home_store = Signal.like(at.store, name="home_store", reset_less=True)
        turn, turns = (
            Signal.like(second.blocks, name=n, reset_less=True) for n in ("turn", "turns")
        )
        block = Signal.like(self.tag.block, reset_less=True)
        finish: Any = Signal(second.finish.shape(), name="finish", reset_less=True)
        m.d.comb += [
            last.eq(active & end),
            link_end.eq(link == 0),
            self.step.at.eq(at),
            self.step.second.eq(is_second),
            self.step.upper.eq(Mux(pairs, 0b10, odd.replicate(2))),
            self.tag.valid.eq(active),
            self.tag.second.eq(is_second),
            self.tag.begin.eq(begin),
            self.tag.end.eq(link_end),
            self.tag.shift.eq(shift),
            self.tag.entry.eq(entry),
            self.tag.part.eq(part),
            self.tag.done.eq(end & waited),
            self.tag.block.eq(block),
            self.tag.last.eq(end),
            self.tag.finish.eq(finish),
        ]
        parts = p.chain // COLUMNS
        m.d.sync += [
            steps.eq(steps - 1),
            end.eq(steps == 1),
            begin.eq(link_end),
            link.eq(Mux(link_end, links, link - 1)),
        ]
        # what one kind moves the other does not read
        m.d.sync += [
            at.core1.eq(Mux(link_end, home1, at.core1 + 1)),
            odd.eq(~odd),
            at.core2.eq(at.core2 + (pairs | odd)),
            at.core3.eq(at.core3 + 1),
            at.store.eq(at.store + 1),
        ]
        with m.If(link_end):
            m.d.sync += [
                part.eq(Mux(part == parts - 1, 0, part + 1)),
                entry.eq(entry + (part == parts - 1)),
                block.eq(block + 1),
                turn.eq(Mux(turn == 0, turns, turn - 1)),
            ]
            with m.If(turn == 0):
                m.d.sync += [at.core3.eq(home3), home_store.eq(at.store + 1)]
            with m.Else():
                m.d.sync += at.store.eq(home_store)
        with m.If(start1):
            m.d.sync += [
                at.core1.eq(first.core1),
                home1.eq(first.core1),
                at.core2.eq(first.core2),
                entry.eq(first.entry),
                steps.eq(first.steps),
                end.eq(first.steps == 0),
                link.eq(first.links),
                links.eq(first.links),
                begin.eq(1),
                pairs.eq(first.pairs),
                odd.eq(0),
                shift.eq(first.shift),
                part.eq(0),
                waited.eq(first.waited),
            ]
        with m.If(start2):
            m.d.sync += [
                at.core3.eq(second.core3),
                home3.eq(second.core3),
                at.store.eq(second.entry),
                home_store.eq(second.entry),
                steps.eq(second.steps),
                end.eq(second.steps == 0),
                link.eq(second.links),
                links.eq(second.links),
                begin.eq(1),
                turn.eq(second.blocks),
                turns.eq(second.blocks),
                block.eq(0),
                waited.eq(second.waits),
                finish.eq(second.finish),
            ]
