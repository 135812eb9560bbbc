"""Chandrupatla's method."""

from __future__ import annotations

from dataclasses import dataclass

from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import fmax, midpoint, sqrt, where
from proxlab.types import Array

__all__ = ["Chandrupatla"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Interpolate inversely through three points where they are monotone enough, else halve.

    ``x1`` is the latest point, ``x2`` the other end, ``x3`` the point that was dropped; memory: ``x1, f1,
    x2, f2``.
    """
    x1, f1 = r, f
    left = r == lo
    x2, f2 = where(left, hi, lo), where(left, f_hi, f_lo)
    kept = x2 == m2
    x3, f3 = where(kept, m0, m2), where(kept, m1, m3)
    one = f1 * 0.0 + 1.0
    d12, d13, d23 = f1 - f2, f1 - f3, f2 - f3
    span = where(x3 == x2, one, x3 - x2)
    xi = (x1 - x2) / span
    phi = d12 / where(d23 == 0, one, -d23)
    usable = (m0 == m0) & (d12 != 0) & (d13 != 0) & (d23 != 0) & (xi >= 0) & (xi <= 1)
    safe = where(usable, xi, 0.5 * one)
    usable = usable & (1.0 - sqrt(1.0 - safe) < phi) & (phi < sqrt(safe))
    p12, p13, p23 = where(usable, d12, one), where(usable, d13, one), where(usable, d23, one)
    alpha = (x3 - x1) / where(x2 == x1, one, x2 - x1)
    t = -(f1 / p12) * (f3 / p23) + alpha * (f1 / p13) * (f2 / p23)
    edge = 2.3e-16 * fmax(x1, x2) / where(x2 == x1, one, where(x2 > x1, x2 - x1, x1 - x2))
    t = where(t < edge, edge, where(t > 1.0 - edge, 1.0 - edge, t))
    return where(usable, x1 + t * (x2 - x1), midpoint(lo, hi)), x1, f1, x2, f2, m4


@dataclass(frozen=True)
class Chandrupatla(RootFinder):
    """Chandrupatla's method (1997): as robust as Brent's, and simpler."""

    propose = staticmethod(propose)
