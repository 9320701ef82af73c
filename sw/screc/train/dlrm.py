"""A DLRM in PyTorch, operation for operation the golden model's float twin, and its training."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from screc.train.tt_embedding import TTEmbeddingBag, pool_rows
from screc.tt.decompose import ArrayRows, FloatTt
from screc.tt.rows import TtRows
from screc.weights import table_tensor
from screc_hw.model import LayerShape, ModelShape
from screc_hw.tt.shape import TtShape
from screc_sim.golden.float_twin import FloatLinear, Weights
from screc_sim.golden.model import check_batch
from screc_sim.samples import Bags, SampleBatch

SAMPLES_AT_ONCE = 4096
"""Samples whose logits are computed at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW on the mean log loss of random batches.

    ``std``: standard deviation of the components of embedding rows at the start, dense and TT
    alike. A rate is Adam's step, a decay the share of a parameter that a step takes off per rate.
    """

    epochs: int
    batch: int = 128
    mlp_rate: float = 1e-3
    dense_rate: float = 1e-3
    tt_rate: float = 1e-3
    mlp_decay: float = 0.0
    dense_decay: float = 0.0
    tt_decay: float = 0.0
    std: float = 0.1


class DenseTable(nn.Module):
    """A table of rows, ``weight`` float32 ``(rows, dim)``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def rows(self, ids: Tensor) -> Tensor:
        """Return rows of ids, ``(len(ids), dim)``."""
        return nn.functional.embedding(ids, self.weight)


