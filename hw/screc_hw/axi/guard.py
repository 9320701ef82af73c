"""What stands between a read port and its masters when the memory stops answering."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi.signatures import READ_ADDRESS, SLVERR, ReadSignature

__all__ = ["ReadGuard"]

MAX_ID_BITS = 6


class ReadGuard(wiring.Component):
    """Answers for a read port that does not, so that nothing behind it hangs.

    Where reads are outstanding and no beat comes in ``timeout_cycles`` cycles (counted from
    ``o.arvalid`` or the last beat), or ``o.arvalid`` waits for ``timeout_cycles`` cycles, the port
    has *failed*: every beat outstanding, and every one asked for from then on, is answered with
    zeros and SLVERR, and the port's late beats are dropped. An address that the port was offered
    stays offered. When the port owes nothing more, the guard takes no addresses until all is
    answered, and lets reads through again. Error responses of the port pass as they are.

    Beats are told apart by their ID alone: ``rlast`` of an answer is 0, so masters must count
    beats. They must always take them (``i.rready`` is not looked at). The port must not send beats
    that nobody asked for.

    **Latency** 1 cycle each way. **Throughput** 1 burst and 1 beat per cycle; answers in the
    port's place: 1 beat per cycle, and an idle cycle for each ID passed over. **Backpressure**
    ``i.arready`` follows ``o.arready`` by a gate.

    Parameters
    ----------
    data_bits, address_bits
        Widths of data and address.
    id_bits
        Width of IDs, at most 6: there is a counter per ID.
    timeout_cycles
        Cycles without an answer after which the port has failed, at least 1.
    outstanding
        Beats that the masters together may have asked for and not received.

    Members
    -------
    i : In(ReadSignature)
        From the masters.
    o : Out(ReadSignature)
        To the port; ``rready`` is 1.
    expired : Out(1)
        Pulse when the port fails.
    owing : Out(1)
        The port has failed, and reads do not pass yet: where this stays, a reset is needed.

    Raises
    ------
    ValueError
        If a value cannot be built; the message names it and what would be valid.
    """

    i: Any
    o: Any
    expired: Signal
    owing: Signal

    def __init__(
        self,
        *,
        data_bits: int,
        address_bits: int,
        id_bits: int,
        timeout_cycles: int,
        outstanding: int,
    ) -> None:
        if not 1 <= id_bits <= MAX_ID_BITS:
            raise ValueError(f"id_bits must lie in 1..{MAX_ID_BITS}, not {id_bits!r}")
        for name, value in (("timeout_cycles", timeout_cycles), ("outstanding", outstanding)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self._timeout = timeout_cycles
        self._outstanding = outstanding
        port = ReadSignature(data_bits=data_bits, address_bits=address_bits, id_bits=id_bits)
        super().__init__({"i": In(port), "o": Out(port), "expired": Out(1), "owing": Out(1)})
        ids = range(1 << id_bits)
        count = range(outstanding + 1)
        # state that invariants of proofs name
        self._failed = Signal()  # the port owes beats
        self._closing = Signal()  # it owes none, the last answers are given
        self._taken = Signal()  # an address was taken in the last cycle
        self._through = Signal()  # and goes to the port
        self._asker = Signal(id_bits)
        self._length = Signal(8)
        self._turn = Signal(len(ids), init=1)  # one-hot: whose beats are answered
        self._left = Signal(len(ids))  # beats that are owed, and were a cycle ago
        self._port_owes = Signal(count)
        self._owed = [Signal(count, name=f"owed_{number}") for number in ids]

    def elaborate(self, platform: object) -> Module:
        """Build the two registers, the counters of what is owed, and the timers."""
        m = Module()
        i, o = self.i, self.o
        normal, failed, closing = Signal(), self._failed, self._closing
        take = Signal()
        m.d.comb += [
            normal.eq(~failed & ~closing),
            i.arready.eq(failed | (~closing & (~o.arvalid | o.arready))),
            take.eq(i.arvalid & i.arready),
            o.rready.eq(1),
            self.owing.eq(~normal),
        ]
        with m.If(normal & (~o.arvalid | o.arready)):
            m.d.sync += o.arvalid.eq(i.arvalid)
            m.d.sync += [getattr(o, name).eq(getattr(i, name)) for name in READ_ADDRESS]
        with m.Elif(o.arready):
            m.d.sync += o.arvalid.eq(0)

        # counted a cycle later: no beat can come before
        taken, through, asker, length = self._taken, self._through, self._asker, self._length
        m.d.sync += [
            taken.eq(take),
            through.eq(take & normal),
            asker.eq(i.arid),
            length.eq(i.arlen),
        ]

        turn, left = self._turn, self._left
        answers = Signal(len(turn))
        m.d.comb += answers.eq(Mux(normal, 0, turn & left))
        with m.If(~answers.any()):
            m.d.sync += turn.eq(turn.rotate_left(1))
        for number, owed in enumerate(self._owed):
            beat = Mux(normal, o.rvalid & (o.rid == number), answers[number])
            _count(m, owed, taken & (asker == number), length, beat)
            # not counting what is added now, so that the counter's carry stays out of it
            m.d.sync += left[number].eq(owed[1:].any() | (owed[0] & ~beat))
        _count(m, self._port_owes, through, length, o.rvalid)

        mine = Signal.like(i.rid)
        for bit in range(len(mine)):
            having = [turn[number] for number in range(len(turn)) if number >> bit & 1]
            m.d.comb += mine[bit].eq(Cat(having).any())
        data = Signal.like(i.rdata, reset_less=True)
        m.d.comb += i.rdata.eq(data)
        m.d.sync += [
            i.rvalid.eq(Mux(normal, o.rvalid, answers.any())),
            i.rid.eq(Mux(normal, o.rid, mine)),
            i.rresp.eq(Mux(normal, o.rresp, SLVERR)),
            i.rlast.eq(normal & o.rlast),
            data.eq(Mux(normal, o.rdata, 0)),
        ]

        silent = _timer(m, self._timeout, (self._port_owes == 0) | o.rvalid)
        stuck = _timer(m, self._timeout, ~o.arvalid | o.arready)
        m.d.sync += self.expired.eq(0)
        with m.If(normal & (silent | stuck)):
            m.d.sync += [failed.eq(1), self.expired.eq(1)]
        with m.If(failed & (self._port_owes == 0) & ~through):
            m.d.sync += [failed.eq(0), closing.eq(1)]
        with m.If(closing & ~taken & ~Cat(self._owed).any()):
            m.d.sync += closing.eq(0)
        return m


def _count(m: Module, counter: Signal, more: Value, length: Value, less: Value) -> None:
    """Add ``length`` + 1 to ``counter`` where ``more``, subtract 1 where ``less``: one adder.

    Both together add ``length``; the 1 of ``more`` alone is a carry into the lowest bit.
    """
    width = len(counter)
    step = Mux(more, length, Mux(less, Const(-1, width), 0))[:width]
    total = Cat(Const(1, 1), counter) + Cat(more & ~less, step)
    m.d.sync += counter.eq(total[1:])


def _timer(m: Module, cycles: int, restart: Value) -> Value:
    """Return 1 in the last of ``cycles`` successive cycles without ``restart``.

    Counts down to -1, so that the end is the sign bit.
    """
    count = Signal(range(-1, max(cycles - 1, 1)), init=cycles - 2)
    m.d.sync += count.eq(Mux(restart, cycles - 2, count - 1))
    return count[-1] & ~restart
