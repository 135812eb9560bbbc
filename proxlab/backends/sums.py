"""Loops over a group's elements, once for every target that compiles, in the words of the target.

A *team* of threads shares a group: ``span`` are the elements that a thread goes over and ``load`` reads one,
``given`` too, but of ``x`` as the caller gave it; ``store`` writes one. ``combine``, ``greatest`` and
``precise`` complete what the thread has of sums, of a maximum and of a double-double, for all of the team.

The words here are those of one thread whose group is ``x[o:o + n]``; a GPU has its own
(:mod:`proxlab.backends.cuda.source`). Plain Python, rebuilt for a target; sums may be reordered where they
are marked, since their error bounds hold for any order.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxlab.backends.kernel_records import Elements, Scale, Start
from proxlab.backends.ranges import APART_HIGH, APART_LOW, METRIC_CAP, METRIC_FLOOR, NARROW_HIGH
from proxlab.double_double import add_doubles, difference, square, two_product
from proxlab.equations import Sums
from proxlab.equations.radial import HUGE, shrunk_fraction, terms, terms_by
from proxlab.scalar import INF, NAN, any_order, fabs, fmax, fmin

#: Makes an index, which is never negative; a plain name, since the compiler and the type checker see it
#: differently.
UINT: Any = np.uint64
#: An offset of a plain integer type: a literal would make the compiler specialise once more.
FIRST: Any = np.int64(0)
#: Terms that a thread adds up in single precision before the sum goes over to double.
STRIP = 4096
#: An exponent that no number has.
NO_EXPONENT = -5000.0
#: A share of the ratio ``r/tau`` whose cube is nothing against the rounding of single precision.
NEARBY = 2.0**-11

# Set by the target: whether single precision finds where to start, and whether exact passes keep for the
# write what they know of each element of a group of at most so many.
NARROW = False
KEEPS, MOST_KEPT = False, 8192


# ----------------------------------------------------------------------------------------------------
# The words of one thread.


def width() -> int:
    """Return the threads of the team."""
    return 1


def span(e: Elements, first: int, last: int) -> Any:
    """Return which of the elements ``first … last - 1`` this thread goes over."""
    return range(UINT(e.o + first), UINT(e.o + last))


def load(e: Elements, i: int) -> Any:
    """Return an element of the point and of the metric, in the group's units."""
    return np.float64(e.x[i]), np.float64(e.d[i])


def load_narrow(e: Elements, i: int) -> Any:
    """Return an element of the point and of the metric in single precision."""
    return e.x[i], e.d[i]


def given(e: Elements, i: int) -> Any:
    """Return an element of the point as given, of which scaling may have lost some, and of the metric."""
    return np.float64(e.x[i]), np.float64(e.d[i])


def store(e: Elements, z: Any, i: int, value: float) -> None:
    """Write an element of the result."""
    z[i] = value


def combine(e: Elements, a: float, b: float, c: float) -> Any:
    """Add up over the team."""
    return a, b, c


def greatest(e: Elements, v: float) -> float:
    """Return the greatest over the team."""
    return v


def precise(e: Elements, high: float, low: float) -> Any:
    """Add up double-doubles over the team."""
    return high, low


# ----------------------------------------------------------------------------------------------------
# Sums.


@any_order
def sum_start(e: Elements) -> Start:
    """Sum what the zero test and the tangent at zero need: ``b²``, ``b² d``, ``x²``.

    They are finite for valid elements whose squares stay in range; else one is not.
    """
    bb, bbd, xx = 0.0, 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        b = d * x if d > 0.0 else NAN
        s = b * b
        bb += s
        bbd += s * d
        xx += x * x
    bb, bbd, xx = combine(e, bb, bbd, xx)
    return Start(bb, bbd, xx)


@any_order
def sum_narrow(e: Elements) -> Start:
    """Sum as :func:`sum_start` does, in single precision."""
    bb, bbd, xx = 0.0, 0.0, 0.0
    nan, strip = np.float32(NAN), STRIP * width()
    for first in range(0, e.n, strip):
        s, t, w = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in span(e, first, min(first + strip, e.n)):
            x, d = load_narrow(e, i)
            b = d * x if d > np.float32(0.0) else nan
            a = b * b
            s += a
            t += a * d
            w += x * x
        bb += np.float64(s)
        bbd += np.float64(t)
        xx += np.float64(w)
    bb, bbd, xx = combine(e, bb, bbd, xx)
    return Start(bb, bbd, xx)


@any_order
def sum_secular(e: Elements, r: float, tau: float, shift: float) -> Sums:
    """Sum the secular terms at one radius."""
    s, s1, s2 = 0.0, 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        t, t1, t2 = terms(x * d, d, r, tau, shift)
        s += t
        s1 += t1
        s2 += t2
    s, s1, s2 = combine(e, s, s1, s2)
    return Sums(s, s1, s2)


