"""An embedding table in tensor-train form as a PyTorch module."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from screc.tt.decompose import FloatTt
from screc_hw.tt.shape import TtShape

Mode = Literal["sum", "mean"]

TAIL = 2.0
"""TT-Rec's sampled Gaussian keeps draws of at least this magnitude."""


def core_tensor(table: int, core: int) -> str:
    """Name of the tensor of a TT core in a weight file."""
    return f"emb_l.{table}.tt_cores.{core}"


class TTEmbeddingBag(nn.Module):
    """Bags of rows that three TT cores make up; takes what :class:`torch.nn.EmbeddingBag` takes.

    Row numbers are split as :class:`~screc_hw.tt.shape.TtShape` says, the last digit fastest, so a
    table whose rows are numbered by frequency has its hot rows under few prefixes. With ``reuse``
    each different row of a batch is made once, and each different prefix multiplied once; gradients
    then add up per row and per prefix before they go on to the cores. Values and gradients are
    the same without it.

    Parameters
    ----------
    shape
        Rows, dimension, factors and ranks.
    mode
        ``sum`` or ``mean`` over a bag; an empty bag is 0.
    reuse
        Whether to share first products.
    include_last_offset
        Whether offsets end with the count of lookups, as those of
        :class:`~screc_sim.samples.Bags` do.
    order
        int64 ``(rows,)``: row number of every id, a permutation; absent: ids are row numbers.
    std
        Standard deviation of a row's components at the start; absent: 1/sqrt(3 rows), that of
        facebookresearch/dlrm's uniform start and TT-Rec's.
    generator
        Source of randomness; absent: PyTorch's global one.

    Raises
    ------
    ValueError
        If ``mode`` is unknown, or ``order`` is no permutation of the rows.

    References
    ----------
    Yin, Acun, Liu, Wu: TT-Rec, MLSys 2021 (sampled Gaussian); Wang et al.: EL-Rec, SC 2022 (reuse).
    """

    order: Tensor | None

    def __init__(
        self,
        shape: TtShape,
        *,
        mode: Mode = "sum",
        reuse: bool = True,
        include_last_offset: bool = False,
        order: Tensor | None = None,
        std: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode must be sum or mean, not {mode!r}")
        if order is not None and not (
            order.dtype == torch.int64
            and torch.equal(order.sort().values, torch.arange(shape.rows, device=order.device))
        ):
            raise ValueError(f"order must be a permutation of 0..{shape.rows - 1}, int64")
        self.shape = shape
        self.mode = mode
        self.reuse = reuse
        self.include_last_offset = include_last_offset
        self.register_buffer("order", order)
        std = 1 / math.sqrt(3 * shape.rows) if std is None else std
        # a component is a sum of r1 * r2 products of three independent numbers
        of_core = (std / math.sqrt(math.prod(shape.ranks))) ** (1 / 3)
        self.cores = nn.ParameterList(
            nn.Parameter(sampled_gaussian(size, generator) * of_core) for size in shape.core_shapes
        )

    @classmethod
    def from_float(
        cls,
        tt: FloatTt,
        *,
        mode: Mode = "sum",
        reuse: bool = True,
        include_last_offset: bool = False,
        order: Tensor | None = None,
    ) -> TTEmbeddingBag:
        """Make a module that starts from given TT cores, to fine-tune them.

        Raises
        ------
        ValueError
            As for the constructor.
        """
        module = cls(
            tt.shape,
            mode=mode,
            reuse=reuse,
            include_last_offset=include_last_offset,
            order=order,
            std=0.0,
        )
        with torch.no_grad():
            for parameter, core in zip(module.cores, tt.cores, strict=True):
                parameter.copy_(torch.from_numpy(core))
        return module

    def rows(self, ids: Tensor) -> Tensor:
        """Make the rows of ids, ``(len(ids), dim)``.

        Raises
        ------
        IndexError
            If an id is not in ``[0, rows)``.
        """
        if ids.numel():
            low, high = (int(bound) for bound in torch.aminmax(ids))
            if low < 0 or high >= self.shape.rows:
                wrong = low if low < 0 else high
                raise IndexError(f"ids must lie in [0, {self.shape.rows}), not {wrong}")
        numbers = ids if self.order is None else self.order[ids]
        if not self.reuse:
            return self._rows(numbers)
        different, back = torch.unique(numbers, return_inverse=True)
        return self._rows(different).index_select(0, back)

    def _rows(self, numbers: Tensor) -> Tensor:
        p3, dim = self.shape.p[2], self.shape.dim
        prefixes = torch.div(numbers, p3, rounding_mode="floor")
        if self.reuse:
            different, back = torch.unique(prefixes, return_inverse=True)
            products = self.first_products(different).index_select(0, back)
        else:
            products = self.first_products(prefixes)
        last = self.cores[2].index_select(0, numbers % p3)
        return torch.bmm(products, last).reshape(-1, dim)

    def first_products(self, prefixes: Tensor) -> Tensor:
        """First products of prefixes i1 · p2 + i2, ``(len(prefixes), q1·q2, r2)``."""
        (_, p2, _), (q1, q2, _), (_, r2) = self.shape.p, self.shape.q, self.shape.ranks
        first = self.cores[0].index_select(0, torch.div(prefixes, p2, rounding_mode="floor"))
        middle = self.cores[1].index_select(0, prefixes % p2)
        return torch.bmm(first, middle.flatten(2)).reshape(-1, q1 * q2, r2)

    def forward(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Pool rows to bags, ``(bags, dim)``.

        Parameters
        ----------
        input
            int64 ids: ``(lookups,)`` with ``offsets``, or ``(bags, length)`` without.
        offsets
            int64: where each bag begins.

        Raises
        ------
        ValueError
            If ids are of two dimensions and offsets are given, or of one and there are none, or the
            first offset is not 0, or offsets fall or pass the end.
        IndexError
            If an id is not in ``[0, rows)``.
        """
        ids, lengths = self._bags(input, offsets)
        return pool_rows(self.rows(ids), lengths, self.mode)

    def _bags(self, input: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids in one row, and the length of every bag."""
        if input.dim() == 2 and offsets is None:
            bags, length = input.shape
            return input.reshape(-1), torch.full((bags,), length, device=input.device)
        if input.dim() != 1 or offsets is None or offsets.dim() != 1:
            sizes = (tuple(input.shape), None if offsets is None else tuple(offsets.shape))
            raise ValueError(
                "ids must be (bags, length), or (lookups,) with offsets (bags,), "
                f"not {sizes[0]} with offsets {sizes[1]}"
            )
        if not self.include_last_offset:
            offsets = torch.cat([offsets, offsets.new_tensor([input.numel()])])
        lengths = offsets.diff()
        if offsets[0] != 0 or offsets[-1] != input.numel() or (lengths < 0).any():
            raise ValueError(
                f"offsets must rise from 0 and stay within {input.numel()} lookups"
                + (", the last one equal to it" if self.include_last_offset else "")
            )
        return input, lengths

    def float_tt(self) -> FloatTt:
        """Copy the TT cores out."""
        one, two, three = (core.detach().cpu().numpy().astype(np.float32) for core in self.cores)
        return FloatTt(self.shape, (one, two, three))

    def tensors(self, table: int) -> dict[str, NDArray[np.float32]]:
        """Return the TT cores under the names that they have in a weight file."""
        return {core_tensor(table, i): core for i, core in enumerate(self.float_tt().cores)}

    def extra_repr(self) -> str:
        """Sizes, for :func:`repr`."""
        s = self.shape
        return f"{s.rows}, {s.dim}, p={s.p}, q={s.q}, ranks={s.ranks}, mode={self.mode!r}"


def pool_rows(rows: Tensor, lengths: Tensor, mode: str) -> Tensor:
    """Pool rows, bag after bag of the given lengths, to ``(bags, dim)``; an empty bag is 0."""
    bag = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
    sums = rows.new_zeros(len(lengths), rows.shape[1]).index_add(0, bag, rows)
    return sums / lengths.clamp(min=1)[:, None] if mode == "mean" else sums


def sampled_gaussian(size: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw TT-Rec's start of a core: a Gaussian without its middle, scaled to unit variance.

    Products of three such numbers are less often close to 0 than those of plain Gaussians.
    """
    draws = torch.empty(size)
    flat = draws.view(-1)
    left = torch.arange(flat.numel())
    while len(left):
        flat[left] = torch.randn(len(left), generator=generator)
        left = left[flat[left].abs() < TAIL]
    density = math.exp(-TAIL * TAIL / 2) / math.sqrt(2 * math.pi)
    above = math.erfc(TAIL / math.sqrt(2)) / 2
    return draws / math.sqrt(1 + TAIL * density / above)
