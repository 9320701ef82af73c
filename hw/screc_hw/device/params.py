"""Parameters of the device's host side: request reader, loader, result writer, control."""

from __future__ import annotations

import dataclasses

from screc_hw.model import ModelShape
from screc_hw.protocol import (
    BEAT_BYTES,
    COMPUTE_COUNTER_STRIDE,
    GMEM_STRIDE,
    MEMORY_COUNTER_STRIDE,
    Register,
)
from screc_hw.resources import Resources, memory_blocks

ADDRESS_BITS = 12
"""4 KiB of registers, the usual range of a Vitis kernel."""

MAX_ROWS = BEAT_BYTES
"""Most rows of a compute core: a dense word, one byte per row, must fit a beat."""


def max_memory() -> int:
    """Memory cores that the register map has room for."""
    pointers = (Register.STATUS - Register.GMEM) // GMEM_STRIDE
    counters = (Register.COMPUTE_COUNTERS - Register.MEMORY_COUNTERS) // MEMORY_COUNTER_STRIDE
    return min(pointers, counters)


def max_compute() -> int:
    """Compute cores that the register map has room for."""
    return ((1 << ADDRESS_BITS) - Register.COMPUTE_COUNTERS) // COMPUTE_COUNTER_STRIDE


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostParams:
    """Compile-time maxima of the host side.

    Parameters
    ----------
    burst_beats
        Beats per read burst of the request queue (64 beats of 64 bytes are 4 KiB).
    prefetch_bursts
        Bursts that may be requested and not yet consumed.
    write_outstanding
        Result beats written whose response may be missing.
    timeout_cycles
        Cycles without progress after which a run ends with ``TIMEOUT``, for good.
    read_timeout_cycles
        Cycles without an answer after which a memory port has failed, fewer than
        ``timeout_cycles``; its block then ends with ``TIMEOUT``.
    """

    burst_beats: int = 16
    prefetch_bursts: int = 4
    write_outstanding: int = 16
    timeout_cycles: int = 1 << 20
    read_timeout_cycles: int = 1 << 16

    def __post_init__(self) -> None:
        if not 1 <= self.read_timeout_cycles < self.timeout_cycles:
            raise ValueError(
                f"read_timeout_cycles must lie in 1..{self.timeout_cycles - 1} (below "
                f"timeout_cycles), not {self.read_timeout_cycles}"
            )

    @property
    def port_bits(self) -> int:
        """Width of the host port."""
        return BEAT_BYTES * 8

    def cycles(self, model: ModelShape, *, rows: int) -> float:
        """Cycles per sub-batch: its announcement, bag headers and dense words, one per cycle."""
        return 1 + rows * len(model.features) + model.dense

    @staticmethod
    def fill(*, latency: float) -> float:
        """Cycles that a start adds before its first word and after its last result.

        The queue's first burst is read; results are written; then, when they are acknowledged, the
        status beat is.
        """
        return 3 * latency

    def resources(self, *, memory: int, compute: int) -> Resources:
        """Estimate from the datapath's widths."""
        fifo = memory_blocks(self.burst_beats * self.prefetch_bursts, self.port_bits)
        return fifo + Resources(
            lut=6000 + 400 * (memory + compute),
            ff=8000 + 600 * (memory + compute),
            dsp=1,  # a block's length, checked against its counts
        )
