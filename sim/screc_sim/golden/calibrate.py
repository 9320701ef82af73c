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
from screc_sim.golden.scales import CANDIDATES, CLIPS, Clip, choose_scale
from screc_sim.samples import SampleBatch

ROWS_OBSERVED = 1 << 14
"""Rows spread over a table, and as many of those that the sample reads, that set its scale."""

BIAS_ONLY_LOG2 = 15
"""Accumulator steps (log2) of the bias of a channel without weights: finer than any int8 output."""

CLIPS_TRIED, SMALLEST_CLIP = 33, 0.4
"""Scales tried for a channel of 4-bit weights, as shares of the one that holds the largest."""

SAMPLES_TRIED = 1024
"""Samples, the first ones, that the rules of ``auto`` are compared on."""

SMALLEST_FACTOR = 2.0 ** (15 - SHIFT_MAX) * (1 + 2.0**-20)
"""Smallest requantise factor, kept clear of rounding down to the one that does not exist."""


class CalibrationError(ValueError):
    """The model cannot be expressed in the device's integers: names the tensor and why."""


@dataclasses.dataclass(frozen=True)
class ScaleChoice:
    """How the scale of a tensor was chosen.

    ``tensor``: as in :func:`~screc_sim.golden.float_twin.resume`, or a table's name. ``rule``: one
    of :data:`~screc_sim.golden.scales.CANDIDATES`, or ``given``. ``range``: the largest real value
    that has a code. ``peak``: the largest magnitude observed. ``error``: RMS error of the tensor's
    values at that scale, as a share of their RMS. ``logit_errors``, where rules were compared: the
    RMS change of the logits when this tensor alone is quantised, by rule, as a share of the logits'
    standard deviation.
    """

    tensor: str
    rule: str
    range: float
    peak: float
    error: float
    logit_errors: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A quantised model, and how each of its scales was chosen."""

    model: QuantModel
    choices: tuple[ScaleChoice, ...]


def calibrate(
    shape: ModelShape,
    weights: Weights,
    sample: SampleBatch,
    *,
    clip: Clip = "mse",
    correct_bias: bool = True,
) -> QuantModel:
    """Quantise a model; :func:`calibrate_reported` without the report, by one rule unless told."""
    return calibrate_reported(shape, weights, sample, clip=clip, correct_bias=correct_bias).model


def calibrate_reported(
    shape: ModelShape,
    weights: Weights,
    sample: SampleBatch,
    *,
    clip: Clip = "auto",
    correct_bias: bool = True,
) -> Calibration:
    """Quantise a model, with the scales that suit a sample of its inputs.

    Scales that come with the weights are kept; a layer all of whose scales are keeps its bias too.

    Parameters
    ----------
    shape, weights
        The trained model.
    sample
        Samples to observe, a few thousand; all of them are held at once.
    clip
        How scales of activations and tables are chosen; see :data:`~screc_sim.golden.scales.Clip`.
        With ``mse`` a channel's error counts by the energy of the weights that read it. Tables take
        ``mse`` with ``auto``.
    correct_bias
        Whether to give every channel the bias that makes its mean over the sample equal to the
        float one; rounding of weights and inputs shifts it otherwise.

    Raises
    ------
    CalibrationError
        If the sample is empty, a table's format is none of :data:`FORMATS`, bags of a row-wise
        table could exceed the width of their sums, the float model overflows, or two scales are too
        far apart for a requantise factor.
    ValueError
        If the sample does not fit the model, or ``clip`` is unknown.
    """
    if clip not in CLIPS:
        raise ValueError(f"clip must be one of {', '.join(CLIPS)}, not {clip!r}")
    if not len(sample):
        raise CalibrationError("calibration needs at least one sample, the sample is empty")
    check_batch(shape, sample)
    # the pass over each table for its peak comes first: it finds values that are not finite
    chosen: list[ScaleChoice] = []
    tables = tuple(
        _table(shape, weights, i, sample, "mse" if clip == "auto" else clip, chosen)
        for i in range(len(weights.tables))
    )
    real = _real_stages(shape, weights, sample)
    scales = _Scales(shape, weights, real, clip, chosen)
    dense_scale, zero = 1.0, 0
    if shape.dense:
        zero = weights.scales.dense_zero if "dense" in weights.scales.tensors else 0
        dense_scale = scales.choose("dense", [real["dense"]], weights.bottom[0], zero)
    concat_scale = vector_scale = scales.choose("concat", [real["concat"]], weights.top[0])
    if shape.interaction == "dot":
        vector_scale = scales.choose("vectors", float_twin.vectors_of(shape, real))

    # the integer tensors of the sample are followed from stage to stage, for the biases' sake
    x = quantise(sample.dense, dense_scale, INT8_MAX, zero)
    bottom_mlp = _Mlp(shape.bottom_layers, weights.bottom, "dense", dense_scale, vector_scale, zero)
    bottom, x = bottom_mlp.quantise(real, x, scales, correct_bias)
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
    top, _ = top_mlp.quantise(real, x, scales, correct_bias)
    model = QuantModel(
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
        dense_zero=zero,
    )
    return Calibration(model, tuple(chosen))


def _rounded(
    values: NDArray[Any], scale: float, limit: int = INT8_MAX, zero: int = 0
) -> NDArray[Any]:
    """Real values of the codes of a float tensor."""
    codes = quantise(values, scale, limit, zero).astype(values.dtype)
    return (codes - values.dtype.type(zero)) * values.dtype.type(scale)


def _relative_error(values: Sequence[NDArray[Any]], rounded: Sequence[NDArray[Any]]) -> float:
    """RMS error as a share of the values' RMS; 0 where all are 0."""
    error = sum(
        float(np.square(r - v, dtype=np.float64).sum())
        for v, r in zip(values, rounded, strict=True)
    )
    power = sum(float(np.square(v, dtype=np.float64).sum()) for v in values)
    return float(np.sqrt(error / power)) if power else 0.0


