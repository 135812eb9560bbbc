"""Certificates of radial penalties over any array namespace: every candidate enclosed, none forgotten.

The global minimiser is zero, x, an up-crossing on a piece or a kink where the slope jumps up (see
:mod:`proxlab.backends.array_tables`). Whatever cannot be excluded is enclosed, each in a box of its own; what
costs more than another point can be shown to cost is dropped; and the bounds hold for all that is left.
Nothing relies on the existence of a candidate, nor on there being one only.

Rows are those of :mod:`proxlab.backends.scaled_rows`, computed in float64. What leaves the range in which
relative errors are small ends in the bound that always holds: ``0 ≤ z*_i/x_i ≤ 1``.
"""

from __future__ import annotations

from typing import Any

from proxlab.backends.array_certify import extra_gap
from proxlab.backends.boxes import Box, gap_of, left_of
from proxlab.backends.enclosed_root import FLOOR
from proxlab.backends.radial_boxes import STEEP, TableProblem, ZeroTest
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    BEYOND,
    LEAST_METRIC,
    LOST_PULL,
    constant_where,
    convex_bounds,
    finite_or_inf,
    in_units_of_data,
    lost_pull,
    metric_above,
    no_elements,
    norm_above,
    prepare,
    sum_height,
)
from proxlab.bounds import rounding
from proxlab.penalties import RadialPenalty
from proxlab.penalties.base import row_max
from proxlab.penalties.tables import kinks
from proxlab.types import Array

__all__ = ["radial_bounds"]


def in_range(q: TableProblem) -> tuple[Array, Array]:
    """Return the rows whose metric and candidate are what they were, and those where rounding is small."""
    xp, p = q.xp, q.p
    known, firm = p.sound & xp.all(xp.isfinite(p.z), axis=1), q.yes
    nothing = (q.reach == 0) & (q.size == 0)
    for piece, s in zip(q.table, q.pieces, strict=True):
        if piece.start > 0:  # a piece that begins where nothing is resolved
            known = known & ((s.start > LOST_PULL) | nothing)
        if piece.a != 0.0 or piece.c != 0.0:  # a slope that may vanish
            firm = firm & (s.alpha > FLOOR) & (q.yes if piece.c <= 0.0 else q.no)
    resolved = known & (firm | (-row_max(xp, -p.d) > LEAST_METRIC))
    # Coefficients beyond scale were capped: a stronger ridge has a smaller radius, a steeper bend any, but
    # where the slope leaves zero alone.
    alone = q.pieces[0].alpha >= STEEP
    for s in q.pieces[1:]:
        alone = alone & (s.start > q.reach)
    for s in q.pieces:
        resolved = resolved & (alone | ~((s.shift >= BEYOND) & (s.start <= q.reach)))
    return known, resolved


def candidates(q: TableProblem, usable: Array, test: ZeroTest) -> list[Box]:
    """Enclose all points that may be the global minimiser."""
    xp, table = q.xp, q.table
    boxes = [q.zero_box(usable if table[0].value > 0 else usable & ~(test.low > 0))]
    kinked = kinks(table)
    for k, (piece, s) in enumerate(zip(table, q.pieces, strict=True)):
        on = usable & (s.start <= q.reach)
        resolved = on & (s.start > FLOOR)
        spot = xp.where(resolved, s.start, q.one)
        flat, kink = piece.a == 0.0 and piece.c == 0.0, k > 0 and kinked[k - 1]
        none = test.high <= 0
        if k > 0 and (kink or not flat):
            after = q.eq.enclose(spot, s, spot).known
            none = resolved & (after.above < 0)
        if kink:
            before = q.eq.enclose(spot, q.pieces[k - 1], spot).known
            boxes.append(q.kink_box(k, on & ~(resolved & ((before.above < 0) | (after.below > 0)))))
        if flat:
            boxes.append(q.whole_box(k, on & (s.end >= q.reach_low)))
        else:
            boxes.append(q.root_box(k, on & ~none, test))
    return boxes


