"""The radius of a candidate that is a root of the secular equation, enclosed over any array namespace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from proxlab import bounds
from proxlab.backends.scaled_rows import (
    LOST_SQUARE,
    ScaledRows,
    exact_margin,
    norm_above,
    row_sum,
    square_error,
    sum_height,
)
from proxlab.bounds import ROUNDING, UNIT, Evaluation, rounding
from proxlab.linker import over_arrays
from proxlab.penalties.base import row_max
from proxlab.types import Array

__all__ = [
    "FLOOR",
    "MAX_EVALUATIONS",
    "Affine",
    "Enclosed",
    "InnerRoot",
    "RowEquation",
    "Slopes",
    "find_inner",
    "tau_at",
]

#: Radii and thresholds below this share of max|x|, max|b| are not resolved.
FLOOR = 2.0**-300
#: A slope beyond this leaves zero alone, whatever the rounding.
STEEP = 2.0**100
MAX_EVALUATIONS = 60
#: A margin of the zero test, beside ‖b‖², below which it is worth to be computed again from double-doubles,
#: and the relative error that it has then.
CLOSE_MARGIN, SHARP_MARGIN = 1e-5, 2.0**-90


class Affine(NamedTuple):
    """``tau = alpha - shift r``."""

    alpha: Array
    shift: Array


class Slopes(NamedTuple):
    """A piece of the slope in scaled units: ``tau = alpha - shift r`` on ``[start, end]``."""

    start: Array
    end: Array
    alpha: Array
    shift: Array


@dataclass
class InnerRoot:
    """Bracket of the inner candidate's radius, with the slopes that hold at its two ends."""

    lower: Array
    upper: Array
    at_lower: Affine
    at_upper: Affine
    zero: Array
    nonzero: Array
    margin_high: Array


class Enclosed(NamedTuple):
    """What one evaluation says: bounds of the root, where Newton's method goes next, and about ``S - 1``."""

    lower: Array
    upper: Array
    ahead: Array
    known: Evaluation


class Margin(NamedTuple):
    """Bounds of ``‖b‖² - tau²``; ``‖b‖²`` as computed, and a lower bound of it."""

    low: Array
    high: Array
    bb: Array
    least: Array


def tau_at(xp: Any, r: Array, slope: Affine | Slopes) -> Array:
    """Return ``tau`` at a radius."""
    tau = slope.alpha - slope.shift * r
    return xp.where(tau > 0, tau, xp.zeros_like(tau))


