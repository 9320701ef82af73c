"""The starter example of ``screc new``: a small seeded model and a synthetic log, no download."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from screc import files
from screc.errors import ConfigError

FILES = ("config.toml", "model.toml")


def write_starter(folder: Path) -> list[Path]:
    """Write the starter's files into ``folder`` and return their paths.

    Raises
    ------
    ConfigError
        If one of them is there already: nothing of a person's is overwritten.
    """
    for name in FILES:
        if (folder / name).exists():
            raise ConfigError("exists already; name an empty folder", path=folder / name)
    source = resources.files("screc") / "data" / "starter"
    paths = []
    for name in FILES:
        path = folder / name
        files.write_text(path, (source / name).read_text(encoding="utf-8"))
        paths.append(path)
    return paths
