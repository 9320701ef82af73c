"""Logs whose later part differs are flagged by table; others are not."""

import itertools

import numpy as np
import pytest

from screc import flow
from screc.analyze.count import analyze
from screc.analyze.drift import SHARE, SIGNIFICANCE, find_drift
from screc.config import load_config
from tests.unit.analyze_support import log_of, model, zipf_ids

ROWS = 1_000_000


def test_logs_of_one_kind_are_not_flagged():
    least = [1.0, 1.0]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        rows, count = int(10 ** rng.uniform(1, 7)), int(10 ** rng.uniform(1, 4.3))
        profile = rng.uniform(0.1, 0.9)
        log = log_of(
            zipf_ids(seed, count, rows, rng.uniform(0.5, 1.6)),
            profile=profile * 0.999,
            holdout=1 - profile,
        )
        found = analyze(log, model(rows))[0].drift
        assert not found.flagged, seed
        least = [min(least[0], found.unseen_p), min(least[1], found.moved_p)]
    # far from the bar, so that no other seeds would be flagged
    assert min(least) > 1e-4


@pytest.mark.parametrize("budget", [10**7, 2000], ids=["exact", "sketch"])
def test_new_rows_are_flagged(budget):
    ids = zipf_ids(1, 100_000, ROWS, 1.05)
    changed = (np.arange(100_000) >= 50_000) & (np.random.default_rng(1).random(100_000) < 0.1)
    ids = np.where(changed, (ids + ROWS // 2) % ROWS, ids)
    found = analyze(log_of(ids), model(ROWS), exact_rows=budget)[0].drift
    assert found.flagged
    assert 0.03 < found.unseen_excess < 0.1
    assert found.unseen_p < SIGNIFICANCE


def test_hot_rows_that_change_places_are_flagged():
    ids = zipf_ids(2, 100_000, 5000, 1.05, scattered=False)
    later = np.arange(100_000) >= 50_000
    swapped = np.where(later & (ids < 20), 19 - ids, ids)
    found = analyze(log_of(swapped), model(5000))[0].drift
    assert found.flagged
    assert found.unseen_p > SIGNIFICANCE
    shares = np.bincount(ids[ids < 20], minlength=20) / 100_000
    assert found.moved == pytest.approx(np.abs(shares - shares[::-1]).sum() / 2, abs=0.01)


def test_a_change_too_small_to_matter_is_not_flagged():
    rng = np.random.default_rng(3)
    profile = rng.multinomial(10**7, [0.5, 0.5])
    holdout = rng.multinomial(10**7, [0.505, 0.495])
    found = find_drift(lookups=(10**7, 10**7), counts=(profile, holdout))
    assert found.moved_p < SIGNIFICANCE
    assert found.moved == pytest.approx(0.005, abs=0.001)
    assert found.moved < SHARE
    assert not found.flagged


def test_the_expectation_is_that_of_a_random_split():
    """Against all ways to split six lookups of three ids into parts of three."""
    lookups = np.array([0, 0, 0, 1, 1, 2])
    unseen = []
    for chosen in itertools.product((False, True), repeat=6):
        later = np.array(chosen)
        counts = [np.bincount(lookups[part], minlength=3) for part in (~later, later)]
        unseen.append(counts[1][counts[0] == 0].sum())
    # each lookup is in either part with 1/2: as the counts that went in have it
    split = (np.array([1, 1, 1]), np.array([2, 1, 0]))
    found = find_drift(lookups=(3, 3), counts=split)
    assert found.unseen_excess == pytest.approx((0 - np.mean(unseen)) / 3)


@pytest.mark.parametrize(
    "counts",
    [([], []), ([3, 4], [0, 0]), ([0, 0], [2, 5]), ([1], [1])],
    ids=["nothing", "no hold-out", "no profile", "one row"],
)
def test_little_to_compare(counts):
    profile, holdout = (np.array(part, np.int64) for part in counts)
    found = find_drift(lookups=(int(profile.sum()), int(holdout.sum())), counts=(profile, holdout))
    assert not found.flagged
    assert (found.moved, found.moved_p) == (0.0, 1.0)


def test_step_names_drifting_tables(tmp_path, capsys):
    np.savez(
        tmp_path / "log.npz",
        a=np.concatenate([zipf_ids(4, 5000, 800, 1.1), zipf_ids(5, 5000, 800, 1.1)])[:, None],
        b=np.concatenate([zipf_ids(6, 5000, 400, 1.1), 400 + zipf_ids(7, 5000, 400, 1.1)])[:, None],
    )
    (tmp_path / "config.toml").write_text(
        '[model]\nfile = "model.toml"\n[log]\npath = "log.npz"\n'
        '[[log.table]]\ntable = "a"\nindices = "a"\n[[log.table]]\ntable = "b"\nindices = "b"\n'
    )
    (tmp_path / "model.toml").write_text(
        'name = "m"\ninteraction = "concat"\ntop = [1]\n'
        '[[table]]\nname = "a"\nrows = 800\ndim = 4\n[[table]]\nname = "b"\nrows = 800\ndim = 4\n'
    )
    ctx = flow.Context.create(load_config(tmp_path / "config.toml"), tmp_path / "out")
    flow.run(ctx, "analyze")
    found = flow.result(ctx, "analyze")
    assert found["drift"] == ["b"]
    assert [table["drift"]["flagged"] for table in found["tables"]] == [False, True]
    text = " ".join(capsys.readouterr().err.split())
    assert "warning: table b: the log drifts: in the hold-out part" in text
    assert "table a" not in text
