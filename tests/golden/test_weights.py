import json
import re
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from screc.errors import ConfigError
from screc.weights import SeededTable, load_weights
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_sim.golden import float_twin
from screc_sim.golden.quant import PackedSource
from screc_sim.golden.rowwise import ROWWISE_LIMITS, PackedRows, pack_rows
from tests.golden.support import random_batch, small_shape

SHAPE = small_shape()


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    sizes = {
        "emb_l.0.weight": (7, 4),
        "emb_l.1.weight": (4, 4),
        "bot_l.0.weight": (6, 3),
        "bot_l.0.bias": (6,),
        "bot_l.2.weight": (4, 6),
        "bot_l.2.bias": (4,),
        "top_l.0.weight": (5, 10),
        "top_l.0.bias": (5,),
        "top_l.2.weight": (1, 5),
        "top_l.2.bias": (1,),
    }
    return {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_safetensors_are_read_by_row(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    stored = tensors(dtype)
    save_file(stored, path)
    weights = load_weights(path, SHAPE)
    assert (weights.bottom[1].weight == stored["bot_l.2.weight"]).all()
    assert (weights.top[1].bias == stored["top_l.2.bias"]).all()
    for i, table in enumerate(weights.tables):
        values = stored[f"emb_l.{i}.weight"]
        ids = np.array([3, 0, 3, 1])
        rows = table.fetch(ids)
        assert rows.dtype == np.float32
        assert (rows == values[ids]).all()
        assert (table.rows, table.dim) == values.shape
        assert table.peak() == np.abs(values.astype(np.float32)).max()


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    path = tmp_path / "w.safetensors"
    values = {name: array.astype(">f4").astype("<f4") for name, array in tensors().items()}
    blobs = {name: (array.view("<u4") >> 16).astype("<u2") for name, array in values.items()}
    header, offset = {}, 0
    for name, blob in blobs.items():
        end = offset + blob.nbytes
        header[name] = {"dtype": "BF16", "shape": blob.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = b"".join(blob.tobytes() for blob in blobs.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    rows = load_weights(path, SHAPE).tables[0].fetch(np.arange(7))
    assert (rows.view(np.uint32) & 0xFFFF == 0).all()
    assert rows == pytest.approx(values["emb_l.0.weight"], rel=2**-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("bot_l.2.bias") is None,
            (
                "tensor 'bot_l.2.bias' of shape (4,) is missing; the file has 'bot_l.0.bias', "
                "'bot_l.0.weight', 'bot_l.2.weight' and 6 more"
            ),
        ),
        (
            lambda t: t.update({"top_l.0.weight": np.zeros((10, 5), np.float32)}),
            "tensor 'top_l.0.weight' must have shape (5, 10), not (10, 5)",
        ),
        (
            lambda t: t.update({"emb_l.0.weight": np.zeros((7, 4), np.int8)}),
            "tensor 'emb_l.0.weight' must be one of F32, F16, BF16, not I8",
        ),
        (
            lambda t: t.update({"bot_l.4.bias": np.zeros(3, np.float32)}),
            (
                "the model has no use for tensor 'bot_l.4.bias'; it needs exactly bot_l of 2, "
                "top_l of 2 layers and 2 emb_l"
            ),
        ),
        (
            lambda t: t["top_l.0.weight"].__setitem__((2, 7), np.nan),
            "tensor 'top_l.0.weight' has nan at (2, 7): must be finite",
        ),
        (
            lambda t: t["bot_l.0.bias"].__setitem__(5, -np.inf),
            "tensor 'bot_l.0.bias' has -inf at (5,): must be finite",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    path = tmp_path / "w.safetensors"
    stored = tensors()
    change(stored)
    save_file(stored, path)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        load_weights(path, SHAPE)


def test_table_that_is_not_finite_is_named_by_its_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("screc.weights.COMPONENTS_AT_ONCE", 8)  # two rows a block
    path = tmp_path / "w.safetensors"
    stored = tensors()
    stored["emb_l.0.weight"][5, 2] = np.inf
    stored["emb_l.0.weight"][6, 0] = np.nan
    save_file(stored, path)
    table = load_weights(path, SHAPE).tables[0]
    with pytest.raises(ConfigError, match=re.escape("'emb_l.0.weight' has inf at (5, 2)")):
        table.peak()


ROWWISE = small_shape(interaction="concat", dims=(4, 8), formats=("int8r", "int4r"))


def packed_tensors():
    rng = np.random.default_rng(1)
    stored = tensors()
    del stored["emb_l.1.weight"]
    rows = random_rows(rng, 7, 4, "int8r"), random_rows(rng, 4, 8, "int4r")
    stored["emb_l.0.weight"] = pack_rows(rows[0], "int8r")
    stored["emb_l.1.weight"] = pack_rows(rows[1], "int4r")
    stored["top_l.0.weight"] = np.zeros((5, 20), np.float32)
    return stored, rows


def random_rows(rng, rows, dim, format_):
    codes = rng.integers(0, ROWWISE_LIMITS[format_] + 1, (rows, dim)).astype(np.uint8)
    return PackedRows(
        codes, rng.uniform(0, 1, rows).astype(np.float16), rng.normal(size=rows).astype(np.float16)
    )


def test_packed_rows_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("screc.weights.COMPONENTS_AT_ONCE", 8)  # a row or two at a time
    path = tmp_path / "w.safetensors"
    stored, rows = packed_tensors()
    save_file(stored, path)
    weights = load_weights(path, ROWWISE)
    for table, expected, format_ in zip(weights.tables, rows, ("int8r", "int4r"), strict=True):
        ids = np.array([3, 0, 3, 1])
        assert (table.rows, table.dim) == expected.codes.shape
        assert table.format == format_
        found = table.packed(ids)
        for name in ("codes", "scale", "bias"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)[ids])
        exact = expected.values() * 2.0**-24
        values = table.fetch(ids)
        assert values.dtype == np.float32
        assert np.array_equal(values, exact[ids].astype(np.float32))
        assert table.peak() == np.abs(exact).max()


def test_float_rows_serve_row_wise_tables_too(tmp_path):
    path = tmp_path / "w.safetensors"
    stored, _ = packed_tensors()
    stored["emb_l.0.weight"] = np.ones((7, 4), np.float32)
    save_file(stored, path)
    table, packed = load_weights(path, ROWWISE).tables
    assert table.peak() == 1
    assert not isinstance(table, PackedSource)
    assert isinstance(packed, PackedSource)


@pytest.mark.parametrize(("which", "value"), [("scale", np.inf), ("bias", np.nan)])
def test_packed_rows_that_are_not_finite_are_named_by_their_pass(
    tmp_path, monkeypatch, which, value
):
    monkeypatch.setattr("screc.weights.COMPONENTS_AT_ONCE", 8)
    path = tmp_path / "w.safetensors"
    stored, rows = packed_tensors()
    getattr(rows[0], which)[5] = value
    stored["emb_l.0.weight"] = pack_rows(rows[0], "int8r")
    save_file(stored, path)
    table = load_weights(path, ROWWISE).tables[0]
    message = f"{path}: tensor 'emb_l.0.weight' has the {which} {value} in row 5: must be finite"
    with pytest.raises(ConfigError, match=re.escape(message)):
        table.peak()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            small_shape(interaction="concat", dims=(4, 8), formats=("int8", "int4r")),
            "tensor 'emb_l.0.weight' is U8, packed rows: only a table of format int8r or int4r has",
        ),
        (
            small_shape(interaction="concat", dims=(4, 8), formats=("int4r", "int4r")),
            "tensor 'emb_l.0.weight' must have shape (7, 6), not (7, 8)",
        ),
    ],
)
def test_packed_rows_of_another_table_are_named(tmp_path, shape, message):
    path = tmp_path / "w.safetensors"
    save_file(packed_tensors()[0], path)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        load_weights(path, shape)


def test_files_that_are_no_safetensors_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(ConfigError, match=r"w\.safetensors: model\.weights: no such file"):
        load_weights(path, SHAPE)
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ConfigError, match=r"w\.safetensors: must be a safetensors file"):
        load_weights(path, SHAPE)
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"w\.safetensors: must be a safetensors file"):
        load_weights(path, SHAPE)


