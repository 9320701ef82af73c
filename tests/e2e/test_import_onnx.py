"""`screc import` of ONNX: what is imported computes as the graph does; or a message says why."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from screc.models import read_model, to_shape
from screc.weights import load_weights
from screc_sim.golden import float_twin
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import calibrate_reported
from screc_sim.samples import Bags, SampleBatch
from tests.e2e.test_cli import invoke
from tests.support.onnx_dlrm import Builder, dlrm, floats, quantise_constant, quantise_edge

SAMPLES = 60


def run_import(capsys, path, *arguments):
    """Import a model; return (exit code, report or None, stderr)."""
    code, out, err = invoke(capsys, "import", path, "-o", path.parent / "in", "--json", *arguments)
    assert "Traceback" not in err
    return code, json.loads(out) if out else None, err


def imported(folder):
    shape = to_shape(read_model(folder / "model.toml"))
    return shape, load_weights(folder / "weights.safetensors", shape)


def drawn(model, report, samples=SAMPLES, positive=False):
    """Samples as the graph's inputs and as a batch, by what the report says of the features."""
    rng = np.random.default_rng(5)
    feeds = {}
    for value in model.graph.input:
        dims = [d.dim_value or samples for d in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == TensorProto.FLOAT:
            feeds[value.name] = rng.normal(size=dims).astype(np.float32)
            if positive:
                feeds[value.name] = np.abs(feeds[value.name])
        else:
            feeds[value.name] = rng.integers(0, 20, dims).astype(
                helper.tensor_dtype_to_np_dtype(kind)
            )
    count = len(next(iter(feeds.values())))
    dense = feeds.get("dense", np.zeros((count, 0), np.float32))
    bags = []
    for feature in report["features"]:
        ids = feeds[feature["input"]].reshape(count, -1)[:, feature["columns"]]
        offsets = np.arange(count + 1) * ids.shape[1]
        bags.append(Bags(ids.astype(np.int64).ravel(), offsets))
    return feeds, SampleBatch(dense, tuple(bags))


def check_same(capsys, tmp_path, b, output, **options):
    """Import a graph and compare the float twin with ONNX's reference operators."""
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    shape, weights = imported(tmp_path / "in")
    model = onnx.load(path)
    feeds, batch = drawn(model, report, **options)
    expected = ReferenceEvaluator(model).run(None, feeds)[0].ravel()
    logits = float_twin.run(shape, weights, batch)
    got = 1 / (1 + np.exp(-logits)) if any(n.op_type == "Sigmoid" for n in b.nodes) else logits
    assert np.std(expected) > 1e-3
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    return report, shape


# --- plain models --------------------------------------------------------------------------------
@pytest.mark.parametrize("linear", ["gemm", "gemm_k", "matmul", "matmul_swapped"])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_linear_layers_of_every_form(tmp_path, capsys, linear, sigmoid):
    report, shape = check_same(capsys, tmp_path, *dlrm(linear=linear, sigmoid=sigmoid))
    assert (shape.name, shape.dense, shape.interaction) == ("trained", 5, "dot")
    assert (shape.bottom, shape.top) == ((12, 8), (16, 1))
    assert [(t.rows, t.dim) for t in shape.tables] == [(20, 8), (21, 8), (22, 8)]
    assert [(f.pooling, f.mode) for f in shape.features] == [(1, "sum"), (3, "mean"), (2, "sum")]
    assert [f["columns"] for f in report["features"]] == [[0], [1, 2, 3], [4, 5]]
    assert "quantisation" not in report
    assert json.loads((tmp_path / "in" / "import.json").read_text()) == report


@pytest.mark.parametrize("interaction", ["gathernd", "flat", "stack", "einsum", "upper", "concat"])
@pytest.mark.parametrize("dense", [5, 0])
@pytest.mark.parametrize("bottom_last", [False, True])
def test_interactions_in_any_order(tmp_path, capsys, interaction, dense, bottom_last):
    b, output = dlrm(interaction=interaction, dense=dense, bottom_last=bottom_last)
    _, shape = check_same(capsys, tmp_path, b, output)
    assert shape.interaction == ("concat" if interaction == "concat" else "dot")


@pytest.mark.parametrize("ids", ["one", "each"])
@pytest.mark.parametrize("samples", ["n", 7, 1])
def test_ids_in_one_input_or_one_each_and_batches_open_or_fixed(tmp_path, capsys, ids, samples):
    many = {"samples": samples} if samples != "n" else {}
    b, output = dlrm(ids=ids, samples=samples, sigmoid=False)
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    feeds, batch = drawn(onnx.load(path), report, **many)
    shape, weights = imported(tmp_path / "in")
    expected = ReferenceEvaluator(onnx.load(path)).run(None, feeds)[0].ravel()
    assert float_twin.run(shape, weights, batch) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    names = ["ids"] * 3 if ids == "one" else ["ids_0", "ids_1", "ids_2"]
    assert [f["input"] for f in report["features"]] == names


def test_features_that_share_a_table(tmp_path, capsys):
    b, output = dlrm(tables=(0, 1, 0))
    report, shape = check_same(capsys, tmp_path, b, output)
    assert [t.rows for t in shape.tables] == [20, 21]
    assert [(f.name, f.table) for f in shape.features] == [
        ("emb_0_0", 0),
        ("emb_1", 1),
        ("emb_0_1", 0),
    ]
    assert [f["table"] for f in report["features"]] == ["emb_0", "emb_1", "emb_0"]


def test_an_imported_model_compiles(tmp_path, capsys):
    b, output = dlrm()
    assert run_import(capsys, b.save(output, tmp_path / "trained.onnx"))[0] == 0
    (tmp_path / "config.toml").write_text(
        '[model]\nfile = "in/model.toml"\nweights = "in/weights.safetensors"\n'
        "[log]\nsamples = 400\n"
        "[plan.cores]\nrows = 8\ncolumns = 8\nmemory = 1\ncompute = 1\n"
    )
    out = tmp_path / "out"
    code, _, err = invoke(capsys, "compile", tmp_path / "config.toml", "-o", out, "-q")
    assert (code, err) == (0, "")
    manifest = json.loads((out / "images" / "manifest.json").read_text())
    rules = {choice["tensor"]: choice["rule"] for choice in manifest["calibration"]}
    assert {"emb_0", "dense", "bottom0", "vectors", "concat", "top0"} == rules.keys() - {
        "emb_1",
        "emb_2",
    }


# --- QDQ-quantised models ------------------------------------------------------------------------
def channel_scales(weight, axis):
    return np.abs(weight).max(axis=1 - axis) / 127 * 1.1  # so that no code is 127


LAYERS = ("bottom0", "bottom1", "top0", "top1")


def quantised(linear="gemm", dense=(0.03, 0, np.int8), hidden=(0.02, 0, np.int8), **options):
    """A DLRM with QDQ pairs as ONNX Runtime puts them; also the codes of every constant."""
    b, output = dlrm(linear=linear, sigmoid=False, lengths=(1, 1, 1), means=(), **options)
    codes = {}
    relus = [n.output[0] for n in b.nodes if n.op_type == "Relu"]
    gram = next((n for n in b.nodes if n.name == "gram"), None)
    joined = next(n.output[0] for n in b.nodes if n.name == "joined")
    quantise_edge(b, "dense", *dense)
    for relu in (relus[0], relus[2]):
        quantise_edge(b, relu, *hidden)
    if gram is not None:
        for factor in gram.input:
            quantise_edge(b, factor, 0.025)
    quantise_edge(b, joined, 0.04)
    axis = 0 if linear == "gemm" else 1
    for layer in LAYERS:
        name = f"{layer}.weight"
        scales = channel_scales(b.constants[name], axis)
        codes[name] = quantise_constant(b, name, scales, axis=axis)
    for i in range(3):
        name = f"emb.{i}"
        codes[name] = quantise_constant(b, name, np.abs(b.constants[name]).max() / 127)
    return b, output, codes


@pytest.mark.parametrize("linear", ["gemm", "gemm_k", "matmul"])
@pytest.mark.parametrize("interaction", ["gathernd", "concat", "upper"])
def test_symmetric_scales_and_codes_are_taken_over(tmp_path, capsys, linear, interaction):
    b, output, codes = quantised(linear, interaction=interaction)
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    became = {e["tensor"]: e["became"] for e in report["quantisation"]}
    tensors = {"dense", "bottom0", "top0", "concat", *(["vectors"] * (interaction != "concat"))}
    weights_ = {f"{layer}.weight" for layer in LAYERS}
    assert became == dict.fromkeys(tensors | weights_ | {"emb_0", "emb_1", "emb_2"}, "taken over")
    shape, weights = imported(tmp_path / "in")
    model = onnx.load(path)
    feeds, batch = drawn(model, report, samples=300)
    found = calibrate_reported(shape, weights, batch)
    assert {c.rule for c in found.choices} == {"given"}
    exact = found.model
    assert exact.dense_scale == pytest.approx(0.03)
    assert exact.concat_scale == pytest.approx(0.04)
    if interaction != "concat":
        assert exact.vector_scale == pytest.approx(0.025)
    for layer, name in zip((*exact.bottom, *exact.top), LAYERS, strict=True):
        stored = codes[f"{name}.weight"]
        stored = stored if linear == "gemm" else stored.T
        if name == "top0":
            assert np.array_equal(np.sort(layer.weight, axis=1), np.sort(stored, axis=1))
            if interaction != "upper":
                assert np.array_equal(layer.weight, stored)
        else:
            assert np.array_equal(layer.weight, stored)
    for i in range(3):
        assert np.array_equal(exact.tables[i].codes(np.arange(20 + i)), codes[f"emb.{i}"])
    # codes of the tensors, against ONNX's reference of QuantizeLinear: it rounds half to even
    relu = [n.output[0] for n in b.nodes if n.op_type == "Relu"]
    stages = golden.stages(exact, batch)
    for tensor, edge in (("dense", "dense"), ("bottom0", relu[0])):
        model.graph.output[0].name = f"{edge}.q"
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
        expected = ReferenceEvaluator(model).run(None, feeds)[0].astype(int)
        off = np.abs(np.clip(expected, -127, 127) - stages[tensor])
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01
    model = onnx.load(path)
    expected = ReferenceEvaluator(model).run(None, feeds)[0].ravel()
    got = stages["logit"] * exact.logit_scale
    assert np.corrcoef(got, expected)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("scale", "zero", "type_", "folded"),
    [
        (0.014, 0, np.uint8, -127),
        (0.014, -128, np.int8, -127),
        (0.03, 10, np.int8, 10),
        (0.03, 118, np.uint8, -10),
        (0.03, 128, np.uint8, 0),
        (0.014, 127, np.int8, 127),
    ],
)
def test_a_zero_point_of_the_dense_features_goes_into_the_biases(
    tmp_path, capsys, scale, zero, type_, folded
):
    b, output, _ = quantised(dense=(scale, zero, type_))
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    entry = next(e for e in report["quantisation"] if e["tensor"] == "dense")
    assert entry["became"] == ("taken over" if folded == 0 else "folded")
    assert (entry["zero"], entry["scale"]) == (zero, pytest.approx(scale))
    shape, weights = imported(tmp_path / "in")
    model = onnx.load(path)
    feeds, batch = drawn(model, report, samples=300, positive=folded == -127)
    if folded == 127:
        feeds["dense"] = -np.abs(feeds["dense"])
        batch = SampleBatch(feeds["dense"], batch.bags)
    exact = calibrate_reported(shape, weights, batch).model
    assert exact.dense_zero == folded
    relu = next(n.output[0] for n in b.nodes if n.op_type == "Relu")
    stages = golden.stages(exact, batch)
    for tensor, edge, elem in (("dense", "dense", type_), ("bottom0", relu, np.int8)):
        model.graph.output[0].name = f"{edge}.q"
        model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(
            np.dtype(elem)
        )
        expected = ReferenceEvaluator(model).run(None, feeds)[0].astype(int)
        if tensor == "dense":
            expected = np.clip(expected - zero + folded, -127, 127)
        off = np.abs(np.clip(expected, -127, 127) - stages[tensor])
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01


