"""Certificates for any admissible table of pieces: every candidate enclosed, none forgotten.

The global minimiser is zero, x, an up-crossing on a piece or a kink where the slope jumps up (see
:mod:`proxlab.backends.array_tables`). Whatever cannot be excluded is enclosed, each in a box of its own; what
costs more than another point can be shown to cost is dropped; and the bounds hold for all that is left.
Nothing relies on the existence of a candidate, nor on there being one only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from proxlab.backends.array_certify import extra_gap, scaled_pieces, share, stationarity_above
from proxlab.backends.array_tables import heights
from proxlab.backends.boxes import Box, gap_of, left_of
from proxlab.backends.enclosed_root import (
    FLOOR,
    MAX_EVALUATIONS,
    Enclosed,
    RowEquation,
    tau_at,
)
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    BEYOND,
    LARGEST,
    LEAST_METRIC,
    LOST,
    LOST_PULL,
    LOST_SQUARE,
    ScaledRows,
    convex_bounds,
    finite_or_inf,
    in_units_of_data,
    metric_above,
    no_elements,
    norm_above,
    prepare,
    row_sum,
    sum_height,
)
from proxlab.bounds import ROUNDING, UNIT, rounding
from proxlab.penalties import RadialPenalty
from proxlab.penalties.base import row_max
from proxlab.penalties.tables import Table, doubt, kinks
from proxlab.types import Array

__all__ = ["table_bounds"]

#: By how much a bracket of a radius is widened: tau is exact at a radius that differs by less.
WIDER = 1e-14


class TableProblem:
    """Rows in scaled units with the table that holds for them, and bounds of what it costs."""

    def __init__(self, xp: Any, p: ScaledRows, table: Table) -> None:
        self.xp, self.p, self.table = xp, p, table
        self.pieces = scaled_pieces(xp, p, table)
        self.heights = heights(xp, p, table, self.pieces)
        # What these are computed from, and so the size of their rounding.
        self.sums = [self.heights[0]]
        for q in self.pieces[:-1]:
            most = (q.end - q.start) * (xp.abs(q.alpha) + xp.abs(q.shift) * (q.start + q.end))
            self.sums.append(self.sums[-1] + most)
        self.spare = p.coefficient(xp, doubt(table), 1, 2) * (1.0 + rounding(8))
        self.eq = RowEquation(xp, p, curved=True)
        self.height = sum_height(p.x.shape[1])
        self.zero, self.one = xp.zeros_like(p.step), xp.ones_like(p.step)
        self.no, self.yes = self.zero > 0, self.zero == 0

    def value(self, r: Array) -> tuple[Array, Array]:
        """Bound ``η p(r)`` at a radius."""
        xp = self.xp
        low, high, k = self.zero, self.zero, rounding(16 + len(self.table))
        for q, height, total in zip(self.pieces, self.heights, self.sums, strict=True):
            on = r >= q.start
            start = xp.where(on, q.start, self.zero)
            length = r - start
            middle = height + length * (q.alpha - 0.5 * q.shift * (r + start))
            error = k * (total + length * (xp.abs(q.alpha) + xp.abs(q.shift) * (r + start)))
            low, high = xp.where(on, middle - error, low), xp.where(on, middle + error, high)
        low = xp.maximum(low - self.spare - LOST_PULL, self.zero)
        high = high + self.spare + LOST_PULL
        return xp.where(r > 0, low, self.zero), xp.where(r > 0, high, self.zero)

    def moved(self, ratio: Array) -> tuple[Array, Array]:
        """Bound ``‖z - x‖²_D/2`` where ``z_i = x_i (1 - ratio_i)``."""
        xp, p, k = self.xp, self.p, rounding(self.height + 120)
        low = 0.5 * row_sum(xp, p.d * (p.size_low * ratio) ** 2) * (1.0 - k)
        high = 0.5 * row_sum(xp, p.d * (p.size_high * ratio) ** 2) * (1.0 + k) + LOST_SQUARE
        return xp.maximum(low - LOST_SQUARE, self.zero), high

    def zero_box(self, possible: Array) -> Box:
        """Zero itself."""
        none = self.xp.zeros_like(self.p.x)
        least, most = self.moved(none + 1.0)
        return Box(possible, self.zero, self.zero, none, none, least, most)

    def whole_box(self, possible: Array, lower: Array, upper: Array) -> Box:
        """The point itself, after the elementwise part."""
        least, most = self.value(lower)[0], self.value(upper)[1]
        return Box(possible, lower, upper, self.p.size_low, self.p.size_high, least, most)

    def path_box(
        self,
        possible: Array,
        lower: Array,
        upper: Array,
        ends: tuple[Array, Array],
        spot: tuple[Array, Array],
    ) -> Box:
        """Enclose the part of the path ``z = b r/(d r + tau)`` with these ``(r, tau)`` at its ends.

        ``ends`` are the two tau; ``spot`` is one ``(r, tau)``, best near the candidate. Elements are monotone
        along a piece.
        """
        xp, p, k = self.xp, self.p, rounding(ROUNDING[True][2] + 8)
        shares, ratios = [], []
        for r, tau in ((lower, ends[0]), (upper, ends[1])):
            safe = xp.where(r > 0, r, self.one)
            shares.append(share(xp, p.d, r, tau))
            ratio = tau[:, None] / (p.d * safe[:, None] + tau[:, None])
            ratios.append(xp.where((r > 0)[:, None], ratio, xp.ones_like(ratio)))
        low = p.size_low * xp.minimum(*shares) * (1.0 - k) - LOST
        high = p.size_high * xp.maximum(*shares) * (1.0 + k) + LOST
        least = self.value(lower)[0] + self.moved(xp.minimum(*ratios) * (1.0 - k))[0]
        r, tau = spot
        r = xp.where(r > 0, r, self.one)
        here = p.size_high * share(xp, p.d, r, tau) * (1.0 + k) + LOST
        cost = self.moved(tau[:, None] / (p.d * r[:, None] + tau[:, None]) * (1.0 + k))[1]
        most = self.value(norm_above(xp, here))[1] + cost
        return Box(
            possible, lower, upper, xp.maximum(low, xp.zeros_like(low)), xp.minimum(high, p.size_high),
            finite_or_none(xp, least), finite_or_inf(xp, most),
        )  # fmt: skip

    def narrowed(
        self, enclose: Callable[[Array, Array], Enclosed], resolved: Callable[[Array], Array],
        lower: Array, upper: Array, at: Array, on: Array,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Narrow a bracket until it no longer shrinks.

        Parameters
        ----------
        enclose : callable
            Evaluates at points, given the upper end.
        resolved : callable
            Whether numbers at points are in range.
        lower, upper, at : array
            The bracket, and where to begin.
        on : array of bool
        """
        xp, stalled = self.xp, self.zero
        for _ in range(MAX_EVALUATIONS):
            on = on & (upper - lower > 4.0 * UNIT * upper) & (upper > FLOOR) & (stalled < 16.0)
            if not bool(xp.any(on)):
                break
            at = xp.maximum(at, xp.full_like(at, FLOOR))
            can = on & resolved(at)
            spot = xp.where(can, at, self.one)
            _, _, ahead, known = near = enclose(spot, upper)
            lower = xp.where(can, xp.maximum(lower, near.lower), lower)
            upper = xp.where(can, xp.minimum(upper, near.upper), upper)
            # Within rounding of the root, or nowhere to go: halve what is left a few times.
            lost = ((known.below <= 0) & (known.above >= 0)) | ~can
            stalled = xp.where(lost, stalled + 1.0, stalled)
            inside = ~lost & (ahead > lower) & (ahead < upper)
            back = ~lost & (ahead > 0) & (ahead <= lower) & (spot > lower * (1.0 + 1e-12) + 4.0 * FLOOR)
            at = xp.where(inside, ahead, xp.where(back, lower, 0.5 * (lower + upper)))
        return lower, upper

    def root_box(self, k: int, possible: Array, reach: Array) -> Box:
        """Enclose the up-crossing on a piece where there may be one."""
        xp, q = self.xp, self.pieces[k]
        lower = xp.where(possible, q.start * (1.0 - 1e-15), self.zero)
        upper = xp.where(possible, xp.minimum(q.end * (1.0 + 1e-15), reach), self.one)
        lower, upper = self.narrowed(
            lambda r, far: self.eq.enclose(r, q, far),
            lambda r: tau_at(xp, r, q) + self.eq.dmax * r > FLOOR,
            lower, upper, upper, possible,
        )  # fmt: skip
        # Below 1 and falling, concave as it is, where the root begins to be possible, it is nowhere.
        spot = xp.where(possible & (lower > FLOOR), lower, self.one)
        known = self.eq.enclose(spot, q, spot).known
        falls = (known.s1 + known.slack <= 0) & (known.above < LARGEST)
        nowhere = (lower > FLOOR) & (known.below > 0) & falls
        possible = possible & (lower <= upper) & ~nowhere
        lower, upper = lower * (1.0 - WIDER), upper * (1.0 + WIDER)
        ends = tuple(tau_at(xp, r, q) for r in (lower, upper))
        middle = 0.5 * (lower + upper)
        spot = middle, tau_at(xp, middle, q)
        return self.path_box(possible, lower, upper, (ends[0], ends[1]), spot)

    def kink_box(self, k: int, possible: Array) -> Box:
        """Enclose the point of the path whose radius is that of a kink: ``G(r, tau) = 1``, in ``tau``."""
        xp, eq = self.xp, self.eq
        before, after = self.pieces[k - 1], self.pieces[k]
        r = xp.where(possible, after.start, self.one)
        error = rounding(16) * sum(xp.abs(q.alpha) + xp.abs(q.shift) * r for q in (before, after))
        lower = xp.maximum(tau_at(xp, r, before) - error, self.zero)
        upper = tau_at(xp, r, after) + error
        lower, upper = self.narrowed(
            lambda tau, far: eq.enclose_slope(tau, r, far), lambda tau: tau + eq.dmax * r > FLOOR,
            lower, upper, lower, possible,
        )  # fmt: skip
        possible = possible & (lower <= upper)
        middle = 0.5 * (lower + upper)
        return self.path_box(possible, r, r, (lower, upper), (r, middle))


