"""A job of the simulator: encoded requests, and the device memory that they run on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from screc.compile.requests import EncodedBlock, RequestEncoder
from screc.compile.staging import StagingFullError
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES, Header
from screc_sim.memory import Timing
from screc_sim.samples import SampleBatch
from screc_sim.vectors import Job, Placement, RegionSpec, Start

QUEUE_ADDRESS = 0x10_0000_0000
RESULT_ADDRESS = 0x20_0000_0000
GMEM_ADDRESS = 0x100_0000_0000
"""Addresses of the simulated device memory: beyond 4 GiB, so that every pointer bit counts."""

GMEM_SPAN = 1 << 40
"""Address space of one memory core's buffer."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A job and what belongs to it: which samples are in which block, where results will lie.

    ``offsets``: result offset of every block in beats; ``load_blocks`` at the beats before them.
    ``groups``: how many blocks each start after the first (the LOAD queue) runs.
    """

    job: Job
    blocks: tuple[EncodedBlock, ...]
    offsets: tuple[int, ...]
    groups: tuple[int, ...]
    load_blocks: int

    @property
    def load_cycles(self) -> float:
        """Cycles that the LOAD queue takes, about: one 64-bit word each."""
        return self.job.starts[0].size / 8


def count_blocks(queue: bytes) -> int:
    """Count the blocks of a request queue by walking over their headers."""
    count = at = 0
    while at < len(queue):
        at += int.from_bytes(queue[at + 4 * Header.BLOCK_BYTES :][:4], "little")
        count += 1
    return count


def encode(
    encoder: RequestEncoder, batch: SampleBatch, size: int, first_result: int
) -> tuple[list[EncodedBlock], list[int], list[int]]:
    """Encode ``batch`` in blocks of ``size`` samples.

    Returns the blocks, their result offsets, and the count of blocks of every start: one start runs
    as many blocks as the staging rings have room for.
    """
    layout = encoder.layout
    section = [core.lookup_offset // layout.beat_bytes for core in layout.cores]
    blocks: list[EncodedBlock] = []
    offsets: list[int] = []
    groups = [0]
    offset = first_result
    for first in range(0, len(batch), size):
        part = batch.slice(first, first + size)
        while True:
            try:
                block = encoder.encode(
                    part,
                    block_id=len(blocks),
                    result_offset=offset,
                    section_beats=section,
                )
                break
            except StagingFullError:
                if not groups[-1]:
                    raise
                for _ in range(groups[-1]):
                    encoder.retire()
                groups.append(0)
        groups[-1] += 1
        blocks.append(block)
        offsets.append(offset)
        offset += block.result_beats
        section = [
            at + len(data) // layout.beat_bytes
            for at, data in zip(section, block.sections, strict=True)
        ]
    return blocks, offsets, groups


def build_workload(
    folder: Path,
    images: Path,
    params: DeviceParams,
    encoder: RequestEncoder,
    batch: SampleBatch,
    size: int,
    *,
    timing: Timing,
) -> Workload:
    """Write all files of a job into ``folder``: queue, lookup sections, staged rows, results.

    Parameters
    ----------
    folder
        The job's folder.
    images
        What ``screc compile`` left; table images are mapped from there, not copied.
    params, encoder, batch, size
        Device, encoder, samples and samples per block.
    timing
        How the memory answers.
    """
    layout = encoder.layout
    load_queue = (images / "load.bin").read_bytes()
    load_blocks = count_blocks(load_queue)
    blocks, offsets, groups = encode(encoder, batch, size, load_blocks)
    queue = load_queue + b"".join(block.queue for block in blocks)
    (folder / "queue.bin").write_bytes(queue)
    result_bytes = (offsets[-1] + blocks[-1].result_beats) * BEAT_BYTES
    with (folder / "result.bin").open("wb") as stream:
        stream.truncate(result_bytes)
    bases = tuple(GMEM_ADDRESS + GMEM_SPAN * i for i in range(params.memory))
    ports: dict[str, tuple[RegionSpec, ...]] = {
        "host": (
            RegionSpec(name="queue", base=QUEUE_ADDRESS, size=len(queue), file="queue.bin"),
            RegionSpec(
                name="result",
                base=RESULT_ADDRESS,
                size=result_bytes,
                file="result.bin",
                writable=True,
            ),
        )
    }
    for i, (core, base) in enumerate(zip(layout.cores, bases, strict=True)):
        sections = b"".join(block.sections[i] for block in blocks)
        (folder / f"sections{i}.bin").write_bytes(sections)
        parts = [
            RegionSpec(
                name="rows",
                base=base,
                size=core.image_bytes,
                file=str((images / f"mem{i}.bin").resolve()),
            ),
            RegionSpec(
                name="staging",
                base=base + core.staging_offset,
                size=core.staging_beats * layout.beat_bytes,
            ),
            RegionSpec(
                name="lookups",
                base=base + core.lookup_offset,
                size=len(sections),
                file=f"sections{i}.bin",
            ),
        ]
        ports[f"gmem{i}"] = tuple(part for part in parts if part.size)
    starts = [Start(queue=QUEUE_ADDRESS, size=len(load_queue))]
    placements = _write_staged(folder / "staged.bin", encoder, blocks, bases)
    at, first = QUEUE_ADDRESS + len(load_queue), 0
    for count in groups:
        mine = slice(first, first + count)
        length = sum(len(block.queue) for block in blocks[mine])
        place = tuple(p for block in placements[mine] for p in block)
        starts.append(Start(queue=at, size=length, place=place))
        at, first = at + length, first + count
    job = Job(
        ports=ports,
        memory=params.memory,
        compute=params.compute,
        bases=bases,
        result=RESULT_ADDRESS,
        starts=tuple(starts),
        timing=timing,
    )
    job.save(folder)
    return Workload(job, tuple(blocks), tuple(offsets), tuple(groups), load_blocks)


def _write_staged(
    path: Path, encoder: RequestEncoder, blocks: list[EncodedBlock], bases: tuple[int, ...]
) -> list[list[Placement]]:
    """Write the staged rows of all blocks into one file; return where each goes, by block."""
    layout = encoder.layout
    placements: list[list[Placement]] = []
    with path.open("wb") as stream:
        for block in blocks:
            placements.append([])
            for write in block.staged:
                address = (
                    bases[write.core]
                    + layout.cores[write.core].staging_offset
                    + write.beat * layout.beat_bytes
                )
                placements[-1].append(
                    Placement(
                        port=f"gmem{write.core}",
                        address=address,
                        file=path.name,
                        offset=stream.tell(),
                        size=len(write.data),
                    )
                )
                stream.write(write.data)
    return placements
