"""The ℓ1/ℓ∞ norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from proxlab.bounds import rounding
from proxlab.penalties.base import Penalty, VanishingRows, row_max, row_norm
from proxlab.penalties.equations import Clipped
from proxlab.powers import product, times_power
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupLinf"]


@dataclass(frozen=True, eq=False)
class GroupLinf(Penalty):
    """The ℓ1/ℓ∞ norm, ``h(z) = Σ_g λ w_g ‖z_g‖_∞``.

    The prox clips: ``z_i = sign(x_i) min(|x_i|, t)`` where ``Σ_i d_i (|x_i| - t)₊ = ηλw_g``, a convex,
    decreasing, piecewise-linear equation in ``t`` (docs: the mathematics, §7). The *radius* of a group is
    its ``t``.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))

    @property
    def is_convex(self) -> bool:
        """Always true: a norm."""
        return True

    @property
    def equation(self) -> Clipped:
        """The equation of the level at which all elements are clipped."""
        return Clipped(self.lam)

    def _row_value(self, xp: Any, z: Array, weight: Array) -> Array:
        return product(xp, weight, self.lam, row_max(xp, xp.abs(z)))

    def _row_distance(self, xp: Any, grad: Array, z: Array, weight: Array, e: Array) -> Array:
        # ∂‖z‖_∞ at z ≠ 0: convex weights on the elements of largest magnitude, with their signs; at 0 the ℓ1
        # ball. Either way -grad is projected onto {v ≥ 0 on the face, Σ v = strength} (or ≤ at zero).
        strength = product(xp, weight, self.lam, e=e)
        size = xp.abs(z)
        top = row_max(xp, size)[:, None]
        zero = (top == 0)[:, 0]
        face = size == top
        wanted = xp.where(top == 0, xp.abs(grad), -grad * xp.sign(z))
        excess = simplex_threshold(xp, xp.where(face, wanted, xp.full_like(wanted, -math.inf)), strength)
        excess = xp.where(zero & (excess < 0), xp.zeros_like(excess), excess)
        used = wanted - excess[:, None]
        used = xp.where(face & (used > 0), used, xp.zeros_like(used))
        residual = xp.where(face, wanted - used, grad)
        return row_norm(xp, residual)

    def _row_subgradient(self, xp: Any, z: Array, weight: Array) -> Array:
        size = xp.abs(z)
        face = xp.astype((size == row_max(xp, size)[:, None]) & (size > 0), xp.float64)
        share = face / xp.clip(xp.sum(face, axis=1, keepdims=True), min=1.0)
        return (self.lam * weight)[:, None] * share * xp.sign(z)

    @property
    def _has_conjugate(self) -> bool:
        return True

    def _row_conjugate(self, xp: Any, s: Array, weight: Array) -> Array:
        n = s.shape[1]
        excess = xp.sum(xp.abs(s), axis=1) * (1.0 + rounding(n + 8)) - weight * self.lam * (1.0 - rounding(4))
        return xp.where(excess > 0, xp.full_like(excess, math.inf), xp.zeros_like(excess))

    def _row_vanishing(self, xp: Any, group: VanishingRows) -> Array:
        strength = times_power(xp, xp.sum(group.b, axis=1) / group.price, group.power)
        return xp.where(group.weight > 0, strength, xp.full_like(strength, math.inf))


def simplex_threshold(xp: Any, rows: Array, total: Array) -> Array:
    """Return ``θ`` with ``Σ (v - θ)₊ = total`` per row (Held, Wolfe & Crowder 1974); -inf takes no part."""
    if rows.shape[1] == 0:
        return -total
    ordered = -xp.sort(-rows, axis=1)
    finite = xp.where(xp.isfinite(ordered), ordered, xp.zeros_like(ordered))
    count = xp.cumulative_sum(xp.ones_like(ordered), axis=1)
    theta = (xp.cumulative_sum(finite, axis=1) - total[:, None]) / count
    active = xp.isfinite(ordered) & (ordered > theta)
    last = xp.sum(xp.astype(active, xp.int64), axis=1)
    last = xp.where(last > 0, last, xp.ones_like(last))
    return xp.sum(
        xp.where(count == xp.astype(last, count.dtype)[:, None], theta, xp.zeros_like(theta)), axis=1
    )
