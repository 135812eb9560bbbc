"""Sums over a row that compiled certificates are made of, in strips whose rounding grows slowly.

Plain Python, compiled by :mod:`proxlab.backends.numba_certify`.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab import bounds
from proxlab.bounds import rounding
from proxlab.equations.radial import HUGE
from proxlab.scalar import any_order, fabs, fmin, inlined, sqrt

__all__ = [
    "SOUND_HIGH",
    "SOUND_LOW",
    "Allowances",
    "AtCandidate",
    "AtPoint",
    "AtRadius",
    "AtZero",
    "Row",
    "errors_of",
    "is_sound",
    "sum_at",
    "sum_at_point",
    "sum_at_zero",
    "sum_moved",
]

#: Squares in this range have lost nothing to overflow or underflow, nor have products of what is in that.
SOUND_LOW, SOUND_HIGH = 1e-100, 1e100
#: As numbers of one type, for the compiler.
ROUNDING_FLAT, ROUNDING_CURVED = (tuple(float(v) for v in bounds.ROUNDING[c]) for c in (False, True))
#: Elements that are summed before a sum goes on, up to 4096 elements; beyond, the root of their number.
STRIP = 64


class Row(NamedTuple):
    """Point, candidate and metric of a group, its step and step times weight, and bounds of its metric.

    The bounds are read where the slope falls.
    """

    x: Any
    z: Any
    d: Any
    step: float
    eta: float
    least: float
    most: float


class Allowances(NamedTuple):
    """Rounding of sums over a row.

    Attributes
    ----------
    width : int
        Elements that are summed before a sum goes on.
    height : float
        Additions that a term goes through.
    s, s1, z : float
        Operations in a term of ``S``, of ``S₁`` and in ``z_i(r)``.
    fuzz, up : float
        Relative error of a sum of squares, and 1 more.
    """

    width: int
    height: float
    s: float
    s1: float
    z: float
    fuzz: float
    up: float


class AtZero(NamedTuple):
    """Sums of ``b²``, ``b² d``, ``x²``, ``d x²``, ``z²``, ``b z``, ``d z²``.

    ``live`` says whether an element of the candidate is not zero, ``bad`` whether a metric is invalid.
    """

    bb: float
    bbd: float
    xx: float
    xb: float
    zz: float
    bz: float
    dzz: float
    live: int
    bad: int


class AtRadius(NamedTuple):
    """Sums at a radius.

    Attributes
    ----------
    s, s1, b1 : float
        ``S``, ``S₁``, ``B₁``.
    off, turn, off_d, turn_d : float
        The squares of ``z - z(r)`` and ``z'(r)``, without and with the metric.
    own_d : float
        ``d u²``.
    residual, pulled : float
        The squares of ``d (z - x) + pull z`` and of its first part.
    aside : float
        Those of ``unit z - u``.
    """

    s: float
    s1: float
    b1: float
    off: float
    turn: float
    off_d: float
    turn_d: float
    own_d: float
    residual: float
    pulled: float
    aside: float


class AtPoint(NamedTuple):
    """Sums where ``tau = 0``.

    Attributes
    ----------
    off, off_d : float
        The squares of ``z - x``, without and with the metric.
    pulled : float
        Those of ``d (z - x)``.
    rise, scale : float
        ``S₁``, ``B₁``.
    """

    off: float
    off_d: float
    pulled: float
    rise: float
    scale: float


class AtCandidate(NamedTuple):
    """The candidate among the pieces.

    Attributes
    ----------
    size, value : float
        ``‖z‖``, and the penalty times ``eta``.
    alpha, shift : float
        The slope there, ``alpha - shift r``.
    pull, unit : float
        The slope over the size, and one over it; 0 for a candidate of zero.
    error : float
        What the slope may be off by.
    """

    size: float
    value: float
    alpha: float
    shift: float
    pull: float
    unit: float
    error: float


def nothing_at_radius() -> AtRadius:
    """Return sums of nothing."""
    return AtRadius(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@any_order
@inlined
def strip_at_zero(x: Any, z: Any, d: Any) -> AtZero:
    """Sum what is needed at zero over a few neighbouring elements."""
    bb, bbd, xx, xb, zz, bz, dzz, live, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
    for i in range(len(x)):
        xi, zi, di = np.float64(x[i]), np.float64(z[i]), np.float64(d[i])
        b, dz = di * xi, di * zi
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
        xb += xi * b
        zz += zi * zi
        bz += b * zi
        dzz += zi * dz
        live |= zi != 0.0
        bad |= not (di > 0.0)
    return AtZero(bb, bbd, xx, xb, zz, bz, dzz, live, bad)


@inlined
def sum_at_zero(row: Row, width: int) -> AtZero:
    """Sum what is needed at zero."""
    t = AtZero(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    n = len(row.x)
    for o in range(0, n, width):
        p = min(o + width, n)
        s = strip_at_zero(row.x[o:p], row.z[o:p], row.d[o:p])
        t = AtZero(
            t.bb + s.bb, t.bbd + s.bbd, t.xx + s.xx, t.xb + s.xb, t.zz + s.zz, t.bz + s.bz, t.dzz + s.dzz,
            t.live | s.live, t.bad | s.bad,
        )  # fmt: skip
    return t


@any_order
def add(t: AtRadius, s: AtRadius) -> AtRadius:
    """Add sums at a radius."""
    return AtRadius(
        t.s + s.s, t.s1 + s.s1, t.b1 + s.b1, t.off + s.off, t.turn + s.turn, t.off_d + s.off_d,
        t.turn_d + s.turn_d, t.own_d + s.own_d, t.residual + s.residual, t.pulled + s.pulled,
        t.aside + s.aside,
    )  # fmt: skip


@any_order
def terms_at(
    x: float, z: float, d: float, r: float, tau: float, shift: float, pull: float, unit: float
) -> AtRadius:
    """Return an element's terms at the radius ``r``."""
    w = 1.0 / (d * r + tau)
    u = d * x * w
    s = u * u
    t = s * w
    off = z - r * u
    off2 = off * off
    turn = u * w
    turn2 = turn * turn
    first = d * (z - x)
    second = first + pull * z
    aside = unit * z - u
    return AtRadius(
        s, t * (d - shift), t * (d + fabs(shift)), off2, turn2, d * off2, d * turn2, d * s, second * second,
        first * first, aside * aside,
    )  # fmt: skip


