"""Small planning problems."""

import numpy as np

from screc.devices import DeviceConfig, resolve_device
from screc.plan.budget import GIB, Budget
from screc.plan.patterns import Pins, enumerate_patterns
from screc.plan.problem import Problem, TableDemand
from screc.plan.rates import RateCurve
from screc_hw.model import FeatureShape, ModelShape, TableShape

SMALL_PINS = Pins(memory=1, compute=1, rows=8, columns=8)


def shape_of(rows, *, dim=16, pooling=None, top=(8, 1)):
    """A model with one feature per table; tables are named a, b, c."""
    pooling = pooling or [1.0] * len(rows)
    return ModelShape(
        name="tiny",
        dense=4,
        bottom=(8, dim),
        top=top,
        interaction="dot",
        tables=tuple(TableShape(name="abcdef"[i], rows=n, dim=dim) for i, n in enumerate(rows)),
        features=tuple(
            FeatureShape(name="abcdef"[i], table=i, pooling=p) for i, p in enumerate(pooling)
        ),
    )


def budget_of(kind="smartssd", **figures):
    figures.setdefault("ssd_kiops", 400) if kind == "smartssd" else None
    return Budget(resolve_device(DeviceConfig(kind=kind, **figures)))


def zipf_curve(rows, lookups, exponent=1.05):
    """Rates of a Zipf law, in few pieces where ranks are cold."""
    weight = np.arange(1, rows + 1, dtype=float) ** -exponent
    return RateCurve.from_counts(weight / weight.sum() * lookups, 1, rows, 0.0)


def problem_of(
    rows,
    *,
    pooling=None,
    dram_bytes=None,
    batch=16,
    pins=SMALL_PINS,
    demands=None,
    top=(8, 1),
    **more,
):
    shape = shape_of(rows, pooling=pooling, top=top)
    device = more.pop("device", {})
    if dram_bytes is not None:
        device = {**device, "dram_gib": dram_bytes / GIB}
    budget = budget_of(**device)
    return Problem(
        shape=shape,
        tables=[
            TableDemand(
                shape=table,
                rates=zipf_curve(table.rows, feature.pooling),
                **(demands or {}).get(table.name, {}),
            )
            for table, feature in zip(shape.tables, shape.features, strict=True)
        ],
        patterns=enumerate_patterns(shape, budget, batch, pins),
        budget=budget,
        batch=batch,
        **more,
    )
