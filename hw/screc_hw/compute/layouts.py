"""Shapes of what the parts of a compute core give each other."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from screc_hw.compute.memories import WORD_BITS
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.numerics import LOGIT_CODE_BITS
from screc_hw.protocol import LAYER_FIELDS
from screc_hw.stream import index_bits

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
    """A step on its way along the positions: a word of activations, and the step's weights.

    Inputs of positions beyond ``last`` count as 0.
    """
    return data.StructLayout(
        {
            "activation": index_bits(params.bank_words),
            "weight": params.step_bits,
            "last": index_bits(CHAIN),
        }
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


def linear_layout(params: ComputeParams) -> data.StructLayout:
    """A LINEAR for the array: what its steps and its columns need.

    ``links`` steps per sum, inputs of the last step (``tail``) and ``n`` outputs are one less than
    their counts; ``source`` is the word
    of the activation memory. ``place`` says where the columns go.
    """
    return data.StructLayout(
        {
            "source": index_bits(params.bank_words),
            "links": index_bits(params.links),
            "tail": index_bits(CHAIN),
            "n": index_bits(params.max_n),
            "weight": params.step_bits,
            "place": place_layout(params),
        }
    )


def place_layout(params: ComputeParams) -> data.StructLayout:
    """Where the columns of an operation go and how they are scaled.

    ``entry`` of output 0; ``address`` the word of output 0 in the activation memory; ``slot`` and
    ``last`` as the sequencer needs them back.
    """
    return data.StructLayout(
        {
            "entry": index_bits(params.requantise_words),
            "relu": 1,
            "destination": 2,
            "address": index_bits(params.bank_words),
            "slot": index_bits(params.slots),
            "last": 1,
        }
    )


def columns_layout(params: ComputeParams) -> data.StructLayout:
    """The columns of an operation that come next: their place, and their count less one."""
    return data.StructLayout({"n": index_bits(params.max_n), "place": place_layout(params)})


def demand_layout(params: ComputeParams) -> data.StructLayout:
    """What sub-batches need of streamed weights.

    ``at``: the number of the operation that each has next; it ``wants`` its weights, and if it runs
    ``soon`` is to be waited for, or it ``may`` want them later. ``number``: that of the sub-batch
    that is looked at.
    """
    counter = index_bits(params.program_length)
    return data.StructLayout(
        {
            "at": data.ArrayLayout(counter, params.slots),
            "wants": params.slots,
            "soon": params.slots,
            "may": params.slots,
            "number": counter,
        }
    )


def fill_layout(params: ComputeParams) -> data.StructLayout:
    """A beat of streamed weights: a word for every position, all at one address."""
    return data.StructLayout(
        {
            "valid": 1,
            "address": index_bits(params.weight_words),
            "data": data.ArrayLayout(WORD_BITS, CHAIN),
        }
    )


def tagged_layout(params: ComputeParams) -> data.StructLayout:
    """What a column carries through the requantiser.

    ``bank`` and ``address`` of the activation memory; ``final`` column of its operation.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "destination": 2,
            "bank": index_bits(CHAIN),
            "address": index_bits(params.bank_words),
            "slot": index_bits(params.slots),
            "last": 1,
            "final": 1,
        }
    )


def codes_layout(params: ComputeParams) -> data.ArrayLayout:
    """One code of every sample; the logit's code has 16 bits."""
    return data.ArrayLayout(signed(LOGIT_CODE_BITS), params.rows)


def done_layout(params: ComputeParams) -> data.StructLayout:
    """An operation of ``slot`` is finished; ``last``: of the program."""
    return data.StructLayout({"valid": 1, "slot": index_bits(params.slots), "last": 1})


def schedule_layout(params: ComputeParams) -> data.StructLayout:
    """What runs: pulses when array and pairs begin an operation of a slot, and whether they work.

    A unit is ``active`` from the cycle after the pulse.
    """
    slot = index_bits(params.slots)
    return data.StructLayout(
        {
            "linear": 1,
            "linear_slot": slot,
            "linear_active": 1,
            "pairs": 1,
            "pairs_slot": slot,
            "pairs_active": 1,
        }
    )


def pairs_layout(params: ComputeParams) -> data.StructLayout:
    """A DOT: vectors, words of 8 components per vector, components of the last, all less one."""
    return data.StructLayout(
        {
            "slot": index_bits(params.slots),
            "vectors": index_bits(params.max_vectors),
            "links": index_bits(-(-params.max_dim // CHAIN)),
            "tail": index_bits(CHAIN),
            "place": place_layout(params),
            "first": index_bits(CHAIN * params.bank_words),
        }
    )
