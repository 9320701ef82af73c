"""A small compiled model, and a decoder of its bytes written from docs/interfaces.md alone."""

import dataclasses
import struct
import zlib

import numpy as np

from screc.compile.images import read_onchip, write_table_images
from screc.compile.layout import make_layout
from screc.compile.load import load_queue
from screc.compile.requests import RequestEncoder
from screc.plan.device import reconstructor
from screc.plan.schema import CoreCounts, CoreShapes, DevicePlan, TablePlan, table_ranges
from screc.remap import TableRemap
from screc.weights import load_weights
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams
from screc_sim.golden.calibrate import calibrate
from tests.support.samples import random_batch
from tests.support.tt import tt_part, with_random_tt

SHAPE = ModelShape(
    name="wide",
    dense=3,
    bottom=(8, 8),
    top=(8, 1),
    interaction="concat",
    tables=(
        TableShape(name="quarter", rows=300, dim=16),
        TableShape(name="nibbles", rows=101, dim=8, format="int4"),
        TableShape(name="beat", rows=64, dim=64),
        TableShape(name="three", rows=77, dim=192),
        TableShape(name="odd", rows=50, dim=24),
    ),
    features=(
        FeatureShape(name="q", table=0, pooling=3, mode="mean"),
        FeatureShape(name="n", table=1, pooling=2),
        FeatureShape(name="q2", table=0, pooling=1),
        FeatureShape(name="b", table=2, pooling=1),
        FeatureShape(name="t", table=3, pooling=2, mode="mean"),
        FeatureShape(name="o", table=4, pooling=4),
    ),
)

MIXED = dataclasses.replace(
    SHAPE,
    tables=(
        *SHAPE.tables,
        TableShape(name="bytes", rows=41, dim=64, format="int8r"),
        TableShape(name="short", rows=130, dim=16, format="int4r"),
    ),
    features=(
        *SHAPE.features,
        FeatureShape(name="r8", table=5, pooling=2, mode="mean"),
        FeatureShape(name="r4", table=6, pooling=3),
    ),
)


@dataclasses.dataclass
class Compiled:
    shape: ModelShape
    params: DeviceParams
    layout: object
    model: object
    remaps: list
    load: bytes
    encoder: RequestEncoder
    images: list  # bytes of every memory core's buffer, ring included
    onchip: list  # words of every memory core's on-chip rows, as bytes
    tt: list  # rows in TT form, in order of the reconstructors' tables


