"""Blocks of the request queue as bytes: headers, and whole LOAD blocks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screc_hw import protocol
from screc_hw.protocol import BEAT_BYTES, Header, LoadTarget, Opcode

__all__ = ["encode_header", "load_block", "pad", "words_of"]


def pad(data: bytes, unit: int = BEAT_BYTES) -> bytes:
    """Return ``data`` with zeros up to a whole number of ``unit`` bytes."""
    return data + bytes(-len(data) % unit)


def words_of(value: int, count: int) -> list[int]:
    """Cut ``value`` into ``count`` 64-bit words, lowest first."""
    return [(value >> (64 * i)) & ((1 << 64) - 1) for i in range(count)]


def encode_header(fields: dict[Header, int]) -> bytes:
    """Return a block's first beat: magic, version and checksum are added, absent words are 0.

    Raises
    ------
    ValueError
        If a value does not fit 32 bits; the message names the word.
    """
    words = [0] * protocol.HEADER_WORDS
    for name, value in fields.items():
        if not 0 <= value < 1 << 32:
            raise ValueError(f"header word {name.name} must fit 32 bits, not {value}")
        words[name] = value
    words[Header.MAGIC] = protocol.MAGIC
    checksum = 0xFFFFFFFF
    for word in words[: Header.CHECKSUM]:
        checksum ^= word
    words[Header.CHECKSUM] = checksum
    return np.array(words, "<u4").tobytes()


def version_opcode(opcode: Opcode) -> int:
    """Header word of the format's version and ``opcode``."""
    return protocol.VERSION | opcode << 16


def load_block(
    target: LoadTarget,
    words: Sequence[int] | NDArray[np.uint64],
    *,
    core: int = protocol.ALL_CORES,
    address: int = 0,
    block_id: int,
    result_offset: int,
) -> bytes:
    """Return a LOAD block.

    Parameters
    ----------
    target, core
        What is written, and of which core of that kind.
    words
        64-bit words, at least one.
    address
        Address of the first one, in words.
    block_id, result_offset
        For its status beat.
    """
    data = np.asarray(words, "<u8").tobytes()
    body = pad(data)
    header = encode_header(
        {
            Header.VERSION_OPCODE: version_opcode(Opcode.LOAD),
            Header.BLOCK_BYTES: BEAT_BYTES + len(body),
            Header.BLOCK_ID: block_id,
            Header.RESULT_OFFSET: result_offset,
            Header.LOAD_TARGET: target | core << 8,
            Header.LOAD_ADDRESS: address,
            Header.LOAD_WORDS: len(data) // 8,
            Header.LOAD_CRC: zlib.crc32(data),
        }
    )
    return header + body
