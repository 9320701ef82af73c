"""The PyTorch DLRM against the float twin, and its training."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from screc.tt.decompose import decompose
from screc.weights import load_weights
from screc_hw.tt.shape import TtShape
from screc_sim.golden import float_twin
from screc_sim.samples import Bags, SampleBatch
from tests.conftest import NO_TORCH
from tests.golden.support import small_shape

torch = pytest.importorskip("torch", reason=NO_TORCH)

from screc.train.dlrm import Dlrm, Recipe, fit, take  # noqa: E402
from screc.train.tt_embedding import TTEmbeddingBag  # noqa: E402

pytestmark = pytest.mark.train

TT = TtShape(rows=40, p=(2, 4, 5), q=(1, 1, 4), ranks=(4, 4))


def drawn_samples(shape, n=64, seed=0):
    """Samples whose label is a matter of the first table's rows and the first dense feature."""
    rng = np.random.default_rng(seed)
    bags = []
    for feature in shape.features:
        lengths = rng.integers(0, 4, n)
        lengths[:2] = 0, 3
        ids = rng.integers(0, shape.tables[feature.table].rows, lengths.sum())
        bags.append(Bags(ids, np.concatenate([[0], np.cumsum(lengths)])))
    dense = rng.normal(size=(n, shape.dense)).astype(np.float32)
    first = np.array([b.sum() for b in np.split(bags[0].ids < 20, bags[0].offsets[1:-1])])
    chance = first - 1.0 + (dense[:, 0] if shape.dense else 0)
    labels = (chance + rng.normal(0, 0.3, n) > 0).astype(np.float32)
    return SampleBatch(dense, tuple(bags), labels)


@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize("dense", [3, 0])
@pytest.mark.parametrize("tt", [None, {0: TT}])
def test_logits_are_the_float_twins(interaction, dense, tt):
    shape = small_shape(interaction=interaction, dense=dense, rows=(40, 4))
    model = Dlrm(shape, tt, std=0.5, seed=1)
    samples = drawn_samples(shape)
    expected = float_twin.run(shape, model.weights(), samples)
    assert np.std(expected) > 0.01
    assert model.logits(samples) == pytest.approx(expected, abs=1e-5)


def test_saved_weights_are_read_back(tmp_path):
    shape = small_shape(rows=(40, 4))
    model = Dlrm(shape, std=0.5, seed=1)
    samples = drawn_samples(shape)
    model.save(tmp_path / "w.safetensors")
    weights = load_weights(tmp_path / "w.safetensors", shape, 0)
    assert float_twin.run(shape, weights, samples) == pytest.approx(model.logits(samples), abs=1e-5)


def test_tt_tables_are_saved_as_cores(tmp_path):
    shape = small_shape(rows=(40, 4))
    model = Dlrm(shape, {0: TT}, std=0.5, seed=1)
    model.save(tmp_path / "w.safetensors")
    saved = load_file(tmp_path / "w.safetensors")
    assert "emb_l.0.weight" not in saved
    assert "emb_l.1.weight" in saved
    for i, size in enumerate(TT.core_shapes):
        assert saved[f"emb_l.0.tt_cores.{i}"].shape == size
        assert saved[f"emb_l.0.tt_cores.{i}"].dtype == np.float32


@pytest.mark.parametrize("tt", [None, {0: TT}])
def test_training_learns_and_repeats(tt):
    shape = small_shape(rows=(40, 4))
    samples = drawn_samples(shape, 512)
    recipe = Recipe(epochs=12, batch=32, mlp_rate=1e-2, dense_rate=1e-2, tt_rate=1e-2)
    results = []
    for seed in (0, 0, 1):
        model = Dlrm(shape, tt, std=0.3, seed=seed)
        losses = fit(model, samples, recipe, seed)
        assert len(losses) == 12
        assert losses[-1] < 0.7 * losses[0]
        results.append(model.logits(samples))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_decay_shrinks_what_it_is_set_for():
    shape = small_shape(rows=(40, 4))
    samples = drawn_samples(shape)
    still = {"epochs": 1, "mlp_rate": 0.0, "dense_rate": 0.0, "tt_rate": 0.0}
    for rate, decay, changed in (
        ("mlp_rate", "mlp_decay", ("bottom", "top")),
        ("dense_rate", "dense_decay", ("tables.1",)),
        ("tt_rate", "tt_decay", ("tables.0",)),
    ):
        model = Dlrm(shape, {0: TT}, std=0.3, seed=0)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        # Adam's step of 1e-9 is nothing, the decay halves a parameter; 64 samples are 1 step
        recipe = Recipe(**(still | {rate: 1e-9, decay: 5e8}))
        fit(model, samples, recipe, 0)
        for name, parameter in model.named_parameters():
            halved = name.startswith(changed)
            expected = before[name] * (0.5 if halved else 1)
            assert torch.allclose(parameter, expected, atol=1e-6), name


def test_fine_tuning_keeps_all_but_the_tables_replaced():
    shape = small_shape(rows=(40, 4))
    dense = Dlrm(shape, std=0.5, seed=1)
    full = TtShape(rows=40, p=(2, 4, 5), q=(1, 1, 4), ranks=(2, 20))
    cores = decompose(dense.tables[0].weight.detach().numpy(), full)
    tuned = dense.with_tt({0: cores})
    assert isinstance(tuned.tables[0], TTEmbeddingBag)
    samples = drawn_samples(shape)
    assert tuned.logits(samples) == pytest.approx(dense.logits(samples), abs=1e-4)
    before = dense.logits(samples)
    fit(tuned, samples, Recipe(epochs=1), 0)
    assert np.array_equal(dense.logits(samples), before)  # no parameter is shared
    assert not np.allclose(tuned.logits(samples), before)


def test_taken_samples_keep_their_bags():
    shape = small_shape(rows=(40, 4))
    samples = drawn_samples(shape, 20)
    chosen = np.array([7, 0, 19, 1, 7])
    taken = take(samples, chosen)
    assert len(taken) == 5
    for f, bags in enumerate(samples.bags):
        for i, sample in enumerate(chosen):
            expected = bags.slice(sample, sample + 1).ids
            assert np.array_equal(taken.bags[f].slice(i, i + 1).ids, expected)
    assert np.array_equal(taken.labels, samples.labels[chosen])
    assert np.array_equal(taken.dense, samples.dense[chosen])
    empty = take(samples, np.zeros(0, np.int64))
    assert len(empty) == 0
    assert empty.bags[0].ids.size == 0


def test_what_does_not_fit_is_refused():
    shape = small_shape(rows=(40, 4))
    for wrong in (dataclasses.replace(TT, rows=39), dataclasses.replace(TT, q=(1, 2, 4))):
        with pytest.raises(ValueError, match=r"has 40 rows of 4, its TT shape (39 of 4|40 of 8)"):
            Dlrm(shape, {0: wrong}, std=0.1, seed=0)
    model = Dlrm(shape, std=0.1, seed=0)
    samples = drawn_samples(shape)
    with pytest.raises(ValueError, match="training needs labels"):
        fit(model, dataclasses.replace(samples, labels=None), Recipe(epochs=1), 0)
    wide = dataclasses.replace(samples, dense=samples.dense[:, :2])
    for use in (model.logits, lambda s: fit(model, s, Recipe(epochs=1), 0)):
        with pytest.raises(ValueError, match="dense features must have shape"):
            use(wide)
