"""What int8 costs in AUC, on real labels: the device, and the device behind an ONNX QDQ import."""

import json

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from screc.config import LogConfig
from screc.logs import open_log
from screc.models import preset_shape, read_model, to_shape
from screc.weights import load_weights
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import calibrate
from screc_sim.samples import concatenate
from tests.conftest import NO_TORCH, shared_data
from tests.e2e.test_cli import invoke

pytest.importorskip("torch", reason=NO_TORCH)
pytest.importorskip("onnxruntime", reason="needs the extra train")

from screc.train.compare import (
    CALIBRATION_SAMPLES,
    RESAMPLES,
    compare_integers,
    compared,
    read_rows,
)
from screc.train.dlrm import Recipe
from tests.e2e.test_tt_accuracy import DENSE, MOVIELENS, SEEDS, movielens, split
from tests.support import torch_dlrm

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.data]

__all__ = ["movielens"]  # a fixture

MODELS = ("ONNX Runtime", "float", "device")


@pytest.fixture(scope="module")
def trained_movielens(movielens):
    train, held_out = movielens
    found, models = compare_integers(
        "movielens_small, int8", MOVIELENS, DENSE, train, held_out, SEEDS
    )
    return train, held_out, found, models


@pytest.fixture(scope="module")
def trained_criteo():
    kaggle = preset_shape("criteo-kaggle")
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    train, held_out = split(kaggle, open_log(LogConfig(path=str(path)), kaggle, seed=0))
    # rows that no sample reads need not be there
    shape, both = read_rows(kaggle, concatenate([train, held_out]))
    train, held_out = both.slice(0, len(train)), both.slice(len(train), len(both))
    recipe = Recipe(epochs=1, batch=64, dense_rate=3e-3, std=0.01)
    found, models = compare_integers("criteo_raw8k, int8", shape, recipe, train, held_out, SEEDS)
    return train, held_out, found, models


def show(capsys, *tables):
    with capsys.disabled():
        for table in tables:
            Console(width=170).print("\n", table)


def check(found, bound):
    """The device's AUC may differ by ``bound``: of every seed, and the mean's whole interval."""
    device = len(found.models) - 1
    for seed in range(len(SEEDS)):
        assert abs(found.difference(device, device - 1, seed).value) <= bound
    mean = found.difference(device, device - 1)
    assert max(-mean.low, mean.high) <= bound


@pytest.mark.parametrize(
    ("trained", "least", "bound"),
    [("trained_movielens", 0.77, 0.001), ("trained_criteo", 0.70, 0.003)],
)
def test_int8_costs_little(request, capsys, trained, least, bound):
    _, _, found, _ = request.getfixturevalue(trained)
    show(capsys, found.table())
    assert found.aucs.min() > least
    check(found, bound)


def agreement(runtime, device, real):
    """How near the device's logits are to ONNX Runtime's, and both to the float model's."""
    off = device - runtime

    def rms(values):
        return float(np.sqrt(np.mean(values**2)))

    return {
        "largest": float(np.abs(off).max()),
        "RMS": rms(off),
        "std of logits": float(real.std()),
        "correlation": float(np.corrcoef(runtime, device)[0, 1]),
        "same decision": float(((runtime > 0) == (device > 0)).mean()),
        "RMS to float, runtime": rms(runtime - real),
        "RMS to float, device": rms(device - real),
    }


@pytest.mark.parametrize(
    ("trained", "bound", "symmetric", "operators"),
    [
        pytest.param("trained_movielens", 0.001, True, None, id="movielens-symmetric"),
        pytest.param("trained_movielens", 0.001, False, None, id="movielens-default"),
        pytest.param("trained_criteo", 0.003, True, ["Gemm"], id="criteo-layers"),
        pytest.param("trained_criteo", 0.003, True, None, id="criteo-symmetric"),
    ],
)
def test_a_qdq_import_costs_little_and_agrees_with_onnx_runtime(
    request, capsys, tmp_path, trained, bound, symmetric, operators
):
    train, held_out, float_found, models = request.getfixturevalue(trained)
    calibration = train.slice(0, CALIBRATION_SAMPLES)
    scores, figures = [], []
    for seed, model in enumerate(models):
        plain, quantised = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}_qdq.onnx"
        module = torch_dlrm.PlainDlrm(model, sigmoid=False)
        torch_dlrm.export(module, calibration.slice(0, 4), plain)
        torch_dlrm.quantise(
            plain,
            quantised,
            calibration,
            model.shape.dense,
            symmetric=symmetric,
            operators=operators,
        )
        folder = tmp_path / str(seed)
        code, out, err = invoke(capsys, "import", quantised, "-o", folder, "--json")
        assert code == 0, err
        became = {e["tensor"]: e["became"] for e in json.loads(out)["quantisation"]}
        assert all(v == "taken over" for t, v in became.items() if t.endswith(".weight"))
        if symmetric:
            assert set(became.values()) <= {"taken over", "left out"}
        shape = to_shape(read_model(folder / "model.toml"))
        weights = load_weights(folder / "weights.safetensors", shape)
        exact = calibrate(shape, weights, calibration, clip="auto")
        device = golden.run(exact, held_out).logit * exact.logit_scale
        runtime = torch_dlrm.runtime_outputs(quantised, held_out, shape.dense)
        real = float_found.scores[seed, 0]
        scores.append(np.stack([runtime, real, device]))
        figures.append(agreement(runtime, device, real))
    name = f"{float_found.name}, ONNX QDQ {'symmetric' if symmetric else 'default'}"
    name += f" {operators}" if operators else ""
    found = compared(name, MODELS, SEEDS, held_out.labels, np.stack(scores), RESAMPLES)
    table = Table(title=f"{name}: logits of the device and of ONNX Runtime")
    for column in ("seed", *figures[0]):
        table.add_column(column, justify="right")
    for seed, row in zip(SEEDS, figures, strict=True):
        table.add_row(str(seed), *(f"{value:.4f}" for value in row.values()))
    show(capsys, found.table(), table)
    check(found, bound)
    for row in figures:
        if operators is None:  # it rounds in more places than the device
            assert row["RMS to float, device"] <= 1.1 * row["RMS to float, runtime"]
        if operators or trained == "trained_movielens":
            assert row["correlation"] > 0.998
            assert row["same decision"] > 0.99
