"""Figures of one point: what its ``plan.json`` and ``simulation.json`` say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from screc.config import Config
from screc.devices import resolve_device

UTILISATION = ("lut", "ff", "dsp", "bram36", "uram", "dram", "ssd")
"""Resources of a device whose used share is told."""


def planned_figures(config: Config, model: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan promises.

    Parameters
    ----------
    config
        The point's configuration.
    model
        Name of the model.
    plan
        Content of ``plan.json``; ``energy`` and ``latency`` may be absent.
    """
    devices = plan["devices"]
    of_throughput = plan["objective"] == "throughput"
    return {
        "model": model,
        "devices": len(devices),
        **{name: _common(devices, "cores", name) for name in ("memory", "tt", "compute")},
        **{name: _common(devices, "shapes", name) for name in ("rows", "columns")},
        # at another objective the value is its figure, and the rate is the one asked for
        "throughput": 1 / plan["value"] if of_throughput else config.plan.rate,
        "bound": plan["bound"],
        "gap": plan["gap"],
        "bottleneck": plan["bottleneck"],
        "energy_per_sample": plan.get("energy"),
        "latency": plan.get("latency"),
        "clock_mhz": resolve_device(config.device[0]).clock_mhz,
        "solve_seconds": plan["solve_seconds"],
        **{name: _fullest(devices, name) for name in UTILISATION},
    }


def _common(devices: Sequence[dict[str, Any]], part: str, name: str) -> Any:
    """Return the value that all devices share, None where they differ."""
    values = {device[part].get(name) for device in devices}
    return values.pop() if len(values) == 1 else None


def _fullest(devices: Sequence[dict[str, Any]], resource: str) -> float | None:
    shares = [device["utilisation"].get(resource) for device in devices]
    return max((share for share in shares if share is not None), default=None)


def measured_figures(config: Config, simulation: dict[str, Any]) -> dict[str, Any]:
    """Return what the RTL took, beside what was predicted for the same samples.

    Parameters
    ----------
    config
        The point's configuration.
    simulation
        Content of ``simulation.json``.
    """
    measured = simulation["cycles_per_sample"]
    predicted = simulation["predicted"]["total"] / simulation["samples"]
    clock_hz = resolve_device(config.device[0]).clock_mhz * 1e6
    return {
        "predicted_cycles_per_sample": predicted,
        "measured_cycles_per_sample": measured,
        "error_percent": 100 * (predicted / measured - 1) if measured else None,
        "bit_exact": simulation["bit_exact"],
        "measured_throughput": clock_hz / measured if measured else None,
    }
