"""The equation of the ℓ∞ norm: where the clipped part of a group weighs as much as the penalty.

For one group and a strength ``a``, the radius ``t = ‖z‖_∞`` is where ``f(t) = 1 - Σ d (|x| - t)₊ / a``, which
is concave, increasing and piecewise linear, crosses zero (docs: the mathematics, §7). It is 1 at ``max|x|``.
"""

from __future__ import annotations

from proxlab.bounds import rounding
from proxlab.equations.base import Equation, Sums, Task
from proxlab.scalar import fabs, filled, fmax, fmin, where
from proxlab.types import Array

__all__ = ["CLIPPED", "NEGLIGIBLE", "ROUNDINGS", "enclose", "pace", "residual"]

#: A strength that changes nothing, in units in which the largest element and product are about 1.
NEGLIGIBLE = 1e-280
#: Roundings of a sum, beside those of its terms' number.
ROUNDINGS = 24.0


def residual(s: Array, s1: Array, s2: Array) -> tuple[Array, Array, Array]:
    """Return ``f = 1 - s``, its slope, and no bend."""
    return 1.0 - s, s1, s2


def pace(r: Array, task: Task) -> Array:
    """Return zero: there is no bend to be estimated."""
    return r * 0.0


def enclose(r: Array, sums: Sums, task: Task) -> tuple[Array, Array]:
    """Enclose the root: the tangent below, the chord to ``(far, 1)``, below which ``f`` is not, above."""
    f, slope = 1.0 - sums.s, sums.s1
    zero, one = r * 0.0, filled(r, 1.0)
    delta = rounding(task.size + ROUNDINGS)
    noise = delta * (2.0 + fabs(f))
    rising = slope > 0
    tangent = r - (f + noise) / where(rising, slope * (1.0 - 4.0 * delta), one)
    chord = r + (noise - f) * (task.far - r) / fmax(1.0 - f, filled(f, 1e-300))
    lower = where(rising, tangent, zero)
    return fmax(lower, zero), fmin(where(f < noise, chord, r), task.far)


CLIPPED = Equation(residual, pace, enclose, smooth=False)
