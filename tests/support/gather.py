"""Bench of the memory core: its memory, an AXI4 slave, and what the core must answer."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import deque
from typing import Any

import numpy as np

from screc_hw.memory.core import MemoryCore
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.protocol import FEATURE_FIELDS, FEATURE_WORDS, LOOKUP_FIELDS, LoadTarget, pack
from screc_hw.stream import partial_layout
from tests.support.pysim import collector, driver, pauses, simulate

BOUNDARY = 4096
BASE = 0x3_4560_0000


@dataclasses.dataclass
class Table:
    """Part of a table on this core: codes ``(local rows, dim)`` of ranks in [first, last).

    ``codes`` are random where None; ``base`` is the next free place where None.
    """

    dim: int
    first: int = 0
    last: int = 16
    int4: bool = False
    stripe_log2: int = 0
    residue: int = 0
    base: int | None = None
    enable: bool = True
    codes: Any = None

    def local(self, rank: int) -> int | None:
        """Local row of a rank, None where it is not here."""
        if not (self.enable and self.first <= rank < self.last):
            return None
        here = [r for r in range(self.first, self.last) if r % 2**self.stripe_log2 == self.residue]
        return here.index(rank) if rank in here else None


def row_bytes(codes: np.ndarray, int4: bool) -> bytes:
    """Stored form of a row."""
    if int4:
        nibbles = codes.astype(np.int64) & 15
        return bytes((nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8))
    return codes.astype(np.int8).tobytes()


class Bench:
    """Memory and expectations of one core.

    ``records`` are (sample, feature, rank or staged beat, staged, last); :meth:`section` places
    them and appends what they must give to ``expected``.
    """

    def __init__(
        self, params: MemoryCoreParams, tables: list[Table], *, ring: int = 0, seed: int = 0
    ):
        self.params, self.tables, self.ring = params, tables, ring
        self.rng = random.Random(seed)
        rng = np.random.default_rng(seed)
        self.image = bytearray()
        self.row_ranges: list[tuple[int, int]] = []
        self.section_ranges: list[tuple[int, int]] = []
        self.commands: list[dict[str, int]] = []
        self.expected: list[tuple[Any, ...]] = []
        self.range_errors = self.lookups = 0
        self.staged: dict[tuple[int, int], np.ndarray] = {}
        self.config: list[tuple[LoadTarget, int, int]] = []
        beat = params.beat_bytes
        for index, table in enumerate(tables):
            size = table.dim // 2 if table.int4 else table.dim
            sub = size < beat
            stride = 1 << (size - 1).bit_length() if sub else -(-size // beat) * beat
            count = sum(
                r % 2**table.stripe_log2 == table.residue for r in range(table.first, table.last)
            )
            limit = 8 if table.int4 else 128
            if table.codes is None:
                table.codes = rng.integers(-limit, limit, (count, table.dim))
            table.codes = np.asarray(table.codes)
            base = self._grow(table.base)
            for row in table.codes:
                self.image += row_bytes(row, table.int4).ljust(stride, b"\xa5")
            self.row_ranges.append((base, self._align()))
            word = pack(
                FEATURE_FIELDS,
                base=base,
                row_beats=-(-size // beat),
                sub_beat=int(sub),
                stride_log2=stride.bit_length() - 1 if sub else 0,
                int4=int(table.int4),
                enable=int(table.enable),
                first=table.first,
                last=table.last,
                stripe_log2=table.stripe_log2,
                residue=table.residue,
                slices=table.dim // params.lanes,
            )
            for i in range(FEATURE_WORDS):
                value = word >> 64 * i & (1 << 64) - 1
                target = LoadTarget.GATHER_FEATURES
                self.config.append((target, index * FEATURE_WORDS + i, value))
        self.ring_base = self._grow(None)
        self.image += bytes(rng.integers(0, 256, ring * beat, dtype=np.uint8))
        if ring:
            self.row_ranges.append((self.ring_base, len(self.image)))
        self.config += [
            (LoadTarget.GATHER_STAGING, 0, self.ring_base),
            (LoadTarget.GATHER_STAGING, 1, ring),
            (LoadTarget.GATHER_STAGING, 2, len(self.image) // beat),
            # other targets are not for this core
            (LoadTarget.COMBINER_FEATURES, 0, (1 << 64) - 1),
            (LoadTarget.PROGRAM, 1, (1 << 64) - 1),
        ]

    def _grow(self, base: int | None) -> int:
        """Pad the image to ``base``, or to the next beat plus a gap; return its length."""
        beat = self.params.beat_bytes
        if base is None:
            base = -(-len(self.image) // beat) * beat + beat
        assert base >= len(self.image), "tables overlap"
        self.image += bytes(base - len(self.image))
        return base

    def _align(self) -> int:
        """Pad the image to whole beats; return its length."""
        self.image += bytes(-len(self.image) % self.params.beat_bytes)
        return len(self.image)

    def _row(self, feature: int, rank: int, staged: bool) -> np.ndarray | None:
        """Codes of a lookup, None where it is out of range."""
        table = self.tables[feature]
        if not staged:
            local = table.local(rank)
            return None if local is None else table.codes[local]
        size = table.dim // 2 if table.int4 else table.dim
        beats = -(-size // self.params.beat_bytes)
        if not table.enable or rank + beats > self.ring:
            return None
        start = self.ring_base + rank * self.params.beat_bytes
        raw = np.frombuffer(bytes(self.image[start : start + size]), np.uint8)
        if not table.int4:
            return raw.astype(np.int8).astype(np.int64)
        nibbles = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1).astype(np.int64)
        return np.where(nibbles > 7, nibbles - 16, nibbles)

    def section(
        self, records: list[tuple[int, int, int, bool, bool]], *, samples: int, sequence: int = 0
    ) -> None:
        """Place a section in memory and derive the partials it must give."""
        p = self.params
        base = self._grow(None)
        for sample, feature, rank, staged, last in records:
            word = pack(
                LOOKUP_FIELDS,
                rank=rank,
                feature=feature,
                sample=sample,
                staged=int(staged),
                last=int(last),
            )
            self.image += word.to_bytes(8, "little")
        self.section_ranges.append((base, self._align()))
        self.commands.append(
            {
                "offset": base // p.beat_bytes,
                "lookups": len(records),
                "samples": samples,
                "sequence": sequence & 0xFFFF,
            }
        )
        self.lookups += len(records)
        good = [r for r in records if r[0] < samples and r[1] < p.max_features]
        self.range_errors += len(records) - len(good)
        run: list[tuple[int, int, int, bool, bool]] = []
        for here, after in itertools.zip_longest(good, good[1:]):
            run.append(here)
            if here[4] or after is None or here[:2] != after[:2]:
                self._partial(run, sequence)
                run = []

    def _partial(self, run: list[tuple[int, int, int, bool, bool]], sequence: int) -> None:
        p = self.params
        sample, feature = run[0][:2]
        rows = [self._row(feature, rank, staged) for _, _, rank, staged, _ in run]
        self.range_errors += sum(row is None for row in rows)
        total = sum((row for row in rows if row is not None), np.zeros(self.tables[feature].dim))
        parts = total.astype(int).reshape(-1, p.lanes)
        slot = ((sequence + sample // p.rows) & 0xFFFF) % p.slots
        for index, part in enumerate(parts):
            self.expected.append(
                (
                    slot,
                    sample % p.rows,
                    feature,
                    index,
                    int(index == len(parts) - 1),
                    len(run),
                    tuple(part.tolist()),
                )
            )


class Slave:
    """An AXI4 memory that checks the core's requests.

    ``latency`` cycles from an accepted request to its first beat, ``jitter`` more at random; data
    of one ID in order, of two IDs interleaved beat by beat where ``interleave``; ``idle`` pauses
    the data and ``slow`` the requests; beat ``error_at`` has an error response.
    """

    def __init__(
        self,
        bench: Bench,
        axi: Any,
        *,
        latency: int = 5,
        jitter: int = 0,
        idle: str = "none",
        slow: str = "none",
        interleave: bool = True,
        error_at: int | None = None,
    ) -> None:
        self.bench, self.axi = bench, axi
        self.latency, self.jitter, self.idle, self.slow = latency, jitter, idle, slow
        self.interleave, self.error_at = interleave, error_at
        self.requests: list[tuple[int, int, int]] = []
        self.beats: list[int] = []  # cycle of every beat
        self.outstanding_rows = self.most_rows = self.requests_at_hold = 0

    def check(self, axid: int, address: int, beats: int, size: int, burst: int) -> int:
        width = self.bench.params.beat_bytes
        assert width == 1 << size
        assert burst == 1
        assert address % width == 0
        last = address + beats * width - 1
        assert address // BOUNDARY == last // BOUNDARY, f"{address:#x} +{beats} crosses 4 KiB"
        start, end = address - BASE, last + 1 - BASE
        allowed = self.bench.row_ranges if axid else self.bench.section_ranges
        inside = any(low <= start and end <= high for low, high in allowed)
        assert inside, f"read of id {axid} at {start:#x} +{beats} beats is outside its data"
        return start

    async def process(self, ctx: Any) -> None:
        axi, width = self.axi, self.bench.params.beat_bytes
        rng = random.Random(7)
        idle, slow = pauses(self.idle, 5), pauses(self.slow, 6)
        waiting: tuple[deque[Any], deque[Any]] = (deque(), deque())
        stalled: tuple[int, ...] | None = None
        cycle = sent = 0
        open_burst: int | None = None
        while True:
            ready = not slow()
            ctx.set(axi.arready, int(ready))
            due = [i for i in (0, 1) if waiting[i] and waiting[i][0][0] <= cycle]
            valid = bool(due) and not idle()
            if valid:
                if open_burst is not None and not self.interleave:
                    axid = open_burst
                else:
                    axid = rng.choice(due)
                _, data, last = waiting[axid].popleft()
                open_burst = None if last else axid
                ctx.set(axi.rdata, data)
                ctx.set(axi.rid, axid)
                ctx.set(axi.rlast, int(last))
                ctx.set(axi.rresp, 2 if sent == self.error_at else 0)
                sent += 1
                self.beats.append(cycle)
                self.outstanding_rows -= axid
            ctx.set(axi.rvalid, int(valid))
            _, _, arvalid, *request, rready = await ctx.tick().sample(
                axi.arvalid,
                axi.arid,
                axi.araddr,
                axi.arlen,
                axi.arsize,
                axi.arburst,
                axi.rready,
            )
            assert rready, "rows and records have a place before they are requested"
            if stalled is not None:
                assert arvalid, "arvalid was withdrawn"
                assert tuple(request) == stalled, "a request changed while it waited"
            stalled = tuple(request) if arvalid and not ready else None
            if arvalid and ready:
                axid, address, length, size, burst = request
                start = self.check(axid, address, length + 1, size, burst)
                self.requests.append((axid, start, length + 1))
                when = cycle + self.latency + rng.randint(0, self.jitter)
                if axid:
                    self.outstanding_rows += length + 1
                    self.most_rows = max(self.most_rows, self.outstanding_rows)
                for i in range(length + 1):
                    at = start + i * width
                    value = int.from_bytes(self.bench.image[at : at + width], "little")
                    waiting[axid].append((when, value, i == length))
            cycle += 1


@dataclasses.dataclass
class Outcome:
    """What a run gave: the partials, the cycles of each, and the slave."""

    partials: list[tuple[Any, ...]]
    slave: Slave
    cycles: int
    counters: dict[str, int]
    first: int


def decode(params: MemoryCoreParams) -> Any:
    """Return a function from a sampled partial to the tuple that :class:`Bench` expects."""
    layout = partial_layout(params)

    def decoder(payload: Any) -> tuple[Any, ...]:
        raw = payload.as_bits()
        values = {name: raw >> field.offset & ((1 << field.width) - 1) for name, field in layout}
        half, full = 1 << params.acc_bits - 1, 1 << params.acc_bits
        lanes = [values["acc"] >> params.acc_bits * i & full - 1 for i in range(params.lanes)]
        acc = tuple(lane - full if lane >= half else lane for lane in lanes)
        names = ("slot", "row", "feature", "slice", "last", "count")
        return (*(values[name] for name in names), acc)

    return decoder


def run(
    bench: Bench,
    *,
    back: str = "none",
    hold: int = 0,
    admit: Any = None,
    clear: bool = False,
    cycles: int = 20_000,
    settle: int = 30,
    **slave: Any,
) -> Outcome:
    """Load the core, send every command, and check the partials and the counters.

    ``admit(ctx, core, slave)`` is a process that drives ``admitted``; by default everything is
    admitted. No partial is taken in the first ``hold`` cycles; ``clear`` is pulsed at the end.
    Other keywords are those of :class:`Slave`.
    """
    core = MemoryCore(bench.params)
    memory = Slave(bench, core.axi, **slave)
    partials: list[tuple[Any, ...]] = []
    counters: dict[str, int] = {}
    loaded = {"cycle": 0, "first": 0, "done": 0}

    async def load(ctx: Any) -> None:
        ctx.set(core.base, BASE)
        if admit is None:
            first = bench.commands[0]["sequence"] if bench.commands else 0
            ctx.set(core.admitted, (first + 0x4000) & 0xFFFF)
        for target, address, value in bench.config:
            payload = {"target": target, "address": address, "data": value}
            ctx.set(core.config.payload, payload)
            ctx.set(core.config.valid, 1)
            await ctx.tick()
        ctx.set(core.config.valid, 0)
        await driver(core.sections, bench.commands)(ctx)

    def finished() -> bool:
        done = counters.get("lookups") == bench.lookups and counters["idle"] == 1
        return done and len(partials) >= len(bench.expected)

    async def watch(ctx: Any) -> None:
        cycle, begun = 0, None
        wanted = len(bench.expected)
        while True:
            if begun is None and ctx.get(core.sections.valid):
                begun = cycle
            await ctx.tick()
            cycle += 1
            if partials and not loaded["first"]:
                loaded["first"] = cycle - (begun or 0)
            if len(partials) >= wanted and not loaded["done"]:
                loaded["done"] = cycle - (begun or 0)
            ctx.set(core.clear, int(clear and finished()))
            for name in ("range_errors", "lookups", "beats", "stalls", "axi_error", "idle"):
                counters[name] = ctx.get(getattr(core, name))
            if counters["idle"] and counters["lookups"] == bench.lookups:
                assert len(partials) >= wanted, "idle with partials to come"

    collect = collector(core.partials, partials, back, 3, decode(bench.params))

    async def take(ctx: Any) -> None:
        for _ in range(hold):
            await ctx.tick()
        memory.requests_at_hold = len(memory.requests)
        await collect(ctx)

    background = [
        take if hold else collect,
        memory.process,
        watch,
    ]
    if admit is not None:

        async def admission(ctx: Any) -> None:
            await admit(ctx, core, memory)

        background.append(admission)
    simulate(
        core,
        load,
        background=background,
        until=finished,
        cycles=cycles,
        settle=settle,
    )
    assert partials == bench.expected
    assert counters["range_errors"] == bench.range_errors
    assert counters["lookups"] == bench.lookups
    assert counters["beats"] == sum(beats for _, _, beats in memory.requests)
    assert counters["idle"] == 1
    assert memory.most_rows <= bench.params.outstanding
    return Outcome(partials, memory, loaded["done"], counters, loaded["first"])
