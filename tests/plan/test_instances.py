"""Seeded planning problems."""

import dataclasses

import numpy as np
import pytest

from screc.config_validation import validate
from screc.errors import ConfigError
from screc.plan import instances
from screc.plan.catalogue import Pins
from screc.plan.instances import (
    Instance,
    LognormalSource,
    ReuseSource,
    find_instance,
    problem_of,
    tables_of,
    zipf_curve,
)

DEVICE = [{"kind": "smartssd", "ssd_kiops": 400}]
LOGNORMAL = {
    "source": "lognormal",
    "interaction": "concat",
    "tables": 30,
    "rows": 1_000_000,
    "rows_sigma": 2.0,
    "dim": 32,
    "pooling_mean": 5,
    "pooling_sigma": 1.0,
    "pooling_range": [1, 20],
    "zipf_range": [0.6, 1.3],
    "bags": "poisson",
}
REUSE = {
    "source": "reuse",
    "interaction": "concat",
    "tables": 20,
    "rows": 500_000,
    "samples": 1000,
    "dims": [32, 64],
    "pooling_mean": 5,
    "pooling_sigma": 0.5,
    "pooling_range": [1, 20],
    "tilt_sigma": 0.0,
    "reuse": [1, 2, 4, 8, 16, 32, 64],
    "accesses": [0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1],
}
TABLES = {"source": "tables", "rows": [100, 50], "dim": 16, "pooling": [2, 1]}


def instance_of(model, **more):
    data = {"name": "x", "seed": 1, "batch": 16, "device": DEVICE, "model": model, **more}
    return validate(Instance, data, "x.toml")


def test_every_instance_is_as_published():
    found = {each.name: tables_of(each) for each in instances.instances()}
    assert len(found) == len(instances.instances())
    count = {name: len(tables) for name, tables in found.items()}
    rows = {name: sum(t.shape.rows for t in tables) for name, tables in found.items()}
    assert rows["criteo-kaggle"] == 33_762_577
    assert (count["mlperf-v2-x4"], rows["mlperf-v2-x4"]) == (26, 204_184_588)
    for name in ("recshard-rm2-x8", "recshard-rm2-x16", "recshard-rm2-int4-x8"):
        assert (count[name], rows[name]) == (397, 2_661_369_917)
    assert (count["mels-856-x8"], rows["mels-856-x8"]) == (856, 128_435_723)
    lookups = {name: sum(t.rates.lookups for t in tables) for name, tables in found.items()}
    assert lookups["mlperf-v2-x4"] == pytest.approx(214)
    assert lookups["rm2"] == pytest.approx(32 * 120)
    assert lookups["mels-856-x8"] == pytest.approx(856 * 15.8, rel=0.03)
    asked = [each.name for each in instances.instances() if len(each.objectives) == 3]
    assert len(asked) == 4


def test_every_curve_is_a_falling_one_of_all_rows():
    for each in instances.instances():
        for table in tables_of(each):
            curve = table.rates
            assert curve.edges[0] == 0
            assert curve.edges[-1] == table.shape.rows
            assert (np.diff(curve.edges) > 0).all()
            assert (np.diff(curve.rates) <= 0).all()
            assert (curve.rates > 0).all()
            assert len(curve.rates) <= instances.PIECES


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 1.3])
@pytest.mark.parametrize("rows", [1, 2, 7, 5000])
def test_a_zipf_curve_is_the_law(rows, exponent):
    curve = zipf_curve(rows, 3.0, exponent, pieces=40)
    law = np.arange(1, rows + 1) ** -exponent
    law *= 3.0 / law.sum()
    assert curve.lookups == pytest.approx(3.0)
    assert curve.rows == rows
    sums = np.add.reduceat(law, curve.edges[:-1])
    np.testing.assert_allclose(curve.rates * curve.widths, sums, rtol=2e-2)
    assert len(curve.rates) <= 40


