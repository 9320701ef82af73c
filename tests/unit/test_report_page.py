"""The report from made-up figures: every key, a page that stands alone."""

import json
import re

import numpy as np
import pytest

from screc.devices import all_devices
from screc.plan.schema import CoreCounts, CoreShapes, DevicePlan, Plan, TablePlan, table_ranges
from screc.report.charts import Bar, TierBar, bar_chart, compact, tier_chart
from screc.report.html import MAX_TABLES, render
from screc.report.roofline import roofline
from screc.report.summary import KINDS, summarise
from screc.stats import FeatureStats, TableStats
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams

ROWS = {"user<b>": 500_000, "item": 20_000, "tiny": 3}


def make_shape(names):
    return ModelShape(
        name="made-up",
        dense=4,
        bottom=(16, 8),
        top=(16, 1),
        interaction="dot",
        tables=tuple(TableShape(name=name, rows=rows, dim=8) for name, rows in names.items()),
        features=tuple(FeatureShape(name=name, table=i) for i, name in enumerate(names)),
    )


def make_stats(name, rows):
    hot = np.arange(min(rows, 10))
    return TableStats(
        name=name,
        rows=rows,
        dim=8,
        features=(FeatureStats(name=name, pooling=1.0, longest=1, coverage=1.0),),
        profile_samples=100,
        holdout_samples=100,
        hot_ids=hot,
        hot_counts=np.full(len(hot), 10),
        holdout_counts=np.full(len(hot), 9),
        unseen_lookups=10 if rows > 10 else 0,
    )


@pytest.fixture
def case():
    return make_case(ROWS)


def make_case(names, **changes):
    shape = make_shape(names)
    params = DeviceParams.for_model(shape, rows=8, columns=8)
    predicted = params.predict(shape, 64)
    simulation = {
        "simulator": "verilator",
        "simulator_version": "Verilator 5.0",
        "samples": 64,
        "batch": 32,
        "blocks": 2,
        "bit_exact": True,
        "mismatches": 0,
        "first_mismatches": [],
        "errors": [],
        "cycles": 6400,
        "cycles_per_sample": 100.0,
        "memory_latency": 64,
        "predicted": {
            "total": predicted.total,
            "parts": predicted.parts,
            "bottleneck": predicted.bottleneck,
        },
        "lookups": 64 * len(names),
        "row_beats": 64 * len(names),
        "row_slices": 64 * len(names),
        "staged_rows": 5,
        "tt_lookups": 40,
        "tt_hits": 10,
        "tt_macs": 5120,
        "staged_lookups": 6,
        "staged_pages": 5,
        "queue_bytes": 6400,
        "section_bytes": 64 * 8 * len(names),
        "host_lookups_per_s": 1e6,
        "accuracy": {
            "logit_std": 1.0,
            "logit_rms_error": 0.02,
            "probability_error": 0.002,
            "auc_float": 0.75,
            "auc_device": 0.7499,
        },
        "counters": {"memory": [{"lookups": 1234567}], "compute": [{"busy": 5}]},
        "simulation_seconds": 1.0,
        "simulated_cycles": 7000,
        **changes,
    }
    device = DevicePlan(
        kind="smartssd",
        cores=CoreCounts(memory=1),
        shapes=CoreShapes(rows=8, columns=8),
        staging_bytes=0,
        utilisation={},
        tables=tuple(
            TablePlan(table=name, ranges=table_ranges(rows, min(rows, 9000), 1, 0))
            for name, rows in names.items()
        ),
    )
    plan = Plan(
        objective="throughput",
        batch=32,
        bound=1e-6,
        value=1.01e-6,
        gap=0.01,
        seconds=1.01e-6,
        energy=1e-5,
        latency=1e-3,
        solve_seconds=0.1,
        intervals=100,
        bottleneck="compute",
        per_sample={"compute": 1e-6},
        ssd_reads=0.0,
        devices=(device,),
    )
    return {
        "shape": shape,
        "plan": plan,
        "device": next(spec for spec in all_devices() if spec.kind == "smartssd"),
        "design": {"params": params.as_dict(), "resources": params.resources().as_dict()},
        "simulation": simulation,
        "calibration": [
            {
                "tensor": "concat",
                "rule": "percentile 99.9",
                "range": 4.25,
                "peak": 6.5,
                "error": 0.0123,
                "logit_errors": {"mse": 0.02, "percentile 99.9": 0.01},
            }
        ],
    }


