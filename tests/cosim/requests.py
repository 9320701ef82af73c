"""Requests to a gather engine of which any part may be wrong, and what it must make of them.

The model is written from docs/memory.md and ``protocol``: it works on bytes, so that any descriptor
has an answer, and names every beat that may be read.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import (
    FEATURE_FIELDS,
    FEATURE_WORDS,
    MAX_FEATURES,
    MAX_SAMPLES,
    RANGE_FIELDS,
    RANGE_PREFIX,
    LoadTarget,
    pack,
)
from screc_sim.native.harness import Job, Memory, Outcome

PARAMS = MemoryCoreParams(
    port_bits=128,
    lanes=16,
    outstanding=4,
    max_features=6,
    max_slices=3,
    rows=8,
    slots=4,
    rowwise=True,
    onchip_beats=61,
    pool_beats=2,
)
"""No maximum is a power of two where it need not be, and the FIFO is as small as may be."""

BEAT = PARAMS.beat_bytes
IMAGE_BEATS = 700
IMAGE = np.random.default_rng(1).integers(0, 256, IMAGE_BEATS * BEAT, np.uint8)
ONCHIP = np.random.default_rng(2).integers(0, 256, PARAMS.onchip_beats * BEAT, np.uint8)
RING_BASE, RING, LIMIT = 600 * BEAT, 20, 620

TABLES: tuple[dict[str, int], ...] = (
    # int8, three beats, across 4 KiB; its hottest rows on chip
    {
        "base": 16,
        "row_beats": 3,
        "enable": 1,
        "first": 10,
        "last": 100,
        "slices": 3,
        "onchip_last": 10,
    },
    # int4, one beat, every second rank
    {
        "base": 300 * BEAT,
        "row_beats": 1,
        "int4": 1,
        "enable": 1,
        "last": 60,
        "slices": 2,
        "stripe_log2": 1,
        "residue": 1,
    },
    # int8r, four beats
    {
        "base": 340 * BEAT,
        "row_beats": 4,
        "rowwise": 1,
        "enable": 1,
        "first": 4,
        "last": 34,
        "slices": 3,
    },
    # int4r below a beat, also on chip
    {
        "base": 470 * BEAT,
        "sub_beat": 1,
        "stride_log2": 4,
        "int4": 1,
        "rowwise": 1,
        "enable": 1,
        "first": 20,
        "last": 70,
        "slices": 1,
        "onchip_base": 30,
        "onchip_last": 20,
    },
    # int4, two rows a beat
    {
        "base": 530 * BEAT,
        "sub_beat": 1,
        "stride_log2": 3,
        "int4": 1,
        "enable": 1,
        "last": 50,
        "slices": 1,
        "onchip_base": 50,
        "onchip_first": 50,
        "onchip_last": 70,
        "onchip_stripe_log2": 1,
    },
    # not of this core
    {"row_beats": 1, "slices": 2, "last": 1 << 31},
)

FIELDS = {
    name: width
    for name, (_, width) in FEATURE_FIELDS.items()
    if name != "reserved" and not name.startswith("tt_")
}

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Record:
    """A lookup record."""

    sample: int
    feature: int
    rank: int
    staged: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class Section:
    """Records, and the count of samples that they may name."""

    samples: int
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is loaded and asked for. ``changes`` are of :data:`TABLES`, by feature."""

    changes: dict[int, dict[str, int]]
    sections: tuple[Section, ...]
    sequence: int
    ring_base: int
    ring: int
    limit: int
    memory: Memory

    @property
    def tables(self) -> list[dict[str, int]]:
        """Every field of every descriptor."""
        none = dict.fromkeys(FIELDS, 0)
        return [{**none, **t, **self.changes.get(i, {})} for i, t in enumerate(TABLES)]


@dataclasses.dataclass
class Piece:
    """What one lane must give of a bag: ``values`` None where its rows' bytes are no row."""

    name: tuple[int, int, int]
    slices: int
    count: int
    values: NDArray[Any] | None


@dataclasses.dataclass
class Place:
    """Where a lookup goes: ``start`` byte of its ``beats`` beats; None where it is refused."""

    lane: str
    start: int | None
    beats: int = 0
    values: NDArray[Any] | None = None


