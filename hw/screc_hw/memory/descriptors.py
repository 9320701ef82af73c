"""What LOAD writes to a memory core: feature descriptors and the staging ring's place."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import OFFSET_BITS, RANK_BITS
from screc_hw.memory.params import WORD_BITS, MemoryCoreParams
from screc_hw.protocol import FEATURE_FIELDS, FEATURE_WORDS, LoadTarget
from screc_hw.stream import config_layout, index_bits


def descriptor_layout() -> data.FlexibleLayout:
    """A feature descriptor, as in ``protocol.FEATURE_FIELDS``."""
    fields: dict[int | str, data.Field] = {
        name: data.Field(width, low) for name, (low, width) in FEATURE_FIELDS.items()
    }
    return data.FlexibleLayout(FEATURE_WORDS * WORD_BITS, fields)


def staging_layout() -> data.StructLayout:
    """The staging ring: byte offset from the core's base pointer, length in beats.

    No row is read at or beyond beat ``limit`` from the base pointer.
    """
    return data.StructLayout({"base": OFFSET_BITS, "beats": RANK_BITS, "limit": RANK_BITS})


class Descriptors(wiring.Component):
    """Memory of feature descriptors, undefined until loaded.

    Every feature below ``max_features`` that a record may name must have been loaded, disabled ones
    too: memories of an FPGA keep their contents over a reset.

    **Latency** 2 cycles from ``feature`` to ``descriptor``, counted in cycles with ``enable``.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    config : In(stream.Signature(config_layout(), always_ready=True))
    enable : In(1)
        Advances a read.
    feature : In(range(max_features))
    descriptor : Out(descriptor_layout())
    staging : Out(staging_layout())
    """

    config: stream.Interface
    enable: Signal
    feature: Signal
    descriptor: Any
    staging: Any

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "enable": In(1),
                "feature": In(index_bits(params.max_features)),
                "descriptor": Out(descriptor_layout()),
                "staging": Out(staging_layout()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build one memory per descriptor word that is used."""
        m = Module()
        p = self._params
        word = self.config.payload
        word_log2 = FEATURE_WORDS.bit_length() - 1
        index = word.address[:word_log2]
        feature = word.address[word_log2:]
        selected = Signal()
        m.d.comb += selected.eq(
            self.config.valid
            & (word.target == LoadTarget.GATHER_FEATURES)
            & (feature < p.max_features)
        )
        read: list[Value] = []
        for i in range(FEATURE_WORDS):
            width = p.descriptor_bits(i)
            if width == 0:
                read.append(Const(0, WORD_BITS))
                continue
            # an address needs a bit even where there is one feature
            store: memory.Memory = memory.Memory(shape=width, depth=max(2, p.max_features), init=[])
            m.submodules[f"word{i}"] = store
            write_port, read_port = store.write_port(), store.read_port()
            m.d.comb += [
                write_port.addr.eq(feature),
                write_port.data.eq(word.data),
                write_port.en.eq(selected & (index == i)),
                read_port.addr.eq(self.feature),
                read_port.en.eq(self.enable),
            ]
            read.append(Cat(read_port.data, Const(0, WORD_BITS - width)))
        with m.If(self.enable):
            m.d.sync += self.descriptor.eq(Cat(*read))

        with m.If(self.config.valid & (word.target == LoadTarget.GATHER_STAGING)):
            with m.If(word.address == 0):
                m.d.sync += self.staging.base.eq(word.data)
            with m.If(word.address == 1):
                m.d.sync += self.staging.beats.eq(word.data)
            with m.If(word.address == 2):
                m.d.sync += self.staging.limit.eq(word.data)
        return m
