"""Interpolate, truncate and project."""

from __future__ import annotations

from dataclasses import dataclass

from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import fabs, fmax, midpoint, where
from proxlab.types import Array

__all__ = ["ITP"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Regula falsi, moved towards the middle, kept within reach of what bisection would have done.

    Memory: the first width, and the radius of the projection plus half the width (it halves each time). While
    the ends differ by more than a factor of four the exponent is halved, and the method starts afterwards.
    """
    width = hi - lo
    wide = (lo > 0) & (hi > 4.0 * lo)
    first = (m0 != m0) | wide
    m0 = where(first, width, m0)
    m1 = where(first, width, m1)
    middle = lo + 0.5 * width
    rise = f_hi - f_lo
    chord = where(rise > 0, (lo * f_hi - hi * f_lo) / where(rise > 0, rise, rise * 0.0 + 1.0), middle)
    towards = where(middle >= chord, width * 0.0 + 1.0, width * 0.0 - 1.0)
    shift = 0.2 * width * (width / where(m0 > 0, m0, m0 * 0.0 + 1.0))
    truncated = where(shift <= fabs(middle - chord), chord + towards * shift, middle)
    radius = fmax(m1 - 0.5 * width, width * 0.0)
    projected = where(fabs(truncated - middle) <= radius, truncated, middle - towards * radius)
    return where(wide, midpoint(lo, hi), projected), m0, 0.5 * m1, m2, m3, m4


@dataclass(frozen=True)
class ITP(RootFinder):
    """The ITP method (Oliveira & Takahashi 2020) with κ₁ = 0.2/width, κ₂ = 2, n₀ = 1.

    Superlinear, and at most one iteration more than bisection in the worst case.
    """

    propose = staticmethod(propose)
