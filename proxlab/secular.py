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

__all__ = ["enclose", "final_step", "residual", "shrunk_fraction", "start", "terms"]


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


def start(norm: Array, bb: Array, bbd: Array, tau: Array, shift: Array) -> tuple[Array, Array]:
    """Return ``f(0)`` and ``g'(0)`` from ``‖b‖``, ``Σ b²`` and ``Σ b² d``."""
    return (tau - norm) / norm, (bbd - shift * bb) / (bb * norm)


def final_step(r: Array, f: Array, slope: Array, bend: Array, m: Array) -> tuple[Array, Array]:
    """Return the zero of the osculating hyperbola (Halley 1694) and an estimate of its error.

    The third sum comes with every evaluation, so the last step is of third order whatever the root finder.
    For the Newton step ``h``, let ``q = bend·h/slope``; with ``m`` as in :func:`enclose` the third derivative
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


def shrunk_fraction(d: Array, r: Array, tau: Array) -> Array:
    """Return ``z_i / x_i = d_i r / (d_i r + tau)``."""
    y = d * r
    return y / (y + tau)


def enclose(
    r: Array, s: Array, s1: Array, s2: Array, m: Array, shift: Array, delta: Array, far: Array
) -> tuple[Array, Array]:
    """Enclose the root from the three sums at one point (docs: the mathematics, §5).

    Concavity gives the lower end: the tangent. The upper end needs a bound of how fast the slope can
    fall: with ``m ≥ |(d_i - shift)/y_i|`` every ``y_i`` changes by a factor of at most ``1 ± m h`` over a
    distance ``h``, so ``S₂`` grows by at most ``(1 - m h)^(-4) ≤ 3.17`` while ``m h ≤ 1/4``.

    Parameters
    ----------
    r : array
        The point, at which ``s``, ``s1``, ``s2`` were summed.
    m : array
        Upper bound of ``|(d_i - shift)/y_i|``.
    shift : array
        ``η c`` of the piece.
    delta : array
        Relative error bound of the computed sums: of ``s`` and ``s2``, and of ``s1`` against ``√(s s2)``.
    far : array
        An upper bound of the root that holds anyway.

    Returns
    -------
    lower, upper : array
    """
    root = sqrt(s)
    f = 1.0 / root - 1.0
    noise = delta * (1.0 / root + 1.0)
    inverse = (1.0 / (s * root)) * (1.0 + 2.0 * delta)
    spread = delta * sqrt(s * s2) * inverse
    slope = s1 * inverse
    steep = slope + spread + 4.0 * delta * slope
    flat = slope - spread - 4.0 * delta * slope
    bend = 3.0 * s2 * inverse * (1.0 + 4.0 * delta)
    loose = 3.2 * bend
    reach = 0.25 / m
    # Lower end: the tangent lies above f.
    above = f + noise
    tiny = r * 0.0 + 1e-300
    rising = flat > 0
    down = where(rising, above / where(rising, flat, tiny), r)
    lower = where(above < 0, r - above / fmax(steep, tiny), r - down)
    lower = fmax(lower, r * 0.0)
    # Upper end, right of the point: f(r + h) ≥ f + h (flat - bend' h).
    missing = noise - f
    fall = where(shift > 0, loose, bend)
    inside = flat * flat - 4.0 * fall * missing
    good = rising & (inside >= 0)
    ahead = 2.0 * fmax(missing, tiny * 0.0) / fmax(flat + sqrt(fmax(inside, tiny * 0.0)), tiny)
    ahead = where(good & ((shift <= 0) | (ahead <= reach)), r + ahead, far)
    # Upper end, left of the point: f(r - t) ≥ f - t (steep + loose t).
    sure = fmax(f - noise, tiny * 0.0)
    back = 2.0 * sure / fmax(steep + sqrt(steep * steep + 4.0 * loose * sure), tiny)
    upper = where(missing > 0, ahead, r - fmin(back, reach))
    return lower, fmin(upper, far)
