"""Certificates over any array namespace: rigorous bounds for groups that are rows of a matrix (docs: the
mathematics, §5).

Rows are those of :mod:`proxlab.backends.scaled_rows`, computed in float64. What leaves the range in which
relative errors are small ends in the bound that always holds: ``0 ≤ z*_i/x_i ≤ 1``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from proxlab.backends.enclosed_root import FLOOR, Affine, InnerRoot, Slopes, find_inner, tau_at
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    BEYOND,
    LEAST_METRIC,
    LOST,
    LOST_DROP,
    LOST_GAP,
    LOST_PULL,
    LOST_SQUARE,
    LOST_SUM,
    ScaledRows,
    constant_where,
    convex_bounds,
    corner,
    finite_or_inf,
    in_units_of_data,
    lost_pull,
    metric_above,
    metric_norm,
    no_elements,
    norm_above,
    outwards,
    prepare,
    row_sum,
    sum_height,
)
from proxlab.bounds import ROUNDING, rounding
from proxlab.penalties import RadialPenalty
from proxlab.penalties.base import Piece, row_max
from proxlab.powers import TINIEST, exponent, times_power
from proxlab.types import Array

__all__ = ["free_bounds", "radial_bounds"]


def radial_bounds(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: RadialPenalty
) -> Bounds:
    """Certify every row for a radial penalty.

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
    p = prepare(xp, z, x, d, step, weight, penalty.threshold, penalty.nonnegative)
    table = penalty.equation.table
    first, last = table[0], table[-1]
    jumps = first.value > 0
    flat_end = (len(table) > 1 or jumps) and last.a == 0 and last.c == 0
    pieces = scaled_pieces(xp, p, table)
    steep = tuple(piece for piece, q in zip(pieces, table, strict=True) if q.a != 0 or q.c != 0)
    zero = xp.zeros_like(step)
    yes, no = zero == 0, zero > 0
    trivial = row_max(xp, p.size_high) == 0
    known = p.sound & xp.all(xp.isfinite(p.z), axis=1)
    for piece, q in zip(pieces, table, strict=True):
        if q.start > 0:  # a piece that begins where nothing is resolved
            known = known & (piece.start > LOST_PULL)
    usable = known & (yes if penalty.equation.compiled else no)
    if any(q.c > 0 for q in table):  # tau may vanish: no element of the metric may
        usable = usable & (-row_max(xp, -p.d) > LEAST_METRIC)
    # The penalty is constant: z* = x after the elementwise part.
    flat = weight == 0
    if first.a == 0 and first.c >= 0 and not jumps:
        flat = yes
    norm_x = norm_above(xp, p.size_high)
    norm_x_low = norm_above(xp, p.size_low) * (1.0 - rounding(2 * sum_height(n) + 24))

    inner, weak = inner_candidate(xp, p, steep, norm_x, usable & ~flat, flat_end, first.a)
    usable = usable & ~(weak & flat_end)
    k = ROUNDING[any(q.c > 0 for q in table)][2]
    # Coefficients beyond scale were capped: a stronger ridge has a smaller radius, a steeper bend any.
    largest = largest_coefficient(xp, p, pieces, table)
    steepest = zero
    for piece in pieces:
        steepest = xp.maximum(steepest, piece.shift)
    usable = usable & ~(steepest >= BEYOND)
    lower = xp.where(usable & ~(largest >= BEYOND), inner.lower, zero)
    upper = xp.where(inner.zero, zero, xp.where(usable & ~weak, inner.upper, norm_x))
    possible = (lower <= upper) | (yes if not flat_end else no)
    upper = xp.maximum(lower, upper)
    inner = replace(inner, lower=lower, upper=upper)
    tau_upper = tau_at(xp, upper, inner.at_upper)
    low = p.size_low * share(xp, p.d, lower, tau_at(xp, lower, inner.at_lower)) * (1.0 - rounding(k)) - LOST
    high = p.size_high * share(xp, p.d, upper, tau_upper) * (1.0 + rounding(k)) + LOST
    low = xp.where((low > 0) & usable[:, None], low, xp.zeros_like(low))
    high = xp.where((usable & ~weak)[:, None], xp.minimum(high, p.size_high), p.size_high)
    high = xp.where(inner.zero[:, None], xp.zeros_like(high), high)
    decided = inner.zero | (inner.nonzero & usable)

    # The other candidate: x itself, where the penalty is flat.
    inside, outside = yes, no
    edge = zero
    if flat_end:
        rho = pieces[-1].start if not jumps else zero
        fuzz = rounding(2 * sum_height(n) + 40)
        on_flat = (norm_x * (1.0 + fuzz) >= rho) & ~trivial
        edge = xp.where(
            norm_x_low * (1.0 - fuzz) < rho, 4.0 * fuzz * rho * (pieces[0].alpha if steep else zero), zero
        )
        better, worse = compare(xp, p, pieces, table, inner, high, edge)
        outside = on_flat & ~(usable & possible & better)
        inside = ~on_flat | (possible & ~(usable & worse))
        decided = xp.where(inside & outside, no, xp.where(outside, usable, decided))
    inside, outside = inside & ~flat, outside | flat
    decided = xp.where(flat, (row_max(xp, p.size_low) > 0) | trivial, decided) | trivial
    both = inside & outside
    box_low = xp.where(
        both[:, None], xp.minimum(low, p.size_low), xp.where(outside[:, None], p.size_low, low)
    )
    box_high = xp.where(outside[:, None], p.size_high, high)

    # Two candidates that rounding does not tell apart are one.
    width = norm_above(xp, xp.maximum(box_high - box_low, xp.zeros_like(box_low)))
    decided = decided | (both & usable & (width <= rounding(8 * sum_height(n) + 8 * k) * norm_x))

    # From the box to the bounds.
    off = corner(xp, p, box_low, box_high)
    d_high = metric_above(xp, p.d)
    far = xp.full_like(zero, math.inf)
    distance = norm_above(xp, off)
    metric_distance = xp.where(known, metric_norm(xp, off, p.d), far)
    residual, stationarity = stationarity_above(xp, p, pieces, table, penalty, inner.margin_high, d_high)
    stationarity = finite_or_inf(xp, stationarity)
    gap = gap_above(xp, p, pieces, table, inner, distance, metric_distance)
    flat_gap = 0.5 * metric_distance * metric_distance * (1.0 + rounding(4)) + edge
    if flat_end:
        gain = gain_at(xp, p, pieces, table, norm_above(xp, xp.abs(p.z)))
        flat_gap = xp.maximum(flat_gap - gain, zero) * (1.0 + rounding(4)) + LOST_DROP
        flat_gap = xp.where(metric_distance > 0, flat_gap, edge)
    gap = xp.where(both, xp.maximum(gap, flat_gap), xp.where(outside, flat_gap, gap))
    largest = xp.maximum(largest, p.coefficient(xp, penalty.threshold, 1, 1, weighted=False))
    capped = (row_max(xp, xp.abs(p.z)) > 0) & (largest >= BEYOND)
    gap, stationarity = (xp.where(known & ~capped, v, far) for v in (gap, stationarity))
    outside_domain = xp.any(z < 0, axis=1) if penalty.nonnegative else no
    stationarity = xp.where(outside_domain, far, stationarity)
    if penalty.equation.proved_convex:
        distance, metric_distance, gap = convex_bounds(
            xp, p, residual, stationarity, known & ~capped & ~outside_domain, distance, metric_distance, gap
        )
    if penalty.threshold > 0 or penalty.nonnegative:
        gap = xp.where(outside_domain, far, gap + extra_gap(xp, p, penalty))
    lower = xp.where(inside, lower, norm_x_low)
    upper = xp.where(outside, norm_x, xp.minimum(upper, norm_x))
    return in_units_of_data(
        xp,
        p,
        Bounds(
            distance,
            metric_distance,
            stationarity,
            gap,
            decided,
            xp.minimum(lower, upper),
            upper,
            box_low,
            box_high,
        ),
    )