class Dlrm(nn.Module):
    """A DLRM whose tables are dense or TT.

    Parameters
    ----------
    shape
        The model.
    tt
        TT shape of each table that is TT, by table index.
    std
        Standard deviation of the rows' components at the start.
    seed
        Seed of every parameter.

    Raises
    ------
    ValueError
        If a TT shape has other rows or another dimension than its table; names both.
    """

    def __init__(
        self, shape: ModelShape, tt: Mapping[int, TtShape] | None = None, *, std: float, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        self.bottom = _mlp(shape.bottom_layers, generator)
        self.top = _mlp(shape.top_layers, generator)
        self.tables = nn.ModuleList()
        for i, table in enumerate(shape.tables):
            tt_shape = (tt or {}).get(i)
            if tt_shape is None:
                weight = torch.randn(table.rows, table.dim, generator=generator) * std
                self.tables.append(DenseTable(weight))
            else:
                _check_tt(shape, i, tt_shape)
                self.tables.append(TTEmbeddingBag(tt_shape, std=std, generator=generator))

    def with_tt(self, tables: Mapping[int, FloatTt]) -> Dlrm:
        """Copy the model with some tables replaced by TT cores, to fine-tune them.

        Raises
        ------
        ValueError
            If a TT shape has other rows or another dimension than its table; names both.
        """
        replaced = copy.copy(self)
        replaced._modules = dict(self._modules)  # the large tables that go are not copied
        replaced.tables = nn.ModuleList()
        for i, table in enumerate(self.tables):
            if i in tables:
                _check_tt(self.shape, i, tables[i].shape)
                table = TTEmbeddingBag.from_float(tables[i])
            replaced.tables.append(table)
        return copy.deepcopy(replaced)

    def forward(self, dense: Tensor, bags: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        dense
            float32 ``(n, dense)``.
        bags
            Per feature int64 ids ``(lookups,)`` and bag lengths ``(n,)``.

        Returns
        -------
        float32 ``(n,)``
        """
        vectors = [self.bottom(dense)] if self.shape.dense else []
        for feature, (ids, lengths) in zip(self.shape.features, bags, strict=True):
            vectors.append(pool_rows(self.tables[feature.table].rows(ids), lengths, feature.mode))
        parts = vectors
        if self.shape.interaction == "dot":
            stacked = torch.stack(vectors, dim=1)
            i, j = torch.tril_indices(len(vectors), len(vectors), -1)
            pairs = torch.bmm(stacked, stacked.transpose(1, 2))[:, i, j]
            parts = [*vectors[: 1 if self.shape.dense else 0], pairs]
        return self.top(torch.cat(parts, dim=1))[:, 0]

    def logits(self, batch: SampleBatch) -> NDArray[np.float64]:
        """Compute logits of samples without gradients, float64 ``(n,)``.

        Raises
        ------
        ValueError
            If the batch does not fit the model.
        """
        check_batch(self.shape, batch)
        with torch.no_grad():
            parts = [
                self(*_tensors(batch.slice(start, start + SAMPLES_AT_ONCE)))
                for start in range(0, len(batch), SAMPLES_AT_ONCE)
            ]
        return torch.cat(parts).double().numpy()

    def weights(self) -> Weights:
        """Weights as golden model and float twin take them."""
        return Weights(
            bottom=_layers(self.bottom),
            top=_layers(self.top),
            tables=tuple(
                TtRows(table.float_tt())
                if isinstance(table, TTEmbeddingBag)
                else ArrayRows(_array(table.weight))
                for table in self.tables
            ),
        )

    def save(self, path: Path) -> None:
        """Write facebookresearch/dlrm's names to a safetensors file; TT cores for TT tables."""
        tensors: dict[str, NDArray[np.float32]] = {}
        for i, table in enumerate(self.tables):
            if isinstance(table, TTEmbeddingBag):
                tensors |= table.tensors(i)
            else:
                tensors[table_tensor(i)] = _array(table.weight)
        for prefix, layers in (("bot_l", _layers(self.bottom)), ("top_l", _layers(self.top))):
            for i, layer in enumerate(layers):
                tensors[f"{prefix}.{2 * i}.weight"] = layer.weight
                tensors[f"{prefix}.{2 * i}.bias"] = layer.bias
        save_file(tensors, path)


def fit(model: Dlrm, samples: SampleBatch, recipe: Recipe, seed: int) -> list[float]:
    """Train a model in place.

    Parameters
    ----------
    model
        The model.
    samples
        Samples with labels; all of them are held at once.
    recipe
        How.
    seed
        Seed of the order of the samples.

    Returns
    -------
    list of float
        Mean log loss of each epoch, while its steps were taken.

    Raises
    ------
    ValueError
        If there are no labels, or the samples do not fit the model.
    """
    if samples.labels is None:
        raise ValueError("training needs labels, the samples have none")
    check_batch(model.shape, samples)
    optimiser = torch.optim.AdamW(_groups(model, recipe))
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(samples.labels)
    losses = []
    for _ in range(recipe.epochs):
        total = 0.0
        order = rng.permutation(len(samples))
        for start in range(0, len(samples), recipe.batch):
            chosen = order[start : start + recipe.batch]
            optimiser.zero_grad(set_to_none=True)
            logits = model(*_tensors(take(samples, chosen)))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        losses.append(total / len(samples))
    return losses


def take(samples: SampleBatch, chosen: NDArray[np.int64]) -> SampleBatch:
    """Return samples by number, in that order."""
    bags = []
    for feature in samples.bags:
        lengths = feature.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        bags.append(Bags(feature.ids[np.repeat(feature.offsets[chosen], lengths) + steps], offsets))
    labels = None if samples.labels is None else samples.labels[chosen]
    return SampleBatch(samples.dense[chosen], tuple(bags), labels)


def _check_tt(shape: ModelShape, index: int, tt: TtShape) -> None:
    table = shape.tables[index]
    if (tt.rows, tt.dim) != (table.rows, table.dim):
        raise ValueError(
            f"table {table.name!r} has {table.rows} rows of {table.dim}, "
            f"its TT shape {tt.rows} of {tt.dim}"
        )


def _mlp(layers: Sequence[LayerShape], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with facebookresearch/dlrm's start, normal by fan-in and fan-out."""
    modules: list[nn.Module] = []
    for layer in layers:
        linear = nn.Linear(layer.k, layer.n)
        with torch.no_grad():
            linear.weight.normal_(0, math.sqrt(2 / (layer.k + layer.n)), generator=generator)
            linear.bias.normal_(0, math.sqrt(1 / layer.n), generator=generator)
        modules += [linear, nn.ReLU()] if layer.relu else [linear]
    return nn.Sequential(*modules)


def _groups(model: Dlrm, recipe: Recipe) -> Iterator[dict[str, Any]]:
    mlp = [*model.bottom.parameters(), *model.top.parameters()]
    yield {"params": mlp, "lr": recipe.mlp_rate, "weight_decay": recipe.mlp_decay}
    for kind, rate, decay in (
        (DenseTable, recipe.dense_rate, recipe.dense_decay),
        (TTEmbeddingBag, recipe.tt_rate, recipe.tt_decay),
    ):
        found = [p for t in model.tables if isinstance(t, kind) for p in t.parameters()]
        if found:
            yield {"params": found, "lr": rate, "weight_decay": decay}


def _tensors(batch: SampleBatch) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    bags = [(torch.from_numpy(b.ids), torch.from_numpy(b.lengths)) for b in batch.bags]
    return torch.from_numpy(batch.dense), bags


def _array(parameter: Tensor) -> NDArray[np.float32]:
    return parameter.detach().cpu().numpy().astype(np.float32)


def _layers(mlp: nn.Sequential) -> tuple[FloatLinear, ...]:
    return tuple(
        FloatLinear(_array(layer.weight), _array(layer.bias))
        for layer in mlp
        if isinstance(layer, nn.Linear)
    )
