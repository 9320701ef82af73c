"""The interaction: products of all pairs of a sample's vectors, beside the array."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.dsp import DotChain
from screc_hw.mlp.layouts import done_layout, pairs_layout
from screc_hw.mlp.params import CHAIN, ComputeParams
from screc_hw.mlp.writer import spot_layout
from screc_hw.requantise import Requantise
from screc_hw.resources import URAM_DEPTH
from screc_hw.stream import DeepQueue, index_bits

__all__ = ["PairUnit", "Pairs", "vector_write_layout"]

WORD_BITS = 8 * CHAIN


def vector_write_layout(params: ComputeParams) -> data.StructLayout:
    """A write to the units' memories: ``units`` names them, ``enable`` the bytes of the word."""
    return data.StructLayout(
        {
            "units": params.pair_units,
            "address": index_bits(params.unit_words),
            "enable": CHAIN,
            "codes": data.ArrayLayout(data.ArrayLayout(signed(8), CHAIN), params.pair_units),
        }
    )


def pair_step_layout(params: ComputeParams) -> data.StructLayout:
    """A word of a vector: ``hold`` it as ``link`` of the left vector, or multiply it with that."""
    return data.StructLayout(
        {
            "valid": 1,
            "address": index_bits(params.unit_words),
            "link": index_bits(-(-params.max_dim // CHAIN)),
            "hold": 1,
            "begin": 1,
        }
    )


class PairUnit(wiring.Component):
    """Vectors of some samples, and a chain of 8 multipliers.

    The left vector of a pair is held in registers of LUT RAM, the right one comes from the memory.

    **Latency** :attr:`latency` cycles from a step to the sum. **Throughput** 1 step per cycle.

    Parameters
    ----------
    params
        Sizes.
    number
        Which unit.

    Members
    -------
    write : In(vector_write_layout(params))
    step : In(pair_step_layout(params))
    total : Out(signed(acc_bits))
    """

    latency = 3 + CHAIN + 2 + 1

    write: View[data.StructLayout]
    step: View[data.StructLayout]
    total: Signal

    def __init__(self, params: ComputeParams, number: int) -> None:
        self._params = params
        self._number = number
        super().__init__(
            {
                "write": In(vector_write_layout(params)),
                "step": In(pair_step_layout(params)),
                "total": Out(signed(params.acc_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build memory, held vector, chain and accumulator."""
        m = Module()
        p = self._params
        style = "ultra" if p.unit_words >= URAM_DEPTH else "block"
        store: Any = memory.Memory(
            shape=WORD_BITS, depth=max(2, p.unit_words), init=[], attrs={"ram_style": style}
        )
        held: Any = memory.Memory(
            shape=WORD_BITS,
            depth=max(2, -(-p.max_dim // CHAIN)),
            init=[],
            attrs={"ram_style": "distributed"},
        )
        m.submodules.store, m.submodules.held = store, held
        sink, source = store.write_port(granularity=8), store.read_port()
        keep, kept = held.write_port(), held.read_port(domain="comb")
        write = self.write
        m.d.comb += [
            sink.en.eq(Mux(write.units[self._number], write.enable, 0)),
            sink.addr.eq(write.address),
            sink.data.eq(write.codes[self._number]),
            source.addr.eq(self.step.address),
        ]
        # the word of a step comes two cycles later
        steps: list[Any] = [self.step]
        for n in range(2):
            steps.append(Signal(self.step.shape(), name=f"step_{n}"))
        m.d.sync += [after.eq(before) for before, after in itertools.pairwise(steps)]
        word = Signal(WORD_BITS, reset_less=True)
        right, left = (Signal(WORD_BITS, name=n, reset_less=True) for n in ("right", "left"))
        here = steps[-1]
        m.d.sync += [word.eq(source.data), right.eq(word), left.eq(kept.data)]
        m.d.comb += [
            keep.en.eq(here.valid & here.hold),
            keep.addr.eq(here.link),
            keep.data.eq(word),
            kept.addr.eq(here.link),
        ]
        m.submodules.chain = chain = DotChain(CHAIN, 8, 8)
        for k in range(CHAIN):
            m.d.comb += [
                chain.a[k].eq(self._after(m, right[8 * k : 8 * k + 8], k)),
                chain.b[k].eq(self._after(m, left[8 * k : 8 * k + 8], k)),
            ]
        begin = self._after(m, here.begin, 1 + chain.latency)
        m.d.sync += self.total.eq(chain.p + Mux(begin, 0, self.total))
        return m

    @staticmethod
    def _after(m: Module, value: Value, cycles: int) -> Value:
        for _ in range(cycles):
            later = Signal(len(value), name="later", reset_less=True)
            m.d.sync += later.eq(value)
            value = later
        return value


class Pairs(wiring.Component):
    """Runs a DOT: sample by sample in every unit, all pairs in the order of the strict triangle.

    **Throughput** 1 step per cycle in all units. **Backpressure** ``o.ready`` stops it between
    pairs.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    start : In(1)
    operation : In(pairs_layout(params))
    free : Out(1)
        An operation can start.
    m, s : In(16), In(6)
        Requantisation.
    write : In(vector_write_layout(params))
    o : Out(stream.Signature(spot_layout(params)))
    done : Out(done_layout(params))
    """

    start: Signal
    operation: View[data.StructLayout]
    free: Signal
    m: Signal
    s: Signal
    write: View[data.StructLayout]
    o: stream.Interface
    done: View[data.StructLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "start": In(1),
                "operation": In(pairs_layout(params)),
                "free": Out(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "m": In(16),
                "s": In(6),
                "write": In(vector_write_layout(params)),
                "o": Out(stream.Signature(spot_layout(params))),
                "done": Out(done_layout(params)),
            }
        )