def share(xp: Any, d: Array, r: Array, tau: Array) -> Array:
    """Return ``z_i/x_i = d_i r/(d_i r + tau)``; 0 at ``r = 0``."""
    y = d * xp.where(r > 0, r, xp.ones_like(r))[:, None]
    return xp.where((r > 0)[:, None], y / (y + tau[:, None]), xp.zeros_like(y))


def scaled_pieces(xp: Any, p: ScaledRows, table: tuple[Piece, ...]) -> tuple[Slopes, ...]:
    """Return the pieces of the slope of ``step·weight·p`` in scaled units."""
    zero = xp.zeros_like(p.step)
    starts = [times_power(xp, zero + q.start, -p.ex) for q in table] + [zero + math.inf]
    return tuple(
        Slopes(start, end, p.coefficient(xp, q.a, 1, 1), p.coefficient(xp, q.c, 1, 0))
        for q, start, end in zip(table, starts, starts[1:], strict=False)
    )


def largest_coefficient(
    xp: Any, p: ScaledRows, pieces: tuple[Slopes, ...], table: tuple[Piece, ...]
) -> Array:
    """Return the largest slope, curvature or jump of ``step·weight·p`` in scaled units."""
    largest = p.coefficient(xp, table[0].value, 1, 2)
    for q in pieces:
        largest = xp.maximum(largest, xp.maximum(q.alpha, xp.abs(q.shift)))
    return largest


