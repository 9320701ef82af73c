"""From float weights and a sample of the log to a quantised model.

Every scale is chosen here, once. What follows (images, requests, hardware) only sees integers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc_hw.model import LayerShape, ModelShape, TableShape
from screc_hw.numerics import (
    ACC_BITS,
    FP16_FRACTION_BITS,
    IDENTITY_REQUANTISE,
    INT8_MAX,
    LOGIT_FRACTION_BITS,
    MAX_BAG,
    POOL_BITS,
    SHIFT_MAX,
    requantise_params,
    row_limit,
)
from screc_sim.golden import float_twin, ops
from screc_sim.golden.float_twin import FloatLinear, Weights
from screc_sim.golden.model import check_batch
from screc_sim.golden.quant import (
    CODE_LIMITS,
    FORMATS,
    PackedSource,
    QuantLinear,
    QuantModel,
    QuantTable,
    RowSource,
    quantise,
)
from screc_sim.golden.rowwise import ROWWISE_LIMITS, ROWWISE_UNIT
from screc_sim.golden.scales import Clip, choose_scale
from screc_sim.samples import SampleBatch

ROWS_OBSERVED = 1 << 14
"""Rows spread over a table, and as many of those that the sample reads, that set its scale."""

BIAS_ONLY_LOG2 = 15
"""Accumulator steps (log2) of the bias of a channel without weights: finer than any int8 output."""

CLIPS_TRIED, SMALLEST_CLIP = 33, 0.4
"""Scales tried for a channel of 4-bit weights, as shares of the one that holds the largest."""

SMALLEST_FACTOR = 2.0 ** (15 - SHIFT_MAX) * (1 + 2.0**-20)
"""Smallest requantise factor, kept clear of rounding down to the one that does not exist."""


class CalibrationError(ValueError):
    """The model cannot be expressed in the device's integers: names the tensor and why."""


def calibrate(
    shape: ModelShape,
    weights: Weights,
    sample: SampleBatch,
    *,
    clip: Clip = "mse",
    correct_bias: bool = True,
) -> QuantModel:
    """Quantise a model, with the scales that suit a sample of its inputs.

    Parameters
    ----------
    shape, weights
        The trained model.
    sample
        Samples to observe, a few thousand; all of them are held at once.
    clip
        How scales of activations and tables are chosen; see :data:`~screc_sim.golden.scales.Clip`.
        With ``mse`` a channel's error counts by the energy of the weights that read it.
    correct_bias
        Whether to give every channel the bias that makes its mean over the sample equal to the
        float one; rounding of weights and inputs shifts it otherwise.

    Returns
    -------
    QuantModel

    Raises
    ------
    CalibrationError
        If the sample is empty, a table's format is none of :data:`FORMATS`, bags of a row-wise
        table could exceed the width of their sums, the float model overflows, or two scales are too
        far apart for a requantise factor.
    ValueError
        If the sample does not fit the model.
    """
    if not len(sample):
        raise CalibrationError("calibration needs at least one sample, the sample is empty")
    check_batch(shape, sample)
    # the pass over each table for its peak comes first: it finds values that are not finite
    tables = tuple(
        _table(shape, i, source, sample, clip) for i, source in enumerate(weights.tables)
    )
    real = _real_stages(shape, weights, sample)
    dense_scale = choose_scale([real["dense"]], INT8_MAX, clip, _energies(weights.bottom[:1]))
    vector_scale, concat_scale = _interaction_scales(shape, weights, real, clip)

    # the integer tensors of the sample are followed from stage to stage, for the biases' sake
    x = quantise(sample.dense, dense_scale, INT8_MAX)
    bottom_mlp = _Mlp(shape.bottom_layers, weights.bottom, "dense", dense_scale, vector_scale)
    bottom, x = bottom_mlp.quantise(real, x, clip, correct_bias)
    bag_ms = [
        _bag_factor(feature.name, tables[feature.table], vector_scale) for feature in shape.features
    ]
    copy_ms = pair_ms = IDENTITY_REQUANTISE
    if shape.interaction == "dot":
        copy_ms = _factor(vector_scale / concat_scale, "copy of the bottom output")
        pair_ms = _factor(vector_scale**2 / concat_scale, "pair products")
    vectors = [x] if shape.dense else []
    for feature, bags, ms in zip(shape.features, sample.bags, bag_ms, strict=True):
        vectors.append(ops.bag_vector(feature, tables[feature.table], bags, ms))
    x = ops.interact(shape, vectors, copy_ms, pair_ms)
    logit_scale = 2.0**-LOGIT_FRACTION_BITS
    top_mlp = _Mlp(shape.top_layers, weights.top, "concat", concat_scale, logit_scale)
    top, _ = top_mlp.quantise(real, x, clip, correct_bias)
    return QuantModel(
        shape=shape,
        dense_scale=dense_scale,
        bottom=bottom,
        tables=tables,
        bag_m=np.array([m for m, _ in bag_ms], np.uint16),
        bag_s=np.array([s for _, s in bag_ms], np.uint8),
        vector_scale=vector_scale,
        copy_ms=copy_ms,
        pair_ms=pair_ms,
        concat_scale=concat_scale,
        top=top,
    )


