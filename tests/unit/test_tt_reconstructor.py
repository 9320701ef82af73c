from __future__ import annotations

import numpy as np
import pytest

from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from tests.support.tt_bench import TtBench, random_table


def shape(rows: int, p: tuple, q: tuple, ranks: tuple) -> TtShape:
    return TtShape(rows=rows, p=p, q=q, ranks=ranks)


CASES = {
    "dim16": (shape(60, (3, 4, 5), (2, 2, 4), (8, 8)), 16, {}),
    "dim64": (shape(117, (4, 5, 6), (4, 4, 4), (16, 16)), 64, {}),
    "dim128": (shape(60, (3, 4, 5), (4, 4, 8), (8, 16)), 64, {}),
    "narrow slices": (shape(60, (3, 4, 5), (4, 4, 8), (8, 16)), 16, {}),
    "rank 1": (shape(7, (2, 2, 2), (2, 2, 4), (1, 1)), 16, {}),
    "one row": (shape(1, (1, 1, 1), (1, 1, 4), (1, 1)), 4, {}),
    "odd q": (shape(30, (2, 3, 5), (3, 3, 4), (5, 9)), 4, {}),
    "odd pairs": (shape(30, (2, 3, 5), (1, 2, 12), (3, 5)), 8, {}),
    "chain 4": (shape(30, (2, 3, 5), (2, 3, 4), (4, 4)), 8, {"chain": 4}),
    "chain 16": (shape(30, (2, 3, 5), (4, 4, 4), (16, 32)), 32, {"chain": 16}),
    "16 at once": (shape(30, (2, 3, 5), (4, 4, 4), (8, 8)), 32, {"requantisers": 16}),
    "4 at once": (shape(30, (2, 3, 5), (2, 4, 4), (8, 8)), 32, {"requantisers": 4}),
    "128 tables": (shape(60, (3, 4, 5), (2, 2, 4), (8, 8)), 16, {"max_tables": 128}),
    "two lanes": (shape(60, (3, 4, 5), (2, 2, 4), (8, 8)), 16, {"lanes": 2}),
}


# each case once by default, and once more with the other choice of pins
BOTH = [
    pytest.param(name, pins, marks=[] if number % 2 == (pins > 0) else [pytest.mark.slow])
    for number, name in enumerate(CASES)
    for pins in (0, 3)
]


@pytest.mark.parametrize(("name", "pins"), BOTH)
def test_rows_are_right(name: str, pins: int) -> None:
    table_shape, lanes, chosen = CASES[name]
    rng = np.random.default_rng(len(name) + pins)
    table = random_table(rng, table_shape, pins=pins)
    params = TtParams.for_tables([table_shape], [table.pins], slice_lanes=lanes, **chosen)
    rows = [0, table_shape.rows - 1, *rng.integers(0, table_shape.rows, 16).tolist()]
    bench = TtBench(params, [table])
    bench.run([(0, row) for row in rows], idle="random", stall="random", seed=pins)
