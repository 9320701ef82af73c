"""The core against a model: tables, bags and an AXI4 memory that checks every request."""

import random

import pytest

from screc_hw.emit import emit_netlist, lint
from screc_hw.memory.core import MemoryCore
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.netlist import check_netlist, convert
from screc_hw.protocol import FEATURE_FIELDS, LoadTarget, pack
from tests.support.gather import BASE, BOUNDARY, Bench, Slave, Span, Table, run
from tests.support.pysim import PATTERNS


def params(**change):
    base = {"port_bits": 512, "lanes": 16, "max_features": 4, "max_slices": 4, "rows": 4}
    return MemoryCoreParams(**{**base, "slots": 2, **change})


def bag(sample, feature, ranks, *, staged=False):
    """Records of one bag; the last is marked."""
    return [(sample, feature, rank, staged, i == len(ranks) - 1) for i, rank in enumerate(ranks)]


def fuzzed(seed, port_bits):
    """A bench of random tables and of records of which about a third are wrong in some way."""
    rng = random.Random(f"{seed}-{port_bits}")
    lanes = rng.choice([lanes for lanes in (8, 16, 32, 64, 128) if lanes * 4 <= port_bits])
    dims = [lanes * rng.randint(1, rng.choice([1, 2, 8])) for _ in range(4)]
    rowwise, onchip, tt = (rng.random() < 0.5 for _ in range(3))
    shape = {
        "port_bits": port_bits,
        "lanes": lanes,
        "max_features": 5,
        "max_slices": max(dims) // lanes,
        "rows": rng.choice([1, 2, 8]),
        "slots": rng.choice([1, 2, 4]),
        "rowwise": rowwise,
        "onchip_beats": 400 if onchip else 0,
        "tt_fraction": rng.choice([0, 4]) if tt else None,
        "pool_beats": rng.choice([1, 2]) if onchip or tt else 1,
    }
    least = max(2, params(**shape).max_row_beats)
    core = params(**shape, outstanding=rng.choice([least, 64]))

    def span(first):
        stripe = rng.choice([0, 0, 1, 2])
        last = first + rng.randint(4, 20)
        return Span(first, last, stripe, rng.randrange(1 << stripe))

    tables = []
    for dim in dims:
        stripe, first = rng.choice([0, 0, 1, 2]), 4 * rng.choice([0, 4, 100])
        fast, slow = span(first), span(first + 20)
        tables.append(
            Table(
                dim,
                first=first + rng.choice([0, 20, 40]),
                last=first + 40 + rng.randint(4, 40),
                int4=rng.random() < 0.5,
                stripe_log2=stripe,
                residue=rng.randrange(1 << stripe),
                rowwise=rowwise and rng.random() < 0.6,
                onchip=fast if onchip else None,
                tt=slow if tt else None,
            )
        )
    tables.append(Table(lanes, enable=False))
    bench = Bench(core, tables, ring=rng.randint(0, 12), seed=seed)
    sequence = rng.choice([0, 65530, 12345])
    for _ in range(rng.randint(1, 3)):
        samples = rng.randint(1, 20)
        records = []
        for _ in range(rng.choice([1, 2, 7, 30])):
            sample = rng.randrange(samples) if rng.random() < 0.9 else rng.randint(0, 65535)
            feature = rng.randrange(5) if rng.random() < 0.9 else rng.choice([5, 4095])
            count, ended = rng.randint(1, 6), rng.random() < 0.9
            for i in range(count):
                staged = rng.random() < 0.2
                table = tables[min(feature, 4)]
                if staged:
                    rank = rng.choice([rng.randrange(14), (1 << 32) - 1])
                elif rng.random() < 0.8:
                    rank = rng.randrange(table.last - 60, table.last) % (1 << 32)
                else:
                    edges = [0, table.first - 1, table.last, (1 << 32) - 1, 1 << 31]
                    rank = max(0, rng.choice(edges))
                records.append((sample, feature, rank, staged, ended and i == count - 1))
        bench.section(records, samples=samples, sequence=sequence)
        sequence += -(-samples // core.rows)
    return bench, rng


@pytest.mark.parametrize("port_bits", [128, 256, 512])
@pytest.mark.parametrize(
    "seed", [seed if seed < 3 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(8)]
)
def test_fuzzed_records_give_the_model_s_partials(seed, port_bits):
    bench, rng = fuzzed(seed, port_bits)
    run(
        bench,
        back=rng.choice(PATTERNS),
        latency=rng.choice([1, 5, 40]),
        jitter=rng.choice([0, 20]),
        idle=rng.choice(PATTERNS),
        slow=rng.choice(PATTERNS),
        interleave=rng.random() < 0.5,
    )


@pytest.mark.parametrize("back", PATTERNS)
@pytest.mark.parametrize("idle", PATTERNS)
def test_idle_and_back_pressure_lose_nothing(idle, back):
    bench = Bench(params(), [Table(16), Table(64), Table(48, int4=True)])
    records = [
        record
        for sample in range(8)
        for feature in range(3)
        for record in bag(sample, feature, [bench.rng.randrange(16) for _ in range(3)])
    ]
    bench.section(records, samples=8)
    run(bench, idle=idle, back=back, slow=back, jitter=10)


@pytest.mark.parametrize("beats_before", [0, 1, 15, 31, 32])
def test_a_row_of_32_beats_is_cut_at_4_kib(beats_before):
    core = params(lanes=64, max_slices=32)
    table = Table(2048, last=3, base=2 * BOUNDARY - 64 * beats_before)
    bench = Bench(core, [table])
    bench.section(bag(0, 0, [0, 1]) + bag(1, 0, [2]), samples=2)
    outcome = run(bench, idle="random")
    rows = [beats for axid, _, beats in outcome.slave.requests if axid]
    assert sum(rows) == 96
    if 0 < beats_before < 32:
        assert rows[:2] == [beats_before, 32 - beats_before]
    else:
        assert rows == [32, 32, 32]


def test_sections_anywhere_in_a_4_kib_block_are_read_once():
    bench = Bench(params(port_bits=128), [Table(16)])
    for lookups in (1, 2, 3, 17, 500):
        bench.section(bag(0, 0, [5] * lookups), samples=1)
    outcome = run(bench)
    starts = [
        start + 16 * i for axid, start, n in outcome.slave.requests if not axid for i in range(n)
    ]
    assert len(starts) == len(set(starts)) == 1 + 1 + 2 + 9 + 250


@pytest.mark.parametrize("dim", [16, 64, 128])
def test_first_and_last_rows_are_here_and_their_neighbours_are_not(dim):
    core = params(max_slices=8)
    bench = Bench(core, [Table(dim, first=8, last=21)])
    bench.section([r for rank in (7, 8, 20, 21) for r in bag(0, 0, [rank])], samples=1)
    outcome = run(bench)
    assert sum(axid for axid, _, _ in outcome.slave.requests) == 2
    assert bench.range_errors == 2


@pytest.mark.parametrize("residue", range(4))
def test_a_stripe_of_four_holds_every_fourth_rank(residue):
    bench = Bench(params(), [Table(16, first=4, last=24, stripe_log2=2, residue=residue)])
    bench.section(bag(0, 0, list(range(26))), samples=1)
    run(bench)
    assert bench.range_errors == 26 - 5


@pytest.mark.parametrize(("dim", "int4", "beats"), [(16, False, 1), (128, False, 2), (16, True, 1)])
def test_staged_rows_start_at_ring_beats_and_stay_inside(dim, int4, beats):
    bench = Bench(params(max_slices=8), [Table(dim, int4=int4)], ring=6)
    bench.section(bag(3, 0, list(range(9)), staged=True), samples=4)
    outcome = run(bench)
    assert bench.range_errors == 9 - (6 - beats + 1)
    assert sum(n for axid, _, n in outcome.slave.requests if axid) == beats * (6 - beats + 1)


@pytest.mark.parametrize("code", [127, -127])
def test_the_longest_bag_of_extreme_codes_fills_the_accumulator(code):
    core = params(max_bag=129)  # 15 bits: 129 * 127 is the largest sum they hold
    assert 127 * 129 == (1 << core.acc_bits - 1) - 1
    bench = Bench(core, [Table(64, codes=[[code] * 64] * 16)])
    bench.section(bag(0, 0, [i % 16 for i in range(129)]) + bag(0, 0, [0]), samples=1)
    run(bench)
    assert bench.expected[0][-1] == (code * 129,) * 16


def test_a_long_bag_is_one_partial():
    bench = Bench(params(), [Table(16)])
    bench.section(bag(0, 0, [i % 16 for i in range(600)]), samples=1)
    assert len(bench.expected) == 1
    run(bench)


def test_a_partial_ends_where_its_last_record_was_wrong():
    records = [
        (0, 0, 1, False, False),
        (0, 4095, 1, False, True),  # meant to end the bag
        (0, 1, 2, False, False),
        (9, 1, 2, False, True),  # meant to end the second, and ends the section
    ]
    bench = Bench(params(), [Table(16), Table(16)])
    bench.section(records, samples=2)
    bench.section(bag(0, 1, [2]), samples=2, sequence=1)
    assert [partial[5] for partial in bench.expected] == [1, 1, 1]
    run(bench)


def test_a_section_of_wrong_records_alone_gives_nothing():
    bench = Bench(params(), [Table(16)])
    bench.section([(5, 0, 0, False, True), (0, 77, 0, False, True)], samples=5)
    outcome = run(bench)
    assert outcome.partials == []
    assert bench.range_errors == 2


def test_a_section_without_lookups_costs_no_read():
    bench = Bench(params(), [Table(16)])
    bench.section([], samples=4)
    bench.section(bag(0, 0, [1]), samples=4, sequence=1)
    outcome = run(bench)
    assert len(outcome.slave.requests) == 2


@pytest.mark.parametrize("sequence", [0, 65534])
def test_a_lookup_waits_until_its_sub_batch_is_admitted(sequence):
    core = params(rows=2, slots=2)
    bench = Bench(core, [Table(16)])
    records = [record for sample in range(8) for record in bag(sample, 0, [sample, 1])]
    # a record of a sample that does not exist waits for nothing
    bench.section([*records, (9, 0, 0, False, True)], samples=8, sequence=sequence)
    seen = []

    async def admit(ctx, device, outcome):
        for admitted in range(5):
            ctx.set(device.admitted, (sequence + admitted) & 0xFFFF)
            for _ in range(150):  # one by one: the bench may end while this waits
                await ctx.tick()
            rows = sum(beats for axid, _, beats in outcome.requests if axid)
            seen.append((admitted, rows))

    outcome = run(bench, admit=admit)
    assert seen[:4] == [(n, 4 * n) for n in range(4)]
    assert outcome.counters["stalls"] > 400


def test_blocked_partials_hold_the_requests_and_nothing_is_lost():
    core = params(outstanding=8)
    bench = Bench(core, [Table(64, last=16)])
    bench.section([r for i in range(40) for r in bag(i, 0, [i % 16])], samples=40)
    outcome = run(bench, hold=400, latency=3)
    # three rows have left their FIFO: in the slicer, and in the skid buffers behind it
    assert outcome.slave.requests_at_hold <= 8 + 3
    assert outcome.counters["stalls"] > 300


def test_an_error_response_is_kept_until_cleared_and_the_data_are_taken():
    bench = Bench(params(), [Table(64)])
    bench.section(bag(0, 0, [1, 2, 3]), samples=1)
    outcome = run(bench, error_at=2)
    assert outcome.counters["axi_error"] == 1
    outcome = run(bench, error_at=2, clear=True)
    assert outcome.counters["axi_error"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"row_beats": 0},
        {"row_beats": 3},
        {"slices": 0},
        {"slices": 9},
        {"sub_beat": 1, "stride_log2": 7},
        {"enable": 0},
    ],
    ids=str,
)
def test_a_descriptor_beyond_the_maxima_reads_nothing(change):
    core = params(max_slices=8)
    bench = Bench(core, [Table(64), Table(16)])
    good = {"row_beats": 1, "slices": 4, "last": 16, "enable": 1, "base": 64, **change}
    word = pack(FEATURE_FIELDS, **good)
    bench.config += [
        (LoadTarget.GATHER_FEATURES, i, word >> 64 * i & (1 << 64) - 1) for i in range(4)
    ]
    bench.section(bag(0, 0, [1, 2]) + bag(1, 1, [3]), samples=2)
    slices = good["slices"] if 1 <= good["slices"] <= 8 else 1
    bench.expected[:4] = [(0, 0, 0, i, int(i == slices - 1), 2, (0,) * 16) for i in range(slices)]
    bench.range_errors += 2
    run(bench)


