"""The device catalogue: every figure has a source, and every one can be overridden."""

import dataclasses
import tomllib
from importlib import resources

import pytest
from pydantic import ValidationError

from screc.devices import DeviceConfig, DeviceSpec, all_devices, resolve_device

TEXT = ("kind", "part", "platform", "memory", "pcie", "slrs", "sources")


def test_every_kind_is_whole_and_every_figure_has_an_explained_source():
    text = (resources.files("screc") / "data" / "devices.toml").read_text()
    header = text[: text.index("\n[")]
    specs = {spec.kind: spec for spec in all_devices()}
    assert list(specs) == ["smartssd", "u50", "u55c", "u280", "u200", "u250"]
    for kind, figures in tomllib.loads(text).items():
        for name, figure in figures.items():
            assert set(figure) == {"value", "source"}, (kind, name)
            assert f"#   {figure['source']} " in header
        absent = {f.name for f in dataclasses.fields(DeviceSpec)} - set(figures)
        expected = {"kind", "sources", "ssd_kiops"}
        assert absent == (expected if kind == "smartssd" else expected | {"ssd_gib", "p2p_gbs"})


def test_smartssd_has_the_region_of_its_platform_not_the_bare_chip():
    spec = resolve_device(DeviceConfig(kind="smartssd"))
    assert (spec.lut, spec.dsp, spec.bram36, spec.uram) == (304_000, 1341, 606, 104)
    budget = spec.budget()
    assert (budget.lut, budget.dsp, budget.bram36, budget.uram) == (212_800, 1072, 484, 83)
    assert spec.has_ssd
    assert spec.ssd_kiops is None


def test_only_the_smartssd_has_an_ssd_tier():
    assert [spec.kind for spec in all_devices() if spec.has_ssd] == ["smartssd"]


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(DeviceSpec) if f.name not in TEXT]
)
def test_every_figure_can_be_overridden(name):
    value = 1.0 if name.endswith("_fill") else 70 if name == "watts" else 7
    given = {"kind": "smartssd", name: value}
    spec = resolve_device(DeviceConfig(**given))
    assert getattr(spec, name) == value
    assert spec.sources[name] == "configuration"
    assert getattr(resolve_device(DeviceConfig(kind="smartssd")), name) != value


def test_random_rate_is_that_of_the_row_size():
    spec = resolve_device(
        DeviceConfig(
            kind="u50", random_64_gbs=4, random_128_gbs=8, random_256_gbs=12, random_512_gbs=13
        )
    )
    assert [spec.random_gbs(size) for size in (16, 32, 64, 128, 256, 512, 2048)] == [
        1.0,
        2.0,
        4.0,
        8.0,
        12.0,
        13.0,
        13.0,
    ]
    assert spec.random_gbs(192) == 10.0


@pytest.mark.parametrize("given", [{"watts": 16.4}, {"static_watts": 25}])
def test_a_power_limit_that_leaves_nothing_for_work_is_refused(given):
    with pytest.raises(ValidationError, match="leaves nothing for work beside static_watts"):
        DeviceConfig(kind="smartssd", **given)


def test_half_an_ssd_is_refused():
    with pytest.raises(ValidationError, match="u50 has no SSD of its own: ssd_gib needs p2p_gbs"):
        DeviceConfig(kind="u50", ssd_gib=100)
    spec = resolve_device(DeviceConfig(kind="u50", ssd_gib=100, p2p_gbs=2))
    assert spec.has_ssd
