"""What passes between the parts of a memory core."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import FEATURE_FIELDS, LOOKUP_FIELDS
from screc_hw.stream import index_bits, lookup_layout

RANK_BITS = LOOKUP_FIELDS["rank"][1]
SAMPLE_BITS = LOOKUP_FIELDS["sample"][1]
OFFSET_BITS = FEATURE_FIELDS["base"][1]
"""Width of byte offsets from the core's base pointer."""


def count_bits(most: int) -> int:
    """Bits that hold the counts 0 to ``most``."""
    return most.bit_length()


def burst_layout(params: MemoryCoreParams, most: int) -> data.StructLayout:
    """A read burst of 1 to ``most`` beats from a beat-aligned ``address``."""
    return data.StructLayout({"address": params.address_bits, "beats": count_bits(most)})


def section_info_layout() -> data.StructLayout:
    """What the records of a section have in common, see ``stream.section_layout``."""
    return data.StructLayout({"lookups": 32, "samples": SAMPLE_BITS, "sequence": 16})


def record_layout() -> data.StructLayout:
    """A lookup record and its section's common values; ``final`` marks the section's last record.

    ``sequence`` is the section's first sub-batch.
    """
    return data.StructLayout(
        {"lookup": lookup_layout(), "final": 1, "samples": SAMPLE_BITS, "sequence": 16}
    )


def bag_layout(params: MemoryCoreParams) -> data.StructLayout:
    """Name of a bag as the combiner knows it."""
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "row": index_bits(params.rows),
            "feature": index_bits(params.max_features),
        }
    )


def checked_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A lookup of a bag that exists; ``sequence`` is its own sub-batch.

    ``last`` ends the bag's partial.
    """
    return data.StructLayout(
        {
            "rank": RANK_BITS,
            "staged": 1,
            "last": 1,
            "sequence": params.sequence_bits,
            "bag": bag_layout(params),
        }
    )


def row_layout(params: MemoryCoreParams) -> data.StructLayout:
    """How a lookup's beats become slices.

    ``zero``: no beats come, and every slice is 0. ``position``: place of slice 0 in the first beat,
    in units of lanes / 2 bytes. ``slices`` >= 1; ``beats`` >= 1, meaningless when ``zero``.
    """
    return data.StructLayout(
        {
            "bag": bag_layout(params),
            "last": 1,
            "zero": 1,
            "int4": 1,
            "position": index_bits(params.positions),
            "slices": count_bits(params.max_slices),
            "beats": count_bits(params.max_row_beats),
        }
    )


def request_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A row to read: ``head`` of its ``row.beats`` beats lie before the next 4 KiB boundary."""
    return data.StructLayout(
        {
            "address": params.address_bits,
            "head": count_bits(params.max_row_beats),
            "row": row_layout(params),
        }
    )


def slice_layout(params: MemoryCoreParams) -> data.StructLayout:
    """Slice ``slice`` of a lookup: ``end`` of the lookup, ``last`` lookup of the partial."""
    return data.StructLayout(
        {
            "bag": bag_layout(params),
            "slice": index_bits(params.max_slices),
            "end": 1,
            "last": 1,
            "data": data.ArrayLayout(signed(8), params.lanes),
        }
    )
