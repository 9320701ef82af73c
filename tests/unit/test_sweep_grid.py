"""The grid of a sweep: values as they are given, every combination, faults; scaled tables."""

import itertools

import pytest

from screc.config import load_config, model_shape
from screc.errors import ConfigError
from screc.sweep.grid import Case, describe, labels, make_points, parse_axes, parse_axis

MODEL = """
name = "m"
bottom = []
top = [4, 1]
interaction = "concat"
[[table]]
name = "a"
rows = 10
dim = 4
[[table]]
name = "b"
rows = 1
dim = 4
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "model.toml").write_text(MODEL)
    (tmp_path / "config.toml").write_text('[model]\nfile = "model.toml"\n[log]\nsamples = 20\n')
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("plan.batch=64", (64,)),
        ("plan.batch=64, 128 ,0x10", (64, 128, 16)),
        ("device.0.kind=u50,u280", ("u50", "u280")),
        ('log.path="a,b.npz",c.npz', ("a,b.npz", "c.npz")),
        ("log.path='a\\',b", ("a\\", "b")),
        (r'log.path="a\",b",c', ('a",b', "c")),
        ("log.path=it's.npz,b.npz", ("it's.npz", "b.npz")),
        ("log.path=day_[0-3].tsv,day_[4-5].tsv", ("day_[0-3].tsv", "day_[4-5].tsv")),
        ('t=["onchip", "dram"],[],["]"]', (["onchip", "dram"], [], ["]"])),
        ("t={a=1,b=[2,3]},{a=2}", ({"a": 1, "b": [2, 3]}, {"a": 2})),
        ("t=true,1,1.0", (True, 1, 1.0)),
        ('t=""', ("",)),
        ("log.path=a=b,c", ("a=b", "c")),
    ],
)
def test_values_are_cut_at_commas_of_their_own(text, values):
    axis = parse_axis(text)
    assert axis.key == text.partition("=")[0]
    assert axis.values == values
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plan.batch", "KEY=V1"),
        ("=1", "KEY=V1"),
        ("plan.batch=", "empty"),
        ("plan.batch=1,,2", "empty"),
        ("plan.batch=1,", "empty"),
        ("plan.batch=1,2,1", "1 is given twice"),
        ("t=[1,2", "bracket"),
        ("t=1],[2", "bracket"),
        ('t="a,b', "quote"),
    ],
)
def test_what_is_no_list_of_values_is_refused(text, expected):
    with pytest.raises(ConfigError, match="--set") as error:
        parse_axis(text)
    assert expected in str(error.value)


def test_a_key_is_given_once():
    with pytest.raises(ConfigError, match=r"plan\.batch: is given 2 times"):
        parse_axes(["plan.batch=1", "plan.gap=0", "plan.batch=2"])


def test_the_grid_is_every_combination(config):
    axes = parse_axes(["plan.batch=8,16,24", "device.0.clock_mhz=200,250", "plan.split=true"])
    # the device list has no element yet: a value below it makes one, and needs a kind
    axes = [*axes, *parse_axes(["device.0.kind=u50,smartssd"])]
    points = make_points(config, axes)
    expected = itertools.product((8, 16, 24), (200, 250), (True,), ("u50", "smartssd"))
    assert [tuple(point.settings.values()) for point in points] == list(expected)
    for point in points:
        assert isinstance(point.case, Case)
        batch, clock, split, kind = point.settings.values()
        found = point.case.config
        assert (found.plan.batch, found.plan.split) == (batch, split)
        assert (found.device[0].clock_mhz, found.device[0].kind) == (clock, kind)


def test_a_wrong_point_keeps_its_fault(config):
    one, two, three = make_points(config, parse_axes(["plan.cores.memory=2,3,4"]))
    assert isinstance(one.case, Case)
    assert isinstance(two.case, ConfigError)
    assert "power of two" in str(two.case)
    assert isinstance(three.case, Case)


def test_a_key_that_is_wrong_everywhere_is_an_error(config):
    with pytest.raises(ConfigError, match="bach"):
        make_points(config, parse_axes(["plan.bach=1,2"]))


def test_labels_are_short_and_tell_apart():
    axes = parse_axes(
        ["plan.cores.rows=8,16", "plan.batch=1", "device.0.count=1,2", "device.1.count=1,2"]
    )
    names = labels(axes)
    assert names == {
        "plan.cores.rows": "rows",
        "device.0.count": "device.0.count",
        "device.1.count": "device.1.count",
    }
    settings = {"plan.cores.rows": 8, "device.0.count": 1, "device.1.count": 2, "plan.batch": 1}
    assert describe(settings, names) == "rows 8, device.0.count 1, device.1.count 2"
    assert describe(settings, {}) == "as given"


@pytest.mark.parametrize(
    ("scale", "rows"), [(1, (10, 1)), (0.5, (5, 1)), (0.01, (1, 1)), (2.56, (26, 3))]
)
def test_scaled_tables(config, scale, rows):
    shape = model_shape(load_config(config, [f"model.scale={scale}"]))
    assert tuple(table.rows for table in shape.tables) == rows


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model.scale=0",), "model.scale"),
        (("model.scale=inf",), "model.scale"),
        (("model.scale=0.5", "model.weights=w.safetensors"), "weights"),
        (("model.scale=1e6", "model.preset=criteo-kaggle"), "at most 4,294,967,295"),
    ],
)
def test_scales_that_cannot_be(config, overrides, expected):
    with pytest.raises(ConfigError) as error:
        model_shape(load_config(config, overrides))
    assert expected in str(error.value)
