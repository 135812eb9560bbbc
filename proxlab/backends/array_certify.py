"""Certificates over any array namespace: rigorous bounds for groups that are rows of a matrix (docs: the
mathematics, §5).

Every row is scaled by powers of two (exact) and computed in float64. Quantities named ``…_low`` and
``…_high`` bound the exact ones, rounding included. What leaves the range in which relative errors are small
ends in the bound that always holds: ``0 ≤ z*_i/x_i ≤ 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from proxlab import bounds
from proxlab.backends.array_api import row_max, zero_margin
from proxlab.backends.build import over_arrays
from proxlab.backends.records import Bounds
from proxlab.bounds import ROUNDING, UNIT, rounding
from proxlab.penalties import GroupLinf, RadialPenalty
from proxlab.penalties.base import Piece
from proxlab.penalties.group_linf import _simplex_threshold as simplex_threshold
from proxlab.powers import downwards, exponent, times_power
from proxlab.types import Array

__all__ = ["free_bounds", "linf_bounds", "radial_bounds", "row_sum", "sum_height"]

FLOOR = 2.0**-300  # radii and thresholds below this share of max|x|, max|b| are not resolved
SPREAD = 2.0**200  # nor metrics that put more than this on an element whose |b| is not the largest
BEYOND = 2.0**890  # coefficients that were capped are at least this
MAX_EVALUATIONS = 60


# -----------------------------------------------------------------------------------------------------------
# Powers of two, sums and norms.


def outwards(xp: Any, v: Array, e: Array, k: float = 4.0) -> Array:
    """Return an upper bound of ``v 2^e`` for ``v >= 0`` with a relative error of ``k`` roundings; NaN becomes
    inf.
    """
    up = times_power(xp, v * (1.0 + rounding(k)), e)
    up = xp.where(v > 0, xp.maximum(up + 2.0**-1074, up), up)
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
    blocks = xp.sum(xp.reshape(a[:, :whole], (a.shape[0], -1, width)), axis=2)
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
    weighted = v * (xp.sqrt(d + constant_where(xp, d < 2.0**-800, 2.0**-800)) * (1.0 + rounding(2)))
    return norm_above(xp, xp.where(v > 0, xp.maximum(weighted, xp.full_like(v, 2.0**-1000)), v))


# -----------------------------------------------------------------------------------------------------------
# Data in scaled units.


@dataclass
class Data:
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
) -> Data:
    """Apply the elementwise part, with bounds of its rounding, and scale."""
    sign, size = xp.sign(x), xp.abs(x)
    none = xp.zeros_like(size)
    if nonnegative:
        size = xp.where(x > 0, size, none)
    error, low, high = none, size, size
    if threshold > 0:
        product = step * threshold
        sound = (product > 2.0**-1000) & (product < 2.0**1000)
        first = xp.where(sound, product, xp.ones_like(product))[:, None] / d
        other = (step[:, None] / d) * threshold
        sound_other = (other > 2.0**-1000) & (step[:, None] / d > 2.0**-1000)
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
    lost_x, lost_z = ((a > 0) & (xp.abs(v) < 2.0**-1000) for a, v in zip(raw, (x, z), strict=True))
    z_error = constant_where(xp, lost_z | lost_x, 2.0**-1000)
    z = xp.where(lost_z, signs * 2.0**-1000, z)
    lost = lost_x | (possible & (high < 2.0**-1000))
    if bool(xp.any(lost)):
        error = error + constant_where(xp, lost, 2.0**-1000)
        low = xp.where(lost, none, low)
        high = high + constant_where(xp, lost & possible, 2.0**-1000)
    own, live = exponent(xp, d), (high > 0) | (z != 0)
    products = xp.where(high > 0, exponent(xp, high) + own, xp.full_like(own, -math.inf))
    ed = row_max(xp, products)
    ed = xp.where(xp.isfinite(ed), ed, row_max(xp, own))
    ed = ed + xp.remainder(ed, xp.full_like(ed, 2.0))
    # Where nothing is, the metric does not matter, and may be beyond all bounds.
    d = xp.where(live, times_power(xp, d, -ed[:, None]), xp.ones_like(d))
    sound = xp.all((d > 2.0**-900) & (d <= SPREAD), axis=1)
    # Nor is the direction of the candidate known where it was lost.
    several = xp.sum(xp.astype(z != 0, xp.int64), axis=1) > 1
    sound = sound & ~(several & xp.any(lost_z, axis=1) & (row_max(xp, xp.abs(z)) < 2.0**-900))
    d = xp.minimum(d, xp.full_like(d, 2.0**900))
    return Data(x, z, z_error, d, sign, size, error, low, high, ex, ed, step, weight, sound)


# -----------------------------------------------------------------------------------------------------------
# The radius of the candidate that is a root of the secular equation, or zero: the inner one.


@dataclass
class Slopes:
    """A piece of the slope in scaled units: ``tau = alpha - shift r`` on ``[start, end]``."""

    start: Array
    end: Array
    alpha: Array
    shift: Array


@dataclass
class Inner:
    """Bracket of the inner candidate's radius, with the slopes that hold at its two ends."""

    lower: Array
    upper: Array
    at_lower: tuple[Array, Array]
    at_upper: tuple[Array, Array]
    zero: Array
    nonzero: Array
    margin_high: Array


def tau_at(xp: Any, r: Array, slopes: tuple[Array, Array]) -> Array:
    """Return ``tau`` at a radius."""
    tau = slopes[0] - slopes[1] * r
    return xp.where(tau > 0, tau, xp.zeros_like(tau))


