"""Pictures of the report as inline SVG, coloured by the page's style sheet (light and dark)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH = 760
"""Units of a whole-width picture; half of the page has :data:`HALF`."""

HALF = 430
LABEL = 160
VALUE = 175
HALF_VALUE = 60
"""Room for labels in front of bars and for text behind them."""

ROW = 26
BAR = 14
"""Height of a row and of the bar in it."""

MIN_BAR = 1.5
"""A value above zero stays visible."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar: ``text`` stands behind it; ``style`` is a class of the style sheet."""

    label: str
    value: float
    text: str
    style: str = "a"


@dataclasses.dataclass(frozen=True)
class TierBar:
    """A table's rows by tier: ``parts`` are (tier, last rank + 1), hottest first."""

    label: str
    parts: tuple[tuple[str, int], ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch ``[first, end)`` of a row of :func:`span_chart`; ``text`` is its tip."""

    first: float
    end: float
    text: str
    style: str = "a"


def compact(value: float) -> str:
    """Write a number as people read it: ``33.7 M``, ``1.2 k``, ``0.031``."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def _open(rows: int, title: str, width: int, foot: int = 0) -> str:
    height = rows * ROW + foot + 4
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, style: str, tip: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, MIN_BAR):.1f}" height="{BAR}" '
        f'rx="2" class="{style}"><title>{escape(tip)}</title></rect>'
    )


def bar_chart(
    title: str, bars: Sequence[Bar], *, limit: float | None = None, half: bool = False
) -> Markup:
    """Draw bars on a common linear scale that ends at the largest, or at ``limit``.

    With ``limit``, its place is marked by a line; ``half`` draws for half of the page's width.
    """
    width_of_all = HALF if half else WIDTH
    room = width_of_all - LABEL - (HALF_VALUE if half else VALUE)
    top = max([bar.value for bar in bars] + [limit or 0.0]) or 1.0
    parts = [_open(len(bars), title, width_of_all)]
    for i, bar in enumerate(bars):
        y = i * ROW + 4
        parts.append(_text(LABEL - 10, y + BAR - 2, bar.label, "label"))
        width = bar.value / top * room
        parts.append(_rect(LABEL, y, width, bar.style, f"{bar.label}: {bar.text}"))
        parts.append(_text(LABEL + width + 8, y + BAR - 2, bar.text, "value"))
    if limit is not None:
        x = LABEL + limit / top * room
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{len(bars) * ROW}" class="mark"/>'
        )
    return Markup("".join(parts) + "</svg>")


def tier_chart(title: str, bars: Sequence[TierBar]) -> Markup:
    """Draw tables as bars over the frequency rank on a log scale, coloured by tier."""
    room = WIDTH - LABEL - VALUE
    decades = max(1, math.ceil(math.log10(max([bar.parts[-1][1] for bar in bars] + [10]))))

    def place(rank: int) -> float:
        return LABEL + (math.log10(rank) / decades * room if rank > 1 else 0)

    height = len(bars) * ROW
    parts = [_open(len(bars), title, WIDTH, foot=18)]
    for decade in range(decades + 1):
        x = place(10**decade)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" class="grid"/>')
        parts.append(_text(x, height + 12, compact(10**decade), "tick"))
    for i, bar in enumerate(bars):
        y = i * ROW + 4
        parts.append(_text(LABEL - 10, y + BAR - 2, bar.label, "label"))
        first = 0
        for tier, last in bar.parts:
            if last > first:
                x = place(first)
                tip = f"{bar.label}: ranks {first:,} to {last - 1:,} in {tier}"
                parts.append(_rect(x, y, place(last) - x, f"tier-{tier}", tip))
            first = last
        parts.append(_text(place(first) + 8, y + BAR - 2, bar.text, "value"))
    return Markup("".join(parts) + "</svg>")


def span_chart(title: str, rows: Sequence[tuple[str, Sequence[Span]]], *, limit: float) -> Markup:
    """Draw what every row does over time, from 0 to ``limit``; what lies beyond is left out."""
    room = WIDTH - LABEL - HALF_VALUE
    height = len(rows) * ROW
    parts = [_open(len(rows), title, WIDTH, foot=18)]
    for quarter in range(5):
        x = LABEL + quarter / 4 * room
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" class="grid"/>')
        parts.append(_text(x, height + 12, compact(quarter / 4 * limit), "tick"))
    for i, (label, spans) in enumerate(rows):
        y = i * ROW + 4
        parts.append(_text(LABEL - 10, y + BAR - 2, label, "label"))
        for span in spans:
            if span.first < limit:
                x, end = (LABEL + min(t, limit) / limit * room for t in (span.first, span.end))
                # neighbours touch: no rounded ends, and no more width than there is
                parts.append(
                    f'<rect x="{x:.2f}" y="{y}" width="{max(end - x, 0.2):.2f}" height="{BAR}" '
                    f'class="{span.style}"><title>{escape(span.text)}</title></rect>'
                )
    return Markup("".join(parts) + "</svg>")
