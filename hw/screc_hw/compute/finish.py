"""What every result passes: bias, ReLU, requantising, and its way to where it belongs."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.buffers import LoadedMemory
from screc_hw.compute.layouts import operation_layout, values_layout
from screc_hw.compute.params import REQUANTISE_LATENCY, ComputeParams
from screc_hw.numerics import BIAS_BITS, LOGIT_CODE_BITS
from screc_hw.protocol import (
    LAYER_FIELDS,
    REQUANTISE_FIELDS,
    Destination,
    LoadTarget,
    Operation,
)
from screc_hw.requantise import Requantise
from screc_hw.stream import config_layout, index_bits

__all__ = ["Finish"]

BASE_BITS = LAYER_FIELDS["destination_base"][1]


class Finish(wiring.Component):
    """Bias, ReLU and requantising of the array's columns; requantising of the interaction's values.

    One operation at a time: ``start`` comes after the last result of the operation before.

    **Latency** :attr:`latency` cycles from a column to ``codes``, one less from ``value``.
    **Throughput** one result of every row per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    start : In(1)
    operation : In(operation_layout())
        Sampled with ``start``.
    ahead : In(1)
        ``column`` holds a column of a LINEAR in two cycles.
    column : In(values_layout(params))
    value : In(values_layout(params))
        Results of a COPY or DOT.
    value_valid, value_final : In(1)
    logits : Out(values_layout(params))
        Accumulators plus bias of the last column, where it went to OUTPUT.
    codes : Out(ArrayLayout(signed(16), rows))
        Requantised results.
    activation, feature, output : Out(1)
        ``codes`` are for that destination.
    address : Out(24)
        Word of the activation memory or, without the slot's base, of the feature buffer.
    component : Out(lanes)
        Component of that word of the feature buffer, one bit each.
    done : Out(1)
        The operation's last result has been written, wherever it went.
    """

    latency = 1 + REQUANTISE_LATENCY

    config: stream.Interface
    start: Signal
    operation: View
    ahead: Signal
    column: View
    value: View
    value_valid: Signal
    value_final: Signal
    logits: View
    codes: View
    activation: Signal
    feature: Signal
    output: Signal
    address: Signal
    component: Signal
    done: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        values = values_layout(params)
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "start": In(1),
                "operation": In(operation_layout()),
                "ahead": In(1),
                "column": In(values),
                "value": In(values),
                "value_valid": In(1),
                "value_final": In(1),
                "logits": Out(values),
                "codes": Out(data.ArrayLayout(signed(LOGIT_CODE_BITS), params.rows)),
                "activation": Out(1),
                "feature": Out(1),
                "output": Out(1),
                "address": Out(BASE_BITS),
                "component": Out(params.lanes, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the pipeline, then the counters of its end."""
        m = Module()
        p = self._params
        m.submodules.scale = scale = Requantise(p.acc_bits, p.rows, wide=True)
        m.submodules.entries = entries = LoadedMemory(
            LoadTarget.REQUANTISE,
            width=sum(REQUANTISE_FIELDS["s"]),
            depth=p.requantise_words,
        )
        wiring.connect(m, wiring.flipped(self.config), entries.config)

        op = self.operation
        linear, relu, wide = Signal(), Signal(), Signal()
        entry = Signal.like(entries.address[0])
        left = Signal(index_bits(1 << LAYER_FIELDS["n"][1]))  # columns to come, less 1
        m.d.comb += entries.address[0].eq(entry)
        with m.If(self.ahead):
            m.d.sync += entry.eq(entry + 1)
        with m.If(self.start):
            m.d.sync += [
                linear.eq(op.operation == Operation.LINEAR),
                relu.eq(op.relu),
                wide.eq(op.destination == Destination.OUTPUT),
                entry.eq(op.requantise_base),
            ]

        # the entry read with `ahead` and the column come together
        fields = {
            name: entries.data[0][low : low + width]
            for name, (low, width) in REQUANTISE_FIELDS.items()
        }
        bias = fields["bias"][:BIAS_BITS].as_signed()
        near, valid, biased_valid = Signal(), Signal(), Signal()
        biased = Signal(values_layout(p), reset_less=True)
        multiplier, shift = Signal.like(scale.m), Signal.like(scale.s)
        m.d.sync += [
            near.eq(self.ahead),
            valid.eq(near),
            biased_valid.eq(valid),
            multiplier.eq(fields["m"]),
            shift.eq(fields["s"]),
            *(biased[row].eq(self.column[row] + bias) for row in range(p.rows)),
        ]
        with m.If(biased_valid):
            m.d.sync += left.eq(left - 1)
        with m.If(self.start):
            m.d.sync += left.eq(op.n - 1)
        with m.If(biased_valid & wide):
            m.d.sync += self.logits.eq(biased)
        m.d.comb += [scale.m.eq(multiplier), scale.s.eq(shift), scale.wide.eq(wide)]
        for row in range(p.rows):
            rectified = Mux(relu & biased[row][-1], 0, biased[row])
            m.d.comb += scale.acc[row].eq(Mux(linear, rectified, self.value[row]))

        leaving = Signal(REQUANTISE_LATENCY)
        ending = Signal(REQUANTISE_LATENCY)
        m.d.sync += [
            leaving.eq((leaving << 1) | Mux(linear, biased_valid, self.value_valid)),
            ending.eq((ending << 1) | Mux(linear, biased_valid & (left == 0), self.value_final)),
        ]
        m.d.comb += self.codes.eq(scale.y)
        self._place(m, leaving[-1], ending[-1])
        return m

    def _place(self, m: Module, leaving: Value, ending: Value) -> None:
        """Count the results that leave and give them their destination."""
        op = self.operation
        destination = Signal.like(op.destination, name="destination")
        to_feature = Signal()
        late = Signal(2)
        m.d.comb += [
            to_feature.eq(destination == Destination.FEATURE),
            self.activation.eq(leaving & (destination == Destination.ACTIVATION)),
            self.feature.eq(leaving & to_feature),
            self.output.eq(leaving & (destination == Destination.OUTPUT)),
            # a feature word is written two cycles later
            self.done.eq(Mux(to_feature, late[-1], ending)),
        ]
        m.d.sync += late.eq((late << 1) | (ending & to_feature))
        with m.If(leaving):
            m.d.sync += self.component.eq(self.component.rotate_left(1))
            with m.If(~to_feature | self.component[-1]):
                m.d.sync += self.address.eq(self.address + 1)
        with m.If(self.start):
            m.d.sync += [
                destination.eq(op.destination),
                self.address.eq(op.destination_base),
                self.component.eq(1),
            ]