class Equation:
    """The secular equation of every row, with the rounding errors of its sums."""

    def __init__(self, xp: Any, p: Data, curved: bool) -> None:
        self.xp, self.p, self.n = xp, p, p.x.shape[1]
        self.b = p.size * p.d
        self.b_error = p.error * p.d * (1.0 + rounding(4))
        self.dmin = -row_max(xp, -p.d)
        self.dmax = row_max(xp, p.d)
        self.k = ROUNDING[curved]
        self.height = sum_height(self.n)
        self.exact = not bool(xp.any(p.error > 0))
        self.terms, self.bracket = over_arrays(bounds.terms, xp), over_arrays(bounds.bracket, xp)
        self.newton, self.steepest = over_arrays(bounds.newton, xp), over_arrays(bounds.steepest, xp)

    def enclose(
        self, r: Array, slopes: tuple[Array, Array], far: Array, margin: Any = None
    ) -> tuple[Array, ...]:
        """Return bounds of the root from one evaluation, and where Newton's method goes from there.

        ``margin`` replaces ``S - 1`` where it is known better: its lower and upper bound.
        """
        xp, p = self.xp, self.p
        shift = slopes[1]
        tau = tau_at(xp, r, slopes)
        tau = xp.where((tau > 0) | (r > 0), tau, xp.ones_like(tau))
        s, s1, b1 = self.terms(self.b, p.d, r[:, None], tau[:, None], shift[:, None])
        s, s1, b1 = row_sum(xp, s), row_sum(xp, s1), row_sum(xp, b1)
        m = xp.maximum(self.steepest(self.dmin, r, tau, shift), self.steepest(self.dmax, r, tau, shift))
        tiny = self.n * 2.0**-500
        noise = rounding(self.height + self.k[0]) * s + tiny
        slack = rounding(self.height + self.k[1]) * b1 + tiny * m
        if not self.exact:
            off = self.lost(r, tau, s)
            noise = noise + off
            slack = slack + off * m
        below, above = s - 1.0 - noise, s - 1.0 + noise
        if margin is not None:
            below, above = margin
        lower, upper = self.bracket(r, below, above, s1, slack, m, b1 + slack, shift, far)
        ahead = xp.where(s1 > 0, self.newton(r, s, s1), xp.zeros_like(s1))
        return lower, upper, ahead, below, above

    def lost(self, r: Array, tau: Array, s: Array) -> Array:
        """Return what the errors of ``b`` may change a computed ``S`` by."""
        xp = self.xp
        lost = self.b_error / (self.p.d * r[:, None] + tau[:, None])
        off = xp.sqrt(row_sum(xp, lost * lost)) * (1.0 + rounding(self.height + 32))
        return (2.0 * xp.sqrt(s) * (1.0 + 1e-9) + off) * off * (1.0 + rounding(8))


