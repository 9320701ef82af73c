"""Shape of a table in tensor-train form: sizes and what a row costs."""

from __future__ import annotations

import dataclasses
import math

CHUNK = 4
"""Components that one step of the reconstructor writes together: q3 is a multiple of it."""

GROUPS = 4
"""Rows of the first core that are worked on together: the largest q1."""

MAX_DIGIT = 1024
"""Largest p: a row number's digit has 10 bits."""

MAX_PREFIXES = 1 << 20
"""Largest p1 × p2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtShape:
    """A table of up to p1·p2·p3 rows of q1·q2·q3 components, as three TT cores.

    Row (i1, i2, i3), i3 varying fastest, has component (j1, j2, j3), j3 fastest,
    ``sum over s, t of G1[i1, j1, s] · G2[i2, s, j2, t] · G3[i3, t, j3]``.

    Parameters
    ----------
    rows
        Rows that exist, at most p1·p2·p3.
    p, q
        Three factors each; p up to 1024, p1·p2 up to 2**20, q1 up to 4, q3 a multiple of 4.
    ranks
        (r1, r2).

    Raises
    ------
    ValueError
        If a value is out of its range; names it and what would be valid.
    """

    rows: int
    p: tuple[int, int, int]
    q: tuple[int, int, int]
    ranks: tuple[int, int]

    def __post_init__(self) -> None:
        for name, count in (("p", 3), ("q", 3), ("ranks", 2)):
            values = getattr(self, name)
            if len(values) != count or min(values) < 1:
                raise ValueError(f"{name} must be {count} numbers of at least 1, not {values}")
        if max(self.p) > MAX_DIGIT:
            raise ValueError(f"p must be at most {MAX_DIGIT} each, not {self.p}")
        if self.prefixes > MAX_PREFIXES:
            raise ValueError(f"p1 × p2 must be at most {MAX_PREFIXES}, not {self.prefixes}")
        if not 1 <= self.rows <= math.prod(self.p):
            raise ValueError(
                f"rows must lie in 1..{math.prod(self.p)} (the product of p {self.p}), "
                f"not {self.rows}"
            )
        if self.q[0] > GROUPS:
            raise ValueError(f"q1 must be at most {GROUPS}, not {self.q[0]}")
        if self.q[2] % CHUNK:
            raise ValueError(f"q3 must be a multiple of {CHUNK}, not {self.q[2]}")

    @property
    def dim(self) -> int:
        """Components of a row."""
        return math.prod(self.q)

    @property
    def prefixes(self) -> int:
        """Different (i1, i2): rows of one prefix share their first product."""
        return self.p[0] * self.p[1]

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the three cores: (p1, q1, r1), (p2, r1, q2, r2), (p3, r2, q3)."""
        (p1, p2, p3), (q1, q2, q3), (r1, r2) = self.p, self.q, self.ranks
        return (p1, q1, r1), (p2, r1, q2, r2), (p3, r2, q3)

    @property
    def parameters(self) -> int:
        """Numbers in the cores."""
        return sum(math.prod(core) for core in self.core_shapes)

    @property
    def prefix_macs(self) -> int:
        """Multiply-accumulates of the first product, q1·q2·r1·r2."""
        return self.q[0] * self.q[1] * self.ranks[0] * self.ranks[1]

    @property
    def row_macs(self) -> int:
        """Multiply-accumulates of the second product, q1·q2·q3·r2."""
        return self.dim * self.ranks[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a row without reuse."""
        return self.prefix_macs + self.row_macs
