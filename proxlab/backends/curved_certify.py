"""Certificates for curved slopes: all radii at which the global minimiser may lie, enclosed.

The search is that of :mod:`proxlab.backends.curved_search`, to the end of what rounding tells apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from proxlab.backends.array_certify import extra_gap
from proxlab.backends.boxes import Box, gap_of, left_of
from proxlab.backends.curved_search import CurvedSearch
from proxlab.backends.path_boxes import Path, PathBoxes
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    SPREAD,
    in_units_of_data,
    lost_pull,
    no_elements,
    norm_above,
    prepare,
)
from proxlab.bounds import rounding
from proxlab.curves import MAX_EVALUATIONS, OWN_ROUNDINGS, SMALLEST, UNDERFLOW
from proxlab.penalties.base import row_max
from proxlab.powers import times_power
from proxlab.types import Array

__all__ = ["curved_bounds"]


class CurveBoxes(PathBoxes):
    """Boxes of intervals of radii, of what a search leaves of them."""

    def __init__(self, search: CurvedSearch) -> None:
        super().__init__(search.xp, search.p, OWN_ROUNDINGS + 60.0)
        self.search = search
        # Below the first, radii in the penalty's own units are off by the second: there they are subnormal.
        self.faint, self.lost = (times_power(self.xp, self.one, e - self.p.ex) for e in (-1021.0, -1073.0))

    def known(self, function: Any, r: Array, factors: tuple[Array, ...]) -> Array:
        """Return what a function of the penalty returns, and infinity where that is no number."""
        return self.search.scaled(function, r, self.search.price, factors, math.inf)

    def rounded(self, r: Array) -> tuple[Array, Array]:
        """Enclose what a radius becomes in the penalty's own units."""
        off = self.xp.where((r > 0) & (r < self.faint), self.lost, self.zero)
        return self.xp.maximum(r - off, self.zero), r + off

    def value(self, r: Array) -> tuple[Array, Array]:
        """Bound ``η p`` at a radius from above, and from there on from below."""
        xp, s = self.xp, self.search
        low = high = s.value(r)
        first, last = self.rounded(r)
        if bool(xp.any(first < last)):
            low, high = s.value(first), s.value(last)
        least, most = low * (1.0 - s.own) - UNDERFLOW, high * (1.0 + s.own) + UNDERFLOW
        return xp.where(r > 0, least, low), xp.where(r > 0, most, high)

    def interval_box(self, possible: Array, low: Array, high: Array, floor: Array) -> Box:
        """Enclose the minimisers between two radii, which cost no less than a floor."""
        xp, s = self.xp, self.search
        radii = low, high, 0.5 * (low + high)
        first, last, tau = (s.slope(xp.where(r > 0, r, SMALLEST * self.one)) for r in radii)
        # Where r/tau is least and largest: a slope that rises is bounded by both ends.
        ends = (first, last) if s.falls else (last, first)
        path = Path(low, ends[0], high, ends[1], radii[2], tau)

        def gap(distance: Array, metric_distance: Array) -> Array:
            slope = first * (1.0 + s.own) + UNDERFLOW
            by_tangent = self.gap_by_tangent(path, slope, self.zero, distance, metric_distance)
            # A concave p is no less than its slope, times the radius.
            return xp.minimum(by_tangent, self.gap_near_zero(last * (1.0 - s.own) - UNDERFLOW, high))

        box = self.path_box(possible, path, gap if s.falls else None)
        box.least = xp.maximum(box.least, xp.where(possible, floor, self.zero))
        return box

    def residual(self) -> Array:
        """Return upper bounds of the elements of the least subgradient of ``ηQ`` at the candidate."""
        xp, p, s = self.xp, self.p, self.search
        size, positive = xp.abs(p.z), self.size > 0
        r, low = (xp.where(positive, v, self.one) for v in (self.size, self.size_low))
        tau = self.known(s.curve.slope, r, s.price.slope)
        first, last = (xp.abs(s.slope(v) - tau) for v in (self.rounded(low)[0], self.rounded(r)[1]))
        doubt = xp.maximum(first, last) + 2.0 * s.own * tau + UNDERFLOW
        pull = p.d * (p.z - p.x)
        signed = pull + tau[:, None] * (p.z / r[:, None])
        error = rounding(12) * (xp.abs(pull) + tau[:, None] * (size / r[:, None]))
        error = error + (doubt / low + tau / low * rounding(3 * self.height + 56))[:, None] * size
        push = xp.maximum(-pull, xp.zeros_like(pull)) if s.penalty.nonnegative else xp.abs(pull)
        away = xp.where(p.z == 0, push * (1.0 + rounding(6)), xp.abs(signed) + error) + lost_pull(xp, p, p.d)
        # At zero: what ‖b‖ exceeds the slope by, along b.
        excess = self.excess_of_b(s.slope(self.zero) * (1.0 - s.own) - UNDERFLOW)
        return xp.where(positive[:, None], away, self.along_b(excess))