def find_inner(
    xp: Any, p: Data, pieces: tuple[Slopes, ...], reach: Array, usable: Array, raw: float
) -> Inner:
    """Enclose the radius at which ``F'`` turns from negative to nonnegative: a root of the secular equation,
    or zero.

    Parameters
    ----------
    p : Data
    pieces : tuple of Slopes
        The pieces with a slope; on their union there is at most one such radius.
    reach : array
        Upper bound of the radius.
    usable : array of bool
        The rows in which relative errors are small; the others keep ``[0, reach]``.
    raw : float
        ``p'(0+)`` in the penalty's own units.
    """
    curved = any(bool(xp.any(piece.shift > 0)) for piece in pieces)
    eq = Equation(xp, p, curved)
    zero = xp.zeros_like(reach)
    ones = xp.ones_like(reach)
    first = pieces[0]
    alpha, shift = first.alpha, first.shift
    # The zero test: the sign of ‖b‖² - alpha².
    bb = row_sum(xp, eq.b * eq.b)
    tame = usable & (alpha > FLOOR) & (alpha < 2.0**100)
    strength = xp.where(tame, alpha, ones)
    margin = (xp.sqrt(bb) - strength) * (xp.sqrt(bb) + strength)
    off = xp.sqrt(row_sum(xp, eq.b_error * eq.b_error)) * (1.0 + rounding(eq.height + 8))
    off = (2.0 * xp.sqrt(bb) * (1.0 + 1e-9) + off) * off * (1.0 + rounding(8))
    error_share = rounding(eq.height + 16)
    error = error_share * (bb + strength * strength) + off
    close = tame & (xp.abs(margin) <= 1e-5 * bb)
    if eq.exact and bool(xp.any(close)):
        es, ew = exponent(xp, p.step), exponent(xp, p.weight)
        total = es + ew - p.ed - p.ex
        factors = (times_power(xp, p.weight, -ew), times_power(xp, times_power(xp, p.step, -es), total))
        close = close & (total > -200) & (total < 200) & (2.0**-200 < raw < 2.0**200)
        factors = tuple(xp.where(close, f, ones) for f in factors)
        sharp = zero_margin(xp, p.size, p.d, xp.full_like(strength, raw), factors)
        margin = xp.where(close, sharp, margin)
        error = xp.where(close, 2.0**-90 * (bb + strength * strength) + 8.0 * UNIT * xp.abs(sharp), error)
    margin_high = xp.where(tame, margin + error, xp.full_like(zero, math.inf))
    empty = row_max(xp, p.size_high) == 0
    is_zero = empty | (tame & (margin + error <= 0)) | (usable & (alpha >= 2.0**100))
    sure = xp.where(
        tame, margin - error > 0, (alpha <= FLOOR) & (bb * (1.0 - error_share) - off > 4.0 * FLOOR**2)
    )
    nonzero = usable & ~is_zero & sure

    # What the sums at zero say.
    end = pieces[-1].end
    lower, upper = zero, xp.minimum(reach, end)
    squared = strength * strength * (1.0 + rounding(8))
    rel = (margin - error) / squared, (margin + error) / (strength * strength) * (1.0 + rounding(8))
    rel = xp.where(rel[0] < 0, rel[0] * (1.0 + rounding(20)), rel[0]), rel[1]
    near_low, near_high, _, _, _ = eq.enclose(zero, (strength, shift), upper, rel)
    at_zero = tame & ~is_zero
    lower = xp.where(at_zero & nonzero, xp.minimum(near_low, first.end), lower)
    upper = xp.where(at_zero & (near_high < first.end), xp.minimum(near_high, upper), upper)
    lower, upper = xp.where(is_zero, zero, lower), xp.where(is_zero, zero, upper)

    # Which piece?
    alpha_low, shift_low = alpha, shift
    alpha_high, shift_high = alpha, shift
    open_ = usable & ~is_zero
    for before, piece in pairwise(pieces):
        knot = piece.start
        on = open_ & (knot > FLOOR) & (knot < upper)
        spot = xp.where(on, knot, ones)
        left, _, _, below, above = eq.enclose(spot, (before.alpha, before.shift), spot)
        _, right, _, _, _ = eq.enclose(spot, (piece.alpha, piece.shift), upper)
        beyond, short = on & (below > 0), on & (above < 0)
        lower = xp.where(beyond, xp.maximum(lower, knot * (1.0 - 1e-15)), lower)
        upper = xp.where(short, xp.minimum(upper, knot * (1.0 + 1e-15)), upper)
        astride = on & ~beyond & ~short
        lower = xp.where(astride, xp.maximum(lower, left), lower)
        upper = xp.where(astride, xp.minimum(upper, xp.maximum(right, knot * (1.0 + 1e-15))), upper)
        later = beyond | (open_ & (knot <= FLOOR))
        alpha_low, shift_low = (
            xp.where(later, piece.alpha, alpha_low),
            xp.where(later, piece.shift, shift_low),
        )
        later = later | astride
        alpha_high, shift_high = (
            xp.where(later, piece.alpha, alpha_high),
            xp.where(later, piece.shift, shift_high),
        )
        open_ = open_ & ~astride
    slopes = (alpha_low, shift_low)

    # Evaluate at the candidate's own radius, then follow Newton's method until the bracket no longer shrinks.
    z_norm = norm_above(xp, xp.abs(p.z))
    bbd = row_sum(xp, eq.b * eq.b * (p.d + xp.abs(shift_low)[:, None]))
    safe = xp.where(bbd > 0, bbd, ones)
    start = 4.0 * rounding(eq.height + eq.k[0]) * bb * xp.sqrt(bb) / safe
    r = xp.maximum(xp.where(z_norm > 0, z_norm, lower), start)
    stalled = zero
    for _ in range(MAX_EVALUATIONS):
        narrow = upper - lower <= 1e-7 * upper
        open_ = open_ & (upper - lower > 4.0 * UNIT * upper) & (upper > FLOOR)
        open_ = open_ & (stalled < xp.where(narrow, 1.0 * ones, 16.0 * ones))
        if not bool(xp.any(open_)):
            break
        r = xp.maximum(xp.minimum(xp.maximum(r, lower), upper), xp.full_like(r, FLOOR))
        can = open_ & (tau_at(xp, r, slopes) + eq.dmax * r > FLOOR)
        spot = xp.where(can, r, ones)
        low, high, ahead, below, above = eq.enclose(spot, slopes, upper)
        lower = xp.where(can, xp.maximum(lower, low), lower)
        upper = xp.where(can, xp.minimum(upper, high), upper)
        # Within rounding of the root, or nowhere to go: halve what is left a few times.
        lost = ((below <= 0) & (above >= 0)) | ~can
        stalled = xp.where(lost, stalled + 1.0, stalled)
        r = xp.where((ahead > 0) & xp.isfinite(ahead), ahead, lower)
        r = xp.where(lost | (r > upper), 0.5 * (lower + upper), r)
    return Inner(
        lower, upper, (alpha_low, shift_low), (alpha_high, shift_high), is_zero, nonzero, margin_high
    )


# -----------------------------------------------------------------------------------------------------------
# Radial penalties.


