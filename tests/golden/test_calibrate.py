import dataclasses
import re

import numpy as np
import pytest

from screc_hw.model import LayerShape
from screc_sim.golden import float_twin, ops
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import (
    SAMPLES_TRIED,
    CalibrationError,
    calibrate,
    calibrate_reported,
    quantise_linear,
)
from screc_sim.golden.float_twin import FloatLinear, GivenScales, Weights
from screc_sim.golden.metrics import fidelity
from screc_sim.golden.scales import CANDIDATES, CLIPS, choose_scale
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
    with pytest.raises(
        ValueError, match="clip must be one of auto, minmax, percentile, mse, not 'none'"
    ):
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
    assert choose_scale([values], 7, "minmax") == pytest.approx(40 / 7)
    clipped = choose_scale([values], 7, "mse") * 7
    assert 2.0 < clipped < 3.5  # least squares of a normal distribution at 15 levels: 2.7 sigma
    assert choose_scale([values], 127, "percentile") * 127 < 5


def test_importance_decides_whose_error_counts():
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(size=5000), 10 * rng.normal(size=5000)], axis=1)
    fine = choose_scale([values], 7, "mse", [np.array([1.0, 0.0])])
    coarse = choose_scale([values], 7, "mse", [np.array([0.0, 1.0])])
    assert fine * 3 < coarse


# --- every rule against a slow form --------------------------------------------------------------
def slow_error(values, scale, limit=127):
    """Sum of squared errors of codes at ``scale``, one value at a time."""
    total = 0.0
    for value in values.ravel().tolist():
        code = max(-limit, min(limit, int(np.floor(value / scale + 0.5))))
        total += (code * scale - value) ** 2
    return total


@pytest.mark.parametrize("limit", [7, 127])
@pytest.mark.parametrize("tail", [1.5, 3.0, 30.0])
def test_the_least_squared_error_is_that_of_a_plain_search(limit, tail):
    rng = np.random.default_rng(int(tail * 10))
    values = (rng.standard_t(tail, (500, 2)) * 3).astype(np.float32)
    peak = float(np.abs(values).max())
    best = min(
        slow_error(values, peak * share / limit, limit) for share in np.linspace(0.03, 1, 400)
    )
    chosen = choose_scale([values], limit, "mse")
    # the search is fitted to these very values, the rule to their histogram
    assert slow_error(values, chosen, limit) <= 1.06 * best
    # and the others are what their names say
    assert choose_scale([values], limit, "minmax") == pytest.approx(peak / limit)
    ordered = np.sort(np.abs(values).ravel())
    for rule, share in (("percentile", 0.9999), ("percentile 99.9", 0.999)):
        at = share * (len(ordered) - 1)
        low = int(at)
        expected = ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])
        assert choose_scale([values], limit, rule) == pytest.approx(expected / limit, rel=1e-5)


def slow_logits(shape, weights, batch, name, scale):
    """Float logits of samples when only tensor ``name`` is rounded to codes, one at a time."""

    def rounded(values, tensor):
        if tensor != name:
            return values
        return [max(-127, min(127, np.floor(v / scale + 0.5))) * scale for v in values]

    def layers(x, linears, shapes):
        for linear_, shape_ in zip(linears, shapes, strict=True):
            x = [sum(w * v for w, v in zip(row, x, strict=True)) for row in linear_.weight.tolist()]
            x = [v + b for v, b in zip(x, linear_.bias.tolist(), strict=True)]
            if shape_.relu:
                x = rounded([max(v, 0.0) for v in x], shape_.name)
        return x

    logits = []
    for n in range(len(batch)):
        vectors = []
        if shape.dense:
            x = rounded(batch.dense[n].tolist(), "dense")
            vectors.append(layers(x, weights.bottom, shape.bottom_layers))
        for feature, bags in zip(shape.features, batch.bags, strict=True):
            ids = bags.ids[bags.offsets[n] : bags.offsets[n + 1]]
            rows = weights.tables[feature.table].fetch(ids).astype(float)
            total = rows.sum(axis=0)
            vectors.append((total / len(ids) if feature.mode == "mean" else total).tolist())
        vectors = [rounded(vector, "vectors") for vector in vectors]
        concat = vectors[0] if shape.dense else []
        if shape.interaction == "dot":
            pairs = [
                sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
                for i in range(len(vectors))
                for j in range(i)
            ]
            concat = [*concat, *pairs]
        else:
            concat = [value for vector in vectors for value in vector]
        logits.append(layers(rounded(concat, "concat"), weights.top, shape.top_layers)[0])
    return np.array(logits)


