"""Logs for tests of the analyze step: ids given as arrays, or drawn."""

import numpy as np

from screc.logs.log import Log
from screc.logs.synthetic import scatter, zipf_ranks
from screc.stats import SCHEMA
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_sim.samples import Bags, SampleBatch


class ArrayReader:
    """A log with the bags given, one per feature; handed over ``at_once`` samples at a time."""

    def __init__(self, bags, at_once=1 << 30):
        self.bags = bags
        self.at_once = at_once

    def count(self):
        return len(self.bags[0].offsets) - 1

    def chunks(self, start):
        for first in range(start, self.count(), self.at_once):
            stop = min(first + self.at_once, self.count())
            bags = tuple(bag.slice(first, stop) for bag in self.bags)
            yield SampleBatch(np.zeros((stop - first, 0), np.float32), bags)


def single(ids):
    """Bags of one id each."""
    return Bags(np.asarray(ids, np.int64), np.arange(len(ids) + 1))


def log_of(*columns, profile=0.5, holdout=0.5, at_once=1 << 30):
    """A log of features that have one id per sample."""
    reader = ArrayReader([single(ids) for ids in columns], at_once)
    return Log.create(reader, profile=profile, holdout=holdout, where="test", limit=None)


def model(*rows, dim=16, features=None):
    """A model of tables with these rows; ``features`` says which table each feature reads."""
    tables = range(len(rows)) if features is None else features
    return ModelShape(
        name="m",
        dense=0,
        bottom=(),
        top=(1,),
        interaction="concat",
        tables=tuple(TableShape(name=f"t{i}", rows=n, dim=dim) for i, n in enumerate(rows)),
        features=tuple(FeatureShape(name=f"f{i}", table=t) for i, t in enumerate(tables)),
    )


def zipf_ids(seed, count, rows, exponent, *, scattered=True):
    """Independent ids of Zipf's weights."""
    ranks = zipf_ranks(np.random.default_rng(seed), count, rows, exponent)
    return scatter(ranks, rows) if scattered else ranks


def values(table):
    """Everything that a table's statistics say, for comparing."""
    names = [name for name in SCHEMA if name != "version"]
    found = {name: getattr(table, name) for name in names}
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()}
