"""The dual variable of Bregman iterations: where it starts, and where it goes when the strength changes."""

from __future__ import annotations

import array_api_compat

from proxlab.groups import Array
from proxlab.penalties import GroupLinf, Penalty, RadialPenalty
from proxlab.penalties.base import radial_slopes, row_norm

__all__ = ["reanchored", "start", "subgradient"]


def subgradient(penalty: Penalty, z: Array) -> Array:
    """Return a subgradient of a convex penalty at ``z``, in float64; 0 at groups that are zero."""
    layout, xp = penalty.groups.layout(tuple(z.shape)), array_api_compat.array_namespace(z)
    z = xp.astype(z, xp.float64)
    weights = layout.split_groups(penalty._weights_like(layout, z))
    parts = []
    for rows, w in zip(layout.split(z, 0.0), weights, strict=True):
        if isinstance(penalty, GroupLinf):
            size = xp.abs(rows)
            face = xp.astype((size == xp.max(size, axis=1, keepdims=True)) & (size > 0), xp.float64)
            share = face / xp.clip(xp.sum(face, axis=1, keepdims=True), min=1.0)
            parts.append((penalty.lam * w)[:, None] * share * xp.sign(rows))
        else:
            assert isinstance(penalty, RadialPenalty)
            r = row_norm(xp, rows)
            slope, _ = radial_slopes(xp, penalty.pieces, r)
            unit = rows / xp.where(r > 0, r, xp.ones_like(r))[:, None]
            parts.append((w * slope)[:, None] * unit + penalty.threshold * xp.sign(rows))
    return layout.join(parts, xp.zeros_like(z))


def start(penalty: Penalty | None, w: Array, delta: float) -> Array:
    """Return a dual variable ``v = w/δ + s``, ``s ∈ ∂ψ(w)``, whose prox ``prox_{δψ}(δ v)`` is ``w``."""
    if penalty is None or 0 in w.shape:
        return w / delta
    xp = array_api_compat.array_namespace(w)
    return xp.astype(xp.astype(w, xp.float64) / delta + subgradient(penalty, w), w.dtype)


def reanchored(v: Array, w: Array, delta: float, ratio: float) -> Array:
    """Return the dual variable for a strength that is ``ratio`` times what it was; ``w`` stays its prox."""
    return w / delta + ratio * (v - w / delta)
