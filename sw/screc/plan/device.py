"""From a plan to the parameters of its device."""

from __future__ import annotations

from collections.abc import Sequence

from screc.errors import ConfigError
from screc.plan.schema import Plan
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

TT_CHAIN = 8
"""Elements of a reconstructor's dot product per cycle: no rank of the usual 8, 16, 32 is padded."""

TT_FRACTION = 3
"""Bits of TT rows below the grid of exact ones: bags of 65,535 rows then still take one DSP48E2
to requantise (27 bits), and rounding adds a sixteenth of a step at most."""


def reconstructor(
    shapes: Sequence[TtShape], pins: Sequence[int], *, slice_lanes: int, lanes: int
) -> TtParams | None:
    """Size a reconstructor of ``lanes`` lanes for these tables; None without tables."""
    if not shapes:
        return None
    return TtParams.for_tables(
        shapes, pins, slice_lanes=slice_lanes, fraction=TT_FRACTION, lanes=lanes, chain=TT_CHAIN
    )


def device_params(plan: Plan, shape: ModelShape) -> DeviceParams:
    """Size the cores of the plan's device for ``shape``.

    Raises
    ------
    ConfigError
        If the plan is one that is not built yet; says what to change.
    """
    if len(plan.devices) != 1:
        raise ConfigError(
            f"a plan of {len(plan.devices)} devices is not built yet; one device is, "
            "[[device]] with count = 1",
            field="device",
        )
    device = plan.devices[0]
    if plan.cartesian:
        pairs = ", ".join(f"{a} × {b}" for a, b in plan.cartesian)
        raise ConfigError(
            f"merged tables ({pairs}) are not built yet; use false", field="plan.cartesian"
        )
    parts = [part for table in device.tables if (part := table.tt) is not None]
    tt = reconstructor(
        [part.shape for part in parts],
        [part.pins for part in parts],
        slice_lanes=DeviceParams.lanes(shape),
        lanes=device.cores.tt // device.cores.memory,
    )
    return DeviceParams.for_model(
        shape,
        memory=device.cores.memory,
        compute=device.cores.compute,
        rows=device.shapes.rows,
        columns=device.shapes.columns,
        slots=device.shapes.slots,
        outstanding=device.shapes.outstanding,
        onchip_beats=device.shapes.onchip_beats,
        pool_beats=device.shapes.pool_beats,
        tt=tt,
        stream=device.weights == "stream",
    )
