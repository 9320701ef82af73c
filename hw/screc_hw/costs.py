"""What common parts cost on UltraScale+.

LUTs are counted before they are packed in pairs, flip-flops before a tool moves them into DSPs and
RAMs, as Yosys maps them (``synth_xilinx -family xcup``).
"""

from __future__ import annotations

from screc_hw.resources import Resources, memory_blocks

__all__ = ["bits", "blocks", "memory", "queue", "registers", "skid"]


def bits(count: int) -> int:
    """Bits that tell ``count`` things apart."""
    return (count - 1).bit_length()


def registers(ff: int, lut: int = 0) -> Resources:
    """Flip-flops, and LUTs before them."""
    return Resources(ff=ff, lut=lut)


def skid(width: int, control: int = 5) -> Resources:
    """Two registers and a choice; ``control`` LUTs of valid, ready and enables."""
    return registers(2 * width + 2, width + control)


def blocks(width: int, depth: int) -> Resources:
    """A memory as Yosys maps it: two LUT RAMs rather than a block where the width is small."""
    if 64 < depth <= 128 and width <= 25:
        return 2 * memory_blocks(64, width)
    return memory_blocks(depth, width)


def memory(width: int, depth: int) -> Resources:
    """A memory with a registered output, which LUT RAM has in flip-flops."""
    made = blocks(width, depth)
    return made + registers(0 if made.bram36 else width)


def queue(
    width: int, depth: int, *, reserved: bool = False, stored: int | None = None
) -> Resources:
    """A ``stream.DeepQueue``: memory, two registers and a choice; pointers and level.

    ``stored``: its memory's width where it has bits that nobody reads, ``width`` if None.
    """
    entries = 1 << bits(depth)
    pointer = bits(entries)
    control = registers(3 * pointer + 6 + (not reserved), 2 * pointer + 12)
    made = blocks(stored or width, entries)
    output = 0 if made.bram36 else width  # LUT RAM's is in flip-flops
    return made + registers(2 * width + output, width) + control