def compile_small(
    folder,
    *,
    memory=1,
    resident=1.0,
    onchip=0.0,
    staging_beats=4096,
    shape=SHAPE,
    rows=8,
    tt=0.0,
    replicated=(),
):
    """Compile ``shape`` with the hottest ``resident`` share of every table on the device.

    Of those the hottest ``onchip`` share is on chip; behind them, a share ``tt`` of those of every
    second table with one scale is in TT form. Of the tables ``replicated``, by number, every memory
    core holds those rows.
    """
    parts = {
        i: tt_rows(t, resident, onchip, tt, memory)
        for i, t in enumerate(shape.tables)
        if tt and not t.rowwise and not i % 2
    }
    made = reconstructor(
        [part.shape for part in parts.values()],
        [part.pins for part in parts.values()],
        slice_lanes=DeviceParams.lanes(shape),
        lanes=1,
    )
    params = DeviceParams.for_model(
        shape, memory=memory, rows=rows, columns=8, onchip_beats=2048 if onchip else 0, tt=made
    )
    weights = load_weights(None, shape, 5)
    model = calibrate(shape, weights, random_batch(shape, 64, 9))
    rng = np.random.default_rng(7)
    remaps = [
        TableRemap.build(table.rows, rng.permutation(table.rows)[: table.rows // 3])
        for table in shape.tables
    ]
    if parts:
        model = with_random_tt(model, parts, remaps, made.fraction)
    plan = DevicePlan(
        kind="smartssd",
        cores=CoreCounts(memory=memory),
        shapes=CoreShapes(rows=rows, columns=8),
        staging_bytes=staging_beats * 64,
        utilisation={},
        tables=tuple(
            TablePlan(
                table=t.name,
                ranges=table_ranges(
                    t.rows,
                    int(t.rows * resident),
                    memory,
                    i % memory,
                    onchip=onchip_rows(t, resident, onchip, 1 if i in replicated else memory),
                    tt=parts.get(i),
                    replicated=i in replicated,
                ),
            )
            for i, t in enumerate(shape.tables)
        ),
    )
    layout = make_layout(plan, shape, params)
    write_table_images(folder, layout, model.tables, remaps, lambda count: None)
    images = []
    for i, core in enumerate(layout.cores):
        data = (folder / f"mem{i}.bin").read_bytes()
        assert len(data) == core.image_bytes
        images.append(bytearray(data) + bytearray(core.staging_beats * 64))
    load = load_queue(model, params, layout, read_onchip(folder, layout)).data
    encoder = RequestEncoder(shape, params, layout, remaps, model, folder / "ssd.bin")
    targets = loaded(load)
    rows = [
        struct.pack(f"<{len(w)}Q", *w) for w in (targets.get((7, c), []) for c in range(memory))
    ]
    rebuilt = [model.tables[i].tt.rows for i in parts]
    return Compiled(shape, params, layout, model, remaps, load, encoder, images, rows, rebuilt)


def tt_rows(table, resident, onchip, tt, memory):
    """Ranks of a table in TT form, up to a whole group of ``memory`` rows or the last resident."""
    first, end = onchip_rows(table, resident, onchip, memory), int(table.rows * resident)
    last = min(end, -(-(first + int((end - first) * tt)) // memory) * memory)
    return tt_part(first, last, table.dim, rank=3, pins=2)


def onchip_rows(table, resident, onchip, memory):
    """On-chip rows of a table: whole groups of ``memory`` rows, or all that are resident."""
    count = int(table.rows * resident)
    rows = int(count * onchip)
    return rows if rows == count else rows // memory * memory


# --- the decoder ---------------------------------------------------------------------------------
def header_words(beat):
    words = struct.unpack("<16I", beat)
    checksum = 0
    for word in words:
        checksum ^= word
    assert checksum == 0xFFFFFFFF
    assert words[0] == int.from_bytes(b"SCRQ", "little")
    assert words[1] & 0xFFFF == 1
    return words


def split_blocks(queue):
    """Yield (header words, body) of every block."""
    while queue:
        words = header_words(queue[:64])
        assert words[2] % 64 == 0
        yield words, queue[64 : words[2]]
        queue = queue[words[2] :]


def loaded(queue):
    """Decode LOAD blocks: {(target, core): [words]}."""
    found = {}
    for number, (words, body) in enumerate(split_blocks(queue)):
        assert words[1] >> 16 == 2
        assert words[3] == words[4] == number
        data = body[: 8 * words[11]]
        assert len(body) == -(-len(data) // 64) * 64
        assert zlib.crc32(data) == words[12]
        assert words[10] == 0
        found[words[9] & 0xFF, words[9] >> 8] = list(struct.unpack(f"<{words[11]}Q", data))
    return found


def bits(word, low, width):
    return word >> low & ((1 << width) - 1)


def descriptor(words, feature):
    """Decode a memory core's feature descriptor."""
    w = words[8 * feature : 8 * feature + 8]
    assert w[7] == 0
    return {
        "base": bits(w[0], 0, 48),
        "row_beats": bits(w[0], 48, 6),
        "sub_beat": bits(w[0], 54, 1),
        "stride": 1 << bits(w[0], 55, 4) if bits(w[0], 54, 1) else 64 * bits(w[0], 48, 6),
        "int4": bits(w[0], 59, 1),
        "enable": bits(w[0], 60, 1),
        "rowwise": bits(w[0], 61, 1),
        "first": bits(w[1], 0, 32),
        "last": bits(w[1], 32, 32),
        "stripe_log2": bits(w[2], 0, 5),
        "residue": bits(w[2], 8, 16),
        "slices": bits(w[2], 24, 8),
        "onchip_base": 64 * bits(w[3], 0, 32),
        "onchip_stripe_log2": bits(w[3], 32, 5),
        "onchip_residue": bits(w[3], 40, 16),
        "onchip_first": bits(w[4], 0, 32),
        "onchip_last": bits(w[4], 32, 32),
        "tt_stripe_log2": bits(w[5], 0, 5),
        "tt_residue": bits(w[5], 8, 16),
        "tt_table": bits(w[5], 24, 12),
        "tt_first": bits(w[6], 0, 32),
        "tt_last": bits(w[6], 32, 32),
    }


def place_of(d, rank):
    """Where a core looks for a rank: (on chip?, byte address)."""
    if d["onchip_first"] <= rank < d["onchip_last"]:
        tier, base = "onchip_", d["onchip_base"]
    else:
        tier, base = "", d["base"]
        assert d["first"] <= rank < d["last"]
    log2 = d[tier + "stripe_log2"]
    assert rank & ((1 << log2) - 1) == d[tier + "residue"]
    return bool(tier), base + ((rank - d[tier + "first"]) >> log2) * d["stride"]


def row_values(memory, address, d, lanes):
    """Components of a row, as a memory core reads them: codes, or multiples of 2**-24."""
    count = d["slices"] * lanes
    if d["rowwise"]:
        size = count // 2 if d["int4"] else count
        data = memory[address : address + size]
        codes = [n for b in data for n in (b & 15, b >> 4)] if d["int4"] else list(data)
        tail = struct.unpack("<2e", memory[address + size : address + size + 4])
        scale, bias = (int(part * 2**24) for part in tail)
        return [code * scale + bias for code in codes]
    if d["int4"]:
        data = memory[address : address + count // 2]
        nibbles = [n for byte in data for n in (byte & 15, byte >> 4)]
        return [n - 16 if n > 7 else n for n in nibbles]
    return [b - 256 if b > 127 else b for b in memory[address : address + count]]


def gather(compiled, block):
    """Do what the memory cores do: return {(sample, feature): sums}, {(sample, feature): count}."""
    targets = loaded(compiled.load)
    lanes = compiled.params.gather.lanes
    sums, counts = {}, {}
    memories = [bytearray(image) for image in compiled.images]
    for write in block.staged:
        at = targets[1, write.core][0] + 64 * write.beat
        assert 64 * write.beat + len(write.data) <= 64 * targets[1, write.core][1]
        assert at + len(write.data) <= 64 * targets[1, write.core][2]
        memories[write.core][at : at + len(write.data)] = write.data
    ((_, body),) = split_blocks(block.queue)
    for core, (section, memory) in enumerate(zip(block.sections, memories, strict=True)):
        offset, lookups = struct.unpack("<2I", body[8 * core : 8 * core + 8])
        assert offset * 64 == compiled.layout.cores[core].lookup_offset
        assert len(section) == -(-lookups * 8 // 64) * 64
        records = struct.unpack(f"<{lookups}Q", section[: 8 * lookups])
        keys = [(bits(r, 44, 16), bits(r, 32, 12)) for r in records]
        assert keys == sorted(keys)
        staging, ring, limit = targets[1, core]
        for i, (record, key) in enumerate(zip(records, keys, strict=True)):
            assert bits(record, 61, 1) == (i + 1 == len(keys) or keys[i + 1] != key)
            d = descriptor(targets[0, core], key[1])
            assert d["enable"]
            rank, onchip = bits(record, 0, 32), False
            if not bits(record, 60, 1) and d["tt_first"] <= rank < d["tt_last"]:
                assert rank & ((1 << d["tt_stripe_log2"]) - 1) == d["tt_residue"]
                rows = compiled.tt[d["tt_table"]].rows(np.array([rank - d["tt_first"]]))
                sums[key] = sums.get(key, 0) + rows[0]
                counts[key] = counts.get(key, 0) + 1
                continue
            if bits(record, 60, 1):
                assert rank + d["row_beats"] <= ring
                address = staging + 64 * rank
            else:
                onchip, address = place_of(d, rank)
            if not onchip:
                assert address + d["stride"] <= 64 * limit
            source = compiled.onchip[core] if onchip else memory
            values = np.array(row_values(source, address, d, lanes))
            finer = 0 if d["rowwise"] else compiled.params.gather.tt_fraction or 0
            sums[key] = sums.get(key, 0) + (values << finer)
            counts[key] = counts.get(key, 0) + 1
    return sums, counts
