"""The compute-centric core: MLPs on an INT8 array, and the interaction, by a layer program."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.compute.array import Array
from screc_hw.compute.finish import Finish
from screc_hw.compute.inputs import BagInput, DenseInput
from screc_hw.compute.issue import Issue
from screc_hw.compute.layouts import linear_layout, schedule_layout
from screc_hw.compute.memories import LoadedMemory
from screc_hw.compute.output import ResultOutput
from screc_hw.compute.pairs import Pairs
from screc_hw.compute.params import COUNTER_BITS, ComputeParams
from screc_hw.compute.sequencer import Sequencer
from screc_hw.compute.tensors import CHAIN
from screc_hw.compute.turn import Turn
from screc_hw.compute.weights import WeightFetch
from screc_hw.compute.writer import WRITE_CYCLES, BankWriter
from screc_hw.protocol import BEAT_BYTES, REQUANTISE_FIELDS, Destination, LoadTarget
from screc_hw.stream import config_layout, feature_write_layout, result_layout

__all__ = ["ComputeCore"]


class ComputeCore(wiring.Component):
    """Runs a DLRM's dense part on sub-batches of ``rows`` samples, ``slots`` at once.

    **Throughput** :meth:`ComputeParams.cycles`. **Backpressure** ``dense`` and ``words`` wait
    while slots or the writer are taken; ``results`` may be held back for ever, which stops the core
    at its next OUTPUT.

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
        Cycles since reset with something of a sub-batch here, with a step in the array, and of
        the busy ones those without.
    idle : Out(1)
        Nothing has arrived that has not left.
    axi : Out(ReadSignature)
        Where weights are streamed: a master for them, see :class:`WeightFetch`, whose ``base``,
        ``clear``, ``beats`` and ``error`` are here ``weight_base`` (constant while not ``idle``),
        ``clear``, ``weight_beats`` and ``weight_error``.
    schedule : Out(schedule_layout(params))
        What runs, for test benches.
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
    axi: Any
    weight_base: Signal
    clear: Signal
    weight_beats: Signal
    weight_error: Signal
    schedule: View[data.StructLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        port = ReadSignature(data_bits=8 * BEAT_BYTES, address_bits=params.address_bits)
        streamed = {
            "axi": Out(port),
            "weight_base": In(params.address_bits),
            "clear": In(1),
            "weight_beats": Out(COUNTER_BITS),
            "weight_error": Out(1),
        }
        super().__init__(
            {
                **(streamed if params.stream_words else {}),
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
                "schedule": Out(schedule_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts."""
        m = Module()
        p = self._params
        m.submodules.sequencer = sequencer = Sequencer(p)
        m.submodules.issue = issue = Issue(p)
        m.submodules.array = array = Array(p)
        m.submodules.finish = finish = Finish(p)
        m.submodules.writer = writer = BankWriter(p)
        m.submodules.dense_input = dense = DenseInput(p)
        m.submodules.bag_input = bags = BagInput(p)
        m.submodules.records = output = ResultOutput(p)
        wiring.connect(m, wiring.flipped(self.words), bags.words)
        wiring.connect(m, wiring.flipped(self.dense), dense.i)
        wiring.connect(m, output.results, wiring.flipped(self.results))
        wiring.connect(m, dense.o, writer.dense)
        wiring.connect(m, bags.stripes, writer.bags)
        wiring.connect(m, issue.columns, finish.columns)
        config = self._config(m, sequencer, array, finish, dense, bags, output)
        m.d.comb += [
            bags.complete.eq(self.complete),
            dense.release.eq(sequencer.release),
            dense.slot.eq(sequencer.oldest),
            sequencer.dense.eq(dense.complete),
            sequencer.bags.eq(bags.written),
            self.release.eq(sequencer.release),
            array.step.eq(issue.step),
            array.tag.eq(issue.tag),
            finish.ahead.eq(array.ahead),
            finish.column.eq(array.column),
            *(array.writes[k].eq(writer.writes[k]) for k in range(CHAIN)),
        ]
        following = self._linear(m, sequencer, issue)
        if p.stream_words:
            self._weights(m, sequencer, issue, array, config, following)
        self._columns(m, sequencer, finish, writer, output)
        if p.dot:
            self._interaction(m, sequencer, finish, writer, bags, config)
        else:
            m.d.comb += [sequencer.turn_free.eq(0), finish.copy.valid.eq(0)]
        here = Signal()
        m.d.sync += here.eq(sequencer.busy | dense.held | bags.held | ~output.idle)
        m.d.sync += [
            self.idle.eq(~here & ~sequencer.busy),
            self.busy.eq(self.busy + here),
            self.active.eq(self.active + issue.busy),
            self.waiting.eq(self.waiting + (here & ~issue.busy)),
        ]
        m.d.comb += [
            self.schedule.linear.eq(issue.i.valid & issue.i.ready),
            self.schedule.linear_slot.eq(issue.i.payload.place.slot),
            self.schedule.linear_active.eq(issue.busy),
        ]
        return m

    def _config(self, m: Module, *parts: Any) -> stream.Interface:
        """Register the LOAD words on their way to the memories."""
        held = stream.Signature(config_layout(), always_ready=True).create(path=("config_held",))
        m.d.sync += [held.valid.eq(self.config.valid), held.payload.eq(self.config.payload)]
        for part in parts:
            m.d.comb += [part.config.valid.eq(held.valid), part.config.payload.eq(held.payload)]
        return held

    def _weights(
        self,
        m: Module,
        sequencer: Sequencer,
        issue: Issue,
        array: Array,
        config: stream.Interface,
        following: Any,
    ) -> None:
        """Build the reader of streamed weights, and tell it what runs from them."""
        m.submodules.fetch = fetch = WeightFetch(self._params)
        wiring.connect(m, fetch.axi, wiring.flipped(self.axi))
        m.d.comb += [
            fetch.config.valid.eq(config.valid),
            fetch.config.payload.eq(config.payload),
            fetch.clear.eq(self.clear),
            fetch.base.eq(self.weight_base),
            fetch.demand.eq(sequencer.demand),
            sequencer.present.eq(fetch.present),
            sequencer.half.eq(fetch.half),
            array.fill.eq(fetch.fill),
            self.weight_beats.eq(fetch.beats),
            self.weight_error.eq(fetch.error),
        ]
        # the last position reads CHAIN - 1 cycles after the first
        issued = Signal(reset_less=True)  # half of the operation that is issued
        with m.If(issue.i.ready):
            m.d.sync += issued.eq(following.weight[-1])
        for half in range(len(fetch.used)):
            runs = (issue.i.valid & (following.weight[-1] == half)) | (
                issue.busy & (issued == half)
            )
            left = Signal(range(CHAIN + 1), name=f"left_{half}")
            with m.If(runs):
                m.d.sync += left.eq(CHAIN)
            with m.Elif(left != 0):
                m.d.sync += left.eq(left - 1)
            m.d.comb += fetch.used[half].eq(runs | (left != 0))

    def _linear(self, m: Module, sequencer: Sequencer, issue: Issue) -> Any:
        """Hold the next operation of the array until the one before has been issued; return it."""
        following: Any = Signal(linear_layout(self._params), name="following", reset_less=True)
        waits = Signal()
        m.d.comb += [
            sequencer.linear_free.eq(~waits),
            issue.i.valid.eq(waits),
            issue.i.payload.eq(following),
        ]
        with m.If(issue.i.ready):
            m.d.sync += waits.eq(0)
        with m.If(sequencer.start_linear):
            m.d.sync += [waits.eq(1), following.eq(sequencer.linear)]
        return following

    def _columns(
        self,
        m: Module,
        sequencer: Sequencer,
        finish: Finish,
        writer: BankWriter,
        output: ResultOutput,
    ) -> None:
        """Send columns to the activation memory or out, and tell when an operation is done."""
        p = self._params
        tag: Any = finish.tag
        spot: Any = writer.columns.payload
        to_memory = tag.valid & (tag.destination == Destination.ACTIVATION)
        to_output = tag.valid & (tag.destination == Destination.OUTPUT)
        m.d.comb += [
            writer.columns.valid.eq(to_memory),
            spot.bank.eq(tag.bank),
            spot.address.eq(tag.address),
            spot.enable.eq(-1),
            *(spot.codes[row].eq(finish.codes[row]) for row in range(p.rows)),
            output.load.eq(to_output),
            output.logits.eq(finish.logits),
            output.codes.eq(finish.codes),
        ]
        done: Any = sequencer.done[0]
        stages = [tag.final & (to_memory | to_output)]
        slots, lasts = [tag.slot], [tag.last]
        for n in range(WRITE_CYCLES):
            pulse, slot, last = (
                Signal(name=f"done_{n}"),
                Signal.like(tag.slot, name=f"slot_{n}"),
                Signal(name=f"last_{n}"),
            )
            m.d.sync += [pulse.eq(stages[-1]), slot.eq(slots[-1]), last.eq(lasts[-1])]
            stages.append(pulse)
            slots.append(slot)
            lasts.append(last)
        m.d.comb += [done.valid.eq(stages[-1]), done.slot.eq(slots[-1]), done.last.eq(lasts[-1])]
        # one OUTPUT at a time, from its start to the last record's departure
        out = Signal()
        with m.If(
            sequencer.start_linear & (sequencer.linear.place.destination == Destination.OUTPUT)
        ):
            m.d.sync += out.eq(1)
        with m.Elif(to_output):
            m.d.sync += out.eq(0)
        m.d.comb += sequencer.output_free.eq(~out & output.free)

    def _interaction(
        self,
        m: Module,
        sequencer: Sequencer,
        finish: Finish,
        writer: BankWriter,
        bags: BagInput,
        config: stream.Interface,
    ) -> None:
        """Build the pairs' units and the turn of the bottom output in front of them."""
        p = self._params
        m.submodules.pairs = pairs = Pairs(p)
        m.submodules.turn = turn = Turn(p)
        wiring.connect(m, pairs.o, writer.pairs)
        wiring.connect(m, turn.copy, finish.copy)
        tag: Any = finish.tag
        place: Any = sequencer.linear.place
        writing = turn.vectors.units.any()
        write: Any = Signal(pairs.write.shape(), name="vector_write")
        with m.If(writing):
            m.d.sync += write.eq(turn.vectors)
        with m.Else():
            m.d.sync += write.eq(bags.vectors)
        m.d.comb += [
            bags.free.eq(~writing),
            pairs.write.eq(write),
            turn.start.eq(sequencer.start_linear & (place.destination == Destination.FEATURE)),
            turn.place.eq(place),
            sequencer.turn_free.eq(turn.free),
            turn.columns.valid.eq(tag.valid & (tag.destination == Destination.FEATURE)),
            *(turn.columns.payload[row].eq(finish.codes[row]) for row in range(p.rows)),
            turn.final.eq(tag.final),
            pairs.start.eq(sequencer.start_pairs),
            pairs.operation.eq(sequencer.pairs),
            sequencer.pairs_free.eq(pairs.free),
            sequencer.done[1].eq(pairs.done),
            self.schedule.pairs.eq(sequencer.start_pairs),
            self.schedule.pairs_slot.eq(sequencer.pairs.slot),
            self.schedule.pairs_active.eq(~pairs.free),
        ]
        # the scalar entries: of copies and of pairs, read where the operations say they are
        m.submodules.scalars = scalars = LoadedMemory(
            LoadTarget.REQUANTISE,
            width=sum(REQUANTISE_FIELDS["s"]),
            depth=p.requantise_words,
            ports=2,
        )
        wiring.connect(m, config, scalars.config)
        copy_entry, pair_entry = (
            Signal.like(place.entry, name=n) for n in ("copy_entry", "pair_entry")
        )
        with m.If(turn.start):
            m.d.sync += copy_entry.eq(place.entry + sequencer.linear.n + 1)
        with m.If(pairs.start):
            m.d.sync += pair_entry.eq(sequencer.pairs.place.entry)
        m.d.comb += [scalars.address[0].eq(copy_entry), scalars.address[1].eq(pair_entry)]
        for entry, unit in ((scalars.data[0], "copy"), (scalars.data[1], "pair")):
            low_m, bits_m = REQUANTISE_FIELDS["m"]
            low_s, bits_s = REQUANTISE_FIELDS["s"]
            factor, shift = entry[low_m : low_m + bits_m], entry[low_s : low_s + bits_s]
            if unit == "copy":
                m.d.comb += [finish.copy_m.eq(factor), finish.copy_s.eq(shift)]
            else:
                m.d.comb += [pairs.m.eq(factor), pairs.s.eq(shift)]