def radial_bounds(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: RadialPenalty
) -> Bounds:
    """Certify every row for a radial penalty.

    Parameters
    ----------
    z : array of shape (rows, n), float64
        The candidate.
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    penalty : RadialPenalty
    """
    n = x.shape[1]
    if n == 0:
        return no_elements(xp, x, step)
    p = prepare(xp, z, x, d, step, weight, penalty.threshold, penalty.nonnegative)
    table = penalty.equation.table
    first, last = table[0], table[-1]
    jumps = first.value > 0
    flat_end = (len(table) > 1 or jumps) and last.a == 0 and last.c == 0
    pieces = scaled_pieces(xp, p, table)
    steep = tuple(piece for piece, q in zip(pieces, table, strict=True) if q.a != 0 or q.c != 0)
    zero = xp.zeros_like(step)
    yes, no = zero == 0, zero > 0
    trivial = row_max(xp, p.size_high) == 0
    known = p.sound & xp.all(xp.isfinite(p.z), axis=1)
    for piece, q in zip(pieces, table, strict=True):
        if q.start > 0:  # a piece that begins where nothing is resolved
            known = known & (piece.start > 2.0**-800)
    usable = known & (yes if penalty.equation.compiled else no)
    if any(q.c > 0 for q in table):  # tau may vanish: no element of the metric may
        usable = usable & (-row_max(xp, -p.d) > 2.0**-700)
    # The penalty is constant: z* = x after the elementwise part.
    flat = weight == 0
    if first.a == 0 and first.c >= 0 and not jumps:
        flat = yes
    norm_x = norm_above(xp, p.size_high)
    norm_x_low = norm_above(xp, p.size_low) * (1.0 - rounding(2 * sum_height(n) + 24))

    inner, weak = inner_candidate(xp, p, steep, norm_x, usable & ~flat, flat_end, first.a)
    usable = usable & ~(weak & flat_end)
    k = ROUNDING[any(q.c > 0 for q in table)][2]
    # Coefficients beyond scale were capped: a stronger ridge has a smaller radius, a steeper bend any.
    largest = largest_coefficient(xp, p, pieces, table)
    steepest = zero
    for piece in pieces:
        steepest = xp.maximum(steepest, piece.shift)
    usable = usable & ~(steepest >= BEYOND)
    lower = xp.where(usable & ~(largest >= BEYOND), inner.lower, zero)
    upper = xp.where(inner.zero, zero, xp.where(usable & ~weak, inner.upper, norm_x))
    possible = (lower <= upper) | (yes if not flat_end else no)
    upper = xp.maximum(lower, upper)
    tau_upper = tau_at(xp, upper, inner.at_upper)
    low = (
        p.size_low * share(xp, p.d, lower, tau_at(xp, lower, inner.at_lower)) * (1.0 - rounding(k))
        - 2.0**-1000
    )
    high = p.size_high * share(xp, p.d, upper, tau_upper) * (1.0 + rounding(k)) + 2.0**-1000
    low = xp.where((low > 0) & usable[:, None], low, xp.zeros_like(low))
    high = xp.where((usable & ~weak)[:, None], xp.minimum(high, p.size_high), p.size_high)
    high = xp.where(inner.zero[:, None], xp.zeros_like(high), high)
    decided = inner.zero | (inner.nonzero & usable)

    # The other candidate: x itself, where the penalty is flat.
    inside, outside = yes, no
    edge = zero
    if flat_end:
        rho = pieces[-1].start if not jumps else zero
        fuzz = rounding(2 * sum_height(n) + 40)
        on_flat = (norm_x * (1.0 + fuzz) >= rho) & ~trivial
        edge = xp.where(
            norm_x_low * (1.0 - fuzz) < rho, 4.0 * fuzz * rho * (pieces[0].alpha if steep else zero), zero
        )
        better, worse = compare(xp, p, pieces, table, lower, upper, tau_upper, high, edge)
        outside = on_flat & ~(usable & possible & better)
        inside = ~on_flat | (possible & ~(usable & worse))
        decided = xp.where(inside & outside, no, xp.where(outside, usable, decided))
    inside, outside = inside & ~flat, outside | flat
    decided = xp.where(flat, (row_max(xp, p.size_low) > 0) | trivial, decided) | trivial
    both = inside & outside
    box_low = xp.where(
        both[:, None], xp.minimum(low, p.size_low), xp.where(outside[:, None], p.size_low, low)
    )
    box_high = xp.where(outside[:, None], p.size_high, high)

    # Two candidates that rounding does not tell apart are one.
    width = norm_above(xp, xp.maximum(box_high - box_low, xp.zeros_like(box_low)))
    decided = decided | (both & usable & (width <= rounding(8 * sum_height(n) + 8 * k) * norm_x))

    # From the box to the bounds.
    off = corner(xp, p, box_low, box_high)
    d_high = p.d + constant_where(xp, p.d < 2.0**-800, 2.0**-800)
    far = xp.full_like(zero, math.inf)
    distance = norm_above(xp, off)
    metric_distance = xp.where(known, metric_norm(xp, off, p.d), far)
    residual, stationarity = stationarity_above(xp, p, pieces, table, penalty, inner.margin_high, d_high)
    stationarity = finite_or_inf(xp, stationarity)
    gap = gap_above(xp, p, pieces, table, inner, lower, upper, distance, metric_distance)
    flat_gap = 0.5 * metric_distance * metric_distance * (1.0 + rounding(4)) + edge
    if flat_end:
        gain = gain_at(xp, p, pieces, table, norm_above(xp, xp.abs(p.z)))
        flat_gap = xp.maximum(flat_gap - gain, zero) * (1.0 + rounding(4)) + 2.0**-880
        flat_gap = xp.where(metric_distance > 0, flat_gap, edge)
    gap = xp.where(both, xp.maximum(gap, flat_gap), xp.where(outside, flat_gap, gap))
    largest = xp.maximum(largest, p.coefficient(xp, penalty.threshold, 1, 1, weighted=False))
    capped = (row_max(xp, xp.abs(p.z)) > 0) & (largest >= BEYOND)
    gap, stationarity = (xp.where(known & ~capped, v, far) for v in (gap, stationarity))
    outside_domain = xp.any(z < 0, axis=1) if penalty.nonnegative else no
    stationarity = xp.where(outside_domain, far, stationarity)
    if penalty.equation.proved_convex:
        distance, metric_distance, gap = convex_bounds(
            xp, p, residual, stationarity, known & ~capped & ~outside_domain, distance, metric_distance, gap
        )
    if penalty.threshold > 0 or penalty.nonnegative:
        gap = xp.where(outside_domain, far, gap + extra_gap(xp, p, penalty))
    lower = xp.where(inside, lower, norm_x_low)
    upper = xp.where(outside, norm_x, xp.minimum(upper, norm_x))
    return in_units_of_data(
        xp,
        p,
        Bounds(
            distance,
            metric_distance,
            stationarity,
            gap,
            decided,
            xp.minimum(lower, upper),
            upper,
            box_low,
            box_high,
        ),
    )


def no_elements(xp: Any, x: Array, step: Array) -> Bounds:
    """Return the certificate of rows without elements."""
    zero = xp.zeros_like(step)
    return Bounds(zero, zero, zero, zero, zero == 0, zero, zero, x, x)


def in_units_of_data(xp: Any, p: Data, found: Bounds) -> Bounds:
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


