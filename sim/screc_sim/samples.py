"""Samples of a log as arrays: what readers give, and golden model and encoder take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Bags:
    """Bags of one feature, jagged: bag ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    ``ids`` int64 ``(lookups,)``; ``offsets`` int64 ``(samples + 1,)``, starting at 0.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Lookups of each bag, ``(samples,)``."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Bags:
        """Bags ``start`` to ``stop``, offsets from 0 again."""
        offsets = self.offsets[start : stop + 1]
        return Bags(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])


@dataclasses.dataclass(frozen=True)
class SampleBatch:
    """A run of samples: dense float32 ``(n, dense)``, one :class:`Bags` per feature, labels.

    ``labels`` float32 ``(n,)`` of 0 and 1, or None where the log has none.
    """

    dense: NDArray[np.float32]
    bags: tuple[Bags, ...]
    labels: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.dense)

    def slice(self, start: int, stop: int) -> SampleBatch:
        """Samples ``start`` to ``stop``."""
        stop = min(stop, len(self))
        return SampleBatch(
            self.dense[start:stop],
            tuple(b.slice(start, stop) for b in self.bags),
            None if self.labels is None else self.labels[start:stop],
        )


def concatenate(batches: Sequence[SampleBatch]) -> SampleBatch:
    """Join batches of the same features; labels survive only where every batch has them."""
    bags = []
    for feature in range(len(batches[0].bags)):
        parts = [batch.bags[feature] for batch in batches]
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bags.append(Bags(np.concatenate([part.ids for part in parts]), offsets))
    labels = [batch.labels for batch in batches]
    return SampleBatch(
        np.concatenate([batch.dense for batch in batches]),
        tuple(bags),
        None
        if any(label is None for label in labels)
        else np.concatenate([label for label in labels if label is not None]),
    )
