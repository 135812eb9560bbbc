"""Curved slopes over any array namespace: the prox, by the best of what a search of the radii leaves.

The search is that of :mod:`proxlab.backends.curved_search`. Root finders propose nothing here: their
tolerances and their bound on iterations count.
"""

from __future__ import annotations

import math
from typing import Any

from proxlab.backends.array_api import RowSolution, row_max, scale
from proxlab.backends.curved_search import MAX_EVALUATIONS, CurvedSearch
from proxlab.backends.scaled_rows import prepare, row_sum
from proxlab.bounds import UNIT, rounding
from proxlab.powers import downwards, exponent, times_power, upwards
from proxlab.rootfinders import RootFinder, Status
from proxlab.types import Array

__all__ = ["curved_rows"]

#: Width of an enclosure, relatively, within which one crossing of tangents may be all that is wanted.
LOOSE = 2.0**-26
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
        none = xp.zeros_like(step)
        return RowSolution(x, none, none, none, count + int(Status.ZERO), count, count, none > 0)
    p = prepare(xp, xp.zeros_like(x), x, d, step, weight, 0.0, penalty.nonnegative)
    s = CurvedSearch(xp, p, penalty)
    zero, one = s.zero, s.one
    nonzero, free = row_max(xp, p.size) > 0, weight == 0
    spread = scale(xp, x, d).apart | ((_spread(xp, xp.abs(x)) > WIDE) & (_spread(xp, d) > WIDE))
    active = nonzero & ~free
    absolute = times_power(xp, zero + finder.atol, -p.ex)
    reach = xp.sqrt(row_sum(xp, p.size * p.size))
    tolerance = rtol + absolute / xp.where(reach > 0, reach, one)
    tolerance = xp.maximum(tolerance, zero + 8.0 * UNIT)
    most = min(finder.max_iterations * s.patience, MAX_EVALUATIONS)
    found = s.run(active, tolerance, xp.maximum(tolerance, zero + LOOSE), most)

    best_r, lower, upper = zero, zero, zero
    rests = s.rests & active
    objective = xp.where(active & ~rests, xp.full_like(zero, math.inf), found.origin.q)
    share = (8.0 + 2.0 * math.sqrt(s.height)) * UNIT
    tie = zero > 0
    least, most = xp.where(rests, zero, reach), zero
    bend = found.origin.kappa + found.origin.turn
    near = s.excess / xp.where(bend > 0, bend, s.excess + 1.0)
    for k in range(found.kept.shape[1]):
        exists = found.kept[:, k] & active
        if not bool(xp.any(exists)):
            continue
        low, high = (xp.where(exists, v[:, k], zero) for v in (found.low, found.high))
        # Next to zero where it is the limit of rounding: the zero of the tangent there, or zero itself.
        inside = low > 0
        polished = s.polish(xp.where(inside, low, one), xp.where(inside, high, one))
        r = xp.where(inside, polished, xp.where(rests, zero, xp.minimum(near, high)))
        upper = xp.where(exists & rests & (low == 0) & (best_r == 0), xp.maximum(upper, high), upper)
        exists = exists & (r > 0)
        value = xp.where(exists, s.cost(xp.where(exists, r, one)), xp.full_like(zero, math.inf))
        least = xp.where(exists, xp.minimum(least, low), least)
        most = xp.where(exists, xp.maximum(most, high), most)
        # What two intervals that touch enclose is one.
        slack = 1.0 + 64.0 * s.eps
        touches = exists & (best_r > 0) & (low <= upper * slack) & (high * slack >= lower)
        both = exists & xp.isfinite(objective)
        apart = xp.where(both, value - objective, one)
        same = both & ~touches & (xp.abs(apart) <= share * xp.where(both, value + objective, zero))
        wins = exists & xp.where(same, r < best_r, value < objective)
        union = touches | same
        lower, upper = (
            xp.where(union, outer, xp.where(wins, new, old))
            for outer, new, old in (
                (xp.minimum(lower, low), low, lower), (xp.maximum(upper, high), high, upper)
            )
        )  # fmt: skip
        tie = (tie & ~(wins & ~union)) | same
        best_r, objective = xp.where(wins, r, best_r), xp.where(wins, value, objective)
    tau = xp.where(best_r > 0, s.slope(xp.where(best_r > 0, best_r, one)), one)
    status = xp.where(best_r > 0, count + int(Status.CONVERGED), count + int(Status.ZERO))
    unshrunk = nonzero & (free | ((best_r > 0) & (tau == 0)))
    status = xp.where(unshrunk, count + int(Status.UNSHRUNK), status)
    status = xp.where(tie, count + int(Status.TIE), status)
    # What spreads too far is not resolved.
    lost = (found.lost | spread) & active
    status = xp.where(lost, count + int(Status.MAX_ITERATIONS), status)
    grown = s.rows.d * xp.where(best_r > 0, best_r, one)[:, None]
    z = xp.where((best_r > 0)[:, None], x * (grown / (grown + tau[:, None])), xp.zeros_like(x))
    if penalty.nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
        z = xp.where(z > 0, z, xp.zeros_like(z))
    z = xp.where(unshrunk[:, None], x, z)
    whole = unshrunk & free
    radius = xp.where(whole, reach, best_r)
    widen = 1.0 + rounding(n + 16)
    least, most = xp.where(spread, zero, least), xp.where(spread, reach, most)
    lower = xp.where(whole, reach / widen, xp.where(lost, least, lower))
    upper = xp.where(whole, reach * widen, xp.where(lost, most, upper))
    lower, upper = xp.minimum(lower / widen, radius), xp.maximum(upper * widen, radius)
    return RowSolution(
        z, times_power(xp, radius, p.ex), downwards(xp, lower, p.ex), upwards(xp, upper, p.ex), status,
        found.evaluations, found.evaluations, zero > 0,
    )  # fmt: skip