def convex_bounds(
    xp: Any,
    p: Data,
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
        gap = xp.minimum(gap, finite_or_inf(xp, other * (1.0 + rounding(4)) + 2.0**-1000))
    return distance, metric_distance, gap


def share(xp: Any, d: Array, r: Array, tau: Array) -> Array:
    """Return ``z_i/x_i = d_i r/(d_i r + tau)``; 0 at ``r = 0``."""
    y = d * xp.where(r > 0, r, xp.ones_like(r))[:, None]
    return xp.where((r > 0)[:, None], y / (y + tau[:, None]), xp.zeros_like(y))


def scaled_pieces(xp: Any, p: Data, table: tuple[Piece, ...]) -> tuple[Slopes, ...]:
    """Return the pieces of the slope of ``step·weight·p`` in scaled units."""
    zero = xp.zeros_like(p.step)
    starts = [times_power(xp, zero + q.start, -p.ex) for q in table] + [zero + math.inf]
    return tuple(
        Slopes(start, end, p.coefficient(xp, q.a, 1, 1), p.coefficient(xp, q.c, 1, 0))
        for q, start, end in zip(table, starts, starts[1:], strict=False)
    )


def largest_coefficient(xp: Any, p: Data, pieces: tuple[Slopes, ...], table: tuple[Piece, ...]) -> Array:
    """Return the largest slope, curvature or jump of ``step·weight·p`` in scaled units."""
    largest = p.coefficient(xp, table[0].value, 1, 2)
    for q in pieces:
        largest = xp.maximum(largest, xp.maximum(q.alpha, xp.abs(q.shift)))
    return largest


def inner_candidate(
    xp: Any, p: Data, steep: tuple[Slopes, ...], reach: Array, usable: Array, flat_end: bool, raw: float
) -> tuple[Inner, Array]:
    """Enclose the inner candidate; also return where the slope is too weak to resolve.

    There the candidate of a stronger penalty is enclosed: in modulus it is less in every element.
    """
    zero = xp.zeros_like(reach)
    if not steep:  # ℓ0, or no penalty
        ends = (zero, zero)
        return Inner(zero, zero, ends, ends, zero == 0, zero > 0, zero + math.inf), zero > 0
    q = steep[0]
    weak = usable & (q.alpha < 4.0 * FLOOR) & (xp.abs(q.shift) < 2.0**-150)
    q = Slopes(q.start, q.end, xp.where(weak, xp.full_like(zero, 4.0 * FLOOR), q.alpha), q.shift)
    usable = usable & ~(weak & flat_end)
    return find_inner(xp, p, (q, *steep[1:]), reach, usable, raw), weak


def drop(xp: Any, pieces: tuple[Slopes, ...], r: Array) -> tuple[Array, Array]:
    """Return bounds of ``p(∞) - p(r)``, ``r > 0``, for a penalty that ends flat."""
    total, error = xp.zeros_like(r), xp.zeros_like(r)
    for q in pieces[:-1]:
        begin = xp.maximum(r, q.start)
        length = xp.maximum(q.end - begin, xp.zeros_like(r))
        slope = q.alpha - 0.5 * q.shift * (begin + q.end)
        total = total + length * slope
        error = error + rounding(20) * (q.end * xp.abs(slope) + q.alpha * length) + 1e-28 * q.alpha * q.end
    return total - error, total + error


def compare(
    xp: Any,
    p: Data,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    lower: Array,
    upper: Array,
    tau: Array,
    high: Array,
    edge: Array,
) -> tuple[Array, Array]:
    """Return where the inner candidate is proved to be better than x, and where it is proved to be worse.

    ``Q(z) - Q(x) = p(‖z‖) - p(‖x‖) + ‖z - x‖²_D/2η``, at the root itself from below and at a point near it
    from above.
    """
    ratio = tau[:, None] / (p.d * upper[:, None] + tau[:, None])
    ratio = xp.where((upper > 0)[:, None], ratio, xp.ones_like(ratio))
    k = sum_height(p.x.shape[1]) + 100
    moved_low = 0.5 * row_sum(xp, p.d * (p.size_low * ratio) ** 2) * (1.0 - rounding(k))
    moved_high = 0.5 * row_sum(xp, p.d * (p.size_high * ratio) ** 2) * (1.0 + rounding(k)) + 2.0**-500
    if table[0].value > 0:
        loss_high = p.coefficient(xp, table[0].value, 1, 2) * (1.0 + rounding(6))
    else:
        _, loss_high = drop(xp, pieces, lower)
    gain_low = gain_at(xp, p, pieces, table, norm_above(xp, high))
    return moved_high + edge < gain_low, moved_low > loss_high


def gain_at(xp: Any, p: Data, pieces: tuple[Slopes, ...], table: tuple[Piece, ...], r: Array) -> Array:
    """Return a lower bound of ``p(∞) - p(r)``, given an upper bound of ``r``, for a penalty that ends
    flat.
    """
    if table[0].value > 0:
        jump = p.coefficient(xp, table[0].value, 1, 2) * (1.0 - rounding(6))
        return xp.where(r > 0, 0.0 * jump, jump)
    gain, _ = drop(xp, pieces, r)
    return xp.maximum(gain, 0.0 * gain)


def corner(xp: Any, p: Data, low: Array, high: Array) -> Array:
    """Return an upper bound of ``|z_i - z*_i|`` per element from the box of ``z*``."""
    z = p.sign * p.z
    z = xp.where(p.sign == 0, xp.abs(p.z), z)
    return xp.maximum(xp.abs(z - low), xp.abs(high - z)) * (1.0 + rounding(3)) + p.z_error


def stationarity_above(
    xp: Any,
    p: Data,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    penalty: RadialPenalty,
    margin_high: Array,
    d: Array,
) -> tuple[Array, Array]:
    """Return an upper bound of the elements of the least subgradient of ``ηQ`` at the candidate, and of its
    norm; ``margin_high`` is an upper bound of ``‖b‖² - (η p'(0+))²``.
    """
    zero = xp.zeros_like(p.step)
    height = sum_height(p.x.shape[1])
    norm_z = norm_above(xp, xp.abs(p.z))
    positive = norm_z > 0
    r = xp.where(positive, norm_z, zero + 1.0)
    cut = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)[:, None]
    pull = d * (p.z - p.x)
    lost = constant_where(xp, (p.z != p.x) | (p.z_error > 0), 2.0**-800) + d * p.z_error
    # Elements at zero: the elementwise part absorbs what it can.
    push = -pull if penalty.nonnegative else xp.abs(pull)
    off = push * (1.0 + rounding(6)) - cut * (1.0 - rounding(6))
    off = xp.where(off > 0, off, xp.zeros_like(off))
    fuzz = rounding(2 * height + 32)
    residual = xp.zeros_like(p.x)
    norm = zero
    for q in pieces:
        here = positive & (r * (1.0 + fuzz) >= q.start) & (r * (1.0 - fuzz) <= q.end)
        slope = q.alpha - q.shift * r
        signed = pull + cut * xp.sign(p.z) + slope[:, None] * (p.z / r[:, None])
        error = rounding(8) * (xp.abs(pull) + cut)
        error = error + (rounding(3 * height + 56) * (xp.abs(q.alpha) + xp.abs(q.shift) * r) / r)[
            :, None
        ] * xp.abs(p.z)
        # What underflows of the slope may count where the metric is small.
        faint = constant_where(xp, (p.z != 0) & (slope != 0)[:, None], 2.0**-1070)
        elements = xp.where(p.z == 0, off, xp.abs(signed) + error) + lost + faint
        worse = norm_above(xp, elements)
        residual = xp.where((here & (worse >= norm))[:, None], elements, residual)
        norm = xp.where(here, xp.maximum(norm, worse), norm)
    # At zero: what ‖b‖ exceeds the slope by, along b.
    strength = pieces[0].alpha
    if table[0].value > 0:
        return xp.where(positive[:, None], residual, xp.zeros_like(residual)), xp.where(positive, norm, zero)
    b = p.size_high * d * (1.0 + rounding(4))
    length = norm_above(xp, b)
    excess = xp.maximum(length - strength * (1.0 - rounding(8)), zero)
    sharp = (
        xp.maximum(margin_high, zero)
        / xp.where(length > 0, length, zero + 1.0)
        * (1.0 + rounding(3 * height + 40))
    )
    excess = xp.minimum(excess, finite_or_inf(xp, sharp))
    at_zero = (
        b * (excess / xp.where(length > 0, length, zero + 1.0) * (1.0 + rounding(3 * height + 40)))[:, None]
    )
    norm = xp.where(positive, norm, excess)
    return xp.where(positive[:, None], residual, at_zero), norm


