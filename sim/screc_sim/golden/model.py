"""The golden model: a whole quantised DLRM in exact integers.

Every result word of the device is compared with :func:`run`; :func:`stages` gives the tensors in
between. Both follow docs/numerics.md operation by operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.model import ModelShape
from screc_hw.numerics import MAX_BAG
from screc_sim.golden import ops
from screc_sim.golden.quant import GoldenResult, QuantModel
from screc_sim.samples import SampleBatch

SAMPLES_AT_ONCE = 1024
"""Samples computed at a time, so that memory does not grow with the batch."""


def run(model: QuantModel, batch: SampleBatch) -> GoldenResult:
    """Compute what the device must return for every sample.

    Parameters
    ----------
    model
        The quantised model.
    batch
        Samples; ids within their tables, bags of at most 65,535 lookups.

    Raises
    ------
    ValueError
        If the batch does not fit the model: shapes, an id outside its table, a bag too long, a
        dense value that is not finite.
    AccumulatorOverflowError
        If a value leaves the width that the hardware gives it.
    """
    check_batch(model.shape, batch)
    parts = [_forward(model, part) for part in _pieces(batch)]
    logit, code, probability = (
        np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
        for name in ("logit", "code", "probability")
    )
    return GoldenResult(
        logit.astype(np.int32), code.astype(np.int16), probability.astype(np.uint16)
    )


def stages(model: QuantModel, batch: SampleBatch) -> dict[str, NDArray[Any]]:
    """Compute every tensor on the way, by name; meant for a few thousand samples.

    Parameters
    ----------
    model, batch
        As for :func:`run`, same errors.

    Returns
    -------
    dict
        int8 ``dense`` ``(n, dense)``; ``bottom{i}`` ``(n, width)``; ``bag{f}`` ``(n, dim)`` per
        feature; ``concat`` ``(n, top_inputs)``; ``top{i}`` of the hidden layers; then ``logit``
        int64, ``code`` int16 and ``probability`` uint16 ``(n,)``.
    """
    check_batch(model.shape, batch)
    return _forward(model, batch)


def check_batch(shape: ModelShape, batch: SampleBatch) -> None:
    """Check that samples fit a model.

    Raises
    ------
    ValueError
        Names what does not fit, the value and what would be valid.
    """
    if batch.dense.shape != (len(batch), shape.dense):
        raise ValueError(
            f"dense features must have shape {(len(batch), shape.dense)}, not {batch.dense.shape}"
        )
    if not np.isfinite(batch.dense).all():
        sample, column = np.argwhere(~np.isfinite(batch.dense))[0]
        raise ValueError(
            f"dense feature {column} of sample {sample} must be finite, "
            f"not {batch.dense[sample, column]}"
        )
    if len(batch.bags) != len(shape.features):
        raise ValueError(f"a batch must have {len(shape.features)} features, not {len(batch.bags)}")
    for feature, bags in zip(shape.features, batch.bags, strict=True):
        lengths = bags.lengths
        if len(lengths) != len(batch):
            raise ValueError(
                f"feature {feature.name!r} must have {len(batch)} bags, not {len(lengths)}"
            )
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= MAX_BAG:
            raise ValueError(
                f"bags of feature {feature.name!r} must have 0 to {MAX_BAG} lookups, "
                f"not {lengths.min()} to {lengths.max()}"
            )
        rows = shape.tables[feature.table].rows
        if bags.ids.size and not 0 <= bags.ids.min() <= bags.ids.max() < rows:
            wrong = bags.ids[(bags.ids < 0) | (bags.ids >= rows)][0]
            raise ValueError(f"ids of feature {feature.name!r} must be below {rows}, not {wrong}")


def _pieces(batch: SampleBatch) -> Iterator[SampleBatch]:
    for start in range(0, len(batch), SAMPLES_AT_ONCE):
        yield batch.slice(start, start + SAMPLES_AT_ONCE)


def _forward(model: QuantModel, batch: SampleBatch) -> dict[str, NDArray[Any]]:
    shape = model.shape
    kept: dict[str, NDArray[Any]] = {"dense": model.quantise_dense(batch.dense)}
    x = kept["dense"]
    for layer, layer_shape in zip(model.bottom, shape.bottom_layers, strict=True):
        x = kept[layer_shape.name] = ops.linear(layer, x, layer_shape.name)
    vectors = [x] if shape.dense else []
    for f, (feature, bags) in enumerate(zip(shape.features, batch.bags, strict=True)):
        ms = int(model.bag_m[f]), int(model.bag_s[f])
        bag = ops.bag_vector(feature, model.tables[feature.table], bags, ms)
        kept[f"bag{f}"] = bag
        vectors.append(bag)
    x = kept["concat"] = ops.interact(shape, vectors, model.copy_ms, model.pair_ms)
    for layer, layer_shape in zip(model.top[:-1], shape.top_layers[:-1], strict=True):
        x = kept[layer_shape.name] = ops.linear(layer, x, layer_shape.name)
    last = model.top[-1]
    kept["logit"] = ops.accumulate(last, x, shape.top_layers[-1].name)[:, 0]
    kept["code"] = ops.logit_code(kept["logit"], int(last.m[0]), int(last.s[0]))
    kept["probability"] = ops.sigmoid(kept["code"])
    return kept
