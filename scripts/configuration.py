"""Write docs/configuration.md's tables from the records in ``screc.config`` and ``screc.models``.

The text between the markers is replaced; a test checks that it is up to date.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from screc import config, models
from screc.config_validation import Record
from screc.devices import DeviceConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

RECORDS: dict[str, type[Record]] = {
    "model": config.ModelConfig,
    "log": config.LogConfig,
    "log.table": config.LogTable,
    "device": DeviceConfig,
    "analyze": config.AnalyzeConfig,
    "plan": config.PlanConfig,
    "plan.cores": config.CoresConfig,
    "plan.table": config.PlanTable,
    "simulate": config.SimulateConfig,
    "file": models.ModelFile,
    "table": models.TableConfig,
    "feature": models.FeatureConfig,
}

TYPES = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path"}


def _type(annotation: Any) -> str:
    """Describe what a key takes."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        of = inner[0]
        return "tables" if isinstance(of, type) and issubclass(of, Record) else f"[{_type(of)}]"
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__)
    if isinstance(annotation, types.UnionType) or origin is not None:
        return " or ".join(_type(part) for part in inner if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return "table"
    return TYPES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(needed)"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        plain = not any(isinstance(entry, Record) for entry in value)
        return f"`{list(value)}`" if value and plain else ""
    return "" if isinstance(value, Record) else f"`{value}`"


def _rows(record: type[Record]) -> list[str]:
    rows = []
    for name, field in record.model_fields.items():
        text = (field.description or "").replace("``", "`").replace("\n", " ")
        rows.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {text} |")
    return rows


def render(text: str) -> str:
    """Return ``text`` with every marked table made anew."""
    for name, record in RECORDS.items():
        table = "\n".join(["| key | value | default | what |", "|---|---|---|---|", *_rows(record)])
        pattern = rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"docs/configuration.md must hold the marker of {name!r} once")
    return text


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
