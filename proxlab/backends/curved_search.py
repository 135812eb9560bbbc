"""The intervals of groups under a curved slope over any array namespace: the loops, and the rows in them.

What an interval holds is judged in :mod:`proxlab.curves`.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Any, NamedTuple

import array_api_compat

from proxlab.backends.curved_path import CurvedPath
from proxlab.backends.records import over_parts
from proxlab.curves import (
    CHORD_SHARE,
    LEAST_STEPS,
    MAX_STEPS,
    SMALLEST,
    TANGENT_SHARE,
    Bracket,
    Ends,
    Line,
    Price,
    Verdict,
    View,
)
from proxlab.types import Array

__all__ = ["CurvedSearch"]

#: While fewer than this share of what is worked on is still open, the rest is put aside.
FEW = 0.5


class CurvedSearch(CurvedPath):
    """Intervals of radii, and what is known of them."""

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
            As :func:`proxlab.curves.judged` has them.
        price : Price
            Of the rows that the intervals are of.
        """
        on, sense, lo, hi = self.on, self.sense, left.at, right.at
        view: View = on.compare(sense, left, right, best, price)
        least = hi if self.falls else lo
        if self.bends:
            least = self._least(view, lo, hi, price)
            view = on.without_dips(sense, view, left, right, least, price)
        plan = on.approach(sense, view, left, right, least)
        start, _ = self._root(plan.line, plan.a, plan.b, plan.on, plan.line.start, TANGENT_SHARE, price)
        plan, high = on.begun(sense, plan, hi, start, price), hi
        if self.bends or not self.falls:
            closes = plan.holds & (on.along(sense, view.chord, hi, price) > 0)
            _, high = self._root(view.chord, plan.low, hi, closes, plan.low, CHORD_SHARE, price)
        found: Verdict = on.judged(sense, view, plan, high, left, right, tolerance, loose)
        return found

    def _least(self, view: View, lo: Array, hi: Array, price: Price) -> Array:
        """Return about where a convex ``τ`` is least against the chord, where rows are left; else ``hi``."""
        xp, alive = self.xp, ~view.dead
        if not bool(xp.any(alive)):
            return hi
        chord, a, b, price = chosen(alive, (view.chord.kappa, lo, hi, price))
        near, far = a, b
        for _ in range(LEAST_STEPS):
            near, far = self.on.nearer(self.sense, chord, near, far, price)
        return put_back(xp, alive, self.on.least_at(self.sense, chord, near, far, a, b, price), hi)

    def _root(
        self, line: Line, a: Array, b: Array, on: Array, base: Array, share: float, price: Price
    ) -> tuple[Array, Array]:
        """Narrow ``f(a) < 0 <= f(b)`` of a bound ``f`` of ``F'`` where it holds, up to a share of the
        distance to ``base``; other intervals stay.
        """
        xp = self.xp
        if not bool(xp.any(on)):
            return a, b
        near, far, *given = chosen(on, (a, b, base, line, price))
        base, line, price = given
        bracket = self.on.crossed(self.sense, line, near, far, price)
        bracket = self._narrow(bracket, base, line, price, share, 0)
        return put_back(xp, on, bracket.a, a), put_back(xp, on, bracket.b, b)

    def _narrow(
        self, bracket: Bracket, base: Array, line: Line, price: Price, share: float, done: int
    ) -> Bracket:
        """Go on with brackets, of which ``done`` steps are made."""
        xp = self.xp
        for k in range(done, MAX_STEPS):
            bracket = bracket._replace(going=self.on.is_wide(bracket, base, share))
            going = bracket.going
            count = int(xp.sum(xp.astype(going, xp.int64)))
            if count == 0:
                break
            if count < FEW * going.shape[0]:
                few, base, line, price = chosen(going, (bracket, base, line, price))
                few = self._narrow(few, base, line, price, share, k)
                parts = (put_back(xp, going, new, old) for new, old in zip(few, bracket, strict=True))
                return Bracket(*parts)
            bracket = self.on.narrow(self.sense, bracket, line, k, price)
        return bracket

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
        origin = self.on.start_at(self.sense, origin, start, self.price)
        best = self.on.dearest(self.sense, origin, whole)
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
            best = xp.where(going, xp.minimum(best, self.on.cost(self.sense, new)), best)
            inside = self.on.within(new, left, right)
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

    def _rest(self, origin: Ends, whole: Ends, on: Array) -> Array:
        """Return up to which radius ``τ`` is known to be at least ``T(0)``; 0 where it is nowhere."""
        xp = self.xp
        level = origin.t * (1.0 + self.eps) / (1.0 - self.own)
        lo, hi = xp.full_like(level, SMALLEST), xp.where(whole.r > 0, whole.r, self.one)
        on = on & self.falls & (self.slope(lo) >= level)
        lo = xp.where(on & (self.slope(hi) >= level), hi, lo)
        for _ in range(LEAST_STEPS):
            middle = self.on.middle(lo, hi)
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

        def put(old: Array, new: Array) -> Array:
            if old.ndim == 2:
                none = xp.zeros((old.shape[0], more), dtype=old.dtype, device=array_api_compat.device(old))
                old = xp.concat([old, none], axis=1)
            return put_back(xp, on, new, old)

        found: Division = over_parts(put, self, few)
        return found


def chosen(on: Array, what: Any) -> Any:
    """Return some rows of arrays, and of records of arrays."""
    return over_parts(lambda a: a[on], what)


def put_back(xp: Any, on: Array, few: Array, others: Array) -> Array:
    """Put some rows back among the others."""
    place = xp.cumulative_sum(xp.astype(on, xp.int64)) - 1
    found = xp.take(few, xp.where(place > 0, place, xp.zeros_like(place)), axis=0)
    return xp.where(on if others.ndim == 1 else on[:, None], found, others)


def both(xp: Any, first: Any, second: Any) -> Any:
    """Return rows one after the other, of arrays and of records of arrays."""
    return over_parts(lambda a, b: xp.concat([a, b]), first, second)


def columns(what: Any) -> Any:
    """Return arrays as single columns, and records of them."""
    return over_parts(lambda a: a[:, None], what)


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
