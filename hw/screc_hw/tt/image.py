"""Memory images of TT cores and the table descriptors, as LOAD writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screc_hw.protocol import TT_TABLE_FIELDS, TT_TABLE_WORDS, LoadTarget, pack
from screc_hw.tt.codes import Int8Cores, check_codes
from screc_hw.tt.params import COLUMNS, DIGIT_BITS, PREFIX_BITS, TtParams
from screc_hw.tt.shape import CHUNK, GROUPS, TtShape

Words = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class TtTable:
    """A table as a reconstructor holds it.

    Parameters
    ----------
    shape
        Its sizes.
    cores
        int8 (p1, q1, r1), (p2, r1, q2, r2), (p3, r2, q3), in [-127, 127].
    shift1
        Rounding shift of the first product, 0..7.
    m, s
        Requantisation of the second product.
    pins
        Pinned prefixes: 0 to pins - 1.

    Raises
    ------
    ValueError
        If a core has another shape, or a value is out of its range.
    """

    shape: TtShape
    cores: Int8Cores
    shift1: int
    m: int
    s: int
    pins: int = 0

    def __post_init__(self) -> None:
        check_codes(self.shape, self.cores, shift1=self.shift1, m=self.m, s=self.s)
        if not 0 <= self.pins <= self.shape.prefixes:
            raise ValueError(f"pins must lie in 0..{self.shape.prefixes}, not {self.pins}")


def reciprocal(divisor: int, bits: int) -> int:
    """Return m with ``(n * m) >> (bits + DIGIT_BITS) == n // divisor`` for all n < 2**bits.

    ``m = ceil(2**S / divisor)`` exceeds the exact factor by e / divisor with e < divisor; the error
    n · e / (divisor · 2**S) stays below 1 / divisor, as n · e < 2**(bits + DIGIT_BITS) = 2**S.
    """
    return -(-(1 << (bits + DIGIT_BITS)) // divisor)


def core1_words(table: TtTable, params: TtParams) -> Words:
    """The first core: per i1 and step, ``chain`` elements of 4 groups."""
    shape, chain = table.shape, params.chain
    p1, q1, r1 = shape.core_shapes[0]
    k1 = params.links(r1)
    rows = GROUPS // 2 if params.pairs(shape) else GROUPS
    padded = np.zeros((p1, rows, k1 * chain), np.int8)
    padded[:, :q1, :r1] = table.cores[0]
    if params.pairs(shape):
        padded = np.concatenate([padded, padded], axis=1)
    image = padded.reshape(p1, GROUPS, k1, chain).transpose(0, 2, 3, 1)
    return _words(image)


def core2_words(table: TtTable, params: TtParams) -> Words:
    """The second core: per i2 and word, ``chain`` elements of 2 × 4 columns."""
    shape, chain = table.shape, params.chain
    p2, r1, q2, r2 = shape.core_shapes[1]
    k1, k2 = params.links(r1), params.links(r2)
    padded = np.zeros((p2, k1 * chain, q2, k2 * chain), np.int8)
    padded[:, :r1, :, :r2] = table.cores[1]
    # (i2, half, T, block of 4 columns, link, element, column)
    halves = 2 if params.pairs(shape) else 1
    split = padded.reshape(p2, k1, chain, halves, q2 // halves, k2 * chain // COLUMNS, COLUMNS)
    steps = split.transpose(0, 4, 5, 1, 3, 2, 6)  # i2, T, block, link, half, element, column
    steps = steps.reshape(p2, -1, halves, chain, COLUMNS)
    if halves == 1:
        count = params.steps1(shape)
        even = np.zeros((p2, 2 * params.stride2(shape), chain, COLUMNS), np.int8)
        even[:, :count] = steps[:, :, 0]
        steps = even.reshape(p2, -1, 2, chain, COLUMNS)
    return _words(steps.transpose(0, 1, 3, 2, 4))


def core3_words(table: TtTable, params: TtParams) -> Words:
    """The third core: per i3, block of 4 columns and step, ``chain`` elements of 4 columns."""
    shape, chain = table.shape, params.chain
    p3, r2, q3 = shape.core_shapes[2]
    k2 = params.links(r2)
    padded = np.zeros((p3, k2 * chain, q3), np.int8)
    padded[:, :r2] = table.cores[2]
    image = padded.reshape(p3, k2, chain, q3 // CHUNK, CHUNK).transpose(0, 3, 1, 2, 4)
    return _words(image)


def _words(image: NDArray[np.int8]) -> Words:
    return np.ascontiguousarray(image).reshape(-1).view("<u8")


def descriptor(
    table: TtTable, params: TtParams, bases: tuple[int, int, int], pin_base: int
) -> list[int]:
    """Words of a table's descriptor: its cores begin at ``bases``, its pinned entries there."""
    shape = table.shape
    blocks = shape.q[2] // CHUNK
    chunk1 = shape.q[1] * blocks
    value = pack(
        TT_TABLE_FIELDS,
        rows=shape.rows,
        p3=shape.p[2],
        p2=shape.p[1],
        m3=reciprocal(shape.p[2], params.row_bits),
        m2=reciprocal(shape.p[1], PREFIX_BITS),
        base1=bases[0],
        base2=bases[1],
        base3=bases[2],
        stride1=params.links(shape.ranks[0]),
        stride2=params.stride2(shape),
        stride3=blocks * params.links(shape.ranks[1]),
        entry_words=params.entry_words(shape),
        pins=table.pins,
        steps1=params.steps1(shape),
        steps2=params.steps2(shape),
        k2=params.links(shape.ranks[1]),
        blocks=blocks,
        shift1=table.shift1,
        pairs=int(params.pairs(shape)),
        slices=shape.dim // params.slice_lanes,
        chunk1=chunk1,
        chunk2=params.rounds(shape) * blocks if params.pairs(shape) else 2 * chunk1,
        m=table.m,
        s=table.s,
        chunks=shape.dim // CHUNK,
        pin_base=pin_base,
        row_blocks=params.blocks(shape),
    )
    return [value >> 64 * i & (1 << 64) - 1 for i in range(TT_TABLE_WORDS)]


