"""Models for a compute core, a C++ test bench that feeds it, and what it gives.

Models have random integers: a core's time and exactness do not depend on their values.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screc_hw.compute.core import ComputeCore
from screc_hw.compute.layouts import schedule_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.program import (
    layer_program,
    program_words,
    requantise_words,
    shape_word,
    weight_words,
)
from screc_hw.compute.tensors import CHAIN, vector_bases
from screc_hw.model import LayerShape, ModelShape
from screc_hw.numerics import IDENTITY_REQUANTISE, INT8_MAX, requantise_params, sigmoid_table
from screc_hw.protocol import (
    BEAT_BYTES,
    REGION_FIELDS,
    RESULT_FIELDS,
    LoadTarget,
    Operation,
    pack,
)
from screc_hw.stream import config_layout, feature_write_layout, index_bits, result_layout
from screc_sim.golden import ops
from screc_sim.golden.quant import QuantLinear
from screc_sim.native.program import (
    WORD_BITS,
    Design,
    build_design,
    job_folder,
    layout_fields,
    read_lanes,
    run_job,
    unpack_field,
    word_count,
    write_config,
)

__all__ = ["GemmCase", "Outcome", "Stimulus", "Timing", "build", "run"]

TOP = "gemm"

VARIANCE = INT8_MAX * (INT8_MAX + 1) / 3
"""Variance of whole numbers that are uniform in [-127, 127]."""

SPREAD = 50.0
"""Standard deviation of the codes of a hidden tensor, about."""

LOGIT_SPREAD = 8192.0
"""Of the logits' codes: 4.0."""

MEMORY = 0x3_4560_0000
"""Start of the memory that weights are streamed from ..."""

REGION = 7
"""... and the beat of it where they are."""

COUNTS = ("busy", "active", "waiting", "weight_beats", "weight_errors", "cycles_run")
"""Of a run's report and of an outcome."""

OPTIONS = ("--inline-mult", "1")
"""Of Verilator: hundreds of copies of a dot product's code would take long to compile."""

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What the surroundings do, cycle by cycle.

    Parameters
    ----------
    dense_gap, word_gap, result_stall
        Probability per cycle that no dense word, no word of a bag is offered, no result is taken.
    latency
        Cycles from a read of streamed weights to its first beat, or the lowest and highest.
    ar_stall, r_gap
        Probability per cycle that no such read is taken, no beat is offered.
    seed
        Of all random choices.
    """

    dense_gap: float = 0.0
    word_gap: float = 0.0
    result_stall: float = 0.0
    latency: int | tuple[int, int] = 100
    ar_stall: float = 0.0
    r_gap: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.latencies
        if not 1 <= low <= high:
            raise ValueError(f"latency must be at least 1, lowest first, not {self.latency!r}")
        for name in ("dense_gap", "word_gap", "result_stall", "ar_stall", "r_gap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)!r}")

    @property
    def latencies(self) -> tuple[int, int]:
        """Lowest and highest latency."""
        return (self.latency,) * 2 if isinstance(self.latency, int) else self.latency


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    starts, ends
        Cycles of the first and the last result of every sub-batch, int64 ``(sub-batches,)``,
        counted from the first cycle after LOAD.
    logit, code, probability
        int64 ``(samples,)``, padded rows too, in order.
    layer_cycles
        Cycles with a step of every layer in the array, of all sub-batches together: int64
        ``(layers,)``, bottom before top.
    pair_cycles
        Of the interaction, from its start until it is written.
    busy, active, waiting
        The core's counters.
    weight_beats, weight_errors
        Beats of streamed weights that came, and cycles with ``weight_error``.
    cycles_run, seconds
        All cycles of the run, and how long it took.
    """

    starts: Ints
    ends: Ints
    logit: Ints
    code: Ints
    probability: Ints
    layer_cycles: Ints
    pair_cycles: int
    busy: int
    active: int
    waiting: int
    weight_beats: int
    weight_errors: int
    cycles_run: int
    seconds: float

    @property
    def sub_batches(self) -> int:
        """Sub-batches that were computed."""
        return len(self.ends)


