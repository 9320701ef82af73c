"""The roofline: no device of these sizes can run these requests in fewer cycles."""

from __future__ import annotations

from typing import Any

from screc_hw.compute.program import streamed_beats
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams
from screc_hw.protocol import BEAT_BYTES
from screc_sim.vectors import RECORD_BYTES


def roofline(
    shape: ModelShape, params: DeviceParams, simulation: dict[str, Any]
) -> dict[str, float]:
    """Return the least cycles per sample that each resource needs; the largest is the bound.

    Parameters
    ----------
    shape, params
        Model and device.
    simulation
        Content of ``simulation.json``: what was looked up and transferred.

    Returns
    -------
    dict
        ``memory ports``: rows in whole beats, lookup records and streamed weights (once for as many
        samples as a compute core holds at a time) ÷ ports. ``pools``: slices of rows
        ÷ pools. ``tt``, where rows are rebuilt: MACs of their second products, as the first may be
        shared, ÷ the reconstructors' multipliers. ``host reads``, ``host writes``: beats of
        requests and results. ``array``: MACs of the layers ÷ the arrays' multipliers.
        ``interaction``: MACs of the pairs ÷ its multipliers.
    """
    samples = simulation["samples"]
    beat = params.gather.beat_bytes
    rows, columns = params.core.rows, params.core.columns
    layers = (*shape.bottom_layers, *shape.top_layers)
    pair_macs = shape.pairs * shape.vector_dims[0] if shape.pairs else 0
    port_beats = simulation["row_beats"] + simulation["section_bytes"] / beat
    core = params.core
    held = core.slots * core.rows
    passes = -(-samples // held) if samples else 0
    port_beats += passes * streamed_beats(shape, core)
    tt = {}
    if params.tt is not None:
        tt["tt"] = simulation["tt_macs"] / (params.tt.multipliers * params.memory) / samples
    return {
        **tt,
        "memory ports": port_beats / params.memory / samples,
        "pools": simulation["row_slices"] / params.memory / samples,
        "host reads": simulation["queue_bytes"] / BEAT_BYTES / samples,
        "host writes": RECORD_BYTES / BEAT_BYTES,
        "array": sum(layer.macs for layer in layers) / (rows * columns * params.compute),
        "interaction": pair_macs / (max(params.core.pair_multipliers, 1) * params.compute),
    }
