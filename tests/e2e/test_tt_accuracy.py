"""What TT tables and their integers cost in AUC, on real labels: trained here, three seeds each."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from screc.config import LogConfig
from screc.logs import open_log
from screc.models import preset_shape
from screc.tt.shape import choose_shape
from screc_hw.model import FeatureShape, ModelShape, TableShape
from tests.conftest import NO_TORCH, shared_data

pytest.importorskip("torch", reason=NO_TORCH)

from screc.train.compare import Experiment, by_frequency, compare
from screc.train.dlrm import Recipe, take

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.data]

SEEDS = (0, 1, 2)
RANK = 16
LARGE_ROWS = 100_000
"""Rows from which a table of Criteo's is large: its 7 largest."""

MOVIELENS = ModelShape(
    name="movielens",
    dense=0,
    bottom=(),
    top=(64, 32, 1),
    interaction="concat",
    tables=(
        TableShape(name="user", rows=610, dim=16),
        TableShape(name="movie", rows=9724, dim=16),
    ),
    features=(FeatureShape(name="user", table=0), FeatureShape(name="movie", table=1)),
)


def split(shape, log):
    """A fifth of the samples, drawn at random, is held out; ids numbered by frequency."""
    samples = log.take(log.count())
    samples = take(samples, np.random.default_rng(0).permutation(len(samples)))
    count = len(samples) * 4 // 5
    samples = by_frequency(shape, samples, samples.slice(0, count))
    return samples.slice(0, count), samples.slice(count, len(samples))


@pytest.fixture(scope="module")
def movielens():
    path = shared_data("movielens_small") / "ratings.csv"
    log = LogConfig(
        path=str(path),
        ids="dictionary",
        label={"column": "rating", "at_least": 4},
        table=({"table": "user", "column": "userId"}, {"table": "movie", "column": "movieId"}),
    )
    return split(MOVIELENS, open_log(log, MOVIELENS, seed=0))


def show(capsys, comparison):
    with capsys.disabled():
        Console(width=150).print("\n", comparison.table())


DENSE = Recipe(epochs=3, batch=256, std=0.05)


@pytest.mark.parametrize("from_dense", [False, True], ids=["scratch", "tuned"])
def test_movielens_loses_little_on_the_device(capsys, movielens, from_dense):
    train, held_out = movielens
    tt = {i: choose_shape(t.rows, t.dim, RANK) for i, t in enumerate(MOVIELENS.tables)}
    scratch = dataclasses.replace(DENSE, epochs=5, tt_rate=5e-3)
    start = "tuned from dense" if from_dense else "from scratch"
    tuning = dataclasses.replace(DENSE, epochs=4, mlp_rate=3e-4)
    found = compare(
        Experiment(
            name=f"movielens_small, rank {RANK}, {start}",
            shape=MOVIELENS,
            tt=tt,
            dense=DENSE,
            in_tt=tuning if from_dense else scratch,
            from_dense=from_dense,
        ),
        train,
        held_out,
        SEEDS,
    )
    show(capsys, found)
    assert found.aucs.min() > 0.77
    assert found.difference(1, 0).value > -0.01
    for seed in range(len(SEEDS)):
        assert found.difference(2, 1, seed).value >= -0.001
    assert found.difference(2, 1).low >= -0.001


def test_criteo_loses_little_on_the_device(capsys):
    shape = preset_shape("criteo-kaggle")
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    train, held_out = split(shape, open_log(LogConfig(path=str(path)), shape, seed=0))
    large = {i: t for i, t in enumerate(shape.tables) if t.rows >= LARGE_ROWS}
    assert len(large) == 7
    # one pass: a second one learns the samples by heart
    recipe = Recipe(epochs=1, batch=64, dense_rate=3e-3, tt_rate=3e-3, std=0.01)
    found = compare(
        Experiment(
            name=f"criteo_raw8k, rank {RANK}, {len(large)} largest tables",
            shape=shape,
            tt={i: choose_shape(t.rows, t.dim, RANK) for i, t in large.items()},
            dense=recipe,
            in_tt=recipe,
        ),
        train,
        held_out,
        SEEDS,
    )
    show(capsys, found)
    assert found.aucs.min() > 0.70
    for seed in range(len(SEEDS)):
        assert found.difference(2, 1, seed).value >= -0.003
    assert found.difference(2, 1).low >= -0.003
