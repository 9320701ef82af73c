"""`screc import`: checkpoints of others become models that compile, or a message says why not."""

import json
import pickle
import re
import sys
import tomllib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from screc import cli
from screc.compile.layout import Layout
from screc.importers import packed
from screc.importers.step import CHUNK_BYTES
from screc.models import read_model, to_shape
from screc.remap import TableRemap
from screc.weights import load_weights
from tests.conftest import NO_TORCH
from tests.e2e.test_cli import invoke

RNG = np.random.default_rng(11)


def floats(*shape):
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def mlp(prefix, *widths):
    tensors = {}
    for i in range(len(widths) - 1):
        tensors[f"{prefix}.{2 * i}.weight"] = floats(widths[i + 1], widths[i])
        tensors[f"{prefix}.{2 * i}.bias"] = floats(widths[i + 1])
    return tensors


def rows_of(format_, rows, dim):
    """Packed rows as PyTorch or FBGEMM makes them."""
    if format_ == "float":
        return floats(rows, dim)
    size = dim // 2 if format_ == "int4r" else dim
    codes = RNG.integers(0, 256, (rows, size)).astype(np.uint8)
    tail = np.stack([RNG.uniform(0, 0.01, rows), RNG.normal(0, 0.3, rows)], axis=1)
    tail = tail.astype(np.float32 if format_ == "byte" else np.float16)
    return np.concatenate([codes, tail.view(np.uint8)], axis=1)


def dlrm(formats, dim=16, *, dense=5, interaction="dot", rows=40):
    """State dict of a DLRM of one table per format."""
    vectors = len(formats) + (dense > 0)
    inputs = (dim if dense else 0) + vectors * (vectors - 1) // 2
    if interaction == "concat":
        inputs = vectors * dim
    tables = {f"emb_l.{i}.weight": rows_of(f, rows + i, dim) for i, f in enumerate(formats)}
    bottom = mlp("bot_l", dense, 12, dim) if dense else {}
    return tables | bottom | mlp("top_l", inputs, 8, 1)


def run_import(capsys, tmp_path, tensors, *arguments):
    """Import ``tensors``; return (exit code, report or None, stderr)."""
    path = tmp_path / "trained.safetensors"
    save_file(tensors, path)
    code, out, err = invoke(capsys, "import", path, "-o", tmp_path / "in", "--json", *arguments)
    assert "Traceback" not in err
    return code, json.loads(out) if out else None, err


@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize("dense", [5, 0])
@pytest.mark.parametrize(
    "formats", [("float", "float"), ("float", "int4r", "int8r"), ("byte", "float")]
)
def test_sizes_are_found_and_rows_are_kept(tmp_path, capsys, formats, dense, interaction):
    tensors = dlrm(formats, dense=dense, interaction=interaction)
    code, report, _ = run_import(capsys, tmp_path, tensors)
    assert code == 0
    model = read_model(tmp_path / "in" / "model.toml")
    assert (model.name, model.dense, model.interaction) == ("trained", dense, interaction)
    assert (model.bottom, model.top) == ((12, 16) if dense else (), (8, 1))
    shape = to_shape(model)
    assert [(t.rows, t.dim) for t in shape.tables] == [(40 + i, 16) for i in range(len(formats))]
    weights = load_weights(tmp_path / "in" / "weights.safetensors", shape)
    for i, (format_, table) in enumerate(zip(formats, weights.tables, strict=True)):
        stored = tensors[f"emb_l.{i}.weight"]
        entry = report["tables"][i]
        assert entry["stored"] == {"float": "F32"}.get(format_, format_)
        kept = {"float": "int8", "byte": "int8r"}.get(format_, format_)
        assert entry["format"] == shape.tables[i].format == kept
        assert (entry["error_bound"] > 0) == (format_ == "byte")
        ids = np.arange(table.rows)
        if format_ == "float":
            assert np.array_equal(table.fetch(ids), stored)
            continue
        rows = table.packed(ids)
        if format_ == "byte":
            assert np.array_equal(rows.codes, stored[:, :16])
            tail = stored[:, 16:].copy().view("<f4")
            assert np.array_equal(rows.scale, tail[:, 0].astype(np.float16))
            assert np.array_equal(rows.bias, tail[:, 1].astype(np.float16))
            off = np.abs(np.stack([rows.scale, rows.bias], 1).astype(float) - tail)
            assert entry["error_bound"] == pytest.approx((255 * off[:, 0] + off[:, 1]).max())
        else:
            assert np.array_equal(packed.pack_rows(rows, format_), stored)
    for name, tensor in load_file(tmp_path / "in" / "weights.safetensors").items():
        if not name.startswith("emb_l"):
            assert np.array_equal(tensor, tensors[name])
    assert json.loads((tmp_path / "in" / "import.json").read_text()) == report
    assert tomllib.loads((tmp_path / "in" / "model.toml").read_text())["name"] == "trained"


