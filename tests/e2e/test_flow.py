"""The whole path on small seeded models and on real data, as the command line runs it."""

import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from screc import cli, flow
from screc.config import load_config
from tests.conftest import shared_data

ROOT = Path(__file__).resolve().parents[2]

SUMMARY_KEYS = {
    "model",
    "device",
    "devices",
    "cores",
    "plan_gap",
    "samples",
    "simulator",
    "bit_exact",
    "mismatches",
    "cycles",
    "cycles_per_sample",
    "predicted_cycles_per_sample",
    "bound_cycles_per_sample",
    "bottleneck",
    "clock_mhz",
    "host_lookups_per_s",
}

SMALL = """
[model]
file = "model.toml"
seed = 3
[log]
format = "synthetic"
samples = 2000
[[device]]
kind = "smartssd"
ssd_kiops = 400
[plan]
batch = 24
[plan.cores]
rows = 8
columns = 8
memory = 1
compute = 1
[simulate]
samples = 40
"""

DOT = """
name = "small-dot"
dense = 5
bottom = [16, 8]
top = [16, 1]
interaction = "dot"
[[table]]
name = "a"
rows = 3000
dim = 8
[[table]]
name = "b"
rows = 200
dim = 8
format = "int4"
[[feature]]
name = "a1"
table = "a"
[[feature]]
name = "a2"
table = "a"
pooling = 5
mode = "mean"
[[feature]]
name = "b"
table = "b"
pooling = 3
"""

CONCAT = """
name = "small-concat"
dense = 0
bottom = []
top = [12, 1]
interaction = "concat"
[[table]]
name = "wide"
rows = 500
dim = 32
pooling = 4
[[table]]
name = "narrow"
rows = 900
dim = 16
"""


def run(config, out, *overrides, target="report"):
    """Run the flow quietly up to ``target``; return the step's JSON."""
    ctx = flow.Context.create(load_config(config, overrides), out, verbosity=-1)
    flow.run(ctx, target)
    return flow.result(ctx, target)


def write_case(folder):
    (folder / "config.toml").write_text(SMALL)
    (folder / "model.toml").write_text(DOT)
    return folder


