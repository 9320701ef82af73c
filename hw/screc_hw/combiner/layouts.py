"""Payloads and addresses inside the combiner."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Value, signed
from amaranth.lib import data

from screc_hw.combiner.params import CombinerParams
from screc_hw.stream import index_bits, partial_layout

LOG2_BITS = 5
"""ceil(log2) of a bag's length, 0..16."""


def part_layout(params: CombinerParams) -> data.StructLayout:
    """A slice on its way to the accumulators: of a partial, or of an ``empty`` bag (sum 0)."""
    return data.StructLayout({**dict(_members(partial_layout(params))), "empty": 1})


def sum_layout(params: CombinerParams) -> data.StructLayout:
    """A finished slice: the whole bag's sum; ``last`` marks the bag's last slice."""
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "row": index_bits(params.rows),
            "slice": index_bits(params.max_slices),
            "last": 1,
            "acc": data.ArrayLayout(signed(params.acc_bits), params.lanes),
        }
    )


def ahead_layout(params: CombinerParams) -> data.StructLayout:
    """The bag that a sum belongs to; with means, what the header said of it."""
    mean = {"length": 16, "reciprocal": 16} if params.mean else {}
    return data.StructLayout({"feature": index_bits(params.max_features), **mean})


def header_layout(params: CombinerParams) -> data.StructLayout:
    """What the admission notes of a bag, at ``address`` (see :func:`bag_address`) of ``slot``."""
    mean = {"reciprocal": 16} if params.mean else {}
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "address": address_bits(params.slot_bags),
            "length": 16,
            **mean,
        }
    )


def zero_layout(params: CombinerParams) -> data.StructLayout:
    """An empty bag whose ``slices`` (0 counts as 1) zero words are to be written."""
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "row": index_bits(params.rows),
            "feature": index_bits(params.max_features),
            "slices": 8,
        }
    )


def address_bits(count: int) -> int:
    """Bits of an address below ``count``, at least 1."""
    return index_bits(count)


def bag_address(params: CombinerParams, row: Value, feature: Value) -> Value:
    """Address of a bag within its slot's memories."""
    return Cat(
        feature[: (params.max_features - 1).bit_length()], row[: (params.rows - 1).bit_length()]
    )


def slot_address(params: CombinerParams, slot: Value, address: Value) -> Value:
    """Address over all slots of ``address`` within a slot of ``slot_bags``."""
    return Cat(
        address[: (params.slot_bags - 1).bit_length()], slot[: (params.slots - 1).bit_length()]
    )


def sum_address(params: CombinerParams, bag: Value, slice_: Value) -> Value:
    """Address of a slice's accumulators; ``bag`` is a :func:`slot_address`."""
    return Cat(slice_[: (params.max_slices - 1).bit_length()], bag)


def _members(layout: data.StructLayout) -> list[tuple[str, Any]]:
    return [(str(name), field.shape) for name, field in layout]
