"""The grid of a sweep: every combination of the values that ``--set KEY=V1,V2,...`` lists."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from screc.config import Config, load_config, model_shape, parse_value
from screc.errors import ConfigError
from screc_hw.model import ModelShape

OPENING, CLOSING = "[{", "]}"
QUOTES = "\"'"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A key and its values: ``texts`` as given, ``values`` as TOML reads them."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A checked configuration, and the sizes of its model."""

    config: Config
    shape: ModelShape


@dataclasses.dataclass(frozen=True)
class Point:
    """One combination of settings, by key in the order of the axes.

    ``case`` is what they resolve to; or what is wrong with them.
    """

    settings: dict[str, Any]
    case: Case | ConfigError


def parse_axis(text: str) -> Axis:
    """Read one ``KEY=V1,V2,...``.

    Raises
    ------
    ConfigError
        If there is no key or value, a bracket or quote is left open, or a value is there twice.
    """
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(
            f"must be KEY=V1,V2,..., such as plan.cores.rows=16,32, not {text!r}", path="--set"
        )
    texts = tuple(part.strip() for part in _split(listed, key))
    if not all(texts):
        raise ConfigError(
            f'a value is empty in {listed!r}; an empty text is ""', path="--set", field=key
        )
    values = tuple(parse_value(part) for part in texts)
    for i, value in enumerate(values):
        if any(_same(value, other) for other in values[:i]):
            raise ConfigError(f"{texts[i]} is given twice", path="--set", field=key)
    return Axis(key, texts, values)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _split(text: str, key: str) -> Iterator[str]:
    """Cut at the commas that are in no brackets and no quotes.

    A quote opens a text only where a value may begin: inside plain text it is an apostrophe.
    """
    depth, quote, first, begins, escaped = 0, "", 0, True, False
    for i, character in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif character == "\\" and quote == '"':
                escaped = True
            elif character == quote:
                quote, begins = "", False
            continue
        if character in QUOTES and begins:
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            yield text[first:i]
            first = i + 1
        begins = character in ",=" or character in OPENING or (begins and character.isspace())
        if depth < 0:
            break
    if depth or quote:
        what = "a quote" if quote else "a bracket"
        raise ConfigError(
            f"{what} has no partner in {text!r}; quote texts that have brackets of their own",
            path="--set",
            field=key,
        )
    yield text[first:]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Read all ``--set``; errors as :func:`parse_axis`, and where a key is there twice."""
    axes = [parse_axis(text) for text in texts]
    for key, count in Counter(axis.key for axis in axes).items():
        if count > 1:
            raise ConfigError(
                f"is given {count} times; list its values in one --set", path="--set", field=key
            )
    return axes


def make_points(path: Path, axes: Sequence[Axis]) -> list[Point]:
    """Resolve the configuration at every point of the grid, the last axis fastest.

    Raises
    ------
    ConfigError
        The first point's fault, if the configuration is wrong at every point.
    """
    points = [
        _point(path, axes, picks)
        for picks in itertools.product(*(range(len(axis.texts)) for axis in axes))
    ]
    first = points[0].case
    if isinstance(first, ConfigError) and not any(isinstance(p.case, Case) for p in points):
        raise first
    return points


def _point(path: Path, axes: Sequence[Axis], picks: Sequence[int]) -> Point:
    chosen = list(zip(axes, picks, strict=True))
    settings = {axis.key: axis.values[pick] for axis, pick in chosen}
    try:
        config = load_config(path, [f"{axis.key}={axis.texts[pick]}" for axis, pick in chosen])
        return Point(settings, Case(config, model_shape(config)))
    except ConfigError as error:
        return Point(settings, error)


def labels(axes: Sequence[Axis]) -> dict[str, str]:
    """Short names of the axes that vary: a key's last part, or all of it where two are alike."""
    keys = [axis.key for axis in axes if len(axis.values) > 1]
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def describe(settings: dict[str, Any], names: dict[str, str]) -> str:
    """Write the settings of a point in one line, under the names of :func:`labels`."""
    return ", ".join(f"{name} {show(settings[key])}" for key, name in names.items()) or "as given"


def show(value: Any) -> str:
    """Write a setting's value in short."""
    if isinstance(value, list):
        return "+".join(map(show, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
