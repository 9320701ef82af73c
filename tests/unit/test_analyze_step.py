"""The analyze step: what it counts, against a plain count."""

from collections import Counter

import numpy as np
import pytest

from screc import flow
from screc.analyze import analyze
from screc.config import LogConfig, load_config, model_shape
from screc.logs import open_log
from screc.stats import read_stats
from screc_hw.model import FeatureShape, ModelShape, TableShape
from tests.conftest import shared_data

CONFIG = """
[model]
file = "model.toml"
seed = 2
[log]
samples = 3000
profile = 0.4
holdout = 0.25
"""

MODEL = """
name = "m"
interaction = "concat"
top = [1]
[[table]]
name = "a"
rows = 500
dim = 8
[[table]]
name = "b"
rows = 40
dim = 4
[[feature]]
name = "a1"
table = "a"
pooling = 0.5
[[feature]]
name = "a2"
table = "a"
pooling = 3
[[feature]]
name = "b"
table = "b"
"""


def check(stats, log, shape):
    """Compare statistics with counts of one sample at a time."""
    parts = [log.profile(), log.holdout()]
    for i, table in enumerate(stats):
        features = [f for f, feature in enumerate(shape.features) if feature.table == i]
        ids = [[part.take(part.count()).bags[f] for f in features] for part in parts]
        counts = [Counter(np.concatenate([b.ids for b in bags]).tolist()) for bags in ids]
        ranked = sorted(counts[0].items(), key=lambda entry: (-entry[1], entry[0]))
        assert table.hot_ids.tolist() == [identity for identity, _ in ranked]
        assert table.hot_counts.tolist() == [count for _, count in ranked]
        assert table.holdout_counts.tolist() == [counts[1][identity] for identity, _ in ranked]
        unseen = sum(count for identity, count in counts[1].items() if identity not in counts[0])
        assert table.unseen_lookups == unseen
        lengths = [
            np.concatenate([ids[p][j].lengths for p in (0, 1)]) for j in range(len(features))
        ]
        for found, expected in zip(table.features, lengths, strict=True):
            assert found.pooling == pytest.approx(expected.mean())
            assert found.longest == expected.max()
            assert found.coverage == pytest.approx((expected > 0).mean())
        assert (table.profile_samples, table.holdout_samples) == tuple(p.count() for p in parts)


@pytest.mark.parametrize("batch", [64, 100_000])
def test_step_writes_what_the_log_holds(tmp_path, monkeypatch, batch):
    monkeypatch.setattr("screc.analyze.sources.SAMPLES_AT_ONCE", batch)
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "model.toml").write_text(MODEL)
    config = load_config(tmp_path / "config.toml")
    ctx = flow.Context.create(config, tmp_path / "out", verbosity=-1)
    flow.run(ctx, "analyze")
    stats = read_stats(tmp_path / "out" / "stats.parquet")
    assert [(t.name, t.rows, t.dim) for t in stats] == [("a", 500, 8), ("b", 40, 4)]
    assert (stats[0].profile_samples, stats[0].holdout_samples) == (1200, 750)
    check(stats, open_log(config.log, model_shape(config), seed=2), ctx.shape)
    assert [t["name"] for t in flow.result(ctx, "analyze")["tables"]] == ["a", "b"]


@pytest.mark.data
def test_real_places_are_unseen_as_good_and_turing_say():
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    rows = (1460, 583, 10_131_227, *([100_000] * 23))
    shape = ModelShape(
        name="criteo",
        dense=13,
        bottom=(16,),
        top=(1,),
        interaction="concat",
        tables=tuple(TableShape(name=f"C{i}", rows=n, dim=4) for i, n in enumerate(rows)),
        features=tuple(FeatureShape(name=f"C{i}", table=i) for i in range(26)),
    )
    log = open_log(LogConfig(path=str(path)), shape, seed=0)
    stats = analyze(log, shape)
    check(stats[:3], log, shape)
    for table in stats:
        assert abs(table.unseen_share - table.unseen_estimate) < 0.05
        assert table.coverage(table.hot) == pytest.approx(1 - table.unseen_share)
