"""`screc import` of what PyTorch's exporters write and what ONNX Runtime makes of it."""

import json

import numpy as np
import pytest

from screc.models import read_model, to_shape
from screc.weights import load_weights
from screc_sim.golden import float_twin
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import calibrate
from screc_sim.samples import Bags, SampleBatch
from tests.conftest import NO_TORCH
from tests.e2e.test_cli import invoke
from tests.golden.support import small_shape

pytest.importorskip("torch", reason=NO_TORCH)
pytest.importorskip("onnxruntime", reason="needs the extra train")

import torch

from screc.train.dlrm import Dlrm
from tests.support import torch_dlrm

pytestmark = pytest.mark.train

LENGTHS = (1, 3, 2)


def case(interaction, dense, samples=200):
    """A model with bags of fixed lengths, and samples."""
    shape = small_shape(
        dense=dense,
        bottom=(12, 8) if dense else (),
        top=(16, 1),
        interaction=interaction,
        rows=(20, 21, 22),
        dims=(8, 8, 8),
        formats=("int8",) * 3,
        features=((0, "sum"), (1, "mean"), (2, "sum")),
    )
    rng = np.random.default_rng(8)
    bags = tuple(
        Bags(rng.integers(0, 20, samples * n), np.arange(samples + 1) * n) for n in LENGTHS
    )
    batch = SampleBatch(rng.normal(size=(samples, dense)).astype(np.float32), bags)
    return Dlrm(shape, std=0.5, seed=1), batch


def run_import(capsys, path, folder):
    code, out, err = invoke(capsys, "import", path, "-o", folder, "--json")
    assert code == 0, err
    shape = to_shape(read_model(folder / "model.toml"))
    return json.loads(out), shape, load_weights(folder / "weights.safetensors", shape)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize(("dense", "open_batch"), [(5, True), (0, True), (5, False)])
def test_both_exporters_are_read(tmp_path, capsys, dynamo, interaction, dense, open_batch):
    model, batch = case(interaction, dense)
    module = torch_dlrm.PlainDlrm(model, lengths=LENGTHS, means=(1,))
    path = tmp_path / "trained.onnx"
    torch_dlrm.export(module, batch.slice(0, 4), path, dynamo=dynamo, open_batch=open_batch)
    _, shape, weights = run_import(capsys, path, tmp_path / "in")
    assert (shape.interaction, shape.dense) == (interaction, dense)
    assert [(f.pooling, f.mode) for f in shape.features] == [(1, "sum"), (3, "mean"), (2, "sum")]
    assert float_twin.run(shape, weights, batch) == pytest.approx(model.logits(batch), abs=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize("dynamo", [True, False])
def test_what_onnx_runtime_quantised_is_read(tmp_path, capsys, symmetric, interaction, dynamo):
    model, batch = case(interaction, 5)
    plain, quantised = tmp_path / "plain.onnx", tmp_path / "qdq.onnx"
    module = torch_dlrm.PlainDlrm(model, lengths=LENGTHS, means=(1,), sigmoid=False)
    torch_dlrm.export(module, batch.slice(0, 4), plain, dynamo=dynamo)
    torch_dlrm.quantise(plain, quantised, batch, 5, symmetric=symmetric)
    report, shape, weights = run_import(capsys, quantised, tmp_path / "in")
    became = {e["tensor"]: e["became"] for e in report["quantisation"]}
    layers = {f"{name}.weight" for name in ("bottom0", "bottom1", "top0", "top1")}
    tensors = {"dense", "bottom0", "top0", "concat", *(["vectors"] if interaction == "dot" else [])}
    assert {*layers, *tensors, "emb_0", "emb_1", "emb_2"} <= became.keys()
    assert {became[layer] for layer in layers} == {"taken over"}
    if symmetric:
        assert set(became.values()) <= {"taken over", "left out"}
    else:
        assert became["dense"] == "folded"
        assert became["bottom0"] == became["top0"] == "recalibrated"
    exact = calibrate(shape, weights, batch, clip="auto")
    got = golden.run(exact, batch).logit * exact.logit_scale
    expected = torch_dlrm.runtime_outputs(quantised, batch, 5)
    real = model.logits(batch)
    assert np.corrcoef(got, real)[0, 1] > 0.995
    assert np.corrcoef(got, expected)[0, 1] > 0.98


def test_an_embedding_bag_is_refused_with_what_to_do(tmp_path, capsys):
    model, batch = case("dot", 5)
    module = torch_dlrm.PlainDlrm(model, lengths=LENGTHS)
    module.emb_l[1] = torch.nn.EmbeddingBag.from_pretrained(model.tables[1].weight, mode="sum")

    class Bagged(torch_dlrm.PlainDlrm):
        def forward(self, *inputs):
            dense, ids = inputs
            rows = [self.emb_l[0](ids[:, 0]), self.emb_l[1](ids[:, 1:4])]
            return self.top_l(torch.cat([self.bot_l(dense), *rows], dim=1)[:, :14])

    module.__class__ = Bagged
    for dynamo in (True, False):
        path = tmp_path / f"{dynamo}.onnx"
        torch_dlrm.export(module, batch.slice(0, 4), path, dynamo=dynamo)
        code, _, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
        assert code == 1
        assert "torch.nn.EmbeddingBag is exported so: export torch.nn.Embedding" in err
        assert not (tmp_path / "in").exists()
