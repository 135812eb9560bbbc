"""The few operations that the shared numerical source is written in, for plain Python numbers.

Root finders and the secular equation are written once, in terms of these names and arithmetic, without
``if``. The backends rebuild the same source with their own versions of the names
(:mod:`proxlab.linker`): the functions of an array namespace, or compiled scalars.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from proxlab.types import Array

__all__ = [
    "INF",
    "NAN",
    "any_order",
    "exp",
    "expm1",
    "fabs",
    "filled",
    "fmax",
    "fmin",
    "inlined",
    "log",
    "log1p",
    "midpoint",
    "no",
    "power",
    "sqrt",
    "where",
]


INF, NAN = math.inf, math.nan
F = TypeVar("F", bound=Callable[..., Any])


def any_order(function: F) -> F:
    """Mark a function of the package whose error bounds hold for any order of its sums.

    Compiled, these may be reordered and contracted; everything else does what it says.
    """
    function.__dict__["any_order"] = True
    return function


def inlined(function: F) -> F:
    """Mark a function of the package that is compiled into those that call it, though it has a loop."""
    function.__dict__["inlined"] = True
    return function


def where(condition: Array, yes: Array, no: Array) -> Array:
    """Select: ``yes`` where the condition holds, else ``no``."""
    return yes if condition else no


def filled(like: Array, number: float) -> Array:
    """Return a number: of arrays, one that holds it throughout and is otherwise like ``like``."""
    return number


def no(condition: Array) -> Array:
    """Return whether a condition does not hold."""
    return not condition


def fmin(a: Array, b: Array) -> Array:
    """Return the lesser of two numbers."""
    return a if a < b else b


def fmax(a: Array, b: Array) -> Array:
    """Return the greater of two numbers."""
    return a if a > b else b


def fabs(a: Array) -> Array:
    """Return the absolute value."""
    return -a if a < 0 else a


def sqrt(a: Array) -> Array:
    """Return the square root of a number that is at least 0."""
    return math.sqrt(a)


def midpoint(lo: Array, hi: Array) -> Array:
    """Halve a bracket of nonnegative numbers: in the exponent while its ends are far apart (factor four)."""
    return where((lo > 0) & (hi > 4.0 * lo), sqrt(lo) * sqrt(hi), lo + 0.5 * (hi - lo))


def exp(a: Array) -> Array:
    """Return the exponential."""
    return math.exp(a)


def expm1(a: Array) -> Array:
    """Return ``exp(a) - 1`` without the rounding of the difference."""
    return math.expm1(a)


def log(a: Array) -> Array:
    """Return the natural logarithm of a positive number."""
    return math.log(a)


def log1p(a: Array) -> Array:
    """Return ``log(1 + a)`` without the rounding of the sum."""
    return math.log1p(a)


def power(a: Array, b: Array) -> Array:
    """Return ``a`` to the power ``b``, for ``a >= 0``."""
    return a**b