def test_a_relu_that_quantisation_replaced_is_found(tmp_path, capsys):
    b, output, _ = quantised(hidden=(0.02, 0, np.uint8))
    for node in [n for n in b.nodes if n.op_type == "Relu" and n.name != "bottom_out"]:
        for reader in b.nodes:
            reader.input[:] = [
                node.input[0] if name == node.output[0] else name for name in reader.input
            ]
        b.nodes.remove(node)
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    became = {e["tensor"]: e for e in report["quantisation"]}
    for tensor in ("bottom0", "top0"):
        assert became[tensor]["became"] == "recalibrated"
        assert became[tensor]["why"] == "its zero point 0 (uint8) makes its codes asymmetric"
    shape, weights = imported(tmp_path / "in")
    assert (shape.bottom, shape.top) == ((12, 8), (16, 1))
    feeds, batch = drawn(onnx.load(path), report, samples=300)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, feeds)[0].ravel()
    found = calibrate_reported(shape, weights, batch)
    assert {c.tensor for c in found.choices if c.rule != "given"} == {"bottom0", "top0"}
    got = golden.run(found.model, batch).logit * found.model.logit_scale
    assert np.corrcoef(got, expected)[0, 1] > 0.99


@pytest.mark.parametrize("zero", [-128, 3])
def test_the_rounding_of_the_logit_is_left_out(tmp_path, capsys, zero):
    b, output, _ = quantised()
    b.node("Identity", output, output="out")  # an edge behind the logit
    quantise_edge(b, output, 0.05, zero)
    path = b.save("out", tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    left = [e for e in report["quantisation"] if e["became"] == "left out"]
    assert [(e["source"], e["zero"]) for e in left] == [(output, zero)]
    shape, weights = imported(tmp_path / "in")
    _, batch = drawn(onnx.load(path), report)
    logits = float_twin.run(shape, weights, batch)
    assert logits.min() < 0


def test_what_does_not_fit_is_recalibrated_and_named(tmp_path, capsys):
    b, output, _ = quantised(hidden=(0.02, -5, np.int8))
    gram = next(n for n in b.nodes if n.name == "gram")
    pair = next(n for n in b.nodes if n.output[0] == gram.input[1])
    b.constants["other"] = np.float32(0.03)
    for node in b.nodes:
        if node.op_type.endswith("Linear") and node.name.startswith(pair.name[:-3]):
            node.input[1] = "other"
    b.constants["emb.1.zero"] = np.int8(3)
    b.constants["emb.2.codes"][0, 0] = -128
    b.constants["bottom1.weight.codes"][2, 5] = -128
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert code == 0, err
    entries = {e["tensor"]: (e["became"], e["why"]) for e in report["quantisation"]}
    asymmetric = "its zero point -5 (int8) makes its codes asymmetric"
    assert entries["bottom0"] == entries["top0"] == ("recalibrated", asymmetric)
    assert entries["vectors"] == (
        "recalibrated",
        "its parts have different scales: 0.025, 0.03",
    )
    assert entries["emb_0"] == ("taken over", "codes kept")
    assert entries["emb_1"] == ("recalibrated", "its zero point 3 makes its codes asymmetric")
    assert entries["emb_2"] == ("recalibrated", "it has codes below -127")
    kept = "codes of 7 of 8 channels kept; the others have codes beyond ±127"
    assert entries["bottom1.weight"] == ("taken over", kept)
    shape, weights = imported(tmp_path / "in")
    assert weights.bottom[1].scale[2] == 0
    assert (np.delete(weights.bottom[1].scale, 2) > 0).all()
    assert weights.scales.tensors.keys() == {"dense", "concat"}
    feeds, batch = drawn(onnx.load(path), report, samples=300)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, feeds)[0].ravel()
    model = calibrate_reported(shape, weights, batch).model
    got = golden.run(model, batch).logit * model.logit_scale
    assert np.corrcoef(got, expected)[0, 1] > 0.98