@pytest.fixture
def case(tmp_path):
    return write_case(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A case and its output folder ``out``, up to the report."""
    folder = write_case(tmp_path_factory.mktemp("whole"))
    run(folder / "config.toml", folder / "out")
    return folder


@pytest.fixture
def made(whole, case):
    """A case with a copy of that output folder."""
    shutil.copytree(whole / "out", case / "out")
    return case


def result_digest(out):
    """Digest of every result word that the device wrote."""
    return json.loads((out / "simulation.json").read_text())["result_sha256"]


def check_timeline(simulation):
    """What the compute core ran: whole sub-batches, an operation of a unit at a time."""
    (core,) = simulation["timeline"]
    (counters,) = simulation["counters"]["compute"]
    units = {unit: [s for s in core if s["unit"] == unit] for unit in ("array", "interaction")}
    for spans in units.values():
        for one, following in itertools.pairwise(spans):
            assert one["first"] < one["end"] <= following["first"]
    busy = sum(span["end"] - span["first"] for span in units["array"])
    assert busy == counters["active"]
    assert core[0]["first"] == 0
    layers = {layer for span in core if span["sub_batch"] == 0 for layer in [span["layer"]]}
    expected = {"top0", "top1"}
    if units["interaction"]:
        expected |= {"bottom0", "bottom1", "interaction"}
    assert layers == expected
    # blocks of 24 and 16 samples in sub-batches of 8
    assert {span["sub_batch"] for span in core} == set(range(5))


@pytest.mark.cosim
@pytest.mark.parametrize(
    ("model", "simulator"),
    [
        pytest.param(CONCAT, "icarus", id="concat-icarus"),
        pytest.param(DOT, "icarus", id="dot-icarus", marks=pytest.mark.slow),
        pytest.param(CONCAT, "verilator", id="concat-verilator", marks=pytest.mark.slow),
    ],
)
def test_small_model_is_bit_exact(case, model, simulator):
    (case / "model.toml").write_text(model)
    run(case / "config.toml", case / "out", f"simulate.simulator={simulator}")
    check_small(case / "out", simulator)


@pytest.mark.cosim
def test_small_model_is_bit_exact_by_default(whole):
    check_small(whole / "out", "verilator")


def check_small(out, simulator):
    """What a run of 40 samples leaves."""
    summary = json.loads((out / "summary.json").read_text())
    assert summary["bit_exact"] is True
    assert summary["mismatches"] == 0
    assert summary["samples"] == 40
    assert summary["simulator"] == simulator
    assert set(summary) >= SUMMARY_KEYS
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "What the compute cores run" in page
    check_timeline(json.loads((out / "simulation.json").read_text()))
    assert not re.search(r'(src|href)="https?:', page)


@pytest.mark.cosim
@pytest.mark.slow
def test_weights_of_four_bits_are_bit_exact(case):
    (case / "model.toml").write_text('mlp_format = "int4"' + DOT)
    summary = run(case / "config.toml", case / "out", target="report")
    assert summary["bit_exact"] is True
    page = (case / "out" / "report.html").read_text()
    assert "<svg" in page


@pytest.mark.cosim
@pytest.mark.slow
def test_streamed_weights_are_bit_exact_and_shared(case):
    out = case / "out"
    summary = run(case / "config.toml", out, 'plan.cores.weights="stream"')
    assert summary["bit_exact"] is True
    plan = json.loads((out / "plan.json").read_text())
    assert plan["devices"][0]["weights"] == "stream"
    simulation = json.loads((out / "simulation.json").read_text())
    (counters,) = simulation["counters"]["compute"]
    layout = json.loads((out / "images" / "layout.json").read_text())
    (core,) = layout["cores"]
    passes = counters["weight_beats"] * 64 / core["weight_bytes"]
    sub_batches = 40 / 8
    assert passes >= 1
    assert passes < sub_batches
    assert summary["bound_cycles_per_sample"] <= summary["cycles_per_sample"]


@pytest.mark.slow
def test_two_plans_give_the_same_bits(case):
    one = case / "one"
    two = case / "two"
    run(case / "config.toml", one)
    changes = (
        "plan.cores.memory=2",
        "plan.cores.compute=2",
        "plan.cores.columns=16",
        "device.0.dram_gib=0.00002",
    )
    summary = run(case / "config.toml", two, *changes)
    plans = [json.loads((out / "plan.json").read_text()) for out in (one, two)]
    assert plans[0]["devices"] != plans[1]["devices"]
    assert summary["cores"]["memory"] == 2
    assert summary["staged_rows"] > 0
    assert result_digest(one) == result_digest(two)


MUTATIONS = {
    # one lane's adder of the pool subtracts
    "adder": (
        "*_memory_0_engine_pool_0.sv",
        r"(\$signed\(\S+ \[\d+:0\]\)) \+ (\$signed\(held\[)",
        r"\1 - \2",
    ),
    # one lane of the combiner's requantiser rounds down instead of half up
    "rounding": ("*_finish_requantise.sv", r"\+ \$signed\(2'h1\)", r"+ $signed(2'h0)"),
}
"""Faults by name: file, pattern of the first match, what it becomes."""

FEW = ("--set", "simulate.simulator=icarus", "--set", "simulate.samples=16")
"""A run that is soon over: Icarus builds at once."""


@pytest.mark.cosim
@pytest.mark.parametrize("fault", MUTATIONS)
def test_a_mutated_rtl_is_caught(made, capsys, fault):
    out = made / "out"
    pattern, old, new = MUTATIONS[fault]
    (path,) = (out / "rtl").glob(pattern)
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1, "the mutation found nothing to change"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["simulate", str(made / "config.toml"), "-o", str(out), *FEW])
    assert stop.value.code == 2
    assert "golden model" in capsys.readouterr().err
    simulation = json.loads((out / "simulation.json").read_text())
    assert simulation["bit_exact"] is False
    assert simulation["mismatches"] > 0


def command(capsys, *arguments):
    """Run the command line; return its exit code and what it wrote to stderr."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.cosim
def test_rtl_that_does_not_build_leaves_no_old_verdict(made, capsys):
    out = made / "out"
    arguments = ("run", made / "config.toml", "-o", out, *FEW)
    assert command(capsys, *arguments)[0] == 0
    assert json.loads((out / "summary.json").read_text())["bit_exact"] is True
    path = out / "rtl" / "screc.sv"
    path.write_text(path.read_text().replace("endmodule", "endmodul"))
    code, err = command(capsys, *arguments)
    assert code == 2
    assert "could not build" in err
    for name in flow.VERDICTS:
        assert not (out / name).exists()


def test_a_damaged_plan_is_named(case, capsys):
    out = case / "out"
    assert command(capsys, "plan", case / "config.toml", "-o", out)[0] == 0
    (out / "plan.json").write_text("{")
    code, err = command(capsys, "generate", case / "config.toml", "-o", out)
    assert code == 1
    assert "plan.json" in err
    assert "Traceback" not in err


def test_the_configuration_is_never_overwritten(case, capsys):
    before = (case / "config.toml").read_text()
    code, err = command(capsys, "analyze", case / "config.toml", "-o", case)
    assert code == 1
    assert "--output" in err
    assert (case / "config.toml").read_text() == before


def test_a_missing_simulator_is_told_before_anything_runs(case, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, err = command(capsys, "run", case / "config.toml", "-o", case / "out")
    assert code == 3
    assert "apt install make" in err
    assert not (case / "out").exists()


@pytest.mark.cosim
def test_generate_gives_the_same_bytes_twice(case, whole):
    def digests(out):
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("rtl", "constraints", "vitis")
            for path in sorted((out / folder).rglob("*"))
            if path.is_file()
        }

    first = digests(whole / "out")
    assert any(name.endswith(".sv") for name in first)
    run(case / "config.toml", case / "again", target="generate")
    assert first == digests(case / "again")


def test_steps_that_are_up_to_date_are_not_run_again(case, monkeypatch):
    run(case / "config.toml", case / "out", target="plan")
    before = (case / "out" / "plan.json").stat().st_mtime_ns
    run(case / "config.toml", case / "out", target="plan")
    assert (case / "out" / "plan.json").stat().st_mtime_ns == before
    run(case / "config.toml", case / "out", "plan.cores.columns=16", target="plan")
    assert (case / "out" / "plan.json").stat().st_mtime_ns != before


def real(tmp_path, example, data, *overrides):
    """Run ``example`` on ``data``; return its summary, and drop the images (hundreds of MB)."""
    out = tmp_path / "out"
    summary = run(ROOT / "examples" / example, out, f'log.path="{data}"', *overrides)
    shutil.rmtree(out / "images")
    return summary


def check_real(summary, samples):
    assert summary["bit_exact"] is True
    assert summary["mismatches"] == 0
    assert summary["samples"] >= samples
    ratio = summary["predicted_cycles_per_sample"] / summary["cycles_per_sample"]
    assert 0.85 <= ratio <= 1.15
    assert summary["bound_cycles_per_sample"] <= summary["cycles_per_sample"]


CRITEO = "criteo_first8000_shuffled.tsv.gz"
ICARUS = pytest.param(("simulate.simulator=icarus", "simulate.samples=16"), marks=pytest.mark.slow)


@pytest.mark.cosim
@pytest.mark.data
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("device.0.dram_gib=0.1",),
        ICARUS,
    ],
    ids=["verilator", "ssd", "icarus"],
)
def test_criteo_is_bit_exact(tmp_path, overrides):
    data = shared_data("criteo_raw8k") / CRITEO
    summary = real(tmp_path, "criteo-kaggle.toml", data, *overrides)
    icarus = "simulate.simulator=icarus" in overrides
    check_real(summary, 16 if icarus else 256)
    if "device.0.dram_gib=0.1" in overrides:
        assert summary["staged_rows"] > 0
    assert 0 < summary["auc_device"] < 1


