"""The interaction: products of all pairs of a sample's vectors, beside the array."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import done_layout, pairs_layout
from screc_hw.compute.memories import BankedMemory
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.compute.writer import WRITE_CYCLES, spot_layout
from screc_hw.dsp import DotChain
from screc_hw.requantise import Requantise
from screc_hw.stream import DeepQueue, index_bits

__all__ = ["PairUnit", "Pairs", "vector_write_layout"]

PART_BITS = 8 * CHAIN
"""A word of 8 components."""

RESULTS_HELD = 32
"""Pairs under way: more than there are cycles from a step to the end of the queue."""


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
    """A word of a vector: ``hold`` it as ``link`` of the left vector, or multiply it with that.

    Components beyond ``last`` count as 0.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "address": index_bits(params.unit_words),
            "link": index_bits(-(-params.max_dim // CHAIN)),
            "last": index_bits(CHAIN),
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
        store = BankedMemory(PART_BITS, p.unit_words, granularity=8)
        held: Any = memory.Memory(
            shape=PART_BITS,
            depth=max(2, -(-p.max_dim // CHAIN)),
            init=[],
            attrs={"ram_style": "distributed"},
        )
        m.submodules.store, m.submodules.held = store, held
        keep, kept = held.write_port(), held.read_port(domain="comb")
        write = self.write
        m.d.comb += [
            store.write.enable.eq(Mux(write.units[self._number], write.enable, 0)),
            store.write.address.eq(write.address),
            store.write.data.eq(write.codes[self._number]),
            store.address[0].eq(self.step.address),
        ]
        # the word of a step comes two cycles later
        steps: list[Any] = [self.step]
        steps += [Signal(self.step.shape(), name=f"step_{n}") for n in range(2)]
        m.d.sync += [after.eq(before) for before, after in itertools.pairwise(steps)]
        word = store.data[0]
        right, left = (Signal(PART_BITS, name=n, reset_less=True) for n in ("right", "left"))
        here = steps[-1]
        # what lies beyond a vector may never have been written
        whole = Signal(PART_BITS)
        for k in range(CHAIN):
            byte = slice(8 * k, 8 * k + 8)
            m.d.comb += whole[byte].eq(Mux(here.last >= k, word[byte], 0) if k else word[byte])
        m.d.sync += [left.eq(kept.data), right.eq(whole)]
        m.d.comb += [
            keep.en.eq(here.valid & here.hold),
            keep.addr.eq(here.link),
            keep.data.eq(whole),
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

    def elaborate(self, platform: object) -> Module:
        """Walk samples, left vectors and words; requantise and queue the sums."""
        m = Module()
        p = self._params
        op: Any = self.operation
        step: Any = Signal(pair_step_layout(p), name="step")
        units = [PairUnit(p, number) for number in range(p.pair_units)]
        for number, unit in enumerate(units):
            m.submodules[f"unit_{number}"] = unit
            m.d.comb += [unit.write.eq(self.write), unit.step.eq(step)]
        tag = self._walk(m, op, step)

        m.submodules.scale = scale = Requantise(p.acc_bits, p.pair_units)
        for _ in range(PairUnit.latency + scale.latency):
            later: Any = Signal(tag.shape(), name="tag")
            m.d.sync += later.eq(tag)
            tag = later
        m.d.comb += [scale.m.eq(self.m), scale.s.eq(self.s)]
        m.d.comb += [scale.acc[number].eq(unit.total) for number, unit in enumerate(units)]

        queued = data.StructLayout({"tag": tag.shape(), "codes": scale.y.shape()})
        m.submodules.queue = queue = DeepQueue(queued, RESULTS_HELD, reserved=True)
        m.d.comb += [
            queue.i.valid.eq(tag.valid),
            queue.i.payload.tag.eq(tag),
            queue.i.payload.codes.eq(scale.y),
        ]
        out: Any = queue.o.payload
        spot: Any = self.o.payload
        m.d.comb += [
            self.o.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.o.ready),
            spot.bank.eq(out.tag.place[: (CHAIN - 1).bit_length()]),
            spot.address.eq(out.tag.place >> (CHAIN - 1).bit_length()),
            spot.enable.eq(((1 << p.pair_units) - 1) << (out.tag.group * p.pair_units)),
            *(spot.codes[row].eq(out.codes[row % p.pair_units]) for row in range(p.rows)),
        ]
        ended = Signal()
        m.d.comb += ended.eq(self.o.valid & self.o.ready & out.tag.final)
        written: Value = ended
        for n in range(WRITE_CYCLES):
            later = Signal(name=f"written_{n}")
            m.d.sync += later.eq(written)
            written = later
        slot, last = Signal.like(op.slot, name="slot"), Signal(name="last")
        with m.If(self.start):
            m.d.sync += [self.free.eq(0), slot.eq(op.slot), last.eq(op.place.last)]
        with m.If(written):
            m.d.sync += self.free.eq(1)
        m.d.comb += [
            self.done.valid.eq(written),
            self.done.slot.eq(slot),
            self.done.last.eq(last),
        ]
        m.d.comb += self._returned.eq(self.o.valid & self.o.ready)
        return m

    def _walk(self, m: Module, op: Any, step: Any) -> Any:
        """Issue the steps of an operation; return the tag of the sum that a step ends."""
        p = self._params
        tags = data.StructLayout(
            {
                "valid": 1,
                "place": index_bits(CHAIN * p.bank_words),
                "group": index_bits(p.unit_rows),
                "final": 1,
            }
        )
        tag: Any = Signal(tags, name="tag_now")
        active, hold = Signal(), Signal()
        link, links = Signal.like(op.links, name="link"), Signal.like(op.links, name="links")
        tail = Signal.like(op.tail, name="tail")
        # left vectors to come, right vectors to come: less one
        left, right, row = (Signal.like(op.vectors, name=n) for n in ("left", "right", "row"))
        lefts = Signal.like(op.vectors, name="lefts")
        group = Signal(range(p.unit_rows))
        base, ahead, address = (
            Signal(index_bits(p.unit_words), name=n) for n in ("base", "ahead", "address")
        )
        home, place = Signal.like(tag.place, name="home"), Signal.like(tag.place, name="place")
        places = Signal(range(RESULTS_HELD + 1), init=RESULTS_HELD)
        self._returned = returned = Signal()
        go, end, sums, begin = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            begin.eq(link == links),
            go.eq(active & (hold | ~begin | (places != 0))),
            end.eq(link == 0),
            sums.eq(go & end & ~hold),
        ]
        final = Signal()
        m.d.comb += final.eq((right == 0) & (left == 0) & (group == p.unit_rows - 1))
        m.d.sync += [
            places.eq(places - (go & begin & ~hold) + returned),
            step.valid.eq(go),
            step.address.eq(Mux(hold, ahead, address)),
            step.link.eq(links - link),
            step.last.eq(Mux(end, tail, CHAIN - 1)),
            step.hold.eq(hold),
            step.begin.eq(begin),
            tag.valid.eq(sums),
            tag.place.eq(place),
            tag.group.eq(group),
            tag.final.eq(final),
        ]
        with m.If(go):
            m.d.sync += link.eq(Mux(end, links, link - 1))
            with m.If(hold):
                m.d.sync += ahead.eq(ahead + 1)
                with m.If(end):
                    m.d.sync += [hold.eq(0), address.eq(base), right.eq(row)]
            with m.Else():
                m.d.sync += address.eq(address + 1)
                with m.If(end):
                    m.d.sync += [place.eq(place + 1), right.eq(right - 1)]
                    with m.If(right == 0):
                        m.d.sync += [hold.eq(1), left.eq(left - 1), row.eq(row + 1)]
                        with m.If(left == 0):  # the next sample
                            m.d.sync += [
                                active.eq(group != p.unit_rows - 1),
                                group.eq(group + 1),
                                base.eq(base + p.vector_chunks),
                                ahead.eq(base + p.vector_chunks + links + 1),
                                left.eq(lefts),
                                row.eq(0),
                                place.eq(home),
                            ]
        slot_base = Signal.like(base, name="slot_base")
        with m.Switch(op.slot):
            for slot in range(p.slots):
                with m.Case(slot):
                    m.d.comb += slot_base.eq(slot * p.unit_rows * p.vector_chunks)
        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                hold.eq(1),
                link.eq(op.links),
                links.eq(op.links),
                tail.eq(op.tail),
                left.eq(op.vectors - 1),
                lefts.eq(op.vectors - 1),
                row.eq(0),
                group.eq(0),
                base.eq(slot_base),
                ahead.eq(slot_base + op.links + 1),
                home.eq(op.first),
                place.eq(op.first),
            ]
        return tag
