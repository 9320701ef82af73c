"""Device memory of the simulation: an address space of named regions.

Regions are backed by files through ``numpy.memmap``, so a table image of many gigabytes costs only
the pages that the device reads. A read-only region is never changed on disk; a writable one may be
a file (results that the parent reads later) or plain memory.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Response(enum.IntEnum):
    """AXI response codes. Source: AMBA AXI4 specification, A3.4.4."""

    OKAY = 0
    SLVERR = 2
    DECERR = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """``size`` bytes at ``base``; bytes past the end of ``data`` read as zero.

    ``data`` uint8 ``(n,)``, n <= size; ``writable`` says whether the *device* may write here.
    """

    name: str
    base: int
    size: int
    data: NDArray[np.uint8]
    writable: bool

    @property
    def end(self) -> int:
        """First address behind the region."""
        return self.base + self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How a memory port answers.

    Parameters
    ----------
    latency
        Cycles from the accepted request to the first data beat (or the write response), at least 1.
    jitter
        Up to so many cycles more, uniformly at random.
    stall
        Probability per cycle that a channel pauses: no new beat offered, or ``ready`` 0.
    reorder
        Whether requests of different IDs may be answered out of order, burst by burst.
    seed
        Of all random choices; each port adds its name.
    """

    latency: int = 64
    jitter: int = 0
    stall: float = 0.0
    reorder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latency < 1 or self.jitter < 0:
            raise ValueError(f"latency must be at least 1 and jitter 0, not {self!r}")
        if not 0 <= self.stall < 1:
            raise ValueError(f"stall must lie in [0, 1), not {self.stall!r}")


class DeviceMemory:
    """What the bus models read and write; see the module.

    Attributes
    ----------
    errors
        Accesses outside every region, or writes to a read-only one, in order: a design that makes
        one has failed. Accesses hit by :meth:`fail` are not among them.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._regions: list[Region] = []
        self._views: list[memoryview] = []
        self._bases: list[int] = []
        self._faults: list[tuple[int, int]] = []
        self._late: list[tuple[int, int, int]] = []

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions by ascending address."""
        return tuple(self._regions)

    def add(
        self,
        name: str,
        base: int,
        data: NDArray[np.uint8],
        *,
        size: int | None = None,
        writable: bool = False,
    ) -> Region:
        """Add ``data`` (uint8, one dimension, not copied) as a region of ``size`` bytes.

        Raises
        ------
        ValueError
            If the region overlaps another, or ``size`` is smaller than the data.
        """
        size = len(data) if size is None else size
        if size < len(data) or size < 1 or base < 0:
            raise ValueError(
                f"region {name!r}: {len(data)} bytes of data do not fit [{base:#x}, +{size:#x})"
            )
        if writable and size != len(data):
            raise ValueError(
                f"region {name!r}: a writable region has data for all its {size} bytes"
            )
        region = Region(name, base, size, data, writable)
        at = bisect.bisect(self._bases, base)
        for other in self._regions[max(0, at - 1) : at + 1]:
            if region.base < other.end and other.base < region.end:
                raise ValueError(
                    f"region {name!r} [{base:#x}, {region.end:#x}) overlaps {other.name!r} "
                    f"[{other.base:#x}, {other.end:#x})"
                )
        self._regions.insert(at, region)
        self._bases.insert(at, base)
        self._views.insert(at, memoryview(data.data))
        return region

    def add_file(
        self,
        name: str,
        base: int,
        path: Path,
        *,
        size: int | None = None,
        writable: bool = False,
        shared: bool = False,
    ) -> Region:
        """Add a file as a region.

        Parameters
        ----------
        name, base, size, writable
            As in :meth:`add`.
        path
            The file; an empty one is a region of zeros and needs ``size``.
        shared
            Writes reach the file; else they stay in this process (copy on write).
        """
        if path.stat().st_size == 0:
            return self.add(name, base, np.zeros(0, np.uint8), size=size, writable=False)
        mode = "r+" if shared else "c"
        data = np.memmap(path, np.uint8, mode=mode)  # type: ignore[call-overload]
        return self.add(name, base, data, size=size, writable=writable)

    def fail(self, address: int, length: int = 1) -> None:
        """Answer every access that touches ``length`` bytes at ``address`` with SLVERR."""
        self._faults.append((address, address + length))

    def delay(self, address: int, length: int, cycles: int) -> None:
        """Answer the first read that touches ``length`` bytes at ``address`` late."""
        self._late.append((address, address + length, cycles))

    def lateness(self, address: int, length: int) -> int:
        """Cycles by which this read is to be answered late; counts as its first."""
        for entry in self._late:
            first, last, cycles = entry
            if first < address + length and address < last:
                self._late.remove(entry)
                return cycles
        return 0

    def place(self, address: int, data: bytes) -> None:
        """Write as the host does, into any region.

        Raises
        ------
        ValueError
            If the bytes do not lie within one region's data.
        """
        index = self._find(address, len(data))
        offset = address - self._bases[index] if index >= 0 else 0
        if index < 0 or offset + len(data) > len(self._views[index]):
            raise ValueError(f"no region holds the {len(data)} bytes at {address:#x}")
        self._views[index][offset : offset + len(data)] = data

    def read(self, address: int, length: int) -> tuple[int, Response]:
        """Return ``length`` bytes as a little-endian integer, and the response.

        Outside every region the data is 0, the response DECERR and the access is recorded.
        """
        index = self._find(address, length)
        if index < 0:
            self.errors.append(f"read of {length} bytes at {address:#x} is in no region")
            return 0, Response.DECERR
        offset = address - self._bases[index]
        value = int.from_bytes(self._views[index][offset : offset + length], "little")
        return value, self._response(address, length)

    def write(self, address: int, data: int, strobe: int, length: int) -> Response:
        """Write the bytes of ``data`` (``length`` of them) whose bit in ``strobe`` is 1."""
        index = self._find(address, length)
        if index < 0 or not self._regions[index].writable:
            where = "in no region" if index < 0 else f"in {self._regions[index].name!r}, read-only"
            self.errors.append(f"write of {length} bytes at {address:#x} is {where}")
            return Response.DECERR
        response = self._response(address, length)
        if response is Response.OKAY:
            offset = address - self._bases[index]
            view = self._views[index]
            raw = data.to_bytes(length, "little")
            if strobe == (1 << length) - 1:
                view[offset : offset + length] = raw
            else:
                for i in range(length):
                    if strobe >> i & 1:
                        view[offset + i] = raw[i]
        return response

    def _find(self, address: int, length: int) -> int:
        """Index of the region that holds all ``length`` bytes, or -1."""
        index = bisect.bisect(self._bases, address) - 1
        if index >= 0 and address + length <= self._regions[index].end:
            return index
        return -1

    def _response(self, address: int, length: int) -> Response:
        for first, last in self._faults:
            if first < address + length and address < last:
                return Response.SLVERR
        return Response.OKAY
