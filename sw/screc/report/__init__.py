"""The report step: ``summary.json`` for scripts and ``report.html`` for people."""

from __future__ import annotations

from pathlib import Path

from screc import files
from screc.config import dump_config
from screc.flow import Context
from screc.report.html import render
from screc.report.summary import summarise

__all__ = ["run"]


def run(ctx: Context) -> None:
    """Write ``summary.json`` and ``report.html`` from what the other steps left."""
    from screc.devices import resolve_device
    from screc.plan.schema import read_plan
    from screc.stats import read_stats

    plan = read_plan(ctx.out / "plan.json")
    simulation = files.read_json(ctx.out / "simulation.json")
    design = files.read_json(ctx.out / "rtl" / "design.json")
    device = resolve_device(ctx.config.device[0])
    manifest = files.read_json(ctx.out / "images" / "manifest.json")
    stats = read_stats(ctx.out / "stats.parquet")
    summary = summarise(
        ctx.shape,
        plan,
        device,
        design,
        simulation,
        manifest["calibration"],
        drift=[table.name for table in stats if table.drift.flagged],
    )
    page = render(
        summary=summary,
        shape=ctx.shape,
        plan=plan,
        device=device,
        design=design,
        simulation=simulation,
        stats=stats,
        config=_portable(ctx),
    )
    files.write_json(ctx.out / "summary.json", summary)
    files.write_text(ctx.out / "report.html", page)


def _portable(ctx: Context) -> str:
    """Return the configuration as TOML, with names instead of paths of this machine."""
    text = dump_config(ctx.config)
    for path in (ctx.config.model.weights, ctx.config.model.file, ctx.config.log.path):
        if path is not None:
            text = text.replace(str(path), Path(path).name)
    return text