def curved_bounds(xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: Any) -> Bounds:
    """Certify every row: all radii at which the global minimiser may lie, and what holds for each of them.

    Parameters
    ----------
    z : array of shape (rows, n), float64
        The candidate.
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    penalty : CurvedPenalty
    """
    n = x.shape[1]
    if n == 0 or x.shape[0] == 0:
        return no_elements(xp, x, step)
    p = prepare(xp, z, x, d, step, weight, 0.0, penalty.nonnegative)
    s = CurvedSearch(xp, p, penalty)
    q = CurveBoxes(s)
    zero, one, far, reach = q.zero, q.one, q.far, q.reach
    trivial, free = row_max(xp, p.size_high) == 0, weight == 0
    known = (row_max(xp, p.d) <= SPREAD) & xp.all(xp.isfinite(p.z), axis=1)
    usable = known & (-row_max(xp, -p.d) > 1.0 / SPREAD) & ~trivial & ~free
    # Nothing was lost when the data were scaled, and the penalty at the point is within reach.
    usable = usable & ~xp.any(p.error > 0, axis=1) & s.tame(reach)
    found = s.run(usable, zero, zero, MAX_EVALUATIONS)
    kept = (free | trivial) & known

    def boxes() -> Iterator[Box]:
        yield q.zero_box(usable & ~(found.origin.sign < 0))
        for j in range(found.kept.shape[1]):
            on = found.kept[:, j] & usable
            if bool(xp.any(on)):
                low, high = (xp.where(on, v[:, j], one) for v in (found.low, found.high))
                low, high = low * (1.0 - 2.0 * s.eps), high * (1.0 + 2.0 * s.eps)
                yield q.interval_box(on, low, high, found.floor[:, j])
        # Under no penalty elements are known.
        yield Box(kept, q.reach_low, reach, p.size_low, p.size_high, q.value(q.reach_low)[0], far)

    # Made anew for each of two passes: there may be many, of all elements.
    price, ends = xp.where(usable, q.moved_high(p.size_high), far), []  # zero is a point of every row
    for box in boxes():
        price = xp.where(box.possible, xp.minimum(price, box.most), price)
        ends.append((box.lower, box.upper))
    left = left_of(xp, p, boxes(), price, reach, known)
    may_be, may_not_be, length = q.no, q.no, zero  # zero
    for (low, high), alive in zip(ends[:-1], left.alive[:-1], strict=True):
        may_be, may_not_be = may_be | (alive & (low == 0)), may_not_be | (alive & (high > 0))
        length = length + xp.where(alive, high - low, zero)
    width = norm_above(xp, xp.maximum(left.high - left.low, xp.zeros_like(x)))
    # Intervals that touch enclose one minimiser.
    joined = left.upper - left.lower <= length + 16.0 * s.eps * left.upper
    # Where passes ran out, an interval may hold several, unless all that is left is as narrow as rounding.
    single = ~found.lost & ((left.count == 1) | joined)
    narrow = single | (width <= rounding(8 * q.height + 400) * reach)
    decided = (~left.lost & ~(may_be & may_not_be) & narrow) | kept

    residual = q.residual()
    # Where the direction of the candidate is what it was.
    stationarity = xp.where(s.tame(reach) & known & p.sound, norm_above(xp, residual), far)
    stationarity = xp.where(xp.isnan(stationarity), far, stationarity)
    gap = gap_of(xp, p, left, q.own_value)
    gap = xp.where(s.tame(xp.maximum(reach, q.size)), gap, far)
    outside = xp.any(z < 0, axis=1) if penalty.nonnegative else q.no
    gap, stationarity = (xp.where(outside, far, v) for v in (gap, stationarity))
    if penalty.nonnegative:
        gap = xp.where(outside, far, gap + extra_gap(xp, p, penalty))
    return in_units_of_data(
        xp,
        p,
        Bounds(
            left.distance, left.metric_distance, stationarity, gap, decided, left.lower,
            xp.minimum(left.upper, reach), left.low, left.high,
        ),
    )  # fmt: skip