@any_order
def sum_kept(e: Any, r: float, tau: float, shift: float) -> Sums:
    """Sum as :func:`sum_secular` does, and keep what :func:`write_near` needs."""
    x, d, kept = e.x[e.o : e.o + e.n], e.d[e.o : e.o + e.n], e.fractions
    s, s1, s2 = 0.0, 0.0, 0.0
    for i in range(e.n):
        xi, di = np.float64(x[i]), np.float64(d[i])
        w = 1.0 / (di * r + tau)
        t, t1, t2 = terms_by(xi * di, di, w, shift)
        kept[i] = di * w * r
        s += t
        s1 += t1
        s2 += t2
    e.ratio[0] = r / tau
    return Sums(s, s1, s2)


def radial_sums(e: Elements, r: float, a: float, c: float) -> Sums:
    """Return the secular sums at one radius, on the piece with slope ``a - c r``."""
    tau = fmax(a - c * r, 0.0)
    if KEEPS and e.n <= MOST_KEPT:
        return sum_kept(e, r, tau, c)
    return sum_secular(e, r, tau, c)


@any_order
def sum_clipped(e: Elements, t: float, strength: float, _: float) -> Sums:
    """Sum ``d (|x| - t)₊`` and its slope, in units of ``strength``."""
    s, s1 = 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        over = fabs(x) - t
        d = d if over > 0.0 else 0.0
        s += d * over
        s1 += d
    s, s1, _ = combine(e, s, s1, 0.0)
    return Sums(s / strength, s1 / strength, 0.0)


@any_order
def sum_ratio(e: Elements, ratio: float, unit: float) -> Any:
    """Sum ``u²``, ``u² h``, ``u² h²`` in single precision: ``u = x unit h``, with ``h`` of the ratio."""
    one, rho, scale = np.float32(1.0), np.float32(ratio), np.float32(unit)
    v, ve, vee = 0.0, 0.0, 0.0
    strip = STRIP * width()
    for first in range(0, e.n, strip):
        s, t, w = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in span(e, first, min(first + strip, e.n)):
            x, d = load_narrow(e, i)
            y = d * rho
            h = y / (y + one)
            u = x * scale * h
            a = u * u
            b = a * h
            s += a
            t += b
            w += b * h
        v += np.float64(s)
        ve += np.float64(t)
        vee += np.float64(w)
    return combine(e, v, ve, vee)


