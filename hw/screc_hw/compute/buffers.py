"""Memories of the compute core; every one of them is read through an output register."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import WORD_BITS
from screc_hw.compute.params import GROUP_COLUMNS, ComputeParams
from screc_hw.protocol import LoadTarget
from screc_hw.stream import config_layout, index_bits

__all__ = ["DenseRing", "LoadedMemory", "WeightBank", "WordMemory", "new_memory"]

URAM_DEPTH = 4096
"""Depth of an URAM288. Source: UG573; as ``resources.memory_blocks`` counts."""


def new_memory(width: int, depth: int) -> memory.Memory:
    """Return a memory without contents; one as deep as an UltraRAM asks for UltraRAM."""
    attrs = {"ram_style": "ultra"} if depth >= URAM_DEPTH else {}
    return memory.Memory(shape=width, depth=max(2, depth), init=[], attrs=attrs)


class LoadedMemory(wiring.Component):
    """A memory that LOAD writes, undefined until then.

    **Latency** 2 cycles from an address to its data, counted in cycles with ``enable``.

    Parameters
    ----------
    target
        The LOAD target it belongs to.
    width, depth
        Bits and entries; an entry is the low bits of a LOAD word.
    parts, part
        Where an entry of the target is made of ``parts`` words, a power of two: the one held here.
    ports
        Read ports.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    enable : In(1)
        1 where unconnected.
    address : In(range(depth)).array(ports)
    data : Out(width).array(ports)
    """

    config: stream.Interface
    enable: Signal
    address: list[Signal]
    data: list[Signal]

    def __init__(
        self,
        target: LoadTarget,
        *,
        width: int,
        depth: int,
        parts: int = 1,
        part: int = 0,
        ports: int = 1,
    ) -> None:
        if not 1 <= width <= WORD_BITS:
            raise ValueError(f"width must be in 1..{WORD_BITS}, not {width!r}")
        self._target = target
        self._width = width
        self._depth = depth
        self._parts_log2 = (parts - 1).bit_length()
        self._part = part
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "enable": In(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "address": In(index_bits(depth)).array(ports),
                "data": Out(width).array(ports),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory and its decoder."""
        m = Module()
        m.submodules.store = store = new_memory(self._width, self._depth)
        word = self.config.payload
        entry = word.address[self._parts_log2 :]
        write = store.write_port()
        m.d.comb += [
            write.addr.eq(entry),
            write.data.eq(word.data),
            write.en.eq(
                self.config.valid
                & (word.target == self._target)
                & (word.address[: self._parts_log2] == self._part)
                & (entry < self._depth)
            ),
        ]
        for address, output in zip(self.address, self.data, strict=True):
            read = store.read_port()
            held = Signal(self._width, name="held", reset_less=True)
            m.d.comb += [read.addr.eq(address), read.en.eq(self.enable), output.eq(held)]
            with m.If(self.enable):
                m.d.sync += held.eq(read.data)
        return m


