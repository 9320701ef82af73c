"""Shapes of what the parts of a compute core give each other."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from screc_hw.compute.params import ComputeParams
from screc_hw.protocol import LAYER_FIELDS
from screc_hw.stream import index_bits

WORD_BITS = 64
"""A word of LOAD."""

OPERATION_WORDS = -(
    -max(low + width for name, (low, width) in LAYER_FIELDS.items() if name != "reserved")
    // WORD_BITS
)
"""Words of an operation that hold anything yet."""


def operation_layout() -> data.FlexibleLayout:
    """An operation, as in ``protocol.LAYER_FIELDS``."""
    fields: dict[int | str, data.Field] = {
        name: data.Field(width, low)
        for name, (low, width) in LAYER_FIELDS.items()
        if name != "reserved"
    }
    return data.FlexibleLayout(OPERATION_WORDS * WORD_BITS, fields)


def step_layout(params: ComputeParams) -> data.StructLayout:
    """What walks along the columns of the array.

    ``activations`` one input of every row; ``first`` and ``last`` mark a tile's first and last
    input; ``remaining`` (with ``last``): columns that hold an output, counted from here.
    """
    return data.StructLayout(
        {
            "activations": data.ArrayLayout(signed(8), params.rows),
            "first": 1,
            "last": 1,
            "remaining": range(params.columns + 1),
        }
    )


def issue_layout(params: ComputeParams) -> data.StructLayout:
    """One input of a LINEAR: where it is, where its weights are, and its place in the tile.

    ``dense``: read the dense buffer; ``pop``: no later tile reads this input.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "dense": 1,
            "pop": 1,
            "first": 1,
            "last": 1,
            "remaining": range(params.columns + 1),
            "activation": index_bits(params.activation_words),
            "weight": index_bits(params.weight_words),
        }
    )


def read_layout(params: ComputeParams) -> data.StructLayout:
    """What every row of the feature buffer does in one cycle.

    ``left`` and ``right`` word addresses; ``load`` (two cycles later than they) takes the words
    read, else they shift, by ``dot_lanes`` components for ``dot`` and by one otherwise; ``first``
    starts a product's sum. ``dot`` holds for a whole operation.
    """
    address = index_bits(params.feature_words)
    return data.StructLayout({"left": address, "right": address, "load": 1, "dot": 1, "first": 1})


def feature_port_layout(params: ComputeParams) -> data.StructLayout:
    """A write to one row of the feature buffer: ``enable`` has a bit per component."""
    return data.StructLayout(
        {
            "enable": params.lanes,
            "address": index_bits(params.feature_words),
            "data": data.ArrayLayout(signed(8), params.lanes),
        }
    )


def values_layout(params: ComputeParams) -> data.ArrayLayout:
    """One accumulator of every row."""
    return data.ArrayLayout(signed(params.acc_bits), params.rows)
