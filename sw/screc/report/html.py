"""``report.html``: one self-contained page, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2

from screc import __version__
from screc.devices import DeviceSpec
from screc.plan.schema import Plan
from screc.report.charts import Bar, Span, TierBar, bar_chart, compact, span_chart, tier_chart
from screc.stats import TableStats
from screc_hw.model import ModelShape

MAX_TABLES = 40
"""Tables in the picture of tiers: those with the most rows."""

MAX_TIMELINES = 2
"""Compute cores whose operations are drawn."""

SUB_BATCHES_DRAWN = 8

TURN_STYLES = 4
"""Colours that sub-batches take in turn."""

PART_NAMES = {
    "gather": "gather, pool",
    "combine": "combine bags",
    "compute": "interaction, MLPs",
    "host": "read requests",
}
"""What the parts of a prediction are called on the page."""


def render(
    *,
    summary: dict[str, Any],
    shape: ModelShape,
    plan: Plan,
    device: DeviceSpec,
    design: dict[str, Any],
    simulation: dict[str, Any],
    stats: Sequence[TableStats],
    config: str,
) -> str:
    """Return the page.

    Parameters
    ----------
    summary
        From :func:`screc.report.summary.summarise`.
    shape, plan, device, design, simulation, stats
        Model, plan, device, and the content of the other steps' files.
    config
        The resolved configuration as TOML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("screc.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["compact"] = compact
    tables = sorted(shape.tables, key=lambda table: -table.rows)
    return environment.get_template("page.html.j2").render(
        version=__version__,
        summary=summary,
        shape=shape,
        plan=plan,
        device=device,
        simulation=simulation,
        config=config,
        tables=len(tables),
        shown=min(len(tables), MAX_TABLES),
        charts={
            "cycles": _cycles(summary),
            "parts": _parts(simulation),
            "bounds": _bounds(summary),
            "tiers": _tiers(plan, [table.name for table in tables[:MAX_TABLES]], stats),
            "resources": _resources(plan, device, design),
            "timeline": _timeline(simulation),
        },
        cores=_core_rows(simulation),
    )


def _cycles(summary: dict[str, Any]) -> Any:
    names = (
        ("roofline", "bound_cycles_per_sample", "c"),
        ("predicted", "predicted_cycles_per_sample", "b"),
        ("measured on the RTL", "cycles_per_sample", "a"),
    )
    return bar_chart(
        "Cycles per sample",
        [Bar(name, summary[key], f"{summary[key]:,.1f}", style) for name, key, style in names],
    )


def _parts(simulation: dict[str, Any]) -> Any:
    parts, samples = simulation["predicted"]["parts"], simulation["samples"]
    slowest = simulation["predicted"]["bottleneck"]
    return bar_chart(
        "Predicted cycles per sample of each part",
        [
            Bar(
                PART_NAMES.get(name, name),
                cycles / samples,
                f"{cycles / samples:,.1f}",
                "a" if name == slowest else "c",
            )
            for name, cycles in parts.items()
        ],
        half=True,
    )


def _bounds(summary: dict[str, Any]) -> Any:
    bound = summary["bound_cycles_per_sample"]
    return bar_chart(
        "Roofline: least cycles per sample of each resource",
        [
            Bar(name, value, f"{value:,.2f}", "a" if value == bound else "c")
            for name, value in summary["bounds"].items()
        ],
        half=True,
    )


def _tiers(plan: Plan, names: list[str], stats: Sequence[TableStats]) -> Any:
    planned = {table.table: table for table in plan.devices[0].tables}
    counted = {table.name: table for table in stats}
    bars = []
    for name in names:
        ends: dict[str, int] = {}
        for part in sorted(planned[name].ranges, key=lambda r: (r.first, r.last)):
            ends[part.tier] = max(part.last, ends.get(part.tier, 0))
        share = counted[name].coverage(planned[name].resident_rows)
        rows = max(ends.values())
        bars.append(TierBar(name, tuple(ends.items()), f"{compact(rows)} rows, {share:.0%} hot"))
    return tier_chart("Rows of each table by tier, over the frequency rank", bars)


def _resources(plan: Plan, device: DeviceSpec, design: dict[str, Any]) -> Any:
    bars = []
    for name in ("lut", "ff", "dsp", "bram36", "uram"):
        used, had = design["resources"][name], getattr(device, name)
        share = used / had if had else 0.0
        bars.append(Bar(name.upper(), share, f"{share:.1%} ({used:,.0f} of {had:,})"))
    return bar_chart("Estimated resources, share of what a kernel may use", bars, limit=1.0)


def _timeline(simulation: dict[str, Any]) -> Any:
    """Draw what the first compute cores run, sub-batch by sub-batch; None where it is not known."""
    cores = [core for core in simulation.get("timeline", []) if core][:MAX_TIMELINES]
    if not cores:
        return None
    ends = [
        max(span["end"] for span in core if span["sub_batch"] < SUB_BATCHES_DRAWN) for core in cores
    ]
    rows = []
    for number, core in enumerate(cores):
        for unit in dict.fromkeys(span["unit"] for span in core):
            spans = [
                Span(
                    span["first"],
                    span["end"],
                    f"sub-batch {span['sub_batch']}, {span['layer']}: cycles {span['first']:,} to"
                    f" {span['end'] - 1:,}",
                    f"turn-{span['sub_batch'] % TURN_STYLES}",
                )
                for span in core
                if span["unit"] == unit
            ]
            rows.append((f"core {number}, {unit}", spans))
    return span_chart("What the compute cores run", rows, limit=max(ends))


def _core_rows(simulation: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the counters of every core as (core, [(counter, value)])."""
    return [
        (f"{kind} core {i}", [(key.replace("_", " "), f"{value:,}") for key, value in core.items()])
        for kind, cores in simulation["counters"].items()
        for i, core in enumerate(cores)
    ]
