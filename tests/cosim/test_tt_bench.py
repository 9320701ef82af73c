import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from screc import bench_native, bench_tt, cli
from screc.bench_tt import Point, Trace
from screc.errors import CheckError
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape
from screc_sim.native.tt import TtCase
from screc_sim.runner import SimulationError
from tests.cosim.support import CACHE

pytestmark = pytest.mark.cosim

KEYS = {
    *("rows", "dim", "rank", "build", "lanes", "multipliers", "dsp", "prefixes", "policy", "trace"),
    *("prefix_hit_rate", "rows_reconstructed", "cycles", "macs", "mac_utilisation"),
    *("rows_per_cycle", "predicted_cycles", "prediction_error", "gain", "kind"),
}

SMALL = TtShape(rows=1000, p=(10, 10, 10), q=(2, 2, 4), ranks=(8, 8))
PARAMS = TtParams.for_tables([SMALL], [40], slice_lanes=16, chain=4, requantisers=4)


def small(**changes):
    point = {"build": "small", "params": PARAMS, "shape": SMALL, "trace": "zipf", "rows": 3000}
    return Point(**{**point, **changes})


@pytest.fixture(scope="module")
def results():
    chosen = [small(), small(prefixes=10), small(prefixes=40), small(trace="uniform", prefixes=40)]
    shown = []
    found = bench_tt.bench_tt(
        chosen, cache=CACHE, workers=1, progress=lambda *args: shown.append(args)
    )
    assert shown == [("build", 1, 1)] + [("measure", i, 4) for i in range(1, 5)]
    return found


def test_results_have_all_fields_and_the_order_of_the_points(results):
    assert all(KEYS <= set(result) for result in results)
    assert len({tuple(result) for result in results}) == 1
    assert [result["prefixes"] for result in results] == [0, 10, 40, 40]
    assert [result["policy"] for result in results] == ["none", *["pinned"] * 3]
    assert [result["trace"] for result in results] == [*["zipf(1.05)"] * 3, "uniform"]
    assert set(bench_tt.COLUMNS) <= set(results[0])


def test_work_and_time_are_those_of_the_misses(results):
    for result in results:
        misses = round(3000 * (1 - result["prefix_hit_rate"]))
        assert result["macs"] == 3000 * 16 * 8 + misses * 4 * 64
        assert result["rows_reconstructed"] == 3000
        assert result["multipliers"] == 64 < result["dsp"]
        share = result["macs"] / (64 * result["cycles"])
        assert result["mac_utilisation"] == pytest.approx(share)
        assert result["rows_per_cycle"] == pytest.approx(3000 / result["cycles"])
        assert abs(result["prediction_error"]) < 0.03
    assert results[0]["prefix_hit_rate"] == 0
    # 10 prefixes are 100 rows of 1000; of the same trace more pins hit more
    assert 0.5 < results[1]["prefix_hit_rate"] < results[2]["prefix_hit_rate"] < 1
    assert results[3]["prefix_hit_rate"] == pytest.approx(0.4, abs=0.04)
    assert results[0]["cycles"] > results[1]["cycles"] > results[2]["cycles"]


def test_the_gain_is_over_the_same_build_and_trace_without_prefixes(results):
    assert results[0]["gain"] is None
    for result in results[1:3]:
        rate = result["rows_per_cycle"] / results[0]["rows_per_cycle"]
        assert result["gain"] == pytest.approx(rate)
        assert rate > 1
    assert results[3]["gain"] is None  # uniform rows were measured with prefixes alone


def test_a_wrong_row_ends_the_benchmark(monkeypatch):
    def differ(self, outcome, local, table):
        raise AssertionError("row 3 of table 0: 1, not 2")

    monkeypatch.setattr(TtCase, "check", differ)
    with pytest.raises(AssertionError, match="row 3 of table 0"):
        bench_tt.measure(small(rows=100), cache=CACHE)


