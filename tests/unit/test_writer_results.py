import dataclasses
import random
import struct

import pytest

from screc_hw.device.params import HostParams
from screc_hw.device.writer import ResultWriter
from screc_hw.protocol import STATUS_MAGIC, StatusBit
from tests.support.pysim import PATTERNS, driver, pauses, simulate

BASE = 0x12_3456_7000


@dataclasses.dataclass
class Block:
    samples: int
    offset: int
    records: int
    write: int = 1
    status: int = 0
    crc: int = 0
    id: int = 0

    def commands(self):
        fields = {
            "write": self.write,
            "opcode": 1,
            "id": self.id,
            "offset": self.offset,
            "samples": self.samples,
            "records": self.records,
            "arrival": 0,
        }
        return [
            {**fields, "last": 0, "status": 0xFF, "crc": 0xFFFF},
            {**fields, "last": 1, "status": self.status, "crc": self.crc},
        ]


class Memory:
    """AXI write slave: random stalls and response delay, checks the rules, keeps the bytes."""

    def __init__(self, axi, *, pattern="none", latency=3, seed=0, errors=()):
        self.axi = axi
        self.bytes = {}
        self.order = []
        self.answers = []
        self.errors = set(errors)
        self.pattern, self.latency, self.seed = pattern, latency, seed
        self.most_outstanding = 0

    async def process(self, ctx):
        axi = self.axi
        rng = random.Random(self.seed)
        pause = [pauses(self.pattern, self.seed + i) for i in range(2)]
        addresses, words, due = [], [], []
        now, held = 0, {}
        while True:
            ready = [int(not p()) for p in pause]
            ctx.set(axi.awready, ready[0])
            ctx.set(axi.wready, ready[1])
            answer = bool(due) and due[0][0] <= now
            ctx.set(axi.bvalid, int(answer))
            ctx.set(axi.bresp, 2 if answer and due[0][1] in self.errors else 0)
            tick = ctx.tick()
            tick = tick.sample(axi.awvalid, axi.awaddr, axi.awlen, axi.awsize, axi.awburst)
            tick = tick.sample(axi.wvalid, axi.wdata, axi.wstrb, axi.wlast, axi.bready)
            *_, aw, address, length, size, burst, w, word, strobe, last, b = await tick
            now += 1
            if answer and b:
                self.answers.append(due.pop(0)[1])
            for channel, valid, value, taken in (
                ("aw", aw, address, ready[0]),
                ("w", w, (word, strobe), ready[1]),
            ):
                if channel in held:
                    assert valid, f"{channel} was withdrawn"
                    assert held[channel] == value, f"{channel} changed while waiting"
                held.pop(channel, None)
                if valid and not taken:
                    held[channel] = value
            if aw and ready[0]:
                assert (length, size, burst) == (0, 6, 1)
                assert address % 64 == 0
                addresses.append(address)
            if w and ready[1]:
                assert last
                words.append((word, strobe))
            while addresses and words:
                address, (word, strobe) = addresses.pop(0), words.pop(0)
                raw = word.to_bytes(64, "little")
                for i in range(64):
                    if strobe >> i & 1:
                        assert address + i not in self.bytes, "a byte is written twice"
                        self.bytes[address + i] = raw[i]
                self.order.append((address, set(self.answers)))
                delay = rng.randrange(self.latency) if self.pattern == "random" else self.latency
                due.append((max(now + delay, due[-1][0] if due else 0), address))
                self.most_outstanding = max(self.most_outstanding, len(due))

    def read(self, address, count):
        return bytes(self.bytes[address + i] for i in range(count))


def results(count, seed):
    rng = random.Random(seed)
    return [
        {
            "logit": rng.randrange(-(1 << 31), 1 << 31),
            "probability": rng.randrange(1 << 16),
            "code": rng.randrange(-(1 << 15), 1 << 15),
        }
        for _ in range(count)
    ]


def encode(record):
    return struct.pack("<iHh", record["logit"], record["probability"], record["code"])


def run(blocks, *, rows, cores, pattern="none", latency=3, errors=(), outstanding=16, **inputs):
    dut = ResultWriter(HostParams(write_outstanding=outstanding), compute=cores, rows=rows)
    memory = Memory(dut.axi, pattern=pattern, latency=latency, errors=errors)
    total = sum(block.records for block in blocks)
    records = results(total, 5)
    per_core = [[] for _ in range(cores)]
    for i, record in enumerate(records):
        per_core[i // rows % cores].append(record)
    commands = [command for block in blocks for command in block.commands()]
    seen = {}

    async def inputs_and_end(ctx):
        ctx.set(dut.result, BASE)
        ctx.set(dut.clock, 1000)
        for name, value in inputs.items():
            ctx.set(getattr(dut, name), value)
        while ctx.get(dut.done_blocks) < len(blocks):
            await ctx.tick()
        assert ctx.get(dut.idle)
        seen["status"] = ctx.get(dut.status)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        assert ctx.get(dut.status) == 0
        assert ctx.get(dut.done_blocks) == 0
        seen["end"] = True

    simulate(
        dut,
        inputs_and_end,
        driver(dut.blocks, commands, pattern, 11),
        *(driver(port, items, pattern, 20 + i) for i, (port, items) in enumerate(
            zip(dut.results, per_core, strict=True))),
        background=[memory.process],
        until=lambda: "end" in seen,
    )  # fmt: skip
    return memory, records, seen["status"]


def status_words(memory, block):
    return struct.unpack("<16I", memory.read(BASE + 64 * block.offset, 64))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("rows", "cores"), [(1, 1), (2, 4), (8, 2), (16, 1)])
