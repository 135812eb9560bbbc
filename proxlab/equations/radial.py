"""The secular equation ``g(r) = 1``, which gives a group's radius (docs: the mathematics, §2 to §5).

For one group and one affine piece ``p'(r) = a - c r`` of the slope, with ``b = D x``, ``tau = η (a - c r)``
and ``shift = η c``::

    y_i = d_i r + tau,    S = Σ (b_i/y_i)²,    g(r) = S^(-1/2),    f(r) = g(r) - 1

``f`` is concave in ``r`` where all ``y_i > 0``. Everything here is written for numbers and arrays alike,
without ``if`` (see :mod:`proxlab.scalar`); sums over a group are the caller's.
"""

from __future__ import annotations

from proxlab.bounds import ROUNDING, bracket, evaluation, rounding
from proxlab.equations.base import Equation, Sums, Task
from proxlab.scalar import any_order, fabs, filled, fmax, fmin, no, sqrt, where
from proxlab.types import Array

__all__ = [
    "RADIAL",
    "enclose",
    "pace",
    "residual",
    "rise",
    "roundings",
    "shrunk_fraction",
    "terms",
    "terms_by",
]

#: Roundings of a term of ``S`` and of ``S₁``, by the sign of the shift.
FLAT, CURVED = (tuple(float(k) for k in ROUNDING[sign]) for sign in (False, True))
#: A pace that no radius meets: where the slope has fallen to zero.
ANY_PACE = 1e270
#: What ``d r`` counts as at most, where the element is zero or next to it: a quotient by it is a number.
HUGE = 1e300


@any_order
def terms(b: Array, d: Array, r: Array, tau: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Return an element's terms of ``S``, ``S₁`` and ``S₂``, which give ``g`` and its derivatives."""
    return terms_by(b, d, 1.0 / (d * r + tau), shift)


@any_order
def terms_by(b: Array, d: Array, w: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Return what :func:`terms` does; ``w`` is ``1/(d r + tau)``."""
    u = b * w
    e = (d - shift) * w
    s = u * u
    t = s * e
    return s, t, t * e


def residual(s: Array, s1: Array, s2: Array) -> tuple[Array, Array, Array]:
    """Return ``f = g - 1``, ``g'`` and ``-g''`` from the three sums."""
    root = sqrt(s)
    inverse = 1.0 / (s * root)
    return 1.0 / root - 1.0, s1 * inverse, 3.0 * fmax(s * s2 - s1 * s1, s * 0.0) * inverse / s


def pace(r: Array, task: Task) -> Array:
    """Bound ``|(d - shift)/(d r + tau)|``: by the ends of the metric's range, zero and infinity.

    At ``r = 0`` by the largest element of the metric.
    """
    tau = fmax(task.a - task.c * r, r * 0.0)
    inside, slopes = r > 0, tau > 0
    # c/tau where that is more than 1/r, up to rounding: one division.
    falls = (task.c > 0) & (task.c * r > tau)
    one = filled(r, 1.0)
    over = where(falls, task.c, where(inside, one, task.dmax + fabs(task.c)))
    under = where(inside & no(falls), r, where(slopes, tau, one))
    return where(slopes | (inside & no(falls)), over / under, filled(r, ANY_PACE))


def roundings(c: Array, k: int) -> Array:
    """Return how many roundings go into a term of ``S`` (``k = 0``) or of ``S₁`` (``k = 1``)."""
    return where(c > 0, filled(c, CURVED[k]), filled(c, FLAT[k]))


def enclose(r: Array, sums: Sums, task: Task) -> tuple[Array, Array]:
    """Enclose the root from the sums at ``r``."""
    s, s1, s2 = sums
    c, m = task.c, pace(r, task)
    # Σ u² (d + |c|)/y, exactly S₁ where c <= 0.
    b1 = where(c > 0, (sqrt(s * fmax(s2, s * 0.0)) + 2.0 * m * s) * (1.0 + 1e-9), s1)
    noise, slack = rounding(task.size + roundings(c, 0)) * s, rounding(task.size + roundings(c, 1)) * b1
    return bracket(evaluation(r, s, s1, b1, noise, slack, m), c, task.far)


def rise(r: Array, start: Array, end: Array, a: Array, c: Array) -> Array:
    """Return how much ``p`` rises from ``start`` to ``r``, at most to ``end``, with slope ``a - c r``.

    Two minimisers are compared by their objectives ``η p(‖z‖) + ½‖z - x‖²_D`` at points ``z = z(μ)`` of the
    path, and there ``r = ‖z‖``: the radius at which ``μ`` was found differs from ``‖z‖`` by the residual, and
    the objective is stationary in ``z``, but not in that radius with ``z`` fixed.
    """
    at = fmin(fmax(r, start), end)
    return (at - start) * (a - 0.5 * c * (at + start))


def shrunk_fraction(d: Array, r: Array, tau: Array) -> Array:
    """Return ``z_i / x_i = d_i r / (d_i r + tau)``; where an element is zero, its ``d_i r`` may be any."""
    y = fmin(d * r, d * 0.0 + HUGE)
    return y / (y + tau)


RADIAL = Equation(residual, pace, enclose, smooth=True)
