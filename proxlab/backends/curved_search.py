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
from copy import copy
from typing import Any, NamedTuple

import array_api_compat

from proxlab.backends.curved_path import LOST, SMALLEST, CurvedPath, Ends, Price
from proxlab.bounds import UNIT
from proxlab.types import Array

__all__ = ["CurvedSearch"]

#: Evaluations of a row, at most; scalar steps of a root on one interval.
MAX_EVALUATIONS = 400
MAX_STEPS = 80
#: Those that may be Newton's, and halvings where only a rough place is wanted.
NEWTON_STEPS, LEAST_STEPS = 20, 20
#: While fewer than this share of what is worked on is still open, the rest is put aside.
FEW = 0.5


class Line(NamedTuple):
    """A bound of ``F'``: that of ``τ``, ``weight τ(r) + lost``, less a line for ``T``.

    The line is ``t - kappa (r - start)``, less what rounding leaves open of it, a share ``eps`` of its parts.
    """

    weight: Array
    lost: Array
    start: Array
    t: Array
    kappa: Array
    eps: Array


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


class CurvedSearch(CurvedPath):
    """Intervals of radii, and what is known of them."""

    def _line(self, line: Line, r: Array) -> Array:
        """Return what a line says of ``T``."""
        off = r - line.start
        share = line.eps * (line.t + line.kappa * (self.xp.abs(off) + line.start))
        return line.t - line.kappa * off - share

    def _along(self, line: Line, r: Array, price: Price) -> Array:
        """Return a bound of ``F'`` at radii."""
        return self.slope(r, price) * line.weight + line.lost - self._line(line, r)

    def judge(
        self, left: Ends, right: Ends, best: Array, tolerance: Array, loose: Array, price: Price
    ) -> Verdict:
        """Say what is known of intervals.

        Parameters
        ----------
        left, right : Ends
        best : array
            What some point is known to cost at most.
        tolerance, loose : array
            Relative error of the middle, and width, at which an enclosure of a minimiser is good enough.
        price : Price
            Of the rows that the intervals are of.
        """
        xp, eps, own = self.xp, self.eps, self.own
        lo, hi = left.at, right.at
        zero, one = xp.zeros_like(lo), xp.ones_like(lo)
        far = xp.full_like(lo, math.inf)
        width = right.r - left.r
        chord = xp.where(width > 0, (left.t - right.t) / xp.where(width > 0, width, one), zero)
        slack = eps * (left.t + right.t + chord * (left.r + right.r))

        # A lower bound of F', and two upper ones.
        chordal = Line(one - own, -LOST - slack, left.r, left.t, chord, zero)
        by_tangents = tuple(Line(one + own, zero + LOST, e.r, e.t, e.kappa, one * eps) for e in (left, right))

        def above(r: Array) -> Array:
            return self._along(chordal, r, price)

        def below_left(r: Array) -> Array:
            return self._along(by_tangents[0], r, price)

        def below_right(r: Array) -> Array:
            return self._along(by_tangents[1], r, price)

        # Where the tangents cross.
        gap = left.kappa - right.kappa
        drop = left.t + left.kappa * left.r - right.t - right.kappa * right.r
        cross = xp.where(gap > 0, drop / xp.where(gap > 0, gap, one), 0.5 * (lo + hi))
        cross = xp.minimum(xp.maximum(xp.where(xp.isfinite(cross), cross, lo), lo), hi)
        at_cross = xp.maximum(below_left(cross), below_right(cross))
        at_lo, at_hi = below_left(lo), below_right(hi)

        empty = hi <= lo
        if self.bends:
            falls = (at_lo < 0) & (at_hi < 0) & (at_cross < 0)
            bows = right.turn * (1.0 - own) + left.kappa * (1.0 + eps) < 0
            dead = empty | falls | bows
        elif self.falls:
            rises = right.tau * (1.0 - own) - LOST > left.t - chord * (lo - left.r) + slack
            falls = left.tau * (1.0 + own) + LOST < self._line(by_tangents[1], hi)
            dead = empty | rises | falls
        else:
            dead = empty | (above(lo) > 0) | (at_hi < 0)

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
        slip = own * (left.value + right.value) + eps * steep + LOST

        def least_of(q: Any, slope_left: Array, bend: Array) -> Array:
            # Linear and a quadratic: q'(lo) = slope_left, q'' = bend.
            h = xp.where(bend > 0, -(mean + slope_left) / xp.where(bend > 0, bend, one), zero)
            h = xp.where(bend > 0, h, xp.where(mean + slope_left < 0, hi - lo, zero))
            h = xp.minimum(xp.maximum(h, zero), hi - lo)
            return left.value + mean * h + q(lo + h) - slip

        by_a = least_of(by_right, -(right.t + right.kappa * (right.r - lo)), right.kappa)
        by_b = least_of(by_left, -(left.t - chord * (lo - left.r)), chord)
        floor = xp.maximum(by_a, by_b)
        meet = self._meet(left, right, chord, lo, hi)
        if self.bends:
            # Where F still falls at the right end, both bounds are least at an end of each part.
            here = self.value(meet, price) * (1.0 - own) + xp.maximum(by_left(meet), by_right(meet)) - slip
            begin = xp.where(left.sign > 0, far, left.value * (1.0 - own) + by_left(lo) - slip)
            ends = (right.sign < 0) & (right.at == right.r)
            sharp = xp.where(ends, xp.minimum(here, begin), -far)
            floor = xp.maximum(floor, sharp)
        floor = xp.where(xp.isnan(floor), -far, floor)
        dead = dead | (floor > best)
        # Where F' is least against the chord.
        least = hi if self.falls else lo
        if self.bends:
            least = self._least(lo, hi, chord, ~dead, price)
            # The tangent there is below a convex function.
            turn = xp.where(least > 0, self.turn(xp.where(least > 0, least, one), price), left.turn)
            tilt, doubt = turn + chord, own * (xp.abs(turn) + chord)
            dip = xp.maximum(tilt + doubt, zero) * (least - lo) + xp.maximum(doubt - tilt, zero) * (
                hi - least
            )
            dead = dead | (above(least) - dip > 0)

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
            line = Line(*(xp.where(first, v, u) for u, v in zip(*by_tangents, strict=True)))
            on = holds & (at_lo < 0)
            # Elsewhere, where the tangents say that F falls.
            ahead = ~dead & ~holds & first & (right.sign > 0)
            start, _ = self._root(line, a, b, on | ahead, line.start, 2.0**-24, price)
            low = xp.where(on, start, low)
            found = (on | ahead) & (start > lo)
            look = xp.where(found, start, look)
            towards = xp.where(found, self.slope(xp.where(found, start, one), price), towards)
            on = holds & (above(hi) > 0)
            _, end = self._root(chordal, low, hi, on, low, 2.0**-6, price)
            high = xp.where(on, end, high)
        else:
            # Without a proof, where the tangent on the left says that it is.
            on = holds & (at_lo < 0)
            start, _ = self._root(by_tangents[0], lo, hi, on, left.r, 2.0**-24, price)
            found = on & (start > lo) & (start < hi)
            look = xp.where(found, start, look)
            towards = xp.where(found, self.slope(xp.where(found, start, one), price), towards)
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

    def _least(self, lo: Array, hi: Array, chord: Array, on: Array, price: Price) -> Array:
        """Return about where a convex ``τ`` is least against a chord, where ``τ' = -chord``; else the end."""
        xp = self.xp
        if not bool(xp.any(on)):
            return hi
        a, b, fall, price = chosen(on, (lo, hi, chord, price))

        def slope(r: Array) -> Array:
            return self.turn(xp.where(r > 0, r, xp.ones_like(r)), price) + fall

        first, last = (a > 0) & (slope(a) >= 0), slope(b) <= 0
        near, far = a, b
        for _ in range(LEAST_STEPS):
            middle = self.midpoint(near, far)
            before = slope(middle) < 0
            near, far = xp.where(before, middle, near), xp.where(before, far, middle)
        found = xp.where(first, a, xp.where(last, b, self.midpoint(near, far)))
        return put_back(xp, on, found, hi)

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
        self, line: Line, a: Array, b: Array, on: Array, base: Array, share: float, price: Price
    ) -> tuple[Array, Array]:
        """Narrow ``f(a) < 0 <= f(b)`` of a bound ``f`` where it holds; other intervals stay.

        Newton's method from the right, where a convex ``f`` keeps it, and from the left what it comes to
        next, up to a share of the distance to ``base``.
        """
        xp = self.xp
        if not bool(xp.any(on)):
            return a, b
        near, far, *given = chosen(on, (a, b, base, line, price))
        base, line, price = given
        value = self._along(line, far, price)
        start = xp.where(near > 0, near, xp.full_like(near, SMALLEST))
        going = self._along(line, start, price) < 0
        # Where f is negative all along, nothing is beyond.
        near = xp.where(going & (value < 0), far, near)
        near, far = self._narrow(near, far, value, going & (value >= 0), base, line, price, share, 0)
        return put_back(xp, on, near, a), put_back(xp, on, far, b)

    def _narrow(
        self, a: Array, b: Array, fb: Array, going: Array, base: Array, line: Line, price: Price,
        share: float, done: int,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Go on with the brackets that :meth:`_root` begins, of which ``done`` steps are made."""
        xp = self.xp
        for k in range(done, MAX_STEPS):
            going = going & (b - a > xp.maximum(4.0 * UNIT * b, share * xp.abs(b - base)))
            count = int(xp.sum(xp.astype(going, xp.int64)))
            if count == 0:
                break
            if count < FEW * going.shape[0]:
                *few, line, price = chosen(going, (a, b, fb, going, base, line, price))
                near, far, value, still, base = few
                near, far = self._narrow(near, far, value, still, base, line, price, share, k)
                return put_back(xp, going, near, a), put_back(xp, going, far, b)
            one = xp.ones_like(a)
            slope = self.turn(b, price) + line.kappa
            ahead = b - fb / xp.where(slope > 0, slope, one)
            use = (slope > 0) & (ahead > a) & (ahead < b) & (k < NEWTON_STEPS)
            spot = xp.where(going, xp.where(use, ahead, self.midpoint(a, b)), one)
            value = self._along(line, spot, price)
            right = going & (value >= 0)
            a, b, fb = xp.where(going & ~right, spot, a), xp.where(right, spot, b), xp.where(right, value, fb)
            # A little left of where Newton's method goes from there.
            slope = self.turn(b, price) + line.kappa
            step = fb / xp.where(slope > 0, slope, one)
            spot = b - 2.0 * step - 2.0 * UNIT * b
            use = going & (slope > 0) & (spot > a) & (spot < b)
            spot = xp.where(use, spot, one)
            value = self._along(line, spot, price)
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

    def run(self, active: Array, tolerance: Array, loose: Array, most: int) -> Leftover:
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
        verdict = self.judge(origin, whole, best, tolerance, loose, self.price)
        none = xp.astype(xp.zeros_like(self.zero), xp.int64)
        state = Division(columns(origin), columns(whole), columns(verdict), best, active, none)
        state = self._divide(state, tolerance, loose, most)
        verdicts = state.verdicts
        left_over = verdicts.open & (verdicts.floor <= state.best[:, None])
        kept = (verdicts.kept | left_over) & (verdicts.floor <= state.best[:, None])
        return Leftover(
            origin, whole, kept, verdicts.low, verdicts.high, verdicts.floor, state.going, state.evaluations
        )  # fmt: skip

    def _divide(self, state: Division, tolerance: Array, loose: Array, most: int) -> Division:
        """Divide the best interval of each row, at most so often, until none is open."""
        xp = self.xp
        for done in range(most):
            lefts, rights, verdicts, best, going, evaluations = state
            wanted = verdicts.open & (verdicts.floor <= best[:, None])
            going = going & xp.any(wanted, axis=1)
            state = state._replace(going=going)
            count = int(xp.sum(xp.astype(going, xp.int64)))
            if count == 0:
                break
            if count < FEW * going.shape[0]:
                few, tolerance, loose = chosen(going, (state, tolerance, loose))
                few = self._only(going)._divide(few, tolerance, loose, most - done)
                return state.put_back(xp, going, few)
            # What cannot be bounded comes first.
            floors = xp.where(wanted, verdicts.floor, math.inf)
            floors = xp.where(xp.isnan(floors), xp.full_like(floors, -math.inf), floors)
            column = xp.argmin(floors, axis=1)
            numbers = xp.arange(floors.shape[1], device=array_api_compat.device(column))
            picked = (column[:, None] == numbers[None, :]) & going[:, None]

            def pick(f: Array, picked: Array = picked) -> Array:
                return xp.sum(xp.where(picked, f, xp.zeros_like(f)), axis=1)

            left, right = (Ends(*(pick(f) for f in ends)) for ends in (lefts, rights))
            new = self.visit(xp.where(going, pick(verdicts.mu), self.one))
            evaluations = evaluations + xp.astype(going, xp.int64)
            cost = new.value * (1.0 + self.own) + LOST + new.q + self.eps * new.r * new.tau
            best = xp.where(going, xp.minimum(best, cost * (1.0 + 2.0 * self.eps)), best)
            inside = self._within(new, left, right)
            pair = self.judge(
                both(xp, left, inside), both(xp, inside, right),
                *both(xp, (best, tolerance, loose, self.price), (best, tolerance, loose, self.price)),
            )  # fmt: skip
            n = self.zero.shape[0]
            first, second = (Verdict(*(f[part] for f in pair)) for part in (slice(None, n), slice(n, None)))

            def put(old: Array, here: Array, there: Array, picked: Array = picked) -> Array:
                return xp.concat([xp.where(picked, here[:, None], old), there[:, None]], axis=1)

            second = second._replace(open=second.open & going, kept=second.kept & going)
            state = Division(
                Ends(*(put(o, u, v) for o, u, v in zip(lefts, left, inside, strict=True))),
                Ends(*(put(o, u, v) for o, u, v in zip(rights, inside, right, strict=True))),
                Verdict(*(put(o, u, v) for o, u, v in zip(verdicts, first, second, strict=True))),
                best, going, evaluations,
            )  # fmt: skip
        return state

    def _only(self, on: Array) -> CurvedSearch:
        """Return the search of some of the rows."""
        few = copy(self)
        few.rows, few.p = copy(self.rows), copy(self.p)
        few.rows.d, few.rows.b, few.p.size = chosen(on, (self.rows.d, self.rows.b, self.p.size))
        few.zero, few.one, few.price = chosen(on, (self.zero, self.one, self.price))
        return few

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


class Division(NamedTuple):
    """Where a search stands: intervals in columns, and of each row what some point is known to cost."""

    lefts: Ends
    rights: Ends
    verdicts: Verdict
    best: Array
    going: Array
    evaluations: Array

    def put_back(self, xp: Any, on: Array, few: Division) -> Division:
        """Put what became of some rows back among the others, which have no more intervals."""
        more = few.best.shape[0] and few.verdicts.low.shape[1] - self.verdicts.low.shape[1]

        def put(old: Any, new: Any) -> Any:
            if isinstance(old, tuple):
                parts = [put(a, b) for a, b in zip(old, new, strict=True)]
                return type(old)(*parts)
            if old.ndim == 2:
                none = xp.zeros((old.shape[0], more), dtype=old.dtype, device=array_api_compat.device(old))
                old = xp.concat([old, none], axis=1)
            return put_back(xp, on, new, old)

        return Division(*(put(a, b) for a, b in zip(self, few, strict=True)))


def chosen(on: Array, what: Any) -> Any:
    """Return some rows of arrays, and of records of arrays."""
    if not isinstance(what, tuple):
        return what[on]
    parts = [chosen(on, part) for part in what]
    return type(what)(*parts) if hasattr(what, "_fields") else tuple(parts)


def put_back(xp: Any, on: Array, few: Array, others: Array) -> Array:
    """Put some rows back among the others."""
    place = xp.cumulative_sum(xp.astype(on, xp.int64)) - 1
    found = xp.take(few, xp.where(place > 0, place, xp.zeros_like(place)), axis=0)
    return xp.where(on if others.ndim == 1 else on[:, None], found, others)


def both(xp: Any, first: Any, second: Any) -> Any:
    """Return rows one after the other, of arrays and of records of arrays."""
    if not isinstance(first, tuple):
        return xp.concat([first, second])
    parts = [both(xp, a, b) for a, b in zip(first, second, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def columns(what: Any) -> Any:
    """Return arrays as single columns, and records of them."""
    if not isinstance(what, tuple):
        return what[:, None]
    parts = [columns(part) for part in what]
    return type(what)(*parts) if hasattr(what, "_fields") else tuple(parts)


class Leftover(NamedTuple):
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