def test_an_imported_model_compiles_to_the_rows_of_the_checkpoint(tmp_path, capsys):
    tensors = dlrm(("int4r", "int8r", "float"))
    assert run_import(capsys, tmp_path, tensors)[0] == 0
    (tmp_path / "config.toml").write_text(
        '[model]\nfile = "in/model.toml"\nweights = "in/weights.safetensors"\n'
        "[log]\nsamples = 400\n"
        "[plan.cores]\nrows = 8\ncolumns = 8\nmemory = 1\ncompute = 1\n"
        + "".join(f'[[plan.table]]\nname = "emb_{i}"\npin = "dram"\n' for i in range(3))
    )
    out = tmp_path / "out"
    code, _, err = invoke(capsys, "compile", tmp_path / "config.toml", "-o", out, "-q")
    assert (code, err) == (0, "")
    memory = (out / "images" / "mem0.bin").read_bytes()
    layout = Layout.load(out / "images" / "layout.json")
    for i in range(2):
        place = layout.tables[i]
        ids = TableRemap.load(out / "images" / "remap" / f"{i}.bin").ids(np.arange(place.rows))
        for rank, stored in enumerate(tensors[f"emb_l.{i}.weight"][ids]):
            at = place.offsets[0] + rank * place.stride
            assert memory[at : at + place.row_bytes] == stored.tobytes()


