"""The comparison of dense, TT and device models, on samples small enough to check by hand."""

import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from screc_sim.golden.metrics import auc
from screc_sim.samples import Bags, SampleBatch
from tests.conftest import NO_TORCH
from tests.golden.support import small_shape

torch = pytest.importorskip("torch", reason=NO_TORCH)

from screc.train import compare as compare_module  # noqa: E402
from screc.train.compare import (  # noqa: E402
    MODELS,
    Experiment,
    by_frequency,
    compare,
    device_logits,
    read_rows,
)
from screc.train.dlrm import Dlrm, Recipe, fit  # noqa: E402
from tests.unit.test_train_dlrm import TT, drawn_samples  # noqa: E402

pytestmark = pytest.mark.train

SHAPE = small_shape(rows=(40, 4), formats=("int8", "int8"))
RECIPE = Recipe(epochs=10, batch=32, mlp_rate=1e-2, dense_rate=1e-2, tt_rate=1e-2, std=0.3)


def experiment(**changes):
    return Experiment(
        **{
            "name": "small",
            "shape": SHAPE,
            "tt": {0: TT},
            "dense": RECIPE,
            "in_tt": RECIPE,
            **changes,
        }
    )


def test_ids_are_numbered_by_frequency():
    samples = drawn_samples(SHAPE, 200)
    counted = samples.slice(0, 50)
    renumbered = by_frequency(SHAPE, samples, counted)
    # features 0 and 2 read table 0: their lookups count together
    reads = Counter(counted.bags[0].ids.tolist() + counted.bags[2].ids.tolist())
    order = sorted(range(40), key=lambda i: (-reads[i], i))
    for f in (0, 2):
        expected = [order.index(i) for i in samples.bags[f].ids]
        assert renumbered.bags[f].ids.tolist() == expected
        assert np.array_equal(renumbered.bags[f].offsets, samples.bags[f].offsets)
    assert np.array_equal(renumbered.labels, samples.labels)


def test_rows_never_read_are_left_out():
    ids = (np.array([30, 7, 30]), np.array([2, 2]), np.array([39]))
    offsets = ([0, 1, 3], [0, 1, 2], [0, 0, 1])
    bags = tuple(Bags(i, np.array(o)) for i, o in zip(ids, offsets, strict=True))
    samples = SampleBatch(np.zeros((2, 3), np.float32), bags)
    shape, smaller = read_rows(SHAPE, samples)
    assert [table.rows for table in shape.tables] == [3, 1]
    assert [bags.ids.tolist() for bags in smaller.bags] == [[1, 0, 1], [0, 0], [2]]


@pytest.mark.parametrize("from_dense", [False, True])
def test_comparison_scores_what_it_trained(from_dense):
    samples = drawn_samples(SHAPE, 600)
    train, held_out = samples.slice(0, 400), samples.slice(400, 600)
    found = compare(experiment(from_dense=from_dense), train, held_out, (3, 4), 200)
    assert found.scores.shape == (2, len(MODELS), 200)
    assert found.resampled.shape == (200, 2, len(MODELS))
    for of_seed, aucs in zip(found.scores, found.aucs, strict=True):
        assert aucs == pytest.approx([auc(held_out.labels, s) for s in of_seed])
        assert aucs.min() > 0.8
    if not from_dense:
        model = Dlrm(SHAPE, {0: TT}, std=0.3, seed=4)
        fit(model, train, RECIPE, 4)
        assert found.scores[1, 1] == pytest.approx(model.logits(held_out))
        assert np.array_equal(found.scores[1, 2], device_logits(model, train, held_out))

    whole, second = found.difference(2, 1), found.difference(2, 1, seed=1)
    drawn = found.resampled[:, :, 2] - found.resampled[:, :, 1]
    assert second.value == pytest.approx(found.aucs[1, 2] - found.aucs[1, 1])
    assert (second.low, second.high) == pytest.approx(np.percentile(drawn[:, 1], [2.5, 97.5]))
    assert whole.value == pytest.approx((found.aucs[:, 2] - found.aucs[:, 1]).mean())
    assert (whole.low, whole.high) == pytest.approx(np.percentile(drawn.mean(axis=1), [2.5, 97.5]))
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(found.table())
    lines = [line for line in console.export_text().splitlines() if "│" in line]
    assert [line.split()[1] for line in lines] == ["3", "4", "mean"]
    assert str(whole) in lines[-1]


def test_the_device_follows_the_tt_model_and_reads_its_cores(monkeypatch):
    samples = drawn_samples(SHAPE, 400)
    model = Dlrm(SHAPE, {0: TT}, std=0.5, seed=0)
    fit(model, samples, RECIPE, 0)
    logits, device = model.logits(samples), device_logits(model, samples, samples)
    assert np.corrcoef(logits, device)[0, 1] > 0.999
    coarse = device_logits(model, samples, samples, fraction=0)
    assert not np.array_equal(device, coarse)

    quantise_tt = compare_module.quantise_tt

    def without_a_core(*arguments):
        quant = quantise_tt(*arguments)
        return dataclasses.replace(quant, cores=(*quant.cores[:2], np.zeros_like(quant.cores[2])))

    monkeypatch.setattr(compare_module, "quantise_tt", without_a_core)
    broken = device_logits(model, samples, samples)
    assert np.corrcoef(logits, broken)[0, 1] < 0.95


def test_held_out_samples_need_labels():
    samples = drawn_samples(SHAPE)
    with pytest.raises(ValueError, match="a comparison needs labels"):
        compare(experiment(), samples, dataclasses.replace(samples, labels=None), (0,))