def test_companions_are_read_as_often_as_their_id():
    curve = zipf_curve(10, 6.0, 1.0, group=3)
    assert curve.edges.tolist() == [0, 3, 6, 9, 10]
    np.testing.assert_allclose(curve.rates / curve.rates[0], [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-12)
    assert curve.lookups == pytest.approx(6.0)


def test_lognormal_tables_have_the_rows_asked_for_and_clipped_bags():
    tables = tables_of(instance_of(LOGNORMAL))
    assert sum(table.shape.rows for table in tables) == 1_000_000
    lengths = [table.rates.lookups for table in tables]
    assert min(lengths) >= 1 - 1e-9
    assert max(lengths) <= 20 + 1e-9
    for table, length in zip(tables, lengths, strict=True):
        assert table.bags == pytest.approx(1 - np.exp(-length))


def by_reuse(table):
    """Share of a table's lookups by how often the row is read; the coldest rows are read once."""
    curve = table.rates
    bins = np.searchsorted(REUSE["reuse"], curve.rates / curve.rates.min() * (1 - 1e-9))
    return np.bincount(bins, curve.rates * curve.widths, 7) / curve.lookups


def test_reuse_tables_follow_the_histogram():
    tables = tables_of(instance_of(REUSE))
    assert sum(table.shape.rows for table in tables) == 500_000
    for table in tables:
        np.testing.assert_allclose(by_reuse(table), REUSE["accesses"], atol=0.01)
    tilted = [by_reuse(t) for t in tables_of(instance_of({**REUSE, "tilt_sigma": 0.3}))]
    assert np.ptp(tilted, axis=0).max() > 0.1


def test_the_tables_of_the_trace_together_are_covered_as_published():
    tables = tables_of(find_instance("mels-856-x8"))
    rates = np.concatenate([table.rates.rates for table in tables])
    rows = np.concatenate([table.rates.widths for table in tables])
    order = np.argsort(-rates)
    lookups = np.cumsum((rates * rows)[order])
    ranks = np.cumsum(rows[order])
    # of the published histogram, by its bins' middles
    shares = {
        0.0038: 0.36,
        0.0082: 0.42,
        0.019: 0.49,
        0.05: 0.60,
        0.12: 0.72,
        0.23: 0.82,
        0.52: 0.93,
    }
    for of_rows, of_lookups in shares.items():
        covered = lookups[np.searchsorted(ranks, of_rows * ranks[-1])] / lookups[-1]
        assert covered == pytest.approx(of_lookups, abs=0.03)


def test_an_instance_is_the_same_every_time_and_its_seed_matters():
    one = instance_of(LOGNORMAL)
    first = tables_of(one)
    for cached in (instances._curves, instances.tables_of, instances.model_of):
        cached.cache_clear()
    again = tables_of(one)
    other = tables_of(instance_of(LOGNORMAL, seed=2))
    assert first is not again
    for a, b in zip(first, again, strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.rates.rates, b.rates.rates)
    assert [t.shape.rows for t in first] != [t.shape.rows for t in other]


def test_a_problem_has_the_devices_asked_for():
    device = [*DEVICE, {"kind": "u50", "count": 2}]
    problem = problem_of(
        instance_of(LOGNORMAL, device=device), Pins(memory=1, compute=1, rows=8, columns=8)
    )
    assert [(c.budget.kind, c.count) for c in problem.classes] == [("smartssd", 1), ("u50", 2)]
    assert all(each.patterns for each in problem.classes)
    assert problem.classes[0].budget.ssd_iops == 400e3
    assert problem.batch == 16
    assert [t.shape for t in problem.tables] == list(problem.shape.tables)
    assert instance_of(LOGNORMAL, device=device).device_kind == "smartssd+u50"


def test_projected_tables_are_narrow_where_samples_are_computed():
    source = {**LOGNORMAL, "project": 8, "tables": 3}
    pins = Pins(memory=1, compute=1, rows=8, columns=8)
    problem = problem_of(instance_of(source), pins)
    assert [t.dim for t in problem.shape.tables] == [32] * 3
    assert problem.compute_shape.top_inputs == 24


def test_tables_that_bring_tt_cores_may_be_in_tt_form():
    one = instance_of(TABLES, tt={"rank": 4, "tables": ["T1"]})
    assert (one.tt_rule, instance_of(TABLES).tt_rule) == ("brought, rank 4", "none")
    with_cores, without = tables_of(one)
    assert without.tt is None
    assert (with_cores.tt.last, with_cores.tt.shape.ranks, with_cores.tt.loss) == (100, (4, 4), 0.0)
    assert with_cores.onchip
    assert with_cores.dram
    assert not with_cores.tt_only
    pins = Pins(memory=1, compute=1, rows=8, columns=8)
    (klass,) = problem_of(one, pins).classes
    assert any(p.tt is not None for p in klass.patterns)
    assert None in klass.reconstructors
    (plain,) = problem_of(instance_of(TABLES), pins).classes
    assert plain.reconstructors == (None,)
    with pytest.raises(ConfigError, match="no table 'T3'"):
        tables_of(instance_of(TABLES, tt={"rank": 4, "tables": ["T3"]}))


def test_a_wrong_name_has_the_nearest():
    with pytest.raises(ConfigError, match=r"no instance 'rm22'.*rm2"):
        find_instance("rm22")


@pytest.mark.parametrize(
    ("model", "more", "text"),
    [
        ({**TABLES, "zipf": [1.0]}, {}, "zipf must be one value or 2, as rows are, not 1"),
        ({**TABLES, "rows": []}, {}, "rows"),
        ({**REUSE, "accesses": [1.0]}, {}, "accesses must be 7 values, as reuse are, not 1"),
        ({**REUSE, "reuse": [1, 1, 4, 8, 16, 32, 64]}, {}, "reuse must rise"),
        (TABLES, {"objectives": ["energy"]}, 'objectives must begin with "throughput"'),
        (TABLES, {"device": []}, "device"),
        ({**TABLES, "tables": 2}, {}, "tables"),
    ],
)
def test_a_wrong_instance_is_refused(model, more, text):
    with pytest.raises(ConfigError, match=text):
        instance_of(model, **more)


def test_formats_and_kinds_are_named():
    assert instance_of({**TABLES, "format": "int4"}).format == "int4"
    assert find_instance("mixed-60").device_kind == "smartssd+u50"
    assert isinstance(find_instance("recshard-rm2-x8").model, LognormalSource)
    assert isinstance(find_instance("mels-856-x8").model, ReuseSource)


def test_another_objective_keeps_the_rest():
    problem = problem_of(instance_of(TABLES), Pins(memory=1, compute=1, rows=8, columns=8))
    asked = instances.at_rate(problem, "energy", 100.0)
    assert (asked.objective, asked.rate) == ("energy", 100.0)
    assert dataclasses.replace(asked, objective="throughput", rate=None) == problem