def gap_above(
    xp: Any,
    p: Data,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    inner: Inner,
    lower: Array,
    upper: Array,
    distance: Array,
    metric_distance: Array,
) -> Array:
    """Return an upper bound of ``η(Q(z) - Q(z*))`` where ``z*`` is the inner candidate.

    With ``δ = z - z*`` and ``ρ = ‖z‖ - ‖z*‖`` it is ``p'(r*)(‖δ‖² - ρ²)/2r* + ‖δ‖²_D/2`` at most for a
    concave ``p`` (with a ridge its share of ``‖δ‖²`` is whole). Near zero it is ``Q(z) - Q(0)`` and what zero
    itself misses.
    """
    height = sum_height(p.x.shape[1])
    zero = xp.zeros_like(p.step)
    norm_z = norm_above(xp, xp.abs(p.z))
    norm_z_low = norm_z * (1.0 - rounding(2 * height + 24))
    radial = xp.maximum(xp.maximum(norm_z_low - upper, lower - norm_z), zero) * (1.0 - rounding(4))
    square = distance * distance * (1.0 + rounding(3))
    across = xp.maximum(square - radial * radial * (1.0 - rounding(3)), zero) * (1.0 + rounding(3))
    across = xp.minimum(across, finite_or_inf(xp, sideways(xp, p, inner, lower, upper, norm_z)))
    half = 0.5 * metric_distance * metric_distance * (1.0 + rounding(3))
    ridge = xp.maximum(-pieces[0].shift, zero)
    alpha, shift = inner.at_lower
    tau = xp.maximum(alpha - xp.maximum(shift, zero) * lower, zero) + rounding(40) * alpha
    curved = tau / xp.where(lower > 0, lower, zero + 1.0) * across
    by_root = (0.5 * curved + 0.5 * ridge * square + half) * (1.0 + rounding(12)) + 2.0**-900
    # How far the concave p stays below its tangent at r*, counted on the piece of r* only.
    same = (inner.at_lower[0] == inner.at_upper[0]) & (inner.at_lower[1] == inner.at_upper[1])
    for q in pieces:
        on = same & (q.alpha == alpha) & (q.shift == shift) & (shift > 0)
        room = xp.where(norm_z > upper, q.end - upper, lower - q.start) * (1.0 - rounding(8))
        room = xp.maximum(xp.minimum(radial, room), zero)
        sag = 0.5 * shift * room * room * (1.0 - rounding(12))
        by_root = xp.where(on, xp.maximum(by_root - sag, zero) * (1.0 + rounding(4)) + 2.0**-900, by_root)
    by_root = xp.where((lower > 0) & ~inner.zero, finite_or_inf(xp, by_root), xp.full_like(zero, math.inf))
    # From zero.
    value, jump = zero, table[0].value
    for q in pieces:
        length = xp.maximum(xp.minimum(norm_z, q.end) - q.start, zero)
        middle = xp.where(length > 0, q.start + 0.5 * length, zero)
        value = value + length * (q.alpha + xp.abs(q.shift) * middle) * rounding(40)
        value = value + length * (q.alpha - q.shift * middle)
    if jump > 0:
        value = value + xp.where(norm_z > 0, p.coefficient(xp, jump, 1, 2) * (1.0 + rounding(8)), zero)
    b = p.size * p.d
    z = xp.abs(p.z)
    inner_product = row_sum(xp, b * p.sign * p.z)
    square_z = row_sum(xp, p.d * z * z)
    noise = rounding(height + 24) * (value + row_sum(xp, b * z) + square_z) + row_sum(
        xp, p.d * p.error * z
    ) * (1.0 + 1e-9)
    excess = (alpha_excess(xp, p, pieces, inner) + xp.maximum(pieces[0].shift, zero) * upper) * upper
    touched = constant_where(xp, (norm_z > 0) | (upper > 0), 2.0**-700)
    from_zero = (
        xp.maximum(value - inner_product + 0.5 * square_z, zero) + noise + xp.maximum(excess, zero) + touched
    )
    return xp.minimum(by_root, finite_or_inf(xp, from_zero * (1.0 + rounding(12))))


