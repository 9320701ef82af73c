import dataclasses
import json

import numpy as np
import pytest

from screc import bench_gemm, cli
from screc.bench_gemm import Point
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import padded_inputs, padded_outputs
from screc_sim.native import gemm
from screc_sim.native.gemm import GemmCase, Timing
from screc_sim.runner import SimulationError
from tests.cosim.support import CACHE
from tests.support.compute import model_shape

pytestmark = pytest.mark.cosim

KEYS = {
    *("model", "rows", "columns", "batch", "macs", "cycles", "mac_utilisation", "layers"),
    *("multipliers", "predicted_cycles", "prediction_error", "latency_cycles", "kind"),
    "batch_1_latency_cycles",
    *("predicted_latency_cycles", "latency_prediction_error", "slots", "pair_units"),
}

# inputs of less than a group's cycles, a layer in parts, more pairs than bytes of a word
MODEL = model_shape(dense=5, bottom=(72, 16), dims=(16,) * 4, top=(264, 40, 1))

# one whose layers take longer than their columns need to be written
LARGE = model_shape(dense=13, bottom=(128, 64, 32), dims=(32,) * 6, top=(128, 64, 1))

PARAMS = bench_gemm.core_for([MODEL, LARGE], rows=4, columns=32, pair_units=1)


@pytest.fixture(scope="module")
def design():
    return gemm.build(PARAMS, cache=CACHE)


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_gemm, "CYCLES", 10_000)
        shown = []
        found = bench_gemm.bench_gemm(
            [Point(params=PARAMS, model=LARGE)],
            cache=CACHE,
            workers=1,
            progress=lambda *args: shown.append(args),
        )
    assert shown == [("build", 1, 1), ("measure", 1, 1)]
    return found


@pytest.mark.parametrize(
    ("timing", "loud"),
    [
        (Timing(), False),
        (Timing(), True),
        (Timing(dense_gap=0.5, word_gap=0.3, result_stall=0.2, seed=1), False),
        (Timing(word_gap=0.95, seed=2), False),
        (Timing(dense_gap=0.97, result_stall=0.9, seed=3), False),
    ],
)
def test_every_result_is_the_golden_model_s(design, timing, loud):
    print("seeds 5,", timing.seed)
    case = GemmCase(PARAMS, MODEL, seed=5, loud=loud)
    stimulus = case.stimulus(12)
    outcome = gemm.run(design, case, stimulus, timing)
    case.check(outcome, stimulus)
    assert outcome.sub_batches == 12
    assert (np.diff(outcome.ends) >= PARAMS.rows).all()
    assert outcome.busy == outcome.active + outcome.waiting
    assert outcome.active == outcome.layer_cycles.sum()


def test_a_wrong_result_is_found(design):
    case = GemmCase(PARAMS, MODEL)
    stimulus = case.stimulus(3)
    outcome = gemm.run(design, case, stimulus)
    stimulus.bags[2][9] = 0
    with pytest.raises(AssertionError, match="of row 1 of sub-batch 2 is"):
        case.check(outcome, stimulus)
    with pytest.raises(AssertionError, match="12 results came, not 4"):
        case.check(outcome, case.stimulus(1))


def test_a_core_that_stops_is_told(design, monkeypatch):
    case = GemmCase(PARAMS, MODEL)
    words = gemm.GemmCase.config

    def without_program(self):
        return [word for word in words(self) if word[0] != gemm.LoadTarget.PROGRAM]

    monkeypatch.setattr(gemm.GemmCase, "config", without_program)
    with pytest.raises(SimulationError, match="nothing moved any more after 0 results of 8"):
        gemm.run(design, case, case.stimulus(2))


def test_chances_are_below_one():
    with pytest.raises(ValueError, match=r"word_gap must lie in \[0, 1\), not 1"):
        Timing(word_gap=1)


def test_results_have_all_fields_and_are_predicted(results):
    assert [result["batch"] for result in results] == [128, 4]
    for result in results:
        assert set(result) >= KEYS
        assert set(bench_gemm.COLUMNS) <= set(result)
        assert result["multipliers"] == 4 * 32 + 8 + 1
        assert result["macs"] == LARGE.macs * result["batch"]
        share = result["macs"] / (result["multipliers"] * result["cycles"])
        assert result["mac_utilisation"] == pytest.approx(share)
        assert abs(result["prediction_error"]) <= 0.03
        assert abs(result["latency_prediction_error"]) <= 0.03
    whole, one = results
    assert whole["cycles"] == pytest.approx(32 * one["cycles"])


def test_layers_take_their_steps(results):
    for result in results:
        parts = result["batch"] // 4
        layers = {layer["name"]: layer for layer in result["layers"]}
        assert list(layers) == [
            *("bottom0", "bottom1", "bottom2", "interaction", "top0", "top1", "top2"),
        ]
        interaction = layers.pop("interaction")
        assert (interaction["k"], interaction["n"]) == (32, 21)
        steps = parts * PARAMS.pair_cycles(LARGE)
        # columns of the array are written before pairs
        assert interaction["cycles"] >= steps
        assert interaction["cycles"] < 1.25 * steps + 40 * parts
        shapes = zip(padded_inputs(LARGE), padded_outputs(LARGE), strict=True)
        for layer, (k, n) in zip(layers.values(), shapes, strict=True):
            assert layer["cycles"] == parts * PARAMS.linear_steps(k, n)
            share = layer["k"] * layer["n"] * result["batch"] / (4 * 32 * layer["cycles"])
            assert layer["mac_utilisation"] == pytest.approx(share)


def test_points_are_all_that_was_asked_for():
    found = bench_gemm.points()
    arrays = {(p.params.rows, p.params.columns, p.model.name) for p in found}
    models = {"criteo-terabyte", "criteo-kaggle", "rm1", "rm2", "rm3"}
    assert arrays == {(*size, name) for size in ((16, 16), (16, 32), (32, 32)) for name in models}
    assert len(arrays) == len(found)
    assert len({point.params for point in found}) == 6
    for point in found:
        own = bench_gemm.core_for(
            [point.model],
            rows=point.params.rows,
            columns=point.params.columns,
            pair_units=point.params.pair_units,
        )
        assert own.multipliers == point.params.multipliers
        for field in dataclasses.fields(ComputeParams):
            if field.name != "lanes":
                assert getattr(point.params, field.name) >= getattr(own, field.name), field.name


def test_the_command_prints_json_and_a_table(results, monkeypatch, capsys):
    monkeypatch.setattr(bench_gemm, "bench_gemm", lambda chosen, progress: results)
    cli.cli.main(["bench", "gemm", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "gemm"
    assert found["results"] == results
    cli.cli.main(["bench", "gemm"], standalone_mode=False)
    assert "bench gemm" in capsys.readouterr().out


LEAST = {"criteo-terabyte": (0.95, 0.85), "rm3": (0.95, 0.85)}
OTHERS = (0.90, 0.0)
"""Least utilisation at batches of 128 and of the array's rows."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", bench_gemm.ARRAYS)
def test_the_whole_benchmark_meets_what_it_must(size):
    chosen = [p for p in bench_gemm.points() if (p.params.rows, p.params.columns) == size]
    for result in bench_gemm.bench_gemm(chosen, cache=CACHE):
        where = f"{result['model']}, batch {result['batch']}"
        least = LEAST.get(result["model"], OTHERS)[result["batch"] == size[0]]
        assert result["mac_utilisation"] >= least, where
        assert abs(result["prediction_error"]) <= 0.03, where
        assert abs(result["latency_prediction_error"]) <= 0.03, where
