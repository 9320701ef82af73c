"""Memories of the compute core that LOAD writes."""

from __future__ import annotations

import functools
import operator
from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.protocol import LoadTarget
from screc_hw.resources import URAM_DEPTH, bank_depth
from screc_hw.stream import config_layout, index_bits

__all__ = ["WORD_BITS", "BankedMemory", "LoadedMemory"]

WORD_BITS = 64
"""A word of LOAD."""


class BankedMemory(wiring.Component):
    """A memory of block RAMs or UltraRAMs, whose output goes straight to registers.

    A deep one is several side by side: those that are not read give 0, and all are added up.

    **Latency** 2 cycles from an address to its data, counted in cycles with ``enable``.

    Parameters
    ----------
    width, depth
        Bits and words.
    granularity
        Bits that an enable of a write is for; all of the word if None.
    ports
        Read ports.

    Members
    -------
    write : In(StructLayout({"enable": .., "address": range(depth), "data": width}))
        A bit of ``enable`` for every ``granularity`` bits.
    enable : In(1)
        1 where unconnected.
    address : In(range(depth)).array(ports)
    data : Out(width).array(ports)
    """

    write: View[data.StructLayout]
    enable: Signal
    address: list[Signal]
    data: list[Signal]

    def __init__(
        self, width: int, depth: int, *, granularity: int | None = None, ports: int = 1
    ) -> None:
        self._width = width
        self._granularity = granularity or width
        self._bank = bank_depth(depth)
        self._banks = -(-depth // self._bank)
        write = data.StructLayout(
            {
                "enable": width // self._granularity,
                "address": index_bits(depth),
                "data": width,
            }
        )
        super().__init__(
            {
                "write": In(write),
                "enable": In(1, init=1),  # type: ignore[call-arg]  # missing in the stubs
                "address": In(index_bits(depth)).array(ports),
                "data": Out(width).array(ports),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the banks, and the registers behind them."""
        m = Module()
        style = "ultra" if self._bank >= URAM_DEPTH else "block"
        low = (self._bank - 1).bit_length()
        read: list[list[Signal]] = [[] for _ in self.address]
        chosen = [
            self._later(m, address[low:], f"bank_{port}")
            for port, address in enumerate(self.address)
        ]
        for bank in range(self._banks):
            store: Any = memory.Memory(
                shape=self._width, depth=self._bank, init=[], attrs={"ram_style": style}
            )
            m.submodules[f"bank_{bank}"] = store
            sink = store.write_port(granularity=self._granularity)
            write = self.write
            mine = (write.address[low:] == bank) if self._banks > 1 else Const(1)
            m.d.comb += [
                sink.en.eq(Mux(mine, write.enable, 0)),
                sink.addr.eq(write.address),
                sink.data.eq(write.data),
            ]
            for port, address in enumerate(self.address):
                source = store.read_port()
                held = Signal(self._width, name=f"held_{port}_{bank}", reset_less=True)
                value: Value = source.data
                if self._banks > 1:
                    value = Mux(chosen[port] == bank, value, 0)
                m.d.comb += [source.addr.eq(address), source.en.eq(self.enable)]
                with m.If(self.enable):
                    m.d.sync += held.eq(value)
                read[port].append(held)
        for output, parts in zip(self.data, read, strict=True):
            m.d.comb += output.eq(functools.reduce(operator.or_, parts))
        return m

    def _later(self, m: Module, value: Value, name: str) -> Signal:
        later = Signal(max(1, len(value)), name=name, reset_less=True)
        with m.If(self.enable):
            m.d.sync += later.eq(value)
        return later


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
        m.submodules.store = store = BankedMemory(self._width, self._depth, ports=len(self.address))
        word = self.config.payload
        entry = word.address[self._parts_log2 :]
        m.d.comb += [
            store.write.address.eq(entry),
            store.write.data.eq(word.data),
            store.write.enable.eq(
                self.config.valid
                & (word.target == self._target)
                & (word.address[: self._parts_log2] == self._part)
                & (entry < self._depth)
            ),
            store.enable.eq(self.enable),
        ]
        for port, address in enumerate(self.address):
            m.d.comb += [store.address[port].eq(address), self.data[port].eq(store.data[port])]
        return m
