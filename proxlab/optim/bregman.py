"""Bregman iterations: where the dual variable starts, and sparse starts.

The dual variable ``v`` is a subgradient of ``J_δ = ψ + ‖·‖²/2δ`` at the weights, which are read off it:
``w = prox_{δψ}(δ v)`` (docs: the mathematics, §8). When the strength of ψ changes, ``v`` stays and the
weights follow; were ``v`` moved so that the weights stay, no strength could make a group vanish.
"""

from __future__ import annotations

import math

import array_api_compat
import numpy as np

from proxlab.arguments import check_array
from proxlab.groups import Groups
from proxlab.namespaces import namespace
from proxlab.penalties import Penalty
from proxlab.types import Array
from proxlab.untraced import untraced
from proxlab.values import check_number

__all__ = ["dual_start", "sparse_start", "subgradient"]


def subgradient(penalty: Penalty, z: Array) -> Array:
    """Return a subgradient of a convex penalty at ``z``, in float64; 0 at groups that are zero."""
    layout, xp = penalty.groups.layout(tuple(z.shape)), namespace(z)
    z = xp.astype(z, xp.float64)
    weights = layout.split_groups(penalty._weights_like(layout, z))
    rows = zip(layout.split(z, 0.0), weights, strict=True)
    parts = [penalty._row_subgradient(xp, r, w) if r.shape[1] else r for r, w in rows]
    return layout.join(parts, xp.zeros_like(z))


def dual_start(penalty: Penalty | None, w: Array, delta: float) -> Array:
    """Return a dual variable ``v = w/δ + s``, ``s ∈ ∂ψ(w)``, whose prox ``prox_{δψ}(δ v)`` is ``w``."""
    if penalty is None or 0 in w.shape:
        return w / delta
    xp = namespace(w)
    return xp.astype(xp.astype(w, xp.float64) / delta + subgradient(penalty, w), w.dtype)


@untraced
def sparse_start(
    w: Array,
    density: float,
    *,
    groups: Groups | None = None,
    rng: np.random.Generator | int | None = None,
) -> Array:
    """Set all but a few random groups of initial weights to zero, and scale those to keep the variance.

    Bregman iterations are made to start sparse and let groups enter (Bungert et al. 2022). The groups that
    stay are divided by the square root of the share of elements that they are, so that the mean square of
    all weights, and with it the size of what a layer computes, stays what it was.

    Parameters
    ----------
    w : array
        Initial weights, dense.
    density : float
        The share of groups that stay, between 0 and 1; at least one does.
    groups : Groups, optional
        The groups; rows by default. Elements in no group stay as they are.
    rng : numpy.random.Generator or int, optional
        Which groups, by chance.

    Returns
    -------
    array
        Of the kind, shape and dtype of ``w``.

    References
    ----------
    Bungert, Roith, Tenbrinck & Burger (2022), "A Bregman learning framework for sparse neural networks",
    JMLR 23.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> pl.optim.sparse_start(np.ones((8, 2)), 0.25, rng=0).any(axis=1).sum()
    np.int64(2)
    """
    xp = check_array("w", w)
    density = check_number("density", density, 0.0, strict=True)
    if density > 1.0:
        raise ValueError(f"density: must be <= 1, got {density!r}")
    if groups is not None and not isinstance(groups, Groups):
        raise TypeError(f"groups: must be a proxlab.Groups or None, got {groups!r}")
    shape = tuple(w.shape)
    indptr, indices = (Groups.over(-1) if groups is None else groups).indices(shape)
    n_groups = len(indptr) - 1
    kept = np.zeros(n_groups, dtype=bool)
    count = min(n_groups, max(1, round(density * n_groups)))
    kept[np.random.default_rng(rng).choice(n_groups, count, replace=False)] = True
    stays = np.repeat(kept, np.diff(indptr))
    factor = np.ones(math.prod(shape))
    factor[indices] = stays * math.sqrt(len(stays) / max(1, stays.sum()))
    return w * xp.asarray(factor.reshape(shape), dtype=w.dtype, device=array_api_compat.device(w))