def finite_or_none(xp: Any, v: Array) -> Array:
    """Replace what is not finite by minus infinity: no lower bound."""
    return xp.where(xp.isfinite(v), v, xp.full_like(v, -math.inf))


def candidates(q: TableProblem, usable: Array, reach: Array, reach_low: Array) -> list[Box]:
    """Enclose all points that may be the global minimiser."""
    xp, table = q.xp, q.table
    alpha = q.pieces[0].alpha
    margin = q.eq.margin(alpha, table[0].a, usable & (alpha > FLOOR))
    resting = usable if table[0].value > 0 else usable & (margin.low <= 0)
    boxes = [q.zero_box(resting)]
    kinked = kinks(table)
    for k, (piece, s) in enumerate(zip(table, q.pieces, strict=True)):
        on = usable & (s.start <= reach)
        spot = xp.where(on & (s.start > 0), s.start, q.one)
        if k == 0:
            none = margin.high <= 0
        else:
            after = q.eq.enclose(spot, s, spot)
            none = after.known.above < 0
            if kinked[k - 1]:
                before = q.eq.enclose(spot, q.pieces[k - 1], spot)
                boxes.append(q.kink_box(k, on & ~(before.known.above < 0) & ~(after.known.below > 0)))
        if piece.a == 0.0 and piece.c == 0.0:
            boxes.append(q.whole_box(on & (s.end >= reach_low), reach_low, reach))
        else:
            boxes.append(q.root_box(k, on & ~none, reach))
    return boxes


