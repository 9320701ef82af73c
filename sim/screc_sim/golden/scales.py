"""How far apart the codes of a tensor are: the choice of one scale from observed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Clip = Literal["auto", "minmax", "percentile", "mse"]
"""``minmax``: nothing observed is clipped. ``percentile``: all but 0.01 % are inside.
``mse``: the clip of least squared error, rounding and clipping together. ``auto``: the one of
:data:`CANDIDATES` that moves the model's logits least, chosen tensor by tensor."""

CLIPS: tuple[str, ...] = get_args(Clip)

PERCENTILE = 99.99

CANDIDATES = ("mse", "minmax", "percentile", "percentile 99.9")
"""Rules that ``auto`` tries, in the order that settles a tie."""

_PERCENTILES = {"percentile": PERCENTILE, "percentile 99.9": 99.9}

_BINS = 1 << 15
_CLIPS_TRIED = np.geomspace(0.05, 1.0, 96)


def choose_scale(
    values: Sequence[NDArray[np.floating]],
    limit: int,
    rule: str = "mse",
    importance: Sequence[NDArray[np.floating]] | None = None,
) -> float:
    """Choose the real value of one code for tensors that share a scale.

    Parameters
    ----------
    values
        Observations, each ``(n, channels)``.
    limit
        Largest code, symmetric.
    rule
        One of :data:`CANDIDATES`.
    importance
        Per tensor, weight of a channel's squared error, ``(channels,)``; equal where None. Only
        ``mse`` uses it.

    Returns
    -------
    float
        A positive scale; 1 where nothing but zeros was observed.

    Raises
    ------
    ValueError
        If ``rule`` is unknown.
    """
    if rule not in CANDIDATES:
        raise ValueError(f"rule must be one of {', '.join(CANDIDATES)}, not {rule!r}")
    peak = max((float(np.abs(v).max()) for v in values if v.size), default=0.0)
    if peak == 0:
        return 1.0
    if rule in _PERCENTILES:
        magnitudes = np.abs(np.concatenate([v.ravel() for v in values]))
        return float(np.percentile(magnitudes, _PERCENTILES[rule]) or peak) / limit
    if rule == "minmax":
        return peak / limit
    mass = np.zeros(_BINS)
    for i, v in enumerate(values):
        weight = None if importance is None else np.broadcast_to(importance[i], v.shape).ravel()
        mass += np.histogram(np.abs(v).ravel(), _BINS, (0.0, peak), weights=weight)[0]
    mass[0] = 0.0  # zeros, above all: they are exact at every scale
    centres = (np.arange(_BINS) + 0.5) * (peak / _BINS)
    steps = peak * _CLIPS_TRIED / limit
    errors = []
    for step in steps:
        off = centres - np.minimum(np.round(centres / step), limit) * step
        errors.append(float(np.sum(mass * off * off)))  # a BLAS dot would wake threads for little
    return float(steps[int(np.argmin(errors))])
