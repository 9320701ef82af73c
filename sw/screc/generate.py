"""The generate step: from the plan to SystemVerilog, constraints and Vitis packaging."""

from __future__ import annotations

from screc import files
from screc.devices import resolve_device
from screc.errors import ConfigError
from screc.flow import Context
from screc.plan.device import device_params
from screc.plan.schema import read_plan


def run(ctx: Context) -> None:
    """Write the folders ``rtl`` (with ``design.json``), ``constraints`` and ``vitis``.

    Raises
    ------
    ConfigError
        If the device cannot be linked for the card, such as with more ports than a memory bank has.
    """
    # the hardware description language takes a while to import
    from screc_hw.device.top import emit_device
    from screc_hw.vitis import emit_constraints, emit_vitis, vitis_platform

    plan = read_plan(ctx.out / "plan.json")
    device = resolve_device(ctx.config.device[0])
    params = device_params(plan, ctx.shape)
    with ctx.progress("emitting SystemVerilog", None), files.atomic_folder(ctx.out / "rtl") as rtl:
        design = emit_device(params, rtl, model=ctx.shape)
    with files.atomic_folder(ctx.out / "constraints") as folder:
        emit_constraints(design, folder, clock_mhz=device.clock_mhz)
    with files.atomic_folder(ctx.out / "vitis") as folder:
        try:
            platform = vitis_platform(device.kind)
            emit_vitis(design, folder, platform=platform, clock_mhz=device.clock_mhz)
        except ValueError as error:
            raise ConfigError(str(error), field="device") from error
    ctx.log(f"{len(design['files'])} files in {ctx.out / 'rtl'}", level=1)
