"""Certificates for the ℓ∞ norm over any array namespace (docs: the mathematics, §5)."""

from __future__ import annotations

import math
from typing import Any

from proxlab.backends.enclosed_root import MAX_EVALUATIONS
from proxlab.backends.records import Bounds
from proxlab.backends.scaled_rows import (
    BEYOND,
    LOST_GAP,
    LOST_SUM,
    ScaledRows,
    convex_bounds,
    corner,
    finite_or_inf,
    in_units_of_data,
    lost_pull,
    metric_above,
    metric_norm,
    no_elements,
    norm_above,
    prepare,
    row_sum,
    sum_height,
)
from proxlab.bounds import UNIT, rounding
from proxlab.penalties import GroupLinf
from proxlab.penalties.base import row_max
from proxlab.penalties.group_linf import simplex_threshold
from proxlab.types import Array

__all__ = ["linf_bounds"]


def linf_bounds(
    xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: GroupLinf
) -> Bounds:
    """Certify every row for the ℓ∞ norm: ``z*_i = sign(x_i) min(|x_i|, t)`` with ``φ(t) = Σ d_i (|x_i| - t)₊
    = ηλ``.

    Parameters
    ----------
    z, x, d, step, weight, penalty
        As in :func:`radial_bounds`.
    """
    n = x.shape[1]
    if n == 0:
        return no_elements(xp, x, step)
    p = prepare(xp, z, x, d, step, weight, 0.0, False)
    zero, none = xp.zeros_like(step), xp.zeros_like(x)
    height = sum_height(n)
    far = xp.full_like(zero, math.inf)
    strength = p.coefficient(xp, penalty.lam, 1, 1)
    noise = rounding(height + 16)
    size = p.size_high
    top = row_max(xp, size)
    usable = p.sound & xp.all(xp.isfinite(p.z), axis=1)
    total = row_sum(xp, p.d * size)
    tiny = n * LOST_SUM
    is_zero = (top == 0) | (usable & (total * (1.0 + noise) + tiny <= strength * (1.0 - rounding(6))))
    free = strength == 0
    nonzero = usable & (total * (1.0 - noise) - tiny > strength * (1.0 + rounding(6)))
    lower, upper = xp.where(free, top, zero), xp.where(is_zero & ~free, zero, top)
    open_ = usable & ~is_zero & ~free
    t = xp.minimum(row_max(xp, xp.abs(p.z)), top)
    stalled = zero
    for _ in range(MAX_EVALUATIONS):
        open_ = open_ & (upper - lower > 8.0 * UNIT * upper)
        if not bool(xp.any(open_)):
            break
        over = size > t[:, None]
        phi = row_sum(xp, xp.where(over, p.d * (size - t[:, None]), none))
        slope = row_sum(xp, xp.where(over, p.d, none))
        error = noise * (phi + strength) + tiny
        missing = phi - strength
        safe = xp.where(slope > 0, slope, zero + 1.0)
        down = (missing - error) / safe
        down = down - 2.0 * noise * xp.abs(down)
        root = t + down - 4.0 * UNIT * (t + xp.abs(down))
        chord = (missing + error) * (top - t) / xp.where(phi > 0, phi, zero + 1.0)
        chord = t + xp.maximum(chord, zero) * (1.0 + 2.0 * noise) + 4.0 * UNIT * top
        old_lower, old_upper = lower, upper
        lower = xp.where(open_ & (slope > 0), xp.maximum(lower, root), lower)
        upper = xp.where(open_ & (missing + error < 0), xp.minimum(upper, t), upper)
        upper = xp.where(open_ & (phi > 0), xp.minimum(upper, chord), upper)
        # A little right of where the line of slope -Σd ends, so that the sign there is certain.
        ahead = t + missing / safe + 3.0 * (error + noise * strength) / safe + 4.0 * UNIT * t
        ahead = xp.where((slope > 0) & (ahead > lower) & (ahead < upper), ahead, 0.5 * (lower + upper))
        t = ahead
        stalled = xp.where((lower > old_lower) | (upper < old_upper), zero, stalled + 1.0)
        open_ = open_ & (stalled < 3)
    upper = xp.maximum(upper, lower)
    low = xp.minimum(p.size_low, lower[:, None])
    high = xp.minimum(p.size_high, upper[:, None])
    decided = is_zero | nonzero | free

    off = corner(xp, p, low, high)
    d_high = metric_above(xp, p.d)
    distance = norm_above(xp, off)
    metric_distance = xp.where(usable, metric_norm(xp, off, p.d), far)
    residual = linf_residual(xp, p, d_high, strength)
    stationarity = xp.where(usable, finite_or_inf(xp, norm_above(xp, residual)), far)
    # λ‖z‖_∞ - ⟨v, z⟩ for the subgradient v = D(x - z*)/η at z*, plus ‖z - z*‖²_D/2η.
    largest = row_max(xp, xp.abs(p.z))
    pulled = p.d * xp.maximum(p.size_high - lower[:, None], none)
    signed = p.sign * p.z
    apart = xp.maximum(largest[:, None] - signed, none)
    gap = row_sum(xp, pulled * apart) * (1.0 + rounding(height + 12)) + LOST_GAP
    unused = xp.maximum(strength * (1.0 + rounding(6)) - total * (1.0 - noise), zero) * largest
    gap = xp.where(nonzero | free, gap, gap + unused)
    gap = gap + 0.5 * metric_distance * metric_distance * (1.0 + rounding(4))
    gap = finite_or_inf(xp, xp.where(usable, gap * (1.0 + rounding(4)), far))
    # The strength was capped where it is beyond scale.
    capped = (row_max(xp, xp.abs(p.z)) > 0) & (strength >= BEYOND)
    gap, stationarity = (xp.where(capped, far, v) for v in (gap, stationarity))
    distance, metric_distance, gap = convex_bounds(
        xp, p, residual, stationarity, usable & ~capped, distance, metric_distance, gap
    )
    return in_units_of_data(
        xp, p, Bounds(distance, metric_distance, stationarity, gap, decided, lower, upper, low, high)
    )


