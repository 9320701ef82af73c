"""NumPy archives: jagged bags, fixed-length bags, and facebookresearch/dlrm's own layout."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screc.errors import ConfigError
from screc.logs.ids import IdMap, RawBags
from screc.logs.values import NO_LABEL, labels_of, log_dense
from screc_sim.samples import SampleBatch

CHUNK_SAMPLES = 1 << 16
"""Samples handed over at a time."""

DLRM_ARRAYS = ("X_int", "X_cat", "y")
"""Arrays of facebookresearch/dlrm's preprocessed Criteo files: integers ``(n, dense)``, ids
``(n, features)`` and labels ``(n,)``."""

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpzArrays:
    """Names of arrays.

    ``ids``: per feature, indices and offsets (None: a 2-D array of fixed-length bags); empty: the
    layout of :data:`DLRM_ARRAYS`. ``dense``: arrays ``(n,)`` or ``(n, k)``, side by side.
    ``label``: array ``(n,)`` and threshold, or None.
    """

    ids: Sequence[tuple[str, str | None]]
    dense: Sequence[str]
    label: tuple[str, float | None] | None


@dataclasses.dataclass(frozen=True)
class _Jagged:
    """One feature's bags: values as stored, and offsets from 0 to their count."""

    name: str
    values: NDArray[Any]
    offsets: Ints


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a file holds, checked."""

    bags: tuple[_Jagged, ...]
    dense: NDArray[Any]
    labels: NDArray[np.float32] | None
    samples: int


class NpzReader:
    """Reads ``.npz`` files, one in memory at a time.

    Parameters
    ----------
    paths
        The files.
    arrays
        Which array is what.
    dense, features
        The model's counts.
    ids
        Values to ids.
    logarithm
        Whether dense features are taken as log(1 + max(x, 0)).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        arrays: NpzArrays,
        dense: int,
        features: int,
        ids: IdMap,
        *,
        logarithm: bool,
    ) -> None:
        self._paths = paths
        self._arrays = arrays
        self._dense = dense
        self._features = features
        self._ids = ids
        self._logarithm = logarithm
        self._held: tuple[Path, _Content] | None = None

    def count(self) -> int:
        """Count the samples."""
        return sum(self._content(path).samples for path in self._paths)

    def chunks(self, start: int) -> Iterator[SampleBatch]:
        """Yield the samples from number ``start`` on; errors name file, array and index."""
        first = 0
        for path in self._paths:
            content = self._content(path)
            skip = min(content.samples, max(0, start - first))
            first += content.samples
            for begin in range(0 if self._ids.in_order else skip, content.samples, CHUNK_SAMPLES):
                end = min(begin + CHUNK_SAMPLES, content.samples)
                batch = self._batch(path, content, begin, end)
                yield batch.slice(max(0, skip - begin), len(batch))

    def _batch(self, path: Path, content: _Content, begin: int, end: int) -> SampleBatch:
        raw = [_raw(path, bags, begin, end) for bags in content.bags]
        dense = content.dense[begin:end].astype(np.float64)
        wrong = ~np.isfinite(dense)
        if wrong.any():
            sample, column = np.argwhere(wrong)[0]
            raise ConfigError(
                f"dense feature {column} of sample {begin + sample} is "
                f"{dense[sample, column]}: must be finite",
                path=path,
            )
        features = log_dense(dense) if self._logarithm else dense.astype(np.float32)
        labels = None if content.labels is None else content.labels[begin:end]
        return SampleBatch(features, self._ids(raw), labels)

    def _content(self, path: Path) -> _Content:
        if self._held is None or self._held[0] != path:
            self._held = (path, self._read(path))
        return self._held[1]

    def _read(self, path: Path) -> _Content:
        archive = _Archive(path)
        bags = tuple(self._jagged(archive))
        samples = len(bags[0].offsets) - 1
        for feature in bags:
            archive.check_samples(feature.name, len(feature.offsets) - 1, samples)
        columns = [archive.read(name, "iuf", (1, 2)) for name in self._dense_names]
        for name, column in zip(self._dense_names, columns, strict=True):
            archive.check_samples(name, len(column), samples)
        dense = (
            np.concatenate([column.reshape(samples, -1) for column in columns], axis=1)
            if columns
            else np.zeros((samples, 0), np.float32)
        )
        if dense.shape[1] != self._dense:
            raise ConfigError(
                f"the model has {self._dense} dense inputs, the arrays "
                f"{', '.join(self._dense_names) or '(none named)'} have {dense.shape[1]}",
                path=path,
                field="log.dense",
            )
        return _Content(bags, dense, self._labels(archive, samples), samples)

    @property
    def _dense_names(self) -> Sequence[str]:
        return self._arrays.dense if self._arrays.ids else DLRM_ARRAYS[:1]

    def _jagged(self, archive: _Archive) -> Iterator[_Jagged]:
        if not self._arrays.ids:
            ids = archive.read(DLRM_ARRAYS[1], "iu", (2,))
            if ids.shape[1] != self._features:
                raise ConfigError(
                    f"array 'X_cat' has {ids.shape[1]} columns, "
                    f"the model {self._features} features",
                    path=archive.path,
                )
            for column in range(self._features):
                offsets = np.arange(len(ids) + 1, dtype=np.int64)
                yield _Jagged(f"X_cat column {column}", ids[:, column], offsets)
            return
        for indices, offsets_name in self._arrays.ids:
            values = archive.read(indices, "iu", (1, 2))
            if offsets_name is not None:
                yield _Jagged(indices, values, archive.offsets(offsets_name, indices, values))
            else:
                fixed = values.reshape(len(values), -1)
                offsets = np.arange(len(fixed) + 1, dtype=np.int64) * fixed.shape[1]
                yield _Jagged(indices, fixed.reshape(-1), offsets)

    def _labels(self, archive: _Archive, samples: int) -> NDArray[np.float32] | None:
        label = self._arrays.label if self._arrays.ids else (DLRM_ARRAYS[2], None)
        if label is None:
            return None
        name, at_least = label
        values = archive.read(name, "biuf", (1, 2)).reshape(-1)
        archive.check_samples(name, len(values), samples)
        labels, wrong = labels_of(values, at_least)
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ConfigError(
                f"array {name!r}: {values[place]} at {place} {NO_LABEL}", path=archive.path
            )
        return labels


