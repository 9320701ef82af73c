"""From the logits of a sub-batch to result records: row by row, with the sigmoid."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import values_layout
from screc_hw.compute.memories import LoadedMemory
from screc_hw.compute.params import ComputeParams
from screc_hw.numerics import (
    LOGIT_CODE_BITS,
    PROBABILITY_BITS,
    SIGMOID_ENTRIES,
    SIGMOID_STEP_LOG2,
)
from screc_hw.protocol import LoadTarget
from screc_hw.stream import SkidBuffer, config_layout, index_bits, result_layout

__all__ = ["ResultOutput", "Sigmoid"]

MAGNITUDE_BITS = LOGIT_CODE_BITS - 1
PROBABILITY_MAX = (1 << PROBABILITY_BITS) - 1


class Sigmoid(wiring.Component):
    """Sigmoid of a Q5.11 code, as ``numerics.sigmoid_code``.

    **Latency** :attr:`latency` enabled cycles. **Throughput** 1 per cycle. **Backpressure**
    ``enable`` 0 stops the pipeline.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
        Loads the table.
    enable : In(1)
    code : In(signed(16))
    probability : Out(16)
        UQ0.16.
    """

    latency = 9

    config: stream.Interface
    enable: Signal
    code: Signal
    probability: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "enable": In(1),
                "code": In(signed(LOGIT_CODE_BITS)),
                "probability": Out(PROBABILITY_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build magnitude, table, interpolation and reflection."""
        m = Module()
        m.submodules.table = table = LoadedMemory(
            LoadTarget.SIGMOID, width=PROBABILITY_BITS, depth=SIGMOID_ENTRIES, ports=2
        )
        wiring.connect(m, wiring.flipped(self.config), table.config)
        limit = (1 << MAGNITUDE_BITS) - 1
        absolute = Signal(LOGIT_CODE_BITS)
        magnitude = Signal(MAGNITUDE_BITS)
        index, following = (Signal(index_bits(SIGMOID_ENTRIES), name=n) for n in ("index", "next"))
        rests = [Signal(SIGMOID_STEP_LOG2, name=f"rest_{i}") for i in range(4)]
        starts = [Signal(PROBABILITY_BITS, name=f"start_{i}") for i in range(2)]
        slope = Signal(signed(PROBABILITY_BITS + 1))
        product = Signal(signed(PROBABILITY_BITS + 1 + SIGMOID_STEP_LOG2))
        y = Signal(PROBABILITY_BITS + 1)
        negative = Signal(self.latency - 1)
        m.d.comb += [
            table.enable.eq(self.enable),
            table.address[0].eq(index),
            table.address[1].eq(following),
        ]
        half = 1 << (SIGMOID_STEP_LOG2 - 1)
        with m.If(self.enable):
            m.d.sync += [
                negative.eq((negative << 1) | self.code[-1]),
                absolute.eq(Mux(self.code[-1], -self.code, self.code)),
                magnitude.eq(Mux(absolute[-1], limit, absolute)),
                index.eq(magnitude >> SIGMOID_STEP_LOG2),
                following.eq((magnitude >> SIGMOID_STEP_LOG2) + 1),
                rests[0].eq(magnitude),
                *(after.eq(before) for before, after in itertools.pairwise(rests)),
                # the table's data come two cycles after the index
                slope.eq(table.data[1] - table.data[0]),
                starts[0].eq(table.data[0]),
                product.eq(slope * rests[-1]),
                starts[1].eq(starts[0]),
                y.eq(starts[1] + ((product + half) >> SIGMOID_STEP_LOG2)),
            ]
        reflected = Signal(PROBABILITY_BITS + 1)
        m.d.comb += reflected.eq(Mux(negative[-1], (1 << PROBABILITY_BITS) - y, y))
        with m.If(self.enable):
            m.d.sync += self.probability.eq(Mux(reflected[-1], PROBABILITY_MAX, reflected))
        return m


class ResultOutput(wiring.Component):
    """Holds the logits of one sub-batch and sends them as records, row 0 first.

    **Latency** ``Sigmoid.latency`` + 2 cycles to the first record. **Throughput** one record per
    cycle. **Backpressure** ``free`` is 0 while records wait to enter the pipeline.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    load : In(1)
        Takes ``logits`` and ``codes``; only while ``free``.
    logits : In(values_layout(params))
    codes : In(ArrayLayout(signed(16), rows))
    free : Out(1)
    idle : Out(1)
        Nothing is held and nothing is in the pipeline.
    results : Out(stream.Signature(result_layout()))
    """

    config: stream.Interface
    load: Signal
    logits: View
    codes: View
    free: Signal
    idle: Signal
    results: stream.Interface

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "load": In(1),
                "logits": In(values_layout(params)),
                "codes": In(data.ArrayLayout(signed(LOGIT_CODE_BITS), params.rows)),
                "free": Out(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "idle": Out(1),
                "results": Out(stream.Signature(result_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Shift the rows into the pipeline; logit and code walk beside the sigmoid."""
        m = Module()
        p = self._params
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.submodules.skid = skid = SkidBuffer(result_layout())
        wiring.connect(m, wiring.flipped(self.config), sigmoid.config)
        wiring.connect(m, skid.o, wiring.flipped(self.results))

        logits: Any = Signal(values_layout(p), reset_less=True)
        codes: Any = Signal.like(self.codes, name="codes_held", reset_less=True)
        left = Signal(index_bits(p.rows))  # rows to come, less 1
        valid = Signal(Sigmoid.latency)
        advance = Signal()
        m.d.comb += [
            advance.eq(skid.i.ready | ~valid[-1]),
            sigmoid.enable.eq(advance),
            sigmoid.code.eq(codes[0]),
            self.idle.eq(self.free & ~valid.any() & ~self.results.valid),
        ]
        walking = data.StructLayout({"logit": signed(p.acc_bits), "code": signed(LOGIT_CODE_BITS)})
        beside: list[Any] = [
            Signal(walking, name=f"beside_{i}", reset_less=True) for i in range(len(valid))
        ]
        with m.If(advance):
            m.d.sync += [
                valid.eq((valid << 1) | ~self.free),
                logits.eq(logits.as_value() >> p.acc_bits),
                codes.eq(codes.as_value() >> LOGIT_CODE_BITS),
                left.eq(left - 1),
                beside[0].logit.eq(logits[0]),
                beside[0].code.eq(codes[0]),
                *(after.eq(before) for before, after in itertools.pairwise(beside)),
            ]
            with m.If(left == 0):
                m.d.sync += self.free.eq(1)
        with m.If(self.load):
            m.d.sync += [
                self.free.eq(0),
                left.eq(p.rows - 1),
                logits.eq(self.logits),
                codes.eq(self.codes),
            ]
        m.d.comb += [
            skid.i.valid.eq(valid[-1]),
            skid.i.payload.logit.eq(beside[-1].logit),
            skid.i.payload.code.eq(beside[-1].code),
            skid.i.payload.probability.eq(sigmoid.probability),
        ]
        return m
