"""Is everything that the device did right? Results, status beats, bus rules, addresses."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from screc.simulate.workload import Workload
from screc_sim import vectors
from screc_sim.golden.quant import GoldenResult
from screc_sim.vectors import BlockResult


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What checking a finished job found.

    ``mismatches`` samples differ from the golden model; ``errors`` is everything else that is
    wrong, one line each; ``results`` what the device wrote, by RUN block.
    """

    mismatches: int
    first: tuple[vectors.Mismatch, ...]
    errors: tuple[str, ...]
    results: tuple[BlockResult, ...]

    @property
    def bit_exact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.mismatches and not self.errors

    @property
    def samples(self) -> int:
        """Samples compared."""
        return sum(len(result.records) for result in self.results)

    def digest(self) -> str:
        """SHA-256 of every result record in order of samples."""
        digest = hashlib.sha256()
        for result in self.results:
            digest.update(result.records.astype("<u8").tobytes())
        return digest.hexdigest()


def check(
    workload: Workload, folder: Path, outcome: dict[str, Any], golden: GoldenResult
) -> Verdict:
    """Compare everything that a job left in ``folder`` with what must be there."""
    errors = [*outcome["protocol_errors"], *outcome["access_errors"]]
    expected_blocks = [workload.load_blocks, *workload.groups]
    for index, (start, blocks) in enumerate(zip(outcome["starts"], expected_blocks, strict=False)):
        if not start["finished"]:
            errors.append(f"start {index}: the device hung after {start['cycles']} cycles")
        elif (start["status"], start["blocks"], start["done"]) != (0, blocks, True):
            errors.append(
                f"start {index}: status {start['status']:#x}, {start['blocks']} of {blocks} blocks"
            )
    result = folder / "result.bin"
    for index in range(workload.load_blocks):
        errors += [
            f"LOAD {line}"
            for line in vectors.check_status(vectors.read_block(result, index, 0), index, 0)
        ]
    expected = vectors.expected_records(golden)
    mismatches, first, results, sample = 0, list[vectors.Mismatch](), [], 0
    for block, offset in zip(workload.blocks, workload.offsets, strict=True):
        got = vectors.read_block(result, offset, block.samples)
        errors += vectors.check_status(got, block.block_id, block.samples)
        count, some = vectors.compare_records(
            got.records, expected[sample : sample + block.samples]
        )
        mismatches += count
        first += [dataclasses.replace(one, sample=one.sample + sample) for one in some]
        results.append(got)
        sample += block.samples
    for i, core in enumerate(outcome["counters"]["memory"]):
        if core["range_errors"]:
            errors.append(f"memory core {i} counted {core['range_errors']} lookups out of range")
    return Verdict(mismatches, tuple(first[:20]), tuple(errors), tuple(results))
