import dataclasses
import random

import numpy as np
import pytest

from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import partial_layout
from screc_sim.native import program
from screc_sim.native.ddr4 import ACCESS_BYTES, Ddr4
from screc_sim.native.gather import FORMATS, Bags, GatherCase, Table, check_partials
from screc_sim.native.harness import Memory, build, run
from screc_sim.native.program import layout_fields, pack_words, unpack_field
from screc_sim.runner import SimulationError
from tests.cosim.support import CACHE

pytestmark = pytest.mark.cosim

ROUGH = Memory(
    latency=(10, 400), ar_stall=0.1, r_gap=0.05, partial_stall=0.2, lookup_gap=0.05, seed=1
)

SMALL = MemoryCoreParams(
    port_bits=128,
    lanes=16,
    outstanding=64,
    max_features=8,
    max_slices=4,
    rows=256,
    slots=128,
    rowwise=True,
    onchip_beats=256,
    pool_beats=2,
)


def random_tables(params, *, rows=500, onchip=0):
    """Every format in one slice and in three: rows below a beat, of one, and across 4 KiB."""
    return [
        Table(format=name, dim=slices * params.lanes, rows=rows, onchip=onchip)
        for slices in (1, 3)
        for name in FORMATS
    ]


def random_bags(params, tables, lookups, *, seed, mean=10, wrong=0.02, ring=0):
    """Bags of random lengths and features; some ranks too large, some rows staged."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / mean, 2 * lookups // mean + 50)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), lookups)) + 1]
    lengths[-1] -= lengths.sum() - lookups
    assert lengths[-1] > 0
    place = np.flatnonzero(rng.random(4 * len(lengths)) < 0.6)[: len(lengths)]
    sample, feature = place // len(tables), place % len(tables)
    rows = np.array([table.rows for table in tables])[feature]
    ranks = rng.integers(0, np.repeat(rows, lengths))
    ranks = np.where(rng.random(lookups) < wrong, ranks + np.repeat(rows, lengths), ranks)
    staged = rng.random(lookups) < (0.1 if ring else 0)
    ranks = np.where(staged, rng.integers(0, ring + ring // 8 + 1, lookups), ranks)
    return Bags(sample, feature, lengths, ranks, staged)


def gather(params, tables, lookups, memory=ROUGH, *, ring=0, seed=0, **bags):
    """Run and check everything; return the case, the bags and the outcome."""
    print(f"seed {seed}")
    case = GatherCase(params, tables, ring=ring, align=params.beat_bytes, seed=seed)
    chosen = random_bags(params, tables, lookups, seed=seed, ring=ring, **bags)
    outcome = run(build(params, cache=CACHE), case.job(chosen), memory)
    check_partials(outcome.partials, case.expected(chosen))
    valid = case.valid(chosen)
    assert outcome.range_errors == np.count_nonzero(~valid)
    assert outcome.row_beats == case.row_beats(chosen)
    assert outcome.most_beats <= params.outstanding
    assert len(chosen.ranks) == lookups
    return case, chosen, outcome


@pytest.mark.parametrize("seed", range(3))
def test_every_format_and_tier_under_stalls(seed):
    tables = random_tables(SMALL, onchip=10)
    case, bags, outcome = gather(SMALL, tables, 5000, ring=64, seed=seed)
    onchip = case.onchip_lookups(bags)
    assert 0 < np.count_nonzero(onchip) < len(onchip)
    assert 0 < np.count_nonzero(bags.staged)
    assert 0 < outcome.range_errors
    assert outcome.bursts > np.count_nonzero(case.valid(bags) & ~onchip)  # some were cut at 4 KiB
    assert len(np.unique(bags.feature)) == len(tables)


def test_100_000_random_lookups_lose_nothing():
    gather(SMALL, random_tables(SMALL, onchip=10), 100_000, ring=64, seed=5, mean=5)


LARGE = MemoryCoreParams(
    lanes=64,
    outstanding=128,
    max_features=8,
    max_slices=3,
    rows=256,
    slots=256,
    rowwise=True,
)


@pytest.mark.slow
def test_1_000_000_random_lookups_lose_nothing():
    _, _, outcome = gather(LARGE, random_tables(LARGE, rows=5000), 1_000_000, ring=256, seed=6)
    print(f"{outcome.cycles_run / outcome.seconds:,.0f} cycles/s")


def test_a_run_without_lookups_ends():
    table = Table(format="int8", dim=16, rows=4)
    case = GatherCase(SMALL, [table])
    one = np.zeros(1, np.int64)
    bags = Bags(one, one, one + 1, one)
    job = case.job(bags)
    empty = dataclasses.replace(job, lookups={n: v[:0] for n, v in job.lookups.items()})
    outcome = run(build(SMALL, cache=CACHE), empty, Memory())
    assert len(outcome.partials["slot"]) == outcome.row_beats == 0


# --- what the bench must find ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run():
    table = Table(format="int8", dim=48, rows=64)
    case = GatherCase(SMALL, [table] * 2, align=SMALL.beat_bytes)
    bags = random_bags(SMALL, case.tables, 300, seed=3, wrong=0)
    return case, bags


def test_a_read_outside_of_the_regions_is_found(small_run):
    case, bags = small_run
    job = case.job(bags)
    first, end = job.regions[1]
    short = [job.regions[0], (first, end - SMALL.beat_bytes)]
    with pytest.raises(SimulationError, match=r"outside of every region"):
        run(build(SMALL, cache=CACHE), dataclasses.replace(job, regions=short), Memory())


@pytest.mark.parametrize("number", [0, 17])
def test_an_error_response_is_signalled_once(small_run, number):
    case, bags = small_run
    design = build(SMALL, cache=CACHE)
    outcome = run(design, case.job(bags), Memory(latency=20, error_beat=number))
    assert outcome.error_beats == 1
    assert run(design, case.job(bags), Memory(latency=20)).error_beats == 0


@pytest.fixture(scope="module")
def partials(small_run):
    case, bags = small_run
    outcome = run(build(SMALL, cache=CACHE), case.job(bags), Memory())
    check_partials(outcome.partials, case.expected(bags))
    return outcome.partials, case.expected(bags)


@pytest.mark.parametrize("name", ["slot", "row", "feature", "slice", "last", "count", "acc"])
def test_a_changed_partial_is_found(partials, name):
    got, expected = partials
    wrong = {key: values.copy() for key, values in got.items()}
    wrong[name].reshape(-1)[wrong[name].size // 2] ^= 1
    with pytest.raises(AssertionError):
        check_partials(wrong, expected)


@pytest.mark.parametrize("index", [slice(3, None), [0, 1, 2, *range(300)], [1, 0, 2]])
def test_lost_added_and_swapped_partials_are_found(partials, index):
    got, expected = partials
    rows = np.arange(len(got["slot"]))
    if isinstance(index, slice):
        rows = rows[index]
    elif len(index) == 3:
        rows[:3] = rows[index]
    else:
        rows = np.concatenate([rows[:3], rows])
    with pytest.raises(AssertionError):
        check_partials({name: values[rows] for name, values in got.items()}, expected)


def test_partials_of_different_bags_may_change_places(partials):
    got, expected = partials
    rows = np.arange(len(got["slot"])).reshape(-1, 3)[::-1].reshape(-1)  # three slices each
    check_partials({name: values[rows] for name, values in got.items()}, expected)


# --- the driver's own parts -----------------------------------------------------------------------


def test_fields_are_packed_and_unpacked_at_any_place():
    print("seed 0")
    choice = random.Random(0)
    for _ in range(50):
        fields, low = {}, 0
        for name in "abcde":
            low += choice.randrange(20)
            fields[name] = (low, choice.randint(1, 64))
            low += fields[name][1]
        values = {n: [choice.getrandbits(w) for _ in range(4)] for n, (_, w) in fields.items()}
        words = pack_words(fields, {n: np.array(v, np.uint64) for n, v in values.items()}, low)
        for row in range(4):
            whole = int.from_bytes(words[row].tobytes(), "little")
            assert whole == sum(values[n][row] << at for n, (at, _) in fields.items())
        for name, (at, width) in fields.items():
            assert unpack_field(words, at, width).tolist() == values[name]


def test_fields_of_a_partial_do_not_overlap():
    places = sorted(layout_fields(partial_layout(SMALL)).values())
    ends = [low + width for low, width in places]
    assert [low for low, _ in places] == [0, *ends[:-1]]
    assert ends[-1] == partial_layout(SMALL).size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 0}, "latency must be at least 1, lowest first, not 0"),
        ({"latency": (9, 8)}, r"latency must be .* not \(9, 8\)"),
        ({"r_gap": 1.0}, r"r_gap must lie in \[0, 1\), not 1.0"),
    ],
)
def test_memory_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Memory(**change)


def test_builds_are_kept_and_shared_by_equal_netlists(tmp_path, monkeypatch):
    compiled = []

    def compile_it(netlist, constants, options, folder):
        compiled.append(folder)
        (folder / netlist.name).write_text(netlist.name)

    monkeypatch.setattr(program, "_compile", compile_it)
    params = MemoryCoreParams(lanes=4, port_bits=128, max_features=2, max_slices=2, rows=4, slots=2)
    first = build(params, cache=tmp_path)
    assert first.seconds > 0
    assert build(params, cache=tmp_path).seconds == 0
    monkeypatch.setattr(program, "_hardware_key", lambda: "other sources")
    other = build(params, cache=tmp_path)  # of the same netlist
    assert other.program != first.program
    assert other.program.read_text() == "gather"
    assert len(compiled) == 1
    build(dataclasses.replace(params, outstanding=32), cache=tmp_path)
    assert len(compiled) == 2


def test_an_engine_with_tt_rows_is_refused():
    with pytest.raises(ValueError, match="tt_fraction must be None here, not 4"):
        build(dataclasses.replace(SMALL, tt_fraction=4, rowwise=False), cache=CACHE)


def test_bags_without_a_name_of_their_own_are_refused(small_run):
    case, _ = small_run
    one = np.ones(1, np.int64)
    with pytest.raises(ValueError, match=r"samples must be below rows × slots = 32768, .* 32768"):
        case.job(Bags(32768 * one, one, one, one))


# --- DDR4 against what can be said in closed form ----------------------------------------------


def rows_of(row_bytes, count=40_000, seed=0):
    """Accesses of random aligned rows over 4 GiB."""
    accesses = max(1, row_bytes // ACCESS_BYTES)
    rows = np.random.default_rng(seed).integers(0, (4 << 30) // row_bytes, count // accesses)
    starts = rows * row_bytes
    return (starts[:, None] + np.arange(accesses) * ACCESS_BYTES).reshape(-1)


def measured(memory, addresses):
    return memory.measure(np.asarray(addresses, np.uint64), cache=CACHE)


@pytest.mark.parametrize("row_bytes", [64, 128, 256])
@pytest.mark.parametrize("order", ["row_column_bank", "row_bank_column"])
def test_random_rows_come_near_the_closed_form(order, row_bytes):
    memory = Ddr4(map=order, queue=64)
    rate, bound = measured(memory, rows_of(row_bytes)), memory.bound_gb_per_s(row_bytes)
    assert 0.95 * bound < rate < 1.005 * bound


def test_sequential_reads_are_row_hits():
    memory = Ddr4()
    rate = measured(memory, np.arange(60_000) * ACCESS_BYTES)
    peak = memory.peak_gb_per_s * (1 - memory.refreshing)
    assert 0.95 * peak < rate < 1.001 * peak


def test_one_bank_gives_a_read_per_trc():
    memory = Ddr4(map="row_bank_column", trefi_ns=1e9)
    stride = memory.page_bytes * memory.banks * memory.bank_groups  # next row of the same bank
    rate = measured(memory, np.arange(5000) * stride)
    trc = (39 + 17) * memory.tck_ps  # 32 ns and 13.75 ns, each rounded up to clocks
    assert rate == pytest.approx(ACCESS_BYTES * 1000 / trc, rel=0.002)


def test_one_bank_group_gives_a_row_hit_per_tccd_l():
    memory = Ddr4(map="row_bank_column", trefi_ns=1e9)
    rate = measured(memory, np.arange(5000) % 100 * ACCESS_BYTES)
    tccd_l = memory.clocks(memory.tccd_l_ns, 5) * memory.tck_ps
    assert rate == pytest.approx(ACCESS_BYTES * 1000 / tccd_l, rel=0.002)


@pytest.mark.parametrize("change", [{"tfaw_ns": 60.0}, {"tras_ns": 90.0}, {"trfc_ns": 3900.0}])
def test_a_slower_parameter_makes_it_as_much_slower(change):
    memory = Ddr4(queue=64, **change)
    rate, bound = measured(memory, rows_of(64)), memory.bound_gb_per_s(64)
    assert bound < 0.85 * Ddr4().bound_gb_per_s(64)
    assert 0.9 * bound < rate < 1.01 * bound


def test_activates_of_one_group_are_trrd_l_apart():
    memory = Ddr4(trefi_ns=1e9, tfaw_ns=1.0, trrd_l_ns=20.0, queue=64)
    reads = rows_of(64) & ~np.int64(ACCESS_BYTES)  # the lowest bit of the map is the group's
    trrd_l = memory.clocks(memory.trrd_l_ns) * memory.tck_ps
    assert measured(memory, reads) == pytest.approx(ACCESS_BYTES * 1000 / trrd_l, rel=0.02)


def test_clocks_are_rounded_as_jedec_does():
    memory = Ddr4()
    assert memory.clocks(30.0) == 36  # 36.01 clocks
    assert memory.clocks(30.1) == 37
    assert memory.clocks(1.0, 4) == 4


def test_an_idle_read_takes_what_was_measured():
    assert Ddr4().idle_cycles(4000) == pytest.approx(260 / 4, abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"map": "bank_row"},
            "map must be one of row_column_bank, row_bank_column, not 'bank_row'",
        ),
        ({"banks": 3}, "banks must be a power of two, not 3"),
        ({"queue": 0}, "queue and accepted must be at least 1, not 0 and 64"),
    ],
)
def test_ddr4_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Ddr4(**change)


def test_idle_memory_answers_after_its_path_and_a_row_miss():
    table = Table(format="int8", dim=16, rows=1)
    case = GatherCase(SMALL, [table])
    one = np.zeros(1, np.int64)
    memory = Ddr4()
    bags = Bags(one, one, one + 1, one)
    design = build(SMALL, cache=CACHE)
    slow = run(design, case.job(bags), Memory(ddr4=memory))
    fast = run(design, case.job(bags), Memory(latency=1))
    assert slow.cycles - fast.cycles + 1 == pytest.approx(memory.idle_cycles(4000), abs=2)