RUNS = [
    (True, ()),
    pytest.param(False, (), marks=pytest.mark.slow),
    pytest.param(
        True, ("simulate.simulator=icarus", "simulate.samples=16"), marks=pytest.mark.slow
    ),
]
"""Whether tables are read from DRAM (by default they fit on chip), and other settings."""


@pytest.mark.cosim
@pytest.mark.data
@pytest.mark.parametrize(("in_dram", "overrides"), RUNS, ids=["dram", "onchip", "icarus"])
def test_gowalla_is_bit_exact(tmp_path, in_dram, overrides):
    data = shared_data("gowalla_bags") / "gowalla_bags.npz"
    wishes = ('plan.table.0={name="place", pin="dram"}',) if in_dram else ()
    summary = real(tmp_path, "gowalla.toml", data, *wishes, *overrides)
    check_real(summary, 16 if overrides else 256)


@pytest.mark.cosim
@pytest.mark.data
@pytest.mark.parametrize(("in_dram", "overrides"), RUNS, ids=["dram", "onchip", "icarus"])
def test_movielens_is_bit_exact(tmp_path, in_dram, overrides):
    data = shared_data("movielens_small") / "ratings.csv"
    names = ("user", "movie") if in_dram else ()
    wishes = (f'plan.table.{i}={{name="{name}", pin="dram"}}' for i, name in enumerate(names))
    summary = real(tmp_path, "movielens.toml", data, *wishes, *overrides)
    check_real(summary, 16 if overrides else 256)
    assert abs(summary["auc_float"] - summary["auc_device"]) < 0.05