def inner_candidate(
    xp: Any, p: ScaledRows, steep: tuple[Slopes, ...], reach: Array, usable: Array, flat_end: bool, raw: float
) -> tuple[InnerRoot, Array]:
    """Enclose the inner candidate; also return where the slope is too weak to resolve.

    There the candidate of a stronger penalty is enclosed: in modulus it is less in every element.
    """
    zero = xp.zeros_like(reach)
    if not steep:  # ℓ0, or no penalty
        none = Affine(zero, zero)
        return InnerRoot(zero, zero, none, none, zero == 0, zero > 0, zero + math.inf), zero > 0
    q = steep[0]
    weak = usable & (q.alpha < 4.0 * FLOOR) & (xp.abs(q.shift) < 2.0**-150)
    q = Slopes(q.start, q.end, xp.where(weak, xp.full_like(zero, 4.0 * FLOOR), q.alpha), q.shift)
    usable = usable & ~(weak & flat_end)
    return find_inner(xp, p, (q, *steep[1:]), reach, usable, raw), weak


def drop(xp: Any, pieces: tuple[Slopes, ...], r: Array) -> tuple[Array, Array]:
    """Return bounds of ``p(∞) - p(r)``, ``r > 0``, for a penalty that ends flat."""
    total, error = xp.zeros_like(r), xp.zeros_like(r)
    for q in pieces[:-1]:
        begin = xp.maximum(r, q.start)
        length = xp.maximum(q.end - begin, xp.zeros_like(r))
        slope = q.alpha - 0.5 * q.shift * (begin + q.end)
        total = total + length * slope
        error = error + rounding(20) * (q.end * xp.abs(slope) + q.alpha * length) + 1e-28 * q.alpha * q.end
    return total - error, total + error


def compare(
    xp: Any,
    p: ScaledRows,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    inner: InnerRoot,
    high: Array,
    edge: Array,
) -> tuple[Array, Array]:
    """Return where the inner candidate is proved to be better than x, and where it is proved to be worse.

    ``Q(z) - Q(x) = p(‖z‖) - p(‖x‖) + ‖z - x‖²_D/2η``, at the root itself from below and at a point near it
    from above; ``high`` are upper bounds of its elements.
    """
    lower, upper, tau = inner.lower, inner.upper, tau_at(xp, inner.upper, inner.at_upper)
    ratio = tau[:, None] / (p.d * upper[:, None] + tau[:, None])
    ratio = xp.where((upper > 0)[:, None], ratio, xp.ones_like(ratio))
    k = sum_height(p.x.shape[1]) + 100
    moved_low = 0.5 * row_sum(xp, p.d * (p.size_low * ratio) ** 2) * (1.0 - rounding(k))
    moved_high = 0.5 * row_sum(xp, p.d * (p.size_high * ratio) ** 2) * (1.0 + rounding(k)) + LOST_SQUARE
    if table[0].value > 0:
        loss_high = p.coefficient(xp, table[0].value, 1, 2) * (1.0 + rounding(6))
    else:
        _, loss_high = drop(xp, pieces, lower)
    gain_low = gain_at(xp, p, pieces, table, norm_above(xp, high))
    return moved_high + edge < gain_low, moved_low > loss_high


