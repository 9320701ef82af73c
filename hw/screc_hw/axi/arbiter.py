"""Several AXI4 read masters on one port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi.signatures import READ_ADDRESS, READ_BEAT, ReadSignature
from screc_hw.stream import SkidBuffer

__all__ = ["ReadArbiter", "ReadArbiterNode", "arbiter_id_bits"]


def arbiter_id_bits(inputs: int, id_bits: int) -> int:
    """Width of the ID behind a :class:`ReadArbiter`: a bit per level tells the inputs apart.

    Parameters
    ----------
    inputs
        Read masters.
    id_bits
        Width of their IDs.
    """
    return id_bits + (inputs - 1).bit_length()


class ReadArbiterNode(wiring.Component):
    """Two read masters on one port; the uppermost ID bit tells them apart.

    With both masters busy their bursts alternate.

    **Latency** 1 cycle each way. **Throughput** 1 burst and 1 beat per cycle. **Backpressure** an
    input's ``arready`` depends on registers and on both ``arvalid``, not on ``o.arready``; the
    masters' ``rready`` is not looked at.

    Parameters
    ----------
    data_bits, address_bits
        Widths of data and address.
    id_bits
        Width of the masters' IDs.

    Members
    -------
    a, b : In(ReadSignature)
    o : Out(ReadSignature)
        With ``id_bits`` + 1; ``rready`` is 1.
    """

    a: Any
    b: Any
    o: Any

    def __init__(self, *, data_bits: int, address_bits: int, id_bits: int) -> None:
        inner = ReadSignature(data_bits=data_bits, address_bits=address_bits, id_bits=id_bits)
        outer = ReadSignature(data_bits=data_bits, address_bits=address_bits, id_bits=id_bits + 1)
        super().__init__({"a": In(inner), "b": In(inner), "o": Out(outer)})
        self._owner = Signal()  # 1: b had the last burst

    def elaborate(self, platform: object) -> Module:
        """Build the choice, the skid buffer of addresses and the register of beats."""
        m = Module()
        a, b, o = self.a, self.b, self.o
        layout = data.StructLayout({name: len(getattr(o, name)) for name in READ_ADDRESS})
        m.submodules.addresses = addresses = SkidBuffer(layout)
        owner, choice = self._owner, Signal()
        m.d.comb += [
            choice.eq(Mux(owner, ~a.arvalid, b.arvalid)),
            a.arready.eq(addresses.i.ready & ~choice),
            b.arready.eq(addresses.i.ready & choice),
            addresses.i.valid.eq(a.arvalid | b.arvalid),
            o.arvalid.eq(addresses.o.valid),
            addresses.o.ready.eq(o.arready),
        ]
        for name in READ_ADDRESS:
            ours, theirs = getattr(a, name), getattr(b, name)
            if name == "arid":
                ours, theirs = Cat(ours, 0), Cat(theirs, 1)
            m.d.comb += [
                addresses.i.payload[name].eq(Mux(choice, theirs, ours)),
                getattr(o, name).eq(addresses.o.payload[name]),
            ]
        with m.If(addresses.i.valid & addresses.i.ready):
            m.d.sync += owner.eq(choice)

        beat: Any = Signal(
            data.StructLayout({name: len(getattr(a, name)) for name in READ_BEAT}), reset_less=True
        )
        m.d.comb += o.rready.eq(1)
        m.d.sync += [beat[name].eq(getattr(o, name)) for name in READ_BEAT]
        for side, axi in enumerate((a, b)):
            m.d.sync += axi.rvalid.eq(o.rvalid & (o.rid[-1] == side))
            m.d.comb += [getattr(axi, name).eq(beat[name]) for name in READ_BEAT]
        return m


class ReadArbiter(wiring.Component):
    """Several read masters on one port: a balanced tree of :class:`ReadArbiterNode`.

    The masters must always take beats (they reserve places before they ask), so beats are
    valid-only inwards and ``o.rready`` is 1. Bursts alternate at every node: where ``inputs`` is a
    power of two, busy masters share alike; else one that stands a level lower has up to twice the
    share of one above it.

    **Latency** a cycle per level each way, ``ceil(log2(inputs))`` levels at most (one less for
    inputs that stand lower); none with one input. **Throughput** 1 burst and 1 beat per cycle.
    **Backpressure** an input's ``arready`` depends on its node's registers and on ``arvalid`` of
    the two inputs there; with one input it is ``o.arready``.

    Parameters
    ----------
    inputs
        Read masters, at least 1.
    data_bits, address_bits
        Widths of data and address.
    id_bits
        Width of the masters' IDs.

    Members
    -------
    i : In(ReadSignature).array(inputs)
        ``rready`` is not looked at.
    o : Out(ReadSignature)
        With ``arbiter_id_bits(inputs, id_bits)``: a master's own ID in the lower bits.

    Raises
    ------
    ValueError
        If ``inputs`` is less than 1.
    """

    i: Any
    o: Any

    def __init__(self, inputs: int, *, data_bits: int, address_bits: int, id_bits: int) -> None:
        if inputs < 1:
            raise ValueError(f"inputs must be at least 1, not {inputs!r}")
        self._widths = {"data_bits": data_bits, "address_bits": address_bits}
        self._id_bits = id_bits
        outer = arbiter_id_bits(inputs, id_bits)
        super().__init__(
            {
                "i": In(ReadSignature(**self._widths, id_bits=id_bits)).array(inputs),
                "o": Out(ReadSignature(**self._widths, id_bits=outer)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the tree from its root."""
        m = Module()
        self._join(m, list(self.i), self.o, "node")
        return m

    def _join(self, m: Module, masters: Sequence[Any], port: Any, name: str) -> None:
        """Connect ``masters`` to ``port``, whose ID may be wider than they need."""
        if len(masters) == 1:
            _wire(m, masters[0], port)
            return
        inner = arbiter_id_bits(len(masters), self._id_bits) - 1
        node = ReadArbiterNode(**self._widths, id_bits=inner)
        m.submodules[name] = node
        _wire(m, node.o, port)
        half = (len(masters) + 1) // 2
        self._join(m, masters[:half], node.a, f"{name}_a")
        self._join(m, masters[half:], node.b, f"{name}_b")


def _wire(m: Module, master: Any, port: Any) -> None:
    """Join signals by name; an ID narrower than the port's is extended with zeros."""
    outward = ("arvalid", *READ_ADDRESS)
    m.d.comb += [getattr(port, name).eq(getattr(master, name)) for name in outward]
    m.d.comb += [port.rready.eq(1), master.arready.eq(port.arready)]
    m.d.comb += [getattr(master, name).eq(getattr(port, name)) for name in ("rvalid", *READ_BEAT)]
