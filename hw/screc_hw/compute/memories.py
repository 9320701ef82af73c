"""Memories of the compute core that LOAD writes."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.protocol import LoadTarget
from screc_hw.resources import URAM_DEPTH
from screc_hw.stream import config_layout, index_bits

__all__ = ["WORD_BITS", "LoadedMemory", "new_memory"]

WORD_BITS = 64
"""A word of LOAD."""


def new_memory(width: int, depth: int) -> Any:
    """Return a memory without contents; one as deep as an UltraRAM asks for UltraRAM."""
    style = "ultra" if depth >= URAM_DEPTH else "block"
    return memory.Memory(shape=width, depth=max(2, depth), init=[], attrs={"ram_style": style})


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
