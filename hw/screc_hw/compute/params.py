"""Parameters of the compute-centric core, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.compute.tensors import (
    CHAIN,
    Chunk,
    Regions,
    chunks,
    entry_count,
    least_stream_words,
    padded_inputs,
    padded_outputs,
    vector_words,
    weight_steps,
)
from screc_hw.model import ModelShape
from screc_hw.numerics import ACC_BITS, INT8_MAX
from screc_hw.resources import Resources

MIN_ROWS, MAX_ROWS = 2, 64
COLUMNS = (8, 16, 32, 64)

WORD_BYTES = 8
"""A word of LOAD."""

COUNTER_BITS = 32
"""Of events, for the control registers."""

MAX_INPUTS = ((1 << (ACC_BITS - 1)) - 1) // INT8_MAX**2
"""Products of codes that an accumulator holds."""

LINEAR_LATENCY = 34
"""Cycles from a LINEAR's last column in the accumulators to the next operation's first step."""

PAIRS_LATENCY = 36
"""Cycles from a DOT's last step to the next operation's first."""

OUTPUT_LATENCY = 34
"""Cycles from the logit in the accumulators to row 0's result, less one."""

INPUT_LATENCY = 10
"""Cycles from the last input of a sub-batch to the first step that needs it."""

FETCH_CYCLES = 30
"""Cycles of looking for weights to stream and of their way, beside memory latency and beats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeParams:
    """Compile-time maxima of a compute-centric core.

    Parameters
    ----------
    rows
        Samples of a sub-batch, a power of two of at least 2.
    columns
        Multipliers per sample: 8, 16, 32 or 64; 8 inputs of ``columns / 8`` outputs at a time.
    lanes
        Bytes of a bag's word, a power of two of at least 4.
    slots
        Sub-batches under way, at least 2.
    pair_units
        Units of 8 multipliers for the interaction, a power of two up to ``rows``.
    vector_words, max_vectors
        Words of ``lanes`` bytes that one sample's vectors take, and their count.
    max_dense, max_k, max_n, max_dim
        Largest dense width, layer input, layer output and embedding dimension.
    activation_words
        Words of ``8 · rows`` bytes of one sub-batch's activations.
    weight_steps, requantise_words, program_length
        Depths: steps of weights of all layers, entries, operations.
    address_bits
        Width of addresses of the memory that weights are streamed from.
    stream_words
        Words of weights of one position that each half of its memory holds where weights are
        streamed, a power of two; 0 where those of all layers are on chip.
    dot
        Whether the interaction units are built.
    max_fanout
        Multipliers that a register of the array drives at most, or whose accumulators it does; at
        least 8.

    Raises
    ------
    ValueError
        If a value cannot be built; the message names it and what would be valid.
    """

    rows: int
    columns: int
    lanes: int
    slots: int = 3
    pair_units: int = 1
    vector_words: int
    max_vectors: int
    max_dense: int
    max_k: int
    max_n: int
    max_dim: int = 128
    activation_words: int
    weight_steps: int
    requantise_words: int
    program_length: int
    dot: bool = True
    max_fanout: int = 16
    stream_words: int = 0
    address_bits: int = 64

    def __post_init__(self) -> None:
        for name in ("rows", "lanes", "pair_units"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        words = self.stream_words
        if words and (words < 2 or words & (words - 1)):
            raise ValueError(f"stream_words must be 0 or a power of two from 2 on, not {words}")
        if not MIN_ROWS <= self.rows <= MAX_ROWS:
            raise ValueError(f"rows must lie in {MIN_ROWS}..{MAX_ROWS}, not {self.rows}")
        if self.columns not in COLUMNS:
            raise ValueError(f"columns must be 8, 16, 32 or 64, not {self.columns}")
        if self.pair_units > self.rows:
            raise ValueError(f"pair_units must be at most rows {self.rows}, not {self.pair_units}")
        for name, low in (
            ("slots", 2),
            ("lanes", 4),
            ("vector_words", 1),
            ("max_vectors", 1),
            ("max_dense", 0),
            ("max_k", 1),
            ("max_n", 1),
            ("max_dim", 1),
            ("activation_words", 1),
            ("weight_steps", 1),
            ("requantise_words", 1),
            ("program_length", 1),
            ("max_fanout", CHAIN),
            ("address_bits", 32),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if max(self.max_k, self.max_dim) > MAX_INPUTS:
            raise ValueError(
                f"max_k and max_dim must be at most {MAX_INPUTS}, not {self.max_k}, {self.max_dim}"
            )

    @property
    def outs(self) -> int:
        """Outputs that are worked on together."""
        return self.columns // CHAIN

    @property
    def pairs(self) -> int:
        """Pairs of samples that share a multiplier."""
        return self.rows // 2

    @property
    def acc_bits(self) -> int:
        """Signed width of accumulator plus bias (|.| < 2**26, kept by the weight scales)."""
        return ACC_BITS

    @property
    def word_steps(self) -> int:
        """Steps whose weights of one position share a word."""
        return WORD_BYTES // self.outs

    @property
    def weight_words(self) -> int:
        """Words of weights of one position, both halves where they are streamed."""
        return 2 * self.stream_words or -(-self.weight_steps // self.word_steps)

    @property
    def bank_words(self) -> int:
        """Words of a bank of the activation memory: those of all sub-batches."""
        return self.slots * self.activation_words

    @property
    def step_bits(self) -> int:
        """Width of a step's number."""
        return max(1, (self.weight_words * self.word_steps - 1).bit_length())

    @property
    def bag_parts(self) -> int:
        """Writes of up to 8 bytes that a bag's word takes."""
        return -(-self.lanes // CHAIN)

    @property
    def unit_rows(self) -> int:
        """Samples of an interaction unit."""
        return self.rows // self.pair_units

    @property
    def vector_chunks(self) -> int:
        """Words of 8 components that one sample's vectors take."""
        return -(-self.vector_words * self.lanes // CHAIN)

    @property
    def unit_words(self) -> int:
        """Words of 8 components of an interaction unit: its samples of all sub-batches."""
        return self.slots * self.unit_rows * self.vector_chunks

    @property
    def links(self) -> int:
        """Steps that the longest sum takes."""
        return -(-self.max_k // CHAIN)

    @property
    def pair_multipliers(self) -> int:
        """Multipliers of the interaction's units."""
        return CHAIN * self.pair_units if self.dot else 0

    @property
    def multipliers(self) -> int:
        """Multipliers of the array, the interaction and the sigmoid, requantisers apart."""
        return self.rows * self.columns + self.pair_multipliers + 1

    @classmethod
    def for_model(
        cls,
        model: ModelShape,
        *,
        rows: int,
        columns: int,
        lanes: int,
        slots: int = 4,
        pair_units: int | None = None,
        stream_words: int = 0,
    ) -> ComputeParams:
        """Size a core's maxima for one model; as many interaction units as keep up with the array.

        Weights are streamed where ``stream_words`` is not 0; it is raised to what the layers need.

        Raises
        ------
        ValueError
            As the class does.
        """
        for layer in (*model.bottom_layers, *model.top_layers):
            if layer.k > MAX_INPUTS:
                raise ValueError(
                    f"layer {layer.name} has {layer.k} inputs; a sum of {ACC_BITS} bits holds at "
                    f"most {MAX_INPUTS}"
                )
        outs = columns // CHAIN
        if stream_words:
            stream_words = max(stream_words, least_stream_words(model, outs), 2)
            stream_words = 1 << (stream_words - 1).bit_length()
        params = cls(
            rows=rows,
            columns=columns,
            lanes=lanes,
            slots=slots,
            pair_units=pair_units or 1,
            vector_words=max(1, vector_words(model, lanes)),
            max_vectors=len(model.vector_dims),
            max_dense=model.dense,
            max_k=max(padded_inputs(model)),
            max_n=max(padded_outputs(model)),
            max_dim=max(model.vector_dims),
            activation_words=Regions.of(model).words,
            weight_steps=sum(weight_steps(model, outs)),
            requantise_words=entry_count(model),
            program_length=1 + sum(len(layer) for layer in chunks(model, outs, stream_words)),
            dot=model.interaction == "dot",
            stream_words=stream_words,
        )
        while pair_units is None and params.pair_units < rows:
            if params.pair_cycles(model) <= params.array_steps(model):
                break
            params = dataclasses.replace(params, pair_units=2 * params.pair_units)
        return params

    # --- cost ---

    def linear_steps(self, k: int, n: int) -> int:
        """Array cycles of a LINEAR for one sub-batch: a column of results leaves per cycle."""
        links = -(-k // CHAIN)
        groups, rest = divmod(n, self.outs)
        return groups * max(links, self.outs) + (max(links, rest) if rest else 0)

    def array_steps(self, model: ModelShape) -> int:
        """Array cycles of all layers for one sub-batch."""
        shapes = zip(padded_inputs(model), padded_outputs(model), strict=True)
        return sum(self.linear_steps(k, n) for k, n in shapes)

    def pair_cycles(self, model: ModelShape) -> int:
        """Cycles of the interaction's units for one sub-batch; 0 without ``dot``."""
        if not model.pairs:
            return 0
        links = -(-model.vector_dims[0] // CHAIN)
        vectors = len(model.vector_dims)
        return (model.pairs + vectors - 1) * links * self.unit_rows

    def input_cycles(self, model: ModelShape) -> int:
        """Cycles in which a sub-batch's dense words and bags come in, as fast as they can."""
        bags = self._bag_parts(model)
        return (
            bags if model.interaction == "dot" else bags + model.dense + self._bottom_outputs(model)
        )

    def writer_cycles(self, model: ModelShape) -> int:
        """Writes into the activation memory for one sub-batch, one per cycle."""
        columns = sum(padded_outputs(model)) - 1
        bags = 0 if model.interaction == "dot" else self._bag_parts(model)
        return columns + model.pairs * self.unit_rows + model.dense + bags

    def ahead_cycles(self, model: ModelShape, *, latency: int = 64) -> float:
        """Cycles of a sub-batch alone before it needs a bag: its bottom MLP.

        ``latency`` cycles from a read of streamed weights to its first beat, here and below.
        """
        count = len(model.bottom_layers)
        total = sum(self._layer_cycles(model, latency)[:count])
        if not model.pairs or not count:
            return float(total)
        # the last columns wait in the turn to vectors
        k, n = padded_inputs(model)[count - 1], padded_outputs(model)[count - 1]
        waiting = max(self.turn_cycles(model) - self.linear_steps(k, n), 0)
        return float(total + waiting + self.unit_rows + 1)

    def turn_cycles(self, model: ModelShape) -> int:
        """Cycles in which the bottom output of a sub-batch is turned into vectors."""
        return model.bottom[-1] * (self.unit_rows + 1) if model.pairs and model.dense else 0

    def vector_cycles(self, model: ModelShape) -> int:
        """Cycles of bags on their way in; with ``dot``, beside the bottom output at one port."""
        return self.turn_cycles(model) + self._bag_parts(model)

    def latency(self, model: ModelShape, *, latency: int = 64) -> float:
        """Cycles of a sub-batch alone, from when all of its inputs are there to its last result."""
        return self.ahead_cycles(model, latency=latency) + self._behind_cycles(model, latency)

    def alone_cycles(self, model: ModelShape, *, latency: int = 64) -> float:
        """Cycles of a sub-batch alone, from its first input to its last result."""
        bottom = model.dense + INPUT_LATENCY + self.ahead_cycles(model, latency=latency)
        bags = self.input_cycles(model) + INPUT_LATENCY
        return max(bottom, bags) + self._behind_cycles(model, latency)

    def cycles(self, model: ModelShape, batch: int, *, latency: int = 64) -> float:
        """Steady-state cycles from batch to batch of ``batch`` samples: the slowest part.

        Bags are expected ``slots`` sub-batches ahead, and never late.
        """
        pairs = self.pair_cycles(model)
        interval = max(
            self.array_steps(model),
            pairs + (PAIRS_LATENCY if pairs else 0),
            self.vector_cycles(model),
            self.writer_cycles(model),
            self._streamed_interval(model, latency)
            if self.stream_words
            else self.alone_cycles(model) / self.slots,
        )
        return float(interval * -(-batch // self.rows))

    def _bag_parts(self, model: ModelShape) -> int:
        """Parts of up to 8 components of all bags of a sub-batch, written one per cycle."""
        bags = model.vector_dims[1 if model.dense else 0 :]
        return self.rows * sum(-(-dim // self.lanes) for dim in bags) * self.bag_parts

    def _bottom_outputs(self, model: ModelShape) -> int:
        return sum(padded_outputs(model)[: len(model.bottom_layers)])

    def _layer_cycles(self, model: ModelShape, latency: int) -> list[int]:
        """Cycles of every layer of a sub-batch alone."""
        shapes = zip(padded_inputs(model), padded_outputs(model), strict=True)
        made = [self.linear_steps(k, n) + min(n, self.outs) + LINEAR_LATENCY for k, n in shapes]
        if not self.stream_words:
            return made
        # the next operation's weights come meanwhile; nothing covers the first one's
        fetch = FETCH_CYCLES + latency
        waits = fetch + self._chunks(model)[0][0].beats
        for number, (k, layer) in enumerate(
            zip(padded_inputs(model), self._chunks(model), strict=True)
        ):
            for chunk in layer:
                steps = self.linear_steps(k, chunk.outputs)
                waits += max(fetch + chunk.beats - steps, 0) if chunk.first else 0
            made[number] += waits
            following = self._chunks(model)[number + 1 : number + 2]
            covered = self.linear_steps(k, layer[-1].outputs) + LINEAR_LATENCY
            waits = max(fetch + following[0][0].beats - covered, 0) if following else 0
        return made

    def _behind_cycles(self, model: ModelShape, latency: int) -> float:
        """Cycles of a sub-batch alone, from the start of its first operation that needs bags."""
        total = sum(self._layer_cycles(model, latency)[len(model.bottom_layers) :])
        total += self.pair_cycles(model) + PAIRS_LATENCY if model.pairs else 0
        return float(total + OUTPUT_LATENCY - LINEAR_LATENCY + self.rows)

    def _chunks(self, model: ModelShape) -> list[list[Chunk]]:
        return chunks(model, self.outs, self.stream_words)

    def _operations(self, model: ModelShape) -> list[tuple[int, Chunk]]:
        """Inputs and weights of every LINEAR."""
        layers = zip(padded_inputs(model), self._chunks(model), strict=True)
        return [(k, chunk) for k, layer in layers for chunk in layer]

    def _streamed_interval(self, model: ModelShape, latency: int) -> float:
        """Cycles from sub-batch to sub-batch where all slots run every operation in turn."""
        operations = self._operations(model)
        total = 0
        for (k, chunk), (_, after) in zip(
            operations, [*operations[1:], operations[0]], strict=True
        ):
            steps = self.linear_steps(k, chunk.outputs)
            total += max(
                self.slots * steps, steps + LINEAR_LATENCY, FETCH_CYCLES + latency + after.beats
            )
        # results leave in order, one sub-batch's after the other's
        return (total + (self.slots - 1) * (OUTPUT_LATENCY + self.rows)) / self.slots

    def streamed_beats(self, model: ModelShape, batches: int) -> float:
        """Beats of weights read for ``batches`` sub-batches, ``slots`` of which share a pass."""
        if not self.stream_words:
            return 0.0
        beats = sum(chunk.beats for _, chunk in self._operations(model))
        return float(beats * -(-batches // self.slots))

    def resources(self) -> Resources:
        """Estimate what the core costs; see ``compute.cost``."""
        from screc_hw.compute.cost import compute_resources  # it needs the parameters

        return compute_resources(self)
