"""Curved slopes over any array namespace: the prox, by the best of what a search of the radii leaves.

The search is that of :mod:`proxlab.backends.curved_search`. Root finders propose nothing here: their
tolerances and their bound on iterations count.
"""

from __future__ import annotations

import math
from typing import Any

from proxlab.backends.array_api import RowSolution, nothing, scale
from proxlab.backends.curved_search import CurvedSearch
from proxlab.backends.scaled_rows import prepare, row_sum
from proxlab.bounds import UNIT, rounding
from proxlab.choose import Answer
from proxlab.curves import LOOSE, Held, most_passes, same_share
from proxlab.penalties.base import row_max
from proxlab.powers import downwards, exponent, times_power, upwards
from proxlab.rootfinders import RootFinder, Status
from proxlab.types import Array

__all__ = ["curved_rows"]

#: Powers of two over which elements and metric may not both spread: sums may lose what counts.
WIDE = 200.0


def _spread(xp: Any, v: Array) -> Array:
    """Return over how many powers of two the elements of each row spread that are not zero."""
    e, zero = exponent(xp, v), v == 0
    least = -row_max(xp, xp.where(zero, xp.full_like(v, -math.inf), -e))
    return row_max(xp, xp.where(zero, xp.full_like(v, -math.inf), e)) - least


def curved_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve ``min_z weight·p(‖z‖) + ‖z - x‖²_D / (2 step)`` for every row: the global minimiser.

    Parameters
    ----------
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    penalty : CurvedPenalty
    finder : RootFinder
        Its tolerances and its bound on iterations count; tangents take the place of its proposals.
    rtol : float
        Relative tolerance of the radius.
    """
    n = x.shape[1]
    count = xp.zeros_like(xp.astype(step, xp.int64))
    if n == 0 or x.shape[0] == 0:
        return nothing(xp, x, step)
    p = prepare(xp, xp.zeros_like(x), x, d, step, weight, 0.0, penalty.nonnegative)
    s = CurvedSearch(xp, p, penalty)
    zero, one = s.zero, s.one
    nonzero, free = row_max(xp, p.size) > 0, weight == 0
    spread = scale(xp, x, d).apart | ((_spread(xp, xp.abs(x)) > WIDE) & (_spread(xp, d) > WIDE))
    active = nonzero & ~free
    absolute = times_power(xp, zero + finder.atol, -p.ex)
    reach = xp.sqrt(row_sum(xp, p.size * p.size))
    spread = spread | ~s.is_priced()
    tolerance = rtol + absolute / xp.where(reach > 0, reach, one)
    tolerance = xp.maximum(tolerance, zero + 8.0 * UNIT)
    most = most_passes(s.falls, s.bends, finder.max_iterations)
    found = s.run(active, tolerance, xp.maximum(tolerance, zero + LOOSE), most)

    share = same_share(s.height)
    best = s.on.none_yet(s.rests, active, found.origin.q, reach)
    near = s.on.near_zero(found.origin, s.excess)
    passes = found.evaluations
    for k in range(found.kept.shape[1]):
        exists = found.kept[:, k] & active
        if not bool(xp.any(exists)):
            continue
        low, high = (xp.where(exists, v[:, k], zero) for v in (found.low, found.high))
        r, inside = s.on.cheapest(s.rests, near, low, low, high), low > 0
        looked = exists & (r > 0)
        passes = passes + xp.astype(looked, xp.int64)
        at = xp.where(looked, r, one)
        end = s.visit(s.slope(at) / at)
        r = xp.where(inside, s.on.polished(end, low, high), r)
        costs = s.on.cost_next_to(end, xp.where(inside, r, end.r))
        best = s.on.offer(s.sense, best, Held(exists, r, costs, low, high), s.rests, share)
    # What spreads too far, or costs too much, is not resolved.
    lost = (found.lost | spread) & active
    best = best._replace(least=xp.where(spread, zero, best.least), most=xp.where(spread, reach, best.most))
    tau = s.slope(xp.where(best.r > 0, best.r, one))
    answer: Answer = s.on.settle(best, tau, lost, count, 1.0 + rounding(n + 16))
    grown = s.rows.d * xp.where(answer.r > 0, answer.r, one)[:, None]
    z = xp.where((answer.r > 0)[:, None], x * (grown / (grown + answer.tau[:, None])), xp.zeros_like(x))
    if penalty.nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
        z = xp.where(z > 0, z, xp.zeros_like(z))
    # Under no penalty groups stay.
    stays, widen = nonzero & free, 1.0 + rounding(n + 16)
    z = xp.where(stays[:, None], x, z)
    radius, lower, upper, status = (
        xp.where(stays, own, other)
        for own, other in (
            (reach, answer.r), (reach / widen / widen, answer.lower), (reach * widen * widen, answer.upper),
            (count + int(Status.UNSHRUNK), answer.status),
        )
    )  # fmt: skip
    return RowSolution(
        z, times_power(xp, radius, p.ex), downwards(xp, lower, p.ex), upwards(xp, upper, p.ex), status,
        found.evaluations, passes, zero > 0,
    )  # fmt: skip
