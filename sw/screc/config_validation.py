"""What all configuration files share: strict records, and errors that say what is valid."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from screc.errors import ConfigError


class Record(BaseModel):
    """A table of a configuration file: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


REQUIREMENTS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "text, the path of a file",
    "tuple_type": "an array",
    "model_type": "a table",
    "dict_type": "a table",
}
"""What a value of the wrong type must be, by pydantic's name of the fault."""

R = TypeVar("R", bound=Record)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read or is no TOML; names the file, and the line of the first error.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", path=path) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"must be UTF-8 text: {error.reason}", path=path) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"must be TOML: {error}", path=path) from error


def validate(record: type[R], data: Mapping[str, Any], path: str | Path) -> R:
    """Check ``data`` against ``record``.

    Raises
    ------
    ConfigError
        For the first fault: names the file, the field (``device.0.kind``), its value and what would
        be valid.
    """
    try:
        return record.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # a misspelt key also leaves its field missing: the misspelling is what helps
        fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        keys = _keys(data, fault)
        message = _explain(record, keys, fault)
        field = ".".join(map(str, keys)) or None
        raise ConfigError(message, path=path, field=field) from None


def nearest(value: object, valid: Iterable[str]) -> str:
    """Say which names are valid, the one nearest to ``value`` first where one is near."""
    names = list(valid)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names) if names else 'none'}"


def tagged(value: object) -> str:
    """Tell a table from a plain value: the discriminator of keys that take either."""
    return TABLE if isinstance(value, Mapping | Record) else PLAIN


PLAIN, TABLE = "a plain value", "a table"
"""Tags of :func:`tagged`: with a blank, so that no key of a file is mistaken for one."""


def _keys(data: Any, fault: Mapping[str, Any]) -> list[int | str]:
    """Keys of the file that a fault's location names: those that are there, or the missing one."""
    keys: list[int | str] = []
    for key in fault["loc"]:
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, list | tuple) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif key in (PLAIN, TABLE) or fault["type"] != "missing":
            continue
        keys.append(key)
    return keys


def records_of(annotation: Any) -> list[type[Record]]:
    """Records that a field of this annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return [annotation]
    return [found for part in get_args(annotation) for found in records_of(part)]


def _siblings(record: type[Record], keys: Sequence[int | str]) -> list[str]:
    """Names of the fields that are valid where the last of ``keys`` stands."""
    current = [record]
    for key in keys[:-1]:
        if isinstance(key, str):
            fields = [outer.model_fields[key] for outer in current if key in outer.model_fields]
            current = [inner for field in fields for inner in records_of(field.annotation)]
    return [name for outer in current for name in outer.model_fields]


def _explain(record: type[Record], keys: Sequence[int | str], fault: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, from pydantic's account of it."""
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(keys[-1], _siblings(record, keys))}"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"{value!r} is not valid; {nearest(value, valid)}"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "too_short":
        return f"needs at least {fault['ctx']['min_length']}, has {fault['ctx']['actual_length']}"
    if kind in REQUIREMENTS:
        return f"must be {REQUIREMENTS[kind]}, not {value!r}"
    requirement = str(fault["msg"]).removeprefix("Input should ").removeprefix("be ")
    return f"must be {requirement}, not {value!r}"