def load_blocks(tables: Sequence[TtTable], params: TtParams) -> list[tuple[LoadTarget, Words]]:
    """Everything that LOAD writes for these tables, in order; each from address 0.

    Raises
    ------
    ValueError
        If a table is beyond the maxima or they do not fit together.
    """
    descriptors: list[int] = []
    images: tuple[list[Words], ...] = ([], [], [])
    ends, pin_end = [0, 0, 0], params.ring_words
    if len(tables) > params.max_tables:
        raise ValueError(f"at most {params.max_tables} tables fit, not {len(tables)}")
    for number, table in enumerate(tables):
        try:
            params.check(table.shape)
        except ValueError as error:
            raise ValueError(f"TT table {number}: {error}") from error
        descriptors += descriptor(table, params, (ends[0], ends[1], ends[2]), pin_end)
        for i, (make, words) in enumerate(
            zip(
                (core1_words, core2_words, core3_words), params.core_words(table.shape), strict=True
            )
        ):
            images[i].append(make(table, params))
            ends[i] += words
        pin_end += table.pins * params.entry_words(table.shape)
    for name, used, most in (
        ("core1_words", ends[0], params.core1_words),
        ("core2_words", ends[1], params.core2_words),
        ("core3_words", ends[2], params.core3_words),
        ("pinned_words", pin_end - params.ring_words, params.pinned_words),
    ):
        if used > most:
            raise ValueError(f"the TT tables take {used} {name}, which has {most}")
    targets = (LoadTarget.TT_CORE1, LoadTarget.TT_CORE2, LoadTarget.TT_CORE3)
    blocks = [(LoadTarget.TT_TABLES, np.array(descriptors, np.uint64))]
    blocks += [
        (target, np.concatenate(parts))
        for target, parts in zip(targets, images, strict=True)
        if parts
    ]
    return [*blocks, (LoadTarget.TT_PIN, np.array([len(tables)], np.uint64))]
