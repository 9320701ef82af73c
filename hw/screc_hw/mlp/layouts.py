"""Shapes of what the parts of a compute core give each other."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from screc_hw.mlp.params import ComputeParams
from screc_hw.stream import index_bits


def step_layout(params: ComputeParams) -> data.StructLayout:
    """A step on its way along the positions: a word of activations, and the step's weights."""
    return data.StructLayout(
        {"activation": index_bits(params.bank_words), "weight": params.step_bits}
    )


def tag_layout(params: ComputeParams) -> data.StructLayout:
    """What the accumulators must know of a step: the first and last of its sum, outputs less 1."""
    return data.StructLayout({"valid": 1, "begin": 1, "end": 1, "outs": index_bits(params.outs)})


def operands_layout(params: ComputeParams) -> data.StructLayout:
    """One element of the dot products: an input of every sample, a weight of every output."""
    return data.StructLayout(
        {
            "inputs": data.ArrayLayout(signed(8), params.rows),
            "weights": data.ArrayLayout(signed(8), params.outs),
        }
    )


def bank_write_layout(params: ComputeParams) -> data.StructLayout:
    """A write to a bank of the activation memory, a bit of ``enable`` per sample."""
    return data.StructLayout(
        {
            "enable": params.rows,
            "address": index_bits(params.bank_words),
            "data": data.ArrayLayout(signed(8), params.rows),
        }
    )


def values_layout(params: ComputeParams) -> data.ArrayLayout:
    """One accumulator of every sample."""
    return data.ArrayLayout(signed(params.acc_bits), params.rows)
