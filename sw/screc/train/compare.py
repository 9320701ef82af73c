"""What integers and tensor-train tables cost in accuracy, measured on held-out samples."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from screc.plan.device import TT_FRACTION
from screc.remap import TableRemap
from screc.train.dlrm import DenseTable, Dlrm, Recipe, fit
from screc.train.tt_embedding import TTEmbeddingBag
from screc.tt.decompose import decompose
from screc.tt.quantise import quantise_tt
from screc_hw.model import ModelShape
from screc_hw.tt.shape import TtShape
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import calibrate
from screc_sim.golden.metrics import auc, bootstrap_auc
from screc_sim.golden.quant import TtRange
from screc_sim.golden.scales import Clip
from screc_sim.samples import Bags, SampleBatch, concatenate

CALIBRATION_SAMPLES = 4096
"""Samples of the training part that scales are calibrated on."""

RESAMPLES = 2000
"""Draws of the bootstrap."""

MODELS = ("float dense", "float TT", "device TT")
"""The models that :func:`compare` compares, in order."""

INTEGER_MODELS = ("float", "device")
"""Those of :func:`compare_integers`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model whose large tables are trained dense and in TT form.

    Parameters
    ----------
    name
        For people.
    shape
        The model.
    tt
        TT shape of each large table, by table index.
    dense, in_tt
        How the dense model and the one with TT tables are trained.
    from_dense
        Whether TT tables start as the decomposition of the dense model's, weighted by the rows'
        counts, and the MLPs as its MLPs; else both start from the seed.
    """

    name: str
    shape: ModelShape
    tt: Mapping[int, TtShape]
    dense: Recipe
    in_tt: Recipe
    from_dense: bool = False


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.5f} [{self.low:+.5f}, {self.high:+.5f}]"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Scores of held-out samples.

    ``models``: what is compared; each but the first is set against the one before it. ``labels``
    ``(n,)``; ``scores`` float64 ``(seeds, models, n)``; ``resampled`` float64 ``(resamples, seeds,
    models)``: AUCs of the bootstrap.
    """

    name: str
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: NDArray[np.float32]
    scores: NDArray[np.float64]
    resampled: NDArray[np.float64]

    @property
    def aucs(self) -> NDArray[np.float64]:
        """AUC of every seed and model, ``(seeds, models)``."""
        return np.array([[auc(self.labels, s) for s in of_seed] for of_seed in self.scores])

    def difference(self, model: int, other: int, seed: int | None = None) -> Interval:
        """AUC of a model less that of another, paired: of one seed by number, or their mean."""
        chosen = slice(None) if seed is None else slice(seed, seed + 1)
        aucs, drawn = self.aucs[chosen], self.resampled[:, chosen]
        low, high = np.nanpercentile(
            (drawn[..., model] - drawn[..., other]).mean(axis=1), (2.5, 97.5)
        )
        value = (aucs[:, model] - aucs[:, other]).mean()
        return Interval(float(value), float(low), float(high))

    def table(self) -> Table:
        """Return the figures as a table for people: every seed, then the mean."""
        made = Table(title=f"{self.name}: AUC of {len(self.labels)} held-out samples")
        pairs = list(itertools.pairwise(self.models))
        for column in ("seed", *self.models, *(f"{after} - {before}" for before, after in pairs)):
            made.add_column(column, justify="right", no_wrap=True)
        aucs = self.aucs
        for i, name in [*enumerate(map(str, self.seeds)), (None, "mean")]:
            shown = aucs.mean(axis=0) if i is None else aucs[i]
            made.add_row(
                name,
                *(f"{value:.5f}" for value in shown),
                *(str(self.difference(after, after - 1, i)) for after in range(1, len(aucs[0]))),
            )
        return made


def compare(
    experiment: Experiment,
    train: SampleBatch,
    held_out: SampleBatch,
    seeds: Sequence[int],
    resamples: int = RESAMPLES,
) -> Comparison:
    """Train dense and TT models, quantise the latter, and score the same held-out samples.

    Parameters
    ----------
    experiment
        The model and how it is trained.
    train, held_out
        Samples with labels; ids of tables in TT form are best numbered by frequency, see
        :func:`by_frequency`.
    seeds
        Seeds of parameters and of the order of samples.
    resamples
        Draws of the bootstrap.

    Raises
    ------
    ValueError
        If samples do not fit the model or have no labels.
    """
    if held_out.labels is None:
        raise ValueError("a comparison needs labels, the held-out samples have none")
    found = [_scores(experiment, train, held_out, seed) for seed in seeds]
    return compared(experiment.name, MODELS, seeds, held_out.labels, np.stack(found), resamples)


def compare_integers(
    name: str,
    shape: ModelShape,
    recipe: Recipe,
    train: SampleBatch,
    held_out: SampleBatch,
    seeds: Sequence[int],
    clip: Clip = "auto",
) -> tuple[Comparison, list[Dlrm]]:
    """Train a dense model per seed, quantise it, and score the same held-out samples with both.

    Parameters
    ----------
    name
        For people.
    shape, recipe
        The model, and how it is trained.
    train, held_out
        Samples with labels.
    seeds
        Seeds of parameters and of the order of samples.
    clip
        How scales are chosen, on the first samples of ``train``.

    Returns
    -------
    tuple
        The comparison, by the models of :data:`INTEGER_MODELS`, and the trained models.

    Raises
    ------
    ValueError
        If samples do not fit the model or have no labels.
    """
    if held_out.labels is None:
        raise ValueError("a comparison needs labels, the held-out samples have none")
    models, scores = [], []
    for seed in seeds:
        model = Dlrm(shape, std=recipe.std, seed=seed)
        fit(model, train, recipe, seed)
        calibration = train.slice(0, CALIBRATION_SAMPLES)
        exact = calibrate(shape, model.weights(), calibration, clip=clip)
        device = golden.run(exact, held_out).logit.astype(np.float64)
        scores.append(np.stack([model.logits(held_out), device]))
        models.append(model)
    found = compared(name, INTEGER_MODELS, seeds, held_out.labels, np.stack(scores))
    return found, models


