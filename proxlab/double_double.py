"""Double-double arithmetic (Dekker 1971): sums and products with their rounding errors, about 106 bits.

Plain arithmetic on numbers and arrays alike; compiled without leave to reorder.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxlab.types import Array

__all__ = ["MARGIN_UNIT", "add_doubles", "difference", "square", "two_product", "two_sum"]

#: Below this share of its terms, times their number, a double-double sum is not told from zero.
MARGIN_UNIT = 2.0**-102


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Add: the rounded sum and its error."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def add_doubles(a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, Array]:
    """Add two double-doubles; either order gives the same bits."""
    s, t = two_sum(a[0], b[0])
    return two_sum(s, t + (a[1] + b[1]))


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Multiply: the rounded product and its error."""
    p = a * b
    ca, cb = 134217729.0 * a, 134217729.0 * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def difference(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Subtract two double-doubles; the result is rounded."""
    s, t = two_sum(a[0], -b[0])
    return s + (t + (a[1] - b[1]))


def square(high: Array, low: Array) -> tuple[Array, Array]:
    """Square the double-double ``high + low``."""
    p, e = two_product(high, high)
    return two_sum(p, e + 2.0 * high * low)