class RowEquation:
    """The secular equation of every row, with the rounding errors of its sums."""

    def __init__(self, xp: Any, p: ScaledRows, curved: bool) -> None:
        self.xp, self.p, self.n = xp, p, p.x.shape[1]
        self.b = p.size * p.d
        self.b_error = p.error * p.d * (1.0 + rounding(4))
        self.dmin = -row_max(xp, -p.d)
        self.dmax = row_max(xp, p.d)
        self.k = ROUNDING[curved]
        self.height = sum_height(self.n)
        self.exact = not bool(xp.any(p.error > 0))
        self.terms, self.bracket = over_arrays(bounds.bound_terms, xp), over_arrays(bounds.bracket, xp)
        self.newton, self.steepest = over_arrays(bounds.newton, xp), over_arrays(bounds.steepest, xp)

    def enclose(self, r: Array, slope: Affine | Slopes, far: Array, margin: Any = None) -> Enclosed:
        """Return what one evaluation says of the root.

        ``margin`` replaces ``S - 1`` where it is known better: its lower and upper bound.
        """
        xp, p = self.xp, self.p
        shift, tau = slope.shift, tau_at(xp, r, slope)
        tau = xp.where((tau > 0) | (r > 0), tau, xp.ones_like(tau))
        terms = self.terms(self.b, p.d, r[:, None], tau[:, None], shift[:, None])
        m = xp.maximum(self.steepest(self.dmin, r, tau, shift), self.steepest(self.dmax, r, tau, shift))
        known, ahead = self.evaluated(r, terms, m, self.k, (r, tau))
        if margin is not None:
            known = known._replace(below=margin[0], above=margin[1])
        lower, upper = self.bracket(known, shift, far)
        return Enclosed(lower, upper, ahead, known)

    def enclose_slope(self, tau: Array, r: Array, far: Array) -> Enclosed:
        """Return what one evaluation says of ``tau`` at a radius: the equation with its roles swapped."""
        xp, d, none = self.xp, self.p.d, self.xp.zeros_like(r)
        terms = self.terms(self.b, xp.ones_like(d), tau[:, None], d * r[:, None], none[:, None])
        m = (1.0 + rounding(8)) / (tau + self.dmin * r)
        known, ahead = self.evaluated(tau, terms, m, ROUNDING[False], (r, tau))
        lower, upper = self.bracket(known, none, far)
        return Enclosed(lower, upper, ahead, known)

    def evaluated(
        self, at: Array, terms: tuple[Array, ...], m: Array, k: tuple[int, ...], spot: tuple[Array, Array]
    ) -> tuple[Evaluation, Array]:
        """Return what terms say at a point, and where Newton's method goes from there.

        ``spot`` are the radius and ``tau`` there, ``k`` the roundings of the terms.
        """
        xp = self.xp
        s, s1, b1 = (row_sum(xp, t) for t in terms)
        tiny = self.n * LOST_SQUARE
        noise = rounding(self.height + k[0]) * s + tiny
        slack = rounding(self.height + k[1]) * b1 + tiny * m
        if not self.exact:
            off = self.lost(*spot, s)
            noise, slack = noise + off, slack + off * m
        ahead = xp.where(s1 > 0, self.newton(at, s, s1), xp.zeros_like(s1))
        return bounds.evaluation(at, s, s1, b1, noise, slack, m), ahead

    def margin(self, tau: Array, raw: float, on: Array) -> Margin:
        """Bound ``‖b‖² - tau²`` where it counts; ``raw`` is ``p'(0+)`` in the penalty's own units."""
        xp = self.xp
        bb = row_sum(xp, self.b * self.b)
        margin = (xp.sqrt(bb) - tau) * (xp.sqrt(bb) + tau)
        off = xp.sqrt(row_sum(xp, self.b_error * self.b_error)) * (1.0 + rounding(self.height + 8))
        off, share = square_error(xp, bb, off) + LOST_SQUARE, rounding(self.height + 16)
        error = share * (bb + tau * tau) + off
        close = on & (xp.abs(margin) <= CLOSE_MARGIN * bb)
        if self.exact and bool(xp.any(close)):
            close, sharp = exact_margin(xp, self.p, self.p.d, raw, close)
            margin = xp.where(close, sharp, margin)
            fine = SHARP_MARGIN * (bb + tau * tau) + 8.0 * UNIT * xp.abs(sharp) + LOST_SQUARE
            error = xp.where(close, fine, error)
        return Margin(margin - error, margin + error, bb, bb * (1.0 - share) - off)

    def lost(self, r: Array, tau: Array, s: Array) -> Array:
        """Return what the errors of ``b`` may change a computed ``S`` by."""
        xp = self.xp
        lost = self.b_error / (self.p.d * r[:, None] + tau[:, None])
        off = xp.sqrt(row_sum(xp, lost * lost)) * (1.0 + rounding(self.height + 32))
        return square_error(xp, s, off)


