"""Shape of a DLRM as the hardware sees it: sizes only, no weights.

Everything that derives a width, a cycle count or a memory size from a model starts here.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property

from screc_hw.protocol import ROW_TAIL_BYTES

ROW_FORMATS = ("int8", "int4", "int8r", "int4r")
MLP_FORMATS = ("int8", "int4")
INTERACTIONS = ("dot", "concat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableShape:
    """An embedding table: ``rows`` × ``dim``, stored as ``format``."""

    name: str
    rows: int
    dim: int
    format: str = "int8"

    @property
    def rowwise(self) -> bool:
        """Whether every row has a scale and bias of its own."""
        return self.format.endswith("r")

    @property
    def code_bits(self) -> int:
        """Bits of a stored component."""
        return 4 if self.format.startswith("int4") else 8

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row; ``r`` formats carry an fp16 scale and bias at the tail."""
        return self.dim * self.code_bits // 8 + (ROW_TAIL_BYTES if self.rowwise else 0)

    def stride_bytes(self, beat_bytes: int) -> int:
        """Bytes from row to row: a power of two below a beat, else whole beats."""
        if self.row_bytes < beat_bytes:
            return 1 << (self.row_bytes - 1).bit_length()
        return -(-self.row_bytes // beat_bytes) * beat_bytes

    def row_beats(self, beat_bytes: int) -> int:
        """Memory beats that one row costs."""
        return -(-self.row_bytes // beat_bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureShape:
    """A sparse input: bags of ids into ``table`` (index into :attr:`ModelShape.tables`)."""

    name: str
    table: int
    pooling: float = 1.0
    zipf: float = 1.05
    mode: str = "sum"
    weighted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A linear layer: ``k`` inputs, ``n`` outputs; ``relu`` False only on the last top layer.

    ``format`` of its weights is one of :data:`MLP_FORMATS`.
    """

    name: str
    k: int
    n: int
    relu: bool
    format: str = "int8"

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return self.k * self.n


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A DLRM: bottom MLP over dense features, bags of embedding rows, interaction, top MLP.

    ``dense`` 0 means no bottom MLP (then ``bottom`` is empty). ``bottom`` and ``top`` are the layer
    widths after the input; ``top`` ends in 1. With ``dot``, all bags and the bottom output share
    one dimension. ``mlp_format`` is that of the layers' weights.
    """

    name: str
    dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    interaction: str
    tables: tuple[TableShape, ...]
    features: tuple[FeatureShape, ...]
    mlp_format: str = "int8"

    def feature_dim(self, feature: int) -> int:
        """Embedding dimension of the bag of ``feature``."""
        return self.tables[self.features[feature].table].dim

    @cached_property
    def vector_dims(self) -> tuple[int, ...]:
        """Dimensions of the interaction's input vectors: bottom output first, then the bags."""
        bags = tuple(self.feature_dim(f) for f in range(len(self.features)))
        return ((self.bottom[-1],) if self.dense else ()) + bags

    @property
    def pairs(self) -> int:
        """Strict-lower-triangle products of ``dot``; 0 for ``concat``."""
        v = len(self.vector_dims)
        return v * (v - 1) // 2 if self.interaction == "dot" else 0

    @property
    def top_inputs(self) -> int:
        """Width of the concatenated tensor, the top MLP's input."""
        if self.interaction == "dot":
            return (self.bottom[-1] if self.dense else 0) + self.pairs
        return sum(self.vector_dims)

    @cached_property
    def bottom_layers(self) -> tuple[LayerShape, ...]:
        """Layers of the bottom MLP (every one with ReLU), empty without dense features."""
        if not self.dense:
            return ()
        widths = (self.dense, *self.bottom)
        return tuple(
            LayerShape(name=f"bottom{i}", k=k, n=n, relu=True, format=self.mlp_format)
            for i, (k, n) in enumerate(itertools.pairwise(widths))
        )

    @cached_property
    def top_layers(self) -> tuple[LayerShape, ...]:
        """Layers of the top MLP; the last has no ReLU and gives the logit."""
        widths = (self.top_inputs, *self.top)
        last = len(self.top) - 1
        return tuple(
            LayerShape(name=f"top{i}", k=k, n=n, relu=i != last, format=self.mlp_format)
            for i, (k, n) in enumerate(itertools.pairwise(widths))
        )

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates per sample: MLPs and, for ``dot``, the triangle × dim."""
        mlp = sum(layer.macs for layer in (*self.bottom_layers, *self.top_layers))
        return mlp + self.pairs * self.vector_dims[0]

    @property
    def lookups(self) -> float:
        """Mean lookups per sample."""
        return sum(f.pooling for f in self.features)
