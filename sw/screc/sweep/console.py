"""Tables of a sweep for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from screc.report.charts import compact
from screc.sweep.grid import show
from screc.sweep.pareto import ENERGY, Front, Row, cost_of


def pareto_table(front: Front, names: dict[str, str]) -> Table:
    """Return the points that no other beats, fastest first."""
    cost = "J per sample" if front.cost == ENERGY else "largest share"
    columns = ("samples/s", cost, "devices", "bottleneck", "gap", "equal ones")
    table = _table("Points that no other beats (estimated)", names, columns)
    for point in front.points:
        row = point.row
        value = cost_of(row, front.cost)
        table.add_row(
            *_settings(row, names),
            compact(row["throughput"]),
            "" if value is None else f"{value:.3g}" if front.cost == ENERGY else f"{value:.0%}",
            str(row["devices"]),
            row["bottleneck"],
            f"{row['gap']:.2%}",
            str(point.equal),
        )
    return table


def measured_table(rows: Sequence[Row], names: dict[str, str]) -> Table:
    """Return measured beside predicted cycles per sample, fewest measured first."""
    title = "Cycles per sample: measured on the RTL, predicted for the same samples"
    columns = ("samples/s", "predicted", "measured", "error", "bit exact")
    table = _table(title, names, columns)
    for row in sorted(rows, key=lambda row: row["measured_cycles_per_sample"]):
        table.add_row(
            *_settings(row, names),
            compact(row["throughput"]),
            f"{row['predicted_cycles_per_sample']:,.1f}",
            f"{row['measured_cycles_per_sample']:,.1f}",
            f"{row['error_percent']:+.1f} %",
            "yes" if row["bit_exact"] else "NO",
        )
    return table


def _settings(row: Row, names: dict[str, str]) -> list[str]:
    return [show(row[key]) for key in names]


def _table(title: str, names: dict[str, str], figures: Sequence[str]) -> Table:
    table = Table(title=title)
    options: dict[str, Any] = {"justify": "right", "overflow": "fold"}
    for column in (*names.values(), *figures):
        table.add_column(column, **options)
    return table
