import dataclasses
import re

import numpy as np
import pytest

from screc_hw.model import LayerShape
from screc_sim.golden import float_twin, ops
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import CalibrationError, calibrate, quantise_linear
from screc_sim.golden.float_twin import FloatLinear, Weights
from screc_sim.golden.metrics import fidelity
from screc_sim.golden.scales import CLIPS, choose_scale
from tests.golden.support import SHAPES, ArrayTable, random_batch, small_shape


def random_weights(shape, rng):
    def layers(shapes):
        return tuple(
            FloatLinear(
                rng.normal(0, np.sqrt(2 / s.k), (s.n, s.k)).astype(np.float32),
                rng.normal(0, 0.1, s.n).astype(np.float32),
            )
            for s in shapes
        )

    tables = tuple(ArrayTable(rng.uniform(-1, 1, (t.rows, t.dim))) for t in shape.tables)
    return Weights(layers(shape.bottom_layers), layers(shape.top_layers), tables)


def usual_batch(shape, rng, samples):
    return random_batch(shape, rng, samples, shortest=1, longest=2, dense_std=0.7)


def wide(formats=("int8",) * 5, **kwargs):
    return small_shape(
        formats=formats,
        bottom=(32, 16),
        top=(32, 1),
        rows=(200,) * 5,
        dims=(16,) * 5,
        features=((0, "sum"), (1, "mean"), (2, "sum"), (3, "mean"), (4, "sum"), (1, "sum")),
        **kwargs,
    )


WIDE = {
    "dot": wide(),
    "concat": wide(interaction="concat"),
    "dot without dense": wide(dense=0),
    "concat without dense": wide(dense=0, interaction="concat"),
    "row-wise": wide(formats=("int8r",) * 5),
    "row-wise beside plain": wide(formats=("int8", "int8r", "int8r", "int8", "int8r")),
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("clip", CLIPS)
def test_integers_follow_the_float_twin(name, clip):
    rng = np.random.default_rng(3)
    shape = WIDE[name]
    weights = random_weights(shape, rng)
    batch = usual_batch(shape, rng, 1500)
    model = calibrate(shape, weights, batch.slice(0, 500), clip=clip)
    rest = batch.slice(500, 1500)
    logits = float_twin.run(shape, weights, rest)
    assert logits.std() > 0.3
    assert fidelity(model, golden.run(model, rest), logits).relative_error < 0.07
    if shape.interaction == "concat":
        assert model.copy_ms == (1 << 15, 15)
        assert model.vector_scale == model.concat_scale


def test_every_stage_has_its_scale():
    rng = np.random.default_rng(4)
    shape = WIDE["dot"]
    weights, batch = random_weights(shape, rng), usual_batch(shape, rng, 500)
    model = calibrate(shape, weights, batch)
    codes, real = golden.stages(model, batch), float_twin.stages(shape, weights, batch)
    scales = {"dense": model.dense_scale, "bottom1": model.vector_scale}
    scales |= {f"bag{f}": model.vector_scale for f in range(3)} | {"concat": model.concat_scale}
    for name, scale in scales.items():
        error = codes[name] * scale - real[name]
        assert np.sqrt((error**2).mean()) < 0.03 * np.sqrt((real[name] ** 2).mean()), name


def test_bias_correction_makes_means_equal():
    rng = np.random.default_rng(5)
    shape = WIDE["concat"]
    weights, batch = random_weights(shape, rng), random_batch(shape, rng, 800)
    logits = float_twin.run(shape, weights, batch)
    offsets = {}
    for correct in (False, True):
        model = calibrate(shape, weights, batch, correct_bias=correct)
        error = golden.run(model, batch).logit * model.logit_scale - logits
        offsets[correct] = abs(error.mean())
    assert offsets[True] < 1e-3
    assert offsets[True] < offsets[False]


LAYER = LayerShape(name="top0", k=3, n=2, relu=True)


def linear(weight, bias):
    return FloatLinear(np.array(weight, np.float32), np.array(bias, np.float32))


def test_all_zero_channel_has_scale_one():
    layer = quantise_linear(LAYER, linear(np.zeros((2, 3)), [0, 0]), 0.5, 0.25)
    assert layer.scale.tolist() == [0.5, 0.5]  # weight scale 1 times the input's
    assert not layer.weight.any()
    assert not layer.bias.any()


def test_weights_of_four_bits_take_the_scale_of_least_error():
    """Against a fine grid of scales, channel by channel; a channel of zeros keeps scale 1."""
    rng = np.random.default_rng(21)
    weight = rng.normal(size=(12, 60)) * rng.uniform(0.1, 5, (12, 1))
    weight[3] = 0
    weight[4] = np.sign(weight[4])  # exact at the largest scale
    shape = LayerShape(name="x", k=60, n=12, relu=True, format="int4")
    layer = quantise_linear(shape, linear(weight, np.zeros(12)), 0.5, 0.25)
    assert np.abs(layer.weight).max() == 7
    step = layer.scale / 0.5
    assert step[3] == 1
    for channel, (real, codes) in enumerate(zip(weight, layer.weight, strict=True)):
        error = np.square(codes * step[channel] - real).sum()
        tried = []
        for share in np.linspace(0.2, 1.2, 500):
            s = max(share * np.abs(real).max() / 7, 1e-9)
            tried.append(np.square(np.clip(np.rint(real / s), -7, 7) * s - real).sum())
        assert error <= 1.05 * min(tried) + 1e-9
    assert step[4] * 7 == pytest.approx(1, rel=1e-6)
    assert (np.abs(layer.weight[4]) == 7).all()


def test_bias_without_weights_stays_fine():
    layer = quantise_linear(LAYER, linear(np.zeros((2, 3)), [0.3, -7]), 0.5, 0.25)
    assert layer.bias * layer.scale == pytest.approx([0.3, -7], rel=2**-15)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (np.full((2, 9000), 1.0), [0, 0]),
        (np.full((2, 9000), -1.0), [1e4, -1e4]),
        (np.full((2, 1), 1e-6), [1e5, -1e5]),
        (np.eye(2, 40), [3e6, -5e9]),
    ],
)
def test_weight_scale_is_raised_until_the_accumulator_fits(weight, bias):
    shape = LayerShape(name="x", k=weight.shape[1], n=2, relu=True)
    layer = quantise_linear(shape, linear(weight, bias), 0.02, 1e4)
    worst = 127 * np.abs(layer.weight.astype(np.int64)).sum(axis=1) + np.abs(layer.bias)
    assert (worst < 1 << 26).all()
    assert (worst > 1 << 24).all()  # and not much further
    for x in (127, -127):
        codes = (np.sign(layer.weight[:1]) * x).astype(np.int8)
        ops.accumulate(layer, codes, "x")
    assert layer.bias * layer.scale == pytest.approx(bias, rel=0.01, abs=1)


