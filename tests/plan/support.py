"""Small planning problems."""

import numpy as np

from screc.devices import DeviceConfig, resolve_device
from screc.plan.budget import GIB, Budget
from screc.plan.catalogue import Catalogue, Pins, enumerate_patterns
from screc.plan.problem import DeviceClass, Problem, TableDemand
from screc.plan.rates import RateCurve
from screc_hw.model import FeatureShape, ModelShape, TableShape

SMALL_PINS = Pins(memory=1, compute=1, rows=8, columns=8, slots=2, weights="onchip", pool_beats=1)


def shape_of(rows, *, dim=16, pooling=None, top=(8, 1), formats=None):
    """A model with one feature per table; tables are named a, b, c."""
    pooling = pooling or [1.0] * len(rows)
    dims = [dim] * len(rows) if isinstance(dim, int) else dim
    formats = formats or ["int8"] * len(rows)
    return ModelShape(
        name="tiny",
        dense=4,
        bottom=(8, 16),
        top=top,
        interaction="dot" if set(dims) == {16} else "concat",
        tables=tuple(
            TableShape(name="abcdefgh"[i], rows=n, dim=dims[i], format=formats[i])
            for i, n in enumerate(rows)
        ),
        features=tuple(
            FeatureShape(name="abcdefgh"[i], table=i, pooling=p) for i, p in enumerate(pooling)
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
    dim=16,
    pooling=None,
    formats=None,
    dram_bytes=None,
    batch=16,
    pins=SMALL_PINS,
    onchip_beats=0,
    demands=None,
    top=(8, 1),
    count=1,
    device=None,
    **more,
):
    """A problem of ``count`` equal devices; ``demands`` are fields of tables by name."""
    shape = shape_of(rows, dim=dim, pooling=pooling, top=top, formats=formats)
    figures = dict(device or {})
    if dram_bytes is not None:
        figures["dram_gib"] = dram_bytes / GIB
    budget = budget_of(**figures)
    catalogue = Catalogue(shape, shape, batch)
    patterns = enumerate_patterns(
        catalogue, budget, pins, alone=count == 1, onchip_beats=onchip_beats
    )
    return Problem(
        shape=shape,
        compute_shape=shape,
        tables=[
            TableDemand(
                **{"shape": table, "rates": zipf_curve(table.rows, feature.pooling)}
                | (demands or {}).get(table.name, {})
            )
            for table, feature in zip(shape.tables, shape.features, strict=True)
        ],
        classes=(DeviceClass(budget, count, patterns),),
        batch=batch,
        **more,
    )