def sideways(xp: Any, p: Data, inner: Inner, lower: Array, upper: Array, norm_z: Array) -> Array:
    """Return an upper bound of ``‖δ‖² - ρ² = ‖z‖ r* ‖z/‖z‖ - u*‖²``, where ``u* = z*/r*``, ``u_i(r) =
    b_i/(d_i r + tau)``.
    """
    k = 2 * sum_height(p.x.shape[1]) + 60
    ends = []
    for r, slopes in ((lower, inner.at_lower), (upper, inner.at_upper)):
        tau = tau_at(xp, r, slopes)[:, None]
        ends.append(p.d / (p.d * r[:, None] + tau))
    low = p.size_low * xp.minimum(*ends) * (1.0 - rounding(k))
    high = p.size_high * xp.maximum(*ends) * (1.0 + rounding(k))
    z = (
        xp.where(p.sign == 0, xp.abs(p.z), p.sign * p.z)
        / xp.where(norm_z > 0, norm_z, 1.0 + 0.0 * norm_z)[:, None]
    )
    off = xp.maximum(xp.abs(z - low), xp.abs(high - z)) + rounding(k) * xp.abs(z) + 2.0**-400
    same = (inner.at_lower[0] == inner.at_upper[0]) & (inner.at_lower[1] == inner.at_upper[1])
    turn = norm_above(xp, off)
    return xp.where(same, norm_z * upper * turn * turn * (1.0 + rounding(8)), xp.full_like(turn, math.inf))


def alpha_excess(xp: Any, p: Data, pieces: tuple[Slopes, ...], inner: Inner) -> Array:
    """Return an upper bound of ``‖b‖ - p'(0+)``; infinite where zero is not known not to matter."""
    length = norm_above(xp, p.size_high * p.d * (1.0 + rounding(4)))
    return xp.where(
        inner.zero,
        xp.zeros_like(length),
        xp.maximum(length - pieces[0].alpha * (1.0 - rounding(8)), 0.0 * length),
    )


def extra_gap(xp: Any, p: Data, penalty: RadialPenalty) -> Array:
    """Return an upper bound of what the elementwise part adds to ``η(Q(z) - Q(z*))`` over its shrunk data.

    ``d_i (t_i |z_i| - (x_i - x̃_i) z_i)`` per element: zero where ``z_i`` keeps the sign of a nonzero
    ``x̃_i``.
    """
    cut = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)[:, None]
    z = xp.abs(p.z) + p.z_error
    same = xp.sign(p.z) * xp.sign(p.x)
    x = xp.abs(p.x)
    if penalty.nonnegative:
        held = xp.where(p.x > 0, xp.minimum(p.d * x, cut), -p.d * x)
    else:
        held = same * xp.minimum(p.d * x, cut)
    held = xp.where(same == 0, 0.0 * held, held)
    kept = (same > 0) & (p.size_low > 0) & (p.x > 0 if penalty.nonnegative else same > 0)
    extra = xp.maximum(cut - held, 0.0 * held) + rounding(16) * (cut + p.d * x)
    return row_sum(xp, xp.where(kept | (p.z == 0), 0.0 * extra, extra * z)) * (
        1.0 + rounding(sum_height(x.shape[1]) + 8)
    )


# -----------------------------------------------------------------------------------------------------------
# The ℓ∞ norm, and elements in no group.


