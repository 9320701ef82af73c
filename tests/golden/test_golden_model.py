import dataclasses
import re

import numpy as np
import pytest

from screc_sim.golden import model as golden
from screc_sim.golden import ops
from screc_sim.golden.quant import QuantModel
from screc_sim.samples import Bags
from tests.golden.support import SHAPES, random_batch, random_model, slow_sample


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_run_equals_one_product_at_a_time(name, seed):
    rng = np.random.default_rng(seed)
    model = random_model(SHAPES[name], rng)
    batch = random_batch(SHAPES[name], rng, 25)
    result = golden.run(model, batch)
    expected = [slow_sample(model, batch, i) for i in range(len(batch))]
    assert list(zip(result.logit.tolist(), result.code.tolist(), strict=True)) == expected
    assert (result.probability == ops.sigmoid(result.code)).all()
    assert len(set(result.logit.tolist())) > 5  # the model is not stuck at a constant


def test_result_types_and_stages_agree():
    rng = np.random.default_rng(7)
    shape = SHAPES["dot"]
    model, batch = random_model(shape, rng), random_batch(shape, rng, 30)
    result, kept = golden.run(model, batch), golden.stages(model, batch)
    assert (result.logit.dtype, result.code.dtype) == (np.int32, np.int16)
    assert result.probability.dtype == np.uint16
    assert list(kept) == [
        *("dense", "bottom0", "bottom1", "bag0", "bag1", "bag2", "concat", "top0"),
        *("logit", "code", "probability"),
    ]
    for name in ("logit", "code", "probability"):
        assert (kept[name] == getattr(result, name)).all()
    assert kept["concat"].shape == (30, shape.top_inputs)


def test_pieces_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(8)
    model = random_model(SHAPES["concat"], rng)
    batch = random_batch(SHAPES["concat"], rng, 20)
    whole = golden.run(model, batch)
    monkeypatch.setattr(golden, "SAMPLES_AT_ONCE", 7)
    assert (golden.run(model, batch).logit == whole.logit).all()


def test_no_samples_give_empty_results():
    rng = np.random.default_rng(9)
    model = random_model(SHAPES["dot"], rng)
    result = golden.run(model, random_batch(SHAPES["dot"], rng, 0))
    assert result.logit.shape == (0,)
    assert result.probability.dtype == np.uint16


def test_overflow_in_a_layer_is_an_error():
    rng = np.random.default_rng(10)
    model = random_model(SHAPES["dot"], rng)
    top = list(model.top)
    top[0] = dataclasses.replace(top[0], bias=np.full(5, (1 << 26) + 10**6, np.int32))
    model = dataclasses.replace(model, top=tuple(top))
    with pytest.raises(ops.AccumulatorOverflowError, match=r"top0: accumulator .* 27 bits"):
        golden.run(model, random_batch(SHAPES["dot"], rng, 3))


def _bags(ids, offsets):
    return Bags(np.array(ids, np.int64), np.array(offsets, np.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"dense": b.dense[:, :2]}, "shape (3, 3), not (3, 2)"),
        (lambda b: {"dense": b.dense * np.nan}, "dense feature 0 of sample 0 must be finite"),
        (lambda b: {"bags": b.bags[:2]}, "must have 3 features, not 2"),
        (lambda b: {"bags": (b.bags[0].slice(0, 2), *b.bags[1:])}, "'f0' must have 3 bags, not 2"),
        (
            lambda b: {"bags": (_bags([0, 7], [0, 1, 2, 2]), *b.bags[1:])},
            "ids of feature 'f0' must be below 7, not 7",
        ),
        (
            lambda b: {"bags": (_bags([-1], [0, 0, 0, 1]), *b.bags[1:])},
            "ids of feature 'f0' must be below 7, not -1",
        ),
        (
            lambda b: {"bags": (_bags([0] * 65536, [0, 0, 0, 65536]), *b.bags[1:])},
            "bags of feature 'f0' must have 0 to 65535 lookups, not 0 to 65536",
        ),
    ],
)
def test_batch_that_does_not_fit_is_refused(change, message):
    rng = np.random.default_rng(11)
    model = random_model(SHAPES["dot"], rng)
    batch = random_batch(SHAPES["dot"], rng, 3)
    with pytest.raises(ValueError, match=re.escape(message)):
        golden.run(model, dataclasses.replace(batch, **change(batch)))


@pytest.mark.parametrize("name", SHAPES)
def test_save_and_load_keep_every_number(tmp_path, name):
    rng = np.random.default_rng(12)
    shape = SHAPES[name]
    model, batch = random_model(shape, rng), random_batch(shape, rng, 10)
    path = tmp_path / "model.quant"
    model.save(path)
    loaded = QuantModel.load(path, shape, [table.source for table in model.tables])
    assert (golden.run(loaded, batch).logit == golden.run(model, batch).logit).all()
    for before, after in zip(
        (*model.bottom, *model.top), (*loaded.bottom, *loaded.top), strict=True
    ):
        for field in dataclasses.fields(before):
            a, b = getattr(before, field.name), getattr(after, field.name)
            assert np.array_equal(a, b)
            assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
    model.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_load_names_what_is_wrong(tmp_path):
    rng = np.random.default_rng(13)
    model = random_model(SHAPES["dot"], rng)
    sources = [table.source for table in model.tables]
    path = tmp_path / "q.npz"
    model.save(path)
    with pytest.raises(
        ValueError,
        match=re.escape("q.npz: array 'bottom0.weight' must be int8 (4, 3), not int8 (6, 3)"),
    ):
        QuantModel.load(path, SHAPES["one layer"], sources)
    with np.load(path) as archive:
        arrays = dict(archive)
    del arrays["top1.bias"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"q\.npz: array 'top1\.bias' is missing"):
        QuantModel.load(path, SHAPES["dot"], sources)
    np.savez(path, **arrays | {"version": np.int64(1)})
    with pytest.raises(ValueError, match=r"q\.npz: version must be 3, not 1"):
        QuantModel.load(path, SHAPES["dot"], sources)
    arrays["top1.bias"] = model.top[1].bias
    for format_, limit in (("int8", 127), ("int4", 7)):
        shape = dataclasses.replace(SHAPES["dot"], mlp_format=format_)
        narrow = np.clip(arrays["bottom0.weight"], -limit, limit)
        rest = {k: np.clip(v, -7, 7) for k, v in arrays.items() if k.endswith(".weight")}
        np.savez(path, **arrays | rest | {"bottom0.weight": narrow})
        QuantModel.load(path, shape, sources)
        narrow[2, 1] = -limit - 1
        np.savez(path, **arrays | rest | {"bottom0.weight": narrow})
        with pytest.raises(
            ValueError,
            match=re.escape(
                f"q.npz: layer 'bottom0': weight 1 of channel 2 must lie in [-{limit}, {limit}] "
                f"({format_}), not {-limit - 1}"
            ),
        ):
            QuantModel.load(path, shape, sources)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"q\.npz: must be an \.npz file"):
        QuantModel.load(path, SHAPES["dot"], sources)
