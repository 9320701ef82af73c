"""Planning problems of a configuration: two small tables, one device, cores given."""

import numpy as np

from screc.config import load_config, model_shape
from screc.plan.step import make_problem
from screc.stats import FeatureStats, TableStats

MODEL = """
name = "tiny"
dense = 4
bottom = [8, 16]
top = [8, 1]
[[table]]
name = "a"
rows = 1000
dim = 16
[[table]]
name = "b"
rows = 50
dim = 16
"""

CONFIG = """
[model]
file = "model.toml"
[[device]]
kind = "smartssd"
[plan]
batch = 16
[plan.cores]
memory = 1
compute = 1
rows = 8
columns = 8
"""


def stats_of(shape, *, holdout=True):
    """Half of each table's rows are hot, 10 samples in each part."""
    found = []
    for table in shape.tables:
        hot = table.rows // 2
        counts = np.arange(hot, 0, -1)
        found.append(
            TableStats(
                name=table.name,
                rows=table.rows,
                dim=table.dim,
                features=(FeatureStats(name=table.name, pooling=3.0, longest=9, coverage=0.9),),
                profile_samples=10,
                holdout_samples=10,
                hot_ids=np.arange(hot),
                hot_counts=counts,
                holdout_counts=counts if holdout else np.zeros_like(counts),
                unseen_lookups=5 if holdout else 0,
            )
        )
    return found


def configured(folder, *overrides, holdout=True):
    """Problem of :data:`CONFIG` with these overrides, for the statistics of :func:`stats_of`."""
    (folder / "config.toml").write_text(CONFIG)
    (folder / "model.toml").write_text(MODEL)
    config = load_config(folder / "config.toml", overrides)
    return make_problem(config, stats_of(model_shape(config), holdout=holdout), folder)
