"""Criteo's display logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc.logs.delimited import Cells, IdColumn, blocks_from, cut, read_ids
from screc.logs.ids import IdMap
from screc.logs.lines import blocks, count_lines
from screc.logs.values import log_dense
from screc_sim.samples import SampleBatch


class CriteoReader:
    """Reads lines of label, integer features, then ids, separated by tabs, no header.

    An empty integer is 0 before the logarithm, an empty id is id 0. ``dense`` and ``features`` are
    13 and 26 in Criteo's own data.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        dense: int,
        features: int,
        ids: IdMap,
        *,
        logarithm: bool = True,
    ) -> None:
        self._paths = paths
        self._dense = dense
        self._ids = ids
        self._logarithm = logarithm
        self._names = [
            "label",
            *(f"I{i}" for i in range(1, dense + 1)),
            *(f"C{i}" for i in range(1, features + 1)),
        ]
        self._columns = [IdColumn(index=1 + dense + i, hashes=True) for i in range(features)]

    def count(self) -> int:
        """Count the lines."""
        return count_lines(self._paths)

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from line ``start`` on; errors name file, line, column and text."""
        for block, skip in blocks_from(blocks(self._paths), start, in_order=self._ids.in_order):
            cells = cut(block, "\t", self._names)
            raw = read_ids(cells, self._columns, numbers=True)
            batch = SampleBatch(self._dense_features(cells), self._ids(raw), _labels(cells))
            yield batch.slice(skip, len(batch))

    def _dense_features(self, cells: Cells) -> NDArray[np.float32]:
        fields, minus = cells.signed(range(1, 1 + self._dense))
        values, bad = fields.decimal()
        bad |= (minus == 1) & (fields.lengths == 0)
        if bad.any():
            line, column = np.argwhere(bad.T)[0]
            raise cells.error(1 + int(column), int(line), "is not a whole number")
        signed = values.astype(np.float64) * (1 - 2 * minus)
        taken = log_dense(signed) if self._logarithm else signed.astype(np.float32)
        return np.ascontiguousarray(taken.T)


def _labels(cells: Cells) -> NDArray[np.float32]:
    data = np.frombuffer(cells.block.data, np.uint8)
    label = data[cells.starts[0]] - ord("0")
    bad = (cells.lengths[0] != 1) | (label > 1)
    if bad.any():
        raise cells.error(0, int(np.argmax(bad)), "is not a label, 0 or 1")
    return label.astype(np.float32)