def test_large_tables_are_imported_in_parts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("screc.importers.step.CHUNK_BYTES", 100)
    monkeypatch.setattr(packed, "CHUNK_BYTES", 100)
    tensors = dlrm(("float", "int8r", "byte"))
    assert run_import(capsys, tmp_path, tensors)[0] == 0
    parts = (tmp_path / "in" / "weights.safetensors").read_bytes()
    monkeypatch.setattr("screc.importers.step.CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(packed, "CHUNK_BYTES", 1 << 20)
    assert run_import(capsys, tmp_path, tensors)[0] == 0
    assert (tmp_path / "in" / "weights.safetensors").read_bytes() == parts


def test_people_are_told_what_to_do_next(tmp_path, capsys):
    path = tmp_path / "trained.safetensors"
    save_file(dlrm(("byte", "float")), path)
    code, out, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
    assert (code, out) == (0, "")
    assert re.search(r"emb_0: 40 rows of 16, byte, rounded by at most \d", err)
    assert "emb_1: 41 rows of 16, F32\n" in err
    assert f'weights = "{tmp_path / "in" / "weights.safetensors"}"' in err


def test_the_command_offers_every_packed_format():
    assert cli.PACKED == packed.FORMATS


# --- what the shapes leave open ------------------------------------------------------------------
def ambiguous_rows():
    # without a bottom MLP, dot gives as many pairs whatever the dimension
    tensors = dlrm(("int4r",) * 3, dense=0)
    return tensors | {f"emb_l.{i}.weight": np.zeros((9, 12), np.uint8) for i in range(3)}


@pytest.mark.parametrize(
    ("hint", "value", "format_", "dim"),
    [
        ("--dim", "16", "int4r", 16),
        ("--format", "int8r", "int8r", 8),
        ("--format", "byte", "int8r", 4),
    ],
)
def test_a_hint_decides_what_the_shapes_leave_open(tmp_path, capsys, hint, value, format_, dim):
    code, _, err = run_import(capsys, tmp_path, ambiguous_rows())
    assert code == 1
    assert (
        "may be dot with int4r rows of 16 or dot with int8r rows of 8 or dot with byte rows of 4: "
        "say which with --dim, --format or --interaction"
    ) in err
    assert not (tmp_path / "in").exists()
    code, report, _ = run_import(capsys, tmp_path, ambiguous_rows(), hint, value)
    assert code == 0
    assert {(t["format"], t["dim"]) for t in report["tables"]} == {(format_, dim)}


def test_an_interaction_is_asked_for_where_both_fit(tmp_path, capsys):
    tensors = dlrm(("float",) * 7, dim=4)  # 4 + 8 · 7 / 2 = 8 · 4
    code, _, err = run_import(capsys, tmp_path, tensors)
    assert code == 1
    assert "a top MLP of 32 inputs may be dot or concat: say which" in err
    for interaction in ("dot", "concat"):
        code, report, _ = run_import(capsys, tmp_path, tensors, "--interaction", interaction)
        assert (code, report["interaction"]) == (0, interaction)


# --- what cannot be imported ---------------------------------------------------------------------
def with_tail(name, row, which, value, type_):
    def apply(tensors):
        stored = tensors[name].copy()
        size = 2 * np.dtype(type_).itemsize
        tail = stored[:, -size:].copy().view(type_)
        tail[row, which] = value
        stored[:, -size:] = tail.view(np.uint8)
        tensors[name] = stored

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.update({"v_W_l.0": floats(3)}),
            "tensor 'v_W_l.0' is none of facebookresearch/dlrm's emb_l.i.weight, bot_l.i and",
        ),
        (lambda t: t.pop("bot_l.2.bias"), "tensor 'bot_l.2.bias' is missing"),
        (
            lambda t: t.update({"bot_l.3.weight": floats(2, 2)}),
            "layers of bot_l must have the numbers 0, 2, 4, ..., not [0, 2, 3]",
        ),
        (
            lambda t: t.update({"bot_l.2.weight": floats(16, 11)}),
            "layer bot_l.2 must have a weight (n, 12) and a bias (n,), not (16, 11) and (16,)",
        ),
        (
            lambda t: t.update({"bot_l.0.bias": np.zeros(12, np.uint8)}),
            "tensor 'bot_l.0.bias' must be of floats with 1 axes, not U8 (12,)",
        ),
        (
            lambda t: t.update({"top_l.2.weight": floats(2, 8), "top_l.2.bias": floats(2)}),
            "the top MLP (top_l) must end in 1, the logit; it ends in 2",
        ),
        (
            lambda t: t.update({"emb_l.5.weight": floats(9, 16)}),
            "tables (emb_l.i.weight) must have the numbers 0, 1, 2, ..., not [0, 1, 2, 3, 5]",
        ),
        (
            lambda t: t.update({"emb_l.0.weight": np.zeros((9, 16), np.int32)}),
            "tensor 'emb_l.0.weight' must be one of F32, F16, BF16 or packed rows (U8), not I32",
        ),
        (
            lambda t: t.update({"emb_l.0.weight": floats(16)}),
            "tensor 'emb_l.0.weight' must have shape (rows, columns), not (16,)",
        ),
        (
            lambda t: t.update({"emb_l.1.weight": np.zeros((9, 11), np.uint8)}),
            "tensor 'emb_l.1.weight': rows of 11 bytes are no packed rows; possible: none",
        ),
        (
            lambda t: t.update({"emb_l.0.weight": floats(40, 24)}),
            (
                "no dot or concat interaction of 4 tables and a bottom MLP of 16 gives the top MLP "
                "its 26 inputs (rows of 12 bytes are int4r of 16 or int8r of 8 or byte of 4; "
            ),
        ),
        (
            lambda t: t["emb_l.0.weight"].__setitem__((7, 3), np.nan),
            "tensor 'emb_l.0.weight' has nan at (7, 3): must be finite",
        ),
        (
            lambda t: t["top_l.2.bias"].__setitem__(0, np.inf),
            "tensor 'top_l.2.bias' has inf at (0,): must be finite",
        ),
        (
            with_tail("emb_l.1.weight", 3, 0, np.inf, "<f2"),
            "tensor 'emb_l.1.weight' has the scale inf in row 3: must be finite as fp16",
        ),
        (
            with_tail("emb_l.2.weight", 4, 1, np.nan, "<f2"),
            "tensor 'emb_l.2.weight' has the bias nan in row 4: must be finite as fp16",
        ),
        (
            with_tail("emb_l.3.weight", 5, 1, -7e4, "<f4"),
            (
                "tensor 'emb_l.3.weight' has the bias -70000 in row 5: must be finite as fp16, "
                "at most 65504.0 in magnitude"
            ),
        ),
        (
            lambda t: t.update({"bot_l.2.weight": floats(18, 12), "bot_l.2.bias": floats(18)}),
            "no dot or concat interaction of 4 tables and a bottom MLP of 18",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_and_leaves_nothing(
    tmp_path, capsys, edit, message
):
    tensors = dlrm(("float", "int4r", "int8r", "byte"))
    edit(tensors)
    code, report, err = run_import(capsys, tmp_path, tensors)
    assert (code, report) == (1, None)
    assert f"error: {tmp_path / 'trained.safetensors'}: {message}" in err
    assert not (tmp_path / "in").exists() or not list((tmp_path / "in").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--dim", "24"),
            (
                "'emb_l.0.weight': rows of 12 bytes are no packed rows of --dim 24; "
                "possible: int4r of 16, int8r of 8, byte of 4"
            ),
        ),
        (("--format", "byte"), "19 inputs with --format byte (rows of 12 bytes are byte of 4)"),
        (("--format", "int2"), "'int2' is not one of"),
        (("--interaction", "concat"), "its 19 inputs with --interaction concat"),
    ],
)
def test_a_hint_that_does_not_fit_is_named(tmp_path, capsys, arguments, message):
    code, _, err = run_import(capsys, tmp_path, dlrm(("int4r", "int4r")), *arguments)
    assert code == 1
    assert message in err


