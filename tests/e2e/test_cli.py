"""The command line as a person meets it: exit codes, messages, nothing half-written."""

import json
import re

import pytest

from screc import cli


def invoke(capsys, *arguments):
    """Run the command line in this process; return (exit code, stdout, stderr)."""
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def starter(tmp_path, capsys):
    assert invoke(capsys, "new", tmp_path / "case")[0] == 0
    return tmp_path / "case"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_new_refuses_to_overwrite(starter, capsys):
    code, _, err = invoke(capsys, "new", starter)
    assert code == 1
    assert "exists already" in err


def test_devices_json_is_one_object(capsys):
    code, out, _ = invoke(capsys, "devices", "--json")
    kinds = {device["kind"] for device in json.loads(out)["devices"]}
    assert code == 0
    assert {"smartssd", "u50", "u55c", "u280"} <= kinds


def test_doctor_json_names_every_tool(capsys):
    code, out, _ = invoke(capsys, "doctor", "--json")
    tools = {tool["tool"]: tool for tool in json.loads(out)["tools"]}
    assert code == 0
    assert tools["amaranth"]["found"]
    assert all(tool["get"] for tool in tools.values())


def test_doctor_exits_3_when_a_required_tool_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("screc.doctor.PACKAGES", ("amaranth", "no-such-package"))
    code, out, _ = invoke(capsys, "doctor", "--json")
    assert code == 3
    assert "pip install no-such-package" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run",), "CONFIG"),
        (("run", "x.toml", "--sett", "a=1"), "--sett"),
        (("bench", "nothing"), "nothing"),
    ],
)
def test_wrong_usage_exits_1(capsys, arguments, expected):
    code, _, err = invoke(capsys, *arguments)
    assert code == 1
    assert expected in err


def test_missing_config_names_the_file(tmp_path, capsys):
    code, _, err = invoke(capsys, "run", tmp_path / "none.toml")
    assert code == 1
    assert "none.toml" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("config.toml", "ssd_kiops", "ssd_kiopz", r"ssd_kiopz"),
        ("config.toml", 'kind = "smartssd"', 'kind = "smartsdd"', r"smartsdd.*smartssd"),
        ("config.toml", 'format = "synthetic"', 'format = "tsv"', r"format.*tsv"),
        ("config.toml", "batch = 128", "batch = 0", r"batch"),
        ("model.toml", "dim = 16", "dim = 24", r"dim"),
        ("model.toml", 'table = "user"', 'table = "usr"', r"usr"),
        ("model.toml", "rows = 500_000", "rows = 0", r"rows"),
        ("model.toml", 'interaction = "dot"', 'interaction = "cross"', r"cross"),
        ("model.toml", 'format = "int8"', 'format = "int9"', r"int9.*int8r"),
        ("model.toml", "bottom = [64, 32, 16]", "bottom = [64, 32, 8]", r"bottom"),
        ("model.toml", "bottom = [64", "bottom = [64 =", r"model\.toml"),
    ],
)
def test_bad_configuration_exits_1_and_leaves_nothing(starter, capsys, file, old, new, expected):
    edit(starter / file, old, new)
    code, _, err = invoke(capsys, "run", starter / "config.toml", "-o", starter / "out")
    assert code == 1
    assert re.search(expected, err, re.DOTALL)
    assert "Traceback" not in err
    assert not (starter / "out").exists()


def test_set_with_an_unknown_key_names_it(starter, capsys):
    code, _, err = invoke(capsys, "plan", starter / "config.toml", "--set", "plan.bach=64")
    assert code == 1
    assert "bach" in err
    assert "batch" in err


def test_a_model_too_large_for_the_device_exits_2_and_says_what_would_help(starter, capsys):
    edit(starter / "config.toml", "rows = 16 ", "rows = 64 ")
    edit(starter / "config.toml", "columns = 16 ", "columns = 64 ")
    code, _, err = invoke(capsys, "plan", starter / "config.toml", "-o", starter / "out")
    assert code == 2
    assert "infeasible" in err
    assert not (starter / "out" / "plan.json").exists()
