"""Certificates for curved slopes: all radii at which the global minimiser may lie, enclosed.

The search is that of :mod:`proxlab.backends.curved_search`, to the end of what rounding tells apart.
"""

from __future__ import annotations

import math
from typing import Any

from proxlab.backends.array_certify import extra_gap
from proxlab.backends.curved_search import CurvedSearch
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import SPREAD, corner, in_units_of_data, no_elements, norm_above, prepare
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

    # Zero, and what the search left.
    price = xp.where(usable, found.origin.q * (1.0 + 2.0 * s.eps), far)
    boxes = [(usable & ~(found.origin.sign < 0), zero, zero, found.origin.q * (1.0 - 2.0 * s.eps))]
    for j in range(found.kept.shape[1]):
        on = found.kept[:, j] & usable
        if bool(xp.any(on)):
            low, high = (xp.where(on, v[:, j], one) for v in (found.low, found.high))
            low, high = low * (1.0 - 2.0 * s.eps), high * (1.0 + 2.0 * s.eps)
            least, most = s.cost_between(low, high)
            price = xp.where(on, xp.minimum(price, most), price)
            boxes.append((on, low, high, xp.maximum(least, xp.where(on, found.floor[:, j], zero))))
    count, distance, metric_distance, floor, length = zero, zero, zero, far, zero
    may_be, may_not_be = zero > 0, zero > 0  # zero
    box_low, box_high, lower, upper = p.size_high, none, reach, zero
    root = xp.sqrt(p.d) * (1.0 + rounding(2))
    for possible, low, high, least in boxes:
        alive = possible & ~(least > price * (1.0 + rounding(4)))
        count = count + xp.astype(alive, xp.float64)
        inner = s.share(low) * (1.0 - k), s.share(high) * (1.0 + k)
        small, large = p.size_low * inner[0], xp.minimum(p.size_high * inner[1], p.size_high)
        small, large = (xp.where((high > 0)[:, None], v, none) for v in (small, large))
        may_be, may_not_be = may_be | (alive & (low == 0)), may_not_be | (alive & (high > 0))
        off = corner(xp, p, small, large)
        distance = xp.where(alive, xp.maximum(distance, norm_above(xp, off)), distance)
        metric_distance = xp.where(
            alive, xp.maximum(metric_distance, norm_above(xp, off * root)), metric_distance
        )
        floor = xp.where(alive, xp.minimum(floor, least), floor)
        box_low = xp.where(alive[:, None], xp.minimum(box_low, small), box_low)
        box_high = xp.where(alive[:, None], xp.maximum(box_high, large), box_high)
        length = length + xp.where(alive, high - low, zero)
        lower = xp.where(alive, xp.minimum(lower, low), lower)
        upper = xp.where(alive, xp.maximum(upper, high), upper)
    # Elements under no penalty are known, and of what is not usable that 0 ≤ z*_i/x_i ≤ 1.
    kept = (free | trivial) & known
    lost = ~usable | (count == 0)
    box_low = xp.where(lost[:, None], xp.where(kept[:, None], p.size_low, none), box_low)
    box_high = xp.where(lost[:, None], p.size_high, box_high)
    reach_low = norm_above(xp, p.size_low) * (1.0 - rounding(2 * s.height + 24))
    lower, upper = xp.where(lost, xp.where(kept, reach_low, zero), lower), xp.where(lost, reach, upper)
    off = corner(xp, p, box_low, box_high)
    distance = xp.where(lost, norm_above(xp, off), distance)
    metric_distance = xp.where(lost, xp.where(known, norm_above(xp, off * root), far), metric_distance)
    width = norm_above(xp, xp.maximum(box_high - box_low, none))
    # Intervals that touch enclose one minimiser.
    joined = upper - lower <= length + 16.0 * s.eps * upper
    # Where passes ran out, an interval may hold several, unless all that is left is as narrow as rounding.
    single = ~found.lost & ((count == 1) | joined)
    narrow = single | (width <= rounding(8 * s.height + 400) * reach)
    decided = (~lost & ~(may_be & may_not_be) & narrow) | kept

    residual = s.residual()
    stationarity = xp.where(s.tame(reach) & known, norm_above(xp, residual), far)
    stationarity = xp.where(xp.isnan(stationarity), far, stationarity)
    # What the candidate costs, and what anything costs at least.
    apart = norm_above(xp, corner(xp, p, p.size_low, p.size_high) * root)
    norm_z = norm_above(xp, xp.abs(p.z))
    cost = s.value(norm_z) * (1.0 + s.own) * (1.0 + s.eps) + 0.5 * apart * apart * (1.0 + rounding(4))
    gap = xp.maximum(
        cost * (1.0 + rounding(4)) - xp.where(kept, s.value(reach_low) * (1.0 - s.own), floor), zero
    )
    gap = xp.where(distance == 0, zero, gap + 2.0**-880)
    gap = xp.where((lost & ~kept) | xp.isnan(gap) | ~s.tame(xp.maximum(reach, norm_z)), far, gap)
    outside = xp.any(z < 0, axis=1) if penalty.nonnegative else zero > 0
    gap, stationarity = (xp.where(outside, far, v) for v in (gap, stationarity))
    if penalty.nonnegative:
        gap = xp.where(outside, far, gap + extra_gap(xp, p, penalty))
    return in_units_of_data(
        xp,
        p,
        Bounds(
            distance,
            metric_distance,
            stationarity,
            gap,
            decided,
            lower,
            xp.minimum(upper, reach),
            box_low,
            box_high,
        ),
    )
