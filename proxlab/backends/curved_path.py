"""The path of a group under a curved slope, over any array namespace: passes, and a penalty's functions.

What is made of them is :mod:`proxlab.curves`.
"""

from __future__ import annotations

import math
from typing import Any

from proxlab import curves
from proxlab.backends.array_tables import TableRows, zero_test
from proxlab.backends.enclosed_root import Slopes
from proxlab.backends.scaled_rows import LARGEST, ScaledRows, row_sum, sum_height
from proxlab.curves import Ends, Price, Sense, errors
from proxlab.linker import module_over_arrays
from proxlab.powers import exponent, factors, times_power
from proxlab.types import Array

__all__ = ["PLAIN_EXPONENT", "CurvedPath"]

#: Exponents of two below this leave room for what they are multiplied by.
PLAIN_EXPONENT = 900.0
#: Prices below this leave what functions lose to underflow below :data:`proxlab.curves.UNDERFLOW`.
DEAREST = 2.0**700


class CurvedPath:
    """Rows in scaled units, what passes over them tell of ``T`` and ``q``, and ``η p`` without."""

    def __init__(self, xp: Any, p: ScaledRows, penalty: Any) -> None:
        self.xp, self.p, self.penalty = xp, p, penalty
        self.rows = TableRows(xp, p)
        strength, unit = penalty._split()
        self.strength, self.curve = strength, unit.curve(xp)
        self.falls, self.bends = penalty.slope_falls, penalty.slope_falls and penalty.slope_is_convex
        self.zero, self.one = xp.zeros_like(p.step), xp.ones_like(p.step)
        self.height = sum_height(p.x.shape[1])
        self.on = module_over_arrays(curves, xp)
        self.eps, self.own = errors(self.height)
        self.sense = Sense(self, self.falls, self.bends, self.eps, self.own)
        # r 2^ex, and step·weight·2^-(…) for slopes, curvatures and values: one factor or two, in the range.
        first, second, third, whole = factors(xp, p.step, p.weight, strength)
        price = first * second * third
        parts = (self._halves(price, whole - p.ed - k * p.ex) for k in (1.0, 0.0, 2.0))
        self.price = Price(self._halves(self.one, p.ex), *parts)

    def _halves(self, mantissa: Array, e: Array) -> tuple[Array, ...]:
        xp = self.xp
        half = xp.floor(0.5 * xp.clip(e, -2000.0, 2000.0))
        rest = xp.clip(e, -2000.0, 2000.0) - half
        if bool(xp.all(xp.abs(e) < PLAIN_EXPONENT)):
            return (times_power(xp, mantissa, half + rest),)
        return times_power(xp, mantissa, half), times_power(xp, self.one, rest)

    def scaled(
        self, function: Any, r: Array, price: Price, factors: tuple[Array, ...], lost: float = 0.0
    ) -> Array:
        """Return what a function returns in scaled units, and ``lost`` where that is no number."""
        for a in price.length:
            r = r * a
        v = function(r)
        for a in factors:
            v = v * a
        return self.xp.where(self.xp.isnan(v), self.xp.full_like(v, lost), v)

    def slope(self, r: Array, price: Price | None = None) -> Array:
        """Return ``τ``; by default of all rows."""
        price = price or self.price
        return self.scaled(self.curve.slope, r, price, price.slope)

    def turn(self, r: Array, price: Price | None = None) -> Array:
        """Return ``τ'``, ``r > 0``."""
        price = price or self.price
        return self.scaled(self.curve.curvature, r, price, price.turn)

    def value(self, r: Array, price: Price | None = None) -> Array:
        """Return ``η p``."""
        xp, price = self.xp, price or self.price
        v = self.scaled(self.curve.value, xp.where(r > 0, r, xp.ones_like(r)), price, price.value)
        return xp.where(r > 0, v, xp.zeros_like(v))

    def is_priced(self) -> Array:
        """Return where what the functions lose to underflow stays below what counts."""
        good = self.xp.abs(self.p.ex) < PLAIN_EXPONENT
        for parts in self.price[1:]:
            size = self.one
            for part in parts:
                size = size * part
            good = good & (size < DEAREST)
        return good

    def tame(self, r: Array) -> Array:
        """Return where a penalty's numbers are in the range in which rounding is small, up to a radius."""
        xp, curve, price, safe = self.xp, self.curve, self.price, self.xp.where(r > 0, r, self.one)
        tau = self.scaled(curve.slope, safe, price, price.slope, math.inf)
        value = self.scaled(curve.value, safe, price, price.value, math.inf)
        return (tau < LARGEST) & (xp.where(r > 0, value, self.zero) < LARGEST) & self.is_priced()

    def origin(self) -> Ends:
        """The end at zero."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        b = self.rows.b
        bb = row_sum(xp, b * b)
        safe = xp.where(bb > 0, bb, self.one)
        q = 0.5 * row_sum(xp, b * size)
        first = self.slope(self.zero)
        raw = self.strength * float(self.curve.slope(xp.zeros_like(self.zero[:1]))[0])
        known = xp.isfinite(first)
        slopes = Slopes(self.zero, self.zero, xp.where(known, first, self.one), self.zero)
        margin = zero_test(self.rows, slopes, raw) if math.isfinite(raw) else self.one
        margin = xp.where(known, margin, self.one)
        norm = xp.sqrt(bb)
        self.rests, self.excess = margin >= 0, xp.where(margin < 0, -margin * norm, self.zero)
        kappa = row_sum(xp, b * b * d) / safe
        found: Ends = self.on.origin(self.sense, norm, kappa, q, first, self.turn(self.zero), margin)
        return found

    def whole(self) -> Ends:
        """The end at the point itself."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        square = row_sum(xp, size * size)
        r = xp.sqrt(square)
        kappa = square / row_sum(xp, size * size / d)
        tau, turn, value = self.on.on_curve(self.sense, r, self.price)
        return Ends(r, self.zero, kappa, self.zero, r, tau, turn, value, self.one)

    def visit(self, mu: Array) -> Ends:
        """Pass over the groups at a ``μ > 0``."""
        xp, d, size = self.xp, self.rows.d, self.p.size
        y = d + mu[:, None]
        # About μ z for a great μ, so that no square is lost; in powers of two, so that nothing is rounded.
        unit = times_power(xp, self.one, xp.maximum(exponent(xp, mu), self.zero))
        v = self.rows.b * (unit[:, None] / y)
        w = v * v / y
        sums = (row_sum(xp, a) for a in (v * v, w, w * d, d * (size * (mu[:, None] / y)) ** 2))
        found: Ends = self.on.visited(self.sense, mu, unit, *sums, self.price)
        return found
