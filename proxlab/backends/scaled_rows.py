"""Rows in units in which rounding is small: scaled by powers of two, their sums and norms, and the way back.

Quantities named ``…_low`` and ``…_high`` bound the exact ones, rounding included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from proxlab.backends.array_api import zero_margin
from proxlab.backends.ranges import METRIC_CAP
from proxlab.backends.records import Bounds
from proxlab.bounds import UNIT, rounding
from proxlab.penalties.base import row_max
from proxlab.powers import TINIEST, downwards, exponent, times_power
from proxlab.types import Array

__all__ = [
    "BEYOND",
    "LARGEST",
    "LEAST_METRIC",
    "LOST",
    "LOST_DROP",
    "LOST_GAP",
    "LOST_PULL",
    "LOST_SQUARE",
    "LOST_SUM",
    "SPREAD",
    "ScaledRows",
    "constant_where",
    "convex_bounds",
    "corner",
    "exact_margin",
    "finite_or_inf",
    "in_units_of_data",
    "lost_pull",
    "metric_above",
    "metric_norm",
    "no_elements",
    "norm_above",
    "outwards",
    "prepare",
    "row_sum",
    "square_error",
    "sum_height",
]

#: Metrics that put more than this on an element whose |b| is not the largest are not resolved.
SPREAD = 2.0**200
#: Beyond this nothing is said of slopes, curvatures and values.
LARGEST = 2.0**300
#: Coefficients that were capped are at least this.
BEYOND = 2.0**890
#: Where the slope may vanish metrics below this are not resolved; others below the next.
LEAST_METRIC, LEAST_SOUND = 2.0**-700, 2.0**-900
#: What underflow and scaling cost at most, in these units and far below what bounds resolve: an element of
#: the point; one of a pull ``d (z - x)``, as under every metric below that; a sum of squares; one with the
#: metric; a gap that is a product, and one that is a difference.
LOST, LOST_PULL, LOST_SQUARE, LOST_SUM = 2.0**-1000, 2.0**-800, 2.0**-500, 2.0**-700
LOST_GAP, LOST_DROP = 2.0**-900, 2.0**-880
#: Products of double-doubles are formed of factors with smaller exponents.
FORMED = 200


def outwards(xp: Any, v: Array, e: Array, k: float = 4.0) -> Array:
    """Return an upper bound of ``v 2^e`` for ``v >= 0`` with a relative error of ``k`` roundings; NaN becomes
    inf.
    """
    up = times_power(xp, v * (1.0 + rounding(k)), e)
    up = xp.where(v > 0, xp.maximum(up + TINIEST, up), up)
    return xp.where(xp.isnan(v) | xp.isnan(up), xp.full_like(up, math.inf), up)


def constant_where(xp: Any, condition: Array, value: float) -> Array:
    """Return ``value`` where the condition holds, else 0."""
    return value * xp.astype(condition, xp.float64)


def sum_height(n: int) -> int:
    """Return the depth of the summation tree of :func:`row_sum`."""
    return n if n <= 32 else 2 * math.isqrt(n) + 4


def row_sum(xp: Any, a: Array) -> Array:
    """Sum rows in blocks of about √n, so that rounding grows with √n whatever the order within a block."""
    n = a.shape[1]
    if n <= 32:
        return xp.sum(a, axis=1)
    width = math.isqrt(n)
    whole = width * (n // width)
    blocks = xp.sum(xp.reshape(a[:, :whole], (a.shape[0], n // width, width)), axis=2)
    total = xp.sum(blocks, axis=1)
    return total + xp.sum(a[:, whole:], axis=1) if whole < n else total


def norm_above(xp: Any, v: Array) -> Array:
    """Return an upper bound of the norm of each row of ``v >= 0``."""
    e = exponent(xp, row_max(xp, v))
    scaled = times_power(xp, v, -e)
    root = xp.sqrt(row_sum(xp, scaled * scaled))
    return outwards(xp, root, e, sum_height(v.shape[1]) + 8)


def metric_norm(xp: Any, v: Array, d: Array) -> Array:
    """Return an upper bound of the norm of each row of ``v >= 0`` in the metric, underflow included."""
    weighted = v * (xp.sqrt(metric_above(xp, d)) * (1.0 + rounding(2)))
    return norm_above(xp, xp.where(v > 0, xp.maximum(weighted, xp.full_like(v, LOST)), v))


def metric_above(xp: Any, d: Array) -> Array:
    """Return an upper bound of a metric, under which nothing of a product is lost."""
    return d + constant_where(xp, d < LOST_PULL, LOST_PULL)


def square_error(xp: Any, square: Array, off: Array) -> Array:
    """Return what a sum of squares is off by if the norm is by ``off``."""
    return (2.0 * xp.sqrt(square) * (1.0 + 1e-9) + off) * off * (1.0 + rounding(8))


@dataclass
class ScaledRows:
    """Rows in units in which ``max|x|`` and ``max|b|`` are about 1; sizes after the elementwise part of the
    penalty.

    ``z - x`` lies within ``z_error`` of the exact one. ``size`` lies within ``error`` of the exact size,
    which lies in ``[size_low, size_high]``. ``ex`` and ``ed`` are the binary exponents of the units of ``x``
    and ``d``; ``ed`` is even. Where the rows are not ``sound``, ``d`` or the direction of ``z`` is not what
    it was.
    """

    x: Array
    z: Array
    z_error: Array
    d: Array
    sign: Array
    size: Array
    error: Array
    size_low: Array
    size_high: Array
    ex: Array
    ed: Array
    step: Array
    weight: Array
    sound: Array

    def coefficient(
        self, xp: Any, value: float, power_d: int, power_x: int, *, weighted: bool = True
    ) -> Array:
        """Return ``step·weight·value`` in scaled units, to three roundings; out of range it is 2^±900."""
        if value == 0.0:
            return xp.zeros_like(self.step)
        fraction, whole = math.frexp(value)
        es = exponent(xp, self.step)
        total = es + whole - power_d * self.ed - power_x * self.ex
        mantissa = times_power(xp, self.step, -es) * fraction
        weight = self.weight if weighted else xp.ones_like(self.weight)
        ew = exponent(xp, weight)
        mantissa = mantissa * times_power(xp, weight, -ew)
        capped = times_power(xp, mantissa, xp.clip(total + ew, -900.0, 900.0))
        return xp.where(weight > 0, capped, xp.zeros_like(capped))

    def unscale(self, xp: Any, v: Array, power_d: float, power_x: int, *, per_step: bool = False) -> Array:
        """Return an upper bound of ``v >= 0`` in the caller's units, divided by the step if asked."""
        e = power_d * self.ed + power_x * self.ex
        if per_step:
            es = exponent(xp, self.step)
            v = v / times_power(xp, self.step, -es)
            e = e - es
        return outwards(xp, v, e)


