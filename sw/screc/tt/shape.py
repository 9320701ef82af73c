"""Sizes of a table in tensor-train form, by the rules of TT-Rec and FBTT-Embedding."""

from __future__ import annotations

import itertools
import math

from screc_hw.model import ModelShape
from screc_hw.tt.shape import CHUNK, GROUPS, MAX_DIGIT, TtShape

MAX_ROWS = MAX_DIGIT**3
"""Most rows of a table in tensor-train form."""

Triple = tuple[int, int, int]


def choose_shape(rows: int, dim: int, rank: int | tuple[int, int]) -> TtShape:
    """Choose p and q of a table.

    p is FBTT-Embedding's rule: the row count, rounded up to a multiple of 1, 10, 100, ..., is split
    into the most balanced three factors. q is the most balanced that the reconstructor takes.

    Parameters
    ----------
    rows
        Rows of the table, 1..2**30.
    dim
        Components of a row, a multiple of 4.
    rank
        Rank of both bonds, or (r1, r2). A rank that no table of this size has is lowered to the
        largest that one has: it would only cost.

    Raises
    ------
    ValueError
        If a value is out of its range; names it and what would be valid.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows must lie in 1..{MAX_ROWS} for a TT table, not {rows}")
    if dim < CHUNK or dim % CHUNK:
        raise ValueError(f"dim must be a positive multiple of {CHUNK} for a TT table, not {dim}")
    r1, r2 = (rank, rank) if isinstance(rank, int) else rank
    if min(r1, r2) < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    p, q = row_factors(rows), dim_factors(dim)
    left, middle, right = (a * b for a, b in zip(p, q, strict=True))
    return TtShape(
        rows=rows,
        p=p,
        q=q,
        ranks=(min(r1, left, middle * right), min(r2, right, left * middle)),
    )


def row_factors(rows: int) -> Triple:
    """Factors p of ``rows`` rows, ascending, at most ``MAX_DIGIT``, of a product >= ``rows``.

    Of the roundings of the row count the one with the most balanced factors, the smallest of equal
    ones; where none has factors that small, three nearly equal numbers.
    """
    found = []
    for k in range(len(str(rows))):
        step = 10**k
        found += [f for f in _triples(-(-rows // step) * step) if f[2] <= MAX_DIGIT]
    if found:
        return max(found, key=entropy)
    p3 = p2 = next(i for i in itertools.count(1) if i**3 >= rows)
    return -(-rows // (p2 * p3)), p2, p3


def dim_factors(dim: int) -> Triple:
    """Factors q of ``dim`` components: q1 at most 4, q3 a multiple of 4, the most balanced.

    Of equally balanced ones, the one that keeps most of the reconstructor busy, then the one of
    least q1, then q2.
    """
    splits = [
        (q1, rest // q3, q3)
        for q1 in range(1, GROUPS + 1)
        if dim % q1 == 0
        for rest in [dim // q1]
        for q3 in range(CHUNK, rest + 1, CHUNK)
        if rest % q3 == 0
    ]
    return max(splits, key=lambda q: (entropy(tuple(sorted(q))), _busy_groups(q), -q[0], -q[1]))


def _busy_groups(q: Triple) -> int:
    """Groups of the array with work: see ``TtParams.pairs``."""
    return 2 * q[0] if q[0] <= GROUPS // 2 and q[1] % 2 == 0 else q[0]


def entropy(factors: tuple[int, ...]) -> float:
    """Entropy of factors over their sum, in nats: the larger, the more balanced."""
    total = sum(factors)
    return -sum(f / total * math.log(f / total) for f in factors)


def _triples(number: int) -> list[Triple]:
    """Factors a <= b <= c of a number."""
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return [
        (a, b, number // (a * b))
        for a in small
        if a**3 <= number
        for b in small
        if a <= b and a * b * b <= number and number % (a * b) == 0
    ]


def compression(model: ModelShape, tables: int, rank: int) -> float:
    """Bytes of all tables over what they take with the largest in tensor-train form, both fp32.

    Parameters
    ----------
    model
        The model.
    tables
        How many of its tables, those with most numbers, are in tensor-train form.
    rank
        Rank of both bonds.

    Raises
    ------
    ValueError
        If the model has fewer tables.
    """
    if not 0 <= tables <= len(model.tables):
        raise ValueError(f"tables must lie in 0..{len(model.tables)}, not {tables}")
    by_size = sorted(model.tables, key=lambda t: -t.rows * t.dim)
    full = sum(t.rows * t.dim for t in by_size)
    left = sum(t.rows * t.dim for t in by_size[tables:])
    left += sum(choose_shape(t.rows, t.dim, rank).parameters for t in by_size[:tables])
    return full / left
