"""The combiner: partial sums of all memory cores in, finished vectors of every bag out."""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.accumulate import Accumulate
from screc_hw.combiner.admit import Admit, ZeroFill
from screc_hw.combiner.complete import Complete
from screc_hw.combiner.finish import Finish, finished_layout
from screc_hw.combiner.layouts import part_layout
from screc_hw.combiner.merge import Merge, merge_tree
from screc_hw.combiner.params import CombinerParams
from screc_hw.stream import (
    SkidBuffer,
    bag_header_layout,
    config_layout,
    feature_write_layout,
    partial_layout,
)

__all__ = ["Combiner"]


class Combiner(wiring.Component):
    """Adds the partial sums of each bag, scales the sum to int8 once, and writes it out.

    A sub-batch is announced by ``begin`` and its ``rows × features`` headers; when they are in,
    ``admitted`` counts up and its partials may come. Partials of one bag may come from any input,
    in any order and interleaved with others, but the slices of a partial follow each other. A bag
    is finished when the counts of its partials reach its length; further ones are dropped.

    **Latency** ``ceil(log2(inputs)) + 1`` cycles of merging, ``params.latency`` of adding and
    requantising, and 4 of output. **Throughput** 1 header and 1 partial slice per cycle.
    **Backpressure** ``begin`` waits for a free slot; a slow compute core stops the partials once
    ``queue_depth`` words are under way; ``ready`` of a partial is ``ceil(log2(inputs)) + 1`` gates
    behind a register.

    Parameters
    ----------
    params
        Sizes.
    inputs
        Memory cores.
    cores
        Compute cores, a power of two that divides ``params.slots``.

    Members
    -------
    features : In(12)
        Features of the sub-batch, held while ``begin`` is valid.
    begin : In(stream, empty payload)
    bags : In(stream.Signature(bag_header_layout))
        Row by row, feature by feature.
    partials : inputs × In(stream.Signature(partial_layout))
    config : In(stream.Signature(config_layout), valid-only)
        ``COMBINER_FEATURES``, one word per feature.
    admitted : Out(16)
        Sub-batches admitted since reset, modulo 2**16.
    words : cores × Out(stream.Signature(feature_write_layout))
        ``slot`` counts within the compute core.
    complete : cores × Out(1)
        Pulse, in order of admission: every word of a slot has been accepted.
    release : cores × In(1)
        Pulse: the core's oldest slot is free again.
    abort : In(1)
        Lookups are lost, so bags will not complete: every slot is as complete as it gets, and its
        words mean nothing. From then until nothing is under way.
    idle : Out(1)
        Nothing was under way in the cycle before.

    Raises
    ------
    ValueError
        If ``inputs`` is below 1, or ``cores`` is no power of two up to ``params.slots``.
    """

    features: Signal
    begin: stream.Interface
    bags: stream.Interface
    partials: list[stream.Interface]
    config: stream.Interface
    admitted: Signal
    words: list[stream.Interface]
    complete: list[Signal]
    release: list[Signal]
    abort: Signal
    idle: Signal

    def __init__(self, params: CombinerParams, inputs: int, cores: int) -> None:
        if inputs < 1:
            raise ValueError(f"inputs must be at least 1, not {inputs!r}")
        if cores < 1 or cores & (cores - 1) or cores > params.slots:
            raise ValueError(
                f"cores must be a power of two up to {params.slots} slots, not {cores!r}"
            )
        self._params = params
        self._inputs = inputs
        self._cores = cores
        self._local = dataclasses.replace(params, slots=params.slots // cores)
        super().__init__(
            {
                "features": In(12),
                "begin": In(stream.Signature(0)),
                "bags": In(stream.Signature(bag_header_layout())),
                "partials": In(stream.Signature(partial_layout(params))).array(inputs),
                "config": In(stream.Signature(config_layout())),
                "admitted": Out(16),
                "words": Out(stream.Signature(feature_write_layout(self._local))).array(cores),
                "complete": Out(1).array(cores),
                "release": In(1).array(cores),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect admission, merging, adding, scaling and the compute cores' outputs."""
        m = Module()
        params = self._params
        m.submodules.admit = admit = Admit(params, self._cores)
        m.submodules.zero_fill = zero_fill = ZeroFill(params)
        m.submodules.accumulate = accumulate = Accumulate(params)
        m.submodules.finish = finish = Finish(params)
        for part in (admit, finish):
            m.d.comb += [
                part.config.valid.eq(self.config.valid),
                part.config.payload.eq(self.config.payload),
            ]
        wiring.connect(m, wiring.flipped(self.begin), admit.begin)
        wiring.connect(m, wiring.flipped(self.bags), admit.bags)
        wiring.connect(m, admit.headers, accumulate.headers)
        wiring.connect(m, admit.zeros, zero_fill.bags)
        # zeros join last, so that they may take up to every other packet
        m.submodules.merge_zeros = merge = Merge(part_layout(params))
        parts = [self._part(m, partial) for partial in self.partials]
        merged, merging = merge_tree(m, part_layout(params), parts)
        wiring.connect(m, merged, merge.a)
        wiring.connect(m, zero_fill.parts, merge.b)
        wiring.connect(m, merge.o, accumulate.parts)
        wiring.connect(m, accumulate.sums, finish.sums)
        waiting = self._outputs(m, admit, finish.words)
        busy = Signal()
        # partials are under way from the first register that holds one, wanted or not
        adding = merging | merge.o.valid | ~accumulate.idle
        m.d.sync += [
            busy.eq(waiting | ~admit.idle | self.begin.valid | adding),
            accumulate.taken.eq(finish.words.valid & finish.words.ready),
        ]
        m.d.comb += [
            self.config.ready.eq(1),
            admit.features.eq(self.features),
            self.admitted.eq(admit.admitted),
            finish.ahead.eq(accumulate.ahead),
            self.idle.eq(~busy),
        ]
        return m

    def _part(self, m: Module, partial: stream.Interface) -> stream.Interface:
        """Return ``partial`` with the mark of an empty bag, 0."""
        part = stream.Signature(part_layout(self._params)).create()
        m.d.comb += [
            part.valid.eq(partial.valid),
            partial.ready.eq(part.ready),
            *(
                part.payload[name].eq(partial.payload[name])
                for name, _ in partial_layout(self._params)
            ),
        ]
        return part

    def _outputs(self, m: Module, admit: Admit, words: stream.Interface) -> Value:
        """Give every compute core its words and completions; return whether any slot waits."""
        core_bits = (self._cores - 1).bit_length()
        slot = words.payload.write.slot
        ready, idle = [], []
        for core in range(self._cores):
            mine = slot[:core_bits] == core
            m.submodules[f"output_{core}"] = output = SkidBuffer(finished_layout(self._local))
            m.submodules[f"complete_{core}"] = complete = Complete(self._params, self._cores)
            word, write = output.i.payload, words.payload.write
            m.d.comb += [
                output.i.valid.eq(words.valid & mine),
                word.last.eq(words.payload.last),
                word.write.slot.eq(slot[core_bits:]),
                word.write.row.eq(write.row),
                word.write.word.eq(write.word),
                word.write.data.eq(write.data),
                self.words[core].valid.eq(output.o.valid),
                self.words[core].payload.eq(output.o.payload.write),
                output.o.ready.eq(self.words[core].ready),
                complete.bag.eq(output.o.valid & output.o.ready & output.o.payload.last),
                complete.slot.eq(output.o.payload.write.slot),
                complete.abort.eq(self.abort),
                self.complete[core].eq(complete.complete),
                admit.release[core].eq(self.release[core]),
            ]
            m.d.sync += [
                complete.start.eq(admit.started & (admit.slot[:core_bits] == core)),
                complete.count.eq(admit.count),
            ]
            ready.append(output.i.ready & mine)
            idle.append(complete.idle)
        m.d.comb += words.ready.eq(Cat(*ready).any())
        return ~Cat(*idle).all()