def gain_at(xp: Any, p: ScaledRows, pieces: tuple[Slopes, ...], table: tuple[Piece, ...], r: Array) -> Array:
    """Return a lower bound of ``p(∞) - p(r)``, given an upper bound of ``r``, for a penalty that ends
    flat.
    """
    if table[0].value > 0:
        jump = p.coefficient(xp, table[0].value, 1, 2) * (1.0 - rounding(6))
        return xp.where(r > 0, 0.0 * jump, jump)
    gain, _ = drop(xp, pieces, r)
    return xp.maximum(gain, 0.0 * gain)


def stationarity_above(
    xp: Any,
    p: ScaledRows,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    penalty: RadialPenalty,
    margin_high: Array,
    d: Array,
) -> tuple[Array, Array]:
    """Return an upper bound of the elements of the least subgradient of ``ηQ`` at the candidate, and of its
    norm; ``margin_high`` is an upper bound of ``‖b‖² - (η p'(0+))²``.
    """
    zero = xp.zeros_like(p.step)
    height = sum_height(p.x.shape[1])
    norm_z = norm_above(xp, xp.abs(p.z))
    positive = norm_z > 0
    r = xp.where(positive, norm_z, zero + 1.0)
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
    for q in pieces:
        here = positive & (r * (1.0 + fuzz) >= q.start) & (r * (1.0 - fuzz) <= q.end)
        slope = q.alpha - q.shift * r
        signed = pull + cut * xp.sign(p.z) + slope[:, None] * (p.z / r[:, None])
        error = rounding(8) * (xp.abs(pull) + cut)
        error = error + (rounding(3 * height + 56) * (xp.abs(q.alpha) + xp.abs(q.shift) * r) / r)[
            :, None
        ] * xp.abs(p.z)
        # What underflows of the slope may count where the metric is small.
        faint = constant_where(xp, (p.z != 0) & (slope != 0)[:, None], 2.0**-1070)
        elements = xp.where(p.z == 0, off, xp.abs(signed) + error) + lost + faint
        worse = norm_above(xp, elements)
        residual = xp.where((here & (worse >= norm))[:, None], elements, residual)
        norm = xp.where(here, xp.maximum(norm, worse), norm)
    # At zero: what ‖b‖ exceeds the slope by, along b.
    strength = pieces[0].alpha
    if table[0].value > 0:
        return xp.where(positive[:, None], residual, xp.zeros_like(residual)), xp.where(positive, norm, zero)
    b = p.size_high * d * (1.0 + rounding(4))
    length = norm_above(xp, b)
    excess = xp.maximum(length - strength * (1.0 - rounding(8)), zero)
    sharp = (
        xp.maximum(margin_high, zero)
        / xp.where(length > 0, length, zero + 1.0)
        * (1.0 + rounding(3 * height + 40))
    )
    excess = xp.minimum(excess, finite_or_inf(xp, sharp))
    at_zero = (
        b * (excess / xp.where(length > 0, length, zero + 1.0) * (1.0 + rounding(3 * height + 40)))[:, None]
    )
    norm = xp.where(positive, norm, excess)
    return xp.where(positive[:, None], residual, at_zero), norm


