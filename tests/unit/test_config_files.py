"""Configuration files: what is read, what wins, and what every error says."""

import runpy
from pathlib import Path

import pytest

from screc.config import Config, check_built, dump_config, load_config, model_shape
from screc.config_validation import records_of
from screc.errors import ConfigError
from screc.models import ModelFile, preset_names, preset_shape, read_model

ROOT = Path(__file__).resolve().parents[2]

MODEL = """
name = "m"
dense = 2
bottom = [8, 4]
top = [8, 1]
[[table]]
name = "a"
rows = 10
dim = 4
[[table]]
name = "b"
rows = 20
dim = 4
pooling = 3
mode = "mean"
"""

CONFIG = """
[model]
file = "model.toml"
[log]
samples = 100
[[device]]
kind = "smartssd"
ssd_kiops = 400
[plan]
batch = 64
"""


@pytest.fixture
def case(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "model.toml").write_text(MODEL)
    return tmp_path


def refused(case, *overrides, config=CONFIG, model=MODEL):
    """Text of the error, without the folder."""
    (case / "config.toml").write_text(config)
    (case / "model.toml").write_text(model)
    with pytest.raises(ConfigError) as error:
        model_shape(load_config(case / "config.toml", overrides))
    assert error.value.exit_code == 1
    return str(error.value).replace(f"{case}/", "")


def test_every_key_has_a_default(case):
    (case / "config.toml").write_text('[model]\nfile = "model.toml"\n')
    config = load_config(case / "config.toml")
    assert config.plan.batch == 128
    assert config.plan.gap == 0.01
    assert config.log.kind == "synthetic"
    assert (config.log.profile, config.log.holdout) == (0.5, 0.5)
    assert config.device[0].kind == "smartssd"
    assert config.simulate.simulator == "verilator"
    assert config.plan.cores.rows is None


def test_set_wins_over_the_file_and_reaches_into_arrays(case):
    config = load_config(
        case / "config.toml",
        [
            "plan.batch=32",
            "device.0.kind=u50",
            'device.1={kind="smartssd"}',
            "plan.cores.rows=16",
            'plan.table.0.name="a"',
            'plan.table.0.tiers=["dram"]',
            "log.ids=dictionary",
            "log.path=a=b.npz",
        ],
    )
    assert config.plan.batch == 32
    assert [device.kind for device in config.device] == ["u50", "smartssd"]
    assert config.device[0].ssd_kiops == 400
    assert config.plan.cores.rows == 16
    assert config.plan.table[0].tiers == ("dram",)
    assert config.log.ids == "dictionary"
    assert config.log.path == str(case / "a=b.npz")
    assert config.log.kind == "npz"


def test_set_of_a_preset_takes_the_place_of_the_file(case):
    config = load_config(case / "config.toml", ["model.preset=rm1"])
    assert config.model.file is None
    assert model_shape(config).name == "rm1"


def test_relative_paths_start_at_the_folder_of_the_file(case, monkeypatch, tmp_path):
    monkeypatch.chdir(case.parent)
    path = Path(case.name) / "config.toml"
    overrides = ["log.path=day_*.tsv.gz", "model.weights=w.safetensors", "log.ids={file='i.pq'}"]
    config = load_config(path, overrides)
    assert config.model.file == case / "model.toml"
    assert config.model.weights == case / "w.safetensors"
    assert config.log.path == str(case / "day_*.tsv.gz")
    assert config.log.ids.file == case / "i.pq"
    assert config.log.kind == "criteo"


def test_dump_reads_back_as_the_same(case):
    overrides = ["log.path=x.csv", "log.label={column='y', at_least=4}", "plan.cores.memory=2"]
    config = load_config(case / "config.toml", overrides)
    (case / "again.toml").write_text(dump_config(config))
    assert load_config(case / "again.toml") == config