def _real_stages(
    shape: ModelShape, weights: Weights, sample: SampleBatch
) -> dict[str, NDArray[Any]]:
    """Return the float tensors of the sample, all finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        real = float_twin.stages(shape, weights, sample, np.float32)
    for name, values in real.items():
        if not np.isfinite(values).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise CalibrationError(
                f"the float model overflows: {name} is {values[at]} at {at} of the calibration "
                "samples; weights must keep every tensor within float32"
            )
    return real


def _table(
    shape: ModelShape, index: int, source: RowSource, sample: SampleBatch, clip: Clip
) -> QuantTable:
    table = shape.tables[index]
    if table.format not in FORMATS:
        raise CalibrationError(
            f"table {table.name!r}: format must be one of {', '.join(FORMATS)}, "
            f"not {table.format!r}"
        )
    peak = source.peak()
    if table.rowwise:
        _check_sums(table, source, peak)
        return QuantTable(source, table.format, ROWWISE_UNIT)
    limit = CODE_LIMITS[table.format]
    if clip == "max" or peak == 0:
        return QuantTable(source, table.format, peak / limit if peak else 1.0)
    read = [
        bags.ids
        for feature, bags in zip(shape.features, sample.bags, strict=True)
        if feature.table == index
    ]
    used = np.unique(np.concatenate(read)) if read else np.zeros(0, np.int64)
    spread = np.linspace(0, source.rows - 1, min(source.rows, ROWS_OBSERVED)).astype(np.int64)
    ids = np.concatenate([used[:: 1 + len(used) // ROWS_OBSERVED], spread])
    return QuantTable(source, table.format, choose_scale([source.fetch(ids)], limit, clip))


def _check_sums(table: TableShape, source: RowSource, peak: float) -> None:
    """Check that no bag of a row-wise table leaves the width of its sums."""
    if not isinstance(source, PackedSource):
        # rounding to a code adds half a step of a range of 2 peaks at most, fp16 2**-11 of a value
        peak = peak * (1 + 1 / ROWWISE_LIMITS[table.format] + 2.0**-8) + ROWWISE_UNIT
    limit = row_limit() * ROWWISE_UNIT
    if peak > limit:
        raise CalibrationError(
            f"table {table.name!r}: row values reach {peak:g}, and the sum of {MAX_BAG} of them "
            f"could exceed {POOL_BITS} bits in units of 2**-{FP16_FRACTION_BITS}; for a scale per "
            f"row they must be at most {limit:g} in magnitude"
        )


def _bag_factor(name: str, table: QuantTable, vector_scale: float) -> tuple[int, int]:
    """Encode the factor from pooled rows to the interaction's scale."""
    factor = table.scale / vector_scale
    if table.rowwise and factor < SMALLEST_FACTOR:
        # sums of row-wise rows are too wide for the smallest factor to make them 0
        raise CalibrationError(
            f"feature {name!r}: one code of the interaction's vectors is worth {vector_scale:g}; "
            f"with a scale per row it must be at most {ROWWISE_UNIT / SMALLEST_FACTOR:g}"
        )
    return _factor(factor, f"feature {name!r}")


def _interaction_scales(
    shape: ModelShape, weights: Weights, real: dict[str, NDArray[Any]], clip: Clip
) -> tuple[float, float]:
    """Scales of the interaction's input vectors and of the concatenated tensor."""
    concat = choose_scale([real["concat"]], INT8_MAX, clip, _energies(weights.top[:1]))
    if shape.interaction == "concat":
        return concat, concat
    vectors = [real[f"bag{f}"] for f in range(len(shape.features))]
    if shape.dense:
        vectors.append(real[shape.bottom_layers[-1].name])
    return choose_scale(vectors, INT8_MAX, clip), concat


def _energies(readers: Sequence[FloatLinear]) -> list[NDArray[np.float64]] | None:
    """Importance of a tensor's channels: the energy of the weights that read them."""
    return [np.square(layer.weight, dtype=np.float64).sum(axis=0) for layer in readers] or None


