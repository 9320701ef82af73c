"""The command line: thin; each command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from screc import __version__
from screc.errors import ConfigError, ScrecError

BENCHES: dict[str, str] = {
    "encode": "screc.bench_encode",
    "gather": "screc.bench_gather",
    "gemm": "screc.bench_gemm",
    "plan": "screc.bench_plan",
    "tt": "screc.bench_tt",
}
"""Benchmarks by name: a module with ``bench() -> list[dict]``; for people ``COLUMNS`` where there
are more than a table holds, and ``further() -> dict[str, list[dict]]``, more tables by title."""


PACKED = ("int4r", "int8r", "byte")
"""As ``importers.packed.FORMATS``, which takes a while to import; a test compares the two."""

INTERACTIONS = ("dot", "concat")


def emit_json(value: Any) -> None:
    """Print exactly one JSON object to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _flow_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("config", type=click.Path(path_type=Path)),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            default=None,
            help="Output folder; default: out beside the configuration.",
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a configuration key, such as device.0.kind=u50. May be repeated.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Redo this step (run: every step) even when it is up to date.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to stdout."),
        click.option("-v", "--verbose", count=True, help="Say more."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    ):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="screc")
def cli() -> None:
    """From a DLRM and its access log to a verified FPGA accelerator."""


def _plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--compare",
            is_flag=True,
            help="Also score baselines, and the planner with fewer choices.",
        ),
        click.option(
            "--explain", is_flag=True, help="Also say what one more of each resource would buy."
        ),
        click.option(
            "--solver", help="A MIP solver that Pyomo knows; default: plan.solver, highs."
        ),
    ):
        function = option(function)
    return function


def _cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Count on the Dask cluster of this scheduler.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Count on a Dask cluster of so many processes, started on this machine.",
        ),
    ):
        function = option(function)
    return function


OPTIONS = {"analyze": _cluster_options, "plan": _plan_options}
"""Options that one command alone has."""


def _add_step(name: str, target: str, text: str) -> None:
    @cli.command(name, help=text)
    @_flow_options
    @OPTIONS.get(name, lambda function: function)
    def command(
        config: Path,
        output: Path | None,
        overrides: Sequence[str],
        force: bool,
        as_json: bool,
        verbose: int,
        quiet: bool,
        compare: bool = False,
        explain: bool = False,
        solver: str | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        from rich.markup import escape

        from screc import flow
        from screc.config import load_config

        if solver is not None:
            overrides = [*overrides, f"plan.solver={solver}"]
        loaded = load_config(config, overrides)
        out = output if output is not None else config.parent / "out"
        if (out / "config.toml").resolve() == config.resolve():
            raise ConfigError(
                f"the resolved configuration would overwrite {config}; name another folder",
                field="--output",
            )
        ctx = flow.Context.create(loaded, out, -1 if quiet else verbose)
        ctx.workers, ctx.scheduler = workers, scheduler
        steps = [step.name for step in flow.order(target)] if name == "run" else [target]
        flow.run(ctx, target, force=steps if force else ())
        more: dict[str, list[dict[str, Any]]] = {}
        if compare or explain:
            from screc.plan import further

            more = further.tables(ctx, compare=compare, explain=explain)
        if as_json:
            emit_json(flow.result(ctx, target) | more)
        elif more:
            for title, rows in more.items():
                _print_table(title, tuple(rows[0]), rows)
        elif target == "report":
            ctx.log(f"report: {escape(str(out / 'report.html'))}")


for _name, _target, _text in (
    ("run", "report", "Run the whole flow: analyze, plan, compile, generate, simulate, report."),
    ("analyze", "analyze", "Count the log: frequencies, pooling and coverage of every table."),
    ("plan", "plan", "Decide tiers of rows and counts of cores, with a proven gap."),
    ("compile", "compile", "Quantise the model and write memory images and the row order."),
    ("generate", "generate", "Write the device's SystemVerilog."),
    ("simulate", "simulate", "Run the RTL on real requests and compare every result word."),
    ("report", "report", "Write summary.json and report.html."),
):
    _add_step(_name, _target, _text)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a commented starter configuration into FOLDER."""
    from screc.starter import write_starter

    for path in write_starter(folder):
        click.echo(f"wrote {path}", err=True)
    click.echo(f"now: screc run {folder / 'config.toml'}", err=True)


@cli.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The table: FILE.parquet. What is finished is kept in FILE.parquet.work beside it.",
)
@click.option(
    "--set",
    "grid",
    multiple=True,
    metavar="KEY=V1,V2,...",
    help="Values of a configuration key. With several keys: every combination.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
@click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster of this scheduler.")
@click.option("--rtl", metavar="all|best|pareto|N", help="Simulate these points; N: the N best.")
@click.option("--picture", type=click.Choice(("svg", "png")), default="svg", help="Its format.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def sweep(
    config: Path,
    output: Path,
    grid: Sequence[str],
    workers: int | None,
    scheduler: str | None,
    rtl: str | None,
    picture: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan every point of a grid of settings, simulate chosen ones, find the best.

    Started again after it was stopped, it goes on where it was.
    """
    from screc.errors import CheckError
    from screc.sweep import command
    from screc.sweep.workers import available_cores

    options = command.Options(
        workers=available_cores() if workers is None else workers,
        scheduler=scheduler,
        rtl=rtl,
        picture=picture,
        quiet=quiet,
    )
    found = command.sweep(config, grid, output, options)
    if as_json:
        emit_json(command.summarise(found))
    if found.mismatches:
        raise CheckError(str(found.mismatches[0]["message"]))


@cli.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for model.toml, weights.safetensors and import.json.",
)
@click.option("--dim", type=click.IntRange(min=1), help="Components of a packed row.")
@click.option("--format", "format_", type=click.Choice(PACKED), help="How packed rows are stored.")
@click.option("--interaction", type=click.Choice(INTERACTIONS), help="Where the shapes allow both.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON to stdout.")
def import_(
    checkpoint: Path,
    output: Path,
    dim: int | None,
    format_: str | None,
    interaction: str | None,
    as_json: bool,
) -> None:
    """Import a trained DLRM: a PyTorch state dict, safetensors, or ONNX.

    An ONNX model (.onnx) is plain or QDQ-quantised. In the others, tensors have
    facebookresearch/dlrm's names. Tables may be floats, or packed uint8 rows with a
    scale and bias each: int4r (dim / 2 + 4 bytes), int8r (dim + 4), byte (dim + 8).
    """
    from screc.importers import Hints, import_checkpoint

    hints = Hints(dim=dim, format=format_, interaction=interaction)
    report = import_checkpoint(checkpoint, output, hints)
    if as_json:
        emit_json(report)
        return
    for table in report["tables"]:
        rounded = f", rounded by at most {table['error_bound']:.3g}" * (table["error_bound"] > 0)
        size = f"{table['rows']:,} rows of {table['dim']}"
        click.echo(f"{table['name']}: {size}, {table['stored']}{rounded}", err=True)
    for entry in report.get("quantisation", ()):
        if entry["became"] != "left out":
            name = entry["tensor"]
            click.echo(f"{name} ({entry['source']}): {entry['became']}: {entry['why']}", err=True)
    # a configuration's paths are relative to its own folder
    model, weights = (Path(report[name]).resolve() for name in ("model", "weights"))
    click.echo(f'in config.toml: [model] file = "{model}"', err=True)
    click.echo(f'                        weights = "{weights}"', err=True)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON to stdout.")