@any_order
@inlined
def strip_at(
    x: Any, z: Any, d: Any, r: float, tau: float, shift: float, pull: float, unit: float
) -> AtRadius:
    """Sum the terms at a radius over a few neighbouring elements."""
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        t = terms_at(np.float64(x[i]), np.float64(z[i]), np.float64(d[i]), r, tau, shift, pull, unit)
        s0 += t.s
        s1 += t.s1
        s2 += t.b1
        s3 += t.off
        s4 += t.turn
        s5 += t.off_d
        s6 += t.turn_d
        s7 += t.own_d
        s8 += t.residual
        s9 += t.pulled
        s10 += t.aside
    return AtRadius(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10)


@inlined
def sum_at(row: Row, width: int, r: float, tau: float, shift: float, candidate: AtCandidate) -> AtRadius:
    """Sum the terms at a radius, with the slope ``tau``, which falls by ``shift``."""
    total = nothing_at_radius()
    n = len(row.x)
    for o in range(0, n, width):
        p = min(o + width, n)
        strip = strip_at(row.x[o:p], row.z[o:p], row.d[o:p], r, tau, shift, candidate.pull, candidate.unit)
        total = add(total, strip)
    return total


@any_order
def strip_at_point(x: Any, z: Any, d: Any, shift: float) -> AtPoint:
    """Sum what is needed at the point itself over a few neighbouring elements."""
    off2, off_d, pulled2, rise, scale = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        xi, di = np.float64(x[i]), np.float64(d[i])
        off = np.float64(z[i]) - xi
        pulled = di * off
        off2 += off * off
        off_d += pulled * off
        pulled2 += pulled * pulled
        t = xi * xi / di
        rise += t * (di - shift)
        scale += t * (di + shift)
    return AtPoint(off2, off_d, pulled2, rise, scale)


def sum_at_point(row: Row, width: int, shift: float) -> AtPoint:
    """Sum what is needed at the point itself, where the slope falls by ``shift``."""
    t = AtPoint(0.0, 0.0, 0.0, 0.0, 0.0)
    n = len(row.x)
    for o in range(0, n, width):
        p = min(o + width, n)
        s = strip_at_point(row.x[o:p], row.z[o:p], row.d[o:p], shift)
        t = AtPoint(t.off + s.off, t.off_d + s.off_d, t.pulled + s.pulled, t.rise + s.rise, t.scale + s.scale)
    return t


@any_order
def strip_moved(x: Any, d: Any, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` over a few neighbouring elements."""
    s0, s1 = 0.0, 0.0
    for i in range(len(x)):
        xi, di = np.float64(x[i]), np.float64(d[i])
        y = fmin(di * r, HUGE)
        w = xi / (y + tau)
        moved = w * tau
        kept = w * y
        s0 += di * (moved * moved)
        s1 += kept * kept
    return s0, s1


def sum_moved(row: Row, width: int, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²/2`` and ``z²`` at the point ``z`` of radius ``r`` on the path."""
    moved, kept = 0.0, 0.0
    n = len(row.x)
    for o in range(0, n, width):
        p = min(o + width, n)
        t0, t1 = strip_moved(row.x[o:p], row.d[o:p], r, tau)
        moved += 0.5 * t0
        kept += t1
    return moved, kept


def errors_of(n: int, pieces: Any) -> Allowances:
    """Return what rounding does to sums over ``n`` elements."""
    width = STRIP if n <= STRIP * STRIP else int(sqrt(float(n)))
    height = width + n // width + 4.0
    curved = False
    for j in range(pieces.shape[0]):
        curved = curved or pieces[j, 3] > 0.0
    k = ROUNDING_CURVED if curved else ROUNDING_FLAT
    fuzz = rounding(height + 16.0)
    return Allowances(width, height, k[0], k[1], k[2], fuzz, 1.0 + fuzz)


def is_sound(v: float) -> bool:
    """Say whether nothing is lost of a number or its square."""
    return SOUND_LOW < v < SOUND_HIGH