class WeightBank(wiring.Component):
    """Weights of one group of columns, given to the array with its skew.

    **Latency** 2 cycles from ``address`` to column 0's weight, one more per column; 8 to
    ``address_out``. **Throughput** one word per cycle.

    Parameters
    ----------
    params
        The core's parameters.
    group
        Which eight columns.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    address : In(range(weight_words))
    address_out : Out(range(weight_words))
        For the next group's bank.
    weights : Out(ArrayLayout(signed(8), 8))
    """

    config: stream.Interface
    address: Signal
    address_out: Signal
    weights: View[data.ArrayLayout]

    def __init__(self, params: ComputeParams, group: int) -> None:
        self._params = params
        self._group = group
        address = index_bits(params.weight_words)
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "address": In(address),
                "address_out": Out(address),
                "weights": Out(data.ArrayLayout(signed(8), GROUP_COLUMNS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory, then a shift register of ``c`` stages behind byte ``c``."""
        m = Module()
        m.submodules.store = store = LoadedMemory(
            LoadTarget.WEIGHTS,
            width=8 * GROUP_COLUMNS,
            depth=self._params.weight_words,
            parts=self._params.groups,
            part=self._group,
        )
        wiring.connect(m, wiring.flipped(self.config), store.config)
        m.d.comb += store.address[0].eq(self.address)
        for column in range(GROUP_COLUMNS):
            byte = store.data[0][8 * column : 8 * column + 8]
            m.d.comb += self.weights[column].eq(delayed(m, byte, column, f"weight_{column}"))
        m.d.comb += self.address_out.eq(delayed(m, self.address, GROUP_COLUMNS, "address"))
        return m


def delayed(m: Module, value: Any, cycles: int, name: str) -> Any:
    """Return ``value`` after ``cycles`` registers without reset: a shift register of LUTs."""
    stages = [value]
    for stage in range(cycles):
        register = Signal(len(value), name=f"{name}_{stage}", reset_less=True)
        stages.append(register)
    m.d.sync += [after.eq(before) for before, after in itertools.pairwise(stages)]
    return stages[-1]


class WordMemory(wiring.Component):
    """Activation memory: words of one byte per row.

    **Latency** 2 cycles from ``address`` to ``data``; a word written is read from the next cycle
    on.

    Parameters
    ----------
    width, depth
        Bits and words.

    Members
    -------
    write : In(1)
    write_address : In(range(depth))
    write_data : In(width)
    address : In(range(depth))
    data : Out(width)
    """

    write: Signal
    write_address: Signal
    write_data: Signal
    address: Signal
    data: Signal

    def __init__(self, *, width: int, depth: int) -> None:
        self._width = width
        self._depth = depth
        super().__init__(
            {
                "write": In(1),
                "write_address": In(index_bits(depth)),
                "write_data": In(width),
                "address": In(index_bits(depth)),
                "data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory and its output register."""
        m = Module()
        m.submodules.store = store = new_memory(self._width, self._depth)
        write, read = store.write_port(), store.read_port()
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.addr.eq(self.address),
        ]
        held = Signal(self._width, reset_less=True)
        m.d.sync += held.eq(read.data)
        m.d.comb += self.data.eq(held)
        return m


class DenseRing(wiring.Component):
    """Dense words of the sub-batches to come, read in order, a run of them as often as needed.

    A run is what one LINEAR reads: all of its inputs once per tile. Its place is given back word by
    word while the last tile reads it.

    **Latency** 2 cycles from ``advance`` to ``data``. **Backpressure** ``i.ready`` is a register, 0
    only when the ring is full.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(8 * rows))
    advance : In(1)
        Reads a word.
    rewind : In(1)
        With ``advance``: the next word read is the run's first again, or the next run's where
        ``pop`` is set.
    pop : In(1)
        With ``advance``: gives the word's place back.
    data : Out(8 * rows)
    level : Out(range(dense_words + 1))
        Words held.
    """

    i: stream.Interface
    advance: Signal
    rewind: Signal
    pop: Signal
    data: Signal
    level: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        width = 8 * params.rows
        super().__init__(
            {
                "i": In(stream.Signature(width)),
                "advance": In(1),
                "rewind": In(1),
                "pop": In(1),
                "data": Out(width),
                "level": Out(range(params.dense_words + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the ring's three positions: write, read, and first word of the run."""
        m = Module()
        depth = self._params.dense_words
        m.submodules.store = store = WordMemory(width=8 * self._params.rows, depth=depth)
        write, read, run = Signal(range(depth)), Signal(range(depth)), Signal(range(depth))
        following = Signal(range(depth))
        push = Signal()
        m.d.comb += [
            push.eq(self.i.valid & self.i.ready),
            store.write.eq(push),
            store.write_address.eq(write),
            store.write_data.eq(self.i.payload),
            store.address.eq(read),
            self.data.eq(store.data),
            following.eq(Mux(read == depth - 1, 0, read + 1)),
        ]
        # a word given back makes room a cycle later than it could: a shorter path
        full = (self.level == depth) | (push & (self.level == depth - 1))
        m.d.sync += [
            self.level.eq(self.level + push - (self.advance & self.pop)),
            self.i.ready.eq(~full),
        ]
        with m.If(push):
            m.d.sync += write.eq(Mux(write == depth - 1, 0, write + 1))
        with m.If(self.advance):
            m.d.sync += read.eq(Mux(self.rewind & ~self.pop, run, following))
            with m.If(self.rewind & self.pop):
                m.d.sync += run.eq(following)
        return m