def compared(
    name: str,
    models: Sequence[str],
    seeds: Sequence[int],
    labels: NDArray[np.float32],
    scores: NDArray[np.float64],
    resamples: int = RESAMPLES,
) -> Comparison:
    """Set the scores ``(seeds, models, n)`` of held-out samples against each other, paired."""
    drawn = bootstrap_auc(labels, scores.reshape(-1, len(labels)), resamples)
    resampled = drawn.reshape(resamples, *scores.shape[:2])
    return Comparison(name, tuple(models), tuple(seeds), labels, scores, resampled)


def _scores(
    experiment: Experiment, train: SampleBatch, held_out: SampleBatch, seed: int
) -> NDArray[np.float64]:
    shape, tt = experiment.shape, experiment.tt
    kept, both = shape, concatenate([train, held_out])
    if not experiment.from_dense:
        # a dense table trains its rows one by one: those that no sample reads need not be there
        kept, both = read_rows(shape, both)
    dense = Dlrm(kept, std=experiment.dense.std, seed=seed)
    fit(dense, both.slice(0, len(train)), experiment.dense, seed)
    dense_logits = dense.logits(both.slice(len(train), len(both)))
    if experiment.from_dense:
        model = dense.with_tt(
            {
                i: decompose(_weight(dense.tables[i]), sizes, weights=_counts(shape, i, train))
                for i, sizes in tt.items()
            }
        )
    else:
        model = Dlrm(shape, tt, std=experiment.in_tt.std, seed=seed)
    fit(model, train, experiment.in_tt, seed)
    calibration = train.slice(0, CALIBRATION_SAMPLES)
    device = device_logits(model, calibration, held_out)
    return np.stack([dense_logits, model.logits(held_out), device])


def device_logits(
    model: Dlrm, calibration: SampleBatch, samples: SampleBatch, fraction: int = TT_FRACTION
) -> NDArray[np.float64]:
    """Logits of the golden integer model, exact integers, with TT tables rebuilt as in hardware.

    Parameters
    ----------
    model
        The trained model; TT tables are in TT form throughout.
    calibration
        Samples that scales are chosen on.
    samples
        Samples to score.
    fraction
        Bits of TT rows below the table's row grid.

    Returns
    -------
    float64 ``(n,)``
    """
    exact = calibrate(model.shape, model.weights(), calibration)
    ranges = {}
    for i, table in enumerate(model.tables):
        if isinstance(table, TTEmbeddingBag):
            rows = quantise_tt(table.float_tt(), exact.tables[i].scale, fraction)
            by_id = TableRemap.build(table.shape.rows, np.zeros(0, np.int64))
            ranges[i] = TtRange(0, rows, by_id)
    quantised = exact.with_tt(fraction, ranges)
    return golden.run(quantised, samples).logit.astype(np.float64)


def by_frequency(shape: ModelShape, samples: SampleBatch, counted: SampleBatch) -> SampleBatch:
    """Renumber the ids of samples by how often ``counted`` has them, the most frequent first."""
    bags = list(samples.bags)
    for i, table in enumerate(shape.tables):
        counts = _counts(shape, i, counted)
        read = np.flatnonzero(counts)
        order = TableRemap.build(table.rows, read[np.argsort(-counts[read], kind="stable")])
        for f, feature in enumerate(shape.features):
            if feature.table == i:
                ids = order.ranks(bags[f].ids).astype(np.int64)
                bags[f] = Bags(ids, bags[f].offsets)
    return SampleBatch(samples.dense, tuple(bags), samples.labels)


def read_rows(shape: ModelShape, samples: SampleBatch) -> tuple[ModelShape, SampleBatch]:
    """Leave out the rows of every table that no sample reads; the others keep their order."""
    bags, tables = list(samples.bags), list(shape.tables)
    for i, table in enumerate(shape.tables):
        readers = [f for f, feature in enumerate(shape.features) if feature.table == i]
        read = np.unique(np.concatenate([samples.bags[f].ids for f in readers]))
        tables[i] = dataclasses.replace(table, rows=max(1, len(read)))
        for f in readers:
            ids = np.searchsorted(read, samples.bags[f].ids)
            bags[f] = Bags(ids, samples.bags[f].offsets)
    smaller = dataclasses.replace(shape, tables=tuple(tables))
    return smaller, SampleBatch(samples.dense, tuple(bags), samples.labels)


def _counts(shape: ModelShape, table: int, samples: SampleBatch) -> NDArray[np.float64]:
    """How often samples read every row of a table, ``(rows,)``."""
    counts = np.zeros(shape.tables[table].rows)
    for feature, bags in zip(shape.features, samples.bags, strict=True):
        if feature.table == table:
            counts += np.bincount(bags.ids, minlength=len(counts))
    return counts


def _weight(table: DenseTable) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = table.weight.detach().numpy()
    return weight
