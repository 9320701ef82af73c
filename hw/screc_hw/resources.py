"""Counts of FPGA resources."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """LUT, FF, DSP48E2, RAMB36 and URAM288 of a part of a design; estimates unless said."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram36: float = 0
    uram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            **{
                f.name: getattr(self, f.name) + getattr(other, f.name)
                for f in dataclasses.fields(Resources)
            }
        )

    def __mul__(self, count: int) -> Resources:
        return Resources(
            **{f.name: getattr(self, f.name) * count for f in dataclasses.fields(Resources)}
        )

    __rmul__ = __mul__

    def as_dict(self) -> dict[str, float]:
        """Return the counts by name."""
        return dataclasses.asdict(self)


RAMB18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of a simple dual-port RAMB18; a RAMB36 has twice the depth or the width.

Source: UG573, block RAM resources.
"""


URAM_DEPTH = 4096
"""Words of a URAM288, 72 bits each; memories at least as deep are put there. Source: UG573."""


def bank_depth(depth: int) -> int:
    """Words of one bank of a memory of ``depth``, so that no logic is behind its blocks' outputs.

    A power of two, where narrower blocks side by side cost as many as wide ones behind each other;
    from a URAM288's depth on, that depth.
    """
    if depth >= URAM_DEPTH:
        return URAM_DEPTH
    return max(2, depth) if depth <= RAMB18_SHAPES[0][0] else 1 << (depth - 1).bit_length()


def memory_blocks(depth: int, width: int) -> Resources:
    """Blocks for a simple dual-port memory: LUT RAM up to 64 deep, RAMB36, URAM from 4096 deep."""
    if depth <= 32:
        return Resources(lut=-(-width // 14) * 8)  # RAM32M16: 14 bits a slice of 8 LUT
    if depth <= 64:
        return Resources(lut=-(-width // 7) * 8)  # RAM64M8: 7 bits a slice of 8 LUT
    if depth >= URAM_DEPTH:
        return Resources(uram=-(-width // 72) * -(-depth // URAM_DEPTH))
    halves = min(-(-depth // words) * -(-width // bits) for words, bits in RAMB18_SHAPES)
    return Resources(bram36=halves / 2)
