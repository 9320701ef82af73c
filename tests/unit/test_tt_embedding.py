"""TT embedding bags in PyTorch against dense ones of the table that they make up."""

import itertools
import math

import numpy as np
import pytest

from screc.tt.decompose import FloatTt, decompose
from screc_hw.tt.shape import TtShape
from tests.conftest import NO_TORCH

torch = pytest.importorskip("torch", reason=NO_TORCH)

from screc.train.tt_embedding import TTEmbeddingBag, sampled_gaussian  # noqa: E402

pytestmark = pytest.mark.train

SHAPES = [
    TtShape(rows=97, p=(4, 5, 6), q=(2, 2, 4), ranks=(3, 5)),
    TtShape(rows=60, p=(3, 4, 5), q=(4, 4, 4), ranks=(4, 2)),
    TtShape(rows=8, p=(1, 2, 4), q=(1, 1, 4), ranks=(1, 1)),
    TtShape(rows=1, p=(1, 1, 1), q=(2, 3, 8), ranks=(2, 3)),
]
IDS = [f"{s.rows}x{s.dim}" for s in SHAPES]


def made(shape, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return TTEmbeddingBag(shape, std=1.0, generator=generator, **options).double()


def table_of(module):
    """The table, number by number, as the definition of a TT table has it."""
    one, two, three = (core.detach().numpy() for core in module.cores)
    _, p2, p3 = module.shape.p
    rows = []
    for row in range(module.shape.rows):
        i1, i2, i3 = row // (p2 * p3), row // p3 % p2, row % p3
        value = np.einsum("as,sbt,tc->abc", one[i1], two[i2], three[i3])
        rows.append(value.ravel())
    return np.array(rows)


def drawn_bags(shape, seed):
    """Ids with many repeats, and bags of which some are empty, the first and last too."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[0], rng.integers(0, 5, 12), [0]])
    ids = rng.integers(0, shape.rows, lengths.sum())
    ids[-1:] = shape.rows - 1
    return torch.from_numpy(ids), torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_values_and_gradients_are_those_of_a_dense_table(shape, mode, reuse, last):
    module = made(shape, mode=mode, reuse=reuse, include_last_offset=last)
    dense = torch.nn.EmbeddingBag.from_pretrained(
        torch.from_numpy(table_of(module)), freeze=False, mode=mode, include_last_offset=last
    )
    ids, offsets = drawn_bags(shape, 1)
    offsets = offsets if last else offsets[:-1]
    ours, theirs = module(ids, offsets), dense(ids, offsets)
    assert ours.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-12)

    # the gradient of the table, followed through the definition of its rows
    weight = torch.from_numpy(np.random.default_rng(2).normal(size=tuple(ours.shape)))
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    of_table = dense.weight.grad.numpy().reshape(shape.rows, *shape.q)
    one, two, three = (core.detach().numpy() for core in module.cores)
    expected = [np.zeros(core.shape) for core in module.cores]
    for row in range(shape.rows):
        i1, i2, i3 = np.unravel_index(row, shape.p)
        g = of_table[row]
        expected[0][i1] += np.einsum("abc,sbt,tc->as", g, two[i2], three[i3])
        expected[1][i2] += np.einsum("abc,as,tc->sbt", g, one[i1], three[i3])
        expected[2][i3] += np.einsum("abc,as,sbt->tc", g, one[i1], two[i2])
    for core, value in zip(module.cores, expected, strict=True):
        assert core.grad.numpy() == pytest.approx(value, abs=1e-10)


def test_gradients_pass_a_numeric_check():
    module = made(SHAPES[0])
    ids, offsets = drawn_bags(SHAPES[0], 3)

    def pooled(*cores):
        parameters = {f"cores.{i}": core for i, core in enumerate(cores)}
        return torch.func.functional_call(module, parameters, (ids, offsets[:-1]))

    cores = [core.detach().clone().requires_grad_() for core in module.cores]
    assert torch.autograd.gradcheck(pooled, cores)


def test_two_dimensional_ids_are_bags_of_one_length():
    module = made(SHAPES[0], mode="mean")
    ids = torch.tensor([[0, 96, 3], [5, 5, 5]])
    expected = table_of(module)[ids.numpy()].mean(axis=1)
    assert module(ids).detach().numpy() == pytest.approx(expected, abs=1e-12)
    assert module(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 16)


def test_no_lookups_make_empty_bags():
    module = made(SHAPES[0])
    bags = module(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    assert bags.tolist() == [[0.0] * 16] * 4


def test_reuse_multiplies_each_prefix_once(monkeypatch):
    shape = SHAPES[0]
    ids = torch.tensor([0, 1, 5, 6, 6, 96, 0])  # p3 = 6: prefixes 0, 0, 0, 1, 1, 16, 0
    asked = []
    first_products = TTEmbeddingBag.first_products

    def counted(self, prefixes):
        asked.append(prefixes.tolist())
        return first_products(self, prefixes)

    monkeypatch.setattr(TTEmbeddingBag, "first_products", counted)
    made(shape).rows(ids)
    made(shape, reuse=False).rows(ids)
    assert asked == [[0, 1, 16], [0, 0, 0, 1, 1, 16, 0]]


def test_order_renumbers_ids():
    shape = SHAPES[0]
    order = torch.from_numpy(np.random.default_rng(4).permutation(shape.rows))
    plain, ordered = made(shape), made(shape, order=order)
    ids = torch.arange(shape.rows)
    assert torch.equal(ordered.rows(ids), plain.rows(order))
    assert "order" in ordered.state_dict()


def test_fine_tuning_starts_from_a_decomposition(tmp_path):
    rng = np.random.default_rng(5)
    shape = TtShape(rows=119, p=(4, 5, 6), q=(2, 2, 4), ranks=(8, 16))
    table = rng.normal(size=(119, 16)).astype(np.float32)
    tt = decompose(table, shape)
    module = TTEmbeddingBag.from_float(tt, mode="mean")
    ids = np.arange(119)
    assert module.rows(torch.from_numpy(ids)).detach().numpy() == pytest.approx(
        tt.rows(ids), abs=1e-5
    )
    wanted = torch.from_numpy(table)
    before = (module.rows(torch.from_numpy(ids)) - wanted).square().mean().item()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        (module.rows(torch.from_numpy(ids)) - wanted).square().mean().backward()
        optimiser.step()
    after = (module.rows(torch.from_numpy(ids)) - wanted).square().mean().item()
    assert after < before
    exported = module.float_tt()
    assert isinstance(exported, FloatTt)
    assert exported.rows(ids) == pytest.approx(
        module.rows(torch.from_numpy(ids)).detach().numpy(), abs=1e-5
    )
    names = list(module.tensors(3))
    assert names == [f"emb_l.3.tt_cores.{i}" for i in range(3)]
    assert [core.shape for core in module.tensors(3).values()] == list(exported.shape.core_shapes)
    assert not np.shares_memory(module.tensors(3)[names[0]], module.cores[0].detach().numpy())


def test_start_has_the_spread_asked_for():
    draws = sampled_gaussian((200, 500), torch.Generator().manual_seed(0)).numpy()
    assert draws.std() == pytest.approx(1, rel=0.01)
    assert abs(draws.mean()) < 0.01
    # nothing within 2 of 0, in units of the Gaussian that was drawn from
    assert np.abs(draws).min() / np.abs(draws).max() > 0.3
    shape = TtShape(rows=9000, p=(20, 20, 25), q=(2, 2, 4), ranks=(8, 8))
    for std in (None, 0.1):
        generator = torch.Generator().manual_seed(1)
        module = TTEmbeddingBag(shape, std=std, generator=generator)
        rows = module.rows(torch.arange(9000)).detach().numpy()
        assert rows.std() == pytest.approx(std or 1 / math.sqrt(3 * 9000), rel=0.15)
    again = TTEmbeddingBag(shape, std=0.1, generator=torch.Generator().manual_seed(1))
    pairs = zip(again.cores, module.cores, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("ids", "offsets", "error", "message"),
    [
        ([[0, 1]], [0], ValueError, r"ids must be \(bags, length\), or \(lookups,\) with offsets"),
        ([0, 1], None, ValueError, r"not \(2,\) with offsets None"),
        ([0, 1], [1, 2], ValueError, "offsets must rise from 0 and stay within 2 lookups"),
        ([0, 1], [0, 2, 1], ValueError, "offsets must rise from 0"),
        ([0, 1], [0, 3], ValueError, "stay within 2 lookups"),
        ([0, 97], [0], IndexError, r"ids must lie in \[0, 97\), not 97"),
        ([-1, 96], [0], IndexError, r"ids must lie in \[0, 97\), not -1"),
    ],
)
def test_bad_bags_are_refused(ids, offsets, error, message):
    offsets = None if offsets is None else torch.tensor(offsets)
    with pytest.raises(error, match=message):
        made(SHAPES[0])(torch.tensor(ids), offsets)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="mode must be sum or mean, not 'max'"):
        TTEmbeddingBag(SHAPES[0], mode="max")
    for order in (torch.zeros(97, dtype=torch.int64), torch.arange(96), torch.arange(97.0)):
        with pytest.raises(ValueError, match=r"order must be a permutation of 0\.\.96, int64"):
            TTEmbeddingBag(SHAPES[0], order=order)
    offsets = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the last one equal to it"):
        made(SHAPES[0], include_last_offset=True)(torch.tensor([0, 1]), offsets)


def test_every_digit_of_a_row_number_counts():
    shape = TtShape(rows=24, p=(2, 3, 4), q=(1, 1, 4), ranks=(2, 2))
    rows = made(shape).rows(torch.arange(24)).detach().numpy()
    for a, b in itertools.combinations(rows, 2):
        assert not np.allclose(a, b)
