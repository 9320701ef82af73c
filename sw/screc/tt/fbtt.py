"""TT cores in the layout of FBTT-Embedding (github.com/facebookresearch/FBTT-Embedding).

It keeps core k of all its tables as ``(tables, p_k, r_k · q_k · r_(k+1))``, with r_1 and the last
rank 1: per digit a slice (r_k, q_k, r_(k+1)), row-major. A row's digits are most significant first.
Those are the bytes of our cores, too; the row numbers are the model's own, so rows are in frequency
order only where the model was trained on ids in that order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screc.tt.decompose import FloatCores, FloatTt
from screc_hw.tt.shape import TtShape

CORES = 3
"""Cores of a table that can be imported."""


def import_fbtt(
    cores: Sequence[NDArray[np.floating]],
    rows: int,
    p: Sequence[int],
    q: Sequence[int],
    ranks: Sequence[int],
) -> list[FloatTt]:
    """Read the cores of a ``TTEmbeddingBag`` or ``TableBatchedTTEmbeddingBag``.

    Parameters
    ----------
    cores
        Its ``tt_cores``, (tables, p_k, r_k · q_k · r_(k+1)) of any float type; (p_k, ...) for one
        table.
    rows
        Its ``num_embeddings``.
    p, q, ranks
        Its ``tt_p_shapes``, ``tt_q_shapes`` and ``tt_ranks``, the latter with or without the ones
        at both ends.

    Returns
    -------
    list of FloatTt
        One per table.

    Raises
    ------
    ValueError
        If there are not three cores, a core has another size than p, q and ranks say, or the
        reconstructor takes no such sizes; names them.
    """
    if not len(cores) == len(p) == len(q) == CORES:
        raise ValueError(
            f"a TT table must have {CORES} cores, p and q, not {len(cores)}, {len(p)} and {len(q)}"
        )
    inner = list(ranks)
    if len(inner) == CORES + 1 and inner[0] == inner[-1] == 1:
        inner = inner[1:-1]
    if len(inner) != CORES - 1:
        raise ValueError(f"ranks must be {CORES - 1} numbers, not {list(ranks)}")
    shape = TtShape(
        rows=rows, p=(p[0], p[1], p[2]), q=(q[0], q[1], q[2]), ranks=(inner[0], inner[1])
    )
    stored = [core[None] if core.ndim == 2 else core for core in cores]
    for number, (core, sizes) in enumerate(zip(stored, shape.core_shapes, strict=True)):
        expected = (len(stored[0]), sizes[0], math.prod(sizes[1:]))
        if core.shape != expected:
            raise ValueError(f"tt_cores.{number} must be {expected}, not {core.shape}")
    return [
        FloatTt(shape, _cores(shape, [core[i] for core in stored])) for i in range(len(stored[0]))
    ]


def _cores(shape: TtShape, stored: Sequence[NDArray[np.floating]]) -> FloatCores:
    first, second, third = (
        np.ascontiguousarray(core.reshape(sizes), np.float32)
        for core, sizes in zip(stored, shape.core_shapes, strict=True)
    )
    return first, second, third


def export_fbtt(tables: Sequence[FloatTt]) -> list[NDArray[np.float32]]:
    """Write tables of one shape as ``tt_cores``: three arrays (tables, p_k, r_k · q_k · r_(k+1)).

    Raises
    ------
    ValueError
        If there is no table, or two are of different shapes.
    """
    shapes = {table.shape for table in tables}
    if len(shapes) != 1:
        raise ValueError(f"tables must be of one shape, not {len(shapes)}")
    return [
        np.stack([table.cores[k].reshape(table.shape.p[k], -1) for table in tables])
        for k in range(CORES)
    ]
