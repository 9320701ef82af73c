"""Images and the LOAD queue, read back by a decoder of their own."""

import json

import numpy as np
import pytest

from screc.compile.images import pack_codes, stored_rows
from screc.compile.layout import Layout, make_layout, striped_rows
from screc.errors import ConfigError
from screc.plan.schema import (
    CoreCounts,
    CoreShapes,
    DevicePlan,
    Range,
    Stripe,
    TablePlan,
    table_ranges,
)
from screc_hw.numerics import sigmoid_table
from screc_hw.params import DeviceParams
from screc_sim.golden.quant import QuantTable
from tests.golden.support import PackedArray
from tests.support.tt import tt_part
from tests.unit.compile_support import (
    MIXED,
    SHAPE,
    bits,
    compile_small,
    descriptor,
    loaded,
    place_of,
    row_values,
    split_blocks,
)


@pytest.mark.parametrize(("resident", "onchip"), [(1, 0), (0.4, 0), (1, 0.3), (0.6, 0.5), (1, 1)])
@pytest.mark.parametrize("memory", [1, 2, 4])
@pytest.mark.parametrize("replicated", [(), (0, 3, 5)], ids=["striped", "replicated"])
def test_every_row_is_where_the_descriptors_say(tmp_path, memory, resident, onchip, replicated):
    compiled = compile_small(
        tmp_path,
        shape=MIXED,
        memory=memory,
        resident=resident,
        onchip=onchip,
        replicated=replicated,
    )
    targets = loaded(compiled.load)
    lanes = compiled.params.gather.lanes
    ssd = (tmp_path / "ssd.bin").read_bytes() if resident < 1 else b""
    assert not onchip or sum(map(len, compiled.onchip)) == compiled.layout.onchip_bytes > 0
    seen = {number: set() for number in range(len(MIXED.tables))}
    for f, feature in enumerate(MIXED.features):
        number = feature.table
        place, remap = compiled.layout.tables[number], compiled.remaps[number]
        values = compiled.model.tables[number].values(remap.ids(np.arange(place.rows)))
        stripe = 1 if number in replicated else memory
        for core in range(memory):
            d = descriptor(targets[0, core], f)
            assert d["stripe_log2"] == d["onchip_stripe_log2"] == stripe.bit_length() - 1
            assert d["base"] % 64 == 0
            assert d["onchip_first"] == 0
            assert d["onchip_last"] == d["first"]
            assert d["rowwise"] == MIXED.tables[number].format.endswith("r")
            assert (d["onchip_residue"], d["onchip_base"] % 64) == (d["residue"], 0)
            assert d["residue"] < stripe
            for rank in range(d["residue"], d["last"], stripe):
                on, address = place_of(d, rank)
                memory_of = compiled.onchip if on else compiled.images
                assert on or address + d["stride"] <= compiled.layout.cores[core].image_bytes
                assert address + d["stride"] <= len(memory_of[core])
                row = row_values(memory_of[core], address, d, lanes)
                assert np.array_equal(row, values[rank])
                seen[number].add(rank)
        for rank in range(place.resident_rows, place.rows):
            at = place.ssd_offset + (rank - place.resident_rows) * place.stride
            assert np.array_equal(row_values(ssd, at, d, lanes), values[rank])
            seen[number].add(rank)
    assert all(seen[i] == set(range(t.rows)) for i, t in enumerate(MIXED.tables))


def test_int4_rows_have_the_first_code_in_the_low_nibble():
    codes = np.array([[1, -1, 7, -7], [0, 3, -8, 2]], np.int8)
    assert pack_codes(codes, "int4").tolist() == [[0xF1, 0x97], [0x30, 0x28]]


def test_rows_are_padded_with_zeros():
    source = PackedArray([[1, 2, 3, 15, 4, 5, 6, 7]], [1.0], [-2.0], "int4r")
    rows = stored_rows(QuantTable(source, "int4r", 2.0**-24), np.array([0, 0]), 16)
    assert rows.tolist() == [[0x21, 0xF3, 0x54, 0x76, 0, 0x3C, 0, 0xC0, *[0] * 8]] * 2