def gap_above(
    xp: Any,
    p: ScaledRows,
    pieces: tuple[Slopes, ...],
    table: tuple[Piece, ...],
    inner: InnerRoot,
    distance: Array,
    metric_distance: Array,
) -> Array:
    """Return an upper bound of ``η(Q(z) - Q(z*))`` where ``z*`` is the inner candidate.

    With ``δ = z - z*`` and ``ρ = ‖z‖ - ‖z*‖`` it is ``p'(r*)(‖δ‖² - ρ²)/2r* + ‖δ‖²_D/2`` at most for a
    concave ``p`` (with a ridge its share of ``‖δ‖²`` is whole). Near zero it is ``Q(z) - Q(0)`` and what zero
    itself misses.
    """
    lower, upper = inner.lower, inner.upper
    height = sum_height(p.x.shape[1])
    zero = xp.zeros_like(p.step)
    norm_z = norm_above(xp, xp.abs(p.z))
    norm_z_low = norm_z * (1.0 - rounding(2 * height + 24))
    radial = xp.maximum(xp.maximum(norm_z_low - upper, lower - norm_z), zero) * (1.0 - rounding(4))
    square = distance * distance * (1.0 + rounding(3))
    across = xp.maximum(square - radial * radial * (1.0 - rounding(3)), zero) * (1.0 + rounding(3))
    across = xp.minimum(across, finite_or_inf(xp, sideways(xp, p, inner, norm_z)))
    half = 0.5 * metric_distance * metric_distance * (1.0 + rounding(3))
    ridge = xp.maximum(-pieces[0].shift, zero)
    alpha, shift = inner.at_lower
    tau = xp.maximum(alpha - xp.maximum(shift, zero) * lower, zero) + rounding(40) * alpha
    curved = tau / xp.where(lower > 0, lower, zero + 1.0) * across
    by_root = (0.5 * curved + 0.5 * ridge * square + half) * (1.0 + rounding(12)) + LOST_GAP
    # How far the concave p stays below its tangent at r*, counted on the piece of r* only.
    same = (inner.at_lower[0] == inner.at_upper[0]) & (inner.at_lower[1] == inner.at_upper[1])
    for q in pieces:
        on = same & (q.alpha == alpha) & (q.shift == shift) & (shift > 0)
        room = xp.where(norm_z > upper, q.end - upper, lower - q.start) * (1.0 - rounding(8))
        room = xp.maximum(xp.minimum(radial, room), zero)
        sag = 0.5 * shift * room * room * (1.0 - rounding(12))
        by_root = xp.where(on, xp.maximum(by_root - sag, zero) * (1.0 + rounding(4)) + LOST_GAP, by_root)
    by_root = xp.where((lower > 0) & ~inner.zero, finite_or_inf(xp, by_root), xp.full_like(zero, math.inf))
    # From zero.
    value, jump = zero, table[0].value
    for q in pieces:
        length = xp.maximum(xp.minimum(norm_z, q.end) - q.start, zero)
        middle = xp.where(length > 0, q.start + 0.5 * length, zero)
        value = value + length * (q.alpha + xp.abs(q.shift) * middle) * rounding(40)
        value = value + length * (q.alpha - q.shift * middle)
    if jump > 0:
        value = value + xp.where(norm_z > 0, p.coefficient(xp, jump, 1, 2) * (1.0 + rounding(8)), zero)
    b = p.size * p.d
    z = xp.abs(p.z)
    inner_product = row_sum(xp, b * p.sign * p.z)
    square_z = row_sum(xp, p.d * z * z)
    noise = rounding(height + 24) * (value + row_sum(xp, b * z) + square_z) + row_sum(
        xp, p.d * p.error * z
    ) * (1.0 + 1e-9)
    excess = (alpha_excess(xp, p, pieces, inner) + xp.maximum(pieces[0].shift, zero) * upper) * upper
    touched = constant_where(xp, (norm_z > 0) | (upper > 0), LOST_SUM)
    from_zero = (
        xp.maximum(value - inner_product + 0.5 * square_z, zero) + noise + xp.maximum(excess, zero) + touched
    )
    return xp.minimum(by_root, finite_or_inf(xp, from_zero * (1.0 + rounding(12))))


