"""Write tests/golden/packed_rows.npz: packed rows of PyTorch and what its operators make of them.

Needs PyTorch; the tests need only the file. For every dimension: rows packed in 4 bits and in 8
bits, bags, and their sums and means. Those of 8 bits are summed with the fp32 tails that PyTorch
writes, and with the same tails rounded to fp16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "packed_rows.npz"

DIMS = (8, 16, 64, 128)
ROWS = 30
LENGTHS = (0, 1, 2, 3, 0, 20, 80, 300)
TAIL_BYTES = 8


def vectors(dim: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arrays for one dimension."""
    # spreads from 0 (a constant row) to 10, and a row of zeros
    spread = np.geomspace(1e-6, 10, ROWS)[:, None]
    weight = (rng.normal(size=(ROWS, dim)) * spread + rng.normal(size=(ROWS, 1))).astype(np.float32)
    weight[0], weight[1] = 0, 0.3
    nibbles = torch.ops.quantized.embedding_bag_4bit_prepack(torch.from_numpy(weight))
    byte = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(weight))
    halved = byte.numpy().copy()
    tail = halved[:, -TAIL_BYTES:].copy().view(np.float32)
    halved[:, -TAIL_BYTES:] = tail.astype(np.float16).astype(np.float32).view(np.uint8)
    ids = torch.from_numpy(rng.integers(0, ROWS, sum(LENGTHS)))
    offsets = torch.from_numpy(np.cumsum([0, *LENGTHS[:-1]]))

    def byte_sums(rows: torch.Tensor) -> np.ndarray:
        sums = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            rows, ids, offsets, False, 0, False, None, None, False
        )
        return sums.numpy()

    sums = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets(
        nibbles, ids, offsets, False, 0, False, None, None, False
    )
    means = torch.nn.functional.embedding_bag(
        ids, torch.ops.quantized.embedding_bag_4bit_unpack(nibbles), offsets, mode="mean"
    )
    return {
        "weight": weight,
        "nibbles": nibbles.numpy(),
        "byte": byte.numpy(),
        "ids": ids.numpy(),
        "nibble_sums": sums.numpy(),
        "nibble_means": means.numpy(),
        "byte_sums": byte_sums(byte),
        "half_sums": byte_sums(torch.from_numpy(halved)),
    }


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(0)
    arrays = {"lengths": np.array(LENGTHS), "torch": np.array(torch.__version__.split("+")[0])}
    for dim in DIMS:
        arrays |= {f"{name}_{dim}": value for name, value in vectors(dim, rng).items()}
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