@pytest.mark.parametrize("name", ["dot", "concat", "dot without dense"])
def test_auto_takes_the_rule_that_moves_the_logits_least(name):
    rng = np.random.default_rng(12)
    shape = WIDE[name]
    weights, batch = random_weights(shape, rng), usual_batch(shape, rng, 60)
    if shape.dense:
        batch.dense[3, 0] = 25.0  # an outlier, so that rules differ
    found = calibrate_reported(shape, weights, batch)
    compared = {c.tensor: c for c in found.choices if c.logit_errors}
    hidden = ["top0", "concat"] + ["vectors"] * (shape.interaction == "dot")
    assert set(compared) == {*hidden, *(["dense", "bottom0"] if shape.dense else [])}
    exact = slow_logits(shape, weights, batch, None, 1.0)
    real = float_twin.stages(shape, weights, batch, np.float32)
    for tensor, choice in compared.items():
        assert tuple(choice.logit_errors) == CANDIDATES
        values = float_twin.vectors_of(shape, real) if tensor == "vectors" else [real[tensor]]
        readers = {"dense": weights.bottom[:1], "concat": weights.top[:1]}
        readers |= {"bottom0": weights.bottom[1:], "top0": weights.top[1:], "vectors": ()}
        importance = [np.square(r.weight.astype(float)).sum(axis=0) for r in readers[tensor]]
        errors = {}
        for rule in CANDIDATES:
            scale = choose_scale(values, 127, rule, importance or None)
            moved = slow_logits(shape, weights, batch, tensor, scale) - exact
            errors[rule] = np.sqrt(np.mean(moved**2)) / exact.std()
            assert choice.logit_errors[rule] == pytest.approx(errors[rule], rel=0.02, abs=1e-5)
        assert choice.logit_errors[choice.rule] == min(choice.logit_errors.values())
        assert choice.range == pytest.approx(
            127 * choose_scale(values, 127, choice.rule, importance or None)
        )
        whole = np.concatenate([v.ravel() for v in values])
        error = np.sqrt(slow_error(whole, choice.range / 127) / np.square(whole).sum())
        assert choice.error == pytest.approx(error, rel=0.01)
        assert choice.peak == pytest.approx(float(np.abs(whole).max()))


@pytest.mark.parametrize("clip", CLIPS)
def test_every_scale_is_reported_with_its_rule(clip):
    rng = np.random.default_rng(13)
    shape = WIDE["row-wise beside plain"]
    weights, batch = random_weights(shape, rng), usual_batch(shape, rng, 200)
    found = calibrate_reported(shape, weights, batch, clip=clip)
    by_name = {choice.tensor: choice for choice in found.choices}
    assert list(by_name) == ["t0", "t3", "dense", "concat", "vectors", "bottom0", "top0"]
    assert by_name["t0"].range == 127 * found.model.tables[0].scale
    assert by_name["dense"].range == 127 * found.model.dense_scale
    assert by_name["vectors"].range == 127 * found.model.vector_scale
    assert by_name["concat"].range == 127 * found.model.concat_scale
    rules = {choice.rule for choice in found.choices}
    assert rules <= set(CANDIDATES) if clip == "auto" else rules == {clip}
    assert all(bool(c.logit_errors) == (clip == "auto") for c in found.choices[2:])


def test_auto_compares_on_the_first_samples_alone():
    rng = np.random.default_rng(14)
    shape = WIDE["concat"]
    weights, batch = random_weights(shape, rng), usual_batch(shape, rng, SAMPLES_TRIED + 50)
    found = calibrate_reported(shape, weights, batch)
    batch.dense[SAMPLES_TRIED:] *= 1.5  # scales follow, errors of a given scale do not
    other = calibrate_reported(shape, weights, batch)
    first, second = (
        next(c for c in f.choices if c.tensor == "dense").logit_errors for f in (found, other)
    )
    assert second["minmax"] > first["minmax"]


