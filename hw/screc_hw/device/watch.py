"""Parts that look after the whole device: watchdog, sums of counters, spreading of LOAD words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.protocol import ALL_CORES, LoadTarget
from screc_hw.stream import config_layout

__all__ = ["ConfigFanout", "Watchdog", "registered_sum"]


class Watchdog(wiring.Component):
    """Notices that a run makes no progress.

    Parameters
    ----------
    timeout
        Cycles without progress that end a run.

    Members
    -------
    running, progress : In(1)
    expired : Out(1)
        From the timeout until reset: what is stuck keeps its state, so only a reset helps.
    """

    running: Signal
    progress: Signal
    expired: Signal

    def __init__(self, timeout: int) -> None:
        if timeout < 1:
            raise ValueError(f"timeout must be at least 1 cycle, not {timeout!r}")
        self._timeout = timeout
        super().__init__({"running": In(1), "progress": In(1), "expired": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Build the counter of idle cycles."""
        m = Module()
        left = Signal(range(self._timeout + 1), init=self._timeout)
        with m.If(~self.running | self.progress):
            m.d.sync += left.eq(self._timeout)
        with m.Elif(left == 0):
            m.d.sync += self.expired.eq(1)
        with m.Else():
            m.d.sync += left.eq(left - 1)
        return m


class ConfigFanout(wiring.Component):
    """Brings LOAD words to the core they are for, through two registers.

    **Latency** 2 cycles. **Throughput** 1 word per cycle. **Backpressure** none (valid-only).

    Parameters
    ----------
    targets
        Of every output, the kinds of words it takes and its number among the cores of its kind.

    Members
    -------
    i : In(stream.Signature(config_layout(), always_ready=True))
    core : In(8)
        Number of the core, or ``protocol.ALL_CORES``.
    o : Out(stream.Signature(config_layout(), always_ready=True)).array(len(targets))
    """

    i: stream.Interface
    core: Signal
    o: list[stream.Interface]

    def __init__(self, targets: Sequence[tuple[frozenset[LoadTarget], int]]) -> None:
        self._targets = tuple(targets)
        signature = stream.Signature(config_layout(), always_ready=True)
        super().__init__(
            {
                "i": In(signature),
                "core": In(8),
                "o": Out(signature).array(len(self._targets)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build a register for all and one per output."""
        m = Module()
        valid, core = Signal(), Signal(8)
        word = Signal.like(self.i.payload)
        m.d.sync += [
            valid.eq(self.i.valid),
            core.eq(self.core),
            word.eq(self.i.payload),
        ]
        for out, (kinds, number) in zip(self.o, self._targets, strict=True):
            mine = (core == number) | (core == ALL_CORES)
            m.d.sync += [
                out.valid.eq(valid & mine & word.target.matches(*kinds)),
                out.payload.eq(word),
            ]
        return m


def registered_sum(m: Module, values: Iterable[Value], width: int) -> Value:
    """Add ``values`` modulo ``2**width`` in a tree with a register after every addition."""
    level = list(values)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = []
        for pair in pairs:
            total = Signal(width)
            m.d.sync += total.eq(sum(pair[1:], pair[0]))
            level.append(total)
    return level[0]