@pytest.mark.parametrize("error", [AssertionError, SimulationError])
def test_wrong_results_are_errors_of_the_command(error, monkeypatch):
    class Pool:
        """A pool that does what it is given at once."""

        def __init__(self, workers, mp_context):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, call, *args, **options):
            future = bench_native.concurrent.futures.Future()
            try:
                future.set_result(call(*args, **options))
            except Exception as fault:
                future.set_exception(fault)
            return future

        def shutdown(self, **_):
            pass

    def measure(point, *, cache):
        raise error("row 7 is wrong")

    monkeypatch.setattr(bench_native.concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(bench_tt, "build", lambda params, *, cache: None)
    monkeypatch.setattr(bench_tt, "measure", measure)
    with pytest.raises(CheckError, match="row 7 is wrong"):
        bench_tt.bench_tt([small()], cache=CACHE)


# --- traces and policies --------------------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("column", bench_tt.CRITEO_COLUMNS)
def test_criteo_rows_are_ranked_by_the_first_half(column, real, monkeypatch):
    caches = (bench_tt._criteo_ids, bench_tt.criteo)
    for cached in caches:
        cached.cache_clear()
    if not real:
        monkeypatch.setattr(bench_native, "data_folders", lambda: iter(()))
    rows = bench_tt.shape(column, 16, 16).rows
    found = bench_tt.criteo(column, rows)
    for cached in caches:
        cached.cache_clear()
    if real and "synthetic" in found.source:
        pytest.skip("real Criteo rows are not beside the checkout")
    assert column in found.source
    assert ("synthetic" in found.source) != real
    assert len(found.before) == len(found.rows) == 4000
    counts = np.bincount(found.before)
    assert (np.diff(counts) <= 0).all()
    assert (counts > 0).all()
    assert (found.rows < rows).all()
    # most are seen ones; those that are not come behind, anywhere in the table
    seen = found.rows < len(counts)
    assert 0.3 < seen.mean() < 0.9
    assert found.rows[~seen].max() > rows // 2


def test_criteo_ids_are_the_reader_s(monkeypatch):
    ids = bench_tt._criteo_ids()
    if ids is None:
        pytest.skip("real Criteo rows are not beside the checkout")
    assert {len(column) for column in ids.values()} == {8000}
    # C3, C12 and C21 of the first sample: fb936136, 37c9c164, 07b5194c
    assert ids["C3"][0] == 0xFB936136 % 10_131_227
    assert ids["C12"][0] == 0x37C9C164 % 8_351_593
    assert ids["C21"][0] == 0x07B5194C % 7_046_547


def test_traces_are_drawn_from_the_whole_table():
    uniform = bench_tt.trace("uniform", 10_000_000, 5000)
    assert uniform.rows.mean() == pytest.approx(5e6, rel=0.05)
    zipf = bench_tt.trace("zipf", 10_000_000, 5000)
    assert len(zipf.before) == len(zipf.rows) == 5000
    assert (zipf.rows == 0).mean() == pytest.approx(1 / 11.66, rel=0.15)  # H(10^7, 1.05)
    assert zipf.rows.max() > 5_000_000
    assert (zipf.rows != zipf.before).any()


def slow_lru(accesses, kept):
    """Hits by stack distance: fewer than ``kept`` other prefixes since the last use."""
    hits = []
    for i, prefix in enumerate(accesses):
        earlier = [j for j in range(i) if accesses[j] == prefix]
        hits.append(bool(earlier) and len(set(accesses[earlier[-1] + 1 : i])) < kept)
    return hits


@pytest.mark.parametrize("kept", [1, 2, 5, 40])
def test_lru_hits_are_those_of_stack_distances(kept):
    print("seed 0")
    accesses = np.random.default_rng(0).geometric(0.1, 300)
    hits = slow_lru(accesses.tolist(), kept)
    before, counted = accesses[:100], accesses[100:]
    assert bench_tt.lru_hit_rate(before, counted, kept) == pytest.approx(np.mean(hits[100:]))


def test_pinned_hits_are_the_lowest_prefixes():
    assert bench_tt.pinned_hit_rate(np.array([0, 3, 4, 100]), 4) == 0.5
    assert bench_tt.pinned_hit_rate(np.array([0, 3]), 0) == 0


def test_policies_are_compared_at_every_size_and_trace():
    found = bench_tt.policies(2000)
    by_trace = collections.defaultdict(list)
    for row in found:
        by_trace[row["trace"]].append(row)
    assert len(by_trace) == 1 + len(bench_tt.CRITEO_COLUMNS)
    for rows in by_trace.values():
        assert [row["prefixes"] for row in rows] == [128, 256, 512, 1024, 2048]
        for name in ("pinned", "lru"):
            rates = [row[name] for row in rows]
            assert rates == sorted(rates)
            assert 0 < rates[0] <= rates[-1] < 1


# --- the points -----------------------------------------------------------------------------------


def test_points_are_all_that_was_asked_for():
    found = bench_tt.points()
    every = set(itertools.product((8, 16, 32), (16, 64, 128)))
    uniform = [point for point in found if point.trace == "uniform"]
    by_build = collections.defaultdict(set)
    for point in uniform:
        assert point.prefixes == 0
        assert point.shape.rows == 10_131_227
        by_build[point.params].add((point.shape.ranks[0], point.shape.dim))
    sizes = sorted(map(len, by_build.values()))
    assert sizes == [1] * 9 + [9]
    assert set().union(*by_build.values()) == every
    (largest,) = (params for params, run in by_build.items() if run == every)
    assert (largest.max_rank, largest.max_dim) == (32, 128)
    zipf = [point for point in found if point.trace == "zipf"]
    assert {(p.params.lanes, p.prefixes) for p in zipf} == set(
        itertools.product((1, 2), (0, 512, 1024, 2048))
    )
    assert {(p.shape.ranks[0], p.shape.dim, p.shape.rows) for p in zipf} == {(16, 64, 10_131_227)}
    real = [point for point in found if point.trace not in ("uniform", "zipf")]
    assert {(p.trace, p.prefixes) for p in real} == set(
        itertools.product(("C3", "C12", "C21"), (0, 128, 2048))
    )
    # a build's name is its own, and its memories hold every point's table
    assert len({point.build for point in found}) == len({point.params for point in found}) == 13
    for point in found:
        point.params.check(point.shape)
        for words, most in zip(
            point.params.core_words(point.shape), ("core1", "core2", "core3"), strict=True
        ):
            assert words <= getattr(point.params, f"{most}_words")
        pinned = point.prefixes * point.params.entry_words(point.shape)
        assert pinned <= point.params.pinned_words


def test_the_command_prints_json_and_tables(monkeypatch, capsys):
    monkeypatch.setattr(bench_tt, "points", lambda: [small(rows=500)])
    run = bench_tt.bench_tt
    monkeypatch.setattr(
        bench_tt, "bench_tt", lambda chosen, progress: run(chosen, cache=CACHE, workers=1)
    )
    monkeypatch.setattr(bench_tt, "policies", lambda: [{"trace": "made up", "pinned": 0.5}])
    cli.cli.main(["bench", "tt", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "tt"
    assert set(found["results"][0]) >= KEYS
    cli.cli.main(["bench", "tt"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "bench tt" in shown
    assert "made up" in shown


def test_a_table_s_rows_repeat_where_a_trace_is_short(monkeypatch):
    short = Trace(np.arange(3), np.array([5, 6]), "made up")
    monkeypatch.setattr(bench_tt, "criteo", lambda column, rows: short)
    assert bench_tt.trace("C3", 100, 5).rows.tolist() == [5, 6, 5, 6, 5]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_benchmark_meets_what_it_must():
    found = bench_tt.points()
    uniform = collections.Counter(point.params for point in found if point.trace == "uniform")
    for point, result in zip(found, bench_tt.bench_tt(found, cache=CACHE), strict=True):
        fields = dataclasses.asdict(point)
        assert abs(result["prediction_error"]) <= 0.03, fields
        if point.trace == "uniform":
            own = uniform[point.params] == 1
            assert result["mac_utilisation"] >= (0.90 if own else 0.75), fields
        if point.trace == "zipf" and point.prefixes == 2048:
            assert result["rows_per_cycle"] >= 2.5 * result["dsp"] / 5120, fields
