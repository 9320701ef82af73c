"""What passes between the parts of a TT reconstructor."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from screc_hw.numerics import MIDDLE_BITS, MULTIPLIER_BITS, SHIFT_MAX
from screc_hw.protocol import TT_TABLE_FIELDS
from screc_hw.stream import index_bits
from screc_hw.tt.params import COLUMNS, CORE_BITS, TtParams
from screc_hw.tt.shape import GROUPS

SHIFT_BITS = TT_TABLE_FIELDS["shift1"][1]


def addresses_layout(params: TtParams) -> data.StructLayout:
    """Words of the three cores and of the store of first products."""
    return data.StructLayout(
        {
            "core1": index_bits(params.core1_words),
            "core2": index_bits(params.core2_words),
            "core3": index_bits(params.core3_words),
            "store": params.store_bits,
        }
    )


def first_layout(params: TtParams) -> data.StructLayout:
    """A first product to compute into the store's ``entry``.

    ``steps`` and ``links`` (K1) are one less than their counts. ``waited``: a second product waits.
    """
    return data.StructLayout(
        {
            "core1": index_bits(params.core1_words),
            "core2": index_bits(params.core2_words),
            "entry": params.store_bits,
            "steps": params.steps_bits,
            "links": index_bits(params.max_links),
            "pairs": 1,
            "shift": SHIFT_BITS,
            "waited": 1,
        }
    )


def finish_layout(params: TtParams) -> data.StructLayout:
    """How the second product's blocks become a row: its scale and the places of its chunks."""
    return data.StructLayout(
        {
            "m": MULTIPLIER_BITS,
            "s": SHIFT_MAX.bit_length(),
            "chunk1": params.chunk_bits,
            "chunk2": params.chunk_bits,
            "chunks": params.chunk_bits,
            "slices": index_bits(params.max_slices),
        }
    )


def second_layout(params: TtParams) -> data.StructLayout:
    """A second product of the store's ``entry``; ``waits``: for a first product in the ring.

    ``steps``, ``links`` (K2), ``blocks`` (B) and ``finish.slices`` are one less than their counts;
    ``row_blocks`` is T · B.
    """
    return data.StructLayout(
        {
            "core3": index_bits(params.core3_words),
            "entry": params.store_bits,
            "steps": params.steps_bits,
            "links": index_bits(params.max_links),
            "blocks": index_bits(params.max_q3 // COLUMNS),
            "row_blocks": params.max_blocks.bit_length(),
            "waits": 1,
            "finish": finish_layout(params),
        }
    )


def job_layout(params: TtParams) -> data.StructLayout:
    """A row on its way to a lane: its second product, and its first one unless it is a ``hit``.

    ``pin``: the first product alone, into ``second.entry``. Entries are those of pinned prefixes; a
    lane gives others a place in its ring.
    """
    return data.StructLayout(
        {"pin": 1, "hit": 1, "first": first_layout(params), "second": second_layout(params)}
    )


def tag_layout(params: TtParams) -> data.StructLayout:
    """What the sums must know of a step.

    ``begin`` and ``end``: first and last step of a sum over the rank. First products: ``entry`` and
    ``part`` say where in the store the block goes, ``done`` that it is the last of one that is
    waited for. Second products: ``block`` within the row, ``last`` of the row.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "second": 1,
            "begin": 1,
            "end": 1,
            "shift": SHIFT_BITS,
            "entry": params.store_bits,
            "part": index_bits(params.chain // COLUMNS),
            "done": 1,
            "block": params.chunk_bits,
            "last": 1,
            "finish": finish_layout(params),
        }
    )


def step_layout(params: TtParams) -> data.StructLayout:
    """A step on its way along the positions.

    ``second``: operands are of the second product. ``upper``: of the second core's 8 columns, those
    that groups 0 and 1 (bit 0), and 2 and 3 (bit 1) take.
    """
    return data.StructLayout(
        {"at": addresses_layout(params), "second": 1, "upper": 2},
    )


def write_layout(params: TtParams) -> data.StructLayout:
    """A block of a first product for the store: 4 elements of every group, part ``part``."""
    return data.StructLayout(
        {
            "valid": 1,
            "entry": params.store_bits,
            "part": index_bits(params.chain // COLUMNS),
            "data": data.ArrayLayout(data.ArrayLayout(signed(MIDDLE_BITS), COLUMNS), GROUPS),
        }
    )


def block_layout(params: TtParams) -> data.StructLayout:
    """A block of a second product: 4 components of every group, before they are requantised."""
    return data.StructLayout(
        {
            "data": data.ArrayLayout(data.ArrayLayout(signed(params.acc_bits), COLUMNS), GROUPS),
            "block": params.chunk_bits,
            "last": 1,
            "finish": finish_layout(params),
        }
    )


def operands_layout() -> data.StructLayout:
    """One element of the dot products: a number per group, and 4 columns for each two groups."""
    return data.StructLayout(
        {
            "rows": data.ArrayLayout(signed(MIDDLE_BITS), GROUPS),
            "columns": data.ArrayLayout(data.ArrayLayout(signed(CORE_BITS), COLUMNS), 2),
        }
    )


def slice_layout(params: TtParams) -> data.StructLayout:
    """A slice of a row; ``last`` of the row."""
    return data.StructLayout(
        {
            "data": data.ArrayLayout(signed(params.code_bits), params.slice_lanes),
            "last": 1,
        }
    )