@pytest.mark.parametrize("memory", [1, 2])
def test_load_queue_holds_the_model(tmp_path, memory):
    compiled = compile_small(tmp_path, memory=memory)
    model, params = compiled.model, compiled.params
    targets = loaded(compiled.load)
    every = 0xFF
    assert set(targets) == {(t, c) for t in (0, 1) for c in range(memory)} | {
        (t, every) for t in (2, 3, 4, 5, 6, 13)
    }
    for core in range(memory):
        place = compiled.layout.cores[core]
        # rows and ring end where the lookups begin
        limit = place.lookup_offset // 64
        assert targets[1, core] == [place.staging_offset, place.staging_beats, limit]

    base = 1  # the bottom output is vector 0: one word of 8 lanes
    for f, (word, feature) in enumerate(zip(targets[2, every], SHAPE.features, strict=True)):
        assert bits(word, 0, 16) == model.bag_m[f]
        assert bits(word, 16, 6) == model.bag_s[f]
        assert bits(word, 22, 1) == (feature.mode == "mean")
        assert bits(word, 24, 8) == SHAPE.feature_dim(f) // params.gather.lanes
        assert bits(word, 32, 20) == base
        base += SHAPE.feature_dim(f) // params.gather.lanes

    # a word holds 8 weights of one position: of several steps, outputs of a step side by side
    outs, at = params.core.outs, 0
    data = np.array(targets[4, every], "<u8").view(np.int8).reshape(-1, 8, 8 // outs, outs)
    layers = (*model.bottom, *model.top)
    for layer in layers:
        n, k = layer.weight.shape
        for group in range(0, n, outs):
            for first in range(0, k, 8):
                step = data[at // (8 // outs), :, at % (8 // outs)]
                part = layer.weight[group : group + outs, first : first + 8].T
                assert np.array_equal(step[: len(part), : part.shape[1]], part)
                assert not step[len(part) :].any()
                assert not step[:, part.shape[1] :].any()
                at += 1
    assert at == params.core.weight_steps
    assert -(-at // (8 // outs)) == len(data)

    entries = [
        (bits(w, 0, 32) - (1 << 32) * bits(w, 31, 1), bits(w, 32, 16), bits(w, 48, 6))
        for w in targets[5, every]
    ]

    def of(some):
        return [tuple(map(int, e)) for la in some for e in zip(la.bias, la.m, la.s, strict=True)]

    scalars = [(0, *model.copy_ms), (0, *model.pair_ms)]
    assert entries == [*of(model.bottom), *scalars, *of(model.top)]
    assert targets[6, every] == sigmoid_table()
    assert len(targets[3, every]) % 4 == 0


def test_load_blocks_follow_each_other(tmp_path):
    compiled = compile_small(tmp_path)
    assert sum(words[2] for words, _ in split_blocks(compiled.load)) == len(compiled.load)


def device_plan(ranges_of, memory, staging_bytes=64 * 9):
    return DevicePlan(
        kind="smartssd",
        cores=CoreCounts(memory=memory),
        shapes=CoreShapes(rows=8, columns=8),
        staging_bytes=staging_bytes,
        utilisation={},
        tables=tuple(TablePlan(table=t.name, ranges=ranges_of(t)) for t in SHAPE.tables),
    )


@pytest.mark.parametrize("memory", [1, 4])
def test_nothing_overlaps_in_a_layout(memory):
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows // 2, memory, 1 % memory), memory)
    layout = make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE, memory=memory))
    for core, place in enumerate(layout.cores):
        at = 0
        for table in layout.tables:
            assert table.offsets[core] >= at
            rows = striped_rows(table.resident_rows, memory, table.residue(core))
            at = table.offsets[core] + rows * table.stride
        assert place.staging_offset >= at
        assert place.lookup_offset == place.staging_offset + 64 * place.staging_beats
    assert sum(core.staging_beats for core in layout.cores) == 9
    at = 0
    for table in layout.tables:
        assert table.ssd_offset >= at
        assert table.ssd_offset % 4096 == 0
        at = table.ssd_offset + table.ssd_rows * table.stride


def test_a_layout_is_read_back(tmp_path):
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows // 2, 2, 1), 2)
    layout = make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE, memory=2))
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"version": 9}, "version: must be 5, not 9"),
        (lambda data: data | {"cores": 5}, "is no memory layout"),
        (lambda data: {"version": 5}, "is no memory layout"),
    ],
)
def test_a_wrong_layout_file_is_named(tmp_path, change, message):
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows, 1, 0), 1)
    path = tmp_path / "layout.json"
    make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE)).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=rf"layout\.json.*{message}"):
        Layout.load(path)


