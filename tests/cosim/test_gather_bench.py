import dataclasses
import json

import numpy as np
import pytest

from screc import bench_gather, bench_native, cli
from screc.bench_gather import Point, Traffic
from screc.errors import CheckError
from screc_sim.native.ddr4 import Ddr4
from screc_sim.native.gather import FORMATS
from tests.cosim.support import CACHE

pytestmark = pytest.mark.cosim

KEYS = {
    *("format", "dim", "port_bits", "latency_cycles", "outstanding", "pooling", "beats", "cycles"),
    *("beats_per_cycle", "predicted_cycles", "prediction_error", "rows_per_cycle", "lanes"),
    *("pool_beats", "onchip_share", "memory", "gb_per_s", "memory_gb_per_s", "source", "kind"),
}

FEW = {"lanes": 16, "port_bits": 128, "row_beats": 5000}
"""Of points that share one small build."""


def small(**changes):
    point = {"format": "int8", "dim": 16, "source": "criteo", "pooling": 1, **FEW}
    return Point(**{**point, **changes})


@pytest.fixture(scope="module")
def results():
    chosen = [
        small(),
        small(format="int8r", dim=32, pooling=20),
        small(format="int8r", dim=64, source="gowalla", pooling=None),
        small(dim=64, source="uniform", ddr4=Ddr4(), row_beats=20_000),
        small(source="uniform", latency=400, row_beats=20_000),
        small(format="int4r", dim=32, pooling=20),
    ]
    shown = []
    found = bench_gather.bench_gather(
        chosen, cache=CACHE, workers=1, progress=lambda *args: shown.append(args)
    )
    assert shown == [("build", 1, 1)] + [("measure", i, 6) for i in range(1, 7)]
    return found


def test_results_have_all_fields_and_the_order_of_the_points(results):
    assert all(KEYS <= set(result) for result in results)
    assert len({tuple(result) for result in results}) == 1
    named = [(result["format"], result["dim"], result["latency_cycles"]) for result in results]
    idle = Ddr4().idle_cycles(4000)
    assert named == [
        ("int8", 16, 100),
        ("int8r", 32, 100),
        ("int8r", 64, 100),
        ("int8", 64, idle),
        ("int8", 16, 400),
        ("int4r", 32, 100),
    ]
    assert set(bench_gather.COLUMNS) <= set(results[0])


def test_line_rate_and_prediction(results):
    for result in results[:3]:
        assert 0.97 < result["beats_per_cycle"] <= 1
        assert abs(result["prediction_error"]) < 0.03
    assert results[0]["rows_per_cycle"] == results[0]["beats_per_cycle"]
    assert results[1]["beats"] == 3 * results[1]["lookups"]  # 36 bytes in beats of 16
    assert results[2]["pooling"] > 8


def test_too_few_outstanding_beats_are_slow_and_predicted(results):
    slow = results[4]
    assert slow["beats_per_cycle"] < 0.35
    assert abs(slow["prediction_error"]) < 0.03


def test_a_beat_without_codes_costs_a_cycle_and_is_predicted(results):
    tail = results[5]
    assert tail["beats_per_cycle"] == pytest.approx(2 / 3, abs=0.03)  # two slices, then the tail
    assert abs(tail["prediction_error"]) < 0.03


def test_ddr4_shows_what_bounds_it(results):
    ddr4 = results[3]
    assert ddr4["prediction_error"] is None
    assert ddr4["port_gb_per_s"] == 4
    assert ddr4["gb_per_s"] < min(4, ddr4["memory_gb_per_s"]) * 1.001
    assert ddr4["of_reachable"] > 0.95
    assert ddr4["memory_gb_per_s"] < 1.005 * ddr4["bound_gb_per_s"]


def test_a_wrong_partial_ends_the_benchmark(monkeypatch):
    def differ(got, expected):
        raise AssertionError("acc of a bag: 1, not 2")

    monkeypatch.setattr(bench_gather, "check_partials", differ)
    with pytest.raises(AssertionError, match="acc of a bag"):
        bench_gather.measure(small(row_beats=500), cache=CACHE)


def test_wrong_results_are_errors_of_the_command():
    too_many = small(pooling=1, source="gowalla", row_beats=1 << 17)  # samples without a name
    with pytest.raises((CheckError, ValueError), match="samples must be below"):
        bench_gather.bench_gather([too_many], cache=CACHE, workers=1)


