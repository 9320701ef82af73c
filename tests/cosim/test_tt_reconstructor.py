"""The TT reconstructor's RTL against the integer golden model, on both simulators."""

import dataclasses

import numpy as np
import pytest

from screc_sim.native import tt as native
from screc_sim.native.tt import Timing, TtCase, random_table
from screc_sim.runner import SimulationError
from tests.cosim.support import CACHE
from tests.cosim.tt_case import (
    BUILDS,
    SHAPES,
    case,
    played_by_icarus,
    played_by_verilator,
    some_rows,
)

pytestmark = pytest.mark.cosim

FULL = Timing()
ROUGH = Timing(request_gap=0.3, row_stall=0.3, seed=1)
SLOW_SINK = Timing(row_stall=0.9, wait=False, seed=2)
SLOW_SOURCE = Timing(request_gap=0.97, wait=False, seed=3)
TIMINGS = {"full": FULL, "rough": ROUGH, "slow sink": SLOW_SINK, "slow source": SLOW_SOURCE}

# a build takes some 20 s
QUICK = ("smallest", "mixed")
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in BUILDS]

ICARUS_ROWS = {"smallest": 60, "mixed": 60, "unpinned": 40, "largest": 12, "long": 30}


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_golden_model_s_on_verilator(name):
    chosen = case(name)
    for seed, (what, timing) in enumerate(TIMINGS.items()):
        print(what)
        local, table = some_rows(chosen, 2000, seed=seed)
        chosen.check(played_by_verilator(name, local, table, timing), local, table)
        assert set(table) == set(range(len(chosen.tables)))
        assert not chosen.valid(local, table).all()
        assert chosen.hits(local, table).any() == (name != "unpinned")


@pytest.mark.parametrize("name", NAMES)
def test_both_simulators_give_the_same_rows(name, tmp_path):
    chosen = case(name)
    timings = [ROUGH, dataclasses.replace(SLOW_SINK, row_stall=0.6)]
    if name == "long":  # LOAD takes most of the time
        timings = timings[:1]
    runs = [
        (*some_rows(chosen, ICARUS_ROWS[name], seed=seed), timing)
        for seed, timing in enumerate(timings, 10)
    ]
    outcomes = played_by_icarus(name, runs, tmp_path)
    for (local, table, timing), outcome in zip(runs, outcomes, strict=True):
        chosen.check(outcome, local, table)
        other = played_by_verilator(name, local, table, timing)
        chosen.check(other, local, table)
        assert (other.slices == outcome.slices).all()


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_the_largest_sums_are_exact(name):
    chosen = case(name, loud=True)
    local, table = some_rows(chosen, 1000, seed=4)
    chosen.check(played_by_verilator(name, local, table, FULL, loud=True), local, table)


def test_no_rows_at_all():
    none = np.zeros(0, np.int64)
    outcome = played_by_verilator("smallest", none, none, FULL)
    assert len(outcome.slices) == outcome.reconstructed == outcome.hits == 0


def test_rows_that_are_none_are_zero_and_counted():
    chosen = case("mixed")
    table = np.arange(len(chosen.tables)).repeat(40)
    local = np.array([t.shape.rows for t in chosen.tables])[table] + np.tile(
        [0, 1, 1 << 20, (1 << 32) - 1 - 1000], len(table) // 4
    )
    outcome = played_by_verilator("mixed", local, table, FULL)
    assert outcome.range_errors == len(local)
    assert not outcome.slices.any()
    chosen.check(outcome, local, table)


@pytest.mark.parametrize("name", [NAMES[1], NAMES[3]])
def test_tables_without_pins_in_a_build_with_room_for_them(name):
    whole = case(name)
    chosen = TtCase(whole.params, whole.tables)
    local, table = some_rows(whole, 1000, seed=5)
    design = native.build(whole.params, cache=CACHE)
    outcome = native.run(design, chosen, local, table, ROUGH)
    chosen.check(outcome, local, table)
    assert outcome.hits == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", BUILDS)
def test_200_000_random_rows(name):
    chosen = case(name)
    local, table = some_rows(chosen, 200_000, seed=6)
    timing = Timing(request_gap=0.05, row_stall=0.05, seed=7)
    outcome = played_by_verilator(name, local, table, timing)
    chosen.check(outcome, local, table)
    print(f"{outcome.cycles_run:,} cycles, {outcome.cycles_run / outcome.seconds:,.0f} cycles/s")


# --- what the comparison must find ----------------------------------------------------------------