@pytest.mark.parametrize(
    "ranges_of",
    [
        lambda t: (Range(tier="onchip", first=0, last=t.rows),),
        lambda t: (
            Range(tier="dram", first=0, last=8, core=0),
            Range(tier="tt", first=8, last=t.rows, core=0, tt=tt_part(8, t.rows, t.dim).form),
        ),
        lambda t: (Range(tier="dram", first=8, last=t.rows, core=0),),
        lambda t: (Range(tier="dram", first=0, last=t.rows, core=1),),
        lambda t: (Range(tier="ssd", first=0, last=t.rows - 1),),
    ],
    ids=["no core", "tier", "first", "core", "rows missing"],
)
def test_ranges_that_no_core_can_hold_are_refused(ranges_of):
    with pytest.raises(ConfigError, match="ranges of table 'quarter' must be onchip"):
        make_layout(device_plan(ranges_of, 1), SHAPE, DeviceParams.for_model(SHAPE))


@pytest.mark.parametrize(("onchip", "fits"), [(4, True), (5, False), (7, False)])
def test_dram_begins_at_a_whole_group_of_ranks(onchip, fits):
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows - 8, 4, 3, onchip=onchip), 4)
    params = DeviceParams.for_model(SHAPE, memory=4, onchip_beats=64)
    if fits:
        layout = make_layout(plan, SHAPE, params)
        assert [layout.tables[2].residue(core) for core in range(4)] == [3, 0, 1, 2]
        return
    with pytest.raises(ConfigError, match="b must be a multiple of 4, or c"):
        make_layout(plan, SHAPE, params)


@pytest.mark.parametrize(("last", "fits"), [(20, True), (21, False)])
def test_dram_begins_at_a_whole_group_behind_tt_ranks(tmp_path, last, fits):
    def ranges(t):
        tt = tt_part(7, last, t.dim, pins=2)
        return table_ranges(t.rows, t.rows - 8, 4, 3, onchip=7, tt=tt)

    plan = device_plan(ranges, 4)
    params = DeviceParams.for_model(SHAPE, memory=4, onchip_beats=64)
    if not fits:
        with pytest.raises(ConfigError, match="b must be a multiple of 4, or c"):
            make_layout(plan, SHAPE, params)
        return
    layout = make_layout(plan, SHAPE, params)
    table = layout.tables[2]
    assert (table.onchip_rows, table.dram_first, table.dram_rows) == (7, 20, 64 - 8 - 20)
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout


def test_copies_take_the_same_place_in_every_core(tmp_path):
    """Of [0, 5) on chip, [5, 9) in DRAM and the others on SSD; the other tables are striped."""

    def ranges(t):
        if t.name != "beat":
            return table_ranges(t.rows, t.rows, 4, 3)
        return table_ranges(t.rows, 9, 4, 0, onchip=5, replicated=True)

    params = DeviceParams.for_model(SHAPE, memory=4, onchip_beats=64)
    layout = make_layout(device_plan(ranges, 4), SHAPE, params)
    table = layout.tables[2]
    assert (table.onchip_rows, table.dram_first, table.dram_rows, table.ssd_rows) == (5, 5, 4, 55)
    assert [table.residue(core) for core in range(4)] == [0] * 4
    assert [core.onchip_bytes for core in layout.cores] == [5 * 64] * 4
    behind = layout.tables[3].offsets
    assert [b - a for a, b in zip(table.offsets, behind, strict=True)] == [4 * 64] * 4
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout


