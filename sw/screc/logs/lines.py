"""Text files in blocks of whole lines, plain or compressed by gzip."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from screc.errors import ConfigError

BLOCK_BYTES = 1 << 20
"""Bytes read at a time."""

GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of ``path``, each ending in a line feed; the first is line ``line`` (from 1)."""

    path: Path
    line: int
    data: bytes
    lines: int


def blocks(paths: Sequence[Path]) -> Iterator[Block]:
    """Yield all lines of some files, one after the other.

    Raises
    ------
    ConfigError
        If a file cannot be read, or is damaged gzip.
    """
    for path in paths:
        line = 1
        try:
            with _open(path) as stream:
                for data in _whole_lines(stream):
                    lines = data.count(b"\n")
                    yield Block(path, line, data, lines)
                    line += lines
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigError(
                f"is damaged gzip, readable up to line {line}: {error}", path=path
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error


def count_lines(paths: Sequence[Path]) -> int:
    """Count all lines of some files; errors as :func:`blocks`."""
    return sum(block.lines for block in blocks(paths))


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while data := stream.read(BLOCK_BYTES):
        data = rest + data
        end = data.rfind(b"\n") + 1
        data, rest = data[:end], data[end:]
        if data:
            yield _unix(data)
    if rest:
        yield _unix(rest + b"\n")


def _unix(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data