def test_a_model_that_the_configuration_refuses_is_named(tmp_path, capsys):
    tensors = dlrm(("float", "float"), dim=6)
    code, _, err = run_import(capsys, tmp_path, tensors)
    assert code == 1
    assert "model.toml: table.0.dim: must be a multiple of 4, not 6" in err
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"hello", "must be a safetensors file")],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, capsys, content, message):
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    code, _, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
    assert code == 1
    assert f"error: {path}: {message}" in err


def test_a_pytorch_file_without_pytorch_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pt"
    path.write_bytes(b"PK\x03\x04 and so on")
    code, _, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
    assert code == 3
    assert "torch not found: reads x.pt; get it with `pip install 'screc[torch]'`" in err


# --- with PyTorch --------------------------------------------------------------------------------
def as_torch(tensors):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    return {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}


@pytest.mark.train
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "iter": 7}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_imported_as_its_safetensors(tmp_path, capsys, wrap, zipped):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    tensors = dlrm(("float", "int4r", "byte"))
    assert run_import(capsys, tmp_path, tensors)[0] == 0
    expected = (tmp_path / "in" / "weights.safetensors").read_bytes()
    path = tmp_path / "trained.pt"
    # as a data-parallel model saves it, in the order of a safetensors file
    state = {f"module.{k}": v for k, v in sorted(as_torch(tensors).items())}
    torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
    code, out, _ = invoke(capsys, "import", path, "-o", tmp_path / "torch", "--json")
    assert code == 0
    assert json.loads(out)["interaction"] == "dot"
    assert (tmp_path / "torch" / "weights.safetensors").read_bytes() == expected


@pytest.mark.train
def test_bfloat16_and_rows_of_pytorch_itself_are_imported(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    tensors = as_torch(dlrm(("float", "int4r")))
    tensors["bot_l.0.weight"] = tensors["bot_l.0.weight"].bfloat16()
    real = torch.randn(41, 16)
    prepacked = torch.ops.quantized.embedding_bag_4bit_prepack(real)
    tensors["emb_l.1.weight"] = prepacked
    path = tmp_path / "trained.pth"
    torch.save(tensors, path)
    assert invoke(capsys, "import", path, "-o", tmp_path / "in")[0] == 0
    shape = to_shape(read_model(tmp_path / "in" / "model.toml"))
    weights = load_weights(tmp_path / "in" / "weights.safetensors", shape)
    expected = tensors["bot_l.0.weight"].float().numpy()
    assert np.array_equal(weights.bottom[0].weight, expected)
    unpacked = torch.ops.quantized.embedding_bag_4bit_unpack(prepacked).numpy()
    assert np.allclose(weights.tables[1].fetch(np.arange(41)), unpacked, rtol=1e-6, atol=1e-6)


class Evil:
    """What a state dict never needs."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.train
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Evil(), "must be a state dict that PyTorch reads with weights_only=True"),
        ([1, 2], "must hold a state dict, not list"),
        ({"emb_l.0.weight": 3}, "tensor 'emb_l.0.weight' must be one of F32, F16, BF16 or packed"),
    ],
)
def test_other_pickles_are_refused_and_never_run(tmp_path, capsys, value, message):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    path = tmp_path / "x.pt"
    torch.save(value, path)
    code, out, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
    assert (code, out) == (1, "")
    assert f"error: {path}: {message}" in err
    path.write_bytes(pickle.dumps(value))
    assert invoke(capsys, "import", path, "-o", tmp_path / "in")[0] == 1


def test_a_damaged_pytorch_file_is_named(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    path = tmp_path / "x.pt"
    for zipped in (True, False):
        torch.save(as_torch(dlrm(("float",) * 2)), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for end in (20, len(whole) // 2, len(whole) - 30):
            path.write_bytes(whole[:end])
            code, _, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
            assert code == 1
            assert err.startswith(f"error: {path}: must be a state dict that PyTorch reads")
            assert len(err.splitlines()) == 1