def prepare(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, threshold: float, nonnegative: bool
) -> ScaledRows:
    """Apply the elementwise part, with bounds of its rounding, and scale."""
    sign, size = xp.sign(x), xp.abs(x)
    none = xp.zeros_like(size)
    if nonnegative:
        size = xp.where(x > 0, size, none)
    error, low, high = none, size, size
    if threshold > 0:
        product = step * threshold
        sound = (product > LOST) & (product < 1.0 / LOST)
        first = xp.where(sound, product, xp.ones_like(product))[:, None] / d
        other = (step[:, None] / d) * threshold
        sound_other = (other > LOST) & (step[:, None] / d > LOST)
        cut = xp.where(sound[:, None], first, other)
        left = size - cut
        noise = rounding(6) * cut + 2.0 * UNIT * xp.abs(left) + 2.0**-1070
        trusted = sound[:, None] | sound_other
        low = xp.where(trusted & (left > noise), left - noise, none)
        high = xp.where(trusted, xp.where(left + noise > 0, xp.minimum(left + noise, size), none), size)
        size = xp.minimum(xp.maximum(left, low), high)
        size = xp.where(xp.isfinite(size), size, none)
        error = xp.maximum(high - size, size - low)
        error = error * (1.0 + rounding(4))
    ex = exponent(xp, row_max(xp, xp.abs(x)))
    ex = xp.where(row_max(xp, xp.abs(x)) > 0, ex, exponent(xp, row_max(xp, xp.abs(z))))
    raw, z_given, possible = (xp.abs(x), xp.abs(z)), z, high > 0
    x, z, size, error, low, high = (times_power(xp, v, -ex) for v in (x, z, size, error, low, high))
    # What the scaling lost to underflow; what was not zero is not.
    signs = xp.sign(z_given)
    lost_x, lost_z = ((a > 0) & (xp.abs(v) < LOST) for a, v in zip(raw, (x, z), strict=True))
    z_error = constant_where(xp, lost_z | lost_x, LOST)
    z = xp.where(lost_z, signs * LOST, z)
    lost = lost_x | (possible & (high < LOST))
    if bool(xp.any(lost)):
        error = error + constant_where(xp, lost, LOST)
        low = xp.where(lost, none, low)
        high = high + constant_where(xp, lost & possible, LOST)
    own, live = exponent(xp, d), (high > 0) | (z != 0)
    products = xp.where(high > 0, exponent(xp, high) + own, xp.full_like(own, -math.inf))
    ed = row_max(xp, products)
    ed = xp.where(xp.isfinite(ed), ed, row_max(xp, own))
    ed = ed + xp.remainder(ed, xp.full_like(ed, 2.0))
    # Where nothing is, the metric does not matter, and may be beyond all bounds.
    d = xp.where(live, times_power(xp, d, -ed[:, None]), xp.ones_like(d))
    sound = xp.all((d > LEAST_SOUND) & (d <= SPREAD), axis=1)
    # Nor is the direction of the candidate known where it was lost.
    several = xp.sum(xp.astype(z != 0, xp.int64), axis=1) > 1
    sound = sound & ~(several & xp.any(lost_z, axis=1) & (row_max(xp, xp.abs(z)) < LEAST_SOUND))
    d = xp.minimum(d, xp.full_like(d, METRIC_CAP))
    return ScaledRows(x, z, z_error, d, sign, size, error, low, high, ex, ed, step, weight, sound)


