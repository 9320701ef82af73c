"""What passes between the parts of a memory core."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ShapeCastable, ShapeLike, signed
from amaranth.lib import data

from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import FEATURE_FIELDS, LOOKUP_FIELDS
from screc_hw.stream import index_bits, lookup_layout

RANK_BITS = LOOKUP_FIELDS["rank"][1]
SAMPLE_BITS = LOOKUP_FIELDS["sample"][1]
TT_TABLE_BITS = FEATURE_FIELDS["tt_table"][1]
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
    """How a lookup's beats become slices, the same in every lane.

    ``zero``: no beats come, and every slice is 0. ``position``: place of slice 0 in the first beat,
    in units of lanes / 2 bytes. ``last_slice`` and ``last_beat`` count from 0; the latter is
    meaningless when ``zero``. ``last``: of its lane's partial.
    """
    rowwise = {"rowwise": 1} if params.rowwise else {}
    return data.StructLayout(
        {
            "bag": bag_layout(params),
            "last": 1,
            "zero": 1,
            "int4": 1,
            **rowwise,
            "position": index_bits(params.positions),
            "last_slice": index_bits(params.max_slices),
            "last_beat": index_bits(params.max_row_beats),
        }
    )


def place_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A lookup whose ranges are checked, before its address is.

    ``lane``: one bit per tier of ``params.tiers``; ``offset``: byte within the lane's memory, from
    its base; ``local``: row number for the TT lane; ``table``: number of its TT cores. ``row.last``
    is the bag's end.
    """
    tt = {"local": RANK_BITS, "table": TT_TABLE_BITS} if "tt" in params.tiers else {}
    return data.StructLayout(
        {
            "lane": len(params.tiers),
            "offset": OFFSET_BITS + 1,
            "beats": count_bits(params.max_row_beats),
            **tt,
            "row": row_layout(params),
        }
    )


def request_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A row to read in DRAM: ``head`` of its ``beats`` beats lie before the next 4 KiB boundary."""
    return data.StructLayout(
        {
            "address": params.address_bits,
            "head": count_bits(params.max_row_beats),
            "beats": count_bits(params.max_row_beats),
            "tail": tail_place_layout(params),
        }
    )


def onchip_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A row to read on chip, at beat ``address``."""
    return data.StructLayout(
        {
            "address": index_bits(max(2, params.onchip_beats)),
            "last_beat": index_bits(params.max_row_beats),
            "tail": tail_place_layout(params),
        }
    )


def tt_request_layout() -> data.StructLayout:
    """A row to reconstruct: ``local`` ranks behind the first of the TT range of ``table``."""
    return data.StructLayout({"local": RANK_BITS, "table": TT_TABLE_BITS})


def tt_row_layout(params: MemoryCoreParams) -> data.ArrayLayout:
    """A slice of a reconstructed row, on the table's row grid with ``tt_fraction`` more bits."""
    return data.ArrayLayout(signed(params.code_bits), params.lanes)


def tail_place_layout(params: MemoryCoreParams) -> data.StructLayout:
    """Where scale and bias lie: 32-bit ``word`` of the row's last beat, if it is ``rowwise``."""
    if not params.rowwise:
        return data.StructLayout({})
    return data.StructLayout({"rowwise": 1, "word": index_bits(params.beat_bytes // 4)})


def tail_layout() -> data.StructLayout:
    """The tail of a row-wise row: two fp16 values."""
    return data.StructLayout({"scale": 16, "bias": 16})


def routed_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A lookup on its way to its ``lane``: address known and within the limit, or ``row.zero``."""
    members: dict[str, ShapeLike | ShapeCastable[Any]] = {
        "lane": len(params.tiers),
        "dram": request_layout(params),
    }
    if "onchip" in params.tiers:
        members["onchip"] = onchip_layout(params)
    if "tt" in params.tiers:
        members["tt"] = tt_request_layout()
    return data.StructLayout({**members, "row": row_layout(params)})


def piece_layout(params: MemoryCoreParams) -> data.StructLayout:
    """Some components of slice ``slice`` of a lookup, before they are scaled; the others are 0.

    ``begin`` and ``complete``: first and last piece of its slice; ``end``: last piece of the
    lookup; ``last``: the lookup ends its lane's partial. With row-wise rows, ``rowwise`` and
    ``tail``; ``active`` says which halves of the lanes the bias is for.
    """
    rowwise = (
        {"rowwise": 1, "tail": tail_layout(), "active": params.halves} if params.rowwise else {}
    )
    return data.StructLayout(
        {
            "bag": bag_layout(params),
            "slice": index_bits(params.max_slices),
            "begin": 1,
            "complete": 1,
            "end": 1,
            "last": 1,
            **rowwise,
            "data": data.ArrayLayout(signed(params.code_bits), params.lanes),
        }
    )


def lane_piece_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A piece and the number of its ``lane`` among those that share a pool."""
    members = {str(name): field.shape for name, field in piece_layout(params)}
    return data.StructLayout({**members, "lane": index_bits(len(params.tiers))})


def value_layout(params: MemoryCoreParams) -> data.StructLayout:
    """A piece as the pool adds it: scaled, on one grid with what it is added to."""
    bits = params.acc_bits if params.rowwise else params.code_bits
    members = {
        str(name): field.shape
        for name, field in lane_piece_layout(params)
        if name not in ("rowwise", "tail", "active")
    }
    return data.StructLayout({**members, "data": data.ArrayLayout(signed(bits), params.lanes)})