def test_shape_follows_the_file(case):
    shape = model_shape(load_config(case / "config.toml"))
    assert (shape.name, shape.dense, shape.bottom, shape.top) == ("m", 2, (8, 4), (8, 1))
    assert [(t.name, t.rows, t.dim, t.format) for t in shape.tables] == [
        ("a", 10, 4, "int8"),
        ("b", 20, 4, "int8"),
    ]
    assert [(f.name, f.table, f.pooling, f.mode) for f in shape.features] == [
        ("a", 0, 1.0, "sum"),
        ("b", 1, 3.0, "mean"),
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("plan.bach=64", "config.toml: plan.bach: unknown key; did you mean 'batch'? valid: obj"),
        (
            "device.0.ssd_kiopz=1",
            "config.toml: device.0.ssd_kiopz: unknown key; did you mean 'ssd_kiops'? valid: kind",
        ),
        ("plan.batch=0", "config.toml: plan.batch: must be greater than or equal to 1, not 0"),
        ("plan.batch=70000", "config.toml: plan.batch: must be less than or equal to 65535, not"),
        ("plan.batch=many", "config.toml: plan.batch: must be a whole number, not 'many'"),
        ("plan.batch=1.5", "config.toml: plan.batch: must be a whole number, not 1.5"),
        ("plan.gap=nan", "config.toml: plan.gap: must be a finite number, not nan"),
        ("plan.split=3", "config.toml: plan.split: must be true or false, not 3"),
        (
            "device.0.kind=smartsdd",
            (
                "config.toml: device.0.kind: no kind 'smartsdd'; did you mean 'smartssd'? valid: "
                "smartssd, u50, u55c, u280, u200, u250"
            ),
        ),
        ("device=[]", "config.toml: device: needs at least 1, has 0"),
        (
            "plan.cores.columns=24",
            ("config.toml: plan.cores.columns: must be one of 8, 16, 32, 64, not 24"),
        ),
        ("plan.cores.columns=12", "config.toml: plan.cores.columns: must be one of 8, 16, 32, 64"),
        ("plan.cores.columns=0", "config.toml: plan.cores.columns: must be one of 8, 16, 32, 64"),
        ("plan.cores.columns=-8", "config.toml: plan.cores.columns: must be one of 8, 16, 32, 64"),
        (
            "plan.cores.rows=12",
            "config.toml: plan.cores.rows: must be a power of two from 2 to 64, not 12",
        ),
        (
            "plan.cores.rows=128",
            "config.toml: plan.cores.rows: must be a power of two from 2 to 64, not 128",
        ),
        (
            "plan.cores.compute=3",
            "config.toml: plan.cores.compute: must be a power of two from 1 to 128, not 3",
        ),
        (
            "plan.cores.memory=0",
            "config.toml: plan.cores.memory: must be a power of two from 1 to 32, not 0",
        ),
        (
            "plan.cores.memory=64",
            "config.toml: plan.cores.memory: must be a power of two from 1 to 32, not 64",
        ),
        (
            "log.format=tsv",
            (
                "config.toml: log.format: 'tsv' is not valid; did you mean 'csv'? valid: criteo, "
                "csv, npz, parquet, libsvm, synthetic"
            ),
        ),
        ("log.ids=modulus", "config.toml: log.ids: 'modulus' is not valid; did you mean 'modulo'?"),
        ("log.ids={fil='x'}", "config.toml: log.ids.fil: unknown key; did you mean 'file'?"),
        ("log.profile=0.9", "config.toml: log: profile + holdout must be at most 1, not 0.9 + 0.5"),
        ("log.format=csv", 'config.toml: log: format = "csv" needs a path'),
        (
            "plan.objective=energy",
            'config.toml: plan: objective = "energy" needs rate, in samples per second',
        ),
        (
            "plan.table=[{name='bb'}]",
            "plan.table.0.name: no table 'bb'; did you mean 'b'? valid: a, b",
        ),
        (
            "plan.table=[{name='b'}, {name='a'}, {name='b', pin='dram'}]",
            "config.toml: plan.table: each table once, not twice: 'b'",
        ),
        ("plan.table=[{name='b', tiers=[]}]", "config.toml: plan.table.0: tiers names none; leave"),
        (
            "plan.table=[{name='b', pin='ssd', replicate=true}]",
            "config.toml: plan.table.0: replicate needs onchip or dram among its tiers, not ssd",
        ),
        (
            "model.preset=criteo-kagle",
            "model.preset: no preset 'criteo-kagle'; did you mean 'criteo-kaggle'? valid: ",
        ),
        ("model.file=none.toml", "none.toml: no such file"),
        ("plan.batch", "--set: must be KEY=VALUE, such as device.0.kind=u50, not 'plan.batch'"),
        ("plan.batch.x=1", "--set: plan.batch.x: plan.batch is 64, which has no keys"),
        (
            "device.3.kind=u50",
            (
                "--set: device.3.kind: device is an array of 1: the next key must be a number in "
                "0..1, not '3'"
            ),
        ),
        ("log.path=x.svm", 'log.format: "libsvm" is not read yet; use "csv", "npz" or "parquet"'),
    ],
)
def test_bad_config_names_field_value_and_what_is_valid(case, override, expected):
    assert refused(case, override).startswith(expected)