def find_inner(
    xp: Any, p: ScaledRows, pieces: tuple[Slopes, ...], reach: Array, usable: Array, raw: float
) -> InnerRoot:
    """Enclose the radius at which ``F'`` turns from negative to nonnegative: a root of the secular equation,
    or zero.

    Parameters
    ----------
    p : ScaledRows
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
    eq = RowEquation(xp, p, curved)
    zero = xp.zeros_like(reach)
    ones = xp.ones_like(reach)
    first = pieces[0]
    alpha, shift = first.alpha, first.shift
    # The zero test: the sign of ‖b‖² - alpha².
    tame = usable & (alpha > FLOOR) & (alpha < STEEP)
    strength = xp.where(tame, alpha, ones)
    margin = eq.margin(strength, raw, tame)
    margin_high = xp.where(tame, margin.high, xp.full_like(zero, math.inf))
    empty = row_max(xp, p.size_high) == 0
    is_zero = empty | (tame & (margin.high <= 0)) | (usable & (alpha >= STEEP))
    sure = xp.where(tame, margin.low > 0, (alpha <= FLOOR) & (margin.least > 4.0 * FLOOR**2))
    nonzero = usable & ~is_zero & sure

    # What the sums at zero say.
    end = pieces[-1].end
    lower, upper = zero, xp.minimum(reach, end)
    squared = strength * strength * (1.0 + rounding(8))
    rel = margin.low / squared, margin.high / (strength * strength) * (1.0 + rounding(8))
    rel = xp.where(rel[0] < 0, rel[0] * (1.0 + rounding(20)), rel[0]), rel[1]
    near = eq.enclose(zero, Affine(strength, shift), upper, rel)
    at_zero = tame & ~is_zero
    lower = xp.where(at_zero & nonzero, xp.minimum(near.lower, first.end), lower)
    upper = xp.where(at_zero & (near.upper < first.end), xp.minimum(near.upper, upper), upper)
    lower, upper = xp.where(is_zero, zero, lower), xp.where(is_zero, zero, upper)

    # Which piece?
    at_lower = at_upper = Affine(alpha, shift)
    open_ = usable & ~is_zero
    for before, piece in pairwise(pieces):
        knot = piece.start
        on = open_ & (knot > FLOOR) & (knot < upper)
        spot = xp.where(on, knot, ones)
        left, right = eq.enclose(spot, before, spot), eq.enclose(spot, piece, upper)
        beyond, short = on & (left.known.below > 0), on & (left.known.above < 0)
        lower = xp.where(beyond, xp.maximum(lower, knot * (1.0 - 1e-15)), lower)
        upper = xp.where(short, xp.minimum(upper, knot * (1.0 + 1e-15)), upper)
        astride = on & ~beyond & ~short
        lower = xp.where(astride, xp.maximum(lower, left.lower), lower)
        upper = xp.where(astride, xp.minimum(upper, xp.maximum(right.upper, knot * (1.0 + 1e-15))), upper)
        later = beyond | (open_ & (knot <= FLOOR))
        at_lower = _of_piece(xp, later, piece, at_lower)
        at_upper = _of_piece(xp, later | astride, piece, at_upper)
        open_ = open_ & ~astride

    # Evaluate at the candidate's own radius, then follow Newton's method until the bracket no longer shrinks.
    z_norm = norm_above(xp, xp.abs(p.z))
    bbd = row_sum(xp, eq.b * eq.b * (p.d + xp.abs(at_lower.shift)[:, None]))
    safe = xp.where(bbd > 0, bbd, ones)
    start = 4.0 * rounding(eq.height + eq.k[0]) * margin.bb * xp.sqrt(margin.bb) / safe
    r = xp.maximum(xp.where(z_norm > 0, z_norm, lower), start)
    stalled = zero
    for _ in range(MAX_EVALUATIONS):
        narrow = upper - lower <= 1e-7 * upper
        open_ = open_ & (upper - lower > 4.0 * UNIT * upper) & (upper > FLOOR)
        open_ = open_ & (stalled < xp.where(narrow, 1.0 * ones, 16.0 * ones))
        if not bool(xp.any(open_)):
            break
        r = xp.maximum(xp.minimum(xp.maximum(r, lower), upper), xp.full_like(r, FLOOR))
        can = open_ & (tau_at(xp, r, at_lower) + eq.dmax * r > FLOOR)
        spot = xp.where(can, r, ones)
        near = eq.enclose(spot, at_lower, upper)
        lower = xp.where(can, xp.maximum(lower, near.lower), lower)
        upper = xp.where(can, xp.minimum(upper, near.upper), upper)
        # Within rounding of the root, or nowhere to go: halve what is left a few times.
        lost = ((near.known.below <= 0) & (near.known.above >= 0)) | ~can
        stalled = xp.where(lost, stalled + 1.0, stalled)
        r = xp.where((near.ahead > 0) & xp.isfinite(near.ahead), near.ahead, lower)
        r = xp.where(lost | (r > upper), 0.5 * (lower + upper), r)
    return InnerRoot(lower, upper, at_lower, at_upper, is_zero, nonzero, margin_high)


def _of_piece(xp: Any, on: Array, piece: Slopes, slope: Affine) -> Affine:
    """Return the slope of a piece in some rows, and what it is so far in the others."""
    return Affine(xp.where(on, piece.alpha, slope.alpha), xp.where(on, piece.shift, slope.shift))