def test_seeded_rows_depend_on_seed_table_and_row_alone():
    table = SeededTable(1, 2, 1 << 40, 6)
    ids = np.array([0, 5, (1 << 40) - 1, 5])
    rows = table.fetch(ids)
    assert rows.shape == (4, 6)
    assert (rows[1] == rows[3]).all()
    assert (rows[1] == table.fetch(np.array([5]))[0]).all()
    assert (SeededTable(1, 2, 100, 6).fetch(ids[:2]) == rows[:2]).all()
    for other in (SeededTable(2, 2, 100, 6), SeededTable(1, 3, 100, 6)):
        assert not np.isin(other.fetch(ids[:2]), rows).all()


def test_seeded_rows_are_uniform_and_independent():
    rows = SeededTable(0, 0, 10**9, 16).fetch(np.arange(50_000) * 7)
    assert np.abs(rows).max() <= SeededTable(0, 0, 1, 1).peak() == 1.0
    histogram = np.histogram(rows, 32, (-1, 1))[0] / rows.size * 32
    assert np.abs(histogram - 1).max() < 0.03
    assert np.abs(np.corrcoef(rows.T) - np.eye(16)).max() < 0.03
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.01


def test_seeded_rows_do_not_change_between_versions():
    rows = SeededTable(0, 1, 100, 3).fetch(np.array([0, 99]))
    assert rows.tolist() == [
        [0.7764892578125, -0.413818359375, -0.496551513671875],
        [-0.891937255859375, -0.227081298828125, -0.558502197265625],
    ]