def sideways(xp: Any, p: ScaledRows, inner: InnerRoot, norm_z: Array) -> Array:
    """Return an upper bound of ``‖δ‖² - ρ² = ‖z‖ r* ‖z/‖z‖ - u*‖²``, where ``u* = z*/r*``, ``u_i(r) =
    b_i/(d_i r + tau)``.
    """
    k = 2 * sum_height(p.x.shape[1]) + 60
    ends = []
    for r, slopes in ((inner.lower, inner.at_lower), (inner.upper, inner.at_upper)):
        tau = tau_at(xp, r, slopes)[:, None]
        ends.append(p.d / (p.d * r[:, None] + tau))
    low = p.size_low * xp.minimum(*ends) * (1.0 - rounding(k))
    high = p.size_high * xp.maximum(*ends) * (1.0 + rounding(k))
    z = (
        xp.where(p.sign == 0, xp.abs(p.z), p.sign * p.z)
        / xp.where(norm_z > 0, norm_z, 1.0 + 0.0 * norm_z)[:, None]
    )
    off = xp.maximum(xp.abs(z - low), xp.abs(high - z)) + rounding(k) * xp.abs(z) + 2.0**-400
    same = (inner.at_lower[0] == inner.at_upper[0]) & (inner.at_lower[1] == inner.at_upper[1])
    turn = norm_above(xp, off)
    return xp.where(
        same, norm_z * inner.upper * turn * turn * (1.0 + rounding(8)), xp.full_like(turn, math.inf)
    )


def alpha_excess(xp: Any, p: ScaledRows, pieces: tuple[Slopes, ...], inner: InnerRoot) -> Array:
    """Return an upper bound of ``‖b‖ - p'(0+)``; infinite where zero is not known not to matter."""
    length = norm_above(xp, p.size_high * p.d * (1.0 + rounding(4)))
    return xp.where(
        inner.zero,
        xp.zeros_like(length),
        xp.maximum(length - pieces[0].alpha * (1.0 - rounding(8)), 0.0 * length),
    )


def extra_gap(xp: Any, p: ScaledRows, penalty: RadialPenalty) -> Array:
    """Return an upper bound of what the elementwise part adds to ``η(Q(z) - Q(z*))`` over its shrunk data.

    ``d_i (t_i |z_i| - (x_i - x̃_i) z_i)`` per element: zero where ``z_i`` keeps the sign of a nonzero
    ``x̃_i``.
    """
    cut = p.coefficient(xp, penalty.threshold, 1, 1, weighted=False)[:, None]
    z = xp.abs(p.z) + p.z_error
    same = xp.sign(p.z) * xp.sign(p.x)
    x = xp.abs(p.x)
    if penalty.nonnegative:
        held = xp.where(p.x > 0, xp.minimum(p.d * x, cut), -p.d * x)
    else:
        held = same * xp.minimum(p.d * x, cut)
    held = xp.where(same == 0, 0.0 * held, held)
    kept = (same > 0) & (p.size_low > 0) & (p.x > 0 if penalty.nonnegative else same > 0)
    extra = xp.maximum(cut - held, 0.0 * held) + rounding(16) * (cut + p.d * x)
    return row_sum(xp, xp.where(kept | (p.z == 0), 0.0 * extra, extra * z)) * (
        1.0 + rounding(sum_height(x.shape[1]) + 8)
    )


def free_bounds(xp: Any, z: Array, x: Array, d: Array, step: Array) -> tuple[Array, ...]:
    """Certify elements in no group, whose prox is ``x`` itself: rows with a step each.

    Returns
    -------
    distance, metric_distance, stationarity, gap
    """
    off = xp.abs(z - x)
    ed = exponent(xp, row_max(xp, d))
    ed = ed + xp.remainder(ed, xp.full_like(ed, 2.0))
    scaled = times_power(xp, d, -ed)
    distance = norm_above(xp, off * (1.0 + rounding(3)))
    weighted = xp.where(off > 0, off * xp.sqrt(scaled) * (1.0 + rounding(4)) + TINIEST, off)
    metric_distance = norm_above(xp, weighted)
    pulled = norm_above(xp, xp.where(off > 0, off * scaled * (1.0 + rounding(4)) + TINIEST, off))
    es = exponent(xp, step)
    mantissa = times_power(xp, step, -es)
    em = exponent(xp, metric_distance)
    square = times_power(xp, metric_distance, -em) ** 2
    return (
        distance,
        outwards(xp, metric_distance, 0.5 * ed),
        outwards(xp, pulled / mantissa, ed - es),
        outwards(xp, 0.5 * square / mantissa, 2.0 * em + ed - es, 8.0),
    )
