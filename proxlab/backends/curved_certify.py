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
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    SPREAD,
    in_units_of_data,
    no_elements,
    norm_above,
    prepare,
)
from proxlab.bounds import rounding
from proxlab.curves import MAX_EVALUATIONS, OWN_ROUNDINGS
from proxlab.penalties.base import row_max
from proxlab.types import Array

__all__ = ["curved_bounds"]


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
    zero, one, none = s.zero, s.one, xp.zeros_like(x)
    far = xp.full_like(zero, math.inf)
    reach = norm_above(xp, p.size_high)
    trivial, free = row_max(xp, p.size_high) == 0, weight == 0
    known = (row_max(xp, p.d) <= SPREAD) & xp.all(xp.isfinite(p.z), axis=1)
    usable = known & (-row_max(xp, -p.d) > 1.0 / SPREAD) & ~trivial & ~free
    # Nothing was lost when the data were scaled, and the penalty at the point is within reach.
    usable = usable & ~xp.any(p.error > 0, axis=1) & s.tame(reach)
    found = s.run(usable, zero, zero, MAX_EVALUATIONS)
    k = rounding(OWN_ROUNDINGS + 60)
    kept = (free | trivial) & known
    reach_low = norm_above(xp, p.size_low) * (1.0 - rounding(2 * s.height + 24))

    # Zero, and what the search left; the elements of one at a time.
    dear = xp.where(usable, found.origin.q * (1.0 + 2.0 * s.eps), far)
    left_over = [(usable & ~(found.origin.sign < 0), zero, zero, found.origin.q * (1.0 - 2.0 * s.eps), dear)]
    for j in range(found.kept.shape[1]):
        on = found.kept[:, j] & usable
        if bool(xp.any(on)):
            low, high = (xp.where(on, v[:, j], one) for v in (found.low, found.high))
            low, high = low * (1.0 - 2.0 * s.eps), high * (1.0 + 2.0 * s.eps)
            least, most = s.cost_between(low, high)
            least = xp.maximum(least, xp.where(on, found.floor[:, j], zero))
            left_over.append((on, low, high, least, xp.where(on, most, far)))
    price = left_over[0][-1]
    for _, _, _, _, most in left_over[1:]:
        price = xp.minimum(price, most)

    def boxes() -> Iterator[Box]:
        for possible, low, high, least, most in left_over:
            inner = s.shares_between(low, high)
            small = p.size_low * inner[0] * (1.0 - k)
            large = xp.minimum(p.size_high * inner[1] * (1.0 + k), p.size_high)
            small, large = (xp.where((high > 0)[:, None], v, none) for v in (small, large))
            yield Box(possible, low, high, small, large, least, most)
        # Under no penalty elements are known.
        least = s.value(reach_low) * (1.0 - s.own)
        yield Box(kept, reach_low, reach, p.size_low, p.size_high, least, far)

    left = left_of(xp, p, boxes(), price, reach, known)
    may_be, may_not_be, length = zero > 0, zero > 0, zero  # zero
    for (_, low, high, _, _), alive in zip(left_over, left.alive, strict=False):
        may_be, may_not_be = may_be | (alive & (low == 0)), may_not_be | (alive & (high > 0))
        length = length + xp.where(alive, high - low, zero)
    width = norm_above(xp, xp.maximum(left.high - left.low, none))
    # Intervals that touch enclose one minimiser.
    joined = left.upper - left.lower <= length + 16.0 * s.eps * left.upper
    # Where passes ran out, an interval may hold several, unless all that is left is as narrow as rounding.
    single = ~found.lost & ((left.count == 1) | joined)
    narrow = single | (width <= rounding(8 * s.height + 400) * reach)
    decided = (~left.lost & ~(may_be & may_not_be) & narrow) | kept

    residual = s.residual()
    stationarity = xp.where(s.tame(reach) & known, norm_above(xp, residual), far)
    stationarity = xp.where(xp.isnan(stationarity), far, stationarity)
    norm_z = norm_above(xp, xp.abs(p.z))
    gap = gap_of(xp, p, left, s.value(norm_z) * (1.0 + s.own) * (1.0 + s.eps))
    gap = xp.where(s.tame(xp.maximum(reach, norm_z)), gap, far)
    outside = xp.any(z < 0, axis=1) if penalty.nonnegative else zero > 0
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
