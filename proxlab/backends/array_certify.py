"""Certificates over any array namespace of what is proved element by element: what the elementwise part of a
penalty adds to a gap, and bounds for elements in no group (docs: the mathematics, §5).

Rows are those of :mod:`proxlab.backends.scaled_rows`.
"""

from __future__ import annotations

from typing import Any

from proxlab.backends.scaled_rows import (
    ScaledRows,
    norm_above,
    outwards,
    row_sum,
    sum_height,
)
from proxlab.bounds import rounding
from proxlab.penalties import RadialPenalty
from proxlab.penalties.base import row_max
from proxlab.powers import TINIEST, exponent, times_power
from proxlab.types import Array

__all__ = ["extra_gap", "free_bounds"]


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