@pytest.mark.parametrize("axis", [0, None])
def test_weights_with_a_whole_qdq_pair_are_codes_too(tmp_path, capsys, axis):
    b, output = dlrm(sigmoid=False)
    weight = b.constants["top0.weight"]
    scale = channel_scales(weight, 0) if axis == 0 else np.abs(weight).max() / 127
    scale, zero = np.float32(scale), np.zeros(np.shape(scale), np.int8)
    names = (b.constant(scale, "s"), b.constant(zero, "z"))
    given = {} if axis is None else {"axis": axis}
    for kind, source, to in (
        ("DequantizeLinear", "q", "dq"),
        ("QuantizeLinear", "top0.weight", "q"),
    ):
        b.nodes.insert(0, helper.make_node(kind, [source, *names], [to], **given))
    next(n for n in b.nodes if n.name == "top0").input[1] = "dq"
    report, _ = check_same(capsys, tmp_path, b, output)
    assert [e["became"] for e in report["quantisation"]] == ["taken over"]
    _, weights = imported(tmp_path / "in")
    codes = np.rint(weight / np.reshape(scale, (-1, 1)))
    steps = np.broadcast_to(scale, (16,))
    assert weights.top[0].scale == pytest.approx(steps)
    assert weights.top[0].weight == pytest.approx(codes * steps[:, None], rel=1e-6)


