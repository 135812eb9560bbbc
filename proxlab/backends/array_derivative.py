"""The derivative of the weighted prox on rows, matrices with a group each (docs: the mathematics, §8).

Everything is formed in units of the largest metric, so that no radius is too small or too large, and nothing
that is subtracted in the prox is subtracted again.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from proxlab.namespaces import namespace
from proxlab.penalties import RadialPenalty
from proxlab.powers import exponent, times_power
from proxlab.types import Array

__all__ = [
    "CotangentRows",
    "CurvedRates",
    "Rates",
    "RowGradients",
    "clipped_rates",
    "curved_rates",
    "pull_clipped",
    "pull_curved",
    "pull_radial",
    "radial_rates",
]

# Least ratio of a curvature to the metric that is told from minus infinity.
_STEEP = -1e300
_LARGEST = float(np.finfo(np.float64).max)


class CotangentRows(NamedTuple):
    """Rows of points, their proxes, cotangents of these and metrics; a step and a weight for each."""

    x: Array
    z: Array
    v: Array
    d: Array
    step: Array
    weight: Array


class RowGradients(NamedTuple):
    """The derivatives of ``⟨v, z⟩`` for rows; ``step`` and ``strength`` have one number per row."""

    x: Array
    metric: Array
    step: Array
    strength: Array


class Rates(NamedTuple):
    """How fast slope, curvature and start of each piece, and the elementwise part, grow with the strength."""

    a: list[float]
    c: list[float]
    start: list[float]
    cut: float


class CurvedRates(NamedTuple):
    """A penalty at a strength and at half of it, between which its slope is affine."""

    whole: Any
    half: Any
    strength: float


def _weaker(penalty: Any) -> list[Any] | None:
    """Return a penalty at its strength (1 for 0), a half and a quarter of it; None where it has none."""
    try:
        return [penalty.with_strength((penalty.strength or 1.0) * f) for f in (1.0, 0.5, 0.25)]
    except (TypeError, ValueError, AttributeError):
        return None


def curved_rates(penalty: Any) -> CurvedRates | None:
    """Return what the slope of a curved penalty grows by with the strength; None where that is not affine."""
    three = _weaker(penalty)
    if three is None:
        return None
    r = np.geomspace(1e-3, 1e3, 7)
    with np.errstate(all="ignore"):  # of a slope that leaves the range
        slopes = [h.curve(namespace(r)).slope(r) for h in three]
    affine = np.abs(slopes[0] + 2.0 * slopes[2] - 3.0 * slopes[1]) <= 1e-10 * slopes[0]
    return CurvedRates(three[0], three[1], penalty.strength or 1.0) if affine.all() else None


def clipped_rates(_: Any) -> Rates:
    """Return the rates of the ℓ∞ norm, which is its strength times itself."""
    return Rates([1.0], [0.0], [0.0], 0.0)


def radial_rates(penalty: RadialPenalty) -> Rates | None:
    """Return the rates of a penalty's pieces along ``with_strength``; None where they are not known."""
    three = _weaker(penalty)
    if three is None:
        return None
    data = [np.array([(q.a, q.c, q.start) for q in h.pieces] + [(h.threshold, 0.0, 0.0)]) for h in three]
    if len({a.shape for a in data}) > 1:
        return None
    s = penalty.strength or 1.0
    rate = (data[0] - data[1]) / (0.5 * s)
    # Affine, as the penalties of this package are.
    wrong = np.abs(data[0] - data[2] - 0.75 * s * rate) > 1e-10 * np.abs(data).max(axis=0)
    if wrong.any() or not np.isfinite(rate).all():
        return None
    a, c, start = rate[:-1].T.tolist()
    return Rates(a, c, start, float(rate[-1, 0]))


class _Polar(NamedTuple):
    """Rows as ``z = r·unit``, with a unit that is one for every radius; which are not zero."""

    r: Array
    unit: Array
    alive: Array


class _Slope(NamedTuple):
    """What the derivative takes of a penalty at the radius of each row.

    Its slope, minus its curvature, the derivative of the slope by the strength; where the radius is
    ``fixed``, at a knot, and by how much that ``moves`` with the strength.
    """

    slope: Array
    c: Array
    by_strength: Array
    fixed: Array
    moves: Array


def _no_gradients(xp: Any, x: Array) -> RowGradients:
    """Return the gradients of rows without elements."""
    none = xp.sum(x, axis=1)
    return RowGradients(x, x, none, none)


def _polar(xp: Any, z: Array) -> _Polar:
    scale = xp.max(xp.abs(z), axis=1)
    unit = z / _or_one(xp, scale)[:, None]
    length = _or_one(xp, xp.sqrt(xp.sum(unit * unit, axis=1)))
    return _Polar(xp.clip(scale * length, max=_LARGEST), unit / length[:, None], scale > 0)