class Model:
    """What the engine must do with a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tables = case.tables
        self.range_errors = self.row_beats = self.onchip_beats = 0
        self.allowed: set[tuple[int, int]] = set()
        self.lanes: dict[str, list[Piece]] = {tier: [] for tier in PARAMS.tiers}
        self.columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        sequence = case.sequence
        for section in case.sections:
            self._section(section, sequence)
            sequence += -(-section.samples // PARAMS.rows)

    def _section(self, section: Section, sequence: int) -> None:
        for number, record in enumerate(section.records):
            common = {"samples": section.samples, "sequence": sequence & 0xFFFF}
            final = {"final": int(number == len(section.records) - 1)}
            values = {**dataclasses.asdict(record), **common, **final}
            for name in COLUMNS:
                self.columns[name].append(int(values[name]))
        good = [
            record
            for record in section.records
            if record.sample < section.samples and record.feature < PARAMS.max_features
        ]
        self.range_errors += len(section.records) - len(good)
        run: list[Record] = []
        for here, after in itertools.zip_longest(good, good[1:]):
            run.append(here)
            same = after is not None and (here.sample, here.feature) == (
                after.sample,
                after.feature,
            )
            if here.last or not same:
                self._partial(run, sequence)
                run = []

    def _partial(self, run: list[Record], sequence: int) -> None:
        sample, feature = run[0].sample, run[0].feature
        table = self.tables[feature]
        places = [self._place(table, record) for record in run]
        slot = ((sequence + sample // PARAMS.rows) & 0xFFFF) % PARAMS.slots
        slices = table["slices"] if 1 <= table["slices"] <= PARAMS.max_slices else 1
        for place in places:
            if place.start is None:
                self.range_errors += 1
            elif place.lane == "onchip":
                self.onchip_beats += place.beats
            else:
                self.row_beats += place.beats
                self.allowed.add((place.start, place.start + place.beats * BEAT))
        for lane, pieces in self.lanes.items():
            mine = [place for place in places if place.lane == lane]
            if not mine:
                continue
            values: Any = np.zeros(slices * PARAMS.lanes, object)
            for place in mine:
                if place.start is not None:
                    unknown = values is None or place.values is None
                    values = None if unknown else values + place.values
            name = (slot, sample % PARAMS.rows, feature)
            pieces.append(Piece(name, slices, len(mine), values))

    def _place(self, table: dict[str, int], record: Record) -> Place:
        """Find a record's row, if all of it lies where it may."""
        case = self.case
        beats = 1 if table["sub_beat"] else table["row_beats"]
        stride = 1 << table["stride_log2"] if table["sub_beat"] else beats * BEAT
        if not (
            table["enable"]
            and 1 <= table["slices"] <= PARAMS.max_slices
            and (stride <= BEAT if table["sub_beat"] else 1 <= beats <= PARAMS.max_row_beats)
        ):
            return Place("dram", None)
        if record.staged:
            if record.rank + beats > case.ring:
                return Place("dram", None)
            return self._fetch("dram", table, case.ring_base, record.rank * BEAT, beats)
        for tier in PARAMS.tiers:
            prefix = RANGE_PREFIX[tier]
            first, last = table[f"{prefix}first"], table[f"{prefix}last"]
            stripe = table[f"{prefix}stripe_log2"]
            if (
                first <= record.rank < last
                and record.rank % (1 << stripe) == table[f"{prefix}residue"]
            ):
                base = table["base"] if tier == "dram" else table["onchip_base"] * BEAT
                local = record.rank - first >> stripe
                return self._fetch(tier, table, base, local * stride, beats)
        return Place("dram", None)

    def _fetch(self, tier: str, table: dict[str, int], base: int, offset: int, beats: int) -> Place:
        memory, limit = {
            "dram": (IMAGE, self.case.limit),
            "onchip": (ONCHIP, PARAMS.onchip_beats),
        }[tier]
        first = (base + offset) // BEAT
        if first + beats > limit:
            return Place("dram", None)
        values = None
        if base % BEAT == 0 and self._is_row(table, offset, beats):
            start = base + offset
            raw = memory[(start + np.arange(self._row_bytes(table))) % len(memory)]
            values = self._values(table, raw)
        return Place(tier, first * BEAT, beats, values)

    @staticmethod
    def _row_bytes(table: dict[str, int]) -> int:
        codes = table["slices"] * PARAMS.lanes
        return (codes // 2 if table["int4"] else codes) + 4 * table["rowwise"]

    def _is_row(self, table: dict[str, int], offset: int, beats: int) -> bool:
        """Whether what is read is a row of this size, and not something shorter or longer."""
        size = self._row_bytes(table)
        if table["sub_beat"]:
            return (offset % BEAT == 0 and size <= BEAT) or size <= 1 << table["stride_log2"]
        needed = -(-size // BEAT)
        return needed == beats or (needed < beats and not table["rowwise"])

    @staticmethod
    def _values(table: dict[str, int], raw: NDArray[np.uint8]) -> NDArray[Any] | None:
        codes = raw[: len(raw) - 4 * table["rowwise"]].astype(object)
        if table["int4"]:
            codes = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1)
        if not table["rowwise"]:
            half = 8 if table["int4"] else 128
            return np.where(codes >= half, codes - 2 * half, codes)
        tail = raw[-4:].copy().view(np.float16).astype(float)
        if not np.isfinite(tail).all():
            return None
        scale, bias = (int(value * 2.0**24) for value in tail)
        return codes * scale + bias

    def job(self) -> Job:
        """Return the run: nothing but the rows asked for may be read."""
        config = []
        for index, table in enumerate(self.tables):
            word = pack(FEATURE_FIELDS, **table)
            for i in range(FEATURE_WORDS):
                value = word >> 64 * i & (1 << 64) - 1
                config.append((LoadTarget.GATHER_FEATURES, index * FEATURE_WORDS + i, value))
        staging = (self.case.ring_base, self.case.ring, self.case.limit)
        config += [(LoadTarget.GATHER_STAGING, i, value) for i, value in enumerate(staging)]
        rows = ONCHIP.view(np.uint64).tolist()
        config += [(LoadTarget.GATHER_ROWS, i, value) for i, value in enumerate(rows)]
        columns = {name: np.array(values, np.int64) for name, values in self.columns.items()}
        # an empty list would be a file that cannot be read as a list of pairs
        regions = sorted(self.allowed) or [(0, 0)]
        return Job(config=config, image=IMAGE, regions=regions, lookups=columns)

    def check(self, outcome: Outcome) -> None:
        """Compare counters and partials with the run's."""
        assert outcome.range_errors == self.range_errors
        assert outcome.row_beats == self.row_beats
        assert outcome.beats_counted == self.row_beats + self.onchip_beats
        got = outcome.partials
        names = ("slot", "row", "feature", "slice", "last", "count")
        rows = list(zip(*(got[name].tolist() for name in names), strict=True))
        queues = [list(self._slices(pieces)) for pieces in self.lanes.values()]
        # every way in which the partials so far can have come from the lanes: how many of each,
        # and the lane whose partial is not complete
        ways: set[tuple[tuple[int, ...], int | None]] = {((0,) * len(queues), None)}
        for number, (row, acc) in enumerate(zip(rows, got["acc"], strict=True)):
            following = set()
            for taken, locked in ways:
                for lane, queue in enumerate(queues):
                    if locked not in (None, lane) or taken[lane] == len(queue):
                        continue
                    name, values = queue[taken[lane]]
                    if name == row and (values is None or np.array_equal(values, acc)):
                        after = (*taken[:lane], taken[lane] + 1, *taken[lane + 1 :])
                        following.add((after, None if row[4] else lane))
            assert following, f"partial {number}, {row} with {acc}, is no lane's next"
            ways = following
        assert (tuple(map(len, queues)), None) in ways, f"{len(rows)} partials are not all"

    @staticmethod
    def _slices(pieces: list[Piece]) -> Any:
        for piece in pieces:
            for index in range(piece.slices):
                values = None
                if piece.values is not None:
                    low = index * PARAMS.lanes
                    bits, sums = PARAMS.acc_bits, piece.values[low : low + PARAMS.lanes]
                    half = 1 << bits - 1
                    values = ((sums + half) % (2 * half) - half).astype(np.int64)
                last = int(index == piece.slices - 1)
                yield (*piece.name, index, last, piece.count), values


COLUMNS = ("rank", "feature", "sample", "staged", "last", "final", "samples", "sequence")


def _number(bits: int, *usual: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Values of a field: the usual ones, its ends, or any."""
    top = (1 << bits) - 1
    return st.one_of(*usual, st.sampled_from([0, 1, top - 1, top]), st.integers(0, top))


OVERRIDES = st.dictionaries(
    st.sampled_from(sorted(FIELDS)), st.integers(0, (1 << 48) - 1), max_size=3
)
WILD = st.integers(0, (1 << 64 * (FEATURE_WORDS - 1)) - 1)


@st.composite
def descriptors(draw: st.DrawFn) -> dict[str, int]:
    """Some fields at random, or all."""
    if draw(st.integers(0, 3)):
        fields = draw(OVERRIDES)
        return {name: value & (1 << FIELDS[name]) - 1 for name, value in fields.items()}
    word = draw(WILD)
    return {
        name: word >> low & (1 << width) - 1
        for name, (low, width) in FEATURE_FIELDS.items()
        if name in FIELDS
    }


def _ranks(table: dict[str, int]) -> list[int]:
    """Ranks of a table that lie somewhere."""
    found = set()
    for tier in PARAMS.tiers:
        first, last, stripe, residue = (
            table.get(RANGE_PREFIX[tier] + name, 0) for name in RANGE_FIELDS
        )
        found |= {rank for rank in range(first, min(last, 999)) if rank % (1 << stripe) == residue}
    return sorted(found)


RANKS = [_ranks(table) for table in TABLES]
FEATURES = st.one_of(
    st.integers(0, len(TABLES) - 2),
    st.integers(0, len(TABLES) - 2),
    st.sampled_from([5, 6, 7, 8, MAX_FEATURES - 1]),
)
LOOKUPS = st.lists(
    st.tuples(st.integers(0, 15), _number(32)),
    min_size=1,
    max_size=7,
)


def lookup(feature: int, kind: int, value: int) -> tuple[int, bool]:
    """Rank, and whether it is a staged row's beat: most are of the table."""
    if kind < 9:
        ranks = RANKS[feature % len(TABLES)]
        return ranks[value % len(ranks)], False
    if kind < 12:
        return value % RING, True
    return (value, kind < 14) if kind % 2 else (value % 120, kind < 14)


@st.composite
def section_of_bags(draw: st.DrawFn) -> Section:
    """Bags of one and more lookups; some marks of ends are missing, and some too many."""
    samples = draw(st.one_of(st.integers(1, 20), st.sampled_from([1, 8, MAX_SAMPLES])))
    inside = st.integers(0, samples - 1)
    beside = st.sampled_from([samples - 1, samples, MAX_SAMPLES, 0])
    records = []
    for sample, feature, mark, lookups in draw(
        st.lists(
            st.tuples(
                st.one_of(inside, inside, inside, beside), FEATURES, st.integers(0, 11), LOOKUPS
            ),
            min_size=1,
            max_size=8,
        )
    ):
        for index, (kind, value) in enumerate(lookups):
            last = (index == len(lookups) - 1) != (mark == index)
            records.append(Record(sample, feature, *lookup(feature, kind, value), last))
    return Section(samples, tuple(records))


TRAFFIC = st.sampled_from(
    [
        Memory(latency=1),
        Memory(latency=(1, 30), r_gap=0.3),
        Memory(latency=20, partial_stall=0.6, ar_stall=0.3),
        Memory(latency=(10, 90), ar_stall=0.5, r_gap=0.1, lookup_gap=0.3, partial_stall=0.1),
    ]
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Requests with wrong parts anywhere, and good ones among them."""
    usual = draw(st.integers(0, 2)) < 2
    return Case(
        changes=draw(st.dictionaries(st.integers(0, len(TABLES) - 1), descriptors(), max_size=2)),
        sections=tuple(draw(st.lists(section_of_bags(), min_size=1, max_size=2))),
        sequence=draw(_number(16)),
        ring_base=RING_BASE if usual else draw(_number(48, st.integers(0, LIMIT * BEAT))),
        ring=RING if usual else draw(_number(32, st.integers(0, RING))),
        limit=LIMIT if usual else draw(_number(32, st.integers(0, LIMIT))),
        memory=dataclasses.replace(draw(TRAFFIC), seed=draw(st.integers(0, 999))),
    )