def test_people_read_what_became_of_the_scales(tmp_path, capsys):
    b, output, _ = quantised(dense=(0.014, 0, np.uint8))
    path = b.save(output, tmp_path / "trained.onnx")
    code, out, err = invoke(capsys, "import", path, "-o", tmp_path / "in")
    assert (code, out) == (0, "")
    assert "emb_0: 20 rows of 8, int8\n" in err
    assert "dense (dense): folded: a feature of 0 has the code -127; " in err
    assert "bottom0.weight (bottom0.weight.codes): taken over: codes of 12 of 12 channels" in err


@pytest.mark.parametrize(
    ("channel", "value", "message"),
    [
        (None, 7, "'top0.weight.codes': the zero point of weights must be 0, not 7 in channel 0"),
        (4, -3, "the zero point of weights must be 0, not -3 in channel 4 ('top0.weight.zero')"),
    ],
)
def test_a_zero_point_of_weights_is_refused(tmp_path, capsys, channel, value, message):
    b, output, _ = quantised()
    zero = b.constants["top0.weight.zero"].copy()
    zero[slice(None) if channel is None else channel] = value
    b.constants["top0.weight.zero"] = zero
    path = b.save(output, tmp_path / "trained.onnx")
    code, _, err = run_import(capsys, path)
    assert code == 1
    assert f"error: {path}: initializer " in err
    assert message in err
    assert not (tmp_path / "in").exists()