def page_of(case):
    summary = summarise(**case)
    stats = [make_stats(table.name, table.rows) for table in case["shape"].tables]
    rest = {name: value for name, value in case.items() if name != "calibration"}
    return render(summary=summary, stats=stats, config='path = "<&>"', **rest)


def test_the_summary_has_every_promised_key(case):
    summary = summarise(**case)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["cores"] == {"memory": 1, "tt": 0, "compute": 1}
    assert summary["devices"] == 1
    assert summary["clock_mhz"] == 250
    assert summary["samples_per_s"] == 250e6 / 100
    assert (summary["auc_float"], summary["auc_device"]) == (0.75, 0.7499)
    assert set(KINDS) <= set(summary)
    assert summary["drift"] == []
    assert summarise(**case, drift=["C3"])["drift"] == ["C3"]


def test_how_scales_were_chosen_is_in_summary_and_page(case):
    assert summarise(**case)["calibration"] == case["calibration"]
    page = " ".join(page_of(case).split())
    assert "<td>concat</td><td>percentile 99.9</td>" in page
    assert "±4.25" in page
    assert "1.23%" in page


def test_the_roofline_is_the_largest_bound(case):
    params = DeviceParams.from_dict(case["design"]["params"])
    bounds = roofline(case["shape"], params, case["simulation"])
    # 4·16 + 16·8 and (8 + 6 pairs)·16 + 16 MACs on 64 multipliers
    assert bounds["array"] == (64 + 128 + 224 + 16) / 64
    assert bounds["interaction"] == 6 * 8 / params.core.pair_multipliers
    # one beat per row, eight bytes per record
    assert bounds["memory ports"] == 3 + 3 * 8 / 64
    assert bounds["host writes"] == 1 / 8
    summary = summarise(**case)
    assert summary["bound_cycles_per_sample"] == max(bounds.values())


@pytest.mark.parametrize(("rate", "bottleneck"), [(1e6, True), (1e9, False)])
def test_the_host_is_compared_with_the_device(rate, bottleneck):
    summary = summarise(**make_case(ROWS, host_lookups_per_s=rate))
    assert summary["host_bottleneck"] is bottleneck
    assert ("needs" in summary["host_note"]) is bottleneck
    # 2.5 M samples/s × 3 lookups
    assert "7.5 M" in summary["host_note"]


def test_the_page_stands_alone(case):
    page = page_of(case)
    assert "<svg" in page
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    assert "prefers-color-scheme: dark" in page
    assert "bit-exact" in page


def test_names_and_configuration_are_escaped(case):
    page = page_of(case)
    assert "user<b>" not in page
    assert "user&lt;b&gt;" in page
    assert "path = &#34;&lt;&amp;&gt;&#34;" in page


def test_mismatches_are_on_the_page():
    changes = {
        "bit_exact": False,
        "mismatches": 2,
        "first_mismatches": [{"sample": 7, "field": "logit", "got": -3, "expected": 4}],
        "errors": ["gmem0: read of 64 bytes at 0x40 is in no region"],
    }
    page = page_of(make_case(ROWS, **changes))
    assert "not bit-exact" in page
    assert "sample 7, logit" in page
    assert "in no region" in page


def test_a_model_without_labels_has_no_auc():
    accuracy = {
        "logit_std": 0.0,
        "logit_rms_error": 0.0,
        "probability_error": 0.0,
        "auc_float": None,
        "auc_device": None,
    }
    assert "AUC in INT8" not in page_of(make_case(ROWS, accuracy=accuracy))


def test_many_tables_are_cut_to_the_largest():
    names = {f"t{i}": 1000 + i for i in range(MAX_TABLES + 5)}
    page = page_of(make_case(names))
    assert f"the {MAX_TABLES} largest of {MAX_TABLES + 5} tables" in page
    assert ">t44<" in page
    assert ">t4<" not in page


def test_bars_share_a_scale():
    chart = str(bar_chart("x", [Bar("a", 1, "1"), Bar("b", 4, "4")], limit=8))
    narrow, wide = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart))
    assert wide == pytest.approx(4 * narrow, abs=0.2)
    assert 'class="mark"' in chart


def test_tier_bars_are_logarithmic():
    chart = str(tier_chart("x", [TierBar("t", (("dram", 1000), ("ssd", 1_000_000)), "")]))
    dram, ssd = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart))
    assert dram == pytest.approx(ssd, abs=0.2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0312, "0.0312"), (999, "999"), (33.7e6, "33.7 M"), (1e9, "1 G")],
)
def test_numbers_are_compact(value, text):
    assert compact(value) == text
