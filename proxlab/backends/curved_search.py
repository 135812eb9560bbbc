"""Curved slopes over any array namespace: the global minimum by intervals (docs: the mathematics, §9).

Along the path ``z(μ) = D x/(d + μ)`` the radius is ``r = ‖z‖``, and there ``F(r) = η p(r) + q(r)``,
``q(r)`` the least ``‖z - x‖²_D/2`` at the radius, has the slope ``F' = τ(r) - T(r)``: ``τ = η p'``, and ``T
= μ r`` decreases and is convex. One pass over a group at a ``μ`` gives a point of the graph of ``T``, its
tangent there and ``q``. Between two such points ``T`` lies above both tangents and below the chord, and
``τ`` is evaluated where it is wanted, without a pass. That tells of an interval of radii

* that ``F`` falls or rises on all of it, so that no minimiser is inside;
* that ``F`` is above what some point is known to cost, by the integrals of the two bounds of ``T``;
* or, where ``F`` falls at its left end and rises at its right one, between which radii the minimiser lies:
  where ``τ`` crosses the tangents, and where it crosses the chord.

What remains is divided, at first where the tangents say that ``F`` falls. All errors of rounding are on the
safe side, so that the solver and the certificate are one search: the solver takes the best of what is left,
and the certificate encloses all of it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import array_api_compat

from proxlab.backends.array_certify import (
    Data,
    Slopes,
    constant_where,
    norm_above,
    row_sum,
    sum_height,
)
from proxlab.backends.array_tables import Rows, zero_test
from proxlab.bounds import UNIT, rounding
from proxlab.powers import exponent, factors, times_power
from proxlab.types import Array

__all__ = ["Search"]

#: Evaluations of a row, at most; scalar steps of a root on one interval.
MAX_EVALUATIONS = 400
MAX_STEPS = 80
#: Those that may be Newton's, and halvings where only a rough place is wanted.
NEWTON_STEPS, LEAST_STEPS = 20, 20
#: Roundings that a slope, a curvature and a value are good for.
GIVEN = 64
#: What a slope or a value may lose to underflow, in scaled units; beyond LARGEST nothing is said.
LOST, LARGEST = 2.0**-350, 2.0**300
#: Radii below this share of ``max|x|`` are not resolved.
SMALLEST = 2.0**-900


class Ends(NamedTuple):
    """One end of intervals: arrays of one shape.

    ``r, t, kappa, q`` belong to a point of the path: its radius, ``T`` and ``-T'`` there, and ``q``. ``at``
    is where the interval ends, which may be inside; ``tau, turn, value`` are ``τ``, ``τ'`` and ``η p``
    there, and ``sign`` is that of ``F'``, 0 where rounding hides it.
    """

    r: Array
    t: Array
    kappa: Array
    q: Array
    at: Array
    tau: Array
    turn: Array
    value: Array
    sign: Array


class Verdict(NamedTuple):
    """What is known of intervals.

    ``open`` says which have to be divided, ``kept`` which are known well enough; the others hold no
    minimiser. ``floor`` is a lower bound of what counts of ``F`` there, ``low, high`` enclose the
    minimisers, and ``mu`` says where to look next.
    """

    open: Array
    kept: Array
    floor: Array
    low: Array
    high: Array
    mu: Array


class Search:
    """Rows in scaled units, what is known of ``T`` and ``q`` from passes over them, and of ``η p``
    without.
    """

    def __init__(self, xp: Any, p: Data, penalty: Any) -> None:
        self.xp, self.p, self.penalty = xp, p, penalty
        self.rows = Rows(xp, p)
        strength, unit = penalty._split()
        self.strength, self.curve = strength, unit.curve(xp)
        self.falls, self.bends = penalty.slope_falls, penalty.slope_falls and penalty.slope_is_convex
        # A slope of which nothing but its sense is known takes many more intervals.
        self.patience = 4 if self.falls and not self.bends else 1
        self.zero, self.one = xp.zeros_like(p.step), xp.ones_like(p.step)
        self.height = sum_height(p.x.shape[1])
        # Relative errors: of what a pass returns, and of slopes, curvatures and values.
        self.eps, self.own = rounding(2 * self.height + 80), rounding(GIVEN)
        # r 2^ex, and step·weight·2^-(…) for slopes, curvatures and values: one factor or two, in the range.
        first, second, third, whole = factors(xp, p.step, p.weight, strength)
        price = first * second * third
        self.length = self._halves(self.one, p.ex)
        self.factors = [self._halves(price, whole - p.ed - k * p.ex) for k in (1.0, 0.0, 2.0)]

    def _halves(self, mantissa: Array, e: Array) -> tuple[Array, ...]:
        xp = self.xp
        half = xp.floor(0.5 * xp.clip(e, -2000.0, 2000.0))
        rest = xp.clip(e, -2000.0, 2000.0) - half
        if bool(xp.all(xp.abs(e) < 900.0)):
            return (times_power(xp, mantissa, half + rest),)
        return times_power(xp, mantissa, half), times_power(xp, self.one, rest)

    def _scaled(self, function: Any, r: Array, factors: tuple[Array, ...]) -> Array:
        xp = self.xp
        copies = r.shape[0] // self.zero.shape[0]
        for a in self.length:
            r = r * (a if copies == 1 else xp.concat([a] * copies))
        v = function(r)
        for a in factors:
            v = v * (a if copies == 1 else xp.concat([a] * copies))
        return xp.where(xp.isnan(v), xp.zeros_like(v), v)

    def slope(self, r: Array) -> Array:
        """Return ``τ``."""
        return self._scaled(self.curve.slope, r, self.factors[0])

    def turn(self, r: Array) -> Array:
        """Return ``τ'``, ``r > 0``."""
        return self._scaled(self.curve.curvature, r, self.factors[1])

    def value(self, r: Array) -> Array:
        """Return ``η p``."""
        v = self._scaled(self.curve.value, self.xp.where(r > 0, r, self.xp.ones_like(r)), self.factors[2])
        return self.xp.where(r > 0, v, self.xp.zeros_like(v))

    # ------------------------------------------------------------------------------------------------
    # Points of the path.

    def origin(self) -> Ends:
        """The end at zero."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        b = self.rows.b
        bb = row_sum(xp, b * b)
        safe = xp.where(bb > 0, bb, self.one)
        q = 0.5 * row_sum(xp, b * size)
        first = self.slope(self.zero)
        raw = self.strength * float(self.curve.slope(xp.zeros_like(self.zero[:1]))[0])
        known = xp.isfinite(first)
        slopes = Slopes(self.zero, self.zero, xp.where(known, first, self.one), self.zero)
        margin = zero_test(self.rows, slopes, raw) if math.isfinite(raw) else self.one
        margin = xp.where(known, margin, self.one)
        norm = xp.sqrt(bb)
        # The slope at zero is what the penalty returns, for the solver; within rounding of that for a proof.
        error = self.noise_of(first, self.zero, self.zero, norm, self.zero)
        sure = xp.abs(margin) * norm > error
        sign = xp.where(known & ~sure, self.zero, xp.where(margin >= 0, self.one, -self.one))
        self.rests, self.excess = margin >= 0, xp.where(margin < 0, -margin * norm, self.zero)
        turn = xp.where(known, self.turn(self.zero), -math.inf * self.one)
        return Ends(
            self.zero, norm, row_sum(xp, b * b * d) / safe, q, self.zero, first, turn, self.zero, sign
        )

    def whole(self) -> Ends:
        """The end at the point itself."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        square = row_sum(xp, size * size)
        r = xp.sqrt(square)
        kappa = square / row_sum(xp, size * size / d)
        return Ends(r, self.zero, kappa, self.zero, r, *self._at(r), self.one)

    def polish(self, low: Array, high: Array) -> Array:
        """Return the root of ``F'`` between two radii ``> 0`` without bounds of rounding: a step of
        Newton's.
        """
        xp = self.xp
        end = self.visit(self.slope(low) / low)
        bend = end.turn + end.kappa
        r = end.r + (end.t - end.tau) / xp.where(bend > 0, bend, self.one)
        r = xp.where((bend > 0) & xp.isfinite(r), r, 0.5 * (low + high))
        return xp.minimum(xp.maximum(r, low), high)

    def cost(self, r: Array) -> Array:
        """Return ``η p(‖z‖) + ‖z - x‖²_D/2`` at the point of the path that a radius ``r > 0`` and its ``τ``
        name.
        """
        xp, d, size, tau = self.xp, self.rows.d, self.p.size, self.slope(r)
        grown = d * r[:, None]
        whole = grown + tau[:, None]
        norm = xp.sqrt(row_sum(xp, (size * (grown / whole)) ** 2))
        return self.value(norm) + 0.5 * row_sum(xp, d * (size * (tau[:, None] / whole)) ** 2)

    def share(self, r: Array) -> Array:
        """Return ``z_i/x_i`` at a radius, 0 at 0."""
        xp = self.xp
        grown = self.p.d * xp.where(r > 0, r, self.one)[:, None]
        tau = self.slope(xp.where(r > 0, r, self.one))
        return xp.where((r > 0)[:, None], grown / (grown + tau[:, None]), xp.zeros_like(grown))

    def cost_between(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Bound ``F`` between two radii from below, and what some point there costs from above."""
        xp, p, k = self.xp, self.p, rounding(self.height + GIVEN + 120)
        one = self.one
        low, high = (xp.where(r > 0, r, one * SMALLEST) for r in (low, high))
        moved = []
        for r in (high, low):  # the longer, the less it moved
            tau = self.slope(r)[:, None]
            ratio = tau / (p.d * r[:, None] + tau)
            moved.append(0.5 * row_sum(xp, p.d * (p.size * ratio) ** 2))
        least = self.value(low) * (1.0 - self.own) - LOST + moved[0] * (1.0 - k)
        most = self.value(high) * (1.0 + self.own) + LOST + moved[1] * (1.0 + k)
        return xp.where(xp.isfinite(least), least, -math.inf * one), xp.where(
            xp.isnan(most), math.inf * one, most
        )

    def tame(self, r: Array) -> Array:
        """Return where the numbers of rows are in the range in which rounding is small, up to a radius."""
        xp, p = self.xp, self.p
        tau, value = self.slope(xp.where(r > 0, r, self.one)), self.value(r)
        good = (tau < LARGEST) & (value < LARGEST) & (xp.abs(p.ex) < 900.0)
        for parts in self.factors:
            size = self.one
            for part in parts:
                size = size * part
            good = good & (size < LARGEST**2)
        return good

    def residual(self) -> Array:
        """Return upper bounds of the elements of the least subgradient of ``ηQ`` at the candidate."""
        xp, p = self.xp, self.p
        size = xp.abs(p.z)
        norm = norm_above(xp, size)
        positive = norm > 0
        r = xp.where(positive, norm, self.one)
        low = r * (1.0 - rounding(2 * self.height + 24))
        tau = self.slope(r)
        doubt = xp.abs(self.slope(low) - tau) + 2.0 * self.own * tau + LOST
        pull = p.d * (p.z - p.x)
        lost = constant_where(xp, pull != 0, 2.0**-800) + p.d * p.z_error
        signed = pull + tau[:, None] * (p.z / r[:, None])
        error = rounding(12) * (xp.abs(pull) + tau[:, None] * (size / r[:, None]))
        error = error + (doubt / low + tau / low * rounding(3 * self.height + 56))[:, None] * size
        push = xp.where(pull < 0, -pull, xp.zeros_like(pull)) if self.penalty.nonnegative else xp.abs(pull)
        away = xp.where(p.z == 0, push * (1.0 + rounding(6)), xp.abs(signed) + error) + lost
        # At zero: what ‖b‖ exceeds the slope by, along b.
        b = p.size_high * p.d * (1.0 + rounding(4))
        length = norm_above(xp, b)
        first = self.slope(self.zero)
        excess = xp.maximum(length - first * (1.0 - self.own) + LOST, self.zero)
        part = excess / xp.where(length > 0, length, self.one) * (1.0 + rounding(3 * self.height + 40))
        return xp.where(positive[:, None], away, b * part[:, None])

    def _at(self, r: Array) -> tuple[Array, Array, Array]:
        safe = self.xp.where(r > 0, r, self.xp.ones_like(r))
        return self.slope(safe), self.turn(safe), self.value(safe)

    def visit(self, mu: Array) -> Ends:
        """Pass over the groups at a ``μ > 0``."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        y = d + mu[:, None]
        # About μ z for a great μ, so that no square is lost; in powers of two, so that nothing is rounded.
        unit = times_power(xp, self.one, xp.maximum(exponent(xp, mu), self.zero))
        v = self.rows.b * (unit[:, None] / y)
        w = v * v / y
        long = xp.sqrt(row_sum(xp, v * v))
        r, t = long / unit, long * (mu / unit)
        total = row_sum(xp, w)
        kappa = row_sum(xp, w * d) / xp.where(total > 0, total, self.one)
        q = 0.5 * row_sum(xp, d * (size * (mu[:, None] / y)) ** 2)
        tau, turn, value = self._at(r)
        end = Ends(r, t, kappa, q, r, tau, turn, value, self.zero)
        error = self.noise(end)
        sign = xp.where(tau - t > error, self.one, xp.where(t - tau > error, -self.one, self.zero))
        return end._replace(sign=sign)

    # ------------------------------------------------------------------------------------------------
    # Intervals.

    def _line(self, end: Ends, r: Array) -> Array:
        """Return a lower bound of ``T``: the tangent at the point of an end."""
        off = self.xp.abs(r - end.r)
        return end.t - end.kappa * (r - end.r) - self.eps * (end.t + end.kappa * (off + end.r))

    def noise(self, end: Ends) -> Array:
        """Return what rounding leaves open about ``F'`` at the point of an end."""
        inside = end.at > 0
        zero = self.xp.zeros_like(end.r)
        tau, turn = (self.xp.where(inside, v, zero) for v in (end.tau, end.turn))
        return self.noise_of(tau, turn, end.r, end.t, end.kappa)

    def noise_of(self, tau: Array, turn: Array, r: Array, t: Array, kappa: Array) -> Array:
        """Return what rounding leaves open about ``τ - T``."""
        return self.own * tau + self.eps * (self.xp.abs(turn) * r + t + kappa * r) + LOST

    def judge(self, left: Ends, right: Ends, best: Array, tolerance: Array, loose: Array) -> Verdict:
        """Say what is known of intervals.

        Parameters
        ----------
        left, right : Ends
        best : array
            What some point is known to cost at most.
        tolerance, loose : array
            Relative error of the middle, and width, at which an enclosure of a minimiser is good enough.
        """
        xp, eps, own = self.xp, self.eps, self.own
        lo, hi = left.at, right.at
        zero, one = xp.zeros_like(lo), xp.ones_like(lo)
        far = xp.full_like(lo, math.inf)
        width = right.r - left.r
        chord = xp.where(width > 0, (left.t - right.t) / xp.where(width > 0, width, one), zero)
        slack = eps * (left.t + right.t + chord * (left.r + right.r))

        def above(r: Array) -> Array:  # a lower bound of F'
            return self.slope(r) * (1.0 - own) - LOST - (left.t - chord * (r - left.r)) - slack

        def below_left(r: Array) -> Array:  # upper bounds of F'
            return self.slope(r) * (1.0 + own) + LOST - self._line(left, r)

        def below_right(r: Array) -> Array:
            return self.slope(r) * (1.0 + own) + LOST - self._line(right, r)

        # Where the tangents cross.
        gap = left.kappa - right.kappa
        drop = left.t + left.kappa * left.r - right.t - right.kappa * right.r
        cross = xp.where(gap > 0, drop / xp.where(gap > 0, gap, one), 0.5 * (lo + hi))
        cross = xp.minimum(xp.maximum(xp.where(xp.isfinite(cross), cross, lo), lo), hi)
        at_cross = xp.maximum(below_left(cross), below_right(cross))
        at_lo, at_hi = below_left(lo), below_right(hi)
        # Where F' is least against the chord.
        least = self._least(lo, hi, chord) if self.bends else (lo if not self.falls else hi)

        empty = hi <= lo
        if self.bends:
            # The tangent there is below a convex function.
            turn = xp.where(least > 0, self.turn(xp.where(least > 0, least, one)), left.turn)
            tilt, doubt = turn + chord, own * (xp.abs(turn) + chord)
            dip = xp.maximum(tilt + doubt, zero) * (least - lo) + xp.maximum(doubt - tilt, zero) * (
                hi - least
            )
            rises = above(least) - dip > 0
            falls = (at_lo < 0) & (at_hi < 0) & (at_cross < 0)
            bows = right.turn * (1.0 - own) + left.kappa * (1.0 + eps) < 0
        elif self.falls:
            rises = right.tau * (1.0 - own) - LOST > left.t - chord * (lo - left.r) + slack
            falls = left.tau * (1.0 + own) + LOST < self._line(right, hi)
            bows = xp.zeros_like(rises)
        else:
            rises, falls = above(lo) > 0, at_hi < 0
            bows = xp.zeros_like(rises)

        # Lower bounds of F: by the right end's tangent, and by the chord from the left.
        def by_right(r: Array) -> Array:
            h = right.r - r
            q = right.q + right.t * h + 0.5 * right.kappa * h * h
            return q - 4.0 * eps * (q + (right.t + right.kappa * xp.abs(h)) * right.r)

        def by_left(r: Array) -> Array:
            h = r - left.r
            taken = left.t * h - 0.5 * chord * h * h
            return left.q - taken - 4.0 * eps * (left.q + left.t * (h + left.r))

        rise = right.value - left.value
        mean = xp.where(empty, zero, rise / xp.where(empty, one, hi - lo))
        if not self.falls:
            mean = left.tau  # a convex p lies above its tangent
        steep = xp.where(lo > 0, left.tau * lo, zero) + right.tau * hi
        price = own * (left.value + right.value) + eps * steep + LOST

        def least_of(q: Any, slope_left: Array, bend: Array) -> Array:
            # Linear and a quadratic: q'(lo) = slope_left, q'' = bend.
            h = xp.where(bend > 0, -(mean + slope_left) / xp.where(bend > 0, bend, one), zero)
            h = xp.where(bend > 0, h, xp.where(mean + slope_left < 0, hi - lo, zero))
            h = xp.minimum(xp.maximum(h, zero), hi - lo)
            return left.value + mean * h + q(lo + h) - price

        by_a = least_of(by_right, -(right.t + right.kappa * (right.r - lo)), right.kappa)
        by_b = least_of(by_left, -(left.t - chord * (lo - left.r)), chord)
        floor = xp.maximum(by_a, by_b)
        meet = self._meet(left, right, chord, lo, hi)
        if self.bends:
            # Where F still falls at the right end, both bounds are least at an end of each part.
            here = self.value(meet) * (1.0 - own) + xp.maximum(by_left(meet), by_right(meet)) - price
            begin = xp.where(left.sign > 0, far, left.value * (1.0 - own) + by_left(lo) - price)
            ends = (right.sign < 0) & (right.at == right.r)
            sharp = xp.where(ends, xp.minimum(here, begin), -far)
            floor = xp.maximum(floor, sharp)
        floor = xp.where(xp.isnan(floor), -far, floor)
        dead = empty | rises | falls | bows | (floor > best)

        # Between which radii the minimiser lies, where there is one.
        holds = ~dead & (left.sign <= 0) & (right.sign >= 0)
        low, high = lo, hi
        look = xp.where((left.sign > 0) & (right.sign > 0), least, meet)
        towards = 0.5 * (left.t - chord * (look - left.r)) + 0.5 * xp.maximum(
            left.t - left.kappa * (look - left.r), right.t + right.kappa * (right.r - look)
        )
        if self.bends or not self.falls:
            first = at_cross < 0
            a, b = xp.where(first, cross, lo), xp.where(first, hi, cross)
            kappa = xp.where(first, right.kappa, left.kappa)

            def below(r: Array) -> Array:
                return xp.where(first, below_right(r), below_left(r))

            on = holds & (at_lo < 0)
            # Elsewhere, where the tangents say that F falls.
            ahead = ~dead & ~holds & first & (right.sign > 0)
            start, _ = self._root(below, kappa, a, b, on | ahead, xp.where(first, right.r, left.r), 2.0**-24)
            low = xp.where(on, start, low)
            found = (on | ahead) & (start > lo)
            look = xp.where(found, start, look)
            towards = xp.where(found, self.slope(xp.where(found, start, one)), towards)
            on = holds & (above(hi) > 0)
            _, end = self._root(above, chord, low, hi, on, low, 2.0**-6)
            high = xp.where(on, end, high)
        else:
            # Without a proof, where the tangent on the left says that it is.
            on = holds & (at_lo < 0)
            start, _ = self._root(below_left, left.kappa, lo, hi, on, left.r, 2.0**-24)
            found = on & (start > lo) & (start < hi)
            look = xp.where(found, start, look)
            towards = xp.where(found, self.slope(xp.where(found, start, one)), towards)
        wide = high - low
        if self.bends or not self.falls:
            # How far the crossing of the tangents may be off, of how far that of the chord is.
            off = xp.where(first, right.r - low, low - left.r) / xp.where(width > 0, width, one)
            sharp = wide * xp.minimum(off, one) <= tolerance * high
            good = holds & (sharp & (wide <= xp.maximum(tolerance, loose) * high))
        else:
            good = holds & (wide <= xp.maximum(tolerance, loose) * high)
        # Where F' stays within rounding, there is nothing to find.
        bend = xp.maximum(xp.abs(left.turn + right.kappa), xp.abs(right.turn + left.kappa))
        noise = xp.maximum(self.noise(left), self.noise(right))
        kept = ~dead & (good | (bend * wide <= 8.0 * noise) | (hi - lo <= 16.0 * UNIT * hi))
        mu = towards / xp.where(look > 0, look, one)
        return Verdict(~dead & ~kept, kept, floor, low, high, self._between(mu, left, right))

    def _between(self, mu: Array, left: Ends, right: Ends) -> Array:
        """Return a ``μ`` that lies strictly between those of two ends."""
        xp = self.xp
        one = xp.ones_like(mu)
        most = xp.where(left.r > 0, left.t / xp.where(left.r > 0, left.r, one), math.inf * one)
        least = right.t / xp.where(right.r > 0, right.r, one)
        inside = (mu > least) & (mu < most)
        # In the middle of the radii, as if T were its chord.
        middle = 0.5 * (left.t + right.t) / xp.where(right.r > 0, 0.5 * (left.r + right.r), one)
        return xp.where(inside, mu, xp.where(middle > 0, middle, one))

    def _least(self, lo: Array, hi: Array, chord: Array) -> Array:
        """Return about where a convex ``τ`` is least against a chord: where ``τ' = -chord``."""
        xp = self.xp
        one = xp.ones_like(lo)

        def slope(r: Array) -> Array:
            return self.turn(xp.where(r > 0, r, one)) + chord

        at_lo, at_hi = (lo > 0) & (slope(lo) >= 0), slope(hi) <= 0
        a, b = lo, hi
        for _ in range(LEAST_STEPS):
            middle = self.midpoint(a, b)
            before = slope(middle) < 0
            a, b = xp.where(before, middle, a), xp.where(before, b, middle)
        return xp.where(at_lo, lo, xp.where(at_hi, hi, self.midpoint(a, b)))

    def _meet(self, left: Ends, right: Ends, chord: Array, lo: Array, hi: Array) -> Array:
        """Return about where the two lower bounds of ``q`` meet, that from the right rising past the
        other.
        """
        xp = self.xp
        w = right.r - left.r
        c0 = right.q + right.t * w + 0.5 * right.kappa * w * w - left.q
        c1 = left.t - right.t - right.kappa * w
        c2 = 0.5 * (right.kappa - chord)
        under = c1 * c1 - 4.0 * c2 * c0
        divisor = c1 + xp.sqrt(xp.where(under > 0, under, xp.zeros_like(under)))
        r = left.r - 2.0 * c0 / xp.where(divisor > 0, divisor, xp.ones_like(divisor))
        r = xp.where((divisor > 0) & (r > lo) & (r < hi), r, 0.5 * (lo + hi))
        return xp.minimum(xp.maximum(r, lo), hi)

    def _root(
        self, f: Any, kappa: Array, a: Array, b: Array, on: Array, base: Array, share: float
    ) -> tuple[Array, Array]:
        """Narrow ``f(a) < 0 <= f(b)`` where it holds, for ``f' ≈ τ' + kappa``; other intervals stay.

        Newton's method from the right, where a convex ``f`` keeps it, and from the left what it comes to
        next, up to a share of the distance to ``base``.
        """
        xp = self.xp
        one = xp.ones_like(a)
        a, b = xp.where(on, a, one), xp.where(on, b, one)
        fb = f(b)
        going = on & (f(xp.where(a > 0, a, xp.full_like(a, SMALLEST))) < 0)
        # Where f is negative all along, nothing is beyond.
        a = xp.where(going & (fb < 0), b, a)
        going = going & (fb >= 0)
        for k in range(MAX_STEPS):
            going = going & (b - a > xp.maximum(4.0 * UNIT * b, share * xp.abs(b - base)))
            if not bool(xp.any(going)):
                break
            middle = self.midpoint(a, b)
            slope = self.turn(b) + kappa
            ahead = b - fb / xp.where(slope > 0, slope, one)
            use = (slope > 0) & (ahead > a) & (ahead < b) & (k < NEWTON_STEPS)
            spot = xp.where(going, xp.where(use, ahead, middle), one)
            value = f(spot)
            right = going & (value >= 0)
            a, b, fb = xp.where(going & ~right, spot, a), xp.where(right, spot, b), xp.where(right, value, fb)
            # A little left of where Newton's method goes from there.
            slope = self.turn(b) + kappa
            step = fb / xp.where(slope > 0, slope, one)
            spot = b - 2.0 * step - 2.0 * UNIT * b
            use = going & (slope > 0) & (spot > a) & (spot < b)
            spot = xp.where(use, spot, one)
            value = f(spot)
            a = xp.where(use & (value < 0), spot, a)
            right = use & (value >= 0)
            b, fb = xp.where(right, spot, b), xp.where(right, value, fb)
        return a, b

    def midpoint(self, a: Array, b: Array) -> Array:
        """Halve intervals, in the exponent while the ends are far apart."""
        xp = self.xp
        apart = b > 4.0 * a
        root = xp.sqrt(xp.where(a > SMALLEST, a, xp.full_like(a, SMALLEST))) * xp.sqrt(b)
        return xp.where(apart & (root > a) & (root < b), root, a + 0.5 * (b - a))

    # ------------------------------------------------------------------------------------------------
    # The search.

    def run(self, active: Array, tolerance: Array, loose: Array, most: int) -> Found:
        """Divide until what is left is known well enough.

        Parameters
        ----------
        active : array of bool
            The rows to search.
        tolerance, loose : array
            As in :meth:`judge`.
        most : int
            Passes over a row.
        """
        xp = self.xp
        origin, whole = self.origin(), self.whole()
        # F rises from zero on while τ is above T(0).
        start = self._rest(origin, whole, active & (origin.sign > 0))
        tau, turn, value = self._at(start)
        moved = start > 0
        origin = origin._replace(
            at=start, tau=xp.where(moved, tau, origin.tau), turn=xp.where(moved, turn, origin.turn),
            value=xp.where(moved, value, origin.value),
        )  # fmt: skip
        up = 1.0 + 2.0 * self.eps
        best = xp.minimum(origin.q, whole.value * (1.0 + self.own) + LOST) * up
        verdict = self.judge(origin, whole, best, tolerance, loose)
        lefts, rights = (Ends(*(f[:, None] for f in end)) for end in (origin, whole))
        verdicts = Verdict(*(f[:, None] for f in verdict))
        going = active
        evaluations = xp.astype(xp.zeros_like(self.zero), xp.int64)
        for _ in range(most):
            floors = xp.where(verdicts.open & (verdicts.floor <= best[:, None]), verdicts.floor, math.inf)
            # What cannot be bounded comes first.
            floors = xp.where(xp.isnan(floors), xp.full_like(floors, -math.inf), floors)
            going = going & xp.any(verdicts.open & (verdicts.floor <= best[:, None]), axis=1)
            if not bool(xp.any(going)):
                break
            column = xp.argmin(floors, axis=1)
            numbers = xp.arange(floors.shape[1], device=array_api_compat.device(column))
            chosen = (column[:, None] == numbers[None, :]) & going[:, None]

            def pick(f: Array, chosen: Array = chosen) -> Array:
                return xp.sum(xp.where(chosen, f, xp.zeros_like(f)), axis=1)

            left, right = (Ends(*(pick(f) for f in ends)) for ends in (lefts, rights))
            new = self.visit(xp.where(going, pick(verdicts.mu), self.one))
            evaluations = evaluations + xp.astype(going, xp.int64)
            cost = (new.value * (1.0 + self.own) + LOST + new.q + self.eps * new.r * new.tau) * up
            best = xp.where(going, xp.minimum(best, cost), best)
            inside = self._within(new, left, right)
            pair = self.judge(
                Ends(*(xp.concat([u, v]) for u, v in zip(left, inside, strict=True))),
                Ends(*(xp.concat([u, v]) for u, v in zip(inside, right, strict=True))),
                *(xp.concat([a, a]) for a in (best, tolerance, loose)),
            )  # fmt: skip
            n = self.zero.shape[0]
            first, second = (Verdict(*(f[part] for f in pair)) for part in (slice(None, n), slice(n, None)))

            def put(old: Array, here: Array, there: Array, chosen: Array = chosen) -> Array:
                return xp.concat([xp.where(chosen, here[:, None], old), there[:, None]], axis=1)

            lefts = Ends(*(put(o, u, v) for o, u, v in zip(lefts, left, inside, strict=True)))
            rights = Ends(*(put(o, u, v) for o, u, v in zip(rights, inside, right, strict=True)))
            second = second._replace(open=second.open & going, kept=second.kept & going)
            verdicts = Verdict(*(put(o, u, v) for o, u, v in zip(verdicts, first, second, strict=True)))
        left_over = verdicts.open & (verdicts.floor <= best[:, None])
        kept = (verdicts.kept | left_over) & (verdicts.floor <= best[:, None])
        return Found(
            origin, whole, kept, verdicts.low, verdicts.high, verdicts.floor, going, evaluations
        )  # fmt: skip

    def _within(self, new: Ends, left: Ends, right: Ends) -> Ends:
        """Return a new point as an end of the two parts of an interval, whose ends may lie inside."""
        xp = self.xp
        early, late = new.r <= left.at, new.r >= right.at
        names = ("at", "tau", "turn", "value", "sign")
        ends = (
            xp.where(early, getattr(left, k), xp.where(late, getattr(right, k), getattr(new, k)))
            for k in names
        )
        return new._replace(**dict(zip(names, ends, strict=True)))

    def _rest(self, origin: Ends, whole: Ends, on: Array) -> Array:
        """Return up to which radius ``τ`` is known to be at least ``T(0)``; 0 where it is nowhere."""
        xp = self.xp
        level = origin.t * (1.0 + self.eps) / (1.0 - self.own)
        lo, hi = xp.full_like(level, SMALLEST), xp.where(whole.r > 0, whole.r, self.one)
        on = on & self.falls & (self.slope(lo) >= level)
        lo = xp.where(on & (self.slope(hi) >= level), hi, lo)
        for _ in range(LEAST_STEPS):
            middle = self.midpoint(lo, hi)
            above = self.slope(middle) >= level
            lo, hi = xp.where(above, middle, lo), xp.where(above, hi, middle)
        return xp.where(on, lo, self.zero)


class Found(NamedTuple):
    """What a search leaves: the ends of all radii, and intervals in columns.

    ``kept`` says which intervals may hold the global minimiser, ``low, high`` enclose it, ``floor`` is a
    lower bound of what it costs there, and ``lost`` says where passes ran out.
    """

    origin: Ends
    whole: Ends
    kept: Array
    low: Array
    high: Array
    floor: Array
    lost: Array
    evaluations: Array