def test_beats_behind_a_row_s_last_slice_are_dropped():
    bench = Bench(params(max_slices=12), [Table(192), Table(16)])
    word = pack(FEATURE_FIELDS, slices=2, stripe_log2=0)
    bench.config.append((LoadTarget.GATHER_FEATURES, 2, word >> 128))
    bench.section(bag(0, 0, [1, 2]) + bag(0, 1, [3]), samples=1)
    head = [partial for partial in bench.expected if partial[2] == 0][:2]
    head[1] = (*head[1][:4], 1, *head[1][5:])
    bench.expected[:12] = head
    run(bench)


def test_slices_beyond_a_row_s_beats_take_no_other_row_s():
    bench = Bench(params(lanes=64, max_slices=3), [Table(64), Table(64)])
    word = pack(FEATURE_FIELDS, slices=3)
    bench.config.append((LoadTarget.GATHER_FEATURES, 2, word >> 128))
    bench.section(bag(0, 0, [1]) + bag(0, 1, [3]), samples=1)
    own = bench.expected[0]
    # its one beat again and again
    bench.expected[:1] = [(*own[:3], i, int(i == 2), *own[5:]) for i in range(3)]
    run(bench)


def test_records_do_not_starve_rows_nor_rows_records():
    # long rows and a slow memory: both kinds of read wait for places all the time
    core = params(port_bits=128, lanes=16, max_slices=8, outstanding=8)
    bench = Bench(core, [Table(128), Table(16)])
    records = [r for i in range(24) for r in bag(i, i % 2, [i % 16, 3])]
    for number in range(3):
        bench.section(records, samples=24, sequence=6 * number)
    run(bench, latency=30, jitter=40, interleave=False)


