"""The request reader against an independent walk over the same bytes."""

import dataclasses
import random
import struct
import zlib

import pytest
from amaranth.sim import Simulator

from screc_hw.device.fetch import QueueFetch, WordCutter
from screc_hw.device.header import HeaderCheck
from screc_hw.device.params import HostParams
from screc_hw.device.reader import RequestReader
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.protocol import LoadTarget, StatusBit
from tests.support.pysim import PATTERNS, bits_of, pauses

SLOW = pytest.mark.slow

BASE = 0x7_0000_0FC0  # one beat before a 4 KiB boundary


@dataclasses.dataclass
class Run:
    samples: int
    features: int
    dense: int
    sections: list[tuple[int, int]]
    number: int = 7
    offset: int = 3
    seed: int = 0

    def content(self, rows):
        """Bag words and dense words of every sub-batch, made from the seed."""
        rng = random.Random(self.seed)
        for _ in range(-(-self.samples // rows)):
            bags = [
                (rng.choice((0, 1, 65535)), rng.randrange(1 << 16))
                for _ in range(rows * self.features)
            ]
            yield bags, [rng.randbytes(rows) for _ in range(self.dense)]

    def encode(self, rows):
        body = b"".join(struct.pack("<II", *s) for s in self.sections)
        body = padded(body)
        for bags, dense in self.content(rows):
            body += padded(b"".join(struct.pack("<HH", *bag) for bag in bags))
            body += padded(b"".join(dense))
        fields = {5: self.samples, 6: self.features, 7: self.dense, 8: len(self.sections)}
        return header(1, self.number, self.offset, len(body), fields) + body


@dataclasses.dataclass
class Load:
    target: int
    core: int
    address: int
    words: list[int]
    number: int = 8
    offset: int = 1
    crc: int | None = None

    def encode(self, rows):
        body = struct.pack(f"<{len(self.words)}Q", *self.words)
        crc = zlib.crc32(body) if self.crc is None else self.crc
        fields = {9: self.target | self.core << 8, 10: self.address, 11: len(self.words), 12: crc}
        body = padded(body, b"\xa5")
        return header(2, self.number, self.offset, len(body), fields) + body


def padded(body, fill=b"\0"):
    return body + fill * (-len(body) % 64)


def header(opcode, number, offset, body, fields):
    words = [0x51524353, 1 | opcode << 16, 64 + body, number, offset] + [0] * 11
    for index, value in fields.items():
        words[index] = value
    return sealed(words)


def sealed(words):
    words = list(words)
    words[15] = 0
    for word in words[:15]:
        words[15] ^= word
    words[15] ^= 0xFFFFFFFF
    return struct.pack("<16I", *words)


class Bench:
    """A reader with an AXI memory on one side and takers of every stream on the other."""

    def __init__(
        self,
        queue,
        *,
        rows=2,
        memory=2,
        compute=2,
        max_features=9,
        max_dense=20,
        params=None,
        idle="none",
        back="none",
        latency=(5, 5),
        seed=0,
        bad_beats=(),
        base=BASE,
        writer_delay=0,
    ):
        self.queue, self.base, self.bad_beats = queue, base, bad_beats
        self.rows, self.memory, self.compute = rows, memory, compute
        self.idle, self.back, self.latency, self.seed = idle, back, latency, seed
        self.writer_delay = writer_delay
        self.params = params or HostParams(burst_beats=4, prefetch_bursts=3)
        self.dut = RequestReader(
            self.params,
            memory=memory,
            compute=compute,
            rows=rows,
            max_features=max_features,
            max_dense=max_dense,
        )
        self.sections = [[] for _ in range(memory)]
        self.batches = []  # features of each begin
        self.bags = []
        self.dense = [[] for _ in range(compute)]
        self.config = []
        self.blocks = []
        self.events = []  # order of what must be ordered
        self.bursts = []
        self.times = {}
        self.cycles = 0
        self.open_blocks = 0

    def run(self, starts=1, cycles=20_000, queues=()):
        """Start the reader ``starts`` times on the queue, or once on each of ``queues``."""
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        dut = self.dut
        sim.add_testbench(self.memory_port, background=True)
        for i, s in enumerate(dut.sections):
            sim.add_testbench(
                self.taker(s, lambda p, i=i: self.took_section(i, p), 10 + i), background=True
            )
        sim.add_testbench(self.taker(dut.begin, self.took_begin, 30), background=True)
        sim.add_testbench(self.taker(dut.bags, self.took_bag, 31), background=True)
        for c, s in enumerate(dut.dense):
            sim.add_testbench(
                self.taker(s, lambda p, c=c: self.took_dense(c, p), 40 + c), background=True
            )
        sim.add_testbench(self.writer, background=True)
        sim.add_testbench(self.config_bus, background=True)

        async def host(ctx):
            for queue in queues or [self.queue] * starts:
                assert ctx.get(dut.done) == 1
                self.queue = queue
                ctx.set(dut.queue, self.base)
                ctx.set(dut.queue_bytes, len(self.queue))
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                begun = self.cycles
                while not ctx.get(dut.done):
                    await ctx.tick()
                    self.cycles += 1
                    assert self.cycles - begun < cycles, "the queue never ended"
            self.done_at = self.cycles
            await ctx.tick().repeat(20)
            self.crc = ctx.get(dut.crc)

        sim.add_testbench(host)
        sim.run()
        return self

    def taker(self, stream, took, salt):
        async def process(ctx):
            pause, waiting = pauses(self.back, self.seed + salt), None
            while True:
                take = not pause()
                ctx.set(stream.ready, take)
                _, _, valid, payload, features = await ctx.tick().sample(
                    stream.valid, stream.payload, self.dut.features
                )
                if waiting is not None:
                    assert valid, "valid was withdrawn"
                    assert bits_of(payload) == waiting, "payload changed"
                waiting = bits_of(payload) if valid and not take else None
                if valid and take:
                    self.seen_features = features
                    took(payload)

        return process

    def took_section(self, index, payload):
        self.sections[index].append(
            (payload.offset, payload.lookups, payload.samples, payload.sequence)
        )

    def took_begin(self, payload):
        self.batches.append(self.seen_features)
        self.times.setdefault("begin", []).append(self.cycles)

    def took_bag(self, payload):
        self.bags.append((payload.length, payload.reciprocal))

    def took_dense(self, core, payload):
        self.dense[core].append(payload.to_bytes(self.rows, "little"))

    async def writer(self, ctx):
        stream, pause, closed = self.dut.blocks, pauses(self.back, self.seed + 60), []
        now = 0
        while True:
            take = not pause()
            ctx.set(stream.ready, take)
            due = bool(closed) and closed[0] <= now
            if due:
                closed.pop(0)
                self.events.append("done")
            ctx.set(self.dut.block_done, due)
            _, _, valid, p, clock = await ctx.tick().sample(
                stream.valid, stream.payload, self.dut.clock
            )
            now += 1
            if valid and take:
                assert clock >= p.arrival
                names = (
                    "last",
                    "write",
                    "opcode",
                    "id",
                    "offset",
                    "samples",
                    "records",
                    "status",
                    "crc",
                )
                self.blocks.append({name: getattr(p, name) for name in names})
                self.events.append("close" if p.last else "open")
                if p.last:
                    closed.append(now + self.writer_delay)

    async def config_bus(self, ctx):
        config = self.dut.config
        ctx.set(config.ready, 1)
        while True:
            _, _, valid, p, core = await ctx.tick().sample(
                config.valid, config.payload, self.dut.core
            )
            if valid:
                self.events.append("config")
                self.config.append((p.target, core, p.address, p.data))

    async def memory_port(self, ctx):
        axi, rng = self.dut.axi, random.Random(self.seed)
        pause, busy = pauses(self.idle, self.seed + 70), pauses(self.idle, self.seed + 71)
        pending, now, held = [], 0, None
        while True:
            ctx.set(axi.arready, not busy())
            send = bool(pending) and pending[0][0] <= now and not pause()
            if send:
                _, beat, last = pending[0]
                at = beat * 64 - self.base
                assert 0 <= at < len(self.queue), "a read outside of the queue"
                ctx.set(axi.rdata, int.from_bytes(self.queue[at : at + 64], "little"))
                ctx.set(axi.rresp, 2 if at // 64 in self.bad_beats else 0)
                ctx.set(axi.rlast, last)
            ctx.set(axi.rvalid, send)
            _, _, ar, address, length, burst, size, arready, rready = await ctx.tick().sample(
                axi.arvalid, axi.araddr, axi.arlen, axi.arburst, axi.arsize, axi.arready, axi.rready
            )
            assert rready == 1, "space was not reserved"
            now += 1
            if send:
                pending.pop(0)
            if held is not None:
                assert (ar, address, length) == held, "an address changed before its transfer"
            held = None if not ar or arready else (ar, address, length)
            if ar and arready:
                assert (burst, size) == (1, 6)
                assert address % 64 == 0
                assert address // 4096 == (address + 64 * length) // 4096, "burst crosses 4 KiB"
                self.bursts.append((address, length + 1))
                ready_at = max(now + rng.randint(*self.latency), pending[-1][0] if pending else 0)
                pending += [(ready_at, address // 64 + i, i == length) for i in range(length + 1)]


def check(bench, blocks, starts=1):
    """Compare everything seen with the blocks, all of which are well formed."""
    rows, sequence = bench.rows, 0
    sections = [[] for _ in range(bench.memory)]
    batches, bags, config, commands = [], [], [], []
    dense = [[] for _ in range(bench.compute)]
    for block in blocks * starts:
        common = {"write": 1, "id": block.number, "offset": block.offset}
        if isinstance(block, Load):
            config += [
                (block.target, block.core, block.address + i, word)
                for i, word in enumerate(block.words)
            ]
            crc = zlib.crc32(struct.pack(f"<{len(block.words)}Q", *block.words))
            common |= {"opcode": 2, "samples": 0, "records": 0}
            commands += [
                common | {"last": 0, "status": 0},
                common | {"last": 1, "status": 0, "crc": crc},
            ]
            continue
        for i, (offset, lookups) in enumerate(block.sections):
            if lookups:
                sections[i].append((offset, lookups, block.samples, sequence))
        count = 0
        for words, values in block.content(rows):
            batches.append(block.features)
            bags += words
            dense[sequence % bench.compute] += values
            sequence = (sequence + 1) % (1 << 16)
            count += rows
        common |= {"opcode": 1, "samples": block.samples, "records": count}
        commands += [common | {"last": 0, "status": 0}, common | {"last": 1, "status": 0, "crc": 0}]
    assert bench.sections == sections
    assert bench.batches == batches
    assert bench.bags == bags
    assert bench.dense == dense
    assert bench.config == config
    assert len(bench.blocks) == len(commands)
    for seen, command in zip(bench.blocks, commands, strict=True):
        assert {key: seen[key] for key in command} == command


def mixed(rng, memory, rows):
    """Blocks of every kind and awkward size."""
    blocks = []
    for number in range(6):
        if rng.random() < 0.3:
            words = [rng.randrange(1 << 64) for _ in range(rng.choice((1, 7, 8, 9, 20)))]
            blocks.append(
                Load(
                    rng.randrange(7), rng.choice((0, 3, 255)), rng.randrange(1 << 32), words, number
                )
            )
        else:
            sections = [
                (rng.randrange(1 << 32), rng.choice((0, 1, 1 << 31))) for _ in range(memory)
            ]
            blocks.append(
                Run(
                    rng.choice((1, rows, rows + 1, 5 * rows)),
                    rng.choice((0, 1, 4, 9)),
                    rng.choice((0, 1, 13, 20)),
                    sections,
                    number,
                    rng.randrange(1 << 32),
                    rng.random(),
                )
            )
    return blocks


@pytest.mark.parametrize("idle", PATTERNS)
@pytest.mark.parametrize("back", PATTERNS)
def test_every_part_arrives_once_and_in_order(idle, back):
    seed = PATTERNS.index(idle) * 3 + PATTERNS.index(back)
    blocks = mixed(random.Random(seed), 2, 2)
    queue = b"".join(block.encode(2) for block in blocks)
    bench = Bench(queue, idle=idle, back=back, latency=(1, 30), seed=seed, writer_delay=40)
    check(bench.run(), blocks)


@pytest.mark.parametrize("rows", [1, *(pytest.param(rows, marks=SLOW) for rows in (8, 16)), 64])
@pytest.mark.parametrize(("memory", "compute"), [(1, 1), (9, 4)])
def test_any_count_of_rows_and_cores(rows, memory, compute):
    blocks = mixed(random.Random(rows), memory, rows)[:4]
    queue = b"".join(block.encode(rows) for block in blocks)
    check(Bench(queue, rows=rows, memory=memory, compute=compute).run(), blocks)


def test_sequence_runs_on_over_starts():
    blocks = [Run(3, 2, 5, [(1, 1), (2, 2)]), Load(3, 1, 5, [1, 2, 3])]
    queue = b"".join(block.encode(2) for block in blocks)
    check(Bench(queue).run(starts=3), blocks, starts=3)


def test_empty_queue_is_done_at_once():
    bench = Bench(b"").run()
    assert (bench.blocks, bench.bursts, bench.done_at) == ([], [], 0)


@pytest.mark.parametrize(
    ("burst", "base"),
    [
        pytest.param(burst, base, marks=[] if burst in (1, 64) or base == BASE else [SLOW])
        for base in (0, 0x40, 0xFFFF_FFFF_F000, BASE)
        for burst in (1, 2, 16, 64)
    ],
)
def test_bursts_cover_the_queue_once_within_4_kib(burst, base):
    blocks = [Run(40, 9, 20, [(0, 1), (0, 0)])]
    queue = blocks[0].encode(2)
    params = HostParams(burst_beats=burst, prefetch_bursts=2)
    bench = Bench(queue, params=params, base=base).run()
    check(bench, blocks)
    beats = [a + 64 * i for a, n in bench.bursts for i in range(n)]
    assert beats == list(range(base, base + len(queue), 64))
    assert max(n for _, n in bench.bursts) <= burst


def test_load_waits_for_the_blocks_before_it():
    blocks = [
        Run(2, 1, 1, [(0, 1), (0, 1)]),
        Load(2, 255, 0, [5, 6]),
        Run(2, 1, 1, [(0, 0), (0, 0)]),
    ]
    queue = b"".join(block.encode(2) for block in blocks)
    bench = Bench(queue, writer_delay=300).run()
    check(bench, blocks)
    assert bench.events[:6] == ["open", "close", "open", "done", "config", "config"]
    assert bench.crc == zlib.crc32(struct.pack("<QQ", 5, 6))


def test_wrong_crc_is_reported_and_ends_the_queue():
    load = Load(2, 0, 0, [5, 6], crc=1)
    queue = load.encode(2) + Run(1, 1, 1, [(0, 1), (0, 1)]).encode(2)
    bench = Bench(queue).run()
    assert [b["status"] for b in bench.blocks] == [0, StatusBit.CRC]
    assert bench.blocks[1]["crc"] == bench.crc == zlib.crc32(struct.pack("<QQ", 5, 6))


GOOD = [0x51524353, 1 | 1 << 16, 64 * 5, 9, 2, 2, 1, 1, 2] + [0] * 7
"""RUN of 2 samples (one sub-batch), 1 feature, 1 dense input, 2 memory cores: 4 beats, and 1 more
that each case below makes right or wrong."""

LOAD = [0x51524353, 1 | 2 << 16, 64 * 2, 9, 2, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]


def changed(words, **values):
    words = list(words)
    for name, value in values.items():
        words[int(name[1:])] = value
    return words


BAD_HEADERS = [
    (changed(GOOD, w0=0), True, StatusBit.MAGIC, 0),
    (changed(GOOD, w2=256), False, StatusBit.CHECKSUM, 0),
    (changed(GOOD, w0=0, w2=256), False, StatusBit.MAGIC | StatusBit.CHECKSUM, 0),
    (GOOD, True, StatusBit.HEADER, 1),  # a beat too long
    (changed(GOOD, w2=192), True, StatusBit.HEADER, 1),  # a beat too short
    (changed(GOOD, w2=256 + 4), True, StatusBit.HEADER, 1),  # no whole beats
    (changed(GOOD, w2=256, w1=2 | 1 << 16), True, StatusBit.HEADER, 1),  # version
    (changed(GOOD, w2=256, w1=1 | 3 << 16), True, StatusBit.HEADER, 1),  # opcode
    (changed(GOOD, w2=256, w1=1), True, StatusBit.HEADER, 1),
    (changed(GOOD, w2=128, w5=0), True, StatusBit.HEADER, 1),  # no samples
    (changed(GOOD, w2=256, w5=65536 + 2), True, StatusBit.HEADER, 1),
    (changed(GOOD, w2=64 * 5, w6=10), True, StatusBit.HEADER, 1),  # features
    (changed(GOOD, w2=256, w6=4096 + 1), True, StatusBit.HEADER, 1),
    (changed(GOOD, w2=256, w7=21), True, StatusBit.HEADER, 1),  # dense
    (changed(GOOD, w2=256, w7=65536 + 1), True, StatusBit.HEADER, 1),
    (changed(GOOD, w2=256, w8=1), True, StatusBit.HEADER, 1),  # sections
    (changed(GOOD, w2=64 * 22, w5=20), True, StatusBit.HEADER, 1),  # beyond the queue
    (changed(LOAD, w9=max(LoadTarget) + 1), True, StatusBit.HEADER, 1),  # target
    (changed(LOAD, w2=64, w11=0), True, StatusBit.HEADER, 1),  # nothing to load
    (changed(LOAD, w11=9), True, StatusBit.HEADER, 1),
    (changed(LOAD, w2=64 * 2, w11=8 + (1 << 31)), True, StatusBit.HEADER, 1),
]
"""Words, whether the checksum is made to fit, the status expected, whether it may be written."""


def test_bad_header_ends_the_queue_with_its_status():
    first = Run(2, 1, 1, [(5, 1), (6, 1)])
    queues = []
    for words, seal, _, _ in BAD_HEADERS:
        bad = sealed(words)
        if not seal:
            bad = bad[:60] + bytes([bad[60] ^ 1]) + bad[61:]
        queues.append(first.encode(2) + bad + bytes(64 * 12))
    bench = Bench(queues[0]).run(queues=queues)
    assert len(bench.blocks) == 4 * len(BAD_HEADERS)
    for case, (_, _, status, write) in enumerate(BAD_HEADERS):
        good, done, opened, closed = bench.blocks[4 * case : 4 * case + 4]
        assert (good["status"], done["status"], closed["status"]) == (0, 0, status), case
        assert opened | {"last": 1, "status": status} == closed, case
        assert (closed["write"], closed["records"]) == (write, 0), case
        if write:
            assert (closed["id"], closed["offset"]) == (9, 2), case
    assert len(bench.batches) == len(BAD_HEADERS)
    assert bench.config == []


def test_headers_that_fit_are_taken():
    """The cases above fail for what they change alone."""
    queue = sealed(changed(GOOD, w2=256)) + bytes(192) + sealed(LOAD) + bytes(64)
    bench = Bench(queue).run()
    crc = StatusBit.CRC
    assert [b["status"] for b in bench.blocks] == [0, 0, 0, crc]


@pytest.mark.parametrize("bad", [0, 1, 2, 3, 4, 5, 6])
def test_read_error_ends_the_queue_with_its_block(bad):
    """Beats: header, sections, 2 × (bags, dense), then the next block."""
    run = Run(4, 3, 8, [(5, 1), (6, 1)], seed=3)
    queue = run.encode(2) + Load(2, 0, 0, [5, 6]).encode(2) + run.encode(2)
    assert len(queue) == 64 * (6 + 2 + 6)
    bench = Bench(queue, bad_beats=(bad,)).run()
    error = StatusBit.AXI_READ
    assert [b["status"] for b in bench.blocks] == ([0, error] if bad < 6 else [0, 0, 0, error])
    assert bench.blocks[-1]["write"] == (bad not in (0, 6))
    lengths = [length for bags, _ in run.content(2) for length, _ in bags]
    known = {0: 0, 1: 0, 2: 0, 3: 6, 4: 6}.get(bad, 12)
    assert [length for length, _ in bench.bags] == (
        lengths[:known] + [0] * (12 - known) if bad else []
    )
    assert sum(map(len, bench.dense)) == (16 if bad else 0)
    assert sum(map(len, bench.sections)) == (0 if bad < 2 else 2)
    assert bench.config == []


def test_word_that_could_not_be_read_is_not_loaded():
    words = list(range(1, 20))
    queue = Load(2, 0, 100, words).encode(2)
    bench = Bench(queue, bad_beats=(2,)).run()
    assert bench.blocks[-1]["status"] & StatusBit.AXI_READ
    assert [address - 100 for _, _, address, _ in bench.config] == [*range(8), *range(16, 19)]


@pytest.mark.parametrize(
    ("features", "dense", "rows"), [(9, 20, 2), (1, 0, 8), (5, 13, 4), (2, 1, 16)]
)
def test_cycles_per_sub_batch_equal_the_formula(features, dense, rows):
    run = Run(rows * 20, features, dense, [(0, 0), (0, 0)])
    bench = Bench(run.encode(rows), rows=rows, params=HostParams()).run()
    tables = tuple(TableShape(name=f"t{i}", rows=9, dim=4) for i in range(features))
    bags = tuple(FeatureShape(name=f"f{i}", table=i) for i in range(features))
    model = ModelShape(
        name="m",
        dense=dense,
        bottom=(4,) if dense else (),
        top=(1,),
        interaction="concat",
        tables=tables,
        features=bags,
    )
    begins = bench.times["begin"]
    expected = HostParams().cycles(model, rows=rows)
    assert (begins[-1] - begins[0]) / 19 == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Bench(b"", memory=0), "memory must be at least 1, not 0"),
        (lambda: Bench(b"", compute=3), "compute must be a power of two, not 3"),
        (lambda: Bench(b"", rows=128), "rows must be a power of two up to 64, not 128"),
        (lambda: Bench(b"", max_features=4096), r"max_features must be in 0\.\.4095, not 4096"),
        (lambda: Bench(b"", max_dense=1 << 16), r"max_dense must be in 0\.\.65535, not 65536"),
        (
            lambda: QueueFetch(HostParams(burst_beats=128)),
            "burst_beats must be a power of two up to 64, not 128",
        ),
        (
            lambda: QueueFetch(HostParams(prefetch_bursts=0)),
            "prefetch_bursts must be at least 1, not 0",
        ),
        (lambda: WordCutter(32, 24), r"a word must be a power of two of 8\.\.512 bits, not 24"),
    ],
)
def test_impossible_sizes_are_refused(make, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        make()


def test_verdict_comes_at_the_stated_latency():
    dut = HeaderCheck(memory=2, rows=2, max_features=9, max_dense=20)
    words = struct.unpack("<16I", sealed(changed(GOOD, w2=256)))
    seen = []

    async def bench(ctx):
        ctx.set(dut.left, 4)
        for word in words:
            ctx.set(dut.word, word)
            ctx.set(dut.valid, 1)
            await ctx.tick()
        ctx.set(dut.valid, 0)
        while not ctx.get(dut.done):
            await ctx.tick()
            seen.append(0)
        assert ctx.get(dut.status) == 0

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert len(seen) + 1 == HeaderCheck.latency
