"""Trials of tables in tensor-train form: errors, AUC, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from screc import cli, flow
from screc.analyze import TRIALS
from screc.config import load_config
from screc.errors import ConfigError
from screc.models import read_model, to_shape
from screc.tt.accuracy import read_trials
from screc.tt.decompose import FloatTt
from screc.tt.shape import choose_shape
from screc.weights import load_weights
from screc_sim.golden import float_twin
from screc_sim.samples import Bags, SampleBatch

MODEL = """
name = "labelled"
dense = 2
bottom = [8, 8]
top = [16, 1]
interaction = "dot"
[[table]]
name = "users"
rows = 360
dim = 8
[[table]]
name = "items"
rows = 90
dim = 8
format = "int4"
[[table]]
name = "odd"
rows = 30
dim = 8
format = "int8r"
"""

CONFIG = """
[model]
file = "model.toml"
weights = "w.safetensors"
[log]
path = "log.npz"
[analyze]
tt_ranks = [1, 4]
tt_tables = ["users"]
"""

SAMPLES = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose users are of TT rank 4 in order of frequency, and labels that it gives."""
    out = tmp_path_factory.mktemp("labelled")
    (out / "model.toml").write_text(MODEL)
    (out / "config.toml").write_text(CONFIG)
    shape = to_shape(read_model(out / "model.toml"))
    rng = np.random.default_rng(1)
    drawn = load_weights(None, shape, 7)
    tensors = {}
    for prefix, layers in (("bot_l", drawn.bottom), ("top_l", drawn.top)):
        for i, layer in enumerate(layers):
            tensors[f"{prefix}.{2 * i}.weight"] = layer.weight
            tensors[f"{prefix}.{2 * i}.bias"] = layer.bias
    for i, table in enumerate(drawn.tables):
        tensors[f"emb_l.{i}.weight"] = table.fetch(np.arange(table.rows))
    users = (rng.random(SAMPLES) ** 2 * 360).astype(np.int64)
    order = np.argsort(-np.bincount(users[: SAMPLES // 2], minlength=360), kind="stable")
    tt = choose_shape(360, 8, 4)
    cores = tuple(rng.normal(size=size).astype(np.float32) for size in tt.core_shapes)
    rows = FloatTt(tt, cores).rows(np.arange(360))
    tensors["emb_l.0.weight"][order] = rows / np.abs(rows).max() * 2
    save_file(tensors, out / "w.safetensors")
    ids = np.stack([users, rng.integers(0, 90, SAMPLES), rng.integers(0, 30, SAMPLES)], axis=1)
    dense = rng.integers(0, 50, (SAMPLES, 2)).astype(np.float32)
    offsets = np.arange(SAMPLES + 1)
    batch = SampleBatch(np.log1p(dense), tuple(Bags(ids[:, i].copy(), offsets) for i in range(3)))
    logits = float_twin.run(shape, load_weights(out / "w.safetensors", shape), batch)
    labels = rng.random(SAMPLES) < 1 / (1 + np.exp(-3 * (logits - np.median(logits))))
    np.savez(out / "log.npz", X_int=dense, X_cat=ids, y=labels.astype(np.float32))
    return out


def analyze(folder, out, *overrides):
    ctx = flow.Context.create(load_config(folder / "config.toml", overrides), out, verbosity=-1)
    flow.run(ctx, "analyze")
    return ctx


def test_errors_and_auc_fall_with_the_rank(folder, tmp_path):
    analyze(folder, tmp_path)
    one, four = read_trials(tmp_path / TRIALS)
    assert (one.table, one.rank, four.rank) == ("users", 1, 4)
    assert four.row_error < 0.05 < 0.5 < one.row_error
    assert four.read_error < 0.05 < one.read_error
    assert one.samples == four.samples == SAMPLES // 2
    assert one.auc_exact == four.auc_exact > 0.7
    assert one.auc_loss == pytest.approx(one.auc_exact - one.auc_tt)
    assert one.auc_loss > 0.05
    assert abs(four.auc_loss) < 0.01
    assert four.row_bytes == 360 * 8
    assert four.tt_bytes == choose_shape(360, 8, 4).parameters


def test_json_has_the_trials(folder, tmp_path, capsys):
    arguments = ["analyze", str(folder / "config.toml"), "-o", str(tmp_path), "--json", "-q"]
    cli.main(arguments)
    (one, four) = json.loads(capsys.readouterr().out)["tt"]
    assert (one["rank"], four["rank"]) == (1, 4)
    assert one["auc_loss"] > four["auc_loss"]
    with pytest.raises(SystemExit) as refused:
        cli.main([*arguments, "--set", "analyze.tt_ranks=[]"])
    assert refused.value.code == 1
    assert "analyze: tt_tables names tables to try" in capsys.readouterr().err
    cli.main([*arguments, "--set", "analyze.tt_ranks=[]", "--set", "analyze.tt_tables=[]"])
    assert "tt" not in json.loads(capsys.readouterr().out)
    assert not (tmp_path / TRIALS).exists()


def test_trials_are_made_again_when_the_weights_change(folder, tmp_path):
    before = analyze(folder, tmp_path)
    stamp = (tmp_path / TRIALS).stat().st_mtime_ns
    flow.run(before, "analyze")
    assert (tmp_path / TRIALS).stat().st_mtime_ns == stamp
    analyze(folder, tmp_path, "model.seed=1")
    assert (tmp_path / TRIALS).stat().st_mtime_ns > stamp


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("analyze.tt_tables=['nobody']", r"analyze\.tt_tables: no table 'nobody'; valid: users"),
        ("analyze.tt_tables=['odd']", r"analyze\.tt_tables: table 'odd': .* not \"int8r\""),
        ("analyze.tt_ranks=[0]", r"analyze\.tt_ranks\.0"),
    ],
)
def test_what_cannot_be_tried_is_named(folder, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        analyze(folder, tmp_path, override)


def test_small_tables_are_not_tried_unless_named(folder, tmp_path):
    analyze(folder, tmp_path, "analyze.tt_tables=[]")
    assert read_trials(tmp_path / TRIALS) == []


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / TRIALS
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read as parquet"):
        read_trials(path)
