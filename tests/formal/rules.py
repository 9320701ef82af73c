"""Rules of streams and of AXI4 reads, to assert of a component or to assume of what it talks to.

Every function adds its registers and statements to a bench's module ``m``. ``Assert`` states what
is proven; ``Assume`` limits what the solver may do with free inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value, ValueLike

from screc_hw.axi import BOUNDARY_BYTES, INCR

__all__ = ["Ledger", "State", "constant", "held", "read_master", "read_port", "within"]

State = Callable[..., Any]
"""``Assert`` or ``Assume``."""

MAX_BURST = 256
"""Beats that ``ARLEN`` can ask for."""


def constant(m: Module, value: ValueLike) -> None:
    """Assume that ``value``, any at first, never changes.

    Parameters
    ----------
    m
        The bench's module.
    value
        Inputs of the bench.
    """
    bits = Value.cast(value)
    started, before = Signal(), Signal(len(bits))
    m.d.sync += [started.eq(1), before.eq(bits)]
    m.d.comb += Assume(~started | (bits == before))


def held(
    m: Module, valid: Value, ready: Value, payload: ValueLike, what: str, state: State = Assert
) -> None:
    """State stream rule 2: ``valid`` and ``payload`` hold until the transfer.

    Parameters
    ----------
    m
        The bench's module.
    valid, ready, payload
        Of the stream or AXI channel ``what``.
    what
        Its name, for the message.
    state
        ``Assert`` or ``Assume``.
    """
    bits = Value.cast(payload)
    waited = Signal()
    before = Signal(len(bits))
    m.d.sync += [waited.eq(valid & ~ready), before.eq(bits)]
    with m.If(waited):
        m.d.comb += [
            state(valid, f"{what}: valid holds until the transfer"),
            state(bits == before, f"{what}: payload holds until the transfer"),
        ]


def read_master(
    m: Module,
    axi: Any,
    *,
    data_bits: int,
    max_beats: int,
    start: ValueLike | None = None,
    end: ValueLike | None = None,
    state: State = Assert,
) -> None:
    """State the rules of an AXI4 read master's address channel.

    Address and control hold until accepted; bursts are incrementing, of full-width beats from an
    aligned address, at most ``max_beats`` long, and within a 4 KiB block.

    Parameters
    ----------
    m
        The bench's module.
    axi
        Signals of a ``ReadSignature``.
    data_bits
        Width of a beat.
    max_beats
        Longest burst.
    start, end
        Where given: every byte read lies in ``[start, end)``, byte addresses.
    state
        ``Assert`` or ``Assume``.
    """
    channel = Cat(axi.araddr, axi.arid, axi.arlen, axi.arsize, axi.arburst)
    held(m, axi.arvalid, axi.arready, channel, "AR", state)
    size = (data_bits // 8).bit_length() - 1
    bytes_ = Signal(range(MAX_BURST * data_bits // 8 + 1))
    first = axi.araddr % BOUNDARY_BYTES
    m.d.comb += bytes_.eq((axi.arlen + 1) << size)
    with m.If(axi.arvalid):
        m.d.comb += [
            state(axi.arburst == INCR, "AR: burst is INCR"),
            state(axi.arsize == size, "AR: beats are of full width"),
            state(axi.araddr[:size] == 0, "AR: address is aligned to a beat"),
            state(axi.arlen < max_beats, f"AR: at most {max_beats} beats"),
            state(first + bytes_ <= BOUNDARY_BYTES, "AR: within a 4 KiB block"),
        ]
        if start is not None:
            m.d.comb += state(axi.araddr >= start, "AR: not before the start")
        if end is not None:
            m.d.comb += state(axi.araddr + bytes_ <= end, "AR: not past the end")


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Beats that were asked for on a read port and have not come.

    Parameters
    ----------
    total
        Of all IDs.
    owed
        By ID.
    """

    total: Signal
    owed: tuple[Signal, ...]

    @property
    def by_id(self) -> Value:
        """Return the counts side by side, to index with ``word_select``."""
        return Cat(self.owed)


def read_port(
    m: Module, axi: Any, *, most: int, master: State = Assert, memory: State = Assume
) -> Ledger:
    """State who may send how much on an AXI4 read port; beats may come in any order of IDs.

    Parameters
    ----------
    m
        The bench's module.
    axi
        Signals of a ``ReadSignature``.
    most
        Beats that may be outstanding.
    master
        States that no more than ``most`` are asked for, and ``RREADY``.
    memory
        States that no beat comes that was not asked for in an earlier cycle.

    Returns
    -------
    Ledger
        Registers: what is owed at the start of a cycle.
    """
    shape = range(most + MAX_BURST + 1)
    ids = 1 << len(axi.arid)
    ledger = Ledger(Signal(shape), tuple(Signal(shape, name=f"owed_{i}") for i in range(ids)))
    ask = axi.arvalid & axi.arready
    asked = Mux(ask, axi.arlen + 1, 0)
    m.d.sync += ledger.total.eq(ledger.total + asked - axi.rvalid)
    for number, owed in enumerate(ledger.owed):
        beat = axi.rvalid & (axi.rid == number)
        m.d.sync += owed.eq(owed + Mux(axi.arid == number, asked, 0) - beat)
        m.d.comb += memory(~beat | (owed != 0), f"R: a beat of ID {number} was asked for")
    m.d.comb += [
        Assert(ledger.total == sum(ledger.owed, start=Const(0)), "ledger: invariant"),
        master(ledger.total <= most, f"AR: at most {most} beats outstanding"),
        master(axi.rready, "R: always ready"),
    ]
    return ledger


def within(
    m: Module, waiting: Value, progress: Value, cycles: int, what: str, state: State = Assert
) -> None:
    """State that ``waiting`` is followed by ``progress`` within ``cycles`` cycles.

    Parameters
    ----------
    m
        The bench's module.
    waiting, progress
        What must not last, and what ends it (the count starts again).
    cycles
        Most cycles in a row with ``waiting`` and without ``progress``.
    what
        The rule, for the message.
    state
        ``Assert`` or ``Assume``.
    """
    spent = Signal(range(cycles + 2))
    idle = Signal()
    m.d.comb += [
        idle.eq(waiting & ~progress),
        state((spent != cycles) | ~idle, f"{what} within {cycles} cycles"),
    ]
    m.d.sync += spent.eq(Mux(idle, Mux(spent == cycles, cycles, spent + 1), 0))
