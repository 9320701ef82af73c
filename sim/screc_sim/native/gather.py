"""Tables and lookups for a gather engine, and the partials that they must give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from screc_hw.memory.params import MemoryCoreParams
from screc_hw.numerics import FP16_FRACTION_BITS
from screc_hw.protocol import (
    FEATURE_FIELDS,
    FEATURE_WORDS,
    MAX_SAMPLES,
    ROW_TAIL_BYTES,
    LoadTarget,
    pack,
)
from screc_sim.native.harness import Job

__all__ = ["FORMATS", "Bags", "GatherCase", "RowFormat", "Table", "check_partials"]

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """How a row is stored: ``bits`` per code; ``rowwise``: unsigned codes, then scale and bias."""

    bits: int
    rowwise: bool

    def row_bytes(self, dim: int) -> int:
        """Bytes of a row of ``dim`` components."""
        return dim * self.bits // 8 + self.rowwise * ROW_TAIL_BYTES

    def row_beats(self, dim: int, beat_bytes: int) -> int:
        """Beats that a row takes."""
        return -(-self.row_bytes(dim) // beat_bytes)

    def stride(self, dim: int, beat_bytes: int) -> int:
        """Bytes from row to row: a power of two below a beat, else whole beats."""
        size = self.row_bytes(dim)
        if size < beat_bytes:
            return 1 << (size - 1).bit_length()
        return -(-size // beat_bytes) * beat_bytes


FORMATS = {
    "int8": RowFormat(8, rowwise=False),
    "int4": RowFormat(4, rowwise=False),
    "int8r": RowFormat(8, rowwise=True),
    "int4r": RowFormat(4, rowwise=True),
}
"""Row formats by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A feature's table: ranks [0, ``onchip``) lie on chip, [``onchip``, ``rows``) in DRAM."""

    format: str
    dim: int
    rows: int
    onchip: int = 0

    @property
    def row_format(self) -> RowFormat:
        """Of :data:`FORMATS`."""
        return FORMATS[self.format]