# --- what is not supported -----------------------------------------------------------------------
def replaced(old, kind, **attributes):
    """Change a node's operator."""

    def apply(b):
        node = next(n for n in b.nodes if n.name == old)
        node.op_type = kind
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())

    return apply


def between(kind, *extra, **attributes):
    def apply(b, x, width):
        constants = [b.constant(np.asarray(value)) for value in extra]
        return b.node(kind, x, *constants, name="odd", **attributes), width

    return {"between": apply}


def appended(kind, old):
    """Put an operator in front of what reads a tensor of a node."""

    def apply(b):
        node = next(n for n in b.nodes if n.name == old)
        b.nodes.insert(b.nodes.index(node), helper.make_node(kind, [node.input[0]], ["odd"], "odd"))
        node.input[0] = "odd"

    return apply


def changed(name, values):
    def apply(b):
        b.constants[name] = values(b.constants[name])

    return apply


def with_diagonal(b, x, width):
    """The lower triangle with its diagonal (arch_interaction_itself)."""
    node = next(n for n in b.nodes if n.name == "pairs")
    indices = next(n for n in b.nodes if n.op_type == "GatherND").input[1]
    count = max(max(pair) for pair in b.constants[indices]) + 1
    b.constants[indices] = np.array([(i, j) for i in range(count) for j in range(i + 1)])
    assert node.output[0]
    return x, width + count


MLP = "; supported are a bottom MLP and a top MLP of Gemm or MatMul and Add with Relu between"


