"""Brent's method."""

from __future__ import annotations

from dataclasses import dataclass

from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import fabs, fmin, midpoint, where
from proxlab.types import Array

__all__ = ["Brent"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Interpolate inversely through three points, or halve where that gains too little.

    ``b`` is the best end, ``c`` the other; memory: the previous best point ``a`` and its value, the last two
    steps, and the previous ``c``.
    """
    low = fabs(f_lo) < fabs(f_hi)
    b, fb = where(low, lo, hi), where(low, f_lo, f_hi)
    c, fc = where(low, hi, lo), where(low, f_hi, f_lo)
    fresh = (m0 != m0) | (c != m4)
    a, fa = where(m0 != m0, c, m0), where(m0 != m0, fc, m1)
    step = where(fresh, c - b, m2)
    before = where(fresh, c - b, m3)
    tolerance = 4.5e-16 * fabs(b)
    half = 0.5 * (c - b)
    one = fb * 0.0 + 1.0
    safe_fa = where(fa == 0, one, fa)
    safe_fc = where(fc == 0, one, fc)
    s = fb / safe_fa
    secant = a == c
    q0 = fa / safe_fc
    t = fb / safe_fc
    p = where(secant, 2.0 * half * s, s * (2.0 * half * q0 * (q0 - t) - (b - a) * (t - 1.0)))
    q = where(secant, 1.0 - s, (q0 - 1.0) * (t - 1.0) * (s - 1.0))
    q = where(p > 0, -q, q)
    p = fabs(p)
    usable = (fabs(before) >= tolerance) & (fabs(fa) > fabs(fb)) & (q != 0)
    gains = 2.0 * p < fmin(3.0 * half * q - fabs(tolerance * q), fabs(before * q))
    interpolate = usable & gains
    safe_q = where(q == 0, one, q)
    halved = midpoint(lo, hi) - b
    new = where(interpolate, p / safe_q, halved)
    before = where(interpolate, step, halved)
    moved = where(fabs(new) > tolerance, new, where(half > 0, tolerance, -tolerance))
    return b + moved, b, fb, new, before, c


@dataclass(frozen=True)
class Brent(RootFinder):
    """Brent's method (Brent 1973, ch. 4): inverse quadratic interpolation, secant, bisection."""

    propose = staticmethod(propose)
