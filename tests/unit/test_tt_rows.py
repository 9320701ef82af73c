import numpy as np
import pytest

from screc.tt import rows as tt_rows
from screc.tt.decompose import FloatTt
from screc.tt.rows import TtRows
from screc_hw.tt.shape import TtShape


def drawn(rows, p, q, ranks):
    shape = TtShape(rows=rows, p=p, q=q, ranks=ranks)
    rng = np.random.default_rng(0)
    one, two, three = (rng.normal(size=s).astype(np.float32) for s in shape.core_shapes)
    return TtRows(FloatTt(shape, (one, two, three)))


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_peak_bounds_every_row(monkeypatch, at_once):
    monkeypatch.setattr(tt_rows, "NUMBERS_AT_ONCE", at_once)
    source = drawn(60, (3, 4, 5), (2, 2, 4), (3, 2))
    values = source.fetch(np.arange(60))
    assert (source.rows, source.dim) == values.shape == (60, 16)
    assert source.peak() == pytest.approx(np.abs(values).max(), rel=1e-6)


def test_peak_leaves_out_prefixes_without_rows():
    source = drawn(7, (3, 4, 5), (1, 1, 4), (2, 2))
    whole = drawn(60, (3, 4, 5), (1, 1, 4), (2, 2)).fetch(np.arange(60))
    assert source.fetch(np.arange(7)) == pytest.approx(whole[:7])
    assert source.peak() == pytest.approx(np.abs(whole[:10]).max(), rel=1e-6)
    assert np.abs(whole).max() > source.peak()