def test_bias_correction_stays_within_the_accumulator():
    shape = LayerShape(name="x", k=1, n=1, relu=True)
    means = np.array([1e12]), np.array([0.0])
    layer = quantise_linear(shape, linear([[1.0]], [0]), 0.02, 1.0, means)
    assert 127 * 127 + int(layer.bias[0]) == (1 << 26) - 1


def test_factor_beyond_its_range_is_an_error_and_below_it_gives_zero():
    with pytest.raises(CalibrationError, match=r"layer top0 channel 0: a requantise factor must"):
        quantise_linear(LAYER, linear(np.ones((2, 3)), [0, 0]), 1e9, 1e-3)
    layer = quantise_linear(LAYER, linear(np.ones((2, 3)), [0, 0]), 1e-9, 1e9)
    edge = np.array([(1 << 26) - 1, 1 - (1 << 26)])
    assert ops.requantise(edge, layer.m, layer.s).tolist() == [0, 0]


def test_int4_tables_use_the_range_and_sum_exactly():
    rng = np.random.default_rng(6)
    shape = SHAPES["dot"]
    model = calibrate(shape, random_weights(shape, rng), random_batch(shape, rng, 100))
    codes = model.tables[1].codes(np.arange(4))
    assert model.tables[1].format == "int4"
    assert np.abs(codes).max() == 7


def test_calibration_refuses_what_it_cannot_do():
    rng = np.random.default_rng(7)
    shape = SHAPES["dot"]
    weights, batch = random_weights(shape, rng), random_batch(shape, rng, 5)
    with pytest.raises(CalibrationError, match="at least one sample"):
        calibrate(shape, weights, batch.slice(0, 0))
    with pytest.raises(ValueError, match="clip must be one of mse, max, percentile, not 'none'"):
        calibrate(shape, weights, batch, clip="none")
    tables = (shape.tables[0], dataclasses.replace(shape.tables[1], format="int2"))
    message = "table 't1': format must be one of int8, int4, int8r, int4r, not 'int2'"
    with pytest.raises(CalibrationError, match=re.escape(message)):
        calibrate(dataclasses.replace(shape, tables=tables), weights, batch)


def test_zero_everything_calibrates():
    shape = SHAPES["concat"]
    rng = np.random.default_rng(8)
    batch = random_batch(shape, rng, 4)
    weights = random_weights(shape, rng)
    weights = Weights(
        tuple(FloatLinear(w.weight * 0, w.bias * 0) for w in weights.bottom),
        tuple(FloatLinear(w.weight * 0, w.bias * 0) for w in weights.top),
        tuple(ArrayTable(t.values * 0) for t in weights.tables),
    )
    model = calibrate(shape, weights, batch)
    assert golden.run(model, batch).probability.tolist() == [32768] * 4


def test_mse_clips_outliers_and_max_does_not():
    values = np.random.default_rng(0).normal(size=(10000, 4))
    values[0, 0] = 40.0
    assert choose_scale([values], 7, "max") == pytest.approx(40 / 7)
    clipped = choose_scale([values], 7, "mse") * 7
    assert 2.0 < clipped < 3.5  # least squares of a normal distribution at 15 levels: 2.7 sigma
    assert choose_scale([values], 127, "percentile") * 127 < 5


def test_importance_decides_whose_error_counts():
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(size=5000), 10 * rng.normal(size=5000)], axis=1)
    fine = choose_scale([values], 7, "mse", [np.array([1.0, 0.0])])
    coarse = choose_scale([values], 7, "mse", [np.array([0.0, 1.0])])
    assert fine * 3 < coarse
