"""Bench of the TT reconstructor: random tables, and their rows computed the plain way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.tt.image import TtTable, load_blocks
from screc_hw.tt.params import TtParams
from screc_hw.tt.reconstructor import TtReconstructor
from screc_hw.tt.shape import TtShape
from tests.support.pysim import collector, driver, simulate


def random_table(
    rng: np.random.Generator,
    shape: TtShape,
    *,
    pins: int = 0,
    shift1: int | None = None,
    s: int | None = None,
) -> TtTable:
    """Return a table of random codes whose second sums stay within 27 bits."""
    r2 = shape.ranks[1]
    cores = [rng.integers(-127, 128, core, np.int64).astype(np.int8) for core in shape.core_shapes]
    if r2 > 15:  # |A| <= 32767: 127 · 32767 · r2 must stay below 2**26
        cores[2] = (cores[2] // (r2 // 8)).astype(np.int8)
    shift1 = int(rng.integers(0, 8)) if shift1 is None else shift1
    s = int(rng.integers(22, 32)) if s is None else s
    m = int(rng.integers(1 << 15, 1 << 16))
    return TtTable(shape, (cores[0], cores[1], cores[2]), shift1, m, s, min(pins, shape.prefixes))


def plain_rows(table: TtTable, local: Sequence[int], limit: int) -> NDArray[np.int64]:
    """Rows of a table, one product at a time, in Python's integers."""
    shape = table.shape
    _, p2, p3 = shape.p
    rows = []
    for n in local:
        if n >= shape.rows:
            rows.append(np.zeros(shape.dim, np.int64))
            continue
        i1, i2, i3 = n // (p2 * p3), n // p3 % p2, n % p3
        g1, g2, g3 = (
            core[i].astype(np.int64) for core, i in zip(table.cores, (i1, i2, i3), strict=True)
        )
        first = np.einsum("as,sbt->abt", g1, g2)
        half = (1 << table.shift1) >> 1
        middle = np.clip((first + half) >> table.shift1, -32767, 32767)
        second = np.einsum("abt,tc->abc", middle, g3)
        assert np.abs(second).max() < 1 << 26
        codes = (second * table.m + (1 << (table.s - 1))) >> table.s
        rows.append(np.clip(codes, -limit, limit).reshape(-1))
    return np.array(rows, np.int64).reshape(len(rows), shape.dim)


@dataclasses.dataclass
class TtBench:
    """A reconstructor in Amaranth's simulator."""

    params: TtParams
    tables: Sequence[TtTable]

    def run(
        self,
        requests: Sequence[tuple[int, int]],
        *,
        idle: str = "none",
        stall: str = "none",
        seed: int = 0,
        cycles: int = 200_000,
    ) -> int:
        """Ask for (table, row)s and compare every slice; return the cycles of the rows."""
        dut = TtReconstructor(self.params)
        got: list[list[int]] = []
        blocks = load_blocks(self.tables, self.params)
        marks: dict[str, Any] = {}

        async def load(ctx: Any) -> None:
            for target, words in blocks:
                for address, word in enumerate(words.tolist()):
                    ctx.set(
                        dut.config.payload,
                        {"target": int(target), "address": address, "data": word},
                    )
                    ctx.set(dut.config.valid, 1)
                    await ctx.tick()
                ctx.set(dut.config.valid, 0)
            for _ in range(4):
                await ctx.tick()
            items = [{"table": table, "local": local} for table, local in requests]
            await driver(dut.requests, items, idle, seed)(ctx)

        expected = []
        for table, local in requests:
            row = plain_rows(self.tables[table], [local], self.params.limit)[0]
            expected += row.reshape(-1, self.params.slice_lanes).tolist()
        marks["cycles"] = simulate(
            dut,
            load,
            background=[
                collector(
                    dut.rows, got, stall, seed + 1, decode=lambda payload: [int(x) for x in payload]
                )
            ],
            until=lambda: len(got) >= len(expected),
            cycles=cycles,
        )
        assert len(got) == len(expected)
        for number, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert a == b, f"slice {number}: {a}, not {b}"
        return int(marks["cycles"])