def _factor(factor: float, what: str) -> tuple[int, int]:
    """Encode a requantise factor.

    A factor too small to encode is raised to the smallest: an accumulator is below 2**26, so the
    output is 0 either way.
    """
    try:
        return requantise_params(max(factor, SMALLEST_FACTOR))
    except ValueError as error:
        raise CalibrationError(f"{what}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Mlp:
    """An MLP to quantise: its layers, the stage that it reads, and the scales at both ends."""

    shapes: Sequence[LayerShape]
    layers: Sequence[FloatLinear]
    source: str
    scale_in: float
    scale_out: float

    def quantise(
        self, real: dict[str, NDArray[Any]], x: NDArray[np.int8], clip: Clip, correct_bias: bool
    ) -> tuple[tuple[QuantLinear, ...], NDArray[np.int8]]:
        """Quantise layer by layer; also return what the hidden layers make of the codes ``x``."""
        done: list[QuantLinear] = []
        source, scale = self.source, self.scale_in
        for i, (shape, layer) in enumerate(zip(self.shapes, self.layers, strict=True)):
            readers = self.layers[i + 1 : i + 2]
            after = self.scale_out
            if readers:
                after = choose_scale([real[shape.name]], INT8_MAX, clip, _energies(readers))
            means = None
            if correct_bias:
                means = real[source].mean(axis=0, dtype=np.float64), x.mean(axis=0)
            done.append(quantise_linear(shape, layer, scale, after, means))
            if shape.relu:  # all but the logit
                x = ops.linear(done[-1], x, shape.name)
            source, scale = shape.name, after
        return tuple(done), x


def _weight_steps(weight: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """Real value of one code of every channel's weights; 0 where all of them are 0.

    The largest weight gets the largest code; with few codes, less where that is nearer to the
    weights in squared error.
    """
    whole = np.abs(weight).max(axis=1, initial=0.0) / limit
    if limit == INT8_MAX:
        return whole
    best, least = whole, np.full(len(weight), np.inf)
    for share in np.linspace(1, SMALLEST_CLIP, CLIPS_TRIED):
        step = np.where(whole > 0, whole * share, 1.0)[:, None]
        codes = np.clip(np.rint(weight / step), -limit, limit)
        error = np.square(codes * step - weight).sum(axis=1)
        best = np.where(error < least, whole * share, best)
        least = np.minimum(error, least)
    return best


def quantise_linear(
    shape: LayerShape,
    layer: FloatLinear,
    scale_in: float,
    scale_out: float,
    means: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> QuantLinear:
    """Quantise one layer: symmetric weights per output channel, integer bias, requantisation.

    Parameters
    ----------
    shape, layer
        The layer.
    scale_in, scale_out
        Real value of one code of its input and of its output.
    means
        Mean over a sample of the float input and of the integer input, ``(k,)`` each: the bias is
        then such that the accumulator's mean is the float one's.

    Returns
    -------
    QuantLinear
        Its |accumulator + bias| is below 2**26 for every input in [-127, 127].

    Raises
    ------
    CalibrationError
        If a channel's output would need a requantise factor of 2**15 or more.
    """
    real_weight = layer.weight.astype(np.float64)
    real_bias = layer.bias.astype(np.float64)
    bound = 1 << (ACC_BITS - 1)
    limit = CODE_LIMITS[shape.format]
    step = _weight_steps(real_weight, limit)
    bias_only = np.abs(real_bias) / scale_in / (1 << BIAS_ONLY_LOG2)
    step = np.where(step > 0, step, np.where(bias_only > 0, bias_only, 1.0))
    while True:
        weight = np.clip(np.rint(real_weight / step[:, None]), -limit, limit)
        bias = np.rint(real_bias / (scale_in * step))
        swing = INT8_MAX * np.abs(weight).sum(axis=1)
        worst = swing + np.abs(bias)
        if (worst < bound).all():
            break
        step = np.where(worst < bound, step, step * np.maximum(worst / bound, 1 + 2.0**-8))
    scale = scale_in * step
    if means is not None:
        of_real, of_codes = means
        bias = np.rint((real_weight @ of_real + real_bias) / scale - weight @ of_codes)
        bias = np.clip(bias, swing - (bound - 1), (bound - 1) - swing)
    factors = [
        _factor(float(factor), f"layer {shape.name} channel {n}")
        for n, factor in enumerate(scale / scale_out)
    ]
    return QuantLinear(
        weight=weight.astype(np.int8),
        bias=bias.astype(np.int32),
        m=np.array([m for m, _ in factors], np.uint16),
        s=np.array([s for _, s in factors], np.uint8),
        relu=shape.relu,
        scale=scale,
    )
