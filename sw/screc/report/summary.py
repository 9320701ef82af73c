"""``summary.json``: the figures of a run that scripts and people ask for, each with its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from screc.devices import DeviceSpec
from screc.plan.schema import Plan
from screc.report.charts import compact
from screc.report.roofline import roofline
from screc_hw.model import ModelShape
from screc_hw.params import DeviceParams

KINDS = {
    "bit_exact": "measured: every result word of the emitted RTL against the golden model",
    "cycles": "measured on the emitted RTL in simulation, with a memory model of set latency",
    "cycles_per_sample": "measured: cycles of all starts ÷ samples",
    "predicted_cycles_per_sample": "estimate: formulas of the parameter classes",
    "bound_cycles_per_sample": "roofline: no device of these sizes needs fewer",
    "clock_mhz": "target: no clock is reached here",
    "samples_per_s": "projection: measured cycles at the target clock",
    "host_lookups_per_s": "measured on the machine that ran screc, one core",
    "resources": "estimate: no place-and-route is run here",
    "drift": "measured: tables whose later lookups are not like those that the plan is made for",
    "plan_gap": "proven: distance of the plan's value to the solver's bound",
    "auc_float": "measured on the simulated samples",
    "auc_device": "measured on the simulated samples",
    "calibration": "measured on the samples that scales were chosen on",
}
"""What each figure is: measured, an estimate, a target or a projection."""


def summarise(
    shape: ModelShape,
    plan: Plan,
    device: DeviceSpec,
    design: dict[str, Any],
    simulation: dict[str, Any],
    calibration: list[dict[str, Any]],
    drift: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Parameters
    ----------
    shape, plan, device
        Model, plan and the device it is for.
    design, simulation
        Content of ``rtl/design.json`` and ``simulation.json``.
    calibration
        How every scale was chosen, of ``images/manifest.json``.
    drift
        Names of the tables that the log's statistics flag.
    """
    params = DeviceParams.from_dict(design["params"])
    samples = simulation["samples"]
    per_sample = simulation["cycles_per_sample"]
    bounds = roofline(shape, params, simulation)
    clock_hz = device.clock_mhz * 1e6
    rate = clock_hz / per_sample if per_sample else 0.0
    needed = rate * simulation["lookups"] / samples
    had = simulation["host_lookups_per_s"]
    planned = plan.devices[0]
    return {
        "model": shape.name,
        "device": planned.kind,
        "devices": len(plan.devices),
        "cores": planned.cores.model_dump(),
        "shapes": {"rows": params.core.rows, "columns": params.core.columns},
        "drift": list(drift),
        "plan_gap": plan.gap,
        "plan_bottleneck": plan.bottleneck,
        "samples": samples,
        "simulator": simulation["simulator"],
        "bit_exact": simulation["bit_exact"],
        "mismatches": simulation["mismatches"],
        "errors": simulation["errors"],
        "cycles": simulation["cycles"],
        "cycles_per_sample": per_sample,
        "predicted_cycles_per_sample": simulation["predicted"]["total"] / samples,
        "bound_cycles_per_sample": max(bounds.values()),
        "bounds": bounds,
        "bottleneck": simulation["predicted"]["bottleneck"],
        "clock_mhz": device.clock_mhz,
        "samples_per_s": rate,
        "lookups": simulation["lookups"],
        "tt_lookups": simulation["tt_lookups"],
        "tt_hit_rate": simulation["tt_hits"] / max(simulation["tt_lookups"], 1),
        "staged_rows": simulation["staged_rows"],
        "staged_lookups": simulation["staged_lookups"],
        "host_lookups_per_s": had,
        "host_bottleneck": had < needed,
        "host_note": (
            f"one core of the machine that ran screc encodes {compact(had)} lookups/s; at the "
            f"target clock the device takes {compact(needed)}/s"
            + (f", so it needs {needed / had:.1f} such cores" if 0 < had < needed else "")
        ),
        "auc_float": simulation["accuracy"]["auc_float"],
        "auc_device": simulation["accuracy"]["auc_device"],
        "calibration": calibration,
        "probability_error": simulation["accuracy"]["probability_error"],
        "resources": {key: design["resources"][key] for key in RESOURCES},
        "kinds": KINDS,
    }


RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")
"""Resources of an FPGA that are counted."""
