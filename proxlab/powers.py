"""Powers of two over any array namespace: what scales numbers without rounding them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from proxlab.types import Array

__all__ = [
    "PRODUCT_HIGH",
    "PRODUCT_LOW",
    "TINIEST",
    "coefficient",
    "downwards",
    "exponent",
    "factors",
    "product",
    "quotient",
    "row_products",
    "sum_of_products",
    "times_power",
    "upwards",
]

EXPONENTS = 1000  # of the powers of two in the table
_POWERS = np.ldexp(1.0, np.arange(-EXPONENTS, EXPONENTS + 1))  # not by pow, which need not be exact
TINIEST = 2.0**-1074
#: In this range a product of two numbers has lost nothing, nor will its quotient by a third.
PRODUCT_LOW, PRODUCT_HIGH = 1e-290, 1e290


def exponent(xp: Any, v: Array) -> Array:
    """Return about ``log2 v`` as whole numbers; 0 where ``v`` is zero or not finite."""
    safe = xp.where((v > 0) & xp.isfinite(v), v, xp.ones_like(v))
    return xp.clip(xp.floor(xp.log2(safe)), -float(EXPONENTS), float(EXPONENTS))


def times_power(xp: Any, v: Array, e: Array) -> Array:
    """Return ``v 2^e``, an exponent per row or element of ``v``: exact but for underflow and overflow."""
    powers = xp.asarray(_POWERS, device=array_api_compat.device(v))
    steps = [e]
    if bool(xp.any(xp.abs(e) > EXPONENTS)):
        third = xp.clip(xp.trunc(e / 3.0), -float(EXPONENTS), float(EXPONENTS))
        steps = [third, third, xp.clip(e - 2.0 * third, -float(EXPONENTS), float(EXPONENTS))]
    for k in steps:
        index = xp.astype(k + EXPONENTS, xp.int64)
        factor = xp.reshape(xp.take(powers, xp.reshape(index, (-1,)), axis=0), index.shape)
        v = v * (factor[:, None] if factor.ndim < v.ndim else factor)
    return v


def factors(xp: Any, step: Array, weight: Array, value: float) -> tuple[Array, Array, float, Array]:
    """Split ``step·weight·value`` into three factors of size about 1 and the exponent of the rest."""
    fraction, whole = math.frexp(value)
    es, ew = exponent(xp, step), exponent(xp, weight)
    return times_power(xp, step, -es), times_power(xp, weight, -ew), fraction, es + ew + float(whole)


def product(xp: Any, first: Array, *others: Array | float, e: Any = 0.0) -> Array:
    """Return the product of arrays of one shape and numbers, times ``2^e``; parts may leave the range."""
    return sum_of_products(xp, ((first, *others),), e)


def sum_of_products(xp: Any, terms: Sequence[tuple[Array | float, ...]], e: Any = 0.0) -> Array:
    """Return the sum of products of arrays of one shape and numbers, times ``2^e``.

    Parts may leave the range. The first factor of each product is an array.
    """
    parts, powers = [], []
    for factors_ in terms:
        mantissa: Array = 1.0
        power: Array = 0.0
        for factor in factors_:
            if isinstance(factor, (int, float)):
                fraction, whole = math.frexp(factor)
                mantissa, power = mantissa * fraction, power + float(whole)
            else:
                own = exponent(xp, xp.abs(factor))
                mantissa, power = mantissa * times_power(xp, factor, -own), power + own
        parts.append(mantissa)
        powers.append(xp.where(mantissa == 0, xp.full_like(mantissa, -1e5), power))
    top = powers[0]
    for power in powers[1:]:
        top = xp.maximum(top, power)
    total = xp.zeros_like(parts[0])
    for part, power in zip(parts, powers, strict=True):
        total = total + times_power(xp, part, xp.clip(power - top, -2000.0, 0.0))
    return times_power(xp, total, xp.clip(top + e, -5000.0, 5000.0))


def row_products(xp: Any, *factors_: Array) -> tuple[Array, Array]:
    """Return the products of matrices of numbers ``>= 0`` as ``v 2^e``, an ``e`` per row.

    In each row the largest is about 1, whatever its parts.
    """
    mantissa, power = xp.ones_like(factors_[0]), xp.zeros_like(factors_[0])
    for factor in factors_:
        own = exponent(xp, factor)
        mantissa, power = mantissa * times_power(xp, factor, -own), power + own
    power = xp.where(mantissa > 0, power, xp.full_like(power, -1e5))
    top = xp.max(power, axis=1) if power.shape[1] else xp.sum(power, axis=1)
    top = xp.clip(top, -5000.0, 5000.0)
    return times_power(xp, mantissa, xp.clip(power - top[:, None], -2000.0, 0.0)), top


def coefficient(xp: Any, step: Array, weight: Array, value: float, e: Array, most: float) -> Array:
    """Return ``step·weight·value·2^e`` to two roundings, at most ``most``; parts may leave the range."""
    first, second, third, total = factors(xp, step, weight, value)
    v = times_power(xp, first * second * third, xp.clip(total + e, -2000.0, 2000.0))
    return xp.clip(v, -most, most)


def quotient(xp: Any, step: Array, value: float, d: Array) -> Array:
    """Return ``step·value/d``, a step per row, whose product may leave the range."""
    first, _, fraction, e = factors(xp, step, xp.ones_like(step), value)
    p = step * value
    plain = p[:, None] / d
    safe = (p > PRODUCT_LOW) & (p < PRODUCT_HIGH)
    if bool(xp.all(safe)):
        return plain
    ed = exponent(xp, d)
    mantissa = (first * fraction)[:, None] / times_power(xp, d, -ed)
    careful = times_power(xp, mantissa, xp.clip(e[:, None] - ed, -2000.0, 2000.0))
    return xp.where(safe[:, None], plain, careful)


def downwards(xp: Any, v: Array, e: Array) -> Array:
    """Return a lower bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = times_power(xp, v, e)
    return xp.where(times_power(xp, w, -e) > v, w - TINIEST, w)


def upwards(xp: Any, v: Array, e: Array) -> Array:
    """Return an upper bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = times_power(xp, v, e)
    return xp.where(times_power(xp, w, -e) < v, w + TINIEST, w)
