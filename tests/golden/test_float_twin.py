import numpy as np
import pytest

from screc_sim.golden import float_twin
from tests.golden.support import SHAPES, random_batch
from tests.golden.test_calibrate import random_weights


@pytest.mark.parametrize("name", SHAPES)
def test_stages_equal_one_sample_at_a_time(name):
    rng = np.random.default_rng(2)
    shape = SHAPES[name]
    weights, batch = random_weights(shape, rng), random_batch(shape, rng, 12)
    stages = float_twin.stages(shape, weights, batch)
    for n in range(len(batch)):
        x = batch.dense[n].astype(np.float64)
        for layer in weights.bottom:
            x = np.maximum(layer.weight.astype(np.float64) @ x + layer.bias, 0)
        vectors = [x] if shape.dense else []
        for f, feature in enumerate(shape.features):
            bags = batch.bags[f]
            ids = bags.ids[bags.offsets[n] : bags.offsets[n + 1]]
            bag = np.zeros(shape.feature_dim(f))
            for i in ids:
                bag += weights.tables[feature.table].values[i]
            if feature.mode == "mean" and len(ids):
                bag /= len(ids)
            assert stages[f"bag{f}"][n] == pytest.approx(bag)
            vectors.append(bag)
        if shape.interaction == "dot":
            pairs = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)]
            x = np.array([*(x if shape.dense else []), *pairs])
        else:
            x = np.concatenate(vectors)
        assert stages["concat"][n] == pytest.approx(x)
        for layer in weights.top[:-1]:
            x = np.maximum(layer.weight.astype(np.float64) @ x + layer.bias, 0)
        logit = (weights.top[-1].weight.astype(np.float64) @ x + weights.top[-1].bias)[0]
        assert stages["logit"][n] == pytest.approx(logit)
        assert stages["probability"][n] == pytest.approx(1 / (1 + np.exp(-logit)))


def test_run_gives_the_logits_piece_by_piece(monkeypatch):
    rng = np.random.default_rng(3)
    shape = SHAPES["dot"]
    weights, batch = random_weights(shape, rng), random_batch(shape, rng, 20)
    monkeypatch.setattr(float_twin, "SAMPLES_AT_ONCE", 6)
    logits = float_twin.run(shape, weights, batch)
    assert logits == pytest.approx(float_twin.stages(shape, weights, batch)["logit"], rel=1e-12)
    assert float_twin.run(shape, weights, batch.slice(0, 0)).shape == (0,)
