"""The secular equation of rows over any array namespace: what one evaluation says of its root."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from proxlab import bounds
from proxlab.backends.scaled_rows import (
    LOST_SQUARE,
    ScaledRows,
    exact_margin,
    row_sum,
    square_error,
    sum_height,
)
from proxlab.bounds import ROUNDING, UNIT, Evaluation, rounding
from proxlab.linker import over_arrays
from proxlab.penalties.base import row_max
from proxlab.penalties.tables import Table
from proxlab.powers import times_power
from proxlab.types import Array

__all__ = [
    "FLOOR",
    "MAX_EVALUATIONS",
    "Enclosed",
    "RowEquation",
    "Slopes",
    "scaled_pieces",
    "tau_at",
]

#: Radii and thresholds below this share of max|x|, max|b| are not resolved.
FLOOR = 2.0**-300
MAX_EVALUATIONS = 60
#: A margin of the zero test, beside ‖b‖², below which it is worth to be computed again from double-doubles,
#: and the relative error that it has then.
CLOSE_MARGIN, SHARP_MARGIN = 1e-5, 2.0**-90


class Slopes(NamedTuple):
    """A piece of the slope in scaled units: ``tau = alpha - shift r`` on ``[start, end]``."""

    start: Array
    end: Array
    alpha: Array
    shift: Array


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


def tau_at(xp: Any, r: Array, slope: Slopes) -> Array:
    """Return ``tau`` at a radius."""
    tau = slope.alpha - slope.shift * r
    return xp.where(tau > 0, tau, xp.zeros_like(tau))


def scaled_pieces(xp: Any, p: ScaledRows, table: Table) -> tuple[Slopes, ...]:
    """Return the pieces of the slope of ``step·weight·p`` in scaled units."""
    zero = xp.zeros_like(p.step)
    starts = [times_power(xp, zero + q.start, -p.ex) for q in table] + [zero + math.inf]
    return tuple(
        Slopes(start, end, p.coefficient(xp, q.a, 1, 1), p.coefficient(xp, q.c, 1, 0))
        for q, start, end in zip(table, starts, starts[1:], strict=False)
    )


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

    def enclose(self, r: Array, slope: Slopes, far: Array, margin: Any = None) -> Enclosed:
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
