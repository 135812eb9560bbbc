"""The secular equation ``g(r) = 1``, which gives a group's radius (docs: the mathematics, §2 to §5).

For one group and one affine piece ``p'(r) = a - c r`` of the slope, with ``b = D x``, ``tau = η (a - c r)``
and ``shift = η c``::

    y_i = d_i r + tau,    S = Σ (b_i/y_i)²,    g(r) = S^(-1/2),    f(r) = g(r) - 1

``f`` is concave in ``r`` where all ``y_i > 0``. Everything here is written for numbers and arrays alike,
without ``if`` (see :mod:`proxlab.scalar`); sums over a group are the caller's.
"""

from __future__ import annotations

from proxlab.groups import Array
from proxlab.scalar import fabs, fmax, fmin, sqrt, where

__all__ = ["NEGLIGIBLE", "RIVAL_RTOL", "final_step", "residual", "rise", "shrunk_fraction", "terms"]

#: A strength that changes nothing, in units in which the largest element and product are about 1.
NEGLIGIBLE = 1e-280
#: Relative tolerance of a root that will be compared with other minimisers.
RIVAL_RTOL = 1e-8


def terms(b: Array, d: Array, r: Array, tau: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Return an element's terms of ``S``, ``S₁`` and ``S₂``, which give ``g`` and its derivatives."""
    w = 1.0 / (d * r + tau)
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


def final_step(r: Array, f: Array, slope: Array, bend: Array, m: Array) -> tuple[Array, Array]:
    """Return the zero of the osculating hyperbola (Halley 1694) and an estimate of its error.

    The third sum comes with every evaluation, so the last step is of third order whatever the root finder.
    For the Newton step ``h``, let ``q = bend·h/slope``; with ``m ≥ |(d_i - shift)/y_i|`` the third derivative
    is of the order of ``(q/h + m)·bend``, so that the error is of the order of ``q h (q + m h)``, while
    ``m h`` is small. A bend out of range is not used.
    """
    h = fabs(f) / slope
    q = bend * h / slope
    k = m * h
    usable = (bend < 1e300) & (k <= 0.25)
    error = where(usable, 2.0 * q * h * fmin(q + 4.0 * k, h * 0.0 + 1.0), h)
    curved = where(bend < 1e300, bend, h * 0.0)
    return r - f / (slope + 0.5 * f * curved / slope), error


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
    y = fmin(d * r, d * 0.0 + 1e300)
    return y / (y + tau)