# --- scales that a model came with ---------------------------------------------------------------
def given_model(shape, rng):
    """Weights that are codes times a scale, and scales of every tensor."""

    def layers(shapes):
        done = []
        for s in shapes:
            step = rng.uniform(0.5, 1.5, s.n) * np.sqrt(2 / s.k) / 127
            codes = rng.integers(-100, 101, (s.n, s.k))  # the largest is not 127
            done.append(
                FloatLinear(
                    (codes * step[:, None]).astype(np.float32),
                    rng.normal(0, 0.1, s.n).astype(np.float32),
                    step.astype(np.float32).astype(float),
                )
            )
        return tuple(done)

    bottom, top = layers(shape.bottom_layers), layers(shape.top_layers)
    tables = tuple(ArrayTable(rng.uniform(-1, 1, (t.rows, t.dim))) for t in shape.tables)
    names = ["concat", "vectors", "top0", *(["dense", "bottom0"] if shape.dense else [])]
    scales = {name: float(rng.uniform(0.01, 0.1)) for name in names}
    return Weights(bottom, top, tables, GivenScales(scales, tables={1: 0.0123}))


@pytest.mark.parametrize("zero", [0, -127, 40])
def test_given_scales_codes_and_zero_are_kept(zero):
    rng = np.random.default_rng(15)
    shape = WIDE["dot"]
    weights = given_model(shape, rng)
    scales = dataclasses.replace(weights.scales, dense_zero=zero)
    weights = dataclasses.replace(weights, scales=scales)
    batch = usual_batch(shape, rng, 300)
    found = calibrate_reported(shape, weights, batch)
    model = found.model
    assert model.dense_scale == scales.tensors["dense"]
    assert model.vector_scale == scales.tensors["vectors"]
    assert model.concat_scale == scales.tensors["concat"]
    assert model.tables[1].scale == 0.0123
    rules = {c.tensor: c.rule for c in found.choices}
    assert {t for t, rule in rules.items() if rule == "given"} == {*scales.tensors, "t1"}
    source = scales.tensors["dense"]
    for layer, given, after in zip(model.bottom, weights.bottom, ("bottom0", None), strict=True):
        codes = np.rint(given.weight / given.scale[:, None])
        assert np.array_equal(layer.weight, codes)
        assert layer.scale == pytest.approx(given.scale * source)
        off = -zero * codes.sum(axis=1) if given is weights.bottom[0] else 0
        assert np.abs(layer.bias - (given.bias / layer.scale + off)).max() <= 0.51
        source = scales.tensors.get(after)
    # a dense value of 0 has the code `zero`, and the layer does not see it
    codes = model.quantise_dense(np.zeros((1, shape.dense), np.float32))
    assert (codes == zero).all()
    accumulator = ops.accumulate(model.bottom[0], codes, "bottom0")[0] * model.bottom[0].scale
    assert accumulator == pytest.approx(weights.bottom[0].bias, abs=model.bottom[0].scale.max())


def test_channels_without_a_given_scale_get_their_own():
    layer = FloatLinear(
        np.array([[0.5, -0.25, 0.1], [1.0, 2.0, 3.0]], np.float32),
        np.zeros(2, np.float32),
        np.array([0.25, 0.0]),
    )
    done = quantise_linear(LAYER, layer, 0.5, 0.25)
    assert done.weight.tolist() == [[2, -1, 0], [42, 85, 127]]
    assert done.scale == pytest.approx([0.125, 0.5 * 3 / 127])


def test_a_model_with_a_dense_zero_is_saved_whole(tmp_path):
    rng = np.random.default_rng(16)
    shape = WIDE["concat"]
    weights = given_model(shape, rng)
    scales = dataclasses.replace(weights.scales, dense_zero=-127)
    weights = dataclasses.replace(weights, scales=scales)
    batch = usual_batch(shape, rng, 100)
    model = calibrate(shape, weights, batch)
    model.save(tmp_path / "q.npz")
    again = type(model).load(tmp_path / "q.npz", shape, weights.tables)
    assert again.dense_zero == -127
    assert np.array_equal(golden.run(again, batch).logit, golden.run(model, batch).logit)
