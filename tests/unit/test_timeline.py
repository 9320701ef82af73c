"""Operations of compute cores by name, and their picture."""

import re

import pytest

from screc.report.charts import Span, span_chart
from screc.simulate.timeline import timeline
from tests.support.compute import core_params, model_shape

MODEL = model_shape(dense=4, bottom=(8, 8), dims=(8, 8), top=(1000, 1))
PARAMS = core_params(MODEL, rows=4, columns=8, lanes=8)


def test_operations_are_named_and_parts_of_a_layer_joined():
    # K = 11: two steps per output, a part has 8 outputs of 256 steps
    parts = -(-1000 // PARAMS.part_outputs(11, 1000))
    assert parts > 2
    noted = [
        [0, 0, 100, 110],
        [0, 0, 115, 125],
        [0, 1, 125, 130],
        [1, 0, 140, 160],
        *([0, 0, 170 + 10 * i, 180 + 10 * i] for i in range(parts)),
        [0, 0, 2000, 2001],
        [0, 0, 2002, 2010],
    ]
    found, empty = timeline(MODEL, PARAMS, [noted, []])
    assert empty == []
    assert [(s["unit"], s["sub_batch"], s["layer"], s["first"], s["end"]) for s in found] == [
        ("array", 0, "bottom0", 0, 10),
        ("array", 0, "bottom1", 15, 25),
        ("array", 1, "bottom0", 25, 30),
        ("interaction", 0, "interaction", 40, 60),
        ("array", 0, "top0", 70, 70 + 10 * parts),
        ("array", 0, "top1", 1900, 1901),
        ("array", PARAMS.slots, "bottom0", 1902, 1910),
    ]


def test_parts_with_a_gap_stay_apart():
    noted = [[0, 0, 5, 6], [0, 0, 6, 7], [0, 0, 7, 8], [0, 0, 9, 10]]
    (found,) = timeline(MODEL, PARAMS, [noted])
    assert [(s["layer"], s["first"], s["end"]) for s in found] == [
        ("bottom0", 0, 1),
        ("bottom1", 1, 2),
        ("top0", 2, 3),
        ("top0", 4, 5),
    ]


def test_nothing_noted_is_nothing_shown():
    assert timeline(MODEL, PARAMS, [[], []]) == [[], []]


def test_spans_are_drawn_to_scale_up_to_the_limit():
    spans = [Span(0, 50, "one"), Span(50, 150, "two <b>", "turn-1"), Span(200, 300, "beyond")]
    text = str(span_chart("what runs", [("array", spans), ("interaction", [])], limit=100))
    rects = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', text)
    assert len(rects) == 2
    (x0, w0), (x1, w1) = ((float(x), float(w)) for x, w in rects)
    assert w0 == pytest.approx(w1)  # the second ends at the limit
    assert x1 == pytest.approx(x0 + w0)
    assert "two &lt;b&gt;" in text
    assert "beyond" not in text
