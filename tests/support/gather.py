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
class Span:
    """A tier's range of ranks: those in [first, last) with the residue."""

    first: int = 0
    last: int = 0
    stripe_log2: int = 0
    residue: int = 0

    def ranks(self) -> list[int]:
        """Ranks here, in order."""
        step = 2**self.stripe_log2
        return [r for r in range(self.first, self.last) if r % step == self.residue]

    def local(self, rank: int) -> int | None:
        """Local row of a rank, None where it is not here."""
        here = self.ranks()
        return here.index(rank) if rank in here else None


@dataclasses.dataclass
class Table:
    """Part of a table on this core: codes ``(local rows, dim)`` of ranks in [first, last).

    ``codes`` are random where None; ``base`` is the next free place where None. ``onchip`` and
    ``tt`` are ranges of those tiers; the rows on chip are random. Row-wise rows have random scales
    and biases, of magnitudes below ``spread``.
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
    rowwise: bool = False
    onchip: Span | None = None
    tt: Span | None = None
    spread: float = 8.0

    def span(self) -> Span:
        """Range of the rows in DRAM."""
        return Span(self.first, self.last, self.stripe_log2, self.residue)

    def local(self, rank: int) -> int | None:
        """Local row of a rank in DRAM, None where it is not here."""
        return self.span().local(rank) if self.enable else None

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return (self.dim // 2 if self.int4 else self.dim) + 4 * self.rowwise

    def random_row(self, rng: np.random.Generator) -> bytes:
        """Stored form of a row of random codes, scale and bias."""
        limit = 8 if self.int4 else 128
        codes = rng.integers(-limit, limit, self.dim)
        tail = b""
        if self.rowwise:
            exponents = rng.uniform(-24, np.log2(self.spread), 2)
            tail = (rng.choice([-1.0, 1.0], 2) * 2.0**exponents).astype(np.float16).tobytes()
        return row_bytes(codes, self.int4) + tail

    def values(self, raw: bytes) -> np.ndarray:
        """Integer components of a stored row, row-wise ones in units of 2**-24."""
        body = np.frombuffer(raw[: self.size - 4 * self.rowwise], np.uint8).astype(object)
        if self.int4:
            body = np.stack([body & 15, body >> 4], axis=1).reshape(-1)
        if self.rowwise:
            scale, bias = np.frombuffer(raw[-4:], np.float16).astype(float) * 2.0**24
            return body * int(scale) + int(bias)
        half = 8 if self.int4 else 128
        return np.where(body >= half, body - 2 * half, body)


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
        self.config: list[tuple[LoadTarget, int, int]] = []
        beat = params.beat_bytes
        self.onchip = bytearray()
        self.rows: list[list[bytes]] = []
        self.onchip_rows: list[list[bytes]] = []
        for index, table in enumerate(tables):
            sub = table.size < beat
            stride = 1 << (table.size - 1).bit_length() if sub else -(-table.size // beat) * beat
            if table.codes is None:
                rows = [table.random_row(rng) for _ in table.span().ranks()]
            else:
                rows = [row_bytes(np.asarray(row), table.int4) for row in table.codes]
            self.rows.append(rows)
            base = self._grow(table.base)
            for row in rows:
                self.image += row.ljust(stride, b"\xa5")
            self.row_ranges.append((base, self._align()))
            fast = table.onchip or Span()
            fast_base = len(self.onchip) // beat
            self.onchip_rows.append([table.random_row(rng) for _ in fast.ranks()])
            for row in self.onchip_rows[-1]:
                self.onchip += row.ljust(stride, b"\x5a")
            self.onchip += bytes(-len(self.onchip) % beat)
            tt = table.tt or Span()
            word = pack(
                FEATURE_FIELDS,
                base=base,
                row_beats=-(-table.size // beat),
                sub_beat=int(sub),
                stride_log2=stride.bit_length() - 1 if sub else 0,
                int4=int(table.int4),
                rowwise=int(table.rowwise),
                enable=int(table.enable),
                first=table.first,
                last=table.last,
                stripe_log2=table.stripe_log2,
                residue=table.residue,
                slices=table.dim // params.lanes,
                onchip_base=fast_base,
                onchip_first=fast.first,
                onchip_last=fast.last,
                onchip_stripe_log2=fast.stripe_log2,
                onchip_residue=fast.residue,
                tt_first=tt.first,
                tt_last=tt.last,
                tt_stripe_log2=tt.stripe_log2,
                tt_residue=tt.residue,
                tt_table=index + 7,
            )
            for i in range(FEATURE_WORDS):
                value = word >> 64 * i & (1 << 64) - 1
                target = LoadTarget.GATHER_FEATURES
                self.config.append((target, index * FEATURE_WORDS + i, value))
        for i in range(0, len(self.onchip), 8):
            value = int.from_bytes(self.onchip[i : i + 8], "little")
            self.config.append((LoadTarget.GATHER_ROWS, i // 8, value))
        self.ring_base = self._grow(None)
        # as fp16, no infinities and no NaN
        ring_bytes = rng.integers(0, 1 << 16, ring * beat // 2, dtype=np.uint16) & 0xBFFF
        self.image += ring_bytes.tobytes()
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

    def _row(self, feature: int, rank: int, staged: bool) -> tuple[str, Any]:
        """Lane and components of a lookup, None where it is out of range."""
        table = self.tables[feature]
        if not table.enable:
            return "dram", None
        if staged:
            if rank + -(-table.size // self.params.beat_bytes) > self.ring:
                return "dram", None
            start = self.ring_base + rank * self.params.beat_bytes
            return "dram", self._grid(table, bytes(self.image[start : start + table.size]))
        if (local := table.local(rank)) is not None:
            return "dram", self._grid(table, self.rows[feature][local])
        if table.onchip is not None and (local := table.onchip.local(rank)) is not None:
            return "onchip", self._grid(table, self.onchip_rows[feature][local])
        if table.tt is not None and rank in table.tt.ranks():
            local = rank - table.tt.first
            return "tt", np.array(tt_row(self.params, feature + 7, local, table.dim), object)
        return "dram", None

    def _grid(self, table: Table, raw: bytes) -> Any:
        """Components as they are added."""
        shift = 0 if table.rowwise else self.params.tt_fraction or 0
        return table.values(raw) * 2**shift

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
        self.range_errors += sum(row is None for _, row in rows)
        slot = ((sequence + sample // p.rows) & 0xFFFF) % p.slots
        for lane in p.tiers:
            mine = [row for here, row in rows if here == lane]
            if not mine:
                continue
            zero = np.zeros(self.tables[feature].dim, object)
            parts = sum((row for row in mine if row is not None), zero).reshape(-1, p.lanes)
            for index, part in enumerate(parts):
                self.expected.append(
                    (
                        slot,
                        sample % p.rows,
                        feature,
                        index,
                        int(index == len(parts) - 1),
                        len(mine),
                        tuple(int(x) for x in part),
                    )
                )


def tt_row(params: MemoryCoreParams, table: int, local: int, dim: int) -> list[int]:
    """Components that the stand-in of a reconstructor gives for a row."""
    rng = random.Random(f"{table}.{local}")
    half = 1 << params.code_bits - 1
    return [rng.randrange(-half, half) for _ in range(dim)]


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

    async def reconstruct(ctx: Any) -> None:
        rows: deque[list[int]] = deque()
        idle, busy = pauses(slave.get("idle", "none"), 8), pauses(back, 9)
        dims = [table.dim for table in bench.tables]
        lanes = bench.params.lanes
        valid = False
        while True:
            ready = not busy()
            valid = valid or (bool(rows) and not idle())
            ctx.set(core.tt_requests.ready, int(ready))
            ctx.set(core.tt_rows.valid, int(valid))
            if valid:
                ctx.set(core.tt_rows.payload, rows[0])
            _, _, asked, table, local, taken = await ctx.tick().sample(
                core.tt_requests.valid,
                core.tt_requests.payload.table,
                core.tt_requests.payload.local,
                core.tt_rows.ready,
            )
            if valid and taken:
                rows.popleft()
                valid = False
            if asked and ready:
                row = tt_row(bench.params, table, local, dims[table - 7])
                rows.extend(row[i : i + lanes] for i in range(0, len(row), lanes))

    background = [
        *([reconstruct] if "tt" in bench.params.tiers else []),
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
    if bench.params.tiers == ("dram",):
        assert partials == bench.expected
    else:  # lanes overtake each other, but the slices of a partial follow each other
        assert sorted(partials) == sorted(bench.expected)
        for before, after in itertools.pairwise(partials):
            same = before[:3] == after[:3] and after[3] == before[3] + 1
            assert after[3] == 0 if before[4] else same
    assert counters["range_errors"] == bench.range_errors
    assert counters["lookups"] == bench.lookups
    if bench.params.tiers == ("dram",):
        assert counters["beats"] == sum(beats for _, _, beats in memory.requests)
    assert counters["idle"] == 1
    assert memory.most_rows <= bench.params.outstanding
    return Outcome(partials, memory, loaded["done"], counters, loaded["first"])