def radial_bounds(
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
    zero, none, far, reach = q.zero, xp.zeros_like(x), q.far, q.reach
    trivial, free = row_max(xp, p.size_high) == 0, weight == 0
    if penalty.equation.flat:
        free = q.yes
    known, resolved = in_range(q)
    usable = resolved & ~trivial & ~free

    test = q.zero_test(usable)
    boxes = candidates(q, usable, test)
    boxes[0].possible = boxes[0].possible | trivial
    # Elements under no penalty.
    boxes.append(q.whole_box(0, free & ~trivial))
    boxes[-1].least = zero
    price = xp.where(usable, boxes[0].most, far)  # zero is a point of every row
    for box in boxes:
        price = xp.where(box.possible, xp.minimum(price, box.most), price)
    left = left_of(xp, p, boxes, price, reach, known)
    width = norm_above(xp, xp.maximum(left.high - left.low, none))
    # Candidates that rounding does not tell apart are one, but for zero.
    same = ~left.alive[0] & (width <= rounding(8 * sum_height(n) + 400) * reach)
    decided = (left.count == 1) | (~left.lost & (same | (left.upper == 0)))

    gap = gap_of(xp, p, left, q.own_value)
    residual, stationarity = stationarity_above(q, penalty, xp.where(usable, test.high, far))
    stationarity = finite_or_inf(xp, stationarity)
    largest = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)
    for v in (q.heights[0], *q.kinks, *(xp.maximum(xp.abs(s.alpha), xp.abs(s.shift)) for s in q.pieces)):
        largest = xp.maximum(largest, v)
    sound = known & ~((q.size > 0) & (largest >= BEYOND))
    gap, stationarity = (xp.where(sound, v, far) for v in (gap, stationarity))
    distance, metric_distance = left.distance, xp.where(known, left.metric_distance, far)
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


def stationarity_above(q: TableProblem, penalty: RadialPenalty, margin_high: Array) -> tuple[Array, Array]:
    """Return an upper bound of the elements of the least subgradient of ``ηQ`` at the candidate, and of its
    norm; ``margin_high`` is an upper bound of ``‖b‖² - (η p'(0+))²``.
    """
    xp, p, zero, height, norm_z = q.xp, q.p, q.zero, q.height, q.size
    d = metric_above(xp, p.d)
    positive = norm_z > 0
    r = xp.where(positive, norm_z, q.one)
    cut = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)[:, None]
    pull = d * (p.z - p.x)
    lost = lost_pull(xp, p, d)
    # Elements at zero: the elementwise part absorbs what it can.
    push = -pull if penalty.nonnegative else xp.abs(pull)
    off = push * (1.0 + rounding(6)) - cut * (1.0 - rounding(6))
    off = xp.where(off > 0, off, xp.zeros_like(off))
    fuzz = rounding(2 * height + 32)
    residual = xp.zeros_like(p.x)
    norm = zero
    # All of these, whose metric is not kept.
    absorbed = (p.size_high == 0) & (p.z == 0)
    for s in q.pieces:
        here = positive & (r * (1.0 + fuzz) >= s.start) & (r * (1.0 - fuzz) <= s.end)
        slope = s.alpha - s.shift * r
        signed = pull + cut * xp.sign(p.z) + slope[:, None] * (p.z / r[:, None])
        error = rounding(8) * (xp.abs(pull) + cut)
        error = error + (rounding(3 * height + 56) * (xp.abs(s.alpha) + xp.abs(s.shift) * r) / r)[
            :, None
        ] * xp.abs(p.z)
        # What underflows of the slope may count where the metric is small.
        faint = constant_where(xp, (p.z != 0) & (slope != 0)[:, None], 2.0**-1070)
        elements = xp.where(p.z == 0, off, xp.abs(signed) + error) + lost + faint
        elements = xp.where(absorbed, xp.zeros_like(elements), elements)
        worse = norm_above(xp, elements)
        residual = xp.where((here & (worse >= norm))[:, None], elements, residual)
        norm = xp.where(here, xp.maximum(norm, worse), norm)
    # At zero: what ‖b‖ exceeds the slope by, along b; a jump that has a weight absorbs all.
    strength = q.pieces[0].alpha
    jumps = p.weight > 0 if q.table[0].value > 0 else q.no
    excess, length = q.excess_of_b(strength * (1.0 - rounding(8))), q.b_above[1]
    sharp = xp.maximum(margin_high, zero) / xp.where(length > 0, length, q.one)
    excess = xp.minimum(excess, finite_or_inf(xp, sharp * (1.0 + rounding(3 * height + 40))))
    excess = xp.where(jumps, zero, excess)
    norm = xp.where(positive, norm, excess)
    return xp.where(positive[:, None], residual, q.along_b(excess)), norm