def _peak(values: Sequence[NDArray[Any]]) -> float:
    return max((float(np.abs(v).max()) for v in values if v.size), default=0.0)


class _Scales:
    """Chooses the scales of activations, and notes how.

    ``real``: float tensors of the sample; ``chosen`` grows by a note per tensor; ``given``: tensors
    whose scales came with the weights.
    """

    def __init__(
        self,
        shape: ModelShape,
        weights: Weights,
        real: dict[str, NDArray[Any]],
        clip: Clip,
        chosen: list[ScaleChoice],
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._clip = clip
        self._chosen = chosen
        self._tried = {name: values[:SAMPLES_TRIED] for name, values in real.items()}
        self.given = frozenset(weights.scales.tensors)
        self._spread = float(np.std(self._tried["logit"], dtype=np.float64))

    def choose(
        self,
        name: str,
        values: Sequence[NDArray[Any]],
        reader: FloatLinear | None = None,
        zero: int = 0,
    ) -> float:
        """Real value of one code of tensor ``name``; ``reader``: the layer that it goes to."""
        given = self._weights.scales.tensors.get(name)
        importance = None if reader is None else [_energies(reader)]
        errors: dict[str, float] = {}
        if given is not None:
            rule, scale = "given", given
        elif self._clip != "auto":
            rule, scale = self._clip, choose_scale(values, INT8_MAX, self._clip, importance)
        else:
            scales = {r: choose_scale(values, INT8_MAX, r, importance) for r in CANDIDATES}
            tried = [v[:SAMPLES_TRIED] for v in values]
            errors = {r: self._logit_error(name, tried, s) for r, s in scales.items()}
            rule = min(CANDIDATES, key=lambda r: errors[r])
            scale = scales[rule]
        rounded = [_rounded(v, scale, zero=zero) for v in values]
        self._chosen.append(
            ScaleChoice(
                name,
                rule,
                (INT8_MAX + abs(zero)) * scale,
                _peak(values),
                _relative_error(values, rounded),
                errors,
            )
        )
        return scale

    def _logit_error(self, name: str, values: Sequence[NDArray[Any]], scale: float) -> float:
        """RMS change of the logits when a tensor alone is quantised, over their deviation."""
        rounded = [_rounded(v, scale) for v in values]
        logits = float_twin.resume(self._shape, self._weights, self._tried, name, rounded)
        error = np.subtract(logits, self._tried["logit"], dtype=np.float64)
        return float(np.sqrt(np.mean(error**2)) / (self._spread or 1.0))


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
    shape: ModelShape,
    weights: Weights,
    index: int,
    sample: SampleBatch,
    rule: str,
    chosen: list[ScaleChoice],
) -> QuantTable:
    table, source = shape.tables[index], weights.tables[index]
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
    read = [
        bags.ids
        for feature, bags in zip(shape.features, sample.bags, strict=True)
        if feature.table == index
    ]
    used = np.unique(np.concatenate(read)) if read else np.zeros(0, np.int64)
    spread = np.linspace(0, source.rows - 1, min(source.rows, ROWS_OBSERVED)).astype(np.int64)
    rows = [source.fetch(np.concatenate([used[:: 1 + len(used) // ROWS_OBSERVED], spread]))]
    given = weights.scales.tables.get(index) if table.format == "int8" else None
    if given is not None:
        rule, scale = "given", given
    elif rule == "minmax" or peak == 0:
        scale = peak / limit if peak else 1.0
    else:
        scale = choose_scale(rows, limit, rule)
    error = _relative_error(rows, [_rounded(rows[0], scale, limit)])
    chosen.append(ScaleChoice(table.name, rule, limit * scale, peak, error))
    return QuantTable(source, table.format, scale)


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


def _energies(reader: FloatLinear) -> NDArray[np.float64]:
    """Importance of a tensor's channels: the energy of the weights that read them."""
    return np.square(reader.weight, dtype=np.float64).sum(axis=0)


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
    """An MLP to quantise: its layers, the stage that it reads, and the scales at both ends.

    ``zero``: code of a real 0 of what it reads.
    """

    shapes: Sequence[LayerShape]
    layers: Sequence[FloatLinear]
    source: str
    scale_in: float
    scale_out: float
    zero: int = 0

    def quantise(
        self,
        real: dict[str, NDArray[Any]],
        x: NDArray[np.int8],
        scales: _Scales,
        correct_bias: bool,
    ) -> tuple[tuple[QuantLinear, ...], NDArray[np.int8]]:
        """Quantise layer by layer; also return what the hidden layers make of the codes ``x``."""
        done: list[QuantLinear] = []
        source, scale, zero = self.source, self.scale_in, self.zero
        given = self.source in scales.given
        for i, (shape, layer) in enumerate(zip(self.shapes, self.layers, strict=True)):
            after = self.scale_out
            if i + 1 < len(self.layers):
                after = scales.choose(shape.name, [real[shape.name]], self.layers[i + 1])
            means = None
            if correct_bias and not (given and layer.scale is not None):
                means = real[source].mean(axis=0, dtype=np.float64), x.mean(axis=0)
            done.append(quantise_linear(shape, layer, scale, after, means, zero))
            if shape.relu:  # all but the logit
                x = ops.linear(done[-1], x, shape.name)
            source, scale, zero, given = shape.name, after, 0, shape.name in scales.given
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
    zero: int = 0,
) -> QuantLinear:
    """Quantise one layer: symmetric weights per output channel, integer bias, requantisation.

    Scales that a channel came with are kept, unless the accumulator could leave its width.

    Parameters
    ----------
    shape, layer
        The layer.
    scale_in, scale_out
        Real value of one code of its input and of its output.
    means
        Mean over a sample of the float input and of the integer input, ``(k,)`` each: the bias is
        then such that the accumulator's mean is the float one's.
    zero
        Code of a real 0 of its input: the bias takes off what it adds.

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
    if layer.scale is not None and limit == INT8_MAX:  # such scales are of int8 codes
        step = np.where(layer.scale > 0, layer.scale, step)
    while True:
        weight = np.clip(np.rint(real_weight / step[:, None]), -limit, limit)
        bias = np.rint(real_bias / (scale_in * step)) - zero * weight.sum(axis=1)
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
