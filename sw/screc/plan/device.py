"""From a plan to the parameters of its device."""

from __future__ import annotations

from screc.plan.schema import Plan
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams


def device_params(plan: Plan, shape: ModelShape) -> DeviceParams:
    """Size the cores of the plan's device for ``shape``."""
    device = plan.devices[0]
    return DeviceParams.for_model(
        shape,
        memory=device.cores.memory,
        compute=device.cores.compute,
        rows=device.shapes.rows,
        columns=device.shapes.columns,
        outstanding=device.shapes.outstanding,
        onchip_beats=device.shapes.onchip_beats,
        pool_beats=device.shapes.pool_beats,
    )
