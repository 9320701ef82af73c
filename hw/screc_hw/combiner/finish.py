"""From a finished bag's sum to words for a compute core: mean, requantise, queue."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import LOG2_BITS, ahead_layout, sum_layout
from screc_hw.combiner.params import CombinerParams
from screc_hw.numerics import RECIPROCAL_FRACTION_BITS
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget
from screc_hw.requantise import Multiply, Requantise
from screc_hw.stream import Queue, config_layout, feature_write_layout, index_bits

__all__ = ["Finish", "Mean", "finished_layout"]


def finished_layout(params: CombinerParams) -> data.StructLayout:
    """A word with the slot it belongs to; ``last`` marks the bag's last word."""
    return data.StructLayout({"last": 1, "write": feature_write_layout(params)})


class Mean(wiring.Component):
    """``(acc * r + half) >> shift`` per lane, the mean of a bag; r 2**15, log2 0 keeps a sum.

    ``shift`` is 15 + ``log2``. The last step of the shift shares its LUTs with the rounding.

    **Latency** :attr:`latency` cycles. **Throughput** 1 per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    acc : In(ArrayLayout(signed(acc_bits), lanes))
    reciprocal : In(16)
    log2 : In(5)
        0..16.
    y : Out(ArrayLayout(signed(acc_bits), lanes))
    """

    acc: data.View[data.ArrayLayout]
    reciprocal: Signal
    log2: Signal
    y: data.View[data.ArrayLayout]

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        self._multiply = Multiply(params.acc_bits, params.lanes)
        self.latency = self._multiply.latency + 3
        shape = data.ArrayLayout(signed(params.acc_bits), params.lanes)
        super().__init__(
            {"acc": In(shape), "reciprocal": In(16), "log2": In(LOG2_BITS), "y": Out(shape)}
        )

    def elaborate(self, platform: object) -> Module:
        """Shift what the multiplier gives by 8 and 16, then 2, 4 and 6, then 1 and round."""
        m = Module()
        m.submodules.multiply = multiply = self._multiply
        m.d.comb += [multiply.acc.eq(self.acc), multiply.m.eq(self.reciprocal)]
        log2 = _delayed(m, "log2", self.log2, multiply.latency)
        coarse, middle = log2[3:], Signal(2, reset_less=True)
        fine = Signal(2, reset_less=True)
        m.d.sync += [middle.eq(log2[1:3]), fine.eq(Cat(log2[0], fine[0]))]
        for lane in range(self._params.lanes):
            # all but the last of the shift's fixed 15 steps, which is the rounding's
            product = multiply.y[lane][RECIPROCAL_FRACTION_BITS - 1 :].as_signed()
            eights = Signal(signed(len(product)), name=f"eights_{lane}", reset_less=True)
            twos = Signal(signed(len(product)), name=f"twos_{lane}", reset_less=True)
            m.d.sync += [
                eights.eq(product >> (coarse << 3)),
                twos.eq(eights >> (middle << 1)),
                self.y[lane].eq(((twos >> fine[1]) + 1) >> 1),
            ]
        return m


