"""Tables with a range of rows in TT form: exact and rebuilt rows in one bag."""

import dataclasses

import numpy as np
import pytest

from screc.remap import TableRemap
from screc_hw.numerics import SHIFT_MAX, mean_reciprocal, requantise
from screc_sim.golden import model as golden
from screc_sim.golden.quant import QuantModel, QuantTable, TtRange
from screc_sim.samples import Bags, SampleBatch
from tests.golden.support import SHAPES, ArrayTable, random_batch, random_model, small_shape
from tests.support.tt import random_tt, tt_part, with_random_tt

FRACTION = 3


def orders_of(shape, seed=5):
    rng = np.random.default_rng(seed)
    return [
        TableRemap.build(table.rows, rng.permutation(table.rows)[: table.rows // 2])
        for table in shape.tables
    ]


def tt_model(shape, parts, *, seed=3, fraction=FRACTION):
    """A random model and the same with ``parts`` ((first, last) by table) in TT form."""
    rng = np.random.default_rng(seed)
    plain = random_model(shape, rng)
    orders = orders_of(shape)
    parts = {i: tt_part(first, last, shape.tables[i].dim) for i, (first, last) in parts.items()}
    return plain, with_random_tt(plain, parts, orders, fraction), orders, rng


SHAPE = small_shape(rows=(70, 40), dims=(8, 8), bottom=(6, 8))


@pytest.mark.parametrize(("first", "last"), [(0, 70), (0, 1), (69, 70), (20, 45)])
@pytest.mark.parametrize("fraction", [0, 3, 8])
def test_bags_add_exact_and_rebuilt_rows(first, last, fraction):
    _, model, orders, rng = tt_model(SHAPE, {0: (first, last)}, fraction=fraction)
    batch = random_batch(SHAPE, rng, 30)
    stages = golden.stages(model, batch)
    table = model.tables[0]
    rebuilt = 0
    for f, (feature, bags) in enumerate(zip(SHAPE.features, batch.bags, strict=True)):
        if feature.table != 0:
            continue
        for sample in range(len(batch)):
            ids = bags.ids[bags.offsets[sample] : bags.offsets[sample + 1]]
            sums = [0] * 8
            for row in ids.tolist():
                (rank,) = orders[0].ranks(np.array([row])).tolist()
                if first <= rank < last:
                    rebuilt += 1
                    values = table.tt.rows.rows(np.array([rank - first]))[0].tolist()
                else:
                    codes = table.codes(np.array([row]))[0].tolist()
                    values = [code * 2**fraction for code in codes]
                sums = [a + b for a, b in zip(sums, values, strict=True)]
            if feature.mode == "mean" and len(ids):
                r, shift = mean_reciprocal(len(ids))
                sums = [(acc * r + 2 ** (shift - 1)) >> shift for acc in sums]
            expected = [requantise(a, int(model.bag_m[f]), int(model.bag_s[f])) for a in sums]
            assert stages[f"bag{f}"][sample].tolist() == expected
    assert rebuilt or last - first == 1


def test_sums_of_tables_without_tt_keep_their_bits():
    plain, model, _, rng = tt_model(SHAPE, {0: (10, 30)})
    batch = random_batch(SHAPE, rng, 50)
    only = dataclasses.replace(
        SHAPE, features=tuple(dataclasses.replace(f, mode="sum", table=1) for f in SHAPE.features)
    )
    bags = tuple(Bags(b.ids % 40, b.offsets) for b in batch.bags)
    batch = SampleBatch(batch.dense, bags)
    plain, model = (dataclasses.replace(m, shape=only) for m in (plain, model))
    assert model.tables[1].fraction == FRACTION
    assert (golden.run(plain, batch).logit == golden.run(model, batch).logit).all()


def test_row_wise_tables_have_no_fraction():
    shape = SHAPES["row-wise beside plain"]
    plain, model, _, rng = tt_model(shape, {0: (2, 6)})
    assert [t.fraction for t in model.tables] == [FRACTION, 0]
    tables = [f.table for f in shape.features]
    assert (model.bag_s - plain.bag_s).tolist() == [FRACTION if t == 0 else 0 for t in tables]
    assert len(golden.run(model, random_batch(shape, rng, 9)).logit) == 9


def test_a_model_with_tt_is_saved_and_loaded(tmp_path):
    _, model, orders, rng = tt_model(SHAPE, {0: (10, 30), 1: (0, 40)})
    path = tmp_path / "q.npz"
    model.save(path)
    sources = [table.source for table in model.tables]
    loaded = QuantModel.load(path, SHAPE, sources, orders)
    batch = random_batch(SHAPE, rng, 40)
    assert (golden.run(loaded, batch).logit == golden.run(model, batch).logit).all()
    for before, after in zip(model.tables, loaded.tables, strict=True):
        assert before.fraction == after.fraction
        assert (before.tt.first, before.tt.rows.shape) == (after.tt.first, after.tt.rows.shape)
    with pytest.raises(ValueError, match=r"q\.npz: array 'tt0\.numbers' needs the row orders"):
        QuantModel.load(path, SHAPE, sources)


def test_what_does_not_fit_a_table_is_refused():
    table = QuantTable(ArrayTable(np.zeros((50, 8))), "int8", 0.5, FRACTION)
    rows = random_tt(tt_part(0, 20, 8).shape, np.random.default_rng(0), 0.5, FRACTION)
    order = TableRemap.build(50, np.zeros(0, np.int64))

    def changed(first=0, **values):
        tt = TtRange(first, dataclasses.replace(rows, **values), order)
        return dataclasses.replace(table, tt=tt)

    assert changed(30).tt.last == 50
    with pytest.raises(ValueError, match=r"TT ranks must lie in \[0, 50\), not \[31, 51\)"):
        changed(31)
    with pytest.raises(ValueError, match=r"TT rows must have the table's scale 0\.5, not 0\.25"):
        changed(scale=0.25)
    with pytest.raises(ValueError, match="TT rows must have the table's fraction 3, not 4"):
        changed(fraction=4)
    with pytest.raises(ValueError, match="a table of format 'int8r' has no rows in TT form"):
        QuantTable(table.source, "int8r", 2.0**-24, FRACTION)


def test_a_shift_beyond_its_field_is_refused():
    plain = random_model(SHAPE, np.random.default_rng(1))
    high = dataclasses.replace(plain, bag_s=np.full(3, SHIFT_MAX - 2, np.uint8))
    with pytest.raises(ValueError, match=r"feature 'f0': with 3 bits below the codes .* is 48"):
        high.with_tt(FRACTION, {})
    done = plain.with_tt(FRACTION, {})
    with pytest.raises(ValueError, match="has rows in TT form already"):
        done.with_tt(FRACTION, {})