@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """Bags in the order of the stream, none of them empty.

    Parameters
    ----------
    sample, feature
        int64 ``(bags,)``; samples count from 0 and never decrease.
    lengths
        int64 ``(bags,)``, at least 1.
    ranks
        int64 ``(lookups,)``: ranks, or beats of the ring where ``staged``.
    staged
        bool ``(lookups,)``; None: no row is.
    """

    sample: Ints
    feature: Ints
    lengths: Ints
    ranks: Ints
    staged: NDArray[np.bool_] | None = None

    @property
    def bag(self) -> Ints:
        """Bag of every lookup."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class GatherCase:
    """Tables of random rows, one per feature, in the memory of an engine.

    Parameters
    ----------
    params
        The engine's.
    tables
        By feature number.
    image_bytes
        Length of the memory's contents, which repeat; None: all of it is there once.
    ring
        Beats of the staging ring.
    align
        Tables start at multiples of it, bytes.
    seed
        Of the rows.
    """

    def __init__(
        self,
        params: MemoryCoreParams,
        tables: Sequence[Table],
        *,
        image_bytes: int | None = None,
        ring: int = 0,
        align: int = 4096,
        seed: int = 0,
    ) -> None:
        self.params, self.tables, self.ring = params, tuple(tables), ring
        beat = params.beat_bytes
        if align % beat:
            raise ValueError(f"align must be a multiple of the beat's {beat} bytes, not {align}")
        rng = np.random.default_rng(seed)
        self.strides = [t.row_format.stride(t.dim, beat) for t in self.tables]
        self.bases, self.onchip_bases = [], []
        self.regions: list[tuple[int, int]] = []
        end = onchip_end = 0
        for table, stride in zip(self.tables, self.strides, strict=True):
            if table.row_format.rowwise and (image_bytes is not None or not params.rowwise):
                raise ValueError(f"rows of format {table.format} cannot be made here")
            start = -(-end // align) * align + (0 if align >= 4096 else align)
            end = start + -(-(table.rows - table.onchip) * stride // beat) * beat
            self.bases.append(start)
            self.regions.append((start, end))
            self.onchip_bases.append(onchip_end)
            onchip_end += -(-table.onchip * stride // beat) * beat
        self.ring_base = -(-end // align) * align
        end = max(end, self.ring_base + ring * beat)
        if ring:
            self.regions.append((self.ring_base, end))
        self.limit_beats = end // beat
        if onchip_end > params.onchip_beats * beat:
            raise ValueError(
                f"on-chip rows take {onchip_end // beat} beats, more than {params.onchip_beats}"
            )
        self.image = rng.integers(0, 256, end if image_bytes is None else image_bytes, np.uint8)
        self.onchip = rng.integers(0, 256, onchip_end, np.uint8)
        for index, table in enumerate(self.tables):
            if table.row_format.rowwise:
                stride, low = self.strides[index], self.bases[index]
                count = table.rows - table.onchip
                self._tails(rng, table, self.image[low : low + count * stride], stride)
                low = self.onchip_bases[index]
                rows = self.onchip[low : low + table.onchip * stride]
                self._tails(rng, table, rows, stride)
        if ring and any(table.row_format.rowwise for table in self.tables):
            # any row may be staged at any beat: every aligned pair of bytes is a finite fp16
            low = self.ring_base
            self.image[low : low + ring * beat].view(np.uint16)[:] &= np.uint16(0xBFFF)

    @staticmethod
    def _tails(
        rng: np.random.Generator, table: Table, rows: NDArray[np.uint8], stride: int
    ) -> None:
        """Write scales and biases as a quantised table has them, and some at the format's ends."""
        codes = table.row_format.row_bytes(table.dim) - ROW_TAIL_BYTES
        count = len(rows) // stride
        tails = np.empty((count, 2), np.float16)
        tails[:, 0] = rng.uniform(1e-4, 0.02, count)
        tails[:, 1] = rng.uniform(-2, 2, count)
        ends = np.array([0, 2**-24, -(2**-24), 6e-5, -6e-5, 0.5, -0.5, 1], np.float16)
        chosen = rng.random((count, 2)) < 0.1
        tails[chosen] = rng.choice(ends, int(chosen.sum()))
        rows.reshape(count, stride)[:, codes : codes + ROW_TAIL_BYTES] = tails.view(np.uint8)

    def config(self) -> list[tuple[int, int, int]]:
        """LOAD words of the engine: descriptors, ring, limit, on-chip rows."""
        words: list[tuple[int, int, int]] = []
        beat = self.params.beat_bytes
        for index, table in enumerate(self.tables):
            row, stride = table.row_format, self.strides[index]
            sub_beat = row.row_bytes(table.dim) < beat
            word = pack(
                FEATURE_FIELDS,
                base=self.bases[index],
                row_beats=row.row_beats(table.dim, beat),
                sub_beat=int(sub_beat),
                stride_log2=stride.bit_length() - 1 if sub_beat else 0,
                int4=int(row.bits == 4),
                enable=1,
                rowwise=int(row.rowwise),
                first=table.onchip,
                last=table.rows,
                slices=table.dim // self.params.lanes,
                onchip_base=self.onchip_bases[index] // beat,
                onchip_first=0,
                onchip_last=table.onchip,
            )
            for i in range(FEATURE_WORDS):
                value = word >> 64 * i & (1 << 64) - 1
                words.append((LoadTarget.GATHER_FEATURES, index * FEATURE_WORDS + i, value))
        staging = (self.ring_base, self.ring, self.limit_beats)
        words += [(LoadTarget.GATHER_STAGING, i, value) for i, value in enumerate(staging)]
        rows = self.onchip.view(np.uint64).tolist()
        words += [(LoadTarget.GATHER_ROWS, i, value) for i, value in enumerate(rows)]
        return words

    def job(self, bags: Bags) -> Job:
        """Return the run of these bags, in sections of at most 2**15 samples."""
        rows = self.params.rows
        samples = (1 << 15) // rows * rows
        assert samples <= MAX_SAMPLES
        if int(bags.sample[-1]) >= rows * self.params.slots:
            raise ValueError(
                f"samples must be below rows × slots = {rows * self.params.slots}, so that every"
                f" bag has its own name, not {int(bags.sample[-1])}"
            )
        bag = bags.bag
        sample = bags.sample[bag]
        section = sample // samples
        ends = np.cumsum(bags.lengths) - 1
        last = np.zeros(len(bag), np.int64)
        last[ends] = 1
        final = np.append(section[1:] != section[:-1], True)
        staged = np.zeros(len(bag), bool) if bags.staged is None else bags.staged
        lookups = {
            "rank": bags.ranks,
            "feature": bags.feature[bag],
            "sample": sample % samples,
            "staged": staged.astype(np.int64),
            "last": last,
            "final": final.astype(np.int64),
            "samples": np.full(len(bag), samples),
            "sequence": section * (samples // rows),
        }
        return Job(config=self.config(), image=self.image, regions=self.regions, lookups=lookups)

    def valid(self, bags: Bags) -> NDArray[np.bool_]:
        """Whether each lookup is in range."""
        feature = bags.feature[bags.bag]
        rows = np.array([table.rows for table in self.tables])[feature]
        here: NDArray[np.bool_] = bags.ranks < rows
        if bags.staged is None:
            return here
        beat = self.params.beat_bytes
        beats = np.array([t.row_format.row_beats(t.dim, beat) for t in self.tables])[feature]
        return np.where(bags.staged, bags.ranks + beats <= self.ring, here)

    def onchip_lookups(self, bags: Bags) -> NDArray[np.bool_]:
        """Whether each lookup is of an on-chip row."""
        onchip = np.array([table.onchip for table in self.tables])[bags.feature[bags.bag]]
        here: NDArray[np.bool_] = bags.ranks < onchip
        return here if bags.staged is None else here & ~bags.staged

    def row_beats(self, bags: Bags) -> int:
        """Beats of memory that the bags take, on-chip ones left out."""
        beat = self.params.beat_bytes
        beats = np.array([t.row_format.row_beats(t.dim, beat) for t in self.tables])
        read = self.valid(bags) & ~self.onchip_lookups(bags)
        return int(beats[bags.feature[bags.bag]][read].sum())

    def values(
        self, feature: int, ranks: Ints, staged: NDArray[np.bool_], valid: NDArray[np.bool_]
    ) -> Ints:
        """Return what lookups of a feature add: int64 ``(lookups, dim)``, 0 where not ``valid``."""
        table, stride = self.tables[feature], self.strides[feature]
        row = table.row_format
        size = row.row_bytes(table.dim)
        onchip = (ranks < table.onchip) & ~staged
        offset = self.bases[feature] + (ranks - table.onchip) * stride
        offset = np.where(staged, self.ring_base + ranks * self.params.beat_bytes, offset)
        span = np.arange(size)
        raw = self.image[(np.where(valid & ~onchip, offset, 0)[:, None] + span) % len(self.image)]
        if onchip.any():
            place = self.onchip_bases[feature] + ranks[onchip] * stride
            raw[onchip] = self.onchip[place[:, None] + span]
        raw[~valid] = 0
        codes = raw[:, : table.dim * row.bits // 8]
        if row.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(ranks), -1)
        values = codes.astype(np.int64)
        if row.rowwise:
            tails = np.ascontiguousarray(raw[:, size - ROW_TAIL_BYTES :]).view(np.float16)
            exact = np.ldexp(tails.astype(np.float64), FP16_FRACTION_BITS).astype(np.int64)
            values = values * exact[:, :1] + exact[:, 1:]
        else:
            half = 1 << (row.bits - 1)
            values = (values ^ half) - half
        values[~valid] = 0
        return values

    def expected(self, bags: Bags) -> dict[str, Ints]:
        """Return the partials that the bags must give, fields as in ``Outcome.partials``.

        One partial per bag and tier that holds lookups of it; their order is the bags'.
        """
        p = self.params
        bag = bags.bag
        valid, onchip = self.valid(bags), self.onchip_lookups(bags)
        staged = np.zeros(len(bag), bool) if bags.staged is None else bags.staged
        parts: list[dict[str, Ints]] = []
        for tier in (0, 1):
            mine = np.flatnonzero(onchip == bool(tier))
            for feature in np.unique(bags.feature):
                chosen = mine[bags.feature[bag[mine]] == feature]
                for lookups in _chunks(chosen, bag):
                    values = self.values(
                        feature, bags.ranks[lookups], staged[lookups], valid[lookups]
                    )
                    starts = np.flatnonzero(np.append(True, np.diff(bag[lookups]) != 0))
                    sums = np.add.reduceat(values, starts, axis=0)
                    bits = 64 - p.acc_bits
                    sums = (sums << bits) >> bits
                    slices = sums.shape[1] // p.lanes
                    named = np.repeat(bag[lookups][starts], slices)
                    index = np.tile(np.arange(slices), len(starts))
                    count = np.diff(np.append(starts, len(lookups)))
                    parts.append(
                        {
                            "bag": named,
                            "slot": bags.sample[named] // p.rows % p.slots,
                            "row": bags.sample[named] % p.rows,
                            "feature": np.full(len(named), feature),
                            "slice": index,
                            "last": (index == slices - 1).astype(np.int64),
                            "count": np.repeat(count, slices),
                            "acc": sums.reshape(-1, p.lanes),
                        }
                    )
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(whole.pop("bag"), kind="stable")
        return {name: values[order] for name, values in whole.items()}


def _chunks(chosen: Ints, bag: Ints, size: int = 1 << 16) -> Iterator[Ints]:
    """Cut ``chosen`` lookups between bags into pieces of about ``size``."""
    start = 0
    while start < len(chosen):
        end = min(start + size, len(chosen))
        while end < len(chosen) and bag[chosen[end]] == bag[chosen[end - 1]]:
            end += 1
        yield chosen[start:end]
        start = end


def check_partials(got: dict[str, Ints], expected: dict[str, Ints]) -> None:
    """Compare partials in any order of bags, exactly.

    Raises
    ------
    AssertionError
        If slices of a partial do not follow each other, or anything is lost, added or different;
        with the first difference.
    """
    got, expected = _sorted(got), _sorted(expected)
    if len(got["slot"]) != len(expected["slot"]):
        raise AssertionError(
            f"{len(got['slot'])} slices of partials came, not {len(expected['slot'])}"
        )
    for name, values in expected.items():
        same = got[name] == values
        if not same.all():
            where = int(np.argwhere(~same)[0][0])
            place = {key: int(expected[key][where]) for key in ("slot", "row", "feature", "slice")}
            raise AssertionError(
                f"{name} of {place}: {got[name][where]}, not {values[where]};"
                f" {int((~same).sum())} values differ"
            )


def _sorted(partials: dict[str, Ints]) -> dict[str, Ints]:
    """Sort partials by bag and content."""
    count = len(partials["slot"])
    if count == 0:
        return partials
    begins = np.append(True, partials["last"][:-1] == 1)
    number = np.cumsum(begins) - 1
    follows = partials["slice"][1:] == np.where(begins[1:], 0, partials["slice"][:-1] + 1)
    for name in ("slot", "row", "feature", "count"):
        follows &= begins[1:] | (partials[name][1:] == partials[name][:-1])
    if not (follows.all() and partials["slice"][0] == 0 and partials["last"][-1] == 1):
        raise AssertionError("slices of a partial do not follow each other")
    # a key of the content, so that the partials of a bag's tiers sort alike on both sides
    factors = np.random.default_rng(1).integers(1, 1 << 62, partials["acc"].shape[1]) | 1
    mixed = (partials["acc"] * factors).sum(axis=1) * (2 * partials["slice"] + 1)
    content = np.add.reduceat(mixed, np.flatnonzero(begins))[number]
    columns = (partials[name] for name in ("count", "slot", "row", "feature"))
    order = np.lexsort((partials["slice"], number, content, *columns))
    return {name: values[order] for name, values in partials.items()}
