"""A simulation job on disk: what device memory holds, what to start, and what came back.

The parent process writes a job folder and starts the simulator; the test bench in it
(:mod:`screc_sim.tb.device_tb`) reads ``job.json``, drives the device as a host would and leaves
``result.json``. Results land in a file of the folder, because that is a region of device memory.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.protocol import BEAT_BYTES, RESULT_FIELDS, STATUS_MAGIC, Status
from screc_sim.golden.quant import GoldenResult
from screc_sim.memory import Timing

JOB_FILE = "job.json"
OUTCOME_FILE = "result.json"
PROGRESS_FILE = "progress"

RECORD_BYTES = 8
"""Bytes of a result record."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """A region of a port's memory; see :class:`screc_sim.memory.Region`.

    ``file`` relative to the job's folder or absolute; None: zeros of ``size`` bytes. ``writable``
    by the device; a writable file receives what the device writes.
    """

    name: str
    base: int
    size: int
    file: str | None = None
    writable: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Bytes ``[offset, offset + size)`` of ``file`` that the host copies to ``address``."""

    port: str
    address: int
    file: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """One ``ap_start``: place bytes, then run ``size`` bytes of queue at ``queue``.

    ``wait`` cycles pass first.
    """

    queue: int
    size: int
    place: tuple[Placement, ...] = ()
    wait: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """Accesses of ``port`` that touch ``length`` bytes at ``address`` are answered SLVERR.

    With ``delay``, the first read that touches them is answered right, but that many cycles late,
    and what follows it on the port waits.
    """

    port: str
    address: int
    length: int = 1
    delay: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that the test bench needs.

    Parameters
    ----------
    ports
        Regions of every AXI4 port: ``host``, ``gmem0``, ...
    memory, compute
        Counts of cores.
    bases
        Base pointer of every memory core.
    result
        Result pointer.
    starts
        Runs, one after the other.
    timing
        How the memory answers.
    faults
        Injected errors.
    period_ps
        Clock period; simulated time means nothing else.
    hang_cycles
        Cycles without a beat on any port after which a run counts as hung.
    """

    ports: dict[str, tuple[RegionSpec, ...]]
    memory: int
    compute: int
    bases: tuple[int, ...]
    result: int
    starts: tuple[Start, ...]
    timing: Timing = dataclasses.field(default_factory=Timing)
    faults: tuple[Fault, ...] = ()
    period_ps: int = 4000
    hang_cycles: int = 4_000_000

    def save(self, folder: Path) -> None:
        """Write ``job.json``."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / JOB_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Read what :meth:`save` wrote."""
        data: dict[str, Any] = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        data["ports"] = {
            port: tuple(RegionSpec(**region) for region in regions)
            for port, regions in data["ports"].items()
        }
        data["bases"] = tuple(data["bases"])
        data["starts"] = tuple(
            Start(**{**start, "place": tuple(Placement(**place) for place in start["place"])})
            for start in data["starts"]
        )
        data["faults"] = tuple(Fault(**fault) for fault in data["faults"])
        data["timing"] = Timing(**data["timing"])
        return cls(**data)


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What the device wrote for one block.

    ``words``: the status beat by :class:`~screc_hw.protocol.Status`; ``records``: uint64 ``(n,)``,
    the raw result records of its samples, padding excluded.
    """

    words: tuple[int, ...]
    records: NDArray[np.uint64]

    @property
    def status(self) -> int:
        """``StatusBit`` flags."""
        return self.words[Status.STATUS]

    @property
    def cycles(self) -> int:
        """Cycles from the header's arrival to the status beat."""
        return self.words[Status.CYCLES]


def read_block(result: Path, offset_beats: int, samples: int) -> BlockResult:
    """Read a block's status beat and ``samples`` records from the file of the result region."""
    at = offset_beats * BEAT_BYTES
    with result.open("rb") as stream:
        stream.seek(at)
        raw = stream.read(BEAT_BYTES + samples * RECORD_BYTES)
    words = np.frombuffer(raw[:BEAT_BYTES], "<u4")
    records = np.frombuffer(raw[BEAT_BYTES:], "<u8").astype(np.uint64)
    return BlockResult(tuple(int(word) for word in words), records)


def check_status(block: BlockResult, block_id: int, samples: int) -> list[str]:
    """Return what is wrong with a block's status beat, one line each; empty if nothing is."""
    expected = {
        Status.MAGIC: STATUS_MAGIC,
        Status.BLOCK_ID: block_id,
        Status.STATUS: 0,
        Status.SAMPLES: samples,
    }
    return [
        f"block {block_id}: status word {word.name} is {block.words[word]:#x}, not {value:#x}"
        for word, value in expected.items()
        if block.words[word] != value
    ]


def expected_records(golden: GoldenResult) -> NDArray[np.uint64]:
    """Result records that the device must write, uint64 ``(n,)``."""
    records = np.zeros(len(golden.logit), np.uint64)
    for name, (low, width) in RESULT_FIELDS.items():
        values = getattr(golden, name).astype(np.int64) & ((1 << width) - 1)
        records |= values.astype(np.uint64) << np.uint64(low)
    return records


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """A field of a result that is not what the golden model says."""

    sample: int
    field: str
    got: int
    expected: int


def compare_records(
    got: NDArray[np.uint64], expected: NDArray[np.uint64], *, limit: int = 20
) -> tuple[int, list[Mismatch]]:
    """Compare result records field by field.

    Returns
    -------
    count
        Samples of which any field differs, missing ones included.
    first
        At most ``limit`` differing fields, in order of samples.
    """
    signed = {"logit", "code"}
    common = min(len(got), len(expected))
    wrong = np.flatnonzero(got[:common] != expected[:common])
    first: list[Mismatch] = []
    for sample in wrong[:limit]:
        for name, (low, width) in RESULT_FIELDS.items():
            a, b = (
                int(word) >> low & ((1 << width) - 1) for word in (got[sample], expected[sample])
            )
            if a != b:
                if name in signed:
                    a, b = (v - (v >> (width - 1) << width) for v in (a, b))
                first.append(Mismatch(int(sample), name, a, b))
    return len(wrong) + abs(len(got) - len(expected)), first[:limit]