SHIFTED = {
    "shift1": lambda t: dataclasses.replace(t, shift1=t.shift1 + 1),
    "m": lambda t: dataclasses.replace(t, m=t.m - 64),
    "s": lambda t: dataclasses.replace(t, s=t.s + 1),
    "rows": lambda t: dataclasses.replace(t, shape=dataclasses.replace(t.shape, rows=59)),
    **{
        f"core {number + 1}": lambda t, number=number: dataclasses.replace(
            t,
            cores=tuple(
                np.where(np.arange(core.size).reshape(core.shape) == 5, 127, core).astype(np.int8)
                if i == number
                else core
                for i, core in enumerate(t.cores)
            ),
        )
        for number in range(3)
    },
}


@pytest.fixture(scope="module")
def mixed_run():
    chosen = case("mixed")
    local, table = some_rows(chosen, 3000, seed=8)
    return local, table, played_by_verilator("mixed", local, table, FULL)


@pytest.mark.parametrize("change", SHIFTED)
def test_a_table_that_is_a_little_different_is_found(change, mixed_run):
    local, table, outcome = mixed_run
    whole = case("mixed")
    tables = [SHIFTED[change](t) if i == 2 else t for i, t in enumerate(whole.tables)]
    with pytest.raises(AssertionError, match="not"):
        TtCase(whole.params, tables, whole.pins).check(outcome, local, table)
    whole.check(outcome, local, table)


@pytest.mark.parametrize("counter", ["range_errors", "hits", "reconstructed"])
def test_a_wrong_counter_is_found(counter, mixed_run):
    local, table, outcome = mixed_run
    wrong = dataclasses.replace(outcome, **{counter: getattr(outcome, counter) + 1})
    with pytest.raises(AssertionError, match=f"{counter} is"):
        case("mixed").check(wrong, local, table)


def test_a_lost_slice_and_a_changed_value_are_found(mixed_run):
    local, table, outcome = mixed_run
    with pytest.raises(AssertionError, match="slices came"):
        case("mixed").check(dataclasses.replace(outcome, slices=outcome.slices[1:]), local, table)
    slices = outcome.slices.copy()
    slices[len(slices) // 2, 3] ^= 1
    with pytest.raises(AssertionError, match="1 values differ"):
        case("mixed").check(dataclasses.replace(outcome, slices=slices), local, table)


# --- the driver's own parts -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [s for shapes in SHAPES.values() for s in shapes])
def test_random_tables_use_the_range_and_do_not_overflow(shape):
    rng = np.random.default_rng(0)
    table = random_table(shape, fraction=4)
    rows = table.rows(rng.integers(0, shape.rows, 500))
    assert np.abs(rows).max() <= 127 << 4
    if shape.rows > 50 and min(shape.ranks) > 1:
        assert rows.std() > 200


def test_macs_are_those_of_rows_that_exist_and_first_products_of_misses():
    chosen = case("mixed")
    local, table = np.array([0, 118, 119, 60, 0]), np.array([1, 1, 1, 2, 3])
    first, second = 2 * 2 * 8 * 8, 16 * 8
    # row 0 of table 1 is pinned; 118 is of prefix 19, pinned too; 119 and row 60 are none
    assert chosen.hits(local, table).tolist() == [True, True, False, False, False]
    assert chosen.macs(local, table) == 2 * second + (3 * 4 * 16 + 48) * 1
    assert chosen.macs(local[:0], table[:0]) == 0
    unpinned = TtCase(chosen.params, chosen.tables)
    assert unpinned.macs(local[:2], table[:2]) == 2 * (first + second)


@pytest.mark.parametrize("name", ["request_gap", "row_stall"])
def test_timing_refuses(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\), not 1"):
        Timing(**{name: 1.0})


def test_another_fraction_is_refused():
    table = random_table(SHAPES["smallest"][0], fraction=3)
    with pytest.raises(ValueError, match="table 0 has 3 fraction bits, the reconstructor 0"):
        TtCase(BUILDS["smallest"], [table])


def test_tables_that_do_not_fit_are_refused():
    chosen = case("mixed")
    params = dataclasses.replace(chosen.params, core2_words=chosen.params.core2_words - 1)
    with pytest.raises(ValueError, match="core2_words"):
        TtCase(params, chosen.tables, chosen.pins).config()


def test_a_run_that_does_not_end_is_found(monkeypatch):
    chosen = case("smallest")
    # nothing is loaded, so no row can be right
    monkeypatch.setattr(TtCase, "config", lambda self: [])
    local, table = some_rows(chosen, 10, seed=9)
    with pytest.raises((SimulationError, AssertionError)):
        chosen.check(played_by_verilator("smallest", local, table, FULL), local, table)
