"""The picture of a sweep: throughput against energy per sample, or against resources used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from screc.sweep.grid import describe
from screc.sweep.pareto import ENERGY, Best, Front, Row, cost_of

WIDTH_IN, PLOT_IN, MARGIN_IN = 10.0, 5.6, 0.75
LINE_IN = 0.24
"""Inches: width of the picture, right end of the plot, its margins, height of a label."""

COLOURS = ("#1b6ca8", "#d1603d", "#3a8a5f", "#8a5aa8", "#b8902a", "#5a5a5a")
"""By count of devices, in order; further counts share the last one."""

PALE, INK = "#c3ccd4", "#2b2b2b"

MOST_LABELS = 40


def write_picture(
    rows: Sequence[Row], front: Front, names: dict[str, str], path: Path, folder: Path
) -> None:
    """Write the picture to ``path``, ``.svg`` or ``.png``, by way of ``folder`` beside it.

    Parameters
    ----------
    rows
        All points.
    front
        Those of them that no other beats; they are labelled with their settings.
    names
        Names of the settings; see :func:`screc.sweep.grid.labels`.
    path, folder
        The picture, and a folder on the same file system.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = front.points[:MOST_LABELS]
    counts = sorted({row["devices"] for row in rows if row["status"] == "ok"})
    legend = LINE_IN * (len(counts) + 3)
    height = max(4.8, 1.5 * MARGIN_IN + LINE_IN * len(shown) + legend)
    figure = Figure(figsize=(WIDTH_IN, height), facecolor="white")
    bottom, top = MARGIN_IN / height, 1 - 0.5 * MARGIN_IN / height
    left = 0.95 / WIDTH_IN
    axes = figure.add_axes((left, bottom, PLOT_IN / WIDTH_IN - left, top - bottom))
    colours = {count: COLOURS[min(i, len(COLOURS) - 1)] for i, count in enumerate(counts)}
    _plot(axes, rows, front, colours)
    _name_axes(axes, front.cost)
    plot = (top - bottom) * height
    _label(axes, front, shown, names, LINE_IN / plot, legend / plot)
    if counts:
        axes.legend(
            fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(1.02, 0), borderaxespad=0
        )
    temporary = folder / f"picture{path.suffix}"
    # the same sweep gives the same bytes
    with rc_context({"svg.hashsalt": "screc", "svg.fonttype": "none"}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(temporary, dpi=150, metadata=metadata)
    temporary.replace(path)


def _plot(axes: Any, rows: Sequence[Row], front: Front, colours: dict[int, str]) -> None:
    best = {id(point.row) for point in front.points}
    feasible = [row for row in rows if row["status"] == "ok"]
    others = [row for row in feasible if id(row) not in best]
    style: dict[str, Any] = {"linestyle": "none", "marker": "o"}
    if others:
        xs, ys = _places(others, front.cost)
        axes.plot(xs, ys, ms=4.5, color=PALE, label="estimated", zorder=2, **style)
    for count, colour in colours.items():
        chosen = [point.row for point in front.points if point.row["devices"] == count]
        if chosen:
            devices = f", {count} device{'s' * (count > 1)}"
            xs, ys = _places(chosen, front.cost)
            label = f"estimated, not beaten{devices}"
            axes.plot(xs, ys, ms=7, color=colour, label=label, zorder=3, **style)
    measured = [row for row in feasible if row.get("measured_throughput") is not None]
    for row in measured:
        x = _cost(row, front.cost)
        ends = (row["throughput"], row["measured_throughput"])
        axes.plot((x, x), ends, color=INK, lw=0.7, alpha=0.6, zorder=1)
    if measured:
        axes.plot(
            [_cost(row, front.cost) for row in measured],
            [row["measured_throughput"] for row in measured],
            linestyle="none",
            marker="D",
            ms=5.5,
            mfc="none",
            mec=INK,
            label="RTL: measured cycles at the target clock",
            zorder=4,
        )


def _places(rows: Sequence[Row], cost: str) -> tuple[list[float], list[float]]:
    return [_cost(row, cost) for row in rows], [row["throughput"] for row in rows]


def _cost(row: Row, cost: str) -> float:
    """Place on the horizontal axis: J, or percent."""
    value = cost_of(row, cost) or 0.0
    return value if cost == ENERGY else 100 * value


def _label(
    axes: Any, front: Front, shown: Sequence[Best], names: dict[str, str], step: float, room: float
) -> None:
    """Write the settings of the points in a column at the right, each with a line to its point.

    ``step`` is the height of a line and ``room`` what stays free below, as shares of the plot's.
    """
    from matplotlib.patches import ConnectionPatch

    to_axes = axes.transData + axes.transAxes.inverted()
    highest, place = 1.0, (0.0, 0.0)
    for i, point in enumerate(shown):
        text = describe(point.row, names)
        if point.equal:
            text += f"  (and {point.equal} equal)"
        place = (_cost(point.row, front.cost), point.row["throughput"])
        # beside its point, but below the label before and above room for those behind
        lowest = (len(shown) - i - 0.5) * step + room
        y = max(min(to_axes.transform(place)[1], highest - step / 2), lowest)
        highest = y - step / 2
        line = ConnectionPatch(
            place, (1.03, y), "data", "axes fraction", color=INK, lw=0.4, alpha=0.5
        )
        line.set_clip_on(False)
        axes.add_artist(line)
        axes.text(1.04, y, text, transform=axes.transAxes, fontsize=7.5, va="center", color=INK)


def _name_axes(axes: Any, cost: str) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    if cost == ENERGY:
        axes.set_xlabel("energy per sample (J), estimated")
        axes.xaxis.set_major_formatter(EngFormatter(unit="J"))
    else:
        axes.set_xlabel("largest share of a resource used (%), estimated")
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylabel("throughput (samples/s)")
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.grid(visible=True, color="#e8e8e8", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.06)