def devices(as_json: bool) -> None:
    """List the devices that can be planned for, and what a kernel may use of each."""
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from screc.devices import all_devices

    specs = all_devices()
    if as_json:
        emit_json({"devices": [dataclasses.asdict(spec) for spec in specs]})
        return
    table = Table(title="Devices: what a kernel may use of each")
    columns = ("kind", "lut", "dsp", "bram36", "uram", "dram_gib", "ssd_gib", "clock_mhz")
    for column in columns:
        table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=True)
    for spec in specs:
        cells = [getattr(spec, column) for column in columns]
        table.add_row(
            *("–" if not cell else cell if isinstance(cell, str) else f"{cell:,}" for cell in cells)
        )
    # narrower, it would cut the names that a configuration needs
    Console(width=max(Console().width, 100)).print(table)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON to stdout.")
def doctor(as_json: bool) -> None:
    """Check the tools: versions found, what is missing and how to get it."""
    from screc.doctor import check_tools, print_tools

    tools = check_tools()
    if as_json:
        emit_json({"tools": tools})
    else:
        print_tools(tools)
    if any(tool["required"] and not tool["found"] for tool in tools):
        raise SystemExit(3)


@cli.command()
@click.argument("name", type=click.Choice(sorted(BENCHES)))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON to stdout.")
@click.option("--only", multiple=True, help="plan: name of an instance. May be repeated.")
def bench(name: str, as_json: bool, only: Sequence[str]) -> None:
    """Measure a part of the tool on this machine."""
    import importlib

    if only and name != "plan":
        raise ConfigError(f'is for "plan" alone, not "{name}"', field="--only")
    module = importlib.import_module(BENCHES[name])
    results = module.bench(only) if only else module.bench()
    if as_json:
        emit_json({"bench": name, "results": results})
        return
    columns = getattr(module, "COLUMNS", tuple(results[0]))
    _print_table(f"bench {name}", columns, results)
    for title, rows in getattr(module, "further", dict)().items():
        _print_table(title, tuple(rows[0]), rows)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 a check failed, 3 tool missing."""
    try:
        cli.main(args=arguments, prog_name="screc", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except ScrecError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.secho(f"error: {where}{error.strerror or error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
