"""The LOAD queue: everything that a device must know of a model before the first request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screc.compile.blocks import load_block, words_of
from screc.compile.layout import Layout
from screc.compile.tt import reconstructor_tables
from screc_hw import protocol
from screc_hw.compute.program import (
    pack_nibbles,
    program_words,
    requantise_words,
    shape_word,
    weight_words,
)
from screc_hw.compute.tensors import vector_bases
from screc_hw.model import ModelShape
from screc_hw.numerics import sigmoid_table
from screc_hw.params import DeviceParams
from screc_hw.protocol import LoadTarget
from screc_hw.tt.image import load_blocks
from screc_sim.golden.quant import QuantModel

Words = Sequence[int] | NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class LoadQueue:
    """A queue of ``blocks`` LOAD blocks; block ``i`` has id ``i`` and its status at beat ``i``."""

    data: bytes
    blocks: int


def gather_descriptors(layout: Layout, shape: ModelShape, params: DeviceParams, core: int) -> Words:
    """Descriptors of every feature for memory core ``core``, ``FEATURE_WORDS`` words each."""
    words: list[int] = []
    numbers = {i: n for n, i in enumerate(i for i, t in enumerate(layout.tables) if t.tt)}
    for feature in shape.features:
        table, place = shape.tables[feature.table], layout.tables[feature.table]
        tt = {}
        if place.tt is not None:
            tt = {
                "tt_first": place.tt.first,
                "tt_last": place.tt.last,
                "tt_stripe_log2": place.stripe_log2,
                "tt_residue": place.residue(core),
                "tt_table": numbers[feature.table],
            }
        sub_beat = table.row_bytes < layout.beat_bytes
        value = protocol.pack(
            protocol.FEATURE_FIELDS,
            base=place.offsets[core],
            row_beats=place.row_beats,
            sub_beat=int(sub_beat),
            stride_log2=(place.stride - 1).bit_length() if sub_beat else 0,
            int4=int(table.code_bits == 4),
            enable=1,  # also where all rows are on SSD: staged rows need the row's shape
            rowwise=int(table.rowwise),
            first=place.dram_first,
            last=place.resident_rows,
            stripe_log2=place.stripe_log2,
            residue=place.residue(core),
            onchip_base=place.onchip_offsets[core] // layout.beat_bytes,
            onchip_first=0,
            onchip_last=place.onchip_rows,
            onchip_stripe_log2=place.stripe_log2,
            onchip_residue=place.residue(core),
            slices=table.dim // params.gather.lanes,
            **tt,
        )
        words += words_of(value, protocol.FEATURE_WORDS)
    return words


def combiner_descriptors(model: QuantModel, params: DeviceParams) -> Words:
    """One word per feature: requantisation to the interaction's scale, and the bag's place."""
    shape, lanes = model.shape, params.combiner.lanes
    bases = vector_bases(shape, lanes)[1 if shape.dense else 0 :]
    return [
        protocol.pack(
            protocol.COMBINER_FIELDS,
            m=int(model.bag_m[index]),
            s=int(model.bag_s[index]),
            mean=int(feature.mode == "mean"),
            slices=shape.feature_dim(index) // lanes,
            vector_base=base,
        )
        for index, (feature, base) in enumerate(zip(shape.features, bases, strict=True))
    ]


def requantisers(model: QuantModel) -> Words:
    """Entries of all outputs, of the copy and of the pairs."""
    bottom, top = (
        [entry for layer in layers for entry in layer.entries()]
        for layers in (model.bottom, model.top)
    )
    return requantise_words(model.shape, bottom, top, model.copy_ms, model.pair_ms)


def weights(model: QuantModel, params: DeviceParams) -> NDArray[np.uint64]:
    """Weights of every layer, bottom before top, as the compute core's memory holds them."""
    layers = (*model.bottom, *model.top)
    return weight_words([layer.weight for layer in layers], model.shape, params.core)


def _weight_loads(
    model: QuantModel, params: DeviceParams, layout: Layout
) -> list[tuple[LoadTarget, int, Words]]:
    """What compute cores are told of weights: all of them, or where they are to be read."""
    if params.core.stream_words:
        regions: list[tuple[LoadTarget, int, Words]] = []
        for core in range(params.compute):
            place = layout.cores[core % params.memory]
            offset, beats = (
                n // layout.beat_bytes for n in (place.weight_offset, place.weight_bytes)
            )
            word = protocol.pack(protocol.REGION_FIELDS, offset=offset, beats=beats)
            regions.append((LoadTarget.WEIGHT_REGION, core, [word]))
        return regions
    words = weights(model, params)
    if model.shape.mlp_format == "int4":
        return [(LoadTarget.WEIGHTS4, protocol.ALL_CORES, pack_nibbles(words))]
    return [(LoadTarget.WEIGHTS, protocol.ALL_CORES, words)]


def load_queue(
    model: QuantModel, params: DeviceParams, layout: Layout, onchip: Sequence[bytes] = ()
) -> LoadQueue:
    """Encode the LOAD blocks of a model on a device; ``onchip`` rows by memory core, if any."""
    shape = model.shape
    plan: list[tuple[LoadTarget, int, Words]] = []
    for core, place in enumerate(layout.cores):
        plan.append(
            (LoadTarget.GATHER_FEATURES, core, gather_descriptors(layout, shape, params, core))
        )
        rows_end = place.lookup_offset // layout.beat_bytes
        staging = [place.staging_offset, place.staging_beats, rows_end]
        plan.append((LoadTarget.GATHER_STAGING, core, staging))
    for core, image in enumerate(onchip):
        if image:
            plan.append((LoadTarget.GATHER_ROWS, core, np.frombuffer(image, "<u8")))
    every = protocol.ALL_CORES
    if params.tt is not None:
        tables = reconstructor_tables(model, layout)
        plan += [(target, every, words) for target, words in load_blocks(tables, params.tt)]
    plan += [
        (LoadTarget.COMBINER_FEATURES, every, combiner_descriptors(model, params)),
        (LoadTarget.COMPUTE_SHAPE, every, [shape_word(shape, params.core)]),
        (LoadTarget.PROGRAM, every, program_words(shape, params.core)),
        *_weight_loads(model, params, layout),
        (LoadTarget.REQUANTISE, every, requantisers(model)),
        (LoadTarget.SIGMOID, every, sigmoid_table()),
    ]
    blocks = [
        load_block(target, words, core=core, block_id=index, result_offset=index)
        for index, (target, core, words) in enumerate(plan)
    ]
    return LoadQueue(b"".join(blocks), len(blocks))