def linf_bounds(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: GroupLinf
) -> Bounds:
    """Certify every row for the ℓ∞ norm: ``z*_i = sign(x_i) min(|x_i|, t)`` with ``φ(t) = Σ d_i (|x_i| - t)₊
    = ηλ``.

    Parameters
    ----------
    z, x, d, step, weight, penalty
        As in :func:`radial_bounds`.
    """
    n = x.shape[1]
    if n == 0:
        return no_elements(xp, x, step)
    p = prepare(xp, z, x, d, step, weight, 0.0, False)
    zero, none = xp.zeros_like(step), xp.zeros_like(x)
    height = sum_height(n)
    far = xp.full_like(zero, math.inf)
    strength = p.coefficient(xp, penalty.lam, 1, 1)
    noise = rounding(height + 16)
    size = p.size_high
    top = row_max(xp, size)
    usable = p.sound & xp.all(xp.isfinite(p.z), axis=1)
    total = row_sum(xp, p.d * size)
    tiny = n * 2.0**-700
    is_zero = (top == 0) | (usable & (total * (1.0 + noise) + tiny <= strength * (1.0 - rounding(6))))
    free = strength == 0
    nonzero = usable & (total * (1.0 - noise) - tiny > strength * (1.0 + rounding(6)))
    lower, upper = xp.where(free, top, zero), xp.where(is_zero & ~free, zero, top)
    open_ = usable & ~is_zero & ~free
    t = xp.minimum(row_max(xp, xp.abs(p.z)), top)
    stalled = zero
    for _ in range(MAX_EVALUATIONS):
        open_ = open_ & (upper - lower > 8.0 * UNIT * upper)
        if not bool(xp.any(open_)):
            break
        over = size > t[:, None]
        phi = row_sum(xp, xp.where(over, p.d * (size - t[:, None]), none))
        slope = row_sum(xp, xp.where(over, p.d, none))
        error = noise * (phi + strength) + tiny
        missing = phi - strength
        safe = xp.where(slope > 0, slope, zero + 1.0)
        down = (missing - error) / safe
        down = down - 2.0 * noise * xp.abs(down)
        root = t + down - 4.0 * UNIT * (t + xp.abs(down))
        chord = (missing + error) * (top - t) / xp.where(phi > 0, phi, zero + 1.0)
        chord = t + xp.maximum(chord, zero) * (1.0 + 2.0 * noise) + 4.0 * UNIT * top
        old_lower, old_upper = lower, upper
        lower = xp.where(open_ & (slope > 0), xp.maximum(lower, root), lower)
        upper = xp.where(open_ & (missing + error < 0), xp.minimum(upper, t), upper)
        upper = xp.where(open_ & (phi > 0), xp.minimum(upper, chord), upper)
        # A little right of where the line of slope -Σd ends, so that the sign there is certain.
        ahead = t + missing / safe + 3.0 * (error + noise * strength) / safe + 4.0 * UNIT * t
        ahead = xp.where((slope > 0) & (ahead > lower) & (ahead < upper), ahead, 0.5 * (lower + upper))
        t = ahead
        stalled = xp.where((lower > old_lower) | (upper < old_upper), zero, stalled + 1.0)
        open_ = open_ & (stalled < 3)
    upper = xp.maximum(upper, lower)
    low = xp.minimum(p.size_low, lower[:, None])
    high = xp.minimum(p.size_high, upper[:, None])
    decided = is_zero | nonzero | free

    off = corner(xp, p, low, high)
    d_high = p.d + constant_where(xp, p.d < 2.0**-800, 2.0**-800)
    distance = norm_above(xp, off)
    metric_distance = xp.where(usable, metric_norm(xp, off, p.d), far)
    residual = linf_residual(xp, p, d_high, strength)
    stationarity = xp.where(usable, finite_or_inf(xp, norm_above(xp, residual)), far)
    # λ‖z‖_∞ - ⟨v, z⟩ for the subgradient v = D(x - z*)/η at z*, plus ‖z - z*‖²_D/2η.
    largest = row_max(xp, xp.abs(p.z))
    pulled = p.d * xp.maximum(p.size_high - lower[:, None], none)
    signed = p.sign * p.z
    apart = xp.maximum(largest[:, None] - signed, none)
    gap = row_sum(xp, pulled * apart) * (1.0 + rounding(height + 12)) + 2.0**-900
    unused = xp.maximum(strength * (1.0 + rounding(6)) - total * (1.0 - noise), zero) * largest
    gap = xp.where(nonzero | free, gap, gap + unused)
    gap = gap + 0.5 * metric_distance * metric_distance * (1.0 + rounding(4))
    gap = finite_or_inf(xp, xp.where(usable, gap * (1.0 + rounding(4)), far))
    # The strength was capped where it is beyond scale.
    capped = (row_max(xp, xp.abs(p.z)) > 0) & (strength >= BEYOND)
    gap, stationarity = (xp.where(capped, far, v) for v in (gap, stationarity))
    distance, metric_distance, gap = convex_bounds(
        xp, p, residual, stationarity, usable & ~capped, distance, metric_distance, gap
    )
    return in_units_of_data(
        xp, p, Bounds(distance, metric_distance, stationarity, gap, decided, lower, upper, low, high)
    )


def linf_residual(xp: Any, p: Data, d: Array, strength: Array) -> Array:
    """Return upper bounds of the elements of a subgradient of ``ηQ`` at the candidate: the least one, up to
    rounding.
    """
    n = p.x.shape[1]
    none = xp.zeros_like(p.x)
    pull = d * (p.z - p.x)
    lost = constant_where(xp, (p.z != p.x) | (p.z_error > 0), 2.0**-800) + d * p.z_error
    size = xp.abs(p.z)
    top = row_max(xp, size)
    face = size == top[:, None]
    zero = top == 0
    wanted = xp.where(zero[:, None], xp.abs(pull), -pull * xp.sign(p.z))
    excess = simplex_threshold(xp, xp.where(face, wanted, xp.full_like(wanted, -math.inf)), strength)
    excess = xp.where(zero & (excess < 0), xp.zeros_like(excess), excess)
    used = xp.where(face & (wanted > excess[:, None]), wanted - excess[:, None], none)
    spent = row_sum(xp, used)
    # The multipliers must add up to the strength (or to less, at zero): move the first one on the face by
    # what is missing.
    miss = xp.where(zero, xp.maximum(spent - strength, 0.0 * spent), xp.abs(spent - strength))
    miss = miss + rounding(sum_height(n) + 16) * (spent + strength)
    first = face & (xp.cumulative_sum(xp.astype(face, xp.int64), axis=1) == 1)
    short = zero & (spent * (1.0 + rounding(sum_height(n) + 8)) <= strength * (1.0 - rounding(6)))
    elements = xp.abs(xp.where(face, wanted - used, pull)) + rounding(8) * (xp.abs(pull) + used)
    return elements + xp.where(first & ~short[:, None], miss[:, None], none) + lost


def free_bounds(xp: Any, z: Array, x: Array, d: Array, step: Array) -> tuple[Array, ...]:
    """Certify elements in no group, whose prox is ``x`` itself: rows with a step each.

    Returns
    -------
    distance, metric_distance, stationarity, gap
    """
    off = xp.abs(z - x)
    ed = exponent(xp, row_max(xp, d))
    ed = ed + xp.remainder(ed, xp.full_like(ed, 2.0))
    scaled = times_power(xp, d, -ed)
    distance = norm_above(xp, off * (1.0 + rounding(3)))
    weighted = xp.where(off > 0, off * xp.sqrt(scaled) * (1.0 + rounding(4)) + 2.0**-1074, off)
    metric_distance = norm_above(xp, weighted)
    pulled = norm_above(xp, xp.where(off > 0, off * scaled * (1.0 + rounding(4)) + 2.0**-1074, off))
    es = exponent(xp, step)
    mantissa = times_power(xp, step, -es)
    em = exponent(xp, metric_distance)
    square = times_power(xp, metric_distance, -em) ** 2
    return (
        distance,
        outwards(xp, metric_distance, 0.5 * ed),
        outwards(xp, pulled / mantissa, ed - es),
        outwards(xp, 0.5 * square / mantissa, 2.0 * em + ed - es, 8.0),
    )
