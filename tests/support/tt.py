"""Tables of random TT cores."""

from __future__ import annotations

import math

import numpy as np

from screc.plan.schema import TtPart
from screc.tt.shape import choose_shape
from screc_hw.numerics import requantise_params
from screc_hw.tt.shape import TtShape
from screc_sim.golden.quant import QuantModel, RowOrder, TtRange
from screc_sim.golden.tt import QuantTt


def random_tt(shape: TtShape, rng: np.random.Generator, scale: float, fraction: int) -> QuantTt:
    """Random cores, scaled so that components spread over the row grid."""
    one, two, three = (rng.integers(-127, 128, size).astype(np.int8) for size in shape.core_shapes)
    r1, r2 = shape.ranks
    first = 73.0**2 * math.sqrt(r1)  # 73: root mean square of a number in a core
    shift1 = max(0, min(7, math.ceil(math.log2(first * 4 / 32767))))
    second = first / 2**shift1 * 73 * math.sqrt(r2)
    m, s = requantise_params(50 * 2**fraction / second)
    return QuantTt(shape, (one, two, three), shift1, m, s, fraction, scale)


def tt_part(first: int, last: int, dim: int, *, rank: int = 4, pins: int = 0) -> TtPart:
    """Ranks ``[first, last)`` in TT form."""
    shape = choose_shape(last - first, dim, rank)
    return TtPart(first, last, shape, min(pins, shape.prefixes))


def with_random_tt(
    model: QuantModel,
    parts: dict[int, TtPart],
    orders: list[RowOrder],
    fraction: int,
    seed: int = 4,
) -> QuantModel:
    """Give tables, by number, random rows in TT form."""
    rng = np.random.default_rng(seed)
    return model.with_tt(
        fraction,
        {
            i: TtRange(
                part.first,
                random_tt(part.shape, rng, model.tables[i].scale, fraction),
                orders[i],
            )
            for i, part in parts.items()
        },
    )