def test_the_slave_refuses_a_request_outside_its_data():
    bench = Bench(params(), [Table(64)])
    slave = Slave(bench, None)
    low, high = bench.row_ranges[0]
    with pytest.raises(AssertionError, match="outside its data"):
        slave.check(1, BASE + low - 64, 1, 6, 1)
    with pytest.raises(AssertionError, match="outside its data"):
        slave.check(1, BASE + high - 64, 2, 6, 1)
    with pytest.raises(AssertionError, match="crosses 4 KiB"):
        slave.check(1, BASE + BOUNDARY - 64, 2, 6, 1)


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("back", ["none", pytest.param("cycle", marks=pytest.mark.slow), "random"])
def test_rows_on_chip_may_lie_in_several_blocks_of_memory(monkeypatch, back, rowwise):
    monkeypatch.setattr("screc_hw.memory.onchip.URAM_DEPTH", 16)
    core = params(port_bits=128, onchip_beats=50, rowwise=rowwise)
    table = Table(64, first=10, last=20, onchip=Span(0, 10), rowwise=rowwise)
    bench = Bench(core, [table])
    assert len(bench.onchip) == 16 * (50 if rowwise else 40)
    bench.section(bag(0, 0, [*range(10)]) + bag(1, 0, [9, 0, 12, 3, 3, 8]), samples=2)
    run(bench, back=back)


@pytest.mark.parametrize("dim", [224, 256, 480])
def test_row_wise_rows_longer_than_the_reads_on_chip_do_not_wait_for_themselves(dim):
    core = params(port_bits=128, lanes=32, max_slices=dim // 32, onchip_beats=160, rowwise=True)
    table = Table(dim, first=4, last=8, onchip=Span(0, 4), rowwise=True)
    bench = Bench(core, [table])
    bench.section(bag(0, 0, [0, 3, 5, 1]) + bag(1, 0, [2, 2]), samples=2)
    run(bench)


@pytest.mark.parametrize(
    "tiers",
    [
        {"rowwise": True, "onchip_beats": 64, "pool_beats": 2},
        {"tt_fraction": 4, "onchip_beats": 64},
    ],
    ids=["rowwise", "tt"],
)
def test_the_emitted_core_is_clean(tmp_path, tiers):
    core = params(port_bits=128, max_slices=2, **tiers)
    netlist = convert(MemoryCore(core), name="core")
    lint(emit_netlist(netlist, tmp_path), "core")
    check_netlist(netlist)