def linf_residual(xp: Any, p: ScaledRows, d: Array, strength: Array) -> Array:
    """Return upper bounds of the elements of a subgradient of ``ηQ`` at the candidate: the least one, up to
    rounding.
    """
    n = p.x.shape[1]
    none = xp.zeros_like(p.x)
    pull = d * (p.z - p.x)
    lost = lost_pull(xp, p, d)
    size = xp.abs(p.z)
    top = row_max(xp, size)
    face = size == top[:, None]
    zero = top == 0
    wanted = xp.where(zero[:, None], xp.abs(pull), -pull * xp.sign(p.z))
    excess = simplex_threshold(xp, xp.where(face, wanted, xp.full_like(wanted, -math.inf)), strength)
    excess = xp.where(zero & (excess < 0), xp.zeros_like(excess), excess)
    used = xp.where(face & (wanted > excess[:, None]), wanted - excess[:, None], none)
    spent = row_sum(xp, used)
    # The multipliers must add up to the strength (or to less, at zero): move the first one on the face by
    # what is missing.
    miss = xp.where(zero, xp.maximum(spent - strength, 0.0 * spent), xp.abs(spent - strength))
    miss = miss + rounding(sum_height(n) + 16) * (spent + strength)
    first = face & (xp.cumulative_sum(xp.astype(face, xp.int64), axis=1) == 1)
    short = zero & (spent * (1.0 + rounding(sum_height(n) + 8)) <= strength * (1.0 - rounding(6)))
    elements = xp.abs(xp.where(face, wanted - used, pull)) + rounding(8) * (xp.abs(pull) + used)
    return elements + xp.where(first & ~short[:, None], miss[:, None], none) + lost