def test_missing_model_says_both_ways(case):
    assert refused(case, config="[model]\nseed = 1\n").startswith(
        'config.toml: model: needs preset = "criteo-kaggle" or file = "model.toml", neither is'
    )
    assert refused(case, config="[log]\n") == "config.toml: model: is missing"


def test_text_that_is_no_toml_names_the_line(case):
    assert "line 2" in refused(case, config="[model]\nfile = \n")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rows = 10", "rows = 0", "table.0.rows: must be greater than or equal to 1, not 0"),
        (
            "rows = 10",
            "rows = 4294967296",
            "table.0.rows: must be less than or equal to 4294967295",
        ),
        ("dim = 4\n[[table]]", "dim = 6\n[[table]]", "table.0.dim: must be a multiple of 4, not 6"),
        (
            "dim = 4\npooling",
            "dim = 8\npooling",
            (
                'table.1.dim: interaction = "dot" needs one dimension for all tables: 8, but '
                "table.0.dim = 4"
            ),
        ),
        (
            "bottom = [8, 4]",
            "bottom = [8, 8]",
            (
                'bottom: interaction = "dot" needs the bottom MLP to end in the embedding '
                "dimension 4, not 8"
            ),
        ),
        ("bottom = [8, 4]", "bottom = []", "bottom: dense = 2 needs at least 1 bottom layer"),
        (
            "dense = 2",
            "dense = 0",
            "bottom: dense = 0 has no bottom MLP: bottom must be [], not [8, 4]",
        ),
        ("top = [8, 1]", "top = [8, 2]", "top: the top MLP must end in 1, the logit, not [8, 2]"),
        ("top = [8, 1]", "top = []", "top: the top MLP must end in 1, the logit, not []"),
        (
            'name = "b"',
            'name = "a"',
            "table.1.name: every table needs a name of its own; 'a' is the name of table.0 already",
        ),
        ("pooling = 3", "poling = 3", "table.1.poling: unknown key; did you mean 'pooling'?"),
        ("pooling = 3", "pooling = 0", "table.1.pooling: must be greater than 0, not 0"),
        (
            'mode = "mean"',
            'mode = "max"',
            "table.1.mode: 'max' is not valid; valid: sum, mean",
        ),
        (
            'mode = "mean"',
            '[[feature]]\nname = "f"\ntable = "aa"\n',
            "feature.0.table: no table 'aa'; did you mean 'a'? valid: a, b",
        ),
        (
            "pooling = 3",
            '[[feature]]\nname = "f"\ntable = "a"\n',
            "table.1: no [[feature]] reads table 'b': add one, or leave the table out",
        ),
        (
            'mode = "mean"',
            '[[feature]]\nname = "f"\ntable = "a"\n[[feature]]\nname = "g"\ntable = "b"\n',
            "table.1.pooling: pooling belongs in the [[feature]] that reads table 'b', as",
        ),
        (
            "dense = 2",
            'dense = 2\ninteraction = "cross"',
            'cross: interaction = "cross" needs cross = {layers = 3, rank = 512}, and nothing',
        ),
        (
            "rows = 10",
            'rows = 10\nformat = "int4r"',
            'table.0.dim: format = "int4r" needs a multiple of 8, not 4',
        ),
        (
            "rows = 10",
            "rows = 10\nweighted = true",
            "table.0.weighted: weights per lookup are not built yet; use false",
        ),
    ],
)
def test_bad_model_names_field_value_and_what_is_valid(case, old, new, expected):
    assert old in MODEL
    text = refused(case, model=MODEL.replace(old, new, 1))
    assert text.startswith(f"model.toml: {expected}")


