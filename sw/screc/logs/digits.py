"""Numbers in a block of text, many at a time: eight characters are one 64-bit word.

A field's first character is a word's lowest byte, so adding neighbours pairwise (SWAR) gives the
number in three steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

WIDTH = 8
"""Characters of a word; longer fields are read one by one."""

_BAD = 0x80
_VALUES = bytes(
    int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else _BAD for byte in range(256)
)


def _every(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)


class Text:
    """A block of text that numbers are read from."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        values = data.translate(_VALUES) + bytes(WIDTH)
        # the 8 bytes from every byte on
        self.words = np.ndarray((len(data) + 1,), np.dtype("<u8"), values, strides=(1,))


class Fields:
    """Fields of a text: the characters ``[starts, starts + lengths)``.

    Parameters
    ----------
    text
        The text.
    starts, lengths
        int64, of one shape; lengths may be 0.
    """

    def __init__(self, text: Text, starts: Ints, lengths: Ints) -> None:
        self._data = text.data
        self._starts = starts
        self._lengths = lengths
        # a short field moves up until its last character is in the top byte, zeros below it; an
        # empty one moves out, as numpy gives 0 for a shift by all bits
        empty_bytes = (WIDTH - np.minimum(lengths, WIDTH)).astype(np.uint64)
        self._words: Words = text.words[starts] << (empty_bytes * np.uint64(8))

    def text(self, index: tuple[np.intp, ...]) -> str:
        """Characters of one field."""
        start, length = int(self._starts[index]), int(self._lengths[index])
        return self._data[start : start + length].decode("utf-8", "replace")

    @property
    def lengths(self) -> Ints:
        """Characters of each field."""
        return self._lengths

    def hexadecimal(self) -> tuple[Words, NDArray[np.bool_]]:
        """Values of the fields as hexadecimal numbers below 2**64, and which are none."""
        return self._values(16)

    def decimal(self) -> tuple[Words, NDArray[np.bool_]]:
        """Values of the fields as decimal numbers below 2**64, and which are none."""
        return self._values(10)

    def _values(self, base: int) -> tuple[Words, NDArray[np.bool_]]:
        value = self._words & _every(0x0F)
        # a byte that is no digit of this base gets its top bit set
        bad = (self._words | (value + _every(_BAD - base))) & _every(_BAD) != 0
        # 8 digits of 8 bits, 4 of 16, 2 of 32: the lower half is the more significant
        for bits, lanes in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF)):
            weight = np.uint64(base ** (bits // 8))
            upper = (value >> np.uint64(bits)) & np.uint64(lanes)
            value = (value & np.uint64(lanes)) * weight + upper
        for index in zip(*np.nonzero(self._lengths > WIDTH), strict=True):
            value[index], bad[index] = self._long(index, base)
        return value, bad

    def _long(self, index: tuple[np.intp, ...], base: int) -> tuple[np.uint64, bool]:
        text = self.text(index)
        try:
            value = int(text, base) if text.isalnum() else -1
        except ValueError:
            value = -1
        fits = 0 <= value < 1 << 64
        return np.uint64(value if fits else 0), not fits