def exact_margin(xp: Any, p: ScaledRows, d: Array, raw: float, wanted: Array) -> tuple[Array, Array]:
    """Return where a row's zero test is known to far below rounding, of those wanted, and its margin there.

    That is ``‖D size‖² - (step·weight·raw)²`` from double-doubles; ``size`` and ``d`` must be exact.
    """
    es, ew = exponent(xp, p.step), exponent(xp, p.weight)
    total = es + ew - p.ed - p.ex
    known = wanted & (xp.abs(total) < FORMED) & (2.0**-FORMED < raw < 2.0**FORMED)
    factors = (times_power(xp, p.weight, -ew), times_power(xp, times_power(xp, p.step, -es), total))
    one, other = (xp.where(known, f, xp.ones_like(f)) for f in factors)
    return known, zero_margin(xp, p.size, d, xp.full_like(one, raw), (one, other))


def no_elements(xp: Any, x: Array, step: Array) -> Bounds:
    """Return the certificate of rows without elements."""
    zero = xp.zeros_like(step)
    return Bounds(zero, zero, zero, zero, zero == 0, zero, zero, x, x)


def in_units_of_data(xp: Any, p: ScaledRows, found: Bounds) -> Bounds:
    """Return bounds, which are in the units of the rows, in those of the data: rounded outwards."""
    down = 1.0 - rounding(4)
    assert found.low is not None
    return Bounds(
        p.unscale(xp, found.distance, 0, 1),
        p.unscale(xp, found.metric_distance, 0.5, 1),
        p.unscale(xp, found.stationarity, 1, 1, per_step=True),
        p.unscale(xp, found.gap, 1, 2, per_step=True),
        found.decided,
        downwards(xp, found.lower * down, p.ex),
        p.unscale(xp, found.upper, 0, 1),
        downwards(xp, found.low * down, p.ex),
        outwards(xp, found.high, p.ex),
    )


def finite_or_inf(xp: Any, v: Array) -> Array:
    """Replace NaN by infinity."""
    return xp.where(xp.isnan(v), xp.full_like(v, math.inf), v)


def lost_pull(xp: Any, p: ScaledRows, d: Array) -> Array:
    """Return what underflow and scaling may change the elements of ``d (z - x)`` by."""
    return constant_where(xp, (p.z != p.x) | (p.z_error > 0), LOST_PULL) + d * p.z_error


def corner(xp: Any, p: ScaledRows, low: Array, high: Array) -> Array:
    """Return an upper bound of ``|z_i - z*_i|`` per element from the box of ``z*``."""
    z = p.sign * p.z
    z = xp.where(p.sign == 0, xp.abs(p.z), z)
    return xp.maximum(xp.abs(z - low), xp.abs(high - z)) * (1.0 + rounding(3)) + p.z_error


def convex_bounds(
    xp: Any,
    p: ScaledRows,
    residual: Array,
    stationarity: Array,
    valid: Array,
    distance: Array,
    metric_distance: Array,
    gap: Array,
) -> tuple[Array, Array, Array]:
    """Lower the bounds of distance, metric distance and gap by those that a subgradient ``s`` of ``ηQ``
    gives.

    For convex ``Q``: ``‖z - z*‖_D ≤ ‖s‖_{D⁻¹}``, ``η(Q(z) - Q(z*)) ≤ ‖s‖²_{D⁻¹}/2`` and ``≤ ‖s‖ ‖z - z*‖``.
    """
    far = xp.full_like(distance, math.inf)
    dual = finite_or_inf(xp, norm_above(xp, residual / xp.sqrt(p.d) * (1.0 + rounding(3))))
    dual = xp.where(valid, dual, far)
    metric_distance = xp.minimum(metric_distance, dual)
    least = xp.sqrt(-row_max(xp, -p.d))
    by_metric = dual / xp.where(least > 2.0**-300, least, 0.0 * least) * (1.0 + rounding(4))
    distance = xp.minimum(distance, finite_or_inf(xp, by_metric))
    for other in (0.5 * dual * dual, stationarity * distance):
        gap = xp.minimum(gap, finite_or_inf(xp, other * (1.0 + rounding(4)) + LOST))
    return distance, metric_distance, gap
