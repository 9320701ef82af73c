"""Tables of low rank and noise, streamed; as a program, the decomposition of a large one."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from screc.tt.decompose import FloatTt, decompose, relative_error
from screc.tt.rows import TtRows
from screc.tt.shape import choose_shape
from screc.weights import SeededTable


def random_float_tt(shape, seed=0):
    """Normal cores that give rows of variance 1."""
    rng = np.random.default_rng(seed)
    r1, r2 = shape.ranks
    powers = (1, 1 / r1, 1 / r2)
    cores = (
        (rng.standard_normal(size) * power**0.5).astype(np.float32)
        for size, power in zip(shape.core_shapes, powers, strict=True)
    )
    return FloatTt(shape, tuple(cores))


class NoisyTt:
    """Rows of a tensor train, plus ``noise`` times uniform numbers in [-1, 1)."""

    def __init__(self, tt, noise, seed=0):
        self._tt, self._noise = tt, np.float32(noise)
        self._seeded = SeededTable(seed, 0, tt.shape.rows, tt.shape.dim)
        self.rows, self.dim = tt.shape.rows, tt.shape.dim

    def fetch(self, ids):
        return self._tt.rows(ids) + self._noise * self._seeded.fetch(ids)

    def peak(self):
        return TtRows(self._tt).peak() + float(self._noise) * self._seeded.peak()


def main(rows, dim, rank):
    shape = choose_shape(rows, dim, rank)
    table = NoisyTt(random_float_tt(shape), 0.5)
    began = time.perf_counter()
    tt = decompose(table, shape)
    seconds = time.perf_counter() - began
    # ru_maxrss would begin with that of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    figures = {
        "rows": rows,
        "dim": dim,
        "rank": rank,
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "relative_error": relative_error(table, tt),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