@pytest.mark.parametrize(
    "ranges",
    [
        (Range(tier="onchip", first=0, last=8, replicated=True), *table_ranges(300, 300, 1, 0)),
        (
            Range(tier="onchip", first=0, last=8, replicated=True),
            Range(tier="dram", first=8, last=300, core=0),
        ),
        (Range(tier="dram", first=8, last=300, replicated=True),),
        (Range(tier="dram", first=0, last=299, replicated=True),),
    ],
    ids=["doubled", "in part", "first", "rows missing"],
)
def test_copies_of_other_ranges_are_refused(ranges):
    plan = device_plan(
        lambda t: ranges if t.name == "quarter" else table_ranges(t.rows, t.rows, 1, 0), 1
    )
    with pytest.raises(ConfigError, match=r"'quarter' must be .*; or, both replicated, onchip"):
        make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE, onchip_beats=64))


def test_rows_in_tt_form_have_no_copies():
    part = tt_part(8, 20, 16)
    with pytest.raises(ValueError, match=r"ranks \[8, 20\) in TT form cannot be replicated"):
        table_ranges(300, 300, 2, 0, onchip=8, tt=part, replicated=True)
    with pytest.raises(ValueError, match='must be "onchip" or "dram", not "tt"'):
        Range(tier="tt", first=8, last=20, tt=part.form, replicated=True)
    with pytest.raises(ValueError, match='must be "onchip" or "dram", not "ssd"'):
        Range(tier="ssd", first=8, last=20, replicated=True)
    with pytest.raises(ValueError, match="without a core is every core's: it has no stripe"):
        Range(tier="dram", first=8, last=20, stripe=Stripe(of=2, take=(0,)), replicated=True)

    def ranges(t):
        if t.name != "quarter":
            return table_ranges(t.rows, t.rows, 1, 0)
        return (
            Range(tier="onchip", first=0, last=8, replicated=True),
            Range(tier="tt", first=8, last=20, core=0, tt=part.form),
            Range(tier="ssd", first=20, last=300),
        )

    with pytest.raises(ConfigError, match=r"has ranks \[8, 20\) in TT form, so it cannot"):
        make_layout(device_plan(ranges, 1), SHAPE, DeviceParams.for_model(SHAPE, onchip_beats=64))


def test_tt_cores_that_cannot_be_are_named():
    def ranges(t):
        form = tt_part(0, t.rows, t.dim).form.model_copy(update={"p": (1, 1, 2)})
        return (Range(tier="tt", first=0, last=t.rows, core=0, tt=form),)

    with pytest.raises(ConfigError, match=r"TT cores of table 'quarter': rows must lie in 1\.\.2"):
        make_layout(device_plan(ranges, 1), SHAPE, DeviceParams.for_model(SHAPE))


def test_more_rows_than_the_on_chip_memory_are_refused():
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows, 1, 0, onchip=t.rows), 1)
    beats = sum(-(-t.rows * t.stride_bytes(64) // 64) for t in SHAPE.tables)
    make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE, onchip_beats=beats))
    message = f"has {beats} beats of on-chip rows for a memory core, which has {beats - 1}"
    with pytest.raises(ConfigError, match=message):
        make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE, onchip_beats=beats - 1))


def test_a_plan_for_other_cores_is_refused():
    plan = device_plan(lambda t: table_ranges(t.rows, t.rows, 2, 0), 2)
    with pytest.raises(ConfigError, match="the plan has 2 memory cores, the device 1"):
        make_layout(plan, SHAPE, DeviceParams.for_model(SHAPE))