@pytest.mark.parametrize(
    ("options", "edit", "message"),
    [
        ({}, replaced("bottom_out", "LeakyRelu"), "node 'bottom_out' (LeakyRelu) is not supported"),
        ({}, replaced("probability", "Tanh"), "node 'probability' (Tanh) is not supported after"),
        (
            {},
            appended("Log", "bottom0"),
            "node 'odd' (Log) is not supported in or before the bottom",
        ),
        (between("Softmax"), None, "node 'odd' (Softmax) is not supported between bottom MLP, tab"),
        (
            between("Gemm", floats(14, 14), transB=1),
            None,
            "node 'odd' (Gemm) is not supported between bottom MLP, tables and top MLP" + MLP,
        ),
        (
            between("Mul", np.float32(0.5)),
            None,
            (
                "the 14 inputs of node 'top0' (Gemm) are no dot (strict lower triangle, behind the "
                "bottom output) or concat interaction of 4 vectors of [8]: they come from node "
            ),
        ),
        ({"between": with_diagonal}, None, "the 18 inputs of node 'top0' (Gemm) are no dot (stric"),
        ({}, replaced("bottom0", "Gemm", alpha=0.5), "node 'bottom0' (Gemm): alpha must be 1, not"),
        ({}, appended("Abs", "top1"), "node 'odd' (Abs) is not supported"),
        (
            {},
            changed("top0.weight", lambda w: np.where(w == w.max(), np.nan, w)),
            "node 'top0' (Gemm): its weight has values that are not finite",
        ),
        (
            {},
            changed("emb.1", lambda w: np.where(w == w.max(), np.inf, w)),
            "tensor 'emb.1' has inf at (",
        ),
        ({"dim": 6}, None, "trained.onnx: table.0.dim: must be a multiple of 4, not 6"),
    ],
)
def test_what_is_not_supported_is_named_and_leaves_nothing(
    tmp_path, capsys, options, edit, message
):
    b, output = dlrm(**options)
    if edit is not None:
        edit(b)
    path = b.save(output, tmp_path / "trained.onnx")
    code, report, err = run_import(capsys, path)
    assert (code, report) == (1, None)
    assert message in err
    assert str(path) in err
    assert not (tmp_path / "in").exists()


def test_ids_that_are_computed_are_refused(tmp_path, capsys):
    b, output = dlrm(ids="each")
    node = next(n for n in b.nodes if n.name == "read_0")
    b.constant(np.int64(2), "two")
    b.nodes.insert(0, helper.make_node("Mod", ["ids_0", "two"], ["even"], "mod"))
    node.input[1] = "even"
    code, _, err = run_import(capsys, b.save(output, tmp_path / "trained.onnx"))
    assert code == 1
    assert "node 'read_0' (Gather): its ids must be columns of an integer input" in err


def test_a_model_without_tables_and_one_with_two_outputs(tmp_path, capsys):
    b = Builder()
    b.input("dense", TensorProto.FLOAT, "n", 4)
    output = b.linear(b.node("Relu", b.linear("dense", 3, 4, name="a")), 1, 3, name="b")
    code, _, err = run_import(capsys, b.save(output, tmp_path / "trained.onnx"))
    assert code == 1
    assert "no table is read by the top MLP" in err
    model = b.model(output)
    model.graph.output.append(helper.make_tensor_value_info("t1", TensorProto.FLOAT, ["n", 3]))
    onnx.save(model, tmp_path / "trained.onnx")
    code, _, err = run_import(capsys, tmp_path / "trained.onnx")
    assert code == 1
    assert f"must have one output, the logit, not ['{output}', 't1']" in err


def test_a_top_mlp_must_end_in_the_logit(tmp_path, capsys):
    b, output = dlrm(sigmoid=False)
    b.constants["top1.weight"], b.constants["top1.bias"] = floats(2, 16), floats(2)
    code, _, err = run_import(capsys, b.save(output, tmp_path / "trained.onnx"))
    assert code == 1
    assert "node 'top1' (Gemm): the top MLP must end in 1, the logit; it ends in 2" in err


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 40, None])
def test_a_file_that_is_no_onnx_model_is_named(tmp_path, capsys, content):
    path = tmp_path / "trained.onnx"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run_import(capsys, path)
    assert code == 1
    reason = "cannot be read: No such file" if content is None else "must be an ONNX model: "
    assert f"error: {path}: {reason}" in err
    assert not (tmp_path / "in").exists()


def test_a_truncated_model_is_named(tmp_path, capsys):
    b, output = dlrm()
    path = b.save(output, tmp_path / "trained.onnx")
    whole = path.read_bytes()
    for end in (10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:end])
        code, _, err = run_import(capsys, path)
        assert code == 1
        assert f"error: {path}: must be an ONNX model" in err


def test_options_of_checkpoints_are_refused(tmp_path, capsys):
    b, output = dlrm()
    path = b.save(output, tmp_path / "trained.onnx")
    code, _, err = run_import(capsys, path, "--interaction", "dot")
    assert code == 1
    assert "--interaction dot is for checkpoints; a graph says it" in err
