"""Rows packed by PyTorch: kept to the bit, and pooled as its operators pool them.

The vectors are of real operators; scripts/torch_vectors.py wrote them.
"""

from pathlib import Path

import numpy as np
import pytest

from screc.importers.checkpoint import Tensor
from screc.importers.packed import Rounding, converted_rows
from screc.weights import PackedTable
from screc_sim.golden import ops
from screc_sim.golden.quant import QuantTable
from screc_sim.golden.rowwise import ROWWISE_UNIT, quantise_rows, unpack_rows
from screc_sim.samples import Bags

FILE = Path(__file__).with_name("packed_rows.npz")
DIMS = (8, 16, 64, 128)


@pytest.fixture(scope="module")
def vectors():
    with np.load(FILE, allow_pickle=False) as archive:
        return dict(archive)


def bags_of(vectors, dim):
    offsets = np.concatenate([[0], np.cumsum(vectors["lengths"])]).astype(np.int64)
    return Bags(vectors[f"ids_{dim}"].astype(np.int64), offsets)


def imported(stored, format_):
    """Table of packed rows as an import stores them, and the error bound of its rounding."""
    rounding = Rounding()
    tensor = Tensor("emb_l.0.weight", "U8", stored)
    rows = np.concatenate(list(converted_rows(Path("x.pt"), tensor, format_, rounding)))
    kept = "int4r" if format_ == "int4r" else "int8r"
    dim = 2 * (rows.shape[1] - 4) if kept == "int4r" else rows.shape[1] - 4
    table = PackedTable(Path("x.pt"), "emb_l.0.weight", rows, kept, dim)
    return QuantTable(table, kept, ROWWISE_UNIT), rounding.bound


def summation_error(table, bags):
    """What float32 sums of the bags' rows may be off by: half an ulp per operation, and twice that.

    Every lookup costs a multiplication and two additions of at most the sum of magnitudes.
    """
    rows = table.packed(np.arange(table.source.rows))
    scale, bias = (np.abs(part.astype(np.float64))[:, None] for part in (rows.scale, rows.bias))
    reach = rows.codes * scale + bias
    lengths = bags.lengths
    total = [reach[ids].sum(axis=0) for ids in np.split(bags.ids, bags.offsets[1:-1])]
    return 2 * 3 * lengths[:, None] * 2.0**-24 * np.array(total)


def pooled(table, bags):
    return ops.pool(table, bags, "f") * ROWWISE_UNIT


@pytest.mark.parametrize("dim", DIMS)
def test_4_bit_rows_are_kept_and_pooled_as_pytorch_does(vectors, dim):
    stored = vectors[f"nibbles_{dim}"]
    table, bound = imported(stored, "int4r")
    bags = bags_of(vectors, dim)
    assert bound == 0
    assert np.array_equal(table.source._stored, stored)
    error = summation_error(table, bags)
    sums = pooled(table, bags)
    assert sums.shape == (len(vectors["lengths"]), dim)
    assert (np.abs(sums - vectors[f"nibble_sums_{dim}"]) <= error).all()
    assert np.abs(sums).max() > 100  # the bound above is not what makes them agree
    assert error.max() < 0.01 * np.abs(sums).max()
    lengths = np.maximum(bags.lengths, 1)[:, None]
    means = ops.mean(ops.pool(table, bags, "f"), bags.lengths) * ROWWISE_UNIT
    # r_L is rounded to 16 bits, the mean to a unit
    slack = error / lengths + 2.0**-16 * np.abs(sums / lengths) + ROWWISE_UNIT
    assert (np.abs(means - vectors[f"nibble_means_{dim}"]) <= slack).all()


@pytest.mark.parametrize("dim", DIMS)
def test_8_bit_rows_with_fp32_tails_are_rounded_within_the_bound(vectors, dim):
    stored = vectors[f"byte_{dim}"]
    table, bound = imported(stored, "byte")
    bags = bags_of(vectors, dim)
    rows = table.packed(np.arange(len(stored)))
    assert np.array_equal(rows.codes, stored[:, :dim])
    tail = stored[:, dim:].copy().view("<f4").astype(np.float64)
    exact = stored[:, :dim] * tail[:, :1] + tail[:, 1:]
    off = np.abs(rows.values() * ROWWISE_UNIT - exact)
    assert off.max() <= bound
    assert bound < 4 * off.max()  # it is no loose bound
    error = summation_error(table, bags)
    sums = pooled(table, bags)
    assert (np.abs(sums - vectors[f"half_sums_{dim}"]) <= error).all()
    allowed = bound * bags.lengths[:, None] + 2 * error
    assert (np.abs(sums - vectors[f"byte_sums_{dim}"]) <= allowed).all()
    assert (np.abs(sums - vectors[f"byte_sums_{dim}"]) > error).any()  # rounding is to be seen


@pytest.mark.parametrize("dim", DIMS)
def test_own_4_bit_rows_are_pytorchs_but_for_roundings_at_half(vectors, dim):
    ours = quantise_rows(vectors[f"weight_{dim}"], 15)
    theirs = unpack_rows(vectors[f"nibbles_{dim}"], "int4r")
    assert np.array_equal(ours.bias, theirs.bias)
    varied = vectors[f"weight_{dim}"].max(axis=1) > vectors[f"weight_{dim}"].min(axis=1)
    assert np.allclose(ours.scale[varied], theirs.scale[varied], rtol=2**-9, atol=2**-10)
    wide = theirs.scale > 2**-9  # narrower rows are rounded to fp16 coarsely, each in its way
    different = np.abs(ours.codes[wide].astype(int) - theirs.codes[wide])
    assert different.max() <= 1
    assert np.count_nonzero(different) < 0.02 * different.size


def test_vectors_are_small_and_of_pytorch(vectors):
    assert FILE.stat().st_size < 100_000
    assert str(vectors["torch"]).split(".")[0] == "2"


@pytest.mark.parametrize("seed", range(5))
def test_other_rows_are_pooled_as_an_installed_pytorch_does(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    dim, rows = int(8 * rng.integers(1, 20)), int(rng.integers(1, 200))
    weight = torch.from_numpy(rng.normal(0, rng.uniform(0.01, 3), (rows, dim)).astype(np.float32))
    lengths = rng.integers(0, 100, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bags = Bags(rng.integers(0, rows, offsets[-1]), offsets)
    ids, starts = torch.from_numpy(bags.ids), torch.from_numpy(offsets[:-1])
    rest = (False, 0, False, None, None, False)
    quantized = torch.ops.quantized
    stored = quantized.embedding_bag_4bit_prepack(weight)
    table, _ = imported(stored.numpy(), "int4r")
    theirs = quantized.embedding_bag_4bit_rowwise_offsets(stored, ids, starts, *rest).numpy()
    assert (np.abs(pooled(table, bags) - theirs) <= summation_error(table, bags)).all()
    stored = quantized.embedding_bag_byte_prepack(weight)
    table, bound = imported(stored.numpy(), "byte")
    theirs = quantized.embedding_bag_byte_rowwise_offsets(stored, ids, starts, *rest).numpy()
    allowed = bound * lengths[:, None] + 2 * summation_error(table, bags)
    assert (np.abs(pooled(table, bags) - theirs) <= allowed).all()