def test_writer_writes_every_block_in_sequence_order(rows, cores, pattern):
    counts = [rows * n for n in (1, 3, 8, 5)]
    blocks, offset = [], 2
    for i, count in enumerate(counts):
        blocks.append(Block(samples=count - 1 or 1, offset=offset, records=count, id=0xAB00 + i))
        offset += 1 + -(-count // 8)
    memory, records, status = run(blocks, rows=rows, cores=cores, pattern=pattern)
    assert status == 0
    done = 0
    for block in blocks:
        data = BASE + 64 * block.offset + 64
        want = b"".join(encode(r) for r in records[done : done + block.records])
        assert memory.read(data, len(want)) == want
        done += block.records
        words = status_words(memory, block)
        assert words[:3] == (STATUS_MAGIC, block.id, 0)
        assert words[3] == block.samples
        assert words[4] == 1000
        assert words[5:] == (0,) * 11
    assert len(memory.bytes) == 8 * len(records) + 64 * len(blocks), "not a byte more"


@pytest.mark.parametrize("latency", [1, 40])
def test_writer_writes_a_status_beat_after_all_other_responses(latency):
    blocks = [Block(samples=64, offset=9 * i, records=64) for i in range(3)]
    memory, *_ = run(blocks, rows=8, cores=2, pattern="random", latency=latency, outstanding=4)
    assert memory.most_outstanding <= 4
    for block in blocks:
        status = BASE + 64 * block.offset
        answered = next(seen for address, seen in memory.order if address == status)
        assert {status + 64 * (i + 1) for i in range(8)} <= answered


def test_writer_keeps_several_beats_outstanding():
    memory, *_ = run([Block(samples=256, offset=0, records=256)], rows=8, cores=1, latency=60)
    assert memory.most_outstanding > 3


def test_writer_ends_load_and_refused_blocks_without_results():
    blocks = [
        Block(samples=0, offset=0, records=0, crc=0xCAFEBABE, id=1),
        Block(samples=3, offset=1, records=0, status=int(StatusBit.CRC), crc=7, id=2),
        Block(samples=8, offset=2, records=8, id=3),
        Block(samples=0, offset=999, records=0, write=0, status=int(StatusBit.CHECKSUM)),
    ]
    memory, _, status = run(blocks, rows=8, cores=1, range_errors=77)
    assert status == StatusBit.CRC | StatusBit.CHECKSUM
    assert status_words(memory, blocks[0])[:7] == (STATUS_MAGIC, 1, 0, 0, 1000, 77, 0xCAFEBABE)
    assert status_words(memory, blocks[1])[:7] == (STATUS_MAGIC, 2, 8, 3, 1000, 77, 7)
    assert status_words(memory, blocks[2])[2] == 0
    assert len(memory.bytes) == 4 * 64


@pytest.mark.parametrize("pattern", PATTERNS)
def test_writer_reports_a_write_error_in_its_own_block(pattern):
    blocks = [Block(samples=16, offset=3 * i, records=16, id=i) for i in range(4)]
    bad = BASE + 64 * (blocks[1].offset + 2)
    memory, _, status = run(blocks, rows=8, cores=1, pattern=pattern, errors=[bad], latency=9)
    assert [status_words(memory, b)[2] for b in blocks] == [0, StatusBit.AXI_WRITE, 0, 0]
    assert status == StatusBit.AXI_WRITE


def test_writer_error_of_a_status_beat_shows_in_the_register_alone():
    blocks = [Block(samples=8, offset=2 * i, records=8) for i in range(3)]
    memory, _, status = run(blocks, rows=8, cores=1, errors=[BASE + 64 * blocks[0].offset])
    assert [status_words(memory, b)[2] for b in blocks] == [0, 0, 0]
    assert status == StatusBit.AXI_WRITE


def test_writer_marks_blocks_after_a_read_error():
    memory, _, status = run([Block(samples=8, offset=0, records=8)], rows=8, cores=1, read_error=1)
    assert status_words(memory, Block(8, 0, 8))[2] == StatusBit.AXI_READ
    assert status == StatusBit.AXI_READ
