"""Runs an emitted compute core in a simulator and writes its results as JSON."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import vector_bases
from screc_hw.stream import config_layout, feature_write_layout, result_layout
from tests.support.compute import IntegerModel, Stimulus, core_params, model_shape

COUNT = 6
SEED = 80


def case() -> tuple[IntegerModel, ComputeParams, Stimulus]:
    """Two column groups, two words a vector, sub-batches over the slots three times."""
    shape = model_shape(dense=5, bottom=(18, 16), dims=(16,) * 6, top=(20, 1))
    params = core_params(shape, rows=16, columns=16, lanes=16, slots=4, pair_units=2)
    return (
        IntegerModel.random(shape, SEED),
        params,
        Stimulus.random(shape, params.rows, COUNT, SEED + 1),
    )


def bits(layout: Any, values: dict[str, Any]) -> int:
    return int(layout.const(values).as_value().value)


@cocotb.test()
async def computes(dut: Any) -> None:
    model, params, stimulus = case()
    rng = random.Random(SEED)
    for name in ("config__valid", "words__valid", "dense__valid", "complete", "results__ready"):
        getattr(dut, name).value = 0
    dut.rst.value = 1
    Clock(dut.clk, 4, unit="ns").start()
    await ClockCycles(dut.clk, 4)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    for word in model.load(params):
        dut.config__payload.value = bits(config_layout(), word)
        dut.config__valid.value = 1
        await FallingEdge(dut.clk)
    dut.config__valid.value = 0
    await ClockCycles(dut.clk, 4)
    await FallingEdge(dut.clk)
    assert int(dut.idle.value) == 1

    released = 0
    results: list[list[int]] = []

    async def send(port: str, payload: int) -> None:
        while rng.random() < 0.3:
            await FallingEdge(dut.clk)
        getattr(dut, f"{port}__payload").value = payload
        getattr(dut, f"{port}__valid").value = 1
        ready = False
        while not ready:
            ready = bool(int(getattr(dut, f"{port}__ready").value))
            await FallingEdge(dut.clk)
        getattr(dut, f"{port}__valid").value = 0

    async def dense() -> None:
        for batch in stimulus.dense:
            for column in batch.T:
                word = sum((int(x) & 0xFF) << (8 * row) for row, x in enumerate(column))
                await send("dense", word)

    async def bags() -> None:
        bases = vector_bases(model.shape, params.lanes)[1:]
        layout = feature_write_layout(params)
        for batch in range(COUNT):
            while batch >= released + params.slots:
                await FallingEdge(dut.clk)
            words = [
                {"row": row, "word": bases[f] + w, "data": bag[w * params.lanes :][: params.lanes]}
                for row, vectors in enumerate(stimulus.bags[batch])
                for f, bag in enumerate(vectors)
                for w in range(len(bag) // params.lanes)
            ]
            rng.shuffle(words)
            for word in words:
                data = [int(x) for x in word["data"]]
                slot = batch % params.slots
                await send("words", bits(layout, word | {"slot": slot, "data": data}))
            dut.complete.value = 1
            await FallingEdge(dut.clk)
            dut.complete.value = 0

    cocotb.start_soon(dense())
    cocotb.start_soon(bags())
    layout = result_layout()
    for _ in range(20_000):
        if len(results) == COUNT * params.rows and released == COUNT:
            break
        ready = rng.random() < 0.5
        dut.results__ready.value = int(ready)
        # outputs are sampled in the middle of the cycle, before the edge that takes them
        if ready and int(dut.results__valid.value):
            view = layout.from_bits(int(dut.results__payload.value))
            results.append([view.logit, view.probability, view.code])
        released += int(dut.release.value)
        await FallingEdge(dut.clk)
    Path(os.environ["COMPUTE_RESULT"]).write_text(json.dumps(results))
