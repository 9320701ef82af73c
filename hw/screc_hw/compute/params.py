"""Parameters of the compute-centric core, its derived widths and its cost."""

from __future__ import annotations

import dataclasses

from screc_hw.model import LayerShape, ModelShape
from screc_hw.numerics import ACC_BITS, INT8_MAX, SIGMOID_ENTRIES
from screc_hw.resources import Resources, memory_blocks

GROUP_COLUMNS = 8
"""Columns of a group: one 64-bit word of LOAD ``WEIGHTS``."""

REQUANTISE_LATENCY = 7
"""As ``requantise.Requantise.latency`` (that module needs Amaranth; a test compares the two)."""

LINEAR_LATENCY = 16
"""Cycles from a LINEAR's last input to the next operation's start, less one per column drained:
memory 2, array 6, bias 1, requantising 7. Measured: tests/unit/test_compute_cycles.py."""

FEATURE_WRITE_LATENCY = 2
"""Cycles that a result for the feature buffer takes longer than one for the activation memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeParams:
    """Compile-time maxima of a compute-centric core.

    Parameters
    ----------
    rows, columns
        Array size: rows are samples of a sub-batch, columns output channels (8 times a power
        of two, so that a word of weights finds its place by bit fields).
    lanes
        Bytes of a feature-buffer word.
    slots
        Batch slots of the feature and dense buffers, a power of two.
    dot_lanes
        Multipliers per row of the interaction unit, a power of two up to ``lanes``.
    vector_words
        Words that one sample's vectors take in the feature buffer.
    max_dense, max_k, max_dim
        Largest dense width, layer input and embedding dimension.
    activation_words, weight_words, requantise_words, program_length
        Depths of the memories: words of ``rows`` bytes, words of ``columns`` bytes, entries,
        operations.
    dot
        Whether the interaction unit is built.

    Raises
    ------
    ValueError
        If a value cannot be built; the message names it and what would be valid.
    """

    rows: int
    columns: int
    lanes: int
    slots: int = 2
    dot_lanes: int = 4
    vector_words: int
    max_dense: int
    activation_words: int
    weight_words: int
    requantise_words: int
    program_length: int
    max_k: int
    dot: bool = True
    max_dim: int = 128

    def __post_init__(self) -> None:
        for name in ("rows", "lanes", "slots", "dot_lanes"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        groups = self.columns // GROUP_COLUMNS
        if self.columns % GROUP_COLUMNS or groups < 1 or groups & (groups - 1):
            raise ValueError(f"columns must be 8 times a power of two, not {self.columns}")
        for name in (
            *("vector_words", "activation_words", "weight_words", "requantise_words"),
            *("program_length", "max_k", "max_dim"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_dense < 0:
            raise ValueError(f"max_dense must be at least 0, not {self.max_dense}")
        longest = ((1 << (self.acc_bits - 1)) - 1) // INT8_MAX**2
        if self.dot and self.max_dim > longest:
            raise ValueError(f"max_dim must be at most {longest}, not {self.max_dim}")
        if self.dot_lanes > self.lanes:
            raise ValueError(f"dot_lanes {self.dot_lanes} must not exceed lanes {self.lanes}")

    @property
    def acc_bits(self) -> int:
        """Signed width of accumulator plus bias (|.| < 2**26, kept by the weight scales)."""
        return ACC_BITS

    @property
    def groups(self) -> int:
        """Groups of eight columns."""
        return self.columns // GROUP_COLUMNS

    @property
    def dense_words(self) -> int:
        """Depth of the dense buffer, whose sub-batches follow each other in a ring."""
        return max(2, self.slots * self.max_dense)

    @property
    def feature_words(self) -> int:
        """Depth of a row's feature buffer: all slots, one after the other."""
        return max(2, self.slots * self.vector_words)

    @property
    def dot_levels(self) -> int:
        """Adder levels behind a row's ``dot_lanes`` multipliers."""
        return self.dot_lanes.bit_length() - 1

    @property
    def read_latency(self) -> int:
        """Cycles from a feature word's address to the control line that takes the word."""
        return 2

    @property
    def copy_latency(self) -> int:
        """Cycles from a feature word's address to the copied component: memory, shift, value."""
        return self.read_latency + 3

    @property
    def dot_latency(self) -> int:
        """Cycles from a pair's last address to its product: as a copy, and multiply, add, sum."""
        return self.copy_latency + 2 + self.dot_levels

    @staticmethod
    def activation_words_for(model: ModelShape) -> int:
        """Words of the activation memory: two regions, consecutive layers alternate."""
        a, b = ComputeParams.activation_regions(model)
        return a + b

    @staticmethod
    def activation_regions(model: ModelShape) -> tuple[int, int]:
        """Sizes of the activation memory's regions A and B.

        Bottom layer i writes A for even i, B for odd i (the last one writes the feature buffer);
        the concatenated tensor is in A; top layer i writes B for even i, A for odd i.
        """
        a, b = model.top_inputs, 1
        for i, layer in enumerate(model.bottom_layers[:-1]):
            a, b = (max(a, layer.n), b) if i % 2 == 0 else (a, max(b, layer.n))
        for i, layer in enumerate(model.top_layers[:-1]):
            a, b = (a, max(b, layer.n)) if i % 2 == 0 else (max(a, layer.n), b)
        return a, b

    def cycles(self, model: ModelShape) -> float:
        """Cycles of one sub-batch of ``rows`` samples whose inputs have arrived.

        Operations run one after the other, so this is exact, and also the interval from sub-batch
        to sub-batch as long as results are taken.
        """
        total = self.ahead_cycles(model)
        total += sum(self._linear_cycles(layer) for layer in model.top_layers)
        words = [-(-dim // self.lanes) for dim in model.vector_dims]
        if model.pairs:
            total += model.pairs * words[0] * (self.lanes // self.dot_lanes)
            total += self.dot_latency + REQUANTISE_LATENCY + 1
        else:
            total += self._copy_cycles(sum(words[1 if model.dense else 0 :]))
        return float(total)

    def ahead_cycles(self, model: ModelShape) -> float:
        """Cycles of a sub-batch's operations that need no bag: the bottom MLP and its copy."""
        if not model.bottom_layers:
            return 0.0
        total = sum(self._linear_cycles(layer) for layer in model.bottom_layers)
        total += FEATURE_WRITE_LATENCY + self._copy_cycles(-(-model.bottom[-1] // self.lanes))
        return float(total)

    def _linear_cycles(self, layer: LayerShape) -> int:
        """Cycles of a layer: a tile lasts ``k``, but the next begins ``columns`` after it."""
        tiles = -(-layer.n // self.columns)
        issue = (tiles - 1) * max(layer.k, self.columns) + layer.k
        return issue + layer.n - (tiles - 1) * self.columns + LINEAR_LATENCY

    def _copy_cycles(self, words: int) -> int:
        """Cycles of copying ``words`` of the feature buffer."""
        return words * self.lanes + self.copy_latency + REQUANTISE_LATENCY + 1

    @property
    def multipliers(self) -> int:
        """Multipliers as built: array, interaction, one requantiser per row, sigmoid."""
        dot = self.rows * self.dot_lanes if self.dot else 0
        return self.rows * self.columns + dot + self.rows + 1

    def resources(self) -> Resources:
        """Estimate, one DSP48E2 per multiplier.

        LUT and FF: a row's and a group's share as fitted to Yosys (synth_xilinx -family xc7, which
        packs multiply-accumulate registers into DSPs as Vivado does) at 8 × 8, 16 × 8 and 8 × 16,
        16 lanes, 4 dot lanes: 7,807, 14,539 and 8,685 LUT, 10,923, 20,350 and 12,200 FF.
        """
        ports = 2 if self.dot else 1
        word = 8 * self.lanes
        products = 18 * (self.dot_lanes - 1) + 2 * self.acc_bits if self.dot else 0
        cells = self.rows * self.groups
        return (
            Resources(
                lut=995
                + 80 * self.groups
                + 100 * cells
                + self.rows * (249 + word * (1 + ports) + products),
                ff=1306
                + 190 * self.groups
                + 135 * cells
                + self.rows * (279 + self.lanes + word * (1 + 2 * ports) + products),
                dsp=self.multipliers,
            )
            + memory_blocks(self.activation_words, self.rows * 8)
            + memory_blocks(self.dense_words, self.rows * 8)
            + memory_blocks(self.weight_words, self.columns * 8)
            + memory_blocks(self.requantise_words, 54)
            + 2 * memory_blocks(SIGMOID_ENTRIES, 16)
            + 3 * memory_blocks(self.program_length, 64)
            + ports * self.rows * memory_blocks(self.feature_words, word)
        )
