from __future__ import annotations

import numpy as np
import pytest

from screc_hw.compute.array import Array
from screc_hw.compute.params import CHAIN, ComputeParams
from screc_hw.protocol import LoadTarget
from tests.support.pysim import simulate


def params(rows: int, columns: int, **changed: int) -> ComputeParams:
    return ComputeParams(
        rows=rows,
        columns=columns,
        lanes=8,
        slots=2,
        vector_words=1,
        max_vectors=2,
        max_dense=1,
        max_k=64,
        max_n=64,
        activation_words=8,
        weight_steps=128,
        requantise_words=1,
        program_length=1,
        **changed,
    )


def weight_steps(weight: np.ndarray, outs: int) -> np.ndarray:
    """Weights (n, k) as (steps, CHAIN, outs), zero beyond."""
    n, k = weight.shape
    groups, links = -(-n // outs), -(-k // CHAIN)
    padded = np.zeros((groups * outs, links * CHAIN), np.int64)
    padded[:n, :k] = weight
    return padded.reshape(groups, outs, links, CHAIN).transpose(0, 2, 3, 1).reshape(-1, CHAIN, outs)


@pytest.mark.parametrize(("rows", "columns"), [(2, 8), (4, 16), (8, 32), (4, 64)])
@pytest.mark.parametrize("layers", [((13, 5), (16, 4), (40, 1)), ((1, 1), (64, 9))])
def test_columns_are_sums(rows: int, columns: int, layers: tuple) -> None:
    p = params(rows, columns, max_fanout=8)
    rng = np.random.default_rng(rows + columns)
    dut = Array(p)
    words, runs, expected = [], [], []
    base = 0
    inputs = rng.integers(-127, 128, (64, rows))
    inputs[:16] = rng.choice([-127, 127], (16, rows))
    for k, n in layers:
        weight = rng.integers(-127, 128, (n, k))
        weight[0] = 127
        steps = weight_steps(weight, p.outs)
        words.append(steps)
        links = -(-k // CHAIN)
        groups = range(-(-n // p.outs))
        runs += [(base + i * links, links, min(p.outs, n - i * p.outs)) for i in groups]
        expected += (inputs[:k].T @ weight.T).T.tolist()
        base += len(steps)
    image = np.concatenate(words)
    pad = -len(image) % p.word_steps
    image = np.concatenate([image, np.zeros((pad, CHAIN, p.outs), np.int64)])
    image = image.reshape(-1, p.word_steps, CHAIN, p.outs).transpose(0, 2, 1, 3)
    load = np.ascontiguousarray(image.astype(np.int8)).reshape(-1).view("<u8")
    got: list[list[int]] = []

    async def drive(ctx):
        for address, word in enumerate(load.tolist()):
            ctx.set(
                dut.config.payload,
                {"target": int(LoadTarget.WEIGHTS), "address": address, "data": word},
            )
            ctx.set(dut.config.valid, 1)
            await ctx.tick()
        ctx.set(dut.config.valid, 0)
        for i in range(64):
            bank = dut.writes[i % CHAIN]
            ctx.set(bank.enable, (1 << rows) - 1)
            ctx.set(bank.address, i // CHAIN)
            for row in range(rows):
                ctx.set(bank.data[row], int(inputs[i, row]))
            await ctx.tick()
            ctx.set(bank.enable, 0)
        for first, links, outs in runs:
            for link in range(max(links, outs)):
                ctx.set(dut.step.activation, link)
                ctx.set(dut.step.weight, first + link)
                ctx.set(dut.step.last, CHAIN - 1)
                ctx.set(dut.tag.valid, link < links)
                ctx.set(dut.tag.begin, link == 0)
                ctx.set(dut.tag.end, link == links - 1)
                ctx.set(dut.tag.outs, outs - 1)
                await ctx.tick()
        ctx.set(dut.tag.valid, 0)
        for _ in range(dut.latency + p.outs + 4):
            await ctx.tick()

    async def collect(ctx):
        coming = [0, 0]
        async for _, _, ahead, column in ctx.tick().sample(dut.ahead, dut.column):
            coming.append(ahead)
            if coming[-3]:
                got.append([int(column[row]) for row in range(rows)])

    simulate(dut, drive, background=[collect])
    assert got == expected