@any_order
def sum_moved(e: Elements, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` at the point ``z = x d r/(d r + tau)``; ``d x²`` and 0 for ``r = 0``."""
    moved, kept = 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        y = fmin(d * r, HUGE)
        w = x / (y + tau)
        v, z = w * tau, w * y
        moved += d * (v * v)
        kept += z * z
    moved, kept, _ = combine(e, moved, kept, 0.0)
    return moved, kept


@any_order
def sum_path(e: Elements, mu: float, unit: float) -> Any:
    """Sum ``v²``, ``w = v²/(d + μ)``, ``w d`` and ``d (x - z)²`` at ``z = d x/(d + μ)``, ``v = unit z``."""
    vv, w, wd, moved = 0.0, 0.0, 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        inverse = 1.0 / (d + mu)
        v = x * d * (unit * inverse)
        s = v * v
        t = s * inverse
        off = x * (mu * inverse)
        vv += s
        w += t
        wd += t * d
        moved += d * (off * off)
    vv, w, wd = combine(e, vv, w, wd)
    moved, _, _ = combine(e, moved, 0.0, 0.0)
    return vv, w, wd, moved


@any_order
def sum_ends(e: Elements) -> Any:
    """Sum ``b²``, ``b² d``, ``x²``, ``b x`` and ``x²/d``, which the ends of the path need."""
    bb, bbd, xx, bx, across = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        b, square = d * x, x * x
        s = b * b
        bb += s
        bbd += s * d
        xx += square
        bx += d * square
        across += square / d
    bb, bbd, xx = combine(e, bb, bbd, xx)
    bx, across, _ = combine(e, bx, across, 0.0)
    return bb, bbd, xx, bx, across


def zero_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖² - strength²`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        p, q = precise_product(x, d)
        p, q = square(p, q)
        high, low = add_doubles((high, low), (p, q))
    high, low = precise(e, high, low)
    p, q = precise_strength(strength, scale)
    return difference((high, low), square(p, q))


def linf_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖₁ - strength`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        p, q = precise_product(fabs(x), d)
        high, low = add_doubles((high, low), (p, q))
    high, low = precise(e, high, low)
    return difference((high, low), precise_strength(strength, scale))


def precise_product(x: float, d: float) -> Any:
    """Return ``x d`` as a double-double; splitting a metric near the end of the range would overflow."""
    if d > METRIC_CAP:
        x, d = x * 2.0**600, d * 2.0**-600
    return two_product(x, d)


def precise_strength(strength: float, scale: Scale) -> Any:
    """Return a strength in the group's units as a double-double, where its parts can hold it."""
    f, i = math.frexp(strength)
    g, j = math.frexp(scale.weight)
    h, k = math.frexp(scale.step)
    p, low = two_product(f, g)
    q, rest = two_product(p, h)
    shift = min(max(i + j + k - scale.ed - scale.ex, -2000), 2000)
    return math.ldexp(q, shift), math.ldexp(rest + low * h, shift)


# ----------------------------------------------------------------------------------------------------
# Extremes.


def largest_metric(e: Elements) -> float:
    """Return the largest element of the metric."""
    m = 0.0
    for i in span(e, 0, e.n):
        m = fmax(load(e, i)[1], m)
    return greatest(e, m)


def largest_point(e: Elements) -> float:
    """Return the largest magnitude of the point."""
    m = 0.0
    for i in span(e, 0, e.n):
        m = fmax(fabs(load(e, i)[0]), m)
    return greatest(e, m)


def is_valid(e: Elements) -> bool:
    """Check every element: finite ``x``, finite ``d > 0``."""
    bad = 0.0
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        bad = bad if d > 0.0 and d < INF and fabs(x) < INF else 1.0
    return greatest(e, bad) == 0.0


def exponent(v: float) -> int:
    """Return ``e`` with ``2^e <= |v| < 2^(e + 1)``; -1 for zero."""
    return math.frexp(v)[1] - 1


def units(e: Elements) -> Any:
    """Return the units in which ``max|x|`` and ``max|b|`` of a group are about 1.

    The metric's unit is that of the products: elements of it that meet no ``x`` may be beyond all bounds.

    Returns
    -------
    ex, ed, least, apart
        The exponents of the units and, in them, of the least metric of an element that is not zero; and
        whether elements are lost that may count.
    """
    mx, md, mb, low, high = 0.0, 0.0, NO_EXPONENT, -NO_EXPONENT, NO_EXPONENT
    for i in span(e, 0, e.n):
        x, d = load(e, i)
        mx, md = fmax(fabs(x), mx), fmax(d, md)
        if x != 0.0:
            k = np.float64(exponent(d))
            mb, low, high = fmax(mb, np.float64(exponent(x)) + k), fmin(low, k), fmax(high, k)
    ex, eb = exponent(greatest(e, mx)), greatest(e, mb)
    ed = int(eb) - ex if eb > NO_EXPONENT else exponent(greatest(e, md))
    least, most = int(-greatest(e, -low)) - ed, int(greatest(e, high)) - ed
    return ex, ed, least, eb > NO_EXPONENT and (least <= APART_LOW or most >= APART_HIGH)


def scaled_metric(d: float, ed: int) -> float:
    """Return an element of the metric in units of ``2^ed``, between the floor and the cap."""
    return fmax(fmin(math.ldexp(d, -ed), METRIC_CAP), METRIC_FLOOR)


# ----------------------------------------------------------------------------------------------------
# Results.


@any_order
def narrow_fraction(y: float) -> float:
    """Return ``y/(y + 1)`` to 45 bits: a reciprocal in single precision and a step of Newton's method."""
    y = fmin(y, NARROW_HIGH)
    w = np.float64(np.float32(1.0) / np.float32(y + 1.0))
    return y * (w * (2.0 - (y + 1.0) * w))


@any_order
def write_near(e: Any, z: Any, ratio: float) -> bool:
    """Write the result from what the last pass kept, unless that was elsewhere; returns whether it was near.

    With the ratio ``ρ (1 + ε)``, ``h = d ρ/(d ρ + 1)`` becomes ``h + ε h (1 - h) (1 - ε h)`` up to ``ε³``:
    no division.
    """
    off = ratio / e.ratio[0] - 1.0
    if not fabs(off) <= NEARBY:
        return False
    x, out, kept, square = e.x[e.o : e.o + e.n], z[e.o : e.o + e.n], e.fractions, off * off
    for i in range(e.n):
        h = kept[i]
        out[i] = np.float64(x[i]) * (h + (h - h * h) * (off - square * h))
    return True


def write_group(e: Elements, z: Any, r: float, tau: float, unit: float) -> None:
    """Write ``z = x d r / (d r + tau)``: of ``x`` as given, whatever the unit of ``r``, ``d`` and ``tau``."""
    ratio = r / tau if tau != 0.0 else 0.0
    if KEEPS and ratio > 0.0 and e.n <= MOST_KEPT and write_near(e, z, ratio):
        return
    for i in span(e, 0, e.n):
        x, d = given(e, i)
        if r == 0.0:
            x = 0.0
        elif tau != 0.0:
            x *= narrow_fraction(d * ratio) if NARROW else shrunk_fraction(d, r, tau)
        store(e, z, i, x)


def clip_group(e: Elements, z: Any, r: float, tau: float, unit: float) -> None:
    """Write ``z = sign(x) min(|x|, unit r)``."""
    most = r * unit
    for i in span(e, 0, e.n):
        store(e, z, i, fmin(fmax(given(e, i)[0], -most), most))