@pytest.mark.parametrize(
    ("old", "new", "overrides", "expected"),
    [
        (
            "dense = 2",
            'dense = 2\ninteraction = "cross"\ncross = {layers = 3, rank = 512}',
            (),
            'model.toml: interaction: "cross" is planned, not built yet; use "dot" or "concat"',
        ),
        (
            "rows = 10",
            "rows = 10\nproject = 4",
            (),
            "model.toml: table.0.project: a map after pooling is planned, not built yet",
        ),
        ("rows", "rows", ("device.0.count=3",), "device: 3 devices can be planned for"),
        ("rows", "rows", ("device.1.kind=u50",), "device: 2 devices can be planned for"),
    ],
    ids=["cross", "project", "count", "kinds"],
)
def test_what_is_planned_only_is_no_error_before_it_is_built(case, old, new, overrides, expected):
    assert old in MODEL
    (case / "model.toml").write_text(MODEL.replace(old, new, 1))
    config = load_config(case / "config.toml", overrides)
    assert len(model_shape(config).tables) == 2
    with pytest.raises(ConfigError) as error:
        check_built(config)
    assert str(error.value).replace(f"{case}/", "").startswith(expected)


def test_dot_of_a_single_vector_is_refused(case):
    model = 'name = "m"\n[[table]]\nname = "a"\nrows = 10\ndim = 4\n'
    assert "a single vector has no pairs" in refused(case, model=model)
    (case / "model.toml").write_text(f'interaction = "concat"\n{model}')
    assert read_model(case / "model.toml").features[0].name == "a"


@pytest.mark.parametrize(
    ("name", "tables", "rows", "dim", "dense", "top_inputs"),
    [
        ("criteo-kaggle", 26, 33_762_577, 16, 13, 367),
        ("criteo-terabyte-10m", 26, 49_126_297, 64, 13, 415),
        ("criteo-terabyte", 26, 187_767_399, 128, 13, 479),
        ("rm1", 8, 32_000_000, 32, 128, 288),
        ("rm2", 32, 16_000_000, 64, 256, 2112),
        ("rm3", 10, 20_000_000, 32, 2560, 352),
    ],
)
def test_presets_have_the_published_sizes(name, tables, rows, dim, dense, top_inputs):
    shape = preset_shape(name)
    assert shape.name == name
    assert len(shape.tables) == tables
    assert sum(table.rows for table in shape.tables) == rows
    assert {table.dim for table in shape.tables} == {dim}
    assert shape.dense == dense
    assert shape.top_inputs == top_inputs
    assert name in preset_names()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.stem
)
def test_examples_are_valid(path):
    if path.stem.endswith(".model"):
        read_model(path)
    else:
        assert model_shape(load_config(path)).tables


def test_tables_of_the_documentation_are_up_to_date():
    module = runpy.run_path(str(ROOT / "scripts" / "configuration.py"))
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert module["render"](page) == page


@pytest.mark.parametrize("record", [Config, ModelFile])
def test_every_key_is_described(record):
    def undescribed(record, prefix):
        for name, field in record.model_fields.items():
            if not field.description:
                yield f"{prefix}{name}"
            for inner in records_of(field.annotation):
                yield from undescribed(inner, f"{prefix}{name}.")

    assert list(undescribed(record, "")) == []


@pytest.mark.parametrize(("format_", "dim"), [("int8r", 4), ("int4r", 8)])
def test_rows_with_a_scale_of_their_own_are_accepted(case, format_, dim):
    model = MODEL.replace("[8, 4]", f"[8, {dim}]").replace("dim = 4", f"dim = {dim}")
    (case / "model.toml").write_text(model.replace("rows = 10", f'rows = 10\nformat = "{format_}"'))
    table = model_shape(load_config(case / "config.toml")).tables[0]
    assert (table.format, table.rowwise, table.dim) == (format_, True, dim)
    assert table.row_bytes == {"int8r": dim, "int4r": dim // 2}[format_] + 4
