"""Trained weights and logs that cannot be used: what a person who compiles them is told."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.e2e.test_cli import edit, invoke
from tests.e2e.test_flow import DOT, SMALL

SIZES = {
    "emb_l.0.weight": (3000, 8),
    "emb_l.1.weight": (200, 8),
    "bot_l.0.weight": (16, 5),
    "bot_l.0.bias": (16,),
    "bot_l.2.weight": (8, 16),
    "bot_l.2.bias": (8,),
    "top_l.0.weight": (16, 14),
    "top_l.0.bias": (16,),
    "top_l.2.weight": (1, 16),
    "top_l.2.bias": (1,),
}
"""Tensors of the model DOT: the interaction gives 8 + 4 · 3 / 2 inputs to its top."""


@pytest.fixture
def case(tmp_path):
    (tmp_path / "config.toml").write_text(SMALL)
    edit(tmp_path / "config.toml", "seed = 3", 'weights = "w.safetensors"')
    (tmp_path / "model.toml").write_text(DOT)
    return tmp_path


def tensors():
    rng = np.random.default_rng(4)
    return {name: rng.normal(size=size).astype(np.float32) for name, size in SIZES.items()}


def compile_(case, capsys, *arguments):
    return invoke(capsys, "compile", case / "config.toml", "-o", case / "out", *arguments)


def check_refused(case, capsys, message, *arguments):
    code, out, err = compile_(case, capsys, *arguments)
    assert err.splitlines()[-1] == f"error: {message}"
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    assert "Warning" not in err
    assert not (case / "out" / "images").exists()
    assert not list((case / "out").glob(".images*")), "nothing half-written"


def test_trained_weights_compile(case, capsys):
    save_file(tensors(), case / "w.safetensors")
    assert compile_(case, capsys)[0] == 0
    assert (case / "out" / "images" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "index", "value", "shown"),
    [
        ("emb_l.0.weight", (2999, 7), np.nan, "nan"),
        ("emb_l.0.weight", (0, 0), np.inf, "inf"),
        ("emb_l.1.weight", (slice(None), 3), np.nan, "nan"),
        ("bot_l.2.weight", (7, 2), -np.inf, "-inf"),
        ("top_l.2.bias", (0,), np.nan, "nan"),
    ],
)
def test_a_value_that_is_not_finite_is_named(case, capsys, name, index, value, shown):
    weights = tensors()
    weights[name][index] = value
    save_file(weights, case / "w.safetensors")
    first = tuple(0 if isinstance(i, slice) else i for i in index)
    message = f"tensor {name!r} has {shown} at {first}: must be finite"
    check_refused(case, capsys, f"{case / 'w.safetensors'}: {message}")


def test_a_tensor_of_another_shape_is_named(case, capsys):
    weights = tensors()
    weights["bot_l.0.weight"] = weights["bot_l.0.weight"].T.copy()
    save_file(weights, case / "w.safetensors")
    message = "tensor 'bot_l.0.weight' must have shape (16, 5), not (5, 16)"
    check_refused(case, capsys, f"{case / 'w.safetensors'}: {message}")


def test_a_missing_tensor_is_named(case, capsys):
    weights = tensors()
    del weights["emb_l.1.weight"]
    save_file(weights, case / "w.safetensors")
    message = (
        "tensor 'emb_l.1.weight' of shape (200, 8) is missing; the file has 'bot_l.0.bias', "
        "'bot_l.0.weight', 'bot_l.2.bias' and 6 more"
    )
    check_refused(case, capsys, f"{case / 'w.safetensors'}: {message}")


def test_a_file_that_is_missing_is_named(case, capsys):
    check_refused(case, capsys, f"{case / 'w.safetensors'}: No such file or directory")


def test_a_file_that_is_no_safetensors_is_named(case, capsys):
    (case / "w.safetensors").write_bytes(b"PK\3\4 not this")
    code, _, err = compile_(case, capsys)
    assert code == 1
    assert f"error: {case / 'w.safetensors'}: must be a safetensors file" in err
    assert not (case / "out" / "images").exists()


def test_scales_too_far_apart_are_named(case, capsys):
    """A logit far beyond what the device's fixed logit scale can express."""
    weights = tensors()
    weights["top_l.2.weight"] *= 1e10
    save_file(weights, case / "w.safetensors")
    code, _, err = compile_(case, capsys)
    assert code == 1
    assert "error: model.weights: layer top1 channel 0: a requantise factor must" in err
    assert not (case / "out" / "images").exists()


def test_weights_that_overflow_are_named(case, capsys):
    weights = tensors()
    weights["emb_l.0.weight"] *= 1e30
    save_file(weights, case / "w.safetensors")
    code, _, err = compile_(case, capsys)
    assert code == 1
    assert "error: model.weights: the float model overflows: concat is" in err
    assert "Warning" not in err
    assert not (case / "out" / "images").exists()


def test_a_failed_compile_leaves_the_images_before_it_out_of_date(case, capsys):
    """What was compiled stays whole, but the next run does not take it for the new weights'."""
    save_file(tensors(), case / "w.safetensors")
    assert compile_(case, capsys)[0] == 0
    before = (case / "out" / "images" / "manifest.json").read_text()
    weights = tensors()
    weights["emb_l.1.weight"][5, 5] = np.nan
    save_file(weights, case / "w.safetensors")
    for _ in range(2):
        code, _, err = compile_(case, capsys)
        assert code == 1
        assert "has nan at (5, 5)" in err
    assert (case / "out" / "images" / "manifest.json").read_text() == before


def test_a_dense_value_of_the_log_that_is_not_finite_is_an_error(case, capsys):
    save_file(tensors(), case / "w.safetensors")
    names = ["d0", "d1", "d2", "d3", "d4", "a1", "a2", "b"]
    lines = [",".join(names), *(["1,2,3,4,nan,7,8,9"] * 20)]
    (case / "log.csv").write_text("\n".join(lines) + "\n")
    code, _, err = compile_(
        case,
        capsys,
        "--set=log={path='log.csv', dense=['d0', 'd1', 'd2', 'd3', 'd4'], table=["
        "{table='a1', column='a1'}, {table='a2', column='a2'}, {table='b', column='b'}]}",
    )
    assert code == 1
    assert "log" in err
    assert "nan" in err
    assert "Traceback" not in err
    assert not (case / "out" / "images").exists()


def test_a_damaged_quantised_model_is_named(case, capsys):
    save_file(tensors(), case / "w.safetensors")
    assert compile_(case, capsys)[0] == 0
    path = case / "out" / "images" / "quant.npz"
    path.write_bytes(b"no archive")
    code, _, err = invoke(capsys, "simulate", case / "config.toml", "-o", case / "out")
    assert code == 1
    assert f"error: {path}: must be an .npz file; `screc compile --force` makes it anew" in err
    assert "Traceback" not in err
    assert not (case / "out" / "simulation.json").exists()
