"""Rigorous enclosures of the root of the secular equation, rounding included (docs: the mathematics, §5).

With ``tau = η (a - c r)``, ``shift = η c``, ``y_i = d_i r + tau``, ``u_i = b_i/y_i`` and ``e_i = (d_i -
shift)/y_i``::

    S = Σ u_i²,    S₁ = Σ u_i² e_i,    B₁ = Σ u_i² (d_i + |shift|)/y_i,    S(r + h) = Σ u_i² / (1 + e_i h)²

``S`` is convex in ``r`` where all ``y_i > 0``, and the radius of the prox is where it falls through 1. A
computed sum of nonnegative terms has a small relative error; the functions here take the bounds of what the
errors leave open.

Written for numbers and arrays alike, without ``if`` (see :mod:`proxlab.scalar`); sums over a group are the
caller's.
"""

from __future__ import annotations

from typing import NamedTuple

from proxlab.scalar import fabs, fmax, fmin, sqrt, where
from proxlab.types import Array

__all__ = [
    "BLUR",
    "ROUNDING",
    "UNIT",
    "Evaluation",
    "bound_terms",
    "bracket",
    "evaluation",
    "newton",
    "rounding",
    "steepest",
]

UNIT = 2.0**-53
#: Operations that go into a term of ``S``, into one of ``S₁`` and into ``z_i(r)``, by the sign of the shift:
#: for a positive one, ``tau`` has a relative error of 24 units, or is exact at a radius that differs by 24
#: units.
ROUNDING = {False: (32, 44, 16), True: (80, 104, 40)}
#: For a positive shift the point itself is known to these 24 units, and more, only.
BLUR = 5e-15


class Evaluation(NamedTuple):
    """What the sums at one radius say, errors included.

    Attributes
    ----------
    r : array
        The radius, at least 0.
    below, above : array
        Lower and upper bound of ``S - 1``.
    s1, slack : array
        ``S₁`` and a bound of its error.
    m : array
        Upper bound of all ``|e_i|``.
    b1 : array
        Upper bound of ``B₁``.
    """

    r: Array
    below: Array
    above: Array
    s1: Array
    slack: Array
    m: Array
    b1: Array


def rounding(k: float) -> float:
    """Return an upper bound of the relative error of ``k`` roundings, itself computed."""
    return 1.01 * k * UNIT


def bound_terms(b: Array, d: Array, r: Array, tau: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Return an element's terms of ``S``, ``S₁`` and ``B₁``."""
    w = 1.0 / (d * r + tau)
    u = b * w
    s = u * u
    t = s * w
    return s, t * (d - shift), t * (d + fabs(shift))


def steepest(d: Array, r: Array, tau: Array, shift: Array) -> Array:
    """Return an upper bound of ``|d - shift|/(d r + tau)``; over a group it is largest at the least or
    largest ``d``.
    """
    return (fabs(d - shift) + 1e-15 * (d + fabs(shift))) / (d * r + tau) * (1.0 + 1e-14)


def newton(r: Array, s: Array, s1: Array) -> Array:
    """Return where the tangent of ``g = S^(-1/2)`` at ``r`` reaches 1: left of the root, up to rounding.

    For ``s1 > 0``, where ``g`` increases.
    """
    return r + s * (sqrt(s) - 1.0) / s1


def evaluation(r: Array, s: Array, s1: Array, b1: Array, noise: Array, slack: Array, m: Array) -> Evaluation:
    """Return what computed sums say; ``noise`` and ``slack`` bound the errors of ``S``, and of the others."""
    return Evaluation(r, s - 1.0 - noise, s - 1.0 + noise, s1, slack, m, b1 + slack)


def bracket(at: Evaluation, shift: Array, far: Array) -> tuple[Array, Array]:
    """Enclose the root from the sums at one radius.

    Lower end: the tangent of the convex ``S``. Upper end, for ``shift <= 0``, where all ``e_i`` lie in ``[0,
    m]``: the chord of ``(1 + e h)^(-2)`` over that interval. For ``shift > 0``: ``(1 + e h)^(-2) <= 1 - 2 e h
    + 4.5 (e h)²`` while ``m |h| <= 1/4``.

    Parameters
    ----------
    at : Evaluation
    shift : array
        ``η c`` of the piece.
    far : array
        What to return as upper end where none is proved.

    Returns
    -------
    lower, upper : array
        The root of this piece, if there is one, lies between them.
    """
    r, below, above, s1, slack, m, b1 = at
    tiny = r * 0.0 + 1e-300
    blur = where(shift > 0, BLUR * r, 1e-15 * r)
    flat, steep = s1 - slack, s1 + slack
    rising = flat > 0
    flat = fmax(flat, tiny)
    steep = fmax(steep, tiny)
    down = below / (2.0 * where(below >= 0, steep, flat))
    lower = where(rising, fmax(r + down - blur - 1e-15 * fabs(down), tiny * 0.0), tiny * 0.0)
    slope = where(above >= 0, flat, steep)
    share = above / slope * m
    share = share + 1e-15 * fabs(share)
    q = sqrt(fmax(1.0 - share, tiny))
    chord = above / (slope * q * (1.0 + q))
    inside = slope * slope - 4.5 * m * b1 * above
    parabola = above / (slope + sqrt(fmax(inside, tiny * 0.0)))
    up = where(shift > 0, parabola, chord)
    proved = where(shift > 0, (inside >= 0.05 * slope * slope) & (m * fabs(up) <= 0.24), share <= 0.75)
    upper = where(rising & proved, r + up + blur + 1e-14 * fabs(up), far)
    # Above 1 already, or past the largest g: the root is to the left.
    past = (above < 0) | ((shift > 0) & (s1 + slack <= 0))
    return lower, fmin(where(past, fmin(upper, r + blur), upper), far)
