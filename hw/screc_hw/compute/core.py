"""The compute-centric core: MLPs on an INT8 array, and the interaction, by a layer program."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.compute.array import SystolicArray
from screc_hw.compute.buffers import DenseRing, WeightBank, WordMemory
from screc_hw.compute.finish import Finish
from screc_hw.compute.interaction import FeatureRow
from screc_hw.compute.issue import FeatureIssue, LinearIssue
from screc_hw.compute.layouts import issue_layout
from screc_hw.compute.output import ResultOutput
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.sequencer import Sequencer
from screc_hw.stream import (
    SkidBuffer,
    config_layout,
    feature_write_layout,
    index_bits,
    result_layout,
)

__all__ = ["ComputeCore"]

COUNTER_BITS = 32


class ComputeCore(wiring.Component):
    """Runs a DLRM's dense part on sub-batches of ``rows`` samples.

    **Latency** and **throughput** of a sub-batch: :meth:`ComputeParams.cycles`; its inputs may
    arrive while the one before is computed. **Backpressure** ``dense.ready`` is 0 when the dense
    ring is full; ``words.ready`` pauses while the array writes the feature buffer; ``results`` may
    be held back for ever, which stops the core at its next OUTPUT.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Words of LOAD. Only while the core is idle.
    words : In(stream.Signature(feature_write_layout(params)))
        Words of finished bags.
    complete : In(1)
        Pulse: all words of the next slot have been transferred. At most ``slots`` ahead of
        ``release``.
    release : Out(1)
        Pulse: the oldest slot may be written again.
    dense : In(stream.Signature(8 * rows))
        Dense inputs of every row, row 0 in the lowest byte.
    results : Out(stream.Signature(result_layout()))
        One record per row, padded rows too.
    busy, active, waiting : Out(32)
        Cycles since reset with a sub-batch begun or arriving, with an input entering the array, and
        of the busy ones those that wait for inputs or for results to be taken.
    idle : Out(1)
        Nothing has arrived that has not left.
    """

    config: stream.Interface
    words: stream.Interface
    complete: Signal
    release: Signal
    dense: stream.Interface
    results: stream.Interface
    busy: Signal
    active: Signal
    waiting: Signal
    idle: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "words": In(stream.Signature(feature_write_layout(params))),
                "complete": In(1),
                "release": Out(1),
                "dense": In(stream.Signature(8 * params.rows)),
                "results": Out(stream.Signature(result_layout())),
                "busy": Out(COUNTER_BITS),
                "active": Out(COUNTER_BITS),
                "waiting": Out(COUNTER_BITS),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts."""
        m = Module()
        p = self._params
        m.submodules.sequencer = sequencer = Sequencer(p)
        m.submodules.linear_issue = linear = LinearIssue(p)
        m.submodules.feature_issue = feature = FeatureIssue(p)
        m.submodules.array = array = SystolicArray(p)
        m.submodules.finish = finish = Finish(p)
        m.submodules.records = output = ResultOutput(p)
        m.submodules.word_buffer = words = SkidBuffer(feature_write_layout(p))
        wiring.connect(m, wiring.flipped(self.words), words.i)
        wiring.connect(m, output.results, wiring.flipped(self.results))

        config = self._config(m)
        for part in (sequencer, finish, output):
            m.d.comb += [
                part.config.valid.eq(config.valid),
                part.config.payload.eq(config.payload),
            ]
        ring = self._array(m, linear, array, finish, config)
        self._features(m, sequencer, feature, finish, words)
        m.d.comb += [
            sequencer.complete.eq(self.complete),
            sequencer.dense_level.eq(ring.level),
            sequencer.output_free.eq(output.free),
            sequencer.done.eq(finish.done),
            linear.start.eq(sequencer.start_linear),
            linear.operation.eq(sequencer.operation),
            feature.start.eq(sequencer.start_feature),
            feature.operation.eq(sequencer.operation),
            feature.slot_base.eq(sequencer.slot_base),
            finish.start.eq(sequencer.start_linear | sequencer.start_feature),
            finish.operation.eq(sequencer.operation),
            finish.ahead.eq(array.ahead),
            finish.column.eq(array.column),
            finish.value_valid.eq(feature.valid),
            finish.value_final.eq(feature.final),
            output.load.eq(finish.output),
            output.logits.eq(finish.logits),
            output.codes.eq(finish.codes),
            self.release.eq(sequencer.release),
        ]
        self._counters(m, sequencer, linear)
        m.d.sync += self.idle.eq(~sequencer.pending & output.idle & ~words.o.valid)
        return m

    def _counters(self, m: Module, sequencer: Sequencer, linear: LinearIssue) -> None:
        """Count; the events are registered, to keep the counters out of their paths."""
        events = (
            (self.busy, sequencer.pending),
            (self.active, linear.issue.valid),
            (self.waiting, sequencer.waiting),
        )
        for counter, event in events:
            seen = Signal(name="seen")
            m.d.sync += [seen.eq(event), counter.eq(counter + seen)]

    def _config(self, m: Module) -> stream.Interface:
        """Register the LOAD words on their way to the memories."""
        held = stream.Signature(config_layout(), always_ready=True).create(path=("config_held",))
        m.d.sync += [held.valid.eq(self.config.valid), held.payload.eq(self.config.payload)]
        return held

    def _array(
        self,
        m: Module,
        linear: LinearIssue,
        array: SystolicArray,
        finish: Finish,
        config: stream.Interface,
    ) -> DenseRing:
        """Build the memories in front of the array: weights, activations, dense words."""
        p = self._params
        m.submodules.ring = ring = DenseRing(p)
        m.submodules.activations = activations = WordMemory(
            width=8 * p.rows, depth=p.activation_words
        )
        issue = linear.issue
        wiring.connect(m, wiring.flipped(self.dense), ring.i)
        reading_dense = issue.valid & issue.dense
        m.d.comb += [
            ring.advance.eq(reading_dense),
            ring.rewind.eq(issue.last),
            ring.pop.eq(issue.pop),
            activations.address.eq(issue.activation),
            activations.write.eq(finish.activation),
            activations.write_address.eq(finish.address),
            activations.write_data.eq(Cat(*(finish.codes[row][:8] for row in range(p.rows)))),
        ]
        # both memories answer after two cycles
        near: Any = Signal(issue_layout(p), name="issue_near")
        here: Any = Signal(issue_layout(p), name="issue_here")
        m.d.sync += [near.eq(issue), here.eq(near)]
        m.d.comb += [
            array.i.activations.eq(
                Mux(here.valid, Mux(here.dense, ring.data, activations.data), 0)
            ),
            array.i.first.eq(here.first),
            array.i.last.eq(here.last),
            array.i.remaining.eq(here.remaining),
        ]
        address = issue.weight
        for group in range(p.groups):
            bank = m.submodules[f"weights_{group}"] = WeightBank(p, group)
            m.d.comb += [
                bank.config.valid.eq(config.valid),
                bank.config.payload.eq(config.payload),
                bank.address.eq(address),
                array.weights[group].eq(bank.weights),
            ]
            address = bank.address_out
        return ring

    def _features(
        self,
        m: Module,
        sequencer: Sequencer,
        feature: FeatureIssue,
        finish: Finish,
        words: SkidBuffer,
    ) -> None:
        """Build the rows of the feature buffer; the array's components go before bags' words."""
        p = self._params
        # `complete` may be ahead of words that wait here, two at most. That is harmless: they wait
        # for a LINEAR only, leave in the two cycles after its last write, and an operation that
        # reads them starts in the third. Tested in tests/unit/test_compute_stalled_words.py.
        word = words.o.payload
        own = Signal(index_bits(p.feature_words))
        bags = Signal(index_bits(p.feature_words))
        m.d.comb += [
            words.o.ready.eq(~finish.feature),
            own.eq(sequencer.slot_base + finish.address),
        ]
        with m.Switch(word.slot):
            for slot in range(p.slots):
                with m.Case(slot):
                    m.d.comb += bags.eq(word.word + slot * p.vector_words)
        for row in range(p.rows):
            unit = m.submodules[f"row_{row}"] = FeatureRow(p)
            write = unit.write
            m.d.comb += [unit.read.eq(feature.read), finish.value[row].eq(unit.value)]
            with m.If(finish.feature):
                m.d.comb += [
                    write.enable.eq(finish.component),
                    write.address.eq(own),
                    write.data.eq(finish.codes[row][:8].replicate(p.lanes)),
                ]
            with m.Else():
                m.d.comb += [
                    write.enable.eq((words.o.valid & (word.row == row)).replicate(p.lanes)),
                    write.address.eq(bags),
                    write.data.eq(word.data),
                ]