def pull_radial(
    xp: Any, rows: CotangentRows, penalty: Any, rates: Rates | None, limit: float
) -> RowGradients:
    """Pull a cotangent ``v`` back through the prox ``z`` of rows, for a table of pieces."""
    x, z, v, d, step, weight = rows
    if x.shape[1] == 0:
        return _no_gradients(xp, x)
    pieces, cut, at = penalty.equation.table, penalty.threshold, _polar(xp, z)
    r = at.r
    slope, c, by_a, by_c = (xp.zeros_like(r) for _ in range(4))
    for k, piece in enumerate(pieces):
        inside = r >= piece.start
        slope = xp.where(inside, piece.a - piece.c * r, slope)
        c = xp.where(inside, xp.full_like(r, piece.c), c)
        if rates is not None:
            by_a = xp.where(inside, xp.full_like(r, rates.a[k]), by_a)
            by_c = xp.where(inside, xp.full_like(r, rates.c[k]), by_c)
    slope = xp.where(slope > 0, slope, xp.zeros_like(slope))
    # At a knot where the slope jumps up the radius stays, and the slope is what holds it there.
    fixed, moves = xp.zeros_like(at.alive), xp.zeros_like(r)
    pull = xp.sum(at.unit * (d * (x - z) - (step * cut)[:, None] * xp.sign(z)), axis=1)
    held = pull / _or_one(xp, step * weight)
    for k, (left, right) in enumerate(pairwise(pieces), start=1):
        knot = right.start
        low, high = left.a - left.c * knot, right.a - right.c * knot
        on = (xp.abs(r - knot) <= limit * knot) & (held > low) & (held < high)
        slope = xp.where(on, held, slope)
        fixed = fixed | on
        if rates is not None:
            moves = xp.where(on, xp.full_like(r, rates.start[k]), moves)
    there = _Slope(slope, c, by_a - by_c * r, fixed, moves)
    rate_cut = None if rates is None else rates.cut
    found = _pull(xp, rows, at, there, cut, rate_cut, penalty.nonnegative)
    if cut != 0 or penalty.nonnegative:
        return found
    first, by_x = pieces[0], found.x
    if first.value == 0 and first.a == 0:
        # A slope that starts from zero has no kink there: the ridge is smooth.
        bend = _product(xp, (step, weight, xp.full_like(r, -first.c)), (xp.ones_like(r),))
        by_x = xp.where(at.alive[:, None], by_x, v * (d / (d + bend[:, None])))
    # A penalty that is not there; pieces without length do not count.
    real = [q for q, after in pairwise(pieces) if after.start > q.start] + [pieces[-1]]
    nothing = (weight == 0) | (not any(any(q[1:]) for q in real))
    return found._replace(x=xp.where(nothing[:, None], v, by_x))


def pull_curved(
    xp: Any, rows: CotangentRows, penalty: Any, rates: CurvedRates | None, _: float
) -> RowGradients:
    """Pull a cotangent ``v`` back through the prox ``z`` of rows, for a curved slope."""
    x, z, v, d, step, weight = rows
    if x.shape[1] == 0:
        return _no_gradients(xp, x)
    at, curve = _polar(xp, z), penalty.curve(xp)
    safe = _or_one(xp, at.r)
    slope, none = curve.slope(safe), xp.zeros_like(safe)
    by_strength = none
    if rates is not None:
        whole, half = (h.curve(xp).slope(safe) for h in (rates.whole, rates.half))
        by_strength = (whole - half) / (0.5 * rates.strength)
    there = _Slope(slope, -curve.curvature(safe), by_strength, xp.zeros_like(at.alive), none)
    rate_cut = None if rates is None else 0.0
    found = _pull(xp, rows, at, there, 0.0, rate_cut, penalty.nonnegative)
    by_x = found.x
    first = float(curve.slope(xp.zeros_like(safe[:1]))[0]) if safe.shape[0] else 1.0
    if not penalty.nonnegative:
        # A penalty that is not there, or without a kink at zero.
        if first == 0:
            bend = step * weight * curve.curvature(xp.full_like(safe, 2.0**-500))
            by_x = xp.where(at.alive[:, None], by_x, v * (d / (d + bend[:, None])))
        by_x = xp.where((weight == 0)[:, None], v, by_x)
    return found._replace(x=by_x)


