"""Points that no other beats, their picture, and the table."""

import random
import re

import polars as pl
import pytest

from screc.errors import ConfigError
from screc.sweep.console import measured_table, pareto_table
from screc.sweep.grid import parse_axes
from screc.sweep.pareto import ENERGY, SHARE, largest_share, pareto_front
from screc.sweep.picture import write_picture
from screc.sweep.table import COLUMNS, check_names, write_table

NAMES = {"plan.batch": "batch"}


def row(throughput, energy, devices=1, **more):
    figures = {"status": "ok", "throughput": throughput, ENERGY: energy, "devices": devices}
    return {"bottleneck": "dram", "gap": 0.0, "plan.batch": 8, **figures, **more}


def draw(seed, count):
    generator = random.Random(seed)
    rows = [
        row(generator.randint(1, 6), generator.randint(1, 6), generator.randint(1, 3))
        for _ in range(count)
    ]
    for i, one in enumerate(rows):
        one["plan.batch"] = i
        if generator.random() < 0.2:
            one.update(status="infeasible", throughput=None, devices=None)
    return rows


def figures(one):
    return (-one["throughput"], one[ENERGY], one["devices"])


@pytest.mark.parametrize("seed", range(30))
def test_no_other_beats_the_points_of_the_front(seed):
    rows = draw(seed, 40)
    ok = [one for one in rows if one["status"] == "ok"]

    def beaten(one):
        mine = figures(one)
        return any(
            all(a <= b for a, b in zip(figures(other), mine, strict=True))
            and figures(other) != mine
            for other in ok
        )

    expected = [one for one in ok if not beaten(one)]
    front = pareto_front(rows)
    assert front.cost == ENERGY
    assert {figures(p.row) for p in front.points} == {figures(one) for one in expected}
    assert sum(1 + p.equal for p in front.points) == len(expected)
    rates = [p.row["throughput"] for p in front.points]
    assert rates == sorted(rates, reverse=True)
    # of equal ones the first stands for all
    for point in front.points:
        same = [one for one in ok if figures(one) == figures(point.row)]
        assert point.row is same[0]


def test_without_energy_the_largest_share_is_compared():
    rows = [
        row(3.0, None, lut=0.2, dsp=0.9),
        row(2.0, 5.0, lut=0.5, dsp=None),
        row(1.0, 1.0, lut=0.6, dsp=0.1),
    ]
    front = pareto_front(rows)
    assert front.cost == SHARE
    assert [point.row for point in front.points] == rows[:2]
    assert largest_share({"lut": None}) is None


def test_nothing_feasible_has_no_front():
    assert pareto_front([{"status": "error", "message": "x"}]).points == ()


@pytest.mark.parametrize("energy", [True, False])
def test_the_picture_names_units_kinds_and_settings(tmp_path, energy):
    rows = draw(1, 60)
    for one in rows[:5]:
        one["measured_throughput"] = one["throughput"]
    if not energy:
        for one in rows:
            one.update({ENERGY: None, "lut": 0.25})
    front = pareto_front(rows)
    paths = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for path in paths:
        write_picture(rows, front, NAMES, path, tmp_path)
    text = paths[0].read_text()
    assert paths[1].read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]
    words = " ".join(re.findall(r">([^<>]+)</text>", text))
    assert ("energy per sample (J)" if energy else "largest share of a resource used (%)") in words
    assert "throughput (samples/s)" in words
    assert "estimated" in words
    assert "RTL: measured cycles at the target clock" in words
    for point in front.points:
        assert f"batch {point.row['plan.batch']}" in words


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_of_nothing_can_be_drawn(tmp_path, suffix):
    path = tmp_path / f"none.{suffix}"
    write_picture([], pareto_front([]), NAMES, path, tmp_path)
    assert path.stat().st_size > 0


def test_tables_for_people():
    rows = [
        row(3e6, 2e-6, measured_cycles_per_sample=20.0, **MEASURED),
        row(2e6, 1e-6, measured_cycles_per_sample=10.0, **{**MEASURED, "bit_exact": False}),
    ]
    table = measured_table(rows, NAMES)
    assert list(table.columns[3].cells) == ["10.0", "20.0"]
    assert list(table.columns[5].cells) == ["NO", "yes"]
    assert list(pareto_table(pareto_front(rows), NAMES).columns[1].cells) == ["3 M", "2 M"]


MEASURED = {"predicted_cycles_per_sample": 19.0, "error_percent": -5.0, "bit_exact": True}


def test_columns_have_the_types_of_their_values(tmp_path):
    axes = parse_axes(["a.i=1,2", "a.f=1,0.5", "a.s=u50,u280", "a.b=true,false", 'a.l=["x"],dram'])
    rows = [
        {axis.key: axis.values[k] for axis in axes} | {"status": "ok", "devices": 2, "lut": 0.5}
        for k in range(2)
    ]
    path = tmp_path / "t.parquet"
    write_table(rows, axes, path, tmp_path)
    found = pl.read_parquet(path)
    assert found.columns == [*(axis.key for axis in axes), *COLUMNS]
    assert found.dtypes[:5] == [pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.String]
    assert found["a.l"].to_list() == ['["x"]', "dram"]
    assert found["a.f"].to_list() == [1.0, 0.5]
    assert found["devices"].to_list() == [2, 2]
    assert found["throughput"].to_list() == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_key_that_is_a_column_is_refused():
    with pytest.raises(ConfigError, match="a column"):
        check_names(parse_axes(["model={preset='rm1'}"]))