class Finish(wiring.Component):
    """Scales finished sums to int8 and queues them as words for a compute core.

    **Latency** ``Requantise.latency`` (plus ``Mean.latency`` with means) and 3 cycles.
    **Throughput** 1 word per cycle. **Backpressure** none on ``sums``: at most ``queue_depth`` are
    under way, see :class:`~screc_hw.combiner.accumulate.Accumulate`.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    config : In(stream.Signature(config_layout), valid-only)
    ahead : In(ahead_layout)
        The bag of what is on ``sums`` three cycles later.
    sums : In(stream.Signature(sum_layout), valid-only)
    words : Out(stream.Signature(finished_layout))
    """

    config: stream.Interface
    ahead: data.View[data.StructLayout]
    sums: stream.Interface
    words: stream.Interface

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "ahead": In(ahead_layout(params)),
                "sums": In(stream.Signature(sum_layout(params), always_ready=True)),
                "words": Out(stream.Signature(finished_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the scales' memory, the pipeline beside its own delays, and the queue."""
        m = Module()
        params = self._params
        sooner = self._feature(m)
        feature = _delayed(m, "feature", sooner, 1)
        m.submodules.requantise = requantise = Requantise(params.acc_bits, params.lanes)
        scale: Any = Signal(data.StructLayout({"m": 16, "s": 6}))
        m.d.comb += [scale.m.eq(feature.m), scale.s.eq(feature.s)]
        delay = requantise.latency
        if params.mean:
            mean = self._mean(m, sooner)
            m.d.comb += requantise.acc.eq(mean.y)
            scale = _delayed(m, "scale", scale, mean.latency)
            delay += mean.latency
        else:
            m.d.comb += requantise.acc.eq(self.sums.payload.acc)
        m.d.comb += [requantise.m.eq(scale.m), requantise.s.eq(scale.s)]
        m.submodules.queue = queue = Queue(finished_layout(params), params.queue_depth)
        tag: Any = Signal(
            data.StructLayout(
                {
                    name: index_bits(count)
                    for name, count in (
                        ("slot", params.slots),
                        ("row", params.rows),
                        ("word", params.vector_words),
                        ("last", 1),
                    )
                }
            ),
            reset_less=True,
        )
        valid = Signal()
        m.d.sync += [
            valid.eq(self.sums.valid),
            tag.slot.eq(self.sums.payload.slot),
            tag.row.eq(self.sums.payload.row),
            tag.word.eq(feature.vector_base + self.sums.payload.slice),
            tag.last.eq(self.sums.payload.last),
        ]
        late = _delayed(m, "tag", tag, delay - 1)
        out = queue.i.payload
        m.d.comb += [
            queue.i.valid.eq(_delayed(m, "valid", valid, delay - 1, reset_less=False)),
            out.last.eq(late.last),
            out.write.slot.eq(late.slot),
            out.write.row.eq(late.row),
            out.write.word.eq(late.word),
            out.write.data.eq(requantise.y),
        ]
        wiring.connect(m, wiring.flipped(self.words), queue.o)
        return m

    def _mean(self, m: Module, feature: Any) -> Mean:
        """Add the mean; ``feature`` is that of what is on ``sums`` a cycle later."""
        m.submodules.mean = mean = Mean(self._params)
        # the logarithm rounded up is the bits of the length less one
        less_one = Signal(16, reset_less=True)
        bits = Signal(LOG2_BITS)
        log2 = Signal(LOG2_BITS, reset_less=True)
        with m.If(less_one == 0):
            m.d.comb += bits.eq(0)
        for bit in range(16):
            with m.Elif(less_one[15 - bit]):
                m.d.comb += bits.eq(16 - bit)
        m.d.sync += [less_one.eq(self.ahead.length - 1), log2.eq(bits)]
        reciprocal = _delayed(m, "reciprocal", self.ahead.reciprocal, 2)
        # the multiplier's operands come straight from registers
        factor = Signal(16, reset_less=True)
        shift = Signal(LOG2_BITS, reset_less=True)
        m.d.sync += [
            factor.eq(Mux(feature.mean, reciprocal, 1 << RECIPROCAL_FRACTION_BITS)),
            shift.eq(Mux(feature.mean, log2, 0)),
        ]
        m.d.comb += [
            mean.acc.eq(self.sums.payload.acc),
            mean.reciprocal.eq(factor),
            mean.log2.eq(shift),
        ]
        return mean

    def _feature(self, m: Module) -> Any:
        """Read the descriptor of the feature that was ``ahead`` two cycles ago."""
        params = self._params
        names = ("m", "s", "vector_base", *(("mean",) if params.mean else ()))
        shape = data.StructLayout({name: COMBINER_FIELDS[name][1] for name in names})
        features: memory.Memory[Any, Any]
        m.submodules.features = features = memory.Memory(
            shape=shape, depth=params.max_features, init=[]
        )
        sink, source = features.write_port(), features.read_port()
        config = self.config.payload
        for name in names:
            low, width = COMBINER_FIELDS[name]
            m.d.comb += sink.data[name].eq(config.data[low : low + width])
        m.d.comb += [
            sink.addr.eq(config.address),
            sink.en.eq(
                self.config.valid
                & (config.target == LoadTarget.COMBINER_FEATURES)
                & (config.address < params.max_features)
            ),
            source.addr.eq(self.ahead.feature),
        ]
        read: Any = Signal(shape, name="feature", reset_less=True)
        m.d.sync += read.eq(source.data)
        return read


def _delayed(m: Module, name: str, value: Any, cycles: int, *, reset_less: bool = True) -> Any:
    """Return ``value`` of ``cycles`` ago; without a reset the chain can be a shift register."""
    delays = [Signal.like(value, name=f"{name}_{n}", reset_less=reset_less) for n in range(cycles)]
    chain = [value, *delays]
    m.d.sync += [later.eq(sooner) for sooner, later in itertools.pairwise(chain)]
    return chain[-1]