@pytest.mark.parametrize("pooling", [1, 80])
@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize("seed", range(3))
def test_seeded_logits_spread(pooling, interaction, seed):
    shape = ModelShape(
        name="rm",
        dense=20,
        bottom=(64, 32),
        top=(64, 1),
        interaction=interaction,
        tables=tuple(TableShape(name=f"t{i}", rows=100_000, dim=32) for i in range(8)),
        features=tuple(FeatureShape(name=f"f{i}", table=i, pooling=pooling) for i in range(8)),
    )
    rng = np.random.default_rng(0)
    batch = random_batch(shape, rng, 300, shortest=pooling, longest=pooling, dense_std=2.0)
    logits = float_twin.run(shape, load_weights(None, shape, seed), batch)
    assert 0.7 < logits.std() < 3


def test_seeded_weights_repeat():
    one, two, other = (load_weights(None, SHAPE, seed) for seed in (3, 3, 4))
    assert (one.top[0].weight == two.top[0].weight).all()
    assert not (one.top[0].weight == other.top[0].weight).any()


# --- scales that a model came with ---------------------------------------------------------------
def with_scales():
    made = tensors()
    made["bot_l.0.weight"] = (np.rint(made["bot_l.0.weight"] * 50) * 0.02).astype(np.float32)
    count = len(made["bot_l.0.weight"])
    return made | {
        "bot_l.0.weight_scale": np.full(count, 0.02, np.float32),
        "emb_l.0.scale": np.array([0.25], np.float32),
        "scale.dense": np.array([0.5], np.float32),
        "zero.dense": np.array([-127], np.float32),
        "scale.vectors": np.array([0.125], np.float32),
        "scale.bottom0": np.array([0.75], np.float32),
    }


def test_scales_are_read_with_the_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(with_scales(), path)
    weights = load_weights(path, SHAPE)
    given = weights.scales
    assert given.tensors == {"dense": 0.5, "vectors": 0.125, "bottom0": 0.75}
    assert (given.dense_zero, given.tables) == (-127, {0: 0.25})
    assert weights.bottom[0].scale == pytest.approx(0.02)
    assert weights.bottom[1].scale is None
    assert weights.top[0].scale is None


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("scale.dense", np.float32([0, 1]), "'scale.dense' must be F32 of shape (1,), not F32 (2"),
        ("scale.dense", np.float16([1]), "'scale.dense' must be F32 of shape (1,), not F16 (1,)"),
        ("scale.dense", np.float32([-0.5]), "'scale.dense' must be positive, not -0.5"),
        ("emb_l.0.scale", np.float32([0]), "'emb_l.0.scale' must be positive, not 0"),
        ("scale.concat", np.float32([np.nan]), "'scale.concat' has nan at (0,): must be finite"),
        ("scale.top1", np.float32([1]), "the model has no use for tensor 'scale.top1'"),
        ("zero.dense", np.float32([0.5]), "'zero.dense' must be a whole number of at most 127 in"),
        ("zero.dense", np.float32([-128]), "at most 127 in magnitude, not -128"),
        ("bot_l.0.weight_scale", np.float32([-1]), "has -1 at (0,): must not be negative"),
        ("bot_l.0.weight_scale", np.float32([0.013]), "times its scale: must be a whole number"),
        ("bot_l.0.weight_scale", np.float32([1e-5]), "whole number of at most 127 in magnitude"),
    ],
)
def test_scales_that_do_not_fit_are_named(tmp_path, name, values, message):
    made = with_scales()
    if name == "bot_l.0.weight_scale":
        values = np.repeat(values, len(made[name]))
    path = tmp_path / "w.safetensors"
    save_file(made | {name: values}, path)
    with pytest.raises(ConfigError) as caught:
        load_weights(path, SHAPE)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