@dataclasses.dataclass(frozen=True, eq=False)
class Stimulus:
    """Samples: ``dense`` int8 ``(n, dense)``, ``bags`` int8 ``(n, dim)`` of every feature."""

    dense: NDArray[np.int8]
    bags: list[NDArray[np.int8]]


class GemmCase:
    """A random model in a compute core.

    Parameters
    ----------
    params
        The core's.
    shape
        The model's.
    seed
        Of weights, biases and requantisation.
    loud
        Whether every weight and every input is -127 or 127, so that sums are as large as they can
        be.
    """

    def __init__(
        self, params: ComputeParams, shape: ModelShape, *, seed: int = 0, loud: bool = False
    ) -> None:
        self.params, self.shape, self.loud = params, shape, loud
        self._rng = np.random.default_rng(seed)
        self.bottom = [self._layer(layer) for layer in shape.bottom_layers]
        self.top = [self._layer(layer) for layer in shape.top_layers]
        dim = shape.vector_dims[0]
        self.copy_ms, self.pair_ms = IDENTITY_REQUANTISE, IDENTITY_REQUANTISE
        if shape.interaction == "dot":
            self.copy_ms = requantise_params(0.6)
            self.pair_ms = requantise_params(SPREAD / (VARIANCE * math.sqrt(dim)))

    def _codes(self, *size: int) -> NDArray[np.int8]:
        if self.loud:
            return self._rng.choice(np.array([-INT8_MAX, INT8_MAX], np.int8), size)
        return self._rng.integers(-INT8_MAX, INT8_MAX, size, np.int8, endpoint=True)

    def _layer(self, layer: LayerShape) -> QuantLinear:
        spread = math.sqrt(VARIANCE * layer.k) * SPREAD
        target = SPREAD if layer.relu else LOGIT_SPREAD
        scales = target / spread * self._rng.uniform(0.5, 2, layer.n)
        pairs = np.array([requantise_params(scale) for scale in scales])
        return QuantLinear(
            weight=self._codes(layer.n, layer.k),
            bias=np.round(self._rng.normal(0, spread / 2, layer.n)).astype(np.int32),
            m=pairs[:, 0].astype(np.uint16),
            s=pairs[:, 1].astype(np.uint8),
            relu=layer.relu,
            scale=np.ones(layer.n),
        )

    def weights(self) -> NDArray[np.uint64]:
        """Words of weights."""
        weights = [layer.weight for layer in (*self.bottom, *self.top)]
        return weight_words(weights, self.shape, self.params)

    def config(self) -> list[tuple[int, int, int]]:
        """LOAD words of the core."""
        shape, params = self.shape, self.params
        bottom, top = (
            [entry for layer in layers for entry in layer.entries()]
            for layers in (self.bottom, self.top)
        )
        words = self.weights().tolist()
        if params.stream_words:
            words = [pack(REGION_FIELDS, offset=REGION, beats=len(words) // CHAIN)]
        blocks = {
            LoadTarget.COMPUTE_SHAPE: [shape_word(shape, params)],
            LoadTarget.PROGRAM: program_words(shape, params),
            LoadTarget.WEIGHT_REGION if params.stream_words else LoadTarget.WEIGHTS: words,
            LoadTarget.REQUANTISE: requantise_words(shape, bottom, top, self.copy_ms, self.pair_ms),
            LoadTarget.SIGMOID: sigmoid_table(),
        }
        return [
            (int(target), address, value)
            for target, words in blocks.items()
            for address, value in enumerate(words)
        ]

    def stimulus(self, batches: int) -> Stimulus:
        """Draw samples of whole sub-batches."""
        samples = batches * self.params.rows
        dims = self.shape.vector_dims[1 if self.shape.dense else 0 :]
        return Stimulus(
            self._codes(samples, self.shape.dense), [self._codes(samples, dim) for dim in dims]
        )

    def expected(self, stimulus: Stimulus) -> dict[str, Ints]:
        """Return what the core must give for every sample, by the golden model's operations."""
        x = stimulus.dense
        for layer, layer_shape in zip(self.bottom, self.shape.bottom_layers, strict=True):
            x = ops.linear(layer, x, layer_shape.name)
        vectors = [x, *stimulus.bags] if self.shape.dense else stimulus.bags
        x = ops.interact(self.shape, vectors, self.copy_ms, self.pair_ms)
        for layer, layer_shape in zip(self.top[:-1], self.shape.top_layers[:-1], strict=True):
            x = ops.linear(layer, x, layer_shape.name)
        last = self.top[-1]
        logit = ops.accumulate(last, x, self.shape.top_layers[-1].name)[:, 0]
        code = ops.logit_code(logit, int(last.m[0]), int(last.s[0]))
        return {
            "logit": logit,
            "code": code.astype(np.int64),
            "probability": ops.sigmoid(code).astype(np.int64),
        }

    def check(self, outcome: Outcome, stimulus: Stimulus) -> None:
        """Compare every result of a run, exactly.

        Raises
        ------
        AssertionError
            If anything differs; with the first difference.
        """
        for name, expected in self.expected(stimulus).items():
            got: Ints = getattr(outcome, name)
            if len(got) != len(expected):
                raise AssertionError(f"{len(got)} results came, not {len(expected)}")
            (wrong,) = np.nonzero(got != expected)
            if len(wrong):
                batch, row = divmod(int(wrong[0]), self.params.rows)
                raise AssertionError(
                    f"{name} of row {row} of sub-batch {batch} is {got[wrong[0]]}, not"
                    f" {expected[wrong[0]]}; {len(wrong)} of {len(got)} differ"
                )


def build(params: ComputeParams, *, cache: Path | None = None) -> Design[ComputeParams]:
    """Compile the core of ``params`` with its test bench, or return the kept build.

    Parameters
    ----------
    params
        The core's.
    cache
        Folder of kept builds; None: :func:`screc_sim.runner.default_cache`.

    Raises
    ------
    screc_sim.runner.SimulatorMissingError
        If a tool is not installed.
    screc_sim.runner.SimulationError
        If something does not compile.
    """
    schedule = layout_fields(schedule_layout(params))
    constants = {
        "ROWS": params.rows,
        "SLOTS": params.slots,
        "SLOT_BITS": index_bits(params.slots),
        "CONFIG_WORDS": word_count(config_layout().size),
        "DENSE_WORDS": word_count(8 * params.rows),
        "FEATURE_WORDS": word_count(feature_write_layout(params).size),
        "RESULT_WORDS": word_count(result_layout().size),
        **{f"AT_{name.upper()}": low for name, (low, _) in schedule.items()},
    }
    return build_design(ComputeCore, params, TOP, constants, options=OPTIONS, cache=cache)


def run(
    design: Design[ComputeParams],
    case: GemmCase,
    stimulus: Stimulus,
    timing: Timing | None = None,
    *,
    folder: Path | None = None,
) -> Outcome:
    """Compute whole sub-batches, as fast as the core takes them where ``timing`` has no gaps.

    Bags are ahead of ``release`` by all slots of the core, as a combiner's are.

    Parameters
    ----------
    folder
        Where its files go, kept; None: a temporary folder.

    Raises
    ------
    screc_sim.runner.SimulationError
        If a stream breaks its rules, or the core does not come to an end.
    """
    with job_folder(folder, TOP) as place:
        return _run(design, case, stimulus, timing or Timing(), place)


def _run(
    design: Design[ComputeParams],
    case: GemmCase,
    stimulus: Stimulus,
    timing: Timing,
    folder: Path,
) -> Outcome:
    p, shape = design.params, case.shape
    count = len(stimulus.dense) // p.rows
    write_config(folder / "config.bin", case.config())
    _dense_words(p, stimulus, count).tofile(folder / "dense.bin")
    words = _feature_words(p, shape, stimulus, count)
    layers = _layers(layer_program(shape, p))
    words.tofile(folder / "words.bin")
    case.weights().tofile(folder / "weights.bin")
    values = {
        **{
            name: folder / f"{name}.bin"
            for name in ("config", "dense", "words", "results", "weights")
        },
        **{name: value for name, value in dataclasses.asdict(timing).items() if name != "latency"},
        "latency_low": timing.latencies[0],
        "latency_high": timing.latencies[1],
        "memory": MEMORY,
        "weight_base": MEMORY + BEAT_BYTES * REGION,
        "count": count,
        "operations": len(layers),
        "words_each": len(words) // count,
        "patience": round(10 * p.latency(shape)) + 20_000,
    }
    report, seconds = run_job(
        design.program, folder, values, stuck=f"{{results}} results of {count * p.rows}"
    )
    results = np.fromfile(folder / "results.bin", np.uint32).reshape(-1, 64 // WORD_BITS)
    places = RESULT_FIELDS
    return Outcome(
        starts=np.array(report["starts"], np.int64) - report["loaded"],
        ends=np.array(report["ends"], np.int64) - report["loaded"],
        logit=read_lanes(results, *places["logit"], 1)[:, 0],
        code=read_lanes(results, *places["code"], 1)[:, 0],
        probability=unpack_field(results, *places["probability"]).astype(np.int64),
        layer_cycles=np.bincount(layers, report["array_cycles"]).astype(np.int64),
        pair_cycles=report["pair_cycles"][0],
        **{name: report[name] for name in COUNTS},
        seconds=seconds,
    )


def _layers(program: list[dict[str, int]]) -> Ints:
    """Layer of every operation of the array: a part of a layer is independent of that before."""
    linear = [op for op in program if op["operation"] == Operation.LINEAR]
    return np.cumsum([1 - op.get("independent", 0) for op in linear]) - 1


def _dense_words(p: ComputeParams, stimulus: Stimulus, count: int) -> NDArray[np.uint32]:
    """Words of the dense stream: an input of every row of a sub-batch, row 0 in the lowest byte."""
    columns = stimulus.dense.reshape(count, p.rows, -1).transpose(0, 2, 1).reshape(-1, p.rows)
    padded = np.zeros((len(columns), 4 * word_count(8 * p.rows)), np.uint8)
    padded[:, : p.rows] = columns.view(np.uint8)
    return padded.view(np.uint32)


def _feature_words(
    p: ComputeParams, shape: ModelShape, stimulus: Stimulus, count: int
) -> NDArray[np.uint32]:
    """Words of the bags, sub-batch by sub-batch, in them row by row, in them by feature."""
    layout = feature_write_layout(p)
    fields = layout_fields(layout)
    bases = vector_bases(shape, p.lanes)[1 if shape.dense else 0 :]
    places = [
        base + word
        for base, bag in zip(bases, stimulus.bags, strict=True)
        for word in range(bag.shape[1] // p.lanes)
    ]
    data = np.concatenate([bag.reshape(len(bag), -1, p.lanes) for bag in stimulus.bags], axis=1)
    sample, place = np.divmod(np.arange(data.shape[0] * data.shape[1]), data.shape[1])
    low, width = fields["data"]
    bits = np.zeros((len(sample), WORD_BITS * word_count(layout.size)), np.uint8)
    columns = {
        "slot": sample // p.rows % p.slots,
        "row": sample % p.rows,
        "word": np.array(places)[place],
    }
    for name, values in columns.items():
        start, size = fields[name]
        bits[:, start : start + size] = values[:, None] >> np.arange(size) & 1
    codes = np.ascontiguousarray(data.reshape(-1, p.lanes)).view(np.uint8)
    bits[:, low : low + width] = np.unpackbits(codes, axis=1, bitorder="little")
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
