"""From a finished bag's sum to words of the feature buffer: mean, requantise, queue."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.layouts import sum_layout
from screc_hw.combiner.params import CombinerParams
from screc_hw.numerics import RECIPROCAL_FRACTION_BITS
from screc_hw.protocol import COMBINER_FIELDS, LoadTarget
from screc_hw.requantise import Requantise, ScaleShift
from screc_hw.stream import Queue, config_layout, feature_write_layout, index_bits

__all__ = ["Finish", "Mean", "finished_layout"]


def finished_layout(params: CombinerParams) -> data.StructLayout:
    """A word with the slot it belongs to; ``last`` marks the bag's last word."""
    return data.StructLayout({"last": 1, "write": feature_write_layout(params)})


class Mean(wiring.Component):
    """``(acc * r + half) >> shift`` per lane, the mean of a bag; r 2**15, shift 15 keeps a sum.

    **Latency** :attr:`latency` cycles. **Throughput** 1 per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    acc : In(ArrayLayout(signed(acc_bits), lanes))
    reciprocal : In(16)
    shift : In(6)
    y : Out(ArrayLayout(signed(acc_bits), lanes))
    """

    latency = ScaleShift.latency + 1

    acc: data.View[data.ArrayLayout]
    reciprocal: Signal
    shift: Signal
    y: data.View[data.ArrayLayout]

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        shape = data.ArrayLayout(signed(params.acc_bits), params.lanes)
        super().__init__({"acc": In(shape), "reciprocal": In(16), "shift": In(6), "y": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        """Round what the scaler gives."""
        m = Module()
        m.submodules.scale = scale = ScaleShift(self._params.acc_bits, self._params.lanes)
        m.d.comb += [scale.acc.eq(self.acc), scale.m.eq(self.reciprocal), scale.s.eq(self.shift)]
        m.d.sync += [
            self.y[lane].eq((scale.y[lane] + 1) >> 1) for lane in range(self._params.lanes)
        ]
        return m


class Finish(wiring.Component):
    """Scales finished sums to int8 and queues them as words of the feature buffer.

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
    ahead : In(index of a feature)
        Feature of what is on ``sums`` two cycles later.
    sums : In(stream.Signature(sum_layout), valid-only)
    words : Out(stream.Signature(finished_layout))
    """

    config: stream.Interface
    ahead: Signal
    sums: stream.Interface
    words: stream.Interface

    def __init__(self, params: CombinerParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "ahead": In(index_bits(params.max_features)),
                "sums": In(stream.Signature(sum_layout(params), always_ready=True)),
                "words": Out(stream.Signature(finished_layout(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the scales' memory, the pipeline beside its own delays, and the queue."""
        m = Module()
        params = self._params
        feature = self._feature(m)
        m.submodules.requantise = requantise = Requantise(params.acc_bits, params.lanes)
        scale: Any = Signal(data.StructLayout({"m": 16, "s": 6}))
        m.d.comb += [scale.m.eq(feature.m), scale.s.eq(feature.s)]
        delay = requantise.latency
        if params.mean:
            m.submodules.mean = mean = Mean(params)
            unit = RECIPROCAL_FRACTION_BITS
            m.d.comb += [
                mean.acc.eq(self.sums.payload.acc),
                mean.reciprocal.eq(Mux(feature.mean, self.sums.payload.reciprocal, 1 << unit)),
                mean.shift.eq(unit + Mux(feature.mean, self.sums.payload.log2, 0)),
                requantise.acc.eq(mean.y),
            ]
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
            source.addr.eq(self.ahead),
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
