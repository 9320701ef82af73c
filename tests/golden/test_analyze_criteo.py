"""Statistics of real samples: what is predicted of the next ones, from a file in its own format."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from screc.analyze.count import analyze
from screc.analyze.reuse import Ranks
from screc.config import LogConfig
from screc.logs import open_log
from screc_hw.model import FeatureShape, ModelShape, TableShape
from tests.conftest import shared_data
from tests.golden.test_real_data import KAGGLE_ROWS

pytestmark = pytest.mark.data

ANALYSED = 4000


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Statistics of the first 4,000 samples, and ids of the 4,000 after them ``(26, 4000)``."""
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    with gzip.open(path, "rt") as file:
        lines = file.readlines()
    first = Path(tmp_path_factory.mktemp("criteo")) / "first.tsv"
    first.write_text("".join(lines[:ANALYSED]))
    shape = ModelShape(
        name="criteo",
        dense=13,
        bottom=(16,),
        top=(1,),
        interaction="concat",
        tables=tuple(
            TableShape(name=f"C{i + 1}", rows=n, dim=16) for i, n in enumerate(KAGGLE_ROWS)
        ),
        features=tuple(FeatureShape(name=f"C{i + 1}", table=i) for i in range(26)),
    )
    stats = analyze(open_log(LogConfig(path=str(first)), shape, seed=0), shape)
    cells = [
        [int(text or "0", 16) for text in line.rstrip("\n").split("\t")[14:]] for line in lines
    ]
    ids = np.array(cells).T % np.array(KAGGLE_ROWS)[:, None]
    return stats, ids[:, :ANALYSED], ids[:, ANALYSED:]


def test_unseen_shares_of_the_next_samples(predicted):
    stats, before, later = predicted
    shares = []
    for table, ids, known in zip(stats, later, before, strict=True):
        unranked = np.mean(Ranks(table.hot_ids)(ids) >= table.hot)
        new = np.mean(~np.isin(ids, known))
        shares.append((table.unseen_share, unranked, table.unseen_later, new))
    for i in np.argsort([-table.rows for table in stats])[:5]:
        table, (ranked, true, ever, new) = stats[i], shares[i]
        print(
            f"{table.name}, {table.rows:,} rows: not in the profile part {ranked:.3f}, later "
            f"{true:.3f}; in neither part {ever:.3f}, later {new:.3f}"
        )
        assert ranked == pytest.approx(true, abs=0.05)
        assert ever == pytest.approx(new, abs=0.05)
    ranked, true, ever, new = np.mean(shares, axis=0)
    print(
        f"all columns: {ranked:.4f}, later {true:.4f}; in neither part {ever:.4f}, later {new:.4f}"
    )
    assert ranked == pytest.approx(true, abs=0.03)
    assert ever == pytest.approx(new, abs=0.03)


def test_tier_shares_of_the_next_samples(predicted):
    stats, _, later = predicted
    for table, ids in zip(stats, later, strict=True):
        ranks = Ranks(table.hot_ids)(ids)
        for rows in (table.hot // 10, table.hot // 2, table.hot, (table.hot + table.rows) // 2):
            assert table.coverage(rows) == pytest.approx(np.mean(ranks < rows), abs=0.05)


def test_shuffled_samples_do_not_drift(predicted):
    assert [table.name for table in predicted[0] if table.drift.flagged] == []


def test_samples_of_another_order_of_columns_drift():
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    with gzip.open(path, "rt") as file:
        rows = [line.rstrip("\n").split("\t")[14:] for line in file]
    ids = np.array([[int(text or "0", 16) for text in row] for row in rows]).T
    ids[2, ANALYSED:], ids[3, ANALYSED:] = ids[3, ANALYSED:].copy(), ids[2, ANALYSED:].copy()
    from tests.unit.analyze_support import log_of, model

    sizes = KAGGLE_ROWS[:5]
    columns = ids[:5] % np.array(sizes)[:, None]
    stats = analyze(log_of(*columns), model(*sizes))
    assert [table.name for table in stats if table.drift.flagged] == ["t2", "t3"]