class _Archive:
    """Arrays of one file, with errors that name them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as stored:
                if not isinstance(stored, np.lib.npyio.NpzFile):
                    raise ConfigError("must be an .npz archive, not a single array", path=path)
                self.names = stored.files
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(f"must be an .npz archive: {error}", path=path) from error

    def read(self, name: str, kinds: str, dimensions: Sequence[int]) -> NDArray[Any]:
        """Read an array of one of numpy's ``kinds`` and as many ``dimensions``."""
        if name not in self.names:
            raise ConfigError(
                f"array {name!r} is missing; has {', '.join(self.names)}", path=self.path
            )
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                array: NDArray[Any] = stored[name]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(f"array {name!r} cannot be read: {error}", path=self.path) from error
        if array.dtype.kind not in kinds or array.ndim not in dimensions:
            wanted = "whole numbers" if kinds == "iu" else "numbers"
            shapes = " or ".join(f"{n}-D" for n in dimensions)
            raise ConfigError(
                f"array {name!r} must hold {wanted} and be {shapes}, not {array.dtype} of shape "
                f"{array.shape}",
                path=self.path,
            )
        return array

    def offsets(self, name: str, indices: str, values: NDArray[Any]) -> Ints:
        """Offsets of jagged bags, from 0 to the count of ``values``, which are closed if open."""
        if values.ndim != 1:
            raise ConfigError(
                f"array {indices!r} must be 1-D, as it has offsets, not of shape {values.shape}",
                path=self.path,
            )
        offsets = self.read(name, "iu", (1,)).astype(np.int64)
        if not len(offsets) or offsets[0] != 0:
            start = f"start with {offsets[0]}" if len(offsets) else "be empty"
            raise ConfigError(f"array {name!r} must start with 0, not {start}", path=self.path)
        if offsets[-1] != len(values):
            offsets = np.append(offsets, len(values))  # torch's EmbeddingBag: starts alone
        falls = np.flatnonzero(np.diff(offsets) < 0)
        if len(falls):
            place = int(falls[0])
            raise ConfigError(
                f"array {name!r} must not fall and end in {len(values)}, the length of "
                f"{indices!r}: {offsets[place]} at {place} is followed by {offsets[place + 1]}",
                path=self.path,
            )
        return offsets

    def check_samples(self, name: str, found: int, samples: int) -> None:
        """Check that an array is about as many samples as the first one."""
        if found != samples:
            raise ConfigError(
                f"array {name!r} has {found} samples, the first feature has {samples}",
                path=self.path,
            )


def _raw(path: Path, bags: _Jagged, begin: int, end: int) -> RawBags:
    offsets = bags.offsets[begin : end + 1]
    values = bags.values[offsets[0] : offsets[-1]]
    if values.dtype.kind == "i" and len(values) and values.min() < 0:
        place = int(np.argmax(values < 0))
        raise ConfigError(
            f"array {bags.name!r} has {values[place]} at {offsets[0] + place}: an id is 0 or more",
            path=path,
        )
    return RawBags(pl.Series(values.astype(np.uint64)), None, offsets - offsets[0])