def table_bounds(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: RadialPenalty
) -> Bounds:
    """Certify every row for a radial penalty, whatever its table.

    Parameters
    ----------
    z : array of shape (rows, n), float64
        The candidate.
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    penalty : RadialPenalty
    """
    n = x.shape[1]
    if n == 0:
        return no_elements(xp, x, step)
    table = penalty.equation.table
    p = prepare(xp, z, x, d, step, weight, penalty.threshold, penalty.nonnegative)
    q = TableProblem(xp, p, table)
    zero, none = q.zero, xp.zeros_like(x)
    far = xp.full_like(zero, math.inf)
    reach = norm_above(xp, p.size_high)
    reach_low = norm_above(xp, p.size_low) * (1.0 - rounding(2 * sum_height(n) + 24))
    trivial, free = row_max(xp, p.size_high) == 0, weight == 0
    known = p.sound & xp.all(xp.isfinite(p.z), axis=1)
    usable = known & (-row_max(xp, -p.d) > LEAST_METRIC) & ~trivial & ~free
    largest = q.spare
    for piece, s, height in zip(table, q.pieces, q.heights, strict=True):
        for v in (xp.abs(s.alpha), xp.abs(s.shift), height):
            largest = xp.maximum(largest, xp.where(s.start <= reach, v, zero))
        if piece.start > 0:
            usable = usable & (s.start > FLOOR)
    usable = usable & (largest <= LARGEST)

    boxes = candidates(q, usable, reach, reach_low)
    # Elements under no penalty, and groups of nothing but zeros.
    boxes.append(q.whole_box((free | trivial) & known, reach_low, reach))
    boxes[-1].least = zero
    price = xp.where(usable, boxes[0].most, far)  # zero is a point of every row
    for box in boxes:
        price = xp.where(box.possible, xp.minimum(price, box.most), price)
    left, settled = left_of(xp, p, boxes, price, reach, known), q.no
    for box, alive in zip(boxes, left.alive, strict=True):
        settled = settled | (alive & ((row_max(xp, box.low) > 0) | (box.upper == 0) | trivial))
    width = norm_above(xp, xp.maximum(left.high - left.low, none))
    decided = settled & ((left.count == 1) | (width <= rounding(8 * sum_height(n) + 400) * reach))

    gap = gap_of(xp, p, left, q.value(norm_above(xp, xp.abs(p.z)))[1])
    d_high = metric_above(xp, p.d)
    residual, stationarity = stationarity_above(xp, p, q.pieces, table, penalty, far, d_high)
    stationarity = finite_or_inf(xp, stationarity)
    largest = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)
    for s in q.pieces:
        largest = xp.maximum(largest, xp.maximum(xp.abs(s.alpha), xp.abs(s.shift)))
    sound = known & ~(largest >= BEYOND)
    gap, stationarity = (xp.where(sound, v, far) for v in (gap, stationarity))
    distance, metric_distance = left.distance, left.metric_distance
    outside = xp.any(z < 0, axis=1) if penalty.nonnegative else q.no
    stationarity = xp.where(outside, far, stationarity)
    if penalty.equation.proved_convex:
        distance, metric_distance, gap = convex_bounds(
            xp, p, residual, stationarity, sound & ~outside, distance, metric_distance, gap
        )
    if penalty.threshold > 0 or penalty.nonnegative:
        gap = xp.where(outside, far, gap + extra_gap(xp, p, penalty))
    return in_units_of_data(
        xp,
        p,
        Bounds(
            distance, metric_distance, stationarity, gap, decided, left.lower, xp.minimum(left.upper, reach),
            left.low, left.high,
        ),
    )  # fmt: skip