# --- traffic --------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("name", ["criteo", "gowalla"])
def test_traffic_is_by_frequency(name, real, monkeypatch):
    if not real:
        monkeypatch.setattr(bench_native, "data_folders", lambda: iter(()))
    traffic = getattr(bench_gather, name)()
    if real and traffic.source != name:
        pytest.skip(f"real {name} is not beside the checkout")
    assert traffic.source == (name if real else f"synthetic, shaped as {name}")
    assert len(traffic.ranks) == len(traffic.rows) == (26 if name == "criteo" else 1)
    for ranks, rows in zip(traffic.ranks, traffic.rows, strict=True):
        counts = np.bincount(ranks, minlength=rows)
        assert len(counts) == rows
        if real:
            assert (np.diff(counts) <= 0).all()
        assert counts[: max(1, rows // 10)].mean() >= counts.mean()
    if name == "gowalla":
        assert traffic.lengths.sum() == len(traffic.ranks[0])
        assert traffic.lengths.min() >= 8
        assert traffic.lengths.mean() == pytest.approx(27.1, rel=0.02)


def test_bags_take_successive_lookups_of_every_feature():
    traffic = Traffic((np.arange(5), np.arange(10, 15)), (5, 15), None, "made up")
    bags = traffic.bags(2, 8)
    assert bags.sample.tolist() == [0, 0, 1, 1]
    assert bags.feature.tolist() == [0, 1, 0, 1]
    assert bags.lengths.tolist() == [2, 2, 2, 2]
    assert bags.ranks.tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    longer = traffic.bags(2, 12)
    assert longer.ranks.tolist()[-4:] == [4, 0, 14, 10]  # from the start again


def test_real_bags_keep_their_lengths():
    traffic = Traffic((np.arange(9),), (9,), np.array([2, 3, 4]), "made up")
    bags = traffic.bags(None, 4)
    assert bags.lengths.tolist() == [2, 3]
    assert bags.ranks.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_hottest_rows_go_on_chip(share):
    rng = np.random.default_rng(0)
    ranks = tuple(np.minimum(rng.geometric(0.05, 4000) - 1, rows - 1) for rows in (5, 300))
    traffic = Traffic(ranks, (5, 300), None, "made up")
    bags = traffic.bags(4, 8000)
    rows = bench_gather._onchip_rows(traffic, bags, share, 1)
    feature = bags.feature[bags.bag]
    taken = bags.ranks < np.array(rows)[feature]
    assert share <= taken.mean() < share + 0.25
    assert bench_gather._onchip_rows(traffic, bags, 0.0, 1) == [0, 0]


# --- the points -----------------------------------------------------------------------------------


def test_points_are_all_that_was_asked_for():
    found = bench_gather.points()
    for latency, outstanding in ((100, 128), (400, 512)):
        for name in FORMATS:
            for dim in (64, 128):
                for pooling in (1, 20, 80):
                    here = {
                        (point.source, point.lanes)
                        for point in found
                        if (point.format, point.dim, point.pooling) == (name, dim, pooling)
                        and (point.latency, point.outstanding) == (latency, outstanding)
                        and point.port_bits == 512
                        and not (point.onchip or point.ddr4)
                    }
                    lanes = 128 if dim == 128 and FORMATS[name].bits == 4 else 64
                    assert here == {("criteo", lanes), ("gowalla", lanes)}
    assert {point.dim for point in found if point.lanes < 64 and point.port_bits == 512} == {16, 32}
    assert {point.port_bits for point in found} == {128, 256, 512}
    mixes = [point for point in found if point.onchip]
    assert len(mixes) == 2
    assert all(point.params.pool_beats == 2 for point in mixes)
    for order in ("row_column_bank", "row_bank_column"):
        rows = {point.dim for point in found if point.ddr4 == Ddr4(map=order)}
        assert rows == {64, 128, 256}
    assert len({point.params for point in found}) <= 10


def test_the_command_prints_json_and_a_table(monkeypatch, capsys):
    monkeypatch.setattr(bench_gather, "points", lambda: [small(row_beats=1000)])
    run = bench_gather.bench_gather
    monkeypatch.setattr(
        bench_gather, "bench_gather", lambda chosen, progress: run(chosen, cache=CACHE, workers=1)
    )
    cli.cli.main(["bench", "gather", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "gather"
    assert set(found["results"][0]) >= KEYS
    cli.cli.main(["bench", "gather"], standalone_mode=False)
    assert "bench gather" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_whole_benchmark_meets_what_it_must():
    found = bench_gather.points()
    for point, result in zip(found, bench_gather.bench_gather(found, cache=CACHE), strict=True):
        fields = dataclasses.asdict(point)
        if point.ddr4 is not None:
            assert result["of_reachable"] >= 0.95, fields
            continue
        assert abs(result["prediction_error"]) <= 0.03, fields
        if point.onchip:
            assert result["beats_per_cycle"] > 1.3, fields
            continue
        assert result["beats_per_cycle"] >= (0.97 if point.latency == 100 else 0.90), fields
