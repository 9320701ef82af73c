"""Requests: samples of the log become RUN blocks and lookup sections, without per-lookup Python."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc.compile.balance import deal, level
from screc.compile.blocks import encode_header, pad, version_opcode
from screc.compile.layout import Layout, TableLayout
from screc.compile.staging import StagedWrite, Stager
from screc.errors import ConfigError
from screc.remap import TableRemap
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams
from screc_hw.protocol import (
    BAG_LENGTH_SHIFT,
    BAG_RECIPROCAL_SHIFT,
    BEAT_BYTES,
    LOOKUP_FIELDS,
    MAX_SAMPLES,
    Header,
    Opcode,
)
from screc_sim.golden.model import check_batch
from screc_sim.golden.ops import reciprocals
from screc_sim.golden.quant import QuantModel
from screc_sim.samples import SampleBatch

Ints = NDArray[np.int64]

RECORD_BYTES = 8
"""Bytes of a lookup record and of a result record."""


@dataclasses.dataclass(frozen=True)
class EncodedBlock:
    """A RUN block and all that belongs to it.

    ``queue``: the block itself. ``sections``: lookup records of each memory core, whole beats of
    its port, to be placed where ``section_beats`` said. ``staged``: bytes to be in the staging
    rings before the block starts. ``result_beats``: beats that the device writes for it, status
    beat included. ``row_beats``: beats of rows that the lookups read on the cores' ports, all but
    those of rows on chip or in TT form. ``tt_lookups`` are rebuilt and ``tt_hits`` of them have a
    pinned prefix, by table. ``staged_rows`` distinct SSD rows come with ``staged_pages`` 4 KiB
    reads for ``staged_lookups`` lookups; ``seconds`` is the time of one processor core that
    encoding took.
    """

    block_id: int
    samples: int
    queue: bytes
    sections: tuple[bytes, ...]
    staged: tuple[StagedWrite, ...]
    result_beats: int
    lookups: int
    row_beats: int
    tt_lookups: tuple[int, ...]
    tt_hits: tuple[int, ...]
    staged_lookups: int
    staged_rows: int
    staged_pages: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Lookups:
    """All lookups of a block, feature by feature and then by sample, as the log has them.

    ``lengths``: of the bags, ``(features, samples)``; the others ``(lookups,)``.
    """

    lengths: Ints
    sample: Ints
    feature: Ints
    rank: Ints


def read_remaps(images: Path, shape: ModelShape) -> list[TableRemap]:
    """Map the row order of every table that ``screc compile`` left in the folder ``images``.

    Raises
    ------
    ConfigError
        If a file is missing, of another version, or damaged.
    """
    return [TableRemap.load(images / "remap" / f"{i}.bin") for i in range(len(shape.tables))]


class RequestEncoder:
    """Encodes batches for one device.

    Blocks leave in order. Each call takes room in the staging rings; :meth:`retire` gives it back,
    oldest block first, once the block's results are back.

    Parameters
    ----------
    shape, params
        Model and device.
    layout
        Memory of the device.
    remaps
        Row order of every table.
    model
        For the scale of the dense features.
    ssd
        Image of the SSD rows.
    """

    def __init__(
        self,
        shape: ModelShape,
        params: DeviceParams,
        layout: Layout,
        remaps: Sequence[TableRemap],
        model: QuantModel,
        ssd: Path,
    ) -> None:
        self._shape = shape
        self._params = params
        self._layout = layout
        self._remaps = tuple(remaps)
        self._model = model
        self._stager = Stager(layout, ssd)
        self._mean = np.array([f.mode == "mean" for f in shape.features], bool)
        # figures of the tables, one entry per feature
        self._table = np.array([f.table for f in shape.features], np.int64)
        resident = np.array([t.resident_rows for t in layout.tables], np.int64)
        self._resident_rows = resident[self._table]
        self._onchip_rows = np.array([t.onchip_rows for t in layout.tables], np.int64)[self._table]
        self._dram_first = np.array([t.dram_first for t in layout.tables], np.int64)[self._table]
        # ranks below are on chip, or have a pinned prefix
        self._pinned_rows = np.array([_pinned_rows(t) for t in layout.tables], np.int64)[
            self._table
        ]
        self._row_beats = np.array([t.row_beats for t in layout.tables], np.int64)[self._table]
        self._shift = np.array([t.shift for t in layout.tables], np.int64)[self._table]
        self._stripe = np.array([t.stripe for t in layout.tables], np.int64)[self._table]
        self._replicated = np.array([t.replicated for t in layout.tables], bool)[self._table]

    @classmethod
    def open(
        cls, images: Path, shape: ModelShape, params: DeviceParams, model: QuantModel
    ) -> RequestEncoder:
        """Make an encoder of what ``screc compile`` left in the folder ``images``."""
        layout = Layout.load(images / "layout.json")
        return cls(shape, params, layout, read_remaps(images, shape), model, images / "ssd.bin")

    @property
    def layout(self) -> Layout:
        """Memory of the device."""
        return self._layout

    def retire(self) -> None:
        """Free the staging space of the oldest block not yet retired."""
        self._stager.retire()

    def encode(
        self,
        batch: SampleBatch,
        *,
        block_id: int,
        result_offset: int,
        section_beats: Sequence[int] | None = None,
    ) -> EncodedBlock:
        """Encode ``batch`` as one RUN block.

        Parameters
        ----------
        batch
            1 to 65,535 samples.
        block_id
            Echoed in the status beat.
        result_offset
            Beats from the result pointer at which the device writes.
        section_beats
            Per memory core: beats from its base pointer at which its section will lie; the start
            of the lookup area where None.

        Raises
        ------
        ConfigError
            If the batch is too large or not of this model, a bag is longer than 65,535, or an id
            lies outside its table.
        StagingFullError
            If the SSD rows do not fit the staging rings.
        """
        started = time.thread_time()
        if not 1 <= len(batch) <= MAX_SAMPLES:
            raise ConfigError(f"a block holds 1 to {MAX_SAMPLES} samples, not {len(batch)}")
        try:
            check_batch(self._shape, batch)
        except ValueError as error:
            raise ConfigError(str(error), field="log") from error
        lookups = self._rank(batch)
        place = _sample_major(lookups)
        staged_mask = lookups.rank >= self._resident_rows[lookups.feature]
        read = lookups.rank >= self._dram_first[lookups.feature]
        tt = ~read & (lookups.rank >= self._onchip_rows[lookups.feature])
        hits = tt & (lookups.rank < self._pinned_rows[lookups.feature])
        staged = self._stager.stage(
            self._table[lookups.feature[staged_mask]], lookups.rank[staged_mask]
        )

        cores = len(self._layout.cores)
        stripe = self._stripe[lookups.feature]
        core = (lookups.rank - self._shift[lookups.feature]) & (stripe - 1)
        address = lookups.rank.copy()
        core[staged_mask] = staged.core[staged.inverse]
        free = self._replicated[lookups.feature] & ~staged_mask
        if free.any():
            self._balance(lookups, place, core, free, read)
        address[staged_mask] = staged.beat[staged.inverse]
        records = _records(lookups, address, staged_mask)
        ordered, ordered_core = np.empty_like(records), np.empty_like(core)
        ordered[place], ordered_core[place] = records, core
        parts = [_mark_last(ordered[ordered_core == i]) for i in range(cores)]

        beat = self._layout.beat_bytes
        where = section_beats or [c.lookup_offset // beat for c in self._layout.cores]
        table = np.array([[at, len(part)] for at, part in zip(where, parts, strict=True)], "<u4")
        body = pad(table.tobytes()) + self._sub_batches(batch, lookups.lengths.T)
        padded = -(-len(batch) // self._params.core.rows) * self._params.core.rows
        header = encode_header(
            {
                Header.VERSION_OPCODE: version_opcode(Opcode.RUN),
                Header.BLOCK_BYTES: BEAT_BYTES + len(body),
                Header.BLOCK_ID: block_id,
                Header.RESULT_OFFSET: result_offset,
                Header.SAMPLES: len(batch),
                Header.FEATURES: len(batch.bags),
                Header.DENSE: self._shape.dense,
                Header.SECTIONS: cores,
            }
        )
        return EncodedBlock(
            block_id=block_id,
            samples=len(batch),
            queue=header + body,
            sections=tuple(pad(part.astype("<u8").tobytes(), beat) for part in parts),
            staged=staged.writes,
            result_beats=1 + -(-padded * RECORD_BYTES // BEAT_BYTES),
            lookups=len(records),
            row_beats=int(self._row_beats[lookups.feature[read]].sum()),
            tt_lookups=self._by_table(lookups.feature[tt]),
            tt_hits=self._by_table(lookups.feature[hits]),
            staged_lookups=int(np.count_nonzero(staged_mask)),
            staged_rows=staged.rows,
            staged_pages=staged.pages,
            seconds=time.thread_time() - started,
        )

    def _balance(
        self,
        lookups: _Lookups,
        place: Ints,
        core: Ints,
        free: NDArray[np.bool_],
        read: NDArray[np.bool_],
    ) -> None:
        """Set the memory ``core`` of lookups that are ``free``, as every core holds their rows.

        Over the block each of them goes to the core with the least row beats so far: those
        ``read`` on the ports first, which level the ports, then the others, which level the sum.
        ``place`` is the order of the sections.
        """
        cores = len(self._layout.cores)
        beats = self._row_beats[lookups.feature]
        order = np.empty_like(place)
        order[place] = np.arange(len(place))
        order = order[free[order]]
        loads = np.zeros(cores, np.int64)
        for tier in (read, ~read):
            fixed = tier & ~free
            loads += np.bincount(core[fixed], beats[fixed], cores).astype(np.int64)
            tier_order = order[tier[order]]
            # the largest rows first: the smaller ones then even out what is left
            for cost in np.unique(beats[tier_order])[::-1].tolist():
                mine = tier_order[beats[tier_order] == cost]
                counts = level(loads, len(mine), cost)
                core[mine] = deal(counts, lookups.sample[mine] // self._params.core.rows)
                loads += counts * cost

    def _by_table(self, features: Ints) -> tuple[int, ...]:
        """Count lookups of ``features`` by table."""
        counts = np.bincount(self._table[features], minlength=len(self._layout.tables))
        return tuple(counts.tolist())

    def _rank(self, batch: SampleBatch) -> _Lookups:
        """Rank every id; lookups stay feature by feature."""
        lengths: Ints = np.stack([bags.lengths for bags in batch.bags])
        features, samples = lengths.shape
        ranks = [
            self._remaps[table].ranks(bags.ids)
            for table, bags in zip(self._table, batch.bags, strict=True)
        ]
        return _Lookups(
            lengths=lengths,
            sample=np.repeat(np.tile(np.arange(samples), features), lengths.ravel()),
            feature=np.repeat(np.arange(features), lengths.sum(axis=1)),
            rank=np.concatenate(ranks).astype(np.int64),
        )

    def _sub_batches(self, batch: SampleBatch, lengths: Ints) -> bytes:
        """Bag headers and dense words of every sub-batch, each part padded to a beat.

        ``lengths`` is ``(samples, features)``.
        """
        rows = self._params.core.rows
        count = -(-len(batch) // rows)
        factors = np.where(self._mean & (lengths > 0), reciprocals(np.maximum(lengths, 1))[0], 0)
        headers = np.zeros((count * rows, lengths.shape[1]), "<u4")
        headers[: len(batch)] = lengths << BAG_LENGTH_SHIFT | factors << BAG_RECIPROCAL_SHIFT
        bags = headers.reshape(count, -1).view(np.uint8)
        dense = np.zeros((count * rows, self._shape.dense), np.int8)
        dense[: len(batch)] = self._model.quantise_dense(batch.dense)
        # one byte per row for every input: inputs outside, rows inside
        inputs = dense.reshape(count, rows, -1).transpose(0, 2, 1).reshape(count, -1)
        dense_at = -(-bags.shape[1] // BEAT_BYTES) * BEAT_BYTES
        end = dense_at + -(-inputs.shape[1] // BEAT_BYTES) * BEAT_BYTES
        body = np.zeros((count, end), np.uint8)
        body[:, : bags.shape[1]] = bags
        body[:, dense_at : dense_at + inputs.shape[1]] = inputs.view(np.uint8)
        return body.tobytes()


def _pinned_rows(table: TableLayout) -> int:
    """Rank behind those that are on chip or have a pinned prefix."""
    if table.tt is None:
        return table.onchip_rows
    return min(table.tt.last, table.tt.first + table.tt.pins * table.tt.shape.p[2])


def _sample_major(lookups: _Lookups) -> Ints:
    """Position of every lookup in (sample, feature) order, by counting rather than sorting.

    The lookups of a bag keep their order.
    """
    by_feature = lookups.lengths.ravel()
    by_sample = lookups.lengths.T.ravel()
    # where every bag, feature by feature, begins in the new order, less where it began
    starts = (np.cumsum(by_sample) - by_sample).reshape(lookups.lengths.T.shape).T.ravel()
    moves = starts - (np.cumsum(by_feature) - by_feature)
    return np.arange(len(lookups.rank)) + np.repeat(moves, by_feature)


def _records(lookups: _Lookups, address: Ints, staged: NDArray[np.bool_]) -> Ints:
    """Lookup records without ``last``."""
    fields = {
        "rank": address,
        "feature": lookups.feature,
        "sample": lookups.sample,
        "staged": staged.astype(np.int64),
    }
    record = np.zeros(len(address), np.int64)
    for name, values in fields.items():
        record |= values << LOOKUP_FIELDS[name][0]
    return record


def _mark_last(records: Ints) -> Ints:
    """Set ``last`` on the last record of every bag."""
    low = LOOKUP_FIELDS["feature"][0]
    bits = LOOKUP_FIELDS["feature"][1] + LOOKUP_FIELDS["sample"][1]
    bag = records >> low & ((1 << bits) - 1)
    last = np.ones(len(records), bool)
    last[:-1] = bag[1:] != bag[:-1]
    return records | last.astype(np.int64) << LOOKUP_FIELDS["last"][0]
