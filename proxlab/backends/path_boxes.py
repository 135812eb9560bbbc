"""Boxes around the points that may be the minimiser of a radial penalty, whatever its slope.

Those are zero, and points of the path ``z = b r/(d r + tau)``. Bounds are of ``η Q``, rounding included, in
the units of :mod:`proxlab.backends.scaled_rows`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

from proxlab.backends.boxes import Box, Gap
from proxlab.backends.scaled_rows import (
    LOST,
    LOST_GAP,
    LOST_SQUARE,
    LOST_SUM,
    ScaledRows,
    constant_where,
    finite_or_inf,
    metric_above,
    norm_above,
    row_sum,
    sum_height,
)
from proxlab.bounds import rounding
from proxlab.types import Array

__all__ = ["Path", "PathBoxes"]


class Path(NamedTuple):
    """A part of the path ``z = b r/(d r + tau)``: radius and ``tau`` at its ends, and at a point of it."""

    lower: Array
    tau_lower: Array
    upper: Array
    tau_upper: Array
    r: Array
    tau: Array


class PathBoxes:
    """Rows in scaled units, the candidate to certify, and bounds of what points cost.

    Parameters
    ----------
    xp : module
    p : ScaledRows
    roundings : float
        Of an element of the path, and of a slope.
    """

    def __init__(self, xp: Any, p: ScaledRows, roundings: float) -> None:
        self.xp, self.p, self.roundings = xp, p, roundings
        self.height = sum_height(p.x.shape[1])
        self.zero, self.one = xp.zeros_like(p.step), xp.ones_like(p.step)
        self.no, self.yes = self.zero > 0, self.zero == 0
        self.far = xp.full_like(p.step, math.inf)
        # The radius of the candidate, and of the point itself, after the elementwise part.
        self.size, self.reach = norm_above(xp, xp.abs(p.z)), norm_above(xp, p.size_high)
        less = 1.0 - rounding(2 * self.height + 24)
        self.size_low, self.reach_low = self.size * less, norm_above(xp, p.size_low) * less
        # Where coefficients are less than they were.
        self.capped = self.no

    def value(self, r: Array) -> tuple[Array, Array]:
        """Bound ``η p`` at a radius from above, and from there on from below."""
        raise NotImplementedError

    def moved_low(self, off: Array) -> Array:
        """Return a lower bound of ``‖z - x‖²_D/2``, given those of ``|x_i - z_i|``."""
        square = row_sum(self.xp, self.p.d * off**2)
        return self.xp.maximum(0.5 * square * (1.0 - rounding(self.height + 16)) - LOST_SQUARE, self.zero)

    def moved_high(self, off: Array) -> Array:
        """Return an upper bound of ``‖z - x‖²_D/2``, given those of ``|x_i - z_i|``."""
        square = row_sum(self.xp, self.p.d * off**2)
        return 0.5 * square * (1.0 + rounding(self.height + 16)) + LOST_SQUARE

    def zero_box(self, possible: Array) -> Box:
        """Zero itself."""
        none = self.xp.zeros_like(self.p.x)
        least, most = self.moved_low(self.p.size_low), self.moved_high(self.p.size_high)
        return Box(possible, self.zero, self.zero, none, none, least, most, lambda *_: self.above_zero)

    def path_box(self, possible: Array, path: Path, gap: Gap | None) -> Box:
        """Enclose a part of the path; elements are monotone along it."""
        xp, p, k = self.xp, self.p, rounding(self.roundings)

        def shares(r: Array, tau: Array) -> tuple[Array, Array]:
            """Return ``z_i/x_i``, and what is missing of 1; 0 and 1 at ``r = 0``."""
            on, grown = (r > 0)[:, None], p.d * xp.where(r > 0, r, self.one)[:, None]
            share, ratio = (v / (grown + tau[:, None]) for v in (grown, tau[:, None]))
            return xp.where(on, share, 0.0 * share), xp.where(on, ratio, 0.0 * ratio + 1.0)

        ends = shares(path.lower, path.tau_lower), shares(path.upper, path.tau_upper)
        low = p.size_low * xp.minimum(ends[0][0], ends[1][0]) * (1.0 - k) - LOST
        high = p.size_high * xp.maximum(ends[0][0], ends[1][0]) * (1.0 + k) + LOST
        # Capped coefficients are less than they were: all that they say is from above.
        low = xp.where((low > 0) & ~self.capped[:, None], low, xp.zeros_like(low))
        # No element is more than the radius.
        off = xp.maximum(
            p.size_low * xp.minimum(ends[0][1], ends[1][1]) * (1.0 - k), p.size_low - path.upper[:, None]
        )
        least = self.value(path.lower)[0] + self.moved_low(off)
        share, ratio = shares(xp.where(path.r > 0, path.r, self.one), path.tau)
        most = self.value(norm_above(xp, p.size_high * share * (1.0 + k) + LOST))[1]
        most = most + self.moved_high(p.size_high * ratio * (1.0 + k))
        return Box(
            possible, xp.where(self.capped, self.zero, path.lower), path.upper, low,
            xp.minimum(high, p.size_high), finite_or_none(xp, least),
            finite_or_inf(xp, xp.where(self.capped, self.far, most)), gap,
        )  # fmt: skip

    @cached_property
    def own_value(self) -> Array:
        """An upper bound of ``η p`` at the candidate."""
        return self.value(self.size)[1]

    @cached_property
    def above_zero(self) -> Array:
        """An upper bound of ``η (Q(z) - Q(0))``."""
        xp, p = self.xp, self.p
        b, z = p.size * p.d, xp.abs(p.z)
        inner_product = row_sum(xp, b * p.sign * p.z)
        square = row_sum(xp, p.d * z * z)
        noise = rounding(self.height + 24) * (self.own_value + row_sum(xp, b * z) + square)
        noise = noise + row_sum(xp, p.d * p.error * z) * (1.0 + 1e-9)
        noise = noise + constant_where(xp, self.size > 0, LOST_SUM)
        gap = xp.maximum(self.own_value - inner_product + 0.5 * square, self.zero) + noise
        return finite_or_inf(xp, gap * (1.0 + rounding(12)))

    @cached_property
    def b_above(self) -> tuple[Array, Array]:
        """Upper bounds of ``b``, and of its norm."""
        b = self.p.size_high * metric_above(self.xp, self.p.d) * (1.0 + rounding(4))
        return b, norm_above(self.xp, b)

    def excess_of_b(self, slope: Array) -> Array:
        """Return an upper bound of what ``‖b‖`` exceeds a slope by."""
        return self.xp.maximum(self.b_above[1] - slope, self.zero)

    def along_b(self, excess: Array) -> Array:
        """Return upper bounds of the elements of what points along ``b``, with the norm ``excess``."""
        b, norm = self.b_above
        share = excess / self.xp.where(norm > 0, norm, self.one)
        return b * (share * (1.0 + rounding(3 * self.height + 40)))[:, None]

    def gap_near_zero(self, slope: Array, upper: Array) -> Array:
        """Bound ``η (Q(z) - Q(z*))`` from above where ``‖z*‖ <= upper`` and ``p(‖z*‖) >= slope ‖z*‖``."""
        # What zero itself misses.
        excess = self.excess_of_b(slope) * upper + constant_where(self.xp, upper > 0, LOST_SUM)
        return finite_or_inf(self.xp, self.above_zero + excess * (1.0 + rounding(12)))

    def off_radius(self, lower: Array, upper: Array) -> Array:
        """Bound from below how far the candidate's radius is from a bracket."""
        off = self.xp.maximum(self.size_low - upper, lower - self.size)
        return self.xp.maximum(off, self.zero) * (1.0 - rounding(4))

    def sideways(self, path: Path) -> Array:
        """Bound ``‖δ‖² - ρ² = ‖z‖ r* ‖z/‖z‖ - z*/r*‖²`` from above: ``z*_i/r* = b_i/(d_i r + tau)``."""
        xp, p, k = self.xp, self.p, rounding(2 * self.height + 44 + self.roundings)
        ends = [
            p.d / (p.d * r[:, None] + tau[:, None])
            for r, tau in ((path.lower, path.tau_lower), (path.upper, path.tau_upper))
        ]
        low, high = p.size_low * xp.minimum(*ends) * (1.0 - k), p.size_high * xp.maximum(*ends) * (1.0 + k)
        z = xp.where(p.sign == 0, xp.abs(p.z), p.sign * p.z)
        z = z / xp.where(self.size > 0, self.size, self.one)[:, None]
        turn = norm_above(xp, xp.maximum(xp.abs(z - low), xp.abs(high - z)) + k * xp.abs(z) + 2.0**-400)
        return finite_or_inf(xp, self.size * path.upper * turn * turn * (1.0 + rounding(8)))

    def gap_by_tangent(
        self, path: Path, slope: Array, less: Array, distance: Array, metric_distance: Array
    ) -> Array:
        """Bound ``η (Q(z) - Q(z*))`` from above for ``z*`` on a part of the path, for a concave ``p``.

        With ``δ = z - z*`` and ``ρ = ‖z‖ - ‖z*‖`` it is ``p'(r*)(‖δ‖² - ρ²)/2r* + ‖δ‖²_D/2`` at most.

        Parameters
        ----------
        path : Path
        slope : array
            An upper bound of ``p'(r*)``.
        less : array
            How far ``p(‖z‖)`` stays below its tangent at ``r*`` at least; negative for above.
        distance, metric_distance : array
            Upper bounds of ``‖δ‖`` and ``‖δ‖_D``.
        """
        xp, lower, zero = self.xp, path.lower, self.zero
        radial = self.off_radius(lower, path.upper)
        square = distance * distance * (1.0 + rounding(3))
        across = xp.maximum(square - radial * radial * (1.0 - rounding(3)), zero) * (1.0 + rounding(3))
        across = xp.minimum(across, self.sideways(path))
        half = 0.5 * metric_distance * metric_distance * (1.0 + rounding(3))
        gap = (0.5 * slope / xp.where(lower > 0, lower, self.one) * across + half) * (1.0 + rounding(12))
        gap = xp.maximum(gap - less, zero) * (1.0 + rounding(4)) + LOST_GAP
        return finite_or_inf(xp, xp.where((lower > 0) & ~self.capped, gap, self.far))


def finite_or_none(xp: Any, v: Array) -> Array:
    """Replace what is not finite by minus infinity: no lower bound."""
    return xp.where(xp.isfinite(v), v, xp.full_like(v, -math.inf))