def _pull(
    xp: Any, rows: CotangentRows, at: _Polar, there: _Slope, cut: float, rate_cut: float | None,
    nonnegative: bool,
) -> RowGradients:  # fmt: skip
    _, z, v, d, step, weight = rows
    r, unit, alive = at
    slope, c, by_strength, fixed, moves = there
    # Elements at zero stay there where the elementwise part holds them.
    on = (z != 0) if cut > 0 or nonnegative else (d > 0) & alive[:, None]
    largest = xp.max(xp.abs(xp.where(on, v, xp.zeros_like(v))), axis=1)
    v_unit = xp.where(on, v / _or_one(xp, largest)[:, None], xp.zeros_like(v))
    top = _or_one(xp, xp.max(xp.where(on, d, xp.zeros_like(d)), axis=1))
    share = xp.where(on, d, xp.zeros_like(d)) / top[:, None]
    sign = xp.sign(z)

    # In units of the largest metric: t = μ/top, curved = ηw p''/top with the other sign. Where t > 1, all is
    # divided by it.
    t = _product(xp, (step, weight, slope), (top, r))
    curved = xp.clip(_product(xp, (step, weight, c), (top,)), min=_STEEP)
    steep = t > 1
    one = xp.ones_like(t)
    small, t_unit = xp.where(steep, one / _or_one(xp, t), one), xp.where(steep, one, t)
    a_unit = t_unit + xp.where(steep, c * r / _or_one(xp, slope), curved)
    beta = share * small[:, None] + t_unit[:, None]
    beta = xp.where(beta > 0, beta, xp.ones_like(beta))
    along = xp.sum(unit * v_unit / beta, axis=1)
    radial = xp.sum(unit * unit * (share - curved[:, None]) / beta, axis=1)
    across = _or_one(xp, xp.sum(unit * unit / beta, axis=1))
    # Where the objective does not grow along the radius, the minimiser is none that moves smoothly.
    fixed = fixed | ~(radial > 0)
    factor = xp.where(fixed, -along * small / across, a_unit * along / _or_one(xp, radial))
    u = xp.where(on, (v_unit * small[:, None] + unit * factor[:, None]) / beta, xp.zeros_like(v))

    flat = (t == 0) & (curved == 0) & ~fixed
    by_x = xp.where(flat[:, None] & on, v_unit, share * u)
    length = xp.clip(_product(xp, (step, weight, slope), (top,)), max=_LARGEST)
    shrunk = length[:, None] * unit
    shrunk = shrunk + _product(xp, (step, one * cut), (top,))[:, None] * sign
    u_unit = xp.where(flat[:, None] & (share == 0), xp.zeros_like(u), u)
    by_metric = xp.where(on, shrunk * u_unit / _or_one(xp, d), xp.zeros_like(u))
    radius, signs = xp.sum(unit * u_unit, axis=1), xp.sum(sign * u_unit, axis=1)
    by_step = -_product(xp, (weight, slope, radius), (top,)) - _product(xp, (one * cut, signs), (top,))
    by_lam = -_product(xp, (step, weight, by_strength, radius), (top,)) + moves * along / across
    if rate_cut is not None:
        by_lam = by_lam - _product(xp, (step, one * rate_cut, signs), (top,))
    none = xp.zeros_like(r)
    return RowGradients(
        xp.where(alive[:, None], by_x * largest[:, None], xp.zeros_like(v)),
        xp.where(alive[:, None], by_metric * largest[:, None], xp.zeros_like(v)),
        xp.where(alive, by_step * largest, none),
        xp.where(alive, by_lam * largest, none),
    )


def pull_clipped(xp: Any, rows: CotangentRows, penalty: Any, _: Any, __: float) -> RowGradients:
    """Pull a cotangent ``v`` back through the prox ``z`` of rows, for the ℓ∞ norm."""
    x, z, v, d, step, weight = rows
    lam = penalty.equation.lam
    if x.shape[1] == 0:
        return _no_gradients(xp, x)
    level = xp.max(xp.abs(z), axis=1)
    alive = level > 0
    size, sign = xp.abs(x), xp.sign(x)
    face = (size >= level[:, None]) & alive[:, None] & (d > 0)
    largest = xp.max(xp.abs(v), axis=1)
    v_unit = v / _or_one(xp, largest)[:, None]
    top = _or_one(xp, xp.max(xp.where(face, d, xp.zeros_like(d)), axis=1))
    share = xp.where(face, d, xp.zeros_like(d)) / top[:, None]
    # The face moves as one, by the mean of its elements in the metric.
    moved = xp.sum(xp.where(face, sign * v_unit, xp.zeros_like(v)), axis=1)
    moved = moved / _or_one(xp, xp.sum(share, axis=1))
    nothing = (weight == 0) | (lam == 0)
    by_x = xp.where(face, share * sign * moved[:, None], xp.where(alive[:, None], v_unit, xp.zeros_like(v)))
    by_x = xp.where(nothing[:, None], v, by_x * largest[:, None])
    above = _product(xp, (size - level[:, None], xp.ones_like(size) * moved[:, None]), (top[:, None],))
    by_metric = xp.where(face & ~nothing[:, None], above * largest[:, None], xp.zeros_like(v))
    one = xp.ones_like(level)
    return RowGradients(
        by_x,
        by_metric,
        -_product(xp, (one * lam, weight, moved, largest), (top,)),
        -_product(xp, (step, weight, moved, largest), (top,)),
    )


def _or_one(xp: Any, a: Array) -> Array:
    """Return the positive elements of an array, and 1 elsewhere: what may be divided by."""
    return xp.where(a > 0, a, xp.ones_like(a))


def _product(xp: Any, over: tuple[Array, ...], under: tuple[Array, ...]) -> Array:
    """Multiply and divide without leaving the range of float64 on the way."""
    value, power = xp.ones_like(over[0]), xp.zeros_like(over[0])
    for k, a in enumerate((*over, *under)):
        own = exponent(xp, xp.abs(a))
        fraction = times_power(xp, a, -own)
        above = k < len(over)
        value, power = (value * fraction, power + own) if above else (value / fraction, power - own)
    return times_power(xp, value, xp.clip(power, -2400.0, 2400.0))
